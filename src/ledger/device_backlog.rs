//! How far the devices of a recipient are behind: for operators, never on the path of a notice.

use orderbell_protocol::{DeviceId, Recipient, UnixMs};

use super::committer::PendingCursors;
use super::devices::StoredCursor;
use super::disk::{DiskError, Table, View};
use super::{keys, mailbox};

/// Rows read for one device: a backlog is counted up to here.
const ROWS_MAX: usize = 1_000;
/// Devices of one recipient that are listed.
const DEVICES_MAX: usize = 64;

/// The notices that a device has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Live notices that are not acknowledged; at most a thousand are counted.
    pub notices: u64,
    /// When the oldest of them was stored.
    pub since: Option<UnixMs>,
}

/// One device and its backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBacklog {
    /// The device's name, unique for its recipient.
    pub device: DeviceId,
    /// What it has not acknowledged.
    pub backlog: Backlog,
}

fn backlog_after(view: &View<'_>, mailbox: &[u8], acked: u64, now: UnixMs) -> Result<Backlog, DiskError> {
    let (from, end) = (keys::mail(mailbox, acked + 1), keys::mail(mailbox, u64::MAX));
    let mut backlog = Backlog::default();
    for row in view.rows(Table::Mailboxes, &from, &end).take(ROWS_MAX) {
        let (key, row) = row?;
        let row = mailbox::decode_row(&key, &row)?;
        if row.is_live(now) {
            backlog.notices += 1;
            backlog.since = backlog.since.or(Some(row.stored_at));
        }
    }
    Ok(backlog)
}

/// Every device that has a cursor, by name, and the backlog of a device that has none yet.
pub(super) fn read(
    view: &View<'_>,
    cursors: &PendingCursors,
    who: &Recipient,
    now: UnixMs,
) -> Result<(Vec<DeviceBacklog>, Backlog), DiskError> {
    let mailbox = keys::mailbox(who);
    let prefix = keys::cursors_of(who);
    let mut devices = Vec::new();
    for row in view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).take(DEVICES_MAX) {
        let (key, row) = row?;
        let device = keys::trailing_id(Table::Meta, &key, prefix.len())?;
        let stored = || Some(StoredCursor::decode(&row)?.cursor);
        let cursor = cursors.newest(who, &device).or_else(stored);
        let cursor = cursor.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "a cursor"))?;
        devices.push(DeviceBacklog { backlog: backlog_after(view, &mailbox, cursor.acked.seq, now)?, device });
    }
    let floor = mailbox::read_floor(view, &mailbox)?.map_or(0, |floor| floor.seq);
    Ok((devices, backlog_after(view, &mailbox, floor, now)?))
}
