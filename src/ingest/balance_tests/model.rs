//! The naive model: a list of what was sent, and what has to become of each by the words of the documentation.
//!
//! It reads no bytes and shares no code with the product. Of an order with a plain life it says in which bin each record ends, and how often its
//! store is notified; of any other order, that each payment ends in some bin.

use std::collections::BTreeMap;

use orderbell_protocol::balance::Bin;

use super::meant::{Amount, Damage, Envelope, EventId, Kind, Meant, Recorded, Sent, Time, Written};
use super::written::{Chain, Family, Part};

/// A bin of a topic: with the type of an event that is no payment, and by which its order is known as paid.
pub(super) type BinName = (String, Bin, &'static str);

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is about no order that may be paid.
    Nothing,
    /// It is in this bin, whatever its order is.
    In(Bin),
    /// It is an event of its order.
    Applied,
}

/// An event of an order, in the order of the log.
#[derive(Clone, Debug)]
struct Applied {
    topic: String,
    meant: Meant,
    recorded: Recorded,
    family: Family,
    /// Two events with the same are one.
    identity: String,
}

/// What a case must lead to.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Records in each bin, as far as it is certain.
    pub(super) certain: BTreeMap<BinName, u64>,
    /// Payments by topic, of which it is only certain that each is in one bin.
    pub(super) payments: BTreeMap<String, u64>,
    /// Other events by topic and type, by one of which an order may be known as paid.
    pub(super) others: BTreeMap<(String, &'static str), u64>,
    /// Notices of new orders by order, as far as it is certain.
    pub(super) new_orders: BTreeMap<u8, u64>,
}

pub(super) struct Model {
    chain: Chain,
    expected: Expected,
    orders: BTreeMap<u8, Vec<Applied>>,
}

/// A dead letter whose type is known.
fn rejected(kind: Kind) -> Fate {
    match kind {
        Kind::Paid => Fate::In(Bin::Rejected),
        Kind::Accepted | Kind::Ready => Fate::In(Bin::RejectedLater),
        _ => Fate::Nothing,
    }
}

fn fate(sent: &Sent, meant: &Meant) -> Fate {
    match (&sent.damage, sent.envelope, meant.kind) {
        (Damage::None | Damage::ByteOrderMark | Damage::NulsAtTheEnd, ..) => {}
        // Its attributes are in the headers: nothing is missing but the data.
        (Damage::NoValue | Damage::Empty, Envelope::Binary, Kind::Ignored) => return Fate::In(Bin::Ignored),
        (Damage::NoValue | Damage::Empty, Envelope::Binary, Kind::Missing) => return Fate::Nothing,
        (Damage::NoValue, envelope, _) if envelope != Envelope::Binary => return Fate::Nothing,
        (_, Envelope::Binary, kind) if kind != Kind::Missing => return rejected(kind),
        _ => return Fate::In(Bin::Unreadable),
    }
    match meant.kind {
        Kind::Ignored => return Fate::In(Bin::Ignored),
        Kind::Unknown => return Fate::Nothing,
        Kind::Missing => {
            let names = |written: Written| written.is_id() || written.is_bad();
            // The envelope of MassTransit is known by its types.
            let may_be = names(meant.order_as) || names(meant.store_as) || sent.envelope == Envelope::MassTransit;
            return if may_be { Fate::In(Bin::Unreadable) } else { Fate::Nothing };
        }
        _ => {}
    }
    let has_bad_id = meant.id == EventId::TooLong && !Family::of(sent.envelope).is_of_rows();
    if has_bad_id || meant.store_as.is_bad() || !meant.order_as.is_id() { rejected(meant.kind) } else { Fate::Applied }
}

impl Model {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain, expected: Expected::default(), orders: BTreeMap::new() }
    }

    /// The next record of the log; `serial` is that of its first event.
    pub(super) fn read(&mut self, sent: &Sent, parts: &[Part], serial: usize) {
        let family = Family::of(sent.envelope);
        let topic = self.chain.topic(family);
        let is_whole = matches!(sent.damage, Damage::None | Damage::ByteOrderMark | Damage::NulsAtTheEnd);
        let mut seen: Vec<&str> = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let at = number.min(sent.events.len() - 1);
            let meant = &sent.events[at];
            // What cannot be taken apart is one record, and equal parts are one.
            if (!is_whole && number > 0) || seen.contains(&part.bytes.as_str()) {
                continue;
            }
            seen.push(&part.bytes);
            match fate(sent, meant) {
                Fate::Nothing => {}
                Fate::In(bin) => self.certain(&topic, bin, ""),
                Fate::Applied => {
                    let own_id = self.chain.event_id(meant, serial + at).filter(|_| !family.is_of_rows());
                    let id = own_id.map_or_else(|| format!("made of {}", part.content), |id| format!("named {id}"));
                    let identity = format!("{topic} {:?} {id}", meant.kind);
                    let (topic, meant) = (topic.clone(), meant.clone());
                    let applied = Applied { topic, meant, recorded: sent.recorded, family, identity };
                    self.orders.entry(applied.meant.order).or_default().push(applied);
                }
            }
        }
    }

    fn certain(&mut self, topic: &str, bin: Bin, reason: &'static str) {
        *self.expected.certain.entry((topic.to_owned(), bin, reason)).or_default() += 1;
    }

    pub(super) fn expected(mut self) -> Expected {
        for (order, events) in std::mem::take(&mut self.orders) {
            if events.iter().all(is_plain) && !differ(&events) {
                self.live(order, &events);
            } else {
                for event in &events {
                    let kind = event.meant.kind;
                    if kind == Kind::Paid {
                        *self.expected.payments.entry(event.topic.clone()).or_default() += 1;
                    } else if let Some(word) = kind.word() {
                        *self.expected.others.entry((event.topic.clone(), word)).or_default() += 1;
                    }
                }
            }
        }
        self.expected
    }

    /// The life of an order of which every event is plain.
    fn live(&mut self, order: u8, events: &[Applied]) {
        let mut known: Vec<&str> = Vec::new();
        let (mut is_paid, mut has_store) = (false, false);
        let mut waits: Option<(&str, &'static str)> = None;
        for event in events {
            let kind = event.meant.kind;
            let reason = if kind == Kind::Paid { "" } else { kind.word().unwrap_or_default() };
            if known.contains(&event.identity.as_str()) {
                if kind == Kind::Paid {
                    self.certain(&event.topic, Bin::Duplicate, "");
                }
                continue;
            }
            known.push(&event.identity);
            has_store |= event.meant.store_as.is_id();
            let was_paid = is_paid;
            is_paid |= kind != Kind::Created;
            match (is_paid, was_paid) {
                (true, false) if has_store => self.certain(&event.topic, Bin::Notified, reason),
                (true, false) => waits = Some((&event.topic, reason)),
                (true, true) if kind == Kind::Paid => self.certain(&event.topic, Bin::Stale, ""),
                _ => {}
            }
            if let Some((topic, reason)) = waits.take_if(|_| has_store) {
                self.certain(topic, Bin::Notified, reason);
            }
        }
        if let Some((topic, reason)) = waits {
            self.certain(topic, Bin::AwaitsStore, reason);
        }
        self.expected.new_orders.insert(order, u64::from(is_paid && has_store));
    }
}

/// True for an event that is fresh and names its own store, if any.
fn is_plain(event: &Applied) -> bool {
    let Applied { meant, recorded, family, .. } = event;
    let is_alive = matches!(meant.kind, Kind::Created | Kind::Paid | Kind::Accepted | Kind::Ready);
    let is_fresh = match meant.time {
        Time::Fresh(..) | Time::Absent | Time::DateOnly | Time::Garbage | Time::DaysAhead => true,
        // Without a time stamp of the log nobody knows that it is behind.
        Time::HoursBehind => *recorded == Recorded::Now && !family.is_of_rows(),
        Time::Old | Time::Ancient => false,
    };
    let is_own_store = !meant.is_other_store || !meant.store_as.is_id();
    is_alive && is_fresh && is_own_store && *recorded != Recorded::HoursAgo
}

/// True when two payments may be of two orders: they state something else, or one source, of which each topic has one, tells of both.
fn differ(events: &[Applied]) -> bool {
    let payments: Vec<&Applied> = events.iter().filter(|event| event.meant.kind == Kind::Paid).collect();
    let has_other = |event: &&Applied| {
        let Meant { amount, is_other_customer, customer_as, .. } = &event.meant;
        *amount == Amount::Other || (*is_other_customer && customer_as.is_id())
    };
    let is_of_one_source =
        |(one, other): (&&Applied, &&Applied)| one.topic == other.topic && one.identity != other.identity;
    let pairs =
        || payments.iter().enumerate().flat_map(|(at, one)| payments[at + 1..].iter().map(move |other| (one, other)));
    (payments.len() > 1 && payments.iter().any(has_other)) || pairs().any(is_of_one_source)
}
