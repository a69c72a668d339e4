//! Hands durable counter changes to the observer, on a thread of its own.
//!
//! ```text
//!   committer --add--> pending sums (one short lock) --take all--> notifier thread --> CounterObserver::changed
//! ```
//!
//! The observer takes a lock of its own, which a screen's snapshot may hold: the committer, for which every caller waits, must not wait for
//! it. While the observer is busy, changes of one counter in one minute add up to one, so what is pending grows with the time that passes
//! and not with traffic.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use orderbell_protocol::Id;

use super::CounterObserver;
use super::counters::CounterDelta;

/// Sums that may be pending: minutes of a large chain. Above it the committer does wait, so that memory stays bounded.
const PENDING_MAX: usize = 65_536;

/// What a delta is added to: shadow, minute, day, store, counter.
type Slot = (bool, u64, u32, Option<Id>, u16);

#[derive(Default)]
struct Pending {
    sums: HashMap<Slot, i64>,
    /// The newest commit whose deltas are in `sums`, or were taken.
    commit: u64,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// Something was added, or the committer has ended.
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
        let is_full = |pending: &mut Pending| pending.sums.len() >= PENDING_MAX;
        let mut pending = self.shared.taken.wait_while(pending, is_full).unwrap_or_else(PoisonError::into_inner);
        pending.commit = commit;
        for CounterDelta { shadow, minute, day, store, counter, by } in deltas {
            let sum = pending.sums.entry((shadow, minute, day, store, counter)).or_default();
            *sum = sum.saturating_add(by);
        }
        self.shared.added.notify_one();
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
        let is_idle = |pending: &mut Pending| pending.sums.is_empty() && !pending.is_closed;
        let mut pending = shared.added.wait_while(pending, is_idle).unwrap_or_else(PoisonError::into_inner);
        let (sums, commit) = (std::mem::take(&mut pending.sums), pending.commit);
        drop(pending);
        shared.taken.notify_one();
        if sums.is_empty() {
            return;
        }
        let delta =
            |((shadow, minute, day, store, counter), by)| CounterDelta { shadow, minute, day, store, counter, by };
        observer.changed(&sums.into_iter().map(delta).collect::<Vec<_>>(), commit);
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
}
