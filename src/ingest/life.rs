//! The life of an order: one table, one pure function.
//!
//! ```text
//!   Unknown < Created < Paid < Accepted < Ready < PickedUp          Refused, Cancelled, Refunded, Expired end it
//! ```
//!
//! An event moves an order forward along this line or is dropped as duplicate or stale; nothing moves it back. Crossing Paid owes the
//! store its NewOrder exactly once, however it is reached. A notice whose recipient is not known yet stays owed until an event names it.
//! To change what an event does, change [`TABLE`]; to change how long a notice rings, change [`lifetime_ms`].
//!
//! [`Order::apply`] reads no clock and writes nothing: the same events in the same order give the same state, and a replay gives none of
//! its effects again.

use std::collections::BTreeMap;

use orderbell_consumers::Reason;
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::{Event, EventType, Id, NoticeKind, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::notices::{self, Draft, Visible};
use super::tally::{Counting, Facts};

/// How far an order has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Something was heard of it, not how far it is.
    #[default]
    Unknown,
    /// Exists, unpaid.
    Created,
    /// Paid.
    Paid,
    /// The store took it.
    Accepted,
    /// It can be collected.
    Ready,
    /// It was.
    PickedUp,
}

/// How an order ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By the store.
    Refused,
    /// Called off.
    Cancelled,
    /// By giving the money back.
    Refunded,
    /// Never paid.
    Expired,
}

impl End {
    /// The word that clients read.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
            Self::Expired => "expired",
        }
    }
}

/// What an event does to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Forward to this stage, unless it is there or beyond, or over.
    Reach(Stage),
    /// Over, if it has come no further than this stage and is not over.
    End(End, Stage),
    /// A fact that changes nothing on the line.
    Note,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// On this event
    pub on: EventType,
    /// the order moves so,
    pub moves: Move,
    /// and these are told, each once in an order's life.
    pub tells: &'static [(Role, NoticeKind)],
}

use EventType as E;
use NoticeKind as N;
use Role::{Customer, Store};

const fn rule(on: E, moves: Move, tells: &'static [(Role, N)]) -> Rule {
    Rule { on, moves, tells }
}

/// Every event, what it does and whom it tells. A NewOrder of an order that is over is never told; a store that was not told of an order
/// is not told of its end.
pub const TABLE: [Rule; 13] = [
    rule(E::Created, Move::Reach(Stage::Created), &[]),
    rule(E::Paid, Move::Reach(Stage::Paid), &[(Store, N::NewOrder)]),
    rule(
        E::Accepted,
        Move::Reach(Stage::Accepted),
        &[(Store, N::NewOrder), (Store, N::Taken), (Customer, N::PickupCode)],
    ),
    rule(E::Ready, Move::Reach(Stage::Ready), &[(Store, N::NewOrder), (Customer, N::Ready)]),
    rule(E::PickedUp, Move::Reach(Stage::PickedUp), &[]),
    rule(E::Refused, Move::End(End::Refused, Stage::Ready), &[(Store, N::Refused), (Customer, N::Refused)]),
    rule(E::Cancelled, Move::End(End::Cancelled, Stage::Ready), &[(Store, N::Cancelled), (Customer, N::Cancelled)]),
    rule(E::Refunded, Move::End(End::Refunded, Stage::Ready), &[(Store, N::Cancelled), (Customer, N::Cancelled)]),
    rule(E::Expired, Move::End(End::Expired, Stage::Created), &[]),
    rule(E::LatePayment, Move::Note, &[]),
    rule(E::Unattended, Move::Note, &[]),
    rule(E::StoreOnline, Move::Note, &[]),
    rule(E::StoreOffline, Move::Note, &[]),
];

/// How long after its fact a notice rings. Past it, state changes and nobody is woken: a meal of this morning is not cooked tonight.
#[must_use]
pub fn lifetime_ms(kind: NoticeKind) -> i64 {
    const HOUR: i64 = 3_600_000;
    match kind {
        N::NewOrder | N::Taken | N::Declined | N::Unknown => 2 * HOUR,
        N::PickupCode | N::Ready | N::Refused | N::Cancelled => 12 * HOUR,
    }
}

/// Event ids that one order remembers; the line itself makes repeats harmless, the ids make them countable.
const SEEN_MAX: usize = 32;
/// Sources whose versions one order remembers.
const SOURCES_MAX: usize = 8;

/// Events that one order keeps for its story: the line has five stages and an end, and tills that are late say so.
const STORY_MAX: usize = 12;

/// One event of an order's story. Stored as a short array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heard(
    /// The type's name.
    pub(super) String,
    /// When it happened.
    pub(super) UnixMs,
    /// When it was read.
    pub(super) Option<UnixMs>,
    /// When it was decided upon.
    pub(super) UnixMs,
    /// The device that said it.
    pub(super) Option<Id>,
);

/// A notice that waits for its recipient, or for the code that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    to: Role,
    kind: NoticeKind,
    at: UnixMs,
}

/// The state of one order. Stored as JSON: fields may be added, none changes its meaning.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    pub(super) stage: Stage,
    pub(super) end: Option<End>,
    pub(super) store: Option<Id>,
    pub(super) customer: Option<Id>,
    pub(super) device: Option<Id>,
    pub(super) amount: Option<MinorUnits>,
    pub(super) currency: Option<String>,
    pub(super) code: Option<PickupCode>,
    pub(super) reason: Option<String>,
    pub(super) details: Option<Box<RawValue>>,
    pub(super) flags: Vec<Flag>,
    /// Notices that were made (or were too old to be made): none is made twice.
    told: Vec<(Role, NoticeKind)>,
    owed: Vec<Owed>,
    versions: BTreeMap<String, u64>,
    seen: Vec<u64>,
    late_payment: bool,
    /// When it ended early, by event time.
    ended_at: Option<UnixMs>,
    /// When something was last heard of it, by event time.
    last_at: UnixMs,
    /// What moved it, oldest first; for its story.
    pub(super) story: Vec<Heard>,
    /// What counting needs.
    pub(super) facts: Facts,
}

/// What an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It moved the order.
    Moved,
    /// It changed no state; fields that were missing may have been filled, notices that were owed may have gone out.
    Stale,
    /// It was heard before.
    Duplicate,
    /// It is about an order that is not held (any more), and older than orders are held.
    Forgotten,
    /// A payment for an order that is over: somebody must refund it.
    LatePayment,
    /// A fact that changes nothing.
    Noted,
}

impl Verdict {
    /// The word for metric labels.
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
    /// What the event was.
    pub verdict: Verdict,
    /// Notices to append.
    pub notices: Vec<Draft>,
    /// Ids of notices that nobody needs to hear any more.
    pub superseded: Vec<String>,
    /// Notices that were owed and too old to ring.
    pub too_old: u32,
    /// What the world is to be told, and when it happened.
    pub emits: Vec<(EventType, UnixMs)>,
}

/// What [`Order::apply`] goes by, besides the table.
#[derive(Clone, Debug, Default)]
pub struct LifeRules {
    /// How long orders are held after their last event. Milliseconds.
    pub retention_ms: i64,
    /// What each kind of notice may tell.
    pub visible: Visible,
    /// How is counted.
    pub counting: Counting,
}

fn mismatch(code: &'static str) -> Reason {
    Reason { code, message: "an order's store and customer never change".into() }
}

impl Order {
    /// One event happened to an order (`None`: not held).
    ///
    /// # Errors
    /// The event names another store or customer than the order has: a security event. The order is as it was.
    pub fn apply(
        held: Option<&Self>,
        event: &Event,
        now: UnixMs,
        rules: &LifeRules,
    ) -> Result<(Option<Self>, Effects), Reason> {
        let nothing =
            |verdict| Effects { verdict, notices: Vec::new(), superseded: Vec::new(), too_old: 0, emits: Vec::new() };
        if event.kind.is_about_a_store() {
            return Ok((None, nothing(Verdict::Noted)));
        }
        if held.is_none() && event.at.plus_ms(rules.retention_ms) < now {
            return Ok((None, nothing(Verdict::Forgotten)));
        }
        let mut order = held.cloned().unwrap_or_default();
        if order.store.is_some() && event.store.is_some() && order.store != event.store {
            return Err(mismatch("store-mismatch"));
        }
        if order.customer.is_some() && event.customer.is_some() && order.customer != event.customer {
            return Err(mismatch("customer-mismatch"));
        }
        let hash = xxhash_rust::xxh3::xxh3_64(format!("{}\0{}", event.source, event.id).as_bytes());
        if !order.remember(event, hash) {
            return Ok((Some(order), nothing(Verdict::Duplicate)));
        }
        let behind = order.is_behind(event);
        order.fill(event);
        // A version that was overtaken ends nothing and tells no news; what it moves forward is moved all the same: an order that is paid rings.
        let ends = TABLE.iter().any(|rule| rule.on == event.kind && matches!(rule.moves, Move::End(..)));
        // For the numbers a fact is a fact, whichever was read first.
        order.facts.hear(event, hash, &rules.counting.currency);
        let mut effects = nothing(if behind && ends { Verdict::Stale } else { order.advance(event) });
        order.tell_of(event, now, effects.verdict);
        if effects.verdict == Verdict::LatePayment {
            effects.emits.push((E::LatePayment, event.at));
        }
        if effects.verdict == Verdict::Stale && !behind {
            order.decline(event, now, &mut effects);
        }
        let told_before = order.told.clone();
        order.discharge(event, now, &rules.visible, &mut effects);
        if effects.verdict == Verdict::Moved && order.is_over() {
            effects.superseded =
                told_before.iter().filter_map(|(to, kind)| order.notice_id(event, *to, *kind)).collect();
        }
        Ok((Some(order), effects))
    }

    /// When this order may be forgotten.
    #[must_use]
    pub fn forget_at(&self, retention_ms: i64) -> UnixMs {
        self.last_at.plus_ms(retention_ms)
    }

    /// Nothing more will be cooked for it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.end.is_some() || self.stage == Stage::PickedUp
    }

    /// True while this role has something to do or to wait for. A store has nothing to do with what is not paid.
    #[must_use]
    pub fn is_open_for(&self, role: Role) -> bool {
        let begun = match role {
            Store => self.stage >= Stage::Paid,
            Customer => true,
        };
        begun && !self.is_over()
    }

    /// Those for whom it is open.
    #[must_use]
    pub fn open_for(&self, shadow: bool) -> Vec<Recipient> {
        let open = [Store, Customer].into_iter().filter(|role| self.is_open_for(*role));
        open.filter_map(|role| self.recipient(shadow, role)).collect()
    }

    /// When something was last heard of it, by event time.
    #[must_use]
    pub fn last_at(&self) -> UnixMs {
        self.last_at
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What goes out with an event about it: enough to find it and to give the money back, nothing about people.
    #[must_use]
    pub fn told_to_the_world(&self) -> serde_json::Map<String, serde_json::Value> {
        let members = [
            ("store", self.store.as_ref().map(|store| store.as_str().into())),
            ("amount", self.amount.map(|amount| amount.0.into())),
            ("currency", self.currency.as_deref().map(Into::into)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The store that makes it, once an event named it.
    #[must_use]
    pub fn store(&self) -> Option<&Id> {
        self.store.as_ref()
    }

    /// The customer who ordered it, once an event named one.
    #[must_use]
    pub fn customer(&self) -> Option<&Id> {
        self.customer.as_ref()
    }

    /// How it ended early, if it did.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// False when this event was heard before.
    fn remember(&mut self, event: &Event, hash: u64) -> bool {
        if self.seen.contains(&hash) {
            return false;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.remove(0);
        }
        self.seen.push(hash);
        self.last_at = self.last_at.max(event.at);
        true
    }

    /// True when the event's own source has told a newer version already.
    fn is_behind(&mut self, event: &Event) -> bool {
        let Some(version) = event.version else { return false };
        if let Some(newest) = self.versions.get_mut(&event.source) {
            let behind = version <= *newest;
            *newest = version.max(*newest);
            return behind;
        }
        if self.versions.len() < SOURCES_MAX {
            self.versions.insert(event.source.clone(), version);
        }
        false
    }

    /// What is missing is filled from any event, in any order.
    fn fill(&mut self, event: &Event) {
        fn keep<T: Clone>(mine: &mut Option<T>, theirs: Option<&T>) {
            if mine.is_none() {
                *mine = theirs.cloned();
            }
        }
        keep(&mut self.store, event.store.as_ref());
        keep(&mut self.customer, event.customer.as_ref());
        keep(&mut self.amount, event.amount.as_ref());
        keep(&mut self.currency, event.currency.as_ref());
        // Who accepts what is over gives no code that counts.
        if !self.is_over() {
            keep(&mut self.code, event.code.as_ref());
            keep(&mut self.device, event.device.as_ref().filter(|_| event.kind == E::Accepted));
        }
        keep(&mut self.reason, event.reason.as_ref());
        keep(&mut self.details, event.details.as_ref());
        for flag in &event.flags {
            if !self.flags.contains(flag) {
                self.flags.push(*flag);
            }
        }
    }

    /// Paid after it had ended, by the times of the facts: two topics have no order between them, and one that is read again may bring the
    /// end first. Where the money went back, nothing is due.
    fn is_late_payment(&self, event: &Event) -> bool {
        let after = self.ended_at.is_some_and(|ended_at| event.at > ended_at);
        let unpaid = self.end.is_some_and(|end| end != End::Refunded) && self.stage < Stage::Paid;
        after && unpaid && !self.late_payment
    }

    /// What moved it, and what somebody here said, belongs to its story.
    fn tell_of(&mut self, event: &Event, now: UnixMs, verdict: Verdict) {
        // Whose device it is: a store learns nothing of a customer's.
        let device = event.device.clone().filter(|_| event.store.is_some());
        let counts = event.device.is_some() || matches!(verdict, Verdict::Moved | Verdict::LatePayment);
        if counts && self.story.len() < STORY_MAX {
            let name = event.kind.name().to_owned();
            self.story.push(Heard(name, event.at, event.read_at, now, device));
        }
    }

    /// Moves along the line and notes who is owed what.
    fn advance(&mut self, event: &Event) -> Verdict {
        let Some(rule) = TABLE.iter().find(|rule| rule.on == event.kind) else { return Verdict::Noted };
        match rule.moves {
            Move::Note => return Verdict::Noted,
            Move::Reach(stage) if self.end.is_none() && self.stage < stage => self.stage = stage,
            Move::Reach(Stage::Paid) if self.is_late_payment(event) => {
                self.late_payment = true;
                return Verdict::LatePayment;
            }
            Move::End(end, up_to) if self.end.is_none() && self.stage <= up_to => {
                (self.end, self.ended_at) = (Some(end), Some(event.at));
            }
            Move::Reach(stage) if self.end.is_none() && self.stage > stage && !self.is_over() => {
                // It was passed over: what it tells is still to be told. A customer whose order was ready before it was accepted needs its code.
                self.owe(rule, event.at);
                return Verdict::Stale;
            }
            _ => return Verdict::Stale,
        }
        if self.is_over() {
            self.owed.clear();
        }
        self.owe(rule, event.at);
        Verdict::Moved
    }

    /// Notes who is owed what by a rule, each once in an order's life.
    fn owe(&mut self, rule: &Rule, at: UnixMs) {
        let heard = self.told.contains(&(Store, N::NewOrder));
        for (to, kind) in rule.tells {
            let of_no_use = match (to, kind) {
                (_, N::NewOrder) => self.is_over(),
                (Store, N::Refused | N::Cancelled) => !heard,
                _ => false,
            };
            if !of_no_use
                && !self.told.contains(&(*to, *kind))
                && !self.owed.iter().any(|owed| (owed.to, owed.kind) == (*to, *kind))
            {
                self.owed.push(Owed { to: *to, kind: *kind, at });
            }
        }
    }

    /// A device spoke too late: the order is over in another way than it said. Whoever only said what is so already hears nothing; the
    /// notice that told it is in its mailbox.
    fn decline(&self, event: &Event, now: UnixMs, effects: &mut Effects) {
        if event.device.is_none() {
            return;
        }
        let over = self.end.map(End::word).or_else(|| self.is_over().then_some("picked_up"));
        let says = TABLE.iter().find(|rule| rule.on == event.kind).map(|rule| rule.moves);
        let too_late = match says {
            Some(Move::Reach(_)) => self.end.is_some(),
            Some(Move::End(end, _)) => self.end != Some(end) && self.is_over(),
            Some(Move::Note) | None => false,
        };
        let to = if event.store.is_some() { Store } else { Customer };
        let (Some(why), Some(recipient)) = (over.filter(|_| too_late), self.recipient(event.shadow, to)) else {
            return;
        };
        let expires_at = event.at.plus_ms(lifetime_ms(N::Declined));
        if expires_at <= now {
            effects.too_old += 1;
            return;
        }
        let occurrence = format!("{}\0{}", event.source, event.id);
        let id = notices::id_of(event.shadow, &event.order, N::Declined, &recipient, &occurrence);
        let body = notices::declined(event, why);
        effects.notices.push(Draft { id, kind: N::Declined, recipient, at: event.at, expires_at, body });
    }

    /// Makes the notices that are owed and can be made.
    fn discharge(&mut self, event: &Event, now: UnixMs, visible: &Visible, effects: &mut Effects) {
        for owed in std::mem::take(&mut self.owed) {
            let Some(recipient) = self.recipient(event.shadow, owed.to) else {
                self.owed.push(owed);
                continue;
            };
            if owed.kind == N::PickupCode && self.code.is_none() {
                self.owed.push(owed);
                continue;
            }
            self.told.push((owed.to, owed.kind));
            let expires_at = owed.at.plus_ms(lifetime_ms(owed.kind));
            if expires_at <= now {
                effects.too_old += 1;
                continue;
            }
            let cancels = self.notice_id(event, Store, N::NewOrder).filter(|_| owed.to == Store);
            let body = notices::body(self, owed.to, owed.kind, cancels, visible);
            let id = notices::id(event.shadow, &event.order, owed.kind, &recipient);
            effects.notices.push(Draft { id, kind: owed.kind, recipient, at: owed.at, expires_at, body });
        }
    }

    fn recipient(&self, shadow: bool, to: Role) -> Option<Recipient> {
        let id = match to {
            Store => self.store.clone()?,
            Customer => self.customer.clone()?,
        };
        Some(Recipient { shadow, role: to, id })
    }

    fn notice_id(&self, event: &Event, to: Role, kind: NoticeKind) -> Option<String> {
        let recipient = self.recipient(event.shadow, to)?;
        Some(notices::id(event.shadow, &event.order, kind, &recipient))
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
