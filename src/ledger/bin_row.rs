//! One bin of the balance as it is stored, and how it changes. Pure.
//!
//! Records of most bins stay there, so how many somebody looked after says which: the oldest. Orders leave the bin `awaits_store`. Each says
//! when it came, and an acknowledgement is about those that came up to a second:
//!
//! ```text
//!   came:    ......... acknowledged_to ........ the last 20 seconds
//!            looked after               open    no alert yet
//! ```
//!
//! An order that came by then and was stored later than 20 seconds, or whose clock was set back, counts as open; when it leaves, it takes one that
//! was looked after with it, since nothing says which of them it was. So an alert stays that could end, and none ends that must stay.
//! For the same reason orders that came later than it is now raise the alert at once: the clock was set back, and by it they would wait for as
//! long as it was.

use std::collections::BTreeMap;

use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{BinCount, BinDelta, BinKey, RecordPlace, STORE_MAX_WAIT_MS};

/// So long the orders of each second are known apart, beyond the time in which they raise no alert: an acknowledgement is stored by then.
const KNOWN_APART_S: i64 = 10;
/// Orders that came at most this much later than now may still wait for their store: a clock that is kept right is set back by less.
const CLOCK_STEP_S: i64 = 5;
/// Seconds that are known apart: more than there are, unless a clock was set back.
const SECONDS_MAX: usize = 64;
/// Bytes of a row without orders of single seconds, and of one second.
const FIXED_BYTES: usize = 52;
const SECOND_BYTES: usize = 16;

/// One row: the value of a [`BinKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BinRow {
    pub(super) records: i64,
    /// Of these somebody looked after so many.
    acknowledged: i64,
    since: UnixMs,
    newest: RecordPlace,
    waits: Waits,
}

/// When the orders of the bin `awaits_store` came. Seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Waits {
    /// Somebody looked after those that came up to this second.
    acknowledged_to: i64,
    /// How many came in each second after this one is known.
    apart_after: i64,
    by_second: BTreeMap<i64, i64>,
}

/// The last second whose orders raise the alert by now.
pub(super) fn alerted_until(now: UnixMs) -> i64 {
    second(now.plus_ms(-STORE_MAX_WAIT_MS)) - 1
}

fn second(at: UnixMs) -> i64 {
    at.0.div_euclid(1_000)
}

impl Waits {
    fn came_after(&self, second: i64) -> i64 {
        self.by_second.range(second.saturating_add(1)..).map(|(_, orders)| orders).sum()
    }

    /// The last second of an order that may still wait for its store now.
    fn latest(now: UnixMs) -> i64 {
        second(now).saturating_add(CLOCK_STEP_S)
    }

    /// So many orders that came at this time are added, or leave.
    fn change(&mut self, came: UnixMs, by: i64, now: UnixMs) {
        let latest = Self::latest(now);
        if self.apart_after > latest || self.by_second.last_key_value().is_some_and(|(last, _)| *last > latest) {
            self.by_second.retain(|second, _| *second <= latest);
            self.apart_after = self.apart_after.min(alerted_until(now));
        }
        if second(came) > self.apart_after {
            let orders = self.by_second.entry(second(came)).or_default();
            *orders = orders.saturating_add(by);
        }
        self.apart_after = self.apart_after.max(alerted_until(now) - KNOWN_APART_S);
        if self.by_second.len() > SECONDS_MAX
            && let Some((first, _)) = self.by_second.first_key_value()
        {
            self.apart_after = self.apart_after.max(*first);
        }
        self.by_second.retain(|second, orders| *second > self.apart_after && *orders > 0);
    }
}

impl BinRow {
    /// A bin in which nothing is yet.
    pub(super) fn empty(now: UnixMs) -> Self {
        let newest = RecordPlace { partition: 0, offset: 0 };
        Self { records: 0, acknowledged: 0, since: now, newest, waits: Waits::default() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Waits { acknowledged_to, apart_after, by_second } = &self.waits;
        let numbers = [self.records, self.acknowledged, self.since.0, *acknowledged_to, *apart_after];
        let numbers = numbers.map(i64::to_be_bytes).concat();
        let place = [&self.newest.offset.to_be_bytes()[..], &self.newest.partition.to_be_bytes()].concat();
        let seconds = by_second.iter().flat_map(|(second, orders)| [*second, *orders]).flat_map(i64::to_be_bytes);
        numbers.into_iter().chain(place).chain(seconds).collect()
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let (fixed, seconds) = row.split_at_checked(FIXED_BYTES)?;
        let (seconds, []) = seconds.as_chunks::<SECOND_BYTES>() else { return None };
        let ([records, acknowledged, since, acknowledged_to, apart_after, offset], partition) = fixed.as_chunks::<8>()
        else {
            return None;
        };
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
        let by_second = seconds.iter().map(|one| Some((number(&one[..8])?, number(&one[8..])?)));
        Some(Self {
            records: i64::from_be_bytes(*records),
            acknowledged: i64::from_be_bytes(*acknowledged),
            since: UnixMs(i64::from_be_bytes(*since)),
            newest: RecordPlace {
                partition: u32::from_be_bytes(partition.try_into().ok()?),
                offset: u64::from_be_bytes(*offset),
            },
            waits: Waits {
                acknowledged_to: i64::from_be_bytes(*acknowledged_to),
                apart_after: i64::from_be_bytes(*apart_after),
                by_second: by_second.collect::<Option<_>>()?,
            },
        })
    }

    fn open(&self) -> i64 {
        self.records - self.acknowledged
    }

    /// Changes the row by records of which somebody looked after so many before they were counted. `at` is when they came.
    pub(super) fn change(&mut self, delta: &BinDelta, acknowledged: i64, at: UnixMs) {
        if delta.by > 0 {
            self.since = if self.open() > 0 { self.since } else { at };
            self.newest = delta.place;
        }
        self.records = self.records.saturating_add(delta.by).max(0);
        self.acknowledged = self.acknowledged.saturating_add(acknowledged);
        let Some(came) = delta.waits_since else { return };
        if delta.by < 0 && second(came) <= self.waits.acknowledged_to {
            self.acknowledged = self.acknowledged.saturating_add(delta.by).max(0);
        }
        self.waits.change(came, delta.by, at);
        // All that are open came in these seconds: the first of them is the oldest.
        if let Some((first, _)) = self.waits.by_second.first_key_value()
            && self.open() <= self.waits.came_after(self.waits.apart_after)
        {
            self.since = UnixMs(first.saturating_mul(1_000));
        }
    }

    /// The last second whose orders raise the alert now. Where a clock was set back, orders of later ones are not known apart.
    pub(super) fn alerted_until(&self, now: UnixMs) -> i64 {
        let later = self.waits.by_second.last_key_value().map(|(last, _)| *last);
        let later = later.filter(|last| *last > Waits::latest(now)).unwrap_or(i64::MIN);
        alerted_until(now).max(self.waits.apart_after).max(later)
    }

    /// How many records there are without the orders that raise no alert yet.
    pub(super) fn alerted(&self, now: UnixMs) -> i64 {
        self.records - self.waits.came_after(self.alerted_until(now))
    }

    /// Somebody looked after so many records. Of orders that wait for their store, they came up to the second `alerted_until`.
    pub(super) fn acknowledge(&mut self, seen: i64, alerted_until: i64) {
        let there = self.records - self.waits.came_after(alerted_until);
        self.acknowledged = self.acknowledged.max(seen.min(there));
        self.waits.acknowledged_to = self.waits.acknowledged_to.max(alerted_until);
    }

    /// The row for those who read it.
    pub(super) fn count(&self, key: BinKey, now: UnixMs) -> BinCount {
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        BinCount {
            key,
            records: count(self.records),
            acknowledged: count(self.acknowledged),
            waiting: count(self.records - self.alerted(now)),
            since: (self.open() > 0).then_some(self.since),
            newest: self.newest,
        }
    }
}

#[cfg(test)]
#[path = "bin_row_tests.rs"]
mod tests;
