//! The bookkeeping of a consumer: partitions, epochs, credits, watermarks, pauses. Pure.
//!
//! The poll thread calls it; nothing here waits, locks or knows a clock.
//!
//! - A record that is taken costs credits (one record, its bytes) until it is finished, also while its key backs off or its dead letter
//!   waits. Without credits nothing is polled: that is the backpressure. A record of several parts costs those of each part, until that
//!   part is finished.
//! - Every assignment of a partition gets a new epoch. A completion that carries another epoch returns its credit and does nothing else.
//! - One partition alone is paused when its span is full, or when one key of it holds more than a quarter of the credits.
//! - When a partition starts at the record below its checkpoint, that record's fingerprint is compared first ([`Offer::Verified`],
//!   [`Offer::Mismatch`]): a topic that was deleted and created again is recognised before any record of it is handled.

use std::collections::HashMap;

use crate::record::{Offset, Record, TopicPartition};
use crate::stats::HotKey;
use crate::traits::{Checkpoint, EndOffset, KeyHash};
use crate::watermark::{Sequence, Watermark};

/// Number of an assignment of a partition, unique in a process.
pub type Epoch = u32;

/// What a record or a part of one costs, and in whose queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Names the queue, which the record joins in its shard.
    pub key: KeyHash,
    /// Byte credits.
    pub bytes: u64,
}

/// What a record carries through its shard, to be completed with. The parts of a record differ in key and bytes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the partition in the tracker.
    pub slot: u32,
    /// Epoch in which the record was read.
    pub epoch: Epoch,
    /// Its sequence in the partition's watermark.
    pub sequence: Sequence,
    /// Names the queue that it was in.
    pub key: KeyHash,
    /// Its byte credits.
    pub bytes: u64,
}

impl Ticket {
    /// The ticket of another part of the same record.
    #[must_use]
    pub fn of_part(self, part: Cost) -> Self {
        Self { key: part.key, bytes: part.bytes, ..self }
    }
}

/// The bounds of a tracker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records in flight, over all partitions.
    pub records: u64,
    /// Bytes in flight, over all partitions.
    pub bytes: u64,
    /// Records between a partition's watermark and its newest record.
    pub span: usize,
}

/// What to do with a record that was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// Hand it to its shard. The ticket is that of its first part.
    Take(Ticket),
    /// Drop it: its partition is not assigned (any more), or it was read before.
    Ignore,
    /// Drop it: it is the record below the checkpoint, and its fingerprint is the saved one.
    Verified,
    /// Restart the partition: the record below the checkpoint is another one. Nothing was taken.
    Mismatch,
    /// Hand it to its shard. The record below the checkpoint has expired and could not be verified.
    Unverified(Ticket),
}

#[derive(Debug)]
struct Assigned {
    epoch: Epoch,
    watermark: Watermark,
    in_flight: u64,
    durable: Checkpoint,
    /// The checkpoint whose save was requested and is not answered.
    requested: Option<Checkpoint>,
    /// Offset and fingerprint of the record to verify before any other is taken.
    verify: Option<(Offset, u64)>,
    draining: bool,
    span_full: bool,
    /// The key that holds too many credits, while it does.
    hot: Option<KeyHash>,
    paused: bool,
    damaged: bool,
    /// The log's end, once it is known.
    end: Option<Offset>,
    /// Where the oldest open transaction begins.
    open_transaction: Option<Offset>,
    /// An end that is not reached yet, and when it was the end.
    mark: Option<EndOffset>,
    /// The time up to which the partition is finished, durably.
    as_of_ms: Option<i64>,
}

impl Assigned {
    /// Clears the mark once the durable checkpoint has reached it: everything up to the mark's time is finished.
    fn pass_mark(&mut self) {
        let is_idle = self.in_flight == 0 && self.durable.next >= self.watermark.checkpoint().next;
        let is_reached = |mark: &mut EndOffset| self.durable.next >= mark.next || (mark.delivered && is_idle);
        if let Some(mark) = self.mark.take_if(is_reached) {
            self.as_of_ms = Some(mark.at_ms.max(self.as_of_ms.unwrap_or(i64::MIN)));
        }
    }
}

#[derive(Debug)]
struct Slot {
    partition: TopicPartition,
    assigned: Option<Assigned>,
    /// Saves that were requested and are not answered, those of ended epochs too.
    saving: u32,
    /// Records and parts in flight, those of ended epochs too.
    in_flight: u64,
}

/// The state of one assigned partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// By topic and number; assigned at present.
    pub partition: TopicPartition,
    /// Every record below this offset is finished, in memory.
    pub watermark: Offset,
    /// Every record below this offset is finished, durably.
    pub checkpoint: Offset,
    /// The offset that is expected from the source next.
    pub next_offset: Offset,
    /// Records in flight.
    pub in_flight: u64,
    /// True while the source does not deliver it.
    pub paused: bool,
    /// True when its bytes cannot be read. It stays paused until an operator skips them.
    pub damaged: bool,
    /// Offset of the next record that will be appended to the log, once it is known.
    pub end: Option<Offset>,
    /// Where the oldest open transaction begins, if there is one: nothing from there on is delivered before it ends.
    pub open_transaction: Option<Offset>,
    /// The time up to which the partition is finished, durably. Milliseconds since 1970.
    pub as_of_ms: Option<i64>,
}

impl PartitionStatus {
    /// Offsets between the durable checkpoint and the end of the log, or the newest record that was read while the end is not known. Counts
    /// offsets, not records: a transactional log has offsets that are never delivered.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.map_or(self.next_offset, |end| end.max(self.next_offset)).saturating_sub(self.checkpoint)
    }
}

/// Tracks every partition, epoch and credit of one group.
#[derive(Debug)]
pub struct Tracker {
    limits: Limits,
    slots: Vec<Slot>,
    index: HashMap<TopicPartition, u32>,
    /// Records and bytes in flight, by key.
    keys: HashMap<KeyHash, (u64, u64), foldhash::fast::RandomState>,
    records: u64,
    bytes: u64,
    epochs: Epoch,
    /// Checkpoints that moved back, and completions of records that were never registered. Always 0 in a correct program.
    pub violations: u64,
}

impl Tracker {
    /// A tracker without partitions.
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

    /// Assigns a partition at a checkpoint, in a new epoch that keeps nothing of an earlier one. With `verify_last`, the record below the
    /// checkpoint is expected first and compared.
    pub fn assign(&mut self, partition: &TopicPartition, checkpoint: Checkpoint, verify_last: bool) -> Epoch {
        self.epochs += 1;
        let assigned = Assigned {
            epoch: self.epochs,
            watermark: Watermark::at(checkpoint),
            in_flight: 0,
            durable: checkpoint,
            requested: None,
            verify: checkpoint.last.filter(|_| verify_last),
            draining: false,
            span_full: false,
            hot: None,
            paused: false,
            damaged: false,
            end: None,
            open_transaction: None,
            mark: None,
            as_of_ms: None,
        };
        let slot = self.slot_of(partition);
        self.slots[slot as usize].assigned = Some(assigned);
        self.epochs
    }

    fn slot_of(&mut self, partition: &TopicPartition) -> u32 {
        if let Some(slot) = self.index.get(partition) {
            return *slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("a group has fewer than 2^32 partitions");
        self.slots.push(Slot { partition: partition.clone(), assigned: None, saving: 0, in_flight: 0 });
        self.index.insert(partition.clone(), slot);
        slot
    }

    fn assigned(&self, partition: &TopicPartition) -> Option<&Assigned> {
        let slot = *self.index.get(partition)?;
        self.slots[slot as usize].assigned.as_ref()
    }

    fn assigned_mut(&mut self, partition: &TopicPartition) -> Option<&mut Assigned> {
        let slot = *self.index.get(partition)?;
        self.slots[slot as usize].assigned.as_mut()
    }

    /// Decides about a record that was read and has these parts, most often one. A record that is taken costs its credits from here on.
    pub fn offer(&mut self, record: &Record, parts: &[Cost]) -> Offer {
        let Some(first) = parts.first() else { return Offer::Ignore };
        let Some(&slot) = self.index.get(&record.partition) else { return Offer::Ignore };
        let limits = self.limits;
        let Slot { assigned, in_flight, .. } = &mut self.slots[slot as usize];
        let Some(assigned) = assigned.as_mut() else { return Offer::Ignore };
        if assigned.draining || assigned.damaged {
            return Offer::Ignore;
        }
        let mut unverified = false;
        if let Some((offset, fingerprint)) = assigned.verify {
            if record.offset < offset {
                return Offer::Ignore;
            }
            assigned.verify = None;
            if record.offset == offset {
                return if record.fingerprint() == fingerprint { Offer::Verified } else { Offer::Mismatch };
            }
            unverified = true;
        }
        let registered = assigned.watermark.register(record.offset, record.fingerprint(), parts.len() as u32);
        let Some(sequence) = registered else { return Offer::Ignore };
        let ticket = Ticket { slot, epoch: assigned.epoch, sequence, key: first.key, bytes: first.bytes };
        assigned.span_full = assigned.watermark.span() >= limits.span;
        for Cost { key, bytes } in parts {
            assigned.in_flight += 1;
            *in_flight += 1;
            self.records += 1;
            self.bytes += bytes;
            let of_key = self.keys.entry(*key).or_default();
            *of_key = (of_key.0 + 1, of_key.1 + bytes);
            if of_key.0 > limits.records / 4 || of_key.1 > limits.bytes / 4 {
                assigned.hot = Some(*key);
            }
        }
        if unverified { Offer::Unverified(ticket) } else { Offer::Take(ticket) }
    }

    fn return_credit(&mut self, ticket: &Ticket) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(ticket.bytes);
        let slot = &mut self.slots[ticket.slot as usize];
        slot.in_flight = slot.in_flight.saturating_sub(1);
        if let Some(of_key) = self.keys.get_mut(&ticket.key) {
            *of_key = (of_key.0.saturating_sub(1), of_key.1.saturating_sub(ticket.bytes));
            if of_key.0 == 0 {
                self.keys.remove(&ticket.key);
            }
        }
    }

    /// Finishes a record or a part of one: its credit returns and, within its own epoch, the watermark may advance.
    pub fn complete(&mut self, ticket: &Ticket) {
        self.return_credit(ticket);
        let span = self.limits.span;
        let Some(assigned) = self.slots[ticket.slot as usize].assigned.as_mut() else { return };
        if assigned.epoch != ticket.epoch {
            return;
        }
        let was_in_flight = assigned.in_flight > 0;
        assigned.in_flight = assigned.in_flight.saturating_sub(1);
        let before = assigned.watermark.checkpoint().next;
        let was_open = assigned.watermark.complete(ticket.sequence);
        if !was_in_flight || !was_open || assigned.watermark.checkpoint().next < before {
            self.violations += 1;
        }
        // Resume well below the limit, or every completion would pause and resume.
        if assigned.watermark.span() <= span * 7 / 10 {
            assigned.span_full = false;
        }
    }

    /// Drops a record unhandled, because its partition was revoked or lost: only its credit returns.
    pub fn abandon(&mut self, ticket: &Ticket) {
        self.return_credit(ticket);
    }

    /// The source has delivered every record below `end`.
    pub fn caught_up(&mut self, partition: &TopicPartition, end: Offset) {
        if let Some(assigned) = self.assigned_mut(partition)
            && !assigned.draining
            && !assigned.damaged
            && assigned.verify.is_none()
        {
            assigned.watermark.advance_to(end);
        }
    }

    /// Notes where logs end, to report lag and staleness.
    pub fn set_end_offsets(&mut self, at: &[(TopicPartition, EndOffset)]) {
        for (partition, end) in at {
            if let Some(assigned) = self.assigned_mut(partition) {
                assigned.end = Some(end.next);
                assigned.open_transaction = end.open_transaction;
                assigned.pass_mark();
                let mark = assigned.mark.get_or_insert(*end);
                // Everything below a later end is delivered: also the mark, which may be in the middle of a transaction that was aborted.
                mark.delivered |= mark.next <= end.next && end.delivered;
                assigned.pass_mark();
            }
        }
    }

    /// Marks a partition as unreadable: it takes no more records until it is assigned again.
    pub fn mark_damaged(&mut self, partition: &TopicPartition) {
        if let Some(assigned) = self.assigned_mut(partition) {
            assigned.damaged = true;
        }
    }

    /// How many records may be polled now.
    #[must_use]
    pub fn free_credits(&self) -> usize {
        if self.bytes >= self.limits.bytes {
            return 0;
        }
        usize::try_from(self.limits.records.saturating_sub(self.records)).unwrap_or(usize::MAX)
    }

    /// The partitions to pause and those to resume, since the last call.
    pub fn pauses(&mut self) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        let cool = (self.limits.records / 8, self.limits.bytes / 8);
        for slot in &mut self.slots {
            let Some(assigned) = slot.assigned.as_mut() else { continue };
            let is_cool = |key| self.keys.get(&key).is_none_or(|of_key| of_key.0 <= cool.0 && of_key.1 <= cool.1);
            if assigned.hot.is_some_and(is_cool) {
                assigned.hot = None;
            }
            let want = assigned.span_full || assigned.hot.is_some() || assigned.damaged;
            if want != assigned.paused {
                assigned.paused = want;
                if want { &mut pause } else { &mut resume }.push(slot.partition.clone());
            }
        }
        (pause, resume)
    }

    /// Checkpoints that moved and are not being saved already. They count as requested from here on.
    pub fn take_unsaved(&mut self) -> Vec<(TopicPartition, Checkpoint)> {
        let mut moved = Vec::new();
        for slot in &mut self.slots {
            let Some(assigned) = slot.assigned.as_mut() else { continue };
            let checkpoint = assigned.watermark.checkpoint();
            if assigned.requested.is_none() && checkpoint.next > assigned.durable.next && assigned.verify.is_none() {
                assigned.requested = Some(checkpoint);
                slot.saving += 1;
                moved.push((slot.partition.clone(), checkpoint));
            }
        }
        moved
    }

    /// The begin of these partitions is requested: it counts as a save until it is answered.
    pub fn begin_requested(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let slot = self.slot_of(partition);
            self.slots[slot as usize].saving += 1;
        }
    }

    /// Notes that these checkpoints are durable. Returns those of current epochs, for the source.
    pub fn saved(&mut self, at: &[(TopicPartition, Checkpoint)]) -> Vec<(TopicPartition, Offset)> {
        let mut current = Vec::new();
        for (partition, checkpoint) in at {
            let Some(slot) = self.index.get(partition).map(|slot| &mut self.slots[*slot as usize]) else { continue };
            slot.saving = slot.saving.saturating_sub(1);
            let Some(assigned) = slot.assigned.as_mut() else { continue };
            if assigned.requested != Some(*checkpoint) {
                continue;
            }
            assigned.requested = None;
            let moved_back = checkpoint.next < assigned.durable.next;
            assigned.durable = *checkpoint;
            assigned.pass_mark();
            self.violations += u64::from(moved_back);
            current.push((partition.clone(), checkpoint.next));
        }
        current
    }

    /// True while a save of this partition is not answered. It must not be assigned again before: its checkpoint would be read without that
    /// save, and a save of an ended epoch could then overwrite one of the new epoch.
    #[must_use]
    pub fn is_saving(&self, partition: &TopicPartition) -> bool {
        self.index.get(partition).is_some_and(|slot| self.slots[*slot as usize].saving > 0)
    }

    /// Takes no more records of these partitions; those in flight go on.
    pub fn drain(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(assigned) = self.assigned_mut(partition) {
                assigned.draining = true;
            }
        }
    }

    /// True when no record of these partitions is in flight.
    #[must_use]
    pub fn is_drained(&self, partitions: &[TopicPartition]) -> bool {
        partitions.iter().all(|partition| self.assigned(partition).is_none_or(|assigned| assigned.in_flight == 0))
    }

    /// True while a record of this partition is in flight, also one of an epoch that ended. The partition must not begin with another log before: what
    /// is in flight was read from the earlier one.
    #[must_use]
    pub fn has_in_flight(&self, partition: &TopicPartition) -> bool {
        self.index.get(partition).is_some_and(|slot| self.slots[*slot as usize].in_flight > 0)
    }

    /// The offset that an assigned partition expects next.
    #[must_use]
    pub fn next_offset(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(self.assigned(partition)?.watermark.next_offset())
    }

    /// True when every checkpoint of these partitions is durable at its watermark.
    #[must_use]
    pub fn is_settled(&self, partitions: &[TopicPartition]) -> bool {
        let is_settled = |assigned: &Assigned| {
            assigned.requested.is_none() && assigned.watermark.checkpoint().next <= assigned.durable.next
        };
        partitions.iter().all(|partition| self.assigned(partition).is_none_or(is_settled))
    }

    /// Removes these partitions: from here on, completions of their records only return credits. Returns the slots and epochs that ended,
    /// for the shards.
    pub fn fence(&mut self, partitions: &[TopicPartition]) -> Vec<(u32, Epoch)> {
        let mut ended = Vec::new();
        for partition in partitions {
            let Some(&slot) = self.index.get(partition) else { continue };
            if let Some(assigned) = self.slots[slot as usize].assigned.take() {
                ended.push((slot, assigned.epoch));
            }
        }
        ended
    }

    /// The partitions that are assigned.
    #[must_use]
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.slots.iter().filter(|slot| slot.assigned.is_some()).map(|slot| slot.partition.clone()).collect()
    }

    /// Records and bytes in flight.
    #[must_use]
    pub fn in_flight(&self) -> (u64, u64) {
        (self.records, self.bytes)
    }

    /// The `max` keys with the most records in flight, most first. Keys with a single record are left out.
    #[must_use]
    pub fn hot_keys(&self, max: usize) -> Vec<HotKey> {
        let hot = |(key, of_key): (&KeyHash, &(u64, u64))| HotKey { key: *key, records: of_key.0, bytes: of_key.1 };
        let mut keys: Vec<HotKey> = self.keys.iter().map(hot).filter(|hot| hot.records > 1).collect();
        keys.sort_by_key(|hot| (std::cmp::Reverse(hot.records), hot.key));
        keys.truncate(max);
        keys
    }

    /// The state of every assigned partition.
    #[must_use]
    pub fn status(&self) -> Vec<PartitionStatus> {
        let status = |slot: &Slot| {
            let assigned = slot.assigned.as_ref()?;
            Some(PartitionStatus {
                partition: slot.partition.clone(),
                watermark: assigned.watermark.checkpoint().next,
                checkpoint: assigned.durable.next,
                next_offset: assigned.watermark.next_offset(),
                in_flight: assigned.in_flight,
                paused: assigned.paused,
                damaged: assigned.damaged,
                end: assigned.end,
                open_transaction: assigned.open_transaction,
                as_of_ms: assigned.as_of_ms,
            })
        };
        self.slots.iter().filter_map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(next: Offset, at_ms: i64, delivered: bool, open_transaction: Option<Offset>) -> EndOffset {
        EndOffset { next, at_ms, delivered, open_transaction }
    }

    /// The bug: what stood behind an open transaction was no lag, and "as of" went on as if it had been read.
    #[test]
    fn what_an_open_transaction_holds_back_is_lag_and_is_not_known() {
        let partition = TopicPartition::new("t", 0);
        let mut tracker = Tracker::new(Limits { records: 10, bytes: 10_000, span: 10 });
        tracker.assign(&partition, Checkpoint { next: 5, last: None }, false);
        let status_after = |tracker: &mut Tracker, end| {
            tracker.set_end_offsets(&[(partition.clone(), end)]);
            let status = tracker.status().remove(0);
            (status.lag(), status.as_of_ms, status.open_transaction)
        };
        assert_eq!(status_after(&mut tracker, end(5, 100, true, None)), (0, Some(100), None));
        assert_eq!(status_after(&mut tracker, end(8, 200, false, Some(5))), (3, Some(100), Some(5)));
        assert_eq!(status_after(&mut tracker, end(8, 300, false, Some(5))), (3, Some(100), Some(5)));
        // It is aborted: a control record more, and nothing to deliver up to there.
        assert_eq!(status_after(&mut tracker, end(9, 400, true, None)), (4, Some(200), None));
        assert_eq!(status_after(&mut tracker, end(9, 500, true, None)), (4, Some(500), None));
    }

    /// A tracker of one partition, at offset 5, and the record there.
    fn at_a_record() -> (Tracker, Record) {
        let partition = TopicPartition::new("t", 0);
        let mut tracker = Tracker::new(Limits { records: 10, bytes: 10_000, span: 10 });
        tracker.assign(&partition, Checkpoint { next: 5, last: None }, false);
        let (timestamp_ms, read_ms) = (0, 0);
        let record =
            Record { partition, offset: 5, timestamp_ms, read_ms, key: None, value: None, headers: Default::default() };
        (tracker, record)
    }

    /// What cannot happen in a correct program is seen by an operator when it happens.
    #[test]
    fn a_record_that_is_finished_twice_is_counted_as_a_violation() {
        let (mut tracker, record) = at_a_record();
        let Offer::Take(ticket) = tracker.offer(&record, &[Cost { key: KeyHash(1), bytes: 100 }]) else {
            panic!("it is not taken")
        };
        tracker.complete(&ticket);
        assert_eq!(tracker.violations, 0);
        tracker.complete(&ticket);
        assert_eq!((tracker.violations, tracker.in_flight()), (1, (0, 0)));
        assert_eq!(tracker.status()[0].watermark, 6, "nothing else is taken for finished");
    }

    #[test]
    fn each_part_of_a_record_gives_its_own_bytes_back() {
        let (mut tracker, record) = at_a_record();
        let parts = [Cost { key: KeyHash(1), bytes: 100 }, Cost { key: KeyHash(2), bytes: 7 }];
        let Offer::Take(first) = tracker.offer(&record, &parts) else { panic!("it is not taken") };
        assert_eq!(tracker.in_flight(), (2, 107));
        tracker.complete(&first.of_part(parts[1]));
        assert_eq!(tracker.in_flight(), (1, 100));
        tracker.complete(&first);
        assert_eq!(tracker.in_flight(), (0, 0));
    }
}
