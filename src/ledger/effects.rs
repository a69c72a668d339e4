//! What a turn wants written, and what the ledger answers.
//!
//! All of one turn goes into one batch: an order's state, its notices and what they supersede, or nothing of it.

use std::borrow::Cow;

use bytes::Bytes;
use orderbell_protocol::notice::Encoded;
use orderbell_protocol::{Recipient, UnixMs};

use super::keys::OrderKey;
use super::tally::Tally;

/// A notice that is owed to a mailbox. Its id is derived, so appending it twice appends it once.
#[derive(Clone, Debug)]
pub struct NewNotice {
    /// The order it speaks of.
    pub order: OrderKey,
    /// Derived id.
    pub id: String,
    /// Whose mailbox.
    pub recipient: Recipient,
    /// Its JSON.
    pub notice: Encoded,
    /// From then on nobody is rung for it.
    pub expires_at: UnixMs,
}

/// The effects of one turn.
#[derive(Clone, Debug, Default)]
pub struct TurnEffects {
    /// New states, as bytes that only ingest can read.
    pub states: Vec<(OrderKey, Vec<u8>)>,
    /// Notices to append, in order.
    pub notices: Vec<NewNotice>,
    /// Notices that nobody needs to hear any more, by order and id.
    pub superseded: Vec<(OrderKey, String)>,
    /// When to look whether an order's state may be forgotten.
    pub due: Vec<(UnixMs, OrderKey)>,
    /// Looks that were taken.
    pub looked: Vec<(UnixMs, OrderKey)>,
    /// Orders whose state and notices go.
    pub forgotten: Vec<OrderKey>,
    /// Orders that open or close for somebody.
    pub open: Vec<(Recipient, OrderKey, bool)>,
    /// Events to tell the world.
    pub emits: Vec<Incoming>,
    /// What is added to the tallies.
    pub tallies: Vec<Tally>,
}

impl TurnEffects {
    /// True when there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.notices.is_empty()
            && self.superseded.is_empty()
            && self.due.is_empty()
            && self.looked.is_empty()
            && self.forgotten.is_empty()
            && self.open.is_empty()
            && self.emits.is_empty()
            && self.tallies.is_empty()
    }
}

/// An event for the embedded stream, or for the output topic.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Key of the record: the order's id.
    pub key: Bytes,
    /// Hash of the event's source and id.
    pub id_hash: u128,
    /// Hash of the whole event: the same id with another body is refused.
    pub body_hash: u64,
    /// Value of the record.
    pub value: Bytes,
    /// Its media type.
    pub content_type: Cow<'static, str>,
}

/// What became of an [`Incoming`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable.
    Logged,
    /// The same event was durable before.
    Duplicate,
    /// Another event with this id was durable before; this one is not taken.
    Conflict,
}

/// The ledger does not write any more; the process is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger does not write any more")]
pub struct LedgerFailed;
