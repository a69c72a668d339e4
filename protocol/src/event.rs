//! Order events, decoded.
//!
//! Ingest turns every source (CloudEvents over Kafka, plain JSON through a mapping, HTTP) into this one shape. Only the type and the order are
//! mandatory. Everything else may be missing, and a flag records what was invalid, because an order that can be announced to its store is
//! announced.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::UnixMs;
use crate::recipient::Id;

/// Declares [`EventType`]: a row has the variant, its description and its name on the wire. There is no second list of types.
macro_rules! event_types {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal,)+) => {
        /// The type of an event. `protocol/README.md` says which of them order systems send, and which Orderbell publishes and consumes again as
        /// facts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[$doc])+ $kind,)+
        }

        impl EventType {
            /// Every type.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$kind),+];

            /// The name on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

event_types! {
    /// The order was created; it is not paid yet.
    Created = "order.created",
    /// The order is paid: the store must be notified.
    Paid = "order.paid",
    /// The store accepted the order and assigned a pickup code.
    Accepted = "order.accepted",
    /// The store refused the order.
    Refused = "order.refused",
    /// The order can be collected.
    Ready = "order.ready",
    /// The order was collected.
    PickedUp = "order.picked_up",
    /// The order was cancelled.
    Cancelled = "order.cancelled",
    /// The payment was refunded.
    Refunded = "order.refunded",
    /// The order was not paid in time.
    Expired = "order.expired",
    /// A payment arrived after the order had ended: someone must refund it.
    LatePayment = "order.late_payment",
    /// The store did not react to a paid order in time.
    Unattended = "order.unattended",
    /// A store is reachable again.
    StoreOnline = "store.online",
    /// A store is unreachable.
    StoreOffline = "store.offline",
}

impl EventType {
    /// The type with this name; `None` for a name that no type has.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// True for the types that concern a store and not an order.
    #[must_use]
    pub fn is_about_a_store(self) -> bool {
        matches!(self, Self::StoreOnline | Self::StoreOffline)
    }
}

/// The code that a customer shows to collect an order. `Debug` never prints it.
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

/// A defect of an event that does not prevent its notice. The notice carries the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// The time was missing or implausible; the arrival time is used instead.
    Clock,
    /// The amount was missing, negative or not a number; the notice has no amount.
    Amount,
    /// The extra fields were longer than the limit and were omitted.
    Details,
    /// The customer's id was no id, or another one than the order's; the order keeps the customer that it has.
    Customer,
    /// The device's id was no id and was omitted.
    Device,
    /// A text was no text, had control characters or was cut; or the event's JSON was damaged and was repaired.
    Text,
}

/// What the change of a database's row says about its event, besides the row. A change that made the row what it is says nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// The row of a snapshot: its record is new, and the row has been as it is for an unknown time.
    Snapshot,
    /// An update of a row of which it is not known what it was before.
    Updated,
    /// An update that left the row's event type, amount, currency and customer as they were.
    Unchanged,
}

impl RowChange {
    /// True where the row may long have been as it is: the time of its record says nothing about its event.
    #[must_use]
    pub fn is_old(self) -> bool {
        matches!(self, Self::Snapshot | Self::Unchanged)
    }
}

/// What the mapping made of a record, before any rule has judged it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What occurred.
    pub kind: EventType,
    /// The order; for a store event the id of the store.
    pub order: Id,
    /// The producer's id of this event, or a hash of topic, value and the headers that are read if it gave none.
    pub id: String,
    /// The producer. Versions are compared only within one source.
    pub source: String,
    /// When the event occurred: the producer's time, or the arrival time if that is unusable ([`Flag::Clock`]).
    pub at: UnixMs,
    /// From when the age of its notices is counted, if not from `at`: the time of its record, where the producer's clock is in another zone.
    /// State and counters keep to the producer's time: the events of an order that are compared are off by the same.
    pub notify_at: Option<UnixMs>,
    /// When the server consumed the event; `None` if it did not come from a log.
    pub read_at: Option<UnixMs>,
    /// The order's version in its source, if the source numbers versions.
    pub version: Option<u64>,
    /// The store, if the event names it.
    pub store: Option<Id>,
    /// The customer, if the event names one.
    pub customer: Option<Id>,
    /// The device that sent the event, if a till or a phone did.
    pub device: Option<Id>,
    /// The price of the order.
    pub amount: Option<MinorUnits>,
    /// ISO 4217 code of the amount's currency.
    pub currency: Option<String>,
    /// The code with which the customer collects the order.
    pub pickup_code: Option<PickupCode>,
    /// Why the order was refused or cancelled.
    pub reason: Option<String>,
    /// The extra fields that stores may see, as the producer wrote them: a JSON object.
    pub details: Option<Box<RawValue>>,
    /// The defects of the event.
    pub flags: Vec<Flag>,
    /// True for load-test traffic.
    pub shadow: bool,
    /// How the row changed, if the event is one of a database and there is more to know than that it is so now.
    pub row: Option<RowChange>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_exactly_one_name() {
        for kind in EventType::ALL {
            assert_eq!(EventType::named(kind.name()), Some(kind));
        }
        assert_eq!(EventType::named("order.eaten"), None);
    }

    #[test]
    fn a_pickup_code_is_not_printed() {
        assert_eq!(format!("{:?}", Some(PickupCode("4711".into()))), "Some(***)");
    }
}
