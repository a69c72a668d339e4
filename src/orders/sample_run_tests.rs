use bytes::Bytes;
use orderbell_consumers::TopicPartition;

use super::super::mapping_doctor::examine;
use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
const RETENTION_MS: i64 = 86_400_000;

fn record(offset: u64, value: &str) -> Record {
    Record {
        partition: TopicPartition::new("orders", 0),
        offset,
        timestamp_ms: NOW.0,
        read_ms: 0,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

fn policy() -> OrderPolicy {
    OrderPolicy { retention_ms: RETENTION_MS, ..OrderPolicy::default() }
}

fn paid(id: &str, at: UnixMs) -> String {
    format!(r#"{{"type":"order.paid","id":"{id}","order":"o1","store":"17","amount":5,"time":{}}}"#, at.0)
}

/// Regression: the doctor ended with the panic, while the server made a dead letter of the record and went on.
#[test]
fn a_record_at_which_the_rules_panic_is_a_dead_letter() {
    let (mapping, policy) = (Mapping::default(), policy());
    let records = [record(u64::MAX, &paid("e1", NOW)), record(0, &paid("e2", NOW))];
    let mut run = SampleRun::new(&mapping, &policy, NOW);
    let result = run.add(&records[0], Some(NOW));
    assert!(
        matches!(&result, SampleResult::Rejected(reason, Some(Bin::Rejected)) if reason.code == "retries-exhausted"),
        "{result:?}"
    );
    let report = examine(&records, &mapping, &policy, NOW);
    assert_eq!((report.numbers.announced_orders, report.numbers.dead_letters["retries-exhausted"].may_be_paid), (1, 1));
    let panicked = caught("key-panicked", || -> Result<(), Reason> { panic!("a test wants this panic") });
    assert_eq!(panicked.unwrap_err().code, "key-panicked");
    assert_eq!(quietly(|| -> Option<()> { panic!("a test wants this panic") }), None);
}

/// Regression: for the doctor a number that was used again after the retention was a second payment, for the server a new order.
#[test]
fn an_order_is_known_until_its_retention_is_over() {
    let (mapping, policy) = (Mapping::default(), policy());
    let results = |after_ms: i64| {
        let mut run = SampleRun::new(&mapping, &policy, NOW.plus_ms(2 * RETENTION_MS));
        let of = |id: &str, at: UnixMs| Record { timestamp_ms: at.0, ..record(0, &paid(id, at)) };
        for (id, at) in [("e1", NOW), ("e2", NOW.plus_ms(after_ms))] {
            let record = of(id, at);
            let _result = run.add(&record, Some(read_at(&record, at)));
        }
        run.orders().filter(|known| known.is_announced).count()
    };
    assert_eq!((results(RETENTION_MS - 1), results(RETENTION_MS)), (1, 2));
}

/// Regression: for the doctor a payment that had been forgotten when it was read was silent, for the server it is an alert.
#[test]
fn a_payment_older_than_the_retention_is_an_alert() {
    let (mapping, policy) = (Mapping::default(), policy());
    let old = NOW.plus_ms(-2 * RETENTION_MS - 600_000);
    let SampleResult::Applied(applied) =
        SampleRun::new(&mapping, &policy, NOW).add(&record(0, &paid("e1", old)), Some(NOW))
    else {
        panic!("it is an event")
    };
    assert_eq!(applied.done.alert(), Some(Bin::TooOld));
    let report = examine(&[record(0, &paid("e1", old))], &mapping, &policy, NOW);
    assert_eq!(report.numbers.unannounced.get("too_old"), Some(&1));
}

#[test]
fn what_the_server_does_not_take_whole_is_a_dead_letter() {
    let cut = Record {
        headers: vec![("x-cut-value-bytes".into(), None), ("x-dlq-reason".into(), Some("too-large".into()))].into(),
        ..record(0, &paid("e1", NOW))
    };
    let (mapping, policy) = (Mapping::default(), policy());
    let result = SampleRun::new(&mapping, &policy, NOW).add(&cut, Some(NOW));
    assert!(matches!(&result, SampleResult::Rejected(reason, _) if reason.code == "too-large"), "{result:?}");
}

#[test]
fn a_time_stamp_that_is_implausible_is_no_time_of_reading() {
    let at = |timestamp_ms: i64| read_at(&Record { timestamp_ms, ..record(0, "") }, NOW).0;
    assert_eq!((at(NOW.0 - 5), at(NOW.0 + 5), at(-1)), (NOW.0 - 5, NOW.0, EARLIEST.0));
}
