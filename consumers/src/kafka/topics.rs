//! Topics that are ours: made when they are not there, with as many partitions as the topic they belong to.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, Producer};

use super::KafkaOptions;
use crate::seams::SourceError;

/// A producer's own, as an admin client sees it.
const IN_FLIGHT: &str = "max.in.flight.requests.per.connection";
/// Longest wait for an answer about topics.
const ASK_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Topics {
    producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
    known: Mutex<HashSet<String>>,
}

impl Topics {
    pub(super) fn new(options: &KafkaOptions, producer: FutureProducer) -> Result<Self, SourceError> {
        let mut plain = options.producer();
        // An admin client is no producer: librdkafka warns of properties it does not use.
        for name in ["enable.idempotence", "acks", "partitioner", "linger.ms", "message.timeout.ms", IN_FLIGHT] {
            plain.remove(name);
        }
        let admin = plain.create().map_err(|error| SourceError::Fatal(error.to_string()))?;
        Ok(Self { producer, admin, known: Mutex::default() })
    }

    /// Makes `topic` when it is not there, with as many partitions as `like` has.
    pub(super) async fn ensure(&self, topic: &str, like: &str) -> Result<(), String> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return Ok(());
        }
        let (producer, asked) = (self.producer.clone(), like.to_owned());
        let metadata = tokio::task::spawn_blocking(move || producer.client().fetch_metadata(Some(&asked), ASK_MAX));
        let metadata = metadata.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let partitions = i32::try_from(partitions.max(1)).unwrap_or(1);
        // -1: the cluster's own default of replicas.
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(ASK_MAX)).request_timeout(Some(ASK_MAX));
        let made = self.admin.create_topics([&new], &options).await.map_err(|error| error.to_string())?;
        for result in made {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(format!("{topic} cannot be made: {code}")),
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
        Ok(())
    }
}
