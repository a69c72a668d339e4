//! What `doctor` says of Kafka: the cluster, the topics that are read, those that Orderbell writes, and the group. Nothing is created.

use std::time::Duration;

use orderbell_consumers::kafka::{GroupInspector, KafkaOptions, may_create_topic};

use orderbell_protocol::command_output::DoctorFinding;

use super::{failure, ok, warning};
use crate::config::{Config, KafkaConfig};

/// Timeout of a request: a check that hangs reports nothing.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn check(config: &Config) -> Vec<DoctorFinding> {
    let Some(kafka) = &config.boot.kafka else {
        return vec![ok("stream", "embedded, since [kafka] is not configured")];
    };
    let options = kafka.options();
    let reader = match GroupInspector::new(&options, BROKER_TIMEOUT) {
        Ok(reader) => reader,
        Err(error) => return vec![failure("kafka", error.to_string(), "correct kafka.properties")],
    };
    let mut findings = Vec::new();
    match reader.cluster() {
        Ok(cluster) => findings.push(ok("kafka", format!("cluster {cluster} answers at {}", kafka.bootstrap))),
        Err(error) => return vec![no_cluster(&reader, kafka, &error.to_string())],
    }
    for topic in &kafka.topics {
        findings.push(match reader.partitions(topic) {
            Ok(0) => failure("topic", format!("{topic} does not exist"), "create it, or correct kafka.topics"),
            Ok(count) => ok("topic", format!("{topic} has {count} partitions")),
            Err(error) => {
                failure("topic", format!("{topic}: {error}"), "grant this user READ and DESCRIBE on the topic")
            }
        });
    }
    let output = kafka.output_topic();
    let without = "what tills say and what is posted waits in the ledger, and the alert outbox_blocked is raised";
    findings.push(written(&reader, &options, "output", &output, without));
    for topic in kafka.topics.iter().chain([&output]) {
        let without = "its dead letters are kept in the ledger instead, see orderbell dlq list";
        findings.push(written(&reader, &options, "dlq", &format!("{topic}.dlq"), without));
    }
    findings.push(match reader.members(&kafka.group) {
        Ok(members) if members.is_empty() => ok("group", format!("{} has no members", kafka.group)),
        Ok(members) => {
            let found = format!("{} is a member of {}", members[0].1, kafka.group);
            warning("group", found, "fine if that is the running server; a group must have exactly one process")
        }
        Err(error) => warning("group", error.to_string(), "grant this user DESCRIBE on the group"),
    });
    findings
}

/// The cluster's id is not known: nobody answers, or what answers tells none.
fn no_cluster(reader: &GroupInspector, kafka: &KafkaConfig, error: &str) -> DoctorFinding {
    if kafka.topics.first().is_some_and(|topic| reader.partitions(topic).is_ok()) {
        let found = format!("what answers at {} tells no cluster id", kafka.bootstrap);
        return failure("kafka", found, "set kafka.cluster to a name of your own, and never change it");
    }
    let fix = "check kafka.bootstrap, whether the brokers are up, and TLS and SASL in kafka.properties";
    failure("kafka", format!("{}: {error}", kafka.bootstrap), fix)
}

/// A topic that Orderbell writes, and creates if it may. `without` says what happens otherwise.
fn written(
    reader: &GroupInspector,
    options: &KafkaOptions,
    check: &'static str,
    topic: &str,
    without: &str,
) -> DoctorFinding {
    match reader.partitions(topic) {
        Ok(0) => match may_create(options, topic) {
            Ok(()) => ok(check, format!("{topic} does not exist yet: Orderbell creates it when it is needed")),
            Err(error) => warning(
                check,
                format!("{topic} does not exist, and cannot be created: {error}"),
                format!("create it, or grant this user CREATE; without it {without}"),
            ),
        },
        Ok(count) => ok(check, format!("{topic} has {count} partitions")),
        Err(error) => warning(
            check,
            format!("{topic}: {error}"),
            format!("grant this user WRITE, READ and DESCRIBE on the topic; without them {without}"),
        ),
    }
}

fn may_create(options: &KafkaOptions, topic: &str) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(may_create_topic(options, topic)).map_err(|error| error.to_string())
}
