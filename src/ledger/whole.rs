//! Is this ledger whole? Commits are numbered, and each leaves a small row in every keyspace that it touches.
//!
//! ```text
//!   commit 812 touches orders, mail, meta:   orders #812   mail #812   meta #812        each says: 812, and all three
//! ```
//!
//! A ring of the last 65,536 numbers must be without a gap at open, each in all the keyspaces it names: a journal that was cut in the middle
//! while later ones were replayed, or a keyspace that lost its tail, shows as a number that is missing somewhere. A ledger that merely went
//! back as a whole is whole; Kafka's group offset beyond our frontier shows that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::disk::{Batch, DiskError, Row, Space, View};
use super::keys;

/// Numbers that the ring holds: minutes of the busiest day, so that a fault is seen at the next start.
pub(crate) const RING: u64 = 65_536;

/// What the ring says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// Nothing is missing; this is the newest number (0: none yet).
    Yes(u64),
    /// Something is, in words; and the newest number all the same.
    No(String, u64),
}

pub(crate) fn row(number: u64, touched: u8) -> [u8; 9] {
    let mut row = [touched; 9];
    row[..8].copy_from_slice(&number.to_be_bytes());
    row
}

/// Looks at the ring.
pub(crate) fn look(view: &View<'_>) -> Result<Whole, DiskError> {
    let from =
        view.row(Space::Meta, keys::RING_FROM)?.and_then(|row| row.try_into().ok()).map_or(1, u64::from_be_bytes);
    // By number: the keyspaces that it named, and those in which it was found.
    let mut seen: BTreeMap<u64, (u8, u8)> = BTreeMap::new();
    for space in Space::ALL {
        for found in view.rows(space, &keys::ring(0), &keys::after_prefix(keys::RING)) {
            let (_, found) = found?;
            let Some((number, rest)) = found.split_first_chunk::<8>() else { continue };
            let touched = rest.first().copied().unwrap_or_default();
            let entry = seen.entry(u64::from_be_bytes(*number)).or_default();
            *entry = (entry.0 | touched, entry.1 | space.bit());
        }
    }
    Ok(judge(&seen, from))
}

/// `from` is the first number that counts: the ring of a ledger that was doubted begins anew.
fn judge(seen: &BTreeMap<u64, (u8, u8)>, from: u64) -> Whole {
    let Some((&newest, _)) = seen.last_key_value() else { return Whole::Yes(0) };
    // Rows of older numbers may be overwritten in one keyspace and not in another.
    let first = newest.saturating_sub(RING - 1).max(from);
    for (expected, (&number, &(named, found))) in (first..).zip(seen.range(first..)) {
        if number != expected {
            return Whole::No(format!("commit {expected} is missing, {newest} is there"), newest);
        }
        if named & !found != 0 {
            return Whole::No(format!("commit {number} is not whole"), newest);
        }
    }
    Whole::Yes(newest)
}

/// Begins an epoch behind `old`. With a doubt, the ring begins anew behind `newest`, and the mark that says why stays until the log was read
/// again to its end.
pub(crate) fn begin_epoch(batch: &mut Batch<'_>, old: u32, doubt: Option<&str>, newest: u64) -> u32 {
    // Seconds tell epochs apart: two do not begin within one.
    let now_s = u32::try_from(super::committer::now().0 / 1000).unwrap_or(u32::MAX);
    let epoch = now_s.max(old.saturating_add(1));
    batch.put(Space::Meta, keys::EPOCH, &epoch.to_be_bytes());
    if let Some(why) = doubt {
        batch.put(Space::Meta, keys::RING_FROM, &(newest + 1).to_be_bytes());
        batch.put(Space::Meta, keys::REBUILDING, why.as_bytes());
    }
    epoch
}

/// What was promised and stands nowhere else: the outbox, dead letters, the ledger's name and epoch.
pub(crate) fn promised(view: &View<'_>) -> Result<Vec<Row>, DiskError> {
    let mut rows = Vec::new();
    for prefix in [&b"x"[..], b"d"] {
        for row in view.rows(Space::Meta, prefix, &keys::after_prefix(prefix)) {
            rows.push(row?);
        }
    }
    for key in [keys::LEDGER_ID, keys::EPOCH] {
        rows.extend(view.row(Space::Meta, key)?.map(|value| (key.to_vec(), value)));
    }
    Ok(rows)
}

/// Moves a database out of the way, for whoever wants to look into it; where it is now.
pub(crate) fn set_aside(db: &Path, at_ms: i64) -> std::io::Result<PathBuf> {
    let aside = db.with_extension(format!("aside-{at_ms}"));
    std::fs::rename(db, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(numbers: &[(u64, u8, u8)]) -> Whole {
        judge(&numbers.iter().map(|(number, named, found)| (*number, (*named, *found))).collect(), 1)
    }

    #[test]
    fn what_is_missing_is_seen() {
        assert_eq!(ring(&[]), Whole::Yes(0));
        assert_eq!(ring(&[(1, 0b1000, 0b1000), (2, 0b1010, 0b1010)]), Whole::Yes(2));
        assert!(matches!(ring(&[(1, 1, 1), (3, 1, 1)]), Whole::No(why, 3) if why.contains("commit 2 is missing")));
        assert!(matches!(ring(&[(2, 1, 1)]), Whole::No(..)), "the first is missing");
        assert!(matches!(ring(&[(1, 0b11, 0b01)]), Whole::No(why, 1) if why.contains("commit 1 is not whole")));
        // Below the ring nothing is asked.
        let old = (RING + 5..2 * RING + 5).map(|number| (number, 1, 1));
        assert_eq!(ring(&[(3, 0b11, 0b01)].into_iter().chain(old).collect::<Vec<_>>()), Whole::Yes(2 * RING + 4));
    }
}
