//! One message for one recipient.
//!
//! A notice is encoded once, when its order changes, and from then on it is bytes: the ledger keeps them, every reader sends the same
//! ones. Only what differs from reader to reader (position, after, attempt) is put around them, in [`crate::frame`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::UnixMs;
use crate::recipient::Id;

/// What a notice tells.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// To the store: an order is paid, cook it.
    NewOrder,
    /// To the customer: the store took the order; this is the code to collect it with.
    PickupCode,
    /// To all devices of the store: somebody took the order.
    Taken,
    /// To the customer and the store's devices: the store will not make it.
    Refused,
    /// To the customer: it can be collected.
    Ready,
    /// The order is off. Names the NewOrder it takes back: who never heard that one stays silent at this one.
    Cancelled,
    /// To the device whose event came too late: the order had ended in another way. Other devices ignore it.
    Declined,
    /// One that this reader does not know: kept, acknowledged, ignored. That is how kinds can be added. Never written.
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl<'de> Deserialize<'de> for NoticeKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        Ok(Self::KNOWN.into_iter().find(|kind| kind.word() == word).unwrap_or(Self::Unknown))
    }
}

impl NoticeKind {
    /// Every kind that is written.
    pub const KNOWN: [Self; 7] =
        [Self::NewOrder, Self::PickupCode, Self::Taken, Self::Refused, Self::Ready, Self::Cancelled, Self::Declined];

    /// The word on the wire, in ids and in metric labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NewOrder => "new_order",
            Self::PickupCode => "pickup_code",
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Ready => "ready",
            Self::Cancelled => "cancelled",
            Self::Declined => "declined",
            Self::Unknown => "unknown",
        }
    }
}

/// A notice as a client sees it, without the reader's own fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// Derived from (order, kind, recipient, occurrence): the same fact makes the same id, however often it is told.
    pub id: String,
    /// What it tells.
    pub kind: NoticeKind,
    /// The order it speaks of.
    pub order: Id,
    /// When the fact happened, as its producer says. Milliseconds.
    pub at: UnixMs,
    /// What this kind of recipient may see of the order.
    pub body: Box<RawValue>,
}

/// The JSON object of a [`Notice`], shared by all who send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Arc<str>);

/// Stored bytes that are no JSON object: damage, or a writer's bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored notice is not a JSON object")]
pub struct NotEncoded;

impl Encoded {
    /// Encodes a notice.
    ///
    /// # Errors
    /// Never for a notice whose body is JSON; the signature is that of the JSON library.
    pub fn of(notice: &Notice) -> Result<Self, serde_json::Error> {
        serde_json::to_string(notice).map(|text| Self(Arc::from(text)))
    }

    /// Takes stored bytes as they are. Only the outermost braces are checked: the ledger's check sums vouch for the rest.
    ///
    /// # Errors
    /// [`NotEncoded`] when the bytes are no UTF-8 or no object.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, NotEncoded> {
        let text = std::str::from_utf8(bytes).map_err(|_| NotEncoded)?;
        if text.len() < 2 || !text.starts_with('{') || !text.ends_with('}') {
            return Err(NotEncoded);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The object's text, braces included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the notice back.
    ///
    /// # Errors
    /// The JSON library's, when the text is no notice.
    pub fn decode(&self) -> Result<Notice, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}
