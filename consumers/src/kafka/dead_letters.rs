//! Dead letters on Kafka: topic `<topic>.dlq` with the record's partition, key, value and headers, its origin and the reason.
//!
//! Header names are those of Spring's dead letter publisher, which most tools know, and `x-dlq-*` for what they lack. A dead letter that is
//! too large for the topic goes unchanged to a second sink that takes any size. So does each one while this user may not create the topic, or
//! not write to it: a record that cannot be finished would hold its partition.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use super::KafkaOptions;
use super::producer::Producer;
use super::source::number;
use super::topic_admin::{TopicAdmin, TopicError, is_not_allowed};
use crate::error::{DeadLetterError, SourceError};
use crate::record::DEAD_LETTER_REASON;
use crate::traits::{DeadLetter, DeadLetterSink};

/// Longest wait for room in the producer's queue; after it the shard tries again.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the headers begin with that say where a record came from, and the first of them.
const ORIGINAL: &str = "kafka_dlt-original-";
const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";

/// Writes dead letters to Kafka, and those that a topic does not take to `L`.
pub struct KafkaDeadLetters<L> {
    producer: Producer,
    admin: TopicAdmin,
    group: String,
    replayed_to: String,
    second: Arc<L>,
}

impl<L: DeadLetterSink> KafkaDeadLetters<L> {
    /// A producer of dead letters. Those that are replayed come back in the topic `replayed_to`, with the headers of their origin. `second` takes those that are too large for a topic, or whose topic this user may not write to.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn new(options: &KafkaOptions, replayed_to: &str, second: Arc<L>) -> Result<Self, SourceError> {
        let (producer, admin) = (Producer::new(options)?, TopicAdmin::new(options)?);
        Ok(Self { producer, admin, group: options.group.clone(), replayed_to: replayed_to.to_owned(), second })
    }

    async fn send(&self, topic: &str, dead_letter: &DeadLetter, same_partition: bool) -> Result<(), KafkaError> {
        let record = &dead_letter.record;
        let mut out: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).timestamp(record.timestamp_ms).headers(self.headers(dead_letter));
        if same_partition {
            out = out.partition(number(&record.partition));
        }
        if let Some(key) = &record.key {
            out = out.key(key);
        }
        if let Some(value) = &record.value {
            out = out.payload(value);
        }
        self.producer.send(out, QUEUE_TIMEOUT).await
    }

    fn headers(&self, dead_letter: &DeadLetter) -> OwnedHeaders {
        let record = &dead_letter.record;
        // A record that was replayed and failed again keeps its first origin: appended headers would grow past the record's limit. In a topic
        // that no dead letter is replayed to, such headers are a producer's, and would hide the record's place.
        let is_replayed = *record.partition.topic == *self.replayed_to && record.header(ORIGINAL_TOPIC).is_some();
        let is_outdated = |name: &str| name.starts_with("x-dlq-") || (!is_replayed && name.starts_with(ORIGINAL));
        let mut headers = OwnedHeaders::new();
        for (name, value) in record.headers.iter().filter(|(name, _)| !is_outdated(name)) {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        if !is_replayed {
            let origin = [
                (ORIGINAL_TOPIC, record.partition.topic.to_string()),
                ("kafka_dlt-original-partition", record.partition.number.to_string()),
                ("kafka_dlt-original-offset", record.offset.to_string()),
                ("kafka_dlt-original-timestamp", record.timestamp_ms.to_string()),
                ("kafka_dlt-original-consumer-group", self.group.clone()),
            ];
            for (key, value) in &origin {
                headers = headers.insert(Header { key, value: Some(value) });
            }
        }
        let message: String = dead_letter.reason.message.chars().take(512).collect();
        headers
            .insert(Header { key: DEAD_LETTER_REASON, value: Some(dead_letter.reason.code) })
            .insert(Header { key: "x-dlq-message", value: Some(&message) })
            .insert(Header { key: "x-dlq-attempts", value: Some(&dead_letter.attempts.to_string()) })
    }
}

impl<L: DeadLetterSink> DeadLetterSink for KafkaDeadLetters<L> {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        let source = dead_letter.record.partition.topic.to_string();
        let topic = format!("{source}.dlq");
        match self.admin.ensure(&topic, &source).await {
            Ok(()) => {}
            Err(error @ TopicError::NotAllowed { .. }) => {
                tracing::warn!(%error, "a dead letter is kept in the second place");
                return self.second.write(dead_letter).await;
            }
            Err(error) => return Err(DeadLetterError::new(error)),
        }
        match self.send(&topic, &dead_letter, true).await {
            Ok(()) => Ok(()),
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                self.second.write(dead_letter).await
            }
            Err(KafkaError::MessageProduction(code)) if is_not_allowed(code) => {
                tracing::warn!(%code, topic, "this user may not write to a dead letter topic: a dead letter is kept in the second place");
                self.second.write(dead_letter).await
            }
            // The topic has fewer partitions than its source by now: any of them will do, since the headers name the origin.
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition)) => {
                self.send(&topic, &dead_letter, false).await.map_err(DeadLetterError::new)
            }
            Err(error) => Err(DeadLetterError::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::record::{Record, TopicPartition};
    use crate::traits::Reason;

    struct Nowhere;

    impl DeadLetterSink for Nowhere {
        async fn write(&self, _: DeadLetter) -> Result<(), DeadLetterError> {
            Ok(())
        }
    }

    /// The bug: a producer's own headers hid where its record was.
    #[test]
    fn the_origin_of_a_dead_letter_is_its_own_unless_it_was_replayed() {
        let options = KafkaOptions {
            bootstrap: "127.0.0.1:1".into(),
            group: "g".into(),
            instance: None,
            topics: vec!["orders".into()],
            cluster: None,
            token: None,
            properties: Default::default(),
        };
        let dead_letters = KafkaDeadLetters::new(&options, "g.events", Arc::new(Nowhere)).unwrap();
        let origin = |topic: &str| {
            let said = [("kafka_dlt-original-topic", "said"), ("kafka_dlt-original-offset", "1")];
            let header =
                |(name, value): (&str, &'static str)| (name.to_owned(), Some(Bytes::from_static(value.as_bytes())));
            let record = Record {
                partition: TopicPartition::new(topic, 0),
                offset: 7,
                timestamp_ms: 0,
                read_ms: 0,
                key: None,
                value: None,
                headers: said.map(header).into_iter().collect(),
            };
            let reason = Reason { code: "bad", message: String::new() };
            let headers = dead_letters.headers(&DeadLetter { record, reason, attempts: 1 });
            let named = |name: &str| {
                let values = headers.iter().filter(|header| header.key == name).filter_map(|header| header.value);
                values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect::<Vec<_>>()
            };
            (named("kafka_dlt-original-topic"), named("kafka_dlt-original-offset"))
        };
        assert_eq!(origin("orders"), (vec!["orders".to_owned()], vec!["7".to_owned()]));
        assert_eq!(origin("g.events"), (vec!["said".to_owned()], vec!["1".to_owned()]));
    }
}
