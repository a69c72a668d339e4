//! Errors that a broker would have to be asked for nicely: librdkafka's own mock cluster gives them exactly, in this process.
//!
//! Attacked here: commits that fail, fetches that fail, a broker that goes and comes back.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orderbell_consumers::kafka::{KafkaOptions, KafkaSource};
use orderbell_consumers::{
    Frontier, Group, Handler, KeyHash, Options, Outcome, Part, Polled, Record, Source, Turn, sim,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TOPIC: &str = "readings";
const PARTITIONS: u32 = 2;
/// Generous: a machine may be busy, and the mock lets a group wait for three seconds before its first round.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Keep(Mutex<BTreeSet<(u32, u64)>>);

impl Handler for Keep {
    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_deref().map(|key| KeyHash(xxhash_rust::xxh3::xxh3_64(key)))
    }

    async fn handle(self: Arc<Self>, turn: Turn) -> Vec<Outcome> {
        let places = turn.records.iter().map(|record| (record.part.number, record.offset));
        self.0.lock().unwrap().extend(places);
        vec![Outcome::Done; turn.records.len()]
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
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

struct Lab {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
    handler: Arc<Keep>,
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
        // The mock does not answer by time: the positions are there already.
        let kept = Arc::new(sim::Memory::default());
        for number in 0..PARTITIONS {
            kept.set_frontier(Part::new(TOPIC, number), Frontier { next: 0, last: None });
        }
        let handler = Arc::new(Keep::default());
        let source = KafkaSource::join(&options).unwrap();
        let quick = Options { save_interval: Duration::from_millis(100), ..Options::default() };
        let group = Group::start(source, handler.clone(), kept.clone(), kept, &quick);
        Self { cluster, producer: config.create().unwrap(), handler, group, produced: 0 }
    }

    fn produces(&mut self, records: u64) {
        for n in 0..records {
            let (key, value) = ((n % 10).to_string(), n.to_string());
            let partition = i32::try_from(n % u64::from(PARTITIONS)).unwrap();
            let record = BaseRecord::to(TOPIC).partition(partition).key(&key).payload(&value);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
        self.produced += records;
    }

    fn handles_everything(&self) {
        until("everything is handled", || self.handler.0.lock().unwrap().len() as u64 == self.produced);
    }

    /// The group's own offsets, summed.
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

    fn stops(self) {
        let violations = self.group.stats().violations.value();
        self.group.stop().unwrap();
        assert_eq!(violations, 0);
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_stops_nobody_and_is_made_up_for() {
    let mut lab = Lab::start();
    lab.produces(100);
    lab.handles_everything();
    until("the first offsets are committed", || lab.committed() == 100);
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 3];
    lab.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &refused);
    lab.produces(100);
    lab.handles_everything();
    lab.produces(100);
    lab.handles_everything();
    until("the offsets are committed after all", || lab.committed() == 300);
    lab.stops();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_that_fail_and_a_broker_that_goes_lose_nothing() {
    let mut lab = Lab::start();
    lab.produces(100);
    lab.handles_everything();
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 5];
    lab.cluster.request_errors(RDKafkaApiKey::Fetch, &refused);
    lab.produces(100);
    lab.handles_everything();
    lab.cluster.broker_down(1).unwrap();
    until("the absence is noticed", || lab.group.stats().source_errors.value() > 0);
    lab.cluster.broker_up(1).unwrap();
    lab.produces(100);
    lab.handles_everything();
    lab.stops();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_partitions_cannot_be_placed_ends_in_time() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, i32::try_from(PARTITIONS).unwrap(), 1).unwrap();
    // Refused in a way that no client tries again by itself: the group is given its partitions and cannot find out where they begin.
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1000];
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &refused);
    let mut lab = Lab::on(cluster);
    lab.produces(10);
    until("placing was tried in vain", || lab.group.stats().source_errors.value() > 2);
    let (told, ended) = flume::bounded(1);
    let group = lab.group;
    std::thread::spawn(move || told.send(group.stop().is_ok()));
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true), "the stop waits for ever");
    assert_eq!(lab.handler.0.lock().unwrap().len(), 0, "nothing is read from a place that nobody knows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_a_log_come_with_the_statistics() {
    let mut lab = Lab::start();
    lab.produces(101);
    lab.handles_everything();
    let status = || lab.group.stats().status();
    until("the ends are known", || status().iter().filter_map(|status| status.end).sum::<u64>() == 101);
    until("nothing lags", || status().iter().all(|status| status.lag() == 0));
    lab.stops();
}

/// The bug: librdkafka remembers a pause beyond the assignment, and a partition that came back stood still for ever.
#[test]
fn a_partition_that_was_paused_and_is_placed_anew_delivers() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let options = options(&cluster);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let mut source = KafkaSource::join(&options).unwrap();
    let mut polled = Vec::new();
    let assigned = |polled: &[Polled]| polled.iter().any(|news| matches!(news, Polled::Assigned(_)));
    until_polled("the partition", &mut source, &mut polled, assigned);
    let part = Part::new(TOPIC, 0);
    source.place(&[(part.clone(), 0)]).unwrap();
    producer.send(BaseRecord::to(TOPIC).partition(0).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let record = |polled: &[Polled]| polled.iter().any(|news| matches!(news, Polled::Record(_)));
    for again in ["placed anew", "released and placed"] {
        source.pause(std::slice::from_ref(&part), true).unwrap();
        if again == "released and placed" {
            source.release(std::slice::from_ref(&part)).unwrap();
        }
        source.place(&[(part.clone(), 0)]).unwrap();
        polled.clear();
        until_polled(again, &mut source, &mut polled, record);
    }
}

fn until_polled(what: &str, source: &mut KafkaSource, polled: &mut Vec<Polled>, there: impl Fn(&[Polled]) -> bool) {
    let began = Instant::now();
    while !there(polled) {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        let _passing = source.poll(10, Duration::from_millis(20), polled);
    }
}
