//! The offset at which a partition starts. Pure.
//!
//! It is always a concrete offset, never "wherever the log resets to": a reset to the end skips orders in silence, and a reset to the
//! beginning notifies stores of last week's orders. A checkpoint outside of what the log holds raises an alert with the size of the gap;
//! then work goes on from the earliest record there is.

use crate::loss::Loss;
use crate::record::Offset;
use crate::traits::{Checkpoint, PartitionOffsets};

/// Which offset a partition resumes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeFrom {
    /// The checkpoint that the store keeps beside the state. The group's committed offset is only compared with it.
    Checkpoint,
    /// The offset that the log keeps for the group: for handlers without durable state of their own.
    CommittedOffset,
}

/// A disagreement between the log and the saved checkpoint that needs an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAlert {
    /// The log does not hold records that were never read.
    Loss(Loss),
    /// The group's committed offset is ahead of the checkpoint, and inside of the log: another copy of the state has read further.
    StateRolledBack {
        /// Number of offsets between the checkpoint and the committed offset.
        by: u64,
    },
}

/// Where a partition starts, and what was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartOffset {
    /// The checkpoint to count from.
    pub checkpoint: Checkpoint,
    /// True when the record below the checkpoint is read first and compared with its fingerprint.
    pub verify_last: bool,
    /// True when the checkpoint is new and must be saved before the first record is read.
    pub is_new: bool,
    /// What an operator should know.
    pub alert: Option<StartAlert>,
    /// The group's committed offset, where it is ahead of all that the saved checkpoint says, or nothing is saved: another copy of the state, that is
    /// lost or newer, has handled what is below.
    pub handled_before: Option<Offset>,
}

impl StartOffset {
    /// The offset at which the source starts to deliver.
    #[must_use]
    pub fn offset(&self) -> Offset {
        match self.checkpoint.last {
            Some((offset, _)) if self.verify_last => offset,
            _ => self.checkpoint.next,
        }
    }

    /// What the log lost of this partition. The checkpoint is new then, and both are saved together.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        match self.alert {
            Some(StartAlert::Loss(loss)) => Some(loss),
            Some(StartAlert::StateRolledBack { .. }) | None => None,
        }
    }
}

fn start_at(next: Offset, alert: Option<StartAlert>) -> StartOffset {
    StartOffset {
        checkpoint: Checkpoint { next, last: None },
        verify_last: false,
        is_new: true,
        alert,
        handled_before: None,
    }
}

/// Decides where one partition starts. `has_topic` says that other partitions of the topic have checkpoints: this one was added later, and
/// all of its records are new.
#[must_use]
pub fn resolve(
    saved: Option<Checkpoint>,
    offsets: PartitionOffsets,
    has_topic: bool,
    resume_from: ResumeFrom,
) -> StartOffset {
    let saved = match resume_from {
        ResumeFrom::Checkpoint => saved,
        ResumeFrom::CommittedOffset => offsets.committed.map(|next| Checkpoint { next, last: None }),
    };
    // One beyond the end is of an earlier log, and says nothing of this one.
    let handled_before = offsets.committed.filter(|committed| *committed <= offsets.end);
    let Some(checkpoint) = saved else {
        // What no state of the group has handled is read, however old it is: an outage may be longer than the retention of the state.
        let by_time = handled_before.map_or(offsets.by_time, |committed| committed.min(offsets.by_time));
        let next = if has_topic { offsets.start } else { by_time.clamp(offsets.start, offsets.end) };
        return StartOffset { handled_before, ..start_at(next, None) };
    };
    if checkpoint.next < offsets.start {
        let missing = offsets.start - checkpoint.next;
        return start_at(offsets.start, Some(StartAlert::Loss(Loss::RetentionGap { missing })));
    }
    if checkpoint.next > offsets.end {
        let beyond = checkpoint.next - offsets.end;
        return start_at(offsets.start, Some(StartAlert::Loss(Loss::Truncated { beyond })));
    }
    let compared = handled_before.filter(|_| resume_from == ResumeFrom::Checkpoint);
    let ahead = compared.filter(|committed| *committed > checkpoint.next);
    let alert = ahead.map(|committed| StartAlert::StateRolledBack { by: committed - checkpoint.next });
    let verify_last = checkpoint.last.is_some_and(|(offset, _)| offset >= offsets.start);
    StartOffset { checkpoint, verify_last, is_new: false, alert, handled_before: ahead }
}

/// Moves a start forward to `at`, on an operator's request, or to the log's end. The records in between are given up, and the new checkpoint is saved
/// first. Not where the partition begins with another log: the operator had seen the earlier one.
#[must_use]
pub fn skip_to(start: StartOffset, at: Offset, end: Offset) -> StartOffset {
    let is_another_log = start.loss().is_some_and(Loss::is_another_log);
    let at = at.min(end);
    if is_another_log || start.checkpoint.next >= at {
        start
    } else {
        StartOffset { handled_before: start.handled_before, ..start_at(at, start.alert) }
    }
}

/// It is known that the log is another one than what was read, with this loss: it ended before that, or [`crate::tracker::Offer::Mismatch`]. Starts
/// from its earliest record.
#[must_use]
pub fn another_log(offsets: PartitionOffsets, loss: Loss) -> StartOffset {
    start_at(offsets.start, Some(StartAlert::Loss(loss)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: PartitionOffsets = PartitionOffsets { start: 100, end: 200, by_time: 150, committed: Some(120) };

    fn checkpoint(next: Offset) -> Option<Checkpoint> {
        Some(Checkpoint { next, last: Some((next - 1, 7)) })
    }

    #[test]
    fn a_first_start_begins_at_the_state_retention() {
        let never_committed = PartitionOffsets { committed: None, ..OFFSETS };
        assert_eq!(resolve(None, never_committed, false, ResumeFrom::Checkpoint), start_at(150, None));
        // Of a log that was created again.
        let elsewhere = PartitionOffsets { committed: Some(900), ..OFFSETS };
        assert_eq!(resolve(None, elsewhere, false, ResumeFrom::Checkpoint), start_at(150, None));
    }

    /// The bug: after the state was lost, what was recorded in an outage before it began was taken for history that had been handled.
    #[test]
    fn a_state_that_was_lost_had_handled_what_is_below_the_committed_offset_and_nothing_else() {
        let start = |committed| {
            let start = resolve(
                None,
                PartitionOffsets { committed: Some(committed), ..OFFSETS },
                false,
                ResumeFrom::Checkpoint,
            );
            (start.checkpoint.next, start.handled_before)
        };
        assert_eq!(start(180), (150, Some(180)));
        assert_eq!(start(120), (120, Some(120)), "the outage was longer than the retention of the state");
        assert_eq!(start(50), (100, Some(50)), "and than that of the log");
        let rolled_back = resolve(checkpoint(110), OFFSETS, true, ResumeFrom::Checkpoint);
        assert_eq!(rolled_back.handled_before, Some(120), "a newer copy of the state has");
        assert_eq!(resolve(checkpoint(120), OFFSETS, true, ResumeFrom::Checkpoint).handled_before, None);
        assert_eq!(skip_to(rolled_back, 115, 200).handled_before, Some(120));
    }

    /// The bug: the offset that a group had committed in a log that was deleted counted in the next one of that name: what stood below it later had
    /// been handled by nobody, and was history.
    #[test]
    fn a_committed_offset_beyond_the_end_of_the_log_says_nothing_of_it() {
        let start = |committed| {
            let offsets = PartitionOffsets { committed: Some(committed), ..OFFSETS };
            let start = resolve(checkpoint(110), offsets, true, ResumeFrom::Checkpoint);
            (start.checkpoint.next, start.handled_before, start.alert)
        };
        assert_eq!(start(200), (110, Some(200), Some(StartAlert::StateRolledBack { by: 90 })));
        assert_eq!(start(201), (110, None, None));
    }

    #[test]
    fn a_partition_that_was_added_later_begins_at_its_first_record() {
        let offsets = PartitionOffsets { committed: None, ..OFFSETS };
        assert_eq!(resolve(None, offsets, true, ResumeFrom::Checkpoint), start_at(100, None));
    }

    #[test]
    fn the_record_below_a_checkpoint_inside_the_log_is_verified() {
        let start = resolve(checkpoint(180), OFFSETS, true, ResumeFrom::Checkpoint);
        assert_eq!((start.offset(), start.verify_last, start.is_new, start.alert), (179, true, false, None));
    }

    #[test]
    fn a_last_record_that_expired_raises_no_alert() {
        let offsets = PartitionOffsets { committed: Some(100), ..OFFSETS };
        let start = resolve(checkpoint(100), offsets, true, ResumeFrom::Checkpoint);
        assert_eq!((start.offset(), start.verify_last, start.alert), (100, false, None));
    }

    #[test]
    fn a_checkpoint_outside_the_log_raises_an_alert_with_the_size_of_the_gap() {
        let gap = StartAlert::Loss(Loss::RetentionGap { missing: 40 });
        assert_eq!(resolve(checkpoint(60), OFFSETS, true, ResumeFrom::Checkpoint), start_at(100, Some(gap)));
        let truncated = StartAlert::Loss(Loss::Truncated { beyond: 30 });
        assert_eq!(resolve(checkpoint(230), OFFSETS, true, ResumeFrom::Checkpoint), start_at(100, Some(truncated)));
    }

    #[test]
    fn a_committed_offset_ahead_of_the_checkpoint_raises_an_alert_and_the_checkpoint_counts() {
        let start = resolve(checkpoint(110), OFFSETS, true, ResumeFrom::Checkpoint);
        assert_eq!((start.offset(), start.alert), (109, Some(StartAlert::StateRolledBack { by: 10 })));
    }

    #[test]
    fn a_skip_moves_forward_and_never_back() {
        let start = resolve(checkpoint(150), OFFSETS, true, ResumeFrom::Checkpoint);
        assert_eq!(skip_to(start, 160, 200), start_at(160, None));
        assert_eq!(skip_to(start, 900, 200), start_at(200, None), "up to the end");
        assert_eq!(skip_to(start, 150, 200), start);
    }

    /// The bug: a skip past a damaged place also passed over the first records of a topic that was created again.
    #[test]
    fn a_skip_passes_over_no_record_of_another_log() {
        for start in [
            another_log(OFFSETS, Loss::Recreated),
            another_log(OFFSETS, Loss::Truncated { beyond: 30 }),
            resolve(checkpoint(230), OFFSETS, true, ResumeFrom::Checkpoint),
        ] {
            assert_eq!(skip_to(start, 160, 200), start);
        }
        let gap = resolve(checkpoint(60), OFFSETS, true, ResumeFrom::Checkpoint);
        assert_eq!(skip_to(gap, 160, 200), start_at(160, gap.alert), "the same log, later");
    }

    #[test]
    fn without_state_of_its_own_a_group_resumes_at_its_committed_offset() {
        assert_eq!(resolve(checkpoint(180), OFFSETS, true, ResumeFrom::CommittedOffset).offset(), 120);
    }
}
