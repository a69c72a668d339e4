//! Dead letters on Kafka: topic `<topic>.dlq` with the record's partition, key, value and headers, its origin and the reason.
//!
//! Header names are those of Spring's dead letter publisher, which most tools know, and `x-dlq-*` for what they lack. A dead letter that is
//! too large for the topic goes unchanged to a second sink that takes any size. So does each one while this user may not create the topic, or
//! not write to it: a record that cannot be finished would hold its partition.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::KafkaOptions;
use super::oauth::TokenContext;
use super::topic_admin::{TopicAdmin, TopicError, is_not_allowed};
use crate::error::{DeadLetterError, SourceError};
use crate::traits::{DeadLetter, DeadLetterSink};

/// Longest wait for room in the producer's queue; after it the shard tries again.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes dead letters to Kafka, and those that a topic does not take to `L`.
pub struct KafkaDeadLetters<L> {
    producer: FutureProducer<TokenContext>,
    admin: TopicAdmin,
    group: String,
    second: Arc<L>,
}

impl<L: DeadLetterSink> KafkaDeadLetters<L> {
    /// A producer of dead letters. `second` takes those that are too large for a topic, or whose topic this user may not write to.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn new(options: &KafkaOptions, second: Arc<L>) -> Result<Self, SourceError> {
        let producer = options.producer().create_with_context(options.context());
        let producer: FutureProducer<_> = producer.map_err(|error| SourceError::fatal("create producer", error))?;
        let admin = TopicAdmin::new(options)?;
        Ok(Self { producer, admin, group: options.group.clone(), second })
    }

    async fn send(&self, topic: &str, letter: &DeadLetter, same_partition: bool) -> Result<(), KafkaError> {
        let record = &letter.record;
        let mut out: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).timestamp(record.timestamp_ms).headers(self.headers(letter));
        if same_partition {
            out = out.partition(i32::try_from(record.partition.number).unwrap_or(0));
        }
        if let Some(key) = &record.key {
            out = out.key(key);
        }
        if let Some(value) = &record.value {
            out = out.payload(value);
        }
        self.producer.send(out, QUEUE_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error)
    }

    fn headers(&self, letter: &DeadLetter) -> OwnedHeaders {
        let record = &letter.record;
        // A record that was replayed and failed again keeps its first origin: appended headers would grow past the record's limit.
        let is_outdated = |name: &str| name.starts_with("x-dlq-");
        let mut headers = OwnedHeaders::new();
        for (name, value) in record.headers.iter().filter(|(name, _)| !is_outdated(name)) {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        if record.header("kafka_dlt-original-topic").is_none() {
            let origin = [
                ("kafka_dlt-original-topic", record.partition.topic.to_string()),
                ("kafka_dlt-original-partition", record.partition.number.to_string()),
                ("kafka_dlt-original-offset", record.offset.to_string()),
                ("kafka_dlt-original-timestamp", record.timestamp_ms.to_string()),
                ("kafka_dlt-original-consumer-group", self.group.clone()),
            ];
            for (key, value) in &origin {
                headers = headers.insert(Header { key, value: Some(value) });
            }
        }
        let message: String = letter.reason.message.chars().take(512).collect();
        headers
            .insert(Header { key: "x-dlq-reason", value: Some(letter.reason.code) })
            .insert(Header { key: "x-dlq-message", value: Some(&message) })
            .insert(Header { key: "x-dlq-attempts", value: Some(&letter.attempts.to_string()) })
    }
}

impl<L: DeadLetterSink> DeadLetterSink for KafkaDeadLetters<L> {
    async fn write(&self, letter: DeadLetter) -> Result<(), DeadLetterError> {
        let source = letter.record.partition.topic.to_string();
        let topic = format!("{source}.dlq");
        match self.admin.ensure(&topic, &source).await {
            Ok(()) => {}
            Err(error @ TopicError::NotAllowed { .. }) => {
                tracing::warn!(%error, "a dead letter is kept in the second place");
                return self.second.write(letter).await;
            }
            Err(error) => return Err(DeadLetterError::new(error)),
        }
        match self.send(&topic, &letter, true).await {
            Ok(()) => Ok(()),
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                self.second.write(letter).await
            }
            Err(KafkaError::MessageProduction(code)) if is_not_allowed(code) => {
                tracing::warn!(%code, topic, "this user may not write to a dead letter topic: a dead letter is kept in the second place");
                self.second.write(letter).await
            }
            // The topic has fewer partitions than its source by now: any of them will do, since the headers name the origin.
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition)) => {
                self.send(&topic, &letter, false).await.map_err(DeadLetterError::new)
            }
            Err(error) => Err(DeadLetterError::new(error)),
        }
    }
}
