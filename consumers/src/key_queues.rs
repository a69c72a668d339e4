//! The keys of one shard: a queue for each, one turn at a time.
//!
//! A key's slot exists only while it has queued, running or parked work, so memory follows the records in flight and never the number of
//! keys ever seen. A ready key gets one turn of at most `turn_max` records and goes to the end of the line (round robin); a running or
//! parked key is in no line at all, so it costs the others nothing.
//!
//! Pure: the shard task around it owns the clock and runs the handlers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::core::Ticket;
use crate::record::Record;
use crate::seams::KeyHash;

/// A record on its way through a shard.
#[derive(Debug)]
pub struct Item {
    /// The record.
    pub record: Record,
    /// What returns its credit and completes its offset; none for a record that was injected.
    pub ticket: Option<Ticket>,
    /// How often it was tried.
    pub attempts: u32,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Ready,
    Running,
    Parked(Duration),
}

#[derive(Debug)]
struct Slot {
    queue: VecDeque<Item>,
    state: State,
    /// The newest record that was started: what starts later must not stand before it in the same partition and epoch.
    started: Option<Ticket>,
}

impl Slot {
    /// What was not handled goes back to the front; it counts as not started.
    fn give_back(&mut self, rest: Vec<Item>) {
        if let Some(first) = rest.first() {
            self.started = first.ticket;
        }
        for item in rest.into_iter().rev() {
            self.queue.push_front(item);
        }
    }
}

/// All queues of one shard.
#[derive(Debug)]
pub struct KeyQueues {
    slots: HashMap<KeyHash, Slot, foldhash::fast::RandomState>,
    ready: VecDeque<KeyHash>,
    parked: BinaryHeap<Reverse<(Duration, KeyHash)>>,
    turn_max: usize,
    violations: u64,
}

impl KeyQueues {
    /// Empty queues that give out at most `turn_max` records a turn.
    #[must_use]
    pub fn new(turn_max: usize) -> Self {
        let slots = HashMap::with_hasher(foldhash::fast::RandomState::default());
        Self { slots, ready: VecDeque::new(), parked: BinaryHeap::new(), turn_max: turn_max.max(1), violations: 0 }
    }

    /// Queues a record behind the others of its key.
    pub fn push(&mut self, key: KeyHash, item: Item) {
        let slot = self.slots.entry(key).or_insert_with(|| {
            self.ready.push_back(key);
            Slot { queue: VecDeque::with_capacity(1), state: State::Ready, started: None }
        });
        slot.queue.push_back(item);
    }

    /// The next turn: its key is busy until [`Self::finish`] or [`Self::park`].
    pub fn next_turn(&mut self, now: Duration) -> Option<(KeyHash, Vec<Item>)> {
        self.wake_parked(now);
        loop {
            let key = self.ready.pop_front()?;
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            // A key may stand in line twice when its slot was fenced away and came back: only a ready one may run.
            if slot.state != State::Ready {
                continue;
            }
            if slot.queue.is_empty() {
                self.slots.remove(&key);
                continue;
            }
            slot.state = State::Running;
            let first = slot.queue.front().map_or(0, |item| item.attempts);
            // A record that was tried before goes alone: its attempts are its own.
            let take = if first > 0 { 1 } else { slot.queue.len().min(self.turn_max) };
            let turn: Vec<Item> = slot.queue.drain(..take).collect();
            for ticket in turn.iter().filter_map(|item| item.ticket) {
                let before = slot.started.replace(ticket);
                let broken = before
                    .is_some_and(|old| old.slot == ticket.slot && old.epoch == ticket.epoch && old.nth > ticket.nth);
                self.violations += u64::from(broken);
            }
            return Some((key, turn));
        }
    }

    /// Sentinel: records of one key and partition that started out of order, since the last call. Always 0.
    pub fn take_violations(&mut self) -> u64 {
        std::mem::take(&mut self.violations)
    }

    fn wake_parked(&mut self, now: Duration) {
        while let Some(Reverse((at, key))) = self.parked.peek().copied() {
            if at > now {
                break;
            }
            self.parked.pop();
            if let Some(slot) = self.slots.get_mut(&key)
                && slot.state == State::Parked(at)
            {
                slot.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// The turn is over; `rest` was not handled and goes back to the front, in its order.
    pub fn finish(&mut self, key: KeyHash, rest: Vec<Item>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.give_back(rest);
        if slot.queue.is_empty() {
            self.slots.remove(&key);
        } else {
            slot.state = State::Ready;
            self.ready.push_back(key);
        }
    }

    /// The turn is over and its key rests until `until`; `rest` goes back to the front, in its order.
    pub fn park(&mut self, key: KeyHash, rest: Vec<Item>, until: Duration) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.give_back(rest);
        slot.state = State::Parked(until);
        self.parked.push(Reverse((until, key)));
    }

    /// Takes out every queued record for which `gone` holds: its partition is somebody else's now.
    pub fn fence(&mut self, gone: impl Fn(&Ticket) -> bool) -> Vec<Item> {
        let mut dropped = Vec::new();
        for slot in self.slots.values_mut() {
            let (out, keep): (Vec<Item>, Vec<Item>) =
                slot.queue.drain(..).partition(|item| item.ticket.as_ref().is_some_and(&gone));
            slot.queue.extend(keep);
            dropped.extend(out);
        }
        self.slots.retain(|_, slot| slot.state == State::Running || !slot.queue.is_empty());
        // A key that comes back must not stand in line twice, or it gets two turns for each one of the others.
        let slots = &self.slots;
        self.ready.retain(|key| slots.contains_key(key));
        dropped
    }

    /// When the next parked key may run again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.parked.peek().map(|Reverse((at, _))| *at)
    }

    /// Keys that have queued, running or parked work.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// Keys that rest, and some that were fenced while they did.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}
