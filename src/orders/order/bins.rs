//! The bin of the balance in which a record that may be a paid order ends: one function decides it, for the server and for reconciliation.
//!
//! A record is counted with the state of its order, which remembers the newest record of each partition: records of one order are read in the
//! order of their offsets, so one that is not newer was counted before. An order that waits for its store stands in the bin `awaits_store`
//! and moves on when the notice is made, or is of no more use.

use orderbell_consumers::Record;
use orderbell_protocol::balance::{Bin, BinDelta, BinKey, RecordPlace};
use orderbell_protocol::event::RowChange;
use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::{Event, EventType, NoticeKind, UnixMs};
use serde::{Deserialize, Serialize};

use super::{ApplyResult, Effects, Order, Unannounced};

/// Partitions of which an order remembers the newest record. One has its order's events from one or two topics.
const MAX_PARTITIONS: usize = 8;

/// Which log of a partition a record is of: offsets of two logs are not compared. 0 is the first that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogNumber(pub u64);

/// The records of an order that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BinnedRecords {
    /// The newest of each partition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    newest: Vec<Newest>,
    /// The record for which the order stands in the bin `awaits_store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<Waits>,
}

/// Stored as a short array: topic, [`BinKey::reason`], partition and offset of the record, and when it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waits(String, String, u32, u64, UnixMs);

/// Stored as a short array: hash of topic, partition and log, offset, and fingerprints of the parts of the record at that offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Newest(u64, u64, Vec<u32>);

impl BinnedRecords {
    /// True when nothing was counted: most states need no room for it.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.waits.is_none()
    }

    /// Remembers a record of a log; false when it was counted before.
    fn add(&mut self, record: &Record, log: LogNumber) -> bool {
        let mut partition = format!("{}\0{}", record.partition.topic, record.partition.number);
        if log.0 > 0 {
            partition.push_str(&format!("\0{}", log.0));
        }
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

/// The bin of a paid event that is too old for a notice. What was handled before this ledger began is history (`was_handled`), and so is what a row
/// says that was paid before its record was written (`is_history`). What comes too late otherwise, after an outage say, is an order that somebody
/// waits for.
#[must_use]
pub fn too_old(is_history: bool, was_handled: bool) -> Bin {
    if is_history || was_handled { Bin::History } else { Bin::TooOld }
}

/// The bin of a paid event that is older than the state retention, about an order that is not known. A row that was paid before its last update has
/// had its payment in a record of its own.
#[must_use]
pub fn forgotten(event: &Event, was_handled: bool) -> Bin {
    too_old(event.row.is_some_and(RowChange::is_old), was_handled)
}

impl Order {
    /// What the record of `event`, which led from `before` to this order with these effects at `now`, changes in the balance. This order remembers
    /// it. `was_handled` says that the record is of the time before this ledger.
    pub fn bin_changes(
        &mut self,
        before: Option<&Self>,
        (record, log): (&Record, LogNumber),
        event: &Event,
        effects: &Effects,
        was_handled: bool,
        now: UnixMs,
    ) -> Vec<BinDelta> {
        let is_announced = effects.notices.iter().any(|notice| notice.kind == NoticeKind::NewOrder);
        let announced = || match (is_announced, effects.is_new_order_expired) {
            (true, _) => Bin::Notified,
            (false, true) => too_old(effects.is_history, was_handled),
            (false, false) => Bin::Superseded,
        };
        let key = |topic: &str, bin: Bin, reason: &str| BinKey {
            shadow: event.shadow,
            topic: topic.to_owned(),
            bin,
            reason: reason.to_owned(),
        };
        let awaits_store = self.awaits_store();
        let mut changes = Vec::new();
        let moved = self.binned.waits.take_if(|_| !awaits_store);
        let is_announced_now = moved.is_none() && (is_announced || effects.is_new_order_expired);
        if let Some(Waits(topic, reason, partition, offset, since)) = moved {
            let place = RecordPlace { partition, offset };
            let left = key(&topic, Bin::AwaitsStore, &reason);
            changes.push(BinDelta { key: left, by: -1, place, waits_since: Some(since) });
            changes.push(BinDelta { key: key(&topic, announced(), &reason), by: 1, place, waits_since: None });
        }
        let was_paid = before.is_some_and(|order| order.stage >= OrderStage::Paid);
        let is_paid_now = !was_paid && self.stage >= OrderStage::Paid;
        // The state of an earlier version may wait without being counted: its next event is counted for it.
        let begins_to_wait = awaits_store && self.binned.waits.is_none() && effects.result != ApplyResult::Duplicate;
        let is_counted = event.kind == EventType::Paid || is_paid_now || begins_to_wait;
        if !is_counted || !self.binned.add(record, log) {
            return changes;
        }
        let bin = match (effects.result, effects.further_payment) {
            (_, Some(Unannounced::AfterEnd)) => Bin::AfterEnd,
            (_, Some(Unannounced::LatePayment)) => Bin::LatePayment,
            (_, Some(_)) => Bin::SecondPayment,
            (ApplyResult::Duplicate, None) => Bin::Duplicate,
            (ApplyResult::LatePayment, None) => Bin::Stale,
            (_, None) if begins_to_wait => Bin::AwaitsStore,
            (_, None) if is_paid_now || is_announced_now => announced(),
            // A cancellation was read before the payment.
            (_, None) if !was_paid => Bin::Superseded,
            (_, None) => Bin::Stale,
        };
        // So the payments of a topic are told apart from other events, of which it depends on the reading order whether they count.
        let reason = if event.kind == EventType::Paid { "" } else { event.kind.name() };
        let (topic, partition) = (&*record.partition.topic, record.partition.number);
        let waits_since = (bin == Bin::AwaitsStore).then_some(now);
        if let Some(since) = waits_since {
            self.binned.waits = Some(Waits(topic.to_owned(), reason.to_owned(), partition, record.offset, since));
        }
        let place = RecordPlace { partition, offset: record.offset };
        changes.push(BinDelta { key: key(topic, bin, reason), by: 1, place, waits_since });
        changes
    }
}

#[cfg(test)]
#[path = "bins_tests.rs"]
mod tests;
