//! What an order adds to the tallies: a pure function of the facts that were heard of it.
//!
//! ```text
//!   facts (earliest of each kind, every refund)  --entries-->  (time, cell, number)       change = entries(after) - entries(before)
//! ```
//!
//! So a tally is the sum of its orders' entries, whatever came twice, late or in another order: a replay changes no fact and adds nothing,
//! and two topics that were read in another order give the same numbers. Facts are put in order by event time, since nothing else is the
//! same in every reading of the log; where two are of the same moment, the one that is further along the line came later.
//!
//! Refused: counting verdicts as they fall (a second reading in another order would count otherwise, and nothing could be reconciled).

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use orderbell_protocol::event::MinorUnits;
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::{Deserialize, Serialize};

use super::life::Order;
use crate::ledger::Tally;

/// Refunds of one order that are counted, the earliest. An order has a handful of dishes; more is a loop.
const REFUNDS_MAX: usize = 16;
/// No order costs more, in any currency's smallest unit: above it, an amount is garbage, and would drown all others in a sum.
const AMOUNT_MAX: i64 = 1_000_000_000_000;
const MINUTE_MS: i64 = 60_000;

/// What is counted. The numbers stand in the ledger and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Cell {
    /// Orders that came to be, or were first heard of further along.
    Created = 0,
    /// Orders paid.
    Paid = 1,
    /// Orders that a store took.
    Accepted = 2,
    /// Orders that a store did not take.
    Refused = 3,
    /// Orders ready.
    Ready = 4,
    /// Orders collected.
    PickedUp = 5,
    /// Orders called off.
    Cancelled = 6,
    /// Orders of which money went back, at the first time that it did.
    Refunded = 7,
    /// What was paid, in the currency's smallest unit.
    PaidAmount = 8,
    /// What went back.
    RefundedAmount = 9,
    /// Amounts in another currency than the chain's: not summed.
    OtherCurrency = 10,
}

impl Cell {
    /// Every cell with its name.
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

/// The line, in order, and where each stage is counted.
pub const LINE: [(EventType, Cell); 5] = [
    (EventType::Created, Cell::Created),
    (EventType::Paid, Cell::Paid),
    (EventType::Accepted, Cell::Accepted),
    (EventType::Ready, Cell::Ready),
    (EventType::PickedUp, Cell::PickedUp),
];

/// Cells from here on count how long the steps between stages took, [`SPANS`] of them for each step.
pub const SPANS_FROM: u16 = 32;
/// Lengths that are told apart: four to an octave, from one second to about eighteen hours.
pub const SPANS: u16 = 64;

/// The span that a length falls into.
fn span_of(length_ms: i64) -> u16 {
    let seconds = (length_ms as f64 / 1000.0).max(1.0);
    ((seconds.log2() * 4.0) as u16).min(SPANS - 1)
}

/// The middle of a span, in milliseconds.
#[must_use]
pub fn span_ms(span: u16) -> f64 {
    1000.0 * ((f64::from(span) + 0.5) / 4.0).exp2()
}

/// By which days and in which money is counted.
#[derive(Clone, Debug)]
pub struct Counting {
    /// Days begin at its midnight.
    pub zone: TimeZone,
    /// ISO 4217 code of what is summed. An amount without a currency is taken for this one.
    pub currency: String,
}

impl Default for Counting {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, currency: String::from("CNY") }
    }
}

impl Counting {
    /// The day of a moment: days since 1970-01-01 by the chain's own calendar.
    #[must_use]
    pub fn day(&self, at: UnixMs) -> u32 {
        let moment = Timestamp::from_millisecond(at.0).unwrap_or_default();
        let days = civil::date(1970, 1, 1).until(self.zone.to_datetime(moment).date()).map(|span| span.get_days());
        days.ok().and_then(|days| u32::try_from(days).ok()).unwrap_or_default()
    }
}

/// The minute of a moment, since 1970.
#[must_use]
pub fn minute(at: UnixMs) -> u64 {
    u64::try_from(at.0.div_euclid(MINUTE_MS)).unwrap_or_default()
}

/// A fact, as short as it can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fact(
    /// Its place in [`KINDS`].
    u8,
    /// When it happened.
    UnixMs,
    /// The amount it told.
    Option<MinorUnits>,
    /// In whose money.
    Money,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Refund(
    UnixMs,
    /// Hash of its source and id.
    u64,
    Option<MinorUnits>,
    Money,
);

/// Which currency an event told its amount in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Money {
    /// The chain's.
    Ours,
    /// Another one.
    Foreign,
    /// It told none.
    Untold,
}

/// Kinds of facts that are kept, by the numbers they are stored under.
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

/// What counting needs of an order. Part of its stored state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// The earliest of each kind.
    first: Vec<Fact>,
    refunds: Vec<Refund>,
}

/// How an order ended, for counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    at: UnixMs,
    as_what: u8,
}

impl Facts {
    /// Takes an event in; `hash` is that of its source and id.
    pub(super) fn hear(&mut self, event: &Event, hash: u64, currency: &str) {
        let money = match event.currency.as_deref() {
            None => Money::Untold,
            Some(theirs) if theirs.eq_ignore_ascii_case(currency) => Money::Ours,
            Some(_) => Money::Foreign,
        };
        let amount = event.amount.filter(|amount| (0..=AMOUNT_MAX).contains(&amount.0));
        if event.kind == EventType::Refunded {
            if !self.refunds.iter().any(|known| known.1 == hash) {
                // Always the same ones are left out, whatever came first.
                self.refunds.push(Refund(event.at, hash, amount, money));
                self.refunds.sort_unstable();
                self.refunds.truncate(REFUNDS_MAX);
            }
            return;
        }
        let Some(kind) = KINDS.iter().position(|kind| *kind == event.kind) else { return };
        let new = Fact(kind as u8, event.at, amount, money);
        match self.first.iter_mut().find(|known| known.0 == new.0) {
            None => self.first.push(new),
            Some(known) => {
                // Of two that tell the same, the earlier; of one moment, the one with an amount, then the smaller one: any choice, always the same.
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

    fn at(&self, kind: EventType) -> Option<UnixMs> {
        self.fact(kind).map(|fact| fact.1)
    }

    /// The earliest end that ended it: nothing ends what was collected before, and only what was not paid expires.
    fn end(&self) -> Option<(Ended, EventType)> {
        let collected = self.at(EventType::PickedUp);
        let paid = LINE[1..].iter().filter_map(|(kind, _)| self.at(*kind)).min();
        let refunded = self.refunds.first().map(|refund| refund.0);
        let ends = [
            (EventType::Refused, self.at(EventType::Refused), collected),
            (EventType::Cancelled, self.at(EventType::Cancelled), collected),
            (EventType::Refunded, refunded, collected),
            (EventType::Expired, self.at(EventType::Expired), paid),
        ];
        let counts = ends.into_iter().enumerate().filter_map(|(as_what, (kind, at, too_late))| {
            let at = at.filter(|at| too_late.is_none_or(|before| before > *at))?;
            Some((Ended { at, as_what: as_what as u8 }, kind))
        });
        counts.min_by_key(|(ended, _)| *ended)
    }

    /// When each stage was reached: at its own fact, or at the earliest one further along. What happened after the end reached nothing.
    fn reached(&self) -> [Option<UnixMs>; LINE.len()] {
        let end = self.end().map(|(ended, _)| ended.at);
        let mut reached = [None; LINE.len()];
        let mut further = None;
        for (slot, (kind, _)) in reached.iter_mut().zip(LINE).rev() {
            let own = self.at(kind).filter(|at| end.is_none_or(|end| *at <= end));
            further = [further, own].into_iter().flatten().min();
            *slot = further;
        }
        reached
    }

    /// What the order costs: what its payment said, or its creation, or whatever said it first on the line.
    fn amount(&self) -> Option<(MinorUnits, Money)> {
        let kinds = [LINE[1].0, LINE[0].0].into_iter().chain(KINDS);
        kinds.filter_map(|kind| self.fact(kind)).find_map(|fact| Some((fact.2?, fact.3)))
    }

    /// An amount whose currency was not told is in the one that the order's other events told, or in the chain's.
    fn is_foreign(&self, money: Money) -> bool {
        let told = |money: &Money| *money != Money::Untold;
        let others = KINDS.iter().filter_map(|kind| self.fact(*kind)).map(|fact| fact.3);
        Some(money).filter(told).or_else(|| others.into_iter().find(told)) == Some(Money::Foreign)
    }

    /// Everything that this order adds: when, to which cell, how much.
    fn entries(&self) -> Vec<(UnixMs, u16, i64)> {
        let mut entries = Vec::new();
        let reached = self.reached();
        for ((_, cell), at) in LINE.into_iter().zip(reached) {
            entries.extend(at.map(|at| (at, cell as u16, 1)));
        }
        let mut money = |at: UnixMs, cell: Cell, amount: Option<(MinorUnits, Money)>| match amount {
            Some((_, money)) if self.is_foreign(money) => entries.push((at, Cell::OtherCurrency as u16, 1)),
            Some((amount, _)) => entries.push((at, cell as u16, amount.0)),
            None => {}
        };
        if let Some(at) = reached[1] {
            money(at, Cell::PaidAmount, self.amount());
        }
        for refund in &self.refunds {
            money(refund.0, Cell::RefundedAmount, refund.2.map(|amount| (amount, refund.3)));
        }
        entries.extend(self.refunds.first().map(|refund| (refund.0, Cell::Refunded as u16, 1)));
        match self.end() {
            Some((ended, EventType::Refused)) => entries.push((ended.at, Cell::Refused as u16, 1)),
            Some((ended, EventType::Cancelled)) => entries.push((ended.at, Cell::Cancelled as u16, 1)),
            _ => {}
        }
        for step in 1..LINE.len() {
            // A step counts only where both of its ends were told: a stage that was jumped over took no time that anybody knows.
            let told = self.at(LINE[step - 1].0).is_some() && self.at(LINE[step].0).is_some();
            let (Some(from), Some(to)) = (reached[step - 1], reached[step]) else { continue };
            if told {
                let cell = SPANS_FROM + (step as u16 - 1) * SPANS + span_of(to.0 - from.0);
                entries.push((to, cell, 1));
            }
        }
        entries
    }
}

/// What changes in the tallies when an order comes from one state to the next.
pub(super) fn of_order(before: Option<&Order>, after: &Order, shadow: bool, counting: &Counting) -> Vec<Tally> {
    let of = |order| -> (&Facts, Option<&Id>) {
        let order: &Order = order;
        (&order.facts, order.store())
    };
    changes(before.map(of), of(after), shadow, counting)
}

/// What changes in the tallies when an order's facts, or what is known of its store, change.
fn changes(
    before: Option<(&Facts, Option<&Id>)>,
    after: (&Facts, Option<&Id>),
    shadow: bool,
    counting: &Counting,
) -> Vec<Tally> {
    if before == Some(after) {
        return Vec::new();
    }
    let mut changes: Vec<Tally> = Vec::new();
    let mut put = |(facts, store): (&Facts, Option<&Id>), sign: i64| {
        for (at, cell, number) in facts.entries() {
            let (minute, by) = (minute(at), sign * number);
            let same =
                |known: &&mut Tally| known.minute == minute && known.cell == cell && known.store.as_ref() == store;
            match changes.iter_mut().find(same) {
                Some(known) => known.by += by,
                None => {
                    let day = counting.day(at);
                    changes.push(Tally { shadow, minute, day, store: store.cloned(), cell, by });
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
#[path = "tally_tests.rs"]
mod tests;
