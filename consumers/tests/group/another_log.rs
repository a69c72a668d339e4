//! A topic that is deleted and created again while records of it are in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use orderbell_consumers::{
    AlertKind, Begin, Checkpoint, CheckpointError, CheckpointStore, DurableCheckpoints, Group, GroupAlert, Loss,
    Options, TopicPartition, sim,
};

use super::{Run, Scripted, quick, start, start_new, start_with, until};

/// The bug: what was still queued of the earlier log was handled after the partition had begun with the new one, and counted as the new log's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_an_earlier_log_are_finished_before_the_next_log_begins() {
    let run = start_new(2);
    for (key, value) in [("old", "hang"), ("old", "ok"), ("other", "ok")] {
        run.log.append(0, key, value);
    }
    until("the others are done", || run.handled("other").len() == 1).await;
    run.log.recreate(0);
    run.log.append(0, "new", "ok");
    let waits = || run.group.stats().unassigned_partitions.value() == 1;
    until("it waits, or the new log has begun", || waits() || !run.store.losses().is_empty()).await;
    assert_eq!((run.store.losses(), run.handled("new")), (vec![], vec![]), "records of the earlier log are in flight");
    let alerts = run.group.stats().alerts();
    assert!(alerts[0].detail.contains("records of its earlier log are not finished"), "{alerts:?}");
    run.log.append(1, "k", "ok");
    until("the other partition goes on", || run.checkpoint(1) == 1).await;
    run.release();
    until("the new log is read", || run.checkpoint(0) == 1).await;
    // None of what was read is given up.
    assert_eq!((run.handled("old"), run.handled("new")), (vec![(0, 0), (0, 1)], vec![(0, 0)]));
    // The checkpoint was at 0 all the time, and inside of both logs.
    let losses = run.store.losses();
    assert!(matches!(losses[..], [(_, Loss::Truncated { beyond: 2 | 3 })]), "{losses:?}");
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}

/// The bug: records that had been read and waited for credits were dropped when their topic was created again, and nobody could read them any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_wait_for_credits_are_finished_before_the_next_log_begins() {
    let log = sim::Log::new("t", 1);
    let parts: Vec<String> = (0..20).map(|part| format!("k{part}=back off")).collect();
    log.append(0, "all", &parts.join(";"));
    for _ in 0..3 {
        log.append(0, "old", "ok");
    }
    let run = start_with(Arc::default(), log, &Options { max_in_flight_records: 8, ..quick() });
    until("the first has all credits", || run.group.stats().in_flight_records.value() == 20).await;
    run.log.recreate(0);
    run.log.append(0, "new", "ok");
    until("the source has noticed", || run.log.position(0).is_none()).await;
    run.release();
    until("the new log is read", || run.checkpoint(0) == 1 && run.handled("new").len() == 1).await;
    assert_eq!(run.handled("old"), [(0, 1), (0, 2), (0, 3)]);
    let losses = run.store.losses();
    assert!(matches!(losses[..], [(_, Loss::Truncated { beyond: 3 | 4 })]), "{losses:?}");
    assert_eq!(run.group.stats().invariant_violations.value(), 0);
}

/// The bug: while a dead letter of a topic that was created again could not be written, the poll thread waited for it for one second of each
/// round, and all other partitions with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_waits_for_its_earlier_log_holds_no_other_up() {
    let (log, store) = (sim::Log::new("t", 2), Arc::<sim::MemoryStore>::default());
    let (source, handler) = (log.source(), Arc::<Scripted>::default());
    let (requests, polls) = (source.offset_requests(), source.polls());
    let group = Group::start(source, handler.clone(), store.clone(), store.clone(), &quick());
    let run = Run { log, handler, store, group };
    run.store.refuse_dead_letters(true);
    run.log.append(0, "old", "ok");
    run.log.append(0, "bad", "reject");
    let is_stuck = || run.group.stats().dead_letter_writes_failed.value() > 0;
    until("one is finished, and the other's dead letter is not written", || run.checkpoint(0) == 1 && is_stuck()).await;
    run.log.lose(&[0]);
    until("it is lost", || run.log.position(0).is_none()).await;
    run.log.recreate(0);
    for _ in 0..5 {
        run.log.append(0, "new", "ok");
    }
    run.log.assign(&[0]);
    let waits = |alert: &GroupAlert| alert.detail.contains("records of its earlier log are not finished");
    until("it waits", || run.group.stats().alerts().iter().any(waits)).await;
    let (asked, polled) = (requests.load(Ordering::SeqCst), polls.load(Ordering::SeqCst));
    // Each takes up to 20 ms: longer than several rounds of starting it again.
    until("the source is polled on", || polls.load(Ordering::SeqCst) > polled + 150).await;
    assert_eq!(requests.load(Ordering::SeqCst), asked, "it was tried again while nothing had changed");
    run.log.append(1, "k", "ok");
    until("the other partition goes on", || run.checkpoint(1) == 1).await;
    assert_eq!(run.handled("new"), []);
    run.store.refuse_dead_letters(false);
    until("the new log is read", || run.checkpoint(0) == 5).await;
    assert_eq!((run.handled("new").len(), run.store.dead_letters().len()), (5, 1));
    assert_eq!(run.store.losses(), [(TopicPartition::new("t", 0), Loss::Recreated)]);
    assert_eq!(run.group.stats().alerts().iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::Recreated]);
}

/// A group with one record in flight of a log that was created again, whose partition waits for it.
async fn with_a_record_of_an_earlier_log(options: &Options) -> Run {
    let run = start_with(Arc::default(), sim::Log::new("t", 1), options);
    run.log.append(0, "done", "ok");
    until("one is finished", || run.checkpoint(0) == 1).await;
    run.log.append(0, "old", "hang");
    // What only waits in a queue when its partition is lost is given up: nobody would wait for it.
    until("the other is handled", || run.handler.hung.load(Ordering::SeqCst) == 1).await;
    run.log.lose(&[0]);
    until("it is lost", || run.log.position(0).is_none()).await;
    run.log.recreate(0);
    for _ in 0..5 {
        run.log.append(0, "new", "ok");
    }
    run.log.assign(&[0]);
    until("an alert is raised", || !run.group.stats().alerts().is_empty()).await;
    assert_eq!(run.group.stats().alerts()[0].kind, AlertKind::Unassigned, "it waits");
    run
}

/// Regression: at a stop, nobody waited for the records in flight of an earlier log, which nobody can read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_records_of_an_earlier_log() {
    let run = with_a_record_of_an_earlier_log(&quick()).await;
    let (handler, stopped) = (run.handler.clone(), tokio::task::spawn_blocking(|| run.group.stop()));
    handler.released.store(true, Ordering::SeqCst);
    handler.release.notify_one();
    stopped.await.unwrap().unwrap();
    assert_eq!(handler.handled.lock().unwrap()["old"], [(0, 1)]);

    let in_time = Options { stop_timeout: std::time::Duration::from_millis(50), ..quick() };
    let run = with_a_record_of_an_earlier_log(&in_time).await;
    let stats = run.group.stats().clone();
    tokio::task::spawn_blocking(|| run.group.stop()).await.unwrap().unwrap();
    assert_eq!(stats.drain_timeouts.value(), 1, "it was waited for, not longer than that");
}

/// Regression: the alert on a partition that waited for its earlier log stayed when the partition was taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_taken_away_while_it_waits_has_no_alert() {
    let run = with_a_record_of_an_earlier_log(&quick()).await;
    run.log.revoke(&[0]);
    until("its alert is cleared", || run.group.stats().alerts().is_empty()).await;
}

/// A store whose begins become durable when the test lets them.
#[derive(Default)]
struct Held {
    store: sim::MemoryStore,
    is_held: AtomicBool,
    held: Mutex<Vec<(DurableCheckpoints, flume::Sender<DurableCheckpoints>)>>,
}

impl Held {
    fn release(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        for (at, durable) in self.held.lock().unwrap().drain(..) {
            durable.send(at).unwrap();
        }
    }
}

impl CheckpointStore for Held {
    fn load(&self, cluster: &str, of: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        self.store.load(cluster, of)
    }

    fn save(&self, cluster: &str, at: DurableCheckpoints, durable: flume::Sender<DurableCheckpoints>) {
        self.store.save(cluster, at, durable);
    }

    fn begin(&self, cluster: &str, partitions: Vec<Begin>, durable: flume::Sender<DurableCheckpoints>) {
        if !self.is_held.load(Ordering::SeqCst) {
            return self.store.begin(cluster, partitions, durable);
        }
        let at = partitions.iter().map(|begin| (begin.partition.clone(), begin.checkpoint)).collect();
        sim::begin(&self.store, cluster, partitions);
        self.held.lock().unwrap().push((at, durable));
    }

    fn used_skip(&self, cluster: &str, partition: &TopicPartition) -> Result<Option<u64>, CheckpointError> {
        self.store.used_skip(cluster, partition)
    }

    fn has_topic(&self, cluster: &str, topic: &str) -> Result<bool, CheckpointError> {
        self.store.has_topic(cluster, topic)
    }
}

/// Regression: a partition whose begin was not durable in time began once more, and what it had lost was added twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_log_lost_is_added_once_when_its_begin_takes_long() {
    let (log, store, handler) = (sim::Log::new("t", 1), Arc::<Held>::default(), Arc::<Scripted>::default());
    let dead_letters = Arc::<sim::MemoryStore>::default();
    let group = Group::start(log.source(), handler.clone(), store.clone(), dead_letters, &quick());
    for _ in 0..3 {
        log.append(0, "old", "ok");
    }
    until("it is read", || store.store.checkpoint("t", 0) == 3).await;
    store.is_held.store(true, Ordering::SeqCst);
    log.recreate(0);
    log.append(0, "new", "ok");
    until("it begins", || store.store.losses().len() == 1).await;
    until("it is tried again later", || group.stats().unassigned_partitions.value() == 1).await;
    store.release();
    until("the new log is read", || store.store.checkpoint("t", 0) == 1).await;
    assert!(handler.handled.lock().unwrap().contains_key("new"));
    assert!(matches!(store.store.losses()[..], [(_, Loss::Truncated { .. })]), "{:?}", store.store.losses());
    let kinds: Vec<AlertKind> = group.stats().alerts().iter().map(|alert| alert.kind).collect();
    assert_eq!(kinds, [AlertKind::Truncated], "what was lost is an alert all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_checkpoints_learns_what_a_lost_one_had_handled() {
    let log = sim::Log::new("t", 2);
    for _ in 0..5 {
        log.append(0, "k", "ok");
    }
    log.set_committed(0, 3);
    let run = start(Arc::default(), log);
    until("it is read", || run.checkpoint(0) == 5).await;
    assert_eq!(run.store.all_handled_before(), [(TopicPartition::new("t", 0), 3)]);
}

/// The bug: a program that was still started with a skip passed over the first records of a topic that was created again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_is_used_once_and_not_for_a_topic_that_was_created_again() {
    let (log, recreated) = (sim::Log::new("t", 1), sim::Log::new("t", 1));
    let store = Arc::new(sim::MemoryStore::default());
    let options = Options { skip_to: vec![(TopicPartition::new("t", 0), 2)], ..quick() };
    let read_to = async |log: &sim::Log, end: u64| {
        let run = start_with(store.clone(), log.clone(), &options);
        until("it is read", || run.checkpoint(0) == end).await;
        let handled = run.handled("k");
        tokio::task::spawn_blocking(|| run.group.stop()).await.unwrap().unwrap();
        handled
    };
    for _ in 0..3 {
        log.append(0, "k", "ok");
    }
    assert_eq!(read_to(&log, 3).await, [(0, 2)]);
    recreated.append(0, "k", "another history");
    assert_eq!(read_to(&recreated, 1).await, [(0, 0)]);
    for _ in 0..2 {
        recreated.append(0, "k", "another history");
    }
    recreated.assign(&[0]);
    assert_eq!(read_to(&recreated, 3).await, [(0, 1), (0, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_checkpoint_raises_an_alert_with_the_distance() {
    let log = sim::Log::new("t", 1);
    for _ in 0..5 {
        log.append(0, "k", "ok");
    }
    let store = Arc::new(sim::MemoryStore::default());
    store.set_checkpoint(TopicPartition::new("t", 0), Checkpoint { next: 5000, last: None });
    let run = start(store, log);
    until("it is read from its beginning", || run.handled("k").len() == 5).await;
    let alerts = run.group.stats().alerts();
    let [GroupAlert { kind: AlertKind::Truncated, detail, .. }] = &alerts[..] else { panic!("{alerts:?}") };
    assert!(detail.contains("ends 4995 offsets before the checkpoint"), "{detail}");
    assert_eq!(run.store.losses(), [(TopicPartition::new("t", 0), Loss::Truncated { beyond: 4995 })]);
}
