//! What a group reports about itself: counters, gauges, the state of its partitions, and its alerts.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::alert::{ActiveAlerts, GroupAlert};
use crate::tracker::PartitionStatus;
use crate::traits::KeyHash;

/// A counter that only grows, or a gauge with its newest value.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Relaxed: a count orders nothing else.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a gauge to its newest value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Replaces one writer's share of a gauge that several writers sum up: `old` is taken off, `new` is added.
    pub fn replace(&self, old: u64, new: u64) {
        self.0.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
    }

    /// The newest value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters and gauges of one group, in which the parts of a record count as records. `taken = completed + abandoned + in_flight_records` at any
/// quiet moment.
#[derive(Debug, Default)]
pub struct Stats {
    /// Records that were handed to shards.
    pub taken: Count,
    /// Records that are finished: handled, or written to the dead letters.
    pub completed: Count,
    /// Records that were dropped unhandled because their partition was revoked or lost.
    pub abandoned: Count,
    /// Records that go to the dead letters.
    pub dead_lettered: Count,
    /// Batches that the handler wants to try again, panics included.
    pub batches_retried: Count,
    /// Panics of the handler that were caught.
    pub panics: Count,
    /// Writes of dead letters that failed; they are tried again.
    pub dead_letter_writes_failed: Count,
    /// Transient errors of the source.
    pub source_errors: Count,
    /// Revocations that did not wait for all running batches, because the time was up.
    pub drain_timeouts: Count,
    /// Violations of the commit order or the key order. Always 0 in a correct program.
    pub invariant_violations: Count,
    /// Longest time between two polls during the last second. Milliseconds.
    pub poll_interval_ms: Count,
    /// Records in flight: taken and not finished.
    pub in_flight_records: Count,
    /// Of keys, values and headers, unpacked; taken and not finished.
    pub in_flight_bytes: Count,
    /// The limit of `in_flight_records`.
    pub max_in_flight_records: Count,
    /// The limit of `in_flight_bytes`.
    pub max_in_flight_bytes: Count,
    /// Keys that wait for the end of a back-off.
    pub keys_backing_off: Count,
    /// Partitions that are assigned to this member and have no start offset yet.
    pub unassigned_partitions: Count,
    /// Partitions that this member should own and does not own.
    pub unowned_partitions: Count,
    /// Partitions whose committed offset was ahead of the checkpoint: the state was rolled back.
    pub partitions_rolled_back: Count,
    /// Topics of which a partition must be assigned before [`Self::as_of_ms`] is known.
    pub(crate) required_topics: Mutex<Vec<String>>,
    status: Mutex<Vec<PartitionStatus>>,
    /// [`Self::as_of_ms`] as of the last second; 0: not known. Read for every frame, so it is one number.
    as_of_ms: AtomicI64,
    hot_keys: Mutex<Vec<HotKey>>,
    trouble: Mutex<Option<String>>,
    pub(crate) active_alerts: ActiveAlerts,
}

/// A key with many records in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// Its hash: the tracker keeps no keys.
    pub key: KeyHash,
    /// Its records in flight.
    pub records: u64,
    /// Its bytes in flight.
    pub bytes: u64,
}

impl Stats {
    /// The assigned partitions, as of the last second.
    #[must_use]
    pub fn status(&self) -> Vec<PartitionStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time up to which every assigned partition is finished, durably. Not known while it is unknown for one of them, or while none is
    /// assigned. Milliseconds since 1970.
    #[must_use]
    pub fn as_of_ms(&self) -> Option<i64> {
        let is_complete = self.unassigned_partitions.value() == 0 && self.unowned_partitions.value() == 0;
        Some(self.as_of_ms.load(Ordering::Relaxed)).filter(|at| *at > 0 && is_complete)
    }

    pub(crate) fn set_status(&self, status: Vec<PartitionStatus>) {
        let required = self.required_topics.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |topic: &String| status.iter().any(|status| *status.partition.topic == **topic);
        let oldest = status.iter().map(|status| status.as_of_ms.unwrap_or(0)).min();
        let as_of_ms = oldest.filter(|_| required.iter().all(has)).unwrap_or(0);
        self.as_of_ms.store(as_of_ms, Ordering::Relaxed);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Why nothing is delivered, if the source knows, as of the last second.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(crate) fn set_hot_keys(&self, keys: Vec<HotKey>) {
        *self.hot_keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys with the most records in flight, as of the last second, most first.
    #[must_use]
    pub fn hot_keys(&self) -> Vec<HotKey> {
        self.hot_keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The alerts that are raised at present.
    #[must_use]
    pub fn alerts(&self) -> Vec<GroupAlert> {
        self.active_alerts.snapshot()
    }
}
