//! The CloudEvents 1.0 envelope, in structured mode, of the events that Orderbell itself publishes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of the CloudEvents specification.
const SPEC_VERSION: &str = "1.0";
/// `datacontenttype`.
const DATA_MEDIA_TYPE: &str = "application/json";

/// An event in its envelope. Other systems read these from the output topic.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEvent {
    /// Version of the CloudEvents specification: `1.0`.
    pub specversion: String,
    /// The event type, such as `order.accepted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who published the event: `orderbell` itself, or a device as `orderbell/store:ID/DEVICE`.
    pub source: String,
    /// The id of the event, unique within its source.
    pub id: String,
    /// The order.
    pub subject: String,
    /// When the event occurred: RFC 3339, UTC.
    pub time: String,
    /// The media type of `data`: `application/json`.
    pub datacontenttype: String,
    /// What else the event says: `store`, `customer`, `device`, `pickup_code`, `reason`, `amount`, `currency`.
    pub data: Map<String, Value>,
    /// True for load-test traffic; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

impl CloudEvent {
    /// An event about an order. `time` is RFC 3339.
    #[must_use]
    pub fn new(kind: &str, source: String, id: String, subject: &str, time: String, data: Map<String, Value>) -> Self {
        Self {
            specversion: SPEC_VERSION.into(),
            kind: kind.into(),
            source,
            id,
            subject: subject.into(),
            time,
            datacontenttype: DATA_MEDIA_TYPE.into(),
            data,
            shadow: false,
        }
    }

    /// The JSON of the event.
    #[must_use]
    pub fn encode(&self) -> String {
        crate::json::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_decodes_to_what_was_encoded() {
        let data = Map::from_iter([("reason".to_owned(), Value::from("sold out"))]);
        let time = "2026-01-02T03:04:05Z".to_owned();
        let event = CloudEvent::new("order.refused", "orderbell".into(), "e1".into(), "o1", time, data);
        let text = event.encode();
        assert_eq!(
            text,
            r#"{"specversion":"1.0","type":"order.refused","source":"orderbell","id":"e1","subject":"o1","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":{"reason":"sold out"}}"#
        );
        assert_eq!(serde_json::from_str::<CloudEvent>(&text).unwrap(), event);
        let shadow = CloudEvent { shadow: true, ..event };
        assert_eq!(serde_json::from_str::<CloudEvent>(&shadow.encode()).unwrap(), shadow);
    }
}
