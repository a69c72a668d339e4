//! Tallies: numbers under a cell, summed by minute and by day, for the chain and for each store. What a cell means is not known here.
//!
//! ```text
//!   change (minute, day, store, cell, by)  -->  chain's minute   store's minute   chain's day   store's day       in the turn's own batch
//! ```
//!
//! A change comes with the state that it follows from and is written with it, so the sums are those of the states, whatever crashes. Late
//! and absurd times cost a bounded number of rows: minutes are kept for as long as somebody looks at them (what is older counts in its day
//! only), days for a little over a year (what is older counts as the day 0), stores up to a bound (the rest count as one).
//!
//! A row is a list of (cell, sum), both as variable-length numbers: most cells of most rows are never touched.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use orderbell_protocol::{Id, UnixMs};

use super::disk::{DiskError, Row, Space, View};
use super::keys;
use super::stage::Stage;

/// Minutes of the whole chain are kept for eight days: today, yesterday, and the same day a week ago.
pub const CHAIN_MINUTES: u64 = 8 * 24 * 60;
/// Minutes of each store are kept for two hours: the last hour, and orders that come late for it.
pub const STORE_MINUTES: u64 = 120;
/// Days are kept for a little over a year.
pub const DAYS: u32 = 400;
/// Stores that are counted apart: above what any chain has; a producer that writes garbage must not fill the disk.
pub const STORES_MAX: u64 = 100_000;
/// Rows dropped in one step of upkeep, of each kind.
const DROPS_MAX: usize = 1_024;
/// A minute is dropped this much later than it is no longer written, so that what is under way never meets a row that is half gone.
const GRACE_MINUTES: u64 = 10;
/// What stores beyond the bound are called.
const OTHERS: &str = "(others)";
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const RECENT_DAYS: u64 = 3;

/// One change of the tallies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Load-test traffic: summed apart.
    pub shadow: bool,
    /// Minutes since 1970.
    pub minute: u64,
    /// Days since 1970, by the chain's own calendar.
    pub day: u32,
    /// The store, once one is known.
    pub store: Option<Id>,
    /// Which number.
    pub cell: u16,
    /// How much is added.
    pub by: i64,
}

/// Sums by cell.
pub type Cells = BTreeMap<u16, i64>;

/// Whose sums, and when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The chain in one minute since 1970.
    ChainMinute(u64),
    /// A store in one minute.
    StoreMinute(u64, Id),
    /// The chain on one day.
    ChainDay(u32),
    /// A store on one day.
    StoreDay(u32, Id),
}

impl Window {
    /// The windows that a change is summed in, as seen at `now`. Orders whose store is not known count for the chain alone.
    #[must_use]
    pub fn of(change: &Tally, now: UnixMs) -> Vec<Self> {
        let this = u64::try_from(now.0 / MINUTE_MS).unwrap_or_default();
        let today = u32::try_from(now.0 / DAY_MS).unwrap_or_default();
        let day = if change.day + DAYS < today { 0 } else { change.day };
        let mut windows = vec![Self::ChainDay(day)];
        windows.extend(change.store.iter().map(|store| Self::StoreDay(day, store.clone())));
        if change.minute + CHAIN_MINUTES > this {
            windows.push(Self::ChainMinute(change.minute));
        }
        if change.minute + STORE_MINUTES > this {
            windows.extend(change.store.iter().map(|store| Self::StoreMinute(change.minute, store.clone())));
        }
        windows
    }
}

const CHAIN_MINUTE: u8 = b'm';
const STORE_MINUTE: u8 = b'n';
const CHAIN_DAY: u8 = b'c';
const STORE_DAY: u8 = b'd';
/// How many stores a day has rows of.
const CROWD: u8 = b'k';

fn key(shadow: bool, window: &Window) -> Vec<u8> {
    let mut key = vec![u8::from(shadow)];
    let (tag, at, store) = match window {
        Window::ChainMinute(minute) => (CHAIN_MINUTE, *minute, None),
        Window::StoreMinute(minute, store) => (STORE_MINUTE, *minute, Some(store)),
        Window::ChainDay(day) => (CHAIN_DAY, u64::from(*day), None),
        Window::StoreDay(day, store) => (STORE_DAY, u64::from(*day), Some(store)),
    };
    key.push(tag);
    key.extend(at.to_be_bytes());
    key.extend(store.into_iter().flat_map(|store| store.as_str().bytes()));
    key
}

fn window(key: &[u8]) -> Option<(bool, Window)> {
    let (shadow, rest) = key.split_first()?;
    let (tag, rest) = rest.split_first()?;
    let (at, store) = rest.split_first_chunk::<8>()?;
    let at = u64::from_be_bytes(*at);
    let store = || Id::new(std::str::from_utf8(store).ok()?).ok();
    let window = match *tag {
        CHAIN_MINUTE => Window::ChainMinute(at),
        STORE_MINUTE => Window::StoreMinute(at, store()?),
        CHAIN_DAY => Window::ChainDay(u32::try_from(at).ok()?),
        STORE_DAY => Window::StoreDay(u32::try_from(at).ok()?, store()?),
        _ => return None,
    };
    Some((*shadow == 1, window))
}

fn put_number(row: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        row.push(number as u8 | 0x80);
        number >>= 7;
    }
    row.push(number as u8);
}

fn take_number(row: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = row.split_first()?;
        *row = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn encode(cells: &Cells) -> Vec<u8> {
    let mut row = Vec::with_capacity(cells.len() * 3);
    for (cell, sum) in cells {
        put_number(&mut row, u64::from(*cell));
        // The sign goes to the lowest bit, so that small sums stay short.
        put_number(&mut row, ((sum << 1) ^ (sum >> 63)) as u64);
    }
    row
}

fn decode(mut row: &[u8]) -> Option<Cells> {
    let mut cells = Cells::new();
    while !row.is_empty() {
        let cell = u16::try_from(take_number(&mut row)?).ok()?;
        let sum = take_number(&mut row)?;
        cells.insert(cell, (sum >> 1) as i64 ^ -((sum & 1) as i64));
    }
    Some(cells)
}

/// A row's key, and its new value: nothing when it goes.
type Folded = (Vec<u8>, Option<Vec<u8>>);

/// Sums of one batch that are not written yet.
#[derive(Default)]
pub(super) struct Fold {
    sums: HashMap<(bool, Window), Cells>,
    pub(super) changes: Vec<Tally>,
}

impl Fold {
    pub(super) fn add(&mut self, change: &Tally, now: UnixMs) {
        for window in Window::of(change, now) {
            let sum = self.sums.entry((change.shadow, window)).or_default().entry(change.cell).or_default();
            *sum = sum.saturating_add(change.by);
        }
        self.changes.push(change.clone());
    }

    /// The rows as they are after this batch: nothing for one that has come to nothing.
    pub(super) fn rows(&mut self, view: &View<'_>) -> Result<Vec<Folded>, DiskError> {
        let mut merged: BTreeMap<Vec<u8>, (Cells, bool)> = BTreeMap::new();
        // Stores of each day, with those of this batch.
        let mut crowds: HashMap<(bool, u32), u64> = HashMap::new();
        for ((shadow, window), change) in self.sums.drain() {
            let mut name = key(shadow, &window);
            let mut row = view.row(Space::Tally, &name)?;
            if let (None, Window::StoreDay(day, _)) = (&row, &window) {
                let stores = match crowds.entry((shadow, *day)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(slot) => slot.insert(crowd(view, shadow, *day)?),
                };
                if *stores < STORES_MAX {
                    *stores += 1;
                } else {
                    name = key(shadow, &Window::StoreDay(*day, others()));
                    row = view.row(Space::Tally, &name)?;
                }
            }
            let known = row.is_some();
            let slot =
                merged.entry(name).or_insert_with(|| (row.as_deref().and_then(decode).unwrap_or_default(), known));
            for (cell, by) in change {
                let sum = slot.0.entry(cell).or_default();
                *sum = sum.saturating_add(by);
            }
        }
        let mut rows: Vec<_> = crowds
            .into_iter()
            .map(|((shadow, day), stores)| (crowd_key(shadow, day), Some(stores.to_be_bytes().to_vec())))
            .collect();
        for (name, (mut cells, known)) in merged {
            cells.retain(|_, sum| *sum != 0);
            // A store's day stays once it is there, so that its place in the day's crowd stays its own.
            let stays = !cells.is_empty() || name.get(1) == Some(&STORE_DAY);
            if stays || known {
                rows.push((name, stays.then(|| encode(&cells))));
            }
        }
        Ok(rows)
    }
}

fn crowd_key(shadow: bool, day: u32) -> Vec<u8> {
    let mut key = vec![u8::from(shadow), CROWD];
    key.extend(u64::from(day).to_be_bytes());
    key
}

fn crowd(view: &View<'_>, shadow: bool, day: u32) -> Result<u64, DiskError> {
    let row = view.row(Space::Tally, &crowd_key(shadow, day))?;
    Ok(row.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// All stores beyond [`STORES_MAX`], as one.
#[must_use]
pub fn others() -> Id {
    Id::new(OTHERS).unwrap_or_else(|_| unreachable!("a fixed name"))
}

fn read(row: Result<Row, DiskError>) -> Option<Result<(bool, Window, Cells), DiskError>> {
    match row {
        Ok((key, row)) => window(&key).zip(decode(&row)).map(|((shadow, window), cells)| Ok((shadow, window, cells))),
        Err(error) => Some(Err(error)),
    }
}

/// Every window that is kept, and its sums.
pub(super) fn all(view: &View<'_>) -> impl Iterator<Item = Result<(bool, Window, Cells), DiskError>> {
    view.rows(Space::Tally, &[], &[0xff; 16]).filter_map(read)
}

/// The chain's days that ended before the log that is read again begins: the only place that still knows them. Stores' days are too many to
/// be carried over, and are gone with the ledger.
pub(super) fn bygone(view: &View<'_>, log_begins: UnixMs) -> Result<Vec<Row>, DiskError> {
    let before = u64::try_from(log_begins.0 / DAY_MS).unwrap_or_default().saturating_sub(1);
    let mut rows = Vec::new();
    for shadow in [0, 1] {
        let head = [shadow, CHAIN_DAY];
        let end = [&head[..], &before.to_be_bytes()].concat();
        for row in view.rows(Space::Tally, &head, &end) {
            rows.push(row?);
        }
    }
    Ok(rows)
}

/// Windows that are looked at every second: the chain's minutes, the stores' of the last two hours, and the last days. Those of a year would
/// hold up every start.
pub(super) fn recent(view: &View<'_>, now: UnixMs) -> impl Iterator<Item = Result<(bool, Window, Cells), DiskError>> {
    let minute = u64::try_from(now.0 / MINUTE_MS).unwrap_or_default();
    let today = u64::try_from(now.0 / DAY_MS).unwrap_or_default();
    let from = [
        (CHAIN_MINUTE, minute.saturating_sub(CHAIN_MINUTES)),
        (STORE_MINUTE, minute.saturating_sub(STORE_MINUTES)),
        // Whatever the zone: yesterday began at most so long ago.
        (CHAIN_DAY, today.saturating_sub(RECENT_DAYS)),
        (STORE_DAY, today.saturating_sub(RECENT_DAYS)),
    ];
    let ranges = [false, true].into_iter().flat_map(move |shadow| from.map(|(tag, at)| (shadow, tag, at)));
    let all = ranges.map(|(shadow, tag, at)| {
        let head = [u8::from(shadow), tag];
        view.rows(Space::Tally, &[&head[..], &at.to_be_bytes()].concat(), &keys::after_prefix(&head))
    });
    all.flatten().filter_map(read).filter(|row| !matches!(row, Ok((_, Window::StoreDay(_, id), _)) if *id == others()))
}

/// Where the last step of upkeep ended, for each kind of row: what was dropped in front of it is not looked at again.
#[derive(Default)]
pub(super) struct Swept(HashMap<(bool, u8), Vec<u8>>);

impl Swept {
    /// Drops minutes and days that nobody looks at any more, a bounded number at a time.
    pub(super) fn step(&mut self, view: &View<'_>, stage: &mut Stage<'_>, now: UnixMs) -> Result<(), DiskError> {
        let minute = u64::try_from(now.0 / MINUTE_MS).unwrap_or_default();
        let today = u64::try_from(now.0 / DAY_MS).unwrap_or_default();
        let ends = [
            (CHAIN_MINUTE, minute.saturating_sub(CHAIN_MINUTES + GRACE_MINUTES)),
            (STORE_MINUTE, minute.saturating_sub(STORE_MINUTES + GRACE_MINUTES)),
            (CHAIN_DAY, today.saturating_sub(u64::from(DAYS) + 2)),
            (STORE_DAY, today.saturating_sub(u64::from(DAYS) + 2)),
            (CROWD, today.saturating_sub(u64::from(DAYS) + 2)),
        ];
        for (shadow, (tag, end)) in [false, true].into_iter().flat_map(|shadow| ends.map(|end| (shadow, end))) {
            let name = |at: u64| [&[u8::from(shadow), tag][..], &at.to_be_bytes()].concat();
            // The day 0 holds what is too old for its own.
            let from = self.0.entry((shadow, tag)).or_insert_with(|| name(1));
            let end = name(end);
            if *from >= end {
                continue;
            }
            for row in view.rows(Space::Tally, from, &end).take(DROPS_MAX) {
                let (key, _) = row?;
                stage.drop_row(Space::Tally, &key);
                *from = key;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_was_put_into_it() {
        let cells: Cells = [(0, 1), (8, 128_430_200), (9, -5), (300, i64::MAX), (301, i64::MIN)].into();
        assert_eq!(decode(&encode(&cells)), Some(cells));
        assert_eq!(decode(&[0x80]), None, "cut off");
        assert_eq!(decode(&[]), Some(Cells::new()));
    }

    #[test]
    fn a_window_is_named_by_its_key() {
        let store = Id::new("s1").unwrap();
        for window in [
            Window::ChainMinute(29_000_000),
            Window::StoreMinute(29_000_000, store.clone()),
            Window::ChainDay(20_000),
            Window::StoreDay(20_000, store),
        ] {
            assert_eq!(super::window(&key(true, &window)), Some((true, window)));
        }
    }

    #[test]
    fn what_is_late_costs_no_minute_and_what_is_very_late_no_day() {
        let change = |minute: u64, day: u32| {
            let store = Id::new("s1").ok();
            Window::of(&Tally { shadow: false, minute, day, store, cell: 0, by: 1 }, UnixMs(1_790_000_000_000))
        };
        let (minute, day) = (1_790_000_000_000_u64 / 60_000, 1_790_000_000_000_u64 / 86_400_000);
        assert_eq!(change(minute, day as u32).len(), 4);
        assert_eq!(change(minute - STORE_MINUTES, day as u32).len(), 3, "no minute of the store");
        assert_eq!(change(minute - CHAIN_MINUTES, day as u32 - 8).len(), 2, "days only");
        let old = change(minute / 2, day as u32 / 2);
        assert_eq!(old, [Window::ChainDay(0), Window::StoreDay(0, Id::new("s1").unwrap())]);
    }
}
