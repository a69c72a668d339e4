//! Sums by minute and by day, for the chain and for one store: what the rules add to, the ledger keeps and the wall shows.
//!
//! A counter is a number here; the rules define what it counts. Late and impossible times cost a bounded number of sums: minutes are kept while
//! the wall shows them (what is older counts in its day only), days for a little over a year (what is older counts as the day 0), stores up to a
//! limit (the rest count as one).

use std::collections::BTreeMap;

use crate::UnixMs;
use crate::recipient::Id;

/// Minutes of the whole chain are kept for eight days: today, yesterday, and the same day a week ago.
pub const CHAIN_MINUTES: u64 = 8 * 24 * 60;
/// Minutes of each store are kept for two hours: the last hour, and orders that come late for it.
pub const STORE_MINUTES: u64 = 120;
/// Days are kept for a little over a year.
pub const DAYS: u32 = 400;
/// Stores that are counted apart: above what any chain has; a producer that writes garbage must not fill the disk.
pub const STORES_MAX: u64 = 100_000;
/// Name of the stores beyond the limit, as one.
const OTHERS: &str = "(others)";
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// One change of the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterDelta {
    /// Load-test traffic: summed apart.
    pub shadow: bool,
    /// Minutes since 1970.
    pub minute: u64,
    /// Days since 1970, by the chain's own calendar.
    pub day: u32,
    /// The store, once one is known.
    pub store: Option<Id>,
    /// A number of the list in [`crate::counters`].
    pub counter: u16,
    /// How much is added.
    pub by: i64,
}

/// A counter that was never changed is missing.
pub type CounterSums = BTreeMap<u16, i64>;

/// The minute or day that a sum is of, for the chain or for one store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// The chain in one minute since 1970.
    ChainMinute(u64),
    /// Minutes since 1970.
    StoreMinute(u64, Id),
    /// Days since 1970, by the chain's own calendar.
    ChainDay(u32),
    /// Days since 1970, by the chain's own calendar.
    StoreDay(u32, Id),
}

impl Bucket {
    /// The buckets that a delta is added to at `now`. Orders whose store is not known count for the chain alone.
    #[must_use]
    pub fn of(delta: &CounterDelta, now: UnixMs) -> Vec<Self> {
        let (this_minute, today) = (minute_of(now), day_of(now));
        let day = if delta.day + DAYS < today { 0 } else { delta.day };
        let mut buckets = vec![Self::ChainDay(day)];
        buckets.extend(delta.store.iter().map(|store| Self::StoreDay(day, store.clone())));
        if delta.minute + CHAIN_MINUTES > this_minute {
            buckets.push(Self::ChainMinute(delta.minute));
        }
        if delta.minute + STORE_MINUTES > this_minute {
            buckets.extend(delta.store.iter().map(|store| Self::StoreMinute(delta.minute, store.clone())));
        }
        buckets
    }
}

/// Minutes since 1970; before that, 0.
#[must_use]
pub fn minute_of(at: UnixMs) -> u64 {
    (at.0.max(0) / MINUTE_MS).unsigned_abs()
}

/// Days since 1970; before that, 0.
#[must_use]
pub fn day_of(at: UnixMs) -> u32 {
    (at.0 / DAY_MS).clamp(0, i64::from(u32::MAX)) as u32
}

/// All stores beyond [`STORES_MAX`], as one.
#[must_use]
pub fn others() -> Id {
    Id::new(OTHERS).unwrap_or_else(|_| unreachable!("a fixed name"))
}
