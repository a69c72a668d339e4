//! A topic of Kafka as a [`Sink`]: idempotent, partitioned by key as Java's clients do it, acknowledged by all replicas.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::KafkaOptions;
use super::topics::Topics;
use crate::seams::{OutRecord, Sink, SinkError, SourceError};

/// How long a full send queue is waited for.
const QUEUE_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub struct KafkaSink {
    producer: FutureProducer,
    topics: Topics,
    topic: String,
    like: String,
}

impl KafkaSink {
    /// A producer for `topic`, which is made with as many partitions as `like` when it is not there.
    ///
    /// # Errors
    /// A property that librdkafka does not take, in its words.
    pub fn new(options: &KafkaOptions, topic: &str, like: &str) -> Result<Self, SourceError> {
        let producer: FutureProducer =
            options.producer().create().map_err(|error| SourceError::Fatal(error.to_string()))?;
        let topics = Topics::new(options, producer.clone())?;
        Ok(Self { producer, topics, topic: topic.to_owned(), like: like.to_owned() })
    }

    /// Makes the topic when it is not there; a reader that subscribes later finds it at once.
    ///
    /// # Errors
    /// [`SinkError::Passing`] while the brokers are away or refuse.
    pub async fn prepare(&self) -> Result<(), SinkError> {
        self.topics.ensure(&self.topic, &self.like).await.map_err(SinkError::Passing)
    }
}

impl Sink for KafkaSink {
    async fn send(&self, record: &OutRecord) -> Result<(), SinkError> {
        self.prepare().await?;
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut out: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).payload(&record.value[..]).timestamp(record.timestamp_ms).headers(headers);
        if let Some(key) = &record.key {
            out = out.key(&key[..]);
        }
        match self.producer.send(out, QUEUE_MAX).await {
            Ok(_) => Ok(()),
            Err((KafkaError::MessageProduction(code @ RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                Err(SinkError::Refused(code.to_string()))
            }
            Err((error, _)) => Err(SinkError::Passing(error.to_string())),
        }
    }
}
