//! Counts of the events that the configuration ignores, by the producer's name of their type.

use std::collections::BTreeMap;

/// Distinct types that are counted by name: each is a time series of its own.
const TYPES_MAX: usize = 64;
/// Longest name of a type, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest run of digits in a name: `/v2` or a status is a type, the number of an order or a phone is none.
const DIGITS_MAX: usize = 4;
/// What all other types are counted as.
const OTHER: &str = "other";

/// Ignored events by type. The names come from outside: what may be a person's or an order's is counted as `other`, and so is what comes after
/// the first 64 types.
#[derive(Debug, Default)]
pub struct IgnoredTypes {
    named: BTreeMap<String, u64>,
    other: u64,
}

impl IgnoredTypes {
    /// Counts one event of a type.
    pub fn count(&mut self, kind: &str) {
        if let Some(count) = self.named.get_mut(kind) {
            *count += 1;
        } else if is_name(kind) && self.named.len() < TYPES_MAX {
            self.named.insert(kind.to_owned(), 1);
        } else {
            self.other += 1;
        }
    }

    /// The counts, of all other types last.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = self.named.iter().map(|(kind, count)| (kind.as_str(), *count));
        named.chain((self.other > 0).then_some((OTHER, self.other)))
    }
}

/// True for what can only be the name of a type.
fn is_name(kind: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
    let digits = kind.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    let is_short = !kind.is_empty() && kind.len() <= NAME_BYTES_MAX && digits <= DIGITS_MAX;
    is_short && kind != OTHER && kind.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_counted_by_name_up_to_a_limit_and_the_rest_together() {
        let mut types = IgnoredTypes::default();
        for kind in ["payment.settled", "com.shop/v2:courier_moved", "3", "payment.settled"] {
            types.count(kind);
        }
        // A pointer to the wrong member, and a name without end.
        for kind in ["", "order-900123", "13800138000", "王小明", "Ann Lee", &"x".repeat(65), "other"] {
            types.count(kind);
        }
        let counts: Vec<_> = types.counts().collect();
        assert_eq!(counts, [("3", 1), ("com.shop/v2:courier_moved", 1), ("payment.settled", 2), ("other", 7)]);
        (0..1_000).for_each(|at| types.count(&format!("t{at}")));
        types.count("payment.settled");
        let counts: BTreeMap<_, _> = types.counts().collect();
        assert_eq!((counts.len(), counts["payment.settled"]), (TYPES_MAX + 1, 3));
        assert_eq!(counts["other"], 7 + 1_000 - (TYPES_MAX as u64 - 3));
    }
}
