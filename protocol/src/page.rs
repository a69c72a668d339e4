//! What the one read function of a mailbox answers.
//!
//! Socket, long-poll and poll are readers of the same page; that is why they cannot disagree.

use crate::notice::Encoded;
use crate::position::Position;

/// One notice on its way to one reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where this notice stands.
    pub position: Position,
    /// Where this reader stood before it: the link of the chain that a client checks.
    pub after: Position,
    /// The notice, encoded once.
    pub notice: Encoded,
}

/// A stretch of a mailbox, at most as long as was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In order, each linked to the one before.
    pub notices: Vec<Delivery>,
    /// Last row that was looked at: rows between the last notice and here were superseded or too old, and need no second look.
    pub next: Position,
    /// Newest durable row of the mailbox.
    pub head: Position,
}

impl Page {
    /// True when rows remain between `next` and the head that was seen.
    #[must_use]
    pub fn more(&self) -> bool {
        self.next.seq < self.head.seq
    }
}

/// Why a mailbox cannot be read from a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The position is from another epoch, beyond the head, or its check bits do not fit. HTTP 409, close code 4200.
    #[error("the position belongs to another history of this mailbox")]
    Epoch,
    /// The position is older than what is kept. HTTP 410, close code 4200.
    #[error("the position is older than what is kept")]
    Gone,
    /// The ledger could not be read.
    #[error("the ledger cannot be read: {0}")]
    Ledger(String),
}
