//! Partitions that start again when what was read of them is finished.
//!
//! ```text
//!   another log                 --> finishing --nothing is in flight, and the checkpoint is saved--> start
//!   out of range in its own log -->     |     --or the time is up----------------------------------^
//! ```
//!
//! Nobody can read an earlier log again, so all that was read of it is finished first, however long a key or a dead letter takes. The poll thread does
//! not wait for that, and asks the log nothing meanwhile: the other partitions go on.

use std::slice;
use std::time::Instant;

use crate::record::TopicPartition;
use crate::tracker::Tracker;

/// A partition that starts again when its records in flight are finished.
#[derive(Debug)]
pub(super) struct Finishing {
    pub(super) partition: TopicPartition,
    /// Until when at most, where the log is the same: what is not finished then is read again, or is gone.
    pub(super) until: Option<Instant>,
}

impl Finishing {
    /// True when its log is another one than what was read.
    pub(super) fn is_of_another_log(&self) -> bool {
        self.until.is_none()
    }

    /// True when nothing that was read is in flight.
    pub(super) fn is_finished(&self, tracker: &Tracker) -> bool {
        !tracker.has_in_flight(&self.partition)
    }

    /// True when its checkpoint is durable: none moves it any more.
    pub(super) fn is_saved(&self, tracker: &Tracker) -> bool {
        !tracker.is_saving(&self.partition) && tracker.is_settled(slice::from_ref(&self.partition))
    }

    /// True when the partition may start.
    pub(super) fn may_start(&self, tracker: &Tracker, now: Instant) -> bool {
        let is_late = self.until.is_some_and(|until| until <= now) && !tracker.is_saving(&self.partition);
        is_late || (self.is_finished(tracker) && self.is_saved(tracker))
    }
}
