use super::super::outbox_backlog::MAX_HELD;
use super::*;
use crate::ingest::OrderHandler;
use orderbell_ledger::{LedgerOptions, MailboxObserver, NewEvent, NoCounterObserver, PublishTo};
use orderbell_orders::mapping::Mapping;
use orderbell_protocol::Recipient;
use orderbell_protocol::balance::Bin;
use std::sync::atomic::{AtomicU64, Ordering};

struct NoObserver;

impl MailboxObserver for NoObserver {
    fn changed(&self, _who: &[Recipient]) {}
}

/// An output topic that fails as the test demands.
#[derive(Default)]
struct Topic {
    records: Mutex<Vec<String>>,
    /// Number of failing sends by value.
    fails: Mutex<Vec<(&'static str, u32)>>,
    refuses: Mutex<Vec<&'static str>>,
    /// Beginnings of values whose sends get no answer while they are listed.
    hangs: Mutex<Vec<&'static str>>,
}

impl Sink for Topic {
    async fn send(&self, record: &orderbell_consumers::OutRecord) -> Result<(), SinkError> {
        let value = String::from_utf8_lossy(&record.value).into_owned();
        tokio::task::yield_now().await;
        while self.hangs.lock().unwrap().iter().any(|start| value.starts_with(start)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.refuses.lock().unwrap().contains(&value.as_str()) {
            return Err(SinkError::Refused("too large".into()));
        }
        let mut fails = self.fails.lock().unwrap();
        if let Some((_, left)) = fails.iter_mut().find(|(which, left)| *which == value && *left > 0) {
            *left -= 1;
            return Err(SinkError::Transient("away".into()));
        }
        self.records.lock().unwrap().push(value);
        Ok(())
    }
}

fn open(dir: &std::path::Path) -> Arc<Ledger> {
    let options = LedgerOptions {
        state_retention_ms: 3_600_000,
        max_mailbox_rows: 1000,
        min_free_space: 0,
        timeline_retention_ms: 3_600_000,
        publish_to: PublishTo::Outbox,
        rolled_back: false,
    };
    Arc::new(
        Ledger::open(
            dir,
            options,
            Arc::new(NoObserver),
            Arc::new(NoCounterObserver),
            Arc::new(|why: &str| panic!("{why}")),
        )
        .unwrap(),
    )
}

fn event(order: &str, value: &'static str) -> NewEvent {
    NewEvent {
        key: order.to_owned().into(),
        id_hash: xxhash_rust::xxh3::xxh3_128(value.as_bytes()),
        body_hash: 1,
        value: value.into(),
        content_type: "application/json".into(),
        headers: Vec::new(),
    }
}

/// Nobody sees the dead letters.
struct Unobserved;

impl RefusedEventObserver for Unobserved {
    fn refused(&self, _: &Record, _: &Reason) -> Option<BinNote> {
        None
    }
}

fn unobserved() -> Arc<dyn RefusedEventObserver> {
    Arc::new(Unobserved)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn events_of_one_order_keep_their_sequence_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stats, stop) =
        (open(dir.path()), Arc::<Topic>::default(), Arc::default(), CancellationToken::new());
    *topic.fails.lock().unwrap() = vec![("a1", 2), ("a3", 1)];
    *topic.refuses.lock().unwrap() = vec!["c1"];
    let rows = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"), ("a", "a3"), ("c", "c2"), ("b", "b2")];
    ledger.append(rows.map(|(order, value)| event(order, value)).to_vec()).await.unwrap();
    // A duplicate is not published again.
    ledger.append(vec![event("b", "b1")]).await.unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    let publishing = tasks.spawn(publish(
        ledger.clone(),
        topic.clone(),
        "out".into(),
        Arc::clone(&stats),
        unobserved(),
        stop.clone(),
    ));
    until("the outbox is empty", || ledger.outbox().pending(0, 10).unwrap().is_empty()).await;
    let published = topic.records.lock().unwrap().clone();
    let of = |order: char| published.iter().filter(|value| value.starts_with(order)).cloned().collect::<Vec<_>>();
    assert_eq!(
        (of('a'), of('b'), of('c')),
        (vec!["a1".into(), "a2".into(), "a3".into()], vec!["b1".into(), "b2".into()], vec!["c2".to_owned()])
    );
    assert_eq!((stats.published.value(), stats.failed.value()), (6, 3));
    // A later event wakes the publisher.
    ledger.append(vec![event("d", "d1")]).await.unwrap();
    until("the new one is published", || topic.records.lock().unwrap().last().map(String::as_str) == Some("d1")).await;
    stop.cancel();
    publishing.await.unwrap();
}

#[tokio::test]
async fn pending_events_survive_a_restart_and_numbers_continue() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.append(vec![event("a", "a1"), event("a", "a2")]).await.unwrap();
    let first = ledger.outbox().pending(0, 10).unwrap();
    ledger.outbox().delivered(vec![first[0].number]).await.unwrap();
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    ledger.append(vec![event("a", "a1"), event("a", "a3")]).await.unwrap();
    let waiting: Vec<_> =
        ledger.outbox().pending(0, 10).unwrap().into_iter().map(|row| (row.number, row.record.value)).collect();
    assert_eq!(waiting, [(first[1].number, "a2".into()), (first[1].number + 1, "a3".into())]);
}

/// Regression: a paid order that the output topic refused for good was in the ledger's dead letters, and raised no alert.
#[tokio::test]
async fn an_event_that_is_refused_for_good_is_reported_as_any_other_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stop) = (open(dir.path()), Arc::<Topic>::default(), CancellationToken::new());
    let paid = r#"{"type":"order.paid","order":"a","store":"1"}"#;
    let ready = r#"{"type":"order.ready","order":"b","store":"1"}"#;
    *topic.refuses.lock().unwrap() = vec![paid, ready];
    let policy = orderbell_orders::order::OrderPolicy::default();
    let handler = Arc::new(OrderHandler::new(ledger.clone(), Mapping::default(), policy));
    let of_group = Arc::<orderbell_consumers::Stats>::default();
    let observer = Arc::new(crate::stream::RefusedEvents { handler: handler.clone(), group: of_group.clone() });
    let stats = Arc::<PublisherStats>::default();
    let tasks = tokio_util::task::TaskTracker::new();
    let publishing = tasks.spawn(publish(ledger.clone(), topic.clone(), "out".into(), stats, observer, stop.clone()));
    ledger.append(vec![event("a", paid), event("b", ready)]).await.unwrap();
    until("the outbox is empty", || ledger.outbox().pending(0, 10).unwrap().is_empty()).await;
    assert_eq!(ledger.dead_letters().list(0, 9).unwrap().len(), 2);
    assert_eq!((of_group.dead_lettered.value(), handler.stats().paid_rejected.value()), (2, 1));
    assert_eq!(handler.stats().rejected.lock().unwrap()["not-published"], 2);
    // Regression: they were in the balance until the next start.
    let bins = |ledger: &Ledger| {
        let counts = ledger.balance().counts();
        counts.iter().map(|bin| (bin.key.bin, bin.open(), bin.key.reason.clone())).collect::<Vec<_>>()
    };
    let both = [Bin::Rejected, Bin::RejectedLater].map(|bin| (bin, 1, String::from(NOT_PUBLISHED)));
    assert_eq!(bins(&ledger), both);
    stop.cancel();
    publishing.await.unwrap();
    ledger.close();
    drop((ledger, handler, tasks));
    assert_eq!(bins(&open(dir.path())), both);
}

/// Regression: a partition that accepted nothing delayed the events of all tills, by a minute a round.
#[tokio::test]
async fn an_event_without_acknowledgement_delays_its_own_order_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stats, stop) =
        (open(dir.path()), Arc::<Topic>::default(), Arc::default(), CancellationToken::new());
    *topic.hangs.lock().unwrap() = vec!["a1"];
    let tasks = tokio_util::task::TaskTracker::new();
    let publishing = tasks.spawn(publish(
        ledger.clone(),
        topic.clone(),
        "out".into(),
        Arc::clone(&stats),
        unobserved(),
        stop.clone(),
    ));
    ledger.append(vec![event("a", "a1"), event("a", "a2"), event("b", "b1")]).await.unwrap();
    until("the other is published", || topic.records.lock().unwrap().as_slice() == ["b1"]).await;
    ledger.append(vec![event("b", "b2"), event("c", "c1")]).await.unwrap();
    until("later ones are published", || topic.records.lock().unwrap().len() == 3).await;
    until("they are deleted from the outbox", || ledger.outbox().pending(0, 10).unwrap().len() == 2).await;
    topic.hangs.lock().unwrap().clear();
    until("the outbox is empty", || ledger.outbox().pending(0, 10).unwrap().is_empty()).await;
    let published = topic.records.lock().unwrap().clone();
    assert_eq!(published.iter().filter(|value| value.starts_with('a')).collect::<Vec<_>>(), ["a1", "a2"]);
    assert_eq!(published.len(), 5, "each once: {published:?}");
    stop.cancel();
    publishing.await.unwrap();
}

/// Counts what is read of the outbox.
struct CountingReader {
    ledger: Arc<Ledger>,
    rows: AtomicU64,
    reads: AtomicU64,
}

impl CountingReader {
    fn of(ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger: ledger.clone(), rows: AtomicU64::new(0), reads: AtomicU64::new(0) })
    }

    fn rows(&self) -> u64 {
        self.rows.load(Ordering::Acquire)
    }
}

impl OutboxReader for CountingReader {
    fn entries(&self, from: u64, max: usize) -> Result<Vec<OutboxEntry>, DatabaseError> {
        let entries = self.ledger.outbox().pending(from, max)?;
        self.rows.fetch_add(entries.len() as u64, Ordering::AcqRel);
        self.reads.fetch_add(1, Ordering::AcqRel);
        Ok(entries)
    }
}

/// Events `w0`, `w1` and so on, in turn about each of the orders.
fn waiting(count: usize, orders: usize) -> Vec<NewEvent> {
    let new = |number: usize| NewEvent {
        value: format!("w{number}").into(),
        id_hash: 1000 + number as u128,
        ..event(&format!("w{}", number % orders), "")
    };
    (0..count).map(new).collect()
}

/// Regression: every round and every append read all that waited, up to 4,096 rows.
#[tokio::test]
async fn a_round_reads_what_is_new_however_many_events_wait() {
    const PENDING: u64 = 300;
    const ROUNDS: [&str; 5] = ["b1", "b2", "b3", "b4", "b5"];
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stop) = (open(dir.path()), Arc::<Topic>::default(), CancellationToken::new());
    let stats = Arc::<PublisherStats>::default();
    *topic.hangs.lock().unwrap() = vec!["w0"];
    ledger.append(waiting(300, 1)).await.unwrap();
    let reader = CountingReader::of(&ledger);
    let tasks = tokio_util::task::TaskTracker::new();
    let publishing = tasks.spawn(publish_from(
        reader.clone(),
        ledger.clone(),
        topic.clone(),
        "out".into(),
        stats.clone(),
        unobserved(),
        stop.clone(),
    ));
    until("all are read", || stats.pending.value() == PENDING).await;
    assert_eq!(reader.rows(), PENDING);
    for (round, value) in ROUNDS.into_iter().enumerate() {
        ledger.append(vec![event("b", value)]).await.unwrap();
        until("it is published", || topic.records.lock().unwrap().len() == round + 1).await;
        until("it is deleted", || stats.pending.value() == PENDING).await;
        assert_eq!(reader.rows(), PENDING + round as u64 + 1, "a round reads its own event");
    }
    let reads = reader.reads.load(Ordering::Acquire);
    *topic.fails.lock().unwrap() = vec![("w150", 2)];
    topic.hangs.lock().unwrap().clear();
    until("the outbox is empty", || ledger.outbox().pending(0, 10).unwrap().is_empty()).await;
    let published = topic.records.lock().unwrap().clone();
    let of_order: Vec<_> = published.into_iter().filter(|value| value.starts_with('w')).collect();
    assert_eq!(of_order, (0..300).map(|number| format!("w{number}")).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(reader.rows(), PENDING + 5, "acknowledgements and failed sends read nothing");
    let seconds_at_most = 60;
    assert!(reader.reads.load(Ordering::Acquire) - reads <= seconds_at_most, "an acknowledgement is no reason to read");
    stop.cancel();
    publishing.await.unwrap();
}

#[tokio::test]
async fn the_publisher_holds_a_bounded_part_of_the_outbox_and_a_restart_begins_with_the_oldest_entry() {
    const EVENTS: usize = MAX_HELD + 500;
    const ORDERS: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic) = (open(dir.path()), Arc::<Topic>::default());
    *topic.hangs.lock().unwrap() = vec!["w"];
    ledger.append(vec![event("a", "a1")]).await.unwrap();
    ledger.append(waiting(EVENTS, ORDERS)).await.unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    let start = || {
        let (reader, stop, stats) =
            (CountingReader::of(&ledger), CancellationToken::new(), Arc::<PublisherStats>::default());
        let publishing = publish_from(
            reader.clone(),
            ledger.clone(),
            topic.clone(),
            "out".into(),
            stats.clone(),
            unobserved(),
            stop.clone(),
        );
        (reader, stop, stats, tasks.spawn(publishing))
    };
    let (reader, stop, stats, publishing) = start();
    until("the other order's is deleted", || ledger.outbox().pending(0, 1).unwrap()[0].number == 1).await;
    until("as many as it may are held", || stats.pending.value() == MAX_HELD as u64).await;
    assert_eq!(reader.rows(), MAX_HELD as u64 + 1);
    stop.cancel();
    publishing.await.unwrap();
    // Its place is gone: the next one begins with what is still in the outbox.
    topic.hangs.lock().unwrap().clear();
    let (reader, stop, _, publishing) = start();
    until("the outbox is empty", || ledger.outbox().pending(0, 1).unwrap().is_empty()).await;
    assert_eq!(reader.rows(), EVENTS as u64);
    let mut published = topic.records.lock().unwrap().split_off(1);
    let number = |value: &String| value[1..].parse::<usize>().unwrap();
    // The sort is stable: it keeps the sequence within each order.
    published.sort_by_key(|value| number(value) % ORDERS);
    let mut expected: Vec<_> = (0..EVENTS).map(|number| format!("w{number}")).collect();
    expected.sort_by_key(|value| number(value) % ORDERS);
    assert!(published == expected, "each once, in sequence within its order");
    stop.cancel();
    publishing.await.unwrap();
}

/// The bug: the alert of events that wait did not say why, and only the log did.
#[test]
fn the_alert_of_a_waiting_event_names_the_cause() {
    assert_eq!(waits_too_long(BLOCKED_AFTER_MS, Some("away")), None);
    let detail = waits_too_long(12_345, Some("bell.events does not exist, and this user may not create it")).unwrap();
    assert!(detail.contains("12 s") && detail.ends_with("this user may not create it"), "{detail}");
    assert!(waits_too_long(12_345, None).unwrap().ends_with("the output topic"));
}
