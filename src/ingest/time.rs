//! When a fact happened, from whatever a producer wrote.
//!
//! A time that is missing or absurd is replaced by the log's time stamp, or by the time of arrival, and flagged: an order with a broken
//! clock is still an order.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use orderbell_protocol::UnixMs;
use orderbell_protocol::event::Flag;
use serde::Deserialize;
use serde_json::Value;

/// Further ahead than this is a broken clock, not skew.
const AHEAD_MAX_MS: i64 = 24 * 3600 * 1000;
/// 2010-01-01: no order is older.
const EARLIEST_MS: i64 = 1_262_304_000_000;
/// Numbers below this are seconds, above milliseconds (as seconds it is the year 5138).
const SECONDS_BELOW: i64 = 100_000_000_000;

/// A time zone by its IANA name.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Zone(TimeZone);

impl Zone {
    /// What jiff knows of it.
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
        TimeZone::get(&name).map(Self).map_err(|_| format!("no time zone is called {name}"))
    }
}

fn sane(at_ms: i64, now: UnixMs) -> bool {
    (EARLIEST_MS..=now.0.saturating_add(AHEAD_MAX_MS)).contains(&at_ms)
}

/// The time of a fact; flagged when the producer's was of no use.
pub(crate) fn fact_time(value: Option<&Value>, zone: &Zone, log_ms: i64, now: UnixMs, flags: &mut Vec<Flag>) -> UnixMs {
    if let Some(at_ms) = value.and_then(|value| read(value, zone)).filter(|at_ms| sane(*at_ms, now)) {
        return UnixMs(at_ms);
    }
    flags.push(Flag::Clock);
    if sane(log_ms, now) { UnixMs(log_ms) } else { now }
}

fn read(value: &Value, zone: &Zone) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let number = number.as_i64()?;
            if number.abs() < SECONDS_BELOW { number.checked_mul(1000) } else { Some(number) }
        }
        Value::String(text) => {
            if let Ok(at) = text.parse::<Timestamp>() {
                return Some(at.as_millisecond());
            }
            let local: DateTime = text.parse().ok()?;
            // A local time that exists twice (or never) when clocks change: the earlier (or later) reading, as jiff's default has it.
            Some(zone.0.to_zoned(local).ok()?.timestamp().as_millisecond())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn told(value: Value, zone: &str) -> (i64, bool) {
        let mut flags = Vec::new();
        let at = fact_time(Some(&value), &Zone::try_from(zone.to_owned()).unwrap(), 0, NOW, &mut flags);
        (at.0, !flags.is_empty())
    }

    #[test]
    fn producers_write_time_in_many_ways() {
        assert_eq!(told(json!("2026-09-21T10:00:00Z"), "UTC"), (1_789_984_800_000, false));
        assert_eq!(told(json!("2026-09-21T18:00:00+08:00"), "UTC"), (1_789_984_800_000, false));
        assert_eq!(told(json!("2026-09-21 18:00:00"), "Asia/Shanghai"), (1_789_984_800_000, false));
        assert_eq!(told(json!(1_789_984_800), "UTC"), (1_789_984_800_000, false));
        assert_eq!(told(json!(1_789_984_800_000_i64), "UTC"), (1_789_984_800_000, false));
    }

    #[test]
    fn an_absurd_time_is_flagged_and_replaced() {
        for value in
            [json!("yesterday"), json!(0), json!("1970-01-01T00:00:00Z"), json!("2099-01-01T00:00:00Z"), json!({})]
        {
            assert_eq!(told(value, "UTC"), (NOW.0, true));
        }
        let mut flags = Vec::new();
        assert_eq!(fact_time(None, &Zone::default(), NOW.0 - 5, NOW, &mut flags), UnixMs(NOW.0 - 5));
        assert_eq!(flags, [Flag::Clock]);
    }
}
