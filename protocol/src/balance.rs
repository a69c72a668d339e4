//! The balance of paid orders: every record that may be a paid order ends in exactly one bin, of its topic.
//!
//! The rules choose the bin, the ledger counts it in the batch of what it describes, and operators read it: `orderbell balance`.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

macro_rules! bins {
    ($($(#[$doc:meta])+ $bin:ident = $number:literal, $word:literal, $told:ident, $sentence:literal;)+) => {
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
                match self { $(Self::$bin => Told::$told == Told::Alert,)+ }
            }

            /// What the records in it are, for operators: it follows their number.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$bin => $sentence,)+ }
            }
        }
    };
}

/// What the growth of a bin leads to.
#[derive(PartialEq, Eq)]
enum Told {
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
    LatePayment = 7, "late_payment", Nobody, "payments that came just after the end of their order, and are to be refunded";
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

/// The place of a record in its topic.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

/// One change of the balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinDelta {
    /// What changes.
    pub key: BinKey,
    /// How many records are added, or taken out: an order that waited for its store leaves that bin.
    pub by: i64,
    /// The record.
    pub place: RecordPlace,
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
    /// When the first that nobody has looked after was counted; null when there is none. Milliseconds.
    pub since: Option<UnixMs>,
    /// The newest of them.
    pub newest: RecordPlace,
}

impl BinCount {
    /// Records that nobody has looked after.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.records.saturating_sub(self.acknowledged)
    }
}
