//! What a client asks for while it has no socket: open orders, what is new, and posting what happened. One request at a time.
//!
//! Whatever an answer says has bounds: a wait, a `next` that never ends, a page without progress. What fails waits by itself, so that nothing
//! that fails for ever keeps the till from hearing.

use std::time::Duration;

use super::{Client, Link, Output, Socket};
use crate::frame::{OpenOrder, OrdersAnswer, PollAnswer, ToldAnswer};
use crate::position::Position;

/// Pages of open orders in one go: a server whose `next` never ends must not fill our memory.
const PAGES_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// From here.
    Poll(Option<Position>),
    /// From this order on.
    Orders(Option<String>),
    Post,
}

/// Open orders so far.
#[derive(Debug, Default)]
pub(super) struct Listing {
    orders: Vec<OpenOrder>,
    /// The first page's: what changed behind it is told by notices.
    position: Option<Position>,
    pub(super) next: Option<String>,
    pages: usize,
}

impl Client {
    /// Without a socket there is one request at a time: what is open first, then what happened here, then what is new. A post that failed waits
    /// by itself: it must not keep the till from hearing.
    pub(super) fn ask(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Some(at) = self.resync_at {
            if now >= at {
                self.request(Request::Orders(self.listing.next.clone()));
                out.push(Output::Orders(self.listing.next.clone()));
            }
            return;
        }
        if !self.asks() {
            return;
        }
        let events = self.events.take(now);
        if !events.is_empty() {
            self.request(Request::Post);
            out.push(Output::Post(events));
        } else if now >= self.poll_at {
            self.request(Request::Poll(self.position));
            out.push(Output::Poll(self.position));
        }
    }

    fn request(&mut self, request: Request) {
        self.request = Some(request);
        self.used.1 = self.token_number;
    }

    pub(super) fn abandon(&mut self, now: Duration, out: &mut Vec<Output>) {
        let request = self.request.take();
        if request == Some(Request::Post) {
            self.events.unanswered(now);
        }
        out.extend(request.map(|_| Output::Abandon));
    }

    /// There is no socket, and not because the first one is only being opened.
    pub(super) fn asks(&self) -> bool {
        self.resync_at.is_none() && self.failures > 0
    }

    pub(super) fn failed(&mut self, retry_after: Option<Duration>, now: Duration) {
        let post = self.request == Some(Request::Post);
        let refusals = if post { &mut self.post_refusals } else { &mut self.refusals };
        *refusals = refusals.saturating_add(1);
        let refusals = *refusals;
        let at = now
            + match retry_after {
                Some(wait) => self.told(wait),
                None => self.back_off(refusals),
            };
        match self.request.take() {
            None => (),
            Some(Request::Poll(_)) => self.poll_at = at,
            Some(Request::Post) => {
                self.events.unanswered(at);
                self.events.hold(at);
            }
            // A position that is of use needs no list: the socket and the polls go on from it.
            Some(Request::Orders(_)) if self.position.is_some() => self.resync_at = None,
            Some(Request::Orders(_)) => self.resync_at = self.resync_at.map(|_| at),
        }
    }

    pub(super) fn answer(
        &mut self,
        status: u16,
        body: &str,
        retry_after: Option<Duration>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let done = match (status, &self.request) {
            (_, None) => return,
            (200, Some(request)) => self.taken(request.clone(), body, now, out),
            (401, _) => {
                self.failed(None, now);
                return self.token_refused(self.used.1, now, out);
            }
            (409 | 410, Some(Request::Poll(from))) => {
                if !self.is_live() && *from == self.position {
                    self.of_no_use(now);
                }
                true
            }
            _ => false,
        };
        if done {
            let refusals =
                if self.request == Some(Request::Post) { &mut self.post_refusals } else { &mut self.refusals };
            *refusals = 0;
            (self.request, self.token_failures.0) = (None, 0);
        } else {
            if (400..500).contains(&status) && status != 429 && status != 408 {
                out.push(Output::Fault(status, String::new()));
            }
            self.failed(retry_after, now);
        }
    }

    /// A good answer; false when it cannot be read, or leads nowhere.
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
                // What was left out is sent again, not at once.
                self.events.unanswered(now + self.pace.retry_min * 4);
                true
            }
        }
    }

    fn polled(&mut self, from: Option<Position>, answer: PollAnswer, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.is_live() || from != self.position {
            // Asked before a socket was there, which goes, or went, on from where we stand.
            return true;
        }
        if now >= self.resyncs.1 + self.pace.good_after {
            self.resyncs.0 = 0;
        }
        for notice in answer.notices {
            if !self.take(notice, out) {
                return false;
            }
        }
        let moved = from != Some(answer.position);
        self.position = Some(answer.position);
        let wait = Duration::from_millis(answer.next_poll_ms).min(self.pace.told_max);
        self.poll_at = if wait.is_zero() && moved { now } else { now + wait.max(self.pace.poll_min) };
        self.expected_at = self.poll_at;
        self.tell_link(Link::Polled, out);
        self.freshness(answer.fresh, out);
        true
    }

    fn listed(&mut self, from: &Option<String>, answer: OrdersAnswer, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.resync_at.is_none() || *from != self.listing.next || self.is_live() {
            // Asked before it began anew, or before a socket was there that tells more.
            return true;
        }
        self.expected_at = now;
        self.listing.pages += 1;
        if answer.next.is_some() && (answer.next == self.listing.next || self.listing.pages > PAGES_MAX) {
            // It leads nowhere. A position that is of use needs no list; without one it is asked again, less and less often.
            let position = self.position;
            self.of_no_use(now);
            if position.is_some() {
                (self.position, self.resync_at) = (position, None);
            }
            return true;
        }
        self.listing.orders.extend(answer.orders);
        let position = *self.listing.position.get_or_insert(answer.position);
        self.listing.next = answer.next;
        if self.listing.next.is_some() {
            return true;
        }
        let orders = std::mem::take(&mut self.listing).orders;
        for id in orders.iter().filter_map(|order| order.notice.clone()) {
            self.remember(id);
        }
        out.push(Output::OpenOrders(orders));
        self.position = Some(position);
        self.resync_at = None;
        self.poll_at = now;
        if let Socket::Down { retry_at, told: false } = &mut self.socket {
            *retry_at = now;
        }
        self.freshness(answer.fresh, out);
        true
    }
}
