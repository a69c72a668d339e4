//! Reads the time of an event in any of the forms that producers write.
//!
//! A missing or implausible time is replaced by the record's time stamp, or by the current time, and the event is flagged: an order from a
//! producer with a broken clock is still announced.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime};
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use orderbell_protocol::{UnixMs, id_text};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::fields::scalar;

/// A time further in the future than this comes from a clock that is off: no order is paid later than it is read.
const AHEAD_MAX_MS: i64 = 15 * 60 * 1000;
/// 2010-01-01: an earlier time cannot be that of an order.
const EARLIEST_MS: i64 = 1_262_304_000_000;
/// Time zones differ by half hours, but for a few islands and Nepal, and by at most 14 hours from UTC.
const ZONE_STEP_MS: i64 = 30 * 60 * 1000;
const ZONE_MIN_MS: i64 = 60 * 60 * 1000;
const ZONE_MAX_MS: i64 = 14 * 60 * 60 * 1000;
/// How long an event takes to its record, and how far a clock that is set by the network is ahead. Of events that are published hours late, one
/// in 150 is taken for one of another zone.
const PUBLISH_MAX_MS: i64 = 10_000;
const CLOCK_AHEAD_MS: i64 = 2_000;
/// Whole numbers below these are seconds, milliseconds, microseconds; the others are nanoseconds. Each unit reaches beyond the year 5000.
const SECONDS_BELOW: u128 = 100_000_000_000;
const MILLISECONDS_BELOW: u128 = 100_000_000_000_000;
const MICROSECONDS_BELOW: u128 = 100_000_000_000_000_000;
/// Objects in objects, such as `{"$date": {"$numberLong": "..."}}`.
const MAX_NESTING: u32 = 2;

/// Why there is no usable time.
pub(crate) type NoTime = &'static str;

const DATE_ONLY: NoTime = "the time is a date without a time of day";
const OTHER_ZONE: NoTime = "the time is whole half hours behind its record: its clock is in another zone, and its notices age from the record's time";
pub(crate) const OTHER_CLOCK: NoTime = "the times of this source are always as far behind their records: its clock is off, and its notices age from the record's time";
const NOT_UNDERSTOOD: NoTime = "the time is in no form that is understood";

/// A time zone, configured by its IANA name.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone's rules, as jiff has them.
    #[must_use]
    pub fn time_zone(&self) -> &TimeZone {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl TryFrom<String> for Zone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        TimeZone::get(&name).map(Self).map_err(|_| {
            // Read anew: the database that was asked has forgotten what it could not read.
            let database = jiff::tz::TimeZoneDatabase::from_env();
            let known: Vec<String> = database.available().map(|known| known.as_str().to_owned()).collect();
            unknown_zone(&name, &known)
        })
    }
}

/// Why there is no zone of this name, where the machine has data of the zones `known`. Minimal images have none at all: then no name is known.
fn unknown_zone(name: &str, known: &[String]) -> String {
    if known.is_empty() {
        format!("the time zone {name} is not known, because this machine has no time zone data: install tzdata")
    } else if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        format!("this machine's data of the time zone {name} cannot be read: install tzdata again")
    } else {
        format!("unknown time zone {name}: an IANA name such as Asia/Shanghai is expected")
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0.iana_name().unwrap_or("UTC").to_owned()
    }
}

/// The time of an event, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventTime {
    /// The producer's time, or else that of the record.
    pub(crate) at: UnixMs,
    /// The time of the record, where that of the producer is of another zone: from then its notices age. Its order and the counters keep to the
    /// producer's time, for an event that was only published late must not change places with those before and after it.
    pub(crate) notify_at: Option<UnixMs>,
    /// Why the producer's own time is not used, or not for notices.
    pub(crate) why: Option<NoTime>,
    /// How far the producer's clock is off, where that is why: positive is ahead. Milliseconds.
    pub(crate) clock_offset_ms: Option<i64>,
}

/// How the time of an event is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeRules<'a> {
    /// The zone of local times.
    pub(crate) zone: &'a Zone,
    /// A number is what a clock on the wall shows in that zone, as if it were UTC: so Debezium writes what a column without a zone holds.
    pub(crate) has_local_numbers: bool,
    /// The record was written long after its event: it is replayed, or has the row of a snapshot. Its time says nothing about the producer's clock.
    pub(crate) is_late: bool,
}

/// The time of an event, from its JSON. An unusable one is replaced by the record's time stamp or, without a plausible one, by the current time.
///
/// Clocks are judged by the record's time, not by when it is read: reading it again, to rebuild or to reconcile, gives the same. A record that
/// was read late is as old as its event.
pub(crate) fn resolve(json: Option<&str>, rules: TimeRules<'_>, log_ms: i64, now: UnixMs) -> EventTime {
    let is_plausible = (EARLIEST_MS..=now.0.saturating_add(AHEAD_MAX_MS)).contains(&log_ms);
    let recorded_ms = if is_plausible { log_ms } else { now.0 };
    let unusable =
        |why, clock_offset_ms| EventTime { at: UnixMs(recorded_ms), notify_at: None, why: Some(why), clock_offset_ms };
    let own = match json.ok_or("the event has no time").and_then(|json| read_by(json, rules)) {
        Ok(own) if own < EARLIEST_MS => return unusable("the time is before 2010", None),
        Ok(own) => own,
        Err(why) => return unusable(why, None),
    };
    let offset_ms = own.saturating_sub(recorded_ms);
    if offset_ms > AHEAD_MAX_MS {
        return unusable("the time is ahead of its record: that clock is off", Some(offset_ms));
    }
    let is_of_another_zone = is_plausible && !rules.is_late && is_of_another_zone(offset_ms);
    EventTime {
        at: UnixMs(own),
        notify_at: is_of_another_zone.then_some(UnixMs(recorded_ms)),
        why: is_of_another_zone.then_some(OTHER_ZONE),
        clock_offset_ms: is_of_another_zone.then_some(offset_ms),
    }
}

/// True when a clock that is right in another time zone would be off by this much. Events that are published late are off by any time, and
/// hardly ever by a whole number of half hours.
fn is_of_another_zone(offset_ms: i64) -> bool {
    let behind_ms = -offset_ms;
    let to_publish_ms = (behind_ms + CLOCK_AHEAD_MS).rem_euclid(ZONE_STEP_MS) - CLOCK_AHEAD_MS;
    (ZONE_MIN_MS - CLOCK_AHEAD_MS..=ZONE_MAX_MS + PUBLISH_MAX_MS).contains(&behind_ms)
        && to_publish_ms <= PUBLISH_MAX_MS
}

/// The time that a producer stated, in milliseconds since 1970, whatever its record says. `has_local_numbers` is as in [`TimeRules`].
pub(crate) fn stated(json: &str, zone: &Zone, has_local_numbers: bool) -> Result<i64, NoTime> {
    read_by(json, TimeRules { zone, has_local_numbers, is_late: false })
}

/// True for a local time, which is another moment in another zone.
pub(crate) fn is_local(json: &str, has_local_numbers: bool) -> bool {
    let in_zone = |hours| stated(json, &Zone(TimeZone::fixed(jiff::tz::offset(hours))), has_local_numbers);
    matches!((in_zone(0), in_zone(1)), (Ok(one), Ok(other)) if one != other)
}

fn read_by(json: &str, rules: TimeRules<'_>) -> Result<i64, NoTime> {
    let at_ms = read(json, rules.zone, 0)?;
    let is_number = json.starts_with(|c: char| c.is_ascii_digit()) && read_digits(json, rules.zone).is_none();
    if !rules.has_local_numbers || !is_number {
        return Ok(at_ms);
    }
    let local = Timestamp::from_millisecond(at_ms).map(|at| TimeZone::UTC.to_datetime(at));
    local.ok().and_then(|local| in_zone(local, rules.zone)).ok_or(NOT_UNDERSTOOD)
}

fn read(json: &str, zone: &Zone, nesting: u32) -> Result<i64, NoTime> {
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(json).map_err(|_| NOT_UNDERSTOOD)?;
            read_text(id_text::trim(&text), zone)
        }
        Some(b'[') => read_array(json, zone),
        Some(b'{') if nesting < MAX_NESTING => read_object(json, zone, nesting + 1),
        _ => read_number(json, zone).ok_or(NOT_UNDERSTOOD),
    }
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970, with or without a fraction; or the fourteen digits of a local time.
fn read_number(text: &str, zone: &Zone) -> Option<i64> {
    if let Some(at_ms) = read_digits(text, zone) {
        return Some(at_ms);
    }
    let number = Decimal::parse(text)?;
    let shift = match number.truncated(0)?.unsigned_abs() {
        whole if whole < SECONDS_BELOW => 3,
        whole if whole < MILLISECONDS_BELOW => 0,
        whole if whole < MICROSECONDS_BELOW => -3,
        _ => -6,
    };
    number.truncated(shift)?.try_into().ok()
}

/// `20260921180000`, and with three more digits for milliseconds: as a number of seconds or milliseconds it would be in the year 2600.
fn read_digits(text: &str, zone: &Zone) -> Option<i64> {
    if !matches!(text.len(), 14 | 17) || !text.starts_with("20") || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<i16>().ok();
    let small = |range| part(range).and_then(|number| i8::try_from(number).ok());
    let ms = if text.len() == 17 { i32::from(part(14..17)?) } else { 0 };
    let local = DateTime::new(
        part(0..4)?,
        small(4..6)?,
        small(6..8)?,
        small(8..10)?,
        small(10..12)?,
        small(12..14)?,
        ms * 1_000_000,
    );
    in_zone(local.ok()?, zone)
}

fn read_text(text: &str, zone: &Zone) -> Result<i64, NoTime> {
    if text.is_empty() {
        return Err("the time is empty");
    }
    // `/Date(1789984800000)/`, of .NET; an offset behind the number says nothing about the moment.
    let text = text.strip_prefix("/Date(").map_or(text, |rest| {
        let end =
            rest.char_indices().skip(1).find(|(_, c)| matches!(c, ')' | '+' | '-')).map_or(rest.len(), |(at, _)| at);
        rest.get(..end).unwrap_or(rest)
    });
    if let Some(at_ms) = read_number(text, zone) {
        return Ok(at_ms);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    if let Ok(at) = text.parse::<Zoned>() {
        return Ok(at.timestamp().as_millisecond());
    }
    if let Ok(at) = rfc2822::DateTimeParser::new().parse_timestamp(text) {
        return Ok(at.as_millisecond());
    }
    // 2026/09/21 is how China and Japan write dates. A slash in brackets is that of a zone, which was not known.
    let text = if text.contains('[') { text.to_owned() } else { text.replace('/', "-") };
    if !text.contains(['T', 't', ' ']) && text.parse::<Date>().is_ok() {
        return Err(DATE_ONLY);
    }
    let local = Some(text).filter(|text| !text.contains('[')).and_then(|text| text.parse().ok());
    local.and_then(|local| in_zone(local, zone)).ok_or(NOT_UNDERSTOOD)
}

/// When clocks change, a local time exists twice or never: jiff's default takes the earlier or the later reading.
fn in_zone(local: DateTime, zone: &Zone) -> Option<i64> {
    Some(zone.0.to_zoned(local).ok()?.timestamp().as_millisecond())
}

/// `[2026, 9, 21, 18, 0, 0, 123000000]`: a local time as Java writes it.
fn read_array(json: &str, zone: &Zone) -> Result<i64, NoTime> {
    let parts: Vec<i32> = serde_json::from_str(json).map_err(|_| NOT_UNDERSTOOD)?;
    if parts.len() == 3 {
        return Err(DATE_ONLY);
    }
    if !(5..=7).contains(&parts.len()) {
        return Err(NOT_UNDERSTOOD);
    }
    let at = |index: usize| parts.get(index).copied().unwrap_or_default();
    let small = |index| i8::try_from(at(index)).ok();
    let local = || {
        let year = i16::try_from(at(0)).ok()?;
        DateTime::new(year, small(1)?, small(2)?, small(3)?, small(4)?, small(5)?, at(6)).ok()
    };
    local().and_then(|local| in_zone(local, zone)).ok_or(NOT_UNDERSTOOD)
}

/// MongoDB's `{"$date": ...}` and `{"$numberLong": "..."}`, and `{"seconds": ..., "nanos": ...}` of Protobuf and Firestore.
fn read_object(json: &str, zone: &Zone, nesting: u32) -> Result<i64, NoTime> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|_| NOT_UNDERSTOOD)?;
    let named = |names: [&str; 2]| names.into_iter().find_map(|name| members.get(name)).map(|json| json.get());
    if let Some(inner) = named(["$date", "$numberLong"]) {
        return read(inner, zone, nesting);
    }
    let seconds = named(["seconds", "_seconds"]).ok_or(NOT_UNDERSTOOD)?;
    let seconds = scalar(seconds).and_then(|text| Decimal::parse(&text)?.truncated(3)).ok_or(NOT_UNDERSTOOD)?;
    let nanos = named(["nanos", "_nanoseconds"]).and_then(scalar).and_then(|text| Decimal::parse(&text)?.truncated(-6));
    let ms = seconds.checked_add(nanos.unwrap_or_default()).ok_or(NOT_UNDERSTOOD)?;
    i64::try_from(ms).map_err(|_| NOT_UNDERSTOOD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);
    const AT: i64 = 1_789_984_800_000;

    fn zone(name: &str) -> Zone {
        Zone::try_from(name.to_owned()).unwrap()
    }

    fn rules(zone: &Zone) -> TimeRules<'_> {
        TimeRules { zone, has_local_numbers: false, is_late: false }
    }

    fn resolved(json: &str, name: &str) -> (i64, Option<NoTime>) {
        let time = resolve(Some(json), rules(&zone(name)), 0, NOW);
        (time.at.0, time.why)
    }

    #[test]
    fn every_common_form_of_a_time_is_read() {
        let forms = [
            "\"2026-09-21T10:00:00Z\"",
            "\" 2026-09-21T10:00:00Z \"",
            "\"2026-09-21T18:00:00+08:00\"",
            "\"2026-09-21T18:00:00+0800\"",
            "\"2026-09-21T18:00:00+08:00[Asia/Shanghai]\"",
            "\"2026-09-21T18:00:00[Asia/Shanghai]\"",
            "\"2026-09-21T10:00:00,000Z\"",
            "\"Mon, 21 Sep 2026 10:00:00 GMT\"",
            "\"/Date(1789984800000+0800)/\"",
            "\"/Date(1789984800000-0500)/\"",
            "1789984800",
            "1789984800.0",
            "1789984800.000000001",
            "1.7899848E9",
            "1.7899848E12",
            "1789984800000",
            "1789984800000000",
            "1789984800000000000",
            "\"1789984800\"",
            "\"1789984800000\"",
            "\"1789984800000000000\"",
            "{\"$date\":\"2026-09-21T10:00:00Z\"}",
            "{\"$date\":1789984800000}",
            "{\"$date\":{\"$numberLong\":\"1789984800000\"}}",
            "{\"seconds\":1789984800,\"nanos\":0}",
            "{\"_seconds\":\"1789984800\"}",
        ];
        forms.iter().for_each(|json| assert_eq!(resolved(json, "UTC"), (AT, None), "{json}"));
        assert_eq!(resolved("1789984800.123", "UTC").0, AT + 123);
        assert_eq!(resolved("{\"seconds\":1789984800,\"nanos\":123000000}", "UTC").0, AT + 123);
    }

    #[test]
    fn a_local_time_is_read_in_its_zone() {
        let forms = [
            "\"2026-09-21 18:00:00\"",
            "\"2026-09-21T18:00\"",
            "\"2026/09/21 18:00:00\"",
            "[2026,9,21,18,0]",
            "[2026,9,21,18,0,0]",
            "[2026,9,21,18,0,0,0]",
            "\"20260921180000\"",
            "20260921180000",
            "\"20260921180000000\"",
        ];
        forms.iter().for_each(|json| assert_eq!(resolved(json, "Asia/Shanghai"), (AT, None), "{json}"));
        assert_eq!(resolved("[2026,9,21,18,0,0,123000000]", "Asia/Shanghai").0, AT + 123);
    }

    #[test]
    fn a_date_is_no_usable_time() {
        for json in ["\"2026-09-21\"", "\"2026/09/21\"", "[2026,9,21]"] {
            assert_eq!(resolved(json, "UTC"), (NOW.0, Some(DATE_ONLY)), "{json}");
        }
    }

    #[test]
    fn an_implausible_time_is_replaced_and_the_reason_said() {
        for json in ["\"yesterday\"", "{}", "[]", "[2026,13,1,0,0]", "true", "\"1e99\"", "\"20269921180000\""] {
            let (at, reason) = resolved(json, "UTC");
            assert!(at == NOW.0 && reason.is_some(), "{json}");
        }
        assert_eq!(resolved("0", "UTC").1, Some("the time is before 2010"));
        let beyond = [
            "\"-170141183460469231731687303715884105728\"",
            r#"{"seconds":"170000000000000000000000000000000000","nanos":"170141183460469231731687303715884105727e6"}"#,
        ];
        beyond.iter().for_each(|json| assert!(resolved(json, "UTC").1.is_some(), "no overflow: {json}"));
        assert_eq!(resolved("\"1970-01-01T00:00:00Z\"", "UTC").1, Some("the time is before 2010"));
        let ahead = (NOW.0, Some("the time is ahead of its record: that clock is off"));
        assert_eq!(resolved(&(NOW.0 + 8 * 3_600_000).to_string(), "UTC"), ahead);
        assert_eq!(resolved(&(NOW.0 + 60_000).to_string(), "UTC"), (NOW.0 + 60_000, None), "clocks differ a little");
        let missing = resolve(None, rules(&Zone::default()), NOW.0 - 5, NOW);
        assert_eq!((missing.at, missing.why), (UnixMs(NOW.0 - 5), Some("the event has no time")));
    }

    /// Regression: on a machine without zone data, every right name was called unknown.
    #[test]
    fn a_machine_without_zone_data_is_named() {
        let error = Zone::try_from(String::from("Asia/Schanghai")).unwrap_err();
        assert_eq!(error, unknown_zone("Asia/Schanghai", &["Asia/Shanghai".into()]));
        assert!(unknown_zone("Asia/Shanghai", &[]).ends_with("install tzdata"));
        let damaged = unknown_zone("asia/shanghai", &["Asia/Shanghai".into()]);
        assert!(damaged.ends_with("cannot be read: install tzdata again"), "{damaged}");
    }

    /// Regression: a whole chain whose clock was five hours behind notified nobody, and nothing was red. One that was ahead was judged by when
    /// the record was read, so a rebuild counted other hours.
    #[test]
    fn a_clock_that_is_off_is_judged_by_the_time_of_the_record() {
        const MINUTE_MS: i64 = 60_000;
        const HOUR_MS: i64 = 60 * MINUTE_MS;
        let utc = Zone::default();
        let offset = |off_ms: i64, read_after_ms: i64, is_late: bool| {
            let (own, recorded) = ((NOW.0 + off_ms).to_string(), NOW.0);
            let rules = TimeRules { is_late, ..rules(&utc) };
            let time = resolve(Some(&own), rules, recorded, UnixMs(recorded + read_after_ms));
            let is_ahead = off_ms > AHEAD_MAX_MS;
            assert_eq!(time.at.0, if is_ahead { recorded } else { recorded + off_ms }, "{off_ms}");
            assert_eq!(time.notify_at, time.why.filter(|_| !is_ahead).map(|_| UnixMs(recorded)), "{off_ms}");
            time.clock_offset_ms
        };
        for read_after_ms in [0, 20 * MINUTE_MS, 9 * HOUR_MS] {
            let offset = |off_ms| offset(off_ms, read_after_ms, false);
            for another_zone in [
                -5 * HOUR_MS,
                -5 * HOUR_MS - 7_000,
                -330 * MINUTE_MS + 900,
                -HOUR_MS,
                -14 * HOUR_MS,
                8 * HOUR_MS,
                16 * MINUTE_MS,
            ] {
                assert_eq!(offset(another_zone), Some(another_zone));
            }
            for late in [
                -5 * HOUR_MS - 17 * MINUTE_MS,
                -5 * HOUR_MS - 20_000,
                -15 * HOUR_MS,
                -30 * MINUTE_MS,
                -4_000,
                14 * MINUTE_MS,
            ] {
                assert_eq!(offset(late), None, "{late}");
            }
        }
        assert_eq!(offset(-5 * HOUR_MS, 0, true), None, "a dead letter that is replayed comes late");
        let unknown = resolve(Some(&(NOW.0 - 5 * HOUR_MS).to_string()), rules(&utc), -1, NOW);
        assert_eq!((unknown.at.0, unknown.why), (NOW.0 - 5 * HOUR_MS, None), "nothing to judge it by");
    }

    #[test]
    fn a_number_of_a_wall_clock_is_read_in_its_zone() {
        let shanghai = zone("Asia/Shanghai");
        let at = |json: &str, rules| resolve(Some(json), rules, 0, NOW).at.0;
        let local = TimeRules { has_local_numbers: true, ..rules(&shanghai) };
        for wall in ["1790013600000", "1790013600000000", "1790013600000000000"] {
            assert_eq!(at(wall, local), AT, "{wall}");
        }
        let others = ["\"2026-09-21T10:00:00Z\"", "20260921180000", "{\"$date\":1789984800000}", "\"1789984800000\""];
        others.iter().for_each(|json| assert_eq!(at(json, local), AT, "{json} is no such number"));
        assert_eq!(at("1789984800000", rules(&shanghai)), AT);
    }

    proptest! {
        #[test]
        fn a_moment_is_the_same_in_every_unit(at_ms in EARLIEST_MS..NOW.0) {
            let (seconds, ms) = (at_ms / 1000, at_ms % 1000);
            let timestamp = Timestamp::from_millisecond(at_ms).unwrap();
            let forms = [
                format!("{seconds}.{ms:03}"), format!("{at_ms}"), format!("{at_ms}000"), format!("{at_ms}000000"),
                format!("\"{at_ms}\""), format!("\"{timestamp}\""), format!("{{\"$date\":\"{timestamp}\"}}"),
            ];
            for json in forms {
                prop_assert_eq!(resolved(&json, "UTC"), (at_ms, None), "{}", json);
            }
        }

        #[test]
        fn no_text_is_read_as_a_time_that_is_implausible(json in ".{0,40}") {
            let (at, _) = resolved(&serde_json::to_string(&json).unwrap(), "Asia/Shanghai");
            prop_assert!((EARLIEST_MS..=NOW.0 + AHEAD_MAX_MS).contains(&at));
        }
    }
}
