//! What a group tells about itself: counters, the state of its partitions, and its red lights.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::core::Status;
use crate::record::Part;
use crate::seams::KeyHash;

/// A number that only grows, or the newest value of a gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn up(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The newest value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// One of several who share a gauge: what was `old` of it is `new` now.
    pub fn change(&self, old: u64, new: u64) {
        self.0.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters and lights of one group. `taken = completed + abandoned + held` at any quiet moment.
#[derive(Debug, Default)]
pub struct Stats {
    /// Records handed to shards.
    pub taken: Count,
    /// Records that became terminal.
    pub completed: Count,
    /// Records dropped unhandled because their partition went away.
    pub abandoned: Count,
    /// Records that went to the dead letters.
    pub rejected: Count,
    /// Turns that asked for a later try, panics included.
    pub retried: Count,
    /// Panics caught.
    pub panics: Count,
    /// Dead letters that were not taken at first.
    pub burials_failed: Count,
    /// Passing errors of the source.
    pub source_errors: Count,
    /// Partitions revoked while something of them was still running.
    pub drain_timeouts: Count,
    /// Sentinel: commit order or key order was broken. Always 0.
    pub violations: Count,
    /// Longest time between two polls in the last second. Milliseconds.
    pub poll_gap_ms: Count,
    /// Records held.
    pub held_records: Count,
    /// Bytes held.
    pub held_bytes: Count,
    /// The bounds of both: credits that are not held are free.
    pub records_max: Count,
    /// Bytes.
    pub bytes_max: Count,
    /// Keys that rest until their next try.
    pub parked: Count,
    /// Partitions that are ours and not placed yet.
    pub unplaced: Count,
    /// Partitions that should be ours and are somebody else's.
    pub foreign: Count,
    /// Partitions at which the log's own position was ahead of ours: our state went back.
    pub went_back: Count,
    /// Topics of which a partition must be placed, for [`Self::as_of_ms`] to say anything.
    pub(crate) needs: Mutex<Vec<String>>,
    status: Mutex<Vec<Status>>,
    /// [`Self::as_of_ms`] as of the last second; 0: not known. Read for every frame, so it is one number.
    as_of_ms: AtomicI64,
    hottest: Mutex<Vec<Hot>>,
    lights: Mutex<BTreeMap<String, String>>,
}

/// A key that holds much of what is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hot {
    /// Which, by its hash.
    pub key: KeyHash,
    /// Records held.
    pub records: u64,
    /// Bytes held.
    pub bytes: u64,
}

impl Stats {
    /// The placed partitions, as of the last second.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that the log held at this time is finished, durably, in every partition that is placed; none while that is not known of
    /// one of them, or none is placed. Milliseconds since 1970.
    #[must_use]
    pub fn as_of_ms(&self) -> Option<i64> {
        let all_ours = self.unplaced.value() == 0 && self.foreign.value() == 0;
        Some(self.as_of_ms.load(Ordering::Relaxed)).filter(|at| *at > 0 && all_ours)
    }

    pub(crate) fn publish(&self, status: Vec<Status>) {
        let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |topic: &String| status.iter().any(|status| *status.part.topic == **topic);
        let oldest = status.iter().map(|status| status.as_of_ms.unwrap_or(0)).min().filter(|_| needs.iter().all(has));
        self.as_of_ms.store(oldest.unwrap_or(0), Ordering::Relaxed);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    pub(crate) fn hottest(&self, keys: Vec<Hot>) {
        *self.hottest.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys that held most records, as of the last second, most first.
    #[must_use]
    pub fn hot(&self) -> Vec<Hot> {
        self.hottest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is red: where, and a sentence.
    #[must_use]
    pub fn lights(&self) -> BTreeMap<String, String> {
        self.lights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn light(&self, part: &Part, what: String) {
        self.light_named(part.to_string(), what);
    }

    pub(crate) fn light_named(&self, place: String, what: String) {
        self.lights.lock().unwrap_or_else(PoisonError::into_inner).insert(place, what);
    }

    pub(crate) fn unlight(&self, place: &str) {
        self.lights.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
    }
}
