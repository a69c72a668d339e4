//! The balance on a real disk, across checkpoints and a restart.

use orderbell_consumers::{Checkpoint, CheckpointStore, Record, TopicPartition};
use orderbell_protocol::balance::Bin;

use super::tests::{NOW, open};
use super::*;

/// Records that leave no state are counted in the batch of the checkpoint that passes them; what is read again after a crash is counted once.
#[tokio::test]
async fn the_balance_counts_a_record_without_state_with_its_checkpoint_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let part = TopicPartition::new("orders", 0);
    let note = |ledger: &Ledger, offset: u64| {
        let record = Record {
            partition: part.clone(),
            offset,
            timestamp_ms: NOW.0,
            read_ms: NOW.0,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        ledger.balance().note(&record, BinNote { bin: Bin::Rejected, reason: "bad-id" });
    };
    let pass = async |ledger: &Ledger, next: u64| {
        let (durable, saved) = flume::bounded(1);
        ledger.save("cluster", vec![(part.clone(), Checkpoint { next, last: None })], durable);
        saved.recv_async().await.unwrap();
    };
    let counts = |ledger: &Ledger| {
        let bins = ledger.balance().counts();
        bins.into_iter().map(|bin| (bin.records, bin.open(), bin.newest.offset)).collect::<Vec<_>>()
    };
    let ledger = open(dir.path());
    [5, 6, 8].into_iter().for_each(|offset| note(&ledger, offset));
    assert_eq!(counts(&ledger), [(3, 3, 8)], "an alert needs no checkpoint");
    pass(&ledger, 7).await;
    let seen = ledger.balance().counts();
    ledger.balance().acknowledge(seen).await.unwrap();
    assert_eq!(counts(&ledger), [(3, 0, 8)]);
    ledger.close();
    drop(ledger);

    let ledger = open(dir.path());
    assert_eq!(
        ledger.load("cluster", std::slice::from_ref(&part)).unwrap(),
        [Some(Checkpoint { next: 7, last: None })]
    );
    assert_eq!(counts(&ledger), [(2, 0, 6)]);
    // 8 was looked after before it was counted. Whatever it is now that it is read again, it hides no other.
    [8, 9].into_iter().for_each(|offset| note(&ledger, offset));
    pass(&ledger, 10).await;
    assert_eq!(counts(&ledger), [(4, 2, 9)]);
    ledger.close();
}
