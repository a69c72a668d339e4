//! A partitioned log in memory, for tests: of this crate and of handlers built on it.
//!
//! [`Log`] is the log, [`LogSource`] one consumer of it, [`MemoryStore`] keeps checkpoints and dead letters. Nothing is durable and nothing
//! is slow. Gaps, rebalances and unreachable partitions happen when a test asks for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{CheckpointError, DeadLetterError, SourceError};
use crate::loss::Loss;
use crate::record::{Offset, Record, TopicPartition};
use crate::traits::{
    Begin, Checkpoint, CheckpointStore, DeadLetter, DeadLetterSink, DurableCheckpoints, EndOffset, PartitionOffsets,
    Polled, Source,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    /// Records by partition number.
    partitions: Vec<Vec<Record>>,
    /// Number of offsets at the end of each partition that hold no record.
    tails: BTreeMap<u32, u64>,
    /// Partitions whose offsets cannot be requested.
    unreachable: BTreeSet<u32>,
    /// The group's committed offsets, as an earlier run would have left them.
    committed: BTreeMap<u32, Offset>,
    rebalances: VecDeque<Rebalance>,
    /// Which offset the source delivers next, by partition.
    positions: BTreeMap<u32, Offset>,
    woken: bool,
}

impl State {
    fn end(&self, number: u32) -> Offset {
        let records = &self.partitions[number as usize];
        records.last().map_or(0, |last| last.offset + 1) + self.tails.get(&number).copied().unwrap_or(0)
    }

    fn offsets(&self, number: u32, since_ms: i64) -> Result<PartitionOffsets, SourceError> {
        if self.unreachable.contains(&number) {
            return Err(SourceError::transient("request offsets", "the partition is unreachable"));
        }
        let records = &self.partitions[number as usize];
        let end = self.end(number);
        let start = records.first().map_or(0, |first| first.offset);
        let by_time = records.iter().find(|record| record.timestamp_ms >= since_ms).map_or(end, |record| record.offset);
        Ok(PartitionOffsets { start, end, by_time, committed: self.committed.get(&number).copied() })
    }
}

#[derive(Debug)]
enum Rebalance {
    Assign(Vec<u32>),
    Revoke(Vec<u32>),
    Lose(Vec<u32>),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        lock(&self.state).woken = true;
        self.changed.notify_all();
    }
}

/// A partitioned log in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Log {
    topic: Arc<str>,
    shared: Arc<Shared>,
}

impl Log {
    /// An empty log. Its source is assigned all `partitions` at once.
    #[must_use]
    pub fn new(topic: &str, partitions: u32) -> Self {
        let state = State {
            partitions: (0..partitions).map(|_| Vec::new()).collect(),
            rebalances: VecDeque::from([Rebalance::Assign((0..partitions).collect())]),
            ..State::default()
        };
        Self { topic: Arc::from(topic), shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// Appends a record and returns its offset.
    pub fn append(&self, partition: u32, key: &str, value: &str) -> Offset {
        self.append_after_gap(partition, 0, key, value)
    }

    /// Appends a record behind `gap` offsets that hold no record.
    pub fn append_after_gap(&self, partition: u32, gap: u64, key: &str, value: &str) -> Offset {
        let mut state = lock(&self.shared.state);
        let offset = state.end(partition) + gap;
        state.tails.remove(&partition);
        let records = &mut state.partitions[partition as usize];
        records.push(Record {
            partition: self.partition(partition),
            offset,
            timestamp_ms: crate::clock::unix_ms(),
            read_ms: crate::clock::unix_ms(),
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Default::default(),
        });
        self.shared.changed.notify_all();
        offset
    }

    /// Appends `gap` offsets that hold no record, as the control records of a transaction do not.
    pub fn append_gap(&self, partition: u32, gap: u64) {
        *lock(&self.shared.state).tails.entry(partition).or_default() += gap;
        self.shared.changed.notify_all();
    }

    /// Makes a partition's offsets unavailable, or available again. Its records are still delivered.
    pub fn set_unreachable(&self, partition: u32, unreachable: bool) {
        let mut state = lock(&self.shared.state);
        if unreachable {
            state.unreachable.insert(partition)
        } else {
            state.unreachable.remove(&partition)
        };
    }

    /// Deletes a partition's records and lets its offsets begin at 0 again. A source that has read further learns that it is out of range, and
    /// delivers nothing of it before it is assigned again.
    pub fn recreate(&self, partition: u32) {
        let mut state = lock(&self.shared.state);
        state.partitions[partition as usize].clear();
        state.tails.remove(&partition);
        self.shared.changed.notify_all();
    }

    /// Which offset of a partition its source delivers next; none while it is not assigned, or out of range.
    #[must_use]
    pub fn position(&self, partition: u32) -> Option<Offset> {
        lock(&self.shared.state).positions.get(&partition).copied()
    }

    /// Sets the group's committed offset of a partition, as an earlier run would have left it.
    pub fn set_committed(&self, partition: u32, offset: Offset) {
        lock(&self.shared.state).committed.insert(partition, offset);
    }

    /// Revokes partitions: the source may drain them first.
    pub fn revoke(&self, partitions: &[u32]) {
        self.rebalance(Rebalance::Revoke(partitions.to_vec()));
    }

    /// Takes partitions away without notice.
    pub fn lose(&self, partitions: &[u32]) {
        self.rebalance(Rebalance::Lose(partitions.to_vec()));
    }

    /// Assigns partitions to the source.
    pub fn assign(&self, partitions: &[u32]) {
        self.rebalance(Rebalance::Assign(partitions.to_vec()));
    }

    fn rebalance(&self, rebalance: Rebalance) {
        lock(&self.shared.state).rebalances.push_back(rebalance);
        self.shared.changed.notify_all();
    }

    fn partition(&self, number: u32) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), number }
    }

    /// A consumer of this log.
    #[must_use]
    pub fn source(&self) -> LogSource {
        LogSource {
            log: self.clone(),
            next: BTreeMap::new(),
            checkpointed: Arc::default(),
            offset_requests: Arc::default(),
            polls: Arc::default(),
        }
    }
}

/// One consumer of a [`Log`].
#[derive(Debug)]
pub struct LogSource {
    log: Log,
    /// The next offset of each assigned partition, and whether the partition is paused.
    next: BTreeMap<u32, (Offset, bool)>,
    checkpointed: Arc<Mutex<BTreeMap<u32, Offset>>>,
    offset_requests: Arc<AtomicU64>,
    polls: Arc<AtomicU64>,
}

impl LogSource {
    /// The offsets that [`Source::checkpointed`] was called with, by partition. A test may keep it and read it later.
    #[must_use]
    pub fn checkpointed_offsets(&self) -> Arc<Mutex<BTreeMap<u32, Offset>>> {
        self.checkpointed.clone()
    }

    /// The number of calls of [`Source::offsets`]. A test may keep it and read it later.
    #[must_use]
    pub fn offset_requests(&self) -> Arc<AtomicU64> {
        self.offset_requests.clone()
    }

    /// The number of calls of [`Source::poll`]. A test may keep it and read it later.
    #[must_use]
    pub fn polls(&self) -> Arc<AtomicU64> {
        self.polls.clone()
    }

    fn note_positions(&self, state: &mut State) {
        state.positions = self.next.iter().map(|(number, (next, _))| (*number, *next)).collect();
    }

    fn partitions(&self, numbers: &[u32]) -> Vec<TopicPartition> {
        numbers.iter().map(|number| self.log.partition(*number)).collect()
    }

    fn deliver(&mut self, state: &mut State, max: usize, out: &mut Vec<Polled>) {
        while let Some(rebalance) = state.rebalances.pop_front() {
            out.push(match rebalance {
                Rebalance::Assign(numbers) => Polled::Assigned(self.partitions(&numbers)),
                Rebalance::Revoke(numbers) => Polled::Revoking(self.partitions(&numbers)),
                Rebalance::Lose(numbers) => Polled::Lost(self.partitions(&numbers)),
            });
        }
        let ended: Vec<u32> = self
            .next
            .iter()
            .filter(|(number, (next, _))| *next > state.end(**number))
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            self.next.remove(&number);
            let (start, end) = (0, state.end(number));
            let offsets = PartitionOffsets { start, end, by_time: start, committed: None };
            out.push(Polled::OutOfRange(self.log.partition(number), offsets));
        }
        let mut left = max;
        for (number, (next, paused)) in &mut self.next {
            if *paused {
                continue;
            }
            let records = &state.partitions[*number as usize];
            let from = records.partition_point(|record| record.offset < *next);
            for record in records[from..].iter().take(left) {
                *next = record.offset + 1;
                left -= 1;
                out.push(Polled::Record(record.clone()));
            }
            let (end, delivered) = (state.end(*number), records.last().map_or(0, |last| last.offset + 1));
            if (delivered..end).contains(next) {
                *next = end;
                out.push(Polled::CaughtUp(self.log.partition(*number), end));
            }
        }
        self.note_positions(state);
    }
}

impl Source for LogSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        self.polls.fetch_add(1, Ordering::AcqRel);
        let shared = self.log.shared.clone();
        let mut state = lock(&shared.state);
        self.deliver(&mut state, max, out);
        if out.is_empty() && !std::mem::take(&mut state.woken) {
            state = shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            self.deliver(&mut state, max, out);
        }
        Ok(())
    }

    fn offsets(&mut self, partitions: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>> {
        self.offset_requests.fetch_add(1, Ordering::AcqRel);
        let state = lock(&self.log.shared.state);
        partitions.iter().map(|partition| state.offsets(partition.number, since_ms)).collect()
    }

    fn assign(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), SourceError> {
        self.next.extend(at.iter().map(|(partition, offset)| (partition.number, (*offset, false))));
        self.note_positions(&mut lock(&self.log.shared.state));
        Ok(())
    }

    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.next.retain(|number, _| !partitions.iter().any(|partition| partition.number == *number));
        self.note_positions(&mut lock(&self.log.shared.state));
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<(), SourceError> {
        for partition in partitions {
            if let Some(next) = self.next.get_mut(&partition.number) {
                next.1 = paused;
            }
        }
        Ok(())
    }

    fn checkpointed(&mut self, at: &[(TopicPartition, Offset)]) {
        lock(&self.checkpointed).extend(at.iter().map(|(partition, offset)| (partition.number, *offset)));
    }

    fn end_offsets(&mut self) -> Vec<(TopicPartition, EndOffset)> {
        let state = lock(&self.log.shared.state);
        let reachable = self.next.keys().filter(|number| !state.unreachable.contains(number));
        let end = |number: &u32| {
            (
                self.log.partition(*number),
                EndOffset {
                    next: state.end(*number),
                    at_ms: crate::clock::unix_ms(),
                    delivered: false,
                    open_transaction: None,
                },
            )
        };
        reachable.map(end).collect()
    }

    fn waker(&self) -> Option<Waker> {
        Some(self.log.shared.clone().into())
    }

    fn cluster(&self) -> String {
        String::from("sim")
    }
}

/// Begins partitions in a store, as a group does, and waits until that is durable.
pub fn begin(store: &impl CheckpointStore, cluster: &str, partitions: Vec<Begin>) {
    let (durable, begun) = flume::bounded(1);
    store.begin(cluster, partitions, durable);
    let _ended = begun.recv();
}

/// Checkpoints and dead letters in memory. A save is answered at once.
#[derive(Debug, Default)]
pub struct MemoryStore {
    checkpoints: Mutex<BTreeMap<TopicPartition, Checkpoint>>,
    dead_letters: Mutex<Vec<DeadLetter>>,
    refuses_dead_letters: Mutex<bool>,
    losses: Mutex<Vec<(TopicPartition, Loss)>>,
    handled_before: Mutex<Vec<(TopicPartition, Offset)>>,
    used_skips: Mutex<BTreeMap<TopicPartition, Offset>>,
}

impl MemoryStore {
    /// The next offset of a partition's checkpoint; 0 when it has none.
    #[must_use]
    pub fn checkpoint(&self, topic: &str, partition: u32) -> Offset {
        lock(&self.checkpoints).get(&TopicPartition::new(topic, partition)).map_or(0, |checkpoint| checkpoint.next)
    }

    /// Sets the checkpoint of a partition, as an earlier run would have left it.
    pub fn set_checkpoint(&self, partition: TopicPartition, checkpoint: Checkpoint) {
        lock(&self.checkpoints).insert(partition, checkpoint);
    }

    /// The dead letters so far.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        lock(&self.dead_letters).clone()
    }

    /// What the log lost so far.
    #[must_use]
    pub fn losses(&self) -> Vec<(TopicPartition, Loss)> {
        lock(&self.losses).clone()
    }

    /// Up to where another copy of the state had handled partitions when they started.
    #[must_use]
    pub fn all_handled_before(&self) -> Vec<(TopicPartition, Offset)> {
        lock(&self.handled_before).clone()
    }

    /// Lets writes of dead letters fail, or succeed again.
    pub fn refuse_dead_letters(&self, refuse: bool) {
        *lock(&self.refuses_dead_letters) = refuse;
    }
}

impl CheckpointStore for MemoryStore {
    fn load(&self, _cluster: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        let checkpoints = lock(&self.checkpoints);
        Ok(partitions.iter().map(|partition| checkpoints.get(partition).copied()).collect())
    }

    fn save(&self, _cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        lock(&self.checkpoints).extend(at.iter().cloned());
        let _full_or_gone = durable.try_send(at);
    }

    fn begin(&self, cluster: &str, partitions: Vec<Begin>, durable: flume::Sender<DurableCheckpoints>) {
        for Begin { partition, loss, handled_before, skip_to, .. } in &partitions {
            lock(&self.used_skips).remove(partition);
            lock(&self.used_skips).extend(skip_to.map(|at| (partition.clone(), at)));
            lock(&self.losses).extend(loss.map(|loss| (partition.clone(), loss)));
            lock(&self.handled_before).extend(handled_before.map(|end| (partition.clone(), end)));
        }
        self.save(cluster, partitions.into_iter().map(|begin| (begin.partition, begin.checkpoint)).collect(), durable);
    }

    fn used_skip(&self, _cluster: &str, partition: &TopicPartition) -> Result<Option<Offset>, CheckpointError> {
        Ok(lock(&self.used_skips).get(partition).copied())
    }

    fn has_topic(&self, _cluster: &str, topic: &str) -> Result<bool, CheckpointError> {
        Ok(lock(&self.checkpoints).keys().any(|partition| &*partition.topic == topic))
    }
}

impl DeadLetterSink for MemoryStore {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        if *lock(&self.refuses_dead_letters) {
            return Err(DeadLetterError::new("the test refuses dead letters"));
        }
        lock(&self.dead_letters).push(dead_letter);
        Ok(())
    }
}
