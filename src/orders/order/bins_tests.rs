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
        headers: Vec::new(),
    }
}

/// One order, and the bins of its records by topic.
#[derive(Clone, Default)]
struct Balance {
    order: Option<Order>,
    bins: BTreeMap<(String, Bin), i64>,
}

impl Balance {
    fn read(&mut self, record: &Record, event: &Event) {
        let (next, effects) = Order::apply(self.order.as_ref(), event, NOW, &policy()).unwrap();
        let Some(mut next) = next else { return };
        for delta in next.bin_changes(self.order.as_ref(), record, event, &effects, UnixMs(0)) {
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
    let old = Event { at: NOW.plus_ms(-3 * HOUR), ..paid("1") };
    assert_eq!(bins_of(&[old]), [(Bin::TooOld, 1)]);
    let began = NOW.plus_ms(-HOUR);
    let recorded = |hours: i64| too_old(NOW.plus_ms(-hours * HOUR), began);
    assert_eq!((recorded(3), recorded(1)), (Bin::History, Bin::TooOld), "what was recorded in an outage is no history");
    assert_eq!(too_old(UnixMs(0), began), Bin::TooOld, "no time stamp");
}

#[test]
fn an_order_leaves_the_bin_of_those_without_a_store_when_it_is_announced_or_ends() {
    let paid = || without_store(E::Paid, "1");
    assert_eq!(bins_of(&[paid()]), [(Bin::AwaitsStore, 1)]);
    assert_eq!(bins_of(&[paid(), event(E::Accepted, "2")]), [(Bin::Notified, 1)]);
    assert_eq!(bins_of(&[paid(), without_store(E::Cancelled, "2")]), [(Bin::Superseded, 1)]);
    // The bin is that of the topic that the payment came from.
    let mut balance = Balance::default();
    balance.read(&record("payments", 4), &paid());
    balance.read(&record("orders", 9), &event(E::Created, "2"));
    assert_eq!(balance.bins(), [("payments", Bin::Notified, 1)]);
}

fn any_event() -> impl Strategy<Value = (usize, Event)> {
    let kinds = prop::sample::select(vec![E::Created, E::Paid, E::Accepted, E::PickedUp, E::Cancelled]);
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
