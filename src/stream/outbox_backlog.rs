//! What the outbox publisher has read and not published yet: a queue for each key, and the place at which the outbox is read on.
//!
//! Every entry is read once. A key has at most one event handed out; an event that was not published returns to the front of its queue, so the
//! order within a key never changes. Pure: the publisher around it owns the clock, the sends and the reads.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use orderbell_ledger::OutboxEntry;

/// Entries held at most. When this many wait for a partition that accepts nothing, newer ones of other partitions wait in the outbox.
pub(super) const MAX_HELD: usize = 4_096;

type Key = Option<Bytes>;

/// The entries that were read and are not published yet.
#[derive(Debug, Default)]
pub(super) struct OutboxBacklog {
    /// Number at which to read on.
    next_number: u64,
    /// Time stamps of the held entries, by number.
    held: BTreeMap<u64, i64>,
    /// The held entries of each key that are not handed out. A key is here as long as it holds an entry, and then it either is in `ready`, or
    /// backs off, or has an entry handed out.
    queues: HashMap<Key, VecDeque<OutboxEntry>>,
    ready: VecDeque<Key>,
    backing_off: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl OutboxBacklog {
    /// Number of the first entry that was not read yet.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// How many more entries may be held.
    pub(super) fn room(&self) -> usize {
        MAX_HELD.saturating_sub(self.held.len())
    }

    /// Number of held entries.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Time stamp of the oldest held entry.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.held.first_key_value().map(|(_, at)| *at)
    }

    /// Takes entries that were read at [`Self::next_number`].
    pub(super) fn extend(&mut self, entries: Vec<OutboxEntry>) {
        for entry in entries {
            self.next_number = entry.number + 1;
            self.held.insert(entry.number, entry.record.timestamp_ms);
            let queue = self.queues.entry(entry.record.key.clone()).or_insert_with_key(|key| {
                self.ready.push_back(key.clone());
                VecDeque::with_capacity(1)
            });
            queue.push_back(entry);
        }
    }

    /// Hands out the oldest entry of a key that has none handed out and does not back off. [`Self::published`] or [`Self::failed`] follows.
    pub(super) fn next(&mut self, now: Instant) -> Option<OutboxEntry> {
        while self.backing_off.peek().is_some_and(|Reverse((until, _))| *until <= now) {
            let due = self.backing_off.pop();
            self.ready.extend(due.map(|Reverse((_, key))| key));
        }
        let key = self.ready.pop_front()?;
        self.queues.get_mut(&key)?.pop_front()
    }

    /// The entry was published and removed from the outbox: the next one of its key may follow.
    pub(super) fn published(&mut self, entry: &OutboxEntry) {
        self.held.remove(&entry.number);
        let key = &entry.record.key;
        if self.queues.get(key).is_some_and(VecDeque::is_empty) {
            self.queues.remove(key);
        } else {
            self.ready.push_back(key.clone());
        }
    }

    /// The entry was not published: its key backs off until `until`, and continues with this entry.
    pub(super) fn failed(&mut self, entry: OutboxEntry, until: Instant) {
        let key = entry.record.key.clone();
        self.queues.entry(key.clone()).or_default().push_front(entry);
        self.backing_off.push(Reverse((until, key)));
    }

    /// When the first back-off ends.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.backing_off.peek().map(|Reverse((until, _))| *until)
    }
}
