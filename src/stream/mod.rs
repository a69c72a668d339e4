//! The stream that this server consumes and publishes to: the embedded one, or Kafka with an output topic of its own.

#[cfg(feature = "kafka")]
pub(crate) mod dlq_topics;
mod error;
mod outbox_backlog;
pub mod outbox_publisher;

use std::sync::Arc;

use orderbell_consumers::{Group, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, KafkaConfig};
use crate::ingest::{ExpiryCheck, OrderHandler};
pub use error::StreamError;
use orderbell_ledger::Ledger;
use orderbell_orders::prepared::PreparedRecord;
use outbox_publisher::PublisherStats;

/// What [`start`] needs of the server.
#[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "the embedded stream has no outbox publisher"))]
pub(crate) struct StreamContext<'a> {
    pub(crate) config: &'a Config,
    pub(crate) ledger: &'a Arc<Ledger>,
    pub(crate) handler: &'a Arc<OrderHandler>,
    pub(crate) stats: &'a Arc<PublisherStats>,
    /// The tracker on which the outbox publisher runs, and the token that ends it.
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) stop: &'a CancellationToken,
}

/// The consumer group of order events.
pub(crate) type OrderGroup = Group<ExpiryCheck, PreparedRecord>;

/// Starts the consumer group, and on Kafka the outbox publisher.
pub(crate) async fn start(context: StreamContext<'_>) -> Result<OrderGroup, StreamError> {
    let StreamContext { config, ledger, handler, .. } = &context;
    let options =
        Options { retention_ms: config.retention_ms(), skip_to: config.skip_to.clone(), ..Options::default() };
    match &config.boot.kafka {
        None => {
            let (ledger, handler) = (Arc::clone(ledger), Arc::clone(handler));
            Ok(Group::start(ledger.embedded_source(), handler, ledger.clone(), ledger, &options))
        }
        Some(kafka) => on_kafka(&context, kafka, &options).await,
    }
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signature as with Kafka")]
async fn on_kafka(_: &StreamContext<'_>, _: &KafkaConfig, _: &Options) -> Result<OrderGroup, StreamError> {
    Err(StreamError::NotBuilt)
}

#[cfg(feature = "kafka")]
async fn on_kafka(
    context: &StreamContext<'_>,
    kafka: &KafkaConfig,
    options: &Options,
) -> Result<OrderGroup, StreamError> {
    use std::time::Duration;

    use orderbell_consumers::kafka::{KafkaDeadLetters, KafkaSink, KafkaSource};

    /// The output topic is created before the group subscribes to it. When the brokers are unreachable, that happens with the first event to
    /// publish, and the start goes on.
    const PREPARE_TIMEOUT: Duration = Duration::from_secs(3);

    /// If another member owns a partition for longer than this, ingestion stops and an alert is raised. Rebalances and new partitions are settled
    /// well before.
    const FULL_ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(20);

    let StreamContext { ledger, handler, stats, tasks, stop, .. } = context;
    let (output, joining) = (kafka.output_topic(), options_of(kafka, ledger));
    joining.check()?;
    ensure_sole_member(&joining, ledger.id()).await?;
    let like = kafka.topics.first().unwrap_or(&output);
    let sink = Arc::new(KafkaSink::new(&joining, &output, like)?);
    match tokio::time::timeout(PREPARE_TIMEOUT, sink.prepare()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the output topic could not be created yet"),
        Err(_) => tracing::warn!("the brokers did not answer in time"),
    }
    let options = &Options {
        required_topics: kafka.topics.clone(),
        require_full_assignment_after: Some(FULL_ASSIGNMENT_TIMEOUT),
        ..options.clone()
    };
    let dead_letters = Arc::new(KafkaDeadLetters::new(&joining, &output, Arc::clone(ledger))?);
    let source = KafkaSource::join(&joining)?;
    let group = Group::start(source, Arc::clone(handler), Arc::clone(ledger), dead_letters, options);
    let observer = Arc::new(RefusedEvents { handler: Arc::clone(handler), group: group.stats().clone() });
    let (ledger, stats, stop) = (Arc::clone(ledger), Arc::clone(stats), CancellationToken::clone(stop));
    tasks.spawn(outbox_publisher::publish(ledger, sink, output, stats, observer, stop));
    Ok(group)
}

/// Reports the events that the output topic refuses as the group reports its dead letters.
#[cfg(any(feature = "kafka", test))]
struct RefusedEvents {
    handler: Arc<OrderHandler>,
    group: Arc<orderbell_consumers::Stats>,
}

#[cfg(any(feature = "kafka", test))]
impl outbox_publisher::RefusedEventObserver for RefusedEvents {
    fn refused(
        &self,
        record: &orderbell_consumers::Record,
        reason: &orderbell_consumers::Reason,
    ) -> Option<orderbell_ledger::BinNote> {
        orderbell_consumers::report_dead_letter(&*self.handler, &self.group, record, None, reason);
        self.handler.note_of_dead_letter(record, reason.code)
    }
}

/// Waits until this process is the only member of its consumer group: two members would each hold half of the orders in their ledgers. A member
/// that was killed stays in the group until its session times out, so the wait is one session timeout and some slack.
#[cfg(feature = "kafka")]
async fn ensure_sole_member(joining: &orderbell_consumers::kafka::KafkaOptions, ours: &str) -> Result<(), StreamError> {
    use std::time::{Duration, Instant};

    use orderbell_consumers::kafka::GroupInspector;

    const BROKER_TIMEOUT: Duration = Duration::from_secs(3);
    /// librdkafka's default session timeout, and the slack added to the configured or default one.
    const SESSION_MS: u64 = 45_000;
    const SLACK_MS: u64 = 5_000;

    let session_ms = joining.properties.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(SESSION_MS);
    let until = Instant::now() + Duration::from_millis(session_ms + SLACK_MS);
    loop {
        let (options, group) = (joining.clone(), joining.group.clone());
        let asked = tokio::task::spawn_blocking(move || GroupInspector::new(&options, BROKER_TIMEOUT)?.members(&group));
        let members = match asked.await {
            Ok(Ok(members)) => members,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the members of the consumer group are not known");
                return Ok(());
            }
            Err(panic) => {
                tracing::error!(%panic, "asking for the members of the consumer group panicked");
                return Ok(());
            }
        };
        let Some((_, host)) = members.iter().find(|(id, _)| !id.starts_with(ours)) else { return Ok(()) };
        if Instant::now() >= until {
            return Err(StreamError::GroupShared { group: joining.group.clone(), host: host.clone() });
        }
        tracing::warn!(
            host,
            group = joining.group,
            "another process is a member of this consumer group: waiting for it to leave"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(feature = "kafka")]
fn options_of(kafka: &KafkaConfig, ledger: &Ledger) -> orderbell_consumers::kafka::KafkaOptions {
    let mut options = kafka.options();
    let output = kafka.output_topic();
    if !options.topics.contains(&output) {
        options.topics.push(output);
    }
    // The ledger's own id: a restart on the same directory takes over the membership at once.
    options.instance = Some(ledger.id().to_owned());
    options
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signature as with Kafka")]
pub(crate) async fn is_rolled_back(_: &KafkaConfig, _: &Arc<Ledger>) -> bool {
    false
}

/// True when an offset that Kafka's group committed is above this ledger's checkpoint: the ledger was restored from a backup, or is an older
/// copy. A committed offset only follows a durable checkpoint, so nothing else explains it. False when the brokers do not answer: each partition
/// is checked again when it is assigned.
#[cfg(feature = "kafka")]
pub(crate) async fn is_rolled_back(kafka: &KafkaConfig, ledger: &Arc<Ledger>) -> bool {
    use std::time::Duration;

    use orderbell_consumers::SourceError;
    use orderbell_consumers::kafka::GroupInspector;

    /// A start waits for the brokers at most this long.
    const BROKER_TIMEOUT: Duration = Duration::from_secs(3);

    let (options, ledger) = (options_of(kafka, ledger), ledger.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let reader = GroupInspector::new(&options, BROKER_TIMEOUT)?;
        let cluster = reader.cluster()?;
        let ours = ledger
            .checkpoints()
            .of_cluster(&cluster)
            .map_err(|error| SourceError::transient("read the checkpoints", error))?;
        let parts: Vec<_> = ours.iter().map(|(part, _)| part.clone()).collect();
        let theirs = if parts.is_empty() { Vec::new() } else { reader.committed(&parts)? };
        let ahead = theirs.into_iter().filter(|(part, at)| ours.iter().any(|(known, f)| known == part && f.next < *at));
        Ok::<_, SourceError>(ahead.collect::<Vec<_>>())
    });
    match asked.await {
        Ok(Ok(ahead)) if ahead.is_empty() => false,
        Ok(Ok(ahead)) => {
            tracing::error!(
                ?ahead,
                "the consumer group's committed offsets are above this ledger's checkpoints: the ledger was rolled back"
            );
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "whether this ledger was rolled back is not known yet");
            false
        }
        Err(panic) => {
            tracing::error!(%panic, "whether this ledger was rolled back is not known: asking panicked");
            false
        }
    }
}
