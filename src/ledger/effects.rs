//! What the ledger is asked to write, and what it replies.
//!
//! All effects of one key batch go into one write batch: an order's state, its notices and what they supersede, or none of it.

use std::borrow::Cow;

use bytes::Bytes;
use orderbell_protocol::balance::BinDelta;
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::{NoticeKind, Recipient, UnixMs};

use super::at_work::RecordRange;
use super::counters::CounterDelta;
use super::keys::OrderKey;

/// A notice to append to a mailbox. Its id is derived, so appending it twice appends it once.
#[derive(Clone, Debug)]
pub struct NewNotice {
    /// The order it speaks of.
    pub order: OrderKey,
    /// Derived id.
    pub id: String,
    /// Its kind: kept in the notice index, for the delivery log.
    pub kind: NoticeKind,
    /// Whose mailbox.
    pub recipient: Recipient,
    /// Its JSON.
    pub notice: EncodedNotice,
    /// From then on no reader is given it.
    pub expires_at: UnixMs,
}

/// What one key batch changes: written whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct KeyBatchEffects {
    /// New states, encoded by `ingest`, which alone decodes them.
    pub states: Vec<(OrderKey, Vec<u8>)>,
    /// Notices to append, in order.
    pub notices: Vec<NewNotice>,
    /// Notices that no reader needs any more, by order and id.
    pub superseded: Vec<(OrderKey, String)>,
    /// When to check whether an order's state has expired.
    pub expiry_added: Vec<(UnixMs, OrderKey)>,
    /// Expiry checks that were made.
    pub expiry_done: Vec<(UnixMs, OrderKey)>,
    /// Orders whose state and notices are removed.
    pub expunged: Vec<OrderKey>,
    /// Orders that become open (true) or closed (false) for a recipient.
    pub open_index: Vec<(Recipient, OrderKey, bool)>,
    /// Orderbell's own events, to be published.
    pub own_events: Vec<NewEvent>,
    /// What is added to the counters.
    pub counter_deltas: Vec<CounterDelta>,
    /// What changes in the balance of paid orders.
    pub bin_deltas: Vec<BinDelta>,
    /// Of which records these are the effects: a panic of the writer names them.
    pub records: Vec<RecordRange>,
}

impl KeyBatchEffects {
    /// True when there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.notices.is_empty()
            && self.superseded.is_empty()
            && self.expiry_added.is_empty()
            && self.expiry_done.is_empty()
            && self.expunged.is_empty()
            && self.open_index.is_empty()
            && self.own_events.is_empty()
            && self.counter_deltas.is_empty()
            && self.bin_deltas.is_empty()
    }
}

/// An event for the embedded log, or for the output topic.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Key of the record: the order's id.
    pub key: Bytes,
    /// Hash of the event's source, id and type: recognises duplicates.
    pub id_hash: u128,
    /// Hash of the whole event: the same id with another body is a conflict.
    pub body_hash: u64,
    /// Value of the record.
    pub value: Bytes,
    /// Its media type.
    pub content_type: Cow<'static, str>,
    /// Further headers of the record.
    pub headers: Vec<(String, Bytes)>,
}

/// The result of appending a [`NewEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable.
    Stored,
    /// The same event was durable before.
    Duplicate,
    /// Another event with this id was durable before; this one is not stored.
    Conflict,
    /// Not stored, and nothing of its request is: the disk has too little free space.
    DiskLow,
}

/// The ledger can no longer be written; the process is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger can no longer be written")]
pub struct LedgerFailed;

/// The committer has ended; the [`FailureObserver`](crate::FailureObserver) was called with the reason.
impl<T> From<flume::SendError<T>> for LedgerFailed {
    fn from(_closed: flume::SendError<T>) -> Self {
        Self
    }
}

/// The same, after it had taken the work.
impl From<tokio::sync::oneshot::error::RecvError> for LedgerFailed {
    fn from(_closed: tokio::sync::oneshot::error::RecvError) -> Self {
        Self
    }
}
