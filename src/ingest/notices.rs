//! What a notice says: its derived id, and which of an order's fields each kind of reader may see.
//!
//! The list is an allow-list: a field that is not named here reaches nobody. A store never sees who the customer is; a customer sees
//! nothing of the order but its state and the code to collect it with.

use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::{Event, Id, NoticeKind, Recipient, Role, UnixMs};
use serde::Serialize;
use serde_json::value::RawValue;

use super::life::Order;

/// A notice that is to be appended.
#[derive(Debug)]
pub struct Draft {
    /// Derived id.
    pub id: String,
    /// What it tells.
    pub kind: NoticeKind,
    /// Whose mailbox.
    pub recipient: Recipient,
    /// When the fact happened.
    pub at: UnixMs,
    /// From then on nobody is rung for it.
    pub expires_at: UnixMs,
    /// What the recipient may see.
    pub body: Box<RawValue>,
}

/// Derived from order, kind and recipient: another path to the same fact makes the same id. SHA-256, since ids come from outside and two
/// notices with one id would be one notice.
#[must_use]
pub fn id(shadow: bool, order: &Id, kind: NoticeKind, recipient: &Recipient) -> String {
    id_of(shadow, order, kind, recipient, "")
}

/// The same for a kind that may be told several times in an order's life: `occurrence` tells them apart.
#[must_use]
pub fn id_of(shadow: bool, order: &Id, kind: NoticeKind, recipient: &Recipient, occurrence: &str) -> String {
    use aws_lc_rs::digest;
    let text = format!("{}\0{order}\0{}\0{recipient}\0{occurrence}", u8::from(shadow), kind.word());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default, Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<MinorUnits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a PickupCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[Flag]>::is_empty")]
    flags: &'a [Flag],
}

/// The body of a notice. `cancels` is the id of the NewOrder that the store was told.
pub(crate) fn body(order: &Order, to: Role, kind: NoticeKind, cancels: Option<String>) -> Box<RawValue> {
    let (store, code) = (order.store.as_ref(), order.code.as_ref());
    let reason = order.reason.as_deref();
    let body = match (kind, to) {
        (NoticeKind::NewOrder, _) => Body {
            amount: order.amount,
            currency: order.currency.as_deref(),
            details: order.details.as_deref(),
            flags: &order.flags,
            ..Body::default()
        },
        (NoticeKind::Declined, _) => Body::default(),
        (NoticeKind::Taken, _) => Body { code, device: order.device.as_ref(), ..Body::default() },
        (NoticeKind::PickupCode | NoticeKind::Ready, _) => Body { store, code, ..Body::default() },
        (NoticeKind::Refused | NoticeKind::Cancelled, Role::Store) => Body { reason, cancels, ..Body::default() },
        (NoticeKind::Refused | NoticeKind::Cancelled, Role::Customer) => Body { store, reason, ..Body::default() },
    };
    raw(&body)
}

/// The body of the answer to a device whose event came too late: which device, which event, and how the order had ended.
pub(crate) fn declined(event: &Event, why: &str) -> Box<RawValue> {
    raw(&Body { device: event.device.as_ref(), event: Some(&event.id), reason: Some(why), ..Body::default() })
}

/// All that a role may see of an order: what its notices say, taken together.
pub(crate) fn seen_by(order: &Order, role: Role) -> Box<RawValue> {
    let (store, code, reason) = (order.store.as_ref(), order.code.as_ref(), order.reason.as_deref());
    raw(&match role {
        Role::Store => Body {
            amount: order.amount,
            currency: order.currency.as_deref(),
            details: order.details.as_deref(),
            device: order.device.as_ref(),
            flags: &order.flags,
            code,
            reason,
            ..Body::default()
        },
        Role::Customer => Body { store, code, reason, ..Body::default() },
    })
}

fn raw(body: &Body<'_>) -> Box<RawValue> {
    serde_json::value::to_raw_value(body).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
