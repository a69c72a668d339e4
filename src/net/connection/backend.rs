//! What a connection needs of the server, as traits: its loop runs in tests without a ledger, a listener or a token.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use orderbell_ledger::{ConnectedDevice, DeliveryStep};
use orderbell_protocol::session::{Cursor, EventVerdict};
use orderbell_protocol::{
    ClientEvent, DeviceId, Freshness, MailboxPage, Position, ReadError, Recipient, RejectionReason,
};
use tokio_util::sync::CancellationToken;

use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::net::identity_rates::Identity;
use crate::net::ledger_handle::LedgerHandle;
use crate::net::tokens::{InvalidToken, Principal};
use crate::net::{AppState, NetLimits, NetStats};

/// The verdict on an event of a client, when the event is durable.
pub(super) type VerdictFuture = Pin<Box<dyn Future<Output = EventVerdict> + Send>>;

/// Ends when it is durable that a device is connected.
pub(super) type ConnectedFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Mailboxes and the cursors of devices.
pub(super) trait Mailboxes: Send + Sync + 'static {
    /// Held by a connection: its device is connected.
    type Connected: Send;

    /// See [`LedgerHandle::connect`].
    fn connect(&self, who: &Recipient, device: &DeviceId) -> (Self::Connected, ConnectedFuture);
    /// See [`LedgerHandle::read`].
    fn page(&self, who: &Recipient, after: Position, scan: Position, limit: u16) -> Result<MailboxPage, ReadError>;
    /// See [`LedgerHandle::cursor_and_head`].
    fn cursor_and_head(&self, who: &Recipient, device: &DeviceId) -> Result<(Cursor, Position), ReadError>;
    /// See [`LedgerHandle::save_cursor`].
    fn save_cursor(&self, client: Identity<'_>, cursor: Cursor);
    /// See [`LedgerHandle::log_delivery`].
    fn log_delivery(&self, who: &Recipient, device: &DeviceId, step: DeliveryStep);
}

/// Events that clients publish.
pub(super) trait ClientEvents: Send + Sync + 'static {
    /// See [`AppState::publish_client_event`].
    fn publish(&self, client: Identity<'_>, event: &ClientEvent) -> VerdictFuture;
}

/// The server around a connection.
pub(super) trait Server: ClientEvents {
    /// Where its notices are.
    type Mailboxes: Mailboxes;

    fn mailboxes(&self) -> &Self::Mailboxes;
    fn hub(&self) -> &Arc<Hub>;
    fn stats(&self) -> &NetStats;
    fn check_token(&self, token: &str) -> Result<Principal, InvalidToken>;
    /// See [`AppState::admit_hello`].
    fn admit_hello(&self, client: Identity<'_>) -> bool;
    /// See [`AppState::may_use_name`].
    fn may_use_name(&self, client: Identity<'_>) -> Result<bool, ReadError>;
    fn limits(&self) -> NetLimits;
    fn freshness(&self) -> Freshness;
    /// The clock of the sessions.
    fn uptime(&self) -> Duration;
    /// Cancelled when the drain begins.
    fn drain(&self) -> &CancellationToken;
    /// See [`AppState::retry_ms`].
    fn retry_ms(&self) -> u32;
}

impl Mailboxes for LedgerHandle {
    type Connected = ConnectedDevice;

    fn connect(&self, who: &Recipient, device: &DeviceId) -> (ConnectedDevice, ConnectedFuture) {
        let (connected, durable) = Self::connect(self, who, device);
        let until_durable = async move {
            if durable.await.is_err() {
                // The ledger ends the process. Until then no notice is sent.
                std::future::pending::<()>().await;
            }
        };
        (connected, Box::pin(until_durable))
    }

    fn page(&self, who: &Recipient, after: Position, scan: Position, limit: u16) -> Result<MailboxPage, ReadError> {
        self.read(who, after, scan, limit, wall_clock())
    }

    fn cursor_and_head(&self, who: &Recipient, device: &DeviceId) -> Result<(Cursor, Position), ReadError> {
        Self::cursor_and_head(self, who, device)
    }

    fn save_cursor(&self, client: Identity<'_>, cursor: Cursor) {
        let _sent_by_others = Self::save_cursor(self, client, cursor);
    }

    fn log_delivery(&self, who: &Recipient, device: &DeviceId, step: DeliveryStep) {
        Self::log_delivery(self, who, device, step);
    }
}

impl ClientEvents for AppState {
    fn publish(&self, client: Identity<'_>, event: &ClientEvent) -> VerdictFuture {
        if self.admit_events(client, 1).is_err() {
            // Not `busy`, which says that events of this client are pending: it would send this one again as soon as one of them is answered.
            let verdict = EventVerdict::Rejected(RejectionReason::Unavailable);
            self.stats.record_client_event(verdict);
            return Box::pin(std::future::ready(verdict));
        }
        Box::pin(self.publish_client_event(client.who, client.device, event))
    }
}

impl Server for AppState {
    type Mailboxes = LedgerHandle;

    fn mailboxes(&self) -> &LedgerHandle {
        &self.ledger
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn stats(&self) -> &NetStats {
        &self.stats
    }

    fn check_token(&self, token: &str) -> Result<Principal, InvalidToken> {
        self.principal_of(token)
    }

    fn admit_hello(&self, client: Identity<'_>) -> bool {
        Self::admit_hello(self, client)
    }

    fn may_use_name(&self, client: Identity<'_>) -> Result<bool, ReadError> {
        Self::may_use_name(self, client)
    }

    fn limits(&self) -> NetLimits {
        Self::limits(self)
    }

    fn freshness(&self) -> Freshness {
        Self::freshness(self)
    }

    fn uptime(&self) -> Duration {
        Self::uptime(self)
    }

    fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    fn retry_ms(&self) -> u32 {
        Self::retry_ms(self)
    }
}
