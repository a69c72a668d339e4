//! Which producers' clocks are off, by how their events' times differ from those of the records, and whose notices therefore age from the records'.
//!
//! A clock that is off stays off by the same amount, whatever that is. Events that are published late, one after another, differ less and less; so a
//! difference counts only when it stays the same for a while, and one old event alone is old.

use std::collections::BTreeMap;

use orderbell_consumers::Record;
use orderbell_protocol::event::{Flag, RowChange};
use orderbell_protocol::{Event, UnixMs};

use super::event_time::OTHER_CLOCK;
use super::mapping::{Decoded, Mapping, Remark};
use super::sha256;

/// Sources whose clock may be off that are remembered; usually a chain has a handful of sources, and those whose clock is right are not
/// remembered.
const MAX_SOURCES: usize = 32;
/// Longer names are cut: they are shown to operators. Characters.
const MAX_NAME_CHARS: usize = 80;
/// A smaller difference delays no notice: most are sent for hours.
const MIN_OFFSET_MS: i64 = 15 * 60 * 1000;
/// How much the difference varies: by a minute where times have no seconds, and by half of one as events wait to be published.
const SAME_OFFSET_MS: i64 = 90 * 1000;
/// The same, as a share of the time since the first of the events, and at least: of events that are published late the difference changes by as much as
/// time goes by, or more.
const SAME_OFFSET_SHARE: i64 = 4;
const SAME_OFFSET_MIN_MS: i64 = 5_000;
/// The difference stays the same in so many events, over so much time, before it is a clock's.
const MIN_EVENTS: u32 = 3;
const MIN_SPAN_MS: i64 = 15_000;
/// Its events are of so many orders in a row before they notify anybody: three events that are late by chance must not ring for old orders.
const MIN_ORDERS: u32 = 5;
/// Time zones differ by half hours, but for a few islands and Nepal, and by at most 14 hours from UTC.
const ZONE_STEP_MS: i64 = 30 * 60 * 1000;
const ZONE_MAX_MS: i64 = 14 * 60 * 60 * 1000;
/// How much the first difference may be beside that of a zone.
const ZONE_NEAR_MS: i64 = 60 * 1000;
/// A source that has not written for so long, or no event that was off as before, may have been repaired.
const FORGET_AFTER_MS: i64 = 3_600_000;
/// A source that has not written for so long, and whose clock is not known to be off, makes room for another one. Those of which events arrive are
/// learned: more sources than there is room for would replace each other in turn, and none would be.
const REPLACED_AFTER_MS: i64 = 60 * 1000;
/// A record's time that is further ahead than this is implausible, and says nothing about an event's.
const RECORD_AHEAD_MAX_MS: i64 = 15 * 60 * 1000;

/// The producers whose clocks may be off.
#[derive(Debug, Default)]
pub struct SourceClocks(BTreeMap<String, SourceClock>);

/// What is known of one producer's clock.
#[derive(Clone, Copy, Debug)]
struct SourceClock {
    newest: Run,
    /// The clock is off by this, until its events are right or always off by something else.
    off: Option<Run>,
}

/// Events of one source, one after another, whose time differs by the same amount from that of their records.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first, the smallest and the largest difference.
    offset_ms: i64,
    smallest_ms: i64,
    largest_ms: i64,
    events: u32,
    /// Orders in a row, and a hash of the last.
    orders: u32,
    last_order: u64,
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

impl Run {
    fn new(offset_ms: i64, order: u64, at: UnixMs) -> Self {
        let (smallest_ms, largest_ms) = (offset_ms, offset_ms);
        Self { offset_ms, smallest_ms, largest_ms, events: 1, orders: 1, last_order: order, from: at, to: at }
    }

    fn is_same(&self, offset_ms: i64) -> bool {
        self.largest_ms.max(offset_ms) - self.smallest_ms.min(offset_ms) <= SAME_OFFSET_MS
    }

    fn add(&mut self, offset_ms: i64, order: u64, at: UnixMs) {
        (self.smallest_ms, self.largest_ms) = (self.smallest_ms.min(offset_ms), self.largest_ms.max(offset_ms));
        self.events = self.events.saturating_add(1);
        self.continues(order, at);
    }

    fn continues(&mut self, order: u64, at: UnixMs) {
        self.orders = self.orders.saturating_add(u32::from(order != self.last_order));
        self.last_order = order;
        self.to = self.to.max(at);
    }

    /// True when its events notify.
    const fn is_proven(&self) -> bool {
        self.orders >= MIN_ORDERS
    }

    fn is_a_clock(&self) -> bool {
        let span_ms = self.to.0 - self.from.0;
        let varies_by_ms = self.largest_ms - self.smallest_ms;
        self.events >= MIN_EVENTS
            && span_ms >= MIN_SPAN_MS
            && varies_by_ms <= SAME_OFFSET_MIN_MS.max(span_ms / SAME_OFFSET_SHARE)
    }
}

impl SourceClocks {
    /// Takes in the time of an event that was read at `now`. Where its producer's clock is known to be off by as much, its notices age from the time of
    /// its record, and it gets the flag.
    pub fn judge(&mut self, mapping: &Mapping, record: &Record, decoded: &mut Decoded, now: UnixMs) {
        let event = &mut decoded.event;
        let recorded_at = UnixMs(record.timestamp_ms);
        let is_plausible = recorded_at.0 > 0 && recorded_at <= now.plus_ms(RECORD_AHEAD_MAX_MS);
        // What has long been so, or was rejected before, is late. The clocks of tills and phones are as they are, and their sources have customers' ids.
        let is_late = event.row.is_some_and(RowChange::is_old) || mapping.is_replayed(record);
        if is_late || !is_plausible || mapping.is_own(record) {
            return;
        }
        // An event that states no usable time has that of its record, which would pass for a clock that is right.
        if decoded.clock_offset_ms.is_none() && event.flags.contains(&Flag::Clock) {
            return;
        }
        let offset_ms = decoded.clock_offset_ms.unwrap_or(event.at.0.saturating_sub(recorded_at.0));
        let is_off = self.observe(&event.source, event.order.as_str(), offset_ms, recorded_at);
        if is_off && offset_ms < 0 && event.notify_at.is_none() {
            event.notify_at = Some(recorded_at);
            flag(event);
            decoded.clock_offset_ms = Some(offset_ms);
            decoded.remarks.push(Remark { field: mapping.of(record).time.clone(), why: OTHER_CLOCK });
        }
    }

    /// Takes in how far the time of an order's event is from that of its record. True where that is how far its source's clock is off for sure.
    fn observe(&mut self, source: &str, order: &str, offset_ms: i64, recorded_at: UnixMs) -> bool {
        let source = match source.char_indices().nth(MAX_NAME_CHARS) {
            Some((end, _)) => &source[..end],
            None => source,
        };
        if offset_ms.abs() < MIN_OFFSET_MS {
            self.0.remove(source);
            return false;
        }
        // Not before: almost every event's time is right.
        let order = sha256::hash_64(&[order.as_bytes()]);
        let new = Run::new(offset_ms, order, recorded_at);
        let Some(clock) = self.0.get_mut(source) else {
            if self.has_room(recorded_at) {
                self.0.insert(source.to_owned(), SourceClock { newest: new, off: None });
            }
            return false;
        };
        // Once it is proven, an old event in between changes nothing.
        if let Some(off) = clock.off.as_mut() {
            if off.is_same(offset_ms) {
                off.continues(order, recorded_at);
                return off.is_proven();
            }
            if !off.is_proven() {
                off.orders = 0;
            }
        }
        if clock.newest.is_same(offset_ms) {
            clock.newest.add(offset_ms, order, recorded_at);
        } else {
            clock.newest = new;
        }
        let is_off = clock.newest.is_a_clock();
        if is_off {
            clock.off = Some(clock.newest);
        }
        is_off && clock.newest.is_proven()
    }

    /// True when there is room for another source; at the bound the one makes room that is not known to be off and has been silent longest.
    fn has_room(&mut self, recorded_at: UnixMs) -> bool {
        if self.0.len() < MAX_SOURCES {
            return true;
        }
        let silent = self
            .0
            .iter()
            .filter(|(_, clock)| clock.off.is_none() && clock.newest.to.plus_ms(REPLACED_AFTER_MS) <= recorded_at);
        let Some((source, _)) = silent.min_by_key(|(_, clock)| clock.newest.to) else { return false };
        let source = source.clone();
        self.0.remove(&source).is_some()
    }

    /// The producers whose clocks are off.
    pub fn off(&mut self, now: UnixMs) -> Vec<ClockOff> {
        let is_recent = |run: &Run| run.to.plus_ms(FORGET_AFTER_MS) > now;
        for clock in self.0.values_mut() {
            clock.off = clock.off.filter(is_recent);
        }
        self.0.retain(|_, clock| clock.off.is_some() || is_recent(&clock.newest));
        let off = |(source, clock): (&String, &SourceClock)| {
            Some(ClockOff { source: source.clone(), offset_ms: clock.off?.offset_ms })
        };
        self.0.iter().filter_map(off).collect()
    }
}

fn flag(event: &mut Event) {
    if !event.flags.contains(&Flag::Clock) {
        event.flags.push(Flag::Clock);
    }
}

impl ClockOff {
    /// How far it is off, for operators.
    #[must_use]
    pub fn sentence(&self) -> String {
        let minutes = self.offset_ms.unsigned_abs().saturating_add(30_000) / 60_000;
        let direction = if self.offset_ms < 0 { "behind" } else { "ahead of" };
        format!(
            "the times of its events are {} h {} min {direction} those of their records, from which their notices age now{}",
            minutes / 60,
            minutes % 60,
            self.remedy()
        )
    }

    /// What to configure where the times are those of another zone: a local time is read as UTC, or in the wrong zone.
    fn remedy(&self) -> String {
        let steps = (self.offset_ms.abs() + ZONE_NEAR_MS) / ZONE_STEP_MS;
        let is_whole = (self.offset_ms.abs() - steps * ZONE_STEP_MS).abs() <= ZONE_NEAR_MS;
        if steps == 0 || !is_whole || self.offset_ms.abs() > ZONE_MAX_MS + ZONE_NEAR_MS {
            return String::new();
        }
        // The sign of these names is that of old Unix: the zone that is 8 hours ahead is GMT-8.
        let sign = if self.offset_ms < 0 { '+' } else { '-' };
        let zone = match steps % 2 {
            0 => format!("\"Etc/GMT{sign}{}\" or the zone's own name", steps / 2),
            _ => String::from("the name of the zone"),
        };
        format!(
            "; if they are local times, set time_zone in their [mapping]: {zone}. Numbers that Debezium makes of a DATETIME are local times: \
             set time_numbers = \"local\" as well. If both are set, they are not local: remove them"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::OrderPolicy;
    use crate::sample_run::{SampleResult, SampleRun};
    use orderbell_consumers::TopicPartition;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);
    const HOUR_MS: i64 = 3_600_000;
    const NONE: [i64; 0] = [];

    /// Events of one source: seconds after the first, and how far their time is off.
    fn off(events: &[(i64, i64)]) -> Vec<i64> {
        let mut clocks = SourceClocks::default();
        for (after_s, offset_ms) in events {
            clocks.observe("/pos", &after_s.to_string(), *offset_ms, NOW.plus_ms(after_s * 1000));
        }
        clocks.off(NOW.plus_ms(60_000)).into_iter().map(|off| off.offset_ms).collect()
    }

    fn record(offset: u64, at: UnixMs, value: String) -> Record {
        Record {
            partition: TopicPartition::new("orders", 0),
            offset,
            timestamp_ms: at.0,
            read_ms: at.0,
            key: None,
            value: Some(value.into()),
            headers: Vec::new().into(),
        }
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
        // An hour of events, published within a minute.
        let drained: Vec<(i64, i64)> = (0..60).map(|at| (at, -5 * HOUR_MS + at * 60_000)).collect();
        assert_eq!(off(&drained), NONE);
        // Three of one minute, published in the order of their times within a quarter of one, and three of one moment.
        assert_eq!(off(&[(0, -5 * HOUR_MS), (10, -5 * HOUR_MS + 10_000), (20, -5 * HOUR_MS + 20_000)]), NONE);
        assert_eq!(off(&[(0, -5 * HOUR_MS), (20, -5 * HOUR_MS - 20_000), (40, -5 * HOUR_MS - 40_000)]), NONE);
        // Times without seconds, over some minutes.
        let minutes = [
            (0, -5 * HOUR_MS),
            (70, -5 * HOUR_MS - 10_000),
            (130, -5 * HOUR_MS - 10_000),
            (250, -5 * HOUR_MS - 50_000),
        ];
        assert_eq!(off(&minutes), [-5 * HOUR_MS]);
    }

    /// Regression: times without seconds, of events that waited to be published, were too far apart for one clock.
    #[test]
    fn times_without_seconds_and_a_wait_before_they_are_published_are_of_one_clock() {
        let behind = -5 * HOUR_MS - 7 * 60_000;
        let minutes = [(0, behind), (70, behind - 10_000), (200, behind - 75_000), (420, behind - 30_000)];
        assert_eq!(off(&minutes), [behind]);
        let beyond = minutes.map(|(after_s, offset_ms)| (after_s, behind + (offset_ms - behind) * 2));
        assert_eq!(off(&beyond), NONE);
    }

    /// Regression: a clock counted as off as long as its source wrote anything.
    #[test]
    fn a_clock_is_forgotten_when_no_event_is_off_as_before() {
        let mut clocks = SourceClocks::default();
        let behind = -5 * HOUR_MS - 7 * 60_000;
        let mut at = |after_s: i64, offset_ms| {
            let at = NOW.plus_ms(after_s * 1000);
            clocks.observe("/pos", &after_s.to_string(), offset_ms, at);
            clocks.off(at).len()
        };
        assert_eq!(
            [(0, behind), (10, behind), (20, behind)].map(|(after_s, offset_ms)| at(after_s, offset_ms)),
            [0, 0, 1]
        );
        for n in 1..6 {
            assert_eq!(at(n * 600, -2 * HOUR_MS - n * 300_000), 1, "old events, after {n} times ten minutes");
        }
        assert_eq!((at(3_619, -9 * HOUR_MS), at(3_620, -7 * HOUR_MS)), (1, 0), "an hour after its last event");
    }

    /// Regression: sources of which one old event had come took all the room for an hour.
    #[test]
    fn a_source_that_is_silent_makes_room_for_one_that_writes() {
        let mut clocks = SourceClocks::default();
        let mut is_off = |source: &str, after_s: i64| {
            clocks.observe(source, &after_s.to_string(), -3 * HOUR_MS, NOW.plus_ms(after_s * 1000))
        };
        for n in 0..MAX_SOURCES as i64 {
            is_off(&format!("s{n}"), n.min(30));
        }
        assert!([5, 10, 15, 20].map(|after_s| is_off("s0", after_s))[3], "learned, it keeps its place");
        assert_eq!([40, 50, 60].map(|after_s| is_off("early", after_s)), [false; 3], "they may be about to be learned");
        assert_eq!([61, 66, 71, 76, 81].map(|after_s| is_off("late", after_s)), [false, false, false, false, true]);
        let known = clocks.off(NOW.plus_ms(81_000)).into_iter().map(|off| off.source).collect::<Vec<_>>();
        assert_eq!((known, clocks.0.len()), (vec!["late".into(), "s0".into()], MAX_SOURCES));
        assert!(!clocks.0.contains_key("s1"), "the one that was silent longest");
    }

    #[test]
    fn an_old_event_in_between_leaves_a_clock_as_it_is() {
        let mut clocks = SourceClocks::default();
        let behind = -5 * HOUR_MS - 7 * 60_000;
        let mut is_off = |after_s: i64, offset_ms| {
            clocks.observe("/pos", &after_s.to_string(), offset_ms, NOW.plus_ms(after_s * 1000))
        };
        let learned = [0, 5, 10, 15, 20].map(|after_s| is_off(after_s, behind));
        assert_eq!(learned, [false, false, false, false, true]);
        let between = [(21, -2 * HOUR_MS), (22, behind), (23, -9 * HOUR_MS), (24, behind)];
        assert_eq!(between.map(|(after_s, offset_ms)| is_off(after_s, offset_ms)), [false, true, false, true]);
        let anew = [30, 35, 40, 45, 50].map(|after_s| is_off(after_s, HOUR_MS));
        assert_eq!(anew, [false, false, false, false, true]);
        assert!(!is_off(60, behind), "set anew");
    }

    /// Regression: three old events that were late by the same amount by chance rang for the old orders that came later.
    #[test]
    fn events_that_are_late_by_chance_notify_nobody() {
        let mut clocks = SourceClocks::default();
        let behind = -5 * HOUR_MS - 7 * 60_000;
        let mut is_off = |order: u64, after_s: i64, offset_ms| {
            clocks.observe("/pos", &order.to_string(), offset_ms, NOW.plus_ms(after_s * 1000))
        };
        for at in (0..100).step_by(25) {
            assert_eq!([0, 10, 20].map(|after_s| is_off(7, at + after_s, behind)), [false; 3], "of one order");
        }
        for order in 10..50 {
            let at = 100 + order as i64 * 25;
            let of_three = [0, 5, 20].map(|after_s| is_off(order + after_s as u64, at + after_s, behind));
            assert_eq!(of_three, [false; 3], "of three orders");
            assert!(!is_off(order, at + 21, -3 * HOUR_MS), "one that is late by something else");
        }
    }

    /// Regression: an event without a time, or with a date alone, set the clock of its source right, and the next orders were too old.
    #[test]
    fn an_event_without_a_usable_time_leaves_a_clock_as_it_is() {
        let (mapping, mut clocks) = (Mapping::default(), SourceClocks::default());
        let mut is_off = |after_s: u64, time: &str| {
            let at = NOW.plus_ms(after_s as i64 * 1000);
            let value = format!(r#"{{"type":"order.paid","order":"o{after_s}","store":"1","time":{time}}}"#);
            let record = record(after_s, at, value);
            let mut decoded = mapping.explain(&record, at).unwrap();
            clocks.judge(&mapping, &record, &mut decoded, at);
            !clocks.off(at).is_empty()
        };
        let by = |after_s: u64, offset_ms: i64| (NOW.0 + after_s as i64 * 1000 + offset_ms).to_string();
        let behind = -5 * HOUR_MS - 7 * 60_000;
        assert_eq!([0, 10, 20].map(|after_s| is_off(after_s, &by(after_s, behind))), [false, false, true]);
        for (after_s, no_time) in [(21, "null"), (22, "\"2026-09-21\""), (23, "\"soon\""), (24, "1000000000")] {
            assert!(is_off(after_s, no_time), "{no_time}");
        }
        assert!(!is_off(30, &by(30, 0)), "one whose time is right ends it");
    }

    /// Regression: a clock that was off by no multiple of half an hour was an alert, and the orders of its source notified nobody.
    #[test]
    fn the_orders_of_a_clock_that_is_off_by_a_constant_notify_their_stores() {
        let policy = OrderPolicy { retention_ms: 72 * HOUR_MS, ..OrderPolicy::default() };
        let mapping = Mapping::default();
        // Of orders that come one after another: whether the store is notified, and the flag set.
        let times_of = |events: &[(i64, i64)]| {
            let mut sample = SampleRun::new(&mapping, &policy, NOW.plus_ms(24 * HOUR_MS));
            let one = |(n, (after_s, offset_ms)): (usize, &(i64, i64))| {
                let at = NOW.plus_ms(after_s * 1000);
                let value =
                    format!(r#"{{"type":"order.paid","order":"o{n}","store":"1","time":{}}}"#, at.0 + offset_ms);
                let record = record(n as u64, at, value);
                let SampleResult::Applied(applied) = sample.add(&record, Some(at)) else { panic!("{n}") };
                (!applied.done.notices.is_empty(), applied.decoded.event.flags.contains(&Flag::Clock))
            };
            events.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let (rings, old) = ((true, true), (false, false));
        for behind in [-5 * HOUR_MS - 7 * 60_000, -26 * HOUR_MS, -9 * 24 * HOUR_MS - 60_000] {
            let mut orders = times_of(&[
                (0, behind),
                (5, behind - 900),
                (10, behind),
                (15, behind + 900),
                (20, behind),
                (30, behind + 900),
                (31, -3 * HOUR_MS - 77_000),
            ]);
            let last = orders.split_off(4);
            assert_eq!((orders, last), (vec![old; 4], vec![rings, rings, old]), "{behind}");
        }
        let one_old = times_of(&[(0, -5), (10, -5 * HOUR_MS - 77_000), (20, -5)]);
        assert_eq!(one_old, [(true, false), old, (true, false)]);
        let drained: Vec<(i64, i64)> = (0..40).map(|n| (n, -5 * HOUR_MS - 77_000 + n * 30_000)).collect();
        assert!(times_of(&drained).iter().all(|order| *order == old), "published late, after an outage");
    }

    #[test]
    fn sources_are_remembered_up_to_a_limit_and_forgotten_when_they_are_silent() {
        let mut clocks = SourceClocks::default();
        for (at, n) in [0, 10_000, 20_000].into_iter().flat_map(|at| (0..40).map(move |n| (at, n))) {
            clocks.observe(&format!("s{n}"), &n.to_string(), HOUR_MS, NOW.plus_ms(at));
        }
        clocks.observe(&"x".repeat(1_000), "1", -60, NOW);
        assert_eq!(clocks.off(NOW).len(), MAX_SOURCES);
        assert_eq!(clocks.off(NOW.plus_ms(20_000 + FORGET_AFTER_MS)).len(), 0);
    }

    #[test]
    fn the_offset_is_written_in_hours_and_minutes() {
        let sentence = |offset_ms: i64| ClockOff { source: "/pos".into(), offset_ms }.sentence();
        let is = |off_ms: i64, expected: &str| {
            let sentence = sentence(off_ms);
            assert!(
                sentence.starts_with(&format!("the times of its events are {expected} those of their records")),
                "{sentence}"
            );
        };
        is(-5 * HOUR_MS - 4_000, "5 h 0 min behind");
        is(90 * 60_000, "1 h 30 min ahead of");
    }

    /// Regression: Debezium's numbers of a `DATETIME` are hours ahead, and the alert spoke of a clock.
    #[test]
    fn the_alert_on_a_clock_of_another_zone_has_the_line_that_mends_it() {
        let zone_of = |offset_ms: i64| {
            let sentence = ClockOff { source: "orders".into(), offset_ms }.sentence();
            let (_, zone) = sentence.split_once("set time_zone in their [mapping]: ")?;
            assert!(sentence.contains("time_numbers = \"local\""), "{sentence}");
            Some(zone.split_once('.')?.0.to_owned())
        };
        let own_name = |name: &str| Some(format!("\"{name}\" or the zone's own name"));
        assert_eq!(zone_of(8 * HOUR_MS - 2_000), own_name("Etc/GMT-8"));
        assert_eq!(zone_of(-5 * HOUR_MS - 4_000), own_name("Etc/GMT+5"));
        assert_eq!(zone_of(330 * 60_000 - 900), Some("the name of the zone".into()));
        for a_clock in [20 * 60_000, 5 * HOUR_MS + 20 * 60_000, -20 * HOUR_MS] {
            assert_eq!(zone_of(a_clock), None, "{a_clock}");
        }
        let named: crate::event_time::Zone = String::from("Etc/GMT-8").try_into().unwrap();
        let at = jiff::Timestamp::from_millisecond(NOW.0).unwrap();
        assert_eq!(named.time_zone().to_offset(at).seconds(), 8 * 3600);
    }
}
