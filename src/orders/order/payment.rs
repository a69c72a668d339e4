//! Payments that come after an order's first: a second order whose number is the same, or the same payment reported again.
//!
//! Chains begin their numbers again each day, and a pointer to the wrong member gives several orders one id. Both show as a paid event, with an
//! id of its own, about an order that is paid already. The same payment reported again states the same: its source the same time, another system a time
//! nearby. Refused: to take two events of one source for one payment because they state the same minutes apart; so do two guests. An update of a
//! database's row that stays paid is no payment, and one of which nobody knows what it was before is another payment only where amount, currency or
//! customer are others.

use orderbell_protocol::event::{Flag, MinorUnits, RowChange};
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::{Deserialize, Serialize};

use super::super::sha256;
use super::{Order, Unannounced};

/// Two systems that tell of one payment state nearly the same time; two payments further apart are two.
const SAME_PAYMENT_MS: i64 = 10 * 60 * 1000;
/// A payment that crosses the end of its order on the way comes within minutes, and somebody refunds it. This long after, it is another order's.
const LATE_PAYMENT_MS: i64 = 2 * 3_600_000;

/// What the first paid event of an order stated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payment {
    /// Hash of the event's source, id and type.
    event: u64,
    /// Hash of the event's source.
    source: u64,
    /// The producer's time, if it stated a usable one.
    at: Option<UnixMs>,
    /// The producer's time where its clock is off by hours: only its own times are compared with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of_another_zone: Option<UnixMs>,
    amount: Option<MinorUnits>,
    currency: Option<String>,
    customer: Option<Id>,
    /// Unknown in a state of a version that did not remember it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<Id>,
    /// Hash of the extra fields.
    details: Option<u64>,
}

impl Payment {
    fn of(event: &Event, hash: u64) -> Self {
        Self {
            event: hash,
            source: sha256::hash_64(&[event.source.as_bytes()]),
            at: (!event.flags.contains(&Flag::Clock)).then_some(event.at),
            of_another_zone: event.notify_at.map(|_| event.at),
            amount: event.amount,
            currency: event.currency.clone(),
            customer: event.customer.clone(),
            store: event.store.clone(),
            details: event.details.as_ref().map(|details| sha256::hash_64(&[details.get().as_bytes()])),
        }
    }

    /// True when both state something that differs. What one of them leaves out says nothing, and two systems that tell of one payment have
    /// extra fields of their own.
    fn differs(&self, other: &Self) -> bool {
        let are_apart = self.at.zip(other.at).is_some_and(|(a, b)| (a.0 - b.0).abs() > SAME_PAYMENT_MS);
        let has_other_details = self.source == other.source && both(self.details.as_ref(), other.details.as_ref());
        let has_other_store = both(self.store.as_ref(), other.store.as_ref());
        are_apart || has_other_details || has_other_store || self.has_other_sum_or_customer(other)
    }

    /// True where one source gives the event another id than the first, and does not state the same time: it may be the payment of another guest who
    /// buys the same.
    fn is_distinct_from(&self, other: &Self) -> bool {
        let stated = |payment: &Self| payment.at.or(payment.of_another_zone);
        let is_same_moment = stated(self).is_some() && stated(self) == stated(other);
        self.source == other.source && self.event != other.event && !is_same_moment
    }

    /// True when both state another amount, currency or customer.
    fn has_other_sum_or_customer(&self, other: &Self) -> bool {
        both(self.amount.as_ref(), other.amount.as_ref())
            || both(self.currency.as_ref(), other.currency.as_ref())
            || both(self.customer.as_ref(), other.customer.as_ref())
    }
}

/// True when both are there, and differ.
fn both<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}

impl Order {
    /// Why a paid event with the id of the order's first payment may be about another order: where the order's number is the event's id, and the
    /// number is used again, only what the event states tells the two apart.
    pub(super) fn repeated_payment(&self, event: &Event, hash: u64) -> Option<Unannounced> {
        let first = self.payment.as_ref().filter(|first| event.kind == EventType::Paid && first.event == hash)?;
        // An event with an id of its own is refused for another store than the one that was notified. This one was read before: it may be the same.
        let is_other = first.differs(&Payment::of(event, hash)) || self.is_of_another_store_than(event);
        is_other.then_some(Unannounced::SecondPayment)
    }

    /// What is known of the first payment in a state of a version that did not remember it: its time and amount were counted. Neither its event nor
    /// its source is known, so it is compared by what every source states alike.
    fn counted_payment(&self) -> Option<Payment> {
        let (at, amount) = self.facts.payment()?;
        Some(Payment {
            event: 0,
            source: 0,
            at: (!self.flags.contains(&Flag::Clock)).then_some(at),
            of_another_zone: None,
            amount: amount.or(self.amount),
            currency: self.currency.clone(),
            customer: None,
            store: None,
            details: None,
        })
    }

    /// Why a paid event may be about another order, of which no store is notified. To be asked before the event changes the order, which
    /// remembers its first payment here.
    pub(super) fn further_payment(&mut self, event: &Event, hash: u64) -> Option<Unannounced> {
        if event.kind != EventType::Paid {
            return None;
        }
        let payment = Payment::of(event, hash);
        let stays_paid = event.row == Some(RowChange::Unchanged);
        self.payment = self.payment.take().or_else(|| self.counted_payment());
        let Some(first) = &self.payment else {
            self.payment = Some(payment);
            // Whoever pays at the pickup is asked to by the store. Later it may be the next order with the number.
            let end = self.ended_at.or(self.picked_up_at);
            let is_late = end.is_some_and(|end| end.plus_ms(LATE_PAYMENT_MS) < event.at);
            return (is_late && !stays_paid).then_some(Unannounced::AfterEnd);
        };
        if first.event == hash || stays_paid {
            return None;
        }
        if event.row.is_some() {
            // A row that may have been paid before: its time and its other columns are those of this change.
            return first.has_other_sum_or_customer(&payment).then_some(Unannounced::SecondPayment);
        }
        let end = self.ended_at.or(self.picked_up_at);
        match end {
            Some(end) if self.is_over() && event.at > end => Some(Unannounced::AfterEnd),
            _ => (first.differs(&payment) || first.is_distinct_from(&payment)).then_some(Unannounced::SecondPayment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, Scenario, event};
    use super::*;
    use EventType as E;
    use serde_json::value::RawValue;

    /// One later than the events before it, with an amount.
    fn paid(id: &str, after_ms: i64, amount: i64) -> Event {
        Event { at: NOW.plus_ms(after_ms - 3_600_000), amount: Some(MinorUnits(amount)), ..event(E::Paid, id) }
    }

    fn at(kind: E, id: &str, after_ms: i64) -> Event {
        Event { kind, pickup_code: None, ..paid(id, after_ms, 500) }
    }

    fn unannounced(events: &[Event]) -> Vec<Unannounced> {
        events.iter().fold(Scenario::default(), Scenario::apply).unannounced
    }

    /// Regression: where the event's id is the order's number, the payment of the next order with the number was a duplicate, and nothing was red.
    #[test]
    fn the_same_event_id_with_another_payment_is_another_order() {
        let day = 24 * 3_600_000;
        assert_eq!(unannounced(&[paid("12", 0, 500), paid("12", 0, 500)]), [], "read again");
        assert_eq!(unannounced(&[paid("12", 0, 500), paid("12", 1, 700)]), [Unannounced::SecondPayment]);
        assert_eq!(unannounced(&[paid("12", 0, 500), paid("12", day, 500)]), [Unannounced::SecondPayment]);
    }

    /// Regression: where the event's id is the order's number, and each store counts its own orders, the same sum at another store within ten minutes
    /// was a duplicate: its store was not notified, and nothing was red.
    #[test]
    fn the_same_event_id_at_another_store_is_another_order() {
        let of_store = |id: &str, event: Event| Event { store: Id::new(id).ok(), ..event };
        let without = |event: Event| Event { store: None, ..event };
        let second = || of_store("s2", paid("12", 60_000, 500));
        let red = [Unannounced::SecondPayment];
        assert_eq!(unannounced(&[of_store("s1", paid("12", 0, 500)), second()]), red);
        assert_eq!(unannounced(&[second(), of_store("s2", paid("12", 0, 500))]), [], "read again");
        assert_eq!(unannounced(&[second(), without(second())]), [], "what is not there does not differ");
        // Another event named the store of the first.
        let named_later = [without(paid("12", 0, 500)), of_store("s1", at(E::Created, "c", 0)), second()];
        assert_eq!(unannounced(&named_later), [Unannounced::NoStore, Unannounced::SecondPayment]);
        // No store was notified of the first: it had ended before it was read.
        let ended = [of_store("s1", at(E::Cancelled, "x", 1)), of_store("s1", paid("12", 0, 500)), second()];
        assert_eq!(unannounced(&ended), red);
        assert_eq!(unannounced(&ended[..2]), []);
    }

    /// Regression: order numbers that begin again each day. The payment of the new order was stale, and nothing was red.
    #[test]
    fn a_payment_of_an_order_that_was_picked_up_is_another_order() {
        let life = [paid("a1", 0, 500), at(E::Ready, "a2", 1), at(E::PickedUp, "a3", 2)];
        let and_then = |next: Event| unannounced(&[&life[..], &[next]].concat());
        assert_eq!(and_then(paid("b1", 3, 700)), [Unannounced::AfterEnd]);
        assert_eq!(and_then(paid("b1", 3, 500)), [Unannounced::AfterEnd], "the same dish for the next customer");
        assert_eq!(and_then(paid("a1", 3, 500)), [], "the same event again");
        let from_elsewhere = Event { source: "payments".into(), ..paid("b1", 1, 500) };
        assert_eq!(and_then(from_elsewhere), [], "reported again from another topic, read late");
        let cancelled = [paid("a1", 0, 500), at(E::Cancelled, "a2", 1), paid("b1", 3, 500)];
        assert_eq!(unannounced(&cancelled), [Unannounced::AfterEnd]);
        let at_the_counter = [at(E::Accepted, "a1", 0), at(E::PickedUp, "a2", 1), paid("a3", 2, 500)];
        assert_eq!(unannounced(&at_the_counter), [], "who pays at the pickup pays once");
    }

    #[test]
    fn a_first_payment_long_after_the_end_is_another_order() {
        let after = |ms: i64| unannounced(&[at(E::Created, "a1", 0), at(E::Expired, "a2", 1), paid("a3", ms, 500)]);
        assert_eq!(after(60_000), [Unannounced::LatePayment], "somebody must refund it");
        assert_eq!(after(LATE_PAYMENT_MS + 2), [Unannounced::AfterEnd]);
    }

    /// The bug: an order that was paid at the counter has no payment, and that of the next order with its number was quiet.
    #[test]
    fn a_first_payment_long_after_the_pickup_is_another_order() {
        let after = |ms: i64| unannounced(&[at(E::Accepted, "a1", 0), at(E::PickedUp, "a2", 1), paid("a3", ms, 500)]);
        assert_eq!(after(60_000), [], "who pays at the pickup");
        assert_eq!(after(LATE_PAYMENT_MS + 2), [Unannounced::AfterEnd]);
    }

    /// Regression: a subject or member that is no order made two orders one, and the second payment was stale.
    #[test]
    fn a_second_payment_that_differs_is_another_order() {
        let details = |text: &str| RawValue::from_string(text.into()).ok();
        let differ: [fn(Event) -> Event; 4] = [
            |event| Event { amount: Some(MinorUnits(700)), ..event },
            |event| Event { currency: Some("EUR".into()), amount: None, ..event },
            |event| Event { customer: Id::new("c2").ok(), ..event },
            |event| Event { at: event.at.plus_ms(SAME_PAYMENT_MS + 1), ..event },
        ];
        assert_eq!(unannounced(&[paid("a1", 0, 500), paid("b1", 0, 500)]), [], "reported again with an id of its own");
        let first = Event { currency: Some("CNY".into()), details: details(r#"{"items":[1]}"#), ..paid("a1", 0, 500) };
        for change in differ {
            assert_eq!(unannounced(&[first.clone(), change(paid("b1", 0, 500))]), [Unannounced::SecondPayment]);
        }
        let other_items = Event { details: details(r#"{"items":[2]}"#), ..paid("b1", 0, 500) };
        assert_eq!(unannounced(&[first.clone(), other_items.clone()]), [Unannounced::SecondPayment]);
        let at = other_items.at.plus_ms(SAME_PAYMENT_MS);
        let of_another_system = Event { source: "payments".into(), at, ..other_items };
        assert_eq!(unannounced(&[first.clone(), of_another_system.clone()]), [], "it has its own fields");
        let nobody = Event { customer: None, ..of_another_system };
        assert_eq!(unannounced(&[first.clone(), nobody]), [], "it need not know the customer");
        let without = Event { amount: None, currency: None, customer: None, details: None, ..paid("b1", 0, 500) };
        assert_eq!(unannounced(&[first, without]), [], "what is not there does not differ");
        let no_time =
            Event { flags: vec![Flag::Clock], source: "payments".into(), ..paid("b1", SAME_PAYMENT_MS + 1, 500) };
        assert_eq!(unannounced(&[paid("a1", 0, 500), no_time]), [], "when it was read says nothing");
    }

    /// Regression: two guests with one number who bought the same within ten minutes were one order, and nothing was red.
    #[test]
    fn two_guests_with_one_number_are_an_alert() {
        let red = [Unannounced::SecondPayment];
        assert_eq!(unannounced(&[paid("a1", 0, 500), paid("b1", 1, 500)]), red);
        assert_eq!(unannounced(&[paid("a1", 0, 500), paid("b1", -60_000, 500)]), red, "read in another order");
        let no_time = |id: &str| Event { flags: vec![Flag::Clock], ..paid(id, 0, 500) };
        assert_eq!(unannounced(&[no_time("a1"), no_time("b1")]), red, "nothing says that it is the same payment");
        assert_eq!(unannounced(&[no_time("a1"), no_time("a1")]), [], "the same event again");
        let of_another_zone =
            |id: &str, after_ms| Event { notify_at: Some(NOW), flags: vec![Flag::Clock], ..paid(id, after_ms, 500) };
        assert_eq!(unannounced(&[of_another_zone("a1", 0), of_another_zone("b1", 0)]), [], "it states the same time");
        assert_eq!(unannounced(&[of_another_zone("a1", 0), of_another_zone("b1", 1)]), red);
        let from_elsewhere = |event: Event| Event { source: "payments".into(), ..event };
        assert_eq!(unannounced(&[paid("a1", 0, 500), from_elsewhere(paid("b1", 1, 500))]), []);
        assert_eq!(unannounced(&[no_time("a1"), from_elsewhere(no_time("b1"))]), []);
    }

    /// Regression: the orders of two systems with one number and one sum within ten minutes were one, quietly, whoever bought and wherever.
    #[test]
    fn two_systems_that_contradict_each_other_do_not_tell_of_one_payment() {
        let elsewhere = |event: Event| Event { source: "payments".into(), ..event };
        let guest = Event { customer: Id::new("c2").ok(), ..elsewhere(paid("b1", 1, 500)) };
        assert_eq!(unannounced(&[paid("a1", 0, 500), guest]), [Unannounced::SecondPayment]);
        assert_eq!(unannounced(&[paid("a1", 0, 500), elsewhere(paid("b1", 1, 500))]), [], "they agree");
        let order = Scenario::default().apply(&paid("a1", 0, 500)).order.unwrap();
        let other_store = Event { store: Id::new("s2").ok(), ..elsewhere(paid("b1", 1, 500)) };
        let policy = super::super::OrderPolicy { retention_ms: 72 * 3_600_000, ..Default::default() };
        let refused = Order::apply(Some(&order), &other_store, NOW, &policy).unwrap_err();
        assert_eq!(refused.code, "store-mismatch", "a dead letter of a paid order, which is red");
    }

    /// Regression: with change capture, each update of a paid row was another payment, and red for ever: another note, ten minutes later, after the
    /// pickup.
    #[test]
    fn an_update_of_a_row_that_stays_paid_is_no_payment() {
        let details = |text: &str| RawValue::from_string(text.into()).ok();
        let of = |row, event: Event| Event { row, ..event };
        let note = Event { details: details(r#"{"note":"no onions"}"#), ..paid("r2", 2 * SAME_PAYMENT_MS, 500) };
        let other_amount = paid("r2", 1, 700);
        let other_customer = Event { customer: Id::new("c2").ok(), ..paid("r2", 1, 500) };
        let first = Event { details: details(r#"{"note":""}"#), ..paid("r1", 0, 500) };
        let over = [first.clone(), at(E::Ready, "t1", 1), at(E::PickedUp, "t2", 2)];
        let (same, unknown, snapshot) = (RowChange::Unchanged, RowChange::Updated, RowChange::Snapshot);
        for known in [&[first.clone()][..], &over] {
            let and_then = |row, next: &Event| unannounced(&[known, &[of(row, next.clone())]].concat());
            for row in [same, unknown, snapshot] {
                assert_eq!(and_then(Some(row), &note), [], "{row:?}");
            }
            assert_eq!(and_then(Some(same), &other_amount), [], "the update that changed the amount was looked at");
            for row in [unknown, snapshot] {
                assert_eq!(and_then(Some(row), &other_amount), [Unannounced::SecondPayment], "{row:?}");
                assert_eq!(and_then(Some(row), &other_customer), [Unannounced::SecondPayment], "{row:?}");
            }
            assert_ne!(and_then(None, &note), [], "a row that became paid now is another order");
        }
        let refunded = [first.clone(), at(E::Refunded, "r3", 1)];
        let and_then = |events: &[Event]| unannounced(&[&refunded[..], events].concat());
        let again = || paid("r4", 2, 500);
        assert_eq!(and_then(&[again()]), [Unannounced::AfterEnd], "paid once more, and no store is notified");
        let red = [Unannounced::AfterEnd];
        assert_eq!(and_then(&[again(), of(Some(same), paid("r5", 3, 500))]), red, "it stays as red as it was");
        // The payment was never read, and the order ended long ago.
        let ended = [at(E::Created, "a1", 0), at(E::Cancelled, "a2", 1)];
        let late = |row| unannounced(&[&ended[..], &[of(row, paid("r6", LATE_PAYMENT_MS + 2, 500))]].concat());
        assert_eq!((late(Some(same)), late(Some(unknown))), (vec![], red.to_vec()));
    }

    /// Regression: after an upgrade, the next payment of an order was taken for its first, whatever it stated.
    #[test]
    fn a_state_that_does_not_remember_its_payment_still_tells_another_one_from_it() {
        let mut scenario = Scenario::default().apply(&paid("a1", 0, 500));
        let mut stored = serde_json::to_value(scenario.order.as_ref().unwrap()).unwrap();
        stored.as_object_mut().unwrap().remove("payment");
        scenario.order = serde_json::from_value(stored).ok();
        let and_then = |events: &[Event]| {
            let mut known = Scenario::default();
            known.order.clone_from(&scenario.order);
            let after = events.iter().fold(known, Scenario::apply);
            assert!(!after.is_store_notified(), "its store was notified before the upgrade");
            after.unannounced
        };
        assert_eq!(and_then(&[paid("a1", 0, 500)]), [], "read again");
        assert_eq!(and_then(&[paid("b1", 1, 500)]), [], "reported again from another topic");
        assert_eq!(and_then(&[paid("b1", 1, 700)]), [Unannounced::SecondPayment]);
        assert_eq!(and_then(&[paid("b1", 24 * 3_600_000, 500)]), [Unannounced::SecondPayment]);
        assert_eq!(
            and_then(&[paid("b1", 1, 700), paid("b2", 1, 500)]),
            [Unannounced::SecondPayment],
            "the first stays"
        );
        assert_eq!(and_then(&[at(E::PickedUp, "a2", 1), paid("b1", 2, 500)]), [Unannounced::AfterEnd]);
        let of_row = |row, amount| Event { row: Some(row), ..paid("b1", 2 * SAME_PAYMENT_MS, amount) };
        assert_eq!(and_then(&[of_row(RowChange::Unchanged, 500), of_row(RowChange::Updated, 500)]), []);
        assert_eq!(and_then(&[of_row(RowChange::Updated, 700)]), [Unannounced::SecondPayment]);
        // Known as paid by another event, it has no payment yet.
        let accepted =
            Scenario::default().apply(&at(E::Accepted, "t1", 0)).apply(&paid("a1", 2 * SAME_PAYMENT_MS, 700));
        assert_eq!(accepted.unannounced, []);
    }

    #[test]
    fn the_payment_survives_the_ledger() {
        let order = [paid("a1", 0, 500)].iter().fold(Scenario::default(), Scenario::apply).order.unwrap();
        let stored: Order = serde_json::from_slice(&serde_json::to_vec(&order).unwrap()).unwrap();
        assert_eq!(stored.payment, order.payment);
        assert!(stored.payment.is_some());
    }
}
