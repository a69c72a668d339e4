//! Mailboxes: rows that are appended and never renumbered, and the one function that reads them.
//!
//! Seqs are drawn from one counter for the whole ledger, so a mailbox that was emptied and removed can never give out an old seq
//! again, and no row has to remember where a quiet customer's mailbox once ended. So the seqs of one mailbox have gaps; each delivery
//! names the position that it follows.
//!
//! A row is one of: live; superseded (its order ended: readers skip it); a stub (trimmed, but something live stands below: only its check
//! bits remain). Readers skip an expired row, too. Rows at or below the floor were removed.
//!
//! A floor does not stay for ever: most customers order once. Long after the last row went, it is forgotten, and the ledger remembers the
//! highest seq of all floors that were. A position at or below that number whose row is not there is answered by "expired", as with a floor.
//! A reader that has read nothing begins at the newest seq, with no check bits: so a beginning has an age, too.

use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::{Delivery, MailboxPage, NoticeKind, Position, Recipient, UnixMs};

use super::disk::{DatabaseError, DiskError, Row, Table, View};
use super::keys;
use super::tables::RowKind;
use super::write_batch::BatchBuilder;

/// Rows examined in one read: bounds the time of a page that meets nothing but superseded rows.
const ROWS_PER_READ_MAX: usize = 1024;
/// Stubs removed from one mailbox in one step of retention.
const STUBS_MAX: usize = 256;
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
        // What is trimmed is the row that this key names: a key that names none is no key.
        let (mailbox, _) = key.split_last_chunk::<8>()?;
        keys::recipient(mailbox).map(|_| Self { kind, key: key.to_vec() })
    }
}

/// Sixteen bits of a notice's id, for its position.
pub(crate) fn check_bits(id: &str) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(id.as_bytes()) & 0xffff) as u16
}

/// The last row of a mailbox that was removed: every row up to here is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) seq: u64,
    pub(crate) check: u16,
    /// When it was removed.
    pub(crate) at: UnixMs,
}

impl Floor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.seq.to_be_bytes().as_slice(), &self.check.to_be_bytes(), &self.at.0.to_be_bytes()].concat()
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let (seq, rest) = row.split_first_chunk::<8>()?;
        let (check, at) = rest.split_first_chunk::<2>()?;
        let at = UnixMs(i64::from_be_bytes(at.try_into().ok()?));
        Some(Self { seq: u64::from_be_bytes(*seq), check: u16::from_be_bytes(*check), at })
    }
}

/// The floor of a mailbox; none when nothing was removed, or when that is so long ago that the floor was forgotten.
pub(crate) fn read_floor(view: &View<'_>, mailbox: &[u8]) -> Result<Option<Floor>, DiskError> {
    view.decoded(Table::Meta, &keys::floor(mailbox), "the floor of a mailbox", Floor::decode)
}

/// The highest floor that was forgotten, over all mailboxes.
pub(crate) fn forgotten(view: &View<'_>) -> Result<u64, DiskError> {
    Ok(view.number(keys::FORGOTTEN)?.unwrap_or(0))
}

/// The newest seq that was given out, over all mailboxes.
fn newest_seq(view: &View<'_>) -> Result<u64, DiskError> {
    Ok(view.number(keys::SEQ)?.unwrap_or(0))
}

/// The newest seq that was given out, as far as what is stored says it: no row, no floor and no forgotten floor is above it.
pub(crate) fn highest_stored_seq(view: &View<'_>) -> Result<u64, DatabaseError> {
    let mut highest = view.pass_over(forgotten(view))?.unwrap_or(0);
    for row in view.rows(Table::Mailboxes, &[], &[0xff; 64]) {
        let (key, _) = row?;
        if RowKind::of(Table::Mailboxes, &key) == Some(RowKind::Mail) {
            highest = highest.max(view.pass_over(seq_of(&key))?.unwrap_or(0));
        }
    }
    let (from, to) = RowKind::Floor.range();
    for row in view.rows(Table::Meta, &from, &to) {
        highest = highest.max(Floor::decode(&row?.1).map_or(0, |floor| floor.seq));
    }
    Ok(highest)
}

/// Removes a floor below which nothing refers any more: the mailbox is empty, and its recipient has neither open orders nor cursors. `key` and
/// `row` are the floor's, which is old enough. A row above it that does not decode keeps the floor, as a live one does.
pub(crate) fn forget_floor(
    view: &View<'_>,
    batch: &mut BatchBuilder<'_>,
    (key, row): (&[u8], &[u8]),
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let mailbox = &key[1..];
    let Some(floor) = Floor::decode(row) else { return Ok(()) };
    let (from, end) = (keys::mail(mailbox, floor.seq + 1), keys::mail(mailbox, u64::MAX));
    let mut is_empty = true;
    for row in view.rows(Table::Mailboxes, &from, &end).take(STUBS_MAX) {
        let (key, row) = row?;
        is_empty = false;
        match view.pass_over(decode_numbered(&key, &row))? {
            // What a long row of stubs left above a floor: it becomes the floor.
            Some((seq, row)) if row.is_stub() => batch.remove_lowest(mailbox, (&key, seq), &row, now),
            _ => break,
        }
    }
    let is_used = |prefix: Vec<u8>| {
        let first = view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).next();
        first.transpose().map(|row| row.is_some())
    };
    if is_empty && !is_used(keys::open_orders_of_mailbox(mailbox))? && !is_used(keys::cursors_of_mailbox(mailbox))? {
        batch.forget_floor(mailbox, floor.seq);
    }
    Ok(())
}

/// Rows of a mailbox that hold a notice; stubs do not count. Where the stored count is damaged they are counted, and the next change of the
/// mailbox stores the result: nothing else was in that row.
pub(crate) fn count(view: &View<'_>, mailbox: &[u8]) -> Result<u64, DatabaseError> {
    if let Some(stored) = view.pass_over(view.number(&keys::count(mailbox)))? {
        return Ok(stored.unwrap_or(0));
    }
    let mut count = 0;
    for row in view.rows(Table::Mailboxes, mailbox, &keys::mail(mailbox, u64::MAX)) {
        let (_, row) = row?;
        // One that does not decode may hold a notice.
        count += u64::from(MailRow::decode(&row).is_none_or(|row| !row.is_stub()));
    }
    Ok(count)
}

pub(crate) fn seq_of(key: &[u8]) -> Result<u64, DiskError> {
    keys::trailing_number(Table::Mailboxes, key)
}

/// A row of a mailbox that was read with its key.
pub(crate) fn decode_row(key: &[u8], row: &[u8]) -> Result<MailRow, DiskError> {
    MailRow::decode(row).ok_or_else(|| DiskError::damaged(Table::Mailboxes, key, "a mailbox row"))
}

/// The same, with the seq that its key ends with.
pub(crate) fn decode_numbered(key: &[u8], row: &[u8]) -> Result<(u64, MailRow), DiskError> {
    Ok((seq_of(key)?, decode_row(key, row)?))
}

/// The mailbox row of `key`, if it is still there.
pub(crate) fn read_row(view: &View<'_>, key: &[u8]) -> Result<Option<MailRow>, DiskError> {
    view.decoded(Table::Mailboxes, key, "a mailbox row", MailRow::decode)
}

/// An entry of a notice index that was read with its key.
pub(crate) fn decode_index(key: &[u8], entry: &[u8]) -> Result<IndexEntry, DiskError> {
    IndexEntry::decode(entry).ok_or_else(|| DiskError::damaged(Table::Orders, key, "an entry of the notice index"))
}

/// Why a mailbox cannot be read from a position.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MailboxError {
    /// The position is from another epoch, beyond the head, or has wrong check bits.
    #[error("the position belongs to another epoch of this mailbox")]
    EpochChanged,
    /// The position is older than what is kept.
    #[error("the position is older than the retained notices")]
    PositionExpired,
    /// The files cannot be read, or a row is damaged.
    #[error("the mailbox cannot be read")]
    Disk(#[from] DiskError),
}

impl From<DatabaseError> for MailboxError {
    fn from(error: DatabaseError) -> Self {
        Self::Disk(error.into())
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
        Self::with_prefix(view, keys::mailbox(who), epoch)
    }

    /// The mailbox with this key.
    pub(crate) fn with_prefix(view: &'a View<'a>, prefix: Vec<u8>, epoch: u32) -> Self {
        Self { view, prefix, epoch }
    }

    fn position(&self, seq: u64, check: u16) -> Position {
        Position { epoch: self.epoch, seq, check }
    }

    fn rows(&self) -> impl DoubleEndedIterator<Item = Result<Row, DatabaseError>> + use<> {
        self.view.rows(Table::Mailboxes, &self.prefix, &keys::mail(&self.prefix, u64::MAX))
    }

    /// Where a reader begins that has read nothing: every row of the mailbox comes after it. Without a floor, that is the newest seq of the
    /// ledger, or just below the mailbox's first row.
    pub(crate) fn floor(&self) -> Result<Position, DiskError> {
        if let Some(floor) = read_floor(self.view, &self.prefix)? {
            return Ok(self.position(floor.seq, floor.check));
        }
        let seq = match self.rows().next() {
            Some(first) => seq_of(&first?.0)?.saturating_sub(1),
            None => newest_seq(self.view)?,
        };
        Ok(self.position(seq, 0))
    }

    /// The position of the newest row; none when the mailbox is empty.
    pub(crate) fn head(&self) -> Result<Option<Position>, DiskError> {
        let Some(last) = self.rows().next_back() else { return Ok(None) };
        let (key, row) = last?;
        Ok(Some(self.position(seq_of(&key)?, decode_row(&key, &row)?.check)))
    }

    /// Checks that this mailbox gave out `position`, and that every row after it is still here.
    pub(crate) fn validate_position(&self, position: Position, head: Option<Position>) -> Result<(), MailboxError> {
        if position.epoch != self.epoch {
            return Err(MailboxError::EpochChanged);
        }
        let floor = read_floor(self.view, &self.prefix)?;
        if let Some(floor) = floor
            && position.seq <= floor.seq
        {
            return match position {
                Position { seq, check, .. } if (seq, check) == (floor.seq, floor.check) => Ok(()),
                Position { seq, .. } if seq == floor.seq => Err(MailboxError::EpochChanged),
                _ => Err(MailboxError::PositionExpired),
            };
        }
        if head.is_some_and(|head| position.seq > head.seq) {
            return Err(MailboxError::EpochChanged);
        }
        match read_row(self.view, &keys::mail(&self.prefix, position.seq))? {
            Some(row) if row.check == position.check => Ok(()),
            Some(_) => Err(MailboxError::EpochChanged),
            None if floor.is_some() => Err(MailboxError::EpochChanged),
            None => self.validate_without_row(position),
        }
    }

    /// A position that no row has, in a mailbox that has no floor: where a reader began ([`Self::floor`]; no check bits), or where the floor
    /// was that has been forgotten. All floors that were forgotten are at or below one number, so above it nothing was removed unseen.
    fn validate_without_row(&self, position: Position) -> Result<(), MailboxError> {
        let forgotten = forgotten(self.view)?;
        if position.seq > newest_seq(self.view)? || (position.check != 0 && position.seq > forgotten) {
            return Err(MailboxError::EpochChanged);
        }
        let is_beginning = position.check == 0 && (position.seq >= forgotten || position == self.floor()?);
        if is_beginning { Ok(()) } else { Err(MailboxError::PositionExpired) }
    }

    /// The read function: live notices after `after`, at most `limit`; rows up to `scan` are known to hold none.
    pub(crate) fn read(
        &self,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<MailboxPage, MailboxError> {
        let head = self.head()?;
        self.validate_position(after, head)?;
        let begin = if scan.seq > after.seq { scan } else { after };
        let head = head.unwrap_or(begin);
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
