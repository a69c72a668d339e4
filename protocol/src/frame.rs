//! Everything that goes over the wire as JSON: WebSocket frames and HTTP answers.
//!
//! The WebSocket subprotocol is `orderbell.v1`. A client sends `hello`, then `ack` (cumulative), `displayed`, `nack`, `event` and `bye`. The
//! server answers `welcome`, then sends `notice`, `heartbeat`, `event_result` and `goaway`. Within v1 the meaning of a field never changes,
//! fields may be added, and readers ignore unknown fields.
//!
//! Each frame and each answer is one type that serializes and deserializes. A `notice` frame is the exception on the write side: a notice is
//! encoded once when it is created and thousands of readers are sent the same bytes, so [`encode_notice`] writes the per-reader fields in
//! front of them. A test holds that text equal to the encoding of [`NoticeFrame`].

mod answer;
mod notice;
mod order;
mod rejection;

pub use answer::{EventResult, EventStatus, EventsAnswer, PollAnswer, encode_poll};
pub use notice::{NoticeFields, NoticeFrame, encode_notice};
pub use order::{OpenOrder, OrderOutcome, OrderStage, OrdersAnswer, TimelineEntry, TimelineStep};
pub use rejection::{EventRejectedBody, OrderEnd, RejectionReason};

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::bearer_token::BearerToken;
use crate::event::PickupCode;
use crate::json;
use crate::position::Position;

/// The WebSocket subprotocol that client and server negotiate.
pub const SUBPROTOCOL: &str = "orderbell.v1";

/// Largest frame that the server accepts from a client, in bytes. The largest real frame is a `hello` with its token.
pub const CLIENT_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Longest token that the server examines, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// What a client sends; the member `type` says which frame it is.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Authenticates the connection. The first frame, sent once.
    Hello {
        /// A JWT. It alone identifies the recipient.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        token: BearerToken,
        /// The permanent id of this installation; not needed when the token is bound to a device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The client's position; without it the server uses its cursor of the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<String>,
    },
    /// The client has received and stored every notice up to and including this position.
    Ack {
        /// The position of a notice of this connection.
        position: String,
    },
    /// The client displayed this notice to a person.
    Displayed {
        /// The position of a notice of this connection.
        position: String,
    },
    /// The client can never process this notice. It counts as acknowledged, and an operator is alerted.
    Nack {
        /// The position of a notice of this connection. All notices before it are acknowledged, too.
        position: String,
        /// The cause as a short word of the client's choice: letters, digits, `-` and `_`.
        reason: String,
    },
    /// An event that occurred at this device: an order was accepted, refused, made ready or picked up.
    Event(ClientEvent),
    /// The client closes the connection on purpose.
    Bye,
}

/// An event from a client. Equal ids from one device denote the same event, however often it is sent.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ClientEvent {
    /// Chosen by the client, unique for its device. A client that gets no answer sends the event again with the same id.
    pub id: String,
    /// `order.accepted`, `order.refused`, `order.ready` or `order.picked_up`.
    pub kind: String,
    /// An order of the store, or of the customer.
    pub order: String,
    /// The code with which the customer collects the order; with `order.accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pickup_code: Option<PickupCode>,
    /// Why the order was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the event occurred, if not now. Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixMs>,
}

impl ClientFrame {
    /// Decodes a text frame.
    ///
    /// # Errors
    /// A short reason that repeats nothing of the frame.
    pub fn decode(text: &str) -> Result<Self, &'static str> {
        if text.len() > CLIENT_FRAME_BYTES_MAX {
            return Err("frame too long");
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "unknown type or wrong field",
            _ => "not JSON",
        })
    }

    /// The JSON of the frame.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

/// How current the server's knowledge of the order stream is. A push centre must not be a single point of failure: a client that learns of
/// staleness may query the order system itself.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// The server's clock. Milliseconds.
    pub at: UnixMs,
    /// The server has processed every event that occurred up to this time. Absent while the server does not know it. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<UnixMs>,
    /// True when `as_of` is too old: the order stream lags or cannot be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// A frame from the server, apart from [`NoticeFrame`].
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The answer to `hello`.
    Welcome {
        /// The owner of the mailbox.
        recipient: String,
        /// The device whose cursor is used.
        device: String,
        /// Where reading starts: the `prev` of the first notice.
        position: Position,
        /// The interval between heartbeats, give or take a tenth. After twice this time without a frame the connection is dead.
        /// Milliseconds.
        heartbeat_ms: u32,
        /// How many notices may be unacknowledged at once.
        max_in_flight: u16,
        /// Largest frame that the server accepts. Bytes.
        max_frame_bytes: u32,
        /// How current the server's knowledge is.
        #[serde(flatten)]
        fresh: Freshness,
    },
    /// A sign of life.
    Heartbeat {
        /// The last notice that was sent on this connection, or the position where it started.
        last_sent: Position,
        /// The newest durable notice of the mailbox, as far as this connection has read.
        head: Position,
        /// How current the server's knowledge is.
        #[serde(flatten)]
        fresh: Freshness,
    },
    /// The answer to an `event`.
    EventResult(EventResult),
    /// The server stops. The client reconnects after the delay, which differs per client.
    Goaway {
        /// Milliseconds.
        retry_ms: u32,
    },
}

impl ServerFrame {
    /// The JSON of the frame.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_frames_are_explained_without_an_echo() {
        let decode = |text: &str| ClientFrame::decode(text).err();
        assert_eq!(decode("{"), Some("not JSON"));
        assert_eq!(decode("{\"type\":\"shout\"}"), Some("unknown type or wrong field"));
        assert_eq!(decode("{\"type\":\"ack\"}"), Some("unknown type or wrong field"));
        assert_eq!(decode(&"x".repeat(CLIENT_FRAME_BYTES_MAX + 1)), Some("frame too long"));
        assert!(decode("{\"type\":\"hello\",\"token\":\"t\",\"new_field\":1}").is_none(), "unknown fields are ignored");
    }

    #[test]
    fn a_frame_and_the_answer_to_a_post_hold_the_same_event_result() {
        let result =
            EventResult { id: "9f2d".into(), status: EventStatus::Rejected, reason: Some(RejectionReason::Busy) };
        let frame = ServerFrame::EventResult(result.clone()).encode();
        assert_eq!(frame, r#"{"type":"event_result","id":"9f2d","status":"rejected","reason":"busy"}"#);
        assert_eq!(serde_json::from_str::<ServerFrame>(&frame).unwrap(), ServerFrame::EventResult(result.clone()));
        let answer = EventsAnswer { events: vec![result] };
        assert_eq!(answer.encode(), r#"{"events":[{"id":"9f2d","status":"rejected","reason":"busy"}]}"#);
    }
}
