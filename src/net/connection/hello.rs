//! The answer to a `hello`: who this is, and where reading starts.

use std::time::Duration;

use orderbell_ledger::DeviceBinding;
use orderbell_protocol::session::{Cursor, SessionInput};
use orderbell_protocol::{BearerToken, Close, DeviceId, Position, ReadError, Recipient, ResyncReason, UnixMs};

use super::backend::{Mailboxes, Server};
use super::socket::Socket;
use super::{Authenticated, Connection, log_unavailable, span};
use crate::clock::wall_clock;
use crate::hub::{Challenge, Refused, SubscriberGuard};
use crate::net::identity_rates::Identity;
use crate::net::retry_spread;
use crate::net::state::NAME_IS_TAKEN;
use crate::net::tokens::Principal;

/// How often a hello that waits looks whether the connection in its way has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the client of an open connection may take to answer a newcomer's ping. Clients wait 10 s for their `welcome`, from before they connect:
/// a longer one, behind a slow handshake, and a till behind its own half-open connection, with a new token, would never be served.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A hello that waits before it replaces the connection of a shared device, or one that was opened with another token.
pub(super) struct Held {
    token: BearerToken,
    device: Option<DeviceId>,
    position: Option<Position>,
    /// When it replaces the other connection at the latest.
    until: Duration,
    /// When it looks next.
    pub(super) look_at: Duration,
    /// Whether somebody is at the other end of that connection. Without one it is replaced when the time is over.
    challenge: Option<Challenge>,
    /// Its place among the subscribers of its recipient: it counts towards their limit.
    _place: SubscriberGuard,
}

/// The mailbox and the device of a hello.
struct HelloReader {
    who: Recipient,
    device: DeviceId,
    binding: DeviceBinding,
    /// When its token ends.
    expires: UnixMs,
}

impl<V: Server, S: Socket> Connection<V, S> {
    pub(super) fn authenticate(&mut self, token: BearerToken, device: Option<DeviceId>, position: Option<Position>) {
        match self.hold(&token, device.as_ref(), position) {
            Ok(Some(held)) => {
                self.held = Some(held);
            }
            Ok(None) => self.finish_authentication(&token.0, device, position),
            Err(close) => self.input(SessionInput::Rejected(close)),
        }
    }

    /// Two installations that use one device id would replace each other as fast as they can: the newcomer waits. With another token it waits for
    /// the other to leave, and is turned away when that one is still there and has shown it.
    fn hold(
        &self,
        token: &BearerToken,
        named: Option<&DeviceId>,
        position: Option<Position>,
    ) -> Result<Option<Held>, Close> {
        let HelloReader { who, device, binding, .. } = self.reader(&token.0, named)?;
        if !self.server.admit_hello(Identity { who: &who, device: &device, binding }) {
            self.server.stats().rejections.record("rate-limited", Some(&who));
            return Err(Close::RateLimited);
        }
        self.check_name(&who, &device, binding)?;
        let hub = self.server.hub();
        let shared = hub.wait_before_replacing(&who, &device, wall_clock());
        let challenge = hub.challenge(&who, &device, (binding, hub.tag_of(&token.0)));
        let wait = match (shared, &challenge) {
            (None, None) => return Ok(None),
            (Some(wait), None) => {
                self.server.stats().rejections.record("device-shared", Some(&who));
                wait
            }
            (_, Some(_)) => CHALLENGE_TIMEOUT,
        };
        let place = self.server.hub().wait(&who, binding).map_err(|refused| self.refused(&who, refused))?;
        let now = self.server.uptime();
        Ok(Some(Held {
            token: token.clone(),
            device: named.cloned(),
            position,
            until: now + wait,
            look_at: now + wait.min(LOOK_INTERVAL),
            challenge,
            _place: place,
        }))
    }

    /// The hello that waits may go on when its time is over, or when the other connection has ended.
    pub(super) fn look_at_held(&mut self) {
        if self.leave_at.is_some() {
            // The server stops: it is sent away like the others.
            self.held = None;
        }
        let Some(held) = &self.held else { return };
        let (now, hub) = (self.server.uptime(), self.server.hub());
        // One whose token is not taken any more goes on, and learns that.
        let reader = self.reader(&held.token.0, held.device.as_ref()).ok();
        if let Some(HelloReader { who, device, .. }) =
            reader.filter(|reader| hub.is_connected(&reader.who, &reader.device))
        {
            if now < held.until {
                let look_at = held.until.min(now + LOOK_INTERVAL);
                self.held.iter_mut().for_each(|held| held.look_at = look_at);
                return;
            }
            // Not earlier: who has answered may be leaving.
            if held.challenge.as_ref().is_some_and(Challenge::is_answered) {
                return self.refuse_held(&who, &device);
            }
        }
        if let Some(Held { token, device, position, .. }) = self.held.take() {
            self.finish_authentication(&token.0, device, position);
        }
    }

    /// The client of the connection in the way is there: it stays, and the newcomer learns that its device id is in use.
    fn refuse_held(&mut self, who: &Recipient, device: &DeviceId) {
        self.held = None;
        self.server.stats().rejections.record("device-in-use", Some(who));
        if self.server.hub().record_in_use(who, device, wall_clock()) {
            span::of_connection(self.number, Some((who, device))).in_scope(|| {
                tracing::warn!(
                    "two installations with different tokens use one device id: the newcomer is turned away"
                );
            });
        }
        self.input(SessionInput::Rejected(Close::Replaced));
    }

    fn finish_authentication(&mut self, token: &str, device: Option<DeviceId>, position: Option<Position>) {
        match self.try_authenticate(token, device, position) {
            Ok((cursor, head)) => {
                let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
                let (recipient, device) = (who.to_string(), device.clone());
                self.input(SessionInput::Authenticated { recipient, device, cursor, head });
            }
            Err(close) => self.input(SessionInput::Rejected(close)),
        }
    }

    /// Whose hello it is, and of which device. Who is turned away is recorded.
    fn reader(&self, token: &str, named: Option<&DeviceId>) -> Result<HelloReader, Close> {
        let rejections = &self.server.stats().rejections;
        match self.server.check_token(token) {
            Ok(Principal::Reader { who, device, expires }) => {
                let binding = DeviceBinding::of_token(device.as_ref());
                let device = device.or_else(|| named.cloned()).ok_or(Close::BadMessage("hello names no device"))?;
                Ok(HelloReader { who, device, binding, expires })
            }
            Ok(_) => {
                rejections.record("token-role", None);
                Err(Close::Unauthorized)
            }
            Err(invalid) => {
                rejections.record(invalid.reason, invalid.who.as_ref());
                if invalid.may_be_good() {
                    return Err(Close::Overloaded { retry_ms: self.server.retry_ms() });
                }
                Err(Close::Unauthorized)
            }
        }
    }

    /// A client whose token names no device must not use the name of one that another token names: it would replace and acknowledge for it.
    fn check_name(&self, who: &Recipient, device: &DeviceId, binding: DeviceBinding) -> Result<(), Close> {
        let may_use_name = self.server.may_use_name(Identity { who, device, binding }).map_err(|error| {
            span::of_connection(self.number, Some((who, device))).in_scope(|| log_unavailable(error));
            Close::Internal
        })?;
        if may_use_name { Ok(()) } else { Err(Close::BadMessage(NAME_IS_TAKEN)) }
    }

    fn refused(&self, who: &Recipient, refused: Refused) -> Close {
        let (reason, close) = match refused {
            Refused::TooMany => ("too-many-connections", Close::TooManyConnections),
            Refused::DeviceIsBound => ("device-bound", Close::BadMessage(NAME_IS_TAKEN)),
        };
        self.server.stats().rejections.record(reason, Some(who));
        close
    }

    /// Checks the token, finds the cursor to read from (the client's position, else the server's cursor of the device), and registers at the hub.
    fn try_authenticate(
        &mut self,
        token: &str,
        device: Option<DeviceId>,
        position: Option<Position>,
    ) -> Result<(Cursor, Position), Close> {
        let HelloReader { who, device, binding, expires } = self.reader(token, device.as_ref())?;
        self.check_name(&who, &device, binding)?;
        let log = |error: ReadError| {
            span::of_connection(self.number, Some((&who, &device))).in_scope(|| log_unavailable(error));
        };
        let (mut cursor, mut head) = self.server.mailboxes().cursor_and_head(&who, &device).map_err(|error| {
            log(error);
            Close::Internal
        })?;
        if let Some(position) = position {
            // The read function decides whether the client's position belongs to this mailbox's history.
            cursor.acked = position;
            match self.server.mailboxes().page(&who, position, position, 0) {
                Err(ReadError::EpochChanged) => {
                    return Err(Close::Resync(ResyncReason::EpochChanged));
                }
                Err(ReadError::PositionExpired) => {
                    return Err(Close::Resync(ResyncReason::PositionExpired));
                }
                Err(error @ ReadError::Unavailable) => {
                    log(error);
                    return Err(Close::Internal);
                }
                Ok(page) => head = page.head,
            }
        }
        // Only now: a hello that is turned away replaces nobody.
        let subscriber = self
            .server
            .hub()
            .connect(&who, &device, binding, self.server.hub().tag_of(token))
            .map_err(|refused| self.refused(&who, refused))?;
        // Again, as it is registered: a poll that took the name before found no session to end.
        self.check_name(&who, &device, binding)?;
        if let Some(poison) = self.server.hub().skip_poison(&who, &device, cursor.acked) {
            cursor.acked = poison;
        }
        let (connected, durable) = self.server.mailboxes().connect(&who, &device);
        self.not_durable = Some(durable);
        let left = u64::try_from(expires.0.saturating_sub(wall_clock().0)).unwrap_or(0);
        let left = retry_spread::before_expiry(self.number, left, self.server.limits().clock_skew);
        self.expires_at = Some(self.server.uptime() + Duration::from_millis(left));
        self.authenticated = Some(Authenticated { who, device, binding, subscriber, _connected: connected });
        Ok((cursor, head))
    }
}
