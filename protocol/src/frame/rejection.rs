//! Why an event of a client had no effect: the reason of a `rejected` result, and how the order had ended when an event came too late.
//!
//! Both are stable words. The `reason` that a till gives with a refusal is text of a person, and no business of this module.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::OrderOutcome;

/// Declares an enum of stable words: a row has the variant, its description and its word. There is no second list of them.
macro_rules! stable_words {
    ($(#[$about:meta])+ $name:ident { $($(#[$doc:meta])+ $variant:ident = $word:literal,)+ }) => {
        $(#[$about])+
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name {
            $($(#[$doc])+ #[serde(rename = $word)] $variant,)+
            /// A word that this reader does not know, or none. So words can be added. A server never writes it.
            #[serde(rename = "unknown")]
            #[cfg_attr(feature = "schema", schemars(skip))]
            Unknown,
        }

        impl $name {
            /// Every word that a server writes.
            pub const KNOWN: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word on the wire.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = String::deserialize(from)?;
                Ok(Self::KNOWN.into_iter().find(|known| known.word() == word).unwrap_or(Self::Unknown))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

stable_words! {
    /// Why an event of a client was not stored.
    RejectionReason {
        /// As many events of this client as the limit allows are pending.
        Busy = "busy",
        /// The server cannot make the event durable at present.
        Unavailable = "unavailable",
        /// The recipient has no such order.
        NotFound = "not-found",
        /// A customer collects an order that no store has accepted.
        TooEarly = "too-early",
        /// The role may not send this kind of event.
        Forbidden = "forbidden",
        /// The kind of event does not exist.
        UnknownKind = "unknown-kind",
        /// The event's id is empty or too long.
        BadId = "bad-id",
        /// The order's id is not one.
        BadOrder = "bad-order",
        /// A text of the event, or the whole event, is too long.
        TooLong = "too-long",
        /// A text of the event holds control characters.
        BadText = "bad-text",
        /// Another event had this id.
        Conflict = "conflict",
    }
}

impl RejectionReason {
    /// True when time mends it: the client sends the event again later. Any other rejection is final, also one whose word is unknown.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable)
    }
}

stable_words! {
    /// How an order ended: the `reason` of an `event_rejected` notice.
    OrderEnd {
        /// The store refused it.
        Refused = "refused",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// It was refunded.
        Refunded = "refunded",
        /// It was not paid in time.
        Expired = "expired",
        /// It was collected.
        PickedUp = "picked_up",
    }
}

impl From<OrderOutcome> for OrderEnd {
    fn from(outcome: OrderOutcome) -> Self {
        match outcome {
            OrderOutcome::Refused => Self::Refused,
            OrderOutcome::Cancelled => Self::Cancelled,
            OrderOutcome::Refunded => Self::Refunded,
            OrderOutcome::Expired => Self::Expired,
        }
    }
}

/// The body of an `event_rejected` notice.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRejectedBody {
    /// The device that sent the event. Other devices ignore the notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How the order had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<OrderEnd>,
    /// The id that the device gave the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{EventResult, EventStatus};

    #[test]
    fn words_are_the_json_form() {
        for reason in RejectionReason::KNOWN {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(text, format!("\"{reason}\""));
            assert_eq!(serde_json::from_str::<RejectionReason>(&text).unwrap(), reason);
        }
        for end in OrderEnd::KNOWN {
            assert_eq!(serde_json::from_str::<OrderEnd>(&serde_json::to_string(&end).unwrap()).unwrap(), end);
        }
    }

    #[test]
    fn a_reason_of_a_later_version_is_read_as_unknown_and_is_final() {
        let result: EventResult =
            serde_json::from_str(r#"{"id":"e1","status":"rejected","reason":"full-moon"}"#).unwrap();
        assert_eq!((result.status, result.reason), (EventStatus::Rejected, Some(RejectionReason::Unknown)));
        assert!(!RejectionReason::Unknown.is_temporary());
        let body: EventRejectedBody = serde_json::from_str(r#"{"reason":"donated","to":"a school"}"#).unwrap();
        assert_eq!(body.reason, Some(OrderEnd::Unknown));
    }

    #[test]
    fn an_outcome_has_the_same_word_as_the_end_that_it_is() {
        let outcomes = [OrderOutcome::Refused, OrderOutcome::Cancelled, OrderOutcome::Refunded, OrderOutcome::Expired];
        assert!(outcomes.iter().all(|outcome| OrderEnd::from(*outcome).word() == outcome.word()));
    }
}
