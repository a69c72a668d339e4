use super::*;
use crate::clock::wall_clock as now;
use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_ledger::{LedgerOptions, MailboxError, MailboxObserver, NoCounterObserver, PublishTo};
use orderbell_protocol::{Id, Recipient};

struct NoObserver;

impl MailboxObserver for NoObserver {
    fn changed(&self, _who: &[Recipient]) {}
}

fn record(value: &serde_json::Value) -> Record {
    Record {
        partition: TopicPartition::new("orders", 0),
        offset: 0,
        timestamp_ms: now().0,
        read_ms: now().0,
        key: None,
        value: Some(Bytes::from(value.to_string())),
        headers: Vec::new(),
    }
}

fn handler(dir: &std::path::Path, retention_ms: i64) -> (Arc<Ledger>, OrderHandler) {
    let ledger = Arc::new(
        Ledger::open(
            dir,
            LedgerOptions {
                state_retention_ms: retention_ms,
                max_mailbox_rows: 1000,
                min_free_space: 0,
                timeline_retention_ms: 3_600_000,
                publish_to: PublishTo::EmbeddedLog,
                rolled_back: false,
            },
            Arc::new(NoObserver),
            Arc::new(NoCounterObserver),
            |error| panic!("{error}"),
        )
        .unwrap(),
    );
    (
        ledger.clone(),
        OrderHandler::new(ledger, Mapping::default(), OrderPolicy { retention_ms, ..OrderPolicy::default() }),
    )
}

fn turn(records: Vec<Record>) -> KeyBatch<ExpiryCheck> {
    turn_of(records.into_iter().map(KeyInput::Record).collect())
}

fn turn_of(inputs: Vec<KeyInput<ExpiryCheck>>) -> KeyBatch<ExpiryCheck> {
    KeyBatch { inputs: Arc::new(inputs), attempts: 0 }
}

#[tokio::test]
async fn an_order_is_expunged_after_its_retention_and_not_before() {
    // No whole half hours: a time that is so far behind its record would be that of another zone.
    const RETENTION_MS: i64 = 2_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), RETENTION_MS);
    let (old, young) = (now().plus_ms(-RETENTION_MS + 40), now());
    let paid = |order: &str, at: UnixMs| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": "1", "time": at.0}))
    };
    let done = handler.process(turn(vec![paid("old", old), paid("young", young)])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    let key = |id: &str| OrderKey { shadow: false, id: Id::new(id).unwrap() };
    while now() <= old.plus_ms(RETENTION_MS) {
        tokio::task::yield_now().await;
    }
    // Far in the future both entries of the expiry index are due; only the old order's retention is over.
    let due = ledger.orders().due_expiries(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    assert_eq!(due.len(), 2);
    let checks = due.into_iter().map(|(due, order)| KeyInput::Task(ExpiryCheck { due, order })).collect();
    assert_eq!(handler.process(turn_of(checks)).await, [Outcome::Done, Outcome::Done]);
    assert!(ledger.orders().state(&key("old")).unwrap().is_none());
    assert!(ledger.orders().state(&key("young")).unwrap().is_some());
    let due = ledger.orders().due_expiries(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    assert_eq!(due, [(young.plus_ms(RETENTION_MS), key("young"))], "the young one is in the expiry index again");
    // The mailbox's floor has passed the expunged order's notice: a position below it is answered by 410.
    let who = Recipient::store(Id::new("1").unwrap());
    let (cursor, head) = ledger.devices().cursor_and_head(&who, &Id::new("d").unwrap()).unwrap();
    assert_eq!((cursor.acked.seq, head.seq), (1, 2));
    let before = orderbell_protocol::Position::start(ledger.epoch());
    let gone = ledger.mailboxes().read(&who, before, before, 9, now());
    assert!(matches!(gone, Err(MailboxError::PositionExpired)));
}

#[tokio::test]
async fn records_before_a_rejected_one_are_written_and_those_after_it_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = |order: &str, store: &str| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": store, "id": store}))
    };
    let done = handler.process(turn(vec![paid("o", "1"), paid("o", "2"), paid("o", "1")])).await;
    assert!(
        matches!(&done[..], [Outcome::Done, Outcome::Reject(reason)] if reason.code == "store-mismatch"),
        "{done:?}"
    );
    assert!(ledger.orders().state(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_some());
}

#[tokio::test]
async fn an_ignored_event_ends_no_batch_and_is_counted_by_type() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = handler(dir.path(), 3_600_000);
    let mapping = toml::from_str("types = { '*' = 'ignore' }").unwrap();
    let policy = OrderPolicy { retention_ms: 3_600_000, ..OrderPolicy::default() };
    let handler = OrderHandler::new(ledger.clone(), mapping, policy);
    let event = |kind: &str| record(&serde_json::json!({"type": kind, "order": "o", "store": "1"}));
    let done = handler.process(turn(vec![event("courier.moved"), event("order.paid"), event("courier.moved")])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done, Outcome::Done]);
    assert!(ledger.orders().state(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_some());
    assert_eq!(handler.stats().ignored.lock().unwrap().counts().collect::<Vec<_>>(), [("courier.moved", 2)]);
    assert!(handler.stats().rejected.lock().unwrap().is_empty());
}

#[tokio::test]
async fn shadow_traffic_and_real_traffic_are_separate() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid =
        |shadow: bool| record(&serde_json::json!({"type": "order.paid", "order": "o", "store": "1", "shadow": shadow}));
    assert_eq!(handler.process(turn(vec![paid(true)])).await, [Outcome::Done]);
    let real = Recipient::store(Id::new("1").unwrap());
    let shadow = Recipient { shadow: true, ..real.clone() };
    let notices = |who: &Recipient| {
        let begin = ledger.devices().cursor_and_head(who, &Id::new("d").unwrap()).unwrap().0.acked;
        ledger.mailboxes().read(who, begin, begin, 9, now()).unwrap().notices.len()
    };
    assert_eq!((notices(&real), notices(&shadow)), (0, 1));
    assert!(ledger.orders().state(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_none());
}

/// Regression: an order that an expiry check expunged, and that an event of the same batch created again, was never expunged afterwards.
#[tokio::test]
async fn an_order_created_again_in_the_batch_that_expunged_it_is_in_the_expiry_index() {
    // No whole half hours: a time that is so far behind its record would be that of another zone.
    const RETENTION_MS: i64 = 2_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), RETENTION_MS);
    let old = now().plus_ms(-RETENTION_MS + 40);
    let event = |kind: &str, at: UnixMs| {
        record(&serde_json::json!({"type": kind, "order": "o", "store": "1", "time": at.0, "id": kind}))
    };
    handler.process(turn(vec![event("order.paid", old)])).await;
    while now() <= old.plus_ms(RETENTION_MS) {
        tokio::task::yield_now().await;
    }
    let key = OrderKey { shadow: false, id: Id::new("o").unwrap() };
    let due = || ledger.orders().due_expiries(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    let expiry = || KeyInput::Task(ExpiryCheck { due: due()[0].0, order: key.clone() });
    let event_at = now();
    let done = handler.process(turn_of(vec![expiry(), KeyInput::Record(event("order.ready", event_at))])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    assert!(ledger.orders().state(&key).unwrap().is_some(), "its state is stored");
    let listed = ledger.orders().open(&Recipient::store(Id::new("1").unwrap()), None, 10).unwrap().orders;
    assert_eq!(listed.len(), 1, "it is among the active orders");
    assert_eq!(due(), [(event_at.plus_ms(RETENTION_MS), key.clone())], "it is in the expiry index, once");
    // The other way round: the event first, then the expiry check, which is too early now.
    let done = handler.process(turn_of(vec![KeyInput::Record(event("order.picked_up", event_at)), expiry()])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    assert_eq!(due(), [(event_at.plus_ms(RETENTION_MS), key.clone())]);
    assert!(ledger.orders().state(&key).unwrap().is_some());
}

#[tokio::test]
async fn a_batch_is_a_span_that_says_where_its_records_are_and_not_whose_order_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, handler) = handler(dir.path(), 3_600_000);
    let handler = Arc::new(handler);
    let paid = |id: &str, offset: u64| {
        let mut record = record(&serde_json::json!({
            "type": "order.paid", "id": id, "order": "order-of-ann", "store": "1", "time": now().0,
        }));
        record.offset = offset;
        record
    };
    let log = crate::log_capture::LogCapture::at(tracing::Level::DEBUG);
    let key = handler.key(&paid("e", 0)).unwrap();
    handler.clone().handle(turn(vec![paid("e1", 41), paid("e2", 42)])).await;
    let span = log.line("handled")["span"].clone();
    assert_eq!((&span["name"], &span["topic"], &span["partition"]), (&"key_batch".into(), &"orders".into(), &0.into()));
    assert_eq!((&span["first_offset"], &span["last_offset"], &span["inputs"]), (&41.into(), &42.into(), &2.into()));
    assert_eq!(span["key"], format!("{:016x}", key.0));
    assert!(!log.text().contains("order-of-ann"), "{}", log.text());
    drop(log);
    let log = crate::log_capture::LogCapture::at(tracing::Level::INFO);
    handler.handle(turn(vec![paid("e3", 43)])).await;
    assert_eq!(log.text(), "");
}

/// The balance of the one topic.
fn bins(ledger: &Ledger) -> Vec<(Bin, u64)> {
    ledger.balance().counts().iter().filter(|bin| bin.records > 0).map(|bin| (bin.key.bin, bin.records)).collect()
}

#[tokio::test]
async fn a_dead_letter_of_a_paid_order_is_in_the_balance_once() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = record(&serde_json::json!({"type": "order.paid", "order": "o1", "store": "1"}));
    for _read_again in 0..2 {
        handler.on_dead_letter(&paid, &Reason { code: "bad-id", message: String::new() });
    }
    assert_eq!(bins(&ledger), [(Bin::Rejected, 1)]);
}

/// Regression: a paid order whose store was 0, or that named none, notified nobody, and nothing was red.
#[tokio::test]
async fn a_paid_order_without_a_store_is_counted_until_an_event_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let event = |kind: &str, order: &str, store: &str| {
        record(&serde_json::json!({"type": kind, "order": order, "store": store}))
    };
    let done = handler.process(turn(vec![
        event("order.paid", "o1", "0"),
        event("order.paid", "o2", "0"),
        event("order.created", "o3", "0"),
        event("order.paid", "o4", "17"),
        event("order.accepted", "o2", "17"),
    ]));
    assert_eq!(done.await, vec![Outcome::Done; 5]);
    assert_eq!(bins(&ledger), [(Bin::Notified, 2), (Bin::AwaitsStore, 1)], "o1");
    let waiting = |after_ms| handler.stats().unannounced.waiting(now().plus_ms(after_ms)).values().sum::<u64>();
    assert_eq!((waiting(0), waiting(30_000)), (1, 0));
}

/// Regression: a chain whose clock was hours behind notified nobody, and nothing was red.
#[tokio::test]
async fn an_order_of_a_clock_that_is_behind_notifies_its_store_or_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 86_400_000);
    let behind = |order: &str, minutes: i64, recorded_minutes_ago: i64| {
        let at = now().plus_ms(-minutes * 60_000);
        let mut record = record(&serde_json::json!({"type": "order.paid", "order": order, "store": "1", "time": at.0}));
        record.timestamp_ms -= recorded_minutes_ago * 60_000;
        record
    };
    let done = handler.process(turn(vec![behind("zone", 300, 0), behind("off", 317, 0), behind("history", 317, 310)]));
    assert_eq!(done.await, vec![Outcome::Done; 3]);
    let stats = handler.stats();
    assert_eq!(stats.notices_created.lock().unwrap().get("new_order"), Some(&1), "by the time of the record");
    assert_eq!(stats.notices_expired.value(), 2);
    assert_eq!(bins(&ledger), [(Bin::Notified, 1), (Bin::TooOld, 1), (Bin::History, 1)]);
}

#[test]
fn a_paid_order_is_counted_whatever_made_it_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = record(&serde_json::json!({"type": "order.paid", "order": "o1", "store": "1"}));
    let ready = record(&serde_json::json!({"type": "order.ready", "order": "o1", "store": "1"}));
    for code in ["bad-state", "retries-exhausted", "key-panicked"] {
        let reason = Reason { code, message: String::new() };
        handler.on_dead_letter(&paid, &reason);
        handler.on_dead_letter(&ready, &reason);
    }
    let stats = handler.stats();
    assert_eq!(
        (stats.paid_rejected.value(), stats.unreadable_rejected.value(), stats.later_rejected.value()),
        (3, 0, 3)
    );
    handler.on_dead_letter(&ready, &Reason { code: "store-mismatch", message: String::new() });
    assert_eq!(stats.later_rejected.value(), 3, "that order is known");
    assert_eq!(stats.rejected.lock().unwrap().get("retries-exhausted"), Some(&2));
}

/// Cases 17 and 19: a record of several events through a consumer group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_a_record_is_applied_in_its_own_orders_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let handler = Arc::new(handler);
    let log = orderbell_consumers::sim::Log::new("orders", 1);
    let paid = |order: &str, store: &str| serde_json::json!({"type": "order.paid", "order": order, "store": store, "id": store, "time": now().0});
    let both = serde_json::json!([paid("o1", "1"), {"type": "order.eaten"}, paid("o2", "2"), paid("o1", "2")]);
    log.append(0, "k", &both.to_string());
    log.append(0, "k", "[]");
    log.append(0, "k", &paid("o3", "2").to_string());
    let store = Arc::new(orderbell_consumers::sim::MemoryStore::default());
    let options = orderbell_consumers::Options::default();
    let group =
        orderbell_consumers::Group::start(log.source(), handler.clone(), store.clone(), store.clone(), &options);
    let began = std::time::Instant::now();
    while store.checkpoint("orders", 0) < 3 {
        assert!(began.elapsed().as_secs() < 30, "timed out");
        tokio::task::yield_now().await;
    }
    let notices = |who: &str| {
        let start = orderbell_protocol::Position::start(ledger.epoch());
        let page = ledger.mailboxes().read(&Recipient::store(Id::new(who).unwrap()), start, start, 9, now());
        page.unwrap().notices.len()
    };
    assert_eq!((notices("1"), notices("2")), (1, 2));
    let letters = store.dead_letters();
    let letters: Vec<_> = letters.iter().map(|letter| (letter.reason.code, letter.record.value.as_deref())).collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.contains(&("unknown-type", Some(&br#"{"type":"order.eaten"}"#[..]))), "a dead letter is one event");
    let (moved, _) =
        letters.iter().map(|(code, value)| (*code, *value)).find(|(code, _)| *code != "unknown-type").unwrap();
    assert_eq!(moved, "store-mismatch", "the second event of o1 is applied after the first");
    assert_eq!(group.stats().invariant_violations.value(), 0);
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
}
