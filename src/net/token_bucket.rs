//! Token buckets by key, which are kept only while they are not full. Pure: the caller brings the time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use orderbell_ledger::SHARDS;

/// Buckets of one table of a shard that are kept. When as many are not full, others are not counted: in all shards together 200,000, more recipients
/// than any chain serves in a minute.
const BUCKETS_MAX: usize = 200_000 / SHARDS;
/// Buckets of one table from which on those that are full again are looked for.
const SWEEP_MIN: usize = 64;

/// How often somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// On average.
    pub per_minute: u32,
}

impl Rate {
    pub(super) fn divided_by(self, divisor: u32) -> Self {
        Self { burst: (self.burst / divisor).max(1), per_minute: (self.per_minute / divisor).max(1) }
    }

    pub(super) fn at_most(self, other: Self) -> Self {
        Self { burst: self.burst.min(other.burst), per_minute: self.per_minute.min(other.per_minute) }
    }

    /// The time in which one is earned.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute
    }
}

/// The buckets of one shard, by whom they are for.
#[derive(Debug)]
pub(super) struct TokenBuckets<K> {
    /// When each bucket is full again. One that is full is not kept.
    full_at: HashMap<K, Duration>,
    sweep_at: usize,
}

impl<K> Default for TokenBuckets<K> {
    fn default() -> Self {
        Self { full_at: HashMap::new(), sweep_at: SWEEP_MIN }
    }
}

impl<K: Eq + Hash> TokenBuckets<K> {
    /// When a bucket is full again from which `count` are taken now, or how long it takes until it holds as many.
    pub(super) fn full_at_without(
        &mut self,
        key: &K,
        count: u32,
        rate: Rate,
        now: Duration,
    ) -> Result<Duration, Duration> {
        // What is asked at once is at most a burst, or it could never be had.
        let empty_for = rate.interval() * rate.burst.max(count);
        // What was taken at a lower rate, before a reload, is earned again at this one: nobody waits longer than for an empty bucket. Kept also where
        // this is refused, or the bucket would be as empty at the next time.
        let known = self.full_at.get_mut(key).map_or(now, |full_at| {
            *full_at = (*full_at).min(now + empty_for);
            now.max(*full_at)
        });
        let full_at = known + rate.interval() * count;
        match full_at.checked_sub(now + empty_for).filter(|wait| !wait.is_zero()) {
            Some(wait) => Err(wait),
            None => Ok(full_at),
        }
    }

    /// A bucket is full again at this time.
    pub(super) fn set(&mut self, key: K, full_at: Duration, now: Duration) {
        if self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (self.full_at.len() * 2).clamp(SWEEP_MIN, BUCKETS_MAX);
        }
        if self.full_at.len() < BUCKETS_MAX || self.full_at.contains_key(&key) {
            self.full_at.insert(key, full_at);
        }
    }

    /// The buckets that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.full_at.len()
    }
}
