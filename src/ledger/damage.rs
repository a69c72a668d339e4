//! Stored rows that do not decode, or that miss the row that they refer to.
//!
//! Such a row is never left out of an answer: a till would take the order off its screen. A request for it fails. The writer, which serves
//! everybody, passes it over and goes on with the next (`View::pass_over`); the row stays as it is, unless what it should hold is known.
//! Whoever meets it, it is recorded here and raises the alert `ledger_damaged` until the restart. The log names a row by its table and a hash of
//! its key, never by its content.
//!
//! What the writer does where a row is damaged. It errs to the safe side:
//!
//! | row | the writer |
//! |---|---|
//! | mailbox row | counts as live: no floor passes it, nothing removes it |
//! | entry of the notice index | stays with the mailbox row that it names; the notice is not superseded |
//! | floor, cursor, event id, loss without a date | stays; the next one written in its place is complete in itself |
//! | event id | counts as new: an event that is appended twice is applied once |
//! | record of the embedded log | goes with the record that was appended after it, when that is due |
//! | checkpoint | counts as none: what the log holds is read again, with no effect twice |
//! | next offset, first offset, row count, number of stores | known from other rows, and written again |
//! | sums of a bucket | stay, and the bucket is not counted: a sum that began again would look like a sum |
//! | newest seq | known from other rows; a new epoch begins |
//! | epoch | a new one begins |
//! | highest forgotten floor | the newest seq: readers are sent away who would have missed nothing |
//! | entry of the outbox | stays, and blocks nothing |
//! | format | the start is refused |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3;

use super::disk::{DatabaseError, DiskError};

/// Rows that are remembered, and so logged once each. More damage than this is one more line in no log: the alert stands.
const ROWS_MAX: usize = 1_000;

/// A stored row is damaged. It is in the log and raises an alert: only [`LedgerDamage`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored row is damaged")]
pub struct DamagedRow(());

/// A read of the ledger failed. It is in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerReadError {
    /// The files cannot be read.
    #[error(transparent)]
    Database(DatabaseError),
    /// The files work, and one row of them does not decode.
    #[error(transparent)]
    Damaged(#[from] DamagedRow),
}

/// Remembers the rows that were found damaged since the start.
#[derive(Debug, Default)]
pub struct LedgerDamage {
    /// By table and hash of the key.
    rows: Mutex<BTreeSet<(&'static str, u64)>>,
}

impl LedgerDamage {
    /// Decodes a row of `table`, whose key is made of these parts.
    ///
    /// # Errors
    /// [`DamagedRow`].
    pub fn decode<T: DeserializeOwned>(&self, table: &'static str, key: &[&[u8]], row: &[u8]) -> Result<T, DamagedRow> {
        // The JSON library's message may quote the row.
        serde_json::from_slice(row)
            .map_err(|error| self.record(table, key, format_args!("line {}, column {}", error.line(), error.column())))
    }

    /// Logs why a read failed, and remembers a damaged row.
    ///
    /// # Errors
    /// The same failure.
    pub fn check<T>(&self, read: Result<T, impl Into<DiskError>>) -> Result<T, LedgerReadError> {
        read.map_err(|error| self.record_failure(error.into()))
    }

    /// The same for a read that has failed.
    pub fn record_failure(&self, error: DiskError) -> LedgerReadError {
        match &error {
            DiskError::DamagedRow { table, key, what, .. } => self.record(table, &[key.as_bytes()], what).into(),
            DiskError::Database(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                LedgerReadError::Database(error.clone())
            }
        }
    }

    /// Remembers a damaged row, and logs it when it is new.
    pub fn record(&self, table: &'static str, key: &[&[u8]], what: impl fmt::Display) -> DamagedRow {
        let hash = hash_of(key);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < ROWS_MAX && rows.insert((table, hash)) {
            tracing::error!(table, key_hash = format!("{hash:016x}"), %what, "a stored row is damaged");
        }
        DamagedRow(())
    }

    /// How many damaged rows were found in each table.
    #[must_use]
    pub fn rows_by_table(&self) -> BTreeMap<&'static str, usize> {
        let mut by_table = BTreeMap::new();
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().for_each(|(table, _)| *by_table.entry(*table).or_default() += 1);
        by_table
    }
}

/// Each part with its length, so that no two lists of parts are the same input.
fn hash_of(key: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in key {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_row_is_counted_once_by_its_table() {
        let damage = LedgerDamage::default();
        assert_eq!(damage.decode::<u64>("orders", &[b"o1"], b"7"), Ok(7));
        assert_eq!(damage.rows_by_table(), BTreeMap::new());
        for _ in 0..2 {
            assert_eq!(damage.decode::<u64>("orders", &[b"o1"], b"{"), Err(DamagedRow(())));
        }
        damage.record("meta", &[b"k"], "a cursor");
        damage.record("meta", &[b"", b"k"], "a cursor");
        assert_eq!(damage.rows_by_table(), BTreeMap::from([("meta", 2), ("orders", 1)]));
    }
}
