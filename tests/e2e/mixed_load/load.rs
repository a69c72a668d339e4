//! Orders as chains send them, with every kind of fault in a tenth of them, and each envelope around as many as any other.

use std::collections::BTreeSet;

use orderbell_lab::Dice;
use orderbell_protocol::balance::Bin;
use orderbell_protocol::wall::WallSums;
use serde_json::{Value, json};

use super::envelope::Envelope;
use super::expected::Expected;
use super::odd;
use crate::chain::now;

/// Orders of one batch.
const ORDERS: usize = 8;
/// How long before now an order begins: its notices are of use, or of none since two hours. Not whole half hours: those are another zone's.
const FRESH_MS: (u64, u64) = (600_000, 5_400_000);
const OLD_MS: (u64, u64) = (141 * 60_000, 5 * 60_000);
pub(super) const HOUR_MS: i64 = 3_600_000;
/// Stores with a till that is there all the time, and stores whose till comes after everything.
pub(crate) const CONNECTED: [&str; 5] = ["1", "2", "3", "4", "5"];
pub(crate) const NEVER_CONNECTED: [&str; 2] = ["7", "8"];

/// Records of their own, besides those of [`odd::FAULTS`].
const RECORDS: [odd::Fault; 11] = [
    Load::cut,
    Load::utf16,
    Load::empty_array,
    Load::change_of_a_table,
    Load::invented_order,
    Load::invented_order_of_a_later_stage,
    Load::unknown_type,
    Load::ignored_type,
    Load::tombstone,
    Load::several_in_a_record,
    Load::forgotten,
];

/// One record, or what is posted of one.
pub(crate) struct Sent {
    pub(crate) key: Option<String>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// By HTTP it is refused, and what is refused is not in the log.
    pub(crate) is_refused: bool,
    pub(crate) envelope: Envelope,
}

impl Sent {
    pub(super) fn of(key: Option<String>, value: Vec<u8>, is_refused: bool) -> Self {
        Self { key, value: Some(value), headers: Vec::new(), is_refused, envelope: Envelope::Plain }
    }
}

/// The load: what was produced so far, and what must become of it.
pub(crate) struct Load {
    dice: Dice,
    orders: u64,
    /// Without Kafka there are no records that the HTTP endpoint would refuse, and none of several events.
    pub(super) is_kafka: bool,
    pub(crate) sums: WallSums,
    pub(crate) expected: Expected,
    /// Those in which nothing was sent yet.
    envelopes_to_come: BTreeSet<Envelope>,
    /// Kinds of faults in records of their own, by their places, that did not happen yet.
    faults_to_come: BTreeSet<usize>,
}

impl Load {
    pub(crate) fn new(is_kafka: bool) -> Self {
        let expected = Expected::new(!is_kafka);
        let (sums, envelopes_to_come) = (WallSums::default(), Envelope::all(is_kafka).iter().copied().collect());
        let faults_to_come = (0..RECORDS.len() + odd::FAULTS.len()).collect();
        Self { dice: Dice(7), orders: 0, is_kafka, sums, expected, envelopes_to_come, faults_to_come }
    }

    /// True when every kind of fault happened, something was sent in each envelope, and each store has orders to work on.
    pub(crate) fn is_complete(&self) -> bool {
        let mut stores = CONNECTED.into_iter().chain(NEVER_CONNECTED);
        self.envelopes_to_come.is_empty()
            && self.faults_to_come.is_empty()
            && self.expected.has_every_bin()
            && stores.all(|store| !self.expected.orders_of(store, true).is_empty())
    }

    fn in_ten(&mut self) -> bool {
        self.dice.below(10) == 0
    }

    pub(super) fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.dice.below(all.len() as u64) as usize].clone()
    }

    /// The records of the next orders, in the order in which they are produced.
    pub(crate) fn batch(&mut self) -> Vec<Sent> {
        let mut events: Vec<Value> = (0..ORDERS).flat_map(|_| self.life()).collect();
        self.mix(&mut events);
        events.iter().for_each(|event| self.expected.reads(event));
        let mut sent: Vec<Sent> = events.iter().map(|event| self.in_its_envelope(event)).collect();
        for _ in 0..ORDERS {
            for (at, fault) in RECORDS.into_iter().chain(odd::FAULTS).enumerate() {
                if self.in_ten() {
                    sent.extend(fault(self));
                    self.faults_to_come.remove(&at);
                }
            }
        }
        sent
    }

    /// An event in the envelope of its order; on Kafka, a tenth of the plain ones with a byte order mark or zeros at the end.
    fn in_its_envelope(&mut self, event: &Value) -> Sent {
        let order = event["order"].as_str().unwrap_or_default();
        let envelope = Envelope::of(order, self.is_kafka);
        self.envelopes_to_come.remove(&envelope);
        let (mut value, headers) = envelope.write(event);
        if self.is_kafka && envelope == Envelope::Plain && self.in_ten() {
            let (before, after) = self.one_of(&[(&b"\xef\xbb\xbf"[..], &b""[..]), (b"", b"\0\0")]);
            value = [before, &value, after].concat();
        }
        let key = if is_key_quoted(order) { event["order"].to_string() } else { order.to_owned() };
        Sent { key: Some(key), value: Some(value), headers, is_refused: false, envelope }
    }

    /// One order's life and what it adds to the day, with faults that cost a field, a flag or its notice.
    fn life(&mut self) -> Vec<Value> {
        let number = self.orders;
        self.orders += 1;
        let (shape, amount) = (number % 10, self.dice.below(9_000) as i64 + 100);
        let is_old = self.in_ten();
        let order = format!("{}{number}", if is_old { "old" } else { "o" });
        let (from, span) = if is_old { OLD_MS } else { FRESH_MS };
        let mut at = now().0 - (from + self.dice.below(span)) as i64;
        let steps: &[&str] = match shape {
            0 => &["created", "paid", "refused"],
            1 => &["created", "paid", "cancelled", "refunded", "refunded"],
            2 => &["created"],
            3 => &["paid", "accepted", "ready", "picked_up"],
            4 => &["created", "paid", "accepted", "ready", "picked_up"],
            5 => &["created", "paid"],
            6 => &["paid", "accepted"],
            // Its number is used again; another payment has its number; a cancellation that was overtaken by its payment.
            7 => &["paid", "picked_up", "paid"],
            8 => &["paid", "paid"],
            _ => &["paid", "cancelled"],
        };
        self.adds(shape, amount);
        let mut events = Vec::new();
        for (step, kind) in steps.iter().enumerate() {
            at += 1_000 + self.dice.below(59_000) as i64;
            let (id, amount) = (format!("{order}-{step}"), if *kind == "refunded" { 9 * step as i64 } else { amount });
            let event = json!({"type": format!("order.{kind}"), "order": order, "id": id, "time": at, "amount": amount,
                               "customer": format!("c{number}"), "pickup_code": "A1"});
            events.push(event);
        }
        match shape {
            8 => events[1]["customer"] = "another".into(),
            9 => (events[0]["version"], events[1]["version"]) = (5.into(), 3.into()),
            _ => {}
        }
        self.spoil(&mut events, number, !is_old && [5, 6, 8].contains(&shape));
        events
    }

    fn adds(&mut self, shape: u64, amount: i64) {
        let sums = &mut self.sums;
        sums.created += 1;
        sums.paid += i64::from(shape != 2);
        sums.paid_amount += if shape == 2 { 0 } else { amount };
        sums.refused += i64::from(shape == 0);
        sums.cancelled += i64::from(shape == 1 || shape == 9);
        if shape == 1 {
            sums.refunded += 1;
            sums.refunded_amount += 9 * 3 + 9 * 4;
        }
        let is_collected = i64::from([3, 4, 7].contains(&shape));
        sums.accepted += is_collected + i64::from(shape == 6);
        sums.ready += is_collected;
        sums.picked_up += is_collected;
    }

    /// Faults of an order's events, each in a tenth of the orders.
    fn spoil(&mut self, events: &mut Vec<Value>, number: u64, may_change_times: bool) {
        let mut store = Value::from(self.one_of(&CONNECTED));
        if self.in_ten() {
            store = format!(" {}\t", self.one_of(&CONNECTED)).into();
        }
        if self.in_ten() {
            store = self.one_of(&NEVER_CONNECTED).into();
        }
        let has_no_store = self.in_ten();
        if has_no_store {
            let named_later = json!({"type": "order.created", "order": events[0]["order"], "id": format!("named-{number}"),
                                     "time": events[events.len() - 1]["time"], "amount": events[0]["amount"], "store": store});
            if self.dice.below(2) == 0 {
                events.push(named_later);
            }
            store = self.one_of(&[Value::Null, 0.into(), "0".into()]);
        }
        let guest = self.in_ten().then(|| self.one_of(&["".into(), "0".into(), 0.into(), Value::from(false)]));
        let damage = self.in_ten().then(|| self.dice.below(DAMAGES.len() as u64));
        let no_id = self.in_ten().then(|| self.one_of(&["".into(), "undefined".into(), Value::from(0)]));
        let hours_off =
            (may_change_times && self.in_ten()).then(|| if self.is_kafka { self.one_of(&[3, -3]) } else { 3 });
        for event in events {
            if event["store"].is_null() {
                event["store"] = store.clone();
            }
            if let Some(guest) = &guest {
                event["customer"] = guest.clone();
            }
            if let Some(damage) = damage {
                event["note"] = format!("%{damage}").into();
            }
            if let Some(no_id) = &no_id {
                event["id"] = no_id.clone();
            }
            if let Some(hours) = hours_off.filter(|_| event["type"] == "order.paid") {
                event["time"] = (now().0 + hours * HOUR_MS).into();
            }
        }
    }

    /// Some events twice (once more under another id, where that is not another fact), load tests between, some out of their order.
    fn mix(&mut self, events: &mut Vec<Value>) {
        for at in 0..events.len() {
            let named = |event: &Value, more: &str| {
                let text = |member: &str| event[member].as_str().unwrap().to_owned();
                Value::from(format!("{}-{}-{at}-{more}", text("order"), text("type")))
            };
            if self.in_ten() {
                events.push(events[at].clone());
            }
            if self.in_ten() && events[at]["type"] != "order.refunded" {
                let mut again = events[at].clone();
                again["id"] = named(&again, "again");
                events.push(again);
            }
            if self.in_ten() {
                let mut copy = events[at].clone();
                (copy["shadow"], copy["id"]) = (true.into(), named(&copy, "shadow"));
                events.push(copy);
            }
        }
        let count = events.len() as u64;
        for _ in 0..count {
            if self.in_ten() {
                events.swap(self.dice.below(count) as usize, self.dice.below(count) as usize);
            }
        }
    }

    /// A paid event of an order of its own, which nothing is wrong with.
    pub(super) fn paid(&mut self, order: &str) -> Value {
        let store = self.one_of(&CONNECTED);
        json!({"type": "order.paid", "order": order, "id": format!("{order}-paid"), "time": now().0 - 60_000, "amount": 500, "store": store})
    }

    pub(super) fn fresh_order(&mut self, prefix: &str) -> String {
        self.orders += 10;
        format!("{prefix}{}", self.orders)
    }

    fn cut(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("cut");
        let text = text_of(&self.paid(&order));
        if self.is_kafka {
            self.expected.counts(Bin::Unreadable, "not-json");
        }
        vec![Sent::of(Some(order), text[..text.len() / 2].to_vec(), true)]
    }

    fn utf16(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("utf16-");
        let text = self.paid(&order).to_string();
        if self.is_kafka {
            self.expected.counts(Bin::Unreadable, "not-json");
        }
        let units = [0xfeff].into_iter().chain(text.encode_utf16());
        vec![Sent::of(Some(order), units.flat_map(u16::to_le_bytes).collect(), true)]
    }

    /// On Kafka it is no order, and no dead letter either.
    fn empty_array(&mut self) -> Vec<Sent> {
        vec![Sent::of(None, b"[]".to_vec(), true)]
    }

    fn change_of_a_table(&mut self) -> Vec<Sent> {
        let ddl = json!({"data": null, "database": "shop", "table": "events", "type": "ALTER", "isDdl": true, "sql": "alter table events add x int"});
        let sent = Sent { envelope: Envelope::Canal, ..Sent::of(None, ddl.to_string().into_bytes(), false) };
        if self.is_kafka { vec![sent] } else { Vec::new() }
    }

    fn invented(&mut self, kind: &str, bin: Bin) -> Vec<Sent> {
        let order = self.fresh_order("invented");
        let mut event = self.paid(&order);
        event["type"] = kind.into();
        event["order"] = self.one_of(&["".into(), "undefined".into(), "null".into(), Value::Null, 0.into()]);
        if self.is_kafka {
            self.expected.counts(bin, "no-order");
        }
        vec![Sent::of(None, text_of(&event), true)]
    }

    fn invented_order(&mut self) -> Vec<Sent> {
        self.invented("order.paid", Bin::Rejected)
    }

    fn invented_order_of_a_later_stage(&mut self) -> Vec<Sent> {
        self.invented("order.accepted", Bin::RejectedLater)
    }

    fn unknown_type(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("unknown");
        let mut event = self.paid(&order);
        event["type"] = "order.teleported".into();
        vec![Sent::of(Some(order), text_of(&event), true)]
    }

    fn ignored_type(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("ignored");
        let mut event = self.paid(&order);
        event["type"] = "loyalty.points".into();
        if self.is_kafka {
            self.expected.counts(Bin::Ignored, "");
        }
        vec![Sent::of(Some(order), text_of(&event), false)]
    }

    fn tombstone(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("tombstone");
        let sent = Sent { value: None, ..Sent::of(Some(order), Vec::new(), false) };
        if self.is_kafka { vec![sent] } else { Vec::new() }
    }

    /// Three orders in one record, which in a tenth of the cases comes twice, perhaps in another partition.
    fn several_in_a_record(&mut self) -> Vec<Sent> {
        let orders: Vec<String> = (0..3).map(|_| self.fresh_order("several")).collect();
        let events: Vec<Value> = orders.iter().map(|order| self.paid(order)).collect();
        let times = if self.in_ten() { 2 } else { 1 };
        (0..times).for_each(|_| events.iter().for_each(|event| self.expected.reads(event)));
        (self.sums.created, self.sums.paid) = (self.sums.created + 3, self.sums.paid + 3);
        self.sums.paid_amount += 3 * 500;
        let records = if self.is_kafka {
            vec![Value::from(events).to_string()]
        } else {
            events.iter().map(Value::to_string).collect()
        };
        (0..times).flat_map(|_| records.clone()).map(|text| Sent::of(None, text.into_bytes(), false)).collect()
    }

    /// Paid, and so old that its order would not be known any more.
    fn forgotten(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("forgotten");
        let mut event = self.paid(&order);
        event["time"] = (now().0 - 100 * HOUR_MS).into();
        self.expected.counts(Bin::TooOld, "");
        vec![Sent::of(Some(order), text_of(&event), false)]
    }
}

/// A serializer of JSON writes keys with their quotes, those of all events of an order: that is the same order.
fn is_key_quoted(order: &str) -> bool {
    order.trim_start_matches(char::is_alphabetic).parse::<u64>().is_ok_and(|number| number / 10 % 10 == 3)
}

/// What a damaged note looks like: half of a surrogate pair, raw control characters, a byte that is no UTF-8, a number that is none.
pub(super) const DAMAGES: [&[u8]; 4] = [b"\"half \\ud83d\"", b"\"a\tb\x01\"", b"\"\xff\"", b"NaN"];

pub(super) fn text_of(event: &Value) -> Vec<u8> {
    let text = event.to_string();
    let damaged = DAMAGES.iter().enumerate().find_map(|(number, damage)| {
        let (before, after) = text.split_once(&format!("\"%{number}\""))?;
        Some([before.as_bytes(), damage, after.as_bytes()].concat())
    });
    damaged.unwrap_or_else(|| text.into_bytes())
}
