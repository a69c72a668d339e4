//! The answers to `GET /v1/notices` and `POST /v1/events`.

use serde::{Deserialize, Serialize};

use super::notice::{FIELDS_BYTES, NoticeFrame, write_fields};
use super::{Freshness, RejectionReason};
use crate::json;
use crate::mailbox_page::Delivery;
use crate::position::Position;

/// The body of `GET /v1/notices`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PollAnswer {
    /// In mailbox order.
    pub notices: Vec<NoticeFrame>,
    /// The `after` of the next poll.
    pub position: Position,
    /// The newest notice of the mailbox.
    pub head: Position,
    /// When to poll again. Milliseconds.
    pub next_poll_ms: u64,
    /// How current the server's knowledge is.
    #[serde(flatten)]
    pub fresh: Freshness,
}

/// The JSON of a [`PollAnswer`] whose notices are encoded already; each comes with its `attempt`.
#[must_use]
pub fn encode_poll(
    notices: &[(Delivery, u32)],
    position: Position,
    head: Position,
    next_poll_ms: u64,
    fresh: Freshness,
) -> String {
    #[derive(Serialize)]
    struct Rest {
        position: Position,
        head: Position,
        next_poll_ms: u64,
        #[serde(flatten)]
        fresh: Freshness,
    }
    json::wire_documents!(Rest);
    let rest = json::encode(&Rest { position, head, next_poll_ms, fresh });
    let size: usize = notices.iter().map(|(delivery, _)| delivery.notice.as_str().len() + FIELDS_BYTES).sum();
    let mut text = String::with_capacity(size + rest.len() + 16);
    text.push_str("{\"notices\":[");
    for (at, (delivery, attempt)) in notices.iter().enumerate() {
        text.push_str(if at > 0 { ",{" } else { "{" });
        write_fields(&mut text, delivery, *attempt);
    }
    text.push_str("],");
    text.push_str(&rest[1..]);
    text
}

/// Whether an event of a client was stored.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// The event is durable.
    Stored,
    /// The event was durable before.
    Duplicate,
    /// The event was not stored, for the `reason`.
    Rejected,
    /// The event was not stored: the configuration ignores its type. Only producers are answered so.
    Ignored,
}

impl EventStatus {
    /// The word on the wire and in metric labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Ignored => "ignored",
        }
    }
}

/// The answer to one event: the content of an `event_result` frame, and an entry of an [`EventsAnswer`].
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventResult {
    /// The client's id of the event.
    pub id: String,
    /// Whether the event was stored.
    pub status: EventStatus,
    /// Why it was rejected. `unavailable` and `busy` are temporary: send the event again later. The others are final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RejectionReason>,
}

/// The answer to `POST /v1/events`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// One entry per event, in the order of the request.
    pub events: Vec<EventResult>,
}

impl EventsAnswer {
    /// The JSON of the answer.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixMs;
    use crate::frame::notice::tests::sample;

    #[test]
    fn a_poll_answer_equals_the_encoding_of_its_type() {
        let fresh = Freshness { at: UnixMs(9), as_of: Some(UnixMs(8)), stale: true };
        for (count, fresh) in [(0, Freshness::default()), (1, fresh), (3, fresh)] {
            let (deliveries, notices): (Vec<_>, Vec<_>) = (0..count)
                .map(|seq| {
                    let (delivery, frame) = sample("o\"1\\", seq, seq + 7, 2, "noodles \u{1f35c} \"\n");
                    ((delivery, 2), frame)
                })
                .unzip();
            let (position, head) = (Position::start(1), Position { epoch: 1, seq: 5, check: 3 });
            let text = encode_poll(&deliveries, position, head, 60_000, fresh);
            let answer = PollAnswer { notices, position, head, next_poll_ms: 60_000, fresh };
            assert_eq!(text, json::encode(&answer));
            assert_eq!(serde_json::from_str::<PollAnswer>(&text).unwrap(), answer);
        }
    }
}
