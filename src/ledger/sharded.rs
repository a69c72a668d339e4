//! A value in shards by recipient, each behind a lock of its own.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orderbell_protocol::Recipient;

/// With as many shards as this, threads rarely meet on one: a machine has fewer threads that acknowledge.
pub const SHARDS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: [Mutex<T>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: foldhash::fast::RandomState::default() }
    }
}

impl<T> Sharded<T> {
    /// The shard of a recipient, locked.
    pub fn lock(&self, who: &Recipient) -> MutexGuard<'_, T> {
        let shard = self.hasher.hash_one(who) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every shard in turn; each is locked only while the caller holds its guard.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
