//! How far the devices of a recipient are behind: for operators, never on the path of a notice.

use std::collections::VecDeque;

use orderbell_protocol::{DeviceId, Recipient, UnixMs};

use super::devices::StoredCursor;
use super::disk::{DatabaseError, DiskError, Row, Table, View};
use super::pending_cursors::PendingCursors;
use super::{keys, mailbox};

/// Rows read for one device: a backlog is counted up to here.
const ROWS_MAX: usize = 1_000;

/// The notices that a device has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Live notices that are not acknowledged; at most a thousand are counted.
    pub notices: u64,
    /// When the oldest of them was stored.
    pub since: Option<UnixMs>,
}

/// What one device has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBacklog {
    /// The device's name, unique for its recipient.
    pub device: DeviceId,
    /// What it has not acknowledged.
    pub backlog: Backlog,
}

/// What decides whether a row of the mailbox is in a backlog.
#[derive(Clone, Copy, Debug)]
struct CountedRow {
    seq: u64,
    /// When it was stored, if it is live.
    live_since: Option<UnixMs>,
}

/// The backlog after each of these seqs. `read(after, at_most)` returns the rows above a seq, in order.
///
/// Devices of one store are mostly equally far, and a store may have many of them: no row is read twice.
fn backlogs_after<E>(
    acked: &[u64],
    mut read: impl FnMut(u64, usize) -> Result<Vec<CountedRow>, E>,
) -> Result<Vec<Backlog>, E> {
    let mut lowest_first: Vec<_> = acked.iter().copied().enumerate().collect();
    lowest_first.sort_by_key(|(_, acked)| *acked);
    let mut backlogs = vec![Backlog::default(); acked.len()];
    // The rows above the seq that is counted from, without a gap, and the last of all that were read.
    let (mut rows, mut last) = (VecDeque::<CountedRow>::new(), 0);
    let mut is_at_end = false;
    for (number, acked) in lowest_first {
        while rows.pop_front_if(|row| row.seq <= acked).is_some() {}
        let missing = ROWS_MAX.saturating_sub(rows.len());
        if missing > 0 && !is_at_end {
            let more = read(acked.max(last), missing)?;
            is_at_end = more.len() < missing;
            last = more.last().map_or(last, |row| row.seq);
            rows.extend(more);
        }
        let mut live = rows.iter().filter_map(|row| row.live_since);
        let since = live.next();
        backlogs[number] = Backlog { notices: since.map_or(0, |_| 1 + live.count() as u64), since };
    }
    Ok(backlogs)
}

fn read_rows(
    view: &View<'_>,
    mailbox: &[u8],
    (after, at_most): (u64, usize),
    now: UnixMs,
) -> Result<Vec<CountedRow>, DiskError> {
    let (from, end) = (keys::mail(mailbox, after.saturating_add(1)), keys::mail(mailbox, u64::MAX));
    let counted = |row: Result<Row, DatabaseError>| {
        let (key, row) = row?;
        let (seq, row) = mailbox::decode_numbered(&key, &row)?;
        Ok(CountedRow { seq, live_since: row.is_live(now).then_some(row.stored_at) })
    };
    view.rows(Table::Mailboxes, &from, &end).take(at_most).map(counted).collect()
}

/// Every device that has a cursor, by name, and the backlog of a device that has none yet. The writer keeps a recipient to
/// [`DEVICES_MAX`](super::tables::DEVICES_MAX) cursors of bound devices and as many of others, so there is no other bound here.
pub(super) fn read(
    view: &View<'_>,
    cursors: &PendingCursors,
    who: &Recipient,
    now: UnixMs,
) -> Result<(Vec<DeviceBacklog>, Backlog), DiskError> {
    let mailbox = keys::mailbox(who);
    let prefix = keys::cursors_of(who);
    let (mut devices, mut acked) = (Vec::new(), Vec::new());
    for row in view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)) {
        let (key, row) = row?;
        let device = keys::trailing_id(Table::Meta, &key, prefix.len())?;
        let stored = || Some(StoredCursor::decode(&row)?.cursor);
        let cursor = cursors.newest(who, &device).or_else(stored);
        let cursor = cursor.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "a cursor"))?;
        devices.push(device);
        acked.push(cursor.acked.seq);
    }
    acked.push(mailbox::read_floor(view, &mailbox)?.map_or(0, |floor| floor.seq));
    let mut backlogs = backlogs_after(&acked, |after, at_most| read_rows(view, &mailbox, (after, at_most), now))?;
    let of_a_new_device = backlogs.pop().unwrap_or_default();
    let devices = devices.into_iter().zip(backlogs).map(|(device, backlog)| DeviceBacklog { device, backlog });
    Ok((devices.collect(), of_a_new_device))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::convert::Infallible;

    use proptest::prelude::*;

    /// A mailbox with gaps between its seqs. One row in three is not live.
    fn mailbox(rows: u64) -> Vec<CountedRow> {
        let row =
            |n: u64| CountedRow { seq: 5 + n * 2, live_since: (!n.is_multiple_of(3)).then_some(UnixMs(n as i64)) };
        (0..rows).map(row).collect()
    }

    /// The backlogs, and how many rows were read for them.
    fn count(mailbox: &[CountedRow], acked: &[u64]) -> (Vec<Backlog>, usize) {
        let rows_read = Cell::new(0);
        let read = |after, at_most| {
            let rows = mailbox.iter().filter(|row| row.seq > after).take(at_most);
            let rows: Vec<_> = rows.copied().inspect(|_| rows_read.set(rows_read.get() + 1)).collect();
            Ok::<_, Infallible>(rows)
        };
        let Ok(backlogs) = backlogs_after(acked, read);
        (backlogs, rows_read.get())
    }

    /// The rule for one device: of the first thousand rows that it has not acknowledged, the live ones.
    fn of_one(mailbox: &[CountedRow], acked: u64) -> Backlog {
        let rows = mailbox.iter().filter(|row| row.seq > acked).take(ROWS_MAX);
        let live: Vec<_> = rows.filter_map(|row| row.live_since).collect();
        Backlog { notices: live.len() as u64, since: live.first().copied() }
    }

    /// The bug: each of a store's devices read a thousand rows of its own, 256,000 for one store of a list.
    #[test]
    fn the_devices_of_a_store_do_not_read_its_mailbox_again() {
        let mailbox = mailbox(20_000);
        let together: Vec<u64> = (0..256).collect();
        let (backlogs, rows_read) = count(&mailbox, &together);
        assert_eq!(backlogs, together.iter().map(|acked| of_one(&mailbox, *acked)).collect::<Vec<_>>());
        assert!(rows_read < ROWS_MAX + 256, "{rows_read} rows for devices that are equally far");

        let spread: Vec<u64> = (0..256).map(|n| n * 157).rev().collect();
        let (backlogs, rows_read) = count(&mailbox, &spread);
        assert_eq!(backlogs, spread.iter().map(|acked| of_one(&mailbox, *acked)).collect::<Vec<_>>());
        assert!(rows_read <= mailbox.len(), "{rows_read} rows of {}", mailbox.len());

        let (_, rows_read) = count(&mailbox, &[0, 39_000]);
        assert!(rows_read < 2 * ROWS_MAX, "rows between two devices are not read: {rows_read}");
    }

    proptest! {
        #[test]
        fn each_device_has_the_backlog_that_it_would_have_alone(
            rows in 0..4_000_u64,
            acked in proptest::collection::vec(0..9_000_u64, 0..20),
        ) {
            let mailbox = mailbox(rows);
            let (backlogs, rows_read) = count(&mailbox, &acked);
            let alone: Vec<_> = acked.iter().map(|acked| of_one(&mailbox, *acked)).collect();
            prop_assert_eq!(backlogs, alone);
            prop_assert!(rows_read <= mailbox.len());
        }
    }
}
