//! An order, as rules and ledger name it.

use crate::recipient::Id;

/// An order and the kind of traffic that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey {
    /// Load-test traffic.
    pub shadow: bool,
    /// The order's id, unique in the chain.
    pub id: Id,
}
