//! The bin of the balance in which a record that may be a paid order ends: one function decides it, for the server and for reconciliation.
//!
//! A record is counted with the state of its order, which remembers the newest record of each partition: records of one order are read in the
//! order of their offsets, so one that is not newer was counted before. An order that waits for its store stands in the bin `awaits_store`
//! and moves on when the notice is made, or is of no more use.

use orderbell_consumers::Record;
use orderbell_protocol::balance::{Bin, BinDelta, BinKey, RecordPlace};
use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::{Event, EventType, NoticeKind, UnixMs};
use serde::{Deserialize, Serialize};

use super::{ApplyResult, Effects, Order, Unannounced};

/// Partitions of which an order remembers the newest record. One has its order's events from one or two topics.
const MAX_PARTITIONS: usize = 8;

/// The records of an order that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BinnedRecords {
    /// The newest of each partition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    newest: Vec<Newest>,
    /// Topic and [`BinKey::reason`] of the record for which the order stands in the bin `awaits_store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_in: Option<(String, String)>,
}

/// Stored as a short array: hash of topic and partition, offset, and fingerprints of the parts of the record at that offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Newest(u64, u64, Vec<u32>);

impl BinnedRecords {
    /// True when nothing was counted: most states need no room for it.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.waits_in.is_none()
    }

    /// Remembers a record; false when it was counted before.
    fn add(&mut self, record: &Record) -> bool {
        let partition = format!("{}\0{}", record.partition.topic, record.partition.number);
        let hash = xxhash_rust::xxh3::xxh3_64(partition.as_bytes());
        let part = record.fingerprint() as u32;
        match self.newest.iter_mut().find(|newest| newest.0 == hash) {
            Some(newest) if newest.1 > record.offset => return false,
            Some(newest) if newest.1 == record.offset => {
                let is_new = !newest.2.contains(&part);
                newest.2.extend(is_new.then_some(part));
                return is_new;
            }
            Some(newest) => *newest = Newest(hash, record.offset, vec![part]),
            None => {
                if self.newest.len() >= MAX_PARTITIONS {
                    self.newest.remove(0);
                }
                self.newest.push(Newest(hash, record.offset, vec![part]));
            }
        }
        true
    }
}

/// The bin of a paid event that is too old for a notice. Only what was recorded before this ledger began is history: what was recorded later and
/// comes too late, after an outage say, is an order that somebody waits for. `history_before` is when the ledger began.
#[must_use]
pub fn too_old(recorded_at: UnixMs, history_before: UnixMs) -> Bin {
    if recorded_at.0 > 0 && recorded_at < history_before { Bin::History } else { Bin::TooOld }
}

impl Order {
    /// What the record of `event`, which led from `before` to this order with these effects, changes in the balance. This order remembers it.
    pub fn bin_changes(
        &mut self,
        before: Option<&Self>,
        record: &Record,
        event: &Event,
        effects: &Effects,
        history_before: UnixMs,
    ) -> Vec<BinDelta> {
        let is_announced = effects.notices.iter().any(|notice| notice.kind == NoticeKind::NewOrder);
        let announced = || match (is_announced, effects.is_new_order_expired) {
            (true, _) => Bin::Notified,
            (false, true) => too_old(UnixMs(record.timestamp_ms), history_before),
            (false, false) => Bin::Superseded,
        };
        let change = |topic: &str, bin: Bin, reason: &str, by: i64| BinDelta {
            key: BinKey { shadow: event.shadow, topic: topic.to_owned(), bin, reason: reason.to_owned() },
            by,
            place: RecordPlace { partition: record.partition.number, offset: record.offset },
        };
        let awaits_store = self.awaits_store();
        let mut changes = Vec::new();
        if let Some((topic, reason)) = self.binned.waits_in.take_if(|_| !awaits_store) {
            changes.extend([change(&topic, Bin::AwaitsStore, &reason, -1), change(&topic, announced(), &reason, 1)]);
        }
        let was_paid = before.is_some_and(|order| order.stage >= OrderStage::Paid);
        let is_paid_now = !was_paid && self.stage >= OrderStage::Paid;
        if (event.kind != EventType::Paid && !is_paid_now) || !self.binned.add(record) {
            return changes;
        }
        let bin = match (effects.result, effects.further_payment) {
            (_, Some(Unannounced::AfterEnd)) => Bin::AfterEnd,
            (_, Some(_)) => Bin::SecondPayment,
            (ApplyResult::Duplicate, None) => Bin::Duplicate,
            (ApplyResult::LatePayment, None) => Bin::LatePayment,
            (_, None) if is_paid_now && awaits_store => Bin::AwaitsStore,
            (_, None) if is_paid_now => announced(),
            // A cancellation was read before the payment.
            (_, None) if !was_paid => Bin::Superseded,
            (_, None) => Bin::Stale,
        };
        // So the payments of a topic are told apart from other events, of which it depends on the reading order whether they count.
        let reason = if event.kind == EventType::Paid { "" } else { event.kind.name() };
        if bin == Bin::AwaitsStore {
            self.binned.waits_in = Some((record.partition.topic.to_string(), reason.to_owned()));
        }
        changes.push(change(&record.partition.topic, bin, reason, 1));
        changes
    }
}

#[cfg(test)]
#[path = "bins_tests.rs"]
mod tests;
