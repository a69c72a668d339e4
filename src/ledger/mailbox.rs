//! Mailboxes: rows that are appended and never renumbered, and the one function that reads them.
//!
//! Seqs are drawn from one counter for the whole ledger, so a mailbox that was emptied and removed can never give out an old seq
//! again, and no row has to remember where a quiet customer's mailbox once ended. So the seqs of one mailbox have gaps; each delivery
//! names the position that it follows.
//!
//! A row is one of: live; superseded (its order ended: readers skip it); a stub (trimmed, but something live stands below: only its check
//! bits remain). Readers skip an expired row, too. Rows at or below the floor were removed.

use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::{Delivery, MailboxPage, NoticeKind, Position, ReadError, Recipient, UnixMs};

use super::disk::{DiskError, Table, View};
use super::keys;

/// Rows examined in one read: bounds the time of a page that meets nothing but superseded rows.
const ROWS_PER_READ_MAX: usize = 1024;
/// Bytes of one page: what a connection's write buffer must hold.
const PAGE_BYTES_MAX: usize = 64 * 1024;

const SUPERSEDED: u8 = 1;
const STUB: u8 = 2;
/// Flags, check bits, expiry, time of storing.
const HEADER: usize = 1 + 2 + 8 + 8;

/// A row of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MailRow {
    flags: u8,
    pub(crate) check: u16,
    expires_at: UnixMs,
    /// When the batch of this row was written.
    pub(crate) stored_at: UnixMs,
    notice: Vec<u8>,
}

impl MailRow {
    pub(crate) fn live(id: &str, expires_at: UnixMs, stored_at: UnixMs, notice: &EncodedNotice) -> Self {
        let notice = notice.as_str().as_bytes().to_vec();
        Self { flags: 0, check: check_bits(id), expires_at, stored_at, notice }
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

    /// True when a reader is given this row at `now`: it is neither superseded nor a stub nor expired.
    pub(crate) fn is_live(&self, now: UnixMs) -> bool {
        self.flags & (SUPERSEDED | STUB) == 0 && self.expires_at > now
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER + self.notice.len());
        row.push(self.flags);
        row.extend(self.check.to_be_bytes());
        row.extend(self.expires_at.0.to_be_bytes());
        row.extend(self.stored_at.0.to_be_bytes());
        row.extend_from_slice(&self.notice);
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let (head, notice) = row.split_at_checked(HEADER)?;
        Some(Self {
            flags: head[0],
            check: u16::from_be_bytes([head[1], head[2]]),
            expires_at: UnixMs(i64::from_be_bytes(head[3..11].try_into().ok()?)),
            stored_at: UnixMs(i64::from_be_bytes(head[11..].try_into().ok()?)),
            notice: notice.to_vec(),
        })
    }
}

/// An entry of an order's notice index. On disk: the word of the kind, a zero byte, the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) kind: NoticeKind,
    /// Key of the mailbox row.
    pub(crate) key: Vec<u8>,
}

impl IndexEntry {
    pub(crate) fn encode(kind: NoticeKind, key: &[u8]) -> Vec<u8> {
        [kind.word().as_bytes(), b"\0", key].concat()
    }

    pub(crate) fn decode(entry: &[u8]) -> Option<Self> {
        let end = entry.iter().position(|byte| *byte == 0)?;
        let (word, key) = (&entry[..end], &entry[end + 1..]);
        let kind = NoticeKind::KNOWN.into_iter().find(|kind| kind.word().as_bytes() == word)?;
        Some(Self { kind, key: key.to_vec() })
    }
}

/// Sixteen bits of a notice's id, for its position.
pub(crate) fn check_bits(id: &str) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(id.as_bytes()) & 0xffff) as u16
}

/// A floor row: seq and check bits of the last row that was removed.
pub(crate) fn encode_floor(seq: u64, check: u16) -> Vec<u8> {
    [seq.to_be_bytes().as_slice(), &check.to_be_bytes()].concat()
}

fn decode_floor(row: &[u8]) -> Option<(u64, u16)> {
    let (seq, check) = row.split_at_checked(8)?;
    Some((u64::from_be_bytes(seq.try_into().ok()?), u16::from_be_bytes(check.try_into().ok()?)))
}

/// Rows of a mailbox that hold a notice; stubs do not count.
pub(crate) fn count(view: &View<'_>, mailbox: &[u8]) -> Result<u64, DiskError> {
    Ok(view.number(&keys::count(mailbox))?.unwrap_or(0))
}

pub(crate) fn seq_of(key: &[u8]) -> Result<u64, DiskError> {
    keys::trailing_number(Table::Mailboxes, key)
}

/// A row of a mailbox that was read with its key.
pub(crate) fn decode_row(key: &[u8], row: &[u8]) -> Result<MailRow, DiskError> {
    MailRow::decode(row).ok_or_else(|| DiskError::damaged(Table::Mailboxes, key, "a mailbox row"))
}

/// The mailbox row of `key`, if it is still there.
pub(crate) fn read_row(view: &View<'_>, key: &[u8]) -> Result<Option<MailRow>, DiskError> {
    view.decoded(Table::Mailboxes, key, "a mailbox row", MailRow::decode)
}

/// The floor of a mailbox: seq and check bits of the last row that was removed, or zeros.
pub(crate) fn read_floor(view: &View<'_>, mailbox: &[u8]) -> Result<(u64, u16), DiskError> {
    Ok(view.decoded(Table::Meta, &keys::floor(mailbox), "the floor of a mailbox", decode_floor)?.unwrap_or((0, 0)))
}

/// An entry of a notice index that was read with its key.
pub(crate) fn decode_index(key: &[u8], entry: &[u8]) -> Result<IndexEntry, DiskError> {
    IndexEntry::decode(entry).ok_or_else(|| DiskError::damaged(Table::Orders, key, "an entry of the notice index"))
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        Self::Ledger(error.to_string())
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

    /// The last position that was removed, or the start: every row up to here is gone.
    pub(crate) fn floor(&self) -> Result<Position, DiskError> {
        let (seq, check) = read_floor(self.view, &self.prefix)?;
        Ok(self.position(seq, check))
    }

    /// The position of the newest row; the floor when there is none.
    pub(crate) fn head(&self, floor: Position) -> Result<Position, DiskError> {
        let end = keys::mail(&self.prefix, u64::MAX);
        let Some(last) = self.view.rows(Table::Mailboxes, &self.prefix, &end).next_back() else { return Ok(floor) };
        let (key, row) = last?;
        Ok(self.position(seq_of(&key)?, decode_row(&key, &row)?.check))
    }

    /// Checks that this mailbox gave out `position`, and that every row after it is still here.
    pub(crate) fn validate_position(
        &self,
        position: Position,
        floor: Position,
        head: Position,
    ) -> Result<(), ReadError> {
        if position.epoch != self.epoch {
            return Err(ReadError::EpochChanged);
        }
        if position == floor {
            return Ok(());
        }
        if position.seq <= floor.seq {
            return Err(if position.seq == floor.seq { ReadError::EpochChanged } else { ReadError::PositionExpired });
        }
        if position.seq > head.seq {
            return Err(ReadError::EpochChanged);
        }
        let row = read_row(self.view, &keys::mail(&self.prefix, position.seq))?.ok_or(ReadError::EpochChanged)?;
        if row.check == position.check { Ok(()) } else { Err(ReadError::EpochChanged) }
    }

    /// The read function: live notices after `after`, at most `limit`; rows up to `scan` are known to hold none.
    pub(crate) fn read(
        &self,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<MailboxPage, ReadError> {
        let floor = self.floor()?;
        let head = self.head(floor)?;
        self.validate_position(after, floor, head)?;
        let begin = if scan.seq > after.seq { scan } else { after };
        let mut page = MailboxPage { notices: Vec::new(), next: begin, head };
        let mut bytes = 0;
        let from = keys::mail(&self.prefix, begin.seq + 1);
        let end = keys::mail(&self.prefix, u64::MAX);
        let mut chain = after;
        for row in self.view.rows(Table::Mailboxes, &from, &end).take(ROWS_PER_READ_MAX) {
            let (key, row) = row?;
            let row = decode_row(&key, &row)?;
            let position = self.position(seq_of(&key)?, row.check);
            if row.is_live(now) {
                bytes += row.notice.len();
                if page.notices.len() >= usize::from(limit) || (bytes > PAGE_BYTES_MAX && !page.notices.is_empty()) {
                    return Ok(page);
                }
                let notice = EncodedNotice::from_stored(&row.notice)
                    .map_err(|error| DiskError::damaged_by(Table::Mailboxes, &key, "a notice", error))?;
                page.notices.push(Delivery { position, prev: chain, notice });
                chain = position;
            }
            page.next = position;
        }
        Ok(page)
    }
}
