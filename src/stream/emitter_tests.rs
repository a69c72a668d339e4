use super::*;
use crate::ledger::{Bell, Emit, Incoming, LedgerOptions, NoBoard};
use orderbell_protocol::Recipient;

struct Silence;

impl Bell for Silence {
    fn ring(&self, _who: &[Recipient]) {}
}

/// An output topic that fails as it is told.
#[derive(Default)]
struct Topic {
    has: Mutex<Vec<String>>,
    /// Sends that fail, by value, and how often.
    fails: Mutex<Vec<(&'static str, u32)>>,
    refuses: Mutex<Vec<&'static str>>,
    /// Sends that get no answer, until let go.
    hangs: Mutex<Vec<&'static str>>,
}

impl Sink for Topic {
    async fn send(&self, record: &orderbell_consumers::OutRecord) -> Result<(), SinkError> {
        let value = String::from_utf8_lossy(&record.value).into_owned();
        tokio::task::yield_now().await;
        while self.hangs.lock().unwrap().contains(&value.as_str()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.refuses.lock().unwrap().contains(&value.as_str()) {
            return Err(SinkError::Refused("too large".into()));
        }
        let mut fails = self.fails.lock().unwrap();
        if let Some((_, left)) = fails.iter_mut().find(|(which, left)| *which == value && *left > 0) {
            *left -= 1;
            return Err(SinkError::Passing("away".into()));
        }
        self.has.lock().unwrap().push(value);
        Ok(())
    }
}

fn open(dir: &std::path::Path) -> Arc<Ledger> {
    let options = LedgerOptions {
        state_retention_ms: 3_600_000,
        mailbox_rows_max: 1000,
        free_space_min: 0,
        trail_ms: 3_600_000,
        emit: Emit::Outbox,
        went_back: false,
    };
    Arc::new(Ledger::open(dir, options, Arc::new(Silence), Arc::new(NoBoard), |error| panic!("{error}")).unwrap())
}

fn event(order: &str, value: &'static str) -> Incoming {
    Incoming {
        key: order.to_owned().into(),
        id_hash: xxhash_rust::xxh3::xxh3_128(value.as_bytes()),
        body_hash: 1,
        value: value.into(),
        content_type: "application/json".into(),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_order_keeps_its_order_whatever_fails_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stats, stop) =
        (open(dir.path()), Arc::<Topic>::default(), Arc::default(), CancellationToken::new());
    *topic.fails.lock().unwrap() = vec![("a1", 2), ("a3", 1)];
    *topic.refuses.lock().unwrap() = vec!["c1"];
    let rows = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"), ("a", "a3"), ("c", "c2"), ("b", "b2")];
    ledger.append(rows.map(|(order, value)| event(order, value)).to_vec()).await.unwrap();
    // The same event again is not emitted again.
    ledger.append(vec![event("b", "b1")]).await.unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    let emitting = tasks.spawn(emit(ledger.clone(), topic.clone(), "out".into(), Arc::clone(&stats), stop.clone()));
    until("the outbox is empty", || ledger.outbox(10).unwrap().is_empty()).await;
    let has = topic.has.lock().unwrap().clone();
    let of = |order: char| has.iter().filter(|value| value.starts_with(order)).cloned().collect::<Vec<_>>();
    assert_eq!(
        (of('a'), of('b'), of('c')),
        (vec!["a1".into(), "a2".into(), "a3".into()], vec!["b1".into(), "b2".into()], vec!["c2".to_owned()])
    );
    assert_eq!((stats.emitted.value(), stats.failed.value()), (6, 3));
    // What comes later is woken for.
    ledger.append(vec![event("d", "d1")]).await.unwrap();
    until("the new one is emitted", || topic.has.lock().unwrap().last().map(String::as_str) == Some("d1")).await;
    stop.cancel();
    emitting.await.unwrap();
}

#[tokio::test]
async fn what_waits_is_there_after_a_restart_and_its_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.append(vec![event("a", "a1"), event("a", "a2")]).await.unwrap();
    let first = ledger.outbox(10).unwrap();
    ledger.sent(vec![first[0].number]).await.unwrap();
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    ledger.append(vec![event("a", "a1"), event("a", "a3")]).await.unwrap();
    let waiting: Vec<_> = ledger.outbox(10).unwrap().into_iter().map(|row| (row.number, row.record.value)).collect();
    assert_eq!(waiting, [(first[1].number, "a2".into()), (first[1].number + 1, "a3".into())]);
}

/// The bug: a partition that took nothing held up the answers of all tills, a minute a round.
#[tokio::test]
async fn an_event_without_an_answer_holds_up_its_own_order_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stats, stop) =
        (open(dir.path()), Arc::<Topic>::default(), Arc::default(), CancellationToken::new());
    *topic.hangs.lock().unwrap() = vec!["a1"];
    let tasks = tokio_util::task::TaskTracker::new();
    let emitting = tasks.spawn(emit(ledger.clone(), topic.clone(), "out".into(), Arc::clone(&stats), stop.clone()));
    ledger.append(vec![event("a", "a1"), event("a", "a2"), event("b", "b1")]).await.unwrap();
    until("the other is emitted", || topic.has.lock().unwrap().as_slice() == ["b1"]).await;
    ledger.append(vec![event("b", "b2"), event("c", "c1")]).await.unwrap();
    until("later ones, too", || topic.has.lock().unwrap().len() == 3).await;
    until("they need not wait any more", || ledger.outbox(10).unwrap().len() == 2).await;
    topic.hangs.lock().unwrap().clear();
    until("the outbox is empty", || ledger.outbox(10).unwrap().is_empty()).await;
    let has = topic.has.lock().unwrap().clone();
    assert_eq!(has.iter().filter(|value| value.starts_with('a')).collect::<Vec<_>>(), ["a1", "a2"]);
    assert_eq!(has.len(), 5, "each once: {has:?}");
    stop.cancel();
    emitting.await.unwrap();
}
