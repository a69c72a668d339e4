//! How async tasks read the ledger. One rule, kept by two types:
//!
//! - A read of a bounded number of rows by their keys (an order, a cursor, one page of a mailbox) runs where it is called. The push and the poll
//!   path consist of such reads: a hop to another thread would cost more than the read.
//! - A read that scans (open orders, stores, a timeline, a mailbox's tail, dead letters, due expiries) runs on a blocking thread.
//!
//! [`LedgerHandle`] offers the first kind as methods, and nothing else of the ledger but what is queued without reading. Everything else is
//! reached through [`Blocking`] alone, which lends what it holds to closures on blocking threads; the admin routes hold their parts in it as
//! well. Two calls need no hop: [`Orders::check_client_event`](super::Orders) reads one order, and a backup has a blocking thread of its own,
//! because it writes while it reads.
//!
//! Whatever reads a mailbox for a client, or for an operator, reads it here: push, poll and the tail. So a row that does not decode is logged and
//! raises the alert `ledger_damaged` whoever meets it, and its reader learns only that the mailbox is unavailable.
//!
//! Refused: `block_in_place`, which stops the other tasks of its worker and does not exist on the runtime of a test.

use std::sync::Arc;

use orderbell_ledger::{
    Appended, ConnectedDevice, DamagedRow, DeliveryStep, Ledger, LedgerFailed, LedgerReadError, MailboxError, NewEvent,
};
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, MailboxPage, Position, Problem, ReadError, Recipient, UnixMs};

use super::identity_rates::Identity;
use super::response::Refusal;

/// Work on a blocking thread panicked, or the runtime ends.
#[derive(Debug, thiserror::Error)]
#[error("the work on a blocking thread did not finish")]
pub struct BlockingFailed(#[from] tokio::task::JoinError);

/// Something whose calls block: it can be reached on a blocking thread only.
pub struct Blocking<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Clone for Blocking<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized + Send + Sync + 'static> Blocking<T> {
    /// Lends `inner` to closures on blocking threads.
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }

    /// Runs `work` on a blocking thread and waits for what it returns.
    ///
    /// # Errors
    /// [`BlockingFailed`].
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&T) -> R + Send + 'static,
    ) -> Result<R, BlockingFailed> {
        let inner = self.0.clone();
        Ok(tokio::task::spawn_blocking(move || work(&inner)).await?)
    }
}

/// The ledger as requests and connections may use it.
pub(crate) struct LedgerHandle {
    ledger: Arc<Ledger>,
    scans: Blocking<Ledger>,
}

impl LedgerHandle {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { scans: Blocking::new(ledger.clone()), ledger }
    }

    /// Runs reads of any size on a blocking thread.
    ///
    /// # Errors
    /// [`BlockingFailed`].
    pub(super) async fn scan<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> R + Send + 'static,
    ) -> Result<R, BlockingFailed> {
        self.scans.run(work).await
    }

    /// A page of a mailbox: [`orderbell_ledger::Mailboxes::read`].
    pub(crate) fn read(
        &self,
        who: &Recipient,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<MailboxPage, ReadError> {
        self.ledger.mailboxes().read(who, after, scan, limit, now).map_err(|error| self.reader_error(error))
    }

    /// Two point reads: [`orderbell_ledger::Devices::cursor_and_head`].
    pub(crate) fn cursor_and_head(&self, who: &Recipient, device: &DeviceId) -> Result<(Cursor, Position), ReadError> {
        self.ledger.devices().cursor_and_head(who, device).map_err(|error| self.reader_error(error.into()))
    }

    /// The problem that a reader of a mailbox gets. What concerns the operator is recorded.
    fn reader_error(&self, error: MailboxError) -> ReadError {
        match error {
            MailboxError::EpochChanged => ReadError::EpochChanged,
            MailboxError::PositionExpired => ReadError::PositionExpired,
            MailboxError::Disk(error) => {
                let _logged = self.ledger.damage().record_failure(error);
                ReadError::Unavailable
            }
        }
    }

    /// A point read: [`orderbell_ledger::Devices::is_bound`].
    pub(crate) fn is_bound(&self, who: &Recipient, device: &DeviceId) -> Result<bool, ReadError> {
        self.ledger.devices().is_bound(who, device).map_err(|error| self.reader_error(error.into()))
    }

    /// [`orderbell_ledger::Devices::save_cursor`]: queued.
    pub(crate) fn save_cursor(&self, client: Identity<'_>, cursor: Cursor) -> u64 {
        self.ledger.devices().save_cursor(client.who, client.device, cursor, client.binding)
    }

    /// [`orderbell_ledger::Devices::cursors_durable`].
    pub(crate) async fn cursors_durable(&self) -> Result<(), LedgerFailed> {
        self.ledger.devices().cursors_durable().await
    }

    /// [`orderbell_ledger::Devices::connect`], and a future that returns when that is durable.
    pub(crate) fn connect(
        &self,
        who: &Recipient,
        device: &DeviceId,
    ) -> (ConnectedDevice, impl Future<Output = Result<(), LedgerFailed>> + Send + use<>) {
        let (ledger, who, device) = (self.ledger.clone(), who.clone(), device.clone());
        let connected = ledger.devices().connect(&who, &device);
        (connected, async move { ledger.devices().mark_connected(&who, &device).await })
    }

    /// [`orderbell_ledger::DeliveryLog::record`]: queued.
    pub(crate) fn log_delivery(&self, who: &Recipient, device: &DeviceId, step: DeliveryStep) {
        self.ledger.delivery_log().record(who, device, step);
    }

    /// [`Ledger::append`]: queued, and answered when durable.
    pub(crate) fn append(
        &self,
        events: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Vec<Appended>, LedgerFailed>> + Send + 'static {
        let ledger = self.ledger.clone();
        async move { ledger.append(events).await }
    }

    /// [`Ledger::is_rebuilding`].
    pub(crate) fn is_rebuilding(&self) -> bool {
        self.ledger.is_rebuilding()
    }

    /// [`Ledger::is_disk_low`].
    pub(crate) fn is_disk_low(&self) -> bool {
        self.ledger.is_disk_low()
    }
}

impl From<BlockingFailed> for Refusal {
    fn from(error: BlockingFailed) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a read did not finish");
        Problem::unavailable("the read did not finish", 5_000).into()
    }
}

impl From<DamagedRow> for Refusal {
    fn from(_: DamagedRow) -> Self {
        // Logged where it was found. It does not end by itself.
        Problem::unavailable("a stored row is damaged", 30_000).into()
    }
}

impl From<LedgerReadError> for Refusal {
    fn from(error: LedgerReadError) -> Self {
        match error {
            LedgerReadError::Damaged(row) => row.into(),
            LedgerReadError::Database(_) => Problem::unavailable("the ledger cannot be read", 5_000).into(),
        }
    }
}
