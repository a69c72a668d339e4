//! Hands durable counter changes to the observer, on a thread of its own.
//!
//! ```text
//!   committer --add--> pending sums (one short lock) --take all--> notifier thread --> CounterObserver::changed
//! ```
//!
//! The observer takes a lock of its own, which a screen's snapshot may hold: the committer, for which every caller waits, must not wait for
//! it. While the observer is busy, changes of one counter in one minute add up to one, so what is pending grows with the time that passes
//! and not with traffic. Deliveries are [`DELIVERY_INTERVAL`] apart: the thread would otherwise wake up for every commit, on the cores that the
//! pushes of the same commit need.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use orderbell_protocol::{Id, UnixMs};

use super::counters::{self, Bucket, CounterDelta, CounterSums};
use super::disk::{DatabaseError, Disk};

/// Deltas that may be pending: sums of minutes of a large chain. Above it the committer does wait, so that memory stays bounded.
const PENDING_MAX: usize = 65_536;
/// No fewer pending deltas are added up: those of some 400 orders.
const MERGE_MIN: usize = 4_096;

/// Shortest time between two deliveries. A screen is shown at most four states a second, so it notices nothing of it.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(20);

/// Is given the counters. The wall implements it; the ledger imports nothing of the wall.
pub trait CounterObserver: Send + Sync + 'static {
    /// The sums of one bucket as they are durable at the start, before any change; `commit` is the number of the newest commit.
    fn loaded(&self, shadow: bool, bucket: &Bucket, sums: &CounterSums, commit: u64);
    /// These changes are durable; `commit` is the number of the newest commit among those that wrote them. Called on a thread of its own, so
    /// it may wait for a lock.
    fn changed(&self, deltas: &[CounterDelta], commit: u64);
}

/// Gives the observer what it shows, before any change.
pub(crate) fn load_recent(disk: &Disk, observer: &dyn CounterObserver, now: UnixMs) -> Result<(), DatabaseError> {
    let view = disk.view();
    for row in counters::recent(&view, now) {
        if let Some((shadow, bucket, sums)) = view.pass_over(row)? {
            observer.loaded(shadow, &bucket, &sums, disk.newest_commit());
        }
    }
    Ok(())
}

/// For whoever shows no counters: they are summed in the ledger all the same.
#[derive(Debug)]
pub struct NoCounterObserver;

impl CounterObserver for NoCounterObserver {
    fn loaded(&self, _shadow: bool, _bucket: &Bucket, _sums: &CounterSums, _commit: u64) {}
    fn changed(&self, _deltas: &[CounterDelta], _commit: u64) {}
}

#[derive(Default)]
struct Pending {
    /// As they came: adding them up is for the notifier thread's time, not for the committer's.
    deltas: Vec<CounterDelta>,
    /// As many are added up to one for each counter in one minute.
    merge_at: usize,
    /// The newest commit whose deltas are in `deltas`, or were taken.
    commit: u64,
    is_closed: bool,
}

impl Pending {
    fn add(&mut self, deltas: Vec<CounterDelta>) {
        self.deltas.extend(deltas);
        if self.deltas.len() >= self.merge_at.max(MERGE_MIN) {
            self.deltas = merged(std::mem::take(&mut self.deltas));
            self.merge_at = self.deltas.len() * 2;
        }
    }

    fn is_full(&self) -> bool {
        self.deltas.len() >= PENDING_MAX
    }
}

/// One delta for each counter in one minute.
fn merged(deltas: Vec<CounterDelta>) -> Vec<CounterDelta> {
    let mut sums: HashMap<(bool, u64, u32, Option<Id>, u16), i64> = HashMap::new();
    for CounterDelta { shadow, minute, day, store, counter, by } in deltas {
        let sum = sums.entry((shadow, minute, day, store, counter)).or_default();
        *sum = sum.saturating_add(by);
    }
    let delta = |((shadow, minute, day, store, counter), by)| CounterDelta { shadow, minute, day, store, counter, by };
    sums.into_iter().map(delta).collect()
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// There is something to deliver, no more has room, or the committer has ended.
    added: Condvar,
    /// Everything was taken.
    taken: Condvar,
}

/// The committer's end. Dropping it lets the thread deliver what is pending and end.
pub(crate) struct CounterNotifier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CounterNotifier {
    /// Starts the thread. `failed` is called if the observer panics.
    pub(crate) fn start(
        observer: Arc<dyn CounterObserver>,
        failed: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("counter-notifier".into()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| deliver(&of_thread, &*observer));
            if std::panic::catch_unwind(run).is_err() {
                failed("the counter observer panicked");
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds the durable changes of the commit `commit`.
    pub(crate) fn add(&self, deltas: Vec<CounterDelta>, commit: u64) {
        let pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending =
            self.shared.taken.wait_while(pending, |pending| pending.is_full()).unwrap_or_else(PoisonError::into_inner);
        let was_empty = pending.deltas.is_empty();
        pending.commit = commit;
        pending.add(deltas);
        if was_empty || pending.is_full() {
            self.shared.added.notify_one();
        }
    }
}

impl Drop for CounterNotifier {
    fn drop(&mut self) {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.shared.added.notify_one();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Delivers until the notifier is closed and nothing is pending.
fn deliver(shared: &Shared, observer: &dyn CounterObserver) {
    loop {
        let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |pending: &mut Pending| pending.deltas.is_empty() && !pending.is_closed;
        let mut pending = shared.added.wait_while(pending, is_idle).unwrap_or_else(PoisonError::into_inner);
        let (deltas, commit) = (std::mem::take(&mut pending.deltas), pending.commit);
        pending.merge_at = 0;
        drop(pending);
        shared.taken.notify_one();
        if deltas.is_empty() {
            return;
        }
        observer.changed(&merged(deltas), commit);
        let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let may_wait = |pending: &mut Pending| !pending.is_closed && !pending.is_full();
        let _paced = shared.added.wait_timeout_while(pending, DELIVERY_INTERVAL, may_wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bucket, CounterSums};

    /// An observer whose lock a test can hold.
    #[derive(Default)]
    struct Slow {
        lock: Mutex<()>,
        seen: Mutex<(i64, u64)>,
    }

    impl CounterObserver for Slow {
        fn loaded(&self, _: bool, _: &Bucket, _: &CounterSums, _: u64) {}

        fn changed(&self, deltas: &[CounterDelta], commit: u64) {
            drop(self.lock.lock().unwrap());
            let mut seen = self.seen.lock().unwrap();
            *seen = (seen.0 + deltas.iter().map(|delta| delta.by).sum::<i64>(), commit);
        }
    }

    #[test]
    fn adding_does_not_wait_for_the_observer_and_closing_delivers_everything() {
        let observer = Arc::new(Slow::default());
        let notifier = CounterNotifier::start(observer.clone(), Arc::new(|why| panic!("{why}"))).unwrap();
        let held = observer.lock.lock().unwrap();
        for commit in 1..=1_000 {
            let delta = |counter| CounterDelta { shadow: false, minute: 7, day: 1, store: None, counter, by: 1 };
            notifier.add(vec![delta(1), delta(2)], commit);
        }
        assert_eq!(*observer.seen.lock().unwrap(), (0, 0), "the observer is still held");
        drop(held);
        drop(notifier);
        assert_eq!(*observer.seen.lock().unwrap(), (2_000, 1_000));
    }

    /// Passes on the commit of each delivery.
    struct Deliveries(std::sync::mpsc::Sender<u64>);

    impl CounterObserver for Deliveries {
        fn loaded(&self, _: bool, _: &Bucket, _: &CounterSums, _: u64) {}

        fn changed(&self, _: &[CounterDelta], commit: u64) {
            self.0.send(commit).unwrap();
        }
    }

    #[test]
    fn every_commit_is_delivered_while_the_notifier_stays_open() {
        let (tx, rx) = std::sync::mpsc::channel();
        let notifier = CounterNotifier::start(Arc::new(Deliveries(tx)), Arc::new(|why| panic!("{why}"))).unwrap();
        for commit in 1..=5 {
            // While the thread waits between two deliveries: it must not miss what came meanwhile.
            let delta = CounterDelta { shadow: false, minute: 7, day: 1, store: None, counter: 1, by: 1 };
            notifier.add(vec![delta], commit);
            assert_eq!(rx.recv(), Ok(commit));
        }
    }
}
