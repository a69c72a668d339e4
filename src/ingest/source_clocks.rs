//! Which producers' clocks are off, by how their events' times differ from those of the records.
//!
//! A clock that is off stays off by the same amount. Events that are published late, one after another, differ less and less; so a difference
//! counts only when it stays the same for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use orderbell_protocol::UnixMs;

/// Sources whose clock may be off that are remembered; usually a chain has a handful of sources, and those whose clock is right are not
/// remembered.
const MAX_SOURCES: usize = 32;
/// Longer names are cut: they are shown to operators. Characters.
const MAX_NAME_CHARS: usize = 80;
/// A smaller difference delays no notice: the alert is about whole hours.
const MIN_OFFSET_MS: i64 = 15 * 60 * 1000;
/// How much the difference varies while events are published at once.
const SAME_OFFSET_MS: i64 = 60 * 1000;
/// The difference stays the same in so many events, over so much time, before it is a clock's.
const MIN_EVENTS: u32 = 3;
const MIN_SPAN_MS: i64 = 15_000;
/// A source that has not written for so long may have been repaired.
const FORGET_AFTER_MS: i64 = 3_600_000;

/// The producers whose clocks may be off.
#[derive(Debug, Default)]
pub struct SourceClocks(Mutex<BTreeMap<String, Run>>);

/// Events of one source, one after another, whose time differs by the same amount from that of their records.
#[derive(Clone, Copy, Debug)]
struct Run {
    offset_ms: i64,
    events: u32,
    /// Time of the first record and of the last.
    from: UnixMs,
    to: UnixMs,
}

/// A producer whose clock is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockOff {
    /// The source of its events.
    pub source: String,
    /// How far it is off: positive is ahead. Milliseconds.
    pub offset_ms: i64,
}

impl SourceClocks {
    /// Takes in how far the time of an event is from that of its record.
    pub fn observe(&self, source: &str, offset_ms: i64, recorded_at: UnixMs) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = match source.char_indices().nth(MAX_NAME_CHARS) {
            Some((end, _)) => &source[..end],
            None => source,
        };
        if offset_ms.abs() < MIN_OFFSET_MS {
            runs.remove(source);
            return;
        }
        let new = Run { offset_ms, events: 1, from: recorded_at, to: recorded_at };
        if let Some(run) = runs.get_mut(source) {
            if (run.offset_ms - offset_ms).abs() > SAME_OFFSET_MS {
                *run = new;
            } else {
                (run.events, run.to) = (run.events.saturating_add(1), run.to.max(recorded_at));
            }
        } else if runs.len() < MAX_SOURCES {
            runs.insert(source.to_owned(), new);
        }
    }

    /// The producers whose clocks are off.
    pub fn off(&self, now: UnixMs) -> Vec<ClockOff> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|_, run| run.to.plus_ms(FORGET_AFTER_MS) > now);
        let is_off = |run: &Run| run.events >= MIN_EVENTS && run.to.0 - run.from.0 >= MIN_SPAN_MS;
        let off = runs.iter().filter(|(_, run)| is_off(run));
        off.map(|(source, run)| ClockOff { source: source.clone(), offset_ms: run.offset_ms }).collect()
    }
}

impl ClockOff {
    /// How far it is off, for operators.
    #[must_use]
    pub fn sentence(&self) -> String {
        let minutes = self.offset_ms.unsigned_abs().saturating_add(30_000) / 60_000;
        let direction = if self.offset_ms < 0 { "behind" } else { "ahead of" };
        format!(
            "the times of its events are {} h {} min {direction} those of their records",
            minutes / 60,
            minutes % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);
    const HOUR_MS: i64 = 3_600_000;
    const NONE: [i64; 0] = [];

    /// Events of one source: seconds after the first, and how far their time is off.
    fn off(events: &[(i64, i64)]) -> Vec<i64> {
        let clocks = SourceClocks::default();
        events.iter().for_each(|(after_s, offset_ms)| clocks.observe("/pos", *offset_ms, NOW.plus_ms(after_s * 1000)));
        clocks.off(NOW.plus_ms(60_000)).into_iter().map(|off| off.offset_ms).collect()
    }

    #[test]
    fn a_clock_that_is_off_stays_off_by_the_same_amount() {
        let behind = -5 * HOUR_MS;
        assert_eq!(off(&[(0, behind), (10, behind - 4_000), (20, behind - 900)]), [behind]);
        assert_eq!(off(&[(0, 8 * HOUR_MS), (10, 8 * HOUR_MS), (20, 8 * HOUR_MS)]), [8 * HOUR_MS]);
        assert_eq!(off(&[(0, behind), (0, behind), (1, behind), (1, behind)]), NONE, "a burst may be of one moment");
        assert_eq!(off(&[(0, behind), (20, behind)]), NONE, "two may be chance");
        assert_eq!(off(&[(0, behind), (10, behind), (20, behind), (21, -300)]), NONE, "it was set right");
    }

    #[test]
    fn events_that_are_published_late_are_no_clock() {
        // An hour of events, told within a minute.
        let drained: Vec<(i64, i64)> = (0..60).map(|at| (at, -5 * HOUR_MS + at * 60_000)).collect();
        assert_eq!(off(&drained), NONE);
    }

    #[test]
    fn sources_are_remembered_up_to_a_limit_and_forgotten_when_they_are_silent() {
        let clocks = SourceClocks::default();
        let all = |at: i64| (0..40).for_each(|n| clocks.observe(&format!("s{n}"), HOUR_MS, NOW.plus_ms(at)));
        [0, 10_000, 20_000].into_iter().for_each(all);
        clocks.observe(&"x".repeat(1_000), -60, NOW);
        assert_eq!(clocks.off(NOW).len(), MAX_SOURCES);
        assert_eq!(clocks.off(NOW.plus_ms(20_000 + FORGET_AFTER_MS)).len(), 0);
    }

    #[test]
    fn the_offset_is_told_in_hours_and_minutes() {
        let told = |offset_ms: i64| ClockOff { source: "/pos".into(), offset_ms }.sentence();
        assert_eq!(told(-5 * HOUR_MS - 4_000), "the times of its events are 5 h 0 min behind those of their records");
        assert_eq!(told(90 * 60_000), "the times of its events are 1 h 30 min ahead of those of their records");
    }
}
