//! Which log of a partition its records are of: a topic that was created again, or has the same name in another cluster, begins at offset 0 once more.
//!
//! ```text
//!   a partition begins: checkpoint row --> number        the log is another one: loss + new checkpoint --one batch--> highest number + 1
//! ```
//!
//! Orders remember the offsets of their records that were counted, and offsets of two logs are not compared: they remember the number as well. It is
//! part of the checkpoint's row, so it is as durable as what it is about. Two logs of one partition never have the same number, whatever their
//! clusters. Where brokers lost data, the log is read again from its beginning under a new number: better counted twice than not at all.
//!
//! Refused: the id that Kafka gives a topic. Clients of librdkafka do not get it with the records, and older brokers have none.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use orderbell_consumers::TopicPartition;

use super::Ledger;
use super::disk::{DatabaseError, View};
use super::tables::RowKind;
use super::{checkpoints, keys};

/// The numbers of the logs that are read, and of those that were.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogNumbers(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the log that a partition is read from. 0, that of nearly every partition, is left out.
    current: HashMap<TopicPartition, u64>,
    /// The highest that a log of the partition has, in any cluster.
    highest: HashMap<TopicPartition, u64>,
}

impl LogNumbers {
    /// Those of all checkpoints, whatever their cluster.
    pub(crate) fn load(view: &View<'_>) -> Result<Self, DatabaseError> {
        let mut inner = Inner::default();
        let numbered =
            |key: &[u8], row: &[u8]| keys::checkpointed_partition(key).zip(checkpoints::decode_log_number(row));
        for checkpoint in view.all_of(RowKind::Checkpoint, "a checkpoint", numbered) {
            let (partition, number) = checkpoint?;
            inner.raise(partition, number);
        }
        Ok(Self(Arc::new(RwLock::new(inner))))
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self, partition: &TopicPartition) -> u64 {
        self.read().current.get(partition).copied().unwrap_or_default()
    }

    /// A partition begins, whose checkpoint in this cluster has that number, with another log or not; one that has none there is of a log that was
    /// never read. Returns the number with which its checkpoints are written. It begins with another log only when no record of the earlier one is in
    /// flight, and the poll thread waits for the begin to be durable: so each record is applied under the number of its own log.
    pub(crate) fn begin(&self, partition: &TopicPartition, stored: Option<u64>, is_another_log: bool) -> u64 {
        let mut inner = self.write();
        let highest = inner.highest.get(partition).copied();
        let number = match stored {
            Some(stored) if is_another_log => highest.unwrap_or_default().max(stored) + 1,
            Some(stored) => stored,
            None => highest.map_or(0, |highest| highest + 1),
        };
        inner.set(partition, number);
        inner.raise(partition.clone(), number);
        number
    }
}

impl Inner {
    fn set(&mut self, partition: &TopicPartition, number: u64) {
        match number {
            0 => drop(self.current.remove(partition)),
            _ => drop(self.current.insert(partition.clone(), number)),
        }
    }

    fn raise(&mut self, partition: TopicPartition, number: u64) {
        let highest = self.highest.entry(partition).or_default();
        *highest = number.max(*highest);
    }
}

impl Ledger {
    /// The number of the log that a partition is read from: another one where its topic was created again, or is that of another cluster.
    #[must_use]
    pub fn log_number(&self, partition: &TopicPartition) -> u64 {
        self.log_numbers.current(partition)
    }
}
