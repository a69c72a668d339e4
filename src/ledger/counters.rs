//! Counters: sums by minute and by day, for the chain and for each store. A counter is a number here; what it counts is defined in `ingest`.
//!
//! ```text
//!   delta (minute, day, store, counter, by)  -->  chain's minute   store's minute   chain's day   store's day      in the key batch's write
//! ```
//!
//! A delta arrives with the state that it is derived from and is written with it, so a crash cannot make sums and states disagree. Late and
//! impossible times cost a bounded number of rows: minutes are kept while the wall shows them (what is older counts in its day only), days
//! for a little over a year (what is older counts as the day 0), stores up to a limit (the rest count as one).
//!
//! A row that does not decode is left as it is, and what belongs to its bucket is not counted: a sum that began again would look like a sum.
//!
//! A row is a list of (counter, sum), both as variable-length numbers: most counters of most rows are never touched.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

pub use orderbell_protocol::counters::{
    Bucket, CHAIN_MINUTES, CounterDelta, CounterSums, DAYS, STORE_MINUTES, STORES_MAX, day_of, minute_of, others,
};
use orderbell_protocol::{Id, UnixMs};

use super::disk::{DatabaseError, DiskError, Row, Table, View};
use super::keys;
use super::tables::{Range, RowKind};

/// A minute is removed this long after it is no longer written, so that a delta on its way never meets a row that was partly removed.
const GRACE_MINUTES: u64 = 10;
const RECENT_DAYS: u64 = 3;

pub(super) const CHAIN_MINUTE: u8 = b'm';
pub(super) const STORE_MINUTE: u8 = b'n';
pub(super) const CHAIN_DAY: u8 = b'c';
pub(super) const STORE_DAY: u8 = b'd';
/// How many stores a day has rows of.
pub(super) const STORE_COUNT: u8 = b'k';

fn key(shadow: bool, bucket: &Bucket) -> Vec<u8> {
    let mut key = vec![u8::from(shadow)];
    let (tag, at, store) = match bucket {
        Bucket::ChainMinute(minute) => (CHAIN_MINUTE, *minute, None),
        Bucket::StoreMinute(minute, store) => (STORE_MINUTE, *minute, Some(store)),
        Bucket::ChainDay(day) => (CHAIN_DAY, u64::from(*day), None),
        Bucket::StoreDay(day, store) => (STORE_DAY, u64::from(*day), Some(store)),
    };
    key.push(tag);
    key.extend(at.to_be_bytes());
    key.extend(store.into_iter().flat_map(|store| store.as_str().bytes()));
    key
}

fn kind_of(bucket: &Bucket) -> RowKind {
    match bucket {
        Bucket::ChainMinute(_) => RowKind::ChainMinute,
        Bucket::StoreMinute(..) => RowKind::StoreMinute,
        Bucket::ChainDay(_) => RowKind::ChainDay,
        Bucket::StoreDay(..) => RowKind::StoreDay,
    }
}

fn bucket_of(key: &[u8]) -> Option<(bool, Bucket)> {
    let (shadow, rest) = key.split_first()?;
    let (tag, rest) = rest.split_first()?;
    let (at, store) = rest.split_first_chunk::<8>()?;
    let at = u64::from_be_bytes(*at);
    let store = || Id::new(std::str::from_utf8(store).ok()?).ok();
    let bucket = match *tag {
        CHAIN_MINUTE => Bucket::ChainMinute(at),
        STORE_MINUTE => Bucket::StoreMinute(at, store()?),
        CHAIN_DAY => Bucket::ChainDay(u32::try_from(at).ok()?),
        STORE_DAY => Bucket::StoreDay(u32::try_from(at).ok()?, store()?),
        _ => return None,
    };
    Some((*shadow == 1, bucket))
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

fn encode(sums: &CounterSums) -> Vec<u8> {
    let mut row = Vec::with_capacity(sums.len() * 3);
    for (counter, sum) in sums {
        put_number(&mut row, u64::from(*counter));
        // The sign goes to the lowest bit, so that small sums stay short.
        put_number(&mut row, ((sum << 1) ^ (sum >> 63)) as u64);
    }
    row
}

pub(super) fn decode(mut row: &[u8]) -> Option<CounterSums> {
    let mut sums = CounterSums::new();
    while !row.is_empty() {
        let counter = u16::try_from(take_number(&mut row)?).ok()?;
        let sum = take_number(&mut row)?;
        sums.insert(counter, (sum >> 1) as i64 ^ -((sum & 1) as i64));
    }
    Some(sums)
}

/// A row's kind and key, and its new value; none when the row is removed.
type ChangedRow = (RowKind, Vec<u8>, Option<Vec<u8>>);

/// What one batch adds to the buckets, not written yet.
#[derive(Default)]
pub(super) struct BucketDeltas {
    sums: HashMap<(bool, Bucket), CounterSums>,
    pub(super) added: Vec<CounterDelta>,
}

impl BucketDeltas {
    pub(super) fn add(&mut self, delta: &CounterDelta, now: UnixMs) {
        for bucket in Bucket::of(delta, now) {
            let sum = self.sums.entry((delta.shadow, bucket)).or_default().entry(delta.counter).or_default();
            *sum = sum.saturating_add(delta.by);
        }
        self.added.push(delta.clone());
    }

    /// The rows as they are after this batch; none for one whose sums are all zero.
    pub(super) fn rows(&mut self, view: &View<'_>) -> Result<Vec<ChangedRow>, DatabaseError> {
        let mut merged: BTreeMap<Vec<u8>, (RowKind, CounterSums, bool)> = BTreeMap::new();
        // Stores of each day, with those of this batch.
        let mut store_counts: HashMap<(bool, u32), u64> = HashMap::new();
        for ((shadow, bucket), change) in self.sums.drain() {
            let mut name = key(shadow, &bucket);
            let mut row = view.row(Table::Counters, &name)?;
            if let (None, Bucket::StoreDay(day, _)) = (&row, &bucket) {
                let stores = match store_counts.entry((shadow, *day)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(slot) => slot.insert(store_count(view, shadow, *day)?),
                };
                if *stores < STORES_MAX {
                    *stores += 1;
                } else {
                    name = key(shadow, &Bucket::StoreDay(*day, others()));
                    row = view.row(Table::Counters, &name)?;
                }
            }
            let known = row.is_some();
            let stored = row.map_or(Ok(CounterSums::new()), |row| decode_row(&name, &row));
            let Some(stored) = view.pass_over(stored)? else { continue };
            let slot = merged.entry(name).or_insert((kind_of(&bucket), stored, known));
            for (counter, by) in change {
                let sum = slot.1.entry(counter).or_default();
                *sum = sum.saturating_add(by);
            }
        }
        let mut rows: Vec<_> = store_counts
            .into_iter()
            .map(|((shadow, day), stores)| {
                (RowKind::StoreCount, store_count_key(shadow, day), Some(stores.to_be_bytes().to_vec()))
            })
            .collect();
        for (name, (kind, mut sums, known)) in merged {
            sums.retain(|_, sum| *sum != 0);
            // A store's day stays once it is there: it was counted among the day's stores.
            let stays = !sums.is_empty() || kind == RowKind::StoreDay;
            if stays || known {
                rows.push((kind, name, stays.then(|| encode(&sums))));
            }
        }
        Ok(rows)
    }
}

fn store_count_key(shadow: bool, day: u32) -> Vec<u8> {
    let mut key = vec![u8::from(shadow), STORE_COUNT];
    key.extend(u64::from(day).to_be_bytes());
    key
}

/// How many stores a day has rows of. Where that row is damaged they are counted, and the day's next store writes it again.
fn store_count(view: &View<'_>, shadow: bool, day: u32) -> Result<u64, DatabaseError> {
    let decode = |row: &[u8]| Some(u64::from_be_bytes(row.try_into().ok()?));
    let stored = view.decoded(Table::Counters, &store_count_key(shadow, day), "a number of stores", decode);
    if let Some(stored) = view.pass_over(stored)? {
        return Ok(stored.unwrap_or(0));
    }
    let begin = |day: u64| [&[u8::from(shadow), STORE_DAY][..], &day.to_be_bytes()].concat();
    let (mut stores, rest) = (0, key(shadow, &Bucket::StoreDay(day, others())));
    for row in view.rows(Table::Counters, &begin(u64::from(day)), &begin(u64::from(day) + 1)) {
        stores += u64::from(row?.0 != rest);
    }
    Ok(stores)
}

fn decode_row(key: &[u8], row: &[u8]) -> Result<CounterSums, DiskError> {
    decode(row).ok_or_else(|| DiskError::damaged(Table::Counters, key, "sums of counters"))
}

/// A row of a bucket; nothing for the other rows of this table: commit marks and numbers of stores.
fn read(row: Result<Row, DatabaseError>) -> Option<Result<(bool, Bucket, CounterSums), DiskError>> {
    let read = |row: Result<Row, DatabaseError>| {
        let (key, row) = row?;
        if key.starts_with(keys::COMMIT_MARKS) || key.get(1) == Some(&STORE_COUNT) {
            return Ok(None);
        }
        let bucket = bucket_of(&key).ok_or_else(|| DiskError::damaged(Table::Counters, &key, "a key of a bucket"));
        let (shadow, bucket) = bucket?;
        Ok(Some((shadow, bucket, decode_row(&key, &row)?)))
    };
    read(row).transpose()
}

/// Every bucket that is kept, and its sums.
pub(super) fn all(view: &View<'_>) -> impl Iterator<Item = Result<(bool, Bucket, CounterSums), DiskError>> {
    view.rows(Table::Counters, &[], &[0xff; 16]).filter_map(read)
}

/// The chain's days that ended before the log that is read again begins: no other place still has them. Stores' days are too many to be
/// carried over, and are lost with the ledger.
pub(super) fn days_before_log(view: &View<'_>, log_begins: UnixMs) -> Result<Vec<Row>, DatabaseError> {
    let before = u64::from(day_of(log_begins).saturating_sub(1));
    let mut rows = Vec::new();
    for shadow in [0, 1] {
        let head = [shadow, CHAIN_DAY];
        let end = [&head[..], &before.to_be_bytes()].concat();
        for row in view.rows(Table::Counters, &head, &end) {
            rows.push(row?);
        }
    }
    Ok(rows)
}

/// Buckets that the wall shows: the chain's minutes, the stores' minutes of the last two hours, and the last days. Reading a year of days would
/// delay every start.
pub(super) fn recent(
    view: &View<'_>,
    now: UnixMs,
) -> impl Iterator<Item = Result<(bool, Bucket, CounterSums), DiskError>> {
    let (minute, today) = (minute_of(now), u64::from(day_of(now)));
    let from = [
        (CHAIN_MINUTE, minute.saturating_sub(CHAIN_MINUTES)),
        (STORE_MINUTE, minute.saturating_sub(STORE_MINUTES)),
        // In every time zone, yesterday began at most this many days ago.
        (CHAIN_DAY, today.saturating_sub(RECENT_DAYS)),
        (STORE_DAY, today.saturating_sub(RECENT_DAYS)),
    ];
    let ranges = [false, true].into_iter().flat_map(move |shadow| from.map(|(tag, at)| (shadow, tag, at)));
    let all = ranges.map(|(shadow, tag, at)| {
        let head = [u8::from(shadow), tag];
        view.rows(Table::Counters, &[&head[..], &at.to_be_bytes()].concat(), &keys::after_prefix(&head))
    });
    all.flatten().filter_map(read).filter(|row| !matches!(row, Ok((_, Bucket::StoreDay(_, id), _)) if *id == others()))
}

/// Minutes and days of one kind that are not shown any more. The day 0 holds what is too old for its own, and stays.
pub(super) fn too_old(tag: u8, now: UnixMs) -> Vec<Range> {
    let (minute, today) = (minute_of(now), u64::from(day_of(now)));
    let end = match tag {
        CHAIN_MINUTE => minute.saturating_sub(CHAIN_MINUTES + GRACE_MINUTES),
        STORE_MINUTE => minute.saturating_sub(STORE_MINUTES + GRACE_MINUTES),
        _ => today.saturating_sub(u64::from(DAYS) + 2),
    };
    let name = |shadow: bool, at: u64| [&[u8::from(shadow), tag][..], &at.to_be_bytes()].concat();
    [false, true].map(|shadow| (name(shadow, 1), name(shadow, end))).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_decodes_to_the_sums_that_were_encoded() {
        let sums: CounterSums = [(0, 1), (8, 128_430_200), (9, -5), (300, i64::MAX), (301, i64::MIN)].into();
        assert_eq!(decode(&encode(&sums)), Some(sums));
        assert_eq!(decode(&[0x80]), None, "cut off");
        assert_eq!(decode(&[]), Some(CounterSums::new()));
    }

    #[test]
    fn a_bucket_is_found_in_its_key() {
        let store = Id::new("s1").unwrap();
        for bucket in [
            Bucket::ChainMinute(29_000_000),
            Bucket::StoreMinute(29_000_000, store.clone()),
            Bucket::ChainDay(20_000),
            Bucket::StoreDay(20_000, store),
        ] {
            assert_eq!(bucket_of(&key(true, &bucket)), Some((true, bucket)));
        }
    }

    #[test]
    fn late_deltas_add_no_minutes_and_very_late_ones_no_day() {
        let buckets = |minute: u64, day: u32| {
            let store = Id::new("s1").ok();
            Bucket::of(
                &CounterDelta { shadow: false, minute, day, store, counter: 0, by: 1 },
                UnixMs(1_790_000_000_000),
            )
        };
        let (minute, day) = (1_790_000_000_000_u64 / 60_000, 1_790_000_000_000_u64 / 86_400_000);
        assert_eq!(buckets(minute, day as u32).len(), 4);
        assert_eq!(buckets(minute - STORE_MINUTES, day as u32).len(), 3, "no minute of the store");
        assert_eq!(buckets(minute - CHAIN_MINUTES, day as u32 - 8).len(), 2, "days only");
        let old = buckets(minute / 2, day as u32 / 2);
        assert_eq!(old, [Bucket::ChainDay(0), Bucket::StoreDay(0, Id::new("s1").unwrap())]);
    }
}
