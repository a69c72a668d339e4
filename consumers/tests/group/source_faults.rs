//! A source that panics, and one that cannot take a record whole.

use std::sync::Arc;
use std::time::Duration;

use orderbell_consumers::{Group, PartitionOffsets, Polled, Reason, Source, SourceError, TopicPartition, sim};

use super::{Scripted, quick, until};

/// A log whose source panics at the record `panic`, as a client library may, and does not take the record `huge` whole.
struct PanickingSource(sim::LogSource);

impl Source for PanickingSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        self.0.poll(max, wait, out)?;
        let is_panic =
            |polled: &Polled| matches!(polled, Polled::Record(record) if record.value.as_deref() == Some(b"panic"));
        assert!(!out.iter().any(is_panic), "the test asked for it");
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
    let group = Group::start(PanickingSource(log.source()), handler.clone(), store.clone(), store.clone(), &quick());
    for value in ["ok", "huge", "ok"] {
        log.append(0, "k", value);
    }
    until("all are finished", || store.checkpoint("t", 0) == 3).await;
    assert_eq!(handler.handled.lock().unwrap()["k"], [(0, 0), (0, 2)]);
    assert_eq!(*handler.dead_letters.lock().unwrap(), [(1, "too-large")]);
    assert_eq!((group.stats().dead_lettered.value(), group.stats().invariant_violations.value()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_poll_thread_ends_the_group_with_an_error_that_names_the_places() {
    let (log, store) = (sim::Log::new("t", 2), Arc::<sim::MemoryStore>::default());
    let source = PanickingSource(log.source());
    let group = Group::start(source, Arc::<Scripted>::default(), store.clone(), store.clone(), &quick());
    log.append(1, "k", "ok");
    until("it reads", || store.checkpoint("t", 1) == 1).await;
    log.append(1, "k", "panic");
    until("it ends", || !group.is_running()).await;
    let error = tokio::task::spawn_blocking(|| group.stop()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the test asked for it") && error.contains("t/0@0, t/1@2"), "{error}");
}
