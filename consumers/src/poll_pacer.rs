//! Decides when the poll thread polls. Pure.
//!
//! With credits it polls at once. Without credits it waits for completions, which is the cheapest backpressure, since nothing that was
//! prefetched is thrown away. But a group coordinator removes a consumer that does not poll, so the wait never exceeds [`MAX_STALL`]: then
//! every partition is paused and the source is polled for its callbacks alone, until a good part of the credits has returned. During such
//! a stall no partition is resumed by itself.

use std::time::Duration;

/// After this long without credits, every partition is paused and the source is polled for its callbacks.
pub const MAX_STALL: Duration = Duration::from_secs(1);

/// What the poll thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollAction {
    /// Wait a little for completions, then ask again.
    Wait,
    /// Poll for at most this many records; 0 means for callbacks alone.
    Poll {
        /// Records that may be taken.
        max: usize,
    },
}

/// Paces the polls of one group by its free credits.
#[derive(Debug)]
pub struct PollPacer {
    max_poll_records: usize,
    /// Free credits above which a stall ends.
    resume_above: usize,
    /// When the credits ran out.
    since: Option<Duration>,
    paused: bool,
}

impl PollPacer {
    /// A pacer for polls of at most `max_poll_records`, out of `credits`.
    #[must_use]
    pub fn new(max_poll_records: usize, credits: u64) -> Self {
        // Well above zero, or every completion would pause and resume all partitions.
        let resume_above = usize::try_from(credits * 3 / 10).unwrap_or(usize::MAX);
        Self { max_poll_records, resume_above, since: None, paused: false }
    }

    /// True when every partition should be paused, given the free credits. The caller reports what it did to [`Self::set_paused`].
    pub fn wants_pause(&mut self, free_credits: usize, now: Duration) -> bool {
        if free_credits == 0 {
            let since = *self.since.get_or_insert(now);
            return self.paused || now.saturating_sub(since) >= MAX_STALL;
        }
        if free_credits > self.resume_above || !self.paused {
            self.since = None;
            return false;
        }
        true
    }

    /// Notes that every partition was paused, or resumed.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// True during a stall: no partition is resumed by itself then, since the end of the stall resumes them all.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What to do now, after [`Self::wants_pause`] with the same numbers.
    #[must_use]
    pub fn next_action(&self, free_credits: usize, now: Duration) -> PollAction {
        match self.since {
            _ if self.paused => PollAction::Poll { max: 0 },
            Some(since) if free_credits == 0 && now.saturating_sub(since) < MAX_STALL => PollAction::Wait,
            _ => PollAction::Poll { max: free_credits.min(self.max_poll_records) },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_STEP_MS: u64 = 20;

    proptest! {
        /// I15, and what a stall must not do: take records without credits, or pause and resume all the time.
        #[test]
        fn the_source_is_polled_in_time_however_credits_come_and_go(
            credits in prop::collection::vec((0_usize..=10, 1_u64..=400, 1..=MAX_STEP_MS, prop::bool::weighted(0.9)), 1..60),
        ) {
            let mut pacer = PollPacer::new(4, 10);
            let (mut now, mut polled, mut resumed) = (Duration::ZERO, Duration::ZERO, 0_u32);
            for (free, steps, step_ms, pause_succeeds) in credits {
                for _ in 0..steps {
                    now += Duration::from_millis(step_ms);
                    let pause = pacer.wants_pause(free, now);
                    if pause != pacer.is_paused() && pause_succeeds {
                        resumed += u32::from(!pause);
                        prop_assert!(pause || free > 3, "resumed with {free} credits");
                        pacer.set_paused(pause);
                    }
                    match pacer.next_action(free, now) {
                        PollAction::Wait => prop_assert_eq!(free, 0, "waits although there are credits"),
                        PollAction::Poll { max } => {
                            prop_assert!(max <= free.min(4), "{max} records for {free} credits");
                            prop_assert!(max == 0 || !pacer.is_paused(), "reads during a stall");
                            polled = now;
                        }
                    }
                    let gap = now.saturating_sub(polled);
                    prop_assert!(gap < MAX_STALL + Duration::from_millis(MAX_STEP_MS), "I15: not polled for {gap:?}");
                }
            }
            prop_assert!(resumed <= 60, "pauses and resumes too often");
        }
    }
}
