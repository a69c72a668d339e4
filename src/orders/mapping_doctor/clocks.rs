//! Clocks that are off: how far the times of a producer's events are from those of their records.
//!
//! Events that are published late are off by any time, and rarely twice by the same. A clock that is off is so for most of its events.

use std::collections::BTreeMap;

use super::super::event_time;
use super::super::mapping::Mapping;
use super::member_stats::shape;
use super::report::ClockRow;
use super::sample::Sample;
use super::type_words::is_quotable;

/// Offsets within this time are one clock's: so long an event takes to its record.
const WINDOW_MS: i64 = 30_000;
/// A clock that is off by less does no harm.
const HARMLESS_MS: i64 = 60_000;
/// No order is paid later than it is recorded: further ahead, a single event shows it.
const AHEAD_MAX_MS: i64 = 15 * 60 * 1000;
/// Events, and one in so many, that must agree about a clock that is behind.
const AGREEING_EVENTS: usize = 3;
const AGREEING_SHARE: usize = 5;

/// The clocks of the producers that are off, each with the offset that most of its events share.
pub(super) fn clocks(sample: &Sample, mapping: &Mapping) -> Vec<ClockRow> {
    let mut of_sources: BTreeMap<&str, Vec<(i64, bool)>> = BTreeMap::new();
    for event in sample.events.iter().filter(|event| event.recorded_ms > 0 && !event.is_late) {
        let Some(json) = event.time.as_deref() else { continue };
        if let Ok(at_ms) = event_time::stated(json, &mapping.time_zone, event.has_local_numbers) {
            let is_local = event_time::is_local(json, event.may_be_local);
            let offset = (at_ms.saturating_sub(event.recorded_ms), is_local);
            of_sources.entry(&event.source).or_default().push(offset);
        }
    }
    of_sources.into_iter().flat_map(|(source, offsets)| rows(source, offsets)).collect()
}

fn rows(source: &str, mut offsets: Vec<(i64, bool)>) -> Vec<ClockRow> {
    offsets.sort_unstable();
    let (count, mut rows, mut rest) = (offsets.len(), Vec::new(), &offsets[..]);
    while let Some((first, _)) = rest.first() {
        let end = rest.partition_point(|(offset, _)| *offset <= first.saturating_add(WINDOW_MS));
        let (window, after) = rest.split_at(end);
        rest = after;
        let (offset_ms, is_local) = window[window.len() / 2];
        let is_agreed = window.len() >= AGREEING_EVENTS && window.len() * AGREEING_SHARE >= count;
        if offset_ms > AHEAD_MAX_MS || (offset_ms.abs() > HARMLESS_MS && is_agreed) {
            let (events, of_events) = (window.len() as u64, count as u64);
            let source = if is_quotable(source, of_events) { source.to_owned() } else { shape(source) };
            rows.push(ClockRow { source, offset_ms, is_local, events, of_events });
        }
    }
    rows
}

/// The IANA name of a zone with the difference that a local time, read in UTC, has from its record; `None` where few places have it.
pub(super) fn zone_of(offset_ms: i64) -> Option<String> {
    /// Half an hour, in which zones differ.
    const STEP_MS: i64 = 30 * 60 * 1000;
    let steps = (offset_ms + STEP_MS / 2).div_euclid(STEP_MS);
    match (steps / 2, steps % 2) {
        (0, 0) => None,
        (8, 0) => Some("Asia/Shanghai".into()),
        (9, 0) => Some("Asia/Tokyo".into()),
        (5, 1) => Some("Asia/Kolkata".into()),
        // The sign is that of POSIX: what is west of Greenwich has a plus.
        (hours @ 1..=14, 0) => Some(format!("Etc/GMT-{hours}")),
        (hours @ -12..=-1, 0) => Some(format!("Etc/GMT+{}", -hours)),
        _ => None,
    }
}

/// `5 h 30 min behind`.
pub(super) fn in_words(offset_ms: i64) -> String {
    let minutes = (offset_ms.unsigned_abs() + 30_000) / 60_000;
    let amount = match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    };
    format!("{amount} {}", if offset_ms < 0 { "behind" } else { "ahead of" })
}
