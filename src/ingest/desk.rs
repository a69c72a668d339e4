//! What clients say: understood, and checked against who they are and what their order is.
//!
//! A till speaks about its own store's orders, a customer about their own; an order that is unknown and one that is somebody else's look
//! the same. What they see of an order is decided here, too. The same rules hold once more when the event comes back and is applied: here they spare the sender a wait, there they decide.

use orderbell_protocol::{ClientEvent, DeviceId, EventType, Id, NoticeKind, Recipient, Role, UnixMs};
use serde_json::{Map, Value, json};

use super::life::{Order, Stage};
use super::notices::Visible;
use super::outgoing::{self, Outgoing};
use super::{notices, timeline};
use crate::ledger::{Incoming, Ledger, OrderKey, Trail};

/// Longest id that a client gives an event, longest pickup code and longest reason, in characters.
const ID_CHARS_MAX: usize = 64;
const CODE_CHARS_MAX: usize = 32;
const REASON_CHARS_MAX: usize = 200;

/// What each role may say.
const MAY_SAY: [(Role, &[EventType]); 2] = [
    (Role::Store, &[EventType::Accepted, EventType::Refused, EventType::Ready, EventType::PickedUp]),
    (Role::Customer, &[EventType::PickedUp]),
];

/// Takes what a client says.
///
/// # Errors
/// A stable word: what is wrong with it, or that the order is not there for this client.
pub fn open(
    ledger: &Ledger,
    who: &Recipient,
    device: &DeviceId,
    said: &ClientEvent,
    now: UnixMs,
) -> Result<Incoming, &'static str> {
    if ledger.is_full() {
        return Err("unavailable");
    }
    let too_long = |text: Option<&str>, max: usize| text.is_some_and(|text| text.chars().count() > max);
    if said.id.is_empty() || too_long(Some(&said.id), ID_CHARS_MAX) {
        return Err("bad-id");
    }
    let code = said.code.as_ref().map(|code| code.0.as_str());
    if too_long(code, CODE_CHARS_MAX) || too_long(said.reason.as_deref(), REASON_CHARS_MAX) {
        return Err("too-long");
    }
    // What one client writes, others print line by line.
    let plain = |text: Option<&str>| text.is_none_or(|text| !text.chars().any(char::is_control));
    if !plain(code) || !plain(said.reason.as_deref()) {
        return Err("bad-text");
    }
    let kind = EventType::named(&said.kind).ok_or("unknown-kind")?;
    if !MAY_SAY.iter().any(|(role, kinds)| *role == who.role && kinds.contains(&kind)) {
        return Err("forbidden");
    }
    let order = Id::new(&said.order).map_err(|_| "bad-order")?;
    let key = OrderKey { shadow: who.shadow, id: order.clone() };
    // While the log is read again, an order that is not here may merely not be read yet.
    let missing = if ledger.is_in_doubt() { "unavailable" } else { "not-found" };
    let state = ledger.order(&key).map_err(|_| "unavailable")?.ok_or(missing)?;
    let state: Order = serde_json::from_slice(&state).map_err(|_| "not-found")?;
    if !owns(who, &state) {
        return Err("not-found");
    }
    // Nobody collects what no store has taken: it would end an order that nobody has heard of.
    if who.role == Role::Customer && state.stage() < Stage::Accepted {
        return Err("too-early");
    }
    let members = [("code", code), ("reason", said.reason.as_deref())];
    let data: Map<String, Value> =
        members.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect();
    // A till's clock may be wrong by days: what it says happened now, and not before what is known of the order already. Otherwise an old date
    // would make what follows too old to be told.
    let at = said.at.unwrap_or(now).clamp(state.last_at().min(now), now);
    let id = said.id.clone();
    let event = Outgoing { kind, order: &order, id, source: String::new(), at, shadow: false, data };
    Ok(outgoing::said(who, device, event))
}

fn owns(who: &Recipient, order: &Order) -> bool {
    let owner = match who.role {
        Role::Store => order.store(),
        Role::Customer => order.customer(),
    };
    owner == Some(&who.id)
}

/// What a recipient sees of an order, with its story when a trail is given; nothing when it is not theirs. The same allow-list as for
/// notices.
#[must_use]
pub fn view(who: &Recipient, key: &OrderKey, state: &[u8], trail: Option<&Trail>, visible: &Visible) -> Option<Value> {
    let order: Order = serde_json::from_slice(state).ok()?;
    if key.shadow != who.shadow || !owns(who, &order) {
        return None;
    }
    let mut seen = json!({
        "order": key.id.as_str(), "stage": order.stage(), "open": order.is_open_for(who.role), "at": order.last_at(),
        "body": notices::seen_by(&order, who.role, visible),
    });
    if who.role == Role::Store {
        // Whoever learnt of an order here knows by this what a later cancel takes back.
        seen["notice"] = notices::id(key.shadow, &key.id, NoticeKind::NewOrder, who).into();
    }
    if let Some(end) = order.end() {
        seen["end"] = end.word().into();
    }
    if let Some(trail) = trail {
        seen["timeline"] = timeline::timeline(&order, who, key, trail).into();
    }
    Some(seen)
}

/// The whole story of an order, for operators: where it stands, and both mailboxes' parts of its timeline. No code, no customer, nothing that
/// was ordered. `trail` tells what became of its notices in a mailbox.
///
/// # Errors
/// Those of `trail`.
pub fn story<E>(
    key: &OrderKey,
    state: &[u8],
    trail: impl Fn(&Recipient) -> Result<Trail, E>,
) -> Result<Option<Value>, E> {
    let Ok(order) = serde_json::from_slice::<Order>(state) else { return Ok(None) };
    let of = |role: Role, id: &Id| Recipient { shadow: key.shadow, role, id: id.clone() };
    let recipients = [(Role::Store, order.store()), (Role::Customer, order.customer())];
    let (mut entries, mut facts_told) = (Vec::new(), false);
    for (role, id) in recipients.into_iter().filter_map(|(role, id)| Some((role, id?))) {
        let who = of(role, id);
        let part = timeline::timeline(&order, &who, key, &trail(&who)?);
        // What happened to the order is in both parts, what became of a notice in one.
        entries.extend(part.into_iter().filter(|entry| !facts_told || entry.get("kind").is_some()).map(|mut entry| {
            if entry.get("kind").is_some() {
                entry["to"] = role.word().into();
            }
            entry
        }));
        facts_told = true;
    }
    entries.sort_by_key(|entry| entry["at"].as_i64());
    let mut told = json!({
        "order": key.id.as_str(), "stage": order.stage(), "open": order.is_open_for(Role::Store), "at": order.last_at(), "timeline": entries,
    });
    let more = [
        ("store", order.store().map(|id| id.as_str().to_owned())),
        ("end", order.end().map(|end| end.word().to_owned())),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            told[name] = value.into();
        }
    }
    Ok(Some(told))
}
