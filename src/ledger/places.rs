//! Where the devices of a recipient stand: for operators, never in the path of a notice.

use orderbell_protocol::{DeviceId, Id, Recipient, UnixMs};

use super::committer::Standings;
use super::disk::{DiskError, Space, View};
use super::mailbox::MailRow;
use super::{keys, mailbox, parse_standing};

/// Rows looked at for one device: who is further behind than this is far behind.
const ROWS_MAX: usize = 1_000;
/// Devices of one recipient that are told.
const DEVICES_MAX: usize = 64;

/// How much waits for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Notices that would ring and are not acknowledged; at most a thousand are counted.
    pub notices: u64,
    /// Since when the oldest of them waits.
    pub since: Option<UnixMs>,
}

/// One device and what waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBehind {
    /// Which.
    pub device: DeviceId,
    /// What waits.
    pub behind: Behind,
}

fn behind(view: &View<'_>, mailbox: &[u8], acked: u64, now: UnixMs) -> Result<Behind, DiskError> {
    let (from, end) = (keys::mail(mailbox, acked + 1), keys::mail(mailbox, u64::MAX));
    let mut waits = Behind::default();
    for row in view.rows(Space::Mail, &from, &end).take(ROWS_MAX) {
        let (_, row) = row?;
        if let Some(row) = MailRow::decode(&row).filter(|row| !row.is_over(now)) {
            waits.notices += 1;
            waits.since = waits.since.or(row.stored_at());
        }
    }
    Ok(waits)
}

/// Every device that has a cursor, by its name, and what waits for one that has none yet.
pub(super) fn read(
    view: &View<'_>,
    standings: &Standings,
    who: &Recipient,
    now: UnixMs,
) -> Result<(Vec<DeviceBehind>, Behind), DiskError> {
    let mailbox = keys::mailbox(who);
    let prefix = keys::cursors_of(who);
    let mut devices = Vec::new();
    for row in view.rows(Space::Meta, &prefix, &keys::after_prefix(&prefix)).take(DEVICES_MAX) {
        let (key, row) = row?;
        let device = std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|name| Id::new(name).ok());
        let Some(device) = device else { continue };
        let Some(standing) = standings.newest(who, &device).or_else(|| parse_standing(&row)) else { continue };
        devices.push(DeviceBehind { behind: behind(view, &mailbox, standing.acked.seq, now)?, device });
    }
    let floor = view.row(Space::Meta, &keys::floor(&mailbox))?.as_deref().and_then(mailbox::decode_floor);
    Ok((devices, behind(view, &mailbox, floor.map_or(0, |(seq, _)| seq), now)?))
}
