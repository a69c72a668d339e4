//! What the demo's order system produces. A producer has JSON of its own and no types of ours, so here, and nowhere else in the demo, JSON is
//! put together by hand. Tills report with [`ClientEvent`](orderbell_protocol::ClientEvent), as every till does.

use orderbell_protocol::{EventType, UnixMs};
use serde_json::{Value, json};

/// An order as the order system knows it.
#[derive(Clone, Debug)]
pub(super) struct ProducedOrder {
    pub(super) order: String,
    pub(super) store: String,
    /// None where nobody watches a phone.
    pub(super) customer: Option<String>,
    /// In hundredths of the chain's currency.
    pub(super) amount: u64,
    /// A meal and how many of it, where a person looks at the order.
    pub(super) meal: Option<(&'static str, u64)>,
}

impl ProducedOrder {
    /// An event about the order.
    pub(super) fn event(&self, kind: EventType, at: UnixMs) -> Value {
        let Self { order, store, customer, amount, meal } = self;
        let mut event = json!({"type": kind.name(), "id": format!("{}-{order}", kind.name()), "order": order,
                               "store": store, "time": at.0, "amount": amount});
        if let Some(customer) = customer {
            event["customer"] = json!(customer);
        }
        if let Some((name, count)) = meal {
            event["currency"] = json!("CNY");
            event["items"] = json!([{"name": name, "count": count}]);
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_what_the_order_system_knows() {
        let order = ProducedOrder { order: "o1".into(), store: "S1".into(), customer: None, amount: 950, meal: None };
        let paid = order.event(EventType::Paid, UnixMs(5));
        assert_eq!(
            paid,
            json!({"type": "order.paid", "id": "order.paid-o1", "order": "o1", "store": "S1", "time": 5, "amount": 950})
        );
        let watched = ProducedOrder { customer: Some("c1".into()), meal: Some(("Mapo tofu", 2)), ..order };
        let paid = watched.event(EventType::Paid, UnixMs(5));
        assert_eq!((&paid["customer"], &paid["items"][0]["count"]), (&json!("c1"), &json!(2)));
    }
}
