//! Records that are read and applied one after another as the server would, without a ledger: for `mapping try` and `mapping doctor`.
//!
//! The rules are the server's ([`super::event_effects`]); what is here is what the server's queues and ledger add: a record is taken apart, an order's
//! state is known until its retention is over, and a record at which the rules panic is a dead letter.

use std::borrow::Cow;
use std::collections::BTreeMap;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::balance::Bin;
use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::{NoticeKind, OrderKey, UnixMs};

use super::event_effects::{ApplyContext, EventEffects, NoEffect, PANICS, apply_event, caught};
use super::mapping::{Decoded, Mapping};
use super::order::{LogNumber, Order, OrderPolicy};
use super::source_clocks::SourceClocks;

/// 2010-01-01: an earlier time stamp is implausible.
const EARLIEST: UnixMs = UnixMs(1_262_304_000_000);

/// When a running server read a record, as far as its time stamp tells: that is close enough to judge the age of its event, unless it is
/// implausible. `now` is the latest time.
#[must_use]
pub fn read_at(record: &Record, now: UnixMs) -> UnixMs {
    UnixMs(record.timestamp_ms).max(EARLIEST).min(now)
}

/// What is known of one order of a sample.
#[derive(Clone, Debug)]
pub struct SampleOrder {
    /// Its state.
    pub order: Order,
    /// Its store was notified of it.
    pub is_announced: bool,
}

impl SampleOrder {
    /// True for a paid order of which no store is notified, though its store would have something to do.
    #[must_use]
    pub fn is_unannounced(&self) -> bool {
        self.order.stage() >= OrderStage::Paid && !self.order.is_over() && !self.is_announced
    }
}

/// What becomes of one event of a sample.
#[derive(Debug)]
pub enum SampleResult {
    /// It is applied to its order.
    Applied(Box<AppliedSample>),
    /// It is dropped without a dead letter, for this reason, and counted in this bin of the balance, if in any.
    Dropped(Reason, Option<Bin>),
    /// It becomes a dead letter. That is an alert where it has a bin: it is or may be a paid order.
    Rejected(Reason, Option<Bin>),
}

/// An event that was applied.
#[derive(Debug)]
pub struct AppliedSample {
    /// The event, and what is odd about it.
    pub decoded: Decoded,
    /// What it does.
    pub done: EventEffects,
    /// The order was known before.
    pub was_known: bool,
}

/// A sample under a mapping.
pub struct SampleRun<'a> {
    mapping: &'a Mapping,
    policy: &'a OrderPolicy,
    now: UnixMs,
    orders: BTreeMap<OrderKey, SampleOrder>,
    clocks: SourceClocks,
    /// Orders whose retention was over when an event with their id came.
    expunged: Vec<SampleOrder>,
}

impl<'a> SampleRun<'a> {
    /// Nothing is known yet. `now` tells plausible times from others.
    #[must_use]
    pub fn new(mapping: &'a Mapping, policy: &'a OrderPolicy, now: UnixMs) -> Self {
        Self { mapping, policy, now, orders: BTreeMap::new(), clocks: SourceClocks::default(), expunged: Vec::new() }
    }

    /// All orders of the sample.
    pub fn orders(&self) -> impl Iterator<Item = &SampleOrder> {
        self.expunged.iter().chain(self.orders.values())
    }

    /// Applies a record of one event, as one of [`parts_of`], that is read at this time; `None`: as soon as it happened.
    pub fn add(&mut self, record: &Record, read_at: Option<UnixMs>) -> SampleResult {
        match self.apply(record, read_at) {
            Ok(applied) => SampleResult::Applied(Box::new(applied)),
            Err(NoEffect::Dropped(reason, bin)) => SampleResult::Dropped(reason, bin),
            Err(NoEffect::Rejected(reason)) => {
                let bin = self.mapping.bin_of_dead_letter(record, reason.code);
                SampleResult::Rejected(reason, bin)
            }
        }
    }

    fn apply(&mut self, record: &Record, read_at: Option<UnixMs>) -> Result<AppliedSample, NoEffect> {
        let (mapping, policy) = (self.mapping, self.policy);
        if record.is_cut() {
            let message = "the record is longer than the server takes: its dead letter holds the beginning";
            return Err(Reason { code: "too-large", message: message.into() }.into());
        }
        caught("key-panicked", || Ok::<_, NoEffect>((mapping.parts(record), mapping.order_of(record))))?;
        let mut decoded = caught(PANICS, || mapping.read(record, read_at.unwrap_or(self.now)))?;
        self.clocks.judge(mapping, record, &mut decoded, read_at.unwrap_or(self.now));
        let event = &decoded.event;
        let now = read_at.unwrap_or(event.at);
        let key = OrderKey { shadow: event.shadow, id: event.order.clone() };
        if self.orders.get(&key).is_some_and(|known| known.order.expires_at(policy.retention_ms) <= now) {
            self.expunged.extend(self.orders.remove(&key));
        }
        let known = self.orders.get(&key);
        let context = ApplyContext { now, log: LogNumber(0), was_handled: false, policy };
        let done = caught(PANICS, || apply_event(record, event, known.map(|known| &known.order), context))?;
        let was_known = known.is_some();
        let has_new_order = done.notices.iter().any(|made| made.notice.kind == NoticeKind::NewOrder);
        let is_announced = has_new_order || known.is_some_and(|known| known.is_announced);
        if let Some(order) = done.next.clone() {
            self.orders.insert(key, SampleOrder { order, is_announced });
        }
        Ok(AppliedSample { decoded, done, was_known })
    }
}

/// The records of one event each that stand for a record: itself where it is one event, and where it cannot be taken apart.
#[must_use]
pub fn parts_of<'r>(mapping: &Mapping, record: &'r Record) -> Cow<'r, [Record]> {
    quietly(|| mapping.parts(record)).map_or(Cow::Borrowed(std::slice::from_ref(record)), Cow::Owned)
}

/// What the rules say of a record; nothing where they panic. For what is only shown beside the result.
pub fn quietly<T>(rules: impl FnOnce() -> Option<T>) -> Option<T> {
    caught(PANICS, || Ok::<_, Reason>(rules())).ok().flatten()
}

#[cfg(test)]
#[path = "sample_run_tests.rs"]
mod tests;
