//! Which stream this server reads and writes: the embedded one, or Kafka with an output topic of its own.

#[cfg(feature = "kafka")]
pub(crate) mod buried;
pub mod emitter;

use std::sync::Arc;

use orderbell_consumers::{Group, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, KafkaConfig};
use crate::ingest::OrderHandler;
use crate::ledger::Ledger;
use crate::server::StartError;
use emitter::EmitStats;

/// What a stream is started with.
#[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "the embedded stream has no emitter"))]
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) ledger: &'a Arc<Ledger>,
    pub(crate) handler: &'a Arc<OrderHandler>,
    pub(crate) stats: &'a Arc<EmitStats>,
    /// Where the emitter runs, and what ends it.
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) stop: &'a CancellationToken,
}

/// Starts the group that reads, and on Kafka the emitter that writes.
pub(crate) async fn start(parts: Parts<'_>) -> Result<Group, StartError> {
    let Parts { config, ledger, handler, .. } = &parts;
    let options = Options { retention_ms: config.retention_ms(), skips: config.skips.clone(), ..Options::default() };
    match &config.kafka {
        None => {
            let (ledger, handler) = (Arc::clone(ledger), Arc::clone(handler));
            Ok(Group::start(ledger.stream(), handler, ledger.clone(), ledger, &options))
        }
        Some(kafka) => on_kafka(&parts, kafka, &options).await,
    }
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signature as with Kafka")]
async fn on_kafka(_: &Parts<'_>, _: &KafkaConfig, _: &Options) -> Result<Group, StartError> {
    Err(StartError::Kafka("this binary was built without the feature `kafka`".into()))
}

#[cfg(feature = "kafka")]
async fn on_kafka(parts: &Parts<'_>, kafka: &KafkaConfig, options: &Options) -> Result<Group, StartError> {
    use std::time::Duration;

    use orderbell_consumers::kafka::{KafkaLetters, KafkaSink, KafkaSource};

    /// The output topic is made before the group subscribes to it. When the brokers are away that waits until there is something to emit,
    /// and a start must not fail for it.
    const PREPARE_MAX: Duration = Duration::from_secs(3);

    /// A rebalance and a partition that was just made have their owner well before; a member that shares is noticed before it is lunch time.
    const WHOLE_AFTER: Duration = Duration::from_secs(20);

    let Parts { ledger, handler, stats, tasks, stop, .. } = parts;
    let (output, joining) = (kafka.output(), options_of(kafka, ledger));
    joining.check().map_err(|error| StartError::Kafka(error.to_string()))?;
    let failed = |error: orderbell_consumers::SourceError| StartError::Kafka(error.to_string());
    alone(&joining, ledger.id()).await?;
    let like = kafka.topics.first().unwrap_or(&output);
    let sink = Arc::new(KafkaSink::new(&joining, &output, like).map_err(failed)?);
    match tokio::time::timeout(PREPARE_MAX, sink.prepare()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the output topic is not there yet"),
        Err(_) => tracing::warn!("the brokers do not answer yet"),
    }
    let emitter = emitter::emit(Arc::clone(ledger), sink, output, Arc::clone(stats), CancellationToken::clone(stop));
    tasks.spawn(emitter);
    let options = &Options { needs_topics: kafka.topics.clone(), whole_after: Some(WHOLE_AFTER), ..options.clone() };
    let letters = Arc::new(KafkaLetters::new(&joining, Arc::clone(ledger)).map_err(failed)?);
    let source = KafkaSource::join(&joining).map_err(failed)?;
    Ok(Group::start(source, Arc::clone(handler), Arc::clone(ledger), letters, options))
}

/// Waits until nobody else reads with this group: the ledger is this node's alone, and two that share the partitions would each know half.
/// One that was killed is a member until its session ends, so it is waited for so long.
#[cfg(feature = "kafka")]
async fn alone(joining: &orderbell_consumers::kafka::KafkaOptions, ours: &str) -> Result<(), StartError> {
    use std::time::{Duration, Instant};

    use orderbell_consumers::kafka::GroupReader;

    const ASK_MAX: Duration = Duration::from_secs(3);
    /// librdkafka's own session, where the configuration names none, and how much longer is waited.
    const SESSION_MS: u64 = 45_000;
    const LONGER_MS: u64 = 5_000;

    let session_ms = joining.properties.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(SESSION_MS);
    let until = Instant::now() + Duration::from_millis(session_ms + LONGER_MS);
    loop {
        let (options, group) = (joining.clone(), joining.group.clone());
        let asked = tokio::task::spawn_blocking(move || GroupReader::new(&options, ASK_MAX)?.members(&group));
        let members = match asked.await {
            Ok(Ok(members)) => members,
            Ok(Err(error)) => {
                tracing::warn!(%error, "whether somebody else reads with this group is not known");
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        let Some((_, host)) = members.iter().find(|(id, _)| !id.starts_with(ours)) else { return Ok(()) };
        if Instant::now() >= until {
            return Err(StartError::Kafka(format!(
                "somebody else (host {host}) reads with the group {}: this ledger serves one process; stop the other, or give this one a \
                 group of its own",
                joining.group
            )));
        }
        tracing::warn!(host, group = joining.group, "somebody else reads with this group: waiting whether it is gone");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(feature = "kafka")]
fn options_of(kafka: &KafkaConfig, ledger: &Ledger) -> orderbell_consumers::kafka::KafkaOptions {
    let mut options = kafka.options();
    let output = kafka.output();
    if !options.topics.contains(&output) {
        options.topics.push(output);
    }
    // The ledger's own name: a restart on the same directory takes over at once.
    options.instance = Some(ledger.id().to_owned());
    options
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signature as with Kafka")]
pub(crate) async fn went_back(_: &KafkaConfig, _: &Arc<Ledger>) -> bool {
    false
}

/// True when Kafka's group is ahead of this ledger's frontiers: it was put back, or is an older copy. The group's offset only ever follows a
/// durable frontier, so nothing else explains it. When the brokers do not answer, it is not known; each partition looks again when it is
/// placed.
#[cfg(feature = "kafka")]
pub(crate) async fn went_back(kafka: &KafkaConfig, ledger: &Arc<Ledger>) -> bool {
    use std::time::Duration;

    use orderbell_consumers::SourceError;
    use orderbell_consumers::kafka::GroupReader;

    /// A start does not wait for longer.
    const ASK_MAX: Duration = Duration::from_secs(3);

    let (options, ledger) = (options_of(kafka, ledger), ledger.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let reader = GroupReader::new(&options, ASK_MAX)?;
        let cluster = reader.cluster()?;
        let ours = ledger.frontiers(&cluster).map_err(|error| SourceError::Passing(error.to_string()))?;
        let parts: Vec<_> = ours.iter().map(|(part, _)| part.clone()).collect();
        let theirs = if parts.is_empty() { Vec::new() } else { reader.committed(&parts)? };
        let ahead = theirs.into_iter().filter(|(part, at)| ours.iter().any(|(known, f)| known == part && f.next < *at));
        Ok::<_, SourceError>(ahead.collect::<Vec<_>>())
    });
    match asked.await {
        Ok(Ok(ahead)) if ahead.is_empty() => false,
        Ok(Ok(ahead)) => {
            tracing::error!(?ahead, "the group is ahead of this ledger: it went back");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "whether this ledger went back is not known yet");
            false
        }
        Err(_) => false,
    }
}
