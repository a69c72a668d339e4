//! Notices: one message for one recipient.
//!
//! A notice is encoded once, when its order changes. From then on it is bytes: the ledger stores them and every reader is sent the same
//! ones. The fields that differ per reader (`position`, `prev`, `attempt`) are written around them in [`crate::frame`].

use std::borrow::Cow;
use std::str::Utf8Error;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::UnixMs;
use crate::recipient::Id;

/// Declares [`NoticeKind`]: a row has the variant, its description and its word. There is no second list of kinds.
macro_rules! notice_kinds {
    ($($(#[$doc:meta])+ $kind:ident = $word:literal,)+) => {
        /// What a notice says.
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum NoticeKind {
            $($(#[$doc])+ #[serde(rename = $word)] $kind,)+
            /// A kind that this reader does not know. Clients store and acknowledge it, and ignore it otherwise; so kinds can be added. A
            /// server never writes it.
            #[serde(rename = "unknown")]
            #[cfg_attr(feature = "schema", schemars(skip))]
            Unknown,
        }

        impl NoticeKind {
            /// Every kind that a server writes.
            pub const KNOWN: [Self; [$($word),+].len()] = [$(Self::$kind),+];

            /// The word on the wire, in notice ids and in metric labels.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

notice_kinds! {
    /// To the store: an order is paid and can be prepared.
    NewOrder = "new_order",
    /// To the customer: the store accepted the order; the body holds the pickup code.
    PickupCode = "pickup_code",
    /// To all devices of the store: one of them accepted the order.
    OrderAccepted = "order_accepted",
    /// To the customer and to all devices of the store: the store refused the order.
    OrderRefused = "order_refused",
    /// To the customer: the order can be collected.
    Ready = "ready",
    /// To the customer and the store: the order is cancelled. Names the `new_order` that it supersedes, so that a device that never got
    /// that notice stays silent.
    Cancelled = "cancelled",
    /// To the device that sent an event after the order had ended in another way. Other devices ignore it.
    EventRejected = "event_rejected",
}

impl<'de> Deserialize<'de> for NoticeKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        Ok(Self::KNOWN.into_iter().find(|kind| kind.word() == word).unwrap_or(Self::Unknown))
    }
}

/// A notice without the fields that differ per reader. The server writes it; clients read [`crate::frame::NoticeFields`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// Derived from order, kind, recipient and occurrence: equal facts have equal ids, however often they are processed.
    pub id: String,
    /// What it says.
    pub kind: NoticeKind,
    /// The order that it is about.
    pub order: Id,
    /// When the fact occurred, by its producer's clock. Milliseconds.
    pub at: UnixMs,
    /// The order's fields that this kind of recipient may see.
    pub body: Box<RawValue>,
}

/// The JSON object of a [`Notice`], shared by all readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedNotice(Arc<str>);

/// The stored bytes are not a notice: damage, or a bug of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoredNotice {
    /// They are not UTF-8.
    #[error("the stored bytes are not a notice: {0}")]
    NotText(#[from] Utf8Error),
    /// Their JSON is not the object of a notice from here on. The JSON library's own error may quote what a recipient alone may see.
    #[error("the stored bytes are not a notice: line {line}, column {column}")]
    NotANotice {
        /// From 1 on; 0 when nothing was read.
        line: usize,
        /// From 1 on; 0 when nothing was read.
        column: usize,
    },
}

/// A [`Notice`] that is read to see that it is one. Of a kind only that it is text: a newer server may have written it.
#[derive(Deserialize)]
#[expect(dead_code, reason = "that they decode is what is asked")]
struct StoredNotice<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    order: Id,
    at: UnixMs,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl EncodedNotice {
    /// Encodes a notice.
    #[must_use]
    pub fn of(notice: &Notice) -> Self {
        Self(Arc::from(crate::json::encode(notice)))
    }

    /// Wraps stored bytes. All of them are read, once for each reader, which takes 0.4 µs for 300 bytes: a client that is sent anything but a
    /// notice cannot go on, and would ask for the same bytes again.
    ///
    /// # Errors
    /// [`InvalidStoredNotice`] when the bytes are not the JSON object of a notice.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, InvalidStoredNotice> {
        let text = std::str::from_utf8(bytes)?;
        // More members are written behind the brace.
        if !text.starts_with("{\"") {
            return Err(InvalidStoredNotice::NotANotice { line: 0, column: 0 });
        }
        match serde_json::from_str::<StoredNotice<'_>>(text) {
            Ok(_) => Ok(Self(Arc::from(text))),
            Err(error) => Err(InvalidStoredNotice::NotANotice { line: error.line(), column: error.column() }),
        }
    }

    /// The text of the object, braces included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text behind the opening brace: the members and the closing brace. To write more members in front of them.
    pub(crate) fn members(&self) -> &str {
        // Both constructors guarantee the brace, which is one byte.
        &self.0[1..]
    }

    /// Decodes the notice.
    ///
    /// # Errors
    /// Those of the JSON library, when the text is not a notice.
    pub fn decode(&self) -> Result<Notice, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = r#"{"id":"n1","kind":"new_order","order":"o1","at":1790000000000,"body":{"pickup_code":"A17","items":[{"name":"拿铁","count":2}]}}"#;

    #[test]
    fn a_stored_notice_is_wrapped_as_it_is_also_of_a_kind_that_is_not_known_here() {
        for text in
            [STORED.to_owned(), STORED.replace("new_order", "new_kind"), STORED.replace("\"A17\"", "\"\\u0041\"")]
        {
            assert_eq!(EncodedNotice::from_stored(text.as_bytes()).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_notice_that_was_cut_or_changed_inside_is_found() {
        let stored = STORED.as_bytes();
        let read = |bytes: &[u8]| EncodedNotice::from_stored(bytes);
        for at in 0..stored.len() {
            assert!(read(&stored[..at]).is_err(), "cut at {at}");
            assert!(read(&stored[at + 1..]).is_err(), "begins at {at}");
            for zeros in 1..(stored.len() - at).min(8) {
                let mut changed = stored.to_vec();
                changed[at..at + zeros].fill(0);
                assert!(read(&changed).is_err(), "{zeros} zeros at {at}");
            }
            // What is missing in the middle may be part of a word; then the rest is a notice all the same.
            for end in at + 1..stored.len() {
                if let Ok(notice) = read(&[&stored[..at], &stored[end..]].concat()) {
                    assert!(notice.decode().is_ok(), "{}", notice.as_str());
                }
            }
        }
        for member in ["\"id\":\"n1\",", "\"kind\":\"new_order\",", "\"order\":\"o1\",", "\"at\":1790000000000,"] {
            assert!(read(STORED.replace(member, "").as_bytes()).is_err(), "without {member}");
        }
        assert_eq!(read(b"{}"), Err(InvalidStoredNotice::NotANotice { line: 0, column: 0 }));
        assert!(matches!(read(b"\xff"), Err(InvalidStoredNotice::NotText(_))));
        let quoted =
            read(br#"{"id": "o1", "kind": "new_order", "order": "1", "at": "secret"}"#).unwrap_err().to_string();
        assert!(quoted.contains("line 1, column ") && !quoted.contains("secret"), "{quoted}");
    }
}
