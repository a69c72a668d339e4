//! Mailboxes: rows that are appended and never renumbered, and the one function that reads them.
//!
//! Seqs are drawn from one counter for the whole ledger, so a mailbox that was emptied and forgotten can never give out an old seq
//! again, and no row has to remember where a quiet customer's mailbox once ended. In each mailbox seqs have holes; `after` links them.
//!
//! A row is one of: live; superseded (its order ended: readers skip it); a stub (trimmed, but something live stands below: only its check
//! bits remain). A row past its end of life is skipped, too. Rows below the floor are gone.

use orderbell_protocol::notice::Encoded;
use orderbell_protocol::{Delivery, Page, Position, ReadError, Recipient, UnixMs};

use super::disk::{DiskError, Space, View};
use super::keys;

/// Rows looked at in one read: bounds the time of a page that meets nothing but superseded rows.
const ROWS_PER_READ_MAX: usize = 1024;
/// Bytes of one page: what a connection's write buffer must hold.
const PAGE_BYTES_MAX: usize = 64 * 1024;

const SUPERSEDED: u8 = 1;
const STUB: u8 = 2;
/// The time of storing follows the header: rows of format 1 have none.
const TIMED: u8 = 4;
const HEADER: usize = 1 + 2 + 8;

/// A row of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MailRow {
    flags: u8,
    pub(crate) check: u16,
    expires_at: UnixMs,
    stored_at: UnixMs,
    notice: Vec<u8>,
}

impl MailRow {
    pub(crate) fn live(id: &str, expires_at: UnixMs, stored_at: UnixMs, notice: &Encoded) -> Self {
        let notice = notice.as_str().as_bytes().to_vec();
        Self { flags: TIMED, check: check_bits(id), expires_at, stored_at, notice }
    }

    /// When the batch of this row was written.
    pub(crate) fn stored_at(&self) -> Option<UnixMs> {
        (self.flags & TIMED != 0).then_some(self.stored_at)
    }

    pub(crate) fn superseded(mut self) -> Self {
        self.flags |= SUPERSEDED;
        self
    }

    pub(crate) fn stub(self) -> Self {
        Self { flags: STUB, notice: Vec::new(), ..self }
    }

    pub(crate) fn is_stub(&self) -> bool {
        self.flags & STUB != 0
    }

    /// True when nobody needs this row any more: its order ended, or its life did before `now`.
    pub(crate) fn is_over(&self, now: UnixMs) -> bool {
        !self.rings(now)
    }

    /// True when a reader is given this row at `now`.
    fn rings(&self, now: UnixMs) -> bool {
        self.flags & (SUPERSEDED | STUB) == 0 && self.expires_at > now
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER + 8 + self.notice.len());
        row.push(self.flags);
        row.extend(self.check.to_be_bytes());
        row.extend(self.expires_at.0.to_be_bytes());
        if self.flags & TIMED != 0 {
            row.extend(self.stored_at.0.to_be_bytes());
        }
        row.extend_from_slice(&self.notice);
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let (head, mut notice) = row.split_at_checked(HEADER)?;
        let mut stored_at = UnixMs(0);
        if head[0] & TIMED != 0 {
            let (at, rest) = notice.split_first_chunk::<8>()?;
            (stored_at, notice) = (UnixMs(i64::from_be_bytes(*at)), rest);
        }
        Some(Self {
            stored_at,
            flags: head[0],
            check: u16::from_be_bytes([head[1], head[2]]),
            expires_at: UnixMs(i64::from_be_bytes(head[3..].try_into().ok()?)),
            notice: notice.to_vec(),
        })
    }
}

/// Sixteen bits of a notice's id, for its position.
pub(crate) fn check_bits(id: &str) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(id.as_bytes()) & 0xffff) as u16
}

/// A floor row: seq and check bits of the last row that is gone.
pub(crate) fn encode_floor(seq: u64, check: u16) -> Vec<u8> {
    [seq.to_be_bytes().as_slice(), &check.to_be_bytes()].concat()
}

pub(crate) fn decode_floor(row: &[u8]) -> Option<(u64, u16)> {
    let (seq, check) = row.split_at_checked(8)?;
    Some((u64::from_be_bytes(seq.try_into().ok()?), u16::from_be_bytes(check.try_into().ok()?)))
}

/// Rows of a mailbox that hold a notice; stubs do not count.
pub(crate) fn count(view: &View<'_>, mailbox: &[u8]) -> Result<u64, DiskError> {
    let row = view.row(Space::Meta, &keys::count(mailbox))?;
    Ok(row.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes))
}

pub(crate) fn seq_of(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq))
}

fn broken(what: impl std::fmt::Display) -> ReadError {
    ReadError::Ledger(what.to_string())
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        broken(error)
    }
}

/// One mailbox in one durable view.
pub(crate) struct Mailbox<'a> {
    view: &'a View<'a>,
    prefix: Vec<u8>,
    epoch: u32,
}

impl<'a> Mailbox<'a> {
    pub(crate) fn new(view: &'a View<'a>, who: &Recipient, epoch: u32) -> Self {
        Self { view, prefix: keys::mailbox(who), epoch }
    }

    fn position(&self, seq: u64, check: u16) -> Position {
        Position { epoch: self.epoch, seq, check }
    }

    /// Everything up to here is gone.
    pub(crate) fn floor(&self) -> Result<Position, ReadError> {
        let row = self.view.row(Space::Meta, &keys::floor(&self.prefix))?;
        let (seq, check) = row.as_deref().and_then(decode_floor).unwrap_or((0, 0));
        Ok(self.position(seq, check))
    }

    /// The newest row.
    pub(crate) fn head(&self, floor: Position) -> Result<Position, ReadError> {
        let end = keys::mail(&self.prefix, u64::MAX);
        let Some(last) = self.view.rows(Space::Mail, &self.prefix, &end).next_back() else { return Ok(floor) };
        let (key, row) = last?;
        let row = MailRow::decode(&row).ok_or_else(|| broken("a mailbox row is damaged"))?;
        Ok(self.position(seq_of(&key), row.check))
    }

    /// Is `position` one that this mailbox gave out, and is everything behind it still here?
    pub(crate) fn vouch(&self, position: Position, floor: Position, head: Position) -> Result<(), ReadError> {
        if position.epoch != self.epoch {
            return Err(ReadError::Epoch);
        }
        if position == floor {
            return Ok(());
        }
        if position.seq <= floor.seq {
            return Err(if position.seq == floor.seq { ReadError::Epoch } else { ReadError::Gone });
        }
        if position.seq > head.seq {
            return Err(ReadError::Epoch);
        }
        let row = self.view.row(Space::Mail, &keys::mail(&self.prefix, position.seq))?;
        let row = row.as_deref().and_then(MailRow::decode).ok_or(ReadError::Epoch)?;
        if row.check == position.check { Ok(()) } else { Err(ReadError::Epoch) }
    }

    /// The read function: notices behind `after`, looking from `scan` on, at most `limit`, that ring at `now`.
    pub(crate) fn read(&self, after: Position, scan: Position, limit: u16, now: UnixMs) -> Result<Page, ReadError> {
        let floor = self.floor()?;
        let head = self.head(floor)?;
        self.vouch(after, floor, head)?;
        let begin = if scan.seq > after.seq { scan } else { after };
        let mut page = Page { notices: Vec::new(), next: begin, head };
        let mut bytes = 0;
        let from = keys::mail(&self.prefix, begin.seq + 1);
        let end = keys::mail(&self.prefix, u64::MAX);
        let mut chain = after;
        for row in self.view.rows(Space::Mail, &from, &end).take(ROWS_PER_READ_MAX) {
            let (key, row) = row?;
            let row = MailRow::decode(&row).ok_or_else(|| broken("a mailbox row is damaged"))?;
            let position = self.position(seq_of(&key), row.check);
            if row.rings(now) {
                bytes += row.notice.len();
                if page.notices.len() >= usize::from(limit) || (bytes > PAGE_BYTES_MAX && !page.notices.is_empty()) {
                    return Ok(page);
                }
                let notice = Encoded::from_stored(&row.notice).map_err(broken)?;
                page.notices.push(Delivery { position, after: chain, notice });
                chain = position;
            }
            page.next = position;
        }
        Ok(page)
    }
}
