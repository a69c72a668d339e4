//! Orders of their own with one thing wrong: amounts, times, ids, stores, keys and events that contradict each other.

use orderbell_protocol::balance::Bin;
use serde_json::{Value, json};

use super::envelope::Envelope;
use super::load::{CONNECTED, HOUR_MS, Load, Sent, text_of};
use crate::chain::now;

/// A way to go wrong: the records of one order or a few.
pub(super) type Fault = fn(&mut Load) -> Vec<Sent>;

pub(super) const FAULTS: [Fault; 13] = [
    Load::odd_amount,
    Load::odd_amount_of_a_currency,
    Load::odd_time,
    Load::too_long_order,
    Load::too_long_store,
    Load::too_long_event_id,
    Load::too_long_customer_or_device,
    Load::other_store,
    Load::other_acceptance_with_one_id,
    Load::other_payment_with_one_id,
    Load::expired,
    Load::paid_after_it_expired,
    Load::wrong_key,
];

/// Amounts in the smallest unit, and what is read of them: one is no fraction of it and not negative, and a comma may mean two things.
const AMOUNTS: [(&str, Option<i64>); 11] = [
    ("1250.0", Some(1250)),
    ("\"1250.00\"", Some(1250)),
    ("\" 1250 \"", Some(1250)),
    ("\"1.25e3\"", Some(1250)),
    ("{\"$numberLong\":\"1250\"}", Some(1250)),
    ("12.5", None),
    ("\"12.50\"", None),
    ("-1250", None),
    ("\"1,250\"", None),
    ("\"\"", None),
    ("true", None),
];

/// Amounts in the main unit, by currency; whether they have an amount, and what the chain, which counts in CNY, adds to its sum.
const OF_CURRENCIES: [(&str, &str, bool, i64); 8] = [
    ("CNY", "12.5", true, 1250),
    ("CNY", "\"12.5000\"", true, 1250),
    ("CNY", "12.505", false, 0),
    ("JPY", "1250", true, 0),
    ("JPY", "12.5", false, 0),
    ("KWD", "\"1.250\"", true, 0),
    ("KWD", "\"1.2505\"", false, 0),
    ("CNY", "-12.5", false, 0),
];

/// The time in a form that a program writes, and whether it says when.
fn times(ms: i64) -> [(Value, bool); 10] {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap();
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    let shanghai = at.in_tz("Asia/Shanghai").unwrap();
    let parts =
        json!([utc.year(), utc.month(), utc.day(), utc.hour(), utc.minute(), utc.second(), utc.subsec_nanosecond()]);
    [
        ((ms * 1_000_000).into(), true),
        ((ms * 1_000).to_string().into(), true),
        (parts, true),
        (shanghai.to_string().into(), true),
        (json!({"$date": {"$numberLong": ms.to_string()}}), true),
        (json!({"$date": at.to_string()}), true),
        (utc.date().to_string().into(), false),
        ("soon".into(), false),
        (json!({"at": ms}), false),
        ("".into(), false),
    ]
}

impl Load {
    /// An order that rings with these flags, whatever is wrong with its payment, and the amount that the wall adds.
    fn rings(&mut self, event: &Value, flags: &[&'static str], amount: i64, envelope: Envelope) -> Vec<Sent> {
        self.expected.reads(event);
        let order = event["order"].as_str().unwrap().to_owned();
        self.expected.flags.insert(order.clone(), flags.to_vec());
        self.adds_paid(amount);
        let (value, headers) = envelope.write(event);
        vec![Sent { headers, envelope, ..Sent::of(Some(order), value, false) }]
    }

    fn adds_paid(&mut self, amount: i64) {
        self.sums.created += 1;
        self.sums.paid += 1;
        self.sums.paid_amount += amount;
    }

    fn odd_amount(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("amount");
        let mut event = self.paid(&order);
        let (json, amount) = self.one_of(&AMOUNTS);
        event["amount"] = serde_json::from_str(json).unwrap();
        let flags: &[&str] = if amount.is_some() { &[] } else { &["amount"] };
        self.rings(&event, flags, amount.unwrap_or_default(), Envelope::Plain)
    }

    /// On Kafka the topic of one envelope has amounts in the main unit.
    fn odd_amount_of_a_currency(&mut self) -> Vec<Sent> {
        if !self.is_kafka {
            return Vec::new();
        }
        let order = self.fresh_order("currency");
        let mut event = self.paid(&order);
        let (currency, json, is_read, sum) = self.one_of(&OF_CURRENCIES);
        event["amount"] = serde_json::from_str(json).unwrap();
        event["currency"] = currency.into();
        self.rings(&event, if is_read { &[] } else { &["amount"] }, sum, Envelope::Maxwell)
    }

    fn odd_time(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("time");
        let mut event = self.paid(&order);
        let (time, is_read) = self.one_of(&times(now().0 - 60_000));
        event["time"] = time;
        self.rings(&event, if is_read { &[] } else { &["clock"] }, 500, Envelope::Plain)
    }

    /// An event with an id that is longer than ids may be: it is refused, for cut it could be another's.
    fn too_long(&mut self, member: &str, bytes: usize, reason: &str) -> Vec<Sent> {
        let order = self.fresh_order("long");
        let mut event = self.paid(&order);
        event[member] = format!("{order}-{}", "x".repeat(bytes)).into();
        if self.is_kafka {
            self.expected.counts(Bin::Rejected, reason);
        }
        vec![Sent::of(Some(order), text_of(&event), true)]
    }

    fn too_long_order(&mut self) -> Vec<Sent> {
        self.too_long("order", 128, "bad-order")
    }

    fn too_long_store(&mut self) -> Vec<Sent> {
        self.too_long("store", 128, "bad-id")
    }

    fn too_long_event_id(&mut self) -> Vec<Sent> {
        self.too_long("id", 1_024, "bad-id")
    }

    /// Neither is needed to ring.
    fn too_long_customer_or_device(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("person");
        let mut event = self.paid(&order);
        let member = self.one_of(&["customer", "device"]);
        event[member] = "x".repeat(129).into();
        self.rings(&event, &[member], 500, Envelope::Plain)
    }

    /// A payment, and what its producer writes after it about the same order, in this order and in one partition.
    fn paid_and_then(&mut self, prefix: &str, change: impl Fn(&mut Value)) -> (Value, Value) {
        let order = self.fresh_order(prefix);
        let paid = self.paid(&order);
        let mut next = paid.clone();
        next["time"] = (now().0 - 30_000).into();
        change(&mut next);
        self.expected.reads(&paid);
        self.adds_paid(500);
        (paid, next)
    }

    fn in_turn(events: &[&Value]) -> Vec<Sent> {
        let sent = |event: &&Value| Sent::of(event["order"].as_str().map(str::to_owned), text_of(event), false);
        events.iter().map(sent).collect()
    }

    /// Another store for an order of which its store was notified: a dead letter wherever it comes from, for it is only known when it is applied.
    fn other_store(&mut self) -> Vec<Sent> {
        let (paid, mut next) = self.paid_and_then("moved", |next| next["id"] = "moved".into());
        let another = CONNECTED.into_iter().find(|store| paid["store"] != *store).unwrap();
        (next["store"], next["id"]) = (another.into(), format!("{}-moved", paid["id"]).into());
        self.expected.counts(Bin::Rejected, "store-mismatch");
        Self::in_turn(&[&paid, &next])
    }

    /// By HTTP the second is a conflict at once.
    fn other_acceptance_with_one_id(&mut self) -> Vec<Sent> {
        let (paid, accepted) = self.paid_and_then("accepted", |next| {
            (next["type"], next["pickup_code"]) = ("order.accepted".into(), "A1".into());
        });
        self.expected.reads(&accepted);
        self.sums.accepted += 1;
        let mut other = accepted.clone();
        other["pickup_code"] = "B2".into();
        if self.is_kafka {
            self.expected.counts(Bin::RejectedLater, "event-conflict");
        }
        let mut sent = Self::in_turn(&[&paid, &accepted, &other]);
        sent[2].is_refused = true;
        sent
    }

    /// Two payments may be those of two orders, whatever their ids are.
    fn other_payment_with_one_id(&mut self) -> Vec<Sent> {
        let (paid, other) = self.paid_and_then("twice", |next| next["amount"] = 700.into());
        if self.is_kafka {
            self.expected.counts(Bin::SecondPayment, "");
        }
        let mut sent = Self::in_turn(&[&paid, &other]);
        sent[1].is_refused = true;
        sent
    }

    /// Never paid: it rings nobody, and is in no bin.
    fn expired(&mut self) -> Vec<Sent> {
        let order = self.fresh_order("expired");
        let mut created = self.paid(&order);
        (created["type"], created["id"]) = ("order.created".into(), format!("{order}-created").into());
        created["time"] = (now().0 - HOUR_MS).into();
        let mut expired = created.clone();
        (expired["type"], expired["id"]) = ("order.expired".into(), format!("{order}-expired").into());
        expired["time"] = (now().0 - HOUR_MS / 2).into();
        self.sums.created += 1;
        Self::in_turn(&[&created, &expired])
    }

    /// Paid after whoever made it had let it expire: somebody must refund it, and no store is notified.
    fn paid_after_it_expired(&mut self) -> Vec<Sent> {
        let mut sent = self.expired();
        let order = sent[0].key.clone().unwrap();
        self.expected.counts(Bin::LatePayment, "");
        sent.extend(Self::in_turn(&[&self.paid(&order)]));
        sent
    }

    /// On Kafka the keys of one topic are its orders: a record whose key names another is of nobody knows which. Posts have no keys.
    fn wrong_key(&mut self) -> Vec<Sent> {
        if !self.is_kafka {
            return Vec::new();
        }
        let order = self.fresh_order("key");
        let (value, headers) = Envelope::Spring.write(&self.paid(&order));
        self.expected.counts(Bin::Rejected, "key-mismatch");
        vec![Sent { headers, envelope: Envelope::Spring, ..Sent::of(Some(format!("of-{order}")), value, false) }]
    }
}
