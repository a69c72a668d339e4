//! This crate's own topics: they are there, or they are created with as many partitions as the topic they belong to.
//!
//! Whether a topic is there is asked first, by a client that creates none by asking: where an administrator made all topics, the right to
//! create one is often missing, and it is not needed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
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
/// How long a refusal is believed: each question takes a connection of its own. As long as the longest back-off of an event that waits.
const REFUSAL_AGE: Duration = Duration::from_secs(5);
/// How long the answer to a question that failed is that of the others, too. A thousand of them would wait for each other's time-outs.
const FAILURE_AGE: Duration = Duration::from_secs(1);
/// Topics whose failures are remembered for that long: more are asked for anew.
const MAX_FAILURES: usize = 256;

/// A topic could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicError {
    #[error("cannot ask for the topic {topic}: {source}")]
    Metadata { topic: String, source: SourceError },
    #[error("cannot create {topic}: {source}")]
    Request { topic: String, source: KafkaError },
    #[error("the brokers refuse {topic}: {source}")]
    Refused { topic: String, source: RDKafkaErrorCode },
    /// Nothing but an operator ends this.
    #[error("{}", .right.sentence(.topic, *.code))]
    NotAllowed { topic: String, right: MissingRight, code: RDKafkaErrorCode },
    /// What was answered to whoever asked a moment ago.
    #[error("{source}")]
    Failed { source: Arc<Self> },
    #[error("the task that asks for {topic} ended: {source}")]
    Task { topic: String, source: tokio::task::JoinError },
}

/// The right that this user lacks.
#[derive(Clone, Copy, Debug)]
pub(super) enum MissingRight {
    /// The topic does not exist.
    Create,
    /// Whether it exists is not said either.
    Describe,
}

impl MissingRight {
    fn sentence(self, topic: &str, code: RDKafkaErrorCode) -> String {
        match self {
            Self::Create => {
                format!("{topic} does not exist, and this user may not create it ({code}): create it, or grant CREATE")
            }
            Self::Describe => format!("this user may not see {topic} ({code}): grant WRITE, READ and DESCRIBE"),
        }
    }
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
            return Err(TopicError::NotAllowed { topic, right: MissingRight::Create, code });
        }
        let partitions = i32::try_from(partitions.max(1)).expect("as many as another topic of Kafka has");
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
                Err((topic, code)) if is_not_allowed(code) => {
                    return Err(TopicError::NotAllowed { topic, right: MissingRight::Create, code });
                }
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

/// Questions that failed a moment ago.
#[derive(Default)]
struct Failures {
    /// No broker answered: so it is with each topic.
    unanswered: Option<(Instant, Arc<TopicError>)>,
    /// What the brokers answered concerns one topic.
    of_topics: HashMap<String, (Instant, Arc<TopicError>)>,
}

impl Failures {
    /// What a question about `topic` would be answered.
    fn of(&self, topic: &str, now: Instant) -> Option<Arc<TopicError>> {
        let is_recent = |(at, _): &&(Instant, Arc<TopicError>)| now < *at + FAILURE_AGE;
        let known = self.unanswered.as_ref().filter(is_recent);
        known.or_else(|| self.of_topics.get(topic).filter(is_recent)).map(|(_, error)| error.clone())
    }

    /// Remembers the answer to a question about `topic`.
    fn add(&mut self, topic: &str, error: &Arc<TopicError>, now: Instant) {
        if matches!(**error, TopicError::Metadata { .. } | TopicError::Request { .. }) {
            self.unanswered = Some((now, error.clone()));
            return;
        }
        self.of_topics.retain(|_, (at, _)| now < *at + FAILURE_AGE);
        if self.of_topics.len() < MAX_FAILURES {
            self.of_topics.insert(topic.to_owned(), (now, error.clone()));
        }
    }
}

pub(super) struct TopicAdmin {
    options: KafkaOptions,
    creator: Creator,
    /// Topics that exist, as far as it was seen.
    known: Mutex<HashSet<String>>,
    /// Topics that this user may not see or create, and when the brokers said so.
    refused: Mutex<HashMap<String, (Instant, MissingRight, RDKafkaErrorCode)>>,
    /// One question at a time: a thousand events that wait for one topic would ask with as many clients.
    asking: tokio::sync::Mutex<Failures>,
}

impl TopicAdmin {
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        let creator = Creator::new(options)?;
        Ok(Self {
            options: options.clone(),
            creator,
            known: Mutex::default(),
            refused: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// What an earlier question answered, as far as that still counts.
    fn answered(&self, topic: &str) -> Option<Result<(), TopicError>> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return Some(Ok(()));
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        let (_, right, code) = refused.filter(|(at, ..)| at.elapsed() < REFUSAL_AGE)?;
        Some(Err(TopicError::NotAllowed { topic: topic.to_owned(), right, code }))
    }

    /// Creates `topic` when it does not exist, with as many partitions as `like` has.
    pub(super) async fn ensure(&self, topic: &str, like: &str) -> Result<(), TopicError> {
        if let Some(answer) = self.answered(topic) {
            return answer;
        }
        let mut failed = self.asking.lock().await;
        if let Some(answer) = self.answered(topic) {
            return answer;
        }
        // Whoever waited for a question that failed does not ask the same brokers at once.
        if let Some(source) = failed.of(topic, Instant::now()) {
            return Err(TopicError::Failed { source });
        }
        match self.make(topic, like).await {
            Ok(()) => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
                Ok(())
            }
            Err(TopicError::NotAllowed { topic, right, code }) => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.insert(topic.clone(), (Instant::now(), right, code));
                Err(TopicError::NotAllowed { topic, right, code })
            }
            Err(error) => {
                let source = Arc::new(error);
                failed.add(topic, &source, Instant::now());
                Err(TopicError::Failed { source })
            }
        }
    }

    async fn make(&self, topic: &str, like: &str) -> Result<(), TopicError> {
        match self.partitions(topic).await? {
            0 => self.creator.create(topic, self.partitions(like).await?, false).await,
            _ => Ok(()),
        }
    }

    /// The number of a topic's partitions, 0 when there is no such topic. A consumer asks: a producer's question may create the topic.
    async fn partitions(&self, topic: &str) -> Result<usize, TopicError> {
        let (options, name) = (self.options.clone(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            GroupInspector::new(&options, REQUEST_TIMEOUT)?.partitions_or_refusal(&name)
        });
        let answer = asked.await.map_err(|source| TopicError::Task { topic: topic.to_owned(), source })?;
        match answer.map_err(|source| TopicError::Metadata { topic: topic.to_owned(), source })? {
            Ok(partitions) => Ok(partitions),
            Err(code) if is_not_allowed(code) => {
                Err(TopicError::NotAllowed { topic: topic.to_owned(), right: MissingRight::Describe, code })
            }
            Err(source) => Err(TopicError::Refused { topic: topic.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn refused(topic: &str) -> Arc<TopicError> {
        let source = RDKafkaErrorCode::PolicyViolation;
        Arc::new(TopicError::Refused { topic: topic.to_owned(), source })
    }

    /// Regression: what the brokers refused of one topic was the answer about all of them, for a second.
    #[test]
    fn what_is_refused_of_one_topic_is_no_answer_about_another() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        failures.add("a.dlq", &refused("a.dlq"), now);
        failures.add("b.dlq", &refused("b.dlq"), now + FAILURE_AGE / 2);
        let said = |failures: &Failures, topic, at| failures.of(topic, at).map(|error| error.to_string());
        assert!(said(&failures, "a.dlq", now).unwrap().contains("a.dlq"), "that of its own topic");
        assert_eq!(said(&failures, "c.dlq", now), None);
        assert_eq!(said(&failures, "a.dlq", now + FAILURE_AGE), None, "for a moment");
        let unanswered = SourceError::transient("fetch metadata", "no broker answers");
        let unanswered = Arc::new(TopicError::Metadata { topic: "a.dlq".into(), source: unanswered });
        failures.add("a.dlq", &unanswered, now);
        assert!(said(&failures, "c.dlq", now).unwrap().contains("no broker answers"), "so it is with each topic");
        let failed = TopicError::Failed { source: unanswered };
        assert!(failed.source().is_some_and(|source| source.is::<Arc<TopicError>>()), "the error is kept");
        for n in 0..2 * MAX_FAILURES {
            failures.add(&n.to_string(), &refused("x"), now + FAILURE_AGE / 2);
        }
        assert_eq!(failures.of_topics.len(), MAX_FAILURES);
        failures.add("later", &refused("x"), now + FAILURE_AGE * 2);
        assert_eq!(failures.of_topics.len(), 1);
    }
}
