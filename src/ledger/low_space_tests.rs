//! Below the guard: what outsiders cause is not written.

use orderbell_protocol::{Id, Recipient, UnixMs};

use super::delivery_log::{DeliveryStep, PendingSteps};
use super::tests::{NOW, open_with, options};
use super::write_batch::BatchBuilder;
use super::*;

fn event(id: u128) -> NewEvent {
    NewEvent {
        key: bytes::Bytes::from_static(b"o1"),
        id_hash: id,
        body_hash: 1,
        value: bytes::Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        headers: Vec::new(),
    }
}

#[test]
fn below_the_guard_the_writer_takes_no_event_whoever_queued_it() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ledger = open_with(dir.path(), LedgerOptions { min_free_space: u64::MAX, ..options(1_000) });
    assert!(ledger.is_disk_low());
    let rows = |ledger: &Ledger| ledger.backup(std::io::sink(), |_| {}).unwrap();
    let before = rows(&ledger);
    let append = |ids: &[u128]| runtime.block_on(ledger.append(ids.iter().copied().map(event).collect())).unwrap();
    assert_eq!(append(&[1, 2]), [Appended::DiskLow; 2]);
    let (who, device) = (Recipient::store(Id::new("1").unwrap()), Id::new("till").unwrap());
    ledger.delivery_log().record(&who, &device, DeliveryStep::Displayed(1));
    // What was recorded is taken with this batch, and left out.
    runtime.block_on(ledger.devices().cursors_durable()).unwrap();
    assert_eq!(rows(&ledger), before);
    // It ends with the next batch after there is space again.
    ledger.set_limits(1_000, 0);
    runtime.block_on(ledger.commit(KeyBatchEffects::default())).unwrap();
    assert!(!ledger.is_disk_low());
    assert_eq!(append(&[1, 2]), [Appended::Stored; 2]);
    ledger.delivery_log().record(&who, &device, DeliveryStep::Displayed(1));
    runtime.block_on(ledger.devices().cursors_durable()).unwrap();
    assert!(rows(&ledger) > before + 4);
}

#[test]
fn a_client_that_sends_steps_without_end_writes_a_bounded_number_in_an_hour_and_its_neighbour_all() {
    const HOUR_MS: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let disk = open::open_disk(dir.path(), &dir.path().join("db")).unwrap();
    let store = |id: &str| Recipient::store(Id::new(id).unwrap());
    let (log, till) = (PendingSteps::default(), Id::new("till").unwrap());
    // As often as the log is written, each device has a number of steps.
    let written = |who: &Recipient, from: UnixMs, ticks: i64| {
        let mut bytes = 0;
        for tick in 0..ticks {
            let at = from.plus_ms(tick);
            (0..256).for_each(|_| log.record(who, &till, DeliveryStep::Displayed(1), at));
            let mut batch = BatchBuilder::new(&disk, PublishTo::EmbeddedLog, 0, 0);
            log.begin_write(&mut batch, false);
            bytes += batch.commit(0).unwrap().map_or(0, |committed| committed.bytes);
            log.end_write();
        }
        bytes
    };
    let one_tick = written(&store("1"), NOW, 1);
    let limit = written(&store("1"), NOW.plus_ms(1), 600);
    assert!((380..=392).contains(&(limit / one_tick)), "{limit} bytes, and {one_tick} in one tick");
    assert_eq!(written(&store("1"), NOW.plus_ms(1_000), 10), 0, "above the limit");
    assert_eq!(written(&store("2"), NOW.plus_ms(1_000), 10), 10 * one_tick, "its neighbour");
    assert_eq!(written(&store("1"), NOW.plus_ms(HOUR_MS), 1), one_tick, "in the next hour");
}
