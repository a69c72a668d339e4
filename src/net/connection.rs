//! The connection: the task that owns one WebSocket and one session. It carries out what the session decides.
//!
//! ```text
//!   socket --frame----> Session::input --> outputs: authenticate, read, send, save cursor, close --> one flush
//!   hub ----wake-up---> Session::input
//! ```
//!
//! Each turn of the loop takes one of these, in this order: the drain, the socket (a frame, or a finished flush), a stored event, a wake-up, the
//! deadline. While a flush is blocked the mailbox is not read: a slow reader costs the lag of its cursor and nothing else. Refused: a queue per
//! connection, a timer task per connection, a send without a bound.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use orderbell_protocol::frame::CLIENT_FRAME_BYTES_MAX;
use orderbell_protocol::session::{Cursor, EventVerdict, Session, SessionInput, SessionOutput};
use orderbell_protocol::{ClientEvent, Close, DeviceId, Position, ReadError, Recipient};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::AppState;
use super::tokens::Principal;
use crate::clock::wall_clock;
use crate::hub::SubscriberGuard;
use orderbell_ledger::DeliveryStep;
use orderbell_ledger::crash;

/// Clients send little, and every connection has this buffer: tungstenite's default of 128 KiB is 56 times what is needed.
const READ_BUFFER_BYTES: usize = 512;
/// From this size on tungstenite writes to the socket without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// More than one page of notices: a fuller buffer is a bug, and ends the connection.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Time for the close frame and the peer's reply.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What one poll of the socket yields.
enum SocketEvent {
    Frame(Option<Result<Message, WsError>>),
    Flushed(Result<(), WsError>),
}

/// Client events that are not durable yet: the client's own id of each, and its verdict.
type PendingEvents = FuturesUnordered<Pin<Box<dyn Future<Output = (String, EventVerdict)> + Send>>>;

/// Who is connected, from `welcome` on.
struct Authenticated {
    who: Recipient,
    device: DeviceId,
    subscriber: SubscriberGuard,
}

struct Connection {
    state: Arc<AppState>,
    socket: Socket,
    session: Session,
    outputs: VecDeque<SessionOutput>,
    authenticated: Option<Authenticated>,
    /// Time of the wake-up that is being answered.
    woken_at: Option<std::time::Instant>,
    /// The last seq of the oldest unacknowledged frame, and when it was sent.
    unacked: Option<(u64, Instant)>,
    /// When the token expires, by the server's uptime.
    expires_at: Option<Duration>,
    is_flushing: bool,
    /// Allocated at the client's first event: most connections never publish one.
    pending_events: Option<Box<PendingEvents>>,
    /// A read that waits for the current flush.
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
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    state.stats.sockets_opened.inc();
    let seed = state.stats.sockets_opened.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let session = Session::new(state.limits().session, seed, state.uptime());
    let mut connection = Connection {
        state,
        socket,
        session,
        outputs: VecDeque::new(),
        authenticated: None,
        woken_at: None,
        unacked: None,
        expires_at: None,
        is_flushing: false,
        pending_events: None,
        deferred_read: None,
        closing: None,
    };
    let close = connection.serve(seed).await;
    connection.state.stats.record_close(close);
}

impl Connection {
    /// Runs the loop until the end. The reason for the close, if it was the server's.
    async fn serve(&mut self, seed: u64) -> Option<Close> {
        let mut leave_at = None;
        loop {
            if let Err(ended) = self.carry_out() {
                return ended;
            }
            if let Some(close) = self.closing {
                self.close(close).await;
                return Some(close);
            }
            let now = self.state.uptime();
            let deadline = [self.session.deadline(), self.expires_at, leave_at].into_iter().flatten().min();
            let pause = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
            let drain = self.state.drain.clone();
            let is_blocked = self.is_flushing;
            let (socket, is_flushing) = (&mut self.socket, &mut self.is_flushing);
            let pending_events = &mut self.pending_events;
            tokio::select! {
                biased;
                () = drain.cancelled(), if leave_at.is_none() => {
                    let spread = millis(self.state.limits().drain_spread);
                    leave_at = Some(now + Duration::from_millis(seed % spread.max(1)));
                }
                event = std::future::poll_fn(|cx| poll_socket(socket, is_flushing, cx)) => match event {
                    SocketEvent::Flushed(Ok(())) => crash::point("sent"),
                    SocketEvent::Flushed(Err(_)) | SocketEvent::Frame(None) => return None,
                    SocketEvent::Frame(Some(Ok(message))) => self.on_message(message),
                    SocketEvent::Frame(Some(Err(error))) => match close_for(&error) {
                        Some(close) => self.closing = Some(close),
                        None => return None,
                    },
                },
                (id, verdict) = next_verdict(pending_events) => self.input(SessionInput::EventAnswered { id, verdict }),
                () = wakeup(self.authenticated.as_ref()), if !is_blocked => self.on_wakeup(),
                () = tokio::time::sleep_until(Instant::now() + pause) => self.on_deadline(leave_at, seed),
            }
        }
    }

    fn input(&mut self, input: SessionInput<'_>) {
        let mut out = Vec::new();
        self.session.input(input, self.state.uptime(), self.state.freshness(), &mut out);
        self.outputs.extend(out);
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Text(text) => self.input(SessionInput::Text(text.as_str())),
            Message::Binary(_) => self.input(SessionInput::Binary),
            Message::Ping(_) | Message::Pong(_) => self.input(SessionInput::Control),
            // tungstenite answers a close frame itself; the next poll of the socket ends.
            Message::Close(_) | Message::Frame(_) => {}
        }
    }

    fn on_wakeup(&mut self) {
        let Some(Authenticated { subscriber, .. }) = &self.authenticated else { return };
        if subscriber.is_replaced() {
            return self.input(SessionInput::Replaced);
        }
        self.woken_at = subscriber.take_woken_at();
        if let Some(position) = subscriber.take_acked() {
            self.input(SessionInput::AckedByPoll(position));
        }
        self.input(SessionInput::MailboxChanged);
    }

    fn on_deadline(&mut self, leave_at: Option<Duration>, seed: u64) {
        let now = self.state.uptime();
        if leave_at.is_some_and(|at| now >= at) {
            let retry_ms = u32::try_from(self.state.retry_ms(seed)).unwrap_or(u32::MAX);
            return self.input(SessionInput::Drain { retry_ms });
        }
        if self.expires_at.is_some_and(|at| now >= at) {
            return self.input(SessionInput::TokenExpired);
        }
        self.input(SessionInput::Time);
    }

    /// Carries out the session's outputs, as far as the socket accepts them. `Err` ends the connection.
    fn carry_out(&mut self) -> Result<(), Option<Close>> {
        if !self.is_flushing
            && let Some((after, scan, limit)) = self.deferred_read.take()
        {
            self.read(after, scan, limit);
        }
        while let Some(output) = self.outputs.pop_front() {
            match output {
                SessionOutput::Authenticate { token, device, position } => self.authenticate(&token, device, position),
                // A blocked flush delays reading, but not closing.
                SessionOutput::Read { after, scan, limit } if self.is_flushing => {
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
                    self.state.stats.notices_displayed.inc();
                    self.log_delivery(DeliveryStep::Displayed(position.seq));
                }
                SessionOutput::Nacked { position, reason } => {
                    self.log_delivery(DeliveryStep::Nacked(position.seq));
                    self.state.stats.notices_nacked.inc();
                    tracing::error!(%position, reason, "a client cannot use a notice");
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

    fn send(&mut self, message: Message) -> Result<(), Option<Close>> {
        self.is_flushing = true;
        Pin::new(&mut self.socket).start_send(message).map_err(|_| None)
    }

    fn save_cursor(&self, cursor: Cursor) {
        if let Some(Authenticated { who, device, .. }) = &self.authenticated {
            self.state.ledger.save_cursor(who, device, cursor);
        }
    }

    fn log_delivery(&self, step: DeliveryStep) {
        if let Some(Authenticated { who, device, .. }) = &self.authenticated {
            self.state.ledger.log_delivery(who, device, step);
        }
    }

    /// Notices up to seq `to` were sent. Only a first attempt counts for the push latency.
    fn on_sent(&mut self, to: u64, attempt: u32) {
        if let Some(at) = self.woken_at.take().filter(|_| attempt == 1) {
            self.state.stats.push_latency.observe(at.elapsed());
        }
        self.unacked.get_or_insert_with(|| (to, Instant::now()));
    }

    /// Notices up to this seq were acknowledged.
    fn on_acked(&mut self, seq: u64) {
        if let Some((_, at)) = self.unacked.take_if(|(to, _)| *to <= seq) {
            self.state.stats.ack_latency.observe(at.elapsed());
        }
    }

    fn record_ack_timeout(&self, first: Position) {
        let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
        if self.state.hub.record_ack_timeout(who, device, first) {
            self.state.stats.notices_poisoned.inc();
            tracing::error!(position = %first, "several connections of a device got no acknowledgement for a notice: it is skipped");
        }
    }

    fn publish_event(&mut self, event: ClientEvent) {
        let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
        let verdict = self.state.publish_client_event(who, device, &event);
        let pending = self.pending_events.get_or_insert_default();
        pending.push(Box::pin(async move { (event.id, verdict.await) }));
    }

    fn read(&mut self, after: Position, scan: Position, limit: u16) {
        let Some(Authenticated { who, .. }) = &self.authenticated else { return };
        let page = self.state.ledger.read(who, after, scan, limit, wall_clock());
        if let Ok(page) = &page {
            self.state.stats.notices_pushed.inc_by(page.notices.len() as u64);
        }
        self.input(SessionInput::Page(page));
    }

    fn authenticate(&mut self, token: &str, device: Option<DeviceId>, position: Option<Position>) {
        match self.try_authenticate(token, device, position) {
            Ok((cursor, head)) => {
                let Some(Authenticated { who, device, .. }) = &self.authenticated else { return };
                let (recipient, device) = (who.to_string(), device.clone());
                self.input(SessionInput::Authenticated { recipient, device, cursor, head });
            }
            Err(close) => self.input(SessionInput::Rejected(close)),
        }
    }

    /// Checks the token, registers at the hub and finds the cursor to read from: the client's position, else the server's cursor of the device.
    fn try_authenticate(
        &mut self,
        token: &str,
        device: Option<DeviceId>,
        position: Option<Position>,
    ) -> Result<(Cursor, Position), Close> {
        let Ok(Principal::Reader { who, device: bound, expires }) = self.state.tokens().check(token) else {
            return Err(Close::Unauthorized);
        };
        let device = bound.or(device).ok_or(Close::BadMessage("hello names no device"))?;
        let subscriber = self.state.hub.connect(&who, &device).map_err(|_| Close::TooManyConnections)?;
        let (mut cursor, mut head) = self.state.ledger.cursor_and_head(&who, &device).map_err(|_| Close::Internal)?;
        if let Some(position) = position {
            // The read function decides whether the client's position belongs to this mailbox's history.
            cursor.acked = position;
            match self.state.ledger.read(&who, position, position, 0, wall_clock()) {
                Err(ReadError::EpochChanged) => {
                    return Err(Close::Resync(orderbell_protocol::ResyncReason::EpochChanged));
                }
                Err(ReadError::PositionExpired) => {
                    return Err(Close::Resync(orderbell_protocol::ResyncReason::PositionExpired));
                }
                Err(ReadError::Ledger(_)) => return Err(Close::Internal),
                Ok(page) => head = page.head,
            }
        }
        if let Some(poison) = self.state.hub.skip_poison(&who, &device, cursor.acked) {
            cursor.acked = poison;
        }
        let left = u64::try_from(expires.0 - wall_clock().0).unwrap_or(0);
        self.expires_at = Some(self.state.uptime() + Duration::from_millis(left));
        self.authenticated = Some(Authenticated { who, device, subscriber });
        Ok((cursor, head))
    }

    /// Sends the close frame and waits for the peer's, at most [`CLOSE_TIMEOUT`].
    async fn close(&mut self, close: Close) {
        let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
        let mut is_unsent = Pin::new(&mut self.socket).start_send(Message::Close(Some(frame))).is_ok();
        let socket = &mut self.socket;
        let ended = std::future::poll_fn(|cx| {
            if is_unsent {
                match Pin::new(&mut *socket).poll_flush(cx) {
                    Poll::Ready(Ok(())) => is_unsent = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            loop {
                match Pin::new(&mut *socket).poll_next(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _in_time = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }
}

/// Continues a flush first; frames are read even while it is blocked.
fn poll_socket(socket: &mut Socket, is_flushing: &mut bool, cx: &mut Context<'_>) -> Poll<SocketEvent> {
    if *is_flushing && let Poll::Ready(flushed) = Pin::new(&mut *socket).poll_flush(cx) {
        *is_flushing = false;
        return Poll::Ready(SocketEvent::Flushed(flushed));
    }
    Pin::new(socket).poll_next(cx).map(SocketEvent::Frame)
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

async fn wakeup(authenticated: Option<&Authenticated>) {
    match authenticated {
        Some(authenticated) => authenticated.subscriber.wakeup().await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The close code for an error of tungstenite; none when the peer has gone.
fn close_for(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        WsError::Utf8(_) => Some(Close::Encoding),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}
