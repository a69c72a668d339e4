//! What is history to a ledger: what was handled before it began, by another one that is lost, or newer than this copy.
//!
//! On Kafka the consumer group's committed offset says where it ends, exactly: what is above it was handled by nobody, however long ago it was recorded. An
//! outage may have been long, and its orders are waited for. It is stored, since the group's offset goes on. Where the group has no offset, as at a
//! first start, and in the embedded log, history is what was recorded before the ledger began.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use orderbell_consumers::{Record, TopicPartition};

use super::disk::{DatabaseError, Disk, Table};
use super::{Ledger, keys};

/// Where history ends, by partition of the cluster that is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistoryEnds(Arc<RwLock<HashMap<TopicPartition, u64>>>);

impl HistoryEnds {
    fn get(&self, partition: &TopicPartition) -> Option<u64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(partition).copied()
    }

    /// Sets the end of a partition's history, or removes it.
    pub(crate) fn set(&self, partition: &TopicPartition, end: Option<u64>) {
        let mut ends = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match end {
            Some(end) => drop(ends.insert(partition.clone(), end)),
            None => drop(ends.remove(partition)),
        }
    }

    /// Takes those of partitions that start. One that does not decode counts as none.
    pub(crate) fn load(&self, disk: &Disk, cluster: &str, parts: &[TopicPartition]) -> Result<(), DatabaseError> {
        let view = disk.view();
        for part in parts {
            let number = |row: &[u8]| row.try_into().ok().map(u64::from_be_bytes);
            let stored = view.decoded(Table::Meta, &keys::history_end(cluster, part), "an end of history", number);
            self.set(part, view.pass_over(stored)?.flatten());
        }
        Ok(())
    }
}

impl Ledger {
    /// True for a record that was handled before this ledger began.
    #[must_use]
    pub fn is_history(&self, record: &Record) -> bool {
        match self.history_ends.get(&record.partition) {
            Some(end) => record.offset < end,
            None => (1..self.began_at().0).contains(&record.timestamp_ms),
        }
    }
}
