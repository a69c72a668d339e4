//! Finds the partition that cannot be read: librdkafka's errors about damaged or missing records name none.
//!
//! After an error, every partition has [`ISOLATION_WINDOW`] to make progress. One that delivered after the *last* error is healthy, since a
//! damaged partition delivers nothing after its own error. The others, as far as they have data to read, become candidates. All of them are
//! paused, then probed one after another: re-assigned at their next offset. The partition on which the error recurs is damaged; one that
//! delivers, or stays quiet, goes on.
//!
//! Refused: judging by the first error (a second damaged partition may deliver between the first one's error and its own, and librdkafka
//! reports some errors only once: it would never be found), and a probe while other candidates are fetched (their errors would be taken for
//! the probed one's).
//!
//! Pure: time comes as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::record::TopicPartition;

/// How long healthy partitions have to make progress after an error, and how long a probe waits for the error.
pub(super) const ISOLATION_WINDOW: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Find the partitions that have data to read and delivered nothing since then; pause them and pass them to
    /// [`FaultIsolation::add_candidate`].
    FindCandidates(Instant),
    /// Re-assign this partition at its next offset, and call [`FaultIsolation::probe_started`].
    Probe(TopicPartition),
    /// The partition cannot be read.
    Damaged(TopicPartition),
}

struct Probe {
    partition: TopicPartition,
    since: Instant,
    failed: bool,
    /// An earlier probe of it failed: an error that was another partition's does not recur.
    is_second: bool,
}

/// How a partition is doing at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not assigned any more, or known to be damaged.
    Gone,
    /// Paused for another reason.
    Paused,
    /// Fetched; delivered last at this time.
    DeliveredAt(Instant),
}

/// Isolates damaged partitions by their errors and their progress.
#[derive(Default)]
pub(super) struct FaultIsolation {
    /// The first and the last error that named no partition.
    errors: Option<(Instant, Instant)>,
    candidates: VecDeque<TopicPartition>,
    probe: Option<Probe>,
    /// Its first probe failed, and its second one comes next.
    failed_once: Option<TopicPartition>,
}

impl FaultIsolation {
    /// Notes an error that named no partition.
    pub(super) fn error(&mut self, now: Instant) {
        match &mut self.probe {
            Some(probe) => probe.failed = true,
            None => self.errors = Some((self.errors.map_or(now, |(first, _)| first), now)),
        }
    }

    /// Queues a partition for a probe.
    pub(super) fn add_candidate(&mut self, partition: TopicPartition) {
        self.candidates.push_back(partition);
    }

    /// The partition was re-assigned: from now on its progress counts.
    pub(super) fn probe_started(&mut self, partition: TopicPartition, now: Instant) {
        let is_second = self.failed_once.take_if(|failed| *failed == partition).is_some();
        self.probe = Some(Probe { partition, since: now, failed: false, is_second });
    }

    /// True while the partition waits for its probe. It must stay paused until then.
    pub(super) fn is_candidate(&self, partition: &TopicPartition) -> bool {
        self.candidates.contains(partition)
    }

    /// What to do now. `progress` tells how a partition is doing.
    pub(super) fn step(&mut self, now: Instant, progress: impl Fn(&TopicPartition) -> Progress) -> Option<Step> {
        if let Some(probe) = self.probe.take() {
            match progress(&probe.partition) {
                Progress::Gone if probe.failed => self.error(now),
                Progress::Gone => {}
                // Paused in the middle: its probe starts again when it is fetched.
                Progress::Paused => self.candidates.push_back(probe.partition),
                Progress::DeliveredAt(at) if at > probe.since && probe.failed => self.error(now),
                Progress::DeliveredAt(at) if at > probe.since => {}
                Progress::DeliveredAt(_) if probe.failed && probe.is_second => {
                    return Some(Step::Damaged(probe.partition));
                }
                Progress::DeliveredAt(_) if probe.failed => {
                    self.failed_once = Some(probe.partition.clone());
                    return Some(Step::Probe(probe.partition));
                }
                Progress::DeliveredAt(_) if now.duration_since(probe.since) < ISOLATION_WINDOW => {
                    self.probe = Some(probe);
                }
                Progress::DeliveredAt(_) => {}
            }
            return None;
        }
        self.candidates.retain(|partition| progress(partition) != Progress::Gone);
        if let Some(at) = self.candidates.iter().position(|partition| progress(partition) != Progress::Paused) {
            return self.candidates.remove(at).map(Step::Probe);
        }
        let (_, last) = self.errors.take_if(|(first, _)| now.duration_since(*first) >= ISOLATION_WINDOW)?;
        Some(Step::FindCandidates(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        isolation: FaultIsolation,
        start: Instant,
        delivered: Vec<(TopicPartition, Instant)>,
        paused: Option<TopicPartition>,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let delivered = (0..3).map(|number| (TopicPartition::new("t", number), start)).collect();
            Self { isolation: FaultIsolation::default(), start, delivered, paused: None }
        }

        fn partition(&self, number: usize) -> TopicPartition {
            self.delivered[number].0.clone()
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn error(&mut self, ms: u64) {
            self.isolation.error(self.at(ms));
        }

        fn delivers(&mut self, number: usize, ms: u64) {
            self.delivered[number].1 = self.at(ms);
        }

        fn step(&mut self, ms: u64) -> Option<Step> {
            let at = self.at(ms);
            let paused = self.paused.clone();
            let progress =
                |partition: &TopicPartition| match self.delivered.iter().find(|(known, _)| known == partition) {
                    _ if paused.as_ref() == Some(partition) => Progress::Paused,
                    Some((_, delivered)) => Progress::DeliveredAt(*delivered),
                    None => Progress::Gone,
                };
            let step = self.isolation.step(at, progress);
            if let Some(Step::Probe(partition)) = &step {
                self.isolation.probe_started(partition.clone(), at);
            }
            step
        }
    }

    /// The bug: with two partitions damaged, the second one delivered after the first one's error, and was taken for healthy.
    #[test]
    fn a_partition_that_delivered_before_the_last_error_is_a_candidate() {
        let mut bench = Bench::new();
        bench.error(10);
        bench.delivers(2, 20);
        bench.error(30);
        assert_eq!(bench.step(2_000), None, "the window is not over");
        let step = bench.step(2_020);
        assert_eq!(step, Some(Step::FindCandidates(bench.at(30))));
    }

    #[test]
    fn the_partition_on_which_the_error_recurs_is_damaged() {
        let mut bench = Bench::new();
        let (quiet, bad) = (bench.partition(0), bench.partition(1));
        bench.isolation.add_candidate(quiet.clone());
        bench.isolation.add_candidate(bad.clone());
        assert_eq!(bench.step(0), Some(Step::Probe(quiet.clone())));
        assert!(bench.isolation.is_candidate(&bad) && !bench.isolation.is_candidate(&quiet));
        assert_eq!(bench.step(1_999), None);
        assert_eq!(bench.step(2_000), None, "it was merely quiet");
        assert_eq!(bench.step(2_001), Some(Step::Probe(bad.clone())));
        bench.error(2_100);
        assert_eq!(bench.step(2_101), Some(Step::Probe(bad.clone())), "one error may be another partition's");
        bench.error(2_200);
        assert_eq!(bench.step(2_201), Some(Step::Damaged(bad)));
        assert_eq!(bench.step(9_000), None, "nothing is left over");
    }

    #[test]
    fn a_probed_partition_that_delivers_is_healthy_and_the_error_is_another_ones() {
        let mut bench = Bench::new();
        let partition = bench.partition(0);
        bench.isolation.add_candidate(partition.clone());
        assert_eq!(bench.step(0), Some(Step::Probe(partition)));
        bench.delivers(0, 5);
        bench.error(6);
        assert_eq!(bench.step(7), None);
        let step = bench.step(2_007);
        assert_eq!(step, Some(Step::FindCandidates(bench.at(7))));
    }

    /// The bug: a candidate that was paused before or during its probe was forgotten, and its error is reported only once.
    #[test]
    fn a_paused_candidate_is_probed_when_it_is_fetched_again() {
        let mut bench = Bench::new();
        let bad = bench.partition(1);
        bench.isolation.add_candidate(bad.clone());
        bench.paused = Some(bad.clone());
        assert_eq!(bench.step(0), None);
        bench.paused = None;
        assert_eq!(bench.step(1), Some(Step::Probe(bad.clone())));
        bench.paused = Some(bad.clone());
        bench.error(2);
        assert_eq!(bench.step(3), None);
        bench.paused = None;
        assert_eq!(bench.step(4), Some(Step::Probe(bad)));
    }
}
