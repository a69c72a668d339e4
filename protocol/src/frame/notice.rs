//! The `notice` frame.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::EventRejectedBody;
use crate::mailbox_page::Delivery;
use crate::position::Position;
use crate::{NoticeKind, UnixMs};

/// A notice as one reader gets it: in a `notice` frame (with `"type":"notice"` in front) and in a poll answer (without).
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoticeFrame {
    /// The position of the notice. The client acknowledges it.
    pub position: Position,
    /// The position that the notice follows.
    pub prev: Position,
    /// 1, or higher when this device may have received the notice before.
    pub attempt: u32,
    /// The notice itself.
    #[serde(flatten)]
    pub notice: NoticeFields,
}

/// The fields that are the same for every reader, with the body as a JSON value: what clients read. The server writes
/// [`crate::notice::Notice`], which has the same fields.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoticeFields {
    /// Derived: equal facts have equal ids.
    pub id: String,
    /// What the notice says.
    pub kind: NoticeKind,
    /// The order that it is about.
    pub order: String,
    /// When the fact occurred. Milliseconds.
    pub at: UnixMs,
    /// The order's fields that this recipient may see.
    pub body: serde_json::Value,
}

impl NoticeFields {
    /// The body of an `event_rejected`; `None` for a notice of another kind, or a body that cannot be read.
    #[must_use]
    pub fn event_rejected(&self) -> Option<EventRejectedBody> {
        let is_rejection = self.kind == NoticeKind::EventRejected;
        is_rejection.then(|| EventRejectedBody::deserialize(&self.body).ok()).flatten()
    }
}

/// The JSON of a `notice` frame. `attempt` is 1 at first, and higher when this device may have received the notice before.
#[must_use]
pub fn encode_notice(delivery: &Delivery, attempt: u32) -> String {
    let mut text = String::with_capacity(delivery.notice.as_str().len() + FIELDS_BYTES);
    text.push_str("{\"type\":\"notice\",");
    write_fields(&mut text, delivery, attempt);
    text
}

/// Room for the fields that are written in front of a stored notice: two positions, an attempt and their names.
pub(super) const FIELDS_BYTES: usize = 120;

/// Writes the per-reader fields, the stored notice and the closing brace behind an opening brace that is already there. Through `serde` it would
/// take four times as long (docs/decisions/0057).
pub(super) fn write_fields(text: &mut String, delivery: &Delivery, attempt: u32) {
    let Delivery { position, prev, notice } = delivery;
    // Positions are hexadecimal digits and dots: nothing to escape. Writing to a String cannot fail.
    let _ = write!(text, "\"position\":\"{position}\",\"prev\":\"{prev}\",\"attempt\":{attempt},{}", notice.members());
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::notice::{EncodedNotice, Notice};
    use crate::recipient::Id;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    /// A stored notice of any content, and the frame that a client must read from it.
    pub(in crate::frame) fn sample(
        order: &str,
        seq: u64,
        prev: u64,
        attempt: u32,
        name: &str,
    ) -> (Delivery, NoticeFrame) {
        let (position, prev) = (Position { epoch: 1, seq, check: 9 }, Position { epoch: 1, seq: prev, check: 7 });
        let body = serde_json::json!({"amount": 1250, "details": {"note": name}, "flags": ["clock"]});
        let notice = Notice {
            id: format!("{seq:024x}"),
            kind: NoticeKind::NewOrder,
            order: Id::new(order).unwrap(),
            at: UnixMs(5),
            body: RawValue::from_string(body.to_string()).unwrap(),
        };
        let fields =
            NoticeFields { id: notice.id.clone(), kind: notice.kind, order: order.into(), at: notice.at, body };
        let delivery = Delivery { position, prev, notice: EncodedNotice::of(&notice) };
        (delivery, NoticeFrame { position, prev, attempt, notice: fields })
    }

    #[derive(Serialize, Deserialize)]
    struct Tagged {
        #[serde(rename = "type")]
        tag: String,
        #[serde(flatten)]
        frame: NoticeFrame,
    }
    crate::json::wire_documents!(Tagged);

    proptest! {
        #[test]
        fn a_notice_frame_equals_the_encoding_of_its_type(
            order in "[ -~é\u{2028}]{0,20}x",
            name in any::<String>(),
            seq: u64,
            prev: u64,
            attempt: u32,
        ) {
            let order = order.trim();
            let (delivery, frame) = sample(order, seq, prev, attempt, &name);
            let text = encode_notice(&delivery, attempt);
            prop_assert_eq!(&text, &crate::json::encode(&Tagged { tag: "notice".into(), frame: frame.clone() }));
            prop_assert_eq!(serde_json::from_str::<NoticeFrame>(&text).unwrap(), frame);
        }
    }
}
