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
}

/// See the module.
#[derive(Default)]
pub(super) struct Inquest {
    /// The first and the last error that named no partition.
    errors: Option<(Instant, Instant)>,
    suspects: VecDeque<Part>,
    trial: Option<Trial>,
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
        self.trial = Some(Trial { part, since: now, failed: false });
    }

    /// Whether it waits for its trial. It is not to be fetched meanwhile.
    pub(super) fn holds(&self, part: &Part) -> bool {
        self.suspects.contains(part)
    }

    /// What is to be done now. `heard` tells when a partition was last heard of, and nothing for one that is not read at present.
    pub(super) fn step(&mut self, now: Instant, heard: impl Fn(&Part) -> Option<Instant>) -> Option<Step> {
        if let Some(trial) = self.trial.take() {
            let quiet = heard(&trial.part)? <= trial.since;
            if trial.failed && quiet {
                return Some(Step::Damaged(trial.part));
            }
            if trial.failed {
                self.error(now);
            } else if quiet && now.duration_since(trial.since) < SUSPECT_AFTER {
                self.trial = Some(trial);
            }
            return None;
        }
        if let Some(part) = self.suspects.pop_front() {
            return Some(Step::Try(part));
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
    }

    impl Court {
        fn new() -> Self {
            let start = Instant::now();
            let heard = (0..3).map(|number| (Part::new("t", number), start)).collect();
            Self { inquest: Inquest::default(), start, heard }
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
            let heard = |part: &Part| self.heard.iter().find(|(known, _)| known == part).map(|(_, heard)| *heard);
            let step = self.inquest.step(at, heard);
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
        assert_eq!(court.step(2_101), Some(Step::Damaged(bad)));
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
}
