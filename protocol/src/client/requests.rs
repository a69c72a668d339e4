//! HTTP requests while there is no socket: open orders, new notices, and posting events. One request at a time.
//!
//! Everything that a response asks for is bounded: a wait, a `next` that never ends, a page without progress. Posts back off separately, so
//! that a post that always fails does not keep the client from polling.

use std::time::Duration;

use super::codes::ResponseClass;
use super::{Client, Connectivity, Output, Socket};
use crate::frame::{EventsAnswer, OpenOrder, OrdersAnswer, PollAnswer};
use crate::position::Position;

/// Pages of open orders in one listing: a server whose `next` never ends must not exhaust the memory.
const PAGES_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// New notices after this position.
    Poll(Option<Position>),
    /// Open orders from this order on.
    Orders(Option<String>),
    /// Pending events.
    Post,
}

/// The open orders that have been fetched so far.
#[derive(Debug, Default)]
pub(super) struct Listing {
    orders: Vec<OpenOrder>,
    /// That of the first page: notices tell what changed after it.
    position: Option<Position>,
    pub(super) next: Option<String>,
    pages: usize,
}

impl Client {
    /// Makes the request that is due, in this order of precedence: open orders, events, notices.
    pub(super) fn make_request(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Some(at) = self.resync.at {
            if now >= at {
                let from = self.resync.listing.next.clone();
                self.begin_request(Request::Orders(from.clone()));
                out.push(Output::FetchOrders(from));
            }
            return;
        }
        if !self.may_poll() {
            return;
        }
        let events = self.events.take_due(now);
        if !events.is_empty() {
            self.begin_request(Request::Post);
            out.push(Output::PostEvents(events));
        } else if now >= self.poll_at {
            self.begin_request(Request::Poll(self.position));
            out.push(Output::Poll(self.position));
        }
    }

    fn begin_request(&mut self, request: Request) {
        self.request = Some(request);
        self.credentials.request_version = self.credentials.version;
    }

    pub(super) fn cancel_request(&mut self, now: Duration, out: &mut Vec<Output>) {
        let request = self.request.take();
        if request == Some(Request::Post) {
            self.events.resend(now);
        }
        out.extend(request.map(|_| Output::CancelRequest));
    }

    /// Whether polls and posts take the place of the socket: not while the first socket is only being opened.
    pub(super) fn may_poll(&self) -> bool {
        self.resync.at.is_none() && self.failures.sockets > 0
    }

    /// The consecutive failures of the pending request's kind.
    fn request_failures(&mut self) -> &mut u32 {
        if self.request == Some(Request::Post) { &mut self.failures.posts } else { &mut self.failures.requests }
    }

    pub(super) fn request_failed(&mut self, retry_after: Option<Duration>, now: Duration) {
        let failures = self.request_failures();
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let at = now
            + match retry_after {
                Some(wait) => self.bounded(wait),
                None => self.back_off(failures),
            };
        match self.request.take() {
            None => (),
            Some(Request::Poll(_)) => self.poll_at = at,
            Some(Request::Post) => {
                self.events.resend(at);
                self.events.hold_until(at);
            }
            // With a valid position no list is needed: the socket and the polls continue from it.
            Some(Request::Orders(_)) if self.position.is_some() => self.resync.at = None,
            Some(Request::Orders(_)) => self.resync.at = self.resync.at.map(|_| at),
        }
    }

    pub(super) fn response(
        &mut self,
        status: u16,
        body: &str,
        retry_after: Option<Duration>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(request) = self.request.clone() else { return };
        match (ResponseClass::of(status), request) {
            (ResponseClass::Ok, request) => {
                if self.read_body(request, body, now, out) {
                    return self.request_done();
                }
            }
            (ResponseClass::Unauthorized, _) => {
                self.request_failed(None, now);
                return self.token_refused(self.credentials.request_version, now, out);
            }
            (ResponseClass::PositionInvalid, Request::Poll(from)) => {
                if !self.is_live() && from == self.position {
                    self.position_invalid(now);
                }
                return self.request_done();
            }
            (ResponseClass::PositionInvalid | ResponseClass::Fault, _) => {
                out.push(Output::Fault(status, String::new()));
            }
            (ResponseClass::Retry, _) => (),
        }
        self.request_failed(retry_after, now);
    }

    fn request_done(&mut self) {
        *self.request_failures() = 0;
        (self.request, self.credentials.refusals) = (None, 0);
    }

    /// Reads the body of a successful response; false when it cannot be read, or breaks the chain.
    fn read_body(&mut self, request: Request, body: &str, now: Duration, out: &mut Vec<Output>) -> bool {
        match request {
            Request::Poll(from) => serde_json::from_str(body).is_ok_and(|answer| self.polled(from, answer, now, out)),
            Request::Orders(from) => {
                serde_json::from_str(body).is_ok_and(|answer| self.orders_fetched(&from, answer, now, out))
            }
            Request::Post => {
                let Ok(EventsAnswer { events }) = serde_json::from_str(body) else { return false };
                for result in events {
                    self.event_result(result.id, result.status, result.reason, now, out);
                }
                // Events without a result are sent again after a pause.
                self.events.resend(now + self.timings.retry_min * 4);
                true
            }
        }
    }

    fn polled(&mut self, from: Option<Position>, answer: PollAnswer, now: Duration, out: &mut Vec<Output>) -> bool {
        if self.is_live() || from != self.position {
            // The request was made before a socket delivered notices: that one continues, or continued, from our position.
            return true;
        }
        if now >= self.resync.last_failed + self.timings.stable_after {
            self.resync.failures = 0;
        }
        for notice in answer.notices {
            if !self.accept_notice(notice, out) {
                return false;
            }
        }
        let moved = from != Some(answer.position);
        self.position = Some(answer.position);
        let wait = Duration::from_millis(answer.next_poll_ms).min(self.timings.server_wait_max);
        self.poll_at = if wait.is_zero() && moved { now } else { now + wait.max(self.timings.poll_min) };
        self.expected_at = self.poll_at;
        self.set_connectivity(Connectivity::Polling, out);
        self.update_freshness(answer.fresh, out);
        true
    }

    fn orders_fetched(
        &mut self,
        from: &Option<String>,
        answer: OrdersAnswer,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.resync.at.is_none() || *from != self.resync.listing.next || self.is_live() {
            // The request belongs to an earlier resync, or a socket was opened since then.
            return true;
        }
        self.expected_at = now;
        let listing = &mut self.resync.listing;
        listing.pages += 1;
        if answer.next.is_some() && (answer.next == listing.next || listing.pages > PAGES_MAX) {
            // The pages make no progress. With a valid position no list is needed; without one the list is requested again after a back-off.
            let position = self.position;
            self.position_invalid(now);
            if position.is_some() {
                (self.position, self.resync.at) = (position, None);
            }
            return true;
        }
        listing.orders.extend(answer.orders);
        let position = *listing.position.get_or_insert(answer.position);
        listing.next = answer.next;
        if listing.next.is_some() {
            return true;
        }
        let orders = std::mem::take(listing).orders;
        for id in orders.iter().filter_map(|order| order.notice.clone()) {
            self.known.insert(id);
        }
        out.push(Output::OpenOrders(orders));
        self.position = Some(position);
        self.resync.at = None;
        self.poll_at = now;
        if let Socket::Down { retry_at, is_fixed: false } = &mut self.socket {
            *retry_at = now;
        }
        self.update_freshness(answer.fresh, out);
        true
    }
}
