//! What a notice says: its derived id, and which of an order's fields each kind of reader may see.
//!
//! [`Visible`] is an allow-list: a field that is not named there reaches nobody. A store never sees who the customer is; by default a
//! customer sees nothing of the order but its state and the code to collect it with.

use std::borrow::Cow;

use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::{Event, Id, NoticeKind, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

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
    details: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "<[Flag]>::is_empty")]
    flags: &'a [Flag],
}

/// One member of a notice's body.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub enum Field {
    /// The store's id.
    Store,
    /// What the order costs.
    Amount,
    /// Of the amount.
    Currency,
    /// What the order is collected with.
    Code,
    /// The device that accepted.
    Device,
    /// Why it is off.
    Reason,
    /// What was odd about the order.
    Flags,
    /// All details that the mapping keeps.
    Details,
    /// One of them.
    Detail(String),
}

impl TryFrom<String> for Field {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "store" => Self::Store,
            "amount" => Self::Amount,
            "currency" => Self::Currency,
            "code" => Self::Code,
            "device" => Self::Device,
            "reason" => Self::Reason,
            "flags" => Self::Flags,
            "details" => Self::Details,
            other => match other.strip_prefix("details.") {
                Some(member) if !member.is_empty() => Self::Detail(member.into()),
                _ => {
                    return Err(format!(
                        "no member is called {name}: store, amount, currency, code, device, reason, flags, details, details.NAME"
                    ));
                }
            },
        })
    }
}

/// What of an order each kind of notice may tell: an allow-list, so a field that nobody thought of reaches nobody.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Visible {
    /// To the store: cook it.
    pub new_order: Vec<Field>,
    /// To the store: somebody accepted.
    pub taken: Vec<Field>,
    /// To the customer: accepted.
    pub pickup_code: Vec<Field>,
    /// To the customer: it can be collected.
    pub ready: Vec<Field>,
    /// To the store's other devices.
    pub refused_to_store: Vec<Field>,
    /// To the customer.
    pub refused_to_customer: Vec<Field>,
    /// To the store.
    pub cancelled_to_store: Vec<Field>,
    /// To the customer.
    pub cancelled_to_customer: Vec<Field>,
}

impl Default for Visible {
    fn default() -> Self {
        use Field as F;
        Self {
            new_order: vec![F::Amount, F::Currency, F::Details, F::Flags],
            taken: vec![F::Code, F::Device],
            pickup_code: vec![F::Store, F::Code],
            ready: vec![F::Store, F::Code],
            refused_to_store: vec![F::Reason],
            refused_to_customer: vec![F::Store, F::Reason],
            cancelled_to_store: vec![F::Reason],
            cancelled_to_customer: vec![F::Store, F::Reason],
        }
    }
}

impl Visible {
    /// What this kind of notice may tell this role. `declined` tells nothing of the order.
    fn of(&self, kind: NoticeKind, to: Role) -> &[Field] {
        match (kind, to) {
            (NoticeKind::NewOrder, _) => &self.new_order,
            (NoticeKind::Taken, _) => &self.taken,
            (NoticeKind::PickupCode, _) => &self.pickup_code,
            (NoticeKind::Ready, _) => &self.ready,
            (NoticeKind::Refused, Role::Store) => &self.refused_to_store,
            (NoticeKind::Refused, Role::Customer) => &self.refused_to_customer,
            (NoticeKind::Cancelled, Role::Store) => &self.cancelled_to_store,
            (NoticeKind::Cancelled, Role::Customer) => &self.cancelled_to_customer,
            (NoticeKind::Declined | NoticeKind::Unknown, _) => &[],
        }
    }

    /// What a role may see of an order: what its notices may tell, taken together.
    fn all_of(&self, role: Role) -> Vec<Field> {
        let lists = match role {
            Role::Store => [&self.new_order, &self.taken, &self.refused_to_store, &self.cancelled_to_store],
            Role::Customer => [&self.pickup_code, &self.ready, &self.refused_to_customer, &self.cancelled_to_customer],
        };
        lists.into_iter().flatten().cloned().collect()
    }
}

fn told<'a>(order: &'a Order, fields: &[Field]) -> Body<'a> {
    let may = |field: Field| fields.contains(&field);
    Body {
        store: order.store.as_ref().filter(|_| may(Field::Store)),
        amount: order.amount.filter(|_| may(Field::Amount)),
        currency: order.currency.as_deref().filter(|_| may(Field::Currency)),
        code: order.code.as_ref().filter(|_| may(Field::Code)),
        device: order.device.as_ref().filter(|_| may(Field::Device)),
        reason: order.reason.as_deref().filter(|_| may(Field::Reason)),
        details: details(order, fields),
        flags: if may(Field::Flags) { &order.flags } else { &[] },
        ..Body::default()
    }
}

fn details<'a>(order: &'a Order, fields: &[Field]) -> Option<Cow<'a, RawValue>> {
    let all = order.details.as_deref()?;
    if fields.contains(&Field::Details) {
        return Some(Cow::Borrowed(all));
    }
    let members: Map<String, Value> = serde_json::from_str(all.get()).ok()?;
    let may = |name: &str| fields.iter().any(|field| matches!(field, Field::Detail(known) if known == name));
    let kept: Map<String, Value> = members.into_iter().filter(|(name, _)| may(name)).collect();
    if kept.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(&kept).ok().map(Cow::Owned)
}

/// The body of a notice. `cancels` is the id of the NewOrder that the store was told.
pub(crate) fn body(
    order: &Order,
    to: Role,
    kind: NoticeKind,
    cancels: Option<String>,
    visible: &Visible,
) -> Box<RawValue> {
    let takes_back = to == Role::Store && matches!(kind, NoticeKind::Refused | NoticeKind::Cancelled);
    raw(&Body { cancels: cancels.filter(|_| takes_back), ..told(order, visible.of(kind, to)) })
}

/// The body of the answer to a device whose event came too late: which device, which event, and how the order had ended.
pub(crate) fn declined(event: &Event, why: &str) -> Box<RawValue> {
    raw(&Body { device: event.device.as_ref(), event: Some(&event.id), reason: Some(why), ..Body::default() })
}

/// All that a role may see of an order: what its notices say, taken together.
pub(crate) fn seen_by(order: &Order, role: Role, visible: &Visible) -> Box<RawValue> {
    raw(&told(order, &visible.all_of(role)))
}

fn raw(body: &Body<'_>) -> Box<RawValue> {
    serde_json::value::to_raw_value(body).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
