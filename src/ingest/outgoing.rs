//! Events that Orderbell tells the world: what a till said, what it decided itself. CloudEvents in structured mode.
//!
//! They come back like any other event, and are understood by Orderbell's own member names, whatever mapping the chain's own events need:
//! their media type says that they are ours. Through the door nobody can claim it.

use bytes::Bytes;
use orderbell_protocol::{DeviceId, EventType, Id, Recipient, Role, UnixMs};
use serde_json::{Map, Value, json};

use super::door;
use crate::ledger::Incoming;

/// Media type of our own events.
pub(super) const OWN: &str = "application/cloudevents+json; profile=orderbell";
/// Source of what Orderbell decides itself.
const SELF: &str = "orderbell";

/// An event in the making.
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: EventType,
    pub(crate) order: &'a Id,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) at: UnixMs,
    pub(crate) shadow: bool,
    pub(crate) data: Map<String, Value>,
}

/// Decided by Orderbell itself: its id is derived from the order, so deciding it again tells nobody twice.
pub(crate) fn decided(kind: EventType, order: &Id, at: UnixMs, shadow: bool, data: Map<String, Value>) -> Incoming {
    let id = format!("{}:{order}", kind.name());
    incoming(Outgoing { kind, order, id, source: SELF.into(), at, shadow, data })
}

/// Said by a client: its own id of the event is unique for its device.
pub(crate) fn said(who: &Recipient, device: &DeviceId, mut event: Outgoing<'_>) -> Incoming {
    let role = match who.role {
        Role::Store => "store",
        Role::Customer => "customer",
    };
    // Ids may hold slashes: without care, two devices of two stores could be one source.
    let plain = |id: &Id| id.as_str().replace('%', "%25").replace('/', "%2F");
    event.source = format!("{SELF}/{role}:{}/{}", plain(&who.id), plain(device));
    event.shadow = who.shadow;
    event.data.insert(role.into(), who.id.as_str().into());
    event.data.insert("device".into(), device.as_str().into());
    incoming(event)
}

fn incoming(event: Outgoing<'_>) -> Incoming {
    let Outgoing { kind, order, id, source, at, shadow, data } = event;
    let id_hash = door::id_hash(shadow, &source, &id);
    // What is said, without when: who says it again because no answer came says the same.
    let told = format!("{}\0{order}\0{}", kind.name(), Value::Object(data.clone()));
    let mut envelope = json!({
        "specversion": "1.0", "type": kind.name(), "source": source, "id": id, "subject": order.as_str(),
        "time": jiff::Timestamp::from_millisecond(at.0).unwrap_or_default().to_string(),
        "datacontenttype": "application/json", "data": data,
    });
    if shadow {
        envelope["shadow"] = Value::Bool(true);
    }
    let value = Bytes::from(envelope.to_string());
    Incoming {
        key: Bytes::copy_from_slice(order.as_str().as_bytes()),
        id_hash,
        body_hash: xxhash_rust::xxh3::xxh3_64(told.as_bytes()),
        value,
        content_type: OWN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_by(shadow: bool, store: &str, device: &str) -> u128 {
        let order = Id::new("o1").unwrap_or_else(|_| unreachable!());
        let (id, source) = (String::from("e1"), String::new());
        let event = Outgoing {
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
        said(&who, &name(device), event).id_hash
    }

    #[test]
    fn load_test_traffic_and_other_devices_have_event_ids_of_their_own() {
        let ours = said_by(false, "1", "a");
        assert_eq!(ours, said_by(false, "1", "a"));
        for (shadow, store, device) in [(true, "1", "a"), (false, "2", "a"), (false, "1", "b")] {
            assert_ne!(ours, said_by(shadow, store, device), "{shadow} {store} {device}");
        }
        assert_ne!(said_by(false, "1", "a/b"), said_by(false, "1/a", "b"), "a slash is no boundary");
        let order = Id::new("o1").unwrap_or_else(|_| unreachable!());
        let late = |shadow| decided(EventType::LatePayment, &order, UnixMs(0), shadow, Map::new()).id_hash;
        assert_ne!(late(true), late(false));
    }
}
