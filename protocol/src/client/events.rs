//! What happened at a client and was not answered yet: each is sent until it is.
//!
//! The id makes repeats harmless, so whatever may have been lost (a socket that closed, a request without an answer) is sent again.

use std::collections::HashSet;
use std::time::Duration;

use crate::frame::ClientEvent;

/// Sent and not answered at once: as many as a server takes of one client.
const SENT_MAX: usize = 8;

#[derive(Debug)]
struct Entry {
    event: ClientEvent,
    sent: bool,
    not_before: Duration,
}

/// In the order in which they happened.
#[derive(Debug)]
pub(super) struct Events {
    entries: Vec<Entry>,
    /// Nothing is sent before.
    hold: Duration,
}

impl Events {
    pub(super) fn new(events: Vec<ClientEvent>) -> Self {
        let entry = |event| Entry { event, sent: false, not_before: Duration::ZERO };
        Self { entries: events.into_iter().map(entry).collect(), hold: Duration::ZERO }
    }

    pub(super) fn all(&self) -> Vec<ClientEvent> {
        self.entries.iter().map(|entry| entry.event.clone()).collect()
    }

    /// Something happened. The same id again is the same event.
    pub(super) fn say(&mut self, event: ClientEvent, now: Duration) {
        if self.entries.iter().all(|entry| entry.event.id != event.id) {
            self.entries.push(Entry { event, sent: false, not_before: now });
        }
    }

    /// When the next one may be sent.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.entries.iter().filter(|entry| entry.sent).count() >= SENT_MAX {
            return None;
        }
        // Of each order the first decides: what is behind it waits for it.
        let mut orders = HashSet::new();
        let first = self.entries.iter().filter(|entry| !entry.sent && orders.insert(&entry.event.order));
        first.map(|entry| entry.not_before.max(self.hold)).min()
    }

    /// What is to be sent now. What happened to an order is sent in its order: one that waits holds back what is behind it.
    pub(super) fn take(&mut self, now: Duration) -> Vec<ClientEvent> {
        let mut room = SENT_MAX.saturating_sub(self.entries.iter().filter(|entry| entry.sent).count());
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        for entry in self.entries.iter_mut().filter(|entry| !entry.sent) {
            if room == 0 || now < entry.not_before.max(self.hold) || waiting.contains(&entry.event.order) {
                waiting.push(entry.event.order.clone());
                continue;
            }
            room -= 1;
            entry.sent = true;
            taken.push(entry.event.clone());
        }
        taken
    }

    /// Whatever was sent and not answered may be lost: again, from then on.
    pub(super) fn unanswered(&mut self, at: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.sent) {
            entry.sent = false;
            entry.not_before = at;
        }
    }

    /// Nobody answers: nothing before then.
    pub(super) fn hold(&mut self, at: Duration) {
        self.hold = at;
    }

    /// It could not be taken now.
    pub(super) fn later(&mut self, id: &str, at: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.event.id == id) {
            entry.sent = false;
            entry.not_before = at;
        }
    }

    /// It was answered for good; false when it is not known.
    pub(super) fn done(&mut self, id: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.event.id != id);
        self.entries.len() < before
    }
}
