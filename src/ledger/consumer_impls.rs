//! The ledger behind the traits of `orderbell_consumers`: checkpoints are kept beside the state that they belong to, and dead letters that
//! no topic takes are stored here.

use orderbell_consumers::{
    Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterError, DeadLetterSink, DurableCheckpoints,
    TopicPartition,
};

use super::committer::{self, Work};
use super::dead_letters::StoredDeadLetter;
use super::disk::Table;
use super::{Ledger, keys, parse_checkpoint};

impl CheckpointStore for Ledger {
    fn load(&self, cluster: &str, parts: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        let view = self.disk.view();
        let load = |part| {
            view.decoded(Table::Meta, &keys::checkpoint(cluster, part), "a checkpoint", parse_checkpoint)
                .map_err(CheckpointError::new)
        };
        parts.iter().map(load).collect()
    }

    fn save(&self, cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        if let Ok(work) = self.sender() {
            // The poll thread waits here when the committer's queue is full: that is backpressure, bounded by one fsync.
            let _closed = work.send(Work::Checkpoints(cluster.to_owned(), at, durable));
        }
    }

    fn has_topic(&self, cluster: &str, topic: &str) -> Result<bool, CheckpointError> {
        let prefix = keys::checkpoints_of_topic(cluster, topic);
        let view = self.disk.view();
        let first = view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).next();
        Ok(first.transpose().map_err(CheckpointError::new)?.is_some())
    }
}

impl DeadLetterSink for Ledger {
    async fn write(&self, letter: DeadLetter) -> Result<(), DeadLetterError> {
        let stored = StoredDeadLetter::of(&letter, committer::now());
        let row = serde_json::to_vec(&stored).map_err(DeadLetterError::new)?;
        self.submit(|reply| Work::DeadLetter(row, reply)).await.map_err(DeadLetterError::new)
    }
}
