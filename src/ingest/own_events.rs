//! Events that Orderbell publishes: those of tills and customers, and those it derives itself. CloudEvents in structured mode.
//!
//! They are read back like any other event, and decoded by Orderbell's own member names, whatever mapping the chain's events need: their
//! media type marks them as Orderbell's own. Events posted by HTTP cannot use that media type.

use bytes::Bytes;
use jiff::Timestamp;
use orderbell_protocol::cloud_event::CloudEvent;
use orderbell_protocol::{DeviceId, EventType, Id, Recipient, Role, UnixMs};
use serde_json::{Map, Value};

use super::http_events;
use orderbell_ledger::NewEvent;
use orderbell_orders::mapping::OWN_EVENT_MEDIA_TYPE;
use orderbell_orders::sha256;

/// CloudEvents source of the events that Orderbell derives, and prefix of the clients' sources.
const SOURCE: &str = "orderbell";

/// An event to publish, before its envelope is made.
pub(crate) struct OwnEvent<'a> {
    pub(crate) kind: EventType,
    pub(crate) order: &'a Id,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) at: UnixMs,
    pub(crate) shadow: bool,
    pub(crate) data: Map<String, Value>,
}

/// An event that Orderbell derives. Its id is made of type and order, so deriving it again after a replay is a duplicate.
pub(crate) fn derived(kind: EventType, order: &Id, at: UnixMs, shadow: bool, data: Map<String, Value>) -> NewEvent {
    let id = format!("{}:{order}", kind.name());
    incoming(OwnEvent { kind, order, id, source: SOURCE.into(), at, shadow, data })
}

/// An event of a client, whose event id is unique for its type within its device: recipient and device become the source.
pub(crate) fn from_client(who: &Recipient, device: &DeviceId, mut event: OwnEvent<'_>) -> NewEvent {
    let role = match who.role {
        Role::Store => "store",
        Role::Customer => "customer",
    };
    // Ids may contain slashes: unescaped, devices of two stores could share a source.
    let escaped = |id: &Id| id.as_str().replace('%', "%25").replace('/', "%2F");
    event.source = format!("{SOURCE}/{role}:{}/{}", escaped(&who.id), escaped(device));
    event.shadow = who.shadow;
    event.data.insert(role.into(), who.id.as_str().into());
    event.data.insert("device".into(), device.as_str().into());
    incoming(event)
}

fn incoming(event: OwnEvent<'_>) -> NewEvent {
    let OwnEvent { kind, order, id, source, at, shadow, data } = event;
    let id_hash = http_events::id_hash(shadow, &source, &id, kind);
    // The content without the time: a client that repeats an event because no answer came sends another time.
    let content = Value::Object(data.clone()).to_string();
    let envelope = CloudEvent::new(kind.name(), source, id, order.as_str(), rfc3339(at), data);
    let value = Bytes::from(CloudEvent { shadow, ..envelope }.encode());
    NewEvent {
        key: Bytes::copy_from_slice(order.as_str().as_bytes()),
        id_hash,
        body_hash: sha256::hash_64(&[kind.name().as_bytes(), order.as_str().as_bytes(), content.as_bytes()]),
        value,
        content_type: OWN_EVENT_MEDIA_TYPE.into(),
        headers: Vec::new(),
    }
}

/// The time as CloudEvents write it. A time that no calendar date has becomes the nearest one that has.
fn rfc3339(at: UnixMs) -> String {
    let (first, last) = (Timestamp::MIN.as_millisecond(), Timestamp::MAX.as_millisecond());
    Timestamp::from_millisecond(at.0.clamp(first, last)).expect("the time is within the range of dates").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of_event_by(shadow: bool, store: &str, device: &str) -> u128 {
        let order = Id::new("o1").unwrap_or_else(|_| unreachable!());
        let (id, source) = (String::from("e1"), String::new());
        let event = OwnEvent {
            kind: EventType::Ready,
            order: &order,
            id,
            source,
            at: UnixMs(0),
            shadow: false,
            data: Map::new(),
        };
        let name = |text: &str| Id::new(text).unwrap_or_else(|_| unreachable!());
        let who = Recipient { shadow, role: Role::Store, id: name(store) };
        from_client(&who, &name(device), event).id_hash
    }

    #[test]
    fn shadow_traffic_and_other_devices_have_distinct_event_ids() {
        let ours = id_of_event_by(false, "1", "a");
        assert_eq!(ours, id_of_event_by(false, "1", "a"));
        for (shadow, store, device) in [(true, "1", "a"), (false, "2", "a"), (false, "1", "b")] {
            assert_ne!(ours, id_of_event_by(shadow, store, device), "{shadow} {store} {device}");
        }
        assert_ne!(
            id_of_event_by(false, "1", "a/b"),
            id_of_event_by(false, "1/a", "b"),
            "a slash in an id does not shift the boundary"
        );
        let order = Id::new("o1").unwrap_or_else(|_| unreachable!());
        let late = |shadow| derived(EventType::LatePayment, &order, UnixMs(0), shadow, Map::new()).id_hash;
        assert_ne!(late(true), late(false));
    }
}
