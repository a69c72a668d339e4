//! What the writer is doing, for whoever reads why it panicked: of which records the effects are that it writes.

use std::fmt;

use orderbell_consumers::{Offset, TopicPartition};

use super::committer::Work;

/// Partitions that are named; the others are counted.
const MAX_NAMED: usize = 8;

/// The records of one partition whose effects a key batch has. Displayed as `topic/0@5 to @7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRange {
    /// Where they were read.
    pub partition: TopicPartition,
    /// The lowest one.
    pub first: Offset,
    /// The highest one: records of other keys may lie between.
    pub last: Offset,
}

impl RecordRange {
    /// Adds a record to these.
    pub fn add(ranges: &mut Vec<Self>, partition: &TopicPartition, offset: Offset) {
        match ranges.iter_mut().find(|range| range.partition == *partition) {
            Some(range) => (range.first, range.last) = (range.first.min(offset), range.last.max(offset)),
            None => ranges.push(Self { partition: partition.clone(), first: offset, last: offset }),
        }
    }
}

impl fmt::Display for RecordRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.first)?;
        if self.last > self.first { write!(f, " to @{}", self.last) } else { Ok(()) }
    }
}

/// A step of the writer.
#[derive(Debug, Default)]
pub(crate) struct AtWork {
    step: &'static str,
    ranges: Vec<RecordRange>,
}

impl AtWork {
    pub(crate) fn begin(&mut self, step: &'static str) {
        self.step = step;
        self.ranges.clear();
    }

    pub(crate) fn take(&mut self, work: &Work) {
        match work {
            Work::KeyBatch(effects, _) => {
                for range in &effects.records {
                    RecordRange::add(&mut self.ranges, &range.partition, range.first);
                    RecordRange::add(&mut self.ranges, &range.partition, range.last);
                }
            }
            // Where each partition is read next.
            Work::Checkpoints(_, at, ..) => {
                at.iter().for_each(|(part, checkpoint)| RecordRange::add(&mut self.ranges, part, checkpoint.next));
            }
            Work::Begin(_, begins, ..) => {
                for begin in begins {
                    RecordRange::add(&mut self.ranges, &begin.partition, begin.checkpoint.next);
                }
            }
            _ => {}
        }
    }
}

impl fmt::Display for AtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "while {}", self.step)?;
        for (at, range) in self.ranges.iter().take(MAX_NAMED).enumerate() {
            write!(f, "{}{range}", if at == 0 { " of " } else { ", " })?;
        }
        match self.ranges.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} further partitions"),
        }
    }
}

#[cfg(test)]
mod tests {
    use orderbell_consumers::{Begin, Checkpoint};

    use super::*;

    /// Regression: a panic while a partition began named no partition.
    #[test]
    fn a_partition_that_begins_is_named() {
        let begin = |number, next| Begin {
            partition: TopicPartition::new("orders", number),
            checkpoint: Checkpoint { next, last: None },
            is_new: true,
            loss: None,
            handled_before: None,
            skip_to: None,
        };
        let mut work = AtWork::default();
        work.begin("writing the effects");
        work.take(&Work::Begin("c".into(), vec![begin(0, 7), begin(1, 3)], None, flume::bounded(1).0));
        assert_eq!(work.to_string(), "while writing the effects of orders/0@7, orders/1@3");
    }

    #[test]
    fn a_step_names_its_records_by_partition_and_not_all_of_them() {
        let mut work = AtWork::default();
        work.begin("writing the effects");
        for (number, offset) in [(0, 7), (1, 3), (0, 5), (0, 6)] {
            RecordRange::add(&mut work.ranges, &TopicPartition::new("orders", number), offset);
        }
        assert_eq!(work.to_string(), "while writing the effects of orders/0@5 to @7, orders/1@3");
        (2..12).for_each(|number| RecordRange::add(&mut work.ranges, &TopicPartition::new("orders", number), 1));
        assert!(work.to_string().ends_with("orders/7@1, and 4 further partitions"), "{work}");
        work.begin("removing what is too old");
        assert_eq!(work.to_string(), "while removing what is too old");
    }
}
