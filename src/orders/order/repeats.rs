//! Whether an event of a client would change anything.
//!
//! A till says what it did until it is answered, and two tills say the same; somebody with a token may say it for ever, under ever new ids. What
//! an order already knows need not be stored again. Asked before an event is appended; [`Order::apply`] decides as before about what was.

use orderbell_protocol::EventType;

use super::{Effect, Order, TRANSITIONS};

/// What a client's event says besides its type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// It names a pickup code.
    pub has_code: bool,
    /// It gives a reason.
    pub has_reason: bool,
}

impl Order {
    /// True when an event of this type, of a client of the order, repeats what is so: it moves nothing, notifies nobody, fills no
    /// missing field and counts nowhere.
    #[must_use]
    pub fn is_repeated_by(&self, kind: EventType, said: Said) -> bool {
        let fills_code = said.has_code && self.pickup_code.is_none() && !self.is_over();
        let fills_device = kind == EventType::Accepted && self.device.is_none() && !self.is_over();
        let fills_reason = said.has_reason && self.reason.is_none();
        if fills_code || fills_device || fills_reason || self.facts.at(kind).is_none() {
            return false;
        }
        let Some(transition) = TRANSITIONS.iter().find(|transition| transition.on == kind) else { return false };
        match transition.effect {
            // The end of another kind reaches the client as an `event_rejected`.
            Effect::AdvanceTo(_) if self.outcome.is_some() => false,
            Effect::AdvanceTo(stage) => {
                self.is_over() || self.stage == stage || (self.stage > stage && self.has_notified(transition.notifies))
            }
            Effect::Close(outcome, _) => self.outcome == Some(outcome),
            Effect::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{NOW, event};
    use super::*;
    use crate::order::OrderPolicy;
    use orderbell_protocol::event::PickupCode;
    use orderbell_protocol::{Event, EventType as E, Id};

    const CLIENT_TYPES: [E; 4] = [E::Accepted, E::Refused, E::Ready, E::PickedUp];

    fn policy() -> OrderPolicy {
        OrderPolicy { retention_ms: 72 * 3_600_000, ..OrderPolicy::default() }
    }

    fn after(events: &[Event]) -> Order {
        let apply =
            |order: Option<Order>, event: &Event| Order::apply(order.as_ref(), event, NOW, &policy()).unwrap().0;
        events.iter().fold(None, apply).unwrap()
    }

    fn of(kinds: &[E]) -> Vec<Event> {
        kinds.iter().enumerate().map(|(at, kind)| event(*kind, &at.to_string())).collect()
    }

    fn from_till(kind: E, said: Said) -> Event {
        Event {
            device: Some(Id::new("till-1").unwrap()),
            customer: None,
            amount: None,
            pickup_code: said.has_code.then(|| PickupCode("B9".into())),
            reason: said.has_reason.then(|| "sold out".into()),
            ..event(kind, "of a till")
        }
    }

    /// What anybody sees of an order, and what is counted of it.
    fn visible(order: &Order) -> serde_json::Value {
        let mut state = serde_json::to_value(order).unwrap();
        let members = state.as_object_mut().unwrap();
        ["seen", "stated", "history", "last_event_at"].into_iter().for_each(|name| _ = members.remove(name));
        state
    }

    #[test]
    fn what_a_till_says_again_is_repeated_and_what_still_counts_is_not() {
        let (none, code) = (Said::default(), Said { has_code: true, has_reason: false });
        let taken = |kinds: &[E]| {
            let mut events = of(kinds);
            events.iter_mut().for_each(|event| event.device = Some(Id::new("till-2").unwrap()));
            after(&events)
        };
        for (kinds, kind, said, is_repeated) in [
            (&[E::Paid][..], E::Accepted, code, false),
            (&[E::Paid, E::Accepted], E::Accepted, code, true),
            (&[E::Paid, E::Accepted], E::Ready, none, false),
            (&[E::Paid, E::Accepted, E::Ready], E::Accepted, code, true),
            (&[E::Paid, E::Ready], E::Accepted, code, false),
            (&[E::Paid, E::Accepted, E::Ready, E::PickedUp], E::PickedUp, none, true),
            (&[E::Paid, E::Accepted, E::Ready, E::PickedUp], E::Accepted, code, true),
            (&[E::Paid, E::Accepted, E::Ready, E::PickedUp], E::Refused, none, false),
            (&[E::Paid, E::Refused], E::Refused, none, true),
            (&[E::Paid, E::Refused], E::Refused, Said { has_reason: true, ..none }, false),
            (&[E::Paid, E::Cancelled], E::Accepted, code, false),
        ] {
            assert_eq!(taken(kinds).is_repeated_by(kind, said), is_repeated, "{kind:?} after {kinds:?}");
        }
    }

    proptest! {
        /// Whatever happened to an order: an event that counts as repeated would notify nobody and change nothing that is seen or counted.
        #[test]
        fn a_repeated_event_would_change_nothing(
            kinds in prop::collection::vec(prop::sample::select(E::ALL.to_vec()), 1..10),
            (kind, has_code, has_reason) in (prop::sample::select(CLIENT_TYPES.to_vec()), any::<bool>(), any::<bool>()),
        ) {
            let said = Said { has_code, has_reason };
            let mut events = vec![event(E::Created, "first")];
            events.extend(of(&kinds).into_iter().filter(|event| !event.kind.is_about_a_store()));
            let order = after(&events);
            if order.is_repeated_by(kind, said) {
                let (next, effects) = Order::apply(Some(&order), &from_till(kind, said), NOW, &policy()).unwrap();
                prop_assert!(effects.notices.is_empty() && effects.superseded.is_empty() && effects.derived.is_empty());
                prop_assert_eq!(visible(&next.unwrap()), visible(&order));
            }
        }
    }
}
