use super::*;
use crate::ledger::{Bell, Emit, LedgerOptions, NoBoard};
use orderbell_protocol::{Id, Recipient};

struct Silence;

impl Bell for Silence {
    fn ring(&self, _who: &[Recipient]) {}
}

fn record(value: &serde_json::Value) -> Record {
    Record {
        part: Part::new("orders", 0),
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
                mailbox_rows_max: 1000,
                free_space_min: 0,
                trail_ms: 3_600_000,
                emit: Emit::Stream,
                went_back: false,
            },
            Arc::new(Silence),
            Arc::new(NoBoard),
            |error| panic!("{error}"),
        )
        .unwrap(),
    );
    (ledger.clone(), OrderHandler::new(ledger, Mapping::default(), LifeRules { retention_ms, ..LifeRules::default() }))
}

fn turn(records: Vec<Record>) -> Turn {
    Turn { records: Arc::new(records), attempts: 0 }
}

#[tokio::test]
async fn an_order_is_forgotten_after_its_retention_and_not_before() {
    const RETENTION_MS: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), RETENTION_MS);
    let (old, young) = (now().plus_ms(-RETENTION_MS + 40), now());
    let paid = |order: &str, at: UnixMs| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": "1", "time": at.0}))
    };
    let done = handler.turn(turn(vec![paid("old", old), paid("young", young)])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    let key = |id: &str| OrderKey { shadow: false, id: Id::new(id).unwrap() };
    while now() <= old.plus_ms(RETENTION_MS) {
        tokio::task::yield_now().await;
    }
    // Far in the future both looks are due; only the old order's retention is over.
    let due = ledger.due(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    assert_eq!(due.len(), 2);
    let looks = due.iter().map(|(at, order)| OrderHandler::sweep_record(*at, order)).collect();
    handler.turn(turn(looks)).await;
    assert!(ledger.order(&key("old")).unwrap().is_none());
    assert!(ledger.order(&key("young")).unwrap().is_some());
    let due = ledger.due(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    assert_eq!(due, [(young.plus_ms(RETENTION_MS), key("young"))], "the young one is looked at again");
    // What came before the forgotten order's mailbox is gone is told: 410 for a position below the floor.
    let who = Recipient::store(Id::new("1").unwrap());
    let (standing, head) = ledger.standing(&who, &Id::new("d").unwrap()).unwrap();
    assert_eq!((standing.acked.seq, head.seq), (1, 2));
    let before = orderbell_protocol::Position::start(ledger.epoch());
    let gone = ledger.read(&who, before, before, 9, now());
    assert_eq!(gone, Err(orderbell_protocol::ReadError::Gone));
}

#[tokio::test]
async fn what_stood_before_a_bad_record_is_written_and_what_follows_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid = |order: &str, store: &str| {
        record(&serde_json::json!({"type": "order.paid", "order": order, "store": store, "id": store}))
    };
    let done = handler.turn(turn(vec![paid("o", "1"), paid("o", "2"), paid("o", "1")])).await;
    assert!(
        matches!(&done[..], [Outcome::Done, Outcome::Reject(reason)] if reason.code == "store-mismatch"),
        "{done:?}"
    );
    assert!(ledger.order(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_some());
}

#[tokio::test]
async fn load_test_traffic_and_real_traffic_never_meet() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), 3_600_000);
    let paid =
        |shadow: bool| record(&serde_json::json!({"type": "order.paid", "order": "o", "store": "1", "shadow": shadow}));
    assert_eq!(handler.turn(turn(vec![paid(true)])).await, [Outcome::Done]);
    let real = Recipient::store(Id::new("1").unwrap());
    let shadow = Recipient { shadow: true, ..real.clone() };
    let heads = |who: &Recipient| ledger.standing(who, &Id::new("d").unwrap()).unwrap().1.seq;
    assert_eq!((heads(&real), heads(&shadow)), (0, 1));
    assert!(ledger.order(&OrderKey { shadow: false, id: Id::new("o").unwrap() }).unwrap().is_none());
}

/// The bug: an order that a sweep of the same turn had just given up, and that an event brought back, was never looked at again.
#[tokio::test]
async fn an_order_that_comes_back_in_the_turn_of_its_sweep_is_looked_at_again() {
    const RETENTION_MS: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handler) = handler(dir.path(), RETENTION_MS);
    let old = now().plus_ms(-RETENTION_MS + 40);
    let event = |kind: &str, at: UnixMs| {
        record(&serde_json::json!({"type": kind, "order": "o", "store": "1", "time": at.0, "id": kind}))
    };
    handler.turn(turn(vec![event("order.paid", old)])).await;
    while now() <= old.plus_ms(RETENTION_MS) {
        tokio::task::yield_now().await;
    }
    let key = OrderKey { shadow: false, id: Id::new("o").unwrap() };
    let looks = || ledger.due(now().plus_ms(RETENTION_MS * 2), 10).unwrap();
    let sweep = || OrderHandler::sweep_record(looks()[0].0, &key);
    let heard = now();
    let done = handler.turn(turn(vec![sweep(), event("order.ready", heard)])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    assert!(ledger.order(&key).unwrap().is_some(), "it lives on");
    let listed = ledger.open_orders(&Recipient::store(Id::new("1").unwrap()), None, 10).unwrap().orders;
    assert_eq!(listed.len(), 1, "and is among the open ones");
    assert_eq!(looks(), [(heard.plus_ms(RETENTION_MS), key.clone())], "and is looked at again, once");
    // The other way round: the event first, then the sweep, which is too early now.
    let done = handler.turn(turn(vec![event("order.picked_up", heard), sweep()])).await;
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
    assert_eq!(looks(), [(heard.plus_ms(RETENTION_MS), key.clone())]);
    assert!(ledger.order(&key).unwrap().is_some());
}
