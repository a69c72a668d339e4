//! Reconciliation: counts every event of the log a second time and compares the sums with the ledger's counters.
//!
//! ```text
//!   log --decode--> Order::apply --> changes --> sums     compared with the ledger's, bucket by bucket     differences: none
//! ```
//!
//! It uses the order rules and none of the ledger's bookkeeping: a batch that was counted twice, or one that a restart lost, shows up as a
//! difference. Orders can be processed in slices, one reading of the log for each, so that memory is bounded whatever the log holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use orderbell_consumers::{Record, TopicPartition};
use orderbell_protocol::{Event, EventType, UnixMs};

use super::counting::{self, Counter};
use super::envelopes::{NO_EVENT, UNDATED_ROW};
use super::event_effects::{PANICS, caught};
use super::event_types::IGNORED;
use super::mapping::Mapping;
use super::order::{Order, OrderPolicy};
use super::reconcile_payments::Payments;
use super::sample_run::{parts_of, read_at};
use super::source_clocks::SourceClocks;
use orderbell_protocol::OrderKey;
use orderbell_protocol::balance::{Bin, is_known_from_the_log};
use orderbell_protocol::counters::{Bucket, CounterSums};
use orderbell_protocol::counters::{CHAIN_MINUTES, STORE_MINUTES, others};

/// Longest time between an order's first event and its last. Where the log's beginning is gone, comparison starts this much later: by then,
/// orders whose first events are missing have ended.
const MAX_ORDER_DURATION_MS: i64 = 24 * 3_600_000;
/// A local day begins at most this much before the UTC day of the same date.
const MAX_ZONE_OFFSET_MS: i64 = 14 * 3_600_000;
/// The oldest minutes, which retention may be deleting now, are not compared.
const GRACE_MINUTES: u64 = 15;
const DAY_MS: i64 = 86_400_000;

/// Sums by traffic (true: load-test traffic) and bucket.
pub type Sums = BTreeMap<(bool, Bucket), CounterSums>;

/// Counts the events of a log for a comparison with the ledger.
pub struct Recount {
    mapping: Mapping,
    policy: OrderPolicy,
    now: UnixMs,
    /// Index of the slice of orders to count, and number of slices.
    slice: (u64, u64),
    orders: HashMap<OrderKey, Order>,
    clocks: SourceClocks,
    /// Events at or above their partition's checkpoint: the ledger may have counted them or not.
    above_checkpoint: HashMap<OrderKey, Vec<(Event, UnixMs)>>,
    sums: Sums,
    /// Records that are no events, or that `apply` rejected.
    rejected: u64,
    payments: Payments,
    /// Where the ledger began to count the payments of each partition.
    payments_from: HashMap<TopicPartition, u64>,
}

impl Recount {
    /// Counts one slice of the orders; `now` is the time of the comparison.
    #[must_use]
    pub fn new(mapping: Mapping, policy: OrderPolicy, now: UnixMs, slice: (u64, u64)) -> Self {
        Self {
            mapping,
            policy,
            now,
            slice,
            orders: HashMap::new(),
            clocks: SourceClocks::default(),
            above_checkpoint: HashMap::new(),
            sums: Sums::new(),
            rejected: 0,
            payments: Payments::new(),
            payments_from: HashMap::new(),
        }
    }

    /// Leaves payments out of the balance that are below these offsets.
    #[must_use]
    pub fn with_payments_from(self, payments_from: HashMap<TopicPartition, u64>) -> Self {
        Self { payments_from, ..self }
    }

    /// Applies the next record of its partition; `finished` says that it is below the partition's checkpoint.
    pub fn apply(&mut self, record: &Record, finished: bool) {
        parts_of(&self.mapping, record).iter().for_each(|part| self.apply_part(part, finished));
    }

    /// Takes a record of before the counters began into the balance alone.
    pub fn apply_to_balance(&mut self, record: &Record, finished: bool) {
        parts_of(&self.mapping, record).iter().for_each(|part| self.part_to_balance(part, finished));
    }

    fn part_to_balance(&mut self, record: &Record, finished: bool) {
        let (slice, slices) = self.slice;
        let is_its_slice = |order: &str| xxhash_rust::xxh3::xxh3_64(order.as_bytes()) % slices == slice;
        let is_counted = match caught(PANICS, || self.mapping.decode(record, read_at(record, self.now))) {
            Ok(event) => event.kind == EventType::Paid && is_its_slice(event.order.as_str()),
            Err(reason) => slice == 0 && (reason.code == IGNORED || self.may_be_paid(record, reason.code)),
        };
        if is_counted {
            count_payment(&mut self.payments, &self.payments_from, record, finished);
        }
    }

    fn apply_part(&mut self, record: &Record, finished: bool) {
        // The time of the first reading is not stored.
        let read_at = read_at(record, self.now);
        let event = match caught(PANICS, || self.mapping.explain(record, read_at)) {
            Ok(mut decoded) => {
                // Of every slice: a clock is judged by all events of its source.
                self.clocks.judge(&self.mapping, record, &mut decoded, read_at);
                decoded.event
            }
            Err(reason) => {
                self.rejected += u64::from(![IGNORED, NO_EVENT, UNDATED_ROW].contains(&reason.code));
                // It is of no order, so each slice sees it.
                if self.slice.0 == 0 && (reason.code == IGNORED || self.may_be_paid(record, reason.code)) {
                    count_payment(&mut self.payments, &self.payments_from, record, finished);
                }
                return;
            }
        };
        let key = OrderKey { shadow: event.shadow, id: event.order.clone() };
        let (slice, slices) = self.slice;
        if xxhash_rust::xxh3::xxh3_64(key.id.as_str().as_bytes()) % slices != slice {
            return;
        }
        let is_payment = event.kind == EventType::Paid;
        if !finished {
            if is_payment {
                count_payment(&mut self.payments, &self.payments_from, record, finished);
            }
            self.above_checkpoint.entry(key).or_default().push((event, read_at));
            return;
        }
        // What the ledger had already expunged at that time starts as unknown here, too.
        let known = self.orders.get(&key).filter(|order| order.expires_at(self.policy.retention_ms) > read_at);
        let applied = caught(PANICS, || Order::apply(known, &event, read_at, &self.policy));
        if applied.as_ref().map_or_else(|reason| self.may_be_paid(record, reason.code), |_| is_payment) {
            count_payment(&mut self.payments, &self.payments_from, record, finished);
        }
        let Ok((Some(next), _)) = applied else {
            self.rejected += 1;
            return;
        };
        for change in counting::changes_of(known, &next, key.shadow, &self.policy.counting) {
            for window in Bucket::of(&change, self.now) {
                let sums = self.sums.entry((change.shadow, window)).or_default();
                *sums.entry(change.counter).or_default() += change.by;
            }
        }
        self.orders.insert(key, next);
    }

    /// Whether a record that is rejected for this reason is in the balance.
    fn may_be_paid(&self, record: &Record, code: &str) -> bool {
        match self.mapping.bin_of_dead_letter(record, code) {
            Some(Bin::RejectedLater) => is_known_from_the_log(code),
            bin => bin.is_some(),
        }
    }

    /// Adds the records of this slice that may be paid orders.
    pub fn add_payments_to(&self, payments: &mut Payments) {
        for (part, count) in &self.payments {
            payments.entry(part.clone()).or_default().merge(*count);
        }
    }

    /// Adds what was counted to `sums`, and to `in_flux` every bucket that an event above its partition's checkpoint touches: the ledger may
    /// have counted that event or not. Returns the number of rejected records.
    pub fn into_sums(self, sums: &mut Sums, in_flux: &mut BTreeSet<(bool, Bucket)>) -> u64 {
        for (key, events) in self.above_checkpoint {
            let mut order = self.orders.get(&key).cloned();
            for (event, read_at) in events {
                let Ok((Some(next), _)) = Order::apply(order.as_ref(), &event, read_at, &self.policy) else { continue };
                // The ledger may have applied any number of these: every bucket of every state on the way is in flux.
                for state in order.iter().chain([&next]) {
                    let all = counting::changes_of(None, state, key.shadow, &self.policy.counting);
                    in_flux.extend(
                        all.iter().flat_map(|change| Bucket::of(change, self.now)).map(|window| (key.shadow, window)),
                    );
                }
                order = Some(next);
            }
        }
        for (window, cells) in self.sums {
            let all = sums.entry(window).or_default();
            cells.into_iter().for_each(|(cell, by)| *all.entry(cell).or_default() += by);
        }
        self.rejected
    }
}

/// Counts a record for its partition, unless it is below where the ledger began to.
fn count_payment(payments: &mut Payments, from: &HashMap<TopicPartition, u64>, record: &Record, finished: bool) {
    if from.get(&record.partition).is_none_or(|from| record.offset >= *from) {
        payments.entry(record.partition.clone()).or_default().add(finished);
    }
}

/// One sum in which the ledger and the log differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// True for load-test traffic.
    pub shadow: bool,
    /// The minute or day, of the chain or of one store.
    pub window: Bucket,
    /// The [`Counter`], or a duration bucket above [`counting::FIRST_DURATION_COUNTER`].
    pub counter: u16,
    /// The ledger's sum.
    pub ledger: i64,
    /// The log's sum.
    pub log: i64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shadow, window, counter, ledger, log } = self;
        let name = Counter::NAMES.iter().find(|(known, _)| *known as u16 == *counter).map(|(_, name)| *name);
        let place = match window {
            Bucket::ChainMinute(minute) => format!("minute {minute}"),
            Bucket::StoreMinute(minute, store) => format!("minute {minute} store {store}"),
            Bucket::ChainDay(day) => format!("day {day}"),
            Bucket::StoreDay(day, store) => format!("day {day} store {store}"),
        };
        let shadow = if *shadow { "shadow " } else { "" };
        match name {
            Some(name) => write!(f, "{shadow}{place} {name}: ledger {ledger}, log {log}"),
            None => write!(f, "{shadow}{place} counter {counter}: ledger {ledger}, log {log}"),
        }
    }
}

/// The time from which buckets can be compared: all of them when the whole log is there (`None`), otherwise one maximal order duration after
/// the log's beginning.
#[must_use]
pub fn comparable_from(log_begins: Option<UnixMs>) -> UnixMs {
    log_begins.map_or(UnixMs(0), |begins| begins.plus_ms(MAX_ORDER_DURATION_MS))
}

/// True for a bucket that both the ledger and the log hold completely.
fn is_comparable(window: &Bucket, from: UnixMs, now: UnixMs) -> bool {
    let this = counting::minute(now);
    let since = |minute: u64, kept: u64| {
        minute > counting::minute(from) && minute > (this + GRACE_MINUTES).saturating_sub(kept)
    };
    match window {
        Bucket::ChainMinute(minute) => since(*minute, CHAIN_MINUTES),
        Bucket::StoreMinute(minute, _) => since(*minute, STORE_MINUTES),
        // Stores beyond the bound are summed as one, and which stores those are depends on the reading order.
        Bucket::StoreDay(_, store) if *store == others() => false,
        Bucket::ChainDay(day) | Bucket::StoreDay(day, _) => {
            *day > 0 && (from.0 == 0 || i64::from(*day) * DAY_MS - MAX_ZONE_OFFSET_MS > from.0)
        }
    }
}

/// Compares the ledger's sums with those of the log, except in buckets in flux. Returns how many numbers were compared, and the differences.
#[must_use]
pub fn compare(
    ledger: &Sums,
    log: &Sums,
    in_flux: &BTreeSet<(bool, Bucket)>,
    from: UnixMs,
    now: UnixMs,
) -> (u64, Vec<Difference>) {
    let (mut numbers, mut differences) = (0, Vec::new());
    let full_days: Vec<_> = ledger
        .keys()
        .filter_map(|(shadow, window)| match window {
            Bucket::StoreDay(day, store) if *store == others() => Some((*shadow, *day)),
            _ => None,
        })
        .collect();
    let empty = CounterSums::new();
    let keys: BTreeSet<_> = ledger.keys().chain(log.keys()).collect();
    for (shadow, window) in keys.into_iter().filter(|key| is_comparable(&key.1, from, now) && !in_flux.contains(*key)) {
        let key = (*shadow, window.clone());
        // A store without a row of its own, on a day with more stores than the bound, is part of the sum of the others.
        let in_others = matches!(window, Bucket::StoreDay(day, _) if full_days.contains(&(*shadow, *day)));
        if in_others && !ledger.contains_key(&key) {
            continue;
        }
        let (ours, theirs) = (ledger.get(&key).unwrap_or(&empty), log.get(&key).unwrap_or(&empty));
        let cells: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for cell in cells {
            let number = |cells: &CounterSums| cells.get(cell).copied().unwrap_or(0);
            numbers += 1;
            if number(ours) != number(theirs) {
                differences.push(Difference {
                    shadow: *shadow,
                    window: window.clone(),
                    counter: *cell,
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

    fn sums(all: &[(Bucket, u16, i64)]) -> Sums {
        let mut sums = Sums::new();
        for (window, cell, by) in all {
            sums.entry((false, window.clone())).or_default().insert(*cell, *by);
        }
        sums
    }

    fn none() -> BTreeSet<(bool, Bucket)> {
        BTreeSet::new()
    }

    fn record(kind: &str, order: &str, at: UnixMs) -> Record {
        let value = serde_json::json!({"type": kind, "order": order, "id": format!("{kind}-{order}"), "store": "1", "time": at.0});
        Record {
            partition: orderbell_consumers::TopicPartition::new("orders", 0),
            offset: 0,
            timestamp_ms: at.0,
            read_ms: 0,
            key: None,
            value: Some(value.to_string().into_bytes().into()),
            headers: Default::default(),
        }
    }

    /// The ledger may have counted the records above its checkpoint or not: neither is a difference, and other errors are found.
    #[test]
    fn records_above_the_checkpoint_may_be_counted_or_not() {
        let policy = OrderPolicy { retention_ms: DAY_MS, ..OrderPolicy::default() };
        let early = NOW.plus_ms(-3_600_000);
        let recounted = |finished: bool| {
            let mut recount = Recount::new(Mapping::default(), policy.clone(), NOW, (0, 1));
            recount.apply(&record("order.paid", "o1", early), true);
            recount.apply(&record("order.accepted", "o1", early.plus_ms(120_000)), finished);
            let (mut sums, mut in_flux) = (Sums::new(), none());
            recount.into_sums(&mut sums, &mut in_flux);
            (sums, in_flux)
        };
        let (with, nothing_in_flux) = recounted(true);
        let (without, in_flux) = recounted(false);
        assert!(nothing_in_flux.is_empty() && with != without);
        for ledger in [&with, &without] {
            assert_eq!(compare(ledger, &without, &in_flux, UnixMs(0), NOW).1, []);
        }
        assert_ne!(compare(&with, &without, &none(), UnixMs(0), NOW).1, []);
        let mut wrong = with.clone();
        wrong.insert((false, Bucket::ChainMinute(counting::minute(early) + 30)), [(1, 1)].into());
        assert_eq!(compare(&wrong, &without, &in_flux, UnixMs(0), NOW).1.len(), 1);
    }

    #[test]
    fn the_events_of_one_record_are_counted_as_those_of_several() {
        let early = NOW.plus_ms(-3_600_000);
        let both = [record("order.paid", "o1", early), record("order.paid", "o2", early)];
        let values = both.each_ref().map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap());
        let array = format!("[{}]", values.join(",")).into_bytes();
        let array = Record { value: Some(array.into()), ..both[0].clone() };
        let counted = |records: &[Record]| {
            let policy = OrderPolicy { retention_ms: DAY_MS, ..OrderPolicy::default() };
            let mut recount = Recount::new(Mapping::default(), policy, NOW, (0, 1));
            records.iter().for_each(|record| recount.apply(record, true));
            let mut sums = Sums::new();
            (recount.into_sums(&mut sums, &mut none()), sums)
        };
        assert_eq!(counted(&[array]), counted(&both));
    }

    /// What a log of these records has that may be paid orders.
    fn payments(mapping: &str, records: &[Record]) -> u64 {
        let policy = OrderPolicy { retention_ms: DAY_MS, ..OrderPolicy::default() };
        let mut recount = Recount::new(toml::from_str(mapping).unwrap(), policy, NOW, (0, 1));
        records.iter().for_each(|record| recount.apply(record, true));
        recount.payments.values().map(|count| count.finished).sum()
    }

    #[test]
    fn equal_events_of_one_record_are_one() {
        let with_value = |value: String| Record { value: Some(value.into_bytes().into()), ..record("a", "b", NOW) };
        let paid = |order: &str| String::from_utf8(record("order.paid", order, NOW).value.unwrap().to_vec()).unwrap();
        let array = with_value(format!("[{},{},{}]", paid("o1"), paid("o1"), paid("o2")));
        assert_eq!(payments("", std::slice::from_ref(&array)), 2);
        assert_eq!(payments("", &[array.clone(), Record { offset: 1, ..array }]), 4, "another record is another event");
        // So are two that are rejected, which the ledger knows apart by their bytes.
        let rejected = r#"{"type":"order.paid","order":""}"#;
        assert_eq!(payments("", &[with_value(format!("[{rejected},{rejected}]"))]), 1);
    }

    /// Regression: load-test traffic that the ledger had forgotten when it was read was in no bin.
    #[test]
    fn payments_of_load_tests_are_counted_whenever_they_were_read() {
        let value = |shadow: bool| serde_json::json!({"type": "order.paid", "order": "o", "store": "1", "shadow": shadow, "time": NOW.0 - 3 * DAY_MS});
        let of = |shadow: bool| Record {
            value: Some(value(shadow).to_string().into_bytes().into()),
            ..record("order.paid", "o", NOW)
        };
        assert_eq!(payments("", &[of(true), of(false)]), 2);
    }

    #[test]
    fn a_sum_that_only_one_side_has_is_a_difference() {
        let minute = counting::minute(NOW);
        let (chain, store) = (Bucket::ChainMinute(minute), Bucket::StoreMinute(minute, Id::new("1").unwrap()));
        let ledger = sums(&[(chain.clone(), 1, 7), (store.clone(), 1, 7)]);
        assert_eq!(compare(&ledger, &ledger, &none(), UnixMs(0), NOW), (2, vec![]));
        let log = sums(&[(chain, 1, 6), (store, 2, 1)]);
        let (numbers, differences) = compare(&ledger, &log, &none(), UnixMs(0), NOW);
        let found: Vec<_> = differences.iter().map(|one| (one.counter, one.ledger, one.log)).collect();
        assert_eq!((numbers, found), (3, vec![(1, 7, 6), (1, 7, 0), (2, 0, 1)]));
        assert!(differences[0].to_string().ends_with("paid: ledger 7, log 6"));
    }

    #[test]
    fn only_buckets_that_both_sides_hold_completely_are_compared() {
        let minute = counting::minute(NOW);
        let day = (NOW.0 / DAY_MS) as u32;
        let log = sums(&[
            (Bucket::ChainMinute(minute), 1, 1),
            (Bucket::ChainMinute(minute - CHAIN_MINUTES), 1, 1),
            (Bucket::ChainDay(day), 1, 1),
            (Bucket::ChainDay(0), 1, 1),
        ]);
        assert_eq!(compare(&Sums::new(), &log, &none(), UnixMs(0), NOW).1.len(), 2);
        let begins = comparable_from(Some(NOW.plus_ms(-MAX_ORDER_DURATION_MS - 120_000)));
        assert_eq!(compare(&Sums::new(), &log, &none(), begins, NOW).1.len(), 1, "the day began before");
    }
}
