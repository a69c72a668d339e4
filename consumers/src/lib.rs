#![doc = include_str!("../README.md")]

// The hidden modules are public for this crate's own property tests only: their names may change.
pub mod alert;
pub mod clock;
mod dead_letters;
pub mod error;
pub mod group;
#[cfg(feature = "kafka")]
pub mod kafka;
#[doc(hidden)]
pub mod key_queues;
pub mod loss;
pub mod options;
#[doc(hidden)]
pub mod poll_pacer;
mod poller;
pub mod record;
mod shard;
pub mod sim;
pub mod start_offset;
pub mod stats;
#[doc(hidden)]
pub mod tracker;
pub mod traits;
#[doc(hidden)]
pub mod watermark;

pub use alert::{AlertKind, GroupAlert};
pub use dead_letters::report_dead_letter;
pub use error::{BoxError, CheckpointError, DeadLetterError, SinkError, SourceError};
pub use group::{Group, InjectError};
pub use loss::Loss;
pub use options::Options;
pub use record::{CUT_MARKS, CUT_REASONS, DEAD_LETTER_REASON, Header, Headers, Offset, Record, TopicPartition};
pub use start_offset::ResumeFrom;
pub use stats::{HotKey, Stats};
pub use tracker::PartitionStatus;
pub use traits::{
    Begin, Checkpoint, CheckpointStore, DeadLetter, DeadLetterSink, DurableCheckpoints, EndOffset, Handler, KeyBatch,
    KeyHash, KeyInput, OutRecord, Outcome, Part, PartitionOffsets, Parts, Polled, Reason, Sink, Source,
};
