//! When each store polled last. Hands out no guard, as `registry` does.

use dashmap::DashMap;
use orderbell_protocol::{Recipient, UnixMs};

/// A recipient that polled within this interval counts as reachable: two poll intervals plus slack. Milliseconds.
const REACHABLE_MS: i64 = 150_000;
/// Stores that are remembered: more than any chain has.
const STORES_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct PolledStores(DashMap<Recipient, UnixMs>);

impl PolledStores {
    pub(super) fn record(&self, who: &Recipient, now: UnixMs) {
        // Most polls are of a known store: they take one shard's lock.
        if let Some(mut at) = self.0.get_mut(who) {
            *at = now;
            return;
        }
        if self.0.len() >= STORES_MAX {
            self.0.retain(|_, at| at.plus_ms(REACHABLE_MS) > now);
        }
        if self.0.len() < STORES_MAX {
            self.0.insert(who.clone(), now);
        }
    }

    pub(super) fn is_recent(&self, who: &Recipient, now: UnixMs) -> bool {
        self.0.get(who).is_some_and(|at| at.plus_ms(REACHABLE_MS) > now)
    }
}
