//! Why a paid order notifies no store: one function decides it, and operators are alerted by its answer.

use orderbell_protocol::{NoticeKind, Role};

use super::Order;

/// Why no store is notified of a paid order. In the order in which an alert names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unannounced {
    /// No event has named its store yet.
    NoStore,
}

impl Unannounced {
    /// Every reason.
    pub const ALL: [Self; 1] = [Self::NoStore];

    /// The word for the metric label `reason`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoStore => "no_store",
        }
    }

    /// What happened to so many orders, for operators.
    #[must_use]
    pub fn sentence(self, count: u64) -> String {
        match self {
            Self::NoStore => format!("{count} paid orders name no store"),
        }
    }
}

impl Order {
    /// Why no store is notified of this order, which an event has just been applied to; `None` for an order that is not paid, has ended, or of
    /// which a store was notified.
    #[must_use]
    pub fn unannounced(&self) -> Option<Unannounced> {
        self.awaits_store().then_some(Unannounced::NoStore)
    }

    fn awaits_store(&self) -> bool {
        self.store.is_none() && !self.is_over() && self.is_pending(Role::Store, NoticeKind::NewOrder)
    }
}
