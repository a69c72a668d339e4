//! A source that panics, one that cannot take a record whole, and one that fails and closes only later.

use std::sync::Arc;
use std::time::Duration;

use orderbell_consumers::{Group, PartitionOffsets, Polled, Reason, Source, SourceError, TopicPartition, sim};

use super::{Scripted, quick, until};

/// A log whose source panics at the record `panic`, as a client library may, and does not take the record `huge` whole.
/// At the record `fatal` it fails for good, and closes only when it may. At the record `forgotten` it does not deliver the partition any more.
struct PanickingSource(sim::LogSource, Option<flume::Receiver<()>>);

impl Drop for PanickingSource {
    fn drop(&mut self) {
        let _may_close = self.1.as_ref().map(flume::Receiver::recv);
    }
}

impl Source for PanickingSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        self.0.poll(max, wait, out)?;
        let is_there = |value: &[u8]| {
            out.iter().any(|polled| matches!(polled, Polled::Record(record) if record.value.as_deref() == Some(value)))
        };
        assert!(!is_there(b"panic"), "the test asked for it");
        if is_there(b"fatal") {
            return Err(SourceError::fatal("poll", "the test asked for it"));
        }
        if is_there(b"forgotten")
            && let Some(Polled::Record(last)) = out.last()
        {
            let (partition, start) = (last.partition.clone(), last.offset + 1);
            self.0.unassign(std::slice::from_ref(&partition))?;
            let offsets = PartitionOffsets { start, end: u64::MAX, by_time: start, committed: None };
            out.push(Polled::OutOfRange(partition, offsets));
        }
        for polled in out {
            if let Polled::Record(record) = polled
                && record.value.as_deref() == Some(b"huge")
            {
                *polled = Polled::Rejected(record.clone(), Reason { code: "too-large", message: "cut".into() });
            }
        }
        Ok(())
    }

    fn offsets(&mut self, partitions: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>> {
        self.0.offsets(partitions, since_ms)
    }

    fn assign(&mut self, at: &[(TopicPartition, u64)]) -> Result<(), SourceError> {
        self.0.assign(at)
    }

    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.0.unassign(partitions)
    }

    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<(), SourceError> {
        self.0.pause(partitions, paused)
    }

    fn checkpointed(&mut self, at: &[(TopicPartition, u64)]) {
        self.0.checkpointed(at);
    }

    fn cluster(&self) -> String {
        self.0.cluster()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_cannot_take_whole_is_a_dead_letter_and_its_key_goes_on() {
    let (log, store) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default());
    let handler = Arc::<Scripted>::default();
    let group =
        Group::start(PanickingSource(log.source(), None), handler.clone(), store.clone(), store.clone(), &quick());
    for value in ["ok", "huge", "ok"] {
        log.append(0, "k", value);
    }
    until("all are finished", || store.checkpoint("t", 0) == 3).await;
    assert_eq!(handler.handled.lock().unwrap()["k"], [(0, 0), (0, 2)]);
    assert_eq!(*handler.dead_letters.lock().unwrap(), [(1, "too-large")]);
    assert_eq!((group.stats().dead_lettered.value(), group.stats().invariant_violations.value()), (1, 0));
}

/// A source that cannot deliver a partition any more says so without knowing what its log holds: nothing of it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_the_source_does_not_deliver_any_more_goes_on_where_it_was() {
    let (log, store) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default());
    let (handler, source) = (Arc::<Scripted>::default(), PanickingSource(log.source(), None));
    let group = Group::start(source, handler.clone(), store.clone(), store.clone(), &quick());
    log.append(0, "k", "ok");
    log.append(0, "k", "forgotten");
    until("both are finished", || store.checkpoint("t", 0) == 2).await;
    log.append(0, "k", "ok");
    until("it goes on", || store.checkpoint("t", 0) == 3).await;
    assert_eq!(handler.handled.lock().unwrap()["k"], [(0, 0), (0, 1), (0, 2)]);
    assert_eq!((store.losses(), group.stats().alerts()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_poll_thread_ends_the_group_with_an_error_that_names_the_places() {
    let (log, store) = (sim::Log::new("t", 2), Arc::<sim::MemoryStore>::default());
    let source = PanickingSource(log.source(), None);
    let group = Group::start(source, Arc::<Scripted>::default(), store.clone(), store.clone(), &quick());
    log.append(1, "k", "ok");
    until("it reads", || store.checkpoint("t", 1) == 1).await;
    log.append(1, "k", "panic");
    until("it ends", || !group.is_running()).await;
    let error = tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the test asked for it") && error.contains("t/0@0, t/1@2"), "{error}");
}

/// The bug: a client that hears of no broker waits for the timeout of its session when it is closed, and the process that should have ended with
/// exit code 70 looked alive for so long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_failed_is_known_to_have_ended_before_it_is_closed() {
    let (log, store) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default());
    let (close, may_close) = flume::bounded(1);
    let source = PanickingSource(log.source(), Some(may_close));
    let group = Group::start(source, Arc::<Scripted>::default(), store.clone(), store, &quick());
    assert!(group.is_running());
    log.append(0, "k", "fatal");
    until("it has ended", || !group.is_running()).await;
    close.send(()).unwrap();
    let ended = tokio::task::spawn_blocking(|| group.stop()).await.unwrap();
    assert!(ended.unwrap_err().to_string().contains("the test asked for it"));
}
