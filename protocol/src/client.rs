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
//! knows is stale or when nobody was heard. A bug that the server complains of (40xx) ends the socket, never the till: polling goes on.
//!
//! Refused: a time-out for HTTP answers (the shell's client has one; every request is answered, if only with [`Input::Failed`]), and more than
//! one request at once.

mod events;
mod words;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use crate::frame::{ClientFrame, Freshness, NoticeFrame, OpenOrder, OrdersAnswer, PollAnswer, ServerFrame, ToldAnswer};
use crate::position::Position;
use events::Events;
pub use words::{Input, Link, Output, Pace, Saved};

/// Ids of notices that are remembered. A window is 64 and a poll 100: what comes again comes soon; the rest is for restarts and resyncs.
const KNOWN_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// None; the next one then.
    Down { retry_at: Duration },
    /// Asked for, or said hello.
    Opening { until: Duration },
    /// Welcomed at, heard at, and dead when silent for so long.
    Live { since: Duration, heard: Duration, silence: Duration },
    /// Never again.
    Out,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    /// From here.
    Poll(Option<Position>),
    /// From this order on.
    Orders(Option<String>),
    Post,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    pace: Pace,
    token: String,
    device: String,
    seed: u64,
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
    /// Positions of no use, one after another.
    resyncs: u32,
    poll_at: Duration,
    /// Open orders are to be asked for, from then on.
    resync_at: Option<Duration>,
    /// Pages of open orders so far, and the position of the first.
    orders: (Vec<OpenOrder>, Option<Position>, Option<String>),
    heard_at: Duration,
    link: Link,
    stale: bool,
    token_bad: bool,
    away: bool,
}

impl Client {
    /// A client that begins at `now`. `seed` spreads its waits against those of others. Without a saved position it begins with the open orders.
    #[must_use]
    pub fn new(token: &str, device: &str, saved: Saved, pace: Pace, seed: u64, now: Duration) -> Self {
        Self {
            pace,
            token: token.into(),
            device: device.into(),
            seed,
            position: saved.position,
            known: saved.known.iter().cloned().collect(),
            known_order: saved.known,
            events: Events::new(saved.events),
            socket: Socket::Down { retry_at: now },
            request: None,
            failures: 0,
            refusals: 0,
            resyncs: 0,
            poll_at: now,
            resync_at: saved.position.is_none().then_some(now),
            orders: Default::default(),
            heard_at: now,
            link: Link::Begun,
            stale: false,
            token_bad: false,
            away: false,
        }
    }

    /// What is to be kept over a restart.
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
        if self.idle() {
            return None;
        }
        let (live, free) = (self.is_live(), self.request.is_none() && !self.is_live());
        let socket = match self.socket {
            Socket::Down { retry_at } if self.resync_at.is_none() => Some(retry_at),
            Socket::Opening { until } => Some(until),
            Socket::Live { heard, silence, .. } => Some(heard + silence),
            Socket::Down { .. } | Socket::Out => None,
        };
        let asks = free && self.asks();
        let poll = asks.then_some(self.poll_at);
        let post = self.events.due().filter(|_| live || asks);
        let unreachable = (self.link != Link::Unreachable).then_some(self.heard_at + self.pace.unreachable_after);
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
            Input::Say(event) => self.events.say(event, now),
            Input::Shown(position) => self.say(&ClientFrame::Shown { position: position.to_string() }, out),
            Input::Token(token) => {
                (self.token, self.token_bad) = (token, false);
                self.again_at(now);
            }
            Input::Background => {
                self.away = true;
                self.drop_socket(now, out);
            }
            Input::Foreground => {
                // A socket that slept may be dead without knowing it.
                self.drop_socket(now, out);
                (self.away, self.failures) = (false, 0);
                // What happened meanwhile is asked for at once, and once: what is open, and where to go on.
                self.heard_at = now;
                self.again_at(now);
                self.resync(now);
            }
        }
        self.go_on(now, out);
    }

    /// Nothing is done until somebody else does something.
    fn idle(&self) -> bool {
        self.away || self.token_bad || self.link == Link::Replaced
    }

    fn is_live(&self) -> bool {
        matches!(self.socket, Socket::Live { .. })
    }

    fn again_at(&mut self, at: Duration) {
        self.poll_at = at;
        if let Socket::Down { retry_at } = &mut self.socket {
            *retry_at = at;
        }
    }

    /// Whatever is due.
    fn go_on(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.idle() {
            return;
        }
        match self.socket {
            Socket::Down { retry_at } if now >= retry_at && self.resync_at.is_none() => {
                self.socket = Socket::Opening { until: now + self.pace.welcome_timeout };
                out.push(Output::Open);
            }
            Socket::Opening { until } if now >= until => self.lost(now, out),
            Socket::Live { heard, silence, .. } if now >= heard + silence => self.lost(now, out),
            _ => (),
        }
        if self.is_live() {
            for event in self.events.take(now) {
                out.push(Output::Send(ClientFrame::Event(event).encode()));
            }
        } else if self.request.is_none() {
            self.ask(now, out);
        }
        if self.link != Link::Unreachable && now >= self.heard_at + self.pace.unreachable_after {
            self.tell_link(Link::Unreachable, out);
        }
    }

    /// Without a socket there is one request at a time: what is open first, then what happened here, then what is new.
    fn ask(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Some(at) = self.resync_at {
            if now >= at {
                self.request = Some(Request::Orders(self.orders.2.clone()));
                out.push(Output::Orders(self.orders.2.clone()));
            }
            return;
        }
        if !self.asks() {
            return;
        }
        let events = self.events.take(now);
        if !events.is_empty() {
            self.request = Some(Request::Post);
            out.push(Output::Post(events));
        } else if now >= self.poll_at {
            self.request = Some(Request::Poll(self.position));
            out.push(Output::Poll(self.position));
        }
    }

    /// There is no socket, and not because the first one is only being opened.
    fn asks(&self) -> bool {
        self.resync_at.is_none() && (self.socket == Socket::Out || self.failures > 0)
    }

    fn say(&self, frame: &ClientFrame, out: &mut Vec<Output>) {
        if self.is_live() {
            out.push(Output::Send(frame.encode()));
        }
    }

    fn opened(&mut self, out: &mut Vec<Output>) {
        let Socket::Opening { .. } = self.socket else { return out.push(Output::Drop) };
        let position = self.position.map(|position| position.to_string());
        let hello = ClientFrame::Hello { token: self.token.clone(), device: Some(self.device.clone()), position };
        out.push(Output::Send(hello.encode()));
    }

    fn text(&mut self, text: &str, now: Duration, out: &mut Vec<Output>) {
        if let Socket::Live { heard, .. } = &mut self.socket {
            *heard = now;
        }
        self.heard_at = now;
        if let Ok(frame) = serde_json::from_str::<TypedNotice>(text) {
            return self.pushed(frame.notice, now, out);
        }
        match serde_json::from_str(text) {
            Ok(ServerFrame::Welcome { position, heartbeat_ms, fresh, .. }) => {
                // The server's word holds: it may have set something aside that this device could not get.
                (self.position, self.resyncs) = (Some(position), 0);
                let silence = Duration::from_millis(u64::from(heartbeat_ms)) * 2;
                self.socket = Socket::Live { since: now, heard: now, silence };
                self.events.unanswered(now);
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
        if matches!(self.socket, Socket::Down { .. } | Socket::Out) {
            return;
        }
        self.note_life(now);
        self.events.unanswered(now);
        self.failures = self.failures.saturating_add(1);
        let (code, reason) = close.unwrap_or((1006, ""));
        let told = reason.split(';').find_map(|word| word.trim().strip_prefix("retry_ms="));
        let told = told.and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let retry_at = now + told.unwrap_or_else(|| self.back_off(self.failures));
        self.socket = Socket::Down { retry_at };
        match code {
            3000 => self.need_token(out),
            4003 => {
                self.socket = Socket::Out;
                self.tell_link(Link::Replaced, out);
            }
            4004 => self.socket = Socket::Down { retry_at: now + self.pace.retry_max * 4 },
            4200..=4299 => self.of_no_use(now),
            1002 | 1003 | 1007 | 1009 | 4000..=4099 => {
                self.socket = Socket::Out;
                out.push(Output::Fault(code, reason.into()));
            }
            _ => (),
        }
        // A server that goes says when to come again; until then the mailbox is asked, at once for what may have come between.
        self.poll_at = now;
    }

    /// Was it a good connection? Then the next wait is short.
    fn note_life(&mut self, now: Duration) {
        if let Socket::Live { since, .. } = self.socket
            && now >= since + self.pace.good_after
        {
            self.failures = 0;
        }
    }

    /// It is dead, or cannot be trusted: away with it.
    fn lost(&mut self, now: Duration, out: &mut Vec<Output>) {
        out.push(Output::Drop);
        self.closed(None, now, out);
    }

    fn drop_socket(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.socket != Socket::Out {
            self.note_life(now);
            self.events.unanswered(now);
            self.socket = Socket::Down { retry_at: now };
            out.push(Output::Drop);
        }
    }

    /// `retry_min * 2^n`, at most `retry_max`, somewhere in its upper half.
    fn back_off(&mut self, failures: u32) -> Duration {
        let doubled = self.pace.retry_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let whole = doubled.min(self.pace.retry_max);
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        whole / 2 + whole / 2 * (u32::try_from(self.seed >> 40).unwrap_or(0) % 1000) / 1000
    }

    /// The server says that our position is of no use. When it says so again and again, it is asked less and less often.
    fn of_no_use(&mut self, now: Duration) {
        self.resyncs = self.resyncs.saturating_add(1);
        let wait = if self.resyncs > 1 { self.back_off(self.resyncs) } else { Duration::ZERO };
        self.resync(now + wait);
    }

    fn resync(&mut self, at: Duration) {
        self.orders = Default::default();
        self.resync_at = Some(at);
    }

    fn need_token(&mut self, out: &mut Vec<Output>) {
        self.token_bad = true;
        out.push(Output::TokenNeeded);
    }

    fn failed(&mut self, retry_after: Option<Duration>, now: Duration) {
        let request = self.request.take();
        if request == Some(Request::Post) {
            self.events.unanswered(now);
        }
        self.refusals = self.refusals.saturating_add(1);
        let at = now + retry_after.unwrap_or_else(|| self.back_off(self.refusals));
        self.poll_at = at;
        self.events.hold(at);
        if let Some(resync_at) = &mut self.resync_at {
            *resync_at = at;
        }
    }

    fn answer(&mut self, status: u16, body: &str, retry_after: Option<Duration>, now: Duration, out: &mut Vec<Output>) {
        let done = match (status, &self.request) {
            (_, None) => return,
            (200, Some(request)) => self.taken(request.clone(), body, now, out),
            (401, _) => {
                self.failed(None, now);
                return self.need_token(out);
            }
            (409 | 410, Some(Request::Poll(_))) => {
                self.of_no_use(now);
                true
            }
            _ => false,
        };
        if done {
            (self.request, self.refusals) = (None, 0);
        } else {
            if (400..500).contains(&status) && status != 429 && status != 408 {
                out.push(Output::Fault(status, String::new()));
            }
            self.failed(retry_after, now);
        }
    }

    /// A good answer; false when it cannot be read.
    fn taken(&mut self, request: Request, body: &str, now: Duration, out: &mut Vec<Output>) -> bool {
        match request {
            Request::Poll(from) => serde_json::from_str(body).is_ok_and(|answer| self.polled(from, answer, now, out)),
            Request::Orders(from) => {
                serde_json::from_str(body).is_ok_and(|answer| self.listed(&from, answer, now, out))
            }
            Request::Post => {
                let Ok(ToldAnswer { events }) = serde_json::from_str(body) else { return false };
                for told in events {
                    self.answered(told.id, &told.status, told.reason, now, out);
                }
                self.events.unanswered(now);
                true
            }
        }
    }

    fn polled(&mut self, from: Option<Position>, answer: PollAnswer, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.is_live() || from != self.position {
            // Asked before a socket was there, which goes, or went, on from where we stand.
            return true;
        }
        self.resyncs = 0;
        for notice in answer.notices {
            if !self.take(notice, out) {
                return false;
            }
        }
        self.position = Some(answer.position);
        let wait = Duration::from_millis(answer.next_poll_ms);
        self.poll_at = if wait.is_zero() { now } else { now + wait.max(self.pace.poll_min) };
        self.heard_at = now;
        self.tell_link(Link::Polled, out);
        self.freshness(answer.fresh, out);
        true
    }

    fn listed(&mut self, from: &Option<String>, answer: OrdersAnswer, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.resync_at.is_none() || *from != self.orders.2 {
            // Asked before it began anew.
            return true;
        }
        self.heard_at = now;
        self.orders.0.extend(answer.orders);
        // The first page's position: what changed behind it is told by notices.
        let position = *self.orders.1.get_or_insert(answer.position);
        self.orders.2 = answer.next;
        if self.orders.2.is_some() {
            return true;
        }
        let orders = std::mem::take(&mut self.orders).0;
        for id in orders.iter().filter_map(|order| order.notice.clone()) {
            self.remember(id);
        }
        out.push(Output::OpenOrders(orders));
        self.position = Some(position);
        self.resync_at = None;
        self.again_at(now);
        self.freshness(answer.fresh, out);
        true
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
struct TypedNotice {
    #[serde(rename = "type")]
    _kind: NoticeTag,
    #[serde(flatten)]
    notice: NoticeFrame,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoticeTag {
    Notice,
}
