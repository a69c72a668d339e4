//! Events of the application that have no result yet. Each is sent until the server answers it.
//!
//! Its id makes repeats harmless, so whatever may have been lost (a socket that closed, a request without a response) is sent again.

use std::collections::HashSet;
use std::time::Duration;

use crate::frame::ClientEvent;

/// Events that may be sent and unanswered at the same time: the limit of the server.
const MAX_IN_FLIGHT: usize = 8;

#[derive(Debug)]
struct Entry {
    event: ClientEvent,
    in_flight: bool,
    not_before: Duration,
}

/// In the order in which they were reported.
#[derive(Debug)]
pub(super) struct PendingEvents {
    entries: Vec<Entry>,
    /// Nothing is sent before this time.
    hold_until: Duration,
}

impl PendingEvents {
    pub(super) fn new(events: Vec<ClientEvent>) -> Self {
        let entry = |event| Entry { event, in_flight: false, not_before: Duration::ZERO };
        Self { entries: events.into_iter().map(entry).collect(), hold_until: Duration::ZERO }
    }

    pub(super) fn all(&self) -> Vec<ClientEvent> {
        self.entries.iter().map(|entry| entry.event.clone()).collect()
    }

    /// Adds an event, unless one with the same id is pending.
    pub(super) fn add(&mut self, event: ClientEvent, now: Duration) {
        if self.entries.iter().all(|entry| entry.event.id != event.id) {
            self.entries.push(Entry { event, in_flight: false, not_before: now });
        }
    }

    /// When the next event may be sent.
    pub(super) fn next_due(&self) -> Option<Duration> {
        if self.free_slots() == 0 {
            return None;
        }
        // The first event of each order decides: the later ones wait for it.
        let mut orders = HashSet::new();
        let first = self.entries.iter().filter(|entry| !entry.in_flight && orders.insert(&entry.event.order));
        first.map(|entry| entry.not_before.max(self.hold_until)).min()
    }

    /// Takes the events to send now. Events of one order are sent in sequence: one that waits holds back those behind it.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<ClientEvent> {
        let mut slots = self.free_slots();
        let (mut taken, mut waiting_orders) = (Vec::new(), Vec::new());
        for entry in self.entries.iter_mut().filter(|entry| !entry.in_flight) {
            let is_early = now < entry.not_before.max(self.hold_until);
            if slots == 0 || is_early || waiting_orders.contains(&entry.event.order) {
                waiting_orders.push(entry.event.order.clone());
                continue;
            }
            slots -= 1;
            entry.in_flight = true;
            taken.push(entry.event.clone());
        }
        taken
    }

    fn free_slots(&self) -> usize {
        MAX_IN_FLIGHT.saturating_sub(self.entries.iter().filter(|entry| entry.in_flight).count())
    }

    /// Whatever is in flight may be lost: send it again from `at` on.
    pub(super) fn resend(&mut self, at: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.in_flight) {
            entry.in_flight = false;
            entry.not_before = at;
        }
    }

    /// Sends nothing before `at`.
    pub(super) fn hold_until(&mut self, at: Duration) {
        self.hold_until = at;
    }

    /// Sends the event `id` again, from `at` on.
    pub(super) fn postpone(&mut self, id: &str, at: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.event.id == id) {
            entry.in_flight = false;
            entry.not_before = at;
        }
    }

    /// Removes an event that has its final result; false when it is not pending.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.event.id != id);
        self.entries.len() < before
    }
}
