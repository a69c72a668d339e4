//! The wall's totals: durable counters in memory, and the document that is computed from them.
//!
//! ```text
//!   ledger: every bucket (at the start)    --+
//!   committer, after each fsync:             +-->  Totals  --document(now)-->  one wall document
//!      the counter changes of the batch    --+
//! ```
//!
//! Only durable changes are counted here, so a kill -9 takes nothing back that a viewer has seen. [`Totals`] is plain data and arithmetic; the
//! caller supplies the time, the store names and the reachability.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::{Timestamp, ToSpan, Zoned};
use orderbell_protocol::wall::{
    Wall, WallCity, WallCurve, WallCurves, WallFunnel, WallKind, WallReachability, WallStage, WallStore, WallSums,
};
use orderbell_protocol::{Freshness, Id, UnixMs};

use super::directory::StoreDirectory;
use super::{WallConfig, WallNames};
use orderbell_ledger::counters::{CHAIN_MINUTES, STORES_MAX};
use orderbell_ledger::{Bucket, CounterDelta, CounterObserver, CounterSums, DatabaseError, StoredBuckets};
use orderbell_orders::counting::{
    Counter, CountingRules, DURATION_BUCKETS, FIRST_DURATION_COUNTER, STAGE_COUNTERS, duration_bucket_ms, minute,
};

/// Minutes that the funnel covers: long enough for a meal to be cooked, short enough to show a step that is blocked now.
const FUNNEL_MINUTES: u64 = 15;
/// Minutes by which stores and cities are ranked.
const RANK_MINUTES: u64 = 60;
/// Minutes of the curve that each document carries: a viewer that missed more requests a snapshot.
const RECENT_MINUTES: u64 = 5;
/// Stores and cities in one document: more than fit on any screen.
const STORES_SHOWN_MAX: usize = 24;
const CITIES_SHOWN_MAX: usize = 24;
/// Days of a store that are held in memory.
const STORE_DAYS: u32 = 2;
const MINUTE_MS: i64 = 60_000;

/// Paid orders of one store, by minute and by day.
#[derive(Debug, Default)]
struct StoreTotals {
    minutes: BTreeMap<u64, i64>,
    days: BTreeMap<u32, i64>,
}

/// Counters of the whole chain and of each store.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Number of the newest commit that is included.
    commit: u64,
    minutes: BTreeMap<u64, CounterSums>,
    days: BTreeMap<u32, CounterSums>,
    stores: HashMap<Id, StoreTotals>,
}

/// What a document needs besides the totals.
pub(super) struct DocumentContext<'a> {
    pub(super) now: UnixMs,
    pub(super) epoch: u32,
    pub(super) fresh: Freshness,
    pub(super) counting: &'a CountingRules,
    pub(super) config: &'a WallConfig,
    pub(super) names: &'a WallNames,
    /// Totals of stores by reachability.
    pub(super) reachability: WallReachability,
}

fn add(counters: &mut CounterSums, counter: u16, by: i64) {
    let sum = counters.entry(counter).or_default();
    *sum = sum.saturating_add(by);
}

fn sum<'a>(all: impl Iterator<Item = &'a CounterSums>) -> CounterSums {
    let mut sums = CounterSums::new();
    for counters in all {
        counters.iter().for_each(|(counter, by)| add(&mut sums, *counter, *by));
    }
    sums
}

fn of(counters: &CounterSums, counter: Counter) -> i64 {
    counters.get(&(counter as u16)).copied().unwrap_or(0)
}

fn sums(counters: &CounterSums) -> WallSums {
    WallSums {
        created: of(counters, Counter::Created),
        paid: of(counters, Counter::Paid),
        accepted: of(counters, Counter::Accepted),
        refused: of(counters, Counter::Refused),
        ready: of(counters, Counter::Ready),
        picked_up: of(counters, Counter::PickedUp),
        cancelled: of(counters, Counter::Cancelled),
        refunded: of(counters, Counter::Refunded),
        paid_amount: of(counters, Counter::PaidAmount),
        refunded_amount: of(counters, Counter::RefundedAmount),
    }
}

/// Median duration of one step of the funnel; none when no order took it.
fn median_ms(counters: &CounterSums, step: u16) -> Option<i64> {
    let spans: Vec<(u16, i64)> = (0..DURATION_BUCKETS)
        .filter_map(|span| Some((span, *counters.get(&(FIRST_DURATION_COUNTER + step * DURATION_BUCKETS + span))?)))
        .filter(|(_, orders)| *orders > 0)
        .collect();
    let all: i64 = spans.iter().map(|(_, orders)| orders).sum();
    let mut below = 0;
    for (span, orders) in spans {
        below += orders;
        if below * 2 >= all {
            return Some(duration_bucket_ms(span) as i64);
        }
    }
    None
}

impl Totals {
    /// Sets one bucket as the ledger has it.
    fn load(&mut self, window: &Bucket, counters: &CounterSums) {
        let paid = of(counters, Counter::Paid);
        match window {
            Bucket::ChainMinute(minute) => drop(self.minutes.insert(*minute, counters.clone())),
            Bucket::ChainDay(day) => drop(self.days.insert(*day, counters.clone())),
            Bucket::StoreMinute(minute, store) => {
                self.store(store).map(|paid| &mut paid.minutes).map(|at| at.insert(*minute, paid));
            }
            Bucket::StoreDay(day, store) => {
                self.store(store).map(|paid| &mut paid.days).map(|at| at.insert(*day, paid));
            }
        }
    }

    /// The totals of a store. A store beyond the bound counts for the chain only.
    fn store(&mut self, id: &Id) -> Option<&mut StoreTotals> {
        if self.stores.len() as u64 >= STORES_MAX && !self.stores.contains_key(id) {
            return None;
        }
        Some(self.stores.entry(id.clone()).or_default())
    }

    /// Adds one durable change.
    pub(super) fn apply(&mut self, change: &CounterDelta, commit: u64) {
        self.commit = self.commit.max(commit);
        add(self.minutes.entry(change.minute).or_default(), change.counter, change.by);
        add(self.days.entry(change.day).or_default(), change.counter, change.by);
        let store = change.store.as_ref().filter(|_| change.counter == Counter::Paid as u16);
        if let Some(paid) = store.and_then(|store| self.store(store)) {
            *paid.minutes.entry(change.minute).or_default() += change.by;
            *paid.days.entry(change.day).or_default() += change.by;
        }
    }

    /// Drops minutes and days that no document shows any more.
    pub(super) fn prune(&mut self, now: UnixMs, today: u32) {
        let this = minute(now);
        self.minutes = self.minutes.split_off(&this.saturating_sub(CHAIN_MINUTES));
        self.days = self.days.split_off(&today.saturating_sub(STORE_DAYS));
        for paid in self.stores.values_mut() {
            if paid.minutes.first_key_value().is_some_and(|(at, _)| at + RANK_MINUTES <= this) {
                paid.minutes = paid.minutes.split_off(&(this + 1).saturating_sub(RANK_MINUTES));
            }
            if paid.days.first_key_value().is_some_and(|(at, _)| at + STORE_DAYS <= today) {
                paid.days = paid.days.split_off(&(today + 1).saturating_sub(STORE_DAYS));
            }
        }
        self.stores.retain(|_, paid| !paid.days.is_empty());
    }

    fn curve(&self, day_start: UnixMs, from: u64, to: u64) -> WallCurve {
        let first = minute(day_start) + from;
        let paid = |minute: u64| self.minutes.get(&minute).map_or(0, |counters| of(counters, Counter::Paid));
        let from = u32::try_from(from).unwrap_or(u32::MAX);
        WallCurve { from, orders: (first..=to.max(first)).map(paid).collect() }
    }

    /// Sums over the first `elapsed_ms` of a day: whole minutes, and the elapsed share of the last one.
    fn sums_until(&self, day_start: UnixMs, elapsed_ms: i64) -> WallSums {
        let (first, last) = (minute(day_start), minute(day_start.plus_ms(elapsed_ms)));
        // The counters from FIRST_DURATION_COUNTER on count durations of steps, which are no part of the sums.
        let named = |counters: &CounterSums| {
            counters.range(..FIRST_DURATION_COUNTER).map(|(counter, by)| (*counter, *by)).collect::<CounterSums>()
        };
        let mut counters = CounterSums::new();
        for (_, minute) in self.minutes.range(first..last) {
            minute.range(..FIRST_DURATION_COUNTER).for_each(|(counter, by)| add(&mut counters, *counter, *by));
        }
        let share = elapsed_ms.rem_euclid(MINUTE_MS);
        for (counter, by) in self.minutes.get(&last).map(named).unwrap_or_default() {
            let part = i128::from(by) * i128::from(share) / i128::from(MINUTE_MS);
            add(&mut counters, counter, i64::try_from(part).unwrap_or(by));
        }
        sums(&counters)
    }

    /// Orders paid in the last sixty seconds: those of this minute, and the share of the previous minute that is still inside.
    fn per_minute(&self, now: UnixMs) -> i64 {
        let paid = |at: u64| self.minutes.get(&at).map_or(0, |counters| of(counters, Counter::Paid));
        let this = minute(now);
        let left = MINUTE_MS - now.0.rem_euclid(MINUTE_MS);
        paid(this) + (paid(this.saturating_sub(1)) * left + MINUTE_MS / 2) / MINUTE_MS
    }

    fn funnel(&self, now: UnixMs) -> WallFunnel {
        let this = minute(now);
        let counters =
            sum(self.minutes.range(this.saturating_sub(FUNNEL_MINUTES - 1)..=this).map(|(_, counters)| counters));
        let stages = STAGE_COUNTERS.iter().enumerate().map(|(at, (kind, counter))| WallStage {
            stage: kind.name().trim_start_matches("order.").to_owned(),
            orders: of(&counters, *counter),
            median_ms: at.checked_sub(1).and_then(|step| median_ms(&counters, step as u16)),
        });
        WallFunnel { minutes: FUNNEL_MINUTES as u32, stages: stages.collect() }
    }

    fn ranks(&self, now: UnixMs, today: u32, names: &StoreDirectory) -> (Vec<WallStore>, Vec<WallCity>) {
        let since = (minute(now) + 1).saturating_sub(RANK_MINUTES);
        let mut stores = Vec::with_capacity(self.stores.len());
        let mut cities: HashMap<&str, (i64, i64)> = HashMap::new();
        for (id, paid) in &self.stores {
            // Orders stamped by a clock that is ahead are not part of the last hour.
            let last_hour: i64 = paid.minutes.range(since..=minute(now)).map(|(_, orders)| orders).sum();
            let of_today = paid.days.get(&today).copied().unwrap_or(0);
            if let Some(city) = names.entry(id).and_then(|entry| entry.city.as_deref()) {
                let slot = cities.entry(city).or_default();
                (slot.0, slot.1) = (slot.0 + last_hour, slot.1 + of_today);
            }
            if last_hour > 0 {
                stores.push((last_hour, of_today, id));
            }
        }
        // Ties are broken by today's orders, then by id: rows with equal numbers must keep their order.
        stores.sort_unstable_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then_with(|| a.2.cmp(b.2)));
        let shown = stores.into_iter().take(STORES_SHOWN_MAX).map(|(last_hour, today, id)| {
            let entry = names.entry(id);
            let (name, city) = entry.map_or((None, None), |entry| (entry.name.clone(), entry.city.clone()));
            WallStore { id: id.to_string(), name, city, last_hour, today }
        });
        let mut cities: Vec<_> = cities
            .into_iter()
            .map(|(name, (last_hour, today))| WallCity { name: name.to_owned(), last_hour, today })
            .collect();
        cities.retain(|city| city.today > 0 || city.last_hour > 0);
        cities.sort_unstable_by(|a, b| (b.last_hour, b.today, &a.name).cmp(&(a.last_hour, a.today, &b.name)));
        cities.truncate(CITIES_SHOWN_MAX);
        (shown.collect(), cities)
    }

    /// Orders paid at a store in the last hour and today.
    pub(super) fn of_store(&self, store: &Id, now: UnixMs, today: u32) -> (i64, i64) {
        let Some(paid) = self.stores.get(store) else { return (0, 0) };
        let since = (minute(now) + 1).saturating_sub(RANK_MINUTES);
        (
            paid.minutes.range(since..=minute(now)).map(|(_, orders)| orders).sum(),
            paid.days.get(&today).copied().unwrap_or(0),
        )
    }

    /// Stores with recent orders that the directory does not list.
    pub(super) fn unlisted(&self, names: &StoreDirectory) -> Vec<Id> {
        self.stores.keys().filter(|id| names.entry(id).is_none()).cloned().collect()
    }

    /// The document for the time in `at`.
    pub(super) fn document(&self, at: &DocumentContext<'_>, kind: WallKind) -> Wall {
        let now = Timestamp::from_millisecond(at.now.0).expect("a time that this machine's clock shows");
        let now = now.to_zoned(at.counting.zone.clone());
        let start_of = |day: &Zoned| UnixMs(day.start_of_day().map_or(0, |day| day.timestamp().as_millisecond()));
        let yesterday = now.checked_sub(1.day()).unwrap_or_else(|_| now.clone());
        let (today_start, yesterday_start) = (start_of(&now), start_of(&yesterday));
        let same_time = UnixMs(yesterday.timestamp().as_millisecond());
        let today = at.counting.day(at.now);
        let this = minute(at.now);
        let so_far = this.saturating_sub(minute(today_start));
        let (stores, cities) = self.ranks(at.now, today, &at.names.stores);
        let curves = || WallCurves {
            today: self.curve(today_start, 0, this),
            yesterday: self.curve(yesterday_start, 0, minute(today_start).saturating_sub(1)),
        };
        Wall {
            kind,
            seq: self.commit,
            epoch: at.epoch,
            at: at.now,
            as_of: at.fresh.as_of,
            complete_through: at.fresh.as_of.map(|as_of| UnixMs(as_of.0 - as_of.0.rem_euclid(MINUTE_MS))),
            stale: at.fresh.stale,
            chain: at.config.name.clone(),
            time_zone: at.counting.zone.iana_name().unwrap_or("UTC").to_owned(),
            currency: at.counting.currency.clone(),
            currency_digits: at.config.currency_digits,
            day: now.date().to_string(),
            day_start: today_start,
            today: self.days.get(&today).map(sums).unwrap_or_default(),
            // The same local time of day, also on days with 23 or 25 hours.
            yesterday_by_now: self.sums_until(yesterday_start, same_time.0.min(today_start.0) - yesterday_start.0),
            per_minute: self.per_minute(at.now),
            funnel: self.funnel(at.now),
            stores,
            cities,
            reachability: at.reachability,
            recent: self.curve(today_start, (so_far + 1).saturating_sub(RECENT_MINUTES), this),
            curves: (kind == WallKind::Snapshot).then(curves),
        }
    }
}

/// The totals, shared between the ledger's notifier, which adds to them, and the feed, which shows them.
#[derive(Debug, Default)]
pub struct WallTotals(Mutex<Totals>);

impl WallTotals {
    pub(super) fn with<T>(&self, run: impl FnOnce(&mut Totals) -> T) -> T {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of the newest commit that is included.
    pub(super) fn commit(&self) -> u64 {
        self.with(|totals| totals.commit)
    }
}

/// Load-test traffic is counted in the ledger and not shown on the wall.
impl CounterObserver for WallTotals {
    fn loaded(&self, stored: &mut StoredBuckets<'_>, commit: u64) -> Result<(), DatabaseError> {
        let mut totals = Totals { commit, ..Totals::default() };
        for bucket in stored {
            let (is_load_test, window, counters) = bucket?;
            if !is_load_test {
                totals.load(&window, &counters);
            }
        }
        // At once, so that no viewer sees a part of them; and they were read without the lock.
        self.with(|shown| *shown = totals);
        Ok(())
    }

    fn changed(&self, changes: &[CounterDelta], commit: u64) {
        self.with(|totals| {
            changes.iter().filter(|change| !change.shadow).for_each(|change| totals.apply(change, commit))
        });
    }
}

#[cfg(test)]
#[path = "totals_tests.rs"]
mod tests;
