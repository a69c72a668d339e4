//! A checkpoint store for handlers without durable state: the group's committed offset on Kafka is all there is.
//!
//! Where a handler has a state on disk, its checkpoint belongs beside it: both are durable together, or neither is. A handler without one (it
//! calls another system, it counts in memory) has no such place, and its work is done when it says so. Then the offset may live with the
//! log: nothing has to be made durable first, so a save is answered at once, and the source stores the offset with the group.
//!
//! It is used with [`ResumeFrom::CommittedOffset`](crate::ResumeFrom::CommittedOffset). With the other one, every start would be a first
//! start.
//!
//! The offset reaches Kafka up to `auto.commit.interval.ms` after the save, or after the partition was assigned. Until the first one does,
//! a partition starts by time, as on a first start.

use crate::error::CheckpointError;
use crate::record::TopicPartition;
use crate::traits::{Checkpoint, CheckpointStore, DurableCheckpoints};

/// Keeps no checkpoints: the group's committed offsets on Kafka take their place.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupOffsets;

impl CheckpointStore for GroupOffsets {
    fn load(&self, _cluster: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, CheckpointError> {
        Ok(vec![None; partitions.len()])
    }

    fn save(&self, _cluster: &str, at: Vec<(TopicPartition, Checkpoint)>, durable: flume::Sender<DurableCheckpoints>) {
        // Never waits: the caller is the one who empties this channel, and it saves again only what was answered.
        let _full_or_gone = durable.try_send(at);
    }

    fn has_topic(&self, _cluster: &str, _topic: &str) -> Result<bool, CheckpointError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_answered_at_once_and_keeps_nothing() {
        let (tx, rx) = flume::bounded(1);
        let at = vec![(TopicPartition::new("readings", 3), Checkpoint { next: 8, last: None })];
        GroupOffsets.save("cluster", at.clone(), tx);
        assert_eq!(rx.try_recv().unwrap(), at);
        assert_eq!(GroupOffsets.load("cluster", &[TopicPartition::new("readings", 3)]).unwrap(), [None]);
        assert!(!GroupOffsets.has_topic("cluster", "readings").unwrap());
    }
}
