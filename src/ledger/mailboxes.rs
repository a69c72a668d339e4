//! What others may do with mailboxes: read one, and learn which have too many live notices.

use std::sync::PoisonError;

use orderbell_protocol::{MailboxPage, Position, Recipient, UnixMs};

use super::Ledger;
use super::mailbox::{Mailbox, MailboxError};

/// Is notified when mailboxes change. The hub implements it; the ledger imports nothing of the hub.
pub trait MailboxObserver: Send + Sync + 'static {
    /// These recipients' mailboxes hold new notices, durably.
    fn changed(&self, recipients: &[Recipient]);
}

/// What recipients read: the handle with the one read function.
#[derive(Clone, Copy)]
pub struct Mailboxes<'a>(pub(super) &'a Ledger);

impl Mailboxes<'_> {
    /// Reads a mailbox; no other function does. See [`MailboxPage`].
    ///
    /// # Errors
    /// [`MailboxError`]: `after` is not of this mailbox's history, or older than what is kept; or the files cannot be read.
    pub fn read(
        self,
        who: &Recipient,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<MailboxPage, MailboxError> {
        let view = self.0.disk.view();
        Mailbox::new(&view, who, self.0.epoch).read(after, scan, limit, now)
    }

    /// Recipients with more live notices than `max_mailbox_rows`, and how many, most first: nobody acknowledges them.
    #[must_use]
    pub fn overflowing(self) -> Vec<(Recipient, u64)> {
        // Sorted without the lock: the committer needs it.
        let mut named: Vec<_> = {
            let overflows = self.0.overflows.lock().unwrap_or_else(PoisonError::into_inner);
            overflows.values().cloned().collect()
        };
        named.sort_by_key(|(_, live)| std::cmp::Reverse(*live));
        named
    }
}
