#![doc = include_str!("../README.md")]

pub mod core;
pub mod group;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod key_queues;
pub mod options;
pub mod pace;
mod poller;
pub mod record;
pub mod seams;
mod shard;
pub mod sim;
pub mod start;
pub mod stats;
pub mod watermark;

pub use group::Group;
pub use options::Options;
pub use record::{Offset, Part, Record};
pub use seams::{
    DeadLetters, Frontier, FrontierError, Frontiers, Handler, Held, KeyHash, Letter, LogEnd, NotTaken, OutRecord,
    Outcome, Polled, Reason, Saved, Sink, SinkError, Source, SourceError, Turn, Waker,
};
pub use start::Resume;
pub use stats::Stats;
