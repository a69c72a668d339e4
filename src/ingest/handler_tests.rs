use super::*;
use crate::clock::wall_clock as now;
use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_ledger::{LedgerOptions, MailboxError, MailboxObserver, NoCounterObserver, PublishTo};
use orderbell_orders::envelopes::UNDATED_ROW;
use orderbell_orders::reconcile::Recount;
use orderbell_orders::reconcile_payments::Payments;
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
        headers: Default::default(),
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
            Arc::new(|why: &str| panic!("{why}")),
        )
        .unwrap(),
    );
    (
        ledger.clone(),
        OrderHandler::new(ledger, Mapping::default(), OrderPolicy { retention_ms, ..OrderPolicy::default() }),
    )
}

fn batch(records: Vec<Record>) -> KeyBatch<ExpiryCheck, PreparedRecord> {
    turn_of(records.into_iter().map(input).collect())
}

/// A record whose queue was chosen without reading it.
fn input(record: Record) -> KeyInput<ExpiryCheck, PreparedRecord> {
    KeyInput::Record(record, None)
}

fn turn_of(inputs: Vec<KeyInput<ExpiryCheck, PreparedRecord>>) -> KeyBatch<ExpiryCheck, PreparedRecord> {
    KeyBatch { inputs: Arc::new(inputs), attempts: 0 }
}

#[tokio::test]
async fn an_order_is_expunged_after_its_retention_and_not_before() {
    // No whole half hours: a time that is so far behind its record would be that of another zone.
    const RETENTION_MS: i64 = 2_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), RETENTION_MS);
    let (old, young) = (now().plus_ms(-RETENTION_MS + 2_000), now());
    let paid = |order: &str, at: UnixMs| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": "1", "time": at.0}))
    };
    let done = handler.process(batch(vec![paid("old", old), paid("young", young)])).await;
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

/// The value that is handled here is no JSON: what is known of it was read before.
#[tokio::test]
async fn the_handler_takes_what_the_poll_thread_read_and_reads_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = record(&serde_json::json!({"type": "order.paid", "order": "o", "store": "1"}));
    let Parts::One { key, prepared: Some(prepared) } = handler.parts(&paid) else { panic!("it is one, and is read") };
    assert_eq!((key, handler.prepared_bytes(&prepared)), (Some(handler.key_of("o")), prepared.bytes()));
    let unreadable = Record { value: Some(Bytes::from_static(b"{")), ..paid };
    let reason = Reason { code: "bad-id", message: String::new() };
    handler.on_dead_letter(&unreadable, Some(&prepared), &reason);
    assert_eq!((handler.stats.paid_rejected.value(), handler.stats.unreadable_rejected.value()), (1, 0));
    let done = handler.process(turn_of(vec![KeyInput::Record(unreadable, Some(prepared))])).await;
    assert_eq!(done, [Outcome::Done]);
    assert!(ledger.orders().state(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_some());
}

#[tokio::test]
async fn records_before_a_rejected_one_are_written_and_those_after_it_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = |order: &str, store: &str| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": store, "id": store}))
    };
    let done = handler.process(batch(vec![paid("o", "1"), paid("o", "2"), paid("o", "1")])).await;
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
    let done = handler.process(batch(vec![event("courier.moved"), event("order.paid"), event("courier.moved")])).await;
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
    assert_eq!(handler.process(batch(vec![paid(true)])).await, [Outcome::Done]);
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
    let old = now().plus_ms(-RETENTION_MS + 2_000);
    let event = |kind: &str, at: UnixMs| {
        record(&serde_json::json!({"type": kind, "order": "o", "store": "1", "time": at.0, "id": kind}))
    };
    handler.process(batch(vec![event("order.paid", old)])).await;
    while now() <= old.plus_ms(RETENTION_MS) {
        tokio::task::yield_now().await;
    }
    let key = OrderKey { shadow: false, id: Id::new("o").unwrap() };
    let due = || ledger.orders().due_expiries(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    let expiry = || KeyInput::Task(ExpiryCheck { due: due()[0].0, order: key.clone() });
    let event_at = now();
    let done = handler.process(turn_of(vec![expiry(), input(event("order.ready", event_at))])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    assert!(ledger.orders().state(&key).unwrap().is_some(), "its state is stored");
    let listed = ledger.orders().open(&Recipient::store(Id::new("1").unwrap()), None, 10).unwrap().orders;
    assert_eq!(listed.len(), 1, "it is among the active orders");
    assert_eq!(due(), [(event_at.plus_ms(RETENTION_MS), key.clone())], "it is in the expiry index, once");
    // The other way round: the event first, then the expiry check, which is too early now.
    let done = handler.process(turn_of(vec![input(event("order.picked_up", event_at)), expiry()])).await;
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
    let log = orderbell_lab::log_capture::LogCapture::at(tracing::Level::DEBUG);
    let key = handler.key(&paid("e", 0)).unwrap();
    handler.clone().handle(batch(vec![paid("e1", 41), paid("e2", 42)])).await;
    let span = log.line("handled")["span"].clone();
    assert_eq!((&span["name"], &span["topic"], &span["partition"]), (&"key_batch".into(), &"orders".into(), &0.into()));
    assert_eq!((&span["first_offset"], &span["last_offset"], &span["inputs"]), (&41.into(), &42.into(), &2.into()));
    assert_eq!(span["key"], format!("{:016x}", key.0));
    assert!(!log.text().contains("order-of-ann"), "{}", log.text());
    drop(log);
    let log = orderbell_lab::log_capture::LogCapture::at(tracing::Level::INFO);
    handler.handle(batch(vec![paid("e1", 43)])).await;
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
        handler.on_dead_letter(&paid, None, &Reason { code: "bad-id", message: String::new() });
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
    let done = handler.process(batch(vec![
        event("order.paid", "o1", "0"),
        event("order.paid", "o2", "0"),
        event("order.created", "o3", "0"),
        event("order.paid", "o4", "17"),
        event("order.accepted", "o2", "17"),
    ]));
    assert_eq!(done.await, vec![Outcome::Done; 5]);
    assert_eq!(bins(&ledger), [(Bin::Notified, 2), (Bin::AwaitsStore, 1)], "o1");
    let counts = ledger.balance().counts();
    let waiting = counts.iter().filter(|bin| bin.key.bin == Bin::AwaitsStore).map(|bin| (bin.waiting, bin.open()));
    assert_eq!(waiting.collect::<Vec<_>>(), [(1, 0)], "its store may still be named");
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
    let done = handler.process(batch(vec![behind("zone", 300, 0), behind("off", 317, 0), behind("history", 317, 310)]));
    assert_eq!(done.await, vec![Outcome::Done; 3]);
    let stats = handler.stats();
    assert_eq!(stats.notices_created.lock().unwrap().get("new_order"), Some(&1), "by the time of the record");
    assert_eq!(stats.notices_expired.value(), 2);
    assert_eq!(bins(&ledger), [(Bin::Notified, 1), (Bin::TooOld, 1), (Bin::History, 1)]);
}

/// Regression: load-test traffic that was too old for a state was in no bin, so that `reconcile` found one record too many in the log.
#[tokio::test]
async fn a_payment_that_is_too_old_for_a_state_is_in_a_bin_of_its_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let old = |shadow: bool, offset: u64| {
        let at = now().plus_ms(-2 * 3_600_000 - 60_000 * 7);
        let value =
            serde_json::json!({"type": "order.paid", "order": "o", "store": "1", "time": at.0, "shadow": shadow});
        Record { offset, ..record(&value) }
    };
    assert_eq!(handler.process(batch(vec![old(true, 0), old(false, 1)])).await, vec![Outcome::Done; 2]);
    let counts = ledger.balance().counts();
    let bins: Vec<_> = counts.iter().map(|bin| (bin.key.shadow, bin.key.bin, bin.records)).collect();
    assert_eq!(bins, [(false, Bin::TooOld, 1), (true, Bin::TooOld, 1)]);
}

#[test]
fn a_paid_order_is_counted_whatever_made_it_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = record(&serde_json::json!({"type": "order.paid", "order": "o1", "store": "1"}));
    let ready = record(&serde_json::json!({"type": "order.ready", "order": "o1", "store": "1"}));
    for code in ["bad-state", "retries-exhausted", "key-panicked"] {
        let reason = Reason { code, message: String::new() };
        handler.on_dead_letter(&paid, None, &reason);
        handler.on_dead_letter(&ready, None, &reason);
    }
    let stats = handler.stats();
    assert_eq!(
        (stats.paid_rejected.value(), stats.unreadable_rejected.value(), stats.later_rejected.value()),
        (3, 0, 3)
    );
    handler.on_dead_letter(&ready, None, &Reason { code: "store-mismatch", message: String::new() });
    assert_eq!(stats.later_rejected.value(), 3, "that order is known");
    assert_eq!(stats.rejected.lock().unwrap().get("retries-exhausted"), Some(&2));
}

/// What `mapping try` and `mapping doctor` say is what the server does.
#[tokio::test]
async fn a_sample_run_ends_as_the_server_does() {
    use orderbell_orders::sample_run::{SampleResult, SampleRun};
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = handler(dir.path(), 86_400_000);
    let mapping: Mapping = toml::from_str("types = { MOVED = 'ignore' }").unwrap();
    let policy = OrderPolicy { retention_ms: 86_400_000, ..OrderPolicy::default() };
    let handler = OrderHandler::new(ledger.clone(), mapping.clone(), policy.clone());
    let event = |kind: &str, id: &str, order: &str, store: Option<&str>, age_ms: i64| serde_json::json!({"type": kind, "id": id, "order": order, "store": store, "amount": 5, "time": now().0 - age_ms});
    let minutes = |minutes: i64| minutes * 60_000;
    let values = [
        event("order.paid", "a1", "o1", Some("1"), 0),
        event("order.paid", "a1", "o1", Some("1"), 0),
        event("order.ready", "a2", "o1", Some("2"), 0),
        event("order.paid", "b1", "o2", None, 0),
        event("order.paid", "c1", "o3", Some("1"), minutes(200)),
        event("order.paid", "d1", "o4", Some("1"), minutes(3_000)),
        event("order.paid", "e1", "o1", Some("1"), minutes(11)),
        event("order.paid", "f1", "", Some("1"), 0),
        event("order.ready", "f2", "", Some("1"), 0),
        event("MOVED", "g1", "o5", Some("1"), 0),
        event("EATEN", "g2", "o5", Some("1"), 0),
        serde_json::json!("paid"),
        event("order.cancelled", "h1", "o2", None, 0),
    ];
    let mut run = SampleRun::new(&mapping, &policy, now());
    let (mut said, mut bins): (Vec<_>, BTreeMap<Bin, i64>) = Default::default();
    for (offset, value) in values.iter().enumerate() {
        let record = Record { offset: offset as u64, ..record(value) };
        let outcome = handler.process(batch(vec![record.clone()])).await.remove(0);
        if let Outcome::Reject(reason) = &outcome {
            handler.on_dead_letter(&record, None, reason);
        }
        let (expected, more) = match run.add(&record, Some(now())) {
            SampleResult::Applied(applied) => {
                applied.done.bin_deltas.iter().for_each(|delta| *bins.entry(delta.key.bin).or_default() += delta.by);
                (Outcome::Done, applied.done.forgotten)
            }
            SampleResult::Dropped(_, bin) => (Outcome::Done, bin),
            SampleResult::Rejected(reason, bin) => (Outcome::Reject(reason), bin),
        };
        more.into_iter().for_each(|bin| *bins.entry(bin).or_default() += 1);
        said.push((outcome, expected));
    }
    for (at, (outcome, expected)) in said.iter().enumerate() {
        assert_eq!(outcome, expected, "{}", values[at]);
    }
    bins.retain(|_, count| *count != 0);
    let counted: BTreeMap<Bin, i64> = ledger.balance().counts().into_iter().fold(BTreeMap::new(), |mut all, bin| {
        *all.entry(bin.key.bin).or_default() += bin.records as i64;
        all
    });
    let counted: BTreeMap<Bin, i64> = counted.into_iter().filter(|(_, count)| *count != 0).collect();
    assert_eq!(counted, bins);
    assert!(bins.len() > 6, "{bins:?}");
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
    let dead_letters = store.dead_letters();
    let dead_letters: Vec<_> =
        dead_letters.iter().map(|dead_letter| (dead_letter.reason.code, dead_letter.record.value.as_deref())).collect();
    assert_eq!(dead_letters.len(), 2, "{dead_letters:?}");
    assert!(
        dead_letters.contains(&("unknown-type", Some(&br#"{"type":"order.eaten"}"#[..]))),
        "a dead letter is one event"
    );
    let (moved, _) =
        dead_letters.iter().map(|(code, value)| (*code, *value)).find(|(code, _)| *code != "unknown-type").unwrap();
    assert_eq!(moved, "store-mismatch", "the second event of o1 is applied after the first");
    assert_eq!(group.stats().invariant_violations.value(), 0);
    tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap();
}

/// Regression: a paid order in a snapshot without a time was in no bin of the balance.
#[tokio::test]
async fn a_paid_row_of_a_snapshot_without_a_time_is_history_in_the_balance() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = handler(dir.path(), 3_600_000);
    let mapping: Mapping = toml::from_str(
        "envelope = 'debezium'\ntype = '/status'\norder = '/no'\ntime = '/paid'\ntypes = { '2' = 'order.paid', '0' = 'order.created' }",
    )
    .unwrap();
    let policy = OrderPolicy { retention_ms: 3_600_000, ..OrderPolicy::default() };
    let handler = OrderHandler::new(ledger.clone(), mapping.clone(), policy.clone());
    let row = |offset: u64, status: u32, paid: serde_json::Value| {
        let after = serde_json::json!({"no": "o", "status": status, "paid": paid});
        let change = serde_json::json!({"op": "r", "after": after, "source": {"snapshot": "true"}});
        Record { offset, ..record(&change) }
    };
    // Too old for a notice, and older than the retention.
    let (old, older) = (now().plus_ms(-3_000_000 * 3).0.into(), now().plus_ms(-100 * 3_600_000).0.into());
    let null = serde_json::Value::Null;
    let rows =
        [row(1, 2, null.clone()), row(2, 2, "yesterday".into()), row(3, 0, null), row(4, 2, older), row(5, 2, old)];
    let done = handler.process(batch(rows.to_vec())).await;
    assert_eq!(done, vec![Outcome::Done; rows.len()]);
    let bins = ledger.balance().counts();
    assert_eq!(bins.iter().map(|bin| (bin.key.bin, bin.records)).collect::<Vec<_>>(), [(Bin::History, 4)]);
    let (mut recount, mut payments) = (Recount::new(mapping, policy, now(), (0, 1)), Payments::new());
    rows.iter().for_each(|row| recount.apply(row, true));
    recount.add_payments_to(&mut payments);
    let in_the_log: u64 = payments.values().map(|count| count.finished).sum();
    assert_eq!(in_the_log, 4, "the log says the same");
    assert_eq!(handler.stats().rejected.lock().unwrap().get(UNDATED_ROW), Some(&3));
    assert!(handler.stats().clocks_off(now()).is_empty());
}

/// Regression: a clock that was off by no multiple of half an hour was an alert, and the orders of its source notified nobody.
#[tokio::test]
async fn the_orders_of_a_clock_that_is_off_by_a_constant_notify_their_store_once_it_is_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 72 * 3_600_000);
    let behind_ms = (5 * 60 + 7) * 60_000;
    let paid = |offset: u64, seconds: i64, behind_ms: i64| {
        let at = now().plus_ms(seconds * 1000);
        let time = at.plus_ms(-behind_ms).0;
        let value =
            serde_json::json!({"type": "order.paid", "order": format!("o{offset}"), "store": "1", "time": time});
        Record { offset, timestamp_ms: at.0, ..record(&value) }
    };
    let orders = [0, 5, 10, 15, 20, 30].map(|seconds| (seconds, behind_ms));
    let orders = orders.into_iter().chain([(31, 3 * 3_600_000 + 77_000)]).zip(0..);
    let orders = orders.map(|((seconds, behind), offset)| paid(offset, seconds, behind));
    assert_eq!(handler.process(batch(orders.collect())).await, vec![Outcome::Done; 7]);
    assert_eq!(bins(&ledger), [(Bin::Notified, 2), (Bin::TooOld, 5)], "four before it was proven, and one that is old");
    let off = handler.stats().clocks_off(now());
    assert!(off.len() == 1 && off[0].source == "orders" && off[0].offset_ms == -behind_ms, "{off:?}");
}

/// The bug: a ledger that replaced a lost one took orders that were paid in an outage for history, and nothing was red.
#[tokio::test]
async fn an_order_that_was_paid_in_an_outage_is_no_history_to_a_ledger_that_replaces_a_lost_one() {
    use orderbell_consumers::{Begin, Checkpoint, sim};
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 72 * 3_600_000);
    let (partition, checkpoint) = (TopicPartition::new("orders", 0), Checkpoint { next: 0, last: None });
    let begin = Begin { partition, checkpoint, is_new: true, loss: None, handled_before: Some(1), skip_to: None };
    sim::begin(&*ledger, "cluster", vec![begin]);
    let at = now().plus_ms(-5 * 3_600_000).0;
    let paid = |offset: u64| Record {
        offset,
        timestamp_ms: at,
        ..record(&serde_json::json!({"type": "order.paid", "order": format!("o{offset}"), "store": "1", "time": at}))
    };
    assert_eq!(handler.process(batch(vec![paid(0), paid(1)])).await, [Outcome::Done, Outcome::Done]);
    let bins = ledger.balance().counts();
    let bins: Vec<_> = bins.iter().map(|bin| (bin.key.bin, bin.newest.offset, bin.key.bin.needs_a_person())).collect();
    assert_eq!(bins, [(Bin::TooOld, 1, true), (Bin::History, 0, false)]);
}
