//! Cursors of devices: how far each has read, when it was last used, and how many a recipient may have.
//!
//! The name of a device is free text. Clients that invent names have at most [`DEVICES_MAX`] cursors, and the invented ones push each other
//! out, least recently used first: a device that is in use stays. A device that lost its cursor begins at the mailbox's floor, so it is given
//! notices again and misses none. A cursor that does not decode counts as none, too: the device's next one is written in its place, and one
//! that no device writes again stays.
//!
//! A cursor that a token with the device's name has used says so, for as long as it is kept: the device is *bound*, and a token that names no
//! device must not use its name. Bound devices have as many cursors as the others, beside theirs: neither kind pushes out a cursor of the other.

use std::collections::{HashMap, HashSet};

use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Position, Recipient, UnixMs};

use super::committer::Work;
use super::device_backlog::{self, Backlog, DeviceBacklog};
use super::disk::{DatabaseError, DiskError, View};
use super::mailbox::{Mailbox, MailboxError};
use super::tables::{DEVICES_MAX, RowKind};
use super::write_batch::BatchBuilder;
use super::{Ledger, LedgerFailed, committer, keys};

/// Cursors that are known to be stored, so that writing them again needs no read. When there are more, all are forgotten.
const KNOWN_MAX: usize = 65_536;

/// Whether a client's token names its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceBinding {
    /// It names none: the client chose the name of its device, and two clients may choose the same.
    Unbound,
    /// It names the device. Whoever issues tokens gives each installation a name of its own.
    Bound,
}

impl DeviceBinding {
    /// Of a token that names this device, or none.
    #[must_use]
    pub fn of_token(device: Option<&DeviceId>) -> Self {
        if device.is_some() { Self::Bound } else { Self::Unbound }
    }

    /// True for a token that names its device.
    #[must_use]
    pub fn is_bound(self) -> bool {
        self == Self::Bound
    }
}

/// The devices of a ledger: how far each has read.
#[derive(Clone, Copy)]
pub struct Devices<'a>(pub(super) &'a Ledger);

impl Devices<'_> {
    /// A device's cursor and the mailbox's newest position. A device without a cursor, or with one that is no longer valid, is given the
    /// mailbox's floor.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn cursor_and_head(self, who: &Recipient, device: &DeviceId) -> Result<(Cursor, Position), DiskError> {
        let view = self.0.disk.view();
        let mailbox = Mailbox::new(&view, who, self.0.epoch);
        let head = mailbox.head()?;
        let stored = match self.0.cursors.newest(who, device) {
            Some(cursor) => Some(cursor),
            None => view.pass_over(read(&view, who, device))?.flatten(),
        };
        // The server's own cursor must never lock its device out: an invalid one counts as none.
        let is_valid = match stored.map(|cursor| mailbox.validate_position(cursor.acked, head)) {
            Some(Ok(())) => true,
            Some(Err(MailboxError::Disk(error))) => return Err(error),
            Some(Err(MailboxError::EpochChanged | MailboxError::PositionExpired)) | None => false,
        };
        let cursor = match stored {
            Some(cursor) if is_valid => cursor,
            _ => Cursor { acked: mailbox.floor()?, sent_seq: stored.map_or(0, |cursor| cursor.sent_seq) },
        };
        Ok((cursor, head.unwrap_or(cursor.acked)))
    }

    /// The backlog of each of a recipient's devices, and the backlog that a new device would have.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn backlogs(self, who: &Recipient) -> Result<(Vec<DeviceBacklog>, Backlog), DiskError> {
        device_backlog::read(&self.0.disk.view(), &self.0.cursors, who, committer::now())
    }

    /// Saves a device's cursor, for a client with such a token. It is written lazily: losing it costs a redelivery. Returns the highest `sent_seq`
    /// that others have saved of this device and that may not be durable yet; 0 when there is none.
    pub fn save_cursor(self, who: &Recipient, device: &DeviceId, cursor: Cursor, binding: DeviceBinding) -> u64 {
        let stored = StoredCursor { cursor, used: committer::now(), is_bound: binding.is_bound() };
        self.0.cursors.save(who, device, stored)
    }

    /// True when a token that names this device has saved its cursor.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn is_bound(self, who: &Recipient, device: &DeviceId) -> Result<bool, DiskError> {
        // In this order: what is written meanwhile is found among the pending ones or in the view.
        if self.0.cursors.is_bound(who, device) {
            return Ok(true);
        }
        let view = self.0.disk.view();
        Ok(view.pass_over(read_stored(&view, who, device))?.flatten().is_some_and(|stored| stored.is_bound))
    }

    /// Returns when every cursor that was saved before the call is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn cursors_durable(self) -> Result<(), LedgerFailed> {
        self.0.submit(Work::Cursors).await
    }
}

/// A cursor, when it was last used, and whether a token that names its device has used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredCursor {
    pub(crate) cursor: Cursor,
    pub(crate) used: UnixMs,
    pub(crate) is_bound: bool,
}

/// The last word of the row of a bound device. Rows of other devices have none, as all had before devices could be bound.
const BOUND: &str = "bound";

impl StoredCursor {
    pub(crate) fn encode(&self) -> String {
        let bound = if self.is_bound { format!(" {BOUND}") } else { String::new() };
        format!("{} {:x} {}{bound}", self.cursor.acked, self.cursor.sent_seq, self.used.0)
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(row).ok()?.split(' ');
        let acked = words.next()?.parse().ok()?;
        let sent_seq = u64::from_str_radix(words.next()?, 16).ok()?;
        let used = UnixMs(words.next()?.parse().ok()?);
        let is_bound = match words.next() {
            None => false,
            Some(BOUND) => true,
            Some(_) => return None,
        };
        words.next().is_none().then_some(Self { cursor: Cursor { acked, sent_seq }, used, is_bound })
    }
}

/// When the cursor of this row was last used.
pub(crate) fn last_use(row: &[u8]) -> Option<UnixMs> {
    Some(StoredCursor::decode(row)?.used)
}

/// The stored cursor of a device.
pub(crate) fn read(view: &View<'_>, who: &Recipient, device: &DeviceId) -> Result<Option<Cursor>, DiskError> {
    Ok(read_stored(view, who, device)?.map(|stored| stored.cursor))
}

fn read_stored(view: &View<'_>, who: &Recipient, device: &DeviceId) -> Result<Option<StoredCursor>, DiskError> {
    view.decoded(RowKind::Cursor.table(), &keys::cursor(who, device), "a cursor", StoredCursor::decode)
}

/// What is waiting to be written, by recipient and device.
pub(crate) type Cursors = HashMap<(Recipient, DeviceId), StoredCursor>;

fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Writes cursors and keeps to the bound. See the module.
#[derive(Default)]
pub(crate) struct CursorWriter {
    /// By the hash of the key, whether the device is bound. One that collides lets a recipient have one cursor more for a while.
    known: HashMap<u64, bool>,
}

impl CursorWriter {
    /// These cursors were removed.
    pub(crate) fn removed(&mut self, keys: &[Vec<u8>]) {
        for key in keys {
            self.known.remove(&hash(key));
        }
    }

    pub(crate) fn write(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        cursors: &Cursors,
    ) -> Result<(), DatabaseError> {
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        let mut by_recipient: HashMap<&Recipient, Vec<(Vec<u8>, StoredCursor)>> = HashMap::new();
        for ((who, device), cursor) in cursors {
            by_recipient.entry(who).or_default().push((keys::cursor(who, device), *cursor));
        }
        for (who, mut changed) in by_recipient {
            if self.any_is_new(view, &mut changed)? {
                self.make_room(view, batch, who, &mut changed)?;
            }
            for (key, cursor) in &changed {
                self.known.insert(hash(key), cursor.is_bound);
                batch.put_row(RowKind::Cursor, key, cursor.encode().as_bytes());
            }
        }
        Ok(())
    }

    /// True when one of these is not stored yet, or not as that of a bound device. Those of bound devices stay bound: a client whose token names no device may still be on its way
    /// when the first comes whose token does.
    fn any_is_new(&self, view: &View<'_>, changed: &mut [(Vec<u8>, StoredCursor)]) -> Result<bool, DatabaseError> {
        let mut any_is_new = false;
        for (key, cursor) in changed {
            let was_bound = match self.known.get(&hash(key)) {
                Some(was_bound) => Some(*was_bound),
                None => {
                    let row = view.row(RowKind::Cursor.table(), key)?;
                    row.map(|row| StoredCursor::decode(&row).is_some_and(|stored| stored.is_bound))
                }
            };
            any_is_new |= was_bound.is_none_or(|was_bound| cursor.is_bound && !was_bound);
            cursor.is_bound |= was_bound == Some(true);
        }
        Ok(any_is_new)
    }

    /// Above the bound, removes stored cursors and drops changed ones, the least recently used first: of bound devices and of the others apart.
    fn make_room(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        who: &Recipient,
        changed: &mut Vec<(Vec<u8>, StoredCursor)>,
    ) -> Result<(), DatabaseError> {
        let prefix = keys::cursors_of(who);
        let (mut stored, mut rewritten_rows) = (Vec::new(), HashSet::new());
        {
            let rewritten: HashSet<&[u8]> = changed.iter().map(|(key, _)| key.as_slice()).collect();
            for row in view.rows(RowKind::Cursor.table(), &prefix, &keys::after_prefix(&prefix)) {
                let (key, row) = row?;
                if rewritten.contains(key.as_slice()) {
                    rewritten_rows.insert(key);
                } else {
                    // Nobody knows when one that does not decode was used: it stays, and does not count.
                    let cursor = StoredCursor::decode(&row);
                    let cursor = cursor.ok_or_else(|| DiskError::damaged(RowKind::Cursor.table(), &key, "a cursor"));
                    stored.extend(view.pass_over(cursor)?.map(|cursor| (cursor, key)));
                }
            }
        }
        let stored = stored.into_iter().map(|(cursor, key)| (cursor.is_bound, cursor.used, true, key));
        let changed_ones = changed.iter().map(|(key, cursor)| (cursor.is_bound, cursor.used, false, key.clone()));
        let (mut bound, mut unbound): (Vec<_>, Vec<_>) =
            stored.chain(changed_ones).partition(|(is_bound, ..)| *is_bound);
        let mut dropped = HashSet::new();
        for kind in [&mut bound, &mut unbound] {
            kind.sort_unstable();
            for (_, _, is_stored, key) in kind.drain(..kind.len().saturating_sub(DEVICES_MAX)) {
                self.known.remove(&hash(&key));
                if is_stored || rewritten_rows.contains(&key) {
                    batch.remove_row(RowKind::Cursor, &key);
                }
                if !is_stored {
                    dropped.insert(key);
                }
            }
        }
        changed.retain(|(key, _)| !dropped.contains(key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::retention_tests::Written;
    use super::super::tests::open;
    use super::*;
    use orderbell_protocol::Id;

    fn id(name: &str) -> Id {
        Id::new(name).unwrap()
    }

    #[test]
    fn a_row_of_before_is_that_of_a_device_that_is_not_bound() {
        let row = b"1.3.0007 4 1790000000000";
        let stored = StoredCursor::decode(row).unwrap();
        assert!(!stored.is_bound);
        assert_eq!(stored.encode().as_bytes(), row);
        let bound = StoredCursor { is_bound: true, ..stored };
        assert_eq!(StoredCursor::decode(bound.encode().as_bytes()), Some(bound));
        for damaged in ["1.3.0007 4 1790000000000 other", "1.3.0007 4 1790000000000 bound bound", "1.3.0007 4"] {
            assert_eq!(StoredCursor::decode(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[tokio::test]
    async fn a_device_stays_bound_whoever_saves_its_cursor_and_its_neighbours_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let (who, other) = (Recipient::store(id("1")), Recipient::store(id("2")));
        let cursor = ledger.devices().cursor_and_head(&who, &id("till-1")).unwrap().0;
        let save = |ledger: &Ledger, binding| ledger.devices().save_cursor(&who, &id("till-1"), cursor, binding);
        let is_bound = |ledger: &Ledger| {
            let bound = |who: &Recipient, device: &str| ledger.devices().is_bound(who, &id(device)).unwrap();
            assert!(!bound(&who, "till-2") && !bound(&other, "till-1"));
            bound(&who, "till-1")
        };
        save(&ledger, DeviceBinding::Unbound);
        assert!(!is_bound(&ledger));
        save(&ledger, DeviceBinding::Bound);
        assert!(is_bound(&ledger), "before it is durable");
        // A poll with a token that names no device, which began before the name was taken.
        save(&ledger, DeviceBinding::Unbound);
        ledger.devices().cursors_durable().await.unwrap();
        save(&ledger, DeviceBinding::Unbound);
        assert!(is_bound(&ledger));
        ledger.devices().cursors_durable().await.unwrap();
        assert!(is_bound(&ledger));
        ledger.close();
        drop(ledger);
        let ledger = open(dir.path());
        save(&ledger, DeviceBinding::Unbound);
        ledger.devices().cursors_durable().await.unwrap();
        assert!(is_bound(&ledger), "after a restart");
    }

    /// The bug: 256 invented names pushed out the cursor of a till that was off.
    #[test]
    fn invented_devices_push_out_no_bound_one() {
        let mut ledger = Written::new();
        let (who, bound) = (Recipient::store(id("1")), id("till-1"));
        let acked = ledger.begin(&who);
        let cursor = |used: UnixMs, is_bound| StoredCursor { cursor: Cursor { acked, sent_seq: 1 }, used, is_bound };
        ledger.save_cursors(&Cursors::from([((who.clone(), bound.clone()), cursor(ledger.now, true))]));
        for n in 0..2 * DEVICES_MAX {
            ledger.now = ledger.now.plus_ms(1_000);
            let invented = id(&format!("invented-{n}"));
            ledger.save_cursors(&Cursors::from([((who.clone(), invented), cursor(ledger.now, false))]));
        }
        assert_eq!(ledger.count(RowKind::Cursor), 1 + DEVICES_MAX as u64);
        assert!(read(&ledger.disk.view(), &who, &bound).unwrap().is_some());
    }

    /// The bug: beside 256 bound devices, a till whose token names no device was sent all notices of its mailbox at each start.
    #[test]
    fn bound_devices_push_out_each_other_and_none_that_is_not_bound() {
        let mut ledger = Written::new();
        let who = Recipient::store(id("1"));
        let acked = ledger.begin(&who);
        let save = |ledger: &mut Written, name: &str, is_bound| {
            ledger.now = ledger.now.plus_ms(1_000);
            let stored = StoredCursor { cursor: Cursor { acked, sent_seq: 1 }, used: ledger.now, is_bound };
            ledger.save_cursors(&Cursors::from([((who.clone(), id(name)), stored)]));
        };
        let kept = |ledger: &Written, name: &str| read(&ledger.disk.view(), &who, &id(name)).unwrap().is_some();
        save(&mut ledger, "unbound", false);
        for n in 0..DEVICES_MAX {
            save(&mut ledger, &format!("till-{n}"), true);
        }
        save(&mut ledger, "other", false);
        assert!(kept(&ledger, "unbound") && kept(&ledger, "other") && kept(&ledger, "till-0"));
        save(&mut ledger, "one-more", true);
        assert!(!kept(&ledger, "till-0") && kept(&ledger, "till-1"));
        // One that becomes bound counts as that from then on.
        save(&mut ledger, "other", true);
        assert!(kept(&ledger, "unbound") && kept(&ledger, "other") && !kept(&ledger, "till-1"));
        assert_eq!(ledger.count(RowKind::Cursor), 1 + DEVICES_MAX as u64);
    }
}
