//! The balance of paid orders: every record that may be a paid order ends in exactly one bin, of its topic.
//!
//! The rules choose the bin, the ledger counts it in the batch of what it describes, and operators read it: `orderbell balance`.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

macro_rules! bins {
    ($($(#[$doc:meta])+ $bin:ident = $number:literal, $word:literal, $leads_to:ident, $sentence:literal;)+) => {
        /// Where a record that may be a paid order ended. The ledger stores the numbers, so none may change its meaning.
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Bin {
            $($(#[$doc])+ #[serde(rename = $word)] $bin = $number,)+
        }

        impl Bin {
            /// Every bin.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$bin),+];

            /// The word in JSON, in metric labels and for operators.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$bin => $word,)+ }
            }

            /// True for a bin that means: paid, and nobody was notified. Its growth is an alert until somebody looks after it.
            #[must_use]
            pub fn needs_a_person(self) -> bool {
                match self { $(Self::$bin => Growth::$leads_to == Growth::Alert,)+ }
            }

            /// What the records in it are, for operators: it follows their number.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$bin => $sentence,)+ }
            }
        }
    };
}

/// How long a paid order may wait for the event that names its store before it raises an alert: two topics are rarely further apart. Operators
/// are alerted within 30 seconds of the payment. Milliseconds.
pub const STORE_MAX_WAIT_MS: i64 = 20_000;

/// Why an event of Orderbell's own is a dead letter that the output topic refused for good: no log holds it, so it is counted with its dead letter.
pub const NOT_PUBLISHED: &str = "not-published";

/// Why the server made dead letters of records that are events to whoever reads the log: it gave them up, its own state was damaged, a notice could
/// not be encoded, or it had read another event with their id.
const GIVEN_UP: [&str; 5] = ["retries-exhausted", "key-panicked", "bad-state", "not-encodable", "event-conflict"];

/// True when the log alone tells that a record is rejected for this reason.
#[must_use]
pub fn is_known_from_the_log(code: &str) -> bool {
    code != NOT_PUBLISHED && !GIVEN_UP.contains(&code)
}

/// What the growth of a bin leads to.
#[derive(PartialEq, Eq)]
enum Growth {
    Alert,
    Nobody,
}

bins! {
    /// The store is notified.
    Notified = 0, "notified", Nobody, "paid orders that notified their store";
    /// No event has named the order's store yet: the notice waits for it.
    AwaitsStore = 1, "awaits_store", Alert, "paid orders name no store";
    /// The order had ended, or was collected, before its store was notified.
    Superseded = 2, "superseded", Nobody, "paid orders that had ended before their store was notified";
    /// The event was too old for a notice, but its record was not: its producer's clock is off, or it publishes late.
    TooOld = 3, "too_old", Alert, "paid orders were hours old by their own time when they came";
    /// The record itself was too old for a notice, such as those of a first start's history.
    History = 4, "history", Nobody, "paid orders were read too late for a notice";
    /// The event had been applied before.
    Duplicate = 5, "duplicate", Nobody, "payments that had been read before";
    /// The order was known as paid.
    Stale = 6, "stale", Nobody, "payments of orders that were known as paid";
    /// The payment crossed the end of its order on the way: `order.late_payment` asks for a refund.
    LatePayment = 7, "late_payment", Alert, "payments that came just after the end of their order, and are to be refunded";
    /// Another order with the number of one that was picked up or had ended.
    AfterEnd = 8, "after_end", Alert, "payments of orders that had been picked up or had ended";
    /// A second payment that differs from the first: two orders with one id.
    SecondPayment = 9, "second_payment", Alert, "second payments that differ from their order's first";
    /// A dead letter with the type of a paid order.
    Rejected = 10, "rejected", Alert, "dead letters that are paid orders";
    /// A dead letter that may be a paid order: its type cannot be read.
    Unreadable = 11, "unreadable", Alert, "dead letters whose type cannot be read";
    /// An event of a type that the configuration ignores.
    Ignored = 12, "ignored", Nobody, "events that the configuration ignores";
    /// A dead letter of a later stage than paid: a store may hear of its order by it first.
    RejectedLater = 13, "rejected_later", Alert, "dead letters of a later stage than paid";
}

impl Bin {
    /// The bin with this number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|bin| *bin as u8 == number)
    }
}

/// What is counted together.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BinKey {
    /// Load-test traffic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// The topic that the records were read from.
    pub topic: String,
    /// Where they ended.
    pub bin: Bin,
    /// Of dead letters, why they were rejected: a code. Of events that are no payments, and by which their order is known as paid, their type.
    /// Empty for payments.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl BinKey {
    /// True for a bin whose records the log tells, too. A payment that was given up is one all the same, and a record whose type cannot be read is
    /// rejected anyway; of a later stage, only the ledger knows that it was given up.
    #[must_use]
    pub fn is_in_the_log(&self) -> bool {
        match self.bin {
            Bin::Rejected | Bin::Unreadable => self.reason != NOT_PUBLISHED,
            Bin::RejectedLater => is_known_from_the_log(&self.reason),
            // Events that are no payments name their type.
            _ => self.reason.is_empty(),
        }
    }
}

/// How many records of one partition are in bins of which [`BinKey::is_in_the_log`] is true. Reconciliation compares them with the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCount {
    /// As the log calls it.
    pub topic: String,
    /// Counted from 0.
    pub partition: u32,
    /// Records of the log that is read, from [`Self::from`] on.
    pub records: i64,
    /// Where the partition started to be read, or went on behind a gap or with another log.
    pub from: u64,
    /// Records that were counted before: of earlier logs, or below a gap.
    pub earlier: i64,
}

/// The place of a record in its topic.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Counted from 0.
    pub partition: u32,
    /// In the log; for an event that was never published, its number in the outbox.
    pub offset: u64,
}

/// One change of the balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinDelta {
    /// What changes.
    pub key: BinKey,
    /// How many records are added, or taken out: an order that waited for its store leaves that bin.
    pub by: i64,
    /// The record. Of an order that leaves `awaits_store`, the one that came into it.
    pub place: RecordPlace,
    /// When the order began to wait for its store, of a record that enters or leaves `awaits_store`; no other has it. Milliseconds.
    pub waits_since: Option<UnixMs>,
}

/// The records of one bin of a topic.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinCount {
    /// What they have in common.
    #[serde(flatten)]
    pub key: BinKey,
    /// How many there are, since the ledger was created.
    pub records: u64,
    /// How many of them somebody has looked after.
    pub acknowledged: u64,
    /// Of `awaits_store`: orders that came in the last 20 seconds. Their store may still be named, and they raise no alert yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// When the first that nobody has looked after was counted; null when there is none. Milliseconds.
    pub since: Option<UnixMs>,
    /// The newest of them.
    pub newest: RecordPlace,
}

impl BinCount {
    /// Records that nobody has looked after, and that raise an alert.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.records.saturating_sub(self.acknowledged).saturating_sub(self.waiting)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
