//! Apache Kafka, by librdkafka. No other module names rdkafka.
//!
//! Properties that the crate's guarantees depend on are set here and cannot be overridden: who commits which offset, what happens without
//! one, how partitions are handed over, what a producer may reorder. Every other property (TLS, SASL, timeouts) passes through.

mod consumer_context;
mod dead_letters;
mod fault_isolation;
mod group_inspector;
mod group_offsets;
mod oauth;
mod offset_requests;
mod producer;
mod properties;
mod record_copy;
mod record_reader;
mod scan_consumer;
mod silence;
mod sink;
mod source;
mod topic_admin;
mod topic_scan;

use std::collections::BTreeMap;
use std::fmt;

use oauth::TokenContext;
use rdkafka::ClientConfig;

pub use dead_letters::KafkaDeadLetters;
pub use group_inspector::GroupInspector;
pub use group_offsets::GroupOffsets;
pub use oauth::TokenSource;
pub use properties::PropertyError;
pub use record_reader::RecordReader;
pub use sink::KafkaSink;
pub use source::KafkaSource;
pub use topic_admin::may_create_topic;
pub use topic_scan::{TopicScan, scan_topic};

/// How to reach a cluster, and which group and topics to consume.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Addresses of brokers as `host:port`, separated by commas.
    pub bootstrap: String,
    /// The consumer group's id.
    pub group: String,
    /// The instance id of static membership: a restart with the same one takes its partitions over at once.
    pub instance: Option<String>,
    /// Topics to subscribe to.
    pub topics: Vec<String>,
    /// The name that checkpoints are kept under, in place of the id that the brokers tell: for those that tell none.
    pub cluster: Option<String>,
    /// Where tokens for SASL/OAUTHBEARER come from.
    pub token: Option<TokenSource>,
    /// Further properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaOptions {
    /// Names the further properties without their values: one of them may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("bootstrap", &self.bootstrap)
            .field("group", &self.group)
            .field("instance", &self.instance)
            .field("topics", &self.topics)
            .field("cluster", &self.cluster)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

/// Properties of a consumer that cannot be overridden: name, value, reason.
const CONSUMER: [(&str, &str, &str); 9] = [
    ("enable.auto.commit", "true", "librdkafka commits what is stored, also when partitions are handed over"),
    ("enable.auto.offset.store", "false", "only offsets of durable checkpoints are stored"),
    ("auto.commit.interval.ms", "1000", "bounds how far the committed offset lags behind the checkpoint"),
    (
        "auto.offset.reset",
        "error",
        "an offset that the log does not hold raises an alert, and is never reset in silence",
    ),
    (
        "partition.assignment.strategy",
        "cooperative-sticky",
        "partitions that stay are not interrupted; never mixed with eager",
    ),
    ("group.protocol", "classic", "the consumer protocol is not ready in the bundled librdkafka"),
    ("check.crcs", "true", "damaged batches are detected"),
    ("enable.partition.eof", "false", "its event names no topic"),
    ("statistics.interval.ms", "5000", "they report lag and the partitions of each topic"),
];

/// Defaults of a consumer that the configuration may override.
const CONSUMER_DEFAULTS: [(&str, &str); 9] = [
    ("queued.max.messages.kbytes", "16384"),
    ("queued.min.messages", "20000"),
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    ("isolation.level", "read_committed"),
    ("topic.metadata.refresh.interval.ms", "10000"),
];

/// Properties of a producer that cannot be overridden.
const PRODUCER: [(&str, &str); 4] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", "murmur2_random"),
    // One request at a time. With more, the first record on a partition that was just created can be lost and reported as delivered: its
    // request is refused ("not leader"), the next one, already in flight, is accepted, since the broker knows no sequence of this producer
    // yet, and the first one counts as acknowledged with it and is not sent again. Seen with librdkafka 2.12 on Kafka 4.3.
    ("max.in.flight.requests.per.connection", "1"),
];

/// Defaults of a producer that the configuration may override.
const PRODUCER_DEFAULTS: [(&str, &str); 3] =
    [("linger.ms", "1"), ("message.timeout.ms", "60000"), ("reconnect.backoff.max.ms", "1000")];

impl KafkaOptions {
    /// Checks that the further properties can work: they override none of those that the crate sets, and this build has what they ask for.
    ///
    /// # Errors
    /// [`PropertyError`] with the first that cannot.
    pub fn check(&self) -> Result<(), PropertyError> {
        properties::check(&self.properties, self.token.is_some())
    }

    /// The context of a client that is about to be made. May wait for the first token.
    fn context(&self) -> TokenContext {
        TokenContext::of(self.token.as_ref())
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", &self.group);
        let configured = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // Later ones win: defaults, then configured ones, then those that cannot be overridden.
        for (name, value) in
            CONSUMER_DEFAULTS.into_iter().chain(configured).chain(CONSUMER.map(|(name, value, _)| (name, value)))
        {
            config.set(name, value);
        }
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        config
    }

    fn producer(&self) -> ClientConfig {
        // Properties that only a consumer understands must not reach a producer.
        const CONSUMER_ONLY: [&str; 7] = [
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "max.poll.interval.ms",
            "fetch.",
            "queued.",
            "isolation.level",
            "statistics.",
        ];
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        let configured = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let configured = configured.filter(|(name, _)| !CONSUMER_ONLY.iter().any(|only| name.starts_with(only)));
        for (name, value) in PRODUCER_DEFAULTS.into_iter().chain(configured).chain(PRODUCER) {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_value_of_a_property() {
        let options = KafkaOptions {
            bootstrap: "a:9092".into(),
            group: "g".into(),
            instance: None,
            topics: vec!["t".into()],
            cluster: None,
            token: None,
            properties: BTreeMap::from([("sasl.password".to_owned(), "secret".to_owned())]),
        };
        let text = format!("{options:?}");
        assert!(text.contains("sasl.password") && !text.contains("secret"), "{text}");
    }
}
