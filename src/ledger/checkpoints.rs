//! Checkpoints: up to where each partition has been consumed, by cluster and partition, written in the batch of the state that they describe.

use orderbell_consumers::{Checkpoint, Offset, TopicPartition};

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
    ///
    /// Beside each is the number of its log: see [`super::log_numbers`].
    pub(super) fn of(
        self,
        cluster: &str,
        parts: &[TopicPartition],
    ) -> Result<Vec<Option<(Checkpoint, u64)>>, DatabaseError> {
        let view = self.0.view();
        let decode = |row: &[u8]| decode(row).zip(decode_log_number(row));
        let read = |part| {
            let stored = view.decoded(Table::Meta, &keys::checkpoint(cluster, part), "a checkpoint", decode);
            Ok(view.pass_over(stored)?.flatten())
        };
        parts.iter().map(read).collect()
    }

    /// The skip that the last begin of a partition had. One that does not decode counts as none.
    pub(super) fn used_skip(self, cluster: &str, part: &TopicPartition) -> Result<Option<Offset>, DatabaseError> {
        let view = self.0.view();
        let decode = |row: &[u8]| row.try_into().ok().map(u64::from_be_bytes);
        let stored = view.decoded(Table::Meta, &keys::used_skip(cluster, part), "a used skip", decode);
        Ok(view.pass_over(stored)?.flatten())
    }

    /// True when one was saved for any partition of a topic.
    pub(super) fn has_topic(self, cluster: &str, topic: &str) -> Result<bool, DatabaseError> {
        let prefix = keys::checkpoints_of_topic(cluster, topic);
        let first = self.0.view().rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).next();
        Ok(first.transpose()?.is_some())
    }
}

/// The row of a checkpoint in the log with this number. The first log's is left out.
pub(super) fn encode(checkpoint: Checkpoint, log_number: u64) -> Vec<u8> {
    let mut row = checkpoint.next.to_be_bytes().to_vec();
    if let Some((offset, fingerprint)) = checkpoint.last {
        row.extend(offset.to_be_bytes());
        row.extend(fingerprint.to_be_bytes());
    }
    if log_number > 0 {
        row.extend(log_number.to_be_bytes());
    }
    row
}

pub(super) fn decode(row: &[u8]) -> Option<Checkpoint> {
    let last = |offset: &[u8; 8], fingerprint: &[u8; 8]| Some((number(offset), number(fingerprint)));
    match row.as_chunks::<8>() {
        ([next] | [next, _], []) => Some(Checkpoint { next: number(next), last: None }),
        ([next, offset, fingerprint] | [next, offset, fingerprint, _], []) => {
            Some(Checkpoint { next: number(next), last: last(offset, fingerprint) })
        }
        _ => None,
    }
}

pub(super) fn decode_log_number(row: &[u8]) -> Option<u64> {
    match row.as_chunks::<8>() {
        ([_] | [_, _, _], []) => Some(0),
        ([_, log] | [_, _, _, log], []) => Some(number(log)),
        _ => None,
    }
}

fn number(bytes: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*bytes)
}
