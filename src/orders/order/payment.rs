//! Payments that come after an order's first: a second order whose number is the same, or the same payment told again.
//!
//! Chains begin their numbers again each day, and a pointer to the wrong member gives several orders one id. Both show as a paid event, with an
//! id of its own, about an order that is paid already. The same payment told again states the same.

use orderbell_protocol::event::{Flag, MinorUnits};
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::{Deserialize, Serialize};

use super::super::sha256;
use super::{Order, Unannounced};

/// Two attempts to publish one payment state nearly the same time; two payments further apart are two.
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
    amount: Option<MinorUnits>,
    currency: Option<String>,
    customer: Option<Id>,
    /// Hash of the extra fields.
    details: Option<u64>,
}

impl Payment {
    fn of(event: &Event, hash: u64) -> Self {
        Self {
            event: hash,
            source: sha256::hash_64(&[event.source.as_bytes()]),
            at: (!event.flags.contains(&Flag::Clock)).then_some(event.at),
            amount: event.amount,
            currency: event.currency.clone(),
            customer: event.customer.clone(),
            details: event.details.as_ref().map(|details| sha256::hash_64(&[details.get().as_bytes()])),
        }
    }

    /// True when both state something that differs. What one of them leaves out says nothing, and two systems that tell of one payment have
    /// customers and extra fields of their own.
    fn differs(&self, other: &Self) -> bool {
        fn both<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.zip(b).is_some_and(|(a, b)| a != b)
        }
        let are_apart = self.at.zip(other.at).is_some_and(|(a, b)| (a.0 - b.0).abs() > SAME_PAYMENT_MS);
        let is_other_sum =
            both(self.amount.as_ref(), other.amount.as_ref()) || both(self.currency.as_ref(), other.currency.as_ref());
        let is_other_order = both(self.customer.as_ref(), other.customer.as_ref())
            || both(self.details.as_ref(), other.details.as_ref());
        are_apart || is_other_sum || (self.source == other.source && is_other_order)
    }
}

impl Order {
    /// Why a paid event with the id of the order's first payment may be about another order: where the order's number is the event's id, and the
    /// number is used again, only what the event states tells the two apart.
    pub(super) fn repeated_payment(&self, event: &Event, hash: u64) -> Option<Unannounced> {
        let first = self.payment.as_ref().filter(|first| event.kind == EventType::Paid && first.event == hash)?;
        first.differs(&Payment::of(event, hash)).then_some(Unannounced::SecondPayment)
    }

    /// Why a paid event may be about another order, of which no store is notified. To be asked before the event changes the order, which
    /// remembers its first payment here.
    pub(super) fn further_payment(&mut self, event: &Event, hash: u64) -> Option<Unannounced> {
        if event.kind != EventType::Paid {
            return None;
        }
        let payment = Payment::of(event, hash);
        let Some(first) = &self.payment else {
            self.payment = Some(payment);
            // Whoever pays after the pickup is told to by the store.
            let is_late = self.ended_at.is_some_and(|ended_at| ended_at.plus_ms(LATE_PAYMENT_MS) < event.at);
            return is_late.then_some(Unannounced::AfterEnd);
        };
        if first.event == hash {
            return None;
        }
        let end = self.ended_at.or(self.picked_up_at);
        match end {
            Some(end) if self.is_over() && event.at > end => Some(Unannounced::AfterEnd),
            _ => first.differs(&payment).then_some(Unannounced::SecondPayment),
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

    /// Regression: order numbers that begin again each day. The payment of the new order was stale, and nothing was red.
    #[test]
    fn a_payment_of_an_order_that_was_picked_up_is_another_order() {
        let life = [paid("a1", 0, 500), at(E::Ready, "a2", 1), at(E::PickedUp, "a3", 2)];
        let and_then = |next: Event| unannounced(&[&life[..], &[next]].concat());
        assert_eq!(and_then(paid("b1", 3, 700)), [Unannounced::AfterEnd]);
        assert_eq!(and_then(paid("b1", 3, 500)), [Unannounced::AfterEnd], "the same dish for the next customer");
        assert_eq!(and_then(paid("a1", 3, 500)), [], "the same event again");
        assert_eq!(and_then(paid("b1", 1, 500)), [], "told again from another topic, read late");
        let cancelled = [paid("a1", 0, 500), at(E::Cancelled, "a2", 1), paid("b1", 3, 500)];
        assert_eq!(unannounced(&cancelled), [Unannounced::AfterEnd]);
        let at_the_counter = [at(E::Accepted, "a1", 0), at(E::PickedUp, "a2", 1), paid("a3", 2, 500)];
        assert_eq!(unannounced(&at_the_counter), [], "who pays at the pickup pays once");
    }

    #[test]
    fn a_first_payment_long_after_the_end_is_another_order() {
        let after = |ms: i64| unannounced(&[at(E::Created, "a1", 0), at(E::Expired, "a2", 1), paid("a3", ms, 500)]);
        assert_eq!(after(60_000), [], "a late payment: it is published, and somebody refunds it");
        assert_eq!(after(LATE_PAYMENT_MS + 2), [Unannounced::AfterEnd]);
    }

    /// Regression: a subject or member that is no order made two orders one, and the second payment was stale.
    #[test]
    fn a_second_payment_that_differs_is_another_order() {
        let second = |change: fn(Event) -> Event| unannounced(&[paid("a1", 0, 500), change(paid("b1", 1, 500))]);
        assert_eq!(second(|event| event), [], "told again with an id of its own");
        let details = |text: &str| RawValue::from_string(text.into()).ok();
        let differ: [fn(Event) -> Event; 4] = [
            |event| Event { amount: Some(MinorUnits(700)), ..event },
            |event| Event { currency: Some("EUR".into()), amount: None, ..event },
            |event| Event { customer: Id::new("c2").ok(), ..event },
            |event| Event { at: event.at.plus_ms(SAME_PAYMENT_MS), ..event },
        ];
        let first = Event { currency: Some("CNY".into()), details: details(r#"{"items":[1]}"#), ..paid("a1", 0, 500) };
        for change in differ {
            assert_eq!(unannounced(&[first.clone(), change(paid("b1", 1, 500))]), [Unannounced::SecondPayment]);
        }
        let other_items = Event { details: details(r#"{"items":[2]}"#), ..paid("b1", 1, 500) };
        assert_eq!(unannounced(&[first.clone(), other_items.clone()]), [Unannounced::SecondPayment]);
        let of_another_system = Event { source: "payments".into(), customer: Id::new("openid").ok(), ..other_items };
        assert_eq!(unannounced(&[first.clone(), of_another_system]), [], "it has its own customers and fields");
        let without = Event { amount: None, currency: None, customer: None, details: None, ..paid("b1", 1, 500) };
        assert_eq!(unannounced(&[first, without]), [], "what is not there does not differ");
        let no_time = Event { flags: vec![Flag::Clock], ..paid("b1", SAME_PAYMENT_MS + 1, 500) };
        assert_eq!(unannounced(&[paid("a1", 0, 500), no_time]), [], "when it was read says nothing");
    }

    #[test]
    fn the_payment_survives_the_ledger() {
        let order = [paid("a1", 0, 500)].iter().fold(Scenario::default(), Scenario::apply).order.unwrap();
        let stored: Order = serde_json::from_slice(&serde_json::to_vec(&order).unwrap()).unwrap();
        assert_eq!(stored.payment, order.payment);
        assert!(stored.payment.is_some());
    }
}
