//! Events whose source, id and type were read before: the same event once more, or another one that was given the same id.
//!
//! Order systems give all events of an order one id, or begin their numbers again. What an event states tells two of them apart: its store, customer,
//! device, amount, currency, pickup code and reason. Its time does not, for whoever sends an event once more may date it anew, nor do its extra fields, which
//! may count the tries. Payments have rules of their own, see [`super::payment`].

use orderbell_consumers::Reason;
use orderbell_protocol::{Event, EventType, Role};

use super::super::sha256;
use super::{Order, event_hash, happened_at};

/// Event ids remembered per order. Repeated events change no state anyway; the ids tell duplicates from stale events.
const MAX_SEEN_IDS: usize = 32;

/// Whether an event was read before; with the hash by which its order remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// It was not.
    New(u64),
    /// It was.
    Again(u64),
    /// It was, without the extra fields that its order has not.
    Completes(u64),
    /// Another event with its source, id and type was.
    Other(u64),
}

/// Fingerprint of what an event states.
fn statement(event: &Event) -> u32 {
    let id = |id: Option<&orderbell_protocol::Id>| id.map_or(String::new(), |id| id.as_str().to_owned());
    let amount = event.amount.map_or(String::new(), |amount| amount.0.to_string());
    let (store, customer) = (id(event.store.as_ref()), id(event.customer.as_ref()));
    let device = id(event.device.as_ref());
    let text = |text: Option<&String>| text.map_or(String::new(), String::clone);
    let code = event.pickup_code.as_ref().map_or(String::new(), |code| code.0.clone());
    let (currency, reason) = (text(event.currency.as_ref()), text(event.reason.as_ref()));
    let all = [&store, &customer, &device, &amount, &currency, &code, &reason].map(|text| text.as_bytes());
    sha256::hash_64(&all) as u32
}

/// True when both are there, and differ.
fn differ<T: PartialEq>(known: Option<&T>, said: Option<&T>) -> bool {
    known.zip(said).is_some_and(|(known, said)| known != said)
}

impl Order {
    /// Whether an event was read before.
    pub(super) fn recall(&self, event: &Event) -> Recalled {
        let hash = event_hash(event);
        let Some(at) = self.seen.iter().position(|known| *known == hash) else { return Recalled::New(hash) };
        let statement = statement(event);
        // Of the first ones nobody knows what they stated: a version before this one remembered them.
        let unknown = self.seen.len().saturating_sub(self.stated.len());
        let Some(known) = at.checked_sub(unknown).and_then(|at| self.stated.get(at)) else {
            return Recalled::Again(hash);
        };
        let (is_same, adds_details) = (*known == statement, event.details.is_some() && self.details.is_none());
        if (is_same && !adds_details) || event.kind == EventType::Paid {
            return Recalled::Again(hash);
        }
        let other = sha256::hash_64(&[&hash.to_be_bytes(), &statement.to_be_bytes()]);
        match is_same {
            _ if self.seen.contains(&other) => Recalled::Again(other),
            true => Recalled::Completes(other),
            false => Recalled::Other(other),
        }
    }

    /// Remembers an event that was not read before.
    pub(super) fn remember(&mut self, event: &Event, hash: u64) {
        if self.seen.len() >= MAX_SEEN_IDS {
            self.seen.remove(0);
        }
        self.seen.push(hash);
        self.stated.push(statement(event));
        if self.stated.len() > self.seen.len() {
            self.stated.remove(0);
        }
        self.last_event_at = self.last_event_at.max(happened_at(event));
    }

    /// True when the event names another store than the one that was notified of the order. Until then an order may be handed to another store.
    pub(super) fn is_of_another_store_than(&self, event: &Event) -> bool {
        let was_notified = self.notified.iter().any(|one| one.to == Role::Store);
        was_notified && differ(self.store.as_ref(), event.store.as_ref())
    }

    /// Refuses another event with the id of one that was read, if it contradicts what is known of the order. One that adds to it is an event like any
    /// other: what an order system sends first without a pickup code, and then with one.
    ///
    /// # Errors
    /// It names another store, customer or device, or states another amount, currency, pickup code or reason.
    pub(super) fn check_other(&self, event: &Event) -> Result<(), Reason> {
        let contradicts = self.is_of_another_store_than(event)
            || differ(self.customer.as_ref(), event.customer.as_ref())
            || differ(self.device.as_ref(), event.device.as_ref())
            || differ(self.amount.as_ref(), event.amount.as_ref())
            || differ(self.currency.as_ref(), event.currency.as_ref())
            || differ(self.pickup_code.as_ref(), event.pickup_code.as_ref())
            || differ(self.reason.as_ref(), event.reason.as_ref());
        if !contradicts {
            return Ok(());
        }
        let message = "another event of this source and type has this id, and states something else";
        Err(Reason { code: "event-conflict", message: message.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, Scenario, event};
    use super::super::{ApplyResult, OrderPolicy};
    use super::*;
    use EventType as E;
    use orderbell_protocol::event::{MinorUnits, PickupCode};
    use orderbell_protocol::{Id, NoticeKind};
    use serde_json::value::RawValue;

    fn policy() -> OrderPolicy {
        OrderPolicy { retention_ms: 72 * 3_600_000, ..OrderPolicy::default() }
    }

    /// What an event does to an order: its result and the kinds of its notices, or the code of its dead letter.
    fn then(order: &Order, event: &Event) -> Result<(ApplyResult, Vec<NoticeKind>), &'static str> {
        let applied = Order::apply(Some(order), event, NOW, &policy());
        let said =
            applied.map(|(_, effects)| (effects.result, effects.notices.iter().map(|draft| draft.kind).collect()));
        said.map_err(|reason| reason.code)
    }

    fn after(events: &[Event]) -> Order {
        events.iter().fold(Scenario::default(), Scenario::apply).order.unwrap()
    }

    const DUPLICATE: Result<(ApplyResult, Vec<NoticeKind>), &str> = Ok((ApplyResult::Duplicate, Vec::new()));

    /// Regression: two events of one source with one id and type that state different things were one, and the second was dropped quietly.
    #[test]
    fn two_events_with_one_id_that_contradict_each_other_are_not_one() {
        let accepted = event(E::Accepted, "1");
        let id = |id: &str| Id::new(id).ok();
        let order = after(&[event(E::Paid, "1"), accepted.clone()]);
        assert_eq!(then(&order, &accepted), DUPLICATE, "the same event again");
        assert_eq!(then(&order, &Event { at: NOW.plus_ms(60_000), ..accepted.clone() }), DUPLICATE, "dated anew");
        let differ: [fn(Event) -> Event; 4] = [
            |event| Event { pickup_code: Some(PickupCode("B9".into())), ..event },
            |event| Event { store: Id::new("s2").ok(), ..event },
            |event| Event { customer: Id::new("c2").ok(), ..event },
            |event| Event { amount: Some(MinorUnits(700)), ..event },
        ];
        for change in differ {
            assert_eq!(then(&order, &change(accepted.clone())), Err("event-conflict"));
        }
        let from = |device| Event { device: id(device), ..accepted.clone() };
        assert_eq!(then(&after(&[event(E::Paid, "1"), from("till-1")]), &from("till-2")), Err("event-conflict"));
        let refused = |reason: &str| Event { reason: Some(reason.into()), ..event(E::Refused, "1") };
        let ended = after(&[event(E::Paid, "1"), refused("sold out")]);
        assert_eq!(
            (then(&ended, &refused("sold out")), then(&ended, &refused("closed"))),
            (DUPLICATE, Err("event-conflict"))
        );
        // An id of its own, or another source: the first one counts, as ever.
        let other_code = |event: Event| Event { pickup_code: Some(PickupCode("B9".into())), ..event };
        assert_eq!(then(&order, &other_code(event(E::Accepted, "2"))), Ok((ApplyResult::Stale, Vec::new())));
        let elsewhere = Event { source: "pos".into(), ..other_code(accepted) };
        assert_eq!(then(&order, &elsewhere), Ok((ApplyResult::Stale, Vec::new())));
    }

    /// Regression: the pickup code that came with a second event of one id never reached the customer.
    #[test]
    fn a_second_event_with_one_id_that_adds_something_is_applied_once() {
        let without = Event { pickup_code: None, ..event(E::Accepted, "1") };
        let order = after(&[event(E::Paid, "1"), without.clone()]);
        let with_code = event(E::Accepted, "1");
        let applied = Ok((ApplyResult::Stale, vec![NoticeKind::PickupCode]));
        assert_eq!(then(&order, &with_code), applied);
        let both = after(&[event(E::Paid, "1"), without.clone(), with_code.clone()]);
        assert_eq!((then(&both, &with_code), then(&both, &without)), (DUPLICATE, DUPLICATE), "each once");
        let unpaid = after(&[event(E::Created, "1")]);
        let handed_over = Event { store: Id::new("s2").ok(), ..event(E::Created, "1") };
        assert_eq!(then(&unpaid, &handed_over), Ok((ApplyResult::Stale, Vec::new())), "before its store was notified");
        assert_eq!(after(&[event(E::Created, "1"), handed_over]).store().unwrap().as_str(), "s2");
    }

    /// Regression: an acceptance whose extra fields count its tries was compared with the order, where another one was first, and became a dead letter.
    #[test]
    fn an_event_that_comes_again_with_other_extra_fields_is_the_same_one() {
        let code =
            |id: &str, code: &str| Event { pickup_code: Some(PickupCode(code.into())), ..event(E::Accepted, id) };
        let with = |details: &str, event: Event| Event { details: RawValue::from_string(details.into()).ok(), ..event };
        let tried = |count: u32, id: &str, text: &str| with(&format!("{{\"try\":{count}}}"), code(id, text));
        let order = after(&[event(E::Paid, "1"), tried(1, "1", "A17"), tried(1, "2", "B9")]);
        assert_eq!((then(&order, &tried(2, "1", "A17")), then(&order, &tried(2, "2", "B9"))), (DUPLICATE, DUPLICATE));
        assert_eq!(then(&order, &code("2", "B9")), DUPLICATE, "without them");
        assert_eq!(then(&order, &tried(2, "2", "C1")), Err("event-conflict"));
        // The first ones of an order are kept, whatever the order has of others.
        let plain = [event(E::Paid, "1"), code("1", "A17"), code("2", "B9")];
        let first = with("{\"table\":4}", code("2", "B9"));
        assert_eq!(then(&after(&plain), &first), Ok((ApplyResult::Stale, Vec::new())));
        let kept = after(&[&plain[..], std::slice::from_ref(&first)].concat());
        assert_eq!(kept.details.as_ref().map(|details| details.get()), Some("{\"table\":4}"));
        assert_eq!((then(&kept, &first), then(&kept, &tried(1, "1", "A17"))), (DUPLICATE, DUPLICATE), "once");
    }

    #[test]
    fn an_event_of_which_nobody_knows_what_it_stated_is_the_same_one() {
        let stored = |order: &Order| serde_json::to_value(order).unwrap();
        let mut before = stored(&after(&[event(E::Paid, "1"), event(E::Accepted, "1")]));
        before.as_object_mut().unwrap().remove("stated");
        let mut order: Order = serde_json::from_value(before).unwrap();
        let code =
            |id: &str, code: &str| Event { pickup_code: Some(PickupCode(code.into())), ..event(E::Accepted, id) };
        assert_eq!(then(&order, &code("1", "B9")), DUPLICATE);
        for n in 2..2 + 2 * MAX_SEEN_IDS {
            let n = n.to_string();
            order = Order::apply(Some(&order), &code(&n, "A17"), NOW, &policy()).unwrap().0.unwrap();
            assert!(order.stated.len() <= order.seen.len() && order.seen.len() <= MAX_SEEN_IDS);
            assert_eq!(
                (then(&order, &code(&n, "A17")), then(&order, &code(&n, "B9"))),
                (DUPLICATE, Err("event-conflict"))
            );
        }
        assert_eq!(order.stated.len(), MAX_SEEN_IDS);
        assert_eq!(serde_json::from_value::<Order>(stored(&order)).unwrap().stated, order.stated);
    }
}
