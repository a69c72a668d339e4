//! Records that a group will never read, because the log does not hold them any more.
//!
//! The group finds a loss when it starts a partition, goes on from the earliest record, and forgets it: the new checkpoint hides it. So a
//! loss is saved together with that checkpoint ([`CheckpointStore::begin`](crate::CheckpointStore::begin)).

use std::fmt;

use crate::alert::AlertKind;

/// What the log lost of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The log's retention deleted records that were never read.
    RetentionGap {
        /// Number of offsets that were skipped.
        missing: u64,
    },
    /// The log ends before the checkpoint: the topic was created again, or its brokers lost data.
    Truncated {
        /// Number of offsets between the log's end and the checkpoint.
        beyond: u64,
    },
    /// The record below the checkpoint is not the one that was read: the topic was deleted and created again. Records that were not read
    /// before are gone, and nobody knows how many there were.
    Recreated,
}

impl Loss {
    /// The kind of the alert that reports it.
    #[must_use]
    pub fn kind(self) -> AlertKind {
        match self {
            Self::RetentionGap { .. } => AlertKind::RetentionGap,
            Self::Truncated { .. } => AlertKind::Truncated,
            Self::Recreated => AlertKind::Recreated,
        }
    }

    /// Number of offsets, as far as it is known.
    #[must_use]
    pub fn offsets(self) -> u64 {
        match self {
            Self::RetentionGap { missing } => missing,
            Self::Truncated { beyond } => beyond,
            Self::Recreated => 0,
        }
    }

    /// True when the partition goes on with another log: what was read before is not in it, or at other offsets.
    #[must_use]
    pub fn is_another_log(self) -> bool {
        matches!(self, Self::Recreated | Self::Truncated { .. })
    }

    /// The loss of this kind and this many offsets; none when the kind reports no loss.
    #[must_use]
    pub fn new(kind: AlertKind, offsets: u64) -> Option<Self> {
        match kind {
            AlertKind::RetentionGap => Some(Self::RetentionGap { missing: offsets }),
            AlertKind::Truncated => Some(Self::Truncated { beyond: offsets }),
            AlertKind::Recreated => Some(Self::Recreated),
            AlertKind::PartitionDamaged
            | AlertKind::StateRolledBack
            | AlertKind::Unassigned
            | AlertKind::GroupShared
            | AlertKind::HandlerFailing => None,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetentionGap { missing } => {
                write!(f, "retention deleted {missing} offsets before they were read")
            }
            Self::Truncated { beyond } => write!(
                f,
                "the log ends {beyond} offsets before the checkpoint: its brokers lost data, or the topic was recreated"
            ),
            Self::Recreated => {
                f.write_str("the record below the checkpoint is not the one that was read: the topic was recreated")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_offsets_make_the_loss_again() {
        for loss in [Loss::RetentionGap { missing: 3 }, Loss::Truncated { beyond: 5 }, Loss::Recreated] {
            assert_eq!(Loss::new(loss.kind(), loss.offsets()), Some(loss));
        }
        assert_eq!(Loss::new(AlertKind::StateRolledBack, 1), None);
    }
}
