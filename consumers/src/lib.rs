#![doc = include_str!("../README.md")]

// Hidden ones are open to this crate's own property tests only: no promise rests on their names.
#[doc(hidden)]
pub mod core;
pub mod group;
#[cfg(feature = "kafka")]
pub mod kafka;
#[doc(hidden)]
pub mod key_queues;
pub mod options;
#[doc(hidden)]
pub mod pace;
mod poller;
pub mod record;
pub mod seams;
mod shard;
pub mod sim;
pub mod start;
pub mod stats;
#[doc(hidden)]
pub mod watermark;

pub use crate::core::Status;
pub use group::Group;
pub use options::Options;
pub use record::{Offset, Part, Record};
pub use seams::{
    DeadLetters, Frontier, FrontierError, Frontiers, Handler, Held, KeyHash, Letter, LogEnd, NotTaken, OutRecord,
    Outcome, Polled, Reason, Saved, Sink, SinkError, Source, SourceError, Turn, Waker,
};
pub use start::Resume;
pub use stats::{Hot, Stats};
