//! Why a paid order notifies no store: one function decides it, and operators are alerted by its answer.

use orderbell_protocol::balance::Bin;
use orderbell_protocol::{NoticeKind, Role};

use super::{Effects, Order, too_old};

/// Why no store is notified of a paid order. In the order in which an alert names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unannounced {
    /// No event has named its store yet.
    NoStore,
    /// The event is too old to notify anybody, though its record is not: its producer's clock is off, or it publishes late.
    TooOld,
    /// A payment with an event id of its own, about an order that was picked up or had ended: another order with the same number.
    AfterEnd,
    /// A second payment that differs from the first: two orders with one id.
    SecondPayment,
    /// The payment was under way when its order ended: somebody must refund it.
    LatePayment,
}

impl Unannounced {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::NoStore, Self::TooOld, Self::AfterEnd, Self::SecondPayment, Self::LatePayment];

    /// The word for the metric label `reason`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoStore => "no_store",
            Self::TooOld => "too_old",
            Self::AfterEnd => "after_end",
            Self::SecondPayment => "second_payment",
            Self::LatePayment => "late_payment",
        }
    }

    /// What happened to so many orders, for operators.
    #[must_use]
    pub fn sentence(self, count: u64) -> String {
        match self {
            Self::NoStore => format!("{count} paid orders name no store"),
            Self::TooOld => format!("{count} paid orders were hours old by their own time when they came"),
            Self::AfterEnd => format!("{count} payments of orders that had been picked up or had ended"),
            Self::SecondPayment => format!("{count} second payments that differ from their order's first"),
            Self::LatePayment => format!("{count} payments that came just after the end of their order"),
        }
    }
}

impl Order {
    /// Why no store is notified of a paid order, by an event that was just applied to this one with these effects; `None` where one is notified
    /// or none needs to be. History is no concern of anybody: see [`too_old`].
    #[must_use]
    pub fn unannounced(&self, effects: &Effects, was_handled: bool) -> Option<Unannounced> {
        let is_alerted = too_old(effects.is_history, was_handled) == Bin::TooOld;
        let too_old = || (effects.is_new_order_expired && is_alerted).then_some(Unannounced::TooOld);
        effects.further_payment.or_else(too_old).or_else(|| self.awaits_store().then_some(Unannounced::NoStore))
    }

    /// True while a paid order waits for an event that names its store.
    #[must_use]
    pub fn awaits_store(&self) -> bool {
        self.store.is_none() && !self.is_over() && self.is_pending(Role::Store, NoticeKind::NewOrder)
    }
}
