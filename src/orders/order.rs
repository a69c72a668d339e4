//! The state machine of an order: one table of transitions, one pure function.
//!
//! ```text
//!   Unknown < Created < Paid < Accepted < Ready < PickedUp          Refused, Cancelled, Refunded and Expired end an order early
//! ```
//!
//! An event moves an order forward through these stages, or is dropped as duplicate or stale; nothing moves it back. An order that reaches
//! Paid by any event notifies the store by NewOrder exactly once. A notice whose recipient is unknown stays pending until an event names it.
//! To change what an event does, change [`TRANSITIONS`]; to change what a kind of notice is, change its row in [`super::notice_kinds`].
//!
//! [`Order::apply`] reads no clock and writes nothing: the same events in the same order give the same state, and a replay repeats none of
//! its effects.

mod bins;
mod notify;
mod payment;
mod read_before;
mod repeats;
mod unannounced;

use std::collections::BTreeMap;

use orderbell_consumers::Reason;
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode, RowChange};
use orderbell_protocol::frame::{OrderEnd, OrderOutcome, OrderStage};
use orderbell_protocol::{Event, EventType, Id, NoticeKind, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::counting::{CountingRules, Facts};
use super::notice_kinds::has_audience;
use super::notices::{NoticeDraft, VisibleFields};
use super::sha256;
use bins::BinnedRecords;
pub use bins::{LogNumber, forgotten, too_old};
use notify::Pending;
pub(super) use notify::{Notified, Occurrence};
use payment::Payment;
use read_before::Recalled;
pub use repeats::Said;
pub use unannounced::Unannounced;

/// What an event does to an order's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Advances the order to this stage, unless it has reached it or has ended.
    AdvanceTo(OrderStage),
    /// Ends the order early, if it has come no further than this stage and has not ended.
    Close(OrderOutcome, OrderStage),
    /// Changes neither stage nor outcome.
    None,
}

/// One row of [`TRANSITIONS`].
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// The event type that the row is about.
    pub on: EventType,
    /// What such an event does to the order's stage.
    pub effect: Effect,
    /// The notices that follow, also where the effect is none.
    pub notifies: &'static [(Role, NoticeKind)],
}

use EventType as E;
use Role::{Customer, Store};

const fn rule(on: E, effect: Effect, notifies: &'static [(Role, NoticeKind)]) -> Transition {
    Transition { on, effect, notifies }
}

/// The transition of every event type. An order that has ended gets no NewOrder; a store to which an order was never announced is not notified of
/// its end. One that was too old for its NewOrder counts as announced: it stands among the open orders, and a till that shows it takes it off.
pub const TRANSITIONS: [Transition; EventType::ALL.len()] = [
    rule(E::Created, Effect::AdvanceTo(OrderStage::Created), &[]),
    rule(E::Paid, Effect::AdvanceTo(OrderStage::Paid), &[(Store, NoticeKind::NewOrder)]),
    rule(
        E::Accepted,
        Effect::AdvanceTo(OrderStage::Accepted),
        &[(Store, NoticeKind::NewOrder), (Store, NoticeKind::OrderAccepted), (Customer, NoticeKind::PickupCode)],
    ),
    rule(
        E::Ready,
        Effect::AdvanceTo(OrderStage::Ready),
        &[(Store, NoticeKind::NewOrder), (Customer, NoticeKind::Ready)],
    ),
    rule(E::PickedUp, Effect::AdvanceTo(OrderStage::PickedUp), &[]),
    rule(
        E::Refused,
        Effect::Close(OrderOutcome::Refused, OrderStage::Ready),
        &[(Store, NoticeKind::OrderRefused), (Customer, NoticeKind::OrderRefused)],
    ),
    rule(
        E::Cancelled,
        Effect::Close(OrderOutcome::Cancelled, OrderStage::Ready),
        &[(Store, NoticeKind::Cancelled), (Customer, NoticeKind::Cancelled)],
    ),
    rule(
        E::Refunded,
        Effect::Close(OrderOutcome::Refunded, OrderStage::Ready),
        &[(Store, NoticeKind::Cancelled), (Customer, NoticeKind::Cancelled)],
    ),
    rule(E::Expired, Effect::Close(OrderOutcome::Expired, OrderStage::Created), &[]),
    rule(E::LatePayment, Effect::None, &[]),
    rule(E::Unattended, Effect::None, &[]),
    rule(E::StoreOnline, Effect::None, &[]),
    rule(E::StoreOffline, Effect::None, &[]),
];

// Each event type has its transition; as many rows as types: so it has no second one. A transition can only notify a role that the kind's row
// names: anything else would notify nobody.
const _: () = {
    let mut known = 0;
    while known < EventType::ALL.len() {
        let mut row = 0;
        while row < TRANSITIONS.len() && TRANSITIONS[row].on as u8 != EventType::ALL[known] as u8 {
            row += 1;
        }
        assert!(row < TRANSITIONS.len(), "an event type has no transition");
        known += 1;
    }
    let mut row = 0;
    while row < TRANSITIONS.len() {
        let notifies = TRANSITIONS[row].notifies;
        let mut at = 0;
        while at < notifies.len() {
            assert!(
                has_audience(notifies[at].0, notifies[at].1),
                "a transition notifies a role that the kind's row does not name"
            );
            at += 1;
        }
        row += 1;
    }
};

/// Sources per order whose newest version is remembered.
const MAX_SOURCES: usize = 8;
/// Events kept in an order's history: five stages, an end, and rejected events of several tills.
const MAX_HISTORY: usize = 12;

/// One event in an order's history, for its timeline. Stored as a short array, because every order has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry(
    /// Name of the event type.
    pub String,
    /// When the event occurred.
    pub UnixMs,
    /// When its record was consumed, if it came from a log.
    pub Option<UnixMs>,
    /// When it was applied.
    pub UnixMs,
    /// The store's device that sent it.
    pub Option<Id>,
);

/// The state of one order. Stored as JSON: fields may be added, but none may change its meaning.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    pub(super) stage: OrderStage,
    pub(super) outcome: Option<OrderOutcome>,
    pub(super) store: Option<Id>,
    pub(super) customer: Option<Id>,
    pub(super) device: Option<Id>,
    pub(super) amount: Option<MinorUnits>,
    pub(super) currency: Option<String>,
    pub(super) pickup_code: Option<PickupCode>,
    pub(super) reason: Option<String>,
    pub(super) details: Option<Box<RawValue>>,
    pub(super) flags: Vec<Flag>,
    /// Notices that were made, or had expired before they could be made. None is made twice.
    pub(super) notified: Vec<Notified>,
    pending: Vec<Pending>,
    versions: BTreeMap<String, u64>,
    seen: Vec<u64>,
    /// Fingerprints of what the last of these events stated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stated: Vec<u32>,
    late_payment: bool,
    /// Event time of the early end.
    ended_at: Option<UnixMs>,
    /// Event time of the pickup.
    picked_up_at: Option<UnixMs>,
    /// What the first paid event stated.
    payment: Option<Payment>,
    /// When the latest event happened, from which the state retention is counted.
    last_event_at: UnixMs,
    /// The events that moved the order, or came from a device, in the order they were read.
    history: Vec<HistoryEntry>,
    /// The records that the balance counted.
    #[serde(skip_serializing_if = "BinnedRecords::is_empty")]
    binned: BinnedRecords,
    /// The facts from which the order is counted.
    pub(super) facts: Facts,
}

/// What applying an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApplyResult {
    /// The order advanced or ended.
    Moved,
    /// Stage and outcome did not change. Missing fields may have been filled, and pending notices made.
    Stale,
    /// The event was applied before.
    Duplicate,
    /// The order is unknown, and the event is older than the state retention: it was dropped.
    Forgotten,
    /// A payment for an order that had ended: somebody must refund it.
    LatePayment,
    /// An event of a type that never changes an order's stage.
    Noted,
}

impl ApplyResult {
    /// The word for the metric label `result`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::Forgotten => "forgotten",
            Self::LatePayment => "late_payment",
            Self::Noted => "noted",
        }
    }
}

/// What follows from an event, besides the new state.
#[derive(Debug)]
pub struct Effects {
    /// What applying the event did.
    pub result: ApplyResult,
    /// Notices to append to mailboxes.
    pub notices: Vec<NoticeDraft>,
    /// Ids of notices that need no delivery any more, because the order ended.
    pub superseded: Vec<String>,
    /// Number of notices that had expired before they could be made.
    pub expired: u32,
    /// The NewOrder is among them.
    pub is_new_order_expired: bool,
    /// Number of pending notices of kinds that only a later version makes: they are given up.
    pub unknown_kinds: u32,
    /// The row of a snapshot says that the order is paid, and has been for an unknown time: nobody waits for a notice that is too late.
    pub is_history: bool,
    /// Events for Orderbell to publish, with their event time.
    pub derived: Vec<(EventType, UnixMs)>,
    /// The event may be about another order, of which no store is notified.
    pub further_payment: Option<Unannounced>,
    /// The event names another customer than the order has: a security event.
    pub is_other_customer: bool,
}

/// The configured part of the order policy.
#[derive(Clone, Debug, Default)]
pub struct OrderPolicy {
    /// How long an order's state is kept after its last event. Milliseconds.
    pub retention_ms: i64,
    /// The fields of an order that each kind of notice shows.
    pub visible_fields: VisibleFields,
    /// The chain's calendar and currency.
    pub counting: CountingRules,
}

fn mismatch(code: &'static str) -> Reason {
    Reason { code, message: "the event names another store or customer than its order has".into() }
}

/// When an event happened, as far as that is known: where its clock is off, it was recorded at once.
fn happened_at(event: &Event) -> UnixMs {
    event.notify_at.unwrap_or(event.at)
}

/// True for what a customer's phone may send: it speaks for no other customer.
fn is_from_customer(event: &Event) -> bool {
    event.kind == E::PickedUp && event.store.is_none() && event.device.is_some()
}

impl Order {
    /// Applies one event to an order's state (`None`: unknown) and returns the next state and the effects.
    ///
    /// # Errors
    /// The event names another store than the one that was notified, or a customer's phone another customer than the order has, which is a
    /// security event; or it contradicts an event with its source, id and type; or a notice cannot be encoded. The state stays as it was.
    pub fn apply(
        known: Option<&Self>,
        event: &Event,
        now: UnixMs,
        policy: &OrderPolicy,
    ) -> Result<(Option<Self>, Effects), Reason> {
        let was_paid = known.is_some_and(|order| order.stage >= OrderStage::Paid);
        let nothing = |result| Effects {
            result,
            notices: Vec::new(),
            superseded: Vec::new(),
            expired: 0,
            is_new_order_expired: false,
            unknown_kinds: 0,
            is_history: event.row == Some(RowChange::Snapshot) && !was_paid,
            derived: Vec::new(),
            further_payment: None,
            is_other_customer: false,
        };
        if event.kind.is_about_a_store() {
            return Ok((None, nothing(ApplyResult::Noted)));
        }
        if known.is_none() && happened_at(event).plus_ms(policy.retention_ms) < now {
            return Ok((None, nothing(ApplyResult::Forgotten)));
        }
        let mut order = known.cloned().unwrap_or_default();
        // First of all: an event that comes again after the order was handed over names its former store.
        let hash = match order.recall(event) {
            Recalled::New(hash) | Recalled::Completes(hash) => hash,
            Recalled::Again(hash) => {
                let further_payment = order.repeated_payment(event, hash);
                return Ok((Some(order), Effects { further_payment, ..nothing(ApplyResult::Duplicate) }));
            }
            Recalled::Other(hash) => order.check_other(event).map(|()| hash)?,
        };
        order.remember(event, hash);
        if order.store.is_some() && event.store.is_some() && order.store != event.store {
            order.hand_over(event)?;
        }
        let is_other_customer =
            order.customer.is_some() && event.customer.is_some() && order.customer != event.customer;
        if is_other_customer && is_from_customer(event) {
            return Err(mismatch("customer-mismatch"));
        }
        let further_payment = order.further_payment(event, hash);
        let is_outdated = order.is_outdated(event);
        order.fill(event);
        if is_other_customer {
            order.add_flag(Flag::Customer);
        }
        // An outdated version does not end an order. It still advances one: a paid order must be announced.
        let closes = TRANSITIONS.iter().any(|rule| rule.on == event.kind && matches!(rule.effect, Effect::Close(..)));
        // Counting is independent of versions and of the reading order.
        order.facts.record(event, refund_hash(event), &policy.counting.currency);
        let mut effects = nothing(if is_outdated && closes { ApplyResult::Stale } else { order.advance(event) });
        (effects.is_other_customer, effects.further_payment) = (is_other_customer, further_payment);
        order.record_history(event, now, effects.result);
        if effects.result == ApplyResult::LatePayment {
            effects.derived.push((E::LatePayment, event.at));
            // A row that stays paid was paid before its order ended.
            let is_payment = !event.row.is_some_and(RowChange::is_old);
            effects.further_payment = further_payment.or(is_payment.then_some(Unannounced::LatePayment));
        }
        if effects.result == ApplyResult::Stale && !is_outdated {
            order.reject_late_event(event);
        }
        order.flush_pending(event, now, &policy.visible_fields, &mut effects)?;
        if let Some(known) = known {
            effects.superseded = order.superseded_since(known);
        }
        Ok((Some(order), effects))
    }

    /// When the order's state may be expunged.
    #[must_use]
    pub fn expires_at(&self, retention_ms: i64) -> UnixMs {
        self.last_event_at.plus_ms(retention_ms)
    }

    /// True when the order was collected or ended early: the store has nothing more to do for it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.outcome.is_some() || self.stage == OrderStage::PickedUp
    }

    /// True while the order concerns this role: a store from its payment on, a customer from the beginning, both until it is over.
    #[must_use]
    pub fn is_active_for(&self, role: Role) -> bool {
        let has_begun = match role {
            Store => self.stage >= OrderStage::Paid,
            Customer => true,
        };
        has_begun && !self.is_over()
    }

    /// The recipients that have it among their active orders.
    #[must_use]
    pub fn active_for(&self, shadow: bool) -> Vec<Recipient> {
        let roles = [Store, Customer].into_iter().filter(|role| self.is_active_for(*role));
        roles.filter_map(|role| self.recipient(shadow, role)).collect()
    }

    /// The latest event time.
    #[must_use]
    pub fn last_event_at(&self) -> UnixMs {
        self.last_event_at
    }

    /// The furthest stage reached.
    #[must_use]
    pub fn stage(&self) -> OrderStage {
        self.stage
    }

    /// The data of an event that Orderbell publishes about the order: enough to find it and to refund it, nothing about people.
    #[must_use]
    pub fn published_fields(&self) -> serde_json::Map<String, serde_json::Value> {
        let members = [
            ("store", self.store.as_ref().map(|store| store.as_str().into())),
            ("amount", self.amount.map(|amount| amount.0.into())),
            ("currency", self.currency.as_deref().map(Into::into)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The order's store, once an event named it.
    #[must_use]
    pub fn store(&self) -> Option<&Id> {
        self.store.as_ref()
    }

    /// The order's customer, once an event named one.
    #[must_use]
    pub fn customer(&self) -> Option<&Id> {
        self.customer.as_ref()
    }

    /// How the order ended early, if it did.
    #[must_use]
    pub fn outcome(&self) -> Option<OrderOutcome> {
        self.outcome
    }

    /// True when this recipient is the order's store or customer.
    #[must_use]
    pub fn belongs_to(&self, who: &Recipient) -> bool {
        let owner = match who.role {
            Store => self.store(),
            Customer => self.customer(),
        };
        owner == Some(&who.id)
    }

    /// True when an event of the same source with a newer version was applied before. Many producers number their schema in `version`: equal
    /// versions say nothing.
    fn is_outdated(&mut self, event: &Event) -> bool {
        let Some(version) = event.version else { return false };
        if let Some(newest) = self.versions.get_mut(&event.source) {
            let is_outdated = version < *newest;
            *newest = version.max(*newest);
            return is_outdated;
        }
        if self.versions.len() < MAX_SOURCES {
            self.versions.insert(event.source.clone(), version);
        }
        false
    }

    /// Fills missing fields from an event, whatever its age: the first value wins.
    fn fill(&mut self, event: &Event) {
        fn keep<T: Clone>(known: &mut Option<T>, new: Option<&T>) {
            if known.is_none() {
                *known = new.cloned();
            }
        }
        keep(&mut self.store, event.store.as_ref());
        keep(&mut self.customer, event.customer.as_ref());
        keep(&mut self.amount, event.amount.as_ref());
        keep(&mut self.currency, event.currency.as_ref());
        // An acceptance after the end gives no valid pickup code.
        if !self.is_over() {
            keep(&mut self.pickup_code, event.pickup_code.as_ref());
            keep(&mut self.device, event.device.as_ref().filter(|_| event.kind == E::Accepted));
        }
        keep(&mut self.reason, event.reason.as_ref());
        keep(&mut self.details, event.details.as_ref());
        event.flags.iter().for_each(|flag| self.add_flag(*flag));
    }

    fn add_flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// Gives the order to the store that the event names: an order may be handed over until its store was notified of it.
    ///
    /// # Errors
    /// The store was notified, or a till says so, which speaks for no other store.
    fn hand_over(&mut self, event: &Event) -> Result<(), Reason> {
        if self.is_of_another_store_than(event) || event.device.is_some() {
            return Err(mismatch("store-mismatch"));
        }
        // An older event says where the order was before; but the one that notifies the store decides which: clocks of two systems differ.
        let notifies = TRANSITIONS
            .iter()
            .find(|row| row.on == event.kind)
            .is_some_and(|row| row.notifies.contains(&(Store, NoticeKind::NewOrder)));
        if notifies || happened_at(event) >= self.last_event_at {
            self.store = event.store.clone();
        }
        Ok(())
    }

    /// True for a payment after the order's early end, by event time: two topics have no order between them, and after a replay the end may be
    /// read first. Only an unpaid order expires: whatever payment is read after that was not known to whoever let the order expire, and no store
    /// is notified of it. A refunded order needs no second refund.
    fn is_late_payment(&self, event: &Event) -> bool {
        let has_expired = self.outcome == Some(OrderOutcome::Expired);
        let is_after_end = has_expired || self.ended_at.is_some_and(|ended_at| event.at > ended_at);
        let is_unpaid =
            self.outcome.is_some_and(|outcome| outcome != OrderOutcome::Refunded) && self.stage < OrderStage::Paid;
        is_after_end && is_unpaid && !self.late_payment
    }

    /// The events that moved the order or came from a device, in the order in which they were applied.
    #[must_use]
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }

    /// Adds the event to the history if it moved the order or came from a device.
    fn record_history(&mut self, event: &Event, now: UnixMs, result: ApplyResult) {
        // Only a store's device: the store must not learn of the customer's.
        let device = event.device.clone().filter(|_| event.store.is_some());
        let is_relevant = event.device.is_some() || matches!(result, ApplyResult::Moved | ApplyResult::LatePayment);
        if is_relevant && self.history.len() < MAX_HISTORY {
            let name = event.kind.name().to_owned();
            self.history.push(HistoryEntry(name, event.at, event.read_at, now, device));
        }
    }

    /// Advances or ends the order and enqueues the notices that follow.
    fn advance(&mut self, event: &Event) -> ApplyResult {
        let transition = TRANSITIONS.iter().find(|transition| transition.on == event.kind);
        transition.map_or(ApplyResult::Noted, |transition| self.follow(transition, event))
    }

    fn follow(&mut self, transition: &Transition, event: &Event) -> ApplyResult {
        let result = match transition.effect {
            Effect::None => ApplyResult::Noted,
            Effect::AdvanceTo(stage) if self.outcome.is_none() && self.stage < stage => {
                self.stage = stage;
                self.picked_up_at = (stage == OrderStage::PickedUp).then_some(event.at);
                ApplyResult::Moved
            }
            Effect::AdvanceTo(OrderStage::Paid) if self.is_late_payment(event) => {
                self.late_payment = true;
                return ApplyResult::LatePayment;
            }
            Effect::Close(outcome, up_to) if self.outcome.is_none() && self.stage <= up_to => {
                (self.outcome, self.ended_at) = (Some(outcome), Some(event.at));
                ApplyResult::Moved
            }
            // The stage was skipped, but its notices are still due: the customer of an order that was ready before it was accepted needs the
            // pickup code.
            Effect::AdvanceTo(stage) if self.stage > stage && !self.is_over() => ApplyResult::Stale,
            _ => return ApplyResult::Stale,
        };
        self.drop_useless();
        self.enqueue(transition.notifies, event);
        result
    }

    /// How the order ended: `None` while it is active.
    pub(super) fn ended_as(&self) -> Option<OrderEnd> {
        self.outcome.map(OrderEnd::from).or_else(|| self.is_over().then_some(OrderEnd::PickedUp))
    }

    /// Notifies a device whose event came after the order had ended in another way. An event that repeats what is already so needs no answer:
    /// the notice about it is in the device's mailbox.
    fn reject_late_event(&mut self, event: &Event) {
        let effect =
            TRANSITIONS.iter().find(|transition| transition.on == event.kind).map(|transition| transition.effect);
        let is_too_late = match effect {
            Some(Effect::AdvanceTo(_)) => self.outcome.is_some(),
            Some(Effect::Close(outcome, _)) => self.outcome != Some(outcome) && self.is_over(),
            Some(Effect::None) | None => false,
        };
        if is_too_late && event.device.is_some() {
            let to = if event.store.is_some() { Store } else { Customer };
            self.enqueue(&[(to, NoticeKind::EventRejected)], event);
        }
    }
}

/// Identifies an event among those of its order. The type is part of it: order systems give all events of an order the order's number as id.
fn event_hash(event: &Event) -> u64 {
    sha256::hash_64(&[event.source.as_bytes(), event.id.as_bytes(), event.kind.name().as_bytes()])
}

/// Identifies a refund among the facts of its order. Not [`event_hash`]: stored facts have the hash without the type, and a refund that comes
/// again must not be counted again.
fn refund_hash(event: &Event) -> u64 {
    sha256::hash_64(&[event.source.as_bytes(), event.id.as_bytes()])
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
