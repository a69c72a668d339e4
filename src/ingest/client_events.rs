//! Events that clients send: validated, and checked against who the client is and what state its order is in.
//!
//! A till speaks about its own store's orders, a customer about their own; an unknown order and another recipient's order get the same
//! answer. The same rules apply once more when the event is read back and applied: here they give the client an early answer, there they
//! decide.

use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::id_text::is_no_id;
use orderbell_protocol::{ClientEvent, DeviceId, EventType, Id, Recipient, RejectionReason, Role, UnixMs};
use serde_json::{Map, Value};

use super::own_events::{self, OwnEvent};
use super::stored_order;
use orderbell_ledger::{Ledger, NewEvent, OrderKey};
use orderbell_orders::order::Said;

/// Longest event id, pickup code and reason that a client may send, in characters.
const MAX_ID_CHARS: usize = 64;
const MAX_CODE_CHARS: usize = 32;
const MAX_REASON_CHARS: usize = 200;

/// The event types that each role may send.
const ALLOWED_TYPES: [(Role, &[EventType]); 2] = [
    (Role::Store, &[EventType::Accepted, EventType::Refused, EventType::Ready, EventType::PickedUp]),
    (Role::Customer, &[EventType::PickedUp]),
];

/// Validates an event of a client and makes the event that is appended to the stream. None when it repeats what the order already knows: it is
/// answered as a duplicate, and nothing is written.
///
/// # Errors
/// What is wrong with the event, or that the client has no such order.
pub fn accept(
    ledger: &Ledger,
    who: &Recipient,
    device: &DeviceId,
    said: &ClientEvent,
    now: UnixMs,
) -> Result<Option<NewEvent>, RejectionReason> {
    let too_long = |text: Option<&str>, max: usize| text.is_some_and(|text| text.chars().count() > max);
    if is_no_id(&said.id) || too_long(Some(&said.id), MAX_ID_CHARS) {
        return Err(RejectionReason::BadId);
    }
    let code = said.pickup_code.as_ref().map(|code| code.0.as_str());
    if too_long(code, MAX_CODE_CHARS) || too_long(said.reason.as_deref(), MAX_REASON_CHARS) {
        return Err(RejectionReason::TooLong);
    }
    // Other systems print these texts line by line.
    let has_control = |text: Option<&str>| text.is_some_and(|text| text.chars().any(char::is_control));
    if has_control(code) || has_control(said.reason.as_deref()) {
        return Err(RejectionReason::BadText);
    }
    let kind = EventType::named(&said.kind).ok_or(RejectionReason::UnknownKind)?;
    if !ALLOWED_TYPES.iter().any(|(role, kinds)| *role == who.role && kinds.contains(&kind)) {
        return Err(RejectionReason::Forbidden);
    }
    let order = Id::parse(&said.order).map_err(|_| RejectionReason::BadOrder)?;
    let key = OrderKey { shadow: who.shadow, id: order.clone() };
    // While the ledger is being rebuilt from the log, a missing order may only not have been read yet.
    let missing = if ledger.is_rebuilding() { RejectionReason::Unavailable } else { RejectionReason::NotFound };
    let state =
        ledger.damage().check(ledger.orders().state(&key)).map_err(|_| RejectionReason::Unavailable)?.ok_or(missing)?;
    // Temporary for the client: an operator is alerted, and the event is sent again.
    let state = stored_order(ledger.damage(), &key, &state).map_err(|_| RejectionReason::Unavailable)?;
    if !state.belongs_to(who) {
        return Err(RejectionReason::NotFound);
    }
    // A customer cannot collect what no store has accepted: the event would end an order that the store has not seen yet.
    if who.role == Role::Customer && state.stage() < OrderStage::Accepted {
        return Err(RejectionReason::TooEarly);
    }
    if state.is_repeated_by(kind, Said { has_code: code.is_some(), has_reason: said.reason.is_some() }) {
        return Ok(None);
    }
    if ledger.is_disk_low() {
        return Err(RejectionReason::Unavailable);
    }
    let members = [("pickup_code", code), ("reason", said.reason.as_deref())];
    let data: Map<String, Value> =
        members.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect();
    // A till's clock may be wrong by days: the event's time is neither in the future nor before the order's last event. Otherwise an old date
    // would make the notices that follow expire at once.
    let at = said.at.unwrap_or(now).clamp(state.last_event_at().min(now), now);
    let id = said.id.clone();
    let event = OwnEvent { kind, order: &order, id, source: String::new(), at, shadow: false, data };
    Ok(Some(own_events::from_client(who, device, event)))
}
