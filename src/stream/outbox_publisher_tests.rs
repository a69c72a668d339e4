use super::*;
use orderbell_ledger::{LedgerOptions, MailboxObserver, NewEvent, NoCounterObserver, PublishTo};
use orderbell_protocol::Recipient;

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
    /// Values whose sends get no answer while they are listed.
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
        Ledger::open(dir, options, Arc::new(NoObserver), Arc::new(NoCounterObserver), |error| panic!("{error}"))
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
    }
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
    let publishing =
        tasks.spawn(publish(ledger.clone(), topic.clone(), "out".into(), Arc::clone(&stats), stop.clone()));
    until("the outbox is empty", || ledger.pending_outbox(10).unwrap().is_empty()).await;
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
    let first = ledger.pending_outbox(10).unwrap();
    ledger.outbox_delivered(vec![first[0].number]).await.unwrap();
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    ledger.append(vec![event("a", "a1"), event("a", "a3")]).await.unwrap();
    let waiting: Vec<_> =
        ledger.pending_outbox(10).unwrap().into_iter().map(|row| (row.number, row.record.value)).collect();
    assert_eq!(waiting, [(first[1].number, "a2".into()), (first[1].number + 1, "a3".into())]);
}

/// Regression: a partition that accepted nothing delayed the events of all tills, by a minute a round.
#[tokio::test]
async fn an_event_without_acknowledgement_delays_its_own_order_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, topic, stats, stop) =
        (open(dir.path()), Arc::<Topic>::default(), Arc::default(), CancellationToken::new());
    *topic.hangs.lock().unwrap() = vec!["a1"];
    let tasks = tokio_util::task::TaskTracker::new();
    let publishing =
        tasks.spawn(publish(ledger.clone(), topic.clone(), "out".into(), Arc::clone(&stats), stop.clone()));
    ledger.append(vec![event("a", "a1"), event("a", "a2"), event("b", "b1")]).await.unwrap();
    until("the other is published", || topic.records.lock().unwrap().as_slice() == ["b1"]).await;
    ledger.append(vec![event("b", "b2"), event("c", "c1")]).await.unwrap();
    until("later ones are published", || topic.records.lock().unwrap().len() == 3).await;
    until("they are deleted from the outbox", || ledger.pending_outbox(10).unwrap().len() == 2).await;
    topic.hangs.lock().unwrap().clear();
    until("the outbox is empty", || ledger.pending_outbox(10).unwrap().is_empty()).await;
    let published = topic.records.lock().unwrap().clone();
    assert_eq!(published.iter().filter(|value| value.starts_with('a')).collect::<Vec<_>>(), ["a1", "a2"]);
    assert_eq!(published.len(), 5, "each once: {published:?}");
    stop.cancel();
    publishing.await.unwrap();
}
