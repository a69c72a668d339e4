use std::collections::BTreeMap;

use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use proptest::prelude::*;

use super::super::tests::{NOW, event};
use super::*;
use crate::order::OrderPolicy;
use orderbell_protocol::event::MinorUnits;
use orderbell_protocol::{EventType as E, Id};

const HOUR: i64 = 3_600_000;

fn policy() -> OrderPolicy {
    OrderPolicy { retention_ms: 72 * HOUR, ..OrderPolicy::default() }
}

fn record(topic: &str, offset: u64) -> Record {
    Record {
        partition: TopicPartition::new(topic, 0),
        offset,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(Bytes::new()),
        headers: Default::default(),
    }
}

/// One order, and the bins of its records by topic.
#[derive(Clone, Default)]
struct Balance {
    order: Option<Order>,
    log: LogNumber,
    bins: BTreeMap<(String, Bin), i64>,
}

impl Balance {
    fn read(&mut self, record: &Record, event: &Event) {
        // A dead letter is counted with its record.
        let Ok((next, effects)) = Order::apply(self.order.as_ref(), event, NOW, &policy()) else { return };
        let Some(mut next) = next else { return };
        for delta in next.bin_changes(self.order.as_ref(), (record, self.log), event, &effects, false, NOW) {
            *self.bins.entry((delta.key.topic, delta.key.bin)).or_default() += delta.by;
        }
        self.order = Some(next);
    }

    fn bins(&self) -> Vec<(&str, Bin, i64)> {
        self.bins
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|((topic, bin), count)| (&**topic, *bin, *count))
            .collect()
    }
}

/// The bins of events that are read one after another from `orders`, and of a further one from `payments`.
fn bins_of(events: &[Event]) -> Vec<(Bin, i64)> {
    let mut balance = Balance::default();
    events.iter().enumerate().for_each(|(at, event)| balance.read(&record("orders", at as u64), event));
    balance.bins().into_iter().map(|(_, bin, count)| (bin, count)).collect()
}

fn without_store(kind: E, id: &str) -> Event {
    Event { store: None, ..event(kind, id) }
}

#[test]
fn each_record_of_a_paid_order_is_in_one_bin() {
    let paid = |id: &str| event(E::Paid, id);
    assert_eq!(bins_of(&[event(E::Created, "1"), paid("2"), event(E::Accepted, "3")]), [(Bin::Notified, 1)]);
    assert_eq!(bins_of(&[event(E::Accepted, "1")]), [(Bin::Notified, 1)], "it says that the order is paid");
    assert_eq!(bins_of(&[paid("1"), paid("1"), paid("2")]), [(Bin::Notified, 1), (Bin::Duplicate, 1), (Bin::Stale, 1)]);
    let other = Event { amount: Some(MinorUnits(99)), ..paid("2") };
    assert_eq!(bins_of(&[paid("1"), other]), [(Bin::Notified, 1), (Bin::SecondPayment, 1)]);
    assert_eq!(bins_of(&[event(E::PickedUp, "1")]), [(Bin::Superseded, 1)]);
    let before = |id: &str| Event { at: NOW.plus_ms(-1), ..paid(id) };
    assert_eq!(bins_of(&[event(E::Cancelled, "1"), before("2")]), [(Bin::Superseded, 1)]);
    let after = |id: &str| Event { at: NOW.plus_ms(1), ..paid(id) };
    assert_eq!(bins_of(&[event(E::Cancelled, "1"), after("2")]), [(Bin::LatePayment, 1)]);
    assert_eq!(
        bins_of(&[event(E::Expired, "1"), before("2")]),
        [(Bin::LatePayment, 1)],
        "only an unpaid order expires"
    );
    let old = Event { at: NOW.plus_ms(-3 * HOUR), ..paid("1") };
    assert_eq!(bins_of(&[old]), [(Bin::TooOld, 1)]);
    assert_eq!((too_old(false, true), too_old(false, false)), (Bin::History, Bin::TooOld));
}

/// Regression: a snapshot of the table of orders was one red alert, for its rows are old and their records are new.
#[test]
fn an_old_row_of_a_snapshot_is_history_and_a_young_one_is_announced() {
    let row = |row, age: i64, store: bool| Event {
        row: Some(row),
        at: NOW.plus_ms(-age),
        store: store.then(|| Id::new("s1").unwrap()),
        ..event(E::Paid, "1")
    };
    let snapshot = |age, store| row(RowChange::Snapshot, age, store);
    assert_eq!(bins_of(&[snapshot(HOUR, true)]), [(Bin::Notified, 1)]);
    assert_eq!(bins_of(&[snapshot(HOUR, false)]), [(Bin::AwaitsStore, 1)]);
    for has_store in [true, false] {
        assert_eq!(bins_of(&[snapshot(3 * HOUR, has_store)]), [(Bin::History, 1)]);
        let (next, effects) = Order::apply(None, &snapshot(3 * HOUR, has_store), NOW, &policy()).unwrap();
        assert_eq!(next.unwrap().unannounced(&effects, false), None, "nobody waits for it");
    }
    // An order that waited for its store is no history because a snapshot names it, too late.
    let waiting = Event { at: NOW.plus_ms(-3 * HOUR), ..without_store(E::Paid, "0") };
    assert_eq!(bins_of(&[waiting, snapshot(3 * HOUR, true)]), [(Bin::TooOld, 1), (Bin::Stale, 1)]);
    let forgotten = |change| forgotten(&row(change, 80 * HOUR, true), false);
    assert_eq!(forgotten(RowChange::Snapshot), Bin::History);
    assert_eq!(forgotten(RowChange::Unchanged), Bin::History, "its payment had a record of its own");
    assert_eq!(forgotten(RowChange::Updated), Bin::TooOld);
}

#[test]
fn an_order_leaves_the_bin_of_those_without_a_store_when_it_is_announced_or_ends() {
    let paid = || without_store(E::Paid, "1");
    assert_eq!(bins_of(&[paid()]), [(Bin::AwaitsStore, 1)]);
    assert_eq!(bins_of(&[paid(), event(E::Accepted, "2")]), [(Bin::Notified, 1)]);
    assert_eq!(bins_of(&[paid(), without_store(E::Cancelled, "2")]), [(Bin::Superseded, 1)]);
    // The bin is that of the topic that the payment came from, and so is the place that is reported.
    let mut balance = Balance::default();
    balance.read(&record("payments", 4), &paid());
    let order = balance.order.clone();
    balance.read(&record("orders", 9), &event(E::Created, "2"));
    assert_eq!(balance.bins(), [("payments", Bin::Notified, 1)]);
    let created = event(E::Created, "2");
    let (next, effects) = Order::apply(order.as_ref(), &created, NOW, &policy()).unwrap();
    let later = NOW.plus_ms(5_000);
    let moves = next.unwrap().bin_changes(
        order.as_ref(),
        (&record("orders", 9), LogNumber(0)),
        &created,
        &effects,
        false,
        later,
    );
    let moves: Vec<_> = moves.iter().map(|delta| (delta.by, delta.place.offset, delta.waits_since)).collect();
    assert_eq!(moves, [(-1, 4, Some(NOW)), (1, 4, None)], "it takes what it brought");
}

/// Regression: a topic that was created again begins at offset 0, and its records were taken for such as had been counted.
#[test]
fn a_record_of_another_log_is_counted_whatever_its_offset() {
    let mut balance = Balance::default();
    balance.read(&record("orders", 7_000), &event(E::Paid, "1"));
    balance.read(&record("orders", 3), &event(E::Paid, "2"));
    assert_eq!(balance.bins(), [("orders", Bin::Notified, 1)], "it was counted before");
    balance.log = LogNumber(1);
    let other = Event { amount: Some(MinorUnits(99)), ..event(E::Paid, "3") };
    [3, 3, 2].into_iter().for_each(|offset| balance.read(&record("orders", offset), &other));
    assert_eq!(balance.bins(), [("orders", Bin::Notified, 1), ("orders", Bin::SecondPayment, 1)]);
    balance.log = LogNumber(0);
    balance.read(&record("orders", 6_999), &event(E::Paid, "4"));
    assert_eq!(balance.bins().len(), 2, "the first log is remembered, too");
}

/// Regression: an order that waited for its store when the server was upgraded was in no bin, and no alert named it.
#[test]
fn a_state_that_waits_without_being_counted_is_counted_with_its_next_event() {
    let mut known = Balance::default();
    known.read(&record("orders", 1), &without_store(E::Paid, "1"));
    let mut stored = serde_json::to_value(known.order.unwrap()).unwrap();
    assert!(stored.as_object_mut().unwrap().remove("binned").is_some());
    let order: Option<Order> = serde_json::from_value(stored).ok();
    let and_then = |events: &[Event]| {
        let mut balance = Balance { order: order.clone(), ..Balance::default() };
        events.iter().zip(2..).for_each(|(event, at)| balance.read(&record("orders", at), event));
        balance.bins().into_iter().map(|(_, bin, count)| (bin, count)).collect::<Vec<_>>()
    };
    assert_eq!(and_then(&[without_store(E::Paid, "1")]), [(Bin::Duplicate, 1)]);
    assert_eq!(and_then(&[without_store(E::Paid, "2")]), [(Bin::AwaitsStore, 1)]);
    assert_eq!(and_then(&[without_store(E::Created, "2"), without_store(E::Created, "3")]), [(Bin::AwaitsStore, 1)]);
    assert_eq!(and_then(&[event(E::Paid, "2")]), [(Bin::Notified, 1)], "this record names its store");
    assert_eq!(and_then(&[event(E::Paid, "2"), event(E::Paid, "3")]), [(Bin::Notified, 1), (Bin::Stale, 1)]);
    assert_eq!(and_then(&[without_store(E::Created, "2"), event(E::Created, "3")]), [(Bin::Notified, 1)]);
}

fn any_event() -> impl Strategy<Value = (usize, Event)> {
    let kinds = prop::sample::select(vec![E::Created, E::Paid, E::Accepted, E::PickedUp, E::Cancelled, E::Expired]);
    let fields = (kinds, 0..4_u8, any::<bool>(), prop::sample::select(vec![-3 * HOUR, -1, 0, 1]), 0..2_i64);
    (0..2_usize, fields).prop_map(|(topic, (kind, id, has_store, age, amount))| {
        let store = has_store.then(|| Id::new("s1").unwrap());
        let amount = Some(MinorUnits(amount));
        (topic, Event { store, amount, at: NOW.plus_ms(age), ..event(kind, &id.to_string()) })
    })
}

proptest! {
    /// Whatever is read again after a crash, from whatever offset: each record is counted once, and no bin owes a record.
    #[test]
    fn reading_records_again_changes_no_bin(
        log in prop::collection::vec(any_event(), 1..12),
        restarts in prop::collection::vec((0..12_usize, 0..12_usize), 0..4),
    ) {
        let mut offsets = [0; 2];
        let log: Vec<(Record, Event)> = log.into_iter().map(|(topic, event)| {
            offsets[topic] += 1;
            (record(["orders", "payments"][topic], offsets[topic]), event)
        }).collect();
        let mut once = Balance::default();
        let mut again = Balance::default();
        for (at, (record, event)) in log.iter().enumerate() {
            once.read(record, event);
            again.read(record, event);
            for (_, from) in restarts.iter().filter(|(crash, _)| *crash == at) {
                log[(*from).min(at)..=at].iter().for_each(|(record, event)| again.read(record, event));
            }
            prop_assert!(once.bins.values().all(|count| *count >= 0));
        }
        prop_assert_eq!(once.bins(), again.bins());
        let counted: i64 = once.bins.values().sum();
        let payments = log.iter().filter(|(_, event)| event.kind == E::Paid).count() as i64;
        // At most one other event tells that the order is paid.
        prop_assert!((payments..=payments + 1).contains(&counted), "{} of {}", counted, payments);
    }
}
