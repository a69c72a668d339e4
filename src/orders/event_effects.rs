//! What one record does: one rule for the server, `mapping try` and `mapping doctor`.
//!
//! ```text
//!   record --Mapping::read--> event --apply_event, with the order's state--> next state, notices, bins of the balance
//!                        \--> dropped, or a dead letter
//! ```
//!
//! The server writes the result to its ledger, and the tools show it. Refused: a second walk for the tools, which says what no server does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::balance::{Bin, BinDelta};
use orderbell_protocol::notice::{EncodedNotice, Notice};
use orderbell_protocol::{Event, EventType, Id, Recipient, UnixMs};

use super::envelopes::{UNDATED_ROW, is_no_event};
use super::event_types::IGNORED;
use super::mapping::{Decoded, Mapping};
use super::notices::NoticeDraft;
use super::order::{ApplyResult, Effects, LogNumber, Order, OrderPolicy, Unannounced, forgotten};
use super::prepared::RecordView;
use super::record_type::LooksPaid;

/// Why a record changes no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEffect {
    /// It is dropped without a dead letter, for this reason: the configuration ignores its type, or it is no event. The balance counts it in
    /// this bin, if in any.
    Dropped(Reason, Option<Bin>),
    /// It becomes a dead letter.
    Rejected(Reason),
}

impl From<Reason> for NoEffect {
    fn from(reason: Reason) -> Self {
        Self::Rejected(reason)
    }
}

impl Mapping {
    /// The event of a record.
    ///
    /// # Errors
    /// What becomes of the record instead.
    pub fn read<'r>(&self, record: impl Into<RecordView<'r>>, now: UnixMs) -> Result<Decoded, NoEffect> {
        let record = record.into();
        // No record is known at which the rules panic, and tests need one.
        #[cfg(test)]
        assert_ne!(record.record.offset, u64::MAX, "a test wants this panic");
        self.explain(record, now).map_err(|reason| {
            if reason.code == IGNORED {
                return NoEffect::Dropped(reason, Some(Bin::Ignored));
            }
            if !is_no_event(&reason) {
                return NoEffect::Rejected(reason);
            }
            let is_paid_row = reason.code == UNDATED_ROW && self.bin_of_dead_letter(record, UNDATED_ROW).is_some();
            NoEffect::Dropped(reason, is_paid_row.then_some(Bin::History))
        })
    }

    /// The bin of a record that becomes a dead letter for a reason with this code; none when it is no paid order. One at which the rules panic may
    /// be one.
    #[must_use]
    pub fn bin_of_dead_letter<'r>(&self, record: impl Into<RecordView<'r>>, code: &str) -> Option<Bin> {
        let record = record.into();
        match caught(PANICS, || Ok::<_, Reason>(self.looks_paid(record))).unwrap_or(LooksPaid::Unreadable) {
            LooksPaid::Yes => Some(Bin::Rejected),
            LooksPaid::Unreadable => Some(Bin::Unreadable),
            // That order is known, and another store was notified of it.
            LooksPaid::Later if code == "store-mismatch" => None,
            LooksPaid::Later => Some(Bin::RejectedLater),
            LooksPaid::No => None,
        }
    }
}

/// A notice as the ledger stores it.
#[derive(Debug)]
pub struct MadeNotice {
    /// Decoded, for the rules and the counters.
    pub notice: Notice,
    /// Its JSON.
    pub encoded: EncodedNotice,
    /// The owner of the mailbox.
    pub recipient: Recipient,
    /// From this time on it is not delivered.
    pub expires_at: UnixMs,
}

/// When an event is applied, and under which rules.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The time of reading.
    pub now: UnixMs,
    /// Of which log of its partition the record is.
    pub log: LogNumber,
    /// The record was handled before this ledger began: it is history.
    pub was_handled: bool,
    /// The configured part of the rules.
    pub policy: &'a OrderPolicy,
}

/// What an event does to its order, and what follows.
#[derive(Debug)]
pub struct EventEffects {
    /// The order's next state; none where there is nothing to store.
    pub next: Option<Order>,
    /// What follows from the event. Its notices are in [`Self::notices`].
    pub effects: Effects,
    /// Notices to append to mailboxes.
    pub notices: Vec<MadeNotice>,
    /// What changes in the balance with the order's state.
    pub bin_deltas: Vec<BinDelta>,
    /// The bin of a payment of which no state is kept.
    pub forgotten: Option<Bin>,
    /// Why no store is notified of a paid order.
    pub unannounced: Option<Unannounced>,
    /// The order is paid, and waits for an event that names its store.
    pub awaits_store: bool,
    is_load_test: bool,
}

impl EventEffects {
    /// The bin in which the record ends, if that means that a person is alerted. Load-test traffic raises no alert.
    #[must_use]
    pub fn alert(&self) -> Option<Bin> {
        let added = self.bin_deltas.iter().filter(|delta| delta.by > 0).map(|delta| delta.key.bin);
        added.chain(self.forgotten).find(|bin| bin.needs_a_person() && !self.is_load_test)
    }
}

/// Applies the event of a record to its order; `None`: unknown.
///
/// # Errors
/// Why the record becomes a dead letter. The order stays as it was.
pub fn apply_event(
    record: &Record,
    event: &Event,
    known: Option<&Order>,
    context: ApplyContext<'_>,
) -> Result<EventEffects, Reason> {
    let ApplyContext { now, log, was_handled, policy } = context;
    let (mut next, mut effects) = Order::apply(known, event, now, policy)?;
    let bin_deltas = next
        .as_mut()
        .map_or_else(Vec::new, |next| next.bin_changes(known, (record, log), event, &effects, was_handled, now));
    let is_forgotten = effects.result == ApplyResult::Forgotten && event.kind == EventType::Paid;
    let forgotten = is_forgotten.then(|| forgotten(event, was_handled));
    // Before the order counts its notices as made: a notice that cannot be encoded must not be skipped.
    let drafts = std::mem::take(&mut effects.notices);
    let notices = drafts.into_iter().map(|draft| encode(&event.order, draft)).collect();
    let unannounced = next.as_ref().and_then(|next| next.unannounced(&effects, was_handled));
    let awaits_store = next.as_ref().is_some_and(Order::awaits_store);
    let is_load_test = event.shadow;
    Ok(EventEffects { next, effects, notices, bin_deltas, forgotten, unannounced, awaits_store, is_load_test })
}

fn encode(order: &Id, draft: NoticeDraft) -> MadeNotice {
    let NoticeDraft { id, kind, recipient, at, expires_at, body } = draft;
    let notice = Notice { id, kind, order: order.clone(), at, body };
    MadeNotice { encoded: EncodedNotice::of(&notice), notice, recipient, expires_at }
}

/// Code of the dead letter of a record at which the rules panic whenever it is tried.
pub(super) const PANICS: &str = "retries-exhausted";

/// What the rules say; a panic is a rejection with this code, as in the server.
///
/// # Errors
/// Those of the rules, or that they panicked.
pub(super) fn caught<T, E: From<Reason>>(code: &'static str, rules: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let panicked = || Reason { code, message: "the rules panic at this record: please report it".into() };
    catch_unwind(AssertUnwindSafe(rules)).unwrap_or_else(|_| Err(panicked().into()))
}
