//! Which partition cannot be read on: librdkafka's errors of damaged or missing records name none.
//!
//! After an error everybody has [`SUSPECT_AFTER`] to show that it goes on. Who was heard after the *last* error is innocent (a partition
//! in trouble is silent after its own); the rest, as far as there is something to read for them, are suspects. They are all held, then tried one
//! after another: placed anew where they stand. The one at which the error comes back is the one; who delivers, or stays quiet, goes on.
//!
//! Refused: judging by the first error (a second partition's records may come between the first one's error and its own, and librdkafka
//! stops at some errors for good: it would never be found), and a trial while other suspects are fetched (their errors would be taken for
//! its own).
//!
//! Pure: time comes as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::record::Part;

/// How long the innocent ones have to show that they go on, and a trial has to fail.
pub(super) const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Ask who has something to read and was not heard since then; hold them, and name them with [`Inquest::suspect`].
    Ask(Instant),
    /// Place it anew where it stands, and say so with [`Inquest::tried`].
    Try(Part),
    /// Its bytes are damaged.
    Damaged(Part),
}

struct Trial {
    part: Part,
    since: Instant,
    failed: bool,
    /// It failed before: an error that was another's does not come twice.
    again: bool,
}

/// How a partition is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// Not ours any more, or known to be damaged.
    Gone,
    /// Not fetched for a reason of its own.
    Paused,
    /// Heard of last at this time.
    Heard(Instant),
}

/// See the module.
#[derive(Default)]
pub(super) struct Inquest {
    /// The first and the last error that named no partition.
    errors: Option<(Instant, Instant)>,
    suspects: VecDeque<Part>,
    trial: Option<Trial>,
    /// Failed once, and is about to be tried again.
    failed: Option<Part>,
}

impl Inquest {
    /// An error that named no partition.
    pub(super) fn error(&mut self, now: Instant) {
        match &mut self.trial {
            Some(trial) => trial.failed = true,
            None => self.errors = Some((self.errors.map_or(now, |(first, _)| first), now)),
        }
    }

    /// To be tried in its turn.
    pub(super) fn suspect(&mut self, part: Part) {
        self.suspects.push_back(part);
    }

    /// It was placed anew: from now on it shows what it is.
    pub(super) fn tried(&mut self, part: Part, now: Instant) {
        let again = self.failed.take_if(|failed| *failed == part).is_some();
        self.trial = Some(Trial { part, since: now, failed: false, again });
    }

    /// Whether it waits for its trial. It is not to be fetched meanwhile.
    pub(super) fn holds(&self, part: &Part) -> bool {
        self.suspects.contains(part)
    }

    /// What is to be done now. `of` tells how a partition is.
    pub(super) fn step(&mut self, now: Instant, of: impl Fn(&Part) -> Now) -> Option<Step> {
        if let Some(trial) = self.trial.take() {
            match of(&trial.part) {
                Now::Gone if trial.failed => self.error(now),
                Now::Gone => {}
                // Paused in the middle: its trial begins again when it is fetched.
                Now::Paused => self.suspects.push_back(trial.part),
                Now::Heard(at) if at > trial.since && trial.failed => self.error(now),
                Now::Heard(at) if at > trial.since => {}
                Now::Heard(_) if trial.failed && trial.again => return Some(Step::Damaged(trial.part)),
                Now::Heard(_) if trial.failed => {
                    self.failed = Some(trial.part.clone());
                    return Some(Step::Try(trial.part));
                }
                Now::Heard(_) if now.duration_since(trial.since) < SUSPECT_AFTER => self.trial = Some(trial),
                Now::Heard(_) => {}
            }
            return None;
        }
        self.suspects.retain(|part| of(part) != Now::Gone);
        if let Some(at) = self.suspects.iter().position(|part| of(part) != Now::Paused) {
            return self.suspects.remove(at).map(Step::Try);
        }
        let (_, last) = self.errors.take_if(|(first, _)| now.duration_since(*first) >= SUSPECT_AFTER)?;
        Some(Step::Ask(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Court {
        inquest: Inquest,
        start: Instant,
        heard: Vec<(Part, Instant)>,
        paused: Option<Part>,
    }

    impl Court {
        fn new() -> Self {
            let start = Instant::now();
            let heard = (0..3).map(|number| (Part::new("t", number), start)).collect();
            Self { inquest: Inquest::default(), start, heard, paused: None }
        }

        fn part(&self, number: usize) -> Part {
            self.heard[number].0.clone()
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn error(&mut self, ms: u64) {
            self.inquest.error(self.at(ms));
        }

        fn hears(&mut self, number: usize, ms: u64) {
            self.heard[number].1 = self.at(ms);
        }

        fn step(&mut self, ms: u64) -> Option<Step> {
            let at = self.at(ms);
            let paused = self.paused.clone();
            let of = |part: &Part| match self.heard.iter().find(|(known, _)| known == part) {
                _ if paused.as_ref() == Some(part) => Now::Paused,
                Some((_, heard)) => Now::Heard(*heard),
                None => Now::Gone,
            };
            let step = self.inquest.step(at, of);
            if let Some(Step::Try(part)) = &step {
                self.inquest.tried(part.clone(), at);
            }
            step
        }
    }

    /// The bug: with two partitions damaged, the second's first records came after the first one's error, and it was taken as innocent.
    #[test]
    fn who_was_heard_before_the_last_error_is_suspected() {
        let mut court = Court::new();
        court.error(10);
        court.hears(2, 20);
        court.error(30);
        assert_eq!(court.step(2_000), None, "they have their time");
        let asked = court.step(2_020);
        assert_eq!(asked, Some(Step::Ask(court.at(30))));
    }

    #[test]
    fn the_one_at_which_the_error_comes_back_is_the_one() {
        let mut court = Court::new();
        let (quiet, bad) = (court.part(0), court.part(1));
        court.inquest.suspect(quiet.clone());
        court.inquest.suspect(bad.clone());
        assert_eq!(court.step(0), Some(Step::Try(quiet.clone())));
        assert!(court.inquest.holds(&bad) && !court.inquest.holds(&quiet));
        assert_eq!(court.step(1_999), None);
        assert_eq!(court.step(2_000), None, "it was merely quiet");
        assert_eq!(court.step(2_001), Some(Step::Try(bad.clone())));
        court.error(2_100);
        assert_eq!(court.step(2_101), Some(Step::Try(bad.clone())), "once may be another's error");
        court.error(2_200);
        assert_eq!(court.step(2_201), Some(Step::Damaged(bad)));
        assert_eq!(court.step(9_000), None, "and nothing is left over");
    }

    #[test]
    fn who_delivers_is_innocent_and_the_error_is_somebody_elses() {
        let mut court = Court::new();
        let part = court.part(0);
        court.inquest.suspect(part.clone());
        assert_eq!(court.step(0), Some(Step::Try(part)));
        court.hears(0, 5);
        court.error(6);
        assert_eq!(court.step(7), None);
        let asked = court.step(2_007);
        assert_eq!(asked, Some(Step::Ask(court.at(7))));
    }

    /// The bug: whoever was paused when it was asked, or tried, was forgotten, and its error does not come again.
    #[test]
    fn who_is_paused_is_tried_when_it_is_fetched_again() {
        let mut court = Court::new();
        let bad = court.part(1);
        court.inquest.suspect(bad.clone());
        court.paused = Some(bad.clone());
        assert_eq!(court.step(0), None);
        court.paused = None;
        assert_eq!(court.step(1), Some(Step::Try(bad.clone())));
        court.paused = Some(bad.clone());
        court.error(2);
        assert_eq!(court.step(3), None);
        court.paused = None;
        assert_eq!(court.step(4), Some(Step::Try(bad)));
    }
}
