//! Retention by count: a mailbox with more rows than `max_mailbox_rows` loses superseded and expired ones, oldest first.
//!
//! ```text
//!   append: rows of a mailbox counted in the batch that adds them --- above the limit? ---> queue
//!   each tick: a bounded scan of one queued mailbox, in a batch of its own, from its oldest row up
//!        superseded, or long expired:  nothing live below?  removed, and the floor rises    otherwise: a stub with its check bits
//!        live:                         stays, whatever the count says; too many of them raise an alert
//! ```
//!
//! A live row is an order that may still have to be prepared, so the limit gives way to it and an alert is raised. An expired row is kept
//! for [`GRACE_MS`] more: a clock that jumped must not cost a notice. The index entry that keeps a notice from being appended twice stays
//! until its order is expunged. A row that does not decode may be live and counts as such: the floor stays below it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use orderbell_protocol::{Recipient, UnixMs};

use super::disk::{DatabaseError, Table, View};
use super::free_space::LedgerLimits;
use super::keys;
use super::mailbox;
use super::write_batch::BatchBuilder;

/// Rows read in one tick: bounds what a scan adds to the time of other batches.
const ROWS_PER_STEP: usize = 1024;
/// A mailbox that is still above its limit is scanned again after this long.
const RESCAN_AFTER_MS: i64 = 60_000;
/// How long after its expiry a row is left alone: longer than clocks are wrong by.
const GRACE_MS: i64 = 24 * 3_600_000;
/// Mailboxes in the queue; one more is queued at its next append.
const QUEUE_MAX: usize = 10_000;

/// Mailboxes with more live rows than the limit, whose they are and how many rows: shared with whoever raises the alert.
pub(crate) type Overflows = Arc<Mutex<BTreeMap<Vec<u8>, (Recipient, u64)>>>;

#[derive(Debug, Default)]
struct Scan {
    /// Key at which to continue; empty at the beginning.
    from: Vec<u8>,
    /// Live rows so far.
    live: u64,
    /// Not before this time, as long as the limit is this one.
    not_before: UnixMs,
    max_rows: u64,
}

/// Trims mailboxes that exceed `max_mailbox_rows`. See the module.
pub(crate) struct MailboxLimit {
    limits: Arc<LedgerLimits>,
    queue: BTreeMap<Vec<u8>, Scan>,
    overflows: Overflows,
}

impl MailboxLimit {
    pub(crate) fn new(limits: Arc<LedgerLimits>, overflows: Overflows) -> Self {
        Self { limits, queue: BTreeMap::new(), overflows }
    }

    fn max_rows(&self) -> u64 {
        self.limits.max_mailbox_rows.load(Ordering::Relaxed)
    }

    /// Queues those of these mailboxes that hold too many rows.
    pub(crate) fn note_counts(&mut self, counts: Vec<(Vec<u8>, u64)>) {
        for (mailbox, rows) in counts {
            if rows > self.max_rows() && self.queue.len() < QUEUE_MAX {
                self.queue.entry(mailbox).or_default();
            }
        }
    }

    fn set_overflow(&self, mailbox: &[u8], live: u64) {
        // Queued are mailboxes that a batch wrote to, so the key names a recipient.
        if let Some(who) = keys::recipient(mailbox) {
            self.overflows.lock().unwrap_or_else(PoisonError::into_inner).insert(mailbox.to_vec(), (who, live));
        }
    }

    fn clear_overflow(&self, mailbox: &[u8]) {
        self.overflows.lock().unwrap_or_else(PoisonError::into_inner).remove(mailbox);
    }

    /// Continues the scan of one queued mailbox. True when more is due.
    pub(crate) fn step(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        now: UnixMs,
    ) -> Result<bool, DatabaseError> {
        self.scan(view, batch, now)?;
        Ok(self.queue.values().any(|scan| self.is_due(scan, now)))
    }

    /// A reload that changes the limit is not waited out: it may end the alert.
    fn is_due(&self, scan: &Scan, now: UnixMs) -> bool {
        scan.not_before <= now || scan.max_rows != self.max_rows()
    }

    fn scan(&mut self, view: &View<'_>, batch: &mut BatchBuilder<'_>, now: UnixMs) -> Result<(), DatabaseError> {
        let next = self.queue.iter().find(|(_, scan)| self.is_due(scan, now)).map(|(mailbox, _)| mailbox.clone());
        let Some(mailbox) = next else { return Ok(()) };
        let mut scan = self.queue.remove(&mailbox).unwrap_or_default();
        let mut excess = mailbox::count(view, &mailbox)?.saturating_sub(self.max_rows());
        if excess == 0 {
            self.clear_overflow(&mailbox);
            return Ok(());
        }
        let (from, end) = (mailbox.clone().max(std::mem::take(&mut scan.from)), keys::mail(&mailbox, u64::MAX));
        let mut seen = 0;
        for row in view.rows(Table::Mailboxes, &from, &end).take(ROWS_PER_STEP) {
            let (key, row) = row?;
            seen += 1;
            scan.from = [key.as_slice(), &[0]].concat();
            let Some((seq, row)) = view.pass_over(mailbox::decode_numbered(&key, &row))? else {
                scan.live += 1;
                continue;
            };
            if row.is_live(now.plus_ms(-GRACE_MS)) {
                scan.live += 1;
            } else if scan.live == 0 {
                excess -= u64::from(!row.is_stub());
                batch.remove_lowest(&mailbox, (&key, seq), &row, now);
            } else if !row.is_stub() {
                excess -= 1;
                batch.put_stub(&mailbox, &key, row);
            }
            if excess == 0 {
                self.clear_overflow(&mailbox);
                return Ok(());
            }
        }
        if seen < ROWS_PER_STEP {
            self.set_overflow(&mailbox, scan.live);
            scan = Scan { not_before: now.plus_ms(RESCAN_AFTER_MS), max_rows: self.max_rows(), ..Scan::default() };
        }
        self.queue.insert(mailbox, scan);
        Ok(())
    }
}
