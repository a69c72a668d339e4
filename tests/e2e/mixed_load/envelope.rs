//! What stands around the events of the load: each envelope as its producers write it, on Kafka and posted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::load::{DAMAGES, text_of};

/// What stands around an event. All events of an order come from one system, and so in one envelope and one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Envelope {
    Plain,
    Array,
    InAString,
    SchemaFraming,
    Structured,
    DataInAString,
    Base64,
    Batch,
    Binary,
    Debezium,
    Maxwell,
    Canal,
    MassTransit,
    Spring,
    Form,
    Lines,
    Gzip,
}

/// Those that a mapping names: each has a topic with such a mapping.
#[cfg(feature = "real-kafka")]
pub(crate) const NAMED: [(Envelope, &str); 6] = [
    (Envelope::Debezium, "debezium"),
    (Envelope::Maxwell, "maxwell"),
    (Envelope::Canal, "canal"),
    (Envelope::MassTransit, "masstransit"),
    (Envelope::Spring, "spring"),
    (Envelope::Form, "form"),
];

const ON_KAFKA: [Envelope; 15] = [
    Envelope::Plain,
    Envelope::Array,
    Envelope::InAString,
    Envelope::SchemaFraming,
    Envelope::Structured,
    Envelope::DataInAString,
    Envelope::Base64,
    Envelope::Batch,
    Envelope::Binary,
    Envelope::Debezium,
    Envelope::Maxwell,
    Envelope::Canal,
    Envelope::MassTransit,
    Envelope::Spring,
    Envelope::Form,
];
/// Rows and messages of frameworks need a mapping of their own, and posts have one mapping.
const POSTED: [Envelope; 9] = [
    Envelope::Plain,
    Envelope::InAString,
    Envelope::Structured,
    Envelope::DataInAString,
    Envelope::Base64,
    Envelope::Binary,
    Envelope::Form,
    Envelope::Lines,
    Envelope::Gzip,
];

/// A value and the headers beside it.
pub(crate) type Written = (Vec<u8>, Vec<(&'static str, String)>);

impl Envelope {
    /// That of an order's events.
    pub(super) fn of(order: &str, is_kafka: bool) -> Self {
        let number: usize = order.trim_start_matches(char::is_alphabetic).parse().unwrap_or_default();
        let all = Self::all(is_kafka);
        // Not by the last digit alone, which is that of its shape.
        all[(number + number / 10) % all.len()]
    }

    pub(super) fn all(is_kafka: bool) -> &'static [Self] {
        if is_kafka { &ON_KAFKA } else { &POSTED }
    }

    /// The event as it is written. What an envelope cannot hold is written without one, or without a string around it: half a surrogate pair
    /// in a string, a byte that is no UTF-8 in a form.
    pub(super) fn write(self, event: &Value) -> Written {
        let text = match self {
            Self::Maxwell => text_of(&in_main_unit(event)),
            _ => text_of(event),
        };
        let is_damaged = DAMAGES.iter().any(|damage| text.windows(damage.len()).any(|part| part == *damage));
        let around = |before: &str, after: &str| [before.as_bytes(), &text, after.as_bytes()].concat();
        let attributes =
            format!("{{\"specversion\":\"1.0\",\"type\":{},\"id\":{},\"source\":\"/shop\"", event["type"], event["id"]);
        let header = |member: &str| event[member].as_str().map_or_else(|| event[member].to_string(), str::to_owned);
        let source = "{\"db\":\"shop\",\"table\":\"events\"}";
        let table = "\"database\":\"shop\",\"table\":\"events\"";
        let value = match self {
            Self::Plain | Self::Lines | Self::Gzip => text,
            Self::Array => around("[", "]"),
            Self::InAString if !is_damaged => Value::from(event.to_string()).to_string().into_bytes(),
            Self::SchemaFraming => [b"\0\0\0\0\x0c", &text[..]].concat(),
            Self::DataInAString if !is_damaged => {
                format!("{attributes},\"data\":{}}}", Value::from(event.to_string())).into_bytes()
            }
            Self::Structured | Self::DataInAString => around(&format!("{attributes},\"data\":"), "}"),
            Self::Base64 => format!("{attributes},\"data_base64\":\"{}\"}}", STANDARD.encode(&text)).into_bytes(),
            Self::Batch => around(&format!("[{attributes},\"data\":"), "}]"),
            Self::Debezium => around(&format!("{{\"op\":\"c\",\"before\":null,\"source\":{source},\"after\":"), "}"),
            Self::Maxwell => around(&format!("{{{table},\"type\":\"insert\",\"data\":"), "}"),
            Self::Canal => {
                around(&format!("{{{table},\"type\":\"INSERT\",\"isDdl\":false,\"old\":null,\"data\":["), "]}")
            }
            Self::MassTransit => {
                let kind = json!([format!("urn:message:{}", header("type"))]);
                around(&format!("{{\"messageId\":{},\"messageType\":{kind},\"message\":", event["id"]), "}")
            }
            Self::Form if !is_damaged => form(event).unwrap_or(text),
            Self::InAString | Self::Binary | Self::Spring | Self::Form => text,
        };
        let headers = match self {
            Self::Batch => vec![("content-type", "application/cloudevents-batch+json".to_owned())],
            Self::Binary => vec![
                ("ce_specversion", "1.0".to_owned()),
                ("ce_source", "/shop".to_owned()),
                ("ce_type", header("type")),
                ("ce_id", header("id")),
            ],
            Self::Spring => vec![("eventType", header("type")), ("id", header("id"))],
            _ => Vec::new(),
        };
        (value, headers)
    }
}

/// In the topic of one envelope amounts are in the main unit: those that are whole numbers become so. Others are written as they are.
fn in_main_unit(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(amount) = event["amount"].as_i64().filter(|_| event["currency"].is_null()) {
        event["amount"] = format!("{}.{:02}", amount / 100, amount % 100).into();
    }
    event
}

/// The fields of a form are texts: `false` would be one.
fn form(event: &Value) -> Option<Vec<u8>> {
    let members = event.as_object()?.iter().filter(|(_, value)| !value.is_null());
    let field = |(name, value): (&String, &Value)| match value {
        Value::Bool(false) => None,
        Value::String(text) => Some(format!("{name}={}", orderbell_client::percent_encoded(text))),
        other => Some(format!("{name}={other}")),
    };
    let fields: Option<Vec<String>> = members.map(field).collect();
    Some(fields?.join("&").into_bytes())
}
