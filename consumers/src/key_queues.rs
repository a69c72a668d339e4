//! The keys of one shard: a queue for each, one batch at a time.
//!
//! A key's slot exists only while the key has queued, running or backing-off work, so memory follows the records in flight and never the
//! number of keys ever seen. A ready key gets one batch of at most `max_batch_records` and goes to the end of the line (round robin). A
//! running or backing-off key stands in no line, so it costs the others nothing.
//!
//! Pure: the shard task around it owns the clock and runs the handlers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use crate::tracker::Ticket;
use crate::traits::{KeyHash, KeyInput, Reason};

/// A record or a task in a key's queue.
#[derive(Debug)]
pub struct QueuedInput<T = Infallible, P = ()> {
    /// The record or the task.
    pub input: KeyInput<T, P>,
    /// Returns a record's credit and completes its offset; `None` for a task.
    pub ticket: Option<Ticket>,
    /// How often it was tried.
    pub attempts: u32,
    /// Set when it is known already that it cannot be handled: then it goes to the dead letters without reaching the handler.
    pub rejection: Option<Box<Reason>>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Ready,
    Running,
    BackingOff(Duration),
}

#[derive(Debug)]
struct Slot<T, P> {
    queue: VecDeque<QueuedInput<T, P>>,
    state: State,
    /// The newest record that was started: what starts later must not stand before it in the same partition and epoch.
    started: Option<Ticket>,
}

impl<T, P> Slot<T, P> {
    /// Puts records that were not handled back to the front, in their order. They count as not started.
    fn put_back(&mut self, unhandled: Vec<QueuedInput<T, P>>) {
        if let Some(first) = unhandled.first() {
            self.started = first.ticket;
        }
        for queued in unhandled.into_iter().rev() {
            self.queue.push_front(queued);
        }
    }
}

/// All queues of one shard.
#[derive(Debug)]
pub struct KeyQueues<T = Infallible, P = ()> {
    slots: HashMap<KeyHash, Slot<T, P>, foldhash::fast::RandomState>,
    ready: VecDeque<KeyHash>,
    backing_off: BinaryHeap<Reverse<(Duration, KeyHash)>>,
    max_batch_records: usize,
    violations: u64,
}

impl<T, P> KeyQueues<T, P> {
    /// Empty queues that hand out batches of at most `max_batch_records`.
    #[must_use]
    pub fn new(max_batch_records: usize) -> Self {
        Self {
            slots: HashMap::with_hasher(foldhash::fast::RandomState::default()),
            ready: VecDeque::new(),
            backing_off: BinaryHeap::new(),
            max_batch_records: max_batch_records.max(1),
            violations: 0,
        }
    }

    /// Queues a record or a task behind the others of its key.
    pub fn push(&mut self, key: KeyHash, queued: QueuedInput<T, P>) {
        let slot = self.slots.entry(key).or_insert_with(|| {
            self.ready.push_back(key);
            Slot { queue: VecDeque::with_capacity(1), state: State::Ready, started: None }
        });
        slot.queue.push_back(queued);
    }

    /// The next batch. Its key is busy until [`Self::finish`] or [`Self::back_off`].
    pub fn next_batch(&mut self, now: Duration) -> Option<(KeyHash, Vec<QueuedInput<T, P>>)> {
        self.end_back_offs(now);
        loop {
            let key = self.ready.pop_front()?;
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            // A key may stand in line twice when its slot was fenced and came back: only a ready one may run.
            if slot.state != State::Ready {
                continue;
            }
            if slot.queue.is_empty() {
                self.slots.remove(&key);
                continue;
            }
            slot.state = State::Running;
            // A record that was tried before goes alone: its attempts are its own. So does one that never reaches the handler.
            let alone = slot.queue.front().is_some_and(|first| first.attempts > 0 || first.rejection.is_some());
            let max = if alone { 1 } else { self.max_batch_records };
            let fit = slot.queue.iter().take(max);
            let count = fit.take_while(|queued| queued.rejection.is_none()).count().max(1);
            let batch: Vec<QueuedInput<T, P>> = slot.queue.drain(..count).collect();
            for ticket in batch.iter().filter_map(|queued| queued.ticket) {
                let before = slot.started.replace(ticket);
                let is_broken = before.is_some_and(|old| {
                    old.slot == ticket.slot && old.epoch == ticket.epoch && old.sequence > ticket.sequence
                });
                self.violations += u64::from(is_broken);
            }
            return Some((key, batch));
        }
    }

    /// Records of one key and partition that started out of order, since the last call. Always 0 in a correct program.
    pub fn take_violations(&mut self) -> u64 {
        std::mem::take(&mut self.violations)
    }

    fn end_back_offs(&mut self, now: Duration) {
        while let Some(Reverse((at, key))) = self.backing_off.peek().copied() {
            if at > now {
                break;
            }
            self.backing_off.pop();
            if let Some(slot) = self.slots.get_mut(&key)
                && slot.state == State::BackingOff(at)
            {
                slot.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// Ends a batch. Its `unhandled` records go back to the front, in their order.
    pub fn finish(&mut self, key: KeyHash, unhandled: Vec<QueuedInput<T, P>>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.put_back(unhandled);
        if slot.queue.is_empty() {
            self.slots.remove(&key);
        } else {
            slot.state = State::Ready;
            self.ready.push_back(key);
        }
    }

    /// Ends a batch whose key backs off until `until`. Its `unhandled` records go back to the front, in their order.
    pub fn back_off(&mut self, key: KeyHash, unhandled: Vec<QueuedInput<T, P>>, until: Duration) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.put_back(unhandled);
        slot.state = State::BackingOff(until);
        self.backing_off.push(Reverse((until, key)));
    }

    /// Takes out every queued record for which `is_fenced` holds: its partition was revoked or lost.
    pub fn fence(&mut self, is_fenced: impl Fn(&Ticket) -> bool) -> Vec<QueuedInput<T, P>> {
        let mut dropped = Vec::new();
        for slot in self.slots.values_mut() {
            let (out, keep): (Vec<_>, Vec<_>) =
                slot.queue.drain(..).partition(|queued| queued.ticket.as_ref().is_some_and(&is_fenced));
            slot.queue.extend(keep);
            dropped.extend(out);
        }
        self.slots.retain(|_, slot| slot.state == State::Running || !slot.queue.is_empty());
        // A key that comes back must not stand in line twice, or it gets two batches for each one of the others.
        let slots = &self.slots;
        self.ready.retain(|key| slots.contains_key(key));
        dropped
    }

    /// When the next back-off ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.backing_off.peek().map(|Reverse((at, _))| *at)
    }

    /// Number of keys that have queued, running or backing-off work.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// Number of keys that back off, with those that were fenced during their back-off and not removed yet.
    #[must_use]
    pub fn backing_off(&self) -> usize {
        self.backing_off.len()
    }
}

#[cfg(test)]
#[path = "key_queues_tests.rs"]
mod tests;
