//! This crate's own topics: they are there, or they are created with as many partitions as the topic they belong to.
//!
//! Whether a topic is there is asked first, by a client that creates none by asking: where an administrator made all topics, the right to
//! create one is often missing, and it is not needed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{GroupInspector, KafkaOptions};
use crate::error::SourceError;

/// A producer's own property, as an admin client sees it.
const IN_FLIGHT: &str = "max.in.flight.requests.per.connection";
/// Longest wait for an answer about topics.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a refusal is believed: each question takes a connection of its own.
const REFUSAL_AGE: Duration = Duration::from_secs(30);

/// A topic could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicError {
    #[error("cannot ask for the topic {topic}: {source}")]
    Metadata { topic: String, source: SourceError },
    #[error("cannot create {topic}: {source}")]
    Request { topic: String, source: KafkaError },
    #[error("the brokers refuse to create {topic}: {source}")]
    Refused { topic: String, source: RDKafkaErrorCode },
    /// Nothing but an operator ends this.
    #[error("{topic} does not exist, and this user may not create it ({code}): create it, or grant CREATE")]
    NotAllowed { topic: String, code: RDKafkaErrorCode },
    #[error("the task that asks for {topic} ended: {source}")]
    Task { topic: String, source: tokio::task::JoinError },
}

/// True when the brokers answer that this user lacks a right.
pub(super) fn is_not_allowed(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
}

/// Creates topics, and may ask whether it could.
struct Creator {
    admin: AdminClient<DefaultClientContext>,
    /// rdkafka gives an admin client no tokens: with OAUTHBEARER no topic is created.
    needs_token: bool,
}

impl Creator {
    fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        let mut plain = options.producer();
        // An admin client is no producer: librdkafka warns of properties that it does not use.
        for name in ["enable.idempotence", "acks", "partitioner", "linger.ms", "message.timeout.ms", IN_FLIGHT] {
            plain.remove(name);
        }
        let admin = plain.create().map_err(|error| SourceError::fatal("create admin client", error))?;
        Ok(Self { admin, needs_token: options.token.is_some() })
    }

    /// Creates a topic, or with `only_ask` asks whether that would be done.
    async fn create(&self, topic: &str, partitions: usize, only_ask: bool) -> Result<(), TopicError> {
        if self.needs_token {
            let (topic, code) = (topic.to_owned(), RDKafkaErrorCode::ClusterAuthorizationFailed);
            return Err(TopicError::NotAllowed { topic, code });
        }
        let partitions = i32::try_from(partitions.max(1)).unwrap_or(1);
        // -1: the cluster's own default of replicas.
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new()
            .operation_timeout(Some(REQUEST_TIMEOUT))
            .request_timeout(Some(REQUEST_TIMEOUT))
            .validate_only(only_ask);
        let created = self.admin.create_topics([&new], &options).await;
        for result in created.map_err(|source| TopicError::Request { topic: topic.to_owned(), source })? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) if is_not_allowed(code) => return Err(TopicError::NotAllowed { topic, code }),
                Err((topic, source)) => return Err(TopicError::Refused { topic, source }),
            }
        }
        Ok(())
    }
}

/// Whether this user may create a topic with this name. Nothing is created.
///
/// # Errors
/// Why not, or why it is not known.
pub async fn may_create_topic(options: &KafkaOptions, topic: &str) -> Result<(), SourceError> {
    let asked = Creator::new(options)?.create(topic, 1, true).await;
    asked.map_err(|error| SourceError::transient("ask for the right to create a topic", error))
}

pub(super) struct TopicAdmin {
    options: KafkaOptions,
    creator: Creator,
    /// Topics that exist, as far as it was seen.
    known: Mutex<HashSet<String>>,
    /// Topics that this user may not create, and when the brokers said so.
    refused: Mutex<HashMap<String, (Instant, RDKafkaErrorCode)>>,
}

impl TopicAdmin {
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        let creator = Creator::new(options)?;
        Ok(Self { options: options.clone(), creator, known: Mutex::default(), refused: Mutex::default() })
    }

    /// Creates `topic` when it does not exist, with as many partitions as `like` has.
    pub(super) async fn ensure(&self, topic: &str, like: &str) -> Result<(), TopicError> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return Ok(());
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        if let Some((at, code)) = refused
            && at.elapsed() < REFUSAL_AGE
        {
            return Err(TopicError::NotAllowed { topic: topic.to_owned(), code });
        }
        let made = match self.partitions(topic).await? {
            0 => self.creator.create(topic, self.partitions(like).await?, false).await,
            _ => Ok(()),
        };
        if let Err(TopicError::NotAllowed { code, .. }) = &made {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.insert(topic.to_owned(), (Instant::now(), *code));
        }
        made?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
        Ok(())
    }

    /// The number of a topic's partitions, 0 when there is no such topic. A consumer asks: a producer's question may create the topic.
    async fn partitions(&self, topic: &str) -> Result<usize, TopicError> {
        let (options, name) = (self.options.clone(), topic.to_owned());
        let asked =
            tokio::task::spawn_blocking(move || GroupInspector::new(&options, REQUEST_TIMEOUT)?.partitions(&name));
        let answer = asked.await.map_err(|source| TopicError::Task { topic: topic.to_owned(), source })?;
        answer.map_err(|source| TopicError::Metadata { topic: topic.to_owned(), source })
    }
}
