//! Cursors that were saved and are not durable yet. Losing them costs redeliveries.
//!
//! Every acknowledgement, hello and poll of every connection comes through here, so the map is in shards: two callers meet on a lock only
//! when their recipients share a shard.

use std::sync::{Arc, MutexGuard};

use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Recipient};

use super::devices::{Cursors, StoredCursor};
use super::sharded::Sharded;

#[derive(Default)]
pub(crate) struct PendingCursors(Sharded<Shard>);

#[derive(Default)]
struct Shard {
    waiting: Cursors,
    /// In the batch that is being written: readers see them here until the snapshot shows them.
    writing: Arc<Cursors>,
}

impl PendingCursors {
    /// Returns the highest `sent_seq` of the device that was pending.
    pub(crate) fn save(&self, who: &Recipient, device: &DeviceId, new: StoredCursor) -> u64 {
        let mut shard = self.0.lock(who);
        let key = (who.clone(), device.clone());
        let pending = [shard.waiting.get(&key), shard.writing.get(&key)];
        let sent = pending.into_iter().flatten().map(|stored| stored.cursor.sent_seq).max().unwrap_or(0);
        // A socket and a poll of one device may both save: the further one counts, within an epoch.
        let further = |old: Cursor| Cursor {
            acked: if old.acked.epoch == new.cursor.acked.epoch && old.acked.seq > new.cursor.acked.seq {
                old.acked
            } else {
                new.cursor.acked
            },
            sent_seq: old.sent_seq.max(new.cursor.sent_seq),
        };
        let slot = shard.waiting.entry(key).or_insert(new);
        *slot = StoredCursor { cursor: further(slot.cursor), is_bound: slot.is_bound || new.is_bound, ..new };
        sent
    }

    /// True when a pending cursor of this device is that of a bound one.
    pub(crate) fn is_bound(&self, who: &Recipient, device: &DeviceId) -> bool {
        let shard = self.0.lock(who);
        let key = (who.clone(), device.clone());
        [shard.waiting.get(&key), shard.writing.get(&key)].into_iter().flatten().any(|stored| stored.is_bound)
    }

    /// The newest cursor that is not durable yet.
    pub(crate) fn newest(&self, who: &Recipient, device: &DeviceId) -> Option<Cursor> {
        let shard = self.0.lock(who);
        let key = (who.clone(), device.clone());
        shard.waiting.get(&key).or_else(|| shard.writing.get(&key)).map(|stored| stored.cursor)
    }

    /// Takes what is waiting. Each lock is held for two moves.
    pub(crate) fn begin_write(&self) -> Vec<Arc<Cursors>> {
        let take = |mut shard: MutexGuard<'_, Shard>| {
            shard.writing = Arc::new(std::mem::take(&mut shard.waiting));
            shard.writing.clone()
        };
        self.0.each().map(take).filter(|cursors| !cursors.is_empty()).collect()
    }

    /// The batch of [`Self::begin_write`] is durable.
    pub(crate) fn end_write(&self) {
        for mut shard in self.0.each() {
            let written = std::mem::take(&mut shard.writing);
            drop(shard);
            // Freed without the lock.
            drop(written);
        }
    }
}
