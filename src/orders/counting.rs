//! The counting rules: what an order adds to the counters, as a pure function of the facts known about it.
//!
//! ```text
//!   facts (earliest of each kind, every refund)  --entries-->  (time, counter, amount)       change = entries(after) - entries(before)
//! ```
//!
//! So a sum is the sum of its orders' entries, whatever arrived twice, late or in another order: a replay changes no fact and adds nothing,
//! and two topics read in another order give the same numbers. Facts are ordered by event time, because nothing else is the same in every
//! reading of the log; of two facts with the same time, the one of the later stage counts as later.
//!
//! Refused: counting the results of `apply` as they occur. Reading the log again in another order would give other numbers, and nothing
//! could be reconciled.

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use orderbell_protocol::event::MinorUnits;
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::{Deserialize, Serialize};

use super::order::Order;
use orderbell_protocol::counters::CounterDelta;

/// The earliest refunds of one order, which are counted. An order has a handful of items; more refunds come from a producer in a loop.
const MAX_REFUNDS: usize = 16;
/// Largest plausible amount of one order, in any currency's smallest unit. A larger one is garbage that would dominate every sum.
const MAX_AMOUNT: i64 = 1_000_000_000_000;
const MINUTE_MS: i64 = 60_000;

/// A counter of orders or money. The ledger stores these numbers, so none may change its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Counter {
    /// Orders created, or first known in a later stage.
    Created = 0,
    /// Orders paid, or first known in a later stage.
    Paid = 1,
    /// Orders that a store accepted, or that reached a later stage without an acceptance.
    Accepted = 2,
    /// Orders that ended because the store refused them.
    Refused = 3,
    /// Orders ready for collection, or collected without having been reported ready.
    Ready = 4,
    /// Orders collected.
    PickedUp = 5,
    /// Orders that ended by a cancellation.
    Cancelled = 6,
    /// Orders with a refund, counted at the first one.
    Refunded = 7,
    /// Sum of the paid orders' amounts, in the currency's smallest unit.
    PaidAmount = 8,
    /// Sum of all refunds, in the currency's smallest unit.
    RefundedAmount = 9,
    /// Number of amounts in another currency than the chain's, which are not summed.
    OtherCurrency = 10,
}

impl Counter {
    /// Every counter with the name that reports and differences show.
    pub const NAMES: [(Self, &'static str); 11] = [
        (Self::Created, "created"),
        (Self::Paid, "paid"),
        (Self::Accepted, "accepted"),
        (Self::Refused, "refused"),
        (Self::Ready, "ready"),
        (Self::PickedUp, "picked_up"),
        (Self::Cancelled, "cancelled"),
        (Self::Refunded, "refunded"),
        (Self::PaidAmount, "paid_amount"),
        (Self::RefundedAmount, "refunded_amount"),
        (Self::OtherCurrency, "other_currency"),
    ];
}

/// The stages of an order, first to last: the event that reaches each, and its counter.
pub const STAGE_COUNTERS: [(EventType, Counter); 5] = [
    (EventType::Created, Counter::Created),
    (EventType::Paid, Counter::Paid),
    (EventType::Accepted, Counter::Accepted),
    (EventType::Ready, Counter::Ready),
    (EventType::PickedUp, Counter::PickedUp),
];

/// Counters from this number on are a histogram of the time between stages: [`DURATION_BUCKETS`] of them for each step.
pub const FIRST_DURATION_COUNTER: u16 = 32;
/// Buckets of one step's histogram: four per doubling, from one second to about eighteen hours.
pub const DURATION_BUCKETS: u16 = 64;

/// Shorter than a second counts as one, longer than the last bucket as the last.
fn duration_bucket(duration_ms: i64) -> u16 {
    let seconds = (duration_ms as f64 / 1000.0).max(1.0);
    ((seconds.log2() * 4.0) as u16).min(DURATION_BUCKETS - 1)
}

/// The (geometric) middle of a bucket, in milliseconds.
#[must_use]
pub fn duration_bucket_ms(bucket: u16) -> f64 {
    1000.0 * ((f64::from(bucket) + 0.5) / 4.0).exp2()
}

/// The chain's calendar and currency, by which days are cut and amounts summed.
#[derive(Clone, Debug)]
pub struct CountingRules {
    /// A day begins at midnight in this zone.
    pub zone: TimeZone,
    /// ISO 4217 code of the currency that is summed. An amount without a currency is assumed to be in this one.
    pub currency: String,
}

impl Default for CountingRules {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, currency: String::from("CNY") }
    }
}

impl CountingRules {
    /// The day of a moment, as days since 1970-01-01 in the chain's time zone.
    #[must_use]
    pub fn day(&self, at: UnixMs) -> u32 {
        // A damaged row may name any time: one that no calendar has is the nearest that it has, one before 1970 the first day.
        let at = at.0.clamp(Timestamp::MIN.as_millisecond(), Timestamp::MAX.as_millisecond());
        let moment = Timestamp::from_millisecond(at).expect("it is within the calendar");
        let days = civil::date(1970, 1, 1).until(self.zone.to_datetime(moment).date());
        u32::try_from(days.expect("days need no reference").get_days()).unwrap_or(0)
    }
}

/// The minute of a moment, as minutes since 1970-01-01 UTC.
#[must_use]
pub fn minute(at: UnixMs) -> u64 {
    u64::try_from(at.0.div_euclid(MINUTE_MS)).unwrap_or_default()
}

/// The earliest event of one kind. Stored as a short array, because every order has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fact(
    /// Index into [`KINDS`].
    u8,
    /// Event time.
    UnixMs,
    /// The amount that the event stated.
    Option<MinorUnits>,
    /// The currency of that amount.
    CurrencyKind,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Refund(
    /// Event time.
    UnixMs,
    /// Hash of the event's source and id; the type of all of them is the same.
    u64,
    /// The amount that the event stated.
    Option<MinorUnits>,
    /// The currency of that amount.
    CurrencyKind,
);

/// The currency of an event's amount, compared with the chain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CurrencyKind {
    /// The chain's currency.
    Chain,
    /// Another currency.
    Foreign,
    /// The event stated no currency.
    Unstated,
}

/// The kinds of facts that are stored, by their index. Append only: the indices are stored.
const KINDS: [EventType; 8] = [
    EventType::Created,
    EventType::Paid,
    EventType::Accepted,
    EventType::Ready,
    EventType::PickedUp,
    EventType::Refused,
    EventType::Cancelled,
    EventType::Expired,
];

/// The facts about an order from which it is counted. Part of its stored state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// The earliest fact of each kind.
    first: Vec<Fact>,
    refunds: Vec<Refund>,
}

/// When an order ended early. `precedence` decides between two ends at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    at: UnixMs,
    precedence: u8,
}

impl Facts {
    /// Adds an event; `hash` is that of its source and id, and `currency` the chain's.
    pub(super) fn record(&mut self, event: &Event, hash: u64, currency: &str) {
        let currency_kind = match event.currency.as_deref() {
            None => CurrencyKind::Unstated,
            Some(theirs) if theirs.eq_ignore_ascii_case(currency) => CurrencyKind::Chain,
            Some(_) => CurrencyKind::Foreign,
        };
        let amount = event.amount.filter(|amount| (0..=MAX_AMOUNT).contains(&amount.0));
        if event.kind == EventType::Refunded {
            if !self.refunds.iter().any(|known| known.1 == hash) {
                // Sorted before it is cut: the same refunds are left out in every reading order.
                self.refunds.push(Refund(event.at, hash, amount, currency_kind));
                self.refunds.sort_unstable();
                self.refunds.truncate(MAX_REFUNDS);
            }
            return;
        }
        let Some(kind) = KINDS.iter().position(|kind| *kind == event.kind) else { return };
        let new = Fact(kind as u8, event.at, amount, currency_kind);
        match self.first.iter_mut().find(|known| known.0 == new.0) {
            None => self.first.push(new),
            Some(known) => {
                // The earlier one wins; at the same time the one with an amount, then the smaller amount. What matters is that the choice is
                // always the same.
                let rank = |fact: &Fact| (fact.1, fact.2.is_none(), fact.2, fact.3);
                if rank(&new) < rank(known) {
                    *known = new;
                }
            }
        }
    }

    fn fact(&self, kind: EventType) -> Option<&Fact> {
        self.first.iter().find(|fact| KINDS.get(usize::from(fact.0)) == Some(&kind))
    }

    /// When the order was first paid, and the amount that this event stated; `None` while no payment was read.
    pub(super) fn payment(&self) -> Option<(UnixMs, Option<MinorUnits>)> {
        self.fact(EventType::Paid).map(|fact| (fact.1, fact.2))
    }

    /// The time of the earliest fact of this kind.
    pub(super) fn at(&self, kind: EventType) -> Option<UnixMs> {
        self.fact(kind).map(|fact| fact.1)
    }

    /// The earliest effective end: nothing ends an order that was collected before, and only an unpaid order expires.
    fn end(&self) -> Option<(Ended, EventType)> {
        let collected = self.at(EventType::PickedUp);
        let paid = STAGE_COUNTERS[1..].iter().filter_map(|(kind, _)| self.at(*kind)).min();
        let refunded = self.refunds.first().map(|refund| refund.0);
        let ends = [
            (EventType::Refused, self.at(EventType::Refused), collected),
            (EventType::Cancelled, self.at(EventType::Cancelled), collected),
            (EventType::Refunded, refunded, collected),
            (EventType::Expired, self.at(EventType::Expired), paid),
        ];
        let counts = ends.into_iter().enumerate().filter_map(|(precedence, (kind, at, too_late))| {
            let at = at.filter(|at| too_late.is_none_or(|before| before > *at))?;
            Some((Ended { at, precedence: precedence as u8 }, kind))
        });
        counts.min_by_key(|(ended, _)| *ended)
    }

    /// When each stage was reached: at its own fact, or at the earliest fact of a later stage. Facts after the end reach no stage.
    fn reached(&self) -> [Option<UnixMs>; STAGE_COUNTERS.len()] {
        let end = self.end().map(|(ended, _)| ended.at);
        let mut reached = [None; STAGE_COUNTERS.len()];
        let mut later = None;
        for (slot, (kind, _)) in reached.iter_mut().zip(STAGE_COUNTERS).rev() {
            let own = self.at(kind).filter(|at| end.is_none_or(|end| *at <= end));
            later = [later, own].into_iter().flatten().min();
            *slot = later;
        }
        reached
    }

    /// The order's amount: from its payment, else from its creation, else from the first kind of fact that states one.
    fn amount(&self) -> Option<(MinorUnits, CurrencyKind)> {
        let kinds = [STAGE_COUNTERS[1].0, STAGE_COUNTERS[0].0].into_iter().chain(KINDS);
        kinds.filter_map(|kind| self.fact(kind)).find_map(|fact| Some((fact.2?, fact.3)))
    }

    /// True for an amount in another currency. One without a currency has that of the order's other events, or else the chain's.
    fn is_foreign(&self, currency: CurrencyKind) -> bool {
        let stated = |kind: &CurrencyKind| *kind != CurrencyKind::Unstated;
        let others = KINDS.iter().filter_map(|kind| self.fact(*kind)).map(|fact| fact.3);
        Some(currency).filter(stated).or_else(|| others.into_iter().find(stated)) == Some(CurrencyKind::Foreign)
    }

    /// Everything that this order adds: when, to which counter, how much.
    fn entries(&self) -> Vec<(UnixMs, u16, i64)> {
        let mut entries = Vec::new();
        let reached = self.reached();
        for ((_, counter), at) in STAGE_COUNTERS.into_iter().zip(reached) {
            entries.extend(at.map(|at| (at, counter as u16, 1)));
        }
        let mut add_amount = |at: UnixMs, counter: Counter, amount: Option<(MinorUnits, CurrencyKind)>| match amount {
            Some((_, currency)) if self.is_foreign(currency) => entries.push((at, Counter::OtherCurrency as u16, 1)),
            Some((amount, _)) => entries.push((at, counter as u16, amount.0)),
            None => {}
        };
        if let Some(at) = reached[1] {
            add_amount(at, Counter::PaidAmount, self.amount());
        }
        for refund in &self.refunds {
            add_amount(refund.0, Counter::RefundedAmount, refund.2.map(|amount| (amount, refund.3)));
        }
        entries.extend(self.refunds.first().map(|refund| (refund.0, Counter::Refunded as u16, 1)));
        match self.end() {
            Some((ended, EventType::Refused)) => entries.push((ended.at, Counter::Refused as u16, 1)),
            Some((ended, EventType::Cancelled)) => entries.push((ended.at, Counter::Cancelled as u16, 1)),
            _ => {}
        }
        for step in 1..STAGE_COUNTERS.len() {
            // A step counts only when both of its stages have their own event: the duration of a skipped stage is unknown.
            let is_known = self.at(STAGE_COUNTERS[step - 1].0).is_some() && self.at(STAGE_COUNTERS[step].0).is_some();
            let (Some(from), Some(to)) = (reached[step - 1], reached[step]) else { continue };
            if is_known {
                let counter =
                    FIRST_DURATION_COUNTER + (step as u16 - 1) * DURATION_BUCKETS + duration_bucket(to.0 - from.0);
                entries.push((to, counter, 1));
            }
        }
        entries
    }
}

/// The counter changes when an order goes from one state to the next.
#[must_use]
pub fn changes_of(before: Option<&Order>, after: &Order, shadow: bool, counting: &CountingRules) -> Vec<CounterDelta> {
    let of = |order| -> (&Facts, Option<&Id>) {
        let order: &Order = order;
        (&order.facts, order.store())
    };
    changes(before.map(of), of(after), shadow, counting)
}

/// The counter changes when an order's facts, or its store, change.
fn changes(
    before: Option<(&Facts, Option<&Id>)>,
    after: (&Facts, Option<&Id>),
    shadow: bool,
    counting: &CountingRules,
) -> Vec<CounterDelta> {
    if before == Some(after) {
        return Vec::new();
    }
    let mut changes: Vec<CounterDelta> = Vec::new();
    let mut put = |(facts, store): (&Facts, Option<&Id>), sign: i64| {
        for (at, counter, number) in facts.entries() {
            let (minute, by) = (minute(at), sign * number);
            let same = |known: &&mut CounterDelta| {
                known.minute == minute && known.counter == counter && known.store.as_ref() == store
            };
            match changes.iter_mut().find(same) {
                Some(known) => known.by += by,
                None => {
                    let day = counting.day(at);
                    changes.push(CounterDelta { shadow, minute, day, store: store.cloned(), counter, by });
                }
            }
        }
    };
    before.into_iter().for_each(|before| put(before, -1));
    put(after, 1);
    changes.retain(|change| change.by != 0);
    changes
}

#[cfg(test)]
#[path = "counting_tests.rs"]
mod tests;
