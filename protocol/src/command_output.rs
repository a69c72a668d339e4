//! JSON that commands print.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{Flag, MinorUnits, PickupCode};
use crate::recipient::Id;

/// The one word of [`ReadyLine::event`].
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyEvent {
    /// The server accepts connections.
    Ready,
}

/// What `orderbell serve --ready-json` prints once it accepts connections.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyLine {
    /// Tells this line from others.
    pub event: ReadyEvent,
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where operators ask.
    pub admin: SocketAddr,
}

/// How a check of `orderbell doctor` ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// Nothing to do.
    Ok,
    /// The server runs, but slower or less safely than it could.
    Warning,
    /// The server does not start, or stops working soon.
    Failed,
}

/// One line of `orderbell doctor --json`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorFinding {
    /// What was checked, in one word.
    pub check: String,
    /// How the check ended.
    pub result: CheckResult,
    /// What was found.
    pub found: String,
    /// How to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What `orderbell mapping try` prints of an event, in the order of the names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MappedEvent {
    /// The price of the order, in cents, fen or what else the currency's smallest unit is.
    pub amount_in_smallest_units: Option<MinorUnits>,
    /// When it occurred: an RFC 3339 timestamp in UTC.
    pub at: String,
    /// ISO 4217 code of the amount's currency.
    pub currency: Option<String>,
    /// Null for a guest, or where the event names none.
    pub customer: Option<Id>,
    /// The extra fields as the producer wrote them: a number that is read and written again loses digits.
    pub details: Option<Box<RawValue>>,
    /// The device that sent it.
    pub device: Option<Id>,
    /// What was wrong with it.
    pub flags: Vec<Flag>,
    /// Unique within its source and type.
    pub id: String,
    /// The order; for a store event the store.
    pub order: Id,
    /// The code with which the customer collects the order.
    pub pickup_code: Option<PickupCode>,
    /// Why the order was refused or cancelled.
    pub reason: Option<String>,
    /// True for load-test traffic.
    pub shadow: bool,
    /// Its producer.
    pub source: String,
    /// Null where the event names none: its order may know one.
    pub store: Option<Id>,
    /// Its type, such as `order.paid`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The order's version in its source.
    pub version: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_known_by_its_event() {
        let here = SocketAddr::from(([127, 0, 0, 1], 7));
        let text = crate::json::encode(&ReadyLine { event: ReadyEvent::Ready, public: here, admin: here });
        assert_eq!(text, r#"{"event":"ready","public":"127.0.0.1:7","admin":"127.0.0.1:7"}"#);
        assert_eq!(serde_json::from_str::<ReadyLine>(&text).unwrap().public, here);
        assert!(serde_json::from_str::<ReadyLine>(&text.replace("ready", "stopped")).is_err());
        assert!(serde_json::from_str::<ReadyLine>(r#"{"public":"127.0.0.1:7","admin":"127.0.0.1:7"}"#).is_err());
    }

    #[test]
    fn a_mapped_event_keeps_the_digits_of_its_extra_fields() {
        let text = r#"{"amount_in_smallest_units":1250,"at":"2026-11-28T20:00:00Z","currency":"CNY","customer":null,"details":{"weight":12.50},"device":null,"flags":["clock"],"id":"e1","order":"o1","pickup_code":"A17","reason":null,"shadow":false,"source":"pos","store":"17","type":"order.paid","version":null}"#;
        assert_eq!(crate::json::encode(&serde_json::from_str::<MappedEvent>(text).unwrap()), text);
    }
}
