//! The four seams: where records come from, who handles them, where frontiers are kept, where dead letters go.
//!
//! Everything else in this crate is between them. A source is owned by one thread and may block, bounded; a handler is asynchronous and
//! may take as long as it likes, for its own keys; frontiers answer when they are durable, not before.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::record::{Header, Offset, Part, Record};

/// What a source has to tell.
#[derive(Debug)]
pub enum Polled {
    /// A record.
    Record(Record),
    /// These partitions are ours from now on, once [`Source::place`] says where to begin.
    Assigned(Vec<Part>),
    /// These partitions go to somebody else, once [`Source::release`] lets them.
    Revoking(Vec<Part>),
    /// These partitions are somebody else's already.
    Lost(Vec<Part>),
    /// Nothing follows below this offset at the moment: the frontier may pass over control records that are never delivered.
    End(Part, Offset),
    /// The bytes at this offset are there and cannot be read.
    Damaged(Part, Offset),
    /// The log no longer, or not yet, holds what stands at our position.
    OutOfRange(Part, Held),
}

/// What a log holds of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// First offset that is there.
    pub start: Offset,
    /// The next one to be written.
    pub end: Offset,
    /// First offset at or after the time that was asked for; `end` when there is none.
    pub by_time: Offset,
    /// The position that the log itself keeps for this group.
    pub committed: Option<Offset>,
}

/// Where a log ended at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The next offset to be written.
    pub next: Offset,
    /// When that was so. Milliseconds since 1970.
    pub at_ms: i64,
    /// True when the source has delivered all that it could below, as far as it knows: what is missing is never delivered.
    pub delivered: bool,
}

/// A source failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// It may go again: a broker is away, a request timed out.
    #[error("{0}")]
    Passing(String),
    /// It will not.
    #[error("{0}")]
    Fatal(String),
}

/// Wakes a source that waits in `poll`.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A partitioned log, as its one consumer thread sees it.
pub trait Source: Send + 'static {
    /// Up to `max` records (and any number of other news) into `out`; waits for the first at most `wait`.
    ///
    /// # Errors
    /// [`SourceError::Passing`] is counted and polled again; [`SourceError::Fatal`] ends the group.
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError>;
    /// What the log holds of a partition; `since_ms` is the time for [`Held::by_time`].
    ///
    /// # Errors
    /// When the log does not answer in time.
    fn held(&mut self, part: &Part, since_ms: i64) -> Result<Held, SourceError>;
    /// Begin to deliver these partitions at these offsets.
    ///
    /// # Errors
    /// When the log refuses.
    fn place(&mut self, at: &[(Part, Offset)]) -> Result<(), SourceError>;
    /// Give these partitions up.
    ///
    /// # Errors
    /// When the log refuses.
    fn release(&mut self, parts: &[Part]) -> Result<(), SourceError>;
    /// Stop or go on delivering these partitions.
    ///
    /// # Errors
    /// When the log refuses.
    fn pause(&mut self, parts: &[Part], paused: bool) -> Result<(), SourceError>;
    /// These frontiers are durable: the log may take note for its own tools.
    fn saved(&mut self, at: &[(Part, Offset)]);
    /// Where each partition ends, as far as it is known without asking anybody: for telling how far behind a group is, never for a
    /// position. A partition whose log cannot be reached is left out.
    fn ends(&mut self) -> Vec<(Part, LogEnd)> {
        Vec::new()
    }
    /// Partitions of its topics that the log has and that are not ours at present, as far as it is known without asking anybody.
    fn foreign(&mut self) -> Vec<Part> {
        Vec::new()
    }
    /// Ends the wait of a `poll` under way.
    fn waker(&self) -> Option<Waker> {
        None
    }
    /// A name for the log as a whole: frontiers are kept under it, so that those of another cluster are not taken for ours.
    fn cluster(&self) -> String;
}

/// A seeded hash of a key. Equal keys run one at a time, in order; two keys that collide merely do so, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub u64);

/// Some consecutive records of one key, in order.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Shared with the shard, which gives them out again if they must be retried.
    pub records: Arc<Vec<Record>>,
    /// How often the first of them was tried before.
    pub attempts: u32,
}

/// Why a record cannot be handled at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A short stable word, for headers and metric labels.
    pub code: &'static str,
    /// A sentence without the record's content.
    pub message: String,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled for good.
    Done,
    /// Not now: its key is parked for this long, others go on.
    Retry(Duration),
    /// Never: to the dead letters, then done.
    Reject(Reason),
    /// Not the record's fault: stop taking in.
    Halt(Reason),
}

/// Handles records.
pub trait Handler: Send + Sync + 'static {
    /// The key of a record. Called on the poll thread: cheap and pure. `None` carries no order promise.
    fn key(&self, record: &Record) -> Option<KeyHash>;
    /// Handles a turn: one outcome per record, in order; the first that is not `Done` ends it, and what follows is given out again.
    fn handle(self: Arc<Self>, turn: Turn) -> impl Future<Output = Vec<Outcome>> + Send + 'static;
}

/// How far a partition is finished, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontier {
    /// Everything below is finished; the next to read.
    pub next: Offset,
    /// The last record below, by offset and fingerprint, when there was one.
    pub last: Option<(Offset, u64)>,
}

/// Frontiers could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("frontiers: {0}")]
pub struct FrontierError(pub String);

/// Answer to [`Frontiers::save`]: these are durable now.
pub type Saved = Vec<(Part, Frontier)>;

/// Where frontiers are kept: beside the state they speak of.
pub trait Frontiers: Send + Sync + 'static {
    /// The saved frontiers of these partitions.
    ///
    /// # Errors
    /// When they cannot be read; nothing is placed then.
    fn load(&self, cluster: &str, parts: &[Part]) -> Result<Vec<Option<Frontier>>, FrontierError>;
    /// Asks for these to be made durable and returns at once; the answer comes over `durable`, all of one call together.
    fn save(&self, cluster: &str, at: Vec<(Part, Frontier)>, durable: flume::Sender<Saved>);
    /// True where at least one partition of the topic has a frontier: a partition without one was added later and starts at 0.
    ///
    /// # Errors
    /// When they cannot be read.
    fn knows_topic(&self, cluster: &str, topic: &str) -> Result<bool, FrontierError>;
}

/// A record that could not be handled, with all that is needed to judge it and send it again.
#[derive(Clone, Debug)]
pub struct Letter {
    /// As it was read.
    pub record: Record,
    /// Why.
    pub reason: Reason,
    /// How often it was tried.
    pub attempts: u32,
}

/// A dead letter was not taken; it will be offered again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("dead letter not taken: {0}")]
pub struct NotTaken(pub String);

/// A record to be appended to a log.
#[derive(Clone, Debug)]
pub struct OutRecord {
    /// Equal keys keep their order.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Bytes,
    /// Headers, in order.
    pub headers: Vec<Header>,
    /// When it was made. Milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// A record was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// It may be, later: it should be sent again.
    #[error("{0}")]
    Passing(String),
    /// It never will, as it is.
    #[error("{0}")]
    Refused(String),
}

/// A log that is written to.
pub trait Sink: Send + Sync + 'static {
    /// Appends a record; `Ok` when the log has it for good. It may be there twice when it was sent again after an error. Records of one
    /// key keep their order as long as the next is sent after the answer to the one before.
    fn send(&self, record: &OutRecord) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// Where dead letters go.
pub trait DeadLetters: Send + Sync + 'static {
    /// Takes a letter for good: when this answers `Ok`, the record counts as finished.
    fn bury(&self, letter: Letter) -> impl Future<Output = Result<(), NotTaken>> + Send;
}
