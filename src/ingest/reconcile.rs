//! The same numbers a second time: every event of the log is applied again, and what comes out is compared with the tallies.
//!
//! ```text
//!   log --decode--> Order::apply --> changes --> sums     compared with the ledger's, window by window     differences: none
//! ```
//!
//! It uses the rules of the life of an order and none of the ledger's bookkeeping: a batch that was folded twice, or a restart that forgot
//! one, shows here. Orders can be taken in slices, one reading of the log for each, so that memory is bounded whatever the log holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use orderbell_consumers::Record;
use orderbell_protocol::{Event, UnixMs};

use super::life::{LifeRules, Order};
use super::mapping::Mapping;
use super::tally::{self, Cell};
use crate::ledger::tally::{CHAIN_MINUTES, STORE_MINUTES, others};
use crate::ledger::{Cells, OrderKey, Window};

/// An order whose first events the log does not hold any more may end within this time: windows are compared from then on.
const LIFE_MS: i64 = 24 * 3_600_000;
/// A day begins at most so long before its namesake in UTC.
const ZONE_MS: i64 = 14 * 3_600_000;
/// Minutes at the old end that may just be going.
const GRACE_MINUTES: u64 = 15;
const DAY_MS: i64 = 86_400_000;
/// 2010-01-01: no log is older.
const EARLIEST: UnixMs = UnixMs(1_262_304_000_000);

/// Sums by window.
pub type Sums = BTreeMap<(bool, Window), Cells>;

/// Counts a log again.
pub struct Recount {
    mapping: Mapping,
    rules: LifeRules,
    now: UnixMs,
    /// Which slice of the orders, of how many.
    slice: (u64, u64),
    orders: HashMap<OrderKey, Order>,
    /// Events behind a frontier: the ledger may have them or not.
    unfinished: HashMap<OrderKey, Vec<(Event, UnixMs)>>,
    sums: Sums,
    /// Records that are no events, or were refused.
    refused: u64,
}

impl Recount {
    /// Counts one slice of the orders; `now` is when it is compared.
    #[must_use]
    pub fn new(mapping: Mapping, rules: LifeRules, now: UnixMs, slice: (u64, u64)) -> Self {
        Self {
            mapping,
            rules,
            now,
            slice,
            orders: HashMap::new(),
            unfinished: HashMap::new(),
            sums: Sums::new(),
            refused: 0,
        }
    }

    /// The next record of its partition; `finished`: it stands below its partition's frontier.
    pub fn hear(&mut self, record: &Record, finished: bool) {
        // When it was read is not known any more; when it was written is close enough to judge its age by, unless that is absurd.
        let then = UnixMs(record.timestamp_ms).clamp(EARLIEST, self.now);
        let Ok(event) = self.mapping.decode(record, then) else {
            self.refused += 1;
            return;
        };
        let key = OrderKey { shadow: event.shadow, id: event.order.clone() };
        let (slice, slices) = self.slice;
        if xxhash_rust::xxh3::xxh3_64(key.id.as_str().as_bytes()) % slices != slice {
            return;
        }
        if !finished {
            self.unfinished.entry(key).or_default().push((event, then));
            return;
        }
        // What the ledger would have forgotten by then.
        let held = self.orders.get(&key).filter(|order| order.forget_at(self.rules.retention_ms) > then);
        let Ok((Some(next), _)) = Order::apply(held, &event, then, &self.rules) else {
            self.refused += 1;
            return;
        };
        for change in tally::of_order(held, &next, key.shadow, &self.rules.counting) {
            for window in Window::of(&change, self.now) {
                let sums = self.sums.entry((change.shadow, window)).or_default();
                *sums.entry(change.cell).or_default() += change.by;
            }
        }
        self.orders.insert(key, next);
    }

    /// Adds what was counted to `sums`, and to `moving` the windows in which an event counts that the ledger may have or not; how many
    /// records were refused.
    pub fn give(self, sums: &mut Sums, moving: &mut BTreeSet<(bool, Window)>) -> u64 {
        for (key, events) in self.unfinished {
            let mut order = self.orders.get(&key).cloned();
            for (event, then) in events {
                let Ok((Some(next), _)) = Order::apply(order.as_ref(), &event, then, &self.rules) else { continue };
                // With these, without them, or with some: what stands in any of these states may have changed.
                for state in order.iter().chain([&next]) {
                    let all = tally::of_order(None, state, key.shadow, &self.rules.counting);
                    moving.extend(
                        all.iter().flat_map(|change| Window::of(change, self.now)).map(|window| (key.shadow, window)),
                    );
                }
                order = Some(next);
            }
        }
        for (window, cells) in self.sums {
            let all = sums.entry(window).or_default();
            cells.into_iter().for_each(|(cell, by)| *all.entry(cell).or_default() += by);
        }
        self.refused
    }
}

/// One number that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Load-test traffic.
    pub shadow: bool,
    /// Where.
    pub window: Window,
    /// Which number.
    pub cell: u16,
    /// What the ledger has.
    pub ledger: i64,
    /// What the log says.
    pub log: i64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shadow, window, cell, ledger, log } = self;
        let name = Cell::NAMES.iter().find(|(known, _)| *known as u16 == *cell).map(|(_, name)| *name);
        let place = match window {
            Window::ChainMinute(minute) => format!("minute {minute}"),
            Window::StoreMinute(minute, store) => format!("minute {minute} store {store}"),
            Window::ChainDay(day) => format!("day {day}"),
            Window::StoreDay(day, store) => format!("day {day} store {store}"),
        };
        let shadow = if *shadow { "shadow " } else { "" };
        match name {
            Some(name) => write!(f, "{shadow}{place} {name}: ledger {ledger}, log {log}"),
            None => write!(f, "{shadow}{place} cell {cell}: ledger {ledger}, log {log}"),
        }
    }
}

/// From when on windows are compared: all of the log is there, or an order's life behind where what is there begins.
#[must_use]
pub fn covered(log_begins: Option<UnixMs>) -> UnixMs {
    log_begins.map_or(UnixMs(0), |begins| begins.plus_ms(LIFE_MS))
}

/// True for a window that both sides must know whole.
fn compared(window: &Window, covered: UnixMs, now: UnixMs) -> bool {
    let this = tally::minute(now);
    let since = |minute: u64, kept: u64| {
        minute > tally::minute(covered) && minute > (this + GRACE_MINUTES).saturating_sub(kept)
    };
    match window {
        Window::ChainMinute(minute) => since(*minute, CHAIN_MINUTES),
        Window::StoreMinute(minute, _) => since(*minute, STORE_MINUTES),
        // Stores beyond the bound are summed as one, and which they were depends on who came first.
        Window::StoreDay(_, store) if *store == others() => false,
        Window::ChainDay(day) | Window::StoreDay(day, _) => {
            *day > 0 && (covered.0 == 0 || i64::from(*day) * DAY_MS - ZONE_MS > covered.0)
        }
    }
}

/// Compares the ledger's sums with those of the log, but for those that move: how many numbers were compared, and those that differ.
#[must_use]
pub fn compare(
    ledger: &Sums,
    log: &Sums,
    moving: &BTreeSet<(bool, Window)>,
    covered: UnixMs,
    now: UnixMs,
) -> (u64, Vec<Difference>) {
    let (mut numbers, mut differences) = (0, Vec::new());
    let crowded: Vec<_> = ledger
        .keys()
        .filter_map(|(shadow, window)| match window {
            Window::StoreDay(day, store) if *store == others() => Some((*shadow, *day)),
            _ => None,
        })
        .collect();
    let empty = Cells::new();
    let keys: BTreeSet<_> = ledger.keys().chain(log.keys()).collect();
    for (shadow, window) in keys.into_iter().filter(|key| compared(&key.1, covered, now) && !moving.contains(*key)) {
        let key = (*shadow, window.clone());
        // A store that the ledger has no row of, on a day that was full, is one of the others.
        let beyond = matches!(window, Window::StoreDay(day, _) if crowded.contains(&(*shadow, *day)));
        if beyond && !ledger.contains_key(&key) {
            continue;
        }
        let (ours, theirs) = (ledger.get(&key).unwrap_or(&empty), log.get(&key).unwrap_or(&empty));
        let cells: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for cell in cells {
            let number = |cells: &Cells| cells.get(cell).copied().unwrap_or(0);
            numbers += 1;
            if number(ours) != number(theirs) {
                differences.push(Difference {
                    shadow: *shadow,
                    window: window.clone(),
                    cell: *cell,
                    ledger: number(ours),
                    log: number(theirs),
                });
            }
        }
    }
    (numbers, differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn sums(all: &[(Window, u16, i64)]) -> Sums {
        let mut sums = Sums::new();
        for (window, cell, by) in all {
            sums.entry((false, window.clone())).or_default().insert(*cell, *by);
        }
        sums
    }

    fn none() -> BTreeSet<(bool, Window)> {
        BTreeSet::new()
    }

    fn record(kind: &str, order: &str, at: UnixMs) -> Record {
        let value = serde_json::json!({"type": kind, "order": order, "id": format!("{kind}-{order}"), "store": "1", "time": at.0});
        Record {
            part: orderbell_consumers::Part::new("orders", 0),
            offset: 0,
            timestamp_ms: at.0,
            read_ms: 0,
            key: None,
            value: Some(value.to_string().into_bytes().into()),
            headers: Vec::new(),
        }
    }

    /// The ledger may have folded what stands behind its frontier, or not: neither is a difference, and what else is wrong is found.
    #[test]
    fn what_is_not_finished_may_be_counted_or_not() {
        let rules = LifeRules { retention_ms: DAY_MS, ..LifeRules::default() };
        let early = NOW.plus_ms(-3_600_000);
        let recounted = |finished: bool| {
            let mut recount = Recount::new(Mapping::default(), rules.clone(), NOW, (0, 1));
            recount.hear(&record("order.paid", "o1", early), true);
            recount.hear(&record("order.accepted", "o1", early.plus_ms(120_000)), finished);
            let (mut sums, mut moving) = (Sums::new(), none());
            recount.give(&mut sums, &mut moving);
            (sums, moving)
        };
        let (with, nothing_moves) = recounted(true);
        let (without, moving) = recounted(false);
        assert!(nothing_moves.is_empty() && with != without);
        for ledger in [&with, &without] {
            assert_eq!(compare(ledger, &without, &moving, UnixMs(0), NOW).1, []);
        }
        assert_ne!(compare(&with, &without, &none(), UnixMs(0), NOW).1, []);
        let mut wrong = with.clone();
        wrong.insert((false, Window::ChainMinute(tally::minute(early) + 30)), [(1, 1)].into());
        assert_eq!(compare(&wrong, &without, &moving, UnixMs(0), NOW).1.len(), 1);
    }

    #[test]
    fn a_number_that_one_side_has_and_the_other_has_not_is_a_difference() {
        let minute = tally::minute(NOW);
        let (chain, store) = (Window::ChainMinute(minute), Window::StoreMinute(minute, Id::new("1").unwrap()));
        let ledger = sums(&[(chain.clone(), 1, 7), (store.clone(), 1, 7)]);
        assert_eq!(compare(&ledger, &ledger, &none(), UnixMs(0), NOW), (2, vec![]));
        let log = sums(&[(chain, 1, 6), (store, 2, 1)]);
        let (numbers, differences) = compare(&ledger, &log, &none(), UnixMs(0), NOW);
        let told: Vec<_> = differences.iter().map(|one| (one.cell, one.ledger, one.log)).collect();
        assert_eq!((numbers, told), (3, vec![(1, 7, 6), (1, 7, 0), (2, 0, 1)]));
        assert!(differences[0].to_string().ends_with("paid: ledger 7, log 6"));
    }

    #[test]
    fn only_windows_that_both_sides_know_whole_are_compared() {
        let minute = tally::minute(NOW);
        let day = (NOW.0 / DAY_MS) as u32;
        let log = sums(&[
            (Window::ChainMinute(minute), 1, 1),
            (Window::ChainMinute(minute - CHAIN_MINUTES), 1, 1),
            (Window::ChainDay(day), 1, 1),
            (Window::ChainDay(0), 1, 1),
        ]);
        assert_eq!(compare(&Sums::new(), &log, &none(), UnixMs(0), NOW).1.len(), 2);
        let begins = covered(Some(NOW.plus_ms(-LIFE_MS - 120_000)));
        assert_eq!(compare(&Sums::new(), &log, &none(), begins, NOW).1.len(), 1, "the day began before");
    }
}
