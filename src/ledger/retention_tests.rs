//! Retention in virtual time: after enough of it no row is left but those that the schema calls fixed, and no reader has missed a notice
//! without learning of it.

use std::collections::BTreeMap;

use orderbell_consumers::{AlertKind, Checkpoint, TopicPartition};
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{Id, NoticeKind, OrderKey, Position, ReadError, Recipient, UnixMs};
use proptest::prelude::*;

use super::delivery_log::{DeliveryStep, PendingSteps};
use super::devices::{CursorWriter, Cursors, StoredCursor};
use super::disk::{DatabaseError, Disk, Table};
use super::effects::{KeyBatchEffects, NewEvent, NewNotice};
use super::mailbox::{self, Mailbox};
use super::outbox::PublishTo;
use super::retention::Retention;
use super::tables::{DEVICES_MAX, Retention as Rule, RowKind};
use super::tests::refusal;
use super::write_batch::BatchBuilder;
use super::{CounterDelta, embedded_log, keys, open};

pub(super) const EPOCH: u32 = 1;
pub(super) const NOW: UnixMs = UnixMs(1_790_000_000_000);
pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;
pub(super) const STATE_MS: i64 = 3 * DAY_MS;

/// More steps than any backlog here needs.
const STEPS_MAX: usize = 10_000;

/// A ledger without threads and clock.
pub(super) struct Written {
    pub(super) disk: Disk,
    pub(super) seq: u64,
    cursors: CursorWriter,
    retention: Retention,
    pub(super) now: UnixMs,
    _dir: tempfile::TempDir,
}

impl Written {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = open::open_disk(dir.path(), &dir.path().join("db")).unwrap();
        let retention = Retention::new(STATE_MS, DAY_MS);
        Self { disk, seq: 0, cursors: CursorWriter::default(), retention, now: NOW, _dir: dir }
    }

    pub(super) fn batch(&mut self, fill: impl FnOnce(&mut BatchBuilder<'_>, UnixMs) -> Result<(), DatabaseError>) {
        let mut batch = BatchBuilder::new(&self.disk, PublishTo::EmbeddedLog, self.seq, 0);
        fill(&mut batch, self.now).unwrap();
        if let Some(committed) = batch.commit(self.seq).unwrap() {
            self.seq = committed.seq;
        }
    }

    pub(super) fn commit(&mut self, effects: &KeyBatchEffects) {
        self.batch(|batch, now| batch.add_effects(effects, now));
    }

    pub(super) fn save_cursors(&mut self, cursors: &Cursors) {
        let mut writer = std::mem::take(&mut self.cursors);
        let disk = &self.disk;
        let mut batch = BatchBuilder::new(disk, PublishTo::EmbeddedLog, self.seq, 0);
        writer.write(&disk.view(), &mut batch, cursors).unwrap();
        batch.commit(self.seq).unwrap();
        self.cursors = writer;
    }

    /// Lets time pass; returns how many steps retention made until it was no longer behind.
    pub(super) fn pass(&mut self, ms: i64) -> usize {
        self.now = self.now.plus_ms(ms);
        for steps in 1..STEPS_MAX {
            let mut batch = BatchBuilder::new(&self.disk, PublishTo::EmbeddedLog, self.seq, 0);
            let step = self.retention.step(&self.disk.view(), &mut batch, self.now).unwrap();
            batch.commit(self.seq).unwrap();
            self.cursors.removed(&step.cursors);
            if !step.is_behind {
                return steps;
            }
        }
        panic!("retention is always behind")
    }

    /// Expunges what is due, as the sweep and the order handler would.
    pub(super) fn expunge_due(&mut self) -> usize {
        let view = self.disk.view();
        let rows = view.rows(Table::Meta, &keys::expiry_until(0), &keys::expiry_until(self.now.0));
        let due: Vec<_> = rows.map(|row| keys::expiry_order(&row.unwrap().0).unwrap()).collect();
        for chunk in due.chunks(BATCH) {
            let mut effects = KeyBatchEffects::default();
            for (at, order) in chunk {
                effects.expiry_done.push((UnixMs(*at), order.clone()));
                effects.expunged.push(order.clone());
            }
            self.commit(&effects);
        }
        due.len()
    }

    /// What the retention left, by the name of the kind.
    fn rows(&self) -> BTreeMap<&'static str, (RowKind, u64)> {
        let view = self.disk.view();
        let mut counts = BTreeMap::new();
        for table in Table::ALL {
            for row in view.rows(table, &[], &[0xff; 64]) {
                let (key, value) = row.unwrap();
                let kind = RowKind::of(table, &key).unwrap();
                assert!((kind.schema().decodes)(&value), "{kind:?} {}", key.escape_ascii());
                counts.entry(kind.schema().name).or_insert((kind, 0)).1 += 1;
            }
        }
        counts
    }

    pub(super) fn count(&self, kind: RowKind) -> u64 {
        self.rows().get(kind.schema().name).map_or(0, |(_, rows)| *rows)
    }

    pub(super) fn begin(&self, who: &Recipient) -> Position {
        Mailbox::new(&self.disk.view(), who, EPOCH).floor().unwrap()
    }

    /// What a reader at `from` is given, and where it then is.
    pub(super) fn read(&self, who: &Recipient, from: Position) -> Result<(usize, Position), ReadError> {
        let page = Mailbox::new(&self.disk.view(), who, EPOCH).read(from, from, 1000, self.now).map_err(refusal)?;
        assert!(!page.has_more(), "it reads in one page");
        Ok((page.notices.len(), page.notices.last().map_or(page.next, |delivery| delivery.position)))
    }
}

/// Orders of one batch.
const BATCH: usize = 10_000;
const INVENTED_DEVICES: usize = 100_000;

/// Plain tests write so many that they stay quick in a debug build; `tests/run.sh` sets a million, in a release build.
fn customers() -> usize {
    std::env::var("ORDERBELL_TEST_CUSTOMERS").map_or(20_000, |number| number.parse().unwrap())
}

pub(super) fn id(name: impl AsRef<str>) -> Id {
    Id::new(name.as_ref()).unwrap()
}

pub(super) fn order(n: usize) -> OrderKey {
    OrderKey { shadow: false, id: id(format!("o{n}")) }
}

pub(super) fn notice(order: &OrderKey, name: &str, who: &Recipient, expires_at: UnixMs) -> NewNotice {
    let text = format!(r#"{{"id":"{name}","kind":"ready","order":"1","at":1,"body":{{}}}}"#);
    let notice = EncodedNotice::from_stored(text.as_bytes()).unwrap();
    let (order, recipient) = (order.clone(), who.clone());
    NewNotice { order, id: name.into(), kind: NoticeKind::Ready, recipient, notice, expires_at }
}

pub(super) fn cursor(at: Position, used: UnixMs) -> StoredCursor {
    StoredCursor { cursor: Cursor { acked: at, sent_seq: at.seq }, used, is_bound: false }
}

/// One batch of orders from their event to their end: as much as touches every table.
pub(super) fn write_orders(ledger: &mut Written, numbers: std::ops::Range<usize>) {
    let (mut effects, mut cursors, mut events) = (KeyBatchEffects::default(), Cursors::new(), Vec::new());
    let deliveries = PendingSteps::default();
    let (minute, day) = (ledger.now.0 as u64 / 60_000, (ledger.now.0 / DAY_MS) as u32);
    for n in numbers {
        let (order, who) = (order(n), Recipient::customer(id(format!("c{n}"))));
        effects.states.push((order.clone(), b"state".to_vec()));
        effects.notices.push(notice(&order, "ready", &who, ledger.now.plus_ms(HOUR_MS)));
        effects.superseded.push((order.clone(), "ready".into()));
        effects.expiry_added.push((ledger.now.plus_ms(STATE_MS), order.clone()));
        effects.open_index.push((who.clone(), order.clone(), true));
        effects.open_index.push((who.clone(), order.clone(), false));
        let store = Some(id(format!("s{}", n % 500)));
        effects.counter_deltas.push(CounterDelta { shadow: false, minute, day, store, counter: 1, by: 1 });
        events.push(NewEvent {
            key: order.id.as_str().to_owned().into(),
            id_hash: n as u128,
            body_hash: 1,
            value: "{}".into(),
            content_type: "application/json".into(),
            headers: Vec::new(),
        });
        let phone = id(format!("phone{n}"));
        deliveries.record(&who, &phone, DeliveryStep::Acked(n as u64 + 1), ledger.now);
        let acked = Position { epoch: EPOCH, seq: n as u64 + 1, check: mailbox::check_bits("ready") };
        cursors.insert((who, phone), cursor(acked, ledger.now));
    }
    ledger.commit(&effects);
    ledger.batch(|batch, now| {
        for event in &events {
            batch.append(event, now)?;
        }
        deliveries.begin_write(batch, false);
        Ok(())
    });
    ledger.save_cursors(&cursors);
    let view = ledger.disk.view();
    let ends: Vec<_> = (0..embedded_log::PARTITIONS).map(|part| embedded_log::end(&view, part).unwrap()).collect();
    drop(view);
    ledger.batch(|batch, _| {
        for (number, next) in (0..).zip(ends) {
            let part = TopicPartition::new(embedded_log::TOPIC, number);
            batch.put_checkpoint(embedded_log::CLUSTER, &part, Checkpoint { next, last: None }, 0);
        }
        Ok(())
    });
}

#[test]
fn after_a_million_customers_and_as_many_devices_no_row_is_left_but_the_fixed_ones() {
    let mut ledger = Written::new();
    let all = customers();
    for from in (0..all).step_by(BATCH) {
        write_orders(&mut ledger, from..all.min(from + BATCH));
        ledger.pass(HOUR_MS / 60);
    }
    let filled = ledger.rows();
    for kind in [RowKind::OrderState, RowKind::Mail, RowKind::Cursor, RowKind::EventId, RowKind::LogRecord] {
        assert_eq!(filled[kind.schema().name].1, all as u64, "{kind:?}");
    }

    // One token, as many devices as its holder likes; and one that is really there.
    let (who, real) = (Recipient::customer(id("inventor")), id("real"));
    for from in (0..INVENTED_DEVICES).step_by(BATCH) {
        let at = ledger.begin(&who);
        let mut cursors: Cursors =
            (from..from + BATCH).map(|n| ((who.clone(), id(format!("d{n}"))), cursor(at, ledger.now))).collect();
        ledger.now = ledger.now.plus_ms(500);
        cursors.insert((who.clone(), real.clone()), cursor(at, ledger.now));
        ledger.save_cursors(&cursors);
        let prefix = keys::cursors_of(&who);
        let view = ledger.disk.view();
        assert_eq!(view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)).count(), DEVICES_MAX);
        let kept = view.row(Table::Meta, &keys::cursor(&who, &real)).unwrap();
        assert!(kept.is_some(), "the device that is in use is not pushed out");
    }

    // Nothing goes early.
    ledger.pass(STATE_MS - DAY_MS);
    assert_eq!(ledger.count(RowKind::EventId), all as u64);
    assert_eq!(ledger.count(RowKind::Cursor), all as u64 + DEVICES_MAX as u64);
    ledger.now = ledger.now.plus_ms(DAY_MS);
    assert_eq!(ledger.expunge_due(), all);
    assert_eq!(ledger.count(RowKind::Floor), all as u64);

    // Two weeks, then a year and more for the counters.
    let steps: usize = (0..14 * 3).map(|_| ledger.pass(8 * HOUR_MS)).sum();
    for kind in [RowKind::EventId, RowKind::LogRecord, RowKind::Cursor, RowKind::Floor, RowKind::DeliverySteps] {
        assert_eq!(ledger.count(kind), 0, "{kind:?}");
    }
    assert!(steps < 14 * 3 + all / 100, "{steps} steps: as many as the rows that they read need");
    (0..15).for_each(|_| _ = ledger.pass(30 * DAY_MS));
    for (name, (kind, rows)) in ledger.rows() {
        match kind.retention() {
            // The store count of the day 0 and the like are written only for impossible times.
            Rule::Fixed(bound) => assert!(rows <= bound.max(1) * Table::ALL.len() as u64, "{name}: {rows}"),
            _ => panic!("{rows} rows of {name} are left"),
        }
    }
}

#[test]
fn every_kind_of_row_is_recognised_by_its_key() {
    let who = Recipient::store(id("s"));
    let mailbox = keys::mailbox(&who);
    let key = order(1);
    let part = TopicPartition::new("orders", 0);
    let meta = [
        (keys::floor(&mailbox), RowKind::Floor),
        (keys::count(&mailbox), RowKind::RowCount),
        (keys::open_order(&who, &key.id), RowKind::OpenOrder),
        (keys::cursor(&who, &id("d")), RowKind::Cursor),
        (keys::connected(&who, &id("d")), RowKind::Connected),
        (keys::expiry(1, &key), RowKind::Expiry),
        (keys::event_id(1), RowKind::EventId),
        (keys::checkpoint("kafka", &part), RowKind::Checkpoint),
        (keys::partition_count("orders", 0), RowKind::PartitionCount),
        (keys::history_end("kafka", &part), RowKind::HistoryEnd),
        (keys::used_skip("kafka", &part), RowKind::UsedSkip),
        (keys::log_end(1), RowKind::PartitionEnd),
        (keys::log_start(1), RowKind::PartitionStart),
        (keys::outbox(1), RowKind::OutboxEntry),
        (keys::dead_letter(1), RowKind::DeadLetter),
        (keys::loss(AlertKind::RetentionGap, &part), RowKind::Loss),
        (keys::SEQ.to_vec(), RowKind::Fact),
    ];
    for (key, kind) in meta {
        assert_eq!(RowKind::of(Table::Meta, &key), Some(kind));
        let (from, to) = kind.range();
        assert!(from <= key && key < to, "{kind:?}");
    }
    assert_eq!(RowKind::of(Table::Orders, &keys::order(&key)), Some(RowKind::OrderState));
    assert_eq!(RowKind::of(Table::Orders, &keys::notice(&key, "n")), Some(RowKind::NoticeIndex));
    assert_eq!(RowKind::of(Table::Mailboxes, &keys::mail(&mailbox, 1)), Some(RowKind::Mail));
    assert_eq!(RowKind::of(Table::Orders, &keys::commit_mark(1)), Some(RowKind::CommitMark));
    assert_eq!(RowKind::of(Table::Meta, b"?"), None);
    // Names are unique: reports are by name.
    let names: std::collections::BTreeSet<_> = RowKind::ALL.iter().map(|kind| kind.schema().name).collect();
    assert_eq!(names.len(), RowKind::ALL.len());
}

#[test]
fn a_forgotten_floor_still_answers_that_a_position_has_expired() {
    let mut ledger = Written::new();
    let (who, other) = (Recipient::customer(id("c")), Recipient::store(id("s")));
    let begun = ledger.begin(&who);
    // A store's order that stays while the customer's goes: its mailbox has a row below the floor that is forgotten.
    let live = ledger.now.plus_ms(100 * DAY_MS);
    let notices = vec![notice(&order(1), "new", &other, live), notice(&order(2), "ready", &who, live)];
    ledger.commit(&KeyBatchEffects { notices, ..KeyBatchEffects::default() });
    let (_, read) = ledger.read(&who, begun).unwrap();
    let (from_store, of_store) = (ledger.begin(&other), ledger.read(&other, ledger.begin(&other)).unwrap());
    ledger.commit(&KeyBatchEffects { expunged: vec![order(2)], ..KeyBatchEffects::default() });
    assert_eq!(ledger.begin(&who), read, "the floor");

    // A device that is in use keeps the floor, and is not sent away.
    let device = id("phone");
    for _ in 0..20 {
        ledger.save_cursors(&Cursors::from([((who.clone(), device.clone()), cursor(read, ledger.now))]));
        ledger.pass(DAY_MS);
        assert_eq!(ledger.read(&who, read), Ok((0, read)));
    }
    (0..20).for_each(|_| _ = ledger.pass(DAY_MS));
    assert_eq!((ledger.count(RowKind::Cursor), ledger.count(RowKind::Floor)), (0, 0));
    assert_eq!(ledger.read(&who, read), Err(ReadError::PositionExpired));
    assert_eq!(ledger.read(&who, begun), Err(ReadError::PositionExpired), "it was begun before the notice that went");
    let beyond = Position { seq: read.seq + 1000, ..read };
    assert_eq!(ledger.read(&who, beyond), Err(ReadError::EpochChanged));
    // A new device begins, and is given what comes.
    let begun = ledger.begin(&who);
    assert_eq!(ledger.read(&who, begun), Ok((0, begun)));
    let notices = vec![notice(&order(3), "ready", &who, live)];
    ledger.commit(&KeyBatchEffects { notices, ..KeyBatchEffects::default() });
    let given = ledger.read(&who, begun).unwrap();
    assert_eq!(given.0, 1);
    assert!(given.1.seq > read.seq, "no seq is given out twice");
    // The store's positions are as valid as they were.
    assert_eq!(ledger.read(&other, from_store), Ok(of_store));
    assert_eq!(ledger.read(&other, of_store.1), Ok((0, of_store.1)));
    assert_eq!(ledger.begin(&other), from_store);
}

#[derive(Clone, Debug)]
enum Act {
    /// A notice of a new order for this customer.
    Notice(usize),
    /// Expunges this order.
    Expunge(usize),
    /// A client of this customer reads on, or begins again when it has to.
    Read(usize),
    Pass(i64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..4_usize).prop_map(Act::Notice),
        3 => (0..20_usize).prop_map(Act::Expunge),
        3 => (0..8_usize).prop_map(Act::Read),
        3 => (1..5 * DAY_MS).prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..60)
}

/// A client and where it is.
#[derive(Clone, Copy)]
struct Client {
    position: Position,
    /// When it was given this position.
    at: UnixMs,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Two clients of each of four customers, no cursors: floors are forgotten as early as the rules allow.
    #[test]
    fn no_reader_misses_a_notice_unknowingly(acts in acts()) {
        let mut ledger = Written::new();
        let who = |customer: usize| Recipient::customer(id(format!("c{customer}")));
        let mut clients: [Option<Client>; 8] = [None; 8];
        // Of each order: its customer, its seq, and whether it was expunged.
        let mut orders: Vec<(usize, u64, bool)> = Vec::new();
        for act in acts {
            match act {
                Act::Notice(customer) => {
                    let order = order(orders.len());
                    let name = format!("n{}", orders.len());
                    let notices = vec![notice(&order, &name, &who(customer), UnixMs(i64::MAX))];
                    ledger.commit(&KeyBatchEffects { notices, ..KeyBatchEffects::default() });
                    orders.push((customer, ledger.seq, false));
                }
                Act::Expunge(n) => {
                    let Some((_, _, is_expunged)) = orders.get_mut(n) else { continue };
                    *is_expunged = true;
                    ledger.commit(&KeyBatchEffects { expunged: vec![order(n)], ..KeyBatchEffects::default() });
                }
                Act::Pass(ms) => _ = ledger.pass(ms),
                Act::Read(n) => {
                    let (who, now) = (who(n / 2), ledger.now);
                    let Some(client) = clients[n] else {
                        let position = ledger.begin(&who);
                        prop_assert!(ledger.read(&who, position).is_ok(), "a new reader is never sent away");
                        clients[n] = Some(Client { position, at: now });
                        continue;
                    };
                    let after = || orders.iter().filter(|(of, seq, _)| *of == n / 2 && *seq > client.position.seq);
                    let removed = after().filter(|(_, _, is_expunged)| *is_expunged).count();
                    match ledger.read(&who, client.position) {
                        Ok((given, position)) => {
                            prop_assert_eq!(given + removed, after().count());
                            // A notice that went while an earlier one of its mailbox stayed is skipped like a superseded one.
                            let of_mailbox = orders.iter().filter(|(of, _, _)| *of == n / 2);
                            let mut live = of_mailbox.filter(|(_, _, gone)| !gone).map(|(_, seq, _)| *seq);
                            let lowest = live.next().unwrap_or(u64::MAX);
                            let missed = after().any(|(_, seq, gone)| *gone && *seq < lowest);
                            prop_assert!(!missed, "a notice was removed and nobody said so");
                            let at = if position == client.position { client.at } else { now };
                            clients[n] = Some(Client { position, at });
                        }
                        Err(ReadError::PositionExpired) => {
                            // A floor is forgotten by its own age; a device with a cursor would keep it.
                            let at_floor = orders.iter().any(|(_, seq, gone)| *gone && *seq == client.position.seq);
                            let is_old = now.0 - client.at.0 > STATE_MS;
                            prop_assert!(removed > 0 || at_floor || is_old, "sent away without a reason");
                            clients[n] = None;
                        }
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
            }
        }
    }
}
