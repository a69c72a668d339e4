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
    /// The group's committed offset is ahead of the checkpoint: another copy of the state has read further.
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
    StartOffset { checkpoint: Checkpoint { next, last: None }, verify_last: false, is_new: true, alert }
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
    let Some(checkpoint) = saved else {
        let next = if has_topic { offsets.start } else { offsets.by_time.clamp(offsets.start, offsets.end) };
        return start_at(next, None);
    };
    if checkpoint.next < offsets.start {
        let missing = offsets.start - checkpoint.next;
        return start_at(offsets.start, Some(StartAlert::Loss(Loss::RetentionGap { missing })));
    }
    if checkpoint.next > offsets.end {
        let beyond = checkpoint.next - offsets.end;
        return start_at(offsets.start, Some(StartAlert::Loss(Loss::Truncated { beyond })));
    }
    let compared = offsets.committed.filter(|_| resume_from == ResumeFrom::Checkpoint);
    let ahead = compared.filter(|committed| *committed > checkpoint.next);
    let alert = ahead.map(|committed| StartAlert::StateRolledBack { by: committed - checkpoint.next });
    let verify_last = checkpoint.last.is_some_and(|(offset, _)| offset >= offsets.start);
    StartOffset { checkpoint, verify_last, is_new: false, alert }
}

/// Moves a start forward to `at`, on an operator's request. The records in between are given up, and the new checkpoint is saved first.
#[must_use]
pub fn skip_to(start: StartOffset, at: Offset) -> StartOffset {
    if start.checkpoint.next >= at { start } else { start_at(at, start.alert) }
}

/// After [`crate::tracker::Offer::Mismatch`]: starts from the earliest record of the recreated topic.
#[must_use]
pub fn restart(offsets: PartitionOffsets) -> StartOffset {
    start_at(offsets.start, Some(StartAlert::Loss(Loss::Recreated)))
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
        assert_eq!(resolve(None, OFFSETS, false, ResumeFrom::Checkpoint), start_at(150, None));
    }

    #[test]
    fn a_partition_that_was_added_later_begins_at_its_first_record() {
        assert_eq!(resolve(None, OFFSETS, true, ResumeFrom::Checkpoint), start_at(100, None));
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
        assert_eq!(skip_to(start, 160), start_at(160, None));
        assert_eq!(skip_to(start, 150), start);
    }

    #[test]
    fn without_state_of_its_own_a_group_resumes_at_its_committed_offset() {
        assert_eq!(resolve(checkpoint(180), OFFSETS, true, ResumeFrom::CommittedOffset).offset(), 120);
    }
}
