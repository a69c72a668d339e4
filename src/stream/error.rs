//! Why the stream cannot be started. Each error keeps its cause as its source, and repeats it in its message.

use orderbell_consumers::SourceError;
#[cfg(feature = "kafka")]
use orderbell_consumers::kafka::PropertyError;

/// Why the stream cannot be started. Only a stream on Kafka can fail to start.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The configuration names Kafka, and this binary cannot speak to it.
    #[error("Kafka: this binary was built without the feature `kafka`")]
    NotBuilt,
    /// The configuration sets a property that is not the operator's to set, or one that this build cannot serve.
    #[cfg(feature = "kafka")]
    #[error("Kafka: {0}")]
    Property(#[from] PropertyError),
    /// A client of the cluster cannot be created, or the group cannot be joined.
    #[error("Kafka: {0}")]
    Client(#[from] SourceError),
    /// Another process is a member of the consumer group, and stayed for longer than a session lasts. Two members would each hold half of the
    /// orders in their ledgers.
    #[error(
        "Kafka: another process (host {host}) is a member of the consumer group {group}: stop it, or give this one a group of its own; a ledger \
         needs all partitions of its topics"
    )]
    GroupShared {
        /// The consumer group.
        group: String,
        /// Where the other process runs, as the group coordinator sees it.
        host: String,
    },
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_error_names_its_cause_and_keeps_it() {
        let error = StreamError::from(SourceError::fatal("create consumer", "no such property"));
        assert_eq!(error.to_string(), "Kafka: create consumer: no such property");
        assert!(error.source().is_some_and(|cause| cause.is::<SourceError>()));
    }
}
