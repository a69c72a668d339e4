//! From transitions to notices: which become pending, and which can be made.
//!
//! ```text
//!   transition --enqueue--> pending --flush_pending--> notified, and a draft for the mailbox
//! ```
//!
//! Every kind takes this path, by its row of [`NOTICE_KINDS`](super::super::notice_kinds::NOTICE_KINDS). An entry stays pending until its
//! recipient, and the pickup code where it needs one, are known.

use orderbell_consumers::Reason;
use orderbell_protocol::{Event, Id, NoticeKind, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};

use super::super::notice_kinds::{NoticeRow, Repetition};
use super::super::notices::{self, NoticeDraft, VisibleFields};
use super::{Effects, Order, OrderOutcome, OrderStage};

/// Notices of repeatable kinds that one order remembers, made or pending: tills that repeat an event under new ids must not grow its state.
const MAX_REPEATED: usize = 16;

/// The event of a repeatable notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Occurrence {
    /// Hash of the event's source, id and type.
    hash: u64,
    /// The id that the sender gave the event.
    pub(in super::super) event: String,
    /// The device that sent it.
    pub(in super::super) device: Option<Id>,
}

/// A notice that cannot be made yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    to: Role,
    kind: NoticeKind,
    /// Event time of its cause, or when that was recorded: [`Event::notify_at`].
    at: UnixMs,
    /// For repeatable kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occurrence: Option<Occurrence>,
}

/// A notice that was made, or that had expired before it could be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Notified {
    pub(in super::super) to: Role,
    pub(in super::super) kind: NoticeKind,
    pub(in super::super) id: String,
    /// [`Occurrence::hash`], for repeatable kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in super::super) occurrence: Option<u64>,
}

/// True while a notice of this row is of use to an order in this state.
fn is_useful(row: &NoticeRow, stage: OrderStage, outcome: Option<OrderOutcome>) -> bool {
    row.useless_from.is_none_or(|from| outcome.is_none() && stage < from)
}

impl Order {
    /// Adds notices to the pending ones: those that are of use, and were not made before.
    pub(super) fn enqueue(&mut self, notifies: &[(Role, NoticeKind)], event: &Event) {
        for (to, kind) in notifies {
            let Some(row) = NoticeRow::of(*kind).filter(|row| is_useful(row, self.stage, self.outcome)) else {
                continue;
            };
            let Some(audience) = row.audience(*to) else { continue };
            if audience.retracts.is_some_and(|retracted| self.notified_of(*to, retracted).is_none()) {
                continue;
            }
            let occurrence = (row.repetition == Repetition::EachEvent).then(|| Occurrence {
                hash: super::event_hash(event),
                event: event.id.clone(),
                device: event.device.clone(),
            });
            let hash = occurrence.as_ref().map(|occurrence| occurrence.hash);
            let is_known = self.notified.iter().any(|one| (one.to, one.kind, one.occurrence) == (*to, *kind, hash))
                || self
                    .pending
                    .iter()
                    .any(|one| (one.to, one.kind, one.occurrence.as_ref().map(|one| one.hash)) == (*to, *kind, hash));
            let repeated = self.pending.iter().filter(|one| one.occurrence.is_some()).count();
            if !is_known && (hash.is_none() || repeated < MAX_REPEATED) {
                let at = event.notify_at.unwrap_or(event.at);
                self.pending.push(Pending { to: *to, kind: *kind, at, occurrence });
            }
        }
    }

    /// Drops the pending notices that are of no more use to the order. [`Self::flush_pending`] counts those of which nobody knows.
    pub(super) fn drop_useless(&mut self) {
        let (stage, outcome) = (self.stage, self.outcome);
        self.pending.retain(|one| NoticeRow::of(one.kind).is_none_or(|row| is_useful(row, stage, outcome)));
    }

    /// Ids of the notices that were of use to the order as it was `before`, and are not any more.
    pub(super) fn superseded_since(&self, before: &Self) -> Vec<String> {
        let lost_use = |kind: NoticeKind| {
            NoticeRow::of(kind).is_some_and(|row| {
                is_useful(row, before.stage, before.outcome) && !is_useful(row, self.stage, self.outcome)
            })
        };
        before.notified.iter().filter(|one| lost_use(one.kind)).map(|one| one.id.clone()).collect()
    }

    /// Makes the pending notices whose recipient, and pickup code where they need one, are known.
    ///
    /// # Errors
    /// A notice cannot be encoded. The caller drops this state, so that no notice counts as made that was not.
    pub(super) fn flush_pending(
        &mut self,
        event: &Event,
        now: UnixMs,
        visible: &VisibleFields,
        effects: &mut Effects,
    ) -> Result<(), Reason> {
        for pending in std::mem::take(&mut self.pending) {
            // A kind that only a later version writes, from before a downgrade: there is nothing to make of it.
            let Some(row) = NoticeRow::of(pending.kind) else {
                effects.unknown_kinds += 1;
                continue;
            };
            let is_too_old = pending.at.plus_ms(row.lifetime_ms) <= now;
            if effects.is_history && is_too_old && pending.kind == NoticeKind::NewOrder && self.store.is_none() {
                effects.expired += 1;
                effects.is_new_order_expired = true;
                continue;
            }
            let Some(recipient) = self.recipient(event.shadow, pending.to) else {
                self.pending.push(pending);
                continue;
            };
            if row.needs_pickup_code && self.pickup_code.is_none() {
                self.pending.push(pending);
                continue;
            }
            let Pending { to, kind, at, occurrence } = pending;
            let hash = occurrence.as_ref().map(|occurrence| occurrence.hash);
            let id = match hash {
                None => notices::id(event.shadow, &event.order, kind, &recipient),
                Some(hash) => notices::id_of(event.shadow, &event.order, kind, &recipient, &format!("{hash:016x}")),
            };
            let expires_at = at.plus_ms(row.lifetime_ms);
            if expires_at <= now {
                effects.expired += 1;
                effects.is_new_order_expired |= (to, kind) == (Role::Store, NoticeKind::NewOrder);
            } else {
                let body = notices::body(self, row, to, occurrence.as_ref(), visible);
                let body = body.map_err(|error| notices::not_encodable(&error))?;
                effects.notices.push(NoticeDraft { id: id.clone(), kind, recipient, at, expires_at, body });
            }
            self.mark_notified(Notified { to, kind, id, occurrence: hash });
        }
        Ok(())
    }

    /// Remembers a notice; of repeatable kinds only the newest.
    fn mark_notified(&mut self, notified: Notified) {
        let is_repeated = |one: &Notified| one.occurrence.is_some();
        if is_repeated(&notified)
            && self.notified.iter().filter(|one| is_repeated(one)).count() >= MAX_REPEATED
            && let Some(oldest) = self.notified.iter().position(is_repeated)
        {
            self.notified.remove(oldest);
        }
        self.notified.push(notified);
    }

    /// Id of the notice of this kind that this role got, if it got one.
    pub(in super::super) fn notified_of(&self, to: Role, kind: NoticeKind) -> Option<&str> {
        self.notified.iter().find(|one| (one.to, one.kind) == (to, kind)).map(|one| one.id.as_str())
    }

    /// True when none of these notices would be made any more: each was made, waits, or is of no use to the order. For kinds that an order makes
    /// once.
    pub(super) fn has_notified(&self, notifies: &[(Role, NoticeKind)]) -> bool {
        notifies.iter().all(|(to, kind)| {
            let is_useful = NoticeRow::of(*kind).is_some_and(|row| is_useful(row, self.stage, self.outcome));
            !is_useful || self.notified_of(*to, *kind).is_some() || self.is_pending(*to, *kind)
        })
    }

    /// True while this notice waits for its recipient or the pickup code.
    pub(super) fn is_pending(&self, to: Role, kind: NoticeKind) -> bool {
        self.pending.iter().any(|one| (one.to, one.kind) == (to, kind))
    }

    pub(super) fn recipient(&self, shadow: bool, to: Role) -> Option<Recipient> {
        let id = match to {
            Role::Store => self.store.clone()?,
            Role::Customer => self.customer.clone()?,
        };
        Some(Recipient { shadow, role: to, id })
    }
}
