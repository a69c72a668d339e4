//! Hands durable counter changes to the observer, on a thread of its own.
//!
//! ```text
//!   committer --add--> pending sums (one short lock) --take all--> notifier thread --> CounterObserver::changed
//!                      or, above a bound, a snapshot               --read again-->     CounterObserver::loaded
//! ```
//!
//! The observer takes a lock of its own, which a screen's snapshot may hold: the committer, for which every caller waits, never waits for it.
//! While the observer is busy, changes of one counter in one minute add up to one, so what is pending grows with the time that passes and not
//! with traffic. When even that is too much, the sums are dropped: they are durable, and the observer reads them again from the committer's
//! newest snapshot, which shows exactly the commits whose changes were dropped or delivered. Deliveries are [`DELIVERY_INTERVAL`] apart: the thread would otherwise wake up for every commit, on the cores that the
//! pushes of the same commit need.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use orderbell_protocol::{Id, UnixMs};

use super::committer::FailureObserver;
use super::counters::{self, Bucket, CounterDelta, CounterSums};
use super::disk::{DatabaseError, Disk, Snapshot, View};

/// Sums that may be pending, and up to twice as many deltas that are not added up yet: those of some minutes of a large chain. Above it the
/// observer reads all sums again, so that memory stays bounded.
const PENDING_MAX: usize = 65_536;
/// No fewer pending deltas are added up: those of some 400 orders.
const MERGE_MIN: usize = 4_096;

/// Shortest time between two deliveries. A screen is shown at most four states a second, so it notices nothing of it.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(20);

/// Buckets as they are durable, with their sums; true for those of load-test traffic.
pub type StoredBuckets<'a> = dyn Iterator<Item = Result<(bool, Bucket, CounterSums), DatabaseError>> + 'a;

/// Is given the counters. The wall implements it; the ledger imports nothing of the wall.
pub trait CounterObserver: Send + Sync + 'static {
    /// These are all buckets that are shown, as they are durable after the commit `commit`. They replace whatever was known. Called at the start,
    /// and when more has changed than is kept for an observer that is busy.
    ///
    /// # Errors
    /// That of a bucket which cannot be read; then what was known stays.
    fn loaded(&self, stored: &mut StoredBuckets<'_>, commit: u64) -> Result<(), DatabaseError>;
    /// These changes are durable; `commit` is the number of the newest commit among those that wrote them. Called on a thread of its own, so
    /// it may wait for a lock.
    fn changed(&self, deltas: &[CounterDelta], commit: u64);
}

/// Gives the observer what it shows, from a view of what is durable after `commit`.
pub(crate) fn load_recent(
    view: &View<'_>,
    observer: &dyn CounterObserver,
    now: UnixMs,
    commit: u64,
) -> Result<(), DatabaseError> {
    // A bucket that does not decode is not shown.
    let mut stored = counters::recent(view, now).filter_map(|row| view.pass_over(row).transpose());
    observer.loaded(&mut stored, commit)
}

/// For whoever shows no counters: they are summed in the ledger all the same.
#[derive(Debug)]
pub struct NoCounterObserver;

impl CounterObserver for NoCounterObserver {
    /// They are read all the same: a damaged one is found.
    fn loaded(&self, stored: &mut StoredBuckets<'_>, _commit: u64) -> Result<(), DatabaseError> {
        for bucket in stored {
            bucket?;
        }
        Ok(())
    }
    fn changed(&self, _deltas: &[CounterDelta], _commit: u64) {}
}

#[derive(Default)]
struct Pending {
    /// As they came: adding them up is for the notifier thread's time, not for the committer's.
    deltas: Vec<CounterDelta>,
    /// As many are added up to one for each counter in one minute.
    merge_at: usize,
    /// Too much was pending: what is durable after the newest commit, in the place of all deltas.
    snapshot: Option<Snapshot>,
    /// The newest commit whose deltas are pending, or were taken.
    commit: u64,
    is_closed: bool,
}

impl Pending {
    /// Adds the changes of the commit that was just made. Only the thread that commits calls this, so a snapshot shows this commit and none after it.
    fn add(&mut self, deltas: Vec<CounterDelta>, disk: &Disk) {
        self.commit = disk.newest_commit();
        if self.snapshot.is_some() {
            self.snapshot = Some(disk.snapshot());
            return;
        }
        self.deltas.extend(deltas);
        if self.deltas.len() < self.merge_at.max(MERGE_MIN) {
            return;
        }
        self.deltas = merged(std::mem::take(&mut self.deltas));
        self.merge_at = self.deltas.len() * 2;
        if self.deltas.len() > PENDING_MAX {
            self.deltas = Vec::new();
            self.snapshot = Some(disk.snapshot());
        }
    }

    fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.snapshot.is_none()
    }

    fn take(&mut self) -> Self {
        let is_closed = self.is_closed;
        std::mem::replace(self, Self { commit: self.commit, is_closed, ..Self::default() })
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
    /// There is something to deliver, or the committer has ended.
    added: Condvar,
}

/// The committer's end. Dropping it lets the thread deliver what is pending and end.
pub(crate) struct CounterNotifier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CounterNotifier {
    /// Starts the thread. A panic of the observer is a failure, and so are sums that cannot be read again.
    pub(crate) fn start(
        disk: Arc<Disk>,
        observer: Arc<dyn CounterObserver>,
        failure_observer: Arc<dyn FailureObserver>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("counter-notifier".into()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| deliver(&of_thread, &disk, &*observer));
            match std::panic::catch_unwind(run) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failure_observer.failed(&format!("the counters cannot be read: {error}")),
                Err(_panic) => failure_observer.failed("the counter observer panicked"),
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds the durable changes of the commit that was just made. Only the thread that commits calls this. It does not wait for the observer.
    pub(crate) fn add(&self, deltas: Vec<CounterDelta>, disk: &Disk) {
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = pending.is_empty();
        pending.add(deltas, disk);
        if was_empty {
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
fn deliver(shared: &Shared, disk: &Disk, observer: &dyn CounterObserver) -> Result<(), DatabaseError> {
    loop {
        let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |pending: &mut Pending| pending.is_empty() && !pending.is_closed;
        let mut pending = shared.added.wait_while(pending, is_idle).unwrap_or_else(PoisonError::into_inner);
        let taken = pending.take();
        drop(pending);
        if taken.is_empty() {
            return Ok(());
        }
        match taken.snapshot {
            None => observer.changed(&merged(taken.deltas), taken.commit),
            Some(snapshot) => load_recent(&disk.view_at(snapshot), observer, super::committer::now(), taken.commit)?,
        }
        let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let may_wait = |pending: &mut Pending| !pending.is_closed;
        let _paced = shared.added.wait_timeout_while(pending, DELIVERY_INTERVAL, may_wait);
    }
}

#[cfg(test)]
#[path = "counter_notifier_tests.rs"]
mod tests;
