//! Durations and sizes as people write them: `"30s"`, `"72h"`, `"512MiB"`.
//!
//! A whole number and a unit, so that the key needs no unit in its name and a value without one is a mistake. Refused: fractions, sums such
//! as `"1h30m"` and decimal sizes such as `"MB"`, because each adds a second way to write the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest duration that is accepted, a hundred years: every sum of it with a time stamp in milliseconds fits an `i64`.
const MAX_MS: u64 = 36_500 * 86_400_000;

/// Units of a duration, the largest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of a size, the largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const DURATION_FORM: &str = "a duration such as \"30s\": a whole number with ms, s, m, h or d";
const SIZE_FORM: &str = "a size such as \"512MiB\": a whole number with B, KiB, MiB, GiB or TiB";

/// A whole number and one of `units`; nothing for anything else.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(known, _)| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A length of time in the configuration or on the command line: milliseconds, at most a hundred years.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(u64);

impl HumanDuration {
    /// Nothing at all.
    pub const ZERO: Self = Self(0);

    /// So many seconds; a hundred years at most.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        let ms = seconds.saturating_mul(1_000);
        Self(if ms > MAX_MS { MAX_MS } else { ms })
    }

    /// So many hours; a hundred years at most.
    #[must_use]
    pub const fn from_hours(hours: u64) -> Self {
        Self::from_secs(hours.saturating_mul(3_600))
    }

    /// For timers.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// For arithmetic with time stamps.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        // At most MAX_MS, which an i64 holds a million times.
        self.0.cast_signed()
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse(text, &DURATION_UNITS) {
            Some(ms @ ..=MAX_MS) => Ok(Self(ms)),
            Some(_) => Err(format!("{text:?} is longer than a hundred years")),
            None => Err(format!("{text:?} is not {DURATION_FORM}")),
        }
    }
}

impl fmt::Display for HumanDuration {
    /// In the largest unit up to hours that divides it: `72h` says the same as `3d`, and compares better with `24h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units = DURATION_UNITS[1..].iter();
        match units.find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => f.write_str("0s"),
        }
    }
}

/// A number of bytes in the configuration.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// However it was written: `1KiB` is 1,024.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &SIZE_UNITS).map(Self).ok_or_else(|| format!("{text:?} is not {SIZE_FORM}"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => f.write_str("0B"),
        }
    }
}

/// Reads a string and says what it should have been; a number without a unit gets the same sentence.
struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// What both types share: Debug, serde and JSON Schema over their text form.
macro_rules! as_text {
    ($name:ident, $form:expr, $pattern:literal) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($form, std::marker::PhantomData))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $form })
            }
        }
    };
}

as_text!(HumanDuration, DURATION_FORM, "^[0-9]+(ms|s|m|h|d)$");
as_text!(ByteSize, SIZE_FORM, "^[0-9]+(B|KiB|MiB|GiB|TiB)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_and_prints_the_same() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("90m", 5_400_000), ("72h", 259_200_000), ("0s", 0)] {
            let read: HumanDuration = text.parse().unwrap();
            assert_eq!(
                (read.as_ms(), read.get(), read.to_string().as_str()),
                (ms, Duration::from_millis(ms as u64), text)
            );
        }
        assert_eq!("3d".parse(), Ok(HumanDuration::from_hours(72)));
        for wrong in ["", "30", "s", "1.5h", "-1s", "1h30m", "30 s", "30S", "5w", "99999999999999999999s"] {
            let error = wrong.parse::<HumanDuration>().unwrap_err();
            assert!(error.contains("whole number with ms, s, m, h or d"), "{wrong}: {error}");
        }
        assert!("40000d".parse::<HumanDuration>().unwrap_err().contains("hundred years"));
    }

    #[test]
    fn a_size_reads_and_prints_the_same() {
        for (text, bytes) in [("512MiB", 512 << 20), ("3KiB", 3072), ("2TiB", 2 << 40), ("1000B", 1000), ("0B", 0)] {
            let read: ByteSize = text.parse().unwrap();
            assert_eq!((read.bytes(), read.to_string().as_str()), (bytes, text));
        }
        for wrong in ["", "512", "512MB", "512 MiB", "1.5GiB", "20000000TiB"] {
            assert!(wrong.parse::<ByteSize>().unwrap_err().contains("KiB, MiB, GiB or TiB"), "{wrong}");
        }
    }
}
