//! Stored rows that do not decode, or that miss the row that they refer to.
//!
//! Such a row is never left out of an answer: a till would take the order off its screen. The request fails with 503, and the row raises the
//! alert `ledger_damaged` until the restart. The log names a row by its table and a hash of its key, never by its content.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use orderbell_ledger::DiskError;
use orderbell_orders::sha256;
use serde::de::DeserializeOwned;

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
    Disk(DiskError),
    /// A row is damaged.
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
    pub fn check<T>(&self, read: Result<T, DiskError>) -> Result<T, LedgerReadError> {
        read.map_err(|error| self.record_failure(error))
    }

    /// The same for a read that has failed.
    pub fn record_failure(&self, error: DiskError) -> LedgerReadError {
        match &error {
            DiskError::DamagedRow { table, key, what, .. } => self.record(table, &[key.as_bytes()], what).into(),
            DiskError::Database(_) => {
                tracing::error!(%error, "the ledger cannot be read");
                LedgerReadError::Disk(error)
            }
        }
    }

    /// Remembers a damaged row, and logs it when it is new.
    pub fn record(&self, table: &'static str, key: &[&[u8]], what: impl fmt::Display) -> DamagedRow {
        let hash = sha256::hash_64(key);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < ROWS_MAX && rows.insert((table, hash)) {
            tracing::error!(table, key_hash = format!("{hash:016x}"), %what, "a stored row is damaged");
        }
        DamagedRow(())
    }

    /// The text of the alert for the rows of all these together; none when every row decoded.
    #[must_use]
    pub fn alert_detail(all: &[&Self]) -> Option<String> {
        let mut rows = BTreeSet::new();
        for one in all {
            rows.extend(one.rows.lock().unwrap_or_else(PoisonError::into_inner).iter().copied());
        }
        let mut by_table = BTreeMap::<&str, usize>::new();
        rows.iter().for_each(|(table, _)| *by_table.entry(table).or_default() += 1);
        let counts: Vec<String> = by_table.iter().map(|(table, count)| format!("{table} ({count})")).collect();
        (!counts.is_empty()).then(|| {
            format!(
                "since the start, damaged rows in: {}; requests for them are answered 503, and the log names them by hash",
                counts.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_row_is_counted_once_and_named_in_the_alert_by_its_table() {
        let (one, other) = (LedgerDamage::default(), LedgerDamage::default());
        assert_eq!(one.decode::<u64>("orders", &[b"o1"], b"7"), Ok(7));
        assert_eq!(LedgerDamage::alert_detail(&[&one, &other]), None);
        for damage in [&one, &one, &other] {
            assert_eq!(damage.decode::<u64>("orders", &[b"o1"], b"{"), Err(DamagedRow(())));
        }
        other.record("meta", &[b"k"], "a cursor");
        let detail = LedgerDamage::alert_detail(&[&one, &other]).unwrap();
        assert!(detail.contains("in: meta (1), orders (1);"), "{detail}");
    }
}
