//! The result of reading a mailbox.
//!
//! WebSocket, long-poll and poll read a mailbox through one function and get the same page; therefore they cannot disagree.

use crate::notice::EncodedNotice;
use crate::position::Position;

/// One notice for one reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The position of this notice.
    pub position: Position,
    /// The position that this notice follows for this reader. A client checks this chain.
    pub prev: Position,
    /// The notice, encoded once for all readers.
    pub notice: EncodedNotice,
}

/// A range of a mailbox, with at most as many notices as the reader asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxPage {
    /// The notices in mailbox order, each linked to the one before.
    pub notices: Vec<Delivery>,
    /// The last row that was examined. Rows between the last notice and this position are superseded or expired; the next read starts
    /// behind them.
    pub next: Position,
    /// The newest durable row of the mailbox.
    pub head: Position,
}

impl MailboxPage {
    /// True when rows remain between `next` and `head`.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next.seq < self.head.seq
    }
}

/// Why a mailbox cannot be read from a position: what its reader may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The position is from another epoch, beyond the head, or has wrong check bits. HTTP 409, close code 4200.
    #[error("the position belongs to another epoch of this mailbox")]
    EpochChanged,
    /// The position is older than the mailbox's retention. HTTP 410, close code 4200.
    #[error("the position is older than the retained notices")]
    PositionExpired,
    /// The mailbox cannot be read now; the cause concerns the server's operator alone. HTTP 503, close code 1011.
    #[error("the mailbox cannot be read")]
    Unavailable,
}
