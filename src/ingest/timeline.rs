//! The story of one order, for one viewer: what happened, when it was read, decided and stored, and what became of each notice on each device.
//!
//! Pure: the order's own story and the mailbox's trail go in, one list in time comes out. Each viewer gets its part: a customer sees no
//! device of the store, nobody sees what became of another's notices.

use orderbell_protocol::{DeviceId, NoticeKind, Recipient, Role, UnixMs};
use serde_json::{Value, json};

use super::life::{Heard, Order};
use super::notices;
use crate::ledger::{OrderKey, Step, Told, Trail};

/// Entries of one story: many devices that were told again and again make long ones.
const ENTRIES_MAX: usize = 200;

/// The story of `order`, oldest first.
pub(super) fn timeline(order: &Order, who: &Recipient, key: &OrderKey, trail: &Trail) -> Vec<Value> {
    let mut entries: Vec<(UnixMs, Value)> = Vec::new();
    for heard in &order.story {
        happened(heard, who.role, &mut entries);
    }
    for told in &trail.notices {
        let same = |kind: &&NoticeKind| notices::id(key.shadow, &key.id, **kind, who) == told.id;
        // The only kind whose id has an occurrence in it.
        let kind = NoticeKind::KNOWN.iter().find(same).map_or(NoticeKind::Declined, |kind| *kind).word();
        if let Some(at) = told.stored_at {
            entries.push((at, json!({"at": at, "step": "stored", "kind": kind})));
        }
        became(told, kind, trail, &mut entries);
    }
    // Stable: what came in one millisecond stays in the order of the path.
    entries.sort_by_key(|(at, _)| *at);
    entries.into_iter().take(ENTRIES_MAX).map(|(_, entry)| entry).collect()
}

fn happened(heard: &Heard, to: Role, entries: &mut Vec<(UnixMs, Value)>) {
    let Heard(event, at, read_at, decided_at, device) = heard;
    let mut first = json!({"at": at, "step": "happened", "event": event});
    if let Some(device) = device.as_ref().filter(|_| to == Role::Store) {
        first["device"] = device.as_str().into();
    }
    entries.push((*at, first));
    entries.extend(read_at.map(|at| (at, json!({"at": at, "step": "read", "event": event}))));
    entries.push((*decided_at, json!({"at": decided_at, "step": "decided", "event": event})));
}

/// What became of one notice on each device.
fn became(told: &Told, kind: &str, trail: &Trail, entries: &mut Vec<(UnixMs, Value)>) {
    let mut received: Vec<&DeviceId> = Vec::new();
    for (at, device, step) in &trail.steps {
        let (word, attempt) = match step {
            Step::Sent { from, to, attempt } if (*from..=*to).contains(&told.seq) => ("sent", Some(*attempt)),
            // Cumulative: the first that reaches this far is the one.
            Step::Received(to) if *to >= told.seq && !received.contains(&device) => {
                received.push(device);
                ("received", None)
            }
            Step::Shown(seq) if *seq == told.seq => ("shown", None),
            Step::Unusable(seq) if *seq == told.seq => ("unusable", None),
            _ => continue,
        };
        let mut entry = json!({"at": at, "step": word, "kind": kind, "device": device.as_str()});
        if let Some(attempt) = attempt {
            entry["attempt"] = attempt.into();
        }
        entries.push((*at, entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    fn id(text: &str) -> Id {
        Id::new(text).unwrap()
    }

    #[test]
    fn a_story_is_told_in_time_and_to_each_its_part() {
        let key = OrderKey { shadow: false, id: id("o1") };
        let store = Recipient { shadow: false, role: Role::Store, id: id("17") };
        let heard = |name: &str, at, device: Option<&str>| {
            Heard(name.into(), UnixMs(at), Some(UnixMs(at + 1)), UnixMs(at + 2), device.map(id))
        };
        let mut order = Order::default();
        order.story = vec![heard("order.paid", 100, None), heard("order.accepted", 900, Some("a"))];
        let new_order = notices::id(false, &key.id, NoticeKind::NewOrder, &store);
        let sent = |attempt| Step::Sent { from: 5, to: 9, attempt };
        let trail = Trail {
            notices: vec![Told { id: new_order, seq: 7, stored_at: Some(UnixMs(103)) }],
            steps: vec![
                (UnixMs(104), id("a"), sent(1)),
                (UnixMs(105), id("b"), Step::Received(6)),
                (UnixMs(200), id("a"), sent(2)),
                (UnixMs(201), id("a"), Step::Received(9)),
                (UnixMs(202), id("a"), Step::Received(12)),
                (UnixMs(300), id("a"), Step::Shown(7)),
            ],
        };
        let told: Vec<String> = timeline(&order, &store, &key, &trail)
            .iter()
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                let attempt = entry["attempt"].as_u64().map_or(String::new(), |n| n.to_string());
                [entry["at"].to_string(), text("step"), text("event"), text("kind"), text("device"), attempt].join(" ")
            })
            .collect();
        let wanted = [
            "100 happened order.paid   ",
            "101 read order.paid   ",
            "102 decided order.paid   ",
            "103 stored  new_order  ",
            "104 sent  new_order a 1",
            "200 sent  new_order a 2",
            "201 received  new_order a ",
            "300 shown  new_order a ",
            "900 happened order.accepted  a ",
            "901 read order.accepted   ",
            "902 decided order.accepted   ",
        ];
        assert_eq!(told, wanted);
        let customer = Recipient { role: Role::Customer, ..store };
        let seen = timeline(&order, &customer, &key, &Trail::default());
        assert!(seen.iter().all(|entry| entry.get("device").is_none()), "{seen:?}");
    }
}
