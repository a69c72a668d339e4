//! The group with its threads and tasks, on the simulated log: what the pure parts cannot show.
//!
//! Attacked here: a key that never ends, panics, dead letters that are not taken, partitions that go and come back, a topic made anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orderbell_consumers::{Frontier, Group, Handler, KeyHash, Options, Outcome, Part, Reason, Record, Turn, sim};

/// Generous: a machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what the record says: `ok`, `reject`, `panic once`, `hang` (until let go).
#[derive(Default)]
struct Obedient {
    handled: Mutex<BTreeMap<String, Vec<(u32, u64)>>>,
    panicked: AtomicU32,
    free: AtomicBool,
    let_go: tokio::sync::Notify,
}

fn text(bytes: Option<&Bytes>) -> String {
    bytes.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

impl Handler for Obedient {
    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_deref().map(|key| KeyHash(xxhash_rust::xxh3::xxh3_64(key)))
    }

    async fn handle(self: Arc<Self>, turn: Turn) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for record in turn.records.iter() {
            match text(record.value.as_ref()).as_str() {
                "reject" => {
                    outcomes.push(Outcome::Reject(Reason { code: "told", message: "told to".into() }));
                    break;
                }
                "panic once" if self.panicked.fetch_add(1, Ordering::SeqCst) == 0 => panic!("told to"),
                "rest" if !self.free.load(Ordering::SeqCst) => {
                    outcomes.push(Outcome::Retry(Duration::from_secs(1)));
                    break;
                }
                "hang" => {
                    while !self.free.load(Ordering::SeqCst) {
                        self.let_go.notified().await;
                    }
                }
                _ => {}
            }
            let place = (record.part.number, record.offset);
            self.handled.lock().unwrap().entry(text(record.key.as_ref())).or_default().push(place);
            outcomes.push(Outcome::Done);
        }
        outcomes
    }
}

struct Run {
    log: sim::Log,
    handler: Arc<Obedient>,
    kept: Arc<sim::Memory>,
    group: Group,
}

fn quick() -> Options {
    Options { save_interval: Duration::from_millis(20), records_max: 4096, span_max: 2048, ..Options::default() }
}

fn run(kept: Arc<sim::Memory>, log: sim::Log) -> Run {
    run_with(kept, log, &quick())
}

fn run_with(kept: Arc<sim::Memory>, log: sim::Log, options: &Options) -> Run {
    let handler = Arc::new(Obedient::default());
    let group = Group::start(log.source(), handler.clone(), kept.clone(), kept.clone(), options);
    Run { log, handler, kept, group }
}

fn fresh(partitions: u32) -> Run {
    run(Arc::default(), sim::Log::new("t", partitions))
}

/// Looks again until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Run {
    fn handled(&self, key: &str) -> Vec<(u32, u64)> {
        self.handler.handled.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    fn frontier(&self, partition: u32) -> u64 {
        self.kept.frontier("t", partition)
    }

    fn let_go(&self) {
        self.handler.free.store(true, Ordering::SeqCst);
        self.handler.let_go.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_never_ends_delays_no_other() {
    let run = fresh(2);
    run.log.append(0, "slow", "hang");
    for n in 0..1000 {
        run.log.append(n % 2, &format!("k{}", n % 50), "ok");
    }
    until("all others are done", || run.group.stats().completed.value() == 1000).await;
    until("the other partition goes on", || run.frontier(1) == 500).await;
    assert_eq!(run.frontier(0), 0, "nothing passes what is not finished");
    run.let_go();
    until("the slow key is done, too", || run.frontier(0) == 501).await;
    assert_eq!(run.group.stats().violations.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_a_full_span_is_paused_alone() {
    let run = fresh(2);
    run.log.append(0, "slow", "hang");
    for n in 0..5_000 {
        run.log.append(0, &format!("k{n}"), "ok");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.part.number == 0 && status.paused);
    until("the partition is paused", paused).await;
    for n in 0..3_000 {
        run.log.append(1, &format!("l{n}"), "ok");
    }
    until("the other goes on", || run.frontier(1) == 3000).await;
    run.let_go();
    until("the paused one goes on afterwards", || run.frontier(0) == 5001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_holds_more_than_a_quarter_of_the_credits_pauses_its_partition() {
    let run = fresh(2);
    // Below the span (2,048), above a quarter of the credits (4,096 / 4).
    for _ in 0..1_500 {
        run.log.append(0, "greedy", "hang");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.part.number == 0 && status.paused);
    until("its partition is paused", paused).await;
    for n in 0..3_000 {
        run.log.append(1, &format!("k{n}"), "ok");
    }
    until("the other goes on", || run.frontier(1) == 3000).await;
    let hottest = || run.group.stats().hot().first().map(|hot| hot.records);
    until("it is named as the hottest", || hottest().is_some_and(|records| records > 1_024)).await;
    run.let_go();
    until("the paused one goes on afterwards", || run.frontier(0) == 1500).await;
    until("nothing is hot any more", || hottest().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_holds_more_than_a_quarter_of_the_bytes_pauses_its_partition() {
    let options = Options { bytes_max: 40_000, ..quick() };
    let run = run_with(Arc::default(), sim::Log::new("t", 2), &options);
    // Few records, far below a quarter of the record credits, but with long keys that are more than a quarter of the bytes.
    let greedy = "greedy".repeat(500);
    for _ in 0..4 {
        run.log.append(0, &greedy, "hang");
    }
    let paused = || run.group.stats().status().iter().any(|status| status.part.number == 0 && status.paused);
    until("its partition is paused", paused).await;
    for n in 0..1_000 {
        run.log.append(1, &format!("k{n}"), "ok");
    }
    until("the other goes on", || run.frontier(1) == 1000).await;
    run.let_go();
    until("the paused one goes on afterwards", || run.frontier(0) == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_asked_holds_up_no_other_and_no_stop() {
    let kept = Arc::new(sim::Memory::default());
    for number in 0..3 {
        kept.set_frontier(Part::new("t", number), Frontier { next: 0, last: None });
    }
    let log = sim::Log::new("t", 3);
    log.mute(1, true);
    log.mute(2, true);
    let run = run(kept, log);
    for n in 0..30 {
        run.log.append(n % 3, &format!("k{n}"), "ok");
    }
    until("the one that answers goes on", || run.frontier(0) == 10).await;
    assert_eq!((run.frontier(1), run.frontier(2)), (0, 0));
    // What is not read is not known to be new, and somebody is told.
    until("it is seen", || run.group.stats().unplaced.value() == 2).await;
    assert_eq!(run.group.stats().as_of_ms(), None);
    assert!(run.group.stats().lights()["t/1"].contains("cannot be placed"));
    run.log.mute(1, false);
    until("the other follows when it answers", || run.frontier(1) == 10).await;
    assert!(!run.group.stats().lights().contains_key("t/1"));
    tokio::task::spawn_blocking(|| run.group.stop()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_without_any_frontier_begins_whole_or_not_yet() {
    let log = sim::Log::new("t", 2);
    log.mute(1, true);
    let run = run(Arc::default(), log);
    run.log.append(0, "k", "ok");
    let errors = || run.group.stats().source_errors.value();
    let before = errors();
    until("it was tried again", || errors() >= before + 2).await;
    assert!(run.handled("k").is_empty(), "a part of a new topic was read while the start of another part is not known");
    run.log.mute(1, false);
    until("both begin", || run.frontier(0) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_are_never_delivered_are_passed_and_count_as_no_lag() {
    let run = fresh(1);
    run.log.append_after_gap(0, 5, "k", "ok");
    run.log.append_gap(0, 3);
    until("the frontier is at the log's end", || run.frontier(0) == 9).await;
    let status = || run.group.stats().status().first().map(|status| (status.end, status.lag()));
    until("nothing lags", || status() == Some((Some(9), 0))).await;
    run.log.append(0, "k", "hang");
    run.log.append(0, "k", "ok");
    until("two lag", || status() == Some((Some(11), 2))).await;
    run.let_go();
    until("nothing lags any more", || status() == Some((Some(11), 0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_of_moves_only_when_what_was_there_is_finished_and_the_log_answers() {
    let run = fresh(2);
    let as_of = || run.group.stats().as_of_ms();
    until("an empty log is read to its end", || as_of().is_some()).await;
    let early = as_of();
    until("time goes on", || as_of() > early).await;
    run.log.append(0, "k", "hang");
    until("it was taken", || run.group.stats().taken.value() == 1).await;
    // An end that was noted before the record came may still be reached; from then on nothing moves, however long it takes.
    let stands = || {
        let status = run.group.stats().status();
        status.iter().any(|status| status.part.number == 0 && status.lag() == 1)
    };
    until("it lags", stands).await;
    let before = as_of();
    let other = || run.group.stats().status().iter().find(|status| status.part.number == 1).and_then(|s| s.as_of_ms);
    let seen = other();
    until("the other partition goes on", || other() > seen.map(|seen| seen + 200)).await;
    assert_eq!(as_of(), before, "the whole is as old as its oldest part");
    run.let_go();
    until("it is finished", || as_of() > before).await;
    // A log that does not answer tells no ends: what was known grows old.
    run.log.mute(1, true);
    let seen = other();
    let first = || run.group.stats().status().iter().find(|status| status.part.number == 0).and_then(|s| s.as_of_ms);
    let from = first();
    until("the first goes on", || first() > from.map(|from| from + 200)).await;
    assert!(other() <= seen.map(|seen| seen + 100), "{:?} after {seen:?}", other());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_caught_and_its_record_tried_again() {
    let run = fresh(1);
    for value in ["ok", "panic once", "ok"] {
        run.log.append(0, "k", value);
    }
    until("all are done", || run.frontier(0) == 3).await;
    assert_eq!((run.group.stats().panics.value(), run.kept.letters().len()), (1, 0));
    assert_eq!(run.handled("k").last(), Some(&(0, 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_rests_is_counted_until_it_goes_on() {
    let run = fresh(1);
    run.log.append(0, "k", "rest");
    run.log.append(0, "another", "ok");
    let parked = || run.group.stats().parked.value();
    until("it rests", || parked() == 1).await;
    run.let_go();
    until("it is done", || run.frontier(0) == 2).await;
    until("nothing rests any more", || parked() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_finished_only_when_the_dead_letters_took_it() {
    let run = fresh(1);
    run.kept.refuse_letters(true);
    run.log.append(0, "bad", "reject");
    run.log.append(0, "bad", "ok");
    run.log.append(0, "good", "ok");
    until("the good one is done", || run.group.stats().completed.value() >= 1).await;
    until("the letter was offered and refused", || run.group.stats().burials_failed.value() >= 2).await;
    assert_eq!(run.frontier(0), 0, "not finished before its letter was taken");
    assert_eq!(run.group.stats().completed.value(), 1, "its credit is held until then");
    assert_eq!(run.handled("bad"), [], "its key waits, in order");
    run.kept.refuse_letters(false);
    until("the letter is taken", || run.frontier(0) == 3).await;
    assert_eq!((run.kept.letters().len(), run.handled("bad").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_goes_and_comes_back_loses_nothing() {
    let run = fresh(2);
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
    until("everything is done", || run.frontier(0) == 1000 && run.frontier(1) == 1000).await;
    for key in 0..20 {
        let mut seen = run.handled(&format!("k{key}"));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100, "key {key}");
    }
    assert_eq!(run.group.stats().violations.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_at_the_frontier_and_a_topic_made_anew_is_noticed() {
    let first = fresh(1);
    for _ in 0..10 {
        first.log.append(0, "k", "ok");
    }
    until("the first run is done", || first.frontier(0) == 10).await;
    let (kept, log) = (first.kept.clone(), first.log.clone());
    tokio::task::spawn_blocking(|| first.group.stop()).await.unwrap().unwrap();

    log.assign(&[0]);
    log.append(0, "k", "ok");
    let second = run(kept.clone(), log);
    until("only the new one is handled", || second.frontier(0) == 11).await;
    assert_eq!(second.handled("k"), [(0, 10)]);
    assert!(second.group.stats().lights().is_empty());
    tokio::task::spawn_blocking(|| second.group.stop()).await.unwrap().unwrap();

    let anew = sim::Log::new("t", 1);
    for _ in 0..20 {
        anew.append(0, "k", "another history");
    }
    let third = run(kept, anew);
    until("it is read from its beginning", || third.handled("k").len() == 20).await;
    let lights = third.group.stats().lights();
    assert!(lights["t/0"].contains("made anew"), "{lights:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_our_frontier_is_an_alarm_with_the_distance() {
    let log = sim::Log::new("t", 1);
    for _ in 0..5 {
        log.append(0, "k", "ok");
    }
    let kept = Arc::new(sim::Memory::default());
    kept.set_frontier(Part::new("t", 0), Frontier { next: 5000, last: None });
    let run = run(kept, log);
    until("it is read from its beginning", || run.handled("k").len() == 5).await;
    assert!(run.group.stats().lights()["t/0"].contains("ends 4995 offsets before our frontier"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_injected_record_runs_in_its_keys_queue_and_moves_no_frontier() {
    let run = fresh(1);
    let record = Record {
        part: Part::new("mine", 0),
        offset: 0,
        timestamp_ms: 0,
        read_ms: 0,
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"ok")),
        headers: Vec::new(),
    };
    run.group.inject(run.handler.key(&record).unwrap(), record).unwrap();
    until("it was handled", || run.handled("k").len() == 1).await;
    assert_eq!((run.frontier(0), run.group.stats().taken.value()), (0, 0));
}
