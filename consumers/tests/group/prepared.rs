//! What a handler prepares of a record on the poll thread is there whenever the record is handled, and costs credits until it is finished.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use orderbell_consumers::{
    Group, Handler, KeyBatch, KeyHash, KeyInput, Outcome, Part, Parts, Reason, Record, TopicPartition, sim,
};

use super::{key_of, quick, text, until};

/// What the prepared text of a record is said to hold, beside its record.
const PREPARED_BYTES: u64 = 10_000;

/// Prepares the text of each value; `a=x;b=y` has two parts. It handles what was prepared: `twice` panics at its first try and is retried at its second,
/// `reject` is a dead letter, `wait` is retried until it is released.
#[derive(Default)]
struct Prepares {
    prepared: AtomicU64,
    tries: AtomicU64,
    released: AtomicBool,
    /// What was prepared of the records that were handled, or became dead letters.
    ended: Mutex<Vec<String>>,
}

impl Prepares {
    fn prepare(&self, record: &Record) -> String {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        text(record.value.as_ref())
    }

    fn ended(&self) -> Vec<String> {
        let mut ended = self.ended.lock().unwrap().clone();
        ended.sort();
        ended
    }
}

impl Handler for Prepares {
    type Task = Infallible;
    type Prepared = String;

    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_deref().map(key_of)
    }

    fn parts(&self, record: &Record) -> Parts<String> {
        let value = text(record.value.as_ref());
        if !value.contains(';') {
            return Parts::One { key: self.key(record), prepared: Some(self.prepare(record)) };
        }
        let part = |(key, value): (&str, &str)| {
            let record = Record { value: Some(Bytes::from(value.to_owned())), ..record.clone() };
            Part { prepared: Some(self.prepare(&record)), record, key: Some(key_of(key.as_bytes())) }
        };
        Parts::Several(value.split(';').filter_map(|part| part.split_once('=')).map(part).collect())
    }

    fn prepared_bytes(&self, _: &String) -> u64 {
        PREPARED_BYTES
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch<Infallible, String>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for input in batch.inputs.iter() {
            let KeyInput::Record(_, Some(prepared)) = input else { panic!("nothing was prepared") };
            let outcome = match prepared.as_str() {
                "twice" => match self.tries.fetch_add(1, Ordering::SeqCst) {
                    0 => panic!("the test asked for it"),
                    1 => Outcome::Retry(Duration::ZERO),
                    _ => Outcome::Done,
                },
                "wait" if !self.released.load(Ordering::SeqCst) => Outcome::Retry(Duration::from_millis(5)),
                "reject" => Outcome::Reject(Reason { code: "requested", message: "the test asked for it".into() }),
                _ => Outcome::Done,
            };
            let is_done = outcome == Outcome::Done;
            outcomes.push(outcome);
            if !is_done {
                break;
            }
            self.ended.lock().unwrap().push(prepared.clone());
        }
        outcomes
    }

    fn on_dead_letter(&self, _: &Record, prepared: Option<&String>, _: &Reason) {
        self.ended.lock().unwrap().extend(prepared.map(|prepared| format!("{prepared}: dead letter")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_of_a_record_is_there_at_each_try_and_is_prepared_once() {
    let (log, store, handler) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default(), Arc::<Prepares>::default());
    for (key, value) in [("k", "twice"), ("k", "next"), ("k", "reject"), ("k", "last"), ("several", "a=one;b=two")] {
        log.append(0, key, value);
    }
    let options = orderbell_consumers::Options { max_attempts: u32::MAX, ..quick() };
    let group = Group::start(log.source(), handler.clone(), store.clone(), store.clone(), &options);
    until("all are finished", || store.checkpoint("t", 0) == 5).await;
    assert_eq!(handler.ended(), ["last", "next", "one", "reject: dead letter", "twice", "two"]);
    assert_eq!(handler.prepared.load(Ordering::SeqCst), 6, "one of two parts, and the others whole");
    drop(group);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_costs_credits_until_its_record_is_finished() {
    let (log, store, handler) = (sim::Log::new("t", 1), Arc::<sim::MemoryStore>::default(), Arc::<Prepares>::default());
    let options = orderbell_consumers::Options { max_attempts: u32::MAX, ..quick() };
    let group = Group::start(log.source(), handler.clone(), store.clone(), store.clone(), &options);
    let in_flight = || group.stats().in_flight_bytes.value();
    log.append(0, "k", "wait");
    log.append(0, "other", "a=wait;b=wait");
    until("three wait", || group.stats().in_flight_records.value() == 3).await;
    let of_records =
        |values: [(&str, &str); 3]| -> u64 { values.iter().map(|(key, value)| bytes_of(key, value)).sum() };
    let expected = of_records([("k", "wait"), ("other", "wait"), ("other", "wait")]) + 3 * PREPARED_BYTES;
    until("their bytes are counted", || in_flight() == expected).await;
    handler.released.store(true, Ordering::SeqCst);
    until("all are finished", || store.checkpoint("t", 0) == 2).await;
    until("nothing is in flight", || in_flight() == 0).await;
    assert_eq!(group.stats().invariant_violations.value(), 0);
}

fn bytes_of(key: &str, value: &str) -> u64 {
    let bytes = |text: &str| Some(Bytes::from(text.to_owned()));
    let record = Record {
        partition: TopicPartition::new("t", 0),
        offset: 0,
        timestamp_ms: 0,
        read_ms: 0,
        key: bytes(key),
        value: bytes(value),
        headers: orderbell_consumers::Headers::default(),
    };
    record.bytes()
}
