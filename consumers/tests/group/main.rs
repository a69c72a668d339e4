//! The group with its threads and tasks, on the simulated log: behaviour that the pure parts cannot show.
//!
//! Attacked here: a handler that never ends, panics, dead letters that cannot be written, rebalances, a topic that was recreated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod another_log;
mod prepared;
mod source_faults;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orderbell_consumers::{
    AlertKind, Checkpoint, DeadLetter, DeadLetterError, DeadLetterSink, Group, GroupAlert, Handler, KeyBatch, KeyHash,
    KeyInput, Loss, Options, Outcome, Part, Parts, Reason, Record, TopicPartition, sim,
};

/// Generous: a machine may be busy with other things.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A task for a key, and what to do in it.
#[derive(Clone, Debug)]
struct Task(&'static str, &'static str);

/// Where a task is noted among the records.
const TASK: (u32, u64) = (u32::MAX, 0);

/// Does what the record's value or the task says: `ok`, `reject`, `panic`, `panic once`, `back off` and `hang` (both until released), `no key` (a panic while the key
/// is chosen). A value such as `a=ok;b=reject` has two parts, each with its key.
#[derive(Default)]
struct Scripted {
    handled: Mutex<BTreeMap<String, Vec<(u32, u64)>>>,
    panicked: AtomicU32,
    /// Number of records at which `hang` began to wait.
    hung: AtomicU32,
    released: AtomicBool,
    release: tokio::sync::Notify,
    /// Offset and reason of each dead letter that was reported to the handler.
    dead_letters: Mutex<Vec<(u64, &'static str)>>,
}

fn text(bytes: Option<&Bytes>) -> String {
    bytes.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn key_of(key: &[u8]) -> KeyHash {
    KeyHash(xxhash_rust::xxh3::xxh3_64(key))
}

impl Handler for Scripted {
    type Task = Task;
    type Prepared = ();

    fn key(&self, record: &Record) -> Option<KeyHash> {
        assert_ne!(record.value.as_deref(), Some(&b"no key"[..]), "the test asked for it");
        record.key.as_deref().map(key_of)
    }

    fn parts(&self, record: &Record) -> Parts {
        let value = text(record.value.as_ref());
        let part = |(key, act): (&str, &str)| {
            let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
            let record = Record { key: bytes(key), value: bytes(act), ..record.clone() };
            Part { key: self.key(&record), record, prepared: None }
        };
        match value.contains(';') {
            true => Parts::Several(value.split(';').filter_map(|part| part.split_once('=')).map(part).collect()),
            false => Parts::One { key: self.key(record), prepared: None },
        }
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch<Task>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for input in batch.inputs.iter() {
            let (key, act, place) = match input {
                KeyInput::Record(record, _) => {
                    (text(record.key.as_ref()), text(record.value.as_ref()), (record.partition.number, record.offset))
                }
                KeyInput::Task(Task(key, act)) => ((*key).to_owned(), (*act).to_owned(), TASK),
            };
            match act.as_str() {
                "reject" => {
                    outcomes
                        .push(Outcome::Reject(Reason { code: "requested", message: "the test asked for it".into() }));
                    break;
                }
                "panic once" if self.panicked.fetch_add(1, Ordering::SeqCst) == 0 => panic!("the test asked for it"),
                "panic" => panic!("the test asked for it"),
                "back off" if !self.released.load(Ordering::SeqCst) => {
                    outcomes.push(Outcome::Retry(Duration::from_secs(1)));
                    break;
                }
                "hang" => {
                    self.hung.fetch_add(1, Ordering::SeqCst);
                    while !self.released.load(Ordering::SeqCst) {
                        self.release.notified().await;
                    }
                }
                _ => {}
            }
            self.handled.lock().unwrap().entry(key).or_default().push(place);
            outcomes.push(Outcome::Done);
        }
        outcomes
    }

    fn on_dead_letter(&self, record: &Record, _: Option<&()>, reason: &Reason) {
        self.dead_letters.lock().unwrap().push((record.offset, reason.code));
        assert_ne!(record.key.as_deref(), Some(&b"panic"[..]), "the test asked for it");
    }
}

struct Run {
    log: sim::Log,
    handler: Arc<Scripted>,
    store: Arc<sim::MemoryStore>,
    group: Group<Task>,
}

fn quick() -> Options {
    Options {
        checkpoint_interval: Duration::from_millis(20),
        max_in_flight_records: 4096,
        max_span: 2048,
        ..Options::default()
    }
}

fn start(store: Arc<sim::MemoryStore>, log: sim::Log) -> Run {
    start_with(store, log, &quick())
}

fn start_with(store: Arc<sim::MemoryStore>, log: sim::Log, options: &Options) -> Run {
    let handler = Arc::new(Scripted::default());
    let group = Group::start(log.source(), handler.clone(), store.clone(), store.clone(), options);
    Run { log, handler, store, group }
}

fn start_new(partitions: u32) -> Run {
    start(Arc::default(), sim::Log::new("t", partitions))
}

/// Waits until a condition holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Run {
    fn handled(&self, key: &str) -> Vec<(u32, u64)> {
        self.handler.handled.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    fn checkpoint(&self, partition: u32) -> u64 {
        self.store.checkpoint("t", partition)
    }

    fn release(&self) {
        self.handler.released.store(true, Ordering::SeqCst);
        self.handler.release.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_ends_delays_no_other_key() {
    let run = start_new(2);
    run.log.append(0, "slow", "hang");
    for n in 0..1000 {
        run.log.append(n % 2, &format!("k{}", n % 50), "ok");
    }
    until("all others are done", || run.group.stats().completed.value() == 1000).await;
    until("the other partition goes on", || run.checkpoint(1) == 500).await;
    assert_eq!(run.checkpoint(0), 0, "a checkpoint passed a record that is not finished");
    run.release();
    until("the slow key is done", || run.checkpoint(0) == 501).await;
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_several_parts_is_finished_only_when_all_of_them_are() {
    let run = start_new(2);
    run.log.append(0, "all", "a=panic once;slow=hang;b=reject;a=ok;c=ok");
    run.log.append(0, "one", ";");
    run.log.append(0, "c", "ok");
    until("each other part and record is finished", || run.group.stats().completed.value() == 6).await;
    assert_eq!((run.handled("a"), run.handled("c")), (vec![(0, 0), (0, 0)], vec![(0, 0), (0, 2)]), "in their order");
    let dead_letters: Vec<_> =
        run.store.dead_letters().iter().map(|dead_letter| text(dead_letter.record.value.as_ref())).collect();
    assert_eq!(dead_letters, ["reject"], "a dead letter holds one part");
    run.log.append(1, "d", "ok");
    until("the other partition's checkpoint is saved", || run.checkpoint(1) == 1).await;
    assert_eq!(run.checkpoint(0), 0, "a checkpoint passed a part that is not finished");
    run.release();
    until("the last part is finished", || run.checkpoint(0) == 3).await;
    until("every credit is returned", || run.group.stats().in_flight_records.value() == 0).await;
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}

/// The bug: a poll may bring as many records as there are credits, and each of them is up to 256 parts: all were taken at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_one_record_at_most_exceed_the_credits() {
    let log = sim::Log::new("t", 2);
    for record in 0..5 {
        let parts: Vec<String> = (0..100).map(|part| format!("k{record}-{part}=back off")).collect();
        log.append(0, "all", &parts.join(";"));
    }
    log.append(0, "last", "ok");
    let options = Options { max_in_flight_records: 8, ..quick() };
    let run = start_with(Arc::default(), log, &options);
    until("what is taken is counted", || run.group.stats().in_flight_records.value() > 0).await;
    let taken = || run.group.stats().taken.value();
    assert_eq!(taken(), 100, "the first record, and none behind it");
    run.release();
    until("all are finished", || run.checkpoint(0) == 6).await;
    assert_eq!((taken(), run.group.stats().invariant_violations.value()), (501, 0));
    assert_eq!(run.handled("k4-99"), [(0, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_a_full_span_is_paused_alone() {
    let run = start_new(2);
    run.log.append(0, "slow", "hang");
    for n in 0..5_000 {
        run.log.append(0, &format!("k{n}"), "ok");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.partition.number == 0 && status.paused);
    until("the partition is paused", paused).await;
    for n in 0..3_000 {
        run.log.append(1, &format!("l{n}"), "ok");
    }
    until("the other goes on", || run.checkpoint(1) == 3000).await;
    run.release();
    until("the paused one goes on afterwards", || run.checkpoint(0) == 5001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_more_than_a_quarter_of_the_record_credits_pauses_its_partition() {
    let run = start_new(2);
    // Below the span (2,048), above a quarter of the credits (4,096 / 4).
    for _ in 0..1_500 {
        run.log.append(0, "greedy", "hang");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.partition.number == 0 && status.paused);
    until("its partition is paused", paused).await;
    for n in 0..3_000 {
        run.log.append(1, &format!("k{n}"), "ok");
    }
    until("the other goes on", || run.checkpoint(1) == 3000).await;
    let hottest = || run.group.stats().hot_keys().first().map(|hot| hot.records);
    until("it is reported as the hottest key", || hottest().is_some_and(|records| records > 1_024)).await;
    run.release();
    until("the paused one goes on afterwards", || run.checkpoint(0) == 1500).await;
    until("no key is hot any more", || hottest().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_more_than_a_quarter_of_the_byte_credits_pauses_its_partition() {
    let options = Options { max_in_flight_bytes: 40_000, ..quick() };
    let run = start_with(Arc::default(), sim::Log::new("t", 2), &options);
    // Few records, far below a quarter of the record credits, but with long keys that are more than a quarter of the bytes.
    let greedy = "greedy".repeat(500);
    for _ in 0..4 {
        run.log.append(0, &greedy, "hang");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.partition.number == 0 && status.paused);
    until("its partition is paused", paused).await;
    for n in 0..1_000 {
        run.log.append(1, &format!("k{n}"), "ok");
    }
    until("the other goes on", || run.checkpoint(1) == 1000).await;
    run.release();
    until("the paused one goes on afterwards", || run.checkpoint(0) == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_log_does_not_answer_delays_no_other_and_no_stop() {
    let store = Arc::new(sim::MemoryStore::default());
    for number in 0..3 {
        store.set_checkpoint(TopicPartition::new("t", number), Checkpoint { next: 0, last: None });
    }
    let log = sim::Log::new("t", 3);
    log.set_unreachable(1, true);
    log.set_unreachable(2, true);
    let run = start(store, log);
    for n in 0..30 {
        run.log.append(n % 3, &format!("k{n}"), "ok");
    }
    until("the one that answers goes on", || run.checkpoint(0) == 10).await;
    assert_eq!((run.checkpoint(1), run.checkpoint(2)), (0, 0));
    // A partition that is not read makes the freshness unknown, and raises an alert.
    until("both are counted", || run.group.stats().unassigned_partitions.value() == 2).await;
    assert_eq!(run.group.stats().as_of_ms(), None);
    let unassigned = || run.group.stats().alerts().into_iter().find(|alert| alert.subject == "t/1");
    let alert = unassigned().unwrap();
    assert_eq!(alert.kind, AlertKind::Unassigned);
    assert!(alert.detail.contains("the partition is unreachable"), "{alert:?}");
    run.log.set_unreachable(1, false);
    until("the other follows when it answers", || run.checkpoint(1) == 10).await;
    assert_eq!(unassigned(), None);
    tokio::task::spawn_blocking(|| run.group.stop()).await.unwrap().unwrap();
}

/// Regression: the log was asked for one partition after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_partitions_of_an_assignment_are_placed_with_one_call() {
    const PARTITIONS: u32 = 64;
    let (log, store) = (sim::Log::new("t", PARTITIONS), Arc::<sim::MemoryStore>::default());
    let source = log.source();
    let requests = source.offset_requests();
    let group = Group::start(source, Arc::new(Scripted::default()), store.clone(), store.clone(), &quick());
    for partition in 0..PARTITIONS {
        log.append(partition, "k", "ok");
    }
    until("all are read", || (0..PARTITIONS).all(|partition| store.checkpoint("t", partition) == 1)).await;
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_without_checkpoints_starts_as_a_whole_or_not_yet() {
    let log = sim::Log::new("t", 2);
    log.set_unreachable(1, true);
    let run = start(Arc::default(), log);
    run.log.append(0, "k", "ok");
    let errors = || run.group.stats().source_errors.value();
    let before = errors();
    until("it was tried again", || errors() >= before + 2).await;
    assert!(run.handled("k").is_empty(), "a partition of a new topic was read while another one has no start offset");
    run.log.set_unreachable(1, false);
    until("both are read", || run.checkpoint(0) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_without_records_are_passed_and_count_as_no_lag() {
    let run = start_new(1);
    run.log.append_after_gap(0, 5, "k", "ok");
    run.log.append_gap(0, 3);
    until("the checkpoint is at the log's end", || run.checkpoint(0) == 9).await;
    let status = || run.group.stats().status().first().map(|status| (status.end, status.lag()));
    until("there is no lag", || status() == Some((Some(9), 0))).await;
    run.log.append(0, "k", "hang");
    run.log.append(0, "k", "ok");
    until("the lag is 2", || status() == Some((Some(11), 2))).await;
    run.release();
    until("there is no lag any more", || status() == Some((Some(11), 0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_of_advances_only_when_all_records_are_finished_and_the_log_answers() {
    let run = start_new(2);
    let as_of = || run.group.stats().as_of_ms();
    until("an empty log is read to its end", || as_of().is_some()).await;
    let early = as_of();
    until("time goes on", || as_of() > early).await;
    run.log.append(0, "k", "hang");
    until("it was taken", || run.group.stats().taken.value() == 1).await;
    // An end that was noted before the record was appended may still be reached; from then on as_of stands still.
    let lags = || {
        let status = run.group.stats().status();
        status.iter().any(|status| status.partition.number == 0 && status.lag() == 1)
    };
    until("it lags", lags).await;
    let before = as_of();
    let other =
        || run.group.stats().status().iter().find(|status| status.partition.number == 1).and_then(|s| s.as_of_ms);
    let seen = other();
    until("the other partition goes on", || other() > seen.map(|seen| seen + 200)).await;
    assert_eq!(as_of(), before, "the group's as_of is that of its oldest partition");
    run.release();
    until("it is finished", || as_of() > before).await;
    // A log that does not answer reports no end offsets: as_of stands still.
    run.log.set_unreachable(1, true);
    let seen = other();
    let first =
        || run.group.stats().status().iter().find(|status| status.partition.number == 0).and_then(|s| s.as_of_ms);
    let from = first();
    until("the first goes on", || first() > from.map(|from| from + 200)).await;
    assert!(other() <= seen.map(|seen| seen + 100), "{:?} after {seen:?}", other());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_handler_is_caught_and_its_record_is_tried_again() {
    let run = start_new(1);
    for value in ["ok", "panic once", "ok"] {
        run.log.append(0, "k", value);
    }
    until("all are done", || run.checkpoint(0) == 3).await;
    assert_eq!((run.group.stats().panics.value(), run.store.dead_letters().len()), (1, 0));
    assert_eq!(run.handled("k").last(), Some(&(0, 2)));
}

/// The bug: neither log nor alert named the record at which the handler panicked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_handler_is_an_alert_that_names_the_record_until_it_is_finished() {
    let run = start_with(Arc::default(), sim::Log::new("t", 1), &Options { max_attempts: 25, ..quick() });
    run.log.append(0, "k", "ok");
    run.log.append(0, "k", "panic");
    let names = |alert: &GroupAlert| alert.subject == "t/0" && alert.detail.contains("the record t/0@1;");
    let is_alert = |alert: &GroupAlert| alert.kind == AlertKind::HandlerFailing && names(alert);
    until("the alert", || run.group.stats().alerts().iter().any(is_alert)).await;
    until("it is a dead letter", || run.checkpoint(0) == 2).await;
    assert_eq!(run.group.stats().alerts(), []);
    assert!(run.store.dead_letters()[0].reason.message.contains("panicked"));
}

/// The bug: one record whose key could not be chosen ended the process, and did so again after every restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_key_panics_goes_to_the_dead_letters_and_the_others_are_handled() {
    let run = start_new(1);
    for value in ["ok", "no key", "ok"] {
        run.log.append(0, "k", value);
    }
    until("all are done", || run.checkpoint(0) == 3).await;
    assert_eq!(run.handled("k"), [(0, 0), (0, 2)]);
    let dead_letters = run.store.dead_letters();
    let [DeadLetter { record, reason, attempts: 1 }] = &dead_letters[..] else { panic!("{dead_letters:?}") };
    assert_eq!((record.offset, reason.code), (1, "key-panicked"));
    assert_eq!((run.group.stats().panics.value(), run.group.stats().dead_lettered.value()), (1, 1));
    tokio::task::spawn_blocking(|| run.group.stop()).await.unwrap().unwrap();
}

/// The bug: a paid order at which the handler panicked until it was given up became a dead letter without an alert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handler_sees_every_dead_letter_once_however_it_became_one() {
    let run = start_with(Arc::default(), sim::Log::new("t", 1), &Options { max_attempts: 2, ..quick() });
    for (key, value) in [("a", "reject"), ("b", "no key"), ("c", "panic"), ("panic", "reject"), ("d", "ok")] {
        run.log.append(0, key, value);
    }
    until("all are done", || run.checkpoint(0) == 5).await;
    let mut reported = run.handler.dead_letters.lock().unwrap().clone();
    reported.sort_unstable();
    let wanted = [(0, "requested"), (1, "key-panicked"), (2, "retries-exhausted"), (3, "requested")];
    assert_eq!((reported, run.store.dead_letters().len()), (wanted.to_vec(), 4));
}

/// Panics at the first dead letter, and keeps the others.
#[derive(Default)]
struct PanicsOnce(sim::MemoryStore, AtomicBool);

impl DeadLetterSink for PanicsOnce {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        assert!(self.1.swap(true, Ordering::SeqCst), "the test asked for it");
        self.0.write(dead_letter).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_dead_letter_sink_is_caught_and_the_write_is_repeated() {
    let (log, store, sink) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default(), Arc::<PanicsOnce>::default());
    let group = Group::start(log.source(), Arc::<Scripted>::default(), store.clone(), sink.clone(), &quick());
    log.append(0, "k", "reject");
    until("it is finished", || store.checkpoint("t", 0) == 1).await;
    assert_eq!((sink.0.dead_letters().len(), group.stats().dead_letter_writes_failed.value()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_task_outlives_its_group() {
    let log = sim::Log::new("t", 1);
    let options = Options { stop_timeout: Duration::from_millis(50), ..quick() };
    let Run { log, handler, group, .. } = start_with(Arc::default(), log, &options);
    log.append(0, "k", "hang");
    until("it was taken", || group.stats().taken.value() == 1).await;
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
    until("shards and running batches are gone", || Arc::strong_count(&handler) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_backs_off_is_counted_until_it_is_done() {
    let run = start_new(1);
    run.log.append(0, "k", "back off");
    run.log.append(0, "another", "ok");
    let backing_off = || run.group.stats().keys_backing_off.value();
    until("it backs off", || backing_off() == 1).await;
    run.release();
    until("it is done", || run.checkpoint(0) == 2).await;
    until("no key backs off any more", || backing_off() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_record_is_finished_only_when_its_dead_letter_is_written() {
    let run = start_new(1);
    run.store.refuse_dead_letters(true);
    run.log.append(0, "bad", "reject");
    run.log.append(0, "bad", "ok");
    run.log.append(0, "good", "ok");
    until("the good one is done", || run.group.stats().completed.value() >= 1).await;
    until("writing the dead letter failed", || run.group.stats().dead_letter_writes_failed.value() >= 2).await;
    assert_eq!(run.checkpoint(0), 0, "it is finished before its dead letter is written");
    assert_eq!(run.group.stats().completed.value(), 1, "its credit returned before its dead letter is written");
    assert_eq!(run.handled("bad"), [], "a later record of its key was handled first");
    run.store.refuse_dead_letters(false);
    until("the dead letter is written", || run.checkpoint(0) == 3).await;
    assert_eq!((run.store.dead_letters().len(), run.handled("bad").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_revoked_or_lost_and_assigned_again_loses_nothing() {
    let run = start_new(2);
    for n in 0..2000 {
        run.log.append(n % 2, &format!("k{}", n % 20), "ok");
        match n {
            500 => run.log.revoke(&[0]),
            700 => run.log.assign(&[0]),
            1000 => run.log.lose(&[1]),
            1200 => run.log.assign(&[1]),
            _ => {}
        }
    }
    until("everything is done", || run.checkpoint(0) == 1000 && run.checkpoint(1) == 1000).await;
    for key in 0..20 {
        let mut seen = run.handled(&format!("k{key}"));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100, "key {key}");
    }
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_resumes_at_the_checkpoint_and_a_recreated_topic_raises_an_alert() {
    let first = start_new(1);
    for _ in 0..10 {
        first.log.append(0, "k", "ok");
    }
    until("the first run is done", || first.checkpoint(0) == 10).await;
    let (store, log) = (first.store.clone(), first.log.clone());
    tokio::task::spawn_blocking(|| first.group.stop()).await.unwrap().unwrap();

    log.assign(&[0]);
    log.append(0, "k", "ok");
    let second = start(store.clone(), log);
    until("only the new one is handled", || second.checkpoint(0) == 11).await;
    assert_eq!(second.handled("k"), [(0, 10)]);
    assert_eq!((second.group.stats().alerts(), second.store.losses()), (vec![], vec![]));
    tokio::task::spawn_blocking(|| second.group.stop()).await.unwrap().unwrap();

    let recreated = sim::Log::new("t", 1);
    for _ in 0..20 {
        recreated.append(0, "k", "another history");
    }
    let third = start(store, recreated);
    until("it is read from its beginning", || third.handled("k").len() == 20).await;
    let alerts = third.group.stats().alerts();
    let [GroupAlert { kind: AlertKind::Recreated, subject, .. }] = &alerts[..] else { panic!("{alerts:?}") };
    assert_eq!(subject, "t/0");
    assert_eq!(third.store.losses(), [(TopicPartition::new("t", 0), Loss::Recreated)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_handled_in_its_keys_turn_and_moves_no_checkpoint() {
    let run = start_new(1);
    run.group.inject(key_of(b"alone"), Task("alone", "ok")).unwrap();
    until("it was handled", || run.handled("alone") == [TASK]).await;
    assert_eq!((run.checkpoint(0), run.group.stats().taken.value()), (0, 0));
    // Between two records of its key.
    let taken = || run.group.stats().taken.value();
    run.log.append(0, "k", "hang");
    until("the first is handled", || run.handler.hung.load(Ordering::SeqCst) == 1).await;
    run.group.inject(key_of(b"k"), Task("k", "ok")).unwrap();
    run.log.append(0, "k", "ok");
    until("the second is taken", || taken() == 2).await;
    run.group.inject(key_of(b"other"), Task("other", "ok")).unwrap();
    until("another key's is handled", || run.handled("other") == [TASK]).await;
    assert!(run.handled("k").is_empty());
    run.release();
    until("all are handled", || run.handled("k").len() == 3).await;
    assert_eq!(run.handled("k"), [(0, 0), TASK, (0, 1)]);
    until("the records are finished", || run.checkpoint(0) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_given_up_is_no_dead_letter_and_its_key_goes_on() {
    let run = start_new(1);
    run.group.inject(key_of(b"k"), Task("k", "reject")).unwrap();
    run.group.inject(key_of(b"k"), Task("k", "panic once")).unwrap();
    run.log.append(0, "k", "ok");
    until("the others are handled", || run.handled("k").len() == 2).await;
    until("the record is finished", || run.checkpoint(0) == 1).await;
    assert_eq!((run.group.stats().dead_lettered.value(), run.group.stats().panics.value()), (0, 1));
    assert!(run.store.dead_letters().is_empty());
    // It took no credit and gave none back.
    until("nothing is in flight", || run.group.stats().in_flight_records.value() == 0).await;
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}
