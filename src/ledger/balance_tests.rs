//! The balance on a real disk, across checkpoints and a restart.

use std::path::Path;

use orderbell_consumers::{Begin, Checkpoint, CheckpointStore, DeadLetter, Loss, Reason, Record, TopicPartition, sim};
use orderbell_protocol::balance::{Bin, BinCount, BinDelta, BinKey, RecordPlace, STORE_MAX_WAIT_MS};

use super::balance::BinsView;
use super::tests::{NOW, open, open_with, options};
use super::*;

fn part() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn record(offset: u64) -> Record {
    Record {
        partition: part(),
        offset,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: None,
        headers: Default::default(),
    }
}

/// A dead letter.
fn note(ledger: &Ledger, offset: u64) {
    ledger.balance().note(&record(offset), BinNote { shadow: false, bin: Bin::Rejected, reason: "bad-id" });
}

async fn pass(ledger: &Ledger, next: u64) {
    let (durable, saved) = flume::bounded(1);
    ledger.save("cluster", vec![(part(), Checkpoint { next, last: None })], durable);
    saved.recv_async().await.unwrap();
}

/// The partition begins in this cluster at its checkpoint.
fn at(next: u64) -> Begin {
    let checkpoint = Checkpoint { next, last: None };
    Begin { partition: part(), checkpoint, is_new: false, loss: None, handled_before: None, skip_to: None }
}

/// The same with another checkpoint than it has.
fn anew(next: u64, loss: Option<Loss>) -> Begin {
    Begin { is_new: true, loss, ..at(next) }
}

fn begin(ledger: &Ledger, cluster: &str, begin: Begin) {
    sim::begin(ledger, cluster, vec![begin]);
}

/// Records, open records and the newest offset of each bin.
fn counts(ledger: &Ledger) -> Vec<(u64, u64, u64)> {
    ledger.balance().counts().into_iter().map(|bin| (bin.records, bin.open(), bin.newest.offset)).collect()
}

fn reopened(ledger: Ledger, dir: &Path) -> Ledger {
    ledger.close();
    drop(ledger);
    open(dir)
}

/// The bug: screens, scrapes and the alerts summed all bins under the lock that the committer needs for each batch.
#[tokio::test]
async fn who_reads_the_balance_holds_up_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    note(&ledger, 5);
    let view = ledger.bins.view();
    note(&ledger, 6);
    pass(&ledger, 7).await;
    let records = |view: &BinsView| view.counts(NOW).iter().map(|bin| bin.records).collect::<Vec<_>>();
    assert_eq!(records(&view), [1], "a view is of one moment");
    assert_eq!(view.partition_counts().iter().map(|count| count.records).collect::<Vec<_>>(), [1]);
    assert_eq!(records(&ledger.bins.view()), [2]);
}

/// Records that leave no state are counted in the batch of the checkpoint that passes them; what is read again after a crash is counted once.
#[tokio::test]
async fn the_balance_counts_a_record_without_state_with_its_checkpoint_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    [5, 6, 8].into_iter().for_each(|offset| note(&ledger, offset));
    assert_eq!(counts(&ledger), [(3, 3, 8)], "an alert needs no checkpoint");
    pass(&ledger, 7).await;
    let seen = ledger.balance().acknowledge(|_| true).await.unwrap();
    assert_eq!(seen.iter().map(BinCount::open).collect::<Vec<_>>(), [3]);
    assert_eq!(counts(&ledger), [(3, 0, 8)]);

    let ledger = reopened(ledger, dir.path());
    let loaded = ledger.load("cluster", &[part()]).unwrap();
    assert_eq!(loaded, [Some(Checkpoint { next: 7, last: None })]);
    assert_eq!(counts(&ledger), [(2, 0, 6)]);
    // 8 was looked after before it was counted. Whatever it is now that it is read again, it hides no other.
    [8, 9].into_iter().for_each(|offset| note(&ledger, offset));
    pass(&ledger, 10).await;
    assert_eq!(counts(&ledger), [(4, 2, 9)]);
    ledger.close();
}

/// Offsets of two logs of one partition are not compared. Two such logs never have one number, whatever their clusters.
#[tokio::test]
async fn a_topic_that_was_created_again_and_one_of_another_cluster_are_other_logs() {
    let dir = tempfile::tempdir().unwrap();
    let stored = |ledger: &Ledger, cluster: &str| ledger.load(cluster, &[part()]).unwrap()[0].map(|at| at.next);
    let number_after = |ledger: &Ledger, cluster: &str, begins: Begin| {
        begin(ledger, cluster, begins);
        ledger.log_number(&part())
    };
    let (gap, truncated) = (Loss::RetentionGap { missing: 3 }, Loss::Truncated { beyond: 5 });
    let with_last = |loss| Begin { checkpoint: Checkpoint { next: 7, last: Some((6, 9)) }, ..anew(7, loss) };
    let ledger = open(dir.path());
    assert_eq!(stored(&ledger, "one"), None);
    assert_eq!(number_after(&ledger, "one", anew(7, None)), 0);
    assert_eq!(number_after(&ledger, "one", anew(7, Some(gap))), 0, "the same log, later");
    assert_eq!(number_after(&ledger, "one", anew(7, Some(Loss::Recreated))), 1);
    assert_eq!(number_after(&ledger, "one", with_last(None)), 1);
    assert_eq!(number_after(&ledger, "one", with_last(Some(truncated))), 2);
    assert_eq!(stored(&ledger, "two"), None);
    assert_eq!(ledger.log_number(&part()), 2, "it has not begun");
    assert_eq!(number_after(&ledger, "two", anew(7, None)), 3);
    ledger.close();
    drop(ledger);

    let ledger = open(dir.path());
    assert_eq!(stored(&ledger, "one"), Some(7));
    assert_eq!(number_after(&ledger, "one", at(7)), 2);
    assert_eq!(number_after(&ledger, "one", anew(7, Some(Loss::Recreated))), 4);
    assert_eq!(number_after(&ledger, "two", at(7)), 3);
    assert_eq!(ledger.log_number(&TopicPartition::new("orders", 1)), 0);
    ledger.close();
}

/// Regression: what was looked after before it was counted, and was then read again as something else, hid another record.
#[tokio::test]
async fn a_record_that_was_looked_after_and_is_read_again_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    note(&ledger, 5);
    ledger.balance().acknowledge(|_| true).await.unwrap();
    // The partition is assigned again, and 5 is no dead letter this time.
    begin(&ledger, "cluster", at(5));
    note(&ledger, 6);
    assert_eq!(counts(&ledger), [(2, 1, 6)]);
    pass(&ledger, 7).await;
    assert_eq!(counts(&ledger), [(1, 1, 6)]);
    ledger.close();
}

/// Regression: between the moment at which a checkpoint took the records and its commit they were missing, so that an alert ended and began again.
#[tokio::test]
async fn a_record_is_counted_once_at_every_moment() {
    const RECORDS: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(dir.path()));
    (0..RECORDS).for_each(|offset| note(&ledger, offset));
    let (watched, done) = (ledger.clone(), Arc::new(AtomicBool::new(false)));
    let is_done = done.clone();
    let watching = std::thread::spawn(move || {
        let mut looks = 0_u64;
        while !is_done.load(Ordering::Acquire) {
            let counts: Vec<_> = watched.balance().counts().into_iter().map(|bin| (bin.records, bin.open())).collect();
            assert_eq!(counts, [(RECORDS, RECORDS)]);
            looks += 1;
        }
        looks
    });
    for next in 1..=RECORDS {
        pass(&ledger, next).await;
    }
    done.store(true, Ordering::Release);
    assert!(watching.join().unwrap() > 0);
    assert_eq!(counts(&ledger), [(RECORDS, RECORDS, RECORDS - 1)]);
    ledger.close();
}

/// Which orders somebody looked after is known across a restart.
#[tokio::test]
async fn an_order_that_leaves_after_a_restart_takes_no_other_acknowledgement_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let early = committer::now().plus_ms(-10 * STORE_MAX_WAIT_MS);
    let change = async |ledger: &Ledger, by: i64, since: UnixMs| {
        let key = BinKey { shadow: false, topic: "orders".into(), bin: Bin::AwaitsStore, reason: String::new() };
        let place = RecordPlace { partition: 0, offset: 1 };
        let delta = BinDelta { key, by, place, waits_since: Some(since) };
        ledger.commit(KeyBatchEffects { bin_deltas: vec![delta], ..KeyBatchEffects::default() }).await.unwrap();
    };
    let of_bin = |ledger: &Ledger| {
        let bins = ledger.balance().counts();
        bins.iter().map(|bin| (bin.records, bin.acknowledged, bin.waiting)).collect::<Vec<_>>()
    };
    change(&ledger, 1, early).await;
    ledger.balance().acknowledge(|_| true).await.unwrap();
    let newest = committer::now();
    change(&ledger, 1, newest).await;
    change(&ledger, 1, newest).await;
    let ledger = reopened(ledger, dir.path());
    assert_eq!(of_bin(&ledger), [(3, 1, 2)], "two raise no alert yet");
    change(&ledger, -1, newest).await;
    assert_eq!(of_bin(&ledger), [(2, 1, 1)]);
    change(&ledger, -1, early).await;
    assert_eq!(of_bin(&ledger), [(1, 0, 1)], "the other is still open");
    ledger.close();
}

/// Regression: a refused event was noted under an offset of its topic: a rebalance forgot it, and a checkpoint there counted it once more.
#[tokio::test]
async fn an_event_that_the_output_topic_refuses_is_counted_with_its_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let on_kafka = || open_with(dir.path(), LedgerOptions { publish_to: PublishTo::Outbox, ..options(1_000) });
    let ledger = on_kafka();
    let event = NewEvent {
        key: "o1".into(),
        id_hash: 1,
        body_hash: 1,
        value: "{}".into(),
        content_type: "application/json".into(),
        headers: Vec::new(),
    };
    ledger.append(vec![event]).await.unwrap();
    let number = ledger.outbox().pending(0, 9).unwrap()[0].number;
    let reason = Reason { code: "not-published", message: "too large".into() };
    let dead_letter = DeadLetter { record: record(number), reason, attempts: 1 };
    let note = BinNote { shadow: false, bin: Bin::Rejected, reason: "not-published" };
    let place = RecordPlace { partition: 0, offset: number };
    ledger.outbox().refused(number, &dead_letter, vec![note.delta("orders", place)]).await.unwrap();
    let counted = |ledger: &Ledger| {
        let (dead_letters, waiting) =
            (ledger.dead_letters().list(0, 9).unwrap(), ledger.outbox().pending(0, 9).unwrap());
        (counts(ledger), dead_letters.len(), waiting.len())
    };
    assert_eq!(counted(&ledger), (vec![(1, 1, number)], 1, 0));
    begin(&ledger, "cluster", anew(0, None));
    pass(&ledger, number + 9).await;
    ledger.close();
    drop(ledger);
    assert_eq!(counted(&on_kafka()), (vec![(1, 1, number)], 1, 0));
}

/// The bug: dead letters above a checkpoint were forgotten when their partition started again, and the log no longer held them.
#[tokio::test]
async fn dead_letters_above_a_checkpoint_stay_open_when_the_log_lost_them() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    pass(&ledger, 5).await;
    // 5 is not finished.
    [6, 7].into_iter().for_each(|offset| note(&ledger, offset));
    begin(&ledger, "cluster", at(5));
    assert_eq!(counts(&ledger), [(2, 2, 7)], "until they are read again");
    begin(&ledger, "cluster", anew(9, Some(Loss::RetentionGap { missing: 4 })));
    assert_eq!(counts(&ledger), [(2, 2, 7)]);
    let ledger = reopened(ledger, dir.path());
    assert_eq!(counts(&ledger), [(2, 2, 7)]);
    ledger.balance().acknowledge(|_| true).await.unwrap();
    assert_eq!(counts(&ledger), [(2, 0, 7)]);
    ledger.close();
}

/// The bug: to look at a checkpoint set the dead letters above it aside. When the partition was not started then, and the record below them was
/// finished, they left the balance as if they had been read again, and their alert ended.
#[tokio::test]
async fn a_start_that_does_not_happen_takes_no_dead_letter_out_of_the_balance() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    begin(&ledger, "cluster", anew(5, None));
    // 5 is not finished, so the partition cannot begin with another log.
    [6, 7].into_iter().for_each(|offset| note(&ledger, offset));
    assert_eq!(ledger.load("cluster", &[part()]).unwrap(), [Some(Checkpoint { next: 5, last: None })]);
    pass(&ledger, 8).await;
    assert_eq!(counts(&ledger), [(2, 2, 7)]);
    begin(&ledger, "cluster", anew(0, Some(Loss::Truncated { beyond: 8 })));
    let ledger = reopened(ledger, dir.path());
    assert_eq!(counts(&ledger), [(2, 2, 7)]);
    ledger.close();
}

/// The bug: of records in a bin's row, some were open again when a checkpoint passed others of the bin that were looked after with them.
#[tokio::test]
async fn what_is_looked_after_while_a_checkpoint_passes_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    [1, 2].into_iter().for_each(|offset| note(&ledger, offset));
    pass(&ledger, 3).await;
    [5, 6, 7].into_iter().for_each(|offset| note(&ledger, offset));
    let (seen, in_rows) = ledger.bins.look_after(|_| true, committer::now());
    assert_eq!(seen[0].open(), 5);
    note(&ledger, 8);
    pass(&ledger, 9).await;
    ledger.submit(|reply| committer::Work::BalanceAcknowledged(in_rows, reply)).await.unwrap();
    assert_eq!(counts(&ledger), [(6, 1, 8)], "only the one that came since");
    ledger.close();
}

/// The bug: after a ledger was lost, orders that were paid in an outage before the next one began were history, which is no concern of anybody.
#[tokio::test]
async fn history_ends_where_another_ledger_had_read_to_and_not_when_this_one_began() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let before = ledger.began_at().plus_ms(-9 * 3_600_000);
    let is_history =
        |ledger: &Ledger| [6, 7].map(|offset| ledger.is_history(&Record { timestamp_ms: before.0, ..record(offset) }));
    assert_eq!(is_history(&ledger), [true, true], "a first start reads what others had handled");
    assert!(!ledger.is_history(&Record { timestamp_ms: ledger.began_at().0 + 1, ..record(7) }));
    begin(&ledger, "cluster", Begin { handled_before: Some(7), ..anew(3, None) });
    assert_eq!(is_history(&ledger), [true, false]);
    let ledger = reopened(ledger, dir.path());
    begin(&ledger, "cluster", at(3));
    assert_eq!(is_history(&ledger), [true, false]);
    begin(&ledger, "elsewhere", anew(3, None));
    assert_eq!(is_history(&ledger), [true, true], "another log");
    begin(&ledger, "cluster", at(3));
    assert_eq!(is_history(&ledger), [true, false]);
    begin(&ledger, "cluster", anew(0, Some(Loss::Recreated)));
    assert_eq!(is_history(&ledger), [true, true], "another log, too");
    let ledger = reopened(ledger, dir.path());
    begin(&ledger, "cluster", at(0));
    assert_eq!(is_history(&ledger), [true, true]);
    ledger.close();
}

/// The bug: a skip that `serve` was still started with also passed over the records of a topic that was created again.
#[test]
fn a_skip_is_remembered_until_a_begin_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let used = |ledger: &Ledger| ledger.used_skip("cluster", &part()).unwrap();
    assert_eq!(used(&ledger), None);
    begin(&ledger, "cluster", Begin { skip_to: Some(12), ..anew(12, None) });
    begin(&ledger, "elsewhere", Begin { skip_to: Some(3), ..anew(3, None) });
    begin(&ledger, "cluster", Begin { skip_to: Some(12), ..anew(0, Some(Loss::Recreated)) });
    let ledger = reopened(ledger, dir.path());
    assert_eq!(used(&ledger), Some(12));
    begin(&ledger, "cluster", Begin { skip_to: Some(14), ..anew(14, None) });
    assert_eq!(used(&ledger), Some(14));
    begin(&ledger, "cluster", at(14));
    assert_eq!(used(&ledger), None);
    ledger.close();
}

/// What the log still tells is counted apart from what an earlier one had, or what it lost.
#[tokio::test]
async fn each_partition_counts_what_its_log_holds_since_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let start = |ledger: &Ledger, next: u64, loss: Option<Loss>| begin(ledger, "cluster", anew(next, loss));
    let counted = |ledger: &Ledger| {
        let counts = ledger.balance().partition_counts();
        counts.iter().map(|one| (one.partition, one.records, one.from, one.earlier)).collect::<Vec<_>>()
    };
    let notified = async |ledger: &Ledger, bin: Bin, reason: &str, offset: u64| {
        let key = BinKey { shadow: false, topic: "orders".into(), bin, reason: reason.into() };
        let delta = BinDelta { key, by: 1, place: RecordPlace { partition: 0, offset }, waits_since: None };
        ledger.commit(KeyBatchEffects { bin_deltas: vec![delta], ..KeyBatchEffects::default() }).await.unwrap();
    };
    start(&ledger, 5, None);
    notified(&ledger, Bin::Notified, "", 5).await;
    notified(&ledger, Bin::Notified, "order.accepted", 6).await;
    note(&ledger, 7);
    assert_eq!(counted(&ledger), [(0, 2, 5, 0)], "a type other than a payment's is not compared");
    pass(&ledger, 8).await;
    assert_eq!(counted(&ledger), [(0, 2, 5, 0)]);
    let ledger = reopened(ledger, dir.path());
    assert_eq!(counted(&ledger), [(0, 2, 5, 0)]);
    start(&ledger, 20, Some(Loss::RetentionGap { missing: 12 }));
    assert_eq!(counted(&ledger), [(0, 0, 20, 2)]);
    // It was read before the gap, and is stored after it.
    notified(&ledger, Bin::Notified, "", 9).await;
    notified(&ledger, Bin::Notified, "", 20).await;
    note(&ledger, 21);
    assert_eq!(counted(&ledger), [(0, 2, 20, 3)]);
    start(&ledger, 0, Some(Loss::Recreated));
    assert_eq!(counted(&ledger), [(0, 0, 0, 5)], "with what was noted of the earlier log");
    notified(&ledger, Bin::Duplicate, "", 0).await;
    assert_eq!(counted(&ledger), [(0, 1, 0, 5)]);
    let in_bins: u64 =
        ledger.balance().counts().iter().filter(|bin| bin.key.is_in_the_log()).map(|bin| bin.records).sum();
    assert_eq!(in_bins, 6);
    ledger.close();
}
