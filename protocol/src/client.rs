//! The client of a mailbox: pure, without socket, clock or chance.
//!
//! ```text
//!   Resync --open orders--> Down --connect--> Opening --welcome--> Live
//!      ^                     |  ^                                   |
//!      +---- 4200, 409, 410 -+  +------- lost, silent, broken ------+        while not Live: polls
//! ```
//!
//! The shell feeds [`Input`]s with the time since its start and carries out the [`Output`]s **in order**: that is the whole contract. A
//! notice comes as [`Output::Notice`], and its acknowledgement behind it; a shell that cannot keep the notice must not go on.
//!
//! What it takes off an application's hands: back-off with jitter, resuming, dropping repeats, checking the `after` chain, polling while there
//! is no socket and back, open orders when its position is of no use, repeating events until they are answered, and telling when what it
//! knows is stale or when nobody was heard. A bug that the server complains of (40xx) ends the socket for a while, never the till: polling goes
//! on. What a server asks for (waits, pages) has bounds, and whatever fails is tried again less and less often: no answer makes it spin.
//!
//! Refused: a time-out for HTTP answers (the shell's client has one; every request is answered, if only with [`Input::Failed`]), and more than
//! one request at once.

mod asking;
mod events;
mod words;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use crate::frame::{CLIENT_FRAME_BYTES_MAX, ClientEvent, ClientFrame, Freshness, NoticeFrame, ServerFrame};
use crate::position::Position;
use asking::{Listing, Request};
use events::Events;
pub use words::{Frame, Input, Link, Output, Pace, Saved, Token};

/// Ids of notices that are remembered. A window is 64 and a poll 100: what comes again comes soon; the rest is for restarts and resyncs.
const KNOWN_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// None; the next one then. `told`: the server said when.
    Down { retry_at: Duration, told: bool },
    /// Asked for, or said hello.
    Opening { until: Duration },
    /// Welcomed at, heard at, and dead when silent for so long.
    Live { since: Duration, heard: Duration, silence: Duration },
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    pace: Pace,
    token: Token,
    /// Counts tokens: one that is refused may not be the newest.
    token_number: u32,
    /// With which the socket said hello, and the request was made.
    used: (u32, u32),
    /// Tokens that were refused one after another, and when the last was.
    token_failures: (u32, Duration),
    device: String,
    seed: u32,
    position: Option<Position>,
    known: HashSet<String>,
    known_order: VecDeque<String>,
    events: Events,
    socket: Socket,
    request: Option<Request>,
    /// Sockets that failed one after another.
    failures: u32,
    /// Requests that failed one after another.
    refusals: u32,
    /// The same of posts alone: polls that go well say nothing of them.
    post_refusals: u32,
    /// Positions of no use one after another, and when the last was.
    resyncs: (u32, Duration),
    poll_at: Duration,
    /// Open orders are to be asked for, from then on.
    resync_at: Option<Duration>,
    listing: Listing,
    /// Somebody is heard of by then, if all is well.
    expected_at: Duration,
    /// We dropped a socket at this time: what the server hears of it late may end the next one.
    dropped_at: Option<Duration>,
    /// The same device is connected elsewhere: away until then; how often that was.
    out: Option<Duration>,
    replaced: u32,
    link: Link,
    stale: bool,
    token_bad: bool,
    away: bool,
}

impl Client {
    /// A client that begins at `now`. `seed` spreads its waits against those of others. Without a saved position it begins with the open orders;
    /// with an empty token it waits for [`Input::Token`] first.
    #[must_use]
    pub fn new(token: &str, device: &str, saved: Saved, pace: Pace, seed: u64, now: Duration) -> Self {
        Self {
            pace,
            token: Token(token.into()),
            token_number: 0,
            used: (0, 0),
            token_failures: (0, now),
            device: device.into(),
            seed: (seed ^ (seed >> 32)) as u32,
            position: saved.position,
            known: saved.known.iter().cloned().collect(),
            known_order: saved.known,
            events: Events::new(saved.events),
            socket: Socket::Down { retry_at: now, told: false },
            request: None,
            failures: 0,
            refusals: 0,
            post_refusals: 0,
            resyncs: (0, now),
            poll_at: now,
            resync_at: saved.position.is_none().then_some(now),
            listing: Listing::default(),
            expected_at: now,
            dropped_at: None,
            out: None,
            replaced: 0,
            link: Link::Begun,
            stale: false,
            token_bad: token.is_empty(),
            away: false,
        }
    }

    /// What is to be kept over a restart. It belongs to the state behind all outputs of one input: keep it when these are carried out, and before
    /// the first that speaks to the server.
    #[must_use]
    pub fn saved(&self) -> Saved {
        Saved { position: self.position, known: self.known_order.clone(), events: self.events.all() }
    }

    /// How the server is heard.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// When [`Input::Time`] is due, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.away {
            return None;
        }
        let unreachable = (self.link != Link::Unreachable).then_some(self.unreachable_at());
        if self.token_bad {
            return unreachable;
        }
        if self.out.is_some() {
            return self.out;
        }
        let (live, free) = (self.is_live(), self.request.is_none() && !self.is_live());
        let socket = match self.socket {
            Socket::Down { retry_at, .. } if self.resync_at.is_none() => Some(retry_at),
            Socket::Opening { until } => Some(until),
            Socket::Live { heard, silence, .. } => Some(heard + silence),
            Socket::Down { .. } => None,
        };
        let asks = free && self.asks();
        let poll = asks.then_some(self.poll_at);
        let post = self.events.due().filter(|_| live || asks);
        [socket, poll, post, self.resync_at.filter(|_| free), unreachable].into_iter().flatten().min()
    }

    /// One thing happened at `now`; what is to be done is added to `out`.
    pub fn input(&mut self, input: Input<'_>, now: Duration, out: &mut Vec<Output>) {
        match input {
            Input::Time => (),
            Input::Opened => self.opened(out),
            Input::Text(text) => self.text(text, now, out),
            Input::Closed(close) => self.closed(close, now, out),
            Input::Answer { status, body, retry_after } => self.answer(status, body, retry_after, now, out),
            Input::Failed => self.failed(None, now),
            Input::Say(event) => self.happened(event, now, out),
            Input::Shown(position) => self.say(&ClientFrame::Shown { position: position.to_string() }, out),
            Input::Token(token) => self.renewed(token, now, out),
            Input::Background => {
                self.away = true;
                self.drop_socket(now, out);
                self.abandon(now, out);
            }
            Input::Foreground => self.foreground(now, out),
        }
        self.go_on(now, out);
    }

    /// What happened meanwhile is asked for at once, and once: what is open, and where to go on. A socket that slept may be dead without
    /// knowing it, and so may a request.
    fn foreground(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.drop_socket(now, out);
        self.abandon(now, out);
        (self.away, self.failures, self.refusals, self.post_refusals, self.out) = (false, 0, 0, 0, None);
        self.events.hold(now);
        self.expected_at = now;
        self.socket = Socket::Down { retry_at: now, told: false };
        self.poll_at = now;
        self.resync(now);
    }

    fn happened(&mut self, event: ClientEvent, now: Duration, out: &mut Vec<Output>) {
        // It would end every socket that it is sent on.
        if ClientFrame::Event(event.clone()).encode().len() > CLIENT_FRAME_BYTES_MAX {
            return out.push(Output::Answered { id: event.id, refused: Some("too-long".into()) });
        }
        self.events.say(event, now);
    }

    fn renewed(&mut self, token: Token, now: Duration, out: &mut Vec<Output>) {
        self.token = token;
        self.token_number += 1;
        if std::mem::take(&mut self.token_bad) {
            // One that was opening goes with the old token.
            self.drop_socket(now, out);
            // An application whose tokens are all refused must not storm the server with them.
            let (failures, last) = self.token_failures;
            let at = if failures > 1 { now.max(last + self.back_off(failures)) } else { now };
            self.poll_at = at;
            self.socket = Socket::Down { retry_at: at, told: true };
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.socket, Socket::Live { .. })
    }

    fn unreachable_at(&self) -> Duration {
        self.expected_at + self.pace.unreachable_after
    }

    /// A wait that the server asks for, within reason.
    fn told(&self, wait: Duration) -> Duration {
        wait.clamp(self.pace.retry_min, self.pace.told_max)
    }

    /// Whatever is due.
    fn go_on(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.away {
            return;
        }
        if self.token_bad {
            // Nobody is asked with a token that is no good; a screen must not say "online" meanwhile.
            return self.look(now, out);
        }
        if let Some(until) = self.out {
            if now < until {
                return;
            }
            // The socket goes first: a poll would take from the other one what it needs.
            (self.out, self.expected_at, self.poll_at) = (None, now, now + self.pace.welcome_timeout);
        }
        match self.socket {
            Socket::Down { retry_at, .. } if now >= retry_at && self.resync_at.is_none() => {
                self.socket = Socket::Opening { until: now + self.pace.welcome_timeout };
                out.push(Output::Open);
            }
            Socket::Opening { until } if now >= until => self.lost(now, out),
            Socket::Live { heard, silence, .. } if now >= heard + silence => self.lost(now, out),
            _ => (),
        }
        if self.is_live() {
            for event in self.events.take(now) {
                out.push(Output::Send(Frame(ClientFrame::Event(event).encode())));
            }
        } else if self.request.is_none() {
            self.ask(now, out);
        }
        self.look(now, out);
    }

    /// Whether nobody was heard for too long.
    fn look(&mut self, now: Duration, out: &mut Vec<Output>) {
        if now >= self.unreachable_at() {
            self.tell_link(Link::Unreachable, out);
        }
    }

    fn say(&self, frame: &ClientFrame, out: &mut Vec<Output>) {
        if self.is_live() {
            out.push(Output::Send(Frame(frame.encode())));
        }
    }

    fn opened(&mut self, out: &mut Vec<Output>) {
        let Socket::Opening { .. } = self.socket else { return out.push(Output::Drop) };
        self.used.0 = self.token_number;
        let position = self.position.map(|position| position.to_string());
        let hello = ClientFrame::Hello { token: self.token.0.clone(), device: Some(self.device.clone()), position };
        out.push(Output::Send(Frame(hello.encode())));
    }

    fn text(&mut self, text: &str, now: Duration, out: &mut Vec<Output>) {
        if let Socket::Live { heard, silence, .. } = &mut self.socket {
            *heard = now;
            self.expected_at = now + *silence / 2;
            self.tell_link(Link::Pushed, out);
        }
        let tag = serde_json::from_str::<Tag>(text).map(|tag| tag.name);
        if tag.is_ok_and(|name| name == "notice") {
            return match serde_json::from_str(text) {
                Ok(notice) => self.pushed(notice, now, out),
                // What stands behind it must not be taken as if it had been read.
                Err(_) => self.lost(now, out),
            };
        }
        match serde_json::from_str(text) {
            Ok(ServerFrame::Welcome { position, heartbeat_ms, fresh, .. }) => {
                // The server's word holds: it may have set something aside that this device could not get.
                self.position = Some(position);
                let beat =
                    Duration::from_millis(u64::from(heartbeat_ms)).clamp(self.pace.retry_min, self.pace.told_max);
                self.socket = Socket::Live { since: now, heard: now, silence: beat * 2 };
                self.expected_at = now + beat;
                (self.token_failures.0, self.token_bad) = (0, false);
                self.events.unanswered(now);
                self.events.hold(now);
                self.tell_link(Link::Pushed, out);
                self.freshness(fresh, out);
            }
            Ok(ServerFrame::Beat { fresh, .. }) => self.freshness(fresh, out),
            Ok(ServerFrame::Logged { id, status, reason }) => self.answered(id, &status, reason, now, out),
            // The close that follows tells the same delay. What is not known may be ignored: that is how v1 grows.
            Ok(ServerFrame::Leave { .. }) | Err(_) => (),
        }
    }

    fn pushed(&mut self, notice: NoticeFrame, now: Duration, out: &mut Vec<Output>) {
        if !self.is_live() {
            return;
        }
        let position = notice.position;
        if !self.take(notice, out) {
            return self.lost(now, out);
        }
        self.say(&ClientFrame::Ack { position: position.to_string() }, out);
    }

    /// Takes a notice, unless it is known; false when the chain is broken. One that is known and follows where we stand moves us on all the
    /// same: in a new epoch old notices have new positions.
    fn take(&mut self, notice: NoticeFrame, out: &mut Vec<Output>) -> bool {
        let follows = self.position.is_none_or(|position| position == notice.after);
        let known = self.known.contains(&notice.notice.id);
        if follows {
            self.position = Some(notice.position);
        }
        if follows && !known {
            self.remember(notice.notice.id.clone());
            out.push(Output::Notice(notice));
        }
        follows || known
    }

    fn remember(&mut self, id: String) {
        if self.known.insert(id.clone()) {
            self.known_order.push_back(id);
        }
        if self.known_order.len() > KNOWN_MAX
            && let Some(oldest) = self.known_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn closed(&mut self, close: Option<(u16, &str)>, now: Duration, out: &mut Vec<Output>) {
        if matches!(self.socket, Socket::Down { .. }) {
            return;
        }
        if self.is_live() {
            // At once for what may have come between; while it only does not open, polls keep their own time.
            self.poll_at = now;
            self.events.unanswered(now);
        }
        self.note_life(now);
        self.failures = self.failures.saturating_add(1);
        let (code, reason) = close.unwrap_or((1006, ""));
        let told = reason.split(';').find_map(|word| word.trim().strip_prefix("retry_ms="));
        let told = told.and_then(|ms| ms.parse().ok()).map(|ms| self.told(Duration::from_millis(ms)));
        let retry_at = now + told.unwrap_or_else(|| self.back_off(self.failures));
        self.socket = Socket::Down { retry_at, told: told.is_some() };
        match code {
            3000 => self.token_refused(self.used.0, now, out),
            4003 => self.was_replaced(now, out),
            4004 => self.socket = Socket::Down { retry_at: now + self.pace.retry_max * 4, told: true },
            4200..=4299 => self.of_no_use(now),
            1002 | 1003 | 1007 | 1009 | 4000..=4099 => {
                self.socket = Socket::Down { retry_at: now + self.pace.fault_retry, told: true };
                out.push(Output::Fault(code, reason.into()));
            }
            _ => (),
        }
    }

    /// Was it a good connection? Then the next wait is short.
    fn note_life(&mut self, now: Duration) {
        if let Socket::Live { since, .. } = self.socket
            && now >= since + self.pace.good_after
        {
            (self.failures, self.resyncs.0, self.replaced) = (0, 0, 0);
        }
    }

    /// The same device is connected elsewhere: away, and no request either, since both share one cursor. Unless it was ourselves: what a server
    /// hears late of a socket that we gave up ends the one behind it.
    fn was_replaced(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.dropped_at.take().is_some_and(|at| now < at + self.pace.told_max) {
            return;
        }
        self.replaced = self.replaced.saturating_add(1).min(12);
        self.out = Some(now + self.pace.replaced_retry * self.replaced);
        self.socket = Socket::Down { retry_at: now, told: true };
        self.abandon(now, out);
        self.tell_link(Link::Replaced, out);
    }

    /// It is dead, or cannot be trusted: away with it.
    fn lost(&mut self, now: Duration, out: &mut Vec<Output>) {
        out.push(Output::Drop);
        self.dropped_at = Some(now);
        self.closed(None, now, out);
    }

    fn drop_socket(&mut self, now: Duration, out: &mut Vec<Output>) {
        if !matches!(self.socket, Socket::Down { .. }) {
            self.note_life(now);
            self.events.unanswered(now);
            self.socket = Socket::Down { retry_at: now, told: false };
            self.dropped_at = Some(now);
            out.push(Output::Drop);
        }
    }

    /// `retry_min * 2^n`, at most `retry_max`, somewhere in its upper half. Thirty-two bits and whole milliseconds: JavaScript counts the same.
    fn back_off(&mut self, failures: u32) -> Duration {
        let doubled = self.pace.retry_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let half = u64::try_from(doubled.min(self.pace.retry_max).as_millis()).unwrap_or(u64::MAX) / 2;
        // The generator of Numerical Recipes, chapter 7.1; its upper bits are the good ones.
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Duration::from_millis(half + half.saturating_mul(u64::from(self.seed >> 16) % 1000) / 1000)
    }

    /// The server says that our position is of no use. When it says so again and again, it is asked less and less often.
    fn of_no_use(&mut self, now: Duration) {
        self.resyncs = (self.resyncs.0.saturating_add(1), now);
        let wait = if self.resyncs.0 > 1 { self.back_off(self.resyncs.0) } else { Duration::ZERO };
        self.position = None;
        self.resync(now + wait);
    }

    fn resync(&mut self, at: Duration) {
        self.listing = Listing::default();
        self.resync_at = Some(at);
    }

    /// The token number `used` was refused. If there is a newer one, that is tried; otherwise somebody has to bring one.
    fn token_refused(&mut self, used: u32, now: Duration, out: &mut Vec<Output>) {
        self.token_failures = (self.token_failures.0.saturating_add(1), now);
        if used == self.token_number && !self.is_live() {
            self.token_bad = true;
            out.push(Output::TokenNeeded);
        }
    }

    fn answered(&mut self, id: String, status: &str, reason: Option<String>, now: Duration, out: &mut Vec<Output>) {
        let refused = (status == "refused").then(|| reason.unwrap_or_default());
        if matches!(refused.as_deref(), Some("busy" | "unavailable")) {
            return self.events.later(&id, now + self.pace.retry_min * 4);
        }
        if self.events.done(&id) {
            out.push(Output::Answered { id, refused });
        }
    }

    fn tell_link(&mut self, link: Link, out: &mut Vec<Output>) {
        if self.link != link {
            self.link = link;
            out.push(Output::Link(link));
        }
    }

    fn freshness(&mut self, fresh: Freshness, out: &mut Vec<Output>) {
        if self.stale != fresh.stale {
            self.stale = fresh.stale;
            out.push(Output::Stale(fresh.stale));
        }
    }
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    name: String,
}
