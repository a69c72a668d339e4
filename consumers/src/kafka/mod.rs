//! Real Apache Kafka, by librdkafka. The only place that names rdkafka.
//!
//! Properties that the crate's promises rest on are set here and cannot be overridden: who commits what, what happens without a
//! position, how partitions are handed over, what a producer may reorder. Everything else (TLS, SASL, addresses) passes through.

mod group;
mod inquest;
mod letters;
mod offsets;
mod reader;
mod sink;
mod source;
mod topics;

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

pub use group::GroupReader;
pub use letters::KafkaLetters;
pub use offsets::GroupOffsets;
pub use reader::read_topic;
pub use sink::KafkaSink;
pub use source::KafkaSource;

/// Where the cluster is and as whom to read it.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port`, several with commas.
    pub bootstrap: String,
    /// Consumer group.
    pub group: String,
    /// Static membership: a restart with the same name takes its partitions over at once.
    pub instance: Option<String>,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Further properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

/// Properties that are ours: name, value, reason.
const CONSUMER: [(&str, &str, &str); 9] = [
    ("enable.auto.commit", "true", "librdkafka commits what is stored, also when partitions are handed over"),
    ("enable.auto.offset.store", "false", "only durable frontiers are stored"),
    ("auto.commit.interval.ms", "1000", "bounds what the group's offset lags behind"),
    ("auto.offset.reset", "error", "a lost position is an alarm, never a jump"),
    ("partition.assignment.strategy", "cooperative-sticky", "partitions that stay go on; never mixed with eager"),
    ("group.protocol", "classic", "the newer one is not ready in the bundled librdkafka"),
    ("check.crcs", "true", "damage is noticed"),
    ("enable.partition.eof", "false", "it names no topic"),
    ("statistics.interval.ms", "5000", "lag, and whose partitions are, is known from them"),
];

/// Properties with a default that the configuration may change.
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

const PRODUCER: [(&str, &str); 4] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", "murmur2_random"),
    // One request at a time. With more, the first record on a partition that was just made can be lost and reported as delivered: its request
    // is refused ("not leader"), the next one, already on its way, is taken, since the broker knows no sequence of this producer yet, and
    // the first one counts as acknowledged with it and is not sent again. Seen with librdkafka 2.12 on Kafka 4.3.
    ("max.in.flight.requests.per.connection", "1"),
];

const PRODUCER_DEFAULTS: [(&str, &str); 3] =
    [("linger.ms", "1"), ("message.timeout.ms", "60000"), ("reconnect.backoff.max.ms", "1000")];

/// A property that may not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the property {name} is Orderbell's own ({reason})")]
pub struct Reserved {
    /// Which.
    pub name: String,
    /// Why.
    pub reason: &'static str,
}

impl KafkaOptions {
    /// Checks that the further properties leave ours alone.
    ///
    /// # Errors
    /// [`Reserved`].
    pub fn check(&self) -> Result<(), Reserved> {
        for name in self.properties.keys() {
            if let Some((_, _, reason)) = CONSUMER.iter().find(|(ours, _, _)| ours == name) {
                return Err(Reserved { name: name.clone(), reason });
            }
            let named = ["group.id", "group.instance.id", "bootstrap.servers"].contains(&name.as_str());
            if named || PRODUCER.iter().any(|(ours, _)| ours == name) {
                return Err(Reserved {
                    name: name.clone(),
                    reason: "it has a place of its own, or a promise rests on it",
                });
            }
        }
        Ok(())
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", &self.group);
        let theirs = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // Later ones win: our defaults, then theirs, then what promises rest on.
        for (name, value) in
            CONSUMER_DEFAULTS.into_iter().chain(theirs).chain(CONSUMER.map(|(name, value, _)| (name, value)))
        {
            config.set(name, value);
        }
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        config
    }

    fn producer(&self) -> ClientConfig {
        // What only a consumer understands must not reach a producer.
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
        let theirs = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let theirs = theirs.filter(|(name, _)| !CONSUMER_ONLY.iter().any(|only| name.starts_with(only)));
        for (name, value) in PRODUCER_DEFAULTS.into_iter().chain(theirs).chain(PRODUCER) {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_promises_rest_on_cannot_be_set() {
        let with = |name: &str| KafkaOptions {
            bootstrap: String::new(),
            group: String::new(),
            instance: None,
            topics: Vec::new(),
            properties: BTreeMap::from([(name.to_owned(), "x".to_owned())]),
        };
        for (name, _, _) in CONSUMER {
            assert!(with(name).check().is_err(), "{name}");
        }
        assert!(with("group.id").check().is_err() && with("acks").check().is_err());
        assert!(with("sasl.mechanism").check().is_ok());
    }
}
