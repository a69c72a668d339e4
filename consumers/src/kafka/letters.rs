//! Dead letters on Kafka: topic `<topic>.dlq`, the same partition, key, bytes and headers, with where it came from and why.
//!
//! Header names are those of Spring's dead letter publisher, which most tools know, and `x-dlq-*` for what they lack. A letter that is too
//! large for the topic goes whole to a second place that takes any size.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::KafkaOptions;
use super::topics::Topics;
use crate::seams::{DeadLetters, Letter, NotTaken, SourceError};

/// How long one offer may take; the shard offers again.
const SEND_MAX: Duration = Duration::from_secs(10);

/// Dead letters on Kafka, with `L` for those that are too large.
pub struct KafkaLetters<L> {
    producer: FutureProducer,
    topics: Topics,
    group: String,
    large: Arc<L>,
}

fn not_taken(error: impl std::fmt::Display) -> NotTaken {
    NotTaken(error.to_string())
}

impl<L: DeadLetters> KafkaLetters<L> {
    /// A producer of dead letters.
    ///
    /// # Errors
    /// A property that librdkafka does not take, in its words.
    pub fn new(options: &KafkaOptions, large: Arc<L>) -> Result<Self, SourceError> {
        let producer: FutureProducer =
            options.producer().create().map_err(|error| SourceError::Fatal(error.to_string()))?;
        let topics = Topics::new(options, producer.clone())?;
        Ok(Self { producer, topics, group: options.group.clone(), large })
    }

    async fn send(&self, topic: &str, letter: &Letter, same_partition: bool) -> Result<(), KafkaError> {
        let record = &letter.record;
        let mut out: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).timestamp(record.timestamp_ms).headers(self.headers(letter));
        if same_partition {
            out = out.partition(i32::try_from(record.part.number).unwrap_or(0));
        }
        if let Some(key) = &record.key {
            out = out.key(key);
        }
        if let Some(value) = &record.value {
            out = out.payload(value);
        }
        self.producer.send(out, SEND_MAX).await.map(|_| ()).map_err(|(error, _)| error)
    }

    fn headers(&self, letter: &Letter) -> OwnedHeaders {
        let record = &letter.record;
        // On a second trip the first origin stays: appended headers would grow past the record's limit.
        let old = |name: &str| name.starts_with("x-dlq-");
        let mut headers = OwnedHeaders::new();
        for (name, value) in record.headers.iter().filter(|(name, _)| !old(name)) {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        if record.header("kafka_dlt-original-topic").is_none() {
            let origin = [
                ("kafka_dlt-original-topic", record.part.topic.to_string()),
                ("kafka_dlt-original-partition", record.part.number.to_string()),
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

impl<L: DeadLetters> DeadLetters for KafkaLetters<L> {
    async fn bury(&self, letter: Letter) -> Result<(), NotTaken> {
        let source = letter.record.part.topic.to_string();
        let topic = format!("{source}.dlq");
        self.topics.ensure(&topic, &source).await.map_err(not_taken)?;
        match self.send(&topic, &letter, true).await {
            Ok(()) => Ok(()),
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => self.large.bury(letter).await,
            // The topic has fewer partitions than its source has by now: any of them will do, the origin is in the headers.
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition)) => {
                self.send(&topic, &letter, false).await.map_err(not_taken)
            }
            Err(error) => Err(not_taken(error)),
        }
    }
}
