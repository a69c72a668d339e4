//! Creates this crate's own topics when they do not exist, with as many partitions as the topic they belong to.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer};

use super::KafkaOptions;
use crate::error::SourceError;

/// A producer's own property, as an admin client sees it.
const IN_FLIGHT: &str = "max.in.flight.requests.per.connection";
/// Longest wait for an answer about topics.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A topic could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicError {
    #[error("cannot read the partitions of {topic}: {source}")]
    Metadata { topic: String, source: KafkaError },
    #[error("cannot create {topic}: {source}")]
    Request { topic: String, source: KafkaError },
    #[error("the brokers refuse to create {topic}: {source}")]
    Refused { topic: String, source: RDKafkaErrorCode },
    #[error("the task that reads the partitions of {topic} ended: {source}")]
    Task { topic: String, source: tokio::task::JoinError },
}

pub(super) struct TopicAdmin {
    producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
    /// Topics that exist, as far as it was seen.
    known: Mutex<HashSet<String>>,
}

impl TopicAdmin {
    pub(super) fn new(options: &KafkaOptions, producer: FutureProducer) -> Result<Self, SourceError> {
        let mut plain = options.producer();
        // An admin client is no producer: librdkafka warns of properties that it does not use.
        for name in ["enable.idempotence", "acks", "partitioner", "linger.ms", "message.timeout.ms", IN_FLIGHT] {
            plain.remove(name);
        }
        let admin = plain.create().map_err(|error| SourceError::fatal("create admin client", error))?;
        Ok(Self { producer, admin, known: Mutex::default() })
    }

    /// Creates `topic` when it does not exist, with as many partitions as `like` has.
    pub(super) async fn ensure(&self, topic: &str, like: &str) -> Result<(), TopicError> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return Ok(());
        }
        let (producer, name) = (self.producer.clone(), like.to_owned());
        let metadata =
            tokio::task::spawn_blocking(move || producer.client().fetch_metadata(Some(&name), REQUEST_TIMEOUT));
        let metadata = metadata
            .await
            .map_err(|source| TopicError::Task { topic: like.to_owned(), source })?
            .map_err(|source| TopicError::Metadata { topic: like.to_owned(), source })?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let partitions = i32::try_from(partitions.max(1)).unwrap_or(1);
        // -1: the cluster's own default of replicas.
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
        let created = self.admin.create_topics([&new], &options).await;
        for result in created.map_err(|source| TopicError::Request { topic: topic.to_owned(), source })? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, source)) => return Err(TopicError::Refused { topic, source }),
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
        Ok(())
    }
}
