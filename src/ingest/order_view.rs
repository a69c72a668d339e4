//! What recipients and operators see of an order.
//!
//! A recipient sees its own orders only, and of them the fields that its notices may show. An operator sees both parts of the timeline, but
//! no pickup code, no customer and nothing of what was ordered.

use orderbell_protocol::{Id, Recipient, Role};
use serde_json::{Value, json};

use super::timeline;
use orderbell_ledger::{DeliveryHistory, OrderKey};
use orderbell_orders::notices::VisibleFields;
use orderbell_orders::order::Order;
use orderbell_orders::{notice_kinds, notices};

/// An order as its recipient sees it, with its timeline if a delivery log is given; `None` when the order is not the recipient's.
#[must_use]
pub fn for_recipient(
    who: &Recipient,
    key: &OrderKey,
    state: &[u8],
    trail: Option<&DeliveryHistory>,
    visible: &VisibleFields,
) -> Option<Value> {
    let order: Order = serde_json::from_slice(state).ok()?;
    if key.shadow != who.shadow || !order.belongs_to(who) {
        return None;
    }
    let mut view = json!({
        "order": key.id.as_str(), "stage": order.stage(), "active": order.is_active_for(who.role), "at": order.last_event_at(),
        "body": notices::fields_for(&order, who.role, visible).ok()?,
    });
    if let Some(kind) = notice_kinds::retractable(who.role) {
        // A client that learnt of the order here recognises by this id which notice a later cancellation takes back.
        view["notice"] = notices::id(key.shadow, &key.id, kind, who).into();
    }
    if let Some(outcome) = order.outcome() {
        view["outcome"] = outcome.word().into();
    }
    if let Some(trail) = trail {
        view["timeline"] = timeline::timeline(order.history(), who, trail).into();
    }
    Some(view)
}

/// An order as operators see it, with the store's and the customer's timelines merged. `trail` reads the delivery log of one mailbox.
///
/// # Errors
/// Those of `trail`.
pub fn for_operator<E>(
    key: &OrderKey,
    state: &[u8],
    trail: impl Fn(&Recipient) -> Result<DeliveryHistory, E>,
) -> Result<Option<Value>, E> {
    let Ok(order) = serde_json::from_slice::<Order>(state) else { return Ok(None) };
    let of = |role: Role, id: &Id| Recipient { shadow: key.shadow, role, id: id.clone() };
    let recipients = [(Role::Store, order.store()), (Role::Customer, order.customer())];
    let (mut entries, mut has_events) = (Vec::new(), false);
    for (role, id) in recipients.into_iter().filter_map(|(role, id)| Some((role, id?))) {
        let who = of(role, id);
        let part = timeline::timeline(order.history(), &who, &trail(&who)?);
        // Both timelines contain the order's events, each its own notices. Events are taken once.
        entries.extend(part.into_iter().filter(|entry| !has_events || entry.get("kind").is_some()).map(|mut entry| {
            if entry.get("kind").is_some() {
                entry["to"] = role.word().into();
            }
            entry
        }));
        has_events = true;
    }
    entries.sort_by_key(|entry| entry["at"].as_i64());
    let mut view = json!({
        "order": key.id.as_str(), "stage": order.stage(), "active": order.is_active_for(Role::Store), "at": order.last_event_at(),
        "timeline": entries,
    });
    let more = [
        ("store", order.store().map(|id| id.as_str().to_owned())),
        ("outcome", order.outcome().map(|outcome| outcome.word().to_owned())),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            view[name] = value.into();
        }
    }
    Ok(Some(view))
}
