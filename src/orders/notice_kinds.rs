//! Every kind of notice is one row of one table: how long it is worth delivering, whom it may reach and with which fields, whether it occurs
//! once or repeatedly in an order, and from which stage it is of no more use.
//!
//! The order rules, the notice builder, the order view, the timeline and the configuration read this table; none of them lists kinds. To add a
//! kind, add a variant to the protocol's [`NoticeKind`] (with its word, which clients read), a row here, and a transition in
//! [`super::order::TRANSITIONS`] that notifies by it. A kind without a row does not compile, nor does a transition that notifies a role which
//! the kind's row does not name. CONTRIBUTING.md walks through it.

use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::{NoticeKind, Role};

use super::notices::NoticeField;

const HOUR_MS: i64 = 3_600_000;

/// How often a kind occurs in the life of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// Once for each role, however many events call for it.
    Once,
    /// Once for each event: the event's source and id are its occurrence.
    EachEvent,
}

/// What the body of a notice is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The order's visible fields.
    Order,
    /// The event that was rejected, its device, and how the order had ended. Nothing of the order itself.
    Rejection,
}

/// A role that notices of a kind are for.
#[derive(Debug)]
pub struct Audience {
    /// Store or customer.
    pub role: Role,
    /// Key of `[notice_fields]` that sets the visible fields; `None` where there are none to set.
    pub config_key: Option<&'static str>,
    /// The fields that are shown without that key.
    pub default_fields: &'static [NoticeField],
    /// The kind that this one takes back: it is made only after that one, and its body names that one's id in `cancels`.
    pub retracts: Option<NoticeKind>,
}

/// All that is particular to one kind of notice.
#[derive(Debug)]
pub struct NoticeRow {
    /// The kind, whose word is on the wire, in ids and in metric labels.
    pub kind: NoticeKind,
    /// How long after its event it is delivered. Later, the order's state changes but nobody is notified: a store must not start in the evening
    /// on an order of the morning. Milliseconds.
    pub lifetime_ms: i64,
    /// The roles that it is for.
    pub audiences: &'static [Audience],
    /// Once, or for each event.
    pub repetition: Repetition,
    /// It is not made once the order has reached this stage or ended early, and superseded where it was made before. `None`: useful until it
    /// expires.
    pub useless_from: Option<OrderStage>,
    /// It is not made before the pickup code is known.
    pub needs_pickup_code: bool,
    /// What its body is made of.
    pub content: Content,
}

use NoticeField as F;
use Role::{Customer, Store};

/// Looked up by [`NoticeRow::of`].
pub static NOTICE_KINDS: [NoticeRow; NoticeKind::KNOWN.len()] = [
    NoticeRow {
        kind: NoticeKind::NewOrder,
        lifetime_ms: 2 * HOUR_MS,
        audiences: &[Audience {
            role: Store,
            config_key: Some("new_order"),
            default_fields: &[F::Amount, F::Currency, F::Details, F::Flags],
            retracts: None,
        }],
        repetition: Repetition::Once,
        useless_from: Some(OrderStage::PickedUp),
        needs_pickup_code: false,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::PickupCode,
        lifetime_ms: 12 * HOUR_MS,
        audiences: &[Audience {
            role: Customer,
            config_key: Some("pickup_code"),
            default_fields: &[F::Store, F::PickupCode],
            retracts: None,
        }],
        repetition: Repetition::Once,
        useless_from: Some(OrderStage::PickedUp),
        needs_pickup_code: true,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::OrderAccepted,
        lifetime_ms: 2 * HOUR_MS,
        audiences: &[Audience {
            role: Store,
            config_key: Some("order_accepted"),
            default_fields: &[F::PickupCode, F::Device],
            retracts: None,
        }],
        repetition: Repetition::Once,
        useless_from: Some(OrderStage::PickedUp),
        needs_pickup_code: false,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::OrderRefused,
        lifetime_ms: 12 * HOUR_MS,
        audiences: &[
            Audience {
                role: Store,
                config_key: Some("order_refused_to_store"),
                default_fields: &[F::Reason],
                retracts: Some(NoticeKind::NewOrder),
            },
            Audience {
                role: Customer,
                config_key: Some("order_refused_to_customer"),
                default_fields: &[F::Store, F::Reason],
                retracts: None,
            },
        ],
        repetition: Repetition::Once,
        useless_from: None,
        needs_pickup_code: false,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::Ready,
        lifetime_ms: 12 * HOUR_MS,
        audiences: &[Audience {
            role: Customer,
            config_key: Some("ready"),
            default_fields: &[F::Store, F::PickupCode],
            retracts: None,
        }],
        repetition: Repetition::Once,
        useless_from: Some(OrderStage::PickedUp),
        needs_pickup_code: false,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::Cancelled,
        lifetime_ms: 12 * HOUR_MS,
        audiences: &[
            Audience {
                role: Store,
                config_key: Some("cancelled_to_store"),
                default_fields: &[F::Reason],
                retracts: Some(NoticeKind::NewOrder),
            },
            Audience {
                role: Customer,
                config_key: Some("cancelled_to_customer"),
                default_fields: &[F::Store, F::Reason],
                retracts: None,
            },
        ],
        repetition: Repetition::Once,
        useless_from: None,
        needs_pickup_code: false,
        content: Content::Order,
    },
    NoticeRow {
        kind: NoticeKind::EventRejected,
        lifetime_ms: 2 * HOUR_MS,
        audiences: &[
            Audience { role: Store, config_key: None, default_fields: &[], retracts: None },
            Audience { role: Customer, config_key: None, default_fields: &[], retracts: None },
        ],
        repetition: Repetition::EachEvent,
        useless_from: None,
        needs_pickup_code: false,
        content: Content::Rejection,
    },
];

// Each kind that is written has its row. As many rows as kinds: so it has no second one.
const _: () = {
    let mut known = 0;
    while known < NoticeKind::KNOWN.len() {
        let mut row = 0;
        while row < NOTICE_KINDS.len() && NOTICE_KINDS[row].kind as u8 != NoticeKind::KNOWN[known] as u8 {
            row += 1;
        }
        assert!(row < NOTICE_KINDS.len(), "a kind of notice has no row");
        known += 1;
    }
};

impl NoticeRow {
    /// The row of a kind; `None` for [`NoticeKind::Unknown`], which is never written.
    #[must_use]
    pub fn of(kind: NoticeKind) -> Option<&'static Self> {
        NOTICE_KINDS.iter().find(|row| row.kind == kind)
    }

    /// `None` for a role that the kind is not for.
    #[must_use]
    pub fn audience(&self, role: Role) -> Option<&'static Audience> {
        self.audiences.iter().find(|audience| audience.role == role)
    }
}

/// True when the table has this kind for this role. Usable in constants.
#[must_use]
pub(super) const fn has_audience(role: Role, kind: NoticeKind) -> bool {
    let mut row = 0;
    while row < NOTICE_KINDS.len() {
        if NOTICE_KINDS[row].kind as u8 == kind as u8 {
            let audiences = NOTICE_KINDS[row].audiences;
            let mut at = 0;
            while at < audiences.len() {
                if audiences[at].role as u8 == role as u8 {
                    return true;
                }
                at += 1;
            }
        }
        row += 1;
    }
    false
}

/// The kind by which a role learns of an order, and which a later notice takes back.
#[must_use]
pub fn retractable(role: Role) -> Option<NoticeKind> {
    audiences().filter(|(_, audience)| audience.role == role).find_map(|(_, audience)| audience.retracts)
}

/// All audiences with their kind.
pub fn audiences() -> impl Iterator<Item = (NoticeKind, &'static Audience)> {
    NOTICE_KINDS.iter().flat_map(|row| row.audiences.iter().map(|audience| (row.kind, audience)))
}
