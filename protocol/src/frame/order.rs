//! The answers to `GET /v1/orders?open=1` and `GET /v1/orders/ID`.

use serde::{Deserialize, Deserializer, Serialize};

use super::Freshness;
use crate::json;
use crate::position::Position;
use crate::{NoticeKind, UnixMs};

/// How far an order has progressed. Ordered: a later stage is greater. Ledgers store the words with the state of each order, so none may
/// change.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStage {
    /// Events named the order, but none said how far it is: an order whose cancellation came first, for instance. Clients also read a stage of
    /// a later version as this one.
    #[default]
    Unknown,
    /// The order exists and is not paid.
    Created,
    /// The order is paid.
    Paid,
    /// The store accepted the order.
    Accepted,
    /// The order can be collected.
    Ready,
    /// The order was collected, which ends it.
    PickedUp,
}

impl OrderStage {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Created => "created",
            Self::Paid => "paid",
            Self::Accepted => "accepted",
            Self::Ready => "ready",
            Self::PickedUp => "picked_up",
        }
    }
}

/// How an order ended before it was picked up.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderOutcome {
    /// The store refused it.
    Refused,
    /// It was cancelled.
    Cancelled,
    /// It was refunded.
    Refunded,
    /// It was not paid in time.
    Expired,
}

impl OrderOutcome {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
            Self::Expired => "expired",
        }
    }
}

/// A later server may write words that this reader does not know: the order list must not fail because of them.
fn stage_or_unknown<'de, D: Deserializer<'de>>(from: D) -> Result<OrderStage, D::Error> {
    let word = serde_json::Value::deserialize(from)?;
    Ok(OrderStage::deserialize(word).unwrap_or_default())
}

fn outcome_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OrderOutcome>, D::Error> {
    let word = Option::<serde_json::Value>::deserialize(from)?;
    Ok(word.and_then(|word| OrderOutcome::deserialize(word).ok()))
}

/// One order as its store or its customer sees it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// The id of the order.
    pub order: String,
    /// How far the order has progressed.
    #[serde(deserialize_with = "stage_or_unknown")]
    pub stage: OrderStage,
    /// True while this recipient has to act on the order or wait for it.
    pub active: bool,
    /// How the order ended before it was picked up. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "outcome_or_none")]
    pub outcome: Option<OrderOutcome>,
    /// When the order's last event occurred. Milliseconds.
    pub at: UnixMs,
    /// For a store: the id of the order's `new_order` notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// The order's fields that this recipient may see.
    pub body: serde_json::Value,
    /// The history of the order, oldest first. Only in the answer for a single order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Vec<TimelineEntry>>,
}

impl OpenOrder {
    /// The JSON of the answer for a single order.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

/// What a timeline entry records. The first three are about an event, the others about a notice.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineStep {
    /// The event occurred, by its producer's clock.
    Occurred,
    /// The server consumed the event from its log.
    Consumed,
    /// The server applied the event to the order.
    Applied,
    /// The notice became durable in the mailbox.
    Persisted,
    /// The notice was sent to a device.
    Sent,
    /// A device acknowledged the notice.
    Acked,
    /// A device displayed the notice to a person.
    Displayed,
    /// A device reported that it cannot process the notice.
    Nacked,
}

impl TimelineStep {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Occurred => "occurred",
            Self::Consumed => "consumed",
            Self::Applied => "applied",
            Self::Persisted => "persisted",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Displayed => "displayed",
            Self::Nacked => "nacked",
        }
    }
}

/// One entry of an order's timeline.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Milliseconds.
    pub at: UnixMs,
    /// What is recorded.
    pub step: TimelineStep,
    /// The type of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Of an entry about a notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<NoticeKind>,
    /// The device that sent the event or received the notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Of `sent`: the number of the delivery attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// A page of open orders.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrdersAnswer {
    /// The orders of this page.
    pub orders: Vec<OpenOrder>,
    /// The mailbox position of the same snapshot. A client continues from the position of the first page.
    pub position: Position,
    /// The first order of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How current the server's knowledge is.
    #[serde(flatten)]
    pub fresh: Freshness,
}

impl OrdersAnswer {
    /// The JSON of the answer.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order() -> OpenOrder {
        let entry = |step, event: Option<&str>, kind| TimelineEntry {
            at: UnixMs(4),
            step,
            event: event.map(Into::into),
            kind,
            device: Some("till-1".into()),
            attempt: Some(1),
        };
        OpenOrder {
            order: "o1".into(),
            stage: OrderStage::PickedUp,
            active: false,
            outcome: Some(OrderOutcome::Refunded),
            at: UnixMs(5),
            notice: Some("n1".into()),
            body: json!({"amount": 1250}),
            timeline: Some(vec![
                entry(TimelineStep::Occurred, Some("order.paid"), None),
                entry(TimelineStep::Sent, None, Some(NoticeKind::NewOrder)),
            ]),
        }
    }

    #[test]
    fn answers_decode_to_what_was_encoded() {
        let bare = OpenOrder { outcome: None, notice: None, timeline: None, ..order() };
        assert_eq!(bare.encode(), r#"{"order":"o1","stage":"picked_up","active":false,"at":5,"body":{"amount":1250}}"#);
        let fresh = Freshness { at: UnixMs(9), as_of: Some(UnixMs(8)), stale: true };
        let (orders, position) = (vec![order(), bare], Position::start(1));
        let answer = OrdersAnswer { orders, position, next: Some("o2".into()), fresh };
        assert_eq!(serde_json::from_str::<OrdersAnswer>(&answer.encode()).unwrap(), answer);
    }

    #[test]
    fn words_are_the_json_form() {
        for stage in ["unknown", "created", "paid", "accepted", "ready", "picked_up"] {
            assert_eq!(serde_json::from_value::<OrderStage>(json!(stage)).unwrap().word(), stage);
        }
        for outcome in ["refused", "cancelled", "refunded", "expired"] {
            assert_eq!(serde_json::from_value::<OrderOutcome>(json!(outcome)).unwrap().word(), outcome);
        }
        for step in ["occurred", "consumed", "applied", "persisted", "sent", "acked", "displayed", "nacked"] {
            assert_eq!(serde_json::from_value::<TimelineStep>(json!(step)).unwrap().word(), step);
        }
    }

    #[test]
    fn words_of_a_later_version_do_not_break_the_list() {
        let mut later = serde_json::to_value(order()).unwrap();
        (later["stage"], later["outcome"]) = ("delivered".into(), "donated".into());
        let read: OpenOrder = serde_json::from_value(later).unwrap();
        assert_eq!((read.stage, read.outcome, read.active), (OrderStage::Unknown, None, false));
    }
}
