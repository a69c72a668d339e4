//! The client of a mailbox as a pure state machine, without socket, clock or randomness.
//!
//! ```text
//!   Resync --open orders--> Down --connect--> Opening --welcome--> Live
//!      ^                     |  ^                                   |
//!      +---- 4200, 409, 410 -+  +------- closed, silent, broken ----+        while not Live: polls
//! ```
//!
//! The shell feeds [`Input`]s with the time since its start and carries out the [`Output`]s **in order**: that is the whole contract. Every
//! [`Output::Notice`] is followed by its acknowledgement; a shell that cannot store the notice must not continue.
//!
//! The machine does for its application: reconnecting with jittered back-off, resuming, dropping duplicates, checking the `prev` chain, polling
//! while there is no socket, fetching the open orders when its position is not valid, sending events until they have a result, and reporting
//! when the server's data is stale or the server is unreachable. When the server reports a fault of this client (40xx), only the socket pauses:
//! polling continues. Whatever a server asks for (waits, pages) is bounded, and everything that fails is retried with back-off: no response
//! makes the machine spin.
//!
//! Refused: a time-out for HTTP responses (the shell's HTTP client has one; every request ends with [`Input::Response`] or
//! [`Input::RequestFailed`]), and more than one request at a time.

mod codes;
mod credentials;
mod events;
mod io;
mod known;
mod requests;

use std::time::Duration;

use serde::Deserialize;

use crate::bearer_token::BearerToken;
use crate::frame::{
    CLIENT_FRAME_BYTES_MAX, ClientEvent, ClientFrame, EventResult, EventStatus, Freshness, NoticeFrame,
    RejectionReason, ServerFrame,
};
use crate::position::Position;
use codes::{CloseAction, EventOutcome};
use credentials::Credentials;
use events::PendingEvents;
pub use io::{Connectivity, Frame, Input, Output, PersistedState, Timings};
use known::KnownNotices;
use requests::{Listing, Request};

/// The close code that stands for a connection without a close frame (RFC 6455, section 7.1.5).
const ABNORMAL_CLOSURE: u16 = 1006;

/// The pause after being superseded grows up to this multiple of [`Timings::superseded_retry`].
const SUPERSEDED_STEPS_MAX: u32 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// There is none; the next one is opened at `retry_at`. `is_fixed`: no resync may bring that time forward.
    Down { retry_at: Duration, is_fixed: bool },
    /// It is being opened, or waits for `welcome`, until then.
    Opening { until: Duration },
    /// Welcomed at `since`; last frame at `last_frame_at`; dead when nothing arrives for `silence`.
    Live { since: Duration, last_frame_at: Duration, silence: Duration },
}

/// What the client may do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It connects, polls and posts.
    Active,
    /// Another connection of this device took over: no socket and no request before `until`, since both share one cursor.
    Superseded { until: Duration },
    /// The server refused the token: no socket and no request before there is a new one.
    AwaitingToken { superseded_until: Option<Duration> },
    /// The application has no network access: nothing is done before [`Input::Foreground`].
    Background { needs_token: bool },
}

impl Mode {
    fn needs_token(self) -> bool {
        matches!(self, Self::AwaitingToken { .. } | Self::Background { needs_token: true })
    }

    fn with_token_needed(self) -> Self {
        match self {
            Self::Active => Self::AwaitingToken { superseded_until: None },
            Self::Superseded { until } => Self::AwaitingToken { superseded_until: Some(until) },
            Self::AwaitingToken { .. } => self,
            Self::Background { .. } => Self::Background { needs_token: true },
        }
    }

    fn with_token(self) -> Self {
        match self {
            Self::AwaitingToken { superseded_until: Some(until) } => Self::Superseded { until },
            Self::AwaitingToken { superseded_until: None } => Self::Active,
            Self::Background { .. } => Self::Background { needs_token: false },
            Self::Active | Self::Superseded { .. } => self,
        }
    }

    fn superseded(self, until: Duration) -> Self {
        match self {
            Self::Active | Self::Superseded { .. } => Self::Superseded { until },
            Self::AwaitingToken { .. } => Self::AwaitingToken { superseded_until: Some(until) },
            Self::Background { .. } => self,
        }
    }

    fn in_foreground(self) -> Self {
        if self.needs_token() { Self::AwaitingToken { superseded_until: None } } else { Self::Active }
    }
}

/// Consecutive failures, from which the back-offs follow.
#[derive(Debug, Default)]
struct Failures {
    sockets: u32,
    /// Polls and requests for open orders.
    requests: u32,
    /// Posts are counted separately: polls that succeed say nothing about them.
    posts: u32,
    /// How often another connection of this device took over.
    superseded: u32,
}

/// Fetching the open orders in place of an invalid position.
#[derive(Debug)]
struct Resync {
    /// When the next page may be requested; `None` while no resync is due.
    at: Option<Duration>,
    listing: Listing,
    /// Positions that were refused one after another, and when the last one was.
    failures: u32,
    last_failed: Duration,
}

/// The state machine; see the [module](self).
#[derive(Debug)]
pub struct Client {
    timings: Timings,
    credentials: Credentials,
    device: String,
    /// State of the generator that jitters the waits.
    seed: u32,
    mode: Mode,
    position: Option<Position>,
    /// The position that the last `hello` named.
    hello_position: Option<Position>,
    known: KnownNotices,
    events: PendingEvents,
    socket: Socket,
    request: Option<Request>,
    failures: Failures,
    resync: Resync,
    poll_at: Duration,
    /// When something from the server is due, if all is well.
    expected_at: Duration,
    /// When this client last dropped a socket. The server may learn of it late and then close the next one as replaced.
    dropped_at: Option<Duration>,
    connectivity: Connectivity,
    stale: bool,
}

impl Client {
    /// A client that starts at `now`. `seed` jitters its waits against those of other clients. Without a persisted position it begins with the
    /// open orders; with an empty token it first waits for [`Input::Token`].
    #[must_use]
    pub fn new(token: &str, device: &str, state: PersistedState, timings: Timings, seed: u64, now: Duration) -> Self {
        let mode = if token.is_empty() { Mode::Active.with_token_needed() } else { Mode::Active };
        let resync_at = state.position.is_none().then_some(now);
        Self {
            timings,
            credentials: Credentials::new(token, now),
            device: device.into(),
            seed: (seed ^ (seed >> 32)) as u32,
            mode,
            position: state.position,
            hello_position: None,
            known: KnownNotices::new(state.known),
            events: PendingEvents::new(state.events),
            socket: Socket::Down { retry_at: now, is_fixed: false },
            request: None,
            failures: Failures::default(),
            resync: Resync { at: resync_at, listing: Listing::default(), failures: 0, last_failed: now },
            poll_at: now,
            expected_at: now,
            dropped_at: None,
            connectivity: Connectivity::Starting,
            stale: false,
        }
    }

    /// The state to persist. It is the state after all outputs of one input: persist it when these are carried out, and before the first one
    /// that sends something to the server.
    #[must_use]
    pub fn persisted_state(&self) -> PersistedState {
        PersistedState { position: self.position, known: self.known.ids(), events: self.events.all() }
    }

    /// How notices reach this client at the moment.
    #[must_use]
    pub fn connectivity(&self) -> Connectivity {
        self.connectivity
    }

    /// When [`Input::Time`] is due, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let unreachable = (self.connectivity != Connectivity::Unreachable).then_some(self.unreachable_at());
        match self.mode {
            Mode::Background { .. } => return None,
            Mode::AwaitingToken { .. } => return unreachable,
            Mode::Superseded { until } => return Some(until),
            Mode::Active => (),
        }
        let (live, free) = (self.is_live(), self.request.is_none() && !self.is_live());
        let socket = match self.socket {
            Socket::Down { retry_at, .. } if self.resync.at.is_none() => Some(retry_at),
            Socket::Opening { until } => Some(until),
            Socket::Live { last_frame_at, silence, .. } => Some(last_frame_at + silence),
            Socket::Down { .. } => None,
        };
        let may_poll = free && self.may_poll();
        let poll = may_poll.then_some(self.poll_at);
        let post = self.events.next_due().filter(|_| live || may_poll);
        [socket, poll, post, self.resync.at.filter(|_| free), unreachable].into_iter().flatten().min()
    }

    /// Processes one input at `now` and appends what is to be done to `out`.
    pub fn input(&mut self, input: Input<'_>, now: Duration, out: &mut Vec<Output>) {
        match input {
            Input::Time => (),
            Input::Opened => self.opened(out),
            Input::Text(text) => self.text(text, now, out),
            Input::Closed(close) => self.closed(close, now, out),
            Input::Response { status, body, retry_after } => self.response(status, body, retry_after, now, out),
            Input::RequestFailed => self.request_failed(None, now),
            Input::Event(event) => self.report_event(event, now, out),
            Input::Displayed(position) => self.send(&ClientFrame::Displayed { position: position.to_string() }, out),
            Input::Token(token) => self.token_renewed(token, now, out),
            Input::Background => {
                self.mode = Mode::Background { needs_token: self.mode.needs_token() };
                self.drop_socket(now, out);
                self.cancel_request(now, out);
            }
            Input::Foreground => self.foreground(now, out),
        }
        self.advance(now, out);
    }

    /// Fetches what happened in the meantime with one request: the open orders and the position to continue from. A socket from before may be
    /// dead without knowing it, and so may a request.
    fn foreground(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.drop_socket(now, out);
        self.cancel_request(now, out);
        self.mode = self.mode.in_foreground();
        self.failures = Failures { superseded: self.failures.superseded, ..Failures::default() };
        self.events.hold_until(now);
        self.expected_at = now;
        self.socket = Socket::Down { retry_at: now, is_fixed: false };
        self.poll_at = now;
        self.begin_resync(now);
    }

    fn report_event(&mut self, event: ClientEvent, now: Duration, out: &mut Vec<Output>) {
        // The server closes every socket on which it receives a longer frame.
        if ClientFrame::Event(event.clone()).encode().len() > CLIENT_FRAME_BYTES_MAX {
            return out.push(Output::EventResult { id: event.id, rejected: Some(RejectionReason::TooLong) });
        }
        self.events.add(event, now);
    }

    fn token_renewed(&mut self, token: BearerToken, now: Duration, out: &mut Vec<Output>) {
        self.credentials.renew(token);
        if !self.mode.needs_token() {
            return;
        }
        self.mode = self.mode.with_token();
        // A socket that is being opened carries the old token.
        self.drop_socket(now, out);
        // An application whose tokens are all refused must not flood the server with them.
        let (refusals, last) = (self.credentials.refusals, self.credentials.refused_at);
        let at = if refusals > 1 { now.max(last + self.back_off(refusals)) } else { now };
        self.poll_at = at;
        self.socket = Socket::Down { retry_at: at, is_fixed: true };
    }

    fn is_live(&self) -> bool {
        matches!(self.socket, Socket::Live { .. })
    }

    fn unreachable_at(&self) -> Duration {
        self.expected_at + self.timings.unreachable_after
    }

    /// A wait that the server asks for, within bounds.
    fn bounded(&self, wait: Duration) -> Duration {
        wait.clamp(self.timings.retry_min, self.timings.server_wait_max)
    }

    /// Does whatever is due.
    fn advance(&mut self, now: Duration, out: &mut Vec<Output>) {
        match self.mode {
            Mode::Background { .. } => return,
            // No request with a refused token; but the screen must not say "online" in the meantime.
            Mode::AwaitingToken { .. } => return self.check_reachability(now, out),
            Mode::Superseded { until } if now < until => return,
            Mode::Superseded { .. } => {
                // The socket goes first: a poll would move the cursor of the other connection.
                self.mode = Mode::Active;
                (self.expected_at, self.poll_at) = (now, now + self.timings.welcome_timeout);
            }
            Mode::Active => (),
        }
        match self.socket {
            Socket::Down { retry_at, .. } if now >= retry_at && self.resync.at.is_none() => {
                self.socket = Socket::Opening { until: now + self.timings.welcome_timeout };
                out.push(Output::OpenSocket);
            }
            Socket::Opening { until } if now >= until => self.give_up_socket(now, out),
            Socket::Live { last_frame_at, silence, .. } if now >= last_frame_at + silence => {
                self.give_up_socket(now, out)
            }
            _ => (),
        }
        if self.is_live() {
            for event in self.events.take_due(now) {
                out.push(Output::Send(Frame(ClientFrame::Event(event).encode())));
            }
        } else if self.request.is_none() {
            self.make_request(now, out);
        }
        self.check_reachability(now, out);
    }

    fn check_reachability(&mut self, now: Duration, out: &mut Vec<Output>) {
        if now >= self.unreachable_at() {
            self.set_connectivity(Connectivity::Unreachable, out);
        }
    }

    fn send(&self, frame: &ClientFrame, out: &mut Vec<Output>) {
        if self.is_live() {
            out.push(Output::Send(Frame(frame.encode())));
        }
    }

    fn opened(&mut self, out: &mut Vec<Output>) {
        let Socket::Opening { .. } = self.socket else { return out.push(Output::DropSocket) };
        self.credentials.socket_version = self.credentials.version;
        self.hello_position = self.position;
        let position = self.position.map(|position| position.to_string());
        let token = self.credentials.token.clone();
        let hello = ClientFrame::Hello { token, device: Some(self.device.clone()), position };
        out.push(Output::Send(Frame(hello.encode())));
    }

    fn text(&mut self, text: &str, now: Duration, out: &mut Vec<Output>) {
        if let Socket::Live { last_frame_at, silence, .. } = &mut self.socket {
            *last_frame_at = now;
            self.expected_at = now + *silence / 2;
            self.set_connectivity(Connectivity::Push, out);
        }
        let tag = serde_json::from_str::<Tag>(text).map(|tag| tag.name);
        if tag.is_ok_and(|name| name == "notice") {
            return match serde_json::from_str(text) {
                Ok(notice) => self.notice(notice, now, out),
                // The notices behind it must not be accepted as if it had been read.
                Err(_) => self.give_up_socket(now, out),
            };
        }
        match serde_json::from_str(text) {
            Ok(ServerFrame::Welcome { position, heartbeat_ms, fresh, .. }) => {
                // The server's position takes precedence: it may have skipped a notice that this device could not process. Unless a poll
                // moved ours in the meantime: what the socket brings may then be older than what the poll delivered.
                if self.position.is_none_or(|ours| Some(ours) == self.hello_position) {
                    self.position = Some(position);
                }
                let heartbeat = self.bounded(Duration::from_millis(u64::from(heartbeat_ms)));
                self.socket = Socket::Live { since: now, last_frame_at: now, silence: heartbeat * 2 };
                self.expected_at = now + heartbeat;
                self.credentials.refusals = 0;
                self.mode = self.mode.with_token();
                self.events.resend(now);
                self.events.hold_until(now);
                self.set_connectivity(Connectivity::Push, out);
                self.update_freshness(fresh, out);
            }
            Ok(ServerFrame::Heartbeat { fresh, .. }) => self.update_freshness(fresh, out),
            Ok(ServerFrame::EventResult(EventResult { id, status, reason })) => {
                self.event_result(id, status, reason, now, out)
            }
            // The close frame that follows carries the same delay. Unknown frames are ignored, so that v1 can grow.
            Ok(ServerFrame::Goaway { .. }) | Err(_) => (),
        }
    }

    fn notice(&mut self, notice: NoticeFrame, now: Duration, out: &mut Vec<Output>) {
        if !self.is_live() {
            return;
        }
        let position = notice.position;
        if !self.accept_notice(notice, out) {
            return self.give_up_socket(now, out);
        }
        self.send(&ClientFrame::Ack { position: position.to_string() }, out);
    }

    /// Delivers a notice, unless it is a duplicate; false when the chain is broken. A duplicate that follows our position advances it all the
    /// same: in a new epoch old notices have new positions.
    fn accept_notice(&mut self, notice: NoticeFrame, out: &mut Vec<Output>) -> bool {
        let follows = self.position.is_none_or(|position| position == notice.prev);
        let known = self.known.contains(&notice.notice.id);
        if follows {
            self.position = Some(notice.position);
        }
        if follows && !known {
            self.known.insert(notice.notice.id.clone());
            out.push(Output::Notice(notice));
        }
        follows || known
    }

    fn closed(&mut self, close: Option<(u16, &str)>, now: Duration, out: &mut Vec<Output>) {
        if matches!(self.socket, Socket::Down { .. }) {
            return;
        }
        if self.is_live() {
            // Poll at once for what may have come in between. A socket that never opened does not change the time of the next poll.
            self.poll_at = now;
            self.events.resend(now);
        }
        self.reset_failures_if_stable(now);
        self.failures.sockets = self.failures.sockets.saturating_add(1);
        let (code, reason) = close.unwrap_or((ABNORMAL_CLOSURE, ""));
        let wait = retry_ms(reason).map(|wait| self.bounded(wait));
        let retry_at = now + wait.unwrap_or_else(|| self.back_off(self.failures.sockets));
        self.socket = Socket::Down { retry_at, is_fixed: wait.is_some() };
        match CloseAction::of(code) {
            CloseAction::RenewToken => self.token_refused(self.credentials.socket_version, now, out),
            CloseAction::Yield => self.superseded(now, out),
            CloseAction::WaitLong => self.pause_socket(now + self.timings.retry_max * 4),
            CloseAction::Resync => self.position_invalid(now),
            CloseAction::ReportFault => {
                self.pause_socket(now + self.timings.fault_retry);
                out.push(Output::Fault(code, reason.into()));
            }
            CloseAction::Reconnect => (),
        }
    }

    fn pause_socket(&mut self, retry_at: Duration) {
        self.socket = Socket::Down { retry_at, is_fixed: true };
    }

    /// After a connection that lasted, the back-offs restart at the first wait.
    fn reset_failures_if_stable(&mut self, now: Duration) {
        if let Socket::Live { since, .. } = self.socket
            && now >= since + self.timings.stable_after
        {
            (self.failures.sockets, self.resync.failures, self.failures.superseded) = (0, 0, 0);
        }
    }

    /// Another connection of the same device took over: pause, and make no request either, since both share one cursor. Unless the other
    /// connection was our own: when the server learns late of a socket that we dropped, it closes the next one as replaced.
    fn superseded(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.dropped_at.take().is_some_and(|at| now < at + self.timings.server_wait_max) {
            return;
        }
        self.failures.superseded = self.failures.superseded.saturating_add(1).min(SUPERSEDED_STEPS_MAX);
        self.mode = self.mode.superseded(now + self.timings.superseded_retry * self.failures.superseded);
        self.pause_socket(now);
        self.cancel_request(now, out);
        self.set_connectivity(Connectivity::Superseded, out);
    }

    /// Drops a socket that is dead or cannot be trusted, as if it had failed.
    fn give_up_socket(&mut self, now: Duration, out: &mut Vec<Output>) {
        out.push(Output::DropSocket);
        self.dropped_at = Some(now);
        self.closed(None, now, out);
    }

    /// Drops the socket, if there is one, without counting a failure.
    fn drop_socket(&mut self, now: Duration, out: &mut Vec<Output>) {
        if !matches!(self.socket, Socket::Down { .. }) {
            self.reset_failures_if_stable(now);
            self.events.resend(now);
            self.socket = Socket::Down { retry_at: now, is_fixed: false };
            self.dropped_at = Some(now);
            out.push(Output::DropSocket);
        }
    }

    /// `retry_min * 2^n`, at most `retry_max`, jittered over its upper half. In 32 bits and whole milliseconds: JavaScript computes the same.
    fn back_off(&mut self, failures: u32) -> Duration {
        let doubled = self.timings.retry_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let half = u64::try_from(doubled.min(self.timings.retry_max).as_millis()).unwrap_or(u64::MAX) / 2;
        // The generator of Numerical Recipes, chapter 7.1; its upper bits are the good ones.
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Duration::from_millis(half + half.saturating_mul(u64::from(self.seed >> 16) % 1000) / 1000)
    }

    /// The server refused our position. When it does so repeatedly, the open orders are fetched with back-off.
    fn position_invalid(&mut self, now: Duration) {
        (self.resync.failures, self.resync.last_failed) = (self.resync.failures.saturating_add(1), now);
        let wait = if self.resync.failures > 1 { self.back_off(self.resync.failures) } else { Duration::ZERO };
        self.position = None;
        self.begin_resync(now + wait);
    }

    fn begin_resync(&mut self, at: Duration) {
        self.resync.listing = Listing::default();
        self.resync.at = Some(at);
    }

    /// The server refused the token of this version. If there is a newer one, that is tried; otherwise the application has to bring one.
    fn token_refused(&mut self, version: u32, now: Duration, out: &mut Vec<Output>) {
        self.credentials.note_refusal(now);
        if version == self.credentials.version && !self.is_live() {
            self.mode = self.mode.with_token_needed();
            out.push(Output::TokenNeeded);
        }
    }

    fn event_result(
        &mut self,
        id: String,
        status: EventStatus,
        reason: Option<RejectionReason>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let rejected = match EventOutcome::of(status, reason) {
            EventOutcome::RetryLater => return self.events.postpone(&id, now + self.timings.retry_min * 4),
            EventOutcome::Rejected(reason) => Some(reason),
            EventOutcome::Durable => None,
        };
        if self.events.remove(&id) {
            out.push(Output::EventResult { id, rejected });
        }
    }

    fn set_connectivity(&mut self, connectivity: Connectivity, out: &mut Vec<Output>) {
        if self.connectivity != connectivity {
            self.connectivity = connectivity;
            out.push(Output::Connectivity(connectivity));
        }
    }

    fn update_freshness(&mut self, fresh: Freshness, out: &mut Vec<Output>) {
        if self.stale != fresh.stale {
            self.stale = fresh.stale;
            out.push(Output::Stale(fresh.stale));
        }
    }
}

/// The delay that a close reason carries, as in `restart;retry_ms=7300`.
fn retry_ms(reason: &str) -> Option<Duration> {
    let value = reason.split(';').find_map(|part| part.trim().strip_prefix("retry_ms="))?;
    value.parse().ok().map(Duration::from_millis)
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    name: String,
}

#[cfg(test)]
mod jitter_tests;
