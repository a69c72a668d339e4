//! The timeline of an order for one recipient: when each event occurred and was consumed and applied, and when each notice was persisted, sent,
//! acknowledged and displayed, by device.
//!
//! Pure: the order's history and the mailbox's delivery log go in, one list in time order comes out. A recipient sees its own part: a customer
//! sees no device of the store, and nobody sees the delivery of another's notices.

use orderbell_protocol::frame::{TimelineEntry, TimelineStep};
use orderbell_protocol::{DeviceId, NoticeKind, Recipient, Role, UnixMs};

use orderbell_ledger::{DeliveryHistory, DeliveryStep, LoggedNotice};
use orderbell_orders::order::HistoryEntry;

/// Longest timeline: many devices with many redeliveries make a long one.
const MAX_ENTRIES: usize = 200;

/// The timeline of an order with this `history` for `who`, oldest entry first.
pub(super) fn timeline(history: &[HistoryEntry], who: &Recipient, deliveries: &DeliveryHistory) -> Vec<TimelineEntry> {
    let mut entries = Vec::new();
    for entry in history {
        add_event(entry, who.role, &mut entries);
    }
    for notice in &deliveries.notices {
        entries.extend(notice.stored_at.map(|at| of_notice(at, TimelineStep::Persisted, notice.kind)));
        add_deliveries(notice, deliveries, &mut entries);
    }
    // A stable sort: entries of one millisecond stay in the order of the steps.
    entries.sort_by_key(|entry| entry.at);
    entries.truncate(MAX_ENTRIES);
    entries
}

fn of_event(at: UnixMs, step: TimelineStep, event: &str) -> TimelineEntry {
    TimelineEntry { at, step, event: Some(event.to_owned()), kind: None, device: None, attempt: None }
}

fn of_notice(at: UnixMs, step: TimelineStep, kind: NoticeKind) -> TimelineEntry {
    TimelineEntry { at, step, event: None, kind: Some(kind), device: None, attempt: None }
}

fn add_event(entry: &HistoryEntry, to: Role, entries: &mut Vec<TimelineEntry>) {
    let HistoryEntry(event, at, consumed_at, applied_at, device) = entry;
    let device = device.as_ref().filter(|_| to == Role::Store).map(|device| device.as_str().to_owned());
    entries.push(TimelineEntry { device, ..of_event(*at, TimelineStep::Occurred, event) });
    entries.extend(consumed_at.map(|at| of_event(at, TimelineStep::Consumed, event)));
    entries.push(of_event(*applied_at, TimelineStep::Applied, event));
}

/// Adds what is known of one notice's delivery to each device.
fn add_deliveries(notice: &LoggedNotice, deliveries: &DeliveryHistory, entries: &mut Vec<TimelineEntry>) {
    let mut acked: Vec<&DeviceId> = Vec::new();
    for (at, device, step) in &deliveries.steps {
        let (step, attempt) = match step {
            DeliveryStep::Sent { from, to, attempt } if (*from..=*to).contains(&notice.seq) => {
                (TimelineStep::Sent, Some(u32::from(*attempt)))
            }
            // Acknowledgements are cumulative: a device's first one at or above this seq counts.
            DeliveryStep::Acked(to) if *to >= notice.seq && !acked.contains(&device) => {
                acked.push(device);
                (TimelineStep::Acked, None)
            }
            DeliveryStep::Displayed(seq) if *seq == notice.seq => (TimelineStep::Displayed, None),
            DeliveryStep::Nacked(seq) if *seq == notice.seq => (TimelineStep::Nacked, None),
            _ => continue,
        };
        let device = Some(device.as_str().to_owned());
        entries.push(TimelineEntry { device, attempt, ..of_notice(*at, step, notice.kind) });
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
    fn a_timeline_is_in_time_order_and_shows_each_recipient_its_part() {
        let store = Recipient { shadow: false, role: Role::Store, id: id("17") };
        let event = |name: &str, at, device: Option<&str>| {
            HistoryEntry(name.into(), UnixMs(at), Some(UnixMs(at + 1)), UnixMs(at + 2), device.map(id))
        };
        let events = vec![event("order.paid", 100, None), event("order.accepted", 900, Some("a"))];
        let new_order = String::from("n1");
        let sent = |attempt| DeliveryStep::Sent { from: 5, to: 9, attempt };
        let deliveries = DeliveryHistory {
            notices: vec![LoggedNotice {
                id: new_order,
                kind: NoticeKind::NewOrder,
                seq: 7,
                stored_at: Some(UnixMs(103)),
            }],
            steps: vec![
                (UnixMs(104), id("a"), sent(1)),
                (UnixMs(105), id("b"), DeliveryStep::Acked(6)),
                (UnixMs(200), id("a"), sent(2)),
                (UnixMs(201), id("a"), DeliveryStep::Acked(9)),
                (UnixMs(202), id("a"), DeliveryStep::Acked(12)),
                (UnixMs(300), id("a"), DeliveryStep::Displayed(7)),
            ],
        };
        let shown: Vec<String> = timeline(&events, &store, &deliveries)
            .iter()
            .map(|entry| {
                let TimelineEntry { at, step, event, kind, device, attempt } = entry.clone();
                let attempt = attempt.map_or(String::new(), |attempt| attempt.to_string());
                let (event, device) = (event.unwrap_or_default(), device.unwrap_or_default());
                [at.0.to_string().as_str(), step.word(), &event, kind.map_or("", NoticeKind::word), &device, &attempt]
                    .join(" ")
            })
            .collect();
        let wanted = [
            "100 occurred order.paid   ",
            "101 consumed order.paid   ",
            "102 applied order.paid   ",
            "103 persisted  new_order  ",
            "104 sent  new_order a 1",
            "200 sent  new_order a 2",
            "201 acked  new_order a ",
            "300 displayed  new_order a ",
            "900 occurred order.accepted  a ",
            "901 consumed order.accepted   ",
            "902 applied order.accepted   ",
        ];
        assert_eq!(shown, wanted);
        let customer = Recipient { role: Role::Customer, ..store };
        let seen = timeline(&events, &customer, &DeliveryHistory::default());
        assert!(seen.iter().all(|entry| entry.device.is_none()), "{seen:?}");
    }
}
