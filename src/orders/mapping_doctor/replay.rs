//! What becomes of a sample under a mapping, in numbers. What becomes of each record is decided in [`super::super::sample_run`].

use std::collections::BTreeMap;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::Bin;
use orderbell_protocol::frame::OrderStage;

use super::super::mapping::Mapping;
use super::super::order::{OrderPolicy, Unannounced};
use super::super::sample_run::{AppliedSample, SampleOrder, SampleResult, SampleRun, read_at};
use super::report::{DeadLetterCount, SampleNumbers};

/// The result of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventOutcome {
    Notifies,
    Silent,
    Ignored,
    Rejected,
}

/// The results of all events.
pub(super) struct Replayed {
    pub(super) numbers: SampleNumbers,
    /// Of each record of one event, by its index.
    pub(super) outcomes: Vec<EventOutcome>,
    /// Why fields were flagged: pointer, sentence, number of events.
    pub(super) flags: BTreeMap<(String, &'static str), u64>,
}

impl Replayed {
    /// True where this is at least as good as `other`: no more is lost or rejected, stores are notified if they were, and no more is flagged unless
    /// more events are understood.
    pub(super) fn is_no_worse_than(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.numbers, &other.numbers);
        self.failed() <= other.failed()
            && ours.rejected() <= theirs.rejected()
            && (ours.announced_orders > 0 || theirs.announced_orders == 0)
            && (ours.understood() > theirs.understood() || self.flagged() <= other.flagged())
    }

    /// True where fewer are lost, rejected or flagged than in `other`, or come no further than to their type or order.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        self.failed() < other.failed()
            || self.numbers.rejected() < other.numbers.rejected()
            || self.without_type_or_order() < other.without_type_or_order()
            || self.flagged() < other.flagged()
    }

    /// Dead letters and paid orders without a notice. A dead letter counts whether it looks paid or not: that is seen only once its type is understood.
    fn failed(&self) -> u64 {
        self.numbers.rejected() + self.numbers.unannounced.values().sum::<u64>()
    }

    /// Dead letters of which not even the order is known: one with a type and an order may fail for its store, which is looked for next.
    fn without_type_or_order(&self) -> u64 {
        let count = |code: &&str| self.numbers.dead_letters.get(code).map_or(0, |dead_letters| dead_letters.count);
        ["no-type", "unknown-type", "no-order"].iter().map(count).sum()
    }

    fn flagged(&self) -> u64 {
        self.flags.values().sum()
    }
}

/// Applies the records of one event each in their order. A record is as old as it was when a running server read it: the sample may be of yesterday.
pub(super) fn replay(parts: &[Record], mapping: &Mapping, policy: &OrderPolicy, now: UnixMs) -> Replayed {
    let mut run = SampleRun::new(mapping, policy, now);
    let mut replayed = Replayed { numbers: SampleNumbers::default(), outcomes: Vec::new(), flags: BTreeMap::new() };
    for record in parts {
        let result = run.add(record, (record.timestamp_ms > 0).then(|| read_at(record, now)));
        replayed.count(result);
    }
    replayed.count_orders(run.orders());
    replayed
}

impl Replayed {
    fn count(&mut self, result: SampleResult) {
        let numbers = &mut self.numbers;
        numbers.events += 1;
        let outcome = match result {
            SampleResult::Dropped(..) => {
                numbers.ignored += 1;
                EventOutcome::Ignored
            }
            SampleResult::Rejected(Reason { code, message }, bin) => {
                let new = || DeadLetterCount { message, count: 0, may_be_paid: 0 };
                let count = numbers.dead_letters.entry(code).or_insert_with(new);
                count.count += 1;
                count.may_be_paid += u64::from(bin.is_some());
                EventOutcome::Rejected
            }
            SampleResult::Applied(applied) => {
                let AppliedSample { decoded, done, .. } = *applied;
                for remark in decoded.remarks {
                    *self.flags.entry((remark.field, remark.why)).or_default() += 1;
                }
                let forgotten = (done.forgotten == Some(Bin::TooOld)).then_some(Unannounced::TooOld);
                // Those that wait for their store are counted at the end.
                let unannounced = done.unannounced.filter(|reason| *reason != Unannounced::NoStore).or(forgotten);
                if let Some(reason) = unannounced {
                    *numbers.unannounced.entry(reason.word()).or_default() += 1;
                }
                if done.notices.is_empty() {
                    numbers.silent += 1;
                    EventOutcome::Silent
                } else {
                    numbers.notifying += 1;
                    EventOutcome::Notifies
                }
            }
        };
        self.outcomes.push(outcome);
    }

    fn count_orders<'o>(&mut self, orders: impl Iterator<Item = &'o SampleOrder>) {
        let numbers = &mut self.numbers;
        let mut without_store = 0;
        for known in orders {
            numbers.orders += 1;
            numbers.paid_orders += u64::from(known.order.stage() >= OrderStage::Paid);
            numbers.announced_orders += u64::from(known.is_announced);
            without_store += u64::from(known.order.awaits_store());
        }
        if without_store > 0 {
            numbers.unannounced.insert(Unannounced::NoStore.word(), without_store);
        }
    }
}
