//! Reads the time of an event in any of the forms that producers write.
//!
//! A missing or implausible time is replaced by the record's time stamp, or by the current time, and the event is flagged: an order from a
//! producer with a broken clock is still announced.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use orderbell_protocol::UnixMs;
use orderbell_protocol::event::Flag;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A time further in the future than this comes from a broken clock, not from clock skew.
const AHEAD_MAX_MS: i64 = 24 * 3600 * 1000;
/// 2010-01-01: an earlier time cannot be that of an order.
const EARLIEST_MS: i64 = 1_262_304_000_000;
/// Numbers below this are seconds, others milliseconds. Read as seconds, it is the year 5138.
const SECONDS_BELOW: i64 = 100_000_000_000;

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
        TimeZone::get(&name)
            .map(Self)
            .map_err(|_| format!("unknown time zone {name}: an IANA name such as Asia/Shanghai is expected"))
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0.iana_name().unwrap_or("UTC").to_owned()
    }
}

fn is_plausible(at_ms: i64, now: UnixMs) -> bool {
    (EARLIEST_MS..=now.0.saturating_add(AHEAD_MAX_MS)).contains(&at_ms)
}

/// The time of an event. Adds [`Flag::Clock`] when the producer's own time is missing or implausible.
pub(crate) fn resolve(value: Option<&Value>, zone: &Zone, log_ms: i64, now: UnixMs, flags: &mut Vec<Flag>) -> UnixMs {
    if let Some(at_ms) = value.and_then(|value| read(value, zone)).filter(|at_ms| is_plausible(*at_ms, now)) {
        return UnixMs(at_ms);
    }
    flags.push(Flag::Clock);
    if is_plausible(log_ms, now) { UnixMs(log_ms) } else { now }
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
            // When clocks change, a local time exists twice or never: jiff's default takes the earlier or the later reading.
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

    fn resolved(value: Value, zone: &str) -> (i64, bool) {
        let mut flags = Vec::new();
        let at = resolve(Some(&value), &Zone::try_from(zone.to_owned()).unwrap(), 0, NOW, &mut flags);
        (at.0, !flags.is_empty())
    }

    #[test]
    fn every_accepted_form_of_a_time_is_read() {
        assert_eq!(resolved(json!("2026-09-21T10:00:00Z"), "UTC"), (1_789_984_800_000, false));
        assert_eq!(resolved(json!("2026-09-21T18:00:00+08:00"), "UTC"), (1_789_984_800_000, false));
        assert_eq!(resolved(json!("2026-09-21 18:00:00"), "Asia/Shanghai"), (1_789_984_800_000, false));
        assert_eq!(resolved(json!(1_789_984_800), "UTC"), (1_789_984_800_000, false));
        assert_eq!(resolved(json!(1_789_984_800_000_i64), "UTC"), (1_789_984_800_000, false));
    }

    #[test]
    fn an_implausible_time_is_flagged_and_replaced() {
        for value in
            [json!("yesterday"), json!(0), json!("1970-01-01T00:00:00Z"), json!("2099-01-01T00:00:00Z"), json!({})]
        {
            assert_eq!(resolved(value, "UTC"), (NOW.0, true));
        }
        let mut flags = Vec::new();
        assert_eq!(resolve(None, &Zone::default(), NOW.0 - 5, NOW, &mut flags), UnixMs(NOW.0 - 5));
        assert_eq!(flags, [Flag::Clock]);
    }
}
