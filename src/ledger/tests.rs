//! The ledger on a real disk against a naive mailbox.

use super::whole::Whole;
use super::*;
use orderbell_protocol::Id;
use orderbell_protocol::notice::Encoded;
use proptest::prelude::*;

struct Silence;

impl Bell for Silence {
    fn ring(&self, _who: &[Recipient]) {}
}

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn open(dir: &Path) -> Ledger {
    open_with(dir, 1_000_000)
}

fn options(mailbox_rows_max: u64) -> LedgerOptions {
    LedgerOptions {
        state_retention_ms: 1000,
        mailbox_rows_max,
        free_space_min: 0,
        trail_ms: 3_600_000,
        emit: Emit::Stream,
        went_back: false,
    }
}

fn open_with(dir: &Path, mailbox_rows_max: u64) -> Ledger {
    Ledger::open(dir, options(mailbox_rows_max), Arc::new(Silence), Arc::new(NoBoard), |error| panic!("{error}"))
        .unwrap()
}

/// A notice's name begins with its order's: three notices in a row belong to one order, as in life.
fn order(name: &str) -> OrderKey {
    let order = name.split('_').next().unwrap();
    OrderKey { shadow: false, id: Id::new(order).unwrap() }
}

fn notice(who: &Recipient, name: &str, expires_at: UnixMs) -> NewNotice {
    let notice = Encoded::from_stored(format!("{{\"name\":\"{name}\"}}").as_bytes()).unwrap();
    NewNotice { order: order(name), id: name.into(), recipient: who.clone(), notice, expires_at }
}

/// Everything a reader without a position is given, page by page, the chain checked.
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
        let page = ledger.read(who, chain, scan, limit, now)?;
        assert!(page.notices.len() <= usize::from(limit));
        for delivery in &page.notices {
            assert_eq!(delivery.after, chain, "the chain is broken");
            assert!(delivery.position.seq > chain.seq, "seqs only grow");
            chain = delivery.position;
            names.push(delivery.notice.as_str().split('"').nth(3).unwrap().to_owned());
        }
        scan = page.next;
        if !page.more() {
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
    Forget(Vec<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<bool>().prop_map(|old| Step::Append { old }),
        2 => (0..15_usize).prop_map(Step::Supersede),
        2 => proptest::collection::vec(0..15_usize, 1..4).prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What became of a notice, in the naive mailbox.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Rings,
    Silent,
    Gone,
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
            let mut effects = TurnEffects::default();
            match step {
                Step::Append { old } => {
                    let name = format!("o{case}-{}_n{at}", at / 3);
                    let expires_at = NOW.plus_ms(if *old { -1 } else { 1 });
                    effects.notices.push(notice(&who, &name, expires_at));
                    // The same id again in the same turn is the same notice.
                    effects.notices.push(notice(&who, &name, expires_at));
                    let fate = if *old { Fate::Silent } else { Fate::Rings };
                    model.push((name, fate, Position::start(0)));
                }
                Step::Supersede(nth) => {
                    let Some((name, fate, _)) = model.get_mut(*nth) else { continue };
                    effects.superseded.push((order(name), name.clone()));
                    *fate = if *fate == Fate::Gone { Fate::Gone } else { Fate::Silent };
                }
                Step::Forget(which) => {
                    for nth in which {
                        let Some((name, _, _)) = model.get(*nth).cloned() else { continue };
                        effects.forgotten.push(order(&name));
                        let of_the_order = model.iter_mut().filter(|(other, _, _)| order(other) == order(&name));
                        of_the_order.for_each(|(_, fate, _)| *fate = Fate::Gone);
                    }
                }
            }
            let appended = !effects.notices.is_empty();
            runtime.block_on(ledger.commit(effects)).unwrap();
            if appended {
                let (_, head) = ledger.standing(&who, &Id::new("d").unwrap()).unwrap();
                model.last_mut().unwrap().2 = head;
            }
        }
        let (standing, head) = ledger.standing(&who, &Id::new("d").unwrap()).unwrap();
        let rings = |from: usize| model[from..].iter().filter(|(_, fate, _)| *fate == Fate::Rings).map(|(name, _, _)| name.clone()).collect::<Vec<_>>();
        prop_assert_eq!(read_all(&ledger, &who, standing.acked, limit), Ok(rings(0)));
        // From every position that was given out: what follows it, or "too old" where it is below the floor.
        let floor = model.iter().take_while(|(_, fate, _)| *fate == Fate::Gone).count();
        for (at, (_, _, position)) in model.iter().enumerate() {
            let read = read_all(&ledger, &who, *position, limit);
            // Below the floor it is too old; the floor itself is the last that is gone, and what follows it is all there.
            let wanted = if at + 1 < floor { Err(ReadError::Gone) } else { Ok(rings(at + 1)) };
            prop_assert_eq!(read, wanted, "from notice {} of {:?}", at, &steps);
            // The server's own cursor of a device never locks it out, wherever it stood.
            let device = Id::new(&format!("at-{at}")).unwrap();
            ledger.stand(&who, &device, Standing { acked: *position, sent_seq: position.seq });
            let (standing, _) = ledger.standing(&who, &device).unwrap();
            let read = read_all(&ledger, &who, standing.acked, limit);
            prop_assert!(read.is_ok_and(|names| names.ends_with(&rings(at + 1))), "locked out at {} of {:?}", at, &steps);
            let other = Position { check: position.check ^ 1, ..*position };
            prop_assert!(read_all(&ledger, &who, other, limit).is_err(), "check bits are compared");
            let elsewhere = Position { epoch: position.epoch + 1, ..*position };
            prop_assert_eq!(read_all(&ledger, &who, elsewhere, limit), Err(ReadError::Epoch));
        }
        let kept = model.iter().filter(|(_, fate, _)| *fate != Fate::Gone).count() as u64;
        prop_assert_eq!(mailbox::count(&ledger.disk.view(), &keys::mailbox(&who)).unwrap(), kept);
        let beyond = Position { seq: head.seq + 1_000_000, ..head };
        prop_assert_eq!(read_all(&ledger, &who, beyond, limit), Err(ReadError::Epoch));
    });
}

#[test]
fn what_was_committed_is_there_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let ledger = open(dir.path());
    let (id, epoch) = (ledger.id().to_owned(), ledger.epoch());
    let effects = TurnEffects { notices: vec![notice(&who, "n", NOW.plus_ms(1))], ..TurnEffects::default() };
    runtime.block_on(ledger.commit(effects)).unwrap();
    let (_, head) = ledger.standing(&who, &device).unwrap();
    ledger.stand(&who, &device, Standing { acked: head, sent_seq: head.seq });
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!((ledger.id(), ledger.epoch()), (id.as_str(), epoch));
    assert_eq!(ledger.standing(&who, &device).unwrap(), (Standing { acked: head, sent_seq: head.seq }, head));
    let again = TurnEffects {
        notices: vec![notice(&who, "n", NOW.plus_ms(1)), notice(&who, "m", NOW.plus_ms(1))],
        ..TurnEffects::default()
    };
    runtime.block_on(ledger.commit(again)).unwrap();
    assert_eq!(
        read_all(&ledger, &who, head, 9),
        Ok(vec!["m".to_owned()]),
        "the same id is the same notice after a restart, too"
    );
}

#[test]
fn a_directory_serves_one_process_and_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let second = Ledger::open(dir.path(), options(1000), Arc::new(Silence), Arc::new(NoBoard), |_| {});
    assert!(matches!(second, Err(OpenError::InUse(_))));
    ledger.close();
    drop(ledger);
    let disk = Disk::open(&dir.path().join("db")).unwrap();
    let mut batch = disk.batch();
    batch.put(Space::Meta, keys::FORMAT, &(FORMAT + 1).to_be_bytes());
    batch.commit().unwrap();
    drop(disk);
    let newer = Ledger::open(dir.path(), options(1000), Arc::new(Silence), Arc::new(NoBoard), |_| {});
    assert!(matches!(newer, Err(OpenError::Newer { found: 4, .. })), "{:?}", newer.err());
}

#[test]
fn the_stream_never_uses_an_offset_twice_and_knows_its_ids() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let event = |id: u128, body: u64| Incoming {
        key: bytes::Bytes::from_static(b"one key"),
        id_hash: id,
        body_hash: body,
        value: bytes::Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
    };
    let ledger = open(dir.path());
    let append = |ledger: &Ledger, events| runtime.block_on(ledger.append(events)).unwrap();
    use Appended::{Conflict, Duplicate, Logged};
    assert_eq!(
        append(&ledger, vec![event(1, 1), event(1, 1), event(1, 2), event(2, 1)]),
        [Logged, Duplicate, Conflict, Logged]
    );
    ledger.close();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(append(&ledger, vec![event(1, 1), event(3, 1)]), [Duplicate, Logged]);
    let view = ledger.disk.view();
    let ends: u64 = (0..stream::PARTITIONS).map(|part| stream::end(&view, part).unwrap()).sum();
    assert_eq!(ends, 3);
}

#[test]
fn a_floor_never_goes_back_when_orders_with_several_notices_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let commit = |effects| runtime.block_on(ledger.commit(effects)).unwrap();
    let mut positions = Vec::new();
    for name in ["a_1", "a_2", "b_1", "b_2", "b_3"] {
        commit(TurnEffects { notices: vec![notice(&who, name, NOW.plus_ms(1))], ..TurnEffects::default() });
        positions.push(ledger.standing(&who, &device).unwrap().1);
    }
    for name in ["a_1", "b_1"] {
        commit(TurnEffects { forgotten: vec![order(name)], ..TurnEffects::default() });
    }
    commit(TurnEffects { notices: vec![notice(&who, "c_1", NOW.plus_ms(1))], ..TurnEffects::default() });
    for position in positions {
        let read = read_all(&ledger, &who, position, 9);
        assert!(read == Ok(vec!["c_1".to_owned()]) || read == Err(ReadError::Gone), "from {position}: {read:?}");
    }
}

/// Forgotten from the newest down, each but the lowest leaves a stub; the lowest takes them all along, though only this batch knows them.
#[test]
fn stubs_of_one_batch_go_with_what_stood_below_them() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (who, device) = (Recipient::customer(Id::new("c").unwrap()), Id::new("d").unwrap());
    let commit = |effects| runtime.block_on(ledger.commit(effects)).unwrap();
    let mut positions = Vec::new();
    for name in ["a_1", "b_1", "c_1", "d_1"] {
        commit(TurnEffects { notices: vec![notice(&who, name, NOW.plus_ms(1))], ..TurnEffects::default() });
        positions.push(ledger.standing(&who, &device).unwrap().1);
    }
    commit(TurnEffects { forgotten: ["c", "b", "a"].map(order).to_vec(), ..TurnEffects::default() });
    let (floor, _) = ledger.standing(&who, &device).unwrap();
    assert_eq!(floor.acked, positions[2], "nothing of the three is left");
    assert_eq!(read_all(&ledger, &who, positions[1], 9), Err(ReadError::Gone));
    assert_eq!(read_all(&ledger, &who, positions[2], 9), Ok(vec!["d_1".to_owned()]));
}

/// Everything a device without a position is given, and where it begins.
fn all_of(ledger: &Ledger, who: &Recipient) -> (Position, Vec<String>) {
    let (standing, _) = ledger.standing(who, &Id::new("d").unwrap()).unwrap();
    (standing.acked, read_all_at(committer::now(), ledger, who, standing.acked, 7).unwrap())
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "in vain: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn above_its_bound_a_mailbox_loses_what_nobody_needs_and_keeps_what_may_still_ring() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_with(dir.path(), 10);
    let who = Recipient::store(Id::new("1").unwrap());
    let name = |n: usize| format!("o{n}_new");
    let mut places = Vec::new();
    // Of forty orders all ended but the tenth, the thirtieth and the last; the fifth is past its life, but not for long.
    let lives = |n: usize| [10, 30, 39].contains(&n);
    for n in 0..40 {
        let expires_at = if n == 5 { committer::now().plus_ms(-1000) } else { committer::now().plus_ms(3_600_000) };
        let notices = vec![notice(&who, &name(n), expires_at)];
        ledger.commit(TurnEffects { notices, ..TurnEffects::default() }).await.unwrap();
        places.push(ledger.standing(&who, &Id::new("d").unwrap()).unwrap().1);
    }
    let ended = (0..40).filter(|n| !lives(*n) && *n != 5).map(|n| (order(&name(n)), name(n))).collect();
    ledger.commit(TurnEffects { superseded: ended, ..TurnEffects::default() }).await.unwrap();
    let rows = || mailbox::count(&ledger.disk.view(), &keys::mailbox(&who)).unwrap();
    until("the mailbox is at its bound", || rows() == 10);
    let (floor, heard) = all_of(&ledger, &who);
    assert_eq!(heard, [name(10), name(30), name(39)], "what may ring is heard, in order, its chain whole");
    assert_eq!(floor, places[4], "the floor is below the first that stays");
    // A position below the floor is too old; one whose row left a stub is still vouched for.
    assert_eq!(read_all(&ledger, &who, places[3], 9), Err(ReadError::Gone));
    assert_eq!(read_all(&ledger, &who, places[20], 9), Ok(vec![name(30), name(39)]));
    let forged = Position { check: places[20].check ^ 1, ..places[20] };
    assert_eq!(read_all(&ledger, &who, forged, 9), Err(ReadError::Epoch));
    // What was trimmed is not made again.
    let again = vec![notice(&who, &name(0), committer::now().plus_ms(3_600_000))];
    ledger.commit(TurnEffects { notices: again, ..TurnEffects::default() }).await.unwrap();
    assert_eq!(all_of(&ledger, &who).1.len(), 3);
    assert_eq!(ledger.crowded(), []);
    // Forgetting the orders leaves nothing behind, also not in the count.
    let forgotten = (0..40).map(|n| order(&name(n))).collect();
    ledger.commit(TurnEffects { forgotten, ..TurnEffects::default() }).await.unwrap();
    assert_eq!((rows(), all_of(&ledger, &who)), (0, (places[39], Vec::new())));
}

#[tokio::test]
async fn live_notices_above_the_bound_stay_and_are_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_with(dir.path(), 10);
    let who = Recipient::store(Id::new("1").unwrap());
    let names: Vec<String> = (0..25).map(|n| format!("o{n}_new")).collect();
    let fresh = |name: &String| notice(&who, name, committer::now().plus_ms(3_600_000));
    let notices = names.iter().map(fresh).collect();
    ledger.commit(TurnEffects { notices, ..TurnEffects::default() }).await.unwrap();
    until("the alarm", || ledger.crowded() == [(who.clone(), 25)]);
    assert_eq!(all_of(&ledger, &who).1, names);
}

/// Takes the mark of the newest commit that touched mailboxes away, as a keyspace that lost its tail would.
fn damage(dir: &Path) -> u64 {
    let disk = Disk::open(&dir.join("db")).unwrap();
    let Whole::Yes(newest) = whole::look(&disk.view()).unwrap() else { panic!("not whole before") };
    disk.number_from(newest);
    let named = (1..=newest).rev().find(|number| disk.view().row(Space::Mail, &keys::ring(*number)).unwrap().is_some());
    let mut batch = disk.batch();
    batch.remove(Space::Mail, &keys::ring(named.unwrap()));
    batch.commit().unwrap();
    // The removal is itself a commit that touches mailboxes; it is gone in the same way.
    named.unwrap()
}

#[tokio::test]
async fn a_ledger_that_is_not_whole_begins_a_new_epoch() {
    for emit in [Emit::Stream, Emit::Outbox] {
        let dir = tempfile::tempdir().unwrap();
        let options = LedgerOptions {
            state_retention_ms: 3_600_000,
            mailbox_rows_max: 1000,
            free_space_min: 0,
            trail_ms: 3_600_000,
            emit,
            went_back: false,
        };
        let open = || {
            Ledger::open(dir.path(), options, Arc::new(Silence), Arc::new(NoBoard), |error| panic!("{error}")).unwrap()
        };
        let who = Recipient::store(Id::new("1").unwrap());
        let ledger = open();
        let (id, epoch) = (ledger.id().to_owned(), ledger.epoch());
        let notices = vec![notice(&who, "o1_new", committer::now().plus_ms(3_600_000))];
        // Of yesterday, which the log still has, and of a month ago, which it has not.
        let today = u32::try_from(committer::now().0 / 86_400_000).unwrap();
        let minute = u64::try_from(committer::now().0 / 60_000).unwrap();
        let tally = |day| Tally { shadow: false, minute, day, store: None, cell: 1, by: 7 };
        let tallies = vec![tally(today), tally(today - 30)];
        ledger.commit(TurnEffects { notices, tallies, ..TurnEffects::default() }).await.unwrap();
        let said = Incoming {
            key: "o1".into(),
            id_hash: 1,
            body_hash: 1,
            value: "said".into(),
            content_type: "application/json".into(),
        };
        ledger.append(vec![said]).await.unwrap();
        let (_, head) = ledger.standing(&who, &Id::new("d").unwrap()).unwrap();
        ledger.close();
        drop(ledger);
        let named = damage(dir.path());
        assert!(Ledger::check(dir.path()).unwrap().fault.unwrap().contains(&format!("commit {named}")));

        let ledger = open();
        assert!(ledger.doubt().unwrap().contains(&format!("commit {named}")), "{:?}", ledger.doubt());
        assert!(ledger.epoch() > epoch && ledger.id() == id, "the same member, another history");
        assert_eq!(read_all(&ledger, &who, head, 9), Err(ReadError::Epoch));
        let aside = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("db.aside"));
        let kept = emit == Emit::Stream;
        assert_eq!(aside.count(), usize::from(!kept), "set aside where the log can be read again");
        assert_eq!(all_of(&ledger, &who).1.len(), usize::from(kept));
        assert_eq!(ledger.outbox(9).unwrap().len(), usize::from(!kept), "what was answered is still emitted");
        let view = ledger.disk.view();
        let days = tally::all(&view).map(Result::unwrap).filter_map(|(_, window, _)| match window {
            Window::ChainDay(day) => Some(day),
            _ => None,
        });
        let counted = if kept { vec![today - 30, today] } else { vec![today - 30] };
        assert_eq!(days.collect::<Vec<_>>(), counted, "what the log cannot tell again is carried over");
        ledger.close();
        drop(ledger);

        // A crash in the middle is not another loss; in the end the doubt is over, for good.
        let ledger = open();
        let again = ledger.epoch();
        assert!(ledger.doubt().is_some() && again > epoch);
        ledger.rebuilt().await.unwrap();
        assert_eq!(ledger.doubt(), None);
        ledger.close();
        drop(ledger);
        let ledger = open();
        assert_eq!((ledger.doubt(), ledger.epoch()), (None, again));
    }
}
