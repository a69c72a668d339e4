//! The handler: a turn of one key's records becomes one durable write.
//!
//! Decode, `apply`, hand all effects over, wait until they are durable, answer one outcome per record. What cannot be understood is
//! rejected alone: what stood before it in the turn is written first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::quality::RandomState;
use orderbell_consumers::stats::Count;
use orderbell_consumers::{Handler, KeyHash, Outcome, Part, Reason, Record, Turn};
use orderbell_protocol::notice::{Encoded, Notice};
use orderbell_protocol::{Event, UnixMs};

use super::life::{Effects, LifeRules, Order};
use super::mapping::Mapping;
use super::{outgoing, tally};
use crate::crash;
use crate::ledger::{DiskError, Ledger, NewNotice, OrderKey, TurnEffects};
use crate::observe::Delay;

/// Topic of records that Orderbell puts into its own queues: time to look whether an order may be forgotten.
pub const SWEEP_TOPIC: &str = "orderbell.sweep";

/// What ingest counts.
#[derive(Debug, Default)]
pub struct IngestStats {
    /// Events by type and verdict.
    pub events: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Notices made, by kind.
    pub notices: Mutex<BTreeMap<&'static str, u64>>,
    /// Records rejected, by reason.
    pub rejected: Mutex<BTreeMap<&'static str, u64>>,
    /// Dead letters that look like paid orders: somebody waits for a meal.
    pub paid_rejected: Count,
    /// Notices owed and too old to ring.
    pub too_old: Count,
    /// Orders forgotten after their retention.
    pub forgotten: Count,
    /// From an event's own time until it was read.
    pub read_delay: Delay,
    /// From reading a record until it was durable.
    pub commit_delay: Delay,
}

fn count<K: Ord>(map: &Mutex<BTreeMap<K, u64>>, key: K) {
    *map.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(0) += 1;
}

/// Handles the records of order topics.
pub struct OrderHandler {
    ledger: Arc<Ledger>,
    mapping: Mapping,
    rules: ArcSwap<LifeRules>,
    seed: RandomState,
    stats: Arc<IngestStats>,
}

/// The states that a turn works on: usually one, more only when keys collide.
type Held = Vec<(OrderKey, Option<Order>)>;

impl OrderHandler {
    /// A handler that writes to `ledger`.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, mapping: Mapping, rules: LifeRules) -> Self {
        Self {
            ledger,
            mapping,
            rules: ArcSwap::from_pointee(rules),
            seed: RandomState::default(),
            stats: Arc::default(),
        }
    }

    /// What orders go by now.
    #[must_use]
    pub fn rules(&self) -> Arc<LifeRules> {
        self.rules.load_full()
    }

    /// From the next event on, orders go by these.
    pub fn renew(&self, rules: LifeRules) {
        self.rules.store(Arc::new(rules));
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> &Arc<IngestStats> {
        &self.stats
    }

    /// The key of an order: the same for all topics, and for what Orderbell puts into its queues itself.
    #[must_use]
    pub fn key_of(&self, order: &str) -> KeyHash {
        use std::hash::BuildHasher;
        KeyHash(self.seed.hash_one(order))
    }

    /// The record that makes an order's key look at its retention; `due` is the moment it was noted for.
    #[must_use]
    pub fn sweep_record(due: UnixMs, order: &OrderKey) -> Record {
        let shadow = if order.shadow { b'1' } else { b'0' };
        Record {
            part: Part::new(SWEEP_TOPIC, 0),
            offset: 0,
            timestamp_ms: due.0,
            read_ms: 0,
            key: Some(Bytes::copy_from_slice(order.id.as_str().as_bytes())),
            value: Some(Bytes::copy_from_slice(&[shadow])),
            headers: Vec::new(),
        }
    }

    /// `Err` is what becomes of the record: a ledger that cannot be read is nobody's fault but the ledger's.
    fn state(&self, held: &mut Held, order: &OrderKey) -> Result<Option<Order>, Outcome> {
        if let Some((_, state)) = held.iter().find(|(known, _)| known == order) {
            return Ok(state.clone());
        }
        let halt = |error: DiskError| Outcome::Halt(Reason { code: "ledger", message: error.to_string() });
        let row = self.ledger.order(order).map_err(halt)?;
        let state = row.map(|row| serde_json::from_slice(&row)).transpose().map_err(|error: serde_json::Error| {
            // Not the library's own words: they may quote what is stored.
            tracing::error!(
                line = error.line(),
                column = error.column(),
                "an order's stored state cannot be understood"
            );
            Outcome::Reject(Reason {
                code: "bad-state",
                message: "the order's stored state cannot be understood".into(),
            })
        })?;
        held.push((order.clone(), state.clone()));
        Ok(state)
    }

    /// One record's part of the turn. `Err` ends the turn before this record.
    fn record(&self, record: &Record, held: &mut Held, effects: &mut TurnEffects, now: UnixMs) -> Result<(), Outcome> {
        if &*record.part.topic == SWEEP_TOPIC {
            return self.sweep(record, held, effects, now);
        }
        let event = match self.mapping.decode(record, now) {
            Ok(event) => event,
            Err(reason) if reason.code == "tombstone" => {
                count(&self.stats.rejected, reason.code);
                return Ok(());
            }
            Err(reason) => return Err(self.reject(record, reason)),
        };
        self.stats.read_delay.took_ms(record.read_ms - event.at.0);
        let order = OrderKey { shadow: event.shadow, id: event.order.clone() };
        let state = self.state(held, &order)?;
        match Order::apply(state.as_ref(), &event, now, &self.rules.load()) {
            Ok((next, what)) => {
                self.note(&event, &what);
                let mut before = state.as_ref().map_or_else(Vec::new, |state| state.open_for(order.shadow));
                if effects.forgotten.contains(&order) {
                    // A sweep of the same turn took it off the lists.
                    before.clear();
                }
                let after = next.as_ref().map_or_else(|| before.clone(), |next| next.open_for(order.shadow));
                let opens =
                    after.iter().filter(|who| !before.contains(who)).map(|who| (who.clone(), order.clone(), true));
                let ends =
                    before.iter().filter(|who| !after.contains(who)).map(|who| (who.clone(), order.clone(), false));
                effects.open.extend(opens.chain(ends));
                if let Some(next) = &next {
                    let counting = &self.rules.load().counting;
                    effects.tallies.extend(tally::of_order(state.as_ref(), next, order.shadow, counting));
                }
                self.keep(&order, state.is_none(), next, what, held, effects);
                Ok(())
            }
            Err(reason) => Err(self.reject(record, reason)),
        }
    }

    fn reject(&self, record: &Record, reason: Reason) -> Outcome {
        if self.mapping.looks_paid(record) {
            self.stats.paid_rejected.up();
            tracing::error!(part = %record.part, offset = record.offset, reason = reason.code, "what looks like a paid order goes to the dead letters");
        }
        count(&self.stats.rejected, reason.code);
        if matches!(reason.code, "key-mismatch" | "store-mismatch" | "customer-mismatch") {
            tracing::error!(target: "security", part = %record.part, offset = record.offset, reason = reason.code, "an event was refused");
        }
        Outcome::Reject(reason)
    }

    fn note(&self, event: &Event, what: &Effects) {
        count(&self.stats.events, (event.kind.name(), what.verdict.word()));
        what.notices.iter().for_each(|draft| count(&self.stats.notices, draft.kind.word()));
        self.stats.too_old.add(u64::from(what.too_old));
    }

    fn keep(
        &self,
        key: &OrderKey,
        new: bool,
        next: Option<Order>,
        what: Effects,
        held: &mut Held,
        effects: &mut TurnEffects,
    ) {
        let Some(order) = next else { return };
        for draft in what.notices {
            let notice =
                Notice { id: draft.id, kind: draft.kind, order: key.id.clone(), at: draft.at, body: draft.body };
            let Ok(encoded) = Encoded::of(&notice) else { continue };
            effects.notices.push(NewNotice {
                order: key.clone(),
                id: notice.id,
                recipient: draft.recipient,
                notice: encoded,
                expires_at: draft.expires_at,
            });
        }
        for (kind, at) in what.emits {
            tracing::warn!(kind = kind.name(), "the world is told of an order");
            effects.emits.push(outgoing::decided(kind, &key.id, at, key.shadow, order.told_to_the_world()));
        }
        effects.superseded.extend(what.superseded.into_iter().map(|id| (key.clone(), id)));
        // A sweep of the same turn took its look; the order that lives on is looked at again.
        if new || effects.forgotten.contains(key) {
            effects.due.push((order.forget_at(self.rules.load().retention_ms), key.clone()));
        }
        if let Some(slot) = held.iter_mut().find(|(known, _)| known == key) {
            slot.1 = Some(order);
        }
        effects.forgotten.retain(|known| known != key);
    }

    /// Forgets an order whose retention is over, or notes when to look again.
    fn sweep(&self, record: &Record, held: &mut Held, effects: &mut TurnEffects, now: UnixMs) -> Result<(), Outcome> {
        let shadow = record.value.as_deref() == Some(b"1");
        let id = record
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok())
            .and_then(|id| orderbell_protocol::Id::new(id).ok());
        let Some(id) = id else { return Ok(()) };
        let key = OrderKey { shadow, id };
        let state = match self.state(held, &key) {
            Err(Outcome::Reject(_)) => return Ok(()),
            state => state?,
        };
        effects.looked.push((UnixMs(record.timestamp_ms), key.clone()));
        match state.as_ref().map(|order| order.forget_at(self.rules.load().retention_ms)) {
            Some(at) if at > now => effects.due.push((at, key)),
            Some(_) => {
                self.stats.forgotten.up();
                let open = state.map_or_else(Vec::new, |order| order.open_for(key.shadow));
                effects.open.extend(open.into_iter().map(|who| (who, key.clone(), false)));
                held.retain(|(known, _)| *known != key);
                effects.forgotten.push(key);
            }
            None => {}
        }
        Ok(())
    }

    async fn turn(&self, turn: Turn) -> Vec<Outcome> {
        if self.ledger.is_full() {
            return vec![Outcome::Halt(Reason { code: "disk-full", message: "there is too little free space".into() })];
        }
        crash::point("read");
        let now = now();
        let mut held = Held::new();
        let mut effects = TurnEffects::default();
        let mut outcomes = Vec::with_capacity(turn.records.len());
        for record in turn.records.iter() {
            match self.record(record, &mut held, &mut effects, now) {
                Ok(()) => outcomes.push(Outcome::Done),
                Err(outcome) => {
                    outcomes.push(outcome);
                    break;
                }
            }
        }
        for (order, state) in held {
            if let Some(state) = state
                && let Ok(bytes) = serde_json::to_vec(&state)
            {
                effects.states.push((order, bytes));
            }
        }
        crash::point("applied");
        if !effects.is_empty()
            && let Err(error) = self.ledger.commit(effects).await
        {
            return vec![Outcome::Halt(Reason { code: "ledger", message: error.to_string() })];
        }
        let durable = self::now().0;
        let read = turn.records.iter().take(outcomes.len()).filter(|record| record.read_ms > 0);
        read.for_each(|record| self.stats.commit_delay.took_ms(durable - record.read_ms));
        outcomes
    }
}

impl Handler for OrderHandler {
    fn key(&self, record: &Record) -> Option<KeyHash> {
        if &*record.part.topic == SWEEP_TOPIC {
            return record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(|key| self.key_of(key));
        }
        self.mapping.order_of(record).map(|order| self.key_of(&order))
    }

    async fn handle(self: Arc<Self>, turn: Turn) -> Vec<Outcome> {
        self.turn(turn).await
    }
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
