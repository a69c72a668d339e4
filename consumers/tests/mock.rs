//! Errors that a real broker gives only by chance: librdkafka's own mock cluster gives them on request, in this process.
//!
//! Attacked here: commits that fail, fetches that fail, a broker that becomes unreachable and returns.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orderbell_consumers::kafka::{KafkaDeadLetters, KafkaOptions, KafkaSink, KafkaSource, RecordReader, scan_topic};
use orderbell_consumers::{
    Checkpoint, DeadLetter, DeadLetterSink, Group, Handler, KeyBatch, KeyHash, Options, OutRecord, Outcome, Polled,
    Reason, Record, Sink, SinkError, Source, TopicPartition, sim,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TOPIC: &str = "readings";
const PARTITIONS: u32 = 2;
/// Generous: a machine may be busy, and the mock delays a group's first rebalance by three seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Recorder(Mutex<BTreeSet<(u32, u64)>>);

impl Handler for Recorder {
    type Task = std::convert::Infallible;
    type Prepared = ();

    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_deref().map(|key| KeyHash(xxhash_rust::xxh3::xxh3_64(key)))
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch) -> Vec<Outcome> {
        let offsets = batch.records().map(|record| (record.partition.number, record.offset));
        self.0.lock().unwrap().extend(offsets);
        vec![Outcome::Done; batch.inputs.len()]
    }
}

fn options(cluster: &MockCluster<'static, DefaultProducerContext>) -> KafkaOptions {
    let properties = [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "500"),
        ("fetch.wait.max.ms", "5"),
        ("statistics.interval.ms", "200"),
    ];
    KafkaOptions {
        bootstrap: cluster.bootstrap_servers(),
        group: "g".into(),
        instance: None,
        topics: vec![TOPIC.into()],
        cluster: None,
        token: None,
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

struct Lab {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
    handler: Arc<Recorder>,
    group: Group,
    produced: u64,
}

impl Lab {
    fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, i32::try_from(PARTITIONS).unwrap(), 1).unwrap();
        Self::on(cluster)
    }

    fn on(cluster: MockCluster<'static, DefaultProducerContext>) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let options = options(&cluster);
        // The mock does not answer requests by time, so there are checkpoints already.
        let store = Arc::new(sim::MemoryStore::default());
        for number in 0..PARTITIONS {
            store.set_checkpoint(TopicPartition::new(TOPIC, number), Checkpoint { next: 0, last: None });
        }
        let handler = Arc::new(Recorder::default());
        let source = KafkaSource::join(&options).unwrap();
        let quick = Options { checkpoint_interval: Duration::from_millis(100), ..Options::default() };
        let group = Group::start(source, handler.clone(), store.clone(), store, &quick);
        Self { cluster, producer: config.create().unwrap(), handler, group, produced: 0 }
    }

    fn produce(&mut self, records: u64) {
        for n in 0..records {
            let (key, value) = ((n % 10).to_string(), n.to_string());
            let partition = i32::try_from(n % u64::from(PARTITIONS)).unwrap();
            let record = BaseRecord::to(TOPIC).partition(partition).key(&key).payload(&value);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(TIMEOUT).unwrap();
        self.produced += records;
    }

    fn await_handled(&self) {
        until("everything is handled", || self.handler.0.lock().unwrap().len() as u64 == self.produced);
    }

    /// The sum of the group's committed offsets.
    fn committed(&self) -> u64 {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "g");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(TOPIC, 0, i32::try_from(PARTITIONS).unwrap() - 1);
        let Ok(list) = consumer.committed_offsets(list, Duration::from_secs(5)) else { return 0 };
        let offsets = list.elements().into_iter().filter_map(|at| at.offset().to_raw());
        offsets.filter_map(|offset| u64::try_from(offset).ok()).sum()
    }

    fn stop(self) {
        let violations = self.group.stats().invariant_violations.value();
        self.group.stop().unwrap();
        assert_eq!(violations, 0);
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "timed out: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_stops_no_record_and_is_repeated() {
    let mut lab = Lab::start();
    lab.produce(100);
    lab.await_handled();
    until("the first offsets are committed", || lab.committed() == 100);
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 3];
    lab.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
    lab.produce(100);
    lab.await_handled();
    lab.produce(100);
    lab.await_handled();
    until("the offsets are committed after all", || lab.committed() == 300);
    lab.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_fetches_and_an_unreachable_broker_lose_nothing() {
    let mut lab = Lab::start();
    lab.produce(100);
    lab.await_handled();
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 5];
    lab.cluster.request_errors(RDKafkaApiKey::Fetch, &errors);
    lab.produce(100);
    lab.await_handled();
    lab.cluster.broker_down(1).unwrap();
    until("the broker is noticed to be unreachable", || lab.group.stats().source_errors.value() > 0);
    lab.cluster.broker_up(1).unwrap();
    lab.produce(100);
    lab.await_handled();
    lab.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_partitions_cannot_be_started_ends_in_time() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, i32::try_from(PARTITIONS).unwrap(), 1).unwrap();
    // An error that no client retries by itself: the group is assigned its partitions and cannot determine their start offsets.
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1000];
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &errors);
    let mut lab = Lab::on(cluster);
    lab.produce(10);
    until("starting was tried and failed", || lab.group.stats().source_errors.value() > 2);
    let (tx, ended) = flume::bounded(1);
    let group = lab.group;
    std::thread::spawn(move || tx.send(group.stop().is_ok()));
    assert_eq!(ended.recv_timeout(TIMEOUT), Ok(true), "the stop does not return");
    assert_eq!(lab.handler.0.lock().unwrap().len(), 0, "a record was read although no start offset is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statistics_report_the_end_offsets() {
    let mut lab = Lab::start();
    lab.produce(101);
    lab.await_handled();
    let status = || lab.group.stats().status();
    until("the end offsets are known", || status().iter().filter_map(|status| status.end).sum::<u64>() == 101);
    until("there is no lag", || status().iter().all(|status| status.lag() == 0));
    lab.stop();
}

/// The bug: librdkafka remembers a pause beyond the assignment, and a partition that was assigned again delivered nothing.
#[test]
fn a_paused_partition_that_is_assigned_again_delivers() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let options = options(&cluster);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let mut source = KafkaSource::join(&options).unwrap();
    let mut polled = Vec::new();
    let assigned = |polled: &[Polled]| polled.iter().any(|result| matches!(result, Polled::Assigned(_)));
    poll_until("the partition", &mut source, &mut polled, assigned);
    let partition = TopicPartition::new(TOPIC, 0);
    source.assign(&[(partition.clone(), 0)]).unwrap();
    producer.send(BaseRecord::to(TOPIC).partition(0).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
    producer.flush(TIMEOUT).unwrap();
    let record = |polled: &[Polled]| polled.iter().any(|result| matches!(result, Polled::Record(_)));
    for again in ["assigned again", "unassigned and assigned"] {
        source.pause(std::slice::from_ref(&partition), true).unwrap();
        if again == "unassigned and assigned" {
            source.unassign(std::slice::from_ref(&partition)).unwrap();
        }
        source.assign(&[(partition.clone(), 0)]).unwrap();
        polled.clear();
        poll_until(again, &mut source, &mut polled, record);
    }
}

fn poll_until(what: &str, source: &mut KafkaSource, polled: &mut Vec<Polled>, is_there: impl Fn(&[Polled]) -> bool) {
    let began = Instant::now();
    while !is_there(polled) {
        assert!(began.elapsed() < TIMEOUT, "timed out: {what}");
        let _transient = source.poll(10, Duration::from_millis(20), polled);
    }
}

/// Regression: showing one dead letter read its topic from the first record.
#[test]
fn a_record_is_read_at_its_place_however_long_the_topic_is() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 2, 1).unwrap();
    let mut config = ClientConfig::new();
    // The mock answers a fetch with one batch: here, with one record.
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("batch.num.messages", "1");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    for n in 0..200 {
        let value = n.to_string();
        let record = BaseRecord::to(TOPIC).partition(1).key("k").payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
    let options = options(&cluster);
    let mut scanned = 0;
    scan_topic(&options, TOPIC, None, |_| {
        scanned += 1;
        true
    })
    .unwrap();
    assert_eq!(scanned, 200);
    let reader = RecordReader::new(&options).unwrap();
    let place = TopicPartition::new(TOPIC, 1);
    for at in [150, 3, 199] {
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        // A few fetches are answered, and then no more.
        let mut answers = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 300];
        answers[..3].fill(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
        cluster.request_errors(RDKafkaApiKey::Fetch, &answers);
        let record = reader.read(&place, at).unwrap().unwrap();
        assert_eq!((record.offset, record.value.as_deref()), (at, Some(at.to_string().as_bytes())));
        assert_eq!(record.partition, place);
    }
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    assert!(reader.read(&place, 200).unwrap().is_none(), "still to come");
    assert!(reader.read(&TopicPartition::new(TOPIC, 0), 0).unwrap().is_none(), "an empty partition");
    assert!(reader.read(&TopicPartition::new(TOPIC, 7), 0).unwrap().is_none(), "no such partition");
}

/// Regression: the poll thread asked three questions a partition, one after another.
#[test]
fn the_offsets_of_any_number_of_partitions_take_the_same_number_of_requests() {
    let cluster = MockCluster::new(1).unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    for (topic, count) in [("few", 2), ("many", 60)] {
        cluster.create_topic(topic, count, 1).unwrap();
        producer.send(BaseRecord::to(topic).partition(1).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
        producer.flush(TIMEOUT).unwrap();
        let options = KafkaOptions { topics: vec![topic.into()], ..options(&cluster) };
        let mut source = KafkaSource::join(&options).unwrap();
        let partitions: Vec<_> = (0..u32::try_from(count).unwrap()).map(|at| TopicPartition::new(topic, at)).collect();
        assert!(source.offsets(&partitions, 0).iter().all(Result::is_ok), "connected");
        // The mock answers three requests for offsets and one for committed ones, and no more.
        for (key, answered) in [(RDKafkaApiKey::ListOffsets, 3), (RDKafkaApiKey::OffsetFetch, 1)] {
            let mut answers = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 500];
            answers[..answered].fill(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            cluster.request_errors(key, &answers);
        }
        let all: Vec<_> = source.offsets(&partitions, 0).into_iter().collect::<Result<_, _>>().unwrap();
        let ends: Vec<_> = all.iter().map(|offsets| (offsets.start, offsets.end, offsets.committed)).collect();
        let mut expected = vec![(0, 0, None); partitions.len()];
        expected[1] = (0, 1, None);
        assert_eq!(ends, expected, "in the order of the partitions");
        assert!(source.offsets(&partitions[..1], 0)[0].is_err(), "the mock answers no more");
        for key in [RDKafkaApiKey::ListOffsets, RDKafkaApiKey::OffsetFetch] {
            cluster.clear_request_errors(key);
        }
    }
}

#[test]
fn a_partition_that_does_not_answer_leaves_the_others_their_offsets() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 2, 1).unwrap();
    let mut source = KafkaSource::join(&options(&cluster)).unwrap();
    let partitions = [(TOPIC, 0), ("nowhere", 0), (TOPIC, 1)].map(|(topic, at)| TopicPartition::new(topic, at));
    let answers = source.offsets(&partitions, 0);
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{answers:?}");
}

/// The bug: one partition whose first batch does not unpack kept every partition of its topic from a first start.
#[test]
fn a_partition_that_cannot_be_searched_by_time_starts_at_its_first_record() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut source = KafkaSource::join(&options(&cluster)).unwrap();
    let partition = [TopicPartition::new(TOPIC, 0)];
    assert!(source.offsets(&partition, 5)[0].is_ok(), "connected");
    // First and end are answered, the search by time is not.
    let (ok, failed) = (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN);
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &[ok, ok, failed]);
    let answer = source.offsets(&partition, 5).pop().unwrap().unwrap();
    assert_eq!((answer.start, answer.by_time), (0, 0));
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &[ok, ok, denied]);
    assert!(source.offsets(&partition, 5)[0].is_err(), "another reason is no damage");
}

/// The bug: the brokers refused the first request of a producer whose user may write to no topic, which ends a client of librdkafka for good. What
/// tills said was not published until the process was started anew, although the right was granted.
#[tokio::test]
async fn a_right_that_is_granted_later_needs_no_other_process() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied, denied]);
    let sink = KafkaSink::new(&options(&cluster), TOPIC, TOPIC).unwrap();
    let record = OutRecord { key: None, value: "said".into(), headers: Vec::new(), timestamp_ms: 1_790_000_000_000 };
    let began = Instant::now();
    let mut refusals = BTreeSet::new();
    while let Err(error) = sink.send(&record).await {
        // A request that a busy machine lets run out of time takes a minute alone.
        assert!(began.elapsed() < 3 * TIMEOUT, "{error:?} after {refusals:?}");
        let SinkError::Transient(why) = error else { panic!("refused for good: {error:?}") };
        refusals.insert(why.to_string());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A slow machine may time out at first, which is another reason.
    let is_refused = |refusal: &String| refusal.contains("Cluster authorization failed");
    assert!(refusals.iter().any(is_refused), "{refusals:?}");
}

/// The bug: a dead letter that a producer without any right could not write held its partition.
#[tokio::test]
async fn a_dead_letter_without_the_right_to_write_to_any_topic_is_kept_in_the_second_place() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster.create_topic(&format!("{TOPIC}.dlq"), 1, 1).unwrap();
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied; 8]);
    let second = Arc::new(sim::MemoryStore::default());
    let dead_letters = KafkaDeadLetters::new(&options(&cluster), "none", second.clone()).unwrap();
    let record = Record {
        partition: TopicPartition::new(TOPIC, 0),
        offset: 7,
        timestamp_ms: 1_790_000_000_000,
        read_ms: 0,
        key: None,
        value: Some("{".into()),
        headers: Vec::new().into(),
    };
    let reason = Reason { code: "not-json", message: String::new() };
    for _ in 0..2 {
        dead_letters.write(DeadLetter { record: record.clone(), reason: reason.clone(), attempts: 1 }).await.unwrap();
    }
    assert_eq!(second.dead_letters().len(), 2);
}

/// One question at a time, and its answer is that of all who waited for it: with a time-out for each, the last would wait for minutes.
#[tokio::test]
async fn records_that_wait_for_one_topic_ask_for_it_together() {
    let nobody = KafkaOptions { bootstrap: "127.0.0.1:1".into(), ..options(&MockCluster::new(1).unwrap()) };
    let sink = KafkaSink::new(&nobody, TOPIC, TOPIC).unwrap();
    let record = OutRecord { key: None, value: "said".into(), headers: Vec::new(), timestamp_ms: 1_790_000_000_000 };
    let all = futures_util::future::join_all((0..50).map(|_| sink.send(&record)));
    let answers = tokio::time::timeout(TIMEOUT, all).await.expect("nobody waits for the time-outs of others");
    let why = |answer: &Result<(), SinkError>| answer.as_ref().unwrap_err().to_string();
    let reasons: BTreeSet<String> = answers.iter().map(why).collect();
    assert!(reasons.len() == 1 && reasons.iter().all(|why| why.contains("fetch the topic's metadata")), "{reasons:?}");
}
