//! One socket and its session: the task that carries, and decides nothing.
//!
//! ```text
//!   socket --frame--> Session::input --> outputs: admit, read, send, stand, close --> one flush
//!   hub ----ring----> Session::input
//! ```
//!
//! Each turn takes one of, in this order: drain, what the socket has (frames in, a flush that got through), a ring, the deadline. While
//! a flush does not get through, the mailbox is not read: a slow reader costs its cursor's lag and nothing else. Refused: a queue per
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
use orderbell_protocol::session::{Input, Output, Session, Standing, Verdict};
use orderbell_protocol::{ClientEvent, Close, DeviceId, Position, ReadError, Recipient};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::tokens::Principal;
use super::{Net, wall_clock};
use crate::crash;
use crate::hub::Seated;
use crate::ledger::Step;

/// Clients send little: a small buffer, since every connection has one (crates' notes: 128 KiB by default is 56 times the need).
const READ_BUFFER_BYTES: usize = 512;
/// Written to the socket from this size on, without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// A page of notices, and some; more means a bug, and ends the connection.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// How long a close frame and the peer's answer may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What one look at the socket gives.
enum Io {
    Frame(Option<Result<Message, WsError>>),
    Flushed(Result<(), WsError>),
}

/// Events on their way into the ledger: the client's own id of each, and what became of it.
type Appends = FuturesUnordered<Pin<Box<dyn Future<Output = (String, Verdict)> + Send>>>;

struct Connection {
    net: Arc<Net>,
    socket: Socket,
    session: Session,
    outputs: VecDeque<Output>,
    /// Who this is, from `welcome` on.
    seated: Option<(Recipient, DeviceId, Seated)>,
    /// The ring that is being answered.
    rung_at: Option<std::time::Instant>,
    /// The last seq of the oldest frame that is not acknowledged, and when it was sent.
    awaits: Option<(u64, Instant)>,
    /// End of the token.
    expires: Option<Duration>,
    flushing: bool,
    /// What the client said and is not durable yet. Made when it first says something: most connections never do.
    appends: Option<Box<Appends>>,
    /// A read that waits for the flush before it.
    read_due: Option<(Position, Position, u16)>,
    closing: Option<Close>,
}

/// Serves one socket until it ends.
pub(crate) async fn run(net: Arc<Net>, upgraded: Upgraded) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(CLIENT_FRAME_BYTES_MAX))
        .max_frame_size(Some(CLIENT_FRAME_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    net.stats.sockets_opened.inc();
    let seed = net.stats.sockets_opened.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let session = Session::new(net.limits().session, seed, net.now());
    let mut connection = Connection {
        net,
        socket,
        session,
        outputs: VecDeque::new(),
        seated: None,
        rung_at: None,
        awaits: None,
        expires: None,
        flushing: false,
        appends: None,
        read_due: None,
        closing: None,
    };
    let close = connection.serve(seed).await;
    connection.net.stats.closed(close);
}

impl Connection {
    /// Turns until the end; the reason of it, if it was ours.
    async fn serve(&mut self, seed: u64) -> Option<Close> {
        let mut leave_at = None;
        loop {
            if let Err(gone) = self.carry_out() {
                return gone;
            }
            if let Some(close) = self.closing {
                self.close(close).await;
                return Some(close);
            }
            let now = self.net.now();
            let deadline = [self.session.deadline(), self.expires, leave_at].into_iter().flatten().min();
            let rest = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
            let drain = self.net.drain.clone();
            let blocked = self.flushing;
            let (socket, flushing) = (&mut self.socket, &mut self.flushing);
            let appends = &mut self.appends;
            tokio::select! {
                biased;
                () = drain.cancelled(), if leave_at.is_none() => {
                    let spread = millis(self.net.limits().drain_spread);
                    leave_at = Some(now + Duration::from_millis(seed % spread.max(1)));
                }
                io = std::future::poll_fn(|cx| look(socket, flushing, cx)) => match io {
                    Io::Flushed(Ok(())) => crash::point("sent"),
                    Io::Flushed(Err(_)) | Io::Frame(None) => return None,
                    Io::Frame(Some(Ok(message))) => self.message(message),
                    Io::Frame(Some(Err(error))) => match close_for(&error) {
                        Some(close) => self.closing = Some(close),
                        None => return None,
                    },
                },
                (id, verdict) = appended(appends) => self.input(Input::Logged { id, verdict }),
                () = rung(self.seated.as_ref()), if !blocked => self.rung(),
                () = tokio::time::sleep_until(Instant::now() + rest) => self.time(leave_at, seed),
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.session.input(input, self.net.now(), self.net.fresh(), &mut out);
        self.outputs.extend(out);
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Text(text) => self.input(Input::Text(text.as_str())),
            Message::Binary(_) => self.input(Input::Binary),
            Message::Ping(_) | Message::Pong(_) => self.input(Input::Control),
            // The library answers a close frame itself; the next look at the socket ends.
            Message::Close(_) | Message::Frame(_) => {}
        }
    }

    fn rung(&mut self) {
        let Some((_, _, seated)) = &self.seated else { return };
        if seated.is_replaced() {
            return self.input(Input::Replaced);
        }
        self.rung_at = seated.take_rung();
        if let Some(position) = seated.take_acked() {
            self.input(Input::AckedElsewhere(position));
        }
        self.input(Input::Rung);
    }

    fn time(&mut self, leave_at: Option<Duration>, seed: u64) {
        let now = self.net.now();
        if leave_at.is_some_and(|at| now >= at) {
            let retry_ms = u32::try_from(self.net.retry_ms(seed)).unwrap_or(u32::MAX);
            return self.input(Input::Drain { retry_ms });
        }
        if self.expires.is_some_and(|at| now >= at) {
            return self.input(Input::Expired);
        }
        self.input(Input::Time);
    }

    /// Carries out what the session wants, as far as the socket takes it. `Err` ends the connection.
    fn carry_out(&mut self) -> Result<(), Option<Close>> {
        if !self.flushing
            && let Some((after, scan, limit)) = self.read_due.take()
        {
            self.read(after, scan, limit);
        }
        while let Some(output) = self.outputs.pop_front() {
            match output {
                Output::Admit { token, device, position } => self.admit(&token, device, position),
                // Behind a flush that does not get through, reading waits; closing does not.
                Output::Read { after, scan, limit } if self.flushing => self.read_due = Some((after, scan, limit)),
                Output::Read { after, scan, limit } => self.read(after, scan, limit),
                Output::Send(text) => self.send(Message::text(text))?,
                Output::Ping => self.send(Message::Ping(Default::default()))?,
                Output::Stand(standing) => self.stand(standing),
                Output::Append(event) => self.append(event),
                Output::Sent { from, to, attempt } => {
                    crash::point("send");
                    self.goes_out(to, attempt);
                    self.tell(Step::Sent { from, to, attempt: u8::try_from(attempt).unwrap_or(u8::MAX) });
                }
                Output::Received(position) => {
                    crash::point("ack");
                    self.comes_back(position.seq);
                    self.tell(Step::Received(position.seq));
                }
                Output::Shown(position) => {
                    self.net.stats.shown.inc();
                    self.tell(Step::Shown(position.seq));
                }
                Output::Unusable { position, reason } => {
                    self.tell(Step::Unusable(position.seq));
                    self.net.stats.unusable.inc();
                    tracing::error!(%position, reason, "a client cannot use a notice");
                }
                Output::GaveUp(first) => self.gave_up(first),
                Output::Close(close) => {
                    self.closing = Some(close);
                    self.outputs.clear();
                }
            }
        }
        // A ring that led to nothing is answered, too: what goes out later is not for it.
        if self.read_due.is_none() {
            self.rung_at = None;
        }
        Ok(())
    }

    fn send(&mut self, message: Message) -> Result<(), Option<Close>> {
        self.flushing = true;
        Pin::new(&mut self.socket).start_send(message).map_err(|_| None)
    }

    fn stand(&self, standing: Standing) {
        if let Some((who, device, _)) = &self.seated {
            self.net.ledger.stand(who, device, standing);
        }
    }

    fn tell(&self, step: Step) {
        if let Some((who, device, _)) = &self.seated {
            self.net.ledger.tell(who, device, step);
        }
    }

    /// Notices up to here are sent. Only what is sent at first says how fast a push is.
    fn goes_out(&mut self, to: u64, attempt: u32) {
        if let Some(at) = self.rung_at.take().filter(|_| attempt == 1) {
            self.net.stats.push_delay.took(at.elapsed());
        }
        self.awaits.get_or_insert_with(|| (to, Instant::now()));
    }

    /// Notices up to here are acknowledged.
    fn comes_back(&mut self, seq: u64) {
        if let Some((_, at)) = self.awaits.take_if(|(to, _)| *to <= seq) {
            self.net.stats.ack_delay.took(at.elapsed());
        }
    }

    fn gave_up(&self, first: Position) {
        let Some((who, device, _)) = &self.seated else { return };
        if self.net.hub.gave_up(who, device, first) {
            self.net.stats.stuck.inc();
            tracing::error!(position = %first, "no connection of a device gets a notice acknowledged: it is set aside");
        }
    }

    fn append(&mut self, event: ClientEvent) {
        let Some((who, device, _)) = &self.seated else { return };
        let said = self.net.said(who, device, &event);
        let appends = self.appends.get_or_insert_default();
        appends.push(Box::pin(async move { (event.id, said.await) }));
    }

    fn read(&mut self, after: Position, scan: Position, limit: u16) {
        let Some((who, _, _)) = &self.seated else { return };
        let page = self.net.ledger.read(who, after, scan, limit, wall_clock());
        if let Ok(page) = &page {
            self.net.stats.pushed.inc_by(page.notices.len() as u64);
        }
        self.input(Input::Page(page));
    }

    fn admit(&mut self, token: &str, device: Option<DeviceId>, position: Option<Position>) {
        match self.admitted(token, device, position) {
            Ok((standing, head)) => {
                let Some((who, device, _)) = &self.seated else { return };
                let (recipient, device) = (who.to_string(), device.clone());
                self.input(Input::Admitted { recipient, device, standing, head });
            }
            Err(close) => self.input(Input::Turned(close)),
        }
    }

    fn admitted(
        &mut self,
        token: &str,
        device: Option<DeviceId>,
        position: Option<Position>,
    ) -> Result<(Standing, Position), Close> {
        let Ok(Principal::Reader { who, device: bound, expires }) = self.net.tokens().check(token) else {
            return Err(Close::Unauthorized);
        };
        let device = bound.or(device).ok_or(Close::BadMessage("hello names no device"))?;
        let seated = self.net.hub.attach(&who, &device).map_err(|_| Close::ConnectionLimit)?;
        let (mut standing, head) = self.net.ledger.standing(&who, &device).map_err(|_| Close::Internal)?;
        if let Some(position) = position {
            // The client's own position goes first. Whether it is of this mailbox's history, the read function says.
            standing.acked = position;
            match self.net.ledger.read(&who, position, position, 0, wall_clock()) {
                Err(ReadError::Epoch) => return Err(Close::Resync("epoch-changed")),
                Err(ReadError::Gone) => return Err(Close::Resync("continuity-lost")),
                Err(ReadError::Ledger(_)) => return Err(Close::Internal),
                Ok(_) => {}
            }
        }
        if let Some(stuck) = self.net.hub.set_aside(&who, &device, standing.acked) {
            standing.acked = stuck;
        }
        let left = u64::try_from(expires.0 - wall_clock().0).unwrap_or(0);
        self.expires = Some(self.net.now() + Duration::from_millis(left));
        self.seated = Some((who, device, seated));
        Ok((standing, head))
    }

    /// Sends the close frame and waits for the peer's, bounded.
    async fn close(&mut self, close: Close) {
        let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
        let mut sent = Pin::new(&mut self.socket).start_send(Message::Close(Some(frame))).is_ok();
        let socket = &mut self.socket;
        let ended = std::future::poll_fn(|cx| {
            if sent {
                match Pin::new(&mut *socket).poll_flush(cx) {
                    Poll::Ready(Ok(())) => sent = false,
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
        let _in_time = tokio::time::timeout(CLOSE_MAX, ended).await;
    }
}

/// A flush under way goes first; frames are read all the same.
fn look(socket: &mut Socket, flushing: &mut bool, cx: &mut Context<'_>) -> Poll<Io> {
    if *flushing && let Poll::Ready(flushed) = Pin::new(&mut *socket).poll_flush(cx) {
        *flushing = false;
        return Poll::Ready(Io::Flushed(flushed));
    }
    Pin::new(socket).poll_next(cx).map(Io::Frame)
}

async fn appended(appends: &mut Option<Box<Appends>>) -> (String, Verdict) {
    match appends.as_deref_mut() {
        Some(appends) => match appends.next().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn rung(seated: Option<&(Recipient, DeviceId, Seated)>) {
    match seated {
        Some((_, _, seated)) => seated.rung().await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The close code for what the library refuses; none where there is nobody left to tell.
fn close_for(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        WsError::Utf8(_) => Some(Close::Encoding),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}
