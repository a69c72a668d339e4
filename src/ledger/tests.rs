//! The ledger on a real disk, compared with a naive mailbox.

use super::disk::Table;
use super::integrity::Integrity;
use super::tables::RowKind;
use super::*;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{Id, NoticeKind, Position, ReadError, Recipient, UnixMs};
use proptest::prelude::*;

pub(super) struct Silence;

impl MailboxObserver for Silence {
    fn changed(&self, _recipients: &[Recipient]) {}
}

pub(super) const NOW: UnixMs = UnixMs(1_790_000_000_000);

pub(super) fn open(dir: &Path) -> Ledger {
    open_with(dir, options(1_000_000))
}

pub(super) fn options(max_mailbox_rows: u64) -> LedgerOptions {
    LedgerOptions {
        state_retention_ms: 1000,
        max_mailbox_rows,
        min_free_space: 0,
        timeline_retention_ms: 3_600_000,
        publish_to: PublishTo::EmbeddedLog,
        rolled_back: false,
    }
}

pub(super) fn open_with(dir: &Path, options: LedgerOptions) -> Ledger {
    Ledger::open(dir, options, Arc::new(Silence), Arc::new(NoCounterObserver), Arc::new(|why: &str| panic!("{why}")))
        .unwrap()
}

/// A notice's name begins with its order's: three notices in a row belong to one order, as in production.
fn order(name: &str) -> OrderKey {
    let order = name.split('_').next().unwrap();
    OrderKey { shadow: false, id: Id::new(order).unwrap() }
}

fn notice(who: &Recipient, name: &str, expires_at: UnixMs) -> NewNotice {
    let text = format!(r#"{{"id":"{name}","kind":"new_order","order":"1","at":1,"body":{{}}}}"#);
    let notice = EncodedNotice::from_stored(text.as_bytes()).unwrap();
    NewNotice {
        order: order(name),
        id: name.into(),
        kind: NoticeKind::NewOrder,
        recipient: who.clone(),
        notice,
        expires_at,
    }
}

/// Why a reader was refused, to be compared; a ledger that cannot be read fails the test.
pub(super) fn refusal(error: MailboxError) -> ReadError {
    match error {
        MailboxError::EpochChanged => ReadError::EpochChanged,
        MailboxError::PositionExpired => ReadError::PositionExpired,
        MailboxError::Disk(error) => panic!("{error}"),
    }
}

/// Everything that a reader at `from` is given, page by page; checks the chain of positions.
fn read_all(ledger: &Ledger, who: &Recipient, from: Position, limit: u16) -> Result<Vec<String>, ReadError> {
    read_all_at(NOW, ledger, who, from, limit)
}

fn read_all_at(
    now: UnixMs,
    ledger: &Ledger,
    who: &Recipient,
    from: Position,
    limit: u16,
) -> Result<Vec<String>, ReadError> {
    let (mut chain, mut scan, mut names) = (from, from, Vec::new());
    loop {
        let page = ledger.mailboxes().read(who, chain, scan, limit, now).map_err(refusal)?;
        assert!(page.notices.len() <= usize::from(limit));
        for delivery in &page.notices {
            assert_eq!(delivery.prev, chain, "the chain is broken");
            assert!(delivery.position.seq > chain.seq, "seqs only grow");
            chain = delivery.position;
            names.push(delivery.notice.as_str().split('"').nth(3).unwrap().to_owned());
        }
        scan = page.next;
        if !page.has_more() {
            return Ok(names);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        old: bool,
    },
    Supersede(usize),
    /// Orders of these notices, in one batch.
    Expunge(Vec<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<bool>().prop_map(|old| Step::Append { old }),
        2 => (0..15_usize).prop_map(Step::Supersede),
        2 => proptest::collection::vec(0..15_usize, 1..4).prop_map(Step::Expunge),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The state of a notice in the naive mailbox.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Live,
    Skipped,
    Removed,
}

#[test]
fn a_mailbox_is_what_a_list_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let case = std::cell::Cell::new(0);
    proptest!(ProptestConfig::with_cases(48), |(steps in steps(), limit in 1_u16..9)| {
        case.set(case.get() + 1);
        let case = case.get();
        let who = Recipient::store(Id::new(&format!("s{case}")).unwrap());
        let mut model: Vec<(String, Fate, Position)> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let mut effects = KeyBatchEffects::default();
            match step {
                Step::Append { old } => {
                    let name = format!("o{case}-{}_n{at}", at / 3);
                    let expires_at = NOW.plus_ms(if *old { -1 } else { 1 });
                    effects.notices.push(notice(&who, &name, expires_at));
                    // The same id again in the same key batch is the same notice.
                    effects.notices.push(notice(&who, &name, expires_at));
                    let fate = if *old { Fate::Skipped } else { Fate::Live };
                    model.push((name, fate, Position::start(0)));
                }
                Step::Supersede(nth) => {
                    let Some((name, fate, _)) = model.get_mut(*nth) else { continue };
                    effects.superseded.push((order(name), name.clone()));
                    *fate = if *fate == Fate::Removed { Fate::Removed } else { Fate::Skipped };
                }
                Step::Expunge(which) => {
                    for nth in which {
                        let Some((name, _, _)) = model.get(*nth).cloned() else { continue };
                        effects.expunged.push(order(&name));
                        let of_the_order = model.iter_mut().filter(|(other, _, _)| order(other) == order(&name));
                        of_the_order.for_each(|(_, fate, _)| *fate = Fate::Removed);
                    }
                }
            }
            let appended = !effects.notices.is_empty();
            runtime.block_on(ledger.commit(effects)).unwrap();
            if appended {
                let (_, head) = ledger.devices().cursor_and_head(&who, &Id::new("d").unwrap()).unwrap();
                model.last_mut().unwrap().2 = head;
            }
        }
        let (cursor, head) = ledger.devices().cursor_and_head(&who, &Id::new("d").unwrap()).unwrap();
        let live = |from: usize| model[from..].iter().filter(|(_, fate, _)| *fate == Fate::Live).map(|(name, _, _)| name.clone()).collect::<Vec<_>>();
        prop_assert_eq!(read_all(&ledger, &who, cursor.acked, limit), Ok(live(0)));
        // From every position that was given out: what follows it, or "too old" when it is below the floor.
        let floor = model.iter().take_while(|(_, fate, _)| *fate == Fate::Removed).count();
        for (at, (_, _, position)) in model.iter().enumerate() {
            let read = read_all(&ledger, &who, *position, limit);
            // Below the floor it is too old; the floor itself is the last row that was removed, and every later row is there.
            let wanted = if at + 1 < floor { Err(ReadError::PositionExpired) } else { Ok(live(at + 1)) };
            prop_assert_eq!(read, wanted, "from notice {} of {:?}", at, &steps);
            // The server's own cursor never locks its device out, whatever it is.
            let device = Id::new(&format!("at-{at}")).unwrap();
            ledger.devices().save_cursor(&who, &device, Cursor { acked: *position, sent_seq: position.seq }, DeviceBinding::Unbound);
            let (cursor, _) = ledger.devices().cursor_and_head(&who, &device).unwrap();
            let read = read_all(&ledger, &who, cursor.acked, limit);
            prop_assert!(read.is_ok_and(|names| names.ends_with(&live(at + 1))), "locked out at {} of {:?}", at, &steps);
            let other = Position { check: position.check ^ 1, ..*position };
            prop_assert!(read_all(&ledger, &who, other, limit).is_err(), "check bits are compared");
            let elsewhere = Position { epoch: position.epoch + 1, ..*position };
            prop_assert_eq!(read_all(&ledger, &who, elsewhere, limit), Err(ReadError::EpochChanged));
        }
        let kept = model.iter().filter(|(_, fate, _)| *fate != Fate::Removed).count() as u64;
        prop_assert_eq!(mailbox::count(&ledger.disk.view(), &keys::mailbox(&who)).unwrap(), kept);
        let beyond = Position { seq: head.seq + 1_000_000, ..head };
        prop_assert_eq!(read_all(&ledger, &who, beyond, limit), Err(ReadError::EpochChanged));
    });
}

#[test]
fn committed_rows_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let ledger = open(dir.path());
    let (id, epoch) = (ledger.id().to_owned(), ledger.epoch());
    let effects = KeyBatchEffects { notices: vec![notice(&who, "n", NOW.plus_ms(1))], ..KeyBatchEffects::default() };
    runtime.block_on(ledger.commit(effects)).unwrap();
    let (_, head) = ledger.devices().cursor_and_head(&who, &device).unwrap();
    ledger.devices().save_cursor(&who, &device, Cursor { acked: head, sent_seq: head.seq }, DeviceBinding::Unbound);
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!((ledger.id(), ledger.epoch()), (id.as_str(), epoch));
    assert_eq!(
        ledger.devices().cursor_and_head(&who, &device).unwrap(),
        (Cursor { acked: head, sent_seq: head.seq }, head)
    );
    let again = KeyBatchEffects {
        notices: vec![notice(&who, "n", NOW.plus_ms(1)), notice(&who, "m", NOW.plus_ms(1))],
        ..KeyBatchEffects::default()
    };
    runtime.block_on(ledger.commit(again)).unwrap();
    assert_eq!(
        read_all(&ledger, &who, head, 9),
        Ok(vec!["m".to_owned()]),
        "the same id is the same notice after a restart, too"
    );
}

#[test]
fn a_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _ledger = open(dir.path());
    let second =
        Ledger::open(dir.path(), options(1000), Arc::new(Silence), Arc::new(NoCounterObserver), Arc::new(|_: &str| {}));
    assert!(matches!(second, Err(OpenError::InUse(_))));
}

#[test]
fn other_formats_are_refused_and_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let mut backup = Vec::new();
    ledger.backup(&mut backup, |_| {}).unwrap();
    ledger.close();
    drop(ledger);
    for other in (1..FORMAT).chain([FORMAT + 1]) {
        let disk = open::open_disk(dir.path(), &dir.path().join("db")).unwrap();
        let mut batch = disk.batch();
        batch.put(RowKind::Fact, keys::FORMAT, &other.to_be_bytes());
        batch.commit().unwrap();
        drop(disk);
        let refused = |result: Result<(), OpenError>| match result {
            Err(OpenError::Older { found, .. }) => other < FORMAT && found == other,
            Err(OpenError::Newer { found, .. }) => other > FORMAT && found == other,
            _ => false,
        };
        let opened = Ledger::open(
            dir.path(),
            options(1000),
            Arc::new(Silence),
            Arc::new(NoCounterObserver),
            Arc::new(|_: &str| {}),
        );
        assert!(refused(opened.map(drop)) && refused(OfflineLedger::open(dir.path()).map(drop)));
        assert!(refused(Ledger::check(dir.path()).map(drop)), "format {other}");
        let entries = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(entries, 2, "the lock and the database: nothing was quarantined");
        // Restoring a backup of the right format replaces it.
        Ledger::restore(dir.path(), backup.as_slice()).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().contains("quarantined") {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
}

/// Regression: a panic of the writer named no record, so nobody knew what made it panic.
#[test]
fn a_panic_of_the_writer_names_the_records_that_it_was_writing() {
    struct Panics;
    impl MailboxObserver for Panics {
        fn changed(&self, _: &[Recipient]) {
            panic!("a test wants this panic");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let failed = Arc::new(move |why: &str| tx.send(why.to_owned()).unwrap());
    let ledger =
        Ledger::open(dir.path(), options(1000), Arc::new(Panics), Arc::new(NoCounterObserver), failed).unwrap();
    let mut records = Vec::new();
    [43, 41].into_iter().for_each(|at| RecordRange::add(&mut records, &TopicPartition::new("orders", 3), at));
    let who = Recipient::store(Id::new("1").unwrap());
    let notices = vec![notice(&who, "n", committer::now().plus_ms(3_600_000))];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ended = runtime.block_on(ledger.commit(KeyBatchEffects { notices, records, ..KeyBatchEffects::default() }));
    let why = rx.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(why, "the committer panicked while writing the effects of orders/3@41 to @43");
}

#[test]
fn the_embedded_log_never_uses_an_offset_twice_and_recognises_event_ids() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let event = |id: u128, body: u64| NewEvent {
        key: bytes::Bytes::from_static(b"one key"),
        id_hash: id,
        body_hash: body,
        value: bytes::Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        headers: Vec::new(),
    };
    let ledger = open(dir.path());
    let append = |ledger: &Ledger, events| runtime.block_on(ledger.append(events)).unwrap();
    use Appended::{Conflict, Duplicate, Stored};
    assert_eq!(
        append(&ledger, vec![event(1, 1), event(1, 1), event(1, 2), event(2, 1)]),
        [Stored, Duplicate, Conflict, Stored]
    );
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(append(&ledger, vec![event(1, 1), event(3, 1)]), [Duplicate, Stored]);
    let view = ledger.disk.view();
    let ends: u64 = (0..embedded_log::PARTITIONS).map(|part| embedded_log::end(&view, part).unwrap()).sum();
    assert_eq!(ends, 3);
}

#[test]
fn a_floor_never_goes_down_when_orders_with_several_notices_are_expunged() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let commit = |effects| runtime.block_on(ledger.commit(effects)).unwrap();
    let mut positions = Vec::new();
    for name in ["a_1", "a_2", "b_1", "b_2", "b_3"] {
        commit(KeyBatchEffects { notices: vec![notice(&who, name, NOW.plus_ms(1))], ..KeyBatchEffects::default() });
        positions.push(ledger.devices().cursor_and_head(&who, &device).unwrap().1);
    }
    for name in ["a_1", "b_1"] {
        commit(KeyBatchEffects { expunged: vec![order(name)], ..KeyBatchEffects::default() });
    }
    commit(KeyBatchEffects { notices: vec![notice(&who, "c_1", NOW.plus_ms(1))], ..KeyBatchEffects::default() });
    for position in positions {
        let read = read_all(&ledger, &who, position, 9);
        assert!(
            read == Ok(vec!["c_1".to_owned()]) || read == Err(ReadError::PositionExpired),
            "from {position}: {read:?}"
        );
    }
}

/// Expunged from the newest down, each order but the lowest leaves a stub; the lowest removes all stubs, though only this batch knows them.
#[test]
fn stubs_of_one_batch_are_removed_with_the_row_below_them() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let commit = |effects| runtime.block_on(ledger.commit(effects)).unwrap();
    let mut positions = Vec::new();
    for name in ["a_1", "b_1", "c_1", "d_1"] {
        commit(KeyBatchEffects { notices: vec![notice(&who, name, NOW.plus_ms(1))], ..KeyBatchEffects::default() });
        positions.push(ledger.devices().cursor_and_head(&who, &device).unwrap().1);
    }
    commit(KeyBatchEffects { expunged: ["c", "b", "a"].map(order).to_vec(), ..KeyBatchEffects::default() });
    let (floor, _) = ledger.devices().cursor_and_head(&who, &device).unwrap();
    assert_eq!(floor.acked, positions[2], "nothing of the three is left");
    assert_eq!(read_all(&ledger, &who, positions[1], 9), Err(ReadError::PositionExpired));
    assert_eq!(read_all(&ledger, &who, positions[2], 9), Ok(vec!["d_1".to_owned()]));
}

#[tokio::test]
async fn the_delivery_log_names_kinds_and_shows_steps_before_and_after_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let (who, device) = (Recipient::store(Id::new("1").unwrap()), Id::new("d").unwrap());
    let other = Recipient::customer(Id::new("c").unwrap());
    let of_kind =
        |kind, who: &Recipient, name| NewNotice { kind, ..notice(who, name, committer::now().plus_ms(9_000)) };
    let notices = vec![
        of_kind(NoticeKind::NewOrder, &who, "o1_a"),
        of_kind(NoticeKind::Cancelled, &who, "o1_b"),
        of_kind(NoticeKind::Ready, &other, "o1_c"),
    ];
    ledger.commit(KeyBatchEffects { notices, ..KeyBatchEffects::default() }).await.unwrap();
    ledger.delivery_log().record(&who, &device, DeliveryStep::Sent { from: 1, to: 2, attempt: 1 });
    ledger.delivery_log().record(&who, &device, DeliveryStep::Acked(2));
    let check = |ledger: &Ledger| {
        let history = ledger.delivery_log().history(&who, &order("o1_a")).unwrap();
        let notices: Vec<_> = history.notices.iter().map(|notice| (notice.kind, notice.seq)).collect();
        assert_eq!(notices, [(NoticeKind::NewOrder, 1), (NoticeKind::Cancelled, 2)], "another's notice is not shown");
        let steps: Vec<_> = history.steps.iter().map(|(_, of, step)| (of.clone(), *step)).collect();
        let sent = DeliveryStep::Sent { from: 1, to: 2, attempt: 1 };
        assert_eq!(steps, [(device.clone(), sent), (device.clone(), DeliveryStep::Acked(2))]);
    };
    check(&ledger);
    ledger.close();
    drop(ledger);
    check(&open(dir.path()));
}

#[test]
fn a_row_that_does_not_decode_is_an_error_and_never_a_row_less() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let (who, device) = (Recipient::store(Id::new("1").unwrap()), Id::new("d").unwrap());
    let after = |mut prefix: Vec<u8>, more: &[u8]| {
        prefix.extend_from_slice(more);
        prefix
    };
    let part = TopicPartition::new("orders", 0);
    let start = Position::start(ledger.epoch());
    let holds = |result: Result<(), DiskError>| match result {
        Err(DiskError::DamagedRow { source, .. }) => source.map_or(1, |_| 2),
        _ => 0,
    };
    let of_mailbox = |result: Result<(), MailboxError>| match result {
        Err(MailboxError::Disk(error)) => holds(Err(error)),
        _ => 0,
    };
    let disk = |table, key: &[u8], row: &[u8]| {
        let mut batch = ledger.disk.batch();
        batch.put(RowKind::of(table, key).unwrap(), key, row);
        batch.commit().unwrap();
    };
    disk(Table::Meta, &keys::cursor(&who, &device), b"no cursor");
    assert!(
        ledger.devices().cursor_and_head(&who, &device).is_ok(),
        "a device without its cursor is given notices again"
    );
    assert_eq!(holds(ledger.devices().backlogs(&who).map(drop)), 1);
    disk(Table::Meta, &keys::open_order(&who, &Id::new("o1").unwrap()), b"");
    assert_eq!(holds(ledger.orders().open(&who, None, 9).map(drop)), 1, "it has no state");
    disk(Table::Orders, &keys::order(&order("o1")), b"{}");
    assert_eq!(ledger.orders().open(&who, None, 9).unwrap().orders.len(), 1);
    disk(Table::Meta, &after(keys::open_orders_of(&who), b"\xff"), b"");
    assert_eq!(holds(ledger.orders().open(&who, None, 9).map(drop)), 1);
    disk(Table::Meta, &keys::dead_letter(1), b"{");
    assert_eq!(holds(ledger.dead_letters().list(0, 9).map(drop)), 2, "the decoder's error is the source");
    disk(Table::Meta, &keys::checkpoint("kafka", &part), b"123");
    assert_eq!(holds(ledger.checkpoints().of_cluster("kafka").map(drop)), 1);
    // Its header decodes, and its notice does not.
    disk(Table::Mailboxes, &keys::mail(&keys::mailbox(&who), 6), &[0; 30]);
    assert_eq!(of_mailbox(ledger.mailboxes().read(&who, start, start, 9, UnixMs(-1)).map(drop)), 2);
    disk(Table::Mailboxes, &keys::mail(&keys::mailbox(&who), 5), b"x");
    assert_eq!(of_mailbox(ledger.mailboxes().read(&who, start, start, 9, NOW).map(drop)), 1);
    let at_damage = Position { epoch: ledger.epoch(), seq: 5, check: 0 };
    ledger.devices().save_cursor(&who, &device, Cursor { acked: at_damage, sent_seq: 5 }, DeviceBinding::Unbound);
    assert_eq!(
        holds(ledger.devices().cursor_and_head(&who, &device).map(drop)),
        1,
        "a cursor there is not as if there was none"
    );
    disk(Table::Orders, &keys::notice(&order("o1"), "o1_a"), b"unknown\0");
    assert_eq!(holds(ledger.delivery_log().history(&who, &order("o1")).map(drop)), 1);
    disk(Table::Counters, &[&[0, b'm'][..], &7_u64.to_be_bytes()].concat(), &[0x80]);
    assert!(counters::all(&ledger.disk.view()).any(|row| holds(row.map(drop)) == 1));
}

/// Where a device without a cursor begins, and everything that it is given.
fn all_of(ledger: &Ledger, who: &Recipient) -> (Position, Vec<String>) {
    let (cursor, _) = ledger.devices().cursor_and_head(who, &Id::new("d").unwrap()).unwrap();
    (cursor.acked, read_all_at(committer::now(), ledger, who, cursor.acked, 7).unwrap())
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "timed out: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn above_its_limit_a_mailbox_loses_superseded_and_long_expired_rows_and_keeps_live_ones() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_with(dir.path(), options(10));
    let who = Recipient::store(Id::new("1").unwrap());
    let name = |n: usize| format!("o{n}_new");
    let mut positions = Vec::new();
    // Of forty orders all ended but 10, 30 and 39; number 5 has expired, but not long ago.
    let is_live = |n: usize| [10, 30, 39].contains(&n);
    for n in 0..40 {
        let expires_at = if n == 5 { committer::now().plus_ms(-1000) } else { committer::now().plus_ms(3_600_000) };
        let notices = vec![notice(&who, &name(n), expires_at)];
        ledger.commit(KeyBatchEffects { notices, ..KeyBatchEffects::default() }).await.unwrap();
        positions.push(ledger.devices().cursor_and_head(&who, &Id::new("d").unwrap()).unwrap().1);
    }
    let ended = (0..40).filter(|n| !is_live(*n) && *n != 5).map(|n| (order(&name(n)), name(n))).collect();
    ledger.commit(KeyBatchEffects { superseded: ended, ..KeyBatchEffects::default() }).await.unwrap();
    let rows = || mailbox::count(&ledger.disk.view(), &keys::mailbox(&who)).unwrap();
    until("the mailbox is at its limit", || rows() == 10);
    let (floor, delivered) = all_of(&ledger, &who);
    assert_eq!(
        delivered,
        [name(10), name(30), name(39)],
        "live notices are delivered, in order, with an unbroken chain"
    );
    assert_eq!(floor, positions[4], "the floor is below the first row that stays");
    // A position below the floor is too old; one whose row left a stub is still valid.
    assert_eq!(read_all(&ledger, &who, positions[3], 9), Err(ReadError::PositionExpired));
    assert_eq!(read_all(&ledger, &who, positions[20], 9), Ok(vec![name(30), name(39)]));
    let forged = Position { check: positions[20].check ^ 1, ..positions[20] };
    assert_eq!(read_all(&ledger, &who, forged, 9), Err(ReadError::EpochChanged));
    // A trimmed notice is not appended again.
    let again = vec![notice(&who, &name(0), committer::now().plus_ms(3_600_000))];
    ledger.commit(KeyBatchEffects { notices: again, ..KeyBatchEffects::default() }).await.unwrap();
    assert_eq!(all_of(&ledger, &who).1.len(), 3);
    assert_eq!(ledger.mailboxes().overflowing(), []);
    // Expunging the orders leaves no row, also in the count.
    let expunged = (0..40).map(|n| order(&name(n))).collect();
    ledger.commit(KeyBatchEffects { expunged, ..KeyBatchEffects::default() }).await.unwrap();
    assert_eq!((rows(), all_of(&ledger, &who)), (0, (positions[39], Vec::new())));
}

#[tokio::test]
async fn live_notices_above_the_limit_stay_and_raise_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_with(dir.path(), options(10));
    let who = Recipient::store(Id::new("1").unwrap());
    let names: Vec<String> = (0..25).map(|n| format!("o{n}_new")).collect();
    let fresh = |name: &String| notice(&who, name, committer::now().plus_ms(3_600_000));
    let notices = names.iter().map(fresh).collect();
    ledger.commit(KeyBatchEffects { notices, ..KeyBatchEffects::default() }).await.unwrap();
    until("the alert", || ledger.mailboxes().overflowing() == [(who.clone(), 25)]);
    assert_eq!(all_of(&ledger, &who).1, names);
    // Long before the mailbox would be looked at again.
    ledger.set_limits(25, 0);
    until("its end", || ledger.mailboxes().overflowing().is_empty());
}

/// Removes the mark of the newest commit that touched mailboxes, as a table that lost its tail would.
fn damage(dir: &Path) -> u64 {
    let disk = open::open_disk(dir, &dir.join("db")).unwrap();
    let Integrity::Intact(newest) = integrity::check(&disk.view()).unwrap() else { panic!("damaged before") };
    disk.set_newest_commit(newest);
    let named = (1..=newest)
        .rev()
        .find(|number| disk.view().row(Table::Mailboxes, &keys::commit_mark(*number)).unwrap().is_some());
    let mut batch = disk.batch();
    batch.remove(RowKind::Mail, &keys::commit_mark(named.unwrap()));
    batch.commit().unwrap();
    // The removal is itself a commit, numbered after the one whose mark is missing.
    named.unwrap()
}

#[tokio::test]
async fn a_damaged_ledger_begins_a_new_epoch() {
    for publish_to in [PublishTo::EmbeddedLog, PublishTo::Outbox] {
        let dir = tempfile::tempdir().unwrap();
        let options = LedgerOptions {
            state_retention_ms: 3_600_000,
            max_mailbox_rows: 1000,
            min_free_space: 0,
            timeline_retention_ms: 3_600_000,
            publish_to,
            rolled_back: false,
        };
        let open = || open_with(dir.path(), options);
        let who = Recipient::store(Id::new("1").unwrap());
        let ledger = open();
        let (id, epoch) = (ledger.id().to_owned(), ledger.epoch());
        let notices = vec![notice(&who, "o1_new", committer::now().plus_ms(3_600_000))];
        // Of today, which the log still holds, and of a month ago, which it does not.
        let today = u32::try_from(committer::now().0 / 86_400_000).unwrap();
        let minute = u64::try_from(committer::now().0 / 60_000).unwrap();
        let delta = |day| CounterDelta { shadow: false, minute, day, store: None, counter: 1, by: 7 };
        let counter_deltas = vec![delta(today), delta(today - 30)];
        ledger.commit(KeyBatchEffects { notices, counter_deltas, ..KeyBatchEffects::default() }).await.unwrap();
        let event = NewEvent {
            key: "o1".into(),
            id_hash: 1,
            body_hash: 1,
            value: "{}".into(),
            content_type: "application/json".into(),
            headers: Vec::new(),
        };
        ledger.append(vec![event]).await.unwrap();
        let (_, head) = ledger.devices().cursor_and_head(&who, &Id::new("d").unwrap()).unwrap();
        ledger.close();
        drop(ledger);
        let named = damage(dir.path());
        assert!(Ledger::check(dir.path()).unwrap().fault.unwrap().contains(&format!("commit {named}")));

        let ledger = open();
        assert!(ledger.rebuild_reason().unwrap().contains(&format!("commit {named}")), "{:?}", ledger.rebuild_reason());
        assert!(ledger.epoch() > epoch && ledger.id() == id, "the same group member, another history");
        assert_eq!(read_all(&ledger, &who, head, 9), Err(ReadError::EpochChanged));
        let quarantined = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("db.quarantined"));
        let kept = publish_to == PublishTo::EmbeddedLog;
        assert_eq!(quarantined.count(), usize::from(!kept), "quarantined where the topics can be read again");
        assert_eq!(all_of(&ledger, &who).1.len(), usize::from(kept));
        assert_eq!(
            ledger.outbox().pending(0, 9).unwrap().len(),
            usize::from(!kept),
            "an acknowledged event is still published"
        );
        let view = ledger.disk.view();
        let days = counters::all(&view).map(Result::unwrap).filter_map(|(_, bucket, _)| match bucket {
            Bucket::ChainDay(day) => Some(day),
            _ => None,
        });
        let counted = if kept { vec![today - 30, today] } else { vec![today - 30] };
        assert_eq!(days.collect::<Vec<_>>(), counted, "days that the log no longer holds are carried over");
        ledger.close();
        drop(ledger);

        // A crash during the rebuild is not another loss; once the rebuild is finished, it stays finished.
        let ledger = open();
        let again = ledger.epoch();
        assert!(ledger.rebuild_reason().is_some() && again > epoch);
        ledger.finish_rebuild().await.unwrap();
        assert_eq!(ledger.rebuild_reason(), None);
        ledger.close();
        drop(ledger);
        let ledger = open();
        assert_eq!((ledger.rebuild_reason(), ledger.epoch()), (None, again));
    }
}

/// The bug: of a recipient's devices the first 64 by name were listed, and the backlog of the store was that of the best of these.
#[tokio::test]
async fn the_backlog_of_each_device_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let who = Recipient::store(Id::new("1").unwrap());
    let device = |n: usize| Id::new(&format!("till-{n:03}")).unwrap();
    let (floor, _) = ledger.devices().cursor_and_head(&who, &device(0)).unwrap();
    let notices = vec![notice(&who, "n", committer::now().plus_ms(3_600_000))];
    ledger.commit(KeyBatchEffects { notices, ..KeyBatchEffects::default() }).await.unwrap();
    let (_, head) = ledger.devices().cursor_and_head(&who, &device(0)).unwrap();
    let last = tables::DEVICES_MAX - 1;
    for n in 0..=last {
        let acked = if n == last { head } else { floor.acked };
        ledger.devices().save_cursor(&who, &device(n), Cursor { acked, sent_seq: head.seq }, DeviceBinding::Unbound);
    }
    ledger.devices().cursors_durable().await.unwrap();
    let (devices, unread) = ledger.devices().backlogs(&who).unwrap();
    let behind: Vec<_> = devices.iter().map(|device| device.backlog.notices).collect();
    assert_eq!(behind, [vec![1; last], vec![0]].concat());
    assert_eq!(unread.notices, 1);
}
