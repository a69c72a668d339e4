//! The protocol state of one connected client: pure, without socket, clock or mailbox.
//!
//! ```text
//!   AwaitHello --hello--> Authenticating --authenticated--> Live --close--> Closed
//! ```
//!
//! The shell passes each [`SessionInput`] with the time since the process started, and carries out each [`SessionOutput`] in order. A session
//! holds positions and never a notice: it requests a page with [`SessionOutput::Read`], sends the notices that arrive, and remembers which are
//! unacknowledged. When acknowledgements are missing for `ack_timeout`, it returns to the last acknowledged position and reads again, with a
//! higher `attempt`. When none arrives in `max_delivery_attempts` rounds, the client is connected but does not acknowledge: the session closes
//! the connection, so that someone notices.
//!
//! There are two read positions. `chain` is the last notice sent, the `prev` of the next. `scan` is how far the mailbox was examined behind it:
//! superseded rows are not examined twice. Refused: a queue of notices per connection (a slow reader would cost memory, and lose notices on
//! overflow), and a timer per notice (one deadline covers everything in flight, because acknowledgements are cumulative).

mod live;

use std::collections::VecDeque;
use std::time::Duration;

use crate::bearer_token::BearerToken;
use crate::close::{Close, ResyncReason};
use crate::frame::{
    CLIENT_FRAME_BYTES_MAX, ClientEvent, ClientFrame, EventResult, EventStatus, Freshness, RejectionReason,
    ServerFrame, TOKEN_BYTES_MAX,
};
use crate::mailbox_page::{MailboxPage, ReadError};
use crate::position::Position;
use crate::recipient::Id;
use live::Live;

/// Longest reason that a client may give with a `nack`, in bytes.
const REASON_BYTES_MAX: usize = 32;

/// The limits of a session. The configuration's defaults give the reason for each value.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// A connection that sends no `hello` within this time is closed.
    pub hello_timeout: Duration,
    /// How many notices may be unacknowledged at once.
    pub max_in_flight: u16,
    /// How many notices are read at once.
    pub page_size: u16,
    /// The interval between heartbeats (a `heartbeat` frame and a ping), give or take a tenth.
    pub heartbeat_interval: Duration,
    /// A connection that sends nothing for this long is closed.
    pub idle_timeout: Duration,
    /// Unacknowledged notices are sent again when no acknowledgement arrives within this time.
    pub ack_timeout: Duration,
    /// A connection that acknowledges nothing in this many rounds is closed.
    pub max_delivery_attempts: u32,
    /// How many text frames per second a client may send on average; also the burst size.
    pub max_frames_per_second: u32,
    /// How many events of one client may be waiting to become durable.
    pub max_pending_events: u16,
}

/// What the ledger stores of a device: what it has acknowledged, and what it may have received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to here is acknowledged.
    pub acked: Position,
    /// Highest seq that was ever sent to this device: up to here a notice may be a redelivery.
    pub sent_seq: u64,
}

/// What can occur to a session.
#[derive(Debug)]
pub enum SessionInput<'a> {
    /// A text frame arrived.
    Text(&'a str),
    /// A binary frame arrived.
    Binary,
    /// A ping or pong arrived: a sign of life.
    Control,
    /// The answer to [`SessionOutput::Authenticate`]: the token is valid.
    Authenticated {
        /// The owner of the mailbox, for the `welcome` frame.
        recipient: String,
        /// The device, for the `welcome` frame.
        device: Id,
        /// Where reading starts.
        cursor: Cursor,
        /// The newest durable notice.
        head: Position,
    },
    /// The answer to [`SessionOutput::Authenticate`]: the token or the position is invalid. The session closes.
    Rejected(Close),
    /// The mailbox may have a new notice.
    MailboxChanged,
    /// The answer to [`SessionOutput::Read`].
    Page(Result<MailboxPage, ReadError>),
    /// The same device acknowledged by a poll beside the WebSocket.
    AckedByPoll(Position),
    /// The same device was sent notices up to this seq by a poll beside the WebSocket.
    SentByPoll(u64),
    /// The deadline has passed.
    Time,
    /// The server stops.
    Drain {
        /// When this client should reconnect. Milliseconds.
        retry_ms: u32,
    },
    /// The answer to [`SessionOutput::PublishEvent`].
    EventAnswered {
        /// The client's id of the event.
        id: String,
        /// Whether the event was stored.
        verdict: EventVerdict,
    },
    /// The same device opened another connection.
    Replaced,
    /// The token has expired.
    TokenExpired,
}

/// The server's decision on an event of a client. [`EventResult`] is its form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventVerdict {
    /// The event is durable. Its effect, or an `event_rejected` if it came too late, follows as a notice.
    Stored,
    /// The event was durable before.
    Duplicate,
    /// The event was not stored, for this reason.
    Rejected(RejectionReason),
}

impl EventVerdict {
    /// The answer to the event with this id.
    #[must_use]
    pub fn into_result(self, id: String) -> EventResult {
        let (status, reason) = match self {
            Self::Stored => (EventStatus::Stored, None),
            Self::Duplicate => (EventStatus::Duplicate, None),
            Self::Rejected(reason) => (EventStatus::Rejected, Some(reason)),
        };
        EventResult { id, status, reason }
    }

    /// The words of status and reason, as on the wire.
    #[must_use]
    pub fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Stored => (EventStatus::Stored.word(), None),
            Self::Duplicate => (EventStatus::Duplicate.word(), None),
            Self::Rejected(reason) => (EventStatus::Rejected.word(), Some(reason.word())),
        }
    }
}

/// What the shell has to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionOutput {
    /// Validate the token and look up the cursor of the device. Answer `Authenticated` or `Rejected`.
    Authenticate {
        /// The token, not validated.
        token: BearerToken,
        /// The device that the client named.
        device: Option<Id>,
        /// The position that the client named.
        position: Option<Position>,
    },
    /// Read the mailbox. Answer `Page`.
    Read {
        /// The last notice sent: the `prev` of the first notice of the page.
        after: Position,
        /// Rows up to here need not be examined.
        scan: Position,
        /// At most this many notices.
        limit: u16,
    },
    /// Write a text frame.
    Send(String),
    /// Write a ping frame.
    Ping,
    /// Save the cursor of the device.
    SaveCursor(Cursor),
    /// Record that a range of notices was sent, both ends included. For the timeline of the orders; the session does not depend on it.
    Sent {
        /// Seq of the first notice.
        from: u64,
        /// Seq of the last notice.
        to: u64,
        /// The attempt, equal for all of them.
        attempt: u32,
    },
    /// Record that the client acknowledged everything up to here. For the timeline; [`SessionOutput::SaveCursor`] carries the cursor.
    Acked(Position),
    /// Record that the client displayed this notice to a person.
    Displayed(Position),
    /// The client cannot process this notice: alert an operator. The notice counts as acknowledged.
    Nacked {
        /// The position of the notice.
        position: Position,
        /// The client's reason: letters, digits, `-` and `_`, at most 32 bytes.
        reason: String,
    },
    /// The client acknowledged nothing from this notice on, in any round. The session closes next, with [`Close::AckTimeout`].
    AckTimedOut(Position),
    /// Make this event durable. Answer `EventAnswered`.
    PublishEvent(ClientEvent),
    /// Write a close frame and end the connection.
    Close(Close),
}

/// The session of one connection.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    state: State,
    /// State of the generator that spreads heartbeats; any start value will do.
    seed: u64,
    last_frame_at: Duration,
    /// Token bucket of frames: what is left, in thousandths of a frame, and when it was last filled.
    bucket: (u64, Duration),
}

#[derive(Debug)]
enum State {
    AwaitHello { until: Duration },
    Authenticating,
    Live(Live),
    Closed,
}

impl Session {
    /// A session that begins at `now`. `seed` spreads its heartbeats relative to those of other sessions.
    #[must_use]
    pub fn new(limits: SessionLimits, seed: u64, now: Duration) -> Self {
        let state = State::AwaitHello { until: now + limits.hello_timeout };
        let bucket = (u64::from(limits.max_frames_per_second) * 1000, now);
        Self { limits, state, seed, last_frame_at: now, bucket }
    }

    /// When [`SessionInput::Time`] is due, if nothing else occurs.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::AwaitHello { until } => Some(*until),
            State::Authenticating | State::Closed => None,
            State::Live(live) => {
                let idle = (self.last_frame_at + self.limits.idle_timeout).min(live.heartbeat_at);
                Some(if live.in_flight.is_empty() { idle } else { idle.min(live.redeliver_at) })
            }
        }
    }

    /// True once [`SessionOutput::Close`] was returned.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Processes one input at `now` and appends to `out` what the shell has to do. `fresh` is only forwarded to the client; the session does
    /// not depend on it.
    pub fn input(&mut self, input: SessionInput<'_>, now: Duration, fresh: Freshness, out: &mut Vec<SessionOutput>) {
        if self.is_closed() {
            return;
        }
        match input {
            SessionInput::Text(text) => self.text(text, now, out),
            SessionInput::Binary => self.close(Close::Unsupported, out),
            SessionInput::Control => self.last_frame_at = now,
            SessionInput::Authenticated { recipient, device, cursor, head } => {
                self.authenticated(recipient, &device, (cursor, head), now, fresh, out);
            }
            SessionInput::Rejected(close) => self.close(close, out),
            SessionInput::MailboxChanged => self.mailbox_changed(out),
            SessionInput::Page(page) => self.page(page, now, out),
            SessionInput::AckedByPoll(position) => self.acked_by_poll(position, now, out),
            SessionInput::SentByPoll(seq) => self.sent_by_poll(seq),
            SessionInput::Time => self.time(now, fresh, out),
            SessionInput::Drain { retry_ms } => {
                out.push(SessionOutput::Send(ServerFrame::Goaway { retry_ms }.encode()));
                self.close(Close::Restart { retry_ms }, out);
            }
            SessionInput::EventAnswered { id, verdict } => self.event_answered(id, verdict, out),
            SessionInput::Replaced => self.close(Close::Replaced, out),
            SessionInput::TokenExpired => self.close(Close::Unauthorized, out),
        }
    }

    fn close(&mut self, close: Close, out: &mut Vec<SessionOutput>) {
        self.state = State::Closed;
        out.push(SessionOutput::Close(close));
    }

    fn text(&mut self, text: &str, now: Duration, out: &mut Vec<SessionOutput>) {
        self.last_frame_at = now;
        if !self.take_frame(now) {
            return self.close(Close::RateLimited, out);
        }
        let frame = match ClientFrame::decode(text) {
            Ok(frame) => frame,
            Err(detail) => return self.close(Close::BadMessage(detail), out),
        };
        match (frame, &self.state) {
            (ClientFrame::Hello { token, device, position }, State::AwaitHello { .. }) => {
                self.hello(token, device, position, out);
            }
            (ClientFrame::Hello { .. }, _) => self.close(Close::BadMessage("a second hello"), out),
            (ClientFrame::Bye, _) => self.close(Close::Bye, out),
            (ClientFrame::Ack { position }, State::Live(_)) => match position.parse() {
                Ok(position) => self.ack(position, now, out),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Nack { position, reason }, State::Live(_)) => match position.parse() {
                Ok(position) => self.nack(position, &reason, now, out),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Displayed { position }, State::Live(_)) => match position.parse() {
                Ok(position) => out.push(SessionOutput::Displayed(position)),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Ack { .. } | ClientFrame::Displayed { .. } | ClientFrame::Nack { .. }, _) => {
                self.close(Close::BadMessage("a frame before hello"), out);
            }
            (ClientFrame::Event(event), State::Live(live)) if live.pending_events < self.limits.max_pending_events => {
                self.publish(event, out);
            }
            (ClientFrame::Event(event), State::Live(_)) => {
                let result = EventVerdict::Rejected(RejectionReason::Busy).into_result(event.id);
                out.push(SessionOutput::Send(ServerFrame::EventResult(result).encode()));
            }
            (ClientFrame::Event(_), _) => self.close(Close::BadMessage("event before hello"), out),
        }
    }

    fn nack(&mut self, position: Position, reason: &str, now: Duration, out: &mut Vec<SessionOutput>) {
        let was_sent = matches!(&self.state, State::Live(live) if live.sent.contains(&position));
        if was_sent {
            // A word, not free text: whatever clients write must not get into logs.
            let is_word_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let is_word = !reason.is_empty() && reason.len() <= REASON_BYTES_MAX && reason.chars().all(is_word_char);
            let reason = if is_word { reason.to_owned() } else { String::from("other") };
            out.push(SessionOutput::Nacked { position, reason });
        }
        self.ack(position, now, out);
    }

    fn publish(&mut self, event: ClientEvent, out: &mut Vec<SessionOutput>) {
        let State::Live(live) = &mut self.state else { return };
        live.pending_events += 1;
        out.push(SessionOutput::PublishEvent(event));
    }

    fn event_answered(&mut self, id: String, verdict: EventVerdict, out: &mut Vec<SessionOutput>) {
        let State::Live(live) = &mut self.state else { return };
        live.pending_events = live.pending_events.saturating_sub(1);
        out.push(SessionOutput::Send(ServerFrame::EventResult(verdict.into_result(id)).encode()));
    }

    /// Takes one frame from the token bucket, which holds one second's worth; false when it is empty.
    fn take_frame(&mut self, now: Duration) -> bool {
        let full = u64::from(self.limits.max_frames_per_second) * 1000;
        let (left, at) = self.bucket;
        let elapsed_ms = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(u64::from(self.limits.max_frames_per_second));
        let left = left.saturating_add(gained).min(full);
        let Some(left) = left.checked_sub(1000) else { return false };
        self.bucket = (left, now);
        true
    }

    fn hello(
        &mut self,
        token: BearerToken,
        device: Option<String>,
        position: Option<String>,
        out: &mut Vec<SessionOutput>,
    ) {
        if token.0.len() > TOKEN_BYTES_MAX {
            return self.close(Close::Unauthorized, out);
        }
        let Ok(device) = device.map(|text| Id::parse(&text)).transpose() else {
            return self.close(Close::BadMessage("not a device id"), out);
        };
        let Ok(position) = position.map(|text| text.parse()).transpose() else {
            // A till with a damaged state file must be able to continue.
            return self.close(Close::Resync(ResyncReason::EpochChanged), out);
        };
        self.state = State::Authenticating;
        out.push(SessionOutput::Authenticate { token, device, position });
    }

    fn authenticated(
        &mut self,
        recipient: String,
        device: &Id,
        (cursor, head): (Cursor, Position),
        now: Duration,
        fresh: Freshness,
        out: &mut Vec<SessionOutput>,
    ) {
        let State::Authenticating = self.state else { return };
        self.last_frame_at = now;
        let acked = cursor.acked;
        out.push(SessionOutput::Send(
            ServerFrame::Welcome {
                recipient,
                device: device.to_string(),
                position: acked,
                heartbeat_ms: u32::try_from(self.limits.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
                max_in_flight: self.limits.max_in_flight,
                max_frame_bytes: CLIENT_FRAME_BYTES_MAX as u32,
                fresh,
            }
            .encode(),
        ));
        out.push(SessionOutput::SaveCursor(cursor));
        let heartbeat_at = now + self.next_heartbeat();
        self.state = State::Live(Live {
            acked,
            chain: acked,
            scan: acked,
            head,
            in_flight: VecDeque::new(),
            sent: VecDeque::new(),
            sent_seq: cursor.sent_seq,
            prior_seq: cursor.sent_seq,
            rounds: 0,
            redeliver_at: now,
            heartbeat_at,
            is_reading: false,
            read_again: false,
            drop_page: false,
            pending_events: 0,
        });
        self.mailbox_changed(out);
    }

    /// The heartbeat interval with a jitter of a tenth: ten thousand tills that reconnected together must not beat together.
    fn next_heartbeat(&mut self) -> Duration {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let tenth = self.limits.heartbeat_interval / 10;
        let share = u32::try_from(self.seed >> 40).expect("24 bits") % 1000;
        self.limits.heartbeat_interval - tenth + tenth * 2 * share / 1000
    }

    fn mailbox_changed(&mut self, out: &mut Vec<SessionOutput>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if live.is_reading {
            live.read_again = true;
        } else {
            live.request_page(&limits, out);
        }
    }

    fn page(&mut self, page: Result<MailboxPage, ReadError>, now: Duration, out: &mut Vec<SessionOutput>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        live.is_reading = false;
        let page = match page {
            Ok(page) => page,
            Err(ReadError::EpochChanged) => return self.close(Close::Resync(ResyncReason::EpochChanged), out),
            Err(ReadError::PositionExpired) => return self.close(Close::Resync(ResyncReason::PositionExpired), out),
            Err(ReadError::Unavailable) => return self.close(Close::Internal, out),
        };
        if std::mem::take(&mut live.drop_page) {
            return live.request_page(&limits, out);
        }
        live.deliver(&page, &limits, now, out);
        if page.has_more() || std::mem::take(&mut live.read_again) {
            live.request_page(&limits, out);
        }
    }

    fn ack(&mut self, position: Position, now: Duration, out: &mut Vec<SessionOutput>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if position.epoch != live.acked.epoch {
            return self.close(Close::Resync(ResyncReason::EpochChanged), out);
        }
        if position.seq <= live.acked.seq {
            return;
        }
        if !live.sent.contains(&position) {
            return self.close(Close::BadMessage("ack of a notice that was not sent"), out);
        }
        out.push(SessionOutput::Acked(position));
        // The number of acknowledgements that advance is bounded by the number of notices sent, and a client that catches up sends many:
        // they are exempt from the frame limit.
        self.bucket.0 += 1000;
        live.advance(position, &limits, now, out);
    }

    fn acked_by_poll(&mut self, position: Position, now: Duration, out: &mut Vec<SessionOutput>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if position.epoch != live.acked.epoch || position.seq <= live.acked.seq {
            return;
        }
        live.advance(position, &limits, now, out);
    }

    fn sent_by_poll(&mut self, seq: u64) {
        let State::Live(live) = &mut self.state else { return };
        live.sent_seq = live.sent_seq.max(seq);
        live.prior_seq = live.prior_seq.max(seq);
    }

    fn time(&mut self, now: Duration, fresh: Freshness, out: &mut Vec<SessionOutput>) {
        let limits = self.limits;
        if let State::AwaitHello { until } = self.state {
            if now >= until {
                self.close(Close::Timeout, out);
            }
            return;
        }
        if now >= self.last_frame_at + limits.idle_timeout {
            return self.close(Close::Timeout, out);
        }
        let State::Live(live) = &mut self.state else { return };
        if !live.in_flight.is_empty() && now >= live.redeliver_at {
            if live.rounds >= limits.max_delivery_attempts {
                out.extend(live.in_flight.front().map(|first| SessionOutput::AckTimedOut(*first)));
                return self.close(Close::AckTimeout, out);
            }
            live.rewind(&limits, out);
        }
        if now >= live.heartbeat_at {
            let heartbeat = ServerFrame::Heartbeat { last_sent: live.chain, head: live.head, fresh };
            out.push(SessionOutput::Send(heartbeat.encode()));
            out.push(SessionOutput::Ping);
            let next = self.next_heartbeat();
            if let State::Live(live) = &mut self.state {
                live.heartbeat_at = now + next;
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
