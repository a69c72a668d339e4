//! The ledger behind the traits of `orderbell_consumers`: checkpoints are kept beside the state that they belong to, and dead letters that
//! no topic takes are stored here.

use orderbell_consumers::{
    Begin, Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterError, DeadLetterSink,
    DurableCheckpoints, Offset, TopicPartition,
};

use super::Ledger;
use super::committer::{self, Work};
use super::dead_letters::StoredDeadLetter;

impl CheckpointStore for Ledger {
    fn load(&self, cluster: &str, parts: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        let stored = self.checkpoints().of(cluster, parts).map_err(CheckpointError::new)?;
        Ok(stored.into_iter().map(|stored| stored.map(|(checkpoint, _)| checkpoint)).collect())
    }

    fn save(&self, cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        if let Ok(work) = self.sender() {
            // The poll thread waits here when the committer's queue is full: that is backpressure, bounded by one fsync.
            let passed = self.bins.pass(&at);
            let _closed = work.send(Work::Checkpoints(cluster.to_owned(), at, passed, durable));
        }
    }

    fn begin(&self, cluster: &str, partitions: Vec<Begin>, durable: flume::Sender<DurableCheckpoints>) {
        if let Ok(work) = self.sender() {
            let unread = self.bins.begin(&partitions);
            let _closed = work.send(Work::Begin(cluster.to_owned(), partitions, unread, durable));
        }
    }

    fn used_skip(&self, cluster: &str, part: &TopicPartition) -> Result<Option<Offset>, CheckpointError> {
        self.checkpoints().used_skip(cluster, part).map_err(CheckpointError::new)
    }

    fn has_topic(&self, cluster: &str, topic: &str) -> Result<bool, CheckpointError> {
        self.checkpoints().has_topic(cluster, topic).map_err(CheckpointError::new)
    }
}

impl DeadLetterSink for Ledger {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        let row = StoredDeadLetter::of(&dead_letter, committer::now()).encode();
        self.submit(|reply| Work::DeadLetter(row, reply)).await.map_err(DeadLetterError::new)
    }
}
