//! A decoded fact about an order.
//!
//! Where it came from (CloudEvents over Kafka, plain JSON through a mapping, HTTP) is behind us here: ingest has made one shape of
//! them. Mandatory are the type and the order; everything else may be missing, and what was odd about it is kept as a flag, because an
//! order that can be rung is rung.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::UnixMs;
use crate::recipient::Id;

/// What happened. The first eight come from order systems; the others are made by Orderbell and read back as facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// An order exists, not paid yet.
    Created,
    /// It is paid: the store must hear of it.
    Paid,
    /// The store took it and gave a pickup code.
    Accepted,
    /// The store will not make it.
    Refused,
    /// It can be collected.
    Ready,
    /// It was collected.
    PickedUp,
    /// It was called off.
    Cancelled,
    /// The money went back.
    Refunded,
    /// Nobody paid in time.
    Expired,
    /// A payment came after the order had ended: somebody must refund it.
    LatePayment,
    /// Nobody reacted to a paid order in time.
    Unattended,
    /// A store can be rung again.
    StoreOnline,
    /// A store cannot be rung.
    StoreOffline,
}

impl EventType {
    /// Every type with its name on the wire.
    pub const NAMES: [(Self, &'static str); 13] = [
        (Self::Created, "order.created"),
        (Self::Paid, "order.paid"),
        (Self::Accepted, "order.accepted"),
        (Self::Refused, "order.refused"),
        (Self::Ready, "order.ready"),
        (Self::PickedUp, "order.picked_up"),
        (Self::Cancelled, "order.cancelled"),
        (Self::Refunded, "order.refunded"),
        (Self::Expired, "order.expired"),
        (Self::LatePayment, "order.late_payment"),
        (Self::Unattended, "order.unattended"),
        (Self::StoreOnline, "store.online"),
        (Self::StoreOffline, "store.offline"),
    ];

    /// The type with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// True for the types that speak of a store and name no order.
    #[must_use]
    pub fn is_about_a_store(self) -> bool {
        matches!(self, Self::StoreOnline | Self::StoreOffline)
    }
}

/// The code that a customer shows to collect an order. Never printed by `Debug`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PickupCode(pub String);

impl fmt::Debug for PickupCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An amount of money in the currency's smallest unit (cents, fen): never a floating-point number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MinorUnits(pub i64);

/// Something odd about an event that does not keep it from being rung. Goes on the notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// The time was missing or absurd; the time of arrival was taken.
    Clock,
    /// The amount was missing, negative or not a number.
    Amount,
    /// An accepted order without a pickup code.
    NoCode,
    /// Details were longer than what is kept, and were left out.
    Details,
}

/// One event. `at` is the time the producer gave, or the time of arrival where that was unusable (then flagged).
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// The order it happened to; for a store event the store's id.
    pub order: Id,
    /// The producer's id of this event, or a hash of topic and value where it gave none.
    pub id: String,
    /// Who produced it. Versions are compared only within one source.
    pub source: String,
    /// When it happened.
    pub at: UnixMs,
    /// When it was read here; nothing when it did not come from a log.
    pub read_at: Option<UnixMs>,
    /// The order's version in its source, when that source counts.
    pub version: Option<u64>,
    /// The store, when the event names it.
    pub store: Option<Id>,
    /// The customer, when the event names one.
    pub customer: Option<Id>,
    /// The device that spoke, when a till did.
    pub device: Option<Id>,
    /// What the order costs.
    pub amount: Option<MinorUnits>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// The code to collect it with.
    pub code: Option<PickupCode>,
    /// Why it was refused or cancelled.
    pub reason: Option<String>,
    /// The members that stores may see, as the producer wrote them (a JSON object).
    pub details: Option<Box<RawValue>>,
    /// What was odd.
    pub flags: Vec<Flag>,
    /// Load-test traffic.
    pub shadow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_name() {
        for (kind, name) in EventType::NAMES {
            assert_eq!(EventType::named(name), Some(kind));
            assert_eq!(kind.name(), name);
        }
        assert_eq!(EventType::named("order.eaten"), None);
    }

    #[test]
    fn a_pickup_code_is_not_printed() {
        assert_eq!(format!("{:?}", Some(PickupCode("4711".into()))), "Some(***)");
    }
}
