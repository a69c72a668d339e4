//! The connection: the task that owns one WebSocket and one session. It carries out what the session decides.
//!
//! ```text
//!   socket --frame----> Session::input --> outputs: authenticate, read, send, save cursor, close --> one flush
//!   hub ----wake-up---> Session::input
//! ```
//!
//! Each turn of the loop takes one of these, in this order: a deadline that has passed, the drain, a stored event, a wake-up, the socket (a frame,
//! or a finished flush). The socket is last because a client can always make it ready: whoever floods frames would otherwise postpone its own
//! heartbeats, time-outs and replacement. While a flush is blocked the mailbox is not read: a slow reader costs the lag of its cursor and nothing
//! else. Refused: a queue per connection, a timer task per connection, a send without a bound.

mod backend;
mod hello;
mod socket;
pub(super) mod span;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use orderbell_protocol::frame::CLIENT_FRAME_BYTES_MAX;
use orderbell_protocol::session::{Cursor, EventVerdict, Session, SessionInput, SessionOutput};
use orderbell_protocol::{ClientEvent, Close, DeviceId, Position, ReadError, Recipient};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::Span;

use super::frame_meter::FrameMeter;
use super::identity_rates::Identity;
use super::{AppState, retry_spread};
use crate::clock::wall_clock;
use crate::hub::SubscriberGuard;
use backend::{ConnectedFuture, Mailboxes, Server};
use hello::Held;
use orderbell_ledger::crash;
use orderbell_ledger::{DeliveryStep, DeviceBinding};
pub(super) use socket::close_for;
use socket::{Socket, SocketEvent};

/// Clients send little, and every connection has this buffer: tungstenite's default of 128 KiB is 56 times what is needed.
const READ_BUFFER_BYTES: usize = 512;
/// From this size on tungstenite writes to the socket without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// More than one page of notices: a fuller buffer is a bug, and ends the connection.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Client events that are not durable yet: the client's own id of each, and its verdict.
type PendingEvents = FuturesUnordered<Pin<Box<dyn Future<Output = (String, EventVerdict)> + Send>>>;

/// Who is connected, from `welcome` on.
struct Authenticated<C> {
    who: Recipient,
    device: DeviceId,
    binding: DeviceBinding,
    subscriber: SubscriberGuard,
    _connected: C,
}

impl<C> Authenticated<C> {
    fn identity(&self) -> Identity<'_> {
        Identity { who: &self.who, device: &self.device, binding: self.binding }
    }
}

struct Connection<V: Server, S> {
    server: Arc<V>,
    socket: S,
    session: Session,
    /// Its number since the start.
    number: u64,
    outputs: VecDeque<SessionOutput>,
    authenticated: Option<Authenticated<<V::Mailboxes as Mailboxes>::Connected>>,
    /// Time of the wake-up that is being answered.
    woken_at: Option<std::time::Instant>,
    /// The last seq of the oldest unacknowledged frame, and when it was sent.
    unacked: Option<(u64, Instant)>,
    /// When the token expires, by the server's uptime.
    expires_at: Option<Duration>,
    /// A hello that waits, because its device is shared.
    held: Option<Held>,
    /// When this connection leaves the draining server.
    leave_at: Option<Duration>,
    is_flushing: bool,
    /// Allocated at the client's first event: most connections never publish one.
    pending_events: Option<Box<PendingEvents>>,
    /// Until it is durable that the device is connected.
    not_durable: Option<ConnectedFuture>,
    /// A read that waits for the current flush, or for `not_durable`.
    deferred_read: Option<(Position, Position, u16)>,
    closing: Option<Close>,
}

/// Serves one WebSocket until it ends.
pub(crate) async fn run(state: Arc<AppState>, upgraded: Upgraded) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(CLIENT_FRAME_BYTES_MAX))
        .max_frame_size(Some(CLIENT_FRAME_BYTES_MAX));
    let metered = FrameMeter::new(TokioIo::new(upgraded), state.limits().session.max_frames_per_second);
    let socket = WebSocketStream::from_raw_socket(metered, Role::Server, Some(config)).await;
    // Borrowed by the next future and not moved into it, where it would take its size twice.
    let mut connection = Connection::open(state, socket);
    connection.run().await;
}

/// Spreads the heartbeats of all connections over time.
fn seed_of(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<V: Server, S: Socket> Connection<V, S> {
    fn open(server: Arc<V>, socket: S) -> Self {
        let number = server.stats().sockets_opened.inc() + 1;
        Self {
            session: Session::new(server.limits().session, seed_of(number), server.uptime()),
            server,
            socket,
            number,
            outputs: VecDeque::new(),
            authenticated: None,
            woken_at: None,
            unacked: None,
            expires_at: None,
            held: None,
            leave_at: None,
            is_flushing: false,
            pending_events: None,
            not_durable: None,
            deferred_read: None,
            closing: None,
        }
    }

    async fn run(&mut self) {
        let close = self.serve().await;
        if close == Some(Close::Timeout) && self.authenticated.is_none() {
            self.server.stats().rejections.record("hello-timeout", None);
        }
        self.server.stats().record_close(close);
    }

    /// The span of log lines about this connection.
    fn span(&self) -> Span {
        span::of_connection(self.number, self.authenticated.as_ref().map(|known| (&known.who, &known.device)))
    }

    /// Runs the loop until the end. The reason for the close, if it was the server's.
    async fn serve(&mut self) -> Option<Close> {
        // Each turn of the loop locks the token: a connection's own is locked by nobody else.
        let drain = self.server.drain().child_token();
        loop {
            if let Err(ended) = self.carry_out() {
                return ended;
            }
            if let Some(close) = self.closing {
                if tracing::enabled!(tracing::Level::DEBUG) {
                    self.span().in_scope(|| tracing::debug!(reason = close.word(), "closing"));
                }
                let has_answered = socket::close(&mut self.socket, close).await;
                if close == Close::Replaced && has_answered {
                    self.record_replaced();
                }
                return Some(close);
            }
            let now = self.server.uptime();
            let held_at = self.held.as_ref().map(|held| held.look_at);
            let deadlines = [self.session.deadline(), self.expires_at, self.leave_at, held_at];
            let deadline = deadlines.into_iter().flatten().min();
            if deadline.is_some_and(|at| now >= at) {
                self.on_deadline();
                continue;
            }
            let pause = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
            let is_blocked = self.is_flushing;
            let (socket, is_flushing) = (&mut self.socket, &mut self.is_flushing);
            let (pending_events, not_durable) = (&mut self.pending_events, &mut self.not_durable);
            tokio::select! {
                biased;
                () = drain.cancelled(), if self.leave_at.is_none() => {
                    let spread = millis(self.server.limits().drain_spread);
                    self.leave_at = Some(now + Duration::from_millis(retry_spread::part_of(self.number, spread)));
                }
                (id, verdict) = next_verdict(pending_events) => self.input(SessionInput::EventAnswered { id, verdict }),
                () = durable(not_durable) => self.not_durable = None,
                () = wakeup(self.authenticated.as_ref()), if !is_blocked => self.on_wakeup(),
                event = std::future::poll_fn(|cx| socket::poll(socket, is_flushing, cx)) => match event {
                    SocketEvent::Flushed(Ok(())) => crash::point("sent"),
                    SocketEvent::Flushed(Err(_)) | SocketEvent::Frame(None) => return None,
                    SocketEvent::Frame(Some(Ok(message))) => self.on_message(message),
                    SocketEvent::Frame(Some(Err(error))) => match close_for(&error) {
                        Some(close) => self.closing = Some(close),
                        None => return None,
                    },
                },
                // The next turn finds the deadline passed.
                () = tokio::time::sleep_until(Instant::now() + pause) => {}
            }
        }
    }

    fn input(&mut self, input: SessionInput<'_>) {
        let mut out = Vec::new();
        self.session.input(input, self.server.uptime(), self.server.freshness(), &mut out);
        self.outputs.extend(out);
    }

    fn on_message(&mut self, message: Message) {
        let is_replaced = self.authenticated.as_ref().is_some_and(|known| known.subscriber.is_replaced());
        if is_replaced && !matches!(message, Message::Close(_)) {
            // Its wake-up waits for a blocked flush; until then it acknowledges nothing for its successor.
            return self.input(SessionInput::Replaced);
        }
        let is_close = matches!(message, Message::Close(_));
        match message {
            Message::Text(text) => self.input(SessionInput::Text(text.as_str())),
            Message::Binary(_) => self.input(SessionInput::Binary),
            Message::Ping(_) | Message::Pong(_) => self.input(SessionInput::Control),
            // tungstenite answers a close frame itself; the next poll of the socket ends.
            Message::Close(_) | Message::Frame(_) => {}
        }
        // Who says goodbye does not stay.
        let is_leaving = is_close || self.outputs.iter().any(|output| matches!(output, SessionOutput::Close(_)));
        if let Some(Authenticated { subscriber, .. }) = self.authenticated.as_ref().filter(|_| !is_leaving) {
            subscriber.record_frame();
        }
    }

    fn on_wakeup(&mut self) {
        let Some(Authenticated { subscriber, .. }) = &self.authenticated else { return };
        if subscriber.is_replaced() {
            return self.input(SessionInput::Replaced);
        }
        if subscriber.take_challenge() {
            self.outputs.push_back(SessionOutput::Ping);
        }
        self.woken_at = subscriber.take_woken_at();
        if let Some(position) = subscriber.take_acked() {
            self.input(SessionInput::AckedByPoll(position));
        }
        self.input(SessionInput::MailboxChanged);
    }

    fn on_deadline(&mut self) {
        let now = self.server.uptime();
        if self.leave_at.is_some_and(|at| now >= at) {
            return self.input(SessionInput::Drain { retry_ms: self.server.retry_ms() });
        }
        if self.expires_at.is_some_and(|at| now >= at) {
            return self.input(SessionInput::TokenExpired);
        }
        if self.held.as_ref().is_some_and(|held| now >= held.look_at) {
            return self.look_at_held();
        }
        self.input(SessionInput::Time);
    }

    /// Carries out the session's outputs, as far as the socket accepts them. `Err` ends the connection.
    fn carry_out(&mut self) -> Result<(), Option<Close>> {
        if self.may_read()
            && let Some((after, scan, limit)) = self.deferred_read.take()
        {
            self.read(after, scan, limit);
        }
        while let Some(output) = self.outputs.pop_front() {
            match output {
                SessionOutput::Authenticate { token, device, position } => self.authenticate(token, device, position),
                SessionOutput::Read { after, scan, limit } if !self.may_read() => {
                    self.deferred_read = Some((after, scan, limit));
                }
                SessionOutput::Read { after, scan, limit } => self.read(after, scan, limit),
                SessionOutput::Send(text) => self.send(Message::text(text))?,
                SessionOutput::Ping => self.send(Message::Ping(Default::default()))?,
                SessionOutput::SaveCursor(cursor) => self.save_cursor(cursor),
                SessionOutput::PublishEvent(event) => self.publish_event(event),
                SessionOutput::Sent { from, to, attempt } => {
                    crash::point("send");
                    self.on_sent(to, attempt);
                    self.log_delivery(DeliveryStep::Sent {
                        from,
                        to,
                        attempt: u8::try_from(attempt).unwrap_or(u8::MAX),
                    });
                }
                SessionOutput::Acked(position) => {
                    crash::point("ack");
                    self.on_acked(position.seq);
                    self.log_delivery(DeliveryStep::Acked(position.seq));
                }
                SessionOutput::Displayed(position) => {
                    self.server.stats().notices_displayed.inc();
                    self.log_delivery(DeliveryStep::Displayed(position.seq));
                }
                SessionOutput::Nacked { position, reason } => {
                    self.log_delivery(DeliveryStep::Nacked(position.seq));
                    self.server.stats().notices_nacked.inc();
                    self.span().in_scope(|| tracing::error!(%position, reason, "a client cannot use a notice"));
                }
                SessionOutput::AckTimedOut(first) => self.record_ack_timeout(first),
                SessionOutput::Close(close) => {
                    self.closing = Some(close);
                    self.outputs.clear();
                }
            }
        }
        // The wake-up is answered, even if it led to no frame: later frames are not measured from it.
        if self.deferred_read.is_none() {
            self.woken_at = None;
        }
        Ok(())
    }

    /// A blocked flush delays reading, but not closing. And no notice is sent before it is durable that the device is connected.
    fn may_read(&self) -> bool {
        !self.is_flushing && self.not_durable.is_none()
    }

    fn send(&mut self, message: Message) -> Result<(), Option<Close>> {
        self.is_flushing = true;
        let sent = Pin::new(&mut self.socket).start_send(message);
        sent.map_err(|error| {
            self.span().in_scope(|| match error {
                // It holds a page and more: see its bound.
                WsError::WriteBufferFull(_) => tracing::error!("the write buffer is full: the connection ends"),
                error => tracing::debug!(%error, "the socket takes no more frames"),
            });
            None
        })
    }

    fn save_cursor(&self, cursor: Cursor) {
        if let Some(authenticated) = &self.authenticated {
            self.server.mailboxes().save_cursor(authenticated.identity(), cursor);
        }
    }

    fn log_delivery(&self, step: DeliveryStep) {
        if let Some(Authenticated { who, device, .. }) = &self.authenticated {
            self.server.mailboxes().log_delivery(who, device, step);
        }
    }

    /// Notices up to seq `to` were sent. Only a first attempt counts for the push latency.
    fn on_sent(&mut self, to: u64, attempt: u32) {
        if let Some(at) = self.woken_at.take().filter(|_| attempt == 1) {
            self.server.stats().push_latency.observe(at.elapsed());
        }
        self.unacked.get_or_insert_with(|| (to, Instant::now()));
    }

    /// Notices up to this seq were acknowledged.
    fn on_acked(&mut self, seq: u64) {
        if let Some((_, at)) = self.unacked.take_if(|(to, _)| *to <= seq) {
            self.server.stats().ack_latency.observe(at.elapsed());
        }
    }

    /// The same device opened another connection while this one was in use.
    fn record_replaced(&self) {
        let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
        if self.server.hub().record_replaced(who, device, wall_clock()) {
            self.span().in_scope(|| {
                tracing::warn!("two installations use one device id and replace each other's connection");
            });
        }
    }

    fn record_ack_timeout(&self, first: Position) {
        let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
        if self.server.hub().record_ack_timeout(who, device, first) {
            self.server.stats().notices_poisoned.inc();
            self.span().in_scope(|| {
                tracing::error!(position = %first, "several connections of a device got no acknowledgement for a notice: it is skipped");
            });
        }
    }

    fn publish_event(&mut self, event: ClientEvent) {
        let Some(authenticated) = &self.authenticated else { return };
        let verdict = self.server.publish(authenticated.identity(), &event);
        let pending = self.pending_events.get_or_insert_default();
        pending.push(Box::pin(async move { (event.id, verdict.await) }));
    }

    fn read(&mut self, after: Position, scan: Position, limit: u16) {
        let Some(Authenticated { who, subscriber, .. }) = &self.authenticated else { return };
        let polled_seq = subscriber.polled_seq();
        let page = self.server.mailboxes().page(who, after, scan, limit);
        match &page {
            Ok(page) => drop(self.server.stats().notices_pushed.inc_by(page.notices.len() as u64)),
            Err(error) => self.span().in_scope(|| log_unavailable(*error)),
        }
        self.input(SessionInput::SentByPoll(polled_seq));
        self.input(SessionInput::Page(page));
    }
}

async fn next_verdict(pending: &mut Option<Box<PendingEvents>>) -> (String, EventVerdict) {
    match pending.as_deref_mut() {
        Some(pending) => match pending.next().await {
            Some(verdict) => verdict,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn durable(not_durable: &mut Option<ConnectedFuture>) {
    match not_durable {
        Some(durable) => durable.await,
        None => std::future::pending().await,
    }
}

async fn wakeup<C>(authenticated: Option<&Authenticated<C>>) {
    match authenticated {
        Some(authenticated) => authenticated.subscriber.wakeup().await,
        None => std::future::pending().await,
    }
}

/// Names the till whose mailbox cannot be read. The cause was logged when it was met first; a position that cannot be continued from concerns
/// its client alone.
pub(super) fn log_unavailable(error: ReadError) {
    if error == ReadError::Unavailable {
        tracing::error!("cannot read a mailbox");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
