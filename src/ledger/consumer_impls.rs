//! The ledger behind the traits of `orderbell_consumers`: checkpoints are kept beside the state that they belong to, and dead letters that
//! no topic takes are stored here.

use orderbell_consumers::{
    Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterError, DeadLetterSink, DurableCheckpoints,
    Loss, TopicPartition,
};

use super::Ledger;
use super::committer::{self, Work};
use super::dead_letters::StoredDeadLetter;

impl CheckpointStore for Ledger {
    fn load(&self, cluster: &str, parts: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        self.bin_notes.forget(parts);
        self.checkpoints().of(cluster, parts).map_err(CheckpointError::new)
    }

    fn save(&self, cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        self.save_with_losses(cluster, at, Vec::new(), durable);
    }

    fn save_with_losses(
        &self,
        cluster: &str,
        at: Vec<(TopicPartition, Checkpoint)>,
        losses: Vec<(TopicPartition, Loss)>,
        durable: flume::Sender<DurableCheckpoints>,
    ) {
        if let Ok(work) = self.sender() {
            // The poll thread waits here when the committer's queue is full: that is backpressure, bounded by one fsync.
            let passed = self.bin_notes.take_passed(&at);
            let _closed = work.send(Work::Checkpoints(cluster.to_owned(), at, losses, passed, durable));
        }
    }

    fn has_topic(&self, cluster: &str, topic: &str) -> Result<bool, CheckpointError> {
        self.checkpoints().has_topic(cluster, topic).map_err(CheckpointError::new)
    }
}

impl DeadLetterSink for Ledger {
    async fn write(&self, letter: DeadLetter) -> Result<(), DeadLetterError> {
        let stored = StoredDeadLetter::of(&letter, committer::now());
        let row = serde_json::to_vec(&stored).map_err(DeadLetterError::new)?;
        self.submit(|reply| Work::DeadLetter(row, reply)).await.map_err(DeadLetterError::new)
    }
}
