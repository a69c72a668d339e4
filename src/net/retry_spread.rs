//! When the clients that a server sends away come back, and when those leave whose tokens end together: spread over an interval, however many
//! they are.
//!
//! Each client is given the next number of a sequence whose numbers, one after another, fill the interval evenly (multiples of the golden
//! ratio). Refused: a seed from what a client is or knows. Viewers of one wall and polls that have read everything know the same, and came
//! back together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shortest wait: a server needs about this long to start again. Milliseconds.
const RESTART_MS: u64 = 1_000;
/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hands out the waits of one server.
#[derive(Debug, Default)]
pub(super) struct RetrySpread(AtomicU64);

impl RetrySpread {
    /// The next number of the sequence.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// When the next client should come back, within `spread` after the restart. Milliseconds.
    pub(super) fn next_ms(&self, spread: Duration) -> u32 {
        let nth = self.next();
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        u32::try_from(RESTART_MS.saturating_add(part_of(nth, spread))).unwrap_or(u32::MAX)
    }
}

/// The place of the nth of many in an interval of `length`: any consecutive ones are spread evenly over it.
pub(super) fn part_of(nth: u64, length: u64) -> u64 {
    let share = u128::from(nth.wrapping_mul(GOLDEN)) * u128::from(length);
    u64::try_from(share >> 64).expect("the upper half of 128 bits")
}

/// After how long a connection ends whose token is taken for `left_ms` more milliseconds: in the last part of that time, at a moment of its own.
/// Tokens that were issued together end together, and their tills would all come back in the same instant. A token is taken for
/// the tolerated difference of clocks after its expiry, so no connection whose token is young ends before that.
pub(super) fn before_expiry(nth: u64, left_ms: u64, clock_skew: Duration) -> u64 {
    let spread = (left_ms / 2).min(u64::try_from(clock_skew.as_millis() / 2).unwrap_or(u64::MAX));
    left_ms - part_of(nth, spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of these lie in each tenth of an interval.
    fn tenths(values: impl Iterator<Item = u64>, length: u64) -> [u64; 10] {
        let mut counts = [0; 10];
        values.for_each(|value| counts[usize::try_from(value * 10 / length).unwrap()] += 1);
        counts
    }

    proptest! {
        /// Of any clients that are sent away one after another, a tenth comes back in each tenth of the interval.
        #[test]
        fn consecutive_clients_come_back_evenly(from in any::<u64>(), clients in 20_u64..2_000, length in 100_u64..600_000) {
            let counts = tenths((0..clients).map(|n| part_of(from.wrapping_add(n), length)), length);
            let share = clients / 10;
            prop_assert!(counts.iter().all(|count| count.abs_diff(share) <= 3 + share / 10), "{counts:?} of {clients}");
        }
    }

    #[test]
    fn connections_whose_tokens_end_together_end_in_the_last_half_minute_evenly() {
        const SKEW: Duration = Duration::from_secs(60);
        let ends: Vec<u64> = (0..1_000).map(|n| before_expiry(n, 3_600_000, SKEW)).collect();
        assert!(ends.iter().all(|end| (3_570_000..=3_600_000).contains(end)), "never before the token's own end");
        assert!(
            tenths(ends.iter().map(|end| end - 3_570_000).filter(|end| *end < 30_000), 30_000).iter().all(|n| *n >= 98)
        );
        assert!(
            (0..100).all(|n| (1_000..=2_000).contains(&before_expiry(n, 2_000, SKEW))),
            "a token that is nearly over"
        );
        assert_eq!(before_expiry(7, 0, SKEW), 0);
        // Clocks that may differ by less leave less time to spread.
        assert!((0..100).all(|n| (3_595_000..=3_600_000).contains(&before_expiry(n, 3_600_000, SKEW / 6))));
    }

    #[test]
    fn waits_begin_after_the_restart_and_end_with_the_spread() {
        let spread = RetrySpread::default();
        let waits: Vec<u64> = (0..5_000).map(|_| u64::from(spread.next_ms(Duration::from_secs(10)))).collect();
        assert!(waits.iter().all(|wait| (1_000..11_000).contains(wait)));
        assert!(tenths(waits.iter().map(|wait| wait - 1_000), 10_000).iter().all(|count| (495..=505).contains(count)));
        assert_eq!(spread.next_ms(Duration::ZERO), 1_000, "no spread");
    }
}
