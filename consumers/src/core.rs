//! The bookkeeping of a consumer: partitions, epochs, credits, watermarks, pauses. Pure.
//!
//! The poll thread asks and tells; nothing here waits, locks or knows a clock.
//!
//! - A record that is taken costs credits (one record, its bytes) until it is terminal, also while it is parked or waits for the dead
//!   letters. No credits, no polling: that is the backpressure.
//! - Every placing of a partition gets a new epoch. A completion that carries another epoch returns its credit and does nothing else.
//! - One partition alone is paused when its span is full, or when one key of it holds more than a quarter of the credits.
//! - A partition that was placed at the record below its frontier compares that record's fingerprint first ([`Offer::Verified`],
//!   [`Offer::Mismatch`]): a topic that was made anew under the same name is noticed before anything of it is handled.

use std::collections::HashMap;

use crate::record::{Offset, Part, Record};
use crate::seams::{Frontier, KeyHash, LogEnd};
use crate::stats::Hot;
use crate::watermark::{Nth, Watermark};

/// Number of a placing, unique in a process.
pub type Epoch = u32;

/// What a record carries through its shard: where it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the partition in the core.
    pub slot: u32,
    /// Epoch in which it was read.
    pub epoch: Epoch,
    /// Its number in the watermark.
    pub nth: Nth,
    /// Its key.
    pub key: KeyHash,
    /// Its bytes.
    pub bytes: u64,
}

/// The bounds of a core.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records held at once, over all partitions.
    pub records: u64,
    /// Bytes held at once, over all partitions.
    pub bytes: u64,
    /// Records between a partition's watermark and its newest one.
    pub span: usize,
}

/// What to do with a record that was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// Hand it to its shard.
    Take(Ticket),
    /// Not ours (any more), or read before: forget it.
    Ignore,
    /// It is the record below the frontier, and it is the one that was read then: forget it, all is well.
    Verified,
    /// It is not the record that was read then: the log is another one. Nothing was taken.
    Mismatch,
    /// The record below the frontier is merely gone; this one is taken.
    Unverified(Ticket),
}

#[derive(Debug)]
struct Placed {
    epoch: Epoch,
    watermark: Watermark,
    in_flight: u64,
    /// Frontier that is durable.
    durable: Frontier,
    /// Frontier whose saving was asked for and is not answered.
    asked: Option<Frontier>,
    probe: Option<(Offset, u64)>,
    draining: bool,
    span_full: bool,
    /// The key that holds too much, while it does.
    hot: Option<KeyHash>,
    paused: bool,
    damaged: bool,
    /// Where the log ends, when it was told.
    end: Option<Offset>,
    /// An end that is not reached yet, and when it was the end.
    mark: Option<LogEnd>,
    /// Everything that the log held at this time is finished, durably.
    as_of_ms: Option<i64>,
}

impl Placed {
    /// The durable frontier has come to the end that was noted: everything up to that moment is finished.
    fn pass_mark(&mut self) {
        let idle = self.in_flight == 0 && self.durable.next >= self.watermark.frontier().next;
        if let Some(mark) = self.mark.take_if(|mark| self.durable.next >= mark.next || (mark.delivered && idle)) {
            self.as_of_ms = Some(mark.at_ms.max(self.as_of_ms.unwrap_or(i64::MIN)));
        }
    }
}

#[derive(Debug)]
struct Slot {
    part: Part,
    placed: Option<Placed>,
    /// Saves that were asked for and are not answered, those of ended epochs too.
    saving: u32,
}

/// A partition as the outside sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub part: Part,
    /// Everything below is finished, in memory.
    pub watermark: Offset,
    /// Everything below is finished, durably.
    pub durable: Offset,
    /// Next offset expected from the source.
    pub high: Offset,
    /// Records held.
    pub in_flight: u64,
    /// Not delivered at the moment.
    pub paused: bool,
    /// Stands still: its bytes cannot be read.
    pub damaged: bool,
    /// The next offset to be written, when the log tells it.
    pub end: Option<Offset>,
    /// Everything that the log held at this time is finished, durably. Milliseconds since 1970.
    pub as_of_ms: Option<i64>,
}

impl Status {
    /// Offsets between what is durably finished and the end of the log (of what was read, while the end is not known). Offsets, not
    /// records: a transactional log has some that are never delivered.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.unwrap_or(0).max(self.high).saturating_sub(self.durable)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    slots: Vec<Slot>,
    index: HashMap<Part, u32>,
    /// Records and bytes held by each key.
    keys: HashMap<KeyHash, (u64, u64), foldhash::fast::RandomState>,
    records: u64,
    bytes: u64,
    epochs: Epoch,
    /// Sentinel: frontiers that went back, completions of records never registered. Always 0 in a correct program.
    pub violations: u64,
}

impl Core {
    /// An empty core.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            index: HashMap::new(),
            keys: HashMap::with_hasher(foldhash::fast::RandomState::default()),
            records: 0,
            bytes: 0,
            epochs: 0,
            violations: 0,
        }
    }

    /// Places a partition at a frontier, in a new epoch, with nothing of an earlier one. With `probe`, the record below is read first and
    /// compared.
    pub fn place(&mut self, part: &Part, frontier: Frontier, probe: bool) -> Epoch {
        self.epochs += 1;
        let placed = Placed {
            epoch: self.epochs,
            watermark: Watermark::at(frontier),
            in_flight: 0,
            durable: frontier,
            asked: None,
            probe: frontier.last.filter(|_| probe),
            draining: false,
            span_full: false,
            hot: None,
            paused: false,
            damaged: false,
            end: None,
            mark: None,
            as_of_ms: None,
        };
        let slot = self.slot_of(part);
        self.slots[slot as usize].placed = Some(placed);
        self.epochs
    }

    fn slot_of(&mut self, part: &Part) -> u32 {
        if let Some(slot) = self.index.get(part) {
            return *slot;
        }
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { part: part.clone(), placed: None, saving: 0 });
        self.index.insert(part.clone(), slot);
        slot
    }

    fn placed(&mut self, part: &Part) -> Option<&mut Placed> {
        let slot = *self.index.get(part)?;
        self.slots[slot as usize].placed.as_mut()
    }

    /// A record was read.
    pub fn offer(&mut self, record: &Record, key: KeyHash) -> Offer {
        let Some(&slot) = self.index.get(&record.part) else { return Offer::Ignore };
        let limits = self.limits;
        let Some(placed) = self.slots[slot as usize].placed.as_mut() else { return Offer::Ignore };
        if placed.draining || placed.damaged {
            return Offer::Ignore;
        }
        let mut unverified = false;
        if let Some((offset, print)) = placed.probe {
            if record.offset < offset {
                return Offer::Ignore;
            }
            placed.probe = None;
            if record.offset == offset {
                return if record.fingerprint() == print { Offer::Verified } else { Offer::Mismatch };
            }
            unverified = true;
        }
        let Some(nth) = placed.watermark.register(record.offset, record.fingerprint()) else { return Offer::Ignore };
        let bytes = record.bytes();
        let ticket = Ticket { slot, epoch: placed.epoch, nth, key, bytes };
        placed.in_flight += 1;
        placed.span_full = placed.watermark.span() >= limits.span;
        self.records += 1;
        self.bytes += bytes;
        let held = self.keys.entry(key).or_default();
        *held = (held.0 + 1, held.1 + bytes);
        if held.0 > limits.records / 4 || held.1 > limits.bytes / 4 {
            placed.hot = Some(key);
        }
        if unverified { Offer::Unverified(ticket) } else { Offer::Take(ticket) }
    }

    fn credit(&mut self, ticket: &Ticket) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(ticket.bytes);
        if let Some(held) = self.keys.get_mut(&ticket.key) {
            *held = (held.0.saturating_sub(1), held.1.saturating_sub(ticket.bytes));
            if held.0 == 0 {
                self.keys.remove(&ticket.key);
            }
        }
    }

    /// A record is terminal: its credit comes back and, in its own epoch, its offset is finished.
    pub fn complete(&mut self, ticket: &Ticket) {
        self.credit(ticket);
        let span = self.limits.span;
        let Some(placed) = self.slots[ticket.slot as usize].placed.as_mut() else { return };
        if placed.epoch != ticket.epoch {
            return;
        }
        placed.in_flight -= 1;
        let before = placed.watermark.frontier().next;
        if !placed.watermark.complete(ticket.nth) || placed.watermark.frontier().next < before {
            self.violations += 1;
        }
        // Resume well below the mark, or every completion would pause and resume.
        if placed.watermark.span() <= span * 7 / 10 {
            placed.span_full = false;
        }
    }

    /// A record was dropped unhandled (its partition is gone): only its credit comes back.
    pub fn abandon(&mut self, ticket: &Ticket) {
        self.credit(ticket);
    }

    /// Nothing stands below `end` that was not delivered.
    pub fn end(&mut self, part: &Part, end: Offset) {
        if let Some(placed) = self.placed(part)
            && !placed.draining
            && !placed.damaged
            && placed.probe.is_none()
        {
            placed.watermark.pass_to(end);
        }
    }

    /// Where logs end: for telling how far behind we are.
    pub fn ends(&mut self, at: &[(Part, LogEnd)]) {
        for (part, end) in at {
            if let Some(placed) = self.placed(part) {
                placed.end = Some(end.next);
                placed.pass_mark();
                let mark = placed.mark.get_or_insert(*end);
                mark.delivered |= mark.next == end.next && end.delivered;
                placed.pass_mark();
            }
        }
    }

    /// The partition cannot be read on: it stands still until an operator acts.
    pub fn damaged(&mut self, part: &Part) {
        if let Some(placed) = self.placed(part) {
            placed.damaged = true;
        }
    }

    /// How many records may be polled now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.bytes >= self.limits.bytes {
            return 0;
        }
        usize::try_from(self.limits.records.saturating_sub(self.records)).unwrap_or(usize::MAX)
    }

    /// Partitions to pause and to resume, since the last call.
    pub fn pauses(&mut self) -> (Vec<Part>, Vec<Part>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        let cool = (self.limits.records / 8, self.limits.bytes / 8);
        for slot in &mut self.slots {
            let Some(placed) = slot.placed.as_mut() else { continue };
            if placed.hot.is_some_and(|key| self.keys.get(&key).is_none_or(|held| held.0 <= cool.0 && held.1 <= cool.1))
            {
                placed.hot = None;
            }
            let want = placed.span_full || placed.hot.is_some() || placed.damaged;
            if want != placed.paused {
                placed.paused = want;
                if want { &mut pause } else { &mut resume }.push(slot.part.clone());
            }
        }
        (pause, resume)
    }

    /// Frontiers that moved and are not being saved already.
    pub fn unsaved(&mut self) -> Vec<(Part, Frontier)> {
        let mut moved = Vec::new();
        for slot in &mut self.slots {
            let Some(placed) = slot.placed.as_mut() else { continue };
            let frontier = placed.watermark.frontier();
            if placed.asked.is_none() && frontier.next > placed.durable.next && placed.probe.is_none() {
                placed.asked = Some(frontier);
                slot.saving += 1;
                moved.push((slot.part.clone(), frontier));
            }
        }
        moved
    }

    /// These frontiers are durable; those that are still ours are returned, to tell the source.
    pub fn saved(&mut self, at: &[(Part, Frontier)]) -> Vec<(Part, Offset)> {
        let mut ours = Vec::new();
        for (part, frontier) in at {
            let Some(slot) = self.index.get(part).map(|slot| &mut self.slots[*slot as usize]) else { continue };
            slot.saving = slot.saving.saturating_sub(1);
            let Some(placed) = slot.placed.as_mut() else { continue };
            if placed.asked != Some(*frontier) {
                continue;
            }
            placed.asked = None;
            let went_back = frontier.next < placed.durable.next;
            placed.durable = *frontier;
            placed.pass_mark();
            self.violations += u64::from(went_back);
            ours.push((part.clone(), frontier.next));
        }
        ours
    }

    /// True while a save of this partition is not answered. It must not be placed again before: its place would be read without that
    /// save, and a save of an ended epoch could then write over one of the new.
    #[must_use]
    pub fn is_saving(&self, part: &Part) -> bool {
        self.index.get(part).is_some_and(|slot| self.slots[*slot as usize].saving > 0)
    }

    /// Takes nothing more of these partitions; what is in flight goes on.
    pub fn drain(&mut self, parts: &[Part]) {
        for part in parts {
            if let Some(placed) = self.placed(part) {
                placed.draining = true;
            }
        }
    }

    /// True when nothing of these partitions is in flight.
    #[must_use]
    pub fn drained(&self, parts: &[Part]) -> bool {
        parts.iter().all(|part| {
            let placed = self.index.get(part).and_then(|slot| self.slots[*slot as usize].placed.as_ref());
            placed.is_none_or(|placed| placed.in_flight == 0)
        })
    }

    /// True when no frontier of these partitions waits to be saved or for the answer.
    #[must_use]
    pub fn settled(&self, parts: &[Part]) -> bool {
        parts.iter().all(|part| {
            let placed = self.index.get(part).and_then(|slot| self.slots[*slot as usize].placed.as_ref());
            placed
                .is_none_or(|placed| placed.asked.is_none() && placed.watermark.frontier().next <= placed.durable.next)
        })
    }

    /// Forgets these partitions: from here on their completions only return credits. The epochs that ended, for the shards.
    pub fn fence(&mut self, parts: &[Part]) -> Vec<(u32, Epoch)> {
        let mut ended = Vec::new();
        for part in parts {
            let Some(&slot) = self.index.get(part) else { continue };
            if let Some(placed) = self.slots[slot as usize].placed.take() {
                ended.push((slot, placed.epoch));
            }
        }
        ended
    }

    /// Partitions that are placed.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        self.slots.iter().filter(|slot| slot.placed.is_some()).map(|slot| slot.part.clone()).collect()
    }

    /// Records and bytes held.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        (self.records, self.bytes)
    }

    /// The keys that hold most records, most first.
    #[must_use]
    pub fn hottest(&self, max: usize) -> Vec<Hot> {
        let hot = |(key, held): (&KeyHash, &(u64, u64))| Hot { key: *key, records: held.0, bytes: held.1 };
        let mut keys: Vec<Hot> = self.keys.iter().map(hot).filter(|hot| hot.records > 1).collect();
        keys.sort_by_key(|hot| (std::cmp::Reverse(hot.records), hot.key));
        keys.truncate(max);
        keys
    }

    /// Every placed partition.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let status = |slot: &Slot| {
            let placed = slot.placed.as_ref()?;
            Some(Status {
                part: slot.part.clone(),
                watermark: placed.watermark.frontier().next,
                durable: placed.durable.next,
                high: placed.watermark.high(),
                in_flight: placed.in_flight,
                paused: placed.paused,
                damaged: placed.damaged,
                end: placed.end,
                as_of_ms: placed.as_of_ms,
            })
        };
        self.slots.iter().filter_map(status).collect()
    }
}
