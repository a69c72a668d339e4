//! What the log lost: records that Orderbell never read and never will. Each stays, and with it its alert, until an operator acknowledges it.
//!
//! ```text
//!   a partition begins above its old checkpoint: new checkpoint + loss --one batch--> row --> Ledger::losses --> alert
//!   an operator acknowledges it:                                        row removed, durable --> alert cleared
//! ```
//!
//! Refused: a loss that ends by itself. Within seconds the partition is read to its end, and nothing else would say that orders are missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orderbell_consumers::{AlertKind, Loss, TopicPartition};
use orderbell_protocol::UnixMs;

use super::committer::Work;
use super::disk::{DatabaseError, View};
use super::tables::RowKind;
use super::{Ledger, LedgerFailed, keys};

/// A loss that nobody has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLoss {
    /// The partition that lost records.
    pub partition: TopicPartition,
    /// What it lost; of several losses of one kind, the sum of the offsets.
    pub loss: Loss,
    /// When the first of them was found. Milliseconds since 1970.
    pub since: UnixMs,
}

impl StoredLoss {
    pub(crate) fn key(&self) -> Vec<u8> {
        keys::loss(self.loss.kind(), &self.partition)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.loss.offsets().to_be_bytes(), self.since.0.to_be_bytes()].concat()
    }

    fn decode(key: &[u8], row: &[u8]) -> Option<Self> {
        let (kind, partition) = keys::lost_partition(key)?;
        let (offsets, since) = row.split_first_chunk::<8>()?;
        let loss = Loss::new(kind, u64::from_be_bytes(*offsets))?;
        Some(Self { partition, loss, since: UnixMs(i64::from_be_bytes(since.try_into().ok()?)) })
    }
}

/// The losses that are durable, by kind and partition. The committer changes them, everybody else reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses(Arc<Mutex<BTreeMap<(AlertKind, TopicPartition), StoredLoss>>>);

impl Losses {
    /// Those that the ledger holds. One that does not decode stays there unseen, with an alert of its own, until the same partition loses more.
    pub(crate) fn load(view: &View<'_>) -> Result<Self, DatabaseError> {
        let losses = Self::default();
        for loss in view.all_of(RowKind::Loss, "a loss", StoredLoss::decode) {
            losses.insert(loss?);
        }
        Ok(losses)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(AlertKind, TopicPartition), StoredLoss>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new loss, with what is stored of its kind and partition already.
    pub(crate) fn add_to_stored(&self, partition: TopicPartition, loss: Loss, now: UnixMs) -> StoredLoss {
        let kind = loss.kind();
        let Some(earlier) = self.lock().get(&(kind, partition.clone())).cloned() else {
            return StoredLoss { partition, loss, since: now };
        };
        let sum = earlier.loss.offsets().saturating_add(loss.offsets());
        StoredLoss { loss: Loss::new(kind, sum).unwrap_or(loss), ..earlier }
    }

    pub(crate) fn insert(&self, stored: StoredLoss) {
        self.lock().insert((stored.loss.kind(), stored.partition.clone()), stored);
    }

    pub(crate) fn holds(&self, stored: &StoredLoss) -> bool {
        self.lock().get(&(stored.loss.kind(), stored.partition.clone())) == Some(stored)
    }

    pub(crate) fn remove(&self, stored: &StoredLoss) {
        self.lock().remove(&(stored.loss.kind(), stored.partition.clone()));
    }

    pub(crate) fn all(&self) -> Vec<StoredLoss> {
        self.lock().values().cloned().collect()
    }
}

impl Ledger {
    /// The losses that nobody has acknowledged, by kind and partition.
    #[must_use]
    pub fn losses(&self) -> Vec<StoredLoss> {
        self.losses.all()
    }

    /// Forgets these losses, and returns when that is durable. One that has grown since it was read stays.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn acknowledge_losses(&self, losses: Vec<StoredLoss>) -> Result<(), LedgerFailed> {
        self.submit(|reply| Work::LossesAcknowledged(losses, reply)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn stored(loss: Loss) -> StoredLoss {
        StoredLoss { partition: TopicPartition::new("orders", 3), loss, since: NOW }
    }

    #[test]
    fn a_loss_survives_storing() {
        for loss in [Loss::RetentionGap { missing: 7 }, Loss::Truncated { beyond: 1 }, Loss::Recreated] {
            let stored = stored(loss);
            assert_eq!(StoredLoss::decode(&stored.key(), &stored.encode()), Some(stored.clone()));
            assert_eq!(StoredLoss::decode(&stored.key(), &stored.encode()[1..]), None);
        }
    }

    #[test]
    fn a_second_loss_adds_to_the_first_and_keeps_its_begin() {
        let losses = Losses::default();
        let part = TopicPartition::new("orders", 3);
        losses.insert(losses.add_to_stored(part.clone(), Loss::RetentionGap { missing: 3 }, NOW));
        let second = losses.add_to_stored(part.clone(), Loss::RetentionGap { missing: 5 }, NOW.plus_ms(1000));
        assert_eq!(second, stored(Loss::RetentionGap { missing: 8 }));
        // Another kind is another loss.
        let other = losses.add_to_stored(part, Loss::Recreated, NOW.plus_ms(1000));
        assert_eq!(other.since, NOW.plus_ms(1000));
        losses.insert(other.clone());
        losses.remove(&second);
        assert_eq!(losses.all(), [other]);
    }
}
