//! The watermark of one partition: the offset below which every record is finished.
//!
//! Records are registered in the order they are read and completed in any order, a record of several parts once for each part. The watermark
//! stands at the first record that is registered and not complete; everything below it is finished. Offsets that the log skips (compaction, transaction markers, aborted
//! records) were never registered and cost nothing.
//!
//! ```text
//!   offsets    10  11  12  (13 skipped)  14  15          next_offset = 16
//!   done        x   x   .                x   .           watermark = 12
//!                       ^
//! ```
//!
//! A ring of tickets, one per registered record, indexed by the number of the registration: register, complete and advance are O(1), and
//! a gap of a million offsets needs no memory. Refused: a bit per offset (a gap above a blocked record then costs a bit for each missing
//! offset) and a map of gaps in commit metadata (four encodings and their bugs elsewhere).

use std::collections::VecDeque;

use crate::record::Offset;
use crate::traits::Checkpoint;

/// Number of a registered record within one watermark, counted from 0.
pub type Sequence = u64;

#[derive(Debug)]
struct Entry {
    offset: Offset,
    fingerprint: u64,
    /// Parts that are not finished.
    open: u32,
}

/// The watermark of one partition in one epoch.
#[derive(Debug)]
pub struct Watermark {
    ring: VecDeque<Entry>,
    /// Sequence of the ring's front.
    front: Sequence,
    /// The offset that is expected from the source next.
    next_offset: Offset,
    /// Offset and fingerprint of the newest record below the watermark.
    last: Option<(Offset, u64)>,
}

impl Watermark {
    /// A watermark at a checkpoint: everything below it is finished, and nothing is registered.
    #[must_use]
    pub fn at(checkpoint: Checkpoint) -> Self {
        Self { ring: VecDeque::new(), front: 0, next_offset: checkpoint.next, last: checkpoint.last }
    }

    /// Registers a record that was read, with the number of its parts. `None` when its offset was read before in this epoch: it must not be handled again.
    pub fn register(&mut self, offset: Offset, fingerprint: u64, parts: u32) -> Option<Sequence> {
        if offset < self.next_offset {
            return None;
        }
        self.ring.push_back(Entry { offset, fingerprint, open: parts });
        self.next_offset = offset + 1;
        Some(self.front + self.ring.len() as u64 - 1)
    }

    /// Marks a part of a record as finished, and the record with its last one. False when all were finished before or it was never
    /// registered, which is an error of the caller.
    pub fn complete(&mut self, sequence: Sequence) -> bool {
        let Some(entry) = sequence.checked_sub(self.front).and_then(|at| self.ring.get_mut(at as usize)) else {
            return false;
        };
        let was_open = entry.open > 0;
        entry.open = entry.open.saturating_sub(1);
        while self.ring.front().is_some_and(|entry| entry.open == 0) {
            if let Some(entry) = self.ring.pop_front() {
                self.last = Some((entry.offset, entry.fingerprint));
                self.front += 1;
            }
        }
        was_open
    }

    /// The source has delivered every record below `end`: control records at the tail, which are never delivered, are passed over.
    pub fn advance_to(&mut self, end: Offset) {
        self.next_offset = self.next_offset.max(end);
    }

    /// The watermark as a checkpoint: every record below it is finished, in memory.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { next: self.ring.front().map_or(self.next_offset, |entry| entry.offset), last: self.last }
    }

    /// The offset that is expected from the source next.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Number of records between the watermark and the newest record that was read.
    #[must_use]
    pub fn span(&self) -> usize {
        self.ring.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_finished_with_its_last_part_and_not_twice() {
        let mut watermark = Watermark::at(Checkpoint { next: 5, last: None });
        let (first, second) = (watermark.register(5, 1, 1).unwrap(), watermark.register(6, 2, 2).unwrap());
        assert_eq!([watermark.complete(second), watermark.complete(second)], [true, true]);
        assert!(!watermark.complete(second), "it had two parts");
        assert_eq!(watermark.checkpoint().next, 5, "the record below is not finished");
        assert!(watermark.complete(first));
        assert_eq!(watermark.checkpoint(), Checkpoint { next: 7, last: Some((6, 2)) });
        assert!(!watermark.complete(first), "it is below the watermark");
    }
}
