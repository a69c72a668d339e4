//! When orders are placed: drawn around a rate, which they hold in the long run. Each has a time on one scale, so neither rounding nor a late
//! wake-up adds up.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Dice;

/// How much sooner or later than on average the next order comes. Percent.
const WAIT_PERCENT: (u64, u64) = (20, 181);

/// The times of orders, since the demo began.
#[derive(Default)]
pub(super) struct Arrivals(Duration);

impl Arrivals {
    /// The time of the next order at a rate of `per_second`.
    pub(super) fn next(&mut self, per_second: f64, dice: &mut Dice) -> Duration {
        let share = dice.between(WAIT_PERCENT) as f64 / 100.0;
        self.0 += Duration::from_secs_f64(share / per_second);
        self.0
    }
}

/// Waits; false when the demo ends meanwhile. A time that has passed already is made up for: the rate counts.
pub(super) async fn sleep_until(at: Instant, end: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = end.cancelled() => false,
        () = tokio::time::sleep_until(at.into()) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders that are placed in so many seconds.
    fn placed(rate: impl Fn(Duration) -> f64, seconds: u64, seed: u64) -> usize {
        let (mut arrivals, mut dice) = (Arrivals::default(), Dice(seed));
        let end = Duration::from_secs(seconds);
        (0..).take_while(|_| arrivals.next(rate(arrivals.0), &mut dice) < end).count()
    }

    #[test]
    fn orders_hold_every_rate_that_can_be_chosen() {
        for (rate, seconds) in [(0.1, 100_000), (1.2, 10_000), (37.5, 1_000), (500.0, 60)] {
            for seed in 0..5 {
                let (placed, wanted) = (placed(|_| rate, seconds, seed) as f64, rate * seconds as f64);
                assert!((placed - wanted).abs() < wanted * 0.02, "{placed} orders instead of {wanted}");
            }
        }
    }

    #[test]
    fn a_rate_that_changes_is_followed() {
        let half_time = Duration::from_secs(1_000);
        let placed = placed(|at| if at < half_time { 2.0 } else { 20.0 }, 2_000, 7) as f64;
        assert!((placed - 22_000.0).abs() < 440.0, "{placed}");
    }

    #[test]
    fn the_wait_for_one_order_is_between_a_fifth_and_nine_fifths_of_the_average() {
        let (mut arrivals, mut dice, mut before) = (Arrivals::default(), Dice(1), Duration::ZERO);
        for _ in 0..10_000 {
            let at = arrivals.next(10.0, &mut dice);
            let wait_ms = (at - before).as_millis();
            assert!((19..=181).contains(&wait_ms), "{wait_ms}");
            before = at;
        }
    }
}
