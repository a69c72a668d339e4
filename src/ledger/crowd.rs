//! Retention by count: a mailbox that holds more rows than it may loses those that nobody needs any more, oldest first.
//!
//! ```text
//!   append: rows of a mailbox counted in the batch that adds them --- above the bound? ---> crowded
//!   each tick: a bounded walk through one crowded mailbox, in a batch of its own, from its oldest row up
//!        superseded, or long past its life:  nothing live below?  gone, and the floor rises    otherwise: a stub with its check bits
//!        live:                               stays, whatever the count says; too many of them are an alarm
//! ```
//!
//! A live row is an order that somebody may still have to cook, so the bound gives way to it and says so. A row that is past its life is
//! kept for [`GRACE_MS`] more: a clock that jumped must not cost a notice. The index that keeps a notice from being made twice stays until
//! its order is forgotten.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use orderbell_protocol::UnixMs;

use super::disk::{DiskError, Space, View};
use super::keys;
use super::mailbox::{self, MailRow};
use super::space::Bounds;
use super::stage::Stage;

/// Rows looked at in one tick: bounds what a walk adds to the time of other batches.
const ROWS_PER_STEP: usize = 1024;
/// A mailbox that is still above its bound is walked again after this long.
const AGAIN_AFTER_MS: i64 = 60_000;
/// How long past its life a row is left alone: longer than clocks are wrong by.
const GRACE_MS: i64 = 24 * 3_600_000;
/// Mailboxes that wait for their walk; one more is noticed at its next append.
const CROWDED_MAX: usize = 10_000;

/// Mailboxes that hold more live rows than the bound, and how many: shared with whoever shows them.
pub(crate) type Alarms = Arc<Mutex<BTreeMap<Vec<u8>, u64>>>;

#[derive(Debug, Default)]
struct Walk {
    /// Where to go on.
    from_seq: u64,
    /// Rows that may ring still, so far.
    live: u64,
    not_before: UnixMs,
}

/// See the module.
pub(crate) struct Crowd {
    bounds: Arc<Bounds>,
    crowded: BTreeMap<Vec<u8>, Walk>,
    alarms: Alarms,
}

impl Crowd {
    pub(crate) fn new(bounds: Arc<Bounds>, alarms: Alarms) -> Self {
        Self { bounds, crowded: BTreeMap::new(), alarms }
    }

    fn rows_max(&self) -> u64 {
        self.bounds.mailbox_rows_max.load(Ordering::Relaxed)
    }

    /// These mailboxes hold so many rows now.
    pub(crate) fn counted(&mut self, counts: Vec<(Vec<u8>, u64)>) {
        for (mailbox, rows) in counts {
            if rows > self.rows_max() && self.crowded.len() < CROWDED_MAX {
                self.crowded.entry(mailbox).or_default();
            }
        }
    }

    fn alarm(&self, mailbox: &[u8], live: Option<u64>) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        match live {
            Some(live) => drop(alarms.insert(mailbox.to_vec(), live)),
            None => drop(alarms.remove(mailbox)),
        }
    }

    /// Walks on through one crowded mailbox.
    pub(crate) fn step(&mut self, view: &View<'_>, stage: &mut Stage<'_>, now: UnixMs) -> Result<(), DiskError> {
        let next = self.crowded.iter().find(|(_, walk)| walk.not_before <= now).map(|(mailbox, _)| mailbox.clone());
        let Some(mailbox) = next else { return Ok(()) };
        let mut walk = self.crowded.remove(&mailbox).unwrap_or_default();
        let mut over = mailbox::count(view, &mailbox)?.saturating_sub(self.rows_max());
        if over == 0 {
            self.alarm(&mailbox, None);
            return Ok(());
        }
        let (from, end) = (keys::mail(&mailbox, walk.from_seq), keys::mail(&mailbox, u64::MAX));
        let mut seen = 0;
        for row in view.rows(Space::Mail, &from, &end).take(ROWS_PER_STEP) {
            let (key, row) = row?;
            seen += 1;
            walk.from_seq = mailbox::seq_of(&key) + 1;
            let Some(row) = MailRow::decode(&row) else { continue };
            if !row.is_over(now.plus_ms(-GRACE_MS)) {
                walk.live += 1;
            } else if walk.live == 0 {
                over -= u64::from(!row.is_stub());
                stage.drop_lowest(&mailbox, &key, &row);
            } else if !row.is_stub() {
                over -= 1;
                stage.put_stub(&mailbox, &key, row);
            }
            if over == 0 {
                self.alarm(&mailbox, None);
                return Ok(());
            }
        }
        if seen < ROWS_PER_STEP {
            self.alarm(&mailbox, Some(walk.live));
            walk = Walk { not_before: now.plus_ms(AGAIN_AFTER_MS), ..Walk::default() };
        }
        self.crowded.insert(mailbox, walk);
        Ok(())
    }
}
