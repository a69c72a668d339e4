//! A topic of Kafka as a [`Sink`]: idempotent, partitioned by key as Java's clients do it, acknowledged by all replicas.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use super::KafkaOptions;
use super::producer::Producer;
use super::topic_admin::TopicAdmin;
use crate::error::{SinkError, SourceError};
use crate::traits::{OutRecord, Sink};

/// Longest wait for room in the producer's queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Appends records to one topic of Kafka.
pub struct KafkaSink {
    producer: Producer,
    admin: TopicAdmin,
    topic: String,
    like: String,
}

impl KafkaSink {
    /// A producer for `topic`. The topic is created with as many partitions as `like` has, when it does not exist.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn new(options: &KafkaOptions, topic: &str, like: &str) -> Result<Self, SourceError> {
        let (producer, admin) = (Producer::new(options)?, TopicAdmin::new(options)?);
        Ok(Self { producer, admin, topic: topic.to_owned(), like: like.to_owned() })
    }

    /// Creates the topic when it does not exist, so that a consumer that subscribes later finds it at once.
    ///
    /// # Errors
    /// [`SinkError::Transient`] while the brokers are unreachable or refuse.
    pub async fn prepare(&self) -> Result<(), SinkError> {
        self.admin.ensure(&self.topic, &self.like).await.map_err(|error| SinkError::Transient(error.into()))
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
        match self.producer.send(out, QUEUE_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(KafkaError::MessageProduction(code @ RDKafkaErrorCode::MessageSizeTooLarge)) => {
                Err(SinkError::Refused(code.into()))
            }
            Err(error) => Err(SinkError::Transient(error.into())),
        }
    }
}
