//! When the poll thread polls. Pure.
//!
//! With credits: at once. Without: it rests and takes completions, which is the cheapest backpressure, since nothing that was prefetched is
//! thrown away. But a log that is not polled takes its consumer for dead, so nobody rests for longer than [`STALL_MAX`]: then everything is
//! paused, and the log is polled for its callbacks alone until a good part of the credits is back. In between nothing is resumed alone.

use std::time::Duration;

/// Without credits for this long, everything is paused and the log is polled all the same, for its callbacks.
pub const STALL_MAX: Duration = Duration::from_secs(1);

/// What the poll thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait a little for completions, and ask again.
    Rest,
    /// Poll for at most this many records; 0: for callbacks alone.
    Poll {
        /// Records that may be taken.
        max: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Pace {
    /// Records in one poll.
    poll_max: usize,
    /// Free credits above which a stall is over.
    enough: usize,
    since: Option<Duration>,
    paused: bool,
}

impl Pace {
    /// A pace for polls of at most `poll_max` records, out of `credits`.
    #[must_use]
    pub fn new(poll_max: usize, credits: u64) -> Self {
        // Well above nothing, or every completion would pause and resume all partitions.
        let enough = usize::try_from(credits * 3 / 10).unwrap_or(usize::MAX);
        Self { poll_max, enough, since: None, paused: false }
    }

    /// True when the source should be paused as a whole, given the free credits. The answer goes to [`Self::paused`].
    pub fn wants_pause(&mut self, room: usize, now: Duration) -> bool {
        if room == 0 {
            let since = *self.since.get_or_insert(now);
            return self.paused || now.saturating_sub(since) >= STALL_MAX;
        }
        if room > self.enough || !self.paused {
            self.since = None;
            return false;
        }
        true
    }

    /// The source was paused, or resumed, as a whole.
    pub fn paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// While everything is paused for want of credits, nothing is resumed alone: the end of the stall resumes all.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What to do now, after [`Self::wants_pause`] with the same numbers.
    #[must_use]
    pub fn next(&self, room: usize, now: Duration) -> Next {
        match self.since {
            _ if self.paused => Next::Poll { max: 0 },
            Some(since) if room == 0 && now.saturating_sub(since) < STALL_MAX => Next::Rest,
            _ => Next::Poll { max: room.min(self.poll_max) },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP_MAX_MS: u64 = 20;

    proptest! {
        /// I15, and what a stall must not do: take records it has no credits for, or flutter.
        #[test]
        fn however_credits_come_and_go_the_log_is_polled_in_time(
            rooms in prop::collection::vec((0_usize..=10, 1_u64..=400, 1..=STEP_MAX_MS, prop::bool::weighted(0.9)), 1..60),
        ) {
            let mut pace = Pace::new(4, 10);
            let (mut now, mut polled, mut resumed) = (Duration::ZERO, Duration::ZERO, 0_u32);
            for (room, steps, step_ms, obeys) in rooms {
                for _ in 0..steps {
                    now += Duration::from_millis(step_ms);
                    let pause = pace.wants_pause(room, now);
                    if pause != pace.is_paused() && obeys {
                        resumed += u32::from(!pause);
                        prop_assert!(pause || room > 3, "resumed with {room} credits");
                        pace.paused(pause);
                    }
                    match pace.next(room, now) {
                        Next::Rest => prop_assert_eq!(room, 0, "rests although there are credits"),
                        Next::Poll { max } => {
                            prop_assert!(max <= room.min(4), "{max} records for {room} credits");
                            prop_assert!(max == 0 || !pace.is_paused(), "reads while all is paused");
                            polled = now;
                        }
                    }
                    let gap = now.saturating_sub(polled);
                    prop_assert!(gap < STALL_MAX + Duration::from_millis(STEP_MAX_MS), "I15: not polled for {gap:?}");
                }
            }
            prop_assert!(resumed <= 60, "flutters");
        }
    }
}
