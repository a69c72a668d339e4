//! At most so many a second, in any second: what was late is not made up for by a burst.

use std::time::{Duration, Instant};

/// Gives out slots that are at least an interval apart. Pure: the caller brings the time, and waits.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    next: Option<Instant>,
}

impl RateLimit {
    /// A limit of `per_second`; 0 counts as 1.
    pub(super) fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(per_second.max(1)))), next: None }
    }

    /// When the next may be sent.
    pub(super) fn slot(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }

    /// So many were sent together, at this time.
    pub(super) fn sent(&mut self, at: Instant, count: u32) {
        self.next = Some(at + self.interval * count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever delays each record, no second has more than the limit, and without delays each second has as many.
        #[test]
        fn no_second_has_more_than_the_limit(rate in 1_u32..2_000, delays in prop::collection::vec(0_u64..3_000, 1..40)) {
            let start = Instant::now();
            let (mut limit, mut now, mut sent) = (RateLimit::new(rate), start, Vec::new());
            for delay_ms in delays {
                // A stall, then as many as are let through at once in the two seconds after it.
                now += Duration::from_millis(delay_ms);
                let end = now + Duration::from_secs(2);
                while limit.slot(now) < end && sent.len() < 20_000 {
                    now = limit.slot(now).max(now);
                    limit.sent(now, 1);
                    sent.push(now);
                }
            }
            for (first, next) in sent.iter().zip(&sent[(rate as usize).min(sent.len())..]) {
                prop_assert!(*next >= *first + Duration::from_secs(1), "more than {rate} in one second");
            }
            let first_second = sent.iter().filter(|at| **at < sent[0] + Duration::from_secs(1)).count();
            prop_assert_eq!(first_second, rate as usize, "the limit is used");
        }
    }

    #[test]
    fn a_batch_takes_the_time_of_its_records() {
        let start = Instant::now();
        let mut limit = RateLimit::new(100);
        assert_eq!(limit.slot(start), start);
        limit.sent(start, 50);
        assert_eq!(limit.slot(start), start + Duration::from_millis(500));
        limit.sent(start, 0);
        assert_eq!(limit.slot(start), start, "nothing was sent");
        assert_eq!(RateLimit::new(0).interval, Duration::from_secs(1));
    }
}
