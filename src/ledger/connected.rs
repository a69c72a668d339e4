//! Which devices are connected: a durable mark for each, so that a start after a kill -9 knows who may have been sent what.
//!
//! Cursors are written lazily, so after a kill -9 a device's `sent_seq` may lie behind what the device was sent. Therefore its mark is durable
//! before the first notice goes out on a connection, and is removed with the device's last cursor when its last connection has ended. A start
//! that finds a mark lets everything that was stored until then count as sent to that device. A device that was not connected keeps its cursor
//! as it is. A poll needs no mark: it is answered when its cursor is durable ([`Devices::cursors_durable`]).
//!
//! Refused: a durable cursor before each push (one more fsync on the path of every notice), and a rule for all devices after an unclean end
//! (it would mark everything for devices that were offline).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Recipient};

use super::committer::{self, Work};
use super::devices::{Devices, StoredCursor};
use super::disk::{DatabaseError, Disk, Table};
use super::effects::LedgerFailed;
use super::keys;
use super::mailbox::Mailbox;
use super::tables::RowKind;
use super::write_batch::BatchBuilder;

type Device = (Recipient, DeviceId);

#[derive(Default)]
struct ConnectedInner {
    /// Connections of each connected device.
    open: HashMap<Device, usize>,
    /// Devices without a connection whose mark is still to be removed.
    ended: HashSet<Device>,
}

/// The connected devices. At most as many as there are connections.
#[derive(Clone, Default)]
pub(crate) struct Connected(Arc<Mutex<ConnectedInner>>);

/// One connection of a device, until it is dropped.
pub struct ConnectedDevice {
    connected: Connected,
    device: Device,
}

impl Drop for ConnectedDevice {
    fn drop(&mut self) {
        let mut inner = self.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = inner.open.get_mut(&self.device) else { return };
        *count -= 1;
        if *count == 0 {
            inner.open.remove(&self.device);
            inner.ended.insert(self.device.clone());
        }
    }
}

impl Connected {
    fn open(&self, device: Device) -> ConnectedDevice {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.ended.remove(&device);
        *inner.open.entry(device.clone()).or_default() += 1;
        drop(inner);
        ConnectedDevice { connected: self.clone(), device }
    }

    /// Adds the device's mark to a batch, unless its connection has ended meanwhile. `marked` holds the marks of this batch.
    pub(crate) fn mark(&self, device: Device, marked: &mut HashSet<Device>, batch: &mut BatchBuilder<'_>) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).open.contains_key(&device) {
            batch.put_row(RowKind::Connected, &keys::connected(&device.0, &device.1), &[]);
            marked.insert(device);
        }
    }

    /// Removes the marks of devices whose last connection has ended. Called before the pending cursors are taken: those that a connection saved
    /// before its end are in this batch, or in one before. A mark that this batch adds is left for the next.
    pub(crate) fn remove_ended(&self, marked: &HashSet<Device>, batch: &mut BatchBuilder<'_>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = std::mem::take(&mut inner.ended);
        let (later, now): (HashSet<_>, HashSet<_>) = ended.into_iter().partition(|device| marked.contains(device));
        inner.ended = later;
        drop(inner);
        now.iter().for_each(|(who, device)| batch.remove_row(RowKind::Connected, &keys::connected(who, device)));
    }
}

impl Devices<'_> {
    /// A device has a connection, as long as the result lives.
    #[must_use]
    pub fn connect(self, who: &Recipient, device: &DeviceId) -> ConnectedDevice {
        self.0.connected.open((who.clone(), device.clone()))
    }

    /// Returns when it is durable that the device is connected: from then on it may be sent notices.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn mark_connected(self, who: &Recipient, device: &DeviceId) -> Result<(), LedgerFailed> {
        let device = (who.clone(), device.clone());
        self.0.submit(|reply| Work::Connected(device, reply)).await
    }
}

/// At the start: who has a mark was connected when the process ended. Everything up to `newest_seq` counts as sent to those devices. Returns
/// how many there are.
pub(super) fn count_as_sent(disk: &Disk, epoch: u32, newest_seq: u64) -> Result<usize, DatabaseError> {
    let view = disk.view();
    let mut batch = disk.batch();
    let mut devices = 0;
    for row in view.rows(Table::Meta, keys::CONNECTED, &keys::after_prefix(keys::CONNECTED)) {
        let (key, _) = row?;
        batch.remove(RowKind::Connected, &key);
        devices += 1;
        let cursor_key = keys::cursor_of_connected(&key);
        let stored = view.decoded(Table::Meta, &cursor_key, "a cursor", StoredCursor::decode);
        let mut stored = match view.pass_over(stored)?.flatten() {
            Some(stored) => stored,
            // It connected in the last moments, or its cursor is damaged: it begins at the floor.
            None => {
                let floor = Mailbox::with_prefix(&view, keys::mailbox_of_connected(&key), epoch).floor();
                let Some(acked) = view.pass_over(floor)? else { continue };
                StoredCursor { cursor: Cursor { acked, sent_seq: 0 }, used: committer::now(), is_bound: false }
            }
        };
        stored.cursor.sent_seq = stored.cursor.sent_seq.max(newest_seq);
        batch.put(RowKind::Cursor, &cursor_key, stored.encode().as_bytes());
    }
    if devices > 0 {
        batch.commit()?;
        tracing::info!(devices, "connected when the process ended: their unacknowledged notices count as sent");
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::super::disk::UncheckedDisk;
    use super::super::outbox::PublishTo;
    use super::*;
    use orderbell_protocol::{Id, Position, UnixMs};

    fn device(store: &str, name: &str) -> Device {
        (Recipient::store(Id::new(store).unwrap()), Id::new(name).unwrap())
    }

    fn batch(disk: &Disk, fill: impl FnOnce(&mut BatchBuilder<'_>)) {
        let mut batch = BatchBuilder::new(disk, PublishTo::EmbeddedLog, 0, 0);
        fill(&mut batch);
        batch.commit(0).unwrap();
    }

    fn marks(disk: &Disk) -> usize {
        disk.view().rows(Table::Meta, keys::CONNECTED, &keys::after_prefix(keys::CONNECTED)).count()
    }

    fn sent_seq(disk: &Disk, (who, device): &Device) -> Option<u64> {
        super::super::devices::read(&disk.view(), who, device).unwrap().map(|cursor| cursor.sent_seq)
    }

    #[test]
    fn after_a_kill_everything_counts_as_sent_to_connected_devices_and_nothing_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let disk = UncheckedDisk::open(dir.path()).unwrap().into_disk().unwrap();
        let (connected, away, new) = (device("1", "till"), device("1", "away"), device("2", "new"));
        let acked = Position { epoch: 1, seq: 3, check: 7 };
        let stored = StoredCursor { cursor: Cursor { acked, sent_seq: 4 }, used: UnixMs(5), is_bound: false };
        let registry = Connected::default();
        let _open = [registry.open(connected.clone()), registry.open(new.clone())];
        batch(&disk, |batch| {
            for (who, device) in [&connected, &away] {
                batch.put_row(RowKind::Cursor, &keys::cursor(who, device), stored.encode().as_bytes());
            }
            let mut marked = HashSet::new();
            [&connected, &new].into_iter().for_each(|device| registry.mark(device.clone(), &mut marked, batch));
        });
        assert_eq!(count_as_sent(&disk, 1, 9).unwrap(), 2);
        assert_eq!(
            (sent_seq(&disk, &connected), sent_seq(&disk, &away), sent_seq(&disk, &new)),
            (Some(9), Some(4), Some(9))
        );
        let read = super::super::devices::read(&disk.view(), &connected.0, &connected.1).unwrap().unwrap();
        assert_eq!(read.acked, acked);
        assert_eq!(count_as_sent(&disk, 1, 12).unwrap(), 0, "a device that did not come back is not marked again");
        assert_eq!((sent_seq(&disk, &connected), marks(&disk)), (Some(9), 0));
    }

    #[test]
    fn a_mark_goes_with_the_last_connection_of_its_device() {
        let dir = tempfile::tempdir().unwrap();
        let disk = UncheckedDisk::open(dir.path()).unwrap().into_disk().unwrap();
        let (registry, till) = (Connected::default(), device("1", "till"));
        let mark = || {
            batch(&disk, |batch| {
                let mut marked = HashSet::new();
                registry.mark(till.clone(), &mut marked, batch);
                registry.remove_ended(&marked, batch);
            });
        };
        let remove = || batch(&disk, |batch| registry.remove_ended(&HashSet::new(), batch));
        let old = registry.open(till.clone());
        mark();
        let new = registry.open(till.clone());
        drop(old);
        remove();
        assert_eq!(marks(&disk), 1, "it has another connection");
        drop(new);
        let back = registry.open(till.clone());
        remove();
        assert_eq!(marks(&disk), 1, "it is back");
        drop(back);
        mark();
        assert_eq!(marks(&disk), 0, "a connection that ended before its mark was written is not marked");
        assert!(registry.0.lock().unwrap().ended.is_empty());
        // Its end comes while the batch with its mark is built.
        let last = registry.open(till.clone());
        batch(&disk, |batch| {
            let mut marked = HashSet::new();
            registry.mark(till.clone(), &mut marked, batch);
            drop(last);
            registry.remove_ended(&marked, batch);
        });
        assert_eq!(marks(&disk), 1);
        remove();
        assert_eq!(marks(&disk), 0);
    }
}
