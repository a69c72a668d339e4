//! The outbox: Orderbell's own events that are still to be published, durable in the batch of their cause.
//!
//! On Kafka an event stays here until the output topic has acknowledged it; the publisher reads each entry once, in order, and removes those
//! that were acknowledged. An entry that was published and not removed before a crash is published again, with the same event id. In embedded mode
//! the outbox stays empty: the log is in the same database, so the event is appended in the very batch.
//!
//! An entry that does not decode can never be published. It raises the alert `ledger_damaged` and blocks nothing: the entries behind it follow,
//! also those of its own order, which cannot be distinguished from others. It stays in the outbox, so that the alert comes again after each start until
//! somebody deals with it (docs/decisions/0046).

use orderbell_consumers::{DeadLetter, OutRecord};
use orderbell_protocol::balance::BinDelta;

use super::committer::{self, Work};
use super::dead_letters::StoredDeadLetter;
use super::disk::{DatabaseError, DiskError, Row, Table, View};
use super::effects::LedgerFailed;
use super::embedded_log::LogFields;
use super::tables::RowKind;
use super::{Ledger, embedded_log, keys};

/// Where Orderbell's own events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishTo {
    /// Into the embedded log, in the batch of their cause.
    EmbeddedLog,
    /// Into the outbox, until the output topic has acknowledged them.
    Outbox,
}

/// An event that is still to be published.
#[derive(Clone, Debug)]
pub struct OutboxEntry {
    /// Its number; grows.
    pub number: u64,
    /// What is to be published.
    pub record: OutRecord,
}

/// Events to publish: the handle that reads and finishes them.
#[derive(Clone, Copy)]
pub struct Outbox<'a>(pub(super) &'a Ledger);

impl Outbox<'_> {
    /// The oldest entries from number `from` on, at most `max`, without those that do not decode. Entries become visible in the order of their
    /// numbers.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn pending(self, from: u64, max: usize) -> Result<Vec<OutboxEntry>, DatabaseError> {
        let view = self.0.disk.view();
        let rows = view.rows(Table::Meta, &keys::outbox(from), &keys::outbox(u64::MAX));
        let entries = rows.filter_map(|row| row.and_then(|row| view.pass_over(decode(row))).transpose());
        entries.take(max).collect()
    }

    /// Waits until the outbox has grown; growth before the call is not lost.
    pub async fn wait_for_growth(self) {
        self.0.outbox_grown.notified().await;
    }

    /// Removes entries that the output topic has acknowledged, and returns when that is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn delivered(self, numbers: Vec<u64>) -> Result<(), LedgerFailed> {
        self.0.submit(|reply| Work::OutboxDelivered(numbers, reply)).await
    }

    /// Replaces an entry that the output topic refused for good by a dead letter, counts that in the balance in the same batch, and returns when it
    /// is durable: whatever ends in between, the event is counted once.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn refused(
        self,
        number: u64,
        dead_letter: &DeadLetter,
        deltas: Vec<BinDelta>,
    ) -> Result<(), LedgerFailed> {
        let row = StoredDeadLetter::of(dead_letter, committer::now()).encode();
        self.0.submit(|reply| Work::OutboxRefused(number, row, deltas, reply)).await
    }
}

fn decode((key, row): Row) -> Result<OutboxEntry, DiskError> {
    let number = keys::trailing_number(Table::Meta, &key)?;
    let fields = embedded_log::fields(&row.into());
    let LogFields { timestamp_ms, key, headers, value } =
        fields.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "an entry of the outbox"))?;
    Ok(OutboxEntry { number, record: OutRecord { key: Some(key), value, headers, timestamp_ms } })
}

/// The number after the newest entry.
pub(crate) fn next(view: &View<'_>) -> Result<u64, DatabaseError> {
    Ok(keys::newest_number(view, RowKind::OutboxEntry)?.map_or(0, |newest| newest + 1))
}
