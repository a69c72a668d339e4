//! Detects a ledger that lost commits. Commits are numbered, and each leaves a small mark in every table that it touches.
//!
//! ```text
//!   commit 812 touches orders, mailboxes, meta:   orders #812   mailboxes #812   meta #812        each says: 812, and all three
//! ```
//!
//! The marks of the last 65,536 commits must be without a gap at open, each in all the tables it names: a journal that was cut in the middle
//! while later parts were replayed, or a table that lost its tail, shows as a number that is missing somewhere. A ledger that was rolled back
//! to an older copy is intact; that the consumer group's offset is beyond our checkpoint shows that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::disk::{Batch, DatabaseError, DiskError, Row, Table, View};
use super::keys;
use super::tables::RowKind;

/// Marks that are kept: minutes of the busiest day, so that a fault is seen at the next start.
pub(crate) const MARKS_KEPT: u64 = 65_536;

/// What the marks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Integrity {
    /// No commit is missing; this is the newest number (0: none yet).
    Intact(u64),
    /// Which commit is missing, in words; and the newest number all the same.
    Damaged(String, u64),
}

/// A mark: the commit's number and the tables that it touched.
pub(crate) fn encode_mark(number: u64, touched: u8) -> [u8; 9] {
    let mut mark = [touched; 9];
    mark[..8].copy_from_slice(&number.to_be_bytes());
    mark
}

/// Checks the marks of all tables.
pub(crate) fn check(view: &View<'_>) -> Result<Integrity, DatabaseError> {
    // Damaged, it excuses no older gap: what that shows is a damage, too, and stores the number again.
    let from = view.pass_over(view.number(keys::MARKS_FROM))?.flatten().unwrap_or(1);
    // By number: the tables that the mark names, and those in which it was found.
    let mut seen: BTreeMap<u64, (u8, u8)> = BTreeMap::new();
    let mut unreadable = None;
    for table in Table::ALL {
        for mark in view.rows(table, &keys::commit_mark(0), &keys::after_prefix(keys::COMMIT_MARKS)) {
            let (key, mark) = mark?;
            let Some((number, [touched])) = mark.split_first_chunk::<8>() else {
                unreadable = Some(DiskError::damaged(table, &key, "a commit mark").to_string());
                continue;
            };
            let entry = seen.entry(u64::from_be_bytes(*number)).or_default();
            *entry = (entry.0 | touched, entry.1 | table.bit());
        }
    }
    let judged = judge(&seen, from);
    Ok(match (unreadable, judged) {
        (Some(why), Integrity::Intact(newest)) => Integrity::Damaged(why, newest),
        (_, judged) => judged,
    })
}

/// `from` is the first number that counts: after a damage was found, the marks are checked from there only.
fn judge(seen: &BTreeMap<u64, (u8, u8)>, from: u64) -> Integrity {
    let Some((&newest, _)) = seen.last_key_value() else { return Integrity::Intact(0) };
    // Marks of older numbers may be overwritten in one table and not in another.
    let first = newest.saturating_sub(MARKS_KEPT - 1).max(from);
    for (expected, (&number, &(named, found))) in (first..).zip(seen.range(first..)) {
        if number != expected {
            return Integrity::Damaged(format!("commit {expected} is missing, {newest} is there"), newest);
        }
        if named & !found != 0 {
            return Integrity::Damaged(format!("commit {number} is incomplete"), newest);
        }
    }
    Integrity::Intact(newest)
}

/// Begins an epoch after `old`; none when that is not known. With a reason to rebuild, marks are checked from the commit after `newest` on, and
/// the reason is stored until the topics have been read again to their end.
pub(crate) fn begin_epoch(batch: &mut Batch<'_>, old: Option<u32>, rebuild_reason: Option<&str>, newest: u64) -> u32 {
    // Seconds tell epochs apart: two do not begin within one. One that is not known may have begun in this second.
    let now_s = (super::committer::now().0 / 1000).clamp(0, i64::from(u32::MAX)) as u32;
    let epoch = now_s.max(old.unwrap_or(now_s).saturating_add(1));
    batch.put(RowKind::Fact, keys::EPOCH, &epoch.to_be_bytes());
    if let Some(reason) = rebuild_reason {
        batch.put(RowKind::Fact, keys::MARKS_FROM, &(newest + 1).to_be_bytes());
        batch.put(RowKind::Fact, keys::REBUILDING, reason.as_bytes());
    }
    epoch
}

/// Rows that no topic can give back: the outbox, dead letters, losses, the balance (a record that is read again is counted again: better twice than
/// an alert that nobody saw), the ledger's id and epoch.
pub(crate) fn irreplaceable_rows(view: &View<'_>) -> Result<Vec<(RowKind, Row)>, DatabaseError> {
    let mut rows = Vec::new();
    for kind in [RowKind::OutboxEntry, RowKind::DeadLetter, RowKind::Loss, RowKind::Balance, RowKind::PartitionCount] {
        let (from, to) = kind.range();
        for row in view.rows(kind.table(), &from, &to) {
            rows.push((kind, row?));
        }
    }
    for key in [keys::LEDGER_ID, keys::EPOCH] {
        rows.extend(view.row(Table::Meta, key)?.map(|value| (RowKind::Fact, (key.to_vec(), value))));
    }
    Ok(rows)
}

/// Renames a database so that it can be examined later; returns its new path.
pub(crate) fn quarantine(db: &Path, at_ms: i64) -> std::io::Result<PathBuf> {
    let quarantined = db.with_extension(format!("quarantined-{at_ms}"));
    std::fs::rename(db, &quarantined)?;
    Ok(quarantined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge_marks(numbers: &[(u64, u8, u8)]) -> Integrity {
        judge(&numbers.iter().map(|(number, named, found)| (*number, (*named, *found))).collect(), 1)
    }

    #[test]
    fn a_missing_mark_is_found() {
        assert_eq!(judge_marks(&[]), Integrity::Intact(0));
        assert_eq!(judge_marks(&[(1, 0b1000, 0b1000), (2, 0b1010, 0b1010)]), Integrity::Intact(2));
        let gap = judge_marks(&[(1, 1, 1), (3, 1, 1)]);
        assert!(matches!(gap, Integrity::Damaged(why, 3) if why.contains("commit 2 is missing")));
        assert!(matches!(judge_marks(&[(2, 1, 1)]), Integrity::Damaged(..)), "the first is missing");
        let torn = judge_marks(&[(1, 0b11, 0b01)]);
        assert!(matches!(torn, Integrity::Damaged(why, 1) if why.contains("commit 1 is incomplete")));
        // Older marks than those that are kept are not checked.
        let kept = (MARKS_KEPT + 5..2 * MARKS_KEPT + 5).map(|number| (number, 1, 1));
        let marks = [(3, 0b11, 0b01)].into_iter().chain(kept).collect::<Vec<_>>();
        assert_eq!(judge_marks(&marks), Integrity::Intact(2 * MARKS_KEPT + 4));
    }
}
