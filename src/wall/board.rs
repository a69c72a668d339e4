//! The numbers that the wall shows, as they are durable; and what is made of them at a moment.
//!
//! ```text
//!   ledger at the start: every window  --+
//!   committer, behind each fsync:        +-->  Numbers  --at(now)-->  one document
//!      the changes of the batch        --+
//! ```
//!
//! Nothing is counted here that is not durable, so a kill -9 takes nothing back that a viewer has seen. [`Numbers`] is plain data and
//! arithmetic; who asks brings the time, the names and who is connected.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::{Timestamp, ToSpan, Zoned};
use orderbell_protocol::wall::{
    Wall, WallCity, WallCurve, WallCurves, WallFunnel, WallKind, WallReach, WallStage, WallStore, WallSums,
};
use orderbell_protocol::{Freshness, Id, UnixMs};

use super::directory::Directory;
use super::{WallConfig, WallNames};
use crate::ingest::tally::{Cell, Counting, LINE, SPANS, SPANS_FROM, minute, span_ms};
use crate::ledger::tally::{CHAIN_MINUTES, STORES_MAX};
use crate::ledger::{Board, Cells, Tally, Window};

/// Minutes of the funnel: long enough for a meal to be cooked, short enough to show what is stuck now.
const FUNNEL_MINUTES: u64 = 15;
/// Minutes of a store's rank.
const RANK_MINUTES: u64 = 60;
/// Minutes of the curve that each document carries: a viewer that was away for longer asks for a snapshot.
const TAIL_MINUTES: u64 = 5;
/// Stores and cities that are told: more than fit on any screen.
const STORES_SHOWN_MAX: usize = 24;
const CITIES_SHOWN_MAX: usize = 24;
/// A store's minutes and days that are held in memory.
const STORE_DAYS: u32 = 2;
const MINUTE_MS: i64 = 60_000;

/// One store's orders.
#[derive(Debug, Default)]
struct Paid {
    minutes: BTreeMap<u64, i64>,
    days: BTreeMap<u32, i64>,
}

/// All numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The newest commit that is in them.
    commit: u64,
    minutes: BTreeMap<u64, Cells>,
    days: BTreeMap<u32, Cells>,
    stores: HashMap<Id, Paid>,
}

/// What a document is made with, besides the numbers.
pub(super) struct At<'a> {
    pub(super) now: UnixMs,
    pub(super) epoch: u32,
    pub(super) fresh: Freshness,
    pub(super) counting: &'a Counting,
    pub(super) config: &'a WallConfig,
    pub(super) names: &'a WallNames,
    /// How stores can be reached.
    pub(super) reach: WallReach,
}

fn add(cells: &mut Cells, cell: u16, by: i64) {
    let sum = cells.entry(cell).or_default();
    *sum = sum.saturating_add(by);
}

fn sum<'a>(all: impl Iterator<Item = &'a Cells>) -> Cells {
    let mut sums = Cells::new();
    for cells in all {
        cells.iter().for_each(|(cell, by)| add(&mut sums, *cell, *by));
    }
    sums
}

fn of(cells: &Cells, cell: Cell) -> i64 {
    cells.get(&(cell as u16)).copied().unwrap_or(0)
}

fn sums(cells: &Cells) -> WallSums {
    WallSums {
        created: of(cells, Cell::Created),
        paid: of(cells, Cell::Paid),
        accepted: of(cells, Cell::Accepted),
        refused: of(cells, Cell::Refused),
        ready: of(cells, Cell::Ready),
        picked_up: of(cells, Cell::PickedUp),
        cancelled: of(cells, Cell::Cancelled),
        refunded: of(cells, Cell::Refunded),
        paid_amount: of(cells, Cell::PaidAmount),
        refunded_amount: of(cells, Cell::RefundedAmount),
    }
}

/// The middle of the lengths of one step; nothing when nobody took it.
fn median_ms(cells: &Cells, step: u16) -> Option<i64> {
    let spans: Vec<(u16, i64)> = (0..SPANS)
        .filter_map(|span| Some((span, *cells.get(&(SPANS_FROM + step * SPANS + span))?)))
        .filter(|(_, orders)| *orders > 0)
        .collect();
    let all: i64 = spans.iter().map(|(_, orders)| orders).sum();
    let mut below = 0;
    for (span, orders) in spans {
        below += orders;
        if below * 2 >= all {
            return Some(span_ms(span) as i64);
        }
    }
    None
}

impl Numbers {
    pub(super) fn stands(&mut self, window: &Window, cells: &Cells, commit: u64) {
        self.commit = self.commit.max(commit);
        let paid = of(cells, Cell::Paid);
        match window {
            Window::ChainMinute(minute) => drop(self.minutes.insert(*minute, cells.clone())),
            Window::ChainDay(day) => drop(self.days.insert(*day, cells.clone())),
            Window::StoreMinute(minute, store) => {
                self.store(store).map(|paid| &mut paid.minutes).map(|at| at.insert(*minute, paid));
            }
            Window::StoreDay(day, store) => {
                self.store(store).map(|paid| &mut paid.days).map(|at| at.insert(*day, paid));
            }
        }
    }

    /// Beyond the bound a store is counted for the chain alone.
    fn store(&mut self, id: &Id) -> Option<&mut Paid> {
        if self.stores.len() as u64 >= STORES_MAX && !self.stores.contains_key(id) {
            return None;
        }
        Some(self.stores.entry(id.clone()).or_default())
    }

    pub(super) fn counted(&mut self, change: &Tally, commit: u64) {
        self.commit = self.commit.max(commit);
        add(self.minutes.entry(change.minute).or_default(), change.cell, change.by);
        add(self.days.entry(change.day).or_default(), change.cell, change.by);
        let store = change.store.as_ref().filter(|_| change.cell == Cell::Paid as u16);
        if let Some(paid) = store.and_then(|store| self.store(store)) {
            *paid.minutes.entry(change.minute).or_default() += change.by;
            *paid.days.entry(change.day).or_default() += change.by;
        }
    }

    /// What nobody looks at any more goes.
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

    fn curve(&self, began: UnixMs, from: u64, to: u64) -> WallCurve {
        let first = minute(began) + from;
        let paid = |minute: u64| self.minutes.get(&minute).map_or(0, |cells| of(cells, Cell::Paid));
        let from = u32::try_from(from).unwrap_or(u32::MAX);
        WallCurve { from, orders: (first..=to.max(first)).map(paid).collect() }
    }

    /// From a day's beginning on for so long: whole minutes, and the last one's share.
    fn until(&self, began: UnixMs, elapsed_ms: i64) -> WallSums {
        let (first, last) = (minute(began), minute(began.plus_ms(elapsed_ms)));
        // How long steps took is nobody's question here.
        let named = |cells: &Cells| cells.range(..SPANS_FROM).map(|(cell, by)| (*cell, *by)).collect::<Cells>();
        let mut cells = Cells::new();
        for (_, minute) in self.minutes.range(first..last) {
            minute.range(..SPANS_FROM).for_each(|(cell, by)| add(&mut cells, *cell, *by));
        }
        let share = elapsed_ms.rem_euclid(MINUTE_MS);
        for (cell, by) in self.minutes.get(&last).map(named).unwrap_or_default() {
            let part = i128::from(by) * i128::from(share) / i128::from(MINUTE_MS);
            add(&mut cells, cell, i64::try_from(part).unwrap_or(by));
        }
        sums(&cells)
    }

    /// Orders paid in the last sixty seconds: this minute, and the part of the one before that is not a minute ago yet.
    fn per_minute(&self, now: UnixMs) -> i64 {
        let paid = |at: u64| self.minutes.get(&at).map_or(0, |cells| of(cells, Cell::Paid));
        let this = minute(now);
        let left = MINUTE_MS - now.0.rem_euclid(MINUTE_MS);
        paid(this) + (paid(this.saturating_sub(1)) * left + MINUTE_MS / 2) / MINUTE_MS
    }

    fn funnel(&self, now: UnixMs) -> WallFunnel {
        let this = minute(now);
        let cells = sum(self.minutes.range(this.saturating_sub(FUNNEL_MINUTES - 1)..=this).map(|(_, cells)| cells));
        let stages = LINE.iter().enumerate().map(|(at, (kind, cell))| WallStage {
            stage: kind.name().trim_start_matches("order.").to_owned(),
            orders: of(&cells, *cell),
            median_ms: at.checked_sub(1).and_then(|step| median_ms(&cells, step as u16)),
        });
        WallFunnel { minutes: FUNNEL_MINUTES as u32, stages: stages.collect() }
    }

    fn ranks(&self, now: UnixMs, today: u32, names: &Directory) -> (Vec<WallStore>, Vec<WallCity>) {
        let since = (minute(now) + 1).saturating_sub(RANK_MINUTES);
        let mut stores = Vec::with_capacity(self.stores.len());
        let mut cities: HashMap<&str, (i64, i64)> = HashMap::new();
        for (id, paid) in &self.stores {
            // A clock that is ahead does not make a busy hour.
            let last_hour: i64 = paid.minutes.range(since..=minute(now)).map(|(_, orders)| orders).sum();
            let of_today = paid.days.get(&today).copied().unwrap_or(0);
            if let Some(city) = names.shop(id).and_then(|shop| shop.city.as_deref()) {
                let slot = cities.entry(city).or_default();
                (slot.0, slot.1) = (slot.0 + last_hour, slot.1 + of_today);
            }
            if last_hour > 0 {
                stores.push((last_hour, of_today, id));
            }
        }
        // Ties by today's orders, then by id: what stands still must not jump about.
        stores.sort_unstable_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then_with(|| a.2.cmp(b.2)));
        let shown = stores.into_iter().take(STORES_SHOWN_MAX).map(|(last_hour, today, id)| {
            let shop = names.shop(id);
            let (name, city) = shop.map_or((None, None), |shop| (shop.name.clone(), shop.city.clone()));
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

    /// Orders paid at a store in the last hour, and today.
    pub(super) fn of_store(&self, store: &Id, now: UnixMs, today: u32) -> (i64, i64) {
        let Some(paid) = self.stores.get(store) else { return (0, 0) };
        let since = (minute(now) + 1).saturating_sub(RANK_MINUTES);
        (
            paid.minutes.range(since..=minute(now)).map(|(_, orders)| orders).sum(),
            paid.days.get(&today).copied().unwrap_or(0),
        )
    }

    /// Stores that had orders lately and are in no directory.
    pub(super) fn unnamed(&self, names: &Directory) -> Vec<Id> {
        self.stores.keys().filter(|id| names.shop(id).is_none()).cloned().collect()
    }

    /// The document of this moment.
    pub(super) fn at(&self, at: &At<'_>, kind: WallKind) -> Wall {
        let now = Timestamp::from_millisecond(at.now.0).unwrap_or_default().to_zoned(at.counting.zone.clone());
        let began = |day: &Zoned| UnixMs(day.start_of_day().map_or(0, |day| day.timestamp().as_millisecond()));
        let yesterday = now.checked_sub(1.day()).unwrap_or_else(|_| now.clone());
        let (today_began, yesterday_began) = (began(&now), began(&yesterday));
        let same_time = UnixMs(yesterday.timestamp().as_millisecond());
        let today = at.counting.day(at.now);
        let this = minute(at.now);
        let so_far = this.saturating_sub(minute(today_began));
        let (stores, cities) = self.ranks(at.now, today, &at.names.stores);
        let curves = || WallCurves {
            today: self.curve(today_began, 0, this),
            yesterday: self.curve(yesterday_began, 0, minute(today_began).saturating_sub(1)),
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
            day_began: today_began,
            today: self.days.get(&today).map(sums).unwrap_or_default(),
            // The same time by the clock on the wall, also on days that are longer or shorter.
            yesterday_by_now: self.until(yesterday_began, same_time.0.min(today_began.0) - yesterday_began.0),
            per_minute: self.per_minute(at.now),
            funnel: self.funnel(at.now),
            stores,
            cities,
            reach: at.reach,
            tail: self.curve(today_began, (so_far + 1).saturating_sub(TAIL_MINUTES), this),
            curves: (kind == WallKind::Snapshot).then(curves),
        }
    }
}

/// The numbers, shared between the committer and whoever shows them.
#[derive(Debug, Default)]
pub struct WallBoard(Mutex<Numbers>);

impl WallBoard {
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Numbers) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest commit that is in the numbers.
    pub(super) fn commit(&self) -> u64 {
        self.with(|numbers| numbers.commit)
    }
}

/// Load-test traffic is counted in the ledger and shown nowhere.
impl Board for WallBoard {
    fn stands(&self, shadow: bool, window: &Window, cells: &Cells, commit: u64) {
        if !shadow {
            self.with(|numbers| numbers.stands(window, cells, commit));
        }
    }

    fn counted(&self, changes: &[Tally], commit: u64) {
        self.with(|numbers| changes.iter().filter(|change| !change.shadow).for_each(|c| numbers.counted(c, commit)));
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
