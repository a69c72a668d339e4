//! Where to begin in a partition. Pure.
//!
//! Always a concrete offset, never "wherever the log resets to": a reset to the end skips orders in silence, one to the beginning rings
//! for last week. A position that the log no longer holds, or does not hold yet, is an alarm with the size of the gap; then work goes on
//! from the earliest record there is.

use crate::record::Offset;
use crate::seams::{Frontier, Held};

/// Who keeps the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Our own frontiers, beside the state. The log's own position is not looked at.
    Frontiers,
    /// The log's position for this group: for handlers that keep no durable state of their own.
    Committed,
}

/// Something is wrong with the log below our frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Retention passed us: this many offsets were never read.
    Passed {
        /// Size of the gap.
        missing: u64,
    },
    /// The log ends this far before our frontier: the topic was made anew, or its brokers lost data.
    Shrunk {
        /// Distance.
        beyond: u64,
    },
    /// The log's own position for this group is this far ahead of our frontier: somebody read on with a newer copy of our state.
    WentBack {
        /// Distance.
        by: u64,
    },
    /// The record below the frontier is not the one that was read: the topic was made anew.
    Changed,
}

/// Where to begin, and what was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The frontier to count from.
    pub frontier: Frontier,
    /// Read the record below first and compare it.
    pub probe: bool,
    /// True when the position is new and must be saved before the first record is read.
    pub fresh: bool,
    /// What is wrong.
    pub alarm: Option<Alarm>,
}

impl Start {
    /// The offset to place the source at.
    #[must_use]
    pub fn offset(&self) -> Offset {
        match self.frontier.last {
            Some((offset, _)) if self.probe => offset,
            _ => self.frontier.next,
        }
    }
}

fn fresh(next: Offset, alarm: Option<Alarm>) -> Start {
    Start { frontier: Frontier { next, last: None }, probe: false, fresh: true, alarm }
}

/// Decides for one partition. `topic_known` means that other partitions of the topic have frontiers: this one was added later, and
/// everything in it is new.
#[must_use]
pub fn start(saved: Option<Frontier>, held: Held, topic_known: bool, resume: Resume) -> Start {
    let saved = match resume {
        Resume::Frontiers => saved,
        Resume::Committed => held.committed.map(|next| Frontier { next, last: None }),
    };
    let Some(frontier) = saved else {
        let next = if topic_known { held.start } else { held.by_time.clamp(held.start, held.end) };
        return fresh(next, None);
    };
    if frontier.next < held.start {
        return fresh(held.start, Some(Alarm::Passed { missing: held.start - frontier.next }));
    }
    if frontier.next > held.end {
        return fresh(held.start, Some(Alarm::Shrunk { beyond: frontier.next - held.end }));
    }
    let ahead = held.committed.filter(|_| resume == Resume::Frontiers).filter(|committed| *committed > frontier.next);
    let alarm = ahead.map(|committed| Alarm::WentBack { by: committed - frontier.next });
    let probe = frontier.last.is_some_and(|(offset, _)| offset >= held.start);
    Start { frontier, probe, fresh: false, alarm }
}

/// An operator's word to begin no earlier than `at`: what stands between is given up, and the new position is saved first.
#[must_use]
pub fn skip(start: Start, at: Offset) -> Start {
    if start.frontier.next >= at { start } else { fresh(at, start.alarm) }
}

/// After [`crate::core::Offer::Mismatch`]: from the earliest record there is.
#[must_use]
pub fn start_anew(held: Held) -> Start {
    fresh(held.start, Some(Alarm::Changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held { start: 100, end: 200, by_time: 150, committed: Some(120) };

    fn frontier(next: Offset) -> Option<Frontier> {
        Some(Frontier { next, last: Some((next - 1, 7)) })
    }

    #[test]
    fn a_first_start_begins_at_the_state_retention() {
        assert_eq!(start(None, HELD, false, Resume::Frontiers), fresh(150, None));
    }

    #[test]
    fn a_partition_that_was_added_later_begins_at_its_first_record() {
        assert_eq!(start(None, HELD, true, Resume::Frontiers), fresh(100, None));
    }

    #[test]
    fn a_frontier_inside_the_log_is_probed() {
        let start = start(frontier(180), HELD, true, Resume::Frontiers);
        assert_eq!((start.offset(), start.probe, start.fresh, start.alarm), (179, true, false, None));
    }

    #[test]
    fn a_record_that_is_merely_gone_is_no_alarm() {
        let held = Held { committed: Some(100), ..HELD };
        let start = start(frontier(100), held, true, Resume::Frontiers);
        assert_eq!((start.offset(), start.probe, start.alarm), (100, false, None));
    }

    #[test]
    fn a_frontier_outside_the_log_is_an_alarm_with_the_size_of_the_gap() {
        assert_eq!(start(frontier(60), HELD, true, Resume::Frontiers), fresh(100, Some(Alarm::Passed { missing: 40 })));
        assert_eq!(start(frontier(230), HELD, true, Resume::Frontiers), fresh(100, Some(Alarm::Shrunk { beyond: 30 })));
    }

    #[test]
    fn a_group_that_is_ahead_of_us_is_an_alarm_and_we_go_on_from_our_own_place() {
        let start = start(frontier(110), HELD, true, Resume::Frontiers);
        assert_eq!((start.offset(), start.alarm), (109, Some(Alarm::WentBack { by: 10 })));
    }

    #[test]
    fn a_skip_moves_forward_and_never_back() {
        let begun = start(frontier(150), HELD, true, Resume::Frontiers);
        assert_eq!(skip(begun, 160), fresh(160, None));
        assert_eq!(skip(begun, 150), begun);
    }

    #[test]
    fn without_state_of_its_own_a_group_resumes_where_it_committed() {
        assert_eq!(start(frontier(180), HELD, true, Resume::Committed).offset(), 120);
    }
}
