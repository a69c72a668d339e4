//! The traits that a user of this crate implements or picks: where records come from, who handles them, where checkpoints are kept, where
//! dead letters go, and where own records are appended.
//!
//! Everything else in the crate connects them. A [`Source`] is owned by one thread and may block for a bounded time. A [`Handler`] is
//! asynchronous and may take as long as it likes: only its own key waits. A [`CheckpointStore`] answers when a checkpoint is durable, and
//! not before.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{CheckpointError, DeadLetterError, SinkError, SourceError};
use crate::loss::Loss;
use crate::record::{Header, Offset, Record, TopicPartition};

/// One result of [`Source::poll`].
#[derive(Debug)]
pub enum Polled {
    /// Whole, and of an assigned partition.
    Record(Record),
    /// A record that the source could not take whole: it goes to the dead letters for this reason, and the handler never sees it.
    Rejected(Record, Reason),
    /// The group coordinator assigned these partitions. They deliver nothing until [`Source::assign`] says at which offsets to start.
    Assigned(Vec<TopicPartition>),
    /// The group coordinator wants these partitions back. They stay assigned until [`Source::unassign`] is called.
    Revoking(Vec<TopicPartition>),
    /// These partitions were taken away without notice and may have another owner already.
    Lost(Vec<TopicPartition>),
    /// Every record below this offset was delivered. The checkpoint may pass over control records, which are never delivered.
    CaughtUp(TopicPartition, Offset),
    /// The log has bytes at this offset that cannot be read.
    Damaged(TopicPartition, Offset),
    /// The offset to read next is outside of what the log holds, which is this. Or the source does not deliver the partition any more and does not know
    /// what the log holds: then the end is [`Offset::MAX`]. An end below what was read says that the log is another one.
    OutOfRange(TopicPartition, PartitionOffsets),
}

/// The offsets that a log holds for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// Offset of the earliest record.
    pub start: Offset,
    /// Offset of the next record that will be appended.
    pub end: Offset,
    /// Offset of the earliest record at or after the requested time; `end` when there is none.
    pub by_time: Offset,
    /// The offset that the log stores for this consumer group, if any.
    pub committed: Option<Offset>,
}

/// The end of a partition's log at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOffset {
    /// Offset of the next record that will be appended.
    pub next: Offset,
    /// When the log reported it. Milliseconds since 1970.
    pub at_ms: i64,
    /// True when the source has delivered every record below `next` that can be delivered, as far as it knows. Offsets that are still
    /// missing then hold no record.
    pub delivered: bool,
    /// Where the oldest open transaction begins, if there is one: nothing from there on can be delivered before it ends.
    pub open_transaction: Option<Offset>,
}

/// A partitioned log, as its one consumer thread uses it.
pub trait Source: Send + 'static {
    /// Puts up to `max` records, and any number of other results, into `out`. Waits at most `wait` for the first.
    ///
    /// # Errors
    /// After [`SourceError::Transient`], which is counted, the source is polled again. [`SourceError::Fatal`] ends the group.
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError>;
    /// The offsets that the log holds for these partitions: one answer each, in the same order. `since_ms` is the time for
    /// [`PartitionOffsets::by_time`]. Called on the poll thread, so the number of requests must not grow with that of the partitions. A
    /// partition that does not answer in time has an error and holds up no other.
    fn offsets(&mut self, partitions: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>>;
    /// Starts to deliver these partitions, each from this offset. A partition that is assigned already is moved there.
    ///
    /// # Errors
    /// When the log refuses.
    fn assign(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), SourceError>;
    /// Gives these partitions back to the group coordinator.
    ///
    /// # Errors
    /// When the log refuses.
    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError>;
    /// Stops delivering these partitions, or resumes them.
    ///
    /// # Errors
    /// When the log refuses.
    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<(), SourceError>;
    /// Checkpoints at these offsets are durable: the log may store them as the group's offsets, for its own tools.
    fn checkpointed(&mut self, at: &[(TopicPartition, Offset)]);
    /// The end of each partition, as far as it is known without a request. It serves to report lag, never to choose a start offset. A
    /// partition whose broker cannot be reached is left out.
    fn end_offsets(&mut self) -> Vec<(TopicPartition, EndOffset)> {
        Vec::new()
    }
    /// Partitions of the subscribed topics that are not assigned to this source, as far as it is known without a request.
    fn unowned_partitions(&mut self) -> Vec<TopicPartition> {
        Vec::new()
    }
    /// Why nothing is delivered, if the source knows: for the alert of a member without partitions. A sentence without a full stop.
    fn trouble(&mut self) -> Option<String> {
        None
    }
    /// Ends a `poll` that waits; called from any thread.
    fn waker(&self) -> Option<Waker> {
        None
    }
    /// The id of the log's cluster. Checkpoints are kept under it, so that those of another cluster are never used.
    fn cluster(&self) -> String;
}

/// A seeded hash of a record's key. Records with equal hashes run one at a time, in order; keys that collide wait for each other and lose
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub u64);

/// How a record of the log is handed out. `P` is [`Handler::Prepared`].
#[derive(Debug)]
pub enum Parts<P = ()> {
    /// The record as it was read, in one queue.
    One {
        /// Its queue; `None` when its order does not matter.
        key: Option<KeyHash>,
        /// What the handler has found in it already.
        prepared: Option<P>,
    },
    /// As several records, each in the queue of its own key and with a result of its own. They are queued in this order, and the offset is
    /// finished only when all of them are. A dead letter holds one part. None at all is [`Self::One`] without a key.
    Several(Vec<Part<P>>),
}

/// One of several inputs that a record holds.
#[derive(Debug)]
pub struct Part<P = ()> {
    /// It has the partition and offset of the record that it is a part of.
    pub record: Record,
    /// Its queue; `None` when its order does not matter.
    pub key: Option<KeyHash>,
    /// What the handler has found in it already.
    pub prepared: Option<P>,
}

/// What a handler is given, in a key's turn. `T` is [`Handler::Task`], `P` is [`Handler::Prepared`].
#[derive(Debug, Clone)]
pub enum KeyInput<T, P = ()> {
    /// A record of the log, and what [`Handler::parts`] prepared of it. It is the same at each of its tries.
    Record(Record, Option<P>),
    /// A task of the program's own, from [`Group::inject`](crate::Group::inject). It has no place in the log, and no checkpoint depends on
    /// it.
    Task(T),
}

impl<T, P> KeyInput<T, P> {
    /// The record; `None` for a task.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record, _) => Some(record),
            Self::Task(_) => None,
        }
    }
}

/// Consecutive records and tasks of one key, in order, for one call of a handler.
#[derive(Debug, Clone)]
pub struct KeyBatch<T = Infallible, P = ()> {
    /// Shared with the shard, which hands them out again when they must be retried.
    pub inputs: Arc<Vec<KeyInput<T, P>>>,
    /// How often the first of them was tried before.
    pub attempts: u32,
}

impl<T, P> KeyBatch<T, P> {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.inputs.iter().filter_map(KeyInput::record)
    }
}

/// Why a record cannot be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A short stable word, for headers and metric labels.
    pub code: &'static str,
    /// A sentence that does not quote the record.
    pub message: String,
}

/// What a handler decided about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record is handled for good.
    Done,
    /// The record should be tried again after this back-off. Its key waits, other keys do not.
    Retry(Duration),
    /// The record can never be handled. It is finished once it is written to the dead letters.
    Reject(Reason),
    /// The handler cannot work at present, which is not the record's fault. Intake stops for a while and the record is tried again.
    Halt(Reason),
}

/// Handles records, and tasks of the program's own.
pub trait Handler: Send + Sync + 'static {
    /// What the program asks for in the queue of a key, beside the records of the log; [`Infallible`] when there is nothing.
    type Task: Clone + Send + Sync + 'static;
    /// What [`Self::parts`] finds in a record and [`Self::handle`] needs again, so that no record is read twice; `()` when there is nothing.
    type Prepared: Clone + Send + Sync + 'static;
    /// The key of a record; `None` when its order does not matter. Runs on the poll thread, so it must be cheap and pure. When it panics,
    /// the record goes to the dead letters with the reason `key-panicked`.
    fn key(&self, record: &Record) -> Option<KeyHash>;
    /// The parts of a record that holds several inputs for the handler, as an array of events does. As cheap and pure as [`Self::key`], and
    /// called in its place. The parts have the record's partition and offset. The handler bounds their number: each costs credits, and those
    /// of one record may exceed what is left.
    fn parts(&self, record: &Record) -> Parts<Self::Prepared> {
        Parts::One { key: self.key(record), prepared: None }
    }
    /// The bytes that something prepared holds beside its record. They cost credits like the record's own, for as long.
    fn prepared_bytes(&self, _prepared: &Self::Prepared) -> u64 {
        0
    }
    /// Handles a batch and returns one outcome per input, in order. The first outcome that is not `Done` ends the batch: the inputs after it
    /// are handed out again. A task that is rejected or retried too often is given up with a line in the log: no record is lost with it.
    fn handle(
        self: Arc<Self>,
        batch: KeyBatch<Self::Task, Self::Prepared>,
    ) -> impl Future<Output = Vec<Outcome>> + Send + 'static;
    /// A record goes to the dead letters for this reason: the handler rejected it, all its attempts failed, or its key panicked. Called once
    /// for each, before the dead letter is written. For counters and alerts, so that no way into the dead letters escapes them; a panic is
    /// caught. Without `prepared` where none was made, as of a record that the source could not take whole.
    fn on_dead_letter(&self, _record: &Record, _prepared: Option<&Self::Prepared>, _reason: &Reason) {}
}

/// A point in a partition below which every record is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset of the next record to read.
    pub next: Offset,
    /// Offset and fingerprint of the last record below, when there was one.
    pub last: Option<(Offset, u64)>,
}

/// Answer to [`CheckpointStore::save`]: the checkpoints that are durable now.
pub type DurableCheckpoints = Vec<(TopicPartition, Checkpoint)>;

/// How a partition begins to be read, in a new epoch. See [`CheckpointStore::begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Which one begins.
    pub partition: TopicPartition,
    /// Where it begins: nothing below is read again.
    pub checkpoint: Checkpoint,
    /// True when that is not the saved checkpoint: it is saved now.
    pub is_new: bool,
    /// What the log lost of it.
    pub loss: Option<Loss>,
    /// What is below this offset of the log was handled by another copy of the state, which is lost or newer. What is above was handled by none,
    /// however old it is.
    pub handled_before: Option<Offset>,
    /// The skip that an operator named for it. From here on it is used, whether records were passed over or not: see
    /// [`CheckpointStore::used_skip`].
    pub skip_to: Option<Offset>,
}

/// Where checkpoints are kept: beside the state that they describe.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The saved checkpoints of these partitions, in the same order. Changes nothing: a start may fail afterwards, or not happen at all, and the
    /// partition is read on as before.
    ///
    /// # Errors
    /// When they cannot be read. No partition is started then.
    fn load(&self, cluster: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError>;
    /// Asks for these checkpoints to be made durable, and returns at once. The answer comes over `durable`, for the whole call together.
    fn save(&self, cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>);
    /// Partitions begin, before a record of them is read and when no save of an earlier epoch follows any more. All that is said of one becomes
    /// durable in one step: its new checkpoint hides a loss, so a crash between the two would hide it from operators as well. The answer has
    /// all of these partitions. A store that keeps checkpoints alone need not implement this; then nothing but the group's alert reports
    /// a loss, and it ends with the process.
    fn begin(&self, cluster: &str, partitions: Vec<Begin>, durable: flume::Sender<DurableCheckpoints>) {
        self.save(cluster, partitions.into_iter().map(|begin| (begin.partition, begin.checkpoint)).collect(), durable);
    }
    /// The skip that the partition's last begin had. It is not used again: an operator names it for the log that is there, and the topic may be created
    /// again while the program is still started with it. A store that does not implement this remembers none.
    ///
    /// # Errors
    /// When it cannot be read. The partition is not started then.
    fn used_skip(&self, _cluster: &str, _partition: &TopicPartition) -> Result<Option<Offset>, CheckpointError> {
        Ok(None)
    }
    /// True when at least one partition of the topic has a checkpoint. A partition of such a topic that has none was added later, and is
    /// read from its first record.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn has_topic(&self, cluster: &str, topic: &str) -> Result<bool, CheckpointError>;
}

/// A record that could not be handled, with all that is needed to judge it and to send it again.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The record as it was read.
    pub record: Record,
    /// Why it could not be handled.
    pub reason: Reason,
    /// How often it was tried.
    pub attempts: u32,
}

/// Where dead letters go.
pub trait DeadLetterSink: Send + Sync + 'static {
    /// Writes a dead letter durably. When it returns `Ok`, the record counts as finished; after an error it is called again.
    fn write(&self, dead_letter: DeadLetter) -> impl Future<Output = Result<(), DeadLetterError>> + Send;
}

/// A record to be appended to a log.
#[derive(Clone, Debug)]
pub struct OutRecord {
    /// Records with equal keys keep their order.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Bytes,
    /// Headers, in order.
    pub headers: Vec<Header>,
    /// The record's time stamp. Milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// A log that records are appended to.
pub trait Sink: Send + Sync + 'static {
    /// Appends a record. `Ok` means that the log holds it durably; it may hold it twice when it was sent again after an error. Records of
    /// one key keep their order when each is sent after the answer to the one before.
    fn send(&self, record: &OutRecord) -> impl Future<Output = Result<(), SinkError>> + Send;
}
