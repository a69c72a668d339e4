//! The handler: a batch of one key's records becomes one durable write.
//!
//! It reads and applies each record by [`orderbell_orders::event_effects`], and checks in the same batch whether an order's retention is over; it hands
//! all effects to the ledger's writer, waits until they are durable, and answers one outcome per record. A record that cannot be decoded ends the
//! batch: the records before it are written first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use orderbell_consumers::stats::Count;
use orderbell_consumers::{Handler, KeyBatch, KeyHash, KeyInput, Outcome, Parts, Reason, Record};
use orderbell_protocol::balance::{Bin, NOT_PUBLISHED};
use orderbell_protocol::event::RowChange;
use orderbell_protocol::{Event, UnixMs};
use tracing::{Instrument, Span};

use super::{IgnoredTypes, Place, UnannouncedOrders, Undecoded, UndecodedTopics, own_events, stored_order};
use crate::clock::wall_clock;
use crate::latency::LatencyHistogram;
use orderbell_ledger::crash;
use orderbell_ledger::{BinNote, DatabaseError, KeyBatchEffects, Ledger, NewNotice, OrderKey, RecordRange};
use orderbell_orders::counting;
use orderbell_orders::event_effects::{ApplyContext, EventEffects, MadeNotice, NoEffect, apply_event};
use orderbell_orders::event_types::IGNORED;
use orderbell_orders::mapping::{Decoded, Mapping};
use orderbell_orders::order::{Effects, LogNumber, Order, OrderPolicy, Unannounced};
use orderbell_orders::prepared::{PreparedRecord, RecordView};
use orderbell_orders::source_clocks::{ClockOff, SourceClocks};

/// Asks, in an order's own queue, whether the order's state can be expunged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExpiryCheck {
    /// The time that the ledger's expiry index names.
    pub due: UnixMs,
    /// Whose state decides whether it has expired.
    pub order: OrderKey,
}

/// Counters of ingest.
#[derive(Debug, Default)]
pub struct IngestStats {
    /// Events applied, by type and [`orderbell_orders::order::ApplyResult`].
    pub events: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Notices created, by kind.
    pub notices_created: Mutex<BTreeMap<&'static str, u64>>,
    /// Records rejected, by reason code.
    pub rejected: Mutex<BTreeMap<&'static str, u64>>,
    /// Rejected records whose type is that of a paid order: a customer waits for an order that no store knows.
    pub paid_rejected: Count,
    /// Rejected records whose type cannot be read: they may be paid orders.
    pub unreadable_rejected: Count,
    /// Rejected records of a later stage than paid: a store may hear of the order by them.
    pub later_rejected: Count,
    /// Topics of which nothing is understood.
    pub undecoded_topics: UndecodedTopics,
    /// The clocks of the producers.
    pub clocks: Mutex<SourceClocks>,
    /// Paid orders of which no store is notified.
    pub unannounced: UnannouncedOrders,
    /// Events that the configuration ignores, by type.
    pub ignored: Mutex<IgnoredTypes>,
    /// Notices that had expired before they could be made.
    pub notices_expired: Count,
    /// Orders expunged after the state retention.
    pub orders_expunged: Count,
    /// From an event's own time until its record was consumed.
    pub consume_lag: LatencyHistogram,
    /// From consuming a record until its effects were durable.
    pub commit_latency: LatencyHistogram,
}

impl IngestStats {
    /// The producers whose clocks are off.
    #[must_use]
    pub fn clocks_off(&self, now: UnixMs) -> Vec<ClockOff> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).off(now)
    }

    /// Counts an event that the configuration ignores.
    pub fn count_ignored(&self, kind: &str) {
        self.ignored.lock().unwrap_or_else(PoisonError::into_inner).count(kind);
    }
}

fn count<K: Ord>(map: &Mutex<BTreeMap<K, u64>>, key: K) {
    *map.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(0) += 1;
}

/// Handles the records of order topics.
pub struct OrderHandler {
    ledger: Arc<Ledger>,
    mapping: Mapping,
    policy: ArcSwap<OrderPolicy>,
    seed: RandomState,
    stats: Arc<IngestStats>,
}

/// Of each order of a batch, in the order of its events: whether it waits for its store, and why no store is notified of it.
type UnannouncedInBatch = Vec<(OrderKey, bool, Option<Unannounced>, Place)>;
/// The states of a batch's orders: usually one, several only when their keys have the same hash.
type KnownOrders = Vec<(OrderKey, Option<Order>)>;

impl OrderHandler {
    /// A handler that writes to `ledger`.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, mapping: Mapping, policy: OrderPolicy) -> Self {
        Self {
            ledger,
            mapping,
            policy: ArcSwap::from_pointee(policy),
            seed: RandomState::default(),
            stats: Arc::default(),
        }
    }

    /// The current order policy.
    #[must_use]
    pub fn policy(&self) -> Arc<OrderPolicy> {
        self.policy.load_full()
    }

    /// Replaces the order policy from the next event on.
    pub fn set_policy(&self, policy: OrderPolicy) {
        self.policy.store(Arc::new(policy));
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<IngestStats> {
        &self.stats
    }

    /// The dispatch key of an order: the same for all topics and for expiry checks.
    #[must_use]
    pub fn key_of(&self, order: &str) -> KeyHash {
        use std::hash::BuildHasher;
        KeyHash(self.seed.hash_one(order))
    }

    /// An order's state. `Err` is the record's outcome: a ledger that cannot be read halts ingestion, an unreadable state rejects the record.
    fn state(&self, known: &mut KnownOrders, order: &OrderKey) -> Result<Option<Order>, Outcome> {
        if let Some((_, state)) = known.iter().find(|(key, _)| key == order) {
            return Ok(state.clone());
        }
        let halt = |error: DatabaseError| Outcome::Halt(Reason { code: "ledger", message: error.to_string() });
        let row = self.ledger.orders().state(order).map_err(halt)?;
        let state = row.map(|row| stored_order(self.ledger.damage(), order, &row)).transpose().map_err(|_| {
            Outcome::Reject(Reason { code: "bad-state", message: "the order's stored state cannot be decoded".into() })
        })?;
        known.push((order.clone(), state.clone()));
        Ok(state)
    }

    /// Applies one record. `Err` ends the batch before this record.
    fn apply(
        &self,
        (record, prepared): (&Record, &PreparedRecord),
        known: &mut KnownOrders,
        effects: &mut KeyBatchEffects,
        unannounced: &mut UnannouncedInBatch,
        now: UnixMs,
    ) -> Result<(), Outcome> {
        let mut decoded = match self.mapping.read((record, Some(prepared)), now) {
            Ok(decoded) => decoded,
            Err(NoEffect::Rejected(reason)) => return Err(Outcome::Reject(reason)),
            Err(NoEffect::Dropped(reason, bin)) => {
                self.dropped((record, prepared), &reason, bin);
                return Ok(());
            }
        };
        self.stats.undecoded_topics.decoded(&record.partition.topic);
        self.observe_time(record, &mut decoded, now);
        let Decoded { event, .. } = decoded;
        let order = OrderKey { shadow: event.shadow, id: event.order.clone() };
        let state = self.state(known, &order)?;
        let policy = self.policy.load();
        let log = LogNumber(self.ledger.log_number(&record.partition));
        let context = ApplyContext { now, log, was_handled: self.ledger.is_history(record), policy: &policy };
        let done = apply_event(record, &event, state.as_ref(), context).map_err(Outcome::Reject)?;
        let EventEffects {
            next,
            effects: applied,
            notices,
            bin_deltas,
            forgotten,
            unannounced: reason,
            awaits_store,
            ..
        } = done;
        if let Some(bin) = forgotten {
            self.ledger.balance().note(record, BinNote { shadow: event.shadow, bin, reason: "" });
        }
        self.count(record, &event, &applied, &notices);
        effects.notices.extend(notices.into_iter().map(|made| new_notice(&order, made)));
        effects.bin_deltas.extend(bin_deltas);
        let mut before = state.as_ref().map_or_else(Vec::new, |state| state.active_for(order.shadow));
        if effects.expunged.contains(&order) {
            // An expiry check of the same batch removed it from the active orders.
            before.clear();
        }
        let after = next.as_ref().map_or_else(|| before.clone(), |next| next.active_for(order.shadow));
        let added = after.iter().filter(|who| !before.contains(who)).map(|who| (who.clone(), order.clone(), true));
        let removed = before.iter().filter(|who| !after.contains(who)).map(|who| (who.clone(), order.clone(), false));
        effects.open_index.extend(added.chain(removed));
        if let Some(next) = &next {
            let counting = &policy.counting;
            effects.counter_deltas.extend(counting::changes_of(state.as_ref(), next, order.shadow, counting));
        }
        unannounced.push((order.clone(), awaits_store, reason, Place::of(record)));
        self.add_effects(&order, state.is_none(), next, applied, known, effects);
        Ok(())
    }

    /// Counts a record that is no event, or an ignored one.
    fn dropped(&self, (record, prepared): (&Record, &PreparedRecord), reason: &Reason, bin: Option<Bin>) {
        if let Some(bin) = bin {
            self.ledger.balance().note(record, BinNote { shadow: false, bin, reason: "" });
        }
        if reason.code == IGNORED {
            self.stats.undecoded_topics.decoded(&record.partition.topic);
            let ignored = self.mapping.ignored((record, Some(prepared)));
            ignored.iter().for_each(|event| self.stats.count_ignored(&event.kind));
        } else {
            count(&self.stats.rejected, reason.code);
        }
    }

    /// How long an event took until its record was read, which what has long been so does not tell; and how its producer's clock goes.
    fn observe_time(&self, record: &Record, decoded: &mut Decoded, now: UnixMs) {
        if !decoded.event.row.is_some_and(RowChange::is_old) {
            self.stats.consume_lag.observe_ms(record.read_ms - decoded.event.at.0);
        }
        let mut clocks = self.stats.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.judge(&self.mapping, record, decoded, now);
    }

    /// The bin of a record that becomes a dead letter for a reason with this code; none when it is no paid order.
    #[must_use]
    pub fn note_of_dead_letter<'r>(&self, record: impl Into<RecordView<'r>>, code: &'static str) -> Option<BinNote> {
        let bin = self.mapping.bin_of_dead_letter(record, code)?;
        Some(BinNote { shadow: false, bin, reason: code })
    }

    fn count(&self, record: &Record, event: &Event, applied: &Effects, notices: &[MadeNotice]) {
        if applied.is_other_customer {
            tracing::error!(target: "security", part = %record.partition, offset = record.offset, reason = "customer-mismatch", "an event names another customer than its order has");
        }
        count(&self.stats.events, (event.kind.name(), applied.result.word()));
        notices.iter().for_each(|made| count(&self.stats.notices_created, made.notice.kind.word()));
        self.stats.notices_expired.add(u64::from(applied.expired));
        if applied.unknown_kinds > 0 {
            tracing::warn!(part = %record.partition, offset = record.offset, notices = applied.unknown_kinds, "notices that a later version was to make are given up: this version does not know their kinds");
        }
    }

    fn add_effects(
        &self,
        key: &OrderKey,
        is_new: bool,
        next: Option<Order>,
        applied: Effects,
        known: &mut KnownOrders,
        effects: &mut KeyBatchEffects,
    ) {
        let Some(order) = next else { return };
        for (kind, at) in applied.derived {
            tracing::warn!(kind = kind.name(), "publishing an event about an order");
            effects.own_events.push(own_events::derived(kind, &key.id, at, key.shadow, order.published_fields()));
        }
        effects.superseded.extend(applied.superseded.into_iter().map(|id| (key.clone(), id)));
        // An expiry check of the same batch consumed the index entry; the order that lives on needs another one.
        if is_new || effects.expunged.contains(key) {
            effects.expiry_added.push((order.expires_at(self.policy.load().retention_ms), key.clone()));
        }
        if let Some(slot) = known.iter_mut().find(|(known_key, _)| known_key == key) {
            slot.1 = Some(order);
        }
        effects.expunged.retain(|known| known != key);
    }

    /// Expunges an order whose retention is over, or enters it into the expiry index again.
    fn expire(
        &self,
        check: &ExpiryCheck,
        known: &mut KnownOrders,
        effects: &mut KeyBatchEffects,
        now: UnixMs,
    ) -> Result<(), Outcome> {
        let key = check.order.clone();
        let state = match self.state(known, &key) {
            Err(Outcome::Reject(_)) => return Ok(()),
            state => state?,
        };
        effects.expiry_done.push((check.due, key.clone()));
        match state.as_ref().map(|order| order.expires_at(self.policy.load().retention_ms)) {
            Some(at) if at > now => effects.expiry_added.push((at, key)),
            Some(_) => {
                self.stats.orders_expunged.increment();
                self.stats.unannounced.forget(&key);
                let open = state.map_or_else(Vec::new, |order| order.active_for(key.shadow));
                effects.open_index.extend(open.into_iter().map(|who| (who, key.clone(), false)));
                known.retain(|(known_key, _)| *known_key != key);
                effects.expunged.push(key);
            }
            None => {}
        }
        Ok(())
    }

    /// The span of a batch. Nothing is computed for it when the log is above debug. The key is a hash whose seed is drawn at each start, so it
    /// tells no order; offsets are those of the first record's partition.
    fn span<'b>(&self, batch: &'b KeyBatch<ExpiryCheck, PreparedRecord>) -> Span {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return Span::none();
        }
        let record = |input: &'b KeyInput<ExpiryCheck, PreparedRecord>| match input {
            KeyInput::Record(record, prepared) => Some((record, prepared.as_ref())),
            KeyInput::Task(_) => None,
        };
        let Some((first, prepared)) = batch.inputs.iter().find_map(record) else {
            return tracing::debug_span!("expiry_checks", checks = batch.inputs.len());
        };
        let order = self.mapping.order_of((first, prepared));
        let partition = &first.partition;
        let last = batch.inputs.iter().filter_map(KeyInput::record).rfind(|record| record.partition == *partition);
        tracing::debug_span!(
            "key_batch",
            key = order.map(|order| format!("{:016x}", self.key_of(&order).0)),
            topic = &*partition.topic,
            partition = partition.number,
            first_offset = first.offset,
            last_offset = last.map(|record| record.offset),
            inputs = batch.inputs.len(),
            attempts = batch.attempts,
        )
    }

    async fn process(&self, batch: KeyBatch<ExpiryCheck, PreparedRecord>) -> Vec<Outcome> {
        if self.ledger.is_disk_low() {
            return vec![Outcome::Halt(Reason { code: "disk-full", message: "there is too little free space".into() })];
        }
        crash::point("read");
        let now = wall_clock();
        let mut known = KnownOrders::new();
        let mut effects = KeyBatchEffects::default();
        let mut unannounced = UnannouncedInBatch::new();
        let mut outcomes = Vec::with_capacity(batch.inputs.len());
        for input in batch.inputs.iter() {
            let applied = match input {
                KeyInput::Record(record, prepared) => {
                    RecordRange::add(&mut effects.records, &record.partition, record.offset);
                    // Its queue may have been chosen without reading it.
                    let prepared = prepared.clone().unwrap_or_else(|| self.mapping.prepare(record));
                    self.apply((record, &prepared), &mut known, &mut effects, &mut unannounced, now)
                }
                KeyInput::Task(check) => self.expire(check, &mut known, &mut effects, now),
            };
            match applied {
                Ok(()) => outcomes.push(Outcome::Done),
                Err(outcome) => {
                    outcomes.push(outcome);
                    break;
                }
            }
        }
        for (order, state) in known {
            let Some(state) = state else { continue };
            match serde_json::to_vec(&state) {
                Ok(bytes) => effects.states.push((order, bytes)),
                // Nothing of the batch is written: notices without the state that remembers them would be made again.
                Err(error) => {
                    let message = format!("an order's state cannot be encoded ({:?})", error.classify());
                    return vec![Outcome::Halt(Reason { code: "not-encodable", message })];
                }
            }
        }
        crash::point("applied");
        if !effects.is_empty()
            && let Err(error) = self.ledger.commit(effects).await
        {
            return vec![Outcome::Halt(Reason { code: "ledger", message: error.to_string() })];
        }
        // Not before: a batch that is handled again is counted once.
        for (order, awaits_store, reason, place) in unannounced {
            self.stats.unannounced.record(&order, awaits_store, reason, place, now);
        }
        let durable = wall_clock().0;
        let read = batch.inputs.iter().take(outcomes.len()).filter_map(KeyInput::record);
        read.for_each(|record| self.stats.commit_latency.observe_ms(durable - record.read_ms));
        tracing::debug!(outcomes = outcomes.len(), "handled");
        outcomes
    }
}

/// A notice of an order as the ledger takes it.
fn new_notice(order: &OrderKey, made: MadeNotice) -> NewNotice {
    let MadeNotice { notice, encoded, recipient, expires_at } = made;
    NewNotice { order: order.clone(), id: notice.id, kind: notice.kind, recipient, notice: encoded, expires_at }
}

impl Handler for OrderHandler {
    type Task = ExpiryCheck;
    type Prepared = PreparedRecord;

    fn key(&self, record: &Record) -> Option<KeyHash> {
        self.mapping.order_of(record).map(|order| self.key_of(&order))
    }

    fn parts(&self, record: &Record) -> Parts<PreparedRecord> {
        self.mapping.prepared_parts(record, |order| self.key_of(order))
    }

    fn prepared_bytes(&self, prepared: &PreparedRecord) -> u64 {
        prepared.bytes()
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch<ExpiryCheck, PreparedRecord>) -> Vec<Outcome> {
        let span = self.span(&batch);
        self.process(batch).instrument(span).await
    }

    fn on_dead_letter(&self, record: &Record, prepared: Option<&PreparedRecord>, reason: &Reason) {
        let (part, offset, code) = (&record.partition, record.offset, reason.code);
        let note = self.note_of_dead_letter((record, prepared), code);
        match note.map(|note| note.bin) {
            Some(Bin::Rejected) => {
                self.stats.paid_rejected.increment();
                tracing::error!(%part, offset, reason = code, "a paid order was rejected");
            }
            Some(Bin::Unreadable) => {
                self.stats.unreadable_rejected.increment();
                tracing::error!(%part, offset, reason = code, "a record was rejected that may be a paid order: its type cannot be read");
            }
            Some(_) => {
                self.stats.later_rejected.increment();
                tracing::error!(%part, offset, reason = code, "a record was rejected by which a store may hear of a paid order");
            }
            None => {}
        }
        // No checkpoint passes what is in no log.
        if let Some(note) = note.filter(|_| code != NOT_PUBLISHED) {
            self.ledger.balance().note(record, note);
        }
        count(&self.stats.rejected, code);
        let undecoded = match code {
            "unknown-type" => {
                Some(Undecoded::UnknownType { sounds_paid: self.mapping.sounds_paid((record, prepared)) })
            }
            "no-type" => Some(Undecoded::NoType),
            _ => None,
        };
        undecoded.into_iter().for_each(|why| self.stats.undecoded_topics.undecoded(&part.topic, why));
        if matches!(code, "key-mismatch" | "store-mismatch" | "customer-mismatch") {
            tracing::error!(target: "security", %part, offset, reason = code, "an event was rejected");
        }
    }
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
