//! Decides whether this client is stuck: no broker answers it, and another one is answered.
//!
//! After metadata that named no broker, librdkafka may be left with none to ask, and reads never again, although all are back. From the
//! inside that looks like brokers that are down, and those come back by themselves. So while no broker answers, a client of its own asks now
//! and then; when it has been answered for a while and this one still is not, only a new one helps.
//!
//! Pure: time comes as an argument.

use std::time::{Duration, Instant};

/// Silence after which another client asks. Statistics come every five seconds.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// Interval of questions.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How long another client must be answered before this one is given up: brokers that come back are found by then.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// When a broker last answered this client, and since when another one is answered.
pub(super) struct Silence {
    answered_at: Instant,
    asked_at: Instant,
    /// Since when every question was answered.
    answered_since: Option<Instant>,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { answered_at: now, asked_at: now, answered_since: None }
    }

    /// A broker answered, or there is a reason that a new client would share.
    pub(super) fn reset(&mut self, now: Instant) {
        (self.answered_at, self.answered_since) = (now, None);
    }

    /// For how long no broker has answered, once that is unusual.
    pub(super) fn lasts_for(&self, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.answered_at)).filter(|silent| *silent >= ASK_AFTER)
    }

    /// True when another client should ask now; then its answer is due.
    pub(super) fn should_ask(&mut self, now: Instant) -> bool {
        let is_due = self.lasts_for(now).is_some() && now.duration_since(self.asked_at) >= ASK_INTERVAL;
        if is_due {
            self.asked_at = now;
        }
        is_due
    }

    /// Notes whether another client was answered; true when this one is stuck.
    pub(super) fn answer(&mut self, is_answered: bool, now: Instant) -> bool {
        if !is_answered || self.lasts_for(now).is_none() {
            self.answered_since = None;
            return false;
        }
        now.duration_since(*self.answered_since.get_or_insert(now)) >= STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks whenever it should; the second at which it is stuck.
    fn stuck_at(until: u64, is_answered: impl Fn(u64) -> bool, is_served: impl Fn(u64) -> bool) -> Option<u64> {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        (0..until).find(|second| {
            let now = start + Duration::from_secs(*second);
            if is_served(*second) {
                silence.reset(now);
            }
            silence.should_ask(now) && silence.answer(is_answered(*second), now)
        })
    }

    #[test]
    fn a_client_that_is_not_answered_while_another_is_is_given_up() {
        assert_eq!(stuck_at(100, |_| true, |_| false), Some(30));
        let back = 40;
        let given_up = stuck_at(200, |second| second >= back, |_| false).unwrap();
        assert!(given_up < back + 30, "within half a minute: {given_up}");
    }

    #[test]
    fn brokers_that_are_down_and_a_client_that_finds_them_again_are_waited_for() {
        assert_eq!(stuck_at(10_000, |_| false, |_| false), None, "down for hours");
        assert_eq!(stuck_at(200, |second| second >= 40, |second| second >= 50), None, "found ten seconds later");
        assert_eq!(stuck_at(200, |second| second % 10 < 5, |_| false), None, "they come and go");
        assert_eq!(stuck_at(200, |_| true, |second| second % 14 == 0), None, "a quiet topic");
    }
}
