//! Observers that are slow, and one that does not read at all.

use std::sync::Mutex;

use super::super::disk::UncheckedDisk;
use super::*;
use crate::tests::{Silence, options};
use crate::{KeyBatchEffects, Ledger};

/// An observer whose lock a test can hold.
#[derive(Default)]
struct Slow {
    lock: Mutex<()>,
    seen: Mutex<Seen>,
}

/// The sum of all counters of the chain's minutes, the commit that it includes, and how often it was read again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    sum: i64,
    commit: u64,
    loads: u32,
}

impl CounterObserver for Slow {
    fn loaded(&self, stored: &mut StoredBuckets<'_>, commit: u64) -> Result<(), DatabaseError> {
        drop(self.lock.lock().unwrap());
        let mut sum = 0;
        for bucket in stored {
            if let (_, Bucket::ChainMinute(_), sums) = bucket? {
                sum += sums.values().sum::<i64>();
            }
        }
        let mut seen = self.seen.lock().unwrap();
        *seen = Seen { sum, commit, loads: seen.loads + 1 };
        Ok(())
    }

    fn changed(&self, deltas: &[CounterDelta], commit: u64) {
        drop(self.lock.lock().unwrap());
        let mut seen = self.seen.lock().unwrap();
        *seen = Seen { sum: seen.sum + deltas.iter().map(|delta| delta.by).sum::<i64>(), commit, ..*seen };
    }
}

fn disk(dir: &std::path::Path) -> Arc<Disk> {
    Arc::new(UncheckedDisk::open(dir).unwrap().into_disk().unwrap())
}

fn delta(minute: u64, counter: u16) -> CounterDelta {
    CounterDelta { shadow: false, minute, day: 1, store: None, counter, by: 1 }
}

#[test]
fn adding_does_not_wait_for_the_observer_and_closing_delivers_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, observer) = (disk(dir.path()), Arc::new(Slow::default()));
    let notifier =
        CounterNotifier::start(disk.clone(), observer.clone(), Arc::new(|why: &str| panic!("{why}"))).unwrap();
    let held = observer.lock.lock().unwrap();
    for commit in 1..=1_000 {
        disk.set_newest_commit(commit);
        notifier.add(vec![delta(7, 1), delta(7, 2)], &disk);
    }
    assert_eq!(*observer.seen.lock().unwrap(), Seen::default(), "the observer is still held");
    drop(held);
    drop(notifier);
    assert_eq!(*observer.seen.lock().unwrap(), Seen { sum: 2_000, commit: 1_000, loads: 0 });
}

/// Regression: at 65,536 pending deltas the committer waited for the screen, and with it every shard, poll and acknowledgement.
#[test]
fn a_screen_that_never_reads_holds_up_no_commit_and_is_given_every_sum_later() {
    let dir = tempfile::tempdir().unwrap();
    let observer = Arc::new(Slow::default());
    let failed = Arc::new(|why: &str| panic!("{why}"));
    let ledger = Ledger::open(dir.path(), options(1_000), Arc::new(Silence), observer.clone(), failed).unwrap();
    let minute = counters::minute_of(super::super::committer::now());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = observer.lock.lock().unwrap();
    let mut made = 0;
    for ago in 0..5 {
        // As many sums as one minute can have. Each commit is answered before its sums are handed over, so more follow.
        let deltas: Vec<_> = (0..40_000).map(|counter| delta(minute - ago, counter)).collect();
        made += deltas.len() as i64;
        let effects = KeyBatchEffects { counter_deltas: deltas, ..KeyBatchEffects::default() };
        runtime.block_on(ledger.commit(effects)).unwrap();
    }
    assert_eq!(observer.seen.lock().unwrap().sum, 0, "the screen is still held");
    drop(held);
    ledger.close();
    let seen = *observer.seen.lock().unwrap();
    assert_eq!(seen.sum, made);
    assert!(seen.loads > 1, "read at the start, and once more");
}

/// Passes on the commit of each delivery.
struct Deliveries(std::sync::mpsc::Sender<u64>);

impl CounterObserver for Deliveries {
    fn loaded(&self, _: &mut StoredBuckets<'_>, _: u64) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn changed(&self, _: &[CounterDelta], commit: u64) {
        self.0.send(commit).unwrap();
    }
}

#[test]
fn every_commit_is_delivered_while_the_notifier_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let (tx, rx) = std::sync::mpsc::channel();
    let failed = Arc::new(|why: &str| panic!("{why}"));
    let notifier = CounterNotifier::start(disk.clone(), Arc::new(Deliveries(tx)), failed).unwrap();
    for commit in 1..=5 {
        // While the thread waits between two deliveries: it must not miss what came meanwhile.
        disk.set_newest_commit(commit);
        notifier.add(vec![delta(7, 1)], &disk);
        assert_eq!(rx.recv(), Ok(commit));
    }
}
