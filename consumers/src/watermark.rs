//! How far one partition is finished.
//!
//! Records are registered in the order they are read and completed in any order. The watermark stands at the first record that is
//! registered and not complete; everything below it is finished. Offsets that the log skips (compaction, transaction markers, aborted
//! records) were never registered and cost nothing.
//!
//! ```text
//!   offsets    10  11  12  (13 skipped)  14  15          high = 16
//!   done        x   x   .                x   .           watermark = 12
//!                       ^
//! ```
//!
//! A ring of tickets, one per registered record, indexed by the number of the registration: register, complete and advance are O(1), and
//! a gap of a million offsets needs no memory. Refused: a bit per offset (a gap above a blocked record then costs a bit for each missing
//! offset) and a map of gaps in commit metadata (four encodings and their bugs elsewhere).

use std::collections::VecDeque;

use crate::record::Offset;
use crate::seams::Frontier;

/// Number of a registration within one watermark, from 0.
pub type Nth = u64;

#[derive(Debug)]
struct Entry {
    offset: Offset,
    print: u64,
    done: bool,
}

/// The watermark of one partition in one epoch.
#[derive(Debug)]
pub struct Watermark {
    ring: VecDeque<Entry>,
    /// Registration number of the ring's front.
    front: Nth,
    /// Next offset that is expected from the source.
    high: Offset,
    last: Option<(Offset, u64)>,
}

impl Watermark {
    /// Begins at a frontier: nothing registered, everything below finished.
    #[must_use]
    pub fn at(frontier: Frontier) -> Self {
        Self { ring: VecDeque::new(), front: 0, high: frontier.next, last: frontier.last }
    }

    /// A record was read. `None` when its offset was read before in this epoch: then it must not be handled again.
    pub fn register(&mut self, offset: Offset, print: u64) -> Option<Nth> {
        if offset < self.high {
            return None;
        }
        self.ring.push_back(Entry { offset, print, done: false });
        self.high = offset + 1;
        Some(self.front + self.ring.len() as u64 - 1)
    }

    /// The record with this number is finished. False when it was finished before or never registered: a caller's error.
    pub fn complete(&mut self, nth: Nth) -> bool {
        let Some(entry) = nth.checked_sub(self.front).and_then(|at| self.ring.get_mut(at as usize)) else {
            return false;
        };
        let fresh = !std::mem::replace(&mut entry.done, true);
        while self.ring.front().is_some_and(|entry| entry.done) {
            if let Some(entry) = self.ring.pop_front() {
                self.last = Some((entry.offset, entry.print));
                self.front += 1;
            }
        }
        fresh
    }

    /// The source says that nothing stands below `end` that was not delivered: control records at the tail are passed over.
    pub fn pass_to(&mut self, end: Offset) {
        self.high = self.high.max(end);
    }

    /// Everything below is finished.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        Frontier { next: self.ring.front().map_or(self.high, |entry| entry.offset), last: self.last }
    }

    /// Next offset that is expected from the source.
    #[must_use]
    pub fn high(&self) -> Offset {
        self.high
    }

    /// Records between the watermark and the newest one.
    #[must_use]
    pub fn span(&self) -> usize {
        self.ring.len()
    }
}
