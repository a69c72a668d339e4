//! Whatever handlers, dead letters and rebalances do: invariants I1, I4, I5, I6, I12, I15, I16 and I17, through the real threads and tasks.
//!
//! Some dozens of small worlds run beside each other, each a log, a script of what the handler does with each record at each try, of how
//! often the dead letters refuse it, and of when partitions go and come back. In half of them every bound is one. The handler, the dead
//! letters and the frontiers are spies that share one journal: what is terminal, and why. A frontier that is saved although something below
//! it was neither handled with `Done` nor taken by the dead letters is the fault that is looked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orderbell_consumers::pace::STALL_MAX;
use orderbell_consumers::seams::{Held, Waker};
use orderbell_consumers::{
    DeadLetters, Frontier, FrontierError, Frontiers, Group, Handler, KeyHash, Letter, NotTaken, Offset, Options,
    Outcome, Part, Polled, Reason, Record, Saved, Source, SourceError, Turn, sim,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const WORLDS: usize = 64;
const PARTITIONS: u32 = 2;
/// Generous: a machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

const LINGER: Duration = STALL_MAX.saturating_add(Duration::from_millis(300));

#[derive(Clone, Copy, Debug)]
enum Act {
    Done,
    /// Ready only after the shard has gone on to others.
    Slowly,
    /// Ready only after this long: where credits are few, a stall has begun by then.
    Lingering(Duration),
    Retry(u64),
    Reject,
    Panic,
}

#[derive(Clone, Debug)]
struct Row {
    partition: u32,
    gap: u64,
    key: u8,
    /// What happens at each try; afterwards all is well.
    acts: Vec<Act>,
    /// How often the dead letters refuse it.
    refusals: u32,
    then: Turmoil,
}

/// What becomes of its partition when a record was appended.
#[derive(Clone, Copy, Debug)]
enum Turmoil {
    Nothing,
    Revoked,
    Lost,
}

type Place = (u32, u64);

struct Script {
    key: u8,
    acts: VecDeque<Act>,
    refusals: u32,
}

/// The journal of one world.
#[derive(Default)]
struct Journal {
    scripts: BTreeMap<Place, Script>,
    terminal: BTreeSet<Place>,
    running: BTreeSet<KeyHash>,
    frontiers: BTreeMap<u32, Frontier>,
    /// Polls for callbacks alone.
    idle_polls: u64,
    faults: Vec<String>,
}

#[derive(Default)]
struct Spy(Mutex<Journal>);

fn place_of(record: &Record) -> Place {
    (record.part.number, record.offset)
}

impl Spy {
    fn act(&self, record: &Record) -> Act {
        let mut journal = self.0.lock().unwrap();
        journal.scripts.get_mut(&place_of(record)).unwrap().acts.pop_front().unwrap_or(Act::Done)
    }

    /// A turn starts: nothing of its key runs, and nothing of its key is open before it except in the turn itself.
    fn starts(&self, key: KeyHash, records: &[Record]) {
        let journal = &mut *self.0.lock().unwrap();
        if !journal.running.insert(key) {
            journal.faults.push(format!("I4: two turns of {key:?} at once"));
        }
        for (at, record) in records.iter().enumerate() {
            let (partition, offset) = place_of(record);
            let earlier = journal.scripts.range((partition, 0)..(partition, offset));
            let mine = earlier.filter(|(_, script)| script.key == record.key.as_ref().unwrap()[0]);
            let ahead = |place: &&Place| records[..at].iter().any(|other| place_of(other) == **place);
            let mut open = mine.map(|(place, _)| place).filter(|place| !journal.terminal.contains(place));
            if let Some(overtaken) = open.find(|place| !ahead(place)) {
                journal.faults.push(format!("I5: {offset} of {partition} overtook {overtaken:?}"));
            }
        }
    }

    fn frontier(&self, partition: u32) -> u64 {
        self.0.lock().unwrap().frontiers.get(&partition).map_or(0, |frontier| frontier.next)
    }
}

/// Says that a key's turn is over, also when it ends by a panic.
struct Running(Arc<Spy>, KeyHash);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().running.remove(&self.1);
    }
}

impl Handler for Spy {
    fn key(&self, record: &Record) -> Option<KeyHash> {
        // Spread over the shards, which look at the upper half.
        record.key.as_deref().map(|key| KeyHash(u64::from(key[0]) << 32))
    }

    async fn handle(self: Arc<Self>, turn: Turn) -> Vec<Outcome> {
        let key = self.key(&turn.records[0]).unwrap();
        self.starts(key, &turn.records);
        let _running = Running(self.clone(), key);
        let mut outcomes = Vec::new();
        for record in turn.records.iter() {
            match self.act(record) {
                Act::Done => outcomes.push(Outcome::Done),
                Act::Slowly => {
                    tokio::task::yield_now().await;
                    outcomes.push(Outcome::Done);
                }
                Act::Lingering(long) => {
                    tokio::time::sleep(long).await;
                    outcomes.push(Outcome::Done);
                }
                Act::Retry(ms) => outcomes.push(Outcome::Retry(Duration::from_millis(ms))),
                Act::Reject => outcomes.push(Outcome::Reject(Reason { code: "told", message: "told to".into() })),
                // Without the hook: nobody wants to read some hundred backtraces of panics that were asked for.
                Act::Panic => std::panic::resume_unwind(Box::new("told to")),
            }
            if outcomes.last() != Some(&Outcome::Done) {
                break;
            }
        }
        let done = outcomes.iter().take_while(|outcome| **outcome == Outcome::Done).count();
        self.0.lock().unwrap().terminal.extend(turn.records[..done].iter().map(place_of));
        outcomes
    }
}

/// The log, watched: what is polled for callbacks alone must be paused as a whole, since a real log may deliver a record all the same.
struct Watched {
    log: sim::LogSource,
    paused: BTreeMap<Part, bool>,
    spy: Arc<Spy>,
}

impl Source for Watched {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        if max == 0 {
            let mut journal = self.spy.0.lock().unwrap();
            journal.idle_polls += 1;
            if let Some((part, _)) = self.paused.iter().find(|(_, paused)| !**paused) {
                journal.faults.push(format!("{part} goes on while there are no credits"));
            }
        }
        self.log.poll(max, wait, out)
    }

    fn held(&mut self, part: &Part, since_ms: i64) -> Result<Held, SourceError> {
        self.log.held(part, since_ms)
    }

    fn place(&mut self, at: &[(Part, Offset)]) -> Result<(), SourceError> {
        self.paused.extend(at.iter().map(|(part, _)| (part.clone(), false)));
        self.log.place(at)
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), SourceError> {
        self.paused.retain(|part, _| !parts.contains(part));
        self.log.release(parts)
    }

    fn pause(&mut self, parts: &[Part], paused: bool) -> Result<(), SourceError> {
        self.paused.extend(parts.iter().map(|part| (part.clone(), paused)));
        self.log.pause(parts, paused)
    }

    fn saved(&mut self, at: &[(Part, Offset)]) {
        self.log.saved(at);
    }

    fn waker(&self) -> Option<Waker> {
        self.log.waker()
    }

    fn cluster(&self) -> String {
        self.log.cluster()
    }
}

impl DeadLetters for Spy {
    async fn bury(&self, letter: Letter) -> Result<(), NotTaken> {
        tokio::task::yield_now().await;
        let mut journal = self.0.lock().unwrap();
        let script = journal.scripts.get_mut(&place_of(&letter.record)).unwrap();
        if script.refusals > 0 {
            script.refusals -= 1;
            return Err(NotTaken("told to refuse".into()));
        }
        journal.terminal.insert(place_of(&letter.record));
        Ok(())
    }
}

impl Frontiers for Spy {
    fn load(&self, _: &str, parts: &[Part]) -> Result<Vec<Option<Frontier>>, FrontierError> {
        let journal = self.0.lock().unwrap();
        Ok(parts.iter().map(|part| journal.frontiers.get(&part.number).copied()).collect())
    }

    fn save(&self, _: &str, at: Vec<(Part, Frontier)>, durable: flume::Sender<Saved>) {
        let mut journal = self.0.lock().unwrap();
        for (part, frontier) in &at {
            let below: Vec<Place> = journal
                .scripts
                .range((part.number, 0)..(part.number, frontier.next))
                .map(|(place, _)| *place)
                .collect();
            let open: Vec<&Place> = below.iter().filter(|place| !journal.terminal.contains(place)).collect();
            if !open.is_empty() {
                let fault = format!("I1, I17: {part} is saved up to {} and {open:?} are not terminal", frontier.next);
                journal.faults.push(fault);
            }
            let before = journal.frontiers.insert(part.number, *frontier);
            if before.is_some_and(|before| before.next > frontier.next) {
                journal.faults.push(format!("{part} was durable at {before:?} and goes back to {}", frontier.next));
            }
        }
        drop(journal);
        let _gone = durable.try_send(at);
    }

    fn knows_topic(&self, _: &str, _: &str) -> Result<bool, FrontierError> {
        Ok(!self.0.lock().unwrap().frontiers.is_empty())
    }
}

/// One world: everything is appended and handled, whatever the script says. Tells how often it was polled without credits.
async fn live(number: usize, options: Options, rows: Vec<Row>) -> u64 {
    let (log, spy) = (sim::Log::new("t", PARTITIONS), Arc::new(Spy::default()));
    let source = Watched { log: log.source(), paused: BTreeMap::new(), spy: spy.clone() };
    let group = Group::start(source, spy.clone(), spy.clone(), spy.clone(), &options);
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    for row in &rows {
        let offset = {
            // The script is there before the record can be read.
            let mut journal = spy.0.lock().unwrap();
            let next = ends.get(&row.partition).copied().unwrap_or(0) + row.gap;
            let script = Script { key: b'a' + row.key, acts: row.acts.clone().into(), refusals: row.refusals };
            journal.scripts.insert((row.partition, next), script);
            next
        };
        let key = String::from(char::from(b'a' + row.key));
        assert_eq!(log.append_after_gap(row.partition, row.gap, &key, "x"), offset);
        ends.insert(row.partition, offset + 1);
        match row.then {
            Turmoil::Nothing => continue,
            Turmoil::Revoked => log.revoke(&[row.partition]),
            Turmoil::Lost => log.lose(&[row.partition]),
        }
        tokio::task::yield_now().await;
        log.assign(&[row.partition]);
    }
    let began = Instant::now();
    while ends.iter().any(|(partition, end)| spy.frontier(*partition) < *end) {
        let stats = group.stats();
        assert!(
            began.elapsed() < PATIENCE,
            "I6, I12: world {number} does not come to its end {ends:?}: {:?}, {:?}, with {options:?} and {rows:?}",
            stats.status(),
            stats.lights(),
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = group.stats().clone();
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
    let journal = spy.0.lock().unwrap();
    assert_eq!(journal.faults, Vec::<String>::new(), "world {number} with {options:?} and {rows:?}");
    assert_eq!(journal.terminal.len(), journal.scripts.len(), "I6: world {number}");
    assert_eq!(stats.violations.value(), 0, "a sentinel rang in world {number}");
    assert_eq!(stats.taken.value(), stats.completed.value() + stats.abandoned.value(), "I16: world {number}");
    journal.idle_polls
}

fn options() -> impl Strategy<Value = Options> {
    let quick = Options { save_interval: Duration::from_millis(5), attempts_max: 3, ..Options::default() };
    let tight =
        Options { records_max: 1, bytes_max: 1, span_max: 1, shards: 1, turn_max: 1, running_max: 1, ..quick.clone() };
    let some = (1_u64..=40, 1_u64..=4_000, 1_usize..=40, 1_usize..=4, 1_usize..=4, 1_usize..=8).prop_map(
        move |(records_max, bytes_max, span_max, shards, turn_max, running_max)| Options {
            records_max,
            bytes_max,
            span_max,
            shards,
            turn_max,
            running_max,
            ..quick.clone()
        },
    );
    prop_oneof![Just(tight), some]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let act = prop_oneof![
        240 => Just(Act::Done),
        120 => Just(Act::Slowly),
        1 => Just(Act::Lingering(LINGER)),
        90 => (0_u64..4).prop_map(Act::Retry),
        60 => Just(Act::Reject),
        20 => Just(Act::Panic),
    ];
    let turmoil = prop_oneof![30 => Just(Turmoil::Nothing), 1 => Just(Turmoil::Revoked), 1 => Just(Turmoil::Lost)];
    let acts = prop::collection::vec(act, 0..3);
    let row = (0..PARTITIONS, prop_oneof![4 => Just(0_u64), 1 => 1_u64..5], 0_u8..5, acts, 0_u32..2, turmoil);
    let row =
        row.prop_map(|(partition, gap, key, acts, refusals, then)| Row { partition, gap, key, acts, refusals, then });
    prop::collection::vec(row, 1..40)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_passed_that_was_neither_handled_nor_buried_and_everything_ends() {
    let mut runner = TestRunner::deterministic();
    let mut worlds = tokio::task::JoinSet::new();
    for number in 0..WORLDS {
        let (options, rows) = (options(), rows()).new_tree(&mut runner).unwrap().current();
        worlds.spawn(live(number, options, rows));
    }
    let mut idle_polls = 0;
    while let Some(ended) = worlds.join_next().await {
        idle_polls += ended.unwrap();
    }
    assert!(idle_polls > 0, "I15: no world was out of credits for long enough to show that it is polled all the same");
}

/// The bug: a partition that was paused for its own span went on by itself while all was paused for want of credits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_span_is_free_again_waits_for_the_end_of_the_stall() {
    let row = |partition, key, act| {
        let acts = Vec::from_iter(act);
        Row { partition, gap: 0, key, acts, refusals: 0, then: Turmoil::Nothing }
    };
    // One slow record fills the span of its partition; those of the other partition take all credits, for longer.
    let slow = Act::Lingering(LINGER + Duration::from_millis(300));
    let mut rows = vec![row(0, 0, Some(slow))];
    rows.extend((0..12).map(|_| row(0, 1, None)));
    rows.extend((2..9).map(|key| row(1, key, Some(Act::Lingering(2 * LINGER)))));
    let quick = Options { save_interval: Duration::from_millis(5), turn_max: 1, ..Options::default() };
    let idle_polls = live(0, Options { records_max: 8, span_max: 4, ..quick }, rows).await;
    assert!(idle_polls > 0, "there was no stall");
}
