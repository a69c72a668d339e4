//! The writer meets damaged rows: it goes on, says so, and what depends on them stays correct.

use std::collections::BTreeMap;
use std::path::Path;

use orderbell_consumers::{AlertKind, Checkpoint, CheckpointStore, TopicPartition};
use orderbell_protocol::{Recipient, UnixMs};

use super::devices::Cursors;
use super::disk::{Row, Table};
use super::effects::{Appended, KeyBatchEffects, NewEvent};
use super::mailbox::{self, Floor, MailRow};
use super::mailbox_limit::{MailboxLimit, Overflows};
use super::outbox::PublishTo;
use super::retention_tests::{DAY_MS, HOUR_MS, NOW, STATE_MS, Written, cursor, id, notice, order, write_orders};
use super::tables::{DEVICES_MAX, RowKind};
use super::tests::{open_with, options};
use super::write_batch::BatchBuilder;
use super::{Bucket, CounterDelta, Ledger, LedgerLimits, LedgerOptions, committer, counters, embedded_log, keys};

/// No row of any kind that has a codec.
const DAMAGED: &[u8] = b"\xff";

impl Written {
    fn plant(&mut self, table: Table, key: &[u8], row: &[u8]) {
        self.batch(|batch, _| {
            batch.put_row(RowKind::of(table, key).unwrap(), key, row);
            Ok(())
        });
    }

    fn row(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.disk.view().row(table, key).unwrap()
    }

    fn rows_of(&self, kind: RowKind) -> Vec<Row> {
        let view = self.disk.view();
        let rows = view.rows(kind.table(), &[], &[0xff; 64]).map(Result::unwrap);
        rows.filter(|(key, _)| RowKind::of(kind.table(), key) == Some(kind)).collect()
    }

    fn count_of(&self, kind: RowKind) -> usize {
        self.rows_of(kind).len()
    }

    /// Damaged rows by table, as the alert counts them.
    fn damage(&self) -> BTreeMap<&'static str, usize> {
        self.disk.damage().rows_by_table()
    }

    fn notices(&mut self, who: &Recipient, orders: std::ops::Range<usize>) {
        let expires_at = self.now.plus_ms(HOUR_MS);
        let notices = orders.map(|n| notice(&order(n), "new", who, expires_at)).collect();
        self.commit(&KeyBatchEffects { notices, ..KeyBatchEffects::default() });
    }

    fn expunge(&mut self, n: usize) {
        self.commit(&KeyBatchEffects { expunged: vec![order(n)], ..KeyBatchEffects::default() });
    }

    fn append(&mut self, n: usize) -> Appended {
        let mut appended = Vec::new();
        self.batch(|batch, now| {
            appended.push(batch.append(&event(n), now)?);
            Ok(())
        });
        appended.remove(0)
    }
}

fn event(n: usize) -> NewEvent {
    NewEvent {
        key: "o1".into(),
        id_hash: n as u128,
        body_hash: 1,
        value: "{}".into(),
        content_type: "application/json".into(),
        headers: Vec::new(),
    }
}

fn store() -> Recipient {
    Recipient::store(id("s"))
}

fn mail_key(seq: u64) -> Vec<u8> {
    keys::mail(&keys::mailbox(&store()), seq)
}

fn counted(minute: u64, store: &str) -> KeyBatchEffects {
    let delta =
        CounterDelta { shadow: false, minute, day: (minute / 1_440) as u32, store: Some(id(store)), counter: 1, by: 1 };
    KeyBatchEffects { counter_deltas: vec![delta], ..KeyBatchEffects::default() }
}

/// Every row of one kind is damaged; then all that the writer does happens, until long after all rows were due.
#[test]
fn the_writer_goes_on_with_every_row_of_any_kind_damaged() {
    for kind in RowKind::ALL.iter().copied() {
        let mut ledger = Written::new();
        write_orders(&mut ledger, 0..40);
        ledger.notices(&store(), 100..140);
        let expunged = (110..140).chain([100]).map(order).collect();
        ledger.commit(&KeyBatchEffects { expunged, ..KeyBatchEffects::default() });
        let rows = ledger.rows_of(kind);
        ledger.batch(|batch, _| {
            rows.iter().for_each(|(key, _)| batch.put_row(kind, key, DAMAGED));
            Ok(())
        });

        write_orders(&mut ledger, 20..60);
        ledger.notices(&store(), 140..150);
        ledger.expunge(101);
        for _ in 0..8 {
            ledger.pass(2 * DAY_MS);
            ledger.expunge_due();
        }
        (0..3).for_each(|_| _ = ledger.pass(150 * DAY_MS));
        let left = ledger.rows_of(kind).into_iter().filter(|(_, row)| row == DAMAGED).count();
        let is_seen = !ledger.damage().is_empty();
        assert!(is_seen || left == 0 || kind == RowKind::CommitMark, "{kind:?}");
    }
}

#[test]
fn retention_goes_on_behind_rows_that_do_not_say_how_old_they_are() {
    let mut ledger = Written::new();
    let who = store();
    // The first key of its kind, one between others, and the last.
    let ends = |kind: RowKind| {
        let (first, _) = kind.range();
        [[first.as_slice(), &[0; 16]].concat(), [first.as_slice(), &[0xff; 16]].concat()]
    };
    let planted = [ends(RowKind::EventId), ends(RowKind::Floor), ends(RowKind::Cursor)].concat();
    planted.iter().for_each(|key| ledger.plant(Table::Meta, key, DAMAGED));
    write_orders(&mut ledger, 1..3_000);
    ledger.plant(Table::Meta, &keys::cursor(&who, &id("d")), DAMAGED);
    ledger.now = ledger.now.plus_ms(STATE_MS + 1);
    ledger.expunge_due();
    (0..100).for_each(|_| _ = ledger.pass(8 * HOUR_MS));
    for kind in [RowKind::EventId, RowKind::Floor, RowKind::Cursor] {
        let left = ledger.rows_of(kind);
        assert!(left.iter().all(|(_, row)| row == DAMAGED), "{kind:?}: all others are gone");
        assert_eq!(
            left.len(),
            if kind == RowKind::Cursor { 3 } else { 2 },
            "{kind:?}: the damaged ones are not deleted"
        );
    }
    assert_eq!(ledger.damage(), BTreeMap::from([("meta", 7)]));
}

#[test]
fn a_record_without_a_time_goes_with_the_one_that_was_appended_after_it() {
    let mut ledger = Written::new();
    (0..5).for_each(|n| _ = ledger.append(n));
    let part = embedded_log::partition_of(b"o1");
    for offset in [0, 1, 4] {
        ledger.plant(Table::EventLog, &keys::log_record(part, offset), DAMAGED);
    }
    let consumed = Checkpoint { next: 5, last: None };
    let checkpoint = keys::checkpoint(embedded_log::CLUSTER, &TopicPartition::new(embedded_log::TOPIC, part));
    ledger.plant(Table::Meta, &checkpoint, DAMAGED);
    ledger.pass(STATE_MS + 1);
    assert_eq!(ledger.rows_of(RowKind::LogRecord).len(), 5, "nobody knows what has been consumed");
    ledger.batch(|batch, _| {
        batch.put_checkpoint(embedded_log::CLUSTER, &TopicPartition::new(embedded_log::TOPIC, part), consumed, 0);
        Ok(())
    });
    ledger.pass(1);
    let left: Vec<_> = ledger.rows_of(RowKind::LogRecord).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [keys::log_record(part, 4)], "nothing says that it is old");
    assert_eq!(embedded_log::start(&ledger.disk.view(), part).unwrap(), 4);
    assert_eq!(ledger.damage(), BTreeMap::from([("event_log", 3), ("meta", 1)]));
}

/// Regression: more records without a time than one step reads kept all that stand behind them for ever.
#[test]
fn what_stands_behind_many_records_without_a_time_goes_when_it_is_due() {
    const UNDATED: u64 = 5_000;
    let mut ledger = Written::new();
    let part = embedded_log::partition_of(b"o1");
    ledger.batch(|batch, _| {
        (0..UNDATED).for_each(|offset| batch.put_row(RowKind::LogRecord, &keys::log_record(part, offset), b"?"));
        batch.put_row(RowKind::PartitionEnd, &keys::log_end(part), &UNDATED.to_be_bytes());
        Ok(())
    });
    (0..2).for_each(|n| _ = ledger.append(n));
    ledger.batch(|batch, _| {
        let part = TopicPartition::new(embedded_log::TOPIC, part);
        batch.put_checkpoint(embedded_log::CLUSTER, &part, Checkpoint { next: UNDATED + 2, last: None }, 0);
        Ok(())
    });
    ledger.pass(STATE_MS - 1);
    assert_eq!(ledger.rows_of(RowKind::LogRecord).len() as u64, UNDATED + 2, "nothing says that they are old");
    assert_eq!(ledger.pass(0), 1, "they were read, and are no reason to come back soon");
    ledger.pass(2);
    assert_eq!(ledger.rows_of(RowKind::LogRecord), []);
    assert_eq!(embedded_log::start(&ledger.disk.view(), part).unwrap(), UNDATED + 2);
}

#[test]
fn the_floor_stays_below_a_row_that_may_be_live() {
    let mut ledger = Written::new();
    let who = store();
    ledger.notices(&who, 1..5);
    ledger.plant(Table::Mailboxes, &mail_key(2), DAMAGED);
    // What stands above a row that may be live becomes a stub; what stands below it goes.
    ledger.expunge(3);
    ledger.expunge(1);
    let view = ledger.disk.view();
    let floor = mailbox::read_floor(&view, &keys::mailbox(&who)).unwrap();
    assert_eq!(floor.map(|floor| floor.seq), Some(1));
    assert_eq!(mailbox::count(&view, &keys::mailbox(&who)).unwrap(), 2);
    drop(view);
    assert_eq!(ledger.damage(), BTreeMap::from([("mailboxes", 1)]));
    // Its own order's end does not remove it either.
    ledger.expunge(2);
    ledger.expunge(4);
    assert_eq!(ledger.row(Table::Mailboxes, &mail_key(2)).as_deref(), Some(DAMAGED));
    let stubs = [3, 4].map(|seq| MailRow::decode(&ledger.row(Table::Mailboxes, &mail_key(seq)).unwrap()).unwrap());
    assert!(stubs.iter().all(MailRow::is_stub));
    let floor = mailbox::read_floor(&ledger.disk.view(), &keys::mailbox(&who)).unwrap();
    assert_eq!(floor.map(|floor| floor.seq), Some(1));
    // Nor does the sweep of floors.
    (0..20).for_each(|_| _ = ledger.pass(DAY_MS));
    assert_eq!(ledger.count_of(RowKind::Floor), 1);
}

#[test]
fn an_index_entry_that_names_no_row_is_left_with_its_row_and_the_others_go() {
    let mut ledger = Written::new();
    let who = store();
    let expires_at = ledger.now.plus_ms(HOUR_MS);
    let notices = ["a", "b", "c"].map(|name| notice(&order(1), name, &who, expires_at)).to_vec();
    ledger.commit(&KeyBatchEffects { notices, ..KeyBatchEffects::default() });
    let entry = keys::notice(&order(1), "b");
    // A word that is a kind, and a key that is no row's.
    ledger.plant(Table::Orders, &entry, b"ready\0abc");
    let superseded = ["a", "b", "c"].map(|name| (order(1), name.to_owned())).to_vec();
    ledger.commit(&KeyBatchEffects { superseded, ..KeyBatchEffects::default() });
    let is_live = |seq| MailRow::decode(&ledger.row(Table::Mailboxes, &mail_key(seq)).unwrap()).unwrap().is_live(NOW);
    assert_eq!([1, 2, 3].map(is_live), [false, true, false]);
    ledger.expunge(1);
    let left: Vec<_> = ledger.rows_of(RowKind::NoticeIndex).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [entry]);
    let kept = ledger.row(Table::Mailboxes, &mail_key(2)).unwrap();
    assert!(!MailRow::decode(&kept).unwrap().is_stub());
    assert_eq!(ledger.row(Table::Mailboxes, &mail_key(1)), None);
    assert_eq!(ledger.damage(), BTreeMap::from([("orders", 1)]));
}

#[test]
fn an_event_whose_id_is_damaged_is_appended_again_and_known_from_then_on() {
    let mut ledger = Written::new();
    assert_eq!((ledger.append(1), ledger.append(1)), (Appended::Stored, Appended::Duplicate));
    ledger.plant(Table::Meta, &keys::event_id(1), DAMAGED);
    assert_eq!((ledger.append(1), ledger.append(1)), (Appended::Stored, Appended::Duplicate));
    assert_eq!(ledger.damage(), BTreeMap::from([("meta", 1)]));
}

#[test]
fn no_offset_is_used_twice_without_the_row_of_the_next_one() {
    let mut ledger = Written::new();
    let part = embedded_log::partition_of(b"o1");
    (0..3).for_each(|n| _ = ledger.append(n));
    ledger.plant(Table::Meta, &keys::log_end(part), DAMAGED);
    assert_eq!(embedded_log::end(&ledger.disk.view(), part).unwrap(), 3);
    ledger.append(3);
    assert_eq!(ledger.row(Table::Meta, &keys::log_end(part)), Some(4_u64.to_be_bytes().to_vec()));
    // All records were consumed and removed.
    ledger.batch(|batch, _| {
        let part = TopicPartition::new(embedded_log::TOPIC, part);
        batch.put_checkpoint(embedded_log::CLUSTER, &part, Checkpoint { next: 4, last: None }, 0);
        Ok(())
    });
    ledger.pass(STATE_MS + 1);
    assert_eq!(ledger.rows_of(RowKind::LogRecord), []);
    ledger.plant(Table::Meta, &keys::log_end(part), DAMAGED);
    ledger.append(4);
    assert_eq!(ledger.rows_of(RowKind::LogRecord)[0].0, keys::log_record(part, 4));
    ledger.plant(Table::Meta, &keys::log_start(part), DAMAGED);
    assert_eq!(embedded_log::start(&ledger.disk.view(), part).unwrap(), 4);
}

#[test]
fn a_damaged_row_count_is_counted_again() {
    let mut ledger = Written::new();
    let who = store();
    ledger.notices(&who, 1..4);
    let count = keys::count(&keys::mailbox(&who));
    ledger.plant(Table::Meta, &count, DAMAGED);
    ledger.notices(&who, 4..6);
    assert_eq!(ledger.row(Table::Meta, &count), Some(5_u64.to_be_bytes().to_vec()));
    assert_eq!(ledger.damage(), BTreeMap::from([("meta", 1)]));
}

#[test]
fn a_damaged_bucket_is_left_and_the_others_are_counted() {
    let mut ledger = Written::new();
    let minute = counters::minute_of(NOW);
    ledger.commit(&counted(minute, "s1"));
    let row_of = |kind| ledger.rows_of(kind)[0].0.clone();
    let (damaged, stores) = (row_of(RowKind::ChainMinute), row_of(RowKind::StoreCount));
    ledger.plant(Table::Counters, &damaged, &[0x80]);
    ledger.plant(Table::Counters, &stores, DAMAGED);
    ledger.commit(&counted(minute, "s2"));
    assert_eq!(ledger.row(Table::Counters, &damaged).as_deref(), Some(&[0x80][..]), "no sum that began again");
    assert_eq!(ledger.row(Table::Counters, &stores), Some(2_u64.to_be_bytes().to_vec()), "the stores are counted");
    let view = ledger.disk.view();
    let day = view.pass_over(counters::all(&view).find(|row| matches!(row, Ok((_, Bucket::ChainDay(_), _)))).unwrap());
    assert_eq!(day.unwrap().unwrap().2, [(1, 2)].into());
    assert_eq!(ledger.damage(), BTreeMap::from([("counters", 2)]));
    // At the start the wall is given the others.
    let recent = counters::recent(&view, NOW).filter_map(|row| view.pass_over(row).unwrap()).count();
    assert_eq!(recent, 5, "minutes and days of both stores, and the day of the chain");
}

#[test]
fn the_mailbox_limit_keeps_what_stands_above_a_damaged_row() {
    let mut ledger = Written::new();
    let (who, overflows) = (store(), Overflows::default());
    let limits = LedgerLimits { max_mailbox_rows: 2.into(), min_free_space: 0.into() };
    let mut limit = MailboxLimit::new(std::sync::Arc::new(limits), overflows.clone());
    ledger.notices(&who, 1..7);
    ledger.plant(Table::Mailboxes, &mail_key(3), DAMAGED);
    ledger.now = ledger.now.plus_ms(2 * DAY_MS);
    limit.note_counts(vec![(keys::mailbox(&who), 6)]);
    let mut batch = BatchBuilder::new(&ledger.disk, PublishTo::EmbeddedLog, ledger.seq, 0);
    let is_behind = limit.step(&ledger.disk.view(), &mut batch, ledger.now).unwrap();
    batch.commit(ledger.seq).unwrap();
    assert!(!is_behind);
    let view = ledger.disk.view();
    let floor = mailbox::read_floor(&view, &keys::mailbox(&who)).unwrap();
    assert_eq!(floor.map(|floor| floor.seq), Some(2));
    assert_eq!(ledger.row(Table::Mailboxes, &mail_key(3)).as_deref(), Some(DAMAGED));
    assert_eq!(mailbox::count(&view, &keys::mailbox(&who)).unwrap(), 2);
    assert_eq!(ledger.damage(), BTreeMap::from([("mailboxes", 1)]));
}

#[test]
fn a_damaged_cursor_takes_no_room_and_is_written_again_by_its_own_device_alone() {
    let mut ledger = Written::new();
    let (who, at) = (store(), ledger.begin(&store()));
    let names: Vec<_> = (0..DEVICES_MAX).map(|n| id(format!("d{n:03}"))).collect();
    let (gone, back) = (id("gone"), id("back"));
    for damaged in [&gone, &back] {
        ledger.plant(Table::Meta, &keys::cursor(&who, damaged), DAMAGED);
    }
    let all = names.iter().map(|name| ((who.clone(), name.clone()), cursor(at, ledger.now)));
    ledger.save_cursors(&all.collect::<Cursors>());
    assert_eq!(ledger.count_of(RowKind::Cursor), DEVICES_MAX + 2);
    ledger.now = UnixMs(ledger.now.0 + 1);
    ledger.save_cursors(&Cursors::from([((who.clone(), back.clone()), cursor(at, ledger.now))]));
    assert_eq!(ledger.row(Table::Meta, &keys::cursor(&who, &gone)).as_deref(), Some(DAMAGED));
    assert_ne!(ledger.row(Table::Meta, &keys::cursor(&who, &back)).as_deref(), Some(DAMAGED));
    assert!(!ledger.damage().is_empty());
}

#[test]
fn a_forgotten_floor_that_is_not_known_sends_readers_away_and_lets_none_miss_a_notice() {
    let mut ledger = Written::new();
    let who = store();
    ledger.notices(&who, 1..3);
    ledger.expunge(1);
    ledger.expunge(2);
    ledger.plant(Table::Meta, keys::FORGOTTEN, DAMAGED);
    (0..20).for_each(|_| _ = ledger.pass(DAY_MS));
    assert_eq!(ledger.count_of(RowKind::Floor), 0);
    assert_eq!(ledger.row(Table::Meta, keys::FORGOTTEN), Some(2_u64.to_be_bytes().to_vec()));
    assert_eq!(ledger.damage(), BTreeMap::from([("meta", 1)]));
}

#[test]
fn a_damaged_floor_is_written_again_by_the_next_row_that_goes() {
    let mut ledger = Written::new();
    let who = store();
    ledger.notices(&who, 1..4);
    ledger.expunge(1);
    ledger.plant(Table::Meta, &keys::floor(&keys::mailbox(&who)), DAMAGED);
    ledger.pass(DAY_MS);
    ledger.expunge(2);
    let floor = Floor::decode(&ledger.row(Table::Meta, &keys::floor(&keys::mailbox(&who))).unwrap());
    assert_eq!(floor.map(|floor| floor.seq), Some(2));
}

fn published() -> LedgerOptions {
    LedgerOptions { publish_to: PublishTo::Outbox, ..options(1_000) }
}

/// Ends the ledger and opens it again with these rows in it.
fn reopened(dir: &Path, ledger: Ledger, rows: &[(Table, Vec<u8>)]) -> Ledger {
    ledger.close();
    let mut batch = ledger.disk.batch();
    rows.iter().for_each(|(table, key)| batch.put(RowKind::of(*table, key).unwrap(), key, DAMAGED));
    batch.commit().unwrap();
    drop(ledger);
    open_with(dir, published())
}

#[tokio::test]
async fn a_ledger_opens_with_damaged_facts_and_gives_out_no_seq_twice() {
    for fact in [keys::SEQ, keys::EPOCH, keys::LEDGER_ID, keys::FORGOTTEN, keys::REBUILDING, keys::MARKS_FROM] {
        let name = fact.escape_ascii().to_string();
        let dir = tempfile::tempdir().unwrap();
        let ledger = open_with(dir.path(), published());
        let epoch = ledger.epoch();
        let add = |name: &str| {
            let notices = vec![notice(&order(1), name, &store(), UnixMs(i64::MAX))];
            KeyBatchEffects { notices, ..KeyBatchEffects::default() }
        };
        ledger.commit(add("a")).await.unwrap();
        ledger.commit(add("b")).await.unwrap();
        let ledger = reopened(dir.path(), ledger, &[(Table::Meta, fact.to_vec())]);
        let is_text = fact == keys::REBUILDING;
        assert_eq!(ledger.damage().rows_by_table().len(), usize::from(!is_text), "{name}");
        assert_eq!(ledger.is_rebuilding(), is_text, "{name}");
        let is_new_epoch = fact == keys::SEQ || fact == keys::EPOCH;
        assert_eq!(ledger.epoch() > epoch, is_new_epoch, "{name}");
        ledger.commit(add("c")).await.unwrap();
        assert_eq!(ledger.disk.view().number(keys::SEQ).unwrap(), Some(3), "{name}");
        let (cursor, head) = ledger.devices().cursor_and_head(&store(), &id("d")).unwrap();
        let page = ledger.mailboxes().read(&store(), cursor.acked, cursor.acked, 9, NOW).unwrap();
        assert_eq!((page.notices.len(), head.seq), (3, 3), "{name}");
        // Written again where something is read of it; what is left is reported again.
        let (id, epoch) = (ledger.id().to_owned(), ledger.epoch());
        ledger.close();
        drop(ledger);
        let ledger = open_with(dir.path(), published());
        assert_eq!((ledger.id(), ledger.epoch()), (id.as_str(), epoch), "{name}");
        assert_eq!(ledger.damage().rows_by_table().len(), usize::from(fact == keys::MARKS_FROM), "{name}");
    }
}

#[tokio::test]
async fn a_start_passes_over_damaged_rows_and_reports_them_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_with(dir.path(), published());
    ledger.append((0..5).map(event).collect()).await.unwrap();
    let loss = keys::loss(AlertKind::Truncated, &TopicPartition::new("orders", 3));
    let minute = [&[0, counters::CHAIN_MINUTE][..], &counters::minute_of(committer::now()).to_be_bytes()].concat();
    let mut damaged = vec![(Table::Counters, minute), (Table::Meta, loss), (Table::Meta, keys::dead_letter(7))];
    damaged.extend([1, 3, 4].map(|number| (Table::Meta, keys::outbox(number))));
    let checkpoint = keys::checkpoint("kafka", &TopicPartition::new("orders", 3));
    damaged.push((Table::Meta, checkpoint.clone()));
    damaged.push((Table::Meta, [keys::expiry_until(0), b"\0\xff".to_vec()].concat()));
    let mut ledger = ledger;
    for _ in 0..2 {
        ledger = reopened(dir.path(), ledger, &damaged);
        assert_eq!(ledger.damage().rows_by_table()["counters"], 1);
        assert_eq!(ledger.losses(), []);
        let numbers = || ledger.outbox().pending(0, 9).unwrap().iter().map(|entry| entry.number).collect::<Vec<_>>();
        assert_eq!(numbers(), [0, 2], "what can be read is published");
        // Nothing that is read again is in the way of anything.
        let parts = [TopicPartition::new("orders", 3)];
        assert_eq!(ledger.load("kafka", &parts).unwrap(), [None]);
        let due = ledger.orders().due_expiries(committer::now(), 1).unwrap();
        assert_eq!(due, []);
        assert_eq!(ledger.damage().rows_by_table()["meta"], 6);
    }
    ledger.append(vec![event(9)]).await.unwrap();
    let numbers: Vec<_> = ledger.outbox().pending(0, 9).unwrap().iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [0, 2, 5], "no number is used twice");
}
