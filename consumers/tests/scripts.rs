//! Invariants I1, I4, I5, I6, I12, I15, I16 and I17 through the real threads and tasks, whatever handlers, dead letters and rebalances do.
//!
//! Some dozens of small worlds run side by side. Each has a log and a script: what the handler does with each record at each attempt, how
//! often writing its dead letter fails, and when partitions are revoked, lost, or created again: while records run, wait for credits, or
//! are dead letters that cannot be written. In half of them every bound is one. The handler, the dead
//! letter sink and the checkpoint store are one spy with one journal of the records that are finished. The fault that is looked for is a
//! checkpoint that is saved although a record below it was neither handled with `Done` nor written to the dead letters, and a log that is
//! read although a record that was read of the earlier one was not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use orderbell_consumers::poll_pacer::MAX_STALL;
use orderbell_consumers::traits::PartitionOffsets;
use orderbell_consumers::{
    Begin, Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterError, DeadLetterSink,
    DurableCheckpoints, Group, Handler, KeyBatch, KeyHash, Loss, Offset, Options, Outcome, Polled, Reason, Record,
    Source, SourceError, TopicPartition, sim,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const WORLDS: usize = 64;
const PARTITIONS: u32 = 2;
/// Generous: a machine may be busy with other things.
const TIMEOUT: Duration = Duration::from_secs(180);

const LONGER_THAN_A_STALL: Duration = MAX_STALL.saturating_add(Duration::from_millis(300));

#[derive(Clone, Copy, Debug)]
enum Act {
    Done,
    /// Done, but not ready when it is polled first.
    DoneLater,
    /// Done after this long: with few credits, a stall has begun by then.
    DoneAfter(Duration),
    Retry(u64),
    Reject,
    Panic,
}

#[derive(Clone, Debug)]
struct Row {
    partition: u32,
    gap: u64,
    key: u8,
    /// What the handler does at each attempt; `Done` after the last.
    acts: Vec<Act>,
    /// How often writing its dead letter fails.
    failed_writes: u32,
    then: Then,
}

/// What happens to a record's partition when the record was appended.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Revoked,
    Lost,
    /// With `stuck`, while nothing is finished that was read: it runs, waits for credits, or is a dead letter that cannot be written.
    Recreated {
        stuck: bool,
    },
}

/// Partition, number of its log, offset.
type Place = (u32, u32, u64);

struct Script {
    key: u8,
    acts: VecDeque<Act>,
    failed_writes: u32,
}

/// The journal of one world.
#[derive(Default)]
struct Journal {
    scripts: BTreeMap<Place, Script>,
    finished: BTreeSet<Place>,
    /// Read, in partitions that were not taken away since.
    read: BTreeSet<Place>,
    /// By partition the log of its newest record that was read.
    logs: BTreeMap<u32, u32>,
    /// Partitions that were created again.
    is_recreated: BTreeSet<u32>,
    /// No record is done, and no dead letter is written.
    is_stuck: bool,
    running: BTreeSet<KeyHash>,
    checkpoints: BTreeMap<u32, Checkpoint>,
    /// Polls for callbacks alone.
    idle_polls: u64,
    faults: Vec<String>,
}

#[derive(Default)]
struct Spy(Mutex<Journal>);

/// The value of a record is the number of its log.
fn place_of(record: &Record) -> Place {
    let log = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse().unwrap();
    (record.partition.number, log, record.offset)
}

impl Journal {
    /// A record is read: all that was read of an earlier log is finished.
    fn read(&mut self, record: &Record) {
        let (partition, log, offset) = place_of(record);
        let earlier = self.read.range((partition, 0, 0)..(partition, log, 0));
        if let Some(open) = earlier.into_iter().find(|place| !self.finished.contains(place)) {
            self.faults.push(format!("log {log} of {partition} is read before {open:?} is finished"));
        }
        self.read.insert((partition, log, offset));
        self.logs.insert(partition, log);
    }
}

impl Spy {
    fn act(&self, record: &Record) -> Act {
        let mut journal = self.0.lock().unwrap();
        if journal.is_stuck {
            return Act::Retry(1);
        }
        journal.scripts.get_mut(&place_of(record)).unwrap().acts.pop_front().unwrap_or(Act::Done)
    }

    /// A batch starts: no other of its key runs, and no earlier record of its key is open except in the batch itself.
    fn batch_started(&self, key: KeyHash, records: &[Record]) {
        let journal = &mut *self.0.lock().unwrap();
        if !journal.running.insert(key) {
            journal.faults.push(format!("I4: two batches of {key:?} at once"));
        }
        for (at, record) in records.iter().enumerate() {
            let (partition, log, offset) = place_of(record);
            let earlier = journal.scripts.range((partition, log, 0)..(partition, log, offset));
            let mine = earlier.filter(|(_, script)| script.key == record.key.as_ref().unwrap()[0]);
            let ahead = |place: &&Place| records[..at].iter().any(|other| place_of(other) == **place);
            let mut open = mine.map(|(place, _)| place).filter(|place| !journal.finished.contains(place));
            if let Some(overtaken) = open.find(|place| !ahead(place)) {
                journal.faults.push(format!("I5: {offset} of {partition} overtook {overtaken:?}"));
            }
        }
    }
}

/// Notes that a key's batch is over, also when it ends by a panic.
struct Running(Arc<Spy>, KeyHash);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().running.remove(&self.1);
    }
}

impl Handler for Spy {
    type Task = std::convert::Infallible;
    type Prepared = ();

    fn key(&self, record: &Record) -> Option<KeyHash> {
        // Spread over the shards, which look at the upper half.
        record.key.as_deref().map(|key| KeyHash(u64::from(key[0]) << 32))
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch) -> Vec<Outcome> {
        let records: Vec<Record> = batch.records().cloned().collect();
        let key = self.key(&records[0]).unwrap();
        self.batch_started(key, &records);
        let _running = Running(self.clone(), key);
        let mut outcomes = Vec::new();
        for record in &records {
            match self.act(record) {
                Act::Done => outcomes.push(Outcome::Done),
                Act::DoneLater => {
                    tokio::task::yield_now().await;
                    outcomes.push(Outcome::Done);
                }
                Act::DoneAfter(long) => {
                    tokio::time::sleep(long).await;
                    outcomes.push(Outcome::Done);
                }
                Act::Retry(ms) => outcomes.push(Outcome::Retry(Duration::from_millis(ms))),
                Act::Reject => outcomes
                    .push(Outcome::Reject(Reason { code: "requested", message: "the test asked for it".into() })),
                // Without the panic hook, which would print some hundred backtraces of intended panics.
                Act::Panic => std::panic::resume_unwind(Box::new("the test asked for it")),
            }
            if outcomes.last() != Some(&Outcome::Done) {
                break;
            }
        }
        let done = outcomes.iter().take_while(|outcome| **outcome == Outcome::Done).count();
        self.0.lock().unwrap().finished.extend(records[..done].iter().map(place_of));
        outcomes
    }
}

/// Checks that every partition is paused when the source is polled for callbacks alone: a real log may deliver a record all the same.
struct Watched {
    log: sim::LogSource,
    paused: BTreeMap<TopicPartition, bool>,
    spy: Arc<Spy>,
}

impl Source for Watched {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        if max == 0 {
            let mut journal = self.spy.0.lock().unwrap();
            journal.idle_polls += 1;
            if let Some((partition, _)) = self.paused.iter().find(|(_, paused)| !**paused) {
                journal.faults.push(format!("{partition} is not paused although there are no credits"));
            }
        }
        let earlier = out.len();
        self.log.poll(max, wait, out)?;
        let mut journal = self.spy.0.lock().unwrap();
        for polled in &out[earlier..] {
            if let Polled::Record(record) = polled
                && self.paused.contains_key(&record.partition)
            {
                journal.read(record);
            }
        }
        Ok(())
    }

    fn offsets(&mut self, partitions: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>> {
        self.log.offsets(partitions, since_ms)
    }

    fn assign(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), SourceError> {
        self.paused.extend(at.iter().map(|(partition, _)| (partition.clone(), false)));
        self.log.assign(at)
    }

    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.paused.retain(|partition, _| !partitions.contains(partition));
        // Whoever owns them next reads it again, if it is there.
        let is_taken = |number: u32| partitions.iter().any(|partition| partition.number == number);
        self.spy.0.lock().unwrap().read.retain(|(number, ..)| !is_taken(*number));
        self.log.unassign(partitions)
    }

    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<(), SourceError> {
        self.paused.extend(partitions.iter().map(|partition| (partition.clone(), paused)));
        self.log.pause(partitions, paused)
    }

    fn checkpointed(&mut self, at: &[(TopicPartition, Offset)]) {
        self.log.checkpointed(at);
    }

    fn waker(&self) -> Option<Waker> {
        self.log.waker()
    }

    fn cluster(&self) -> String {
        self.log.cluster()
    }
}

impl DeadLetterSink for Spy {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        tokio::task::yield_now().await;
        let mut journal = self.0.lock().unwrap();
        let is_stuck = journal.is_stuck;
        let script = journal.scripts.get_mut(&place_of(&dead_letter.record)).unwrap();
        if is_stuck {
            return Err(DeadLetterError::new("the test refuses all dead letters"));
        }
        if script.failed_writes > 0 {
            script.failed_writes -= 1;
            return Err(DeadLetterError::new("the test refuses dead letters"));
        }
        journal.finished.insert(place_of(&dead_letter.record));
        Ok(())
    }
}

impl CheckpointStore for Spy {
    fn load(&self, _: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        let journal = self.0.lock().unwrap();
        Ok(partitions.iter().map(|partition| journal.checkpoints.get(&partition.number).copied()).collect())
    }

    fn save(&self, _: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        let mut journal = self.0.lock().unwrap();
        for (partition, checkpoint) in &at {
            // Where nothing was read yet, it is of the first log, or starts at some later one.
            let number = partition.number;
            let log = journal.logs.get(&number).copied().unwrap_or_default();
            let is_known = journal.logs.contains_key(&number) || !journal.is_recreated.contains(&number);
            let below =
                journal.scripts.range((number, log, 0)..(number, log, if is_known { checkpoint.next } else { 0 }));
            let below: Vec<Place> = below.map(|(place, _)| *place).collect();
            let open: Vec<&Place> = below.iter().filter(|place| !journal.finished.contains(place)).collect();
            if !open.is_empty() {
                let fault =
                    format!("I1, I17: {partition} is saved up to {} and {open:?} are not finished", checkpoint.next);
                journal.faults.push(fault);
            }
            let before = journal.checkpoints.insert(partition.number, *checkpoint);
            if before.is_some_and(|before| before.next > checkpoint.next) {
                journal
                    .faults
                    .push(format!("{partition} was durable at {before:?} and moves back to {}", checkpoint.next));
            }
        }
        drop(journal);
        let _gone = durable.try_send(at);
    }

    fn begin(&self, cluster: &str, partitions: Vec<Begin>, durable: flume::Sender<DurableCheckpoints>) {
        for begin in partitions.iter().filter(|begin| begin.loss.is_some_and(Loss::is_another_log)) {
            self.0.lock().unwrap().checkpoints.remove(&begin.partition.number);
        }
        let at = partitions.into_iter().map(|begin| (begin.partition, begin.checkpoint));
        self.save(cluster, at.collect(), durable);
    }

    fn has_topic(&self, _: &str, _: &str) -> Result<bool, CheckpointError> {
        Ok(!self.0.lock().unwrap().checkpoints.is_empty())
    }
}

/// Waits until a condition holds.
async fn until(what: &str, holds: impl Fn() -> bool + Send) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Creates a partition again, and returns when it begins with its new log.
async fn recreate(log: &sim::Log, spy: &Spy, partition: u32, stuck: bool) {
    let is_read = || log.position(partition).is_some_and(|next| next > 0);
    let idle_polls = || spy.0.lock().unwrap().idle_polls;
    if stuck {
        spy.0.lock().unwrap().is_stuck = true;
        let before = idle_polls();
        until("something is read, or there are no credits", || is_read() || idle_polls() > before).await;
    }
    spy.0.lock().unwrap().is_recreated.insert(partition);
    log.recreate(partition);
    if stuck {
        until("the source has noticed", || !is_read()).await;
        spy.0.lock().unwrap().is_stuck = false;
    }
    // A log that has grown beyond what was read of the earlier one cannot be distinguished from it by its offsets.
    until("the new log", || log.position(partition) == Some(0)).await;
}

/// Runs one world until every record is finished. Returns how often the source was polled without credits.
async fn run_world(number: usize, options: Options, rows: Vec<Row>) -> u64 {
    let (log, spy) = (sim::Log::new("t", PARTITIONS), Arc::new(Spy::default()));
    let source = Watched { log: log.source(), paused: BTreeMap::new(), spy: spy.clone() };
    let group = Group::start(source, spy.clone(), spy.clone(), spy.clone(), &options);
    // Of each partition the number of its log, and that log's end.
    let mut ends: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for row in &rows {
        let (of_log, end) = ends.get(&row.partition).copied().unwrap_or_default();
        let offset = end + row.gap;
        // The script must exist before the record can be read.
        let script = Script { key: b'a' + row.key, acts: row.acts.clone().into(), failed_writes: row.failed_writes };
        spy.0.lock().unwrap().scripts.insert((row.partition, of_log, offset), script);
        let key = String::from(char::from(b'a' + row.key));
        assert_eq!(log.append_after_gap(row.partition, row.gap, &key, &of_log.to_string()), offset);
        ends.insert(row.partition, (of_log, offset + 1));
        match row.then {
            Then::Nothing => continue,
            Then::Revoked => log.revoke(&[row.partition]),
            Then::Lost => log.lose(&[row.partition]),
            Then::Recreated { stuck } => {
                recreate(&log, &spy, row.partition, stuck).await;
                ends.insert(row.partition, (of_log + 1, 0));
                continue;
            }
        }
        tokio::task::yield_now().await;
        log.assign(&[row.partition]);
    }
    let began = Instant::now();
    let is_finished = |(partition, (of_log, end)): (&u32, &(u32, u64))| {
        let journal = spy.0.lock().unwrap();
        let mut last = journal.scripts.range((*partition, *of_log, 0)..).map(|(place, _)| place);
        let mut last = last.by_ref().take_while(|place| (place.0, place.1) == (*partition, *of_log));
        last.all(|place| journal.finished.contains(place))
            && journal.checkpoints.get(partition).map_or(0, |checkpoint| checkpoint.next) >= *end
    };
    while !ends.iter().all(is_finished) {
        let stats = group.stats();
        assert!(
            began.elapsed() < TIMEOUT,
            "I6, I12: world {number} does not reach its end {ends:?}: {:?}, {:?}, with {options:?} and {rows:?}",
            stats.status(),
            stats.alerts(),
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = group.stats().clone();
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
    let journal = spy.0.lock().unwrap();
    assert_eq!(journal.faults, Vec::<String>::new(), "world {number} with {options:?} and {rows:?}");
    let unfinished: Vec<_> = journal.read.difference(&journal.finished).collect();
    assert_eq!(unfinished, Vec::<&Place>::new(), "I6: world {number} with {options:?} and {rows:?}");
    assert_eq!(stats.invariant_violations.value(), 0, "an invariant was violated in world {number}");
    assert_eq!(stats.taken.value(), stats.completed.value() + stats.abandoned.value(), "I16: world {number}");
    journal.idle_polls
}

fn options() -> impl Strategy<Value = Options> {
    let quick = Options { checkpoint_interval: Duration::from_millis(5), max_attempts: 3, ..Options::default() };
    let tight = Options {
        max_in_flight_records: 1,
        max_in_flight_bytes: 1,
        max_span: 1,
        shards: 1,
        max_batch_records: 1,
        max_running_batches: 1,
        ..quick.clone()
    };
    let some = (1_u64..=40, 1_u64..=4_000, 1_usize..=40, 1_usize..=4, 1_usize..=4, 1_usize..=8).prop_map(
        move |(
            max_in_flight_records,
            max_in_flight_bytes,
            max_span,
            shards,
            max_batch_records,
            max_running_batches,
        )| Options {
            max_in_flight_records,
            max_in_flight_bytes,
            max_span,
            shards,
            max_batch_records,
            max_running_batches,
            ..quick.clone()
        },
    );
    prop_oneof![Just(tight), some]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let act = prop_oneof![
        240 => Just(Act::Done),
        120 => Just(Act::DoneLater),
        1 => Just(Act::DoneAfter(LONGER_THAN_A_STALL)),
        90 => (0_u64..4).prop_map(Act::Retry),
        60 => Just(Act::Reject),
        20 => Just(Act::Panic),
    ];
    let then = prop_oneof![
        30 => Just(Then::Nothing),
        1 => Just(Then::Revoked),
        1 => Just(Then::Lost),
        2 => any::<bool>().prop_map(|stuck| Then::Recreated { stuck }),
    ];
    let acts = prop::collection::vec(act, 0..3);
    let row = (0..PARTITIONS, prop_oneof![4 => Just(0_u64), 1 => 1_u64..5], 0_u8..5, acts, 0_u32..2, then);
    let row = row.prop_map(|(partition, gap, key, acts, failed_writes, then)| Row {
        partition,
        gap,
        key,
        acts,
        failed_writes,
        then,
    });
    prop::collection::vec(row, 1..40)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_checkpoint_passes_a_record_that_is_not_finished_and_every_record_is_finished() {
    let mut runner = TestRunner::deterministic();
    let mut worlds = tokio::task::JoinSet::new();
    for number in 0..WORLDS {
        let (options, rows) = (options(), rows()).new_tree(&mut runner).unwrap().current();
        worlds.spawn(run_world(number, options, rows));
    }
    let mut idle_polls = 0;
    while let Some(ended) = worlds.join_next().await {
        idle_polls += ended.unwrap();
    }
    assert!(
        idle_polls > 0,
        "I15: no world was without credits for long enough to show that the source is polled all the same"
    );
}

/// The bug: a partition that was paused for its own span was resumed during a stall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_span_is_free_again_is_resumed_at_the_end_of_the_stall() {
    let row = |partition, key, act| {
        let acts = Vec::from_iter(act);
        Row { partition, gap: 0, key, acts, failed_writes: 0, then: Then::Nothing }
    };
    // One slow record fills the span of its partition; the records of the other partition take all credits, for longer.
    let slow = Act::DoneAfter(LONGER_THAN_A_STALL + Duration::from_millis(300));
    let mut rows = vec![row(0, 0, Some(slow))];
    rows.extend((0..12).map(|_| row(0, 1, None)));
    rows.extend((2..9).map(|key| row(1, key, Some(Act::DoneAfter(2 * LONGER_THAN_A_STALL)))));
    let quick = Options { checkpoint_interval: Duration::from_millis(5), max_batch_records: 1, ..Options::default() };
    let idle_polls = run_world(0, Options { max_in_flight_records: 8, max_span: 4, ..quick }, rows).await;
    assert!(idle_polls > 0, "there was no stall");
}
