//! What happened at a client and was not answered yet: each is sent until it is.
//!
//! The id makes repeats harmless, so whatever may have been lost (a socket that closed, a request without an answer) is sent again.

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
        let sent = self.entries.iter().filter(|entry| entry.sent).count();
        let next = self.entries.iter().filter(|entry| !entry.sent).map(|entry| entry.not_before.max(self.hold)).min();
        next.filter(|_| sent < SENT_MAX)
    }

    /// What is to be sent now.
    pub(super) fn take(&mut self, now: Duration) -> Vec<ClientEvent> {
        let sent = self.entries.iter().filter(|entry| entry.sent).count();
        let due = |entry: &&mut Entry| !entry.sent && now >= entry.not_before.max(self.hold);
        let taken = self.entries.iter_mut().filter(due).take(SENT_MAX.saturating_sub(sent));
        taken
            .map(|entry| {
                entry.sent = true;
                entry.event.clone()
            })
            .collect()
    }

    /// Whatever was sent and not answered may be lost: again.
    pub(super) fn unanswered(&mut self, now: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.sent) {
            entry.sent = false;
            entry.not_before = now;
        }
        self.hold = Duration::ZERO;
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
