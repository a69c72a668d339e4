//! Checkpoints: up to where each partition has been consumed, by cluster and partition, written in the batch of the state that they describe.

use orderbell_consumers::{Checkpoint, TopicPartition};

use super::disk::{DatabaseError, Disk, DiskError, Table};
use super::keys;

/// The checkpoints of a ledger.
#[derive(Clone, Copy)]
pub struct Checkpoints<'a>(pub(super) &'a Disk);

impl Checkpoints<'_> {
    /// All that were saved for a cluster.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn of_cluster(self, cluster: &str) -> Result<Vec<(TopicPartition, Checkpoint)>, DiskError> {
        let prefix = keys::checkpoints_of_cluster(cluster);
        let mut all = Vec::new();
        for row in self.0.view().rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)) {
            let (key, row) = row?;
            let checkpoint = keys::checkpoint_part(&key[prefix.len()..]).zip(decode(&row));
            all.push(checkpoint.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "a checkpoint"))?);
        }
        Ok(all)
    }

    /// Those of some partitions, from one durable view. One that does not decode counts as none, so what the log holds is read again: that has no
    /// effect twice, and a partition that nobody reads has none at all.
    pub(super) fn of(self, cluster: &str, parts: &[TopicPartition]) -> Result<Vec<Option<Checkpoint>>, DatabaseError> {
        let view = self.0.view();
        let read = |part| {
            let stored = view.decoded(Table::Meta, &keys::checkpoint(cluster, part), "a checkpoint", decode);
            Ok(view.pass_over(stored)?.flatten())
        };
        parts.iter().map(read).collect()
    }

    /// True when one was saved for any partition of a topic.
    pub(super) fn has_topic(self, cluster: &str, topic: &str) -> Result<bool, DatabaseError> {
        let prefix = keys::checkpoints_of_topic(cluster, topic);
        let first = self.0.view().rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).next();
        Ok(first.transpose()?.is_some())
    }
}

pub(super) fn decode(row: &[u8]) -> Option<Checkpoint> {
    let (numbers, rest) = row.as_chunks::<8>();
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    match (numbers, rest) {
        ([next], []) => Some(Checkpoint { next: number(next), last: None }),
        ([next, offset, fingerprint], []) => {
            Some(Checkpoint { next: number(next), last: Some((number(offset), number(fingerprint))) })
        }
        _ => None,
    }
}
