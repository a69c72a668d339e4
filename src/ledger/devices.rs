//! Cursors of devices: how far each has read, when it was last used, and how many a recipient may have.
//!
//! The name of a device is free text. A client that invents names has at most [`DEVICES_MAX`] cursors, and its invented ones push each other
//! out, least recently used first: a device that is in use stays. A device that lost its cursor begins at the mailbox's floor, so it is given
//! notices again and misses none. A cursor that does not decode counts as none, too: the device's next one is written in its place, and one
//! that no device writes again stays.

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

    /// Saves a device's cursor. It is written lazily: losing it costs a redelivery. Returns the highest `sent_seq` that others have saved of
    /// this device and that may not be durable yet; 0 when there is none.
    pub fn save_cursor(self, who: &Recipient, device: &DeviceId, cursor: Cursor) -> u64 {
        self.0.cursors.save(who, device, cursor, committer::now())
    }

    /// Returns when every cursor that was saved before the call is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn cursors_durable(self) -> Result<(), LedgerFailed> {
        self.0.submit(Work::Cursors).await
    }
}

/// A cursor and when it was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredCursor {
    pub(crate) cursor: Cursor,
    pub(crate) used: UnixMs,
}

impl StoredCursor {
    pub(crate) fn encode(&self) -> String {
        format!("{} {:x} {}", self.cursor.acked, self.cursor.sent_seq, self.used.0)
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(row).ok()?.split(' ');
        let acked = words.next()?.parse().ok()?;
        let sent_seq = u64::from_str_radix(words.next()?, 16).ok()?;
        let used = UnixMs(words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { cursor: Cursor { acked, sent_seq }, used })
    }
}

/// When the cursor of this row was last used.
pub(crate) fn last_use(row: &[u8]) -> Option<UnixMs> {
    Some(StoredCursor::decode(row)?.used)
}

/// The stored cursor of a device.
pub(crate) fn read(view: &View<'_>, who: &Recipient, device: &DeviceId) -> Result<Option<Cursor>, DiskError> {
    let stored = view.decoded(RowKind::Cursor.table(), &keys::cursor(who, device), "a cursor", StoredCursor::decode)?;
    Ok(stored.map(|stored| stored.cursor))
}

/// What is waiting to be written, by recipient and device.
pub(crate) type Cursors = HashMap<(Recipient, DeviceId), StoredCursor>;

fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Writes cursors and keeps to the bound. See the module.
#[derive(Default)]
pub(crate) struct CursorWriter {
    /// Hashes of keys. One that collides lets a recipient have one cursor more for a while.
    known: HashSet<u64>,
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
        let mut by_recipient: HashMap<&Recipient, Vec<(Vec<u8>, &StoredCursor)>> = HashMap::new();
        for ((who, device), cursor) in cursors {
            by_recipient.entry(who).or_default().push((keys::cursor(who, device), cursor));
        }
        for (who, mut changed) in by_recipient {
            if self.any_is_new(view, &changed)? {
                self.make_room(view, batch, who, &mut changed)?;
            }
            for (key, cursor) in &changed {
                self.known.insert(hash(key));
                batch.put_row(RowKind::Cursor, key, cursor.encode().as_bytes());
            }
        }
        Ok(())
    }

    fn any_is_new(&self, view: &View<'_>, changed: &[(Vec<u8>, &StoredCursor)]) -> Result<bool, DatabaseError> {
        for (key, _) in changed {
            if !self.known.contains(&hash(key)) && view.row(RowKind::Cursor.table(), key)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Above the bound, removes stored cursors and drops changed ones, least recently used first.
    fn make_room(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        who: &Recipient,
        changed: &mut Vec<(Vec<u8>, &StoredCursor)>,
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
                    let used = last_use(&row);
                    let used = used.ok_or_else(|| DiskError::damaged(RowKind::Cursor.table(), &key, "a cursor"));
                    stored.extend(view.pass_over(used)?.map(|used| (used, key)));
                }
            }
        }
        let excess = (stored.len() + changed.len()).saturating_sub(DEVICES_MAX);
        if excess == 0 {
            return Ok(());
        }
        let all = stored.into_iter().map(|(used, key)| (used, true, key));
        let mut all: Vec<_> =
            all.chain(changed.iter().map(|(key, cursor)| (cursor.used, false, key.clone()))).collect();
        all.sort_unstable();
        let mut dropped = HashSet::new();
        for (_, is_stored, key) in all.drain(..excess) {
            self.known.remove(&hash(&key));
            if is_stored || rewritten_rows.contains(&key) {
                batch.remove_row(RowKind::Cursor, &key);
            }
            if !is_stored {
                dropped.insert(key);
            }
        }
        changed.retain(|(key, _)| !dropped.contains(key));
        Ok(())
    }
}
