//! Frames: what goes over a socket as JSON text, and the JSON of a poll answer.
//!
//! Subprotocol `orderbell.v1`. A client sends `hello`, then `ack` (cumulative) and `event`; the server answers `welcome`, then `notice`,
//! `beat`, `logged`, `leave`. Fields may be added, none changes its meaning, unknown fields are ignored on reading: that is why v1 can grow.
//!
//! A `notice` frame is spliced, not serialized: the notice was encoded when it was made, and a thousand readers send the same bytes.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::event::PickupCode;
use crate::page::Delivery;
use crate::position::Position;
use crate::session::Verdict;

/// The WebSocket subprotocol that both sides name.
pub const SUBPROTOCOL: &str = "orderbell.v1";

/// Largest frame that a server takes from a client, in bytes. The largest real one is a `hello` with its token.
pub const CLIENT_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// What a client says.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// The first frame, once.
    Hello {
        /// A JWT. Who the client is, is in it and nowhere else.
        token: String,
        /// This installation's own id, kept for good; not needed when the token names the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Where this client stands; without it the server's own cursor of the device is used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<String>,
    },
    /// Everything up to and including this position is received and kept.
    Ack {
        /// A position that came in a notice.
        position: String,
    },
    /// This notice was shown to a person.
    Shown {
        /// A position that came in a notice.
        position: String,
    },
    /// This client cannot use a notice, now or ever: it counts as acknowledged, and somebody looks into it.
    Unusable {
        /// A position that came in a notice. Everything before is acknowledged with it.
        position: String,
        /// Why, as a short word of the client's own: letters, digits, `-` and `_`.
        reason: String,
    },
    /// Something happened here: an order was accepted, refused, is ready, was picked up.
    Event(ClientEvent),
    /// The client leaves on purpose.
    Bye,
}

/// What a client says happened. The same id from the same device is the same event, however often it is sent.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ClientEvent {
    /// Drawn by the client, unique for its device: repeat it when no answer came.
    pub id: String,
    /// `order.accepted`, `order.refused`, `order.ready` or `order.picked_up`.
    pub kind: String,
    /// The order it happened to.
    pub order: String,
    /// The code that the customer collects the order with; with `order.accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<PickupCode>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it happened, if not now. Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixMs>,
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// A short reason that names no content of the frame.
    pub fn decode(text: &str) -> Result<Self, &'static str> {
        if text.len() > CLIENT_FRAME_BYTES_MAX {
            return Err("frame too long");
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "unknown type or wrong field",
            _ => "not JSON",
        })
    }

    /// The frame's JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// How new what a server knows is. A push centre must not be a single point of failure: a client that is told of staleness may ask the
/// order system itself.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// The server's clock. Milliseconds.
    pub at: UnixMs,
    /// Everything that had happened by then is known here. Missing while the server does not know it. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<UnixMs>,
    /// True when that is too long ago: the stream of orders lags, or cannot be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// What a server says, apart from notices.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The answer to `hello`.
    Welcome {
        /// Whose mailbox this is.
        recipient: String,
        /// The device whose cursor is used.
        device: String,
        /// Where reading starts: the `after` of the first notice.
        position: Position,
        /// How often a `beat` comes at least. Silence of twice this long means a dead connection. Milliseconds.
        heartbeat_ms: u32,
        /// How many notices may be un-acknowledged at once.
        window: u16,
        /// Largest frame the server takes. Bytes.
        frame_bytes_max: u32,
        /// How new what the server knows is.
        #[serde(flatten)]
        fresh: Freshness,
    },
    /// A sign of life.
    Beat {
        /// The last notice that was sent on this connection, or where it started.
        sent: Position,
        /// The newest durable notice of the mailbox, as far as this connection has looked.
        head: Position,
        /// How new what the server knows is.
        #[serde(flatten)]
        fresh: Freshness,
    },
    /// The answer to an event.
    Logged {
        /// The client's own id of the event.
        id: String,
        /// `logged`: durable. `duplicate`: it was durable before. `refused`: not taken.
        status: String,
        /// Why it was refused, as a stable word. `unavailable` and `busy` pass: send it again later. The others will not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The server stops: come again after the delay, which differs from client to client.
    Leave {
        /// Milliseconds.
        retry_ms: u32,
    },
}

impl Verdict {
    /// Status and reason, as clients read them.
    #[must_use]
    pub fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Logged => ("logged", None),
            Self::Duplicate => ("duplicate", None),
            Self::Refused(why) => ("refused", Some(why)),
        }
    }
}

impl ServerFrame {
    /// The answer to an event.
    #[must_use]
    pub fn logged(id: String, verdict: Verdict) -> Self {
        let (status, reason) = verdict.words();
        Self::Logged { id, status: status.into(), reason: reason.map(Into::into) }
    }

    /// The frame's JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The JSON of a `notice` frame. `attempt` is 1 at first and higher when this device may have got the same notice before.
#[must_use]
pub fn encode_notice(delivery: &Delivery, attempt: u32) -> String {
    splice("{\"type\":\"notice\",", delivery, attempt)
}

fn splice(open: &str, delivery: &Delivery, attempt: u32) -> String {
    let body = delivery.notice.as_str();
    let inner = body.get(1..).unwrap_or("}");
    format!(
        "{open}\"position\":\"{}\",\"after\":\"{}\",\"attempt\":{attempt},{inner}",
        delivery.position, delivery.after
    )
}

/// The JSON of a poll answer: `notices` as in frames (without `type`), the position to ask with next, and when to ask.
#[must_use]
pub fn encode_poll(
    notices: &[(Delivery, u32)],
    position: Position,
    head: Position,
    next_poll_ms: u64,
    fresh: Freshness,
) -> String {
    let mut text =
        String::with_capacity(160 + notices.iter().map(|(d, _)| d.notice.as_str().len() + 120).sum::<usize>());
    text.push_str("{\"notices\":[");
    for (at, (delivery, attempt)) in notices.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&splice("{", delivery, *attempt));
    }
    let fresh = serde_json::to_string(&fresh).unwrap_or_default();
    let fresh = fresh.trim_start_matches('{').trim_end_matches('}');
    text.push_str(&format!(
        "],\"position\":\"{position}\",\"head\":\"{head}\",\"next_poll_ms\":{next_poll_ms},{fresh}}}"
    ));
    text
}

/// A `notice` frame as a client reads it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NoticeFrame {
    /// Where it stands; what is acknowledged.
    pub position: Position,
    /// The position it follows.
    pub after: Position,
    /// 1, or higher when it may have come before.
    pub attempt: u32,
    /// The notice itself.
    #[serde(flatten)]
    pub notice: NoticeFields,
}

/// A notice's own fields, with the body as a value: for clients, which look into it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NoticeFields {
    /// Derived id: the same fact has the same id.
    pub id: String,
    /// What it tells.
    pub kind: crate::NoticeKind,
    /// The order it speaks of.
    pub order: String,
    /// When the fact happened. Milliseconds.
    pub at: UnixMs,
    /// What this recipient may see of it.
    pub body: serde_json::Value,
}

/// A poll answer as a client reads it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Deserialize)]
pub struct PollAnswer {
    /// In order.
    pub notices: Vec<NoticeFrame>,
    /// What to send as `after` next time.
    pub position: Position,
    /// The newest notice of the mailbox.
    pub head: Position,
    /// When to ask again. Milliseconds.
    pub next_poll_ms: u64,
    /// How new what the server knows is.
    #[serde(flatten)]
    pub fresh: Freshness,
}

/// What a client sees of one order.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct OpenOrder {
    /// Its id.
    pub order: String,
    /// How far it is: `unknown`, `created`, `paid`, `accepted`, `ready`, `picked_up`.
    pub stage: String,
    /// Something is to be done or waited for.
    pub open: bool,
    /// How it ended early: `refused`, `cancelled`, `refunded`, `expired`.
    #[serde(default)]
    pub end: Option<String>,
    /// When something was last heard of it. Milliseconds.
    pub at: UnixMs,
    /// To a store: the id of its `new_order`.
    #[serde(default)]
    pub notice: Option<String>,
    /// What this recipient may see of it.
    pub body: serde_json::Value,
    /// What happened to it, in time; of one order only.
    #[serde(default)]
    pub timeline: Option<Vec<TimelineEntry>>,
}

/// One step of an order's story.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TimelineEntry {
    /// When. Milliseconds.
    pub at: UnixMs,
    /// Of an event: `happened`, `read`, `decided`. Of a notice: `stored`, `sent`, `received`, `shown`, `unusable`.
    pub step: String,
    /// The event's type.
    #[serde(default)]
    pub event: Option<String>,
    /// The notice's kind.
    #[serde(default)]
    pub kind: Option<String>,
    /// Who said it, or got it.
    #[serde(default)]
    pub device: Option<String>,
    /// Of `sent`: for the nth time.
    #[serde(default)]
    pub attempt: Option<u32>,
}

/// A page of open orders as a client reads it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Deserialize)]
pub struct OrdersAnswer {
    /// Those of this page.
    pub orders: Vec<OpenOrder>,
    /// A position of the same moment. The first page's is the one to go on from.
    pub position: Position,
    /// More follow: ask from here.
    #[serde(default)]
    pub next: Option<String>,
    /// How new what the server knows is.
    #[serde(flatten)]
    pub fresh: Freshness,
}

/// What became of one posted event.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Told {
    /// The client's own id of the event.
    pub id: String,
    /// As in a `logged` frame.
    pub status: String,
    /// As in a `logged` frame.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What became of posted events, in their order.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ToldAnswer {
    /// One for each.
    pub events: Vec<Told>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoticeKind;
    use crate::notice::{Encoded, Notice};
    use crate::recipient::Id;
    use serde_json::value::RawValue;

    fn delivery() -> Delivery {
        let notice = Notice {
            id: "n1".into(),
            kind: NoticeKind::NewOrder,
            order: Id::new("o\"1").unwrap(),
            at: UnixMs(5),
            body: RawValue::from_string("{\"amount\":1250}".into()).unwrap(),
        };
        Delivery {
            position: Position { epoch: 1, seq: 7, check: 9 },
            after: Position::start(1),
            notice: Encoded::of(&notice).unwrap(),
        }
    }

    #[test]
    fn a_spliced_notice_is_json_with_all_its_fields() {
        let text = encode_notice(&delivery(), 2);
        assert!(text.starts_with("{\"type\":\"notice\","));
        let frame: NoticeFrame = serde_json::from_str(&text).unwrap();
        assert_eq!((frame.position.seq, frame.after.seq, frame.attempt), (7, 0, 2));
        assert_eq!(frame.notice.order, "o\"1");
        assert_eq!(frame.notice.body["amount"], 1250);
    }

    #[test]
    fn a_poll_answer_holds_the_same_notices() {
        let fresh = Freshness { at: UnixMs(9), as_of: Some(UnixMs(8)), stale: true };
        let (notices, start) = ([(delivery(), 1), (delivery(), 1)], Position::start(1));
        let text = encode_poll(&notices, start, start, 60_000, fresh);
        let answer: PollAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(answer.notices.len(), 2);
        assert_eq!((answer.next_poll_ms, answer.fresh), (60_000, fresh));
    }

    #[test]
    fn frames_that_cannot_be_understood_say_why_without_echo() {
        let decode = |text: &str| ClientFrame::decode(text).err();
        assert_eq!(decode("{"), Some("not JSON"));
        assert_eq!(decode("{\"type\":\"shout\"}"), Some("unknown type or wrong field"));
        assert_eq!(decode("{\"type\":\"ack\"}"), Some("unknown type or wrong field"));
        assert_eq!(decode(&"x".repeat(CLIENT_FRAME_BYTES_MAX + 1)), Some("frame too long"));
        assert!(decode("{\"type\":\"hello\",\"token\":\"t\",\"new_field\":1}").is_none(), "unknown fields are ignored");
    }
}
