//! What recipients and operators see of an order.
//!
//! A recipient sees its own orders only, and of them the fields that its notices may show. An operator sees both parts of the timeline, but
//! no pickup code, no customer and nothing of what was ordered.

use orderbell_protocol::admin::{TraceAnswer, TraceEntry};
use orderbell_protocol::frame::OpenOrder;
use orderbell_protocol::{Recipient, Role};

use super::{stored_order, timeline};
use orderbell_ledger::{DamagedRow, DeliveryHistory, LedgerDamage, OrderKey};
use orderbell_orders::notices::VisibleFields;
use orderbell_orders::{notice_kinds, notices};

/// An order as its recipient sees it, with its timeline if a delivery log is given; `None` when the order is not the recipient's.
///
/// # Errors
/// The stored state does not decode, or its fields cannot be written.
pub fn for_recipient(
    who: &Recipient,
    key: &OrderKey,
    state: &[u8],
    deliveries: Option<&DeliveryHistory>,
    visible: &VisibleFields,
    damage: &LedgerDamage,
) -> Result<Option<OpenOrder>, DamagedRow> {
    let order = stored_order(damage, key, state)?;
    if key.shadow != who.shadow || !order.belongs_to(who) {
        return Ok(None);
    }
    let body = notices::fields_for(&order, who.role, visible).and_then(|fields| serde_json::from_str(fields.get()));
    Ok(Some(OpenOrder {
        order: key.id.as_str().to_owned(),
        stage: order.stage(),
        active: order.is_active_for(who.role),
        outcome: order.outcome(),
        at: order.last_event_at(),
        // A client that learnt of the order here recognises by this id which notice a later cancellation takes back.
        notice: notice_kinds::retractable(who.role).map(|kind| notices::id(key.shadow, &key.id, kind, who)),
        body: body.map_err(|_| damage.record("orders", &[key.id.as_str().as_bytes()], "an order's fields"))?,
        timeline: deliveries.map(|deliveries| timeline::timeline(order.history(), who, deliveries)),
    }))
}

/// An order as operators see it, with the store's and the customer's timelines merged. `deliveries` reads the delivery log of one mailbox.
///
/// # Errors
/// Those of `deliveries`; or the stored state does not decode.
pub fn for_operator<E: From<DamagedRow>>(
    key: &OrderKey,
    state: &[u8],
    deliveries: impl Fn(&Recipient) -> Result<DeliveryHistory, E>,
    damage: &LedgerDamage,
) -> Result<TraceAnswer, E> {
    let order = stored_order(damage, key, state)?;
    let recipients = [(Role::Store, order.store()), (Role::Customer, order.customer())];
    let (mut timeline, mut has_events) = (Vec::new(), false);
    for (role, id) in recipients.into_iter().filter_map(|(role, id)| Some((role, id?))) {
        let who = Recipient { shadow: key.shadow, role, id: id.clone() };
        let part = timeline::timeline(order.history(), &who, &deliveries(&who)?);
        // Both timelines contain the order's events, each its own notices. Events are taken once.
        let entries = part.into_iter().filter(|entry| !has_events || entry.kind.is_some());
        timeline.extend(entries.map(|entry| TraceEntry { to: entry.kind.map(|_| role), entry }));
        has_events = true;
    }
    timeline.sort_by_key(|entry| entry.entry.at);
    Ok(TraceAnswer {
        order: key.id.as_str().to_owned(),
        stage: order.stage(),
        active: order.is_active_for(Role::Store),
        outcome: order.outcome(),
        store: order.store().map(|id| id.as_str().to_owned()),
        at: order.last_event_at(),
        timeline,
    })
}
