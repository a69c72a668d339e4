//! The consumer of those that read a topic to its end. It reports each end, also behind control records, which are never delivered; with one
//! topic, the partition that the report names is enough.

use std::error::Error;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaOptions;
use super::oauth::TokenContext;
use crate::error::SourceError;

/// Logs what goes wrong. librdkafka reports the end of a partition as an error, too.
pub(super) struct ScanContext(TokenContext);

impl ClientContext for ScanContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.generate()
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::error!(%error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for ScanContext {}

/// A consumer that joins no group and commits nothing. `prefetch`: at least so many records are fetched in advance, if there is a choice.
///
/// # Errors
/// A property that librdkafka does not accept, with its message; no token where one is needed.
pub(super) fn scan_consumer(
    options: &KafkaOptions,
    prefetch: Option<u32>,
) -> Result<BaseConsumer<ScanContext>, SourceError> {
    let silent = KafkaOptions { instance: None, ..options.clone() };
    let mut config = silent.consumer();
    config.set("enable.partition.eof", "true");
    if let Some(records) = prefetch {
        config.set("queued.min.messages", records.to_string());
    }
    let context = options.context();
    let consumer = config.create_with_context(ScanContext(context.clone()));
    let consumer = consumer.map_err(|error| SourceError::fatal("create consumer", error))?;
    context.prime(&consumer)?;
    Ok(consumer)
}

#[cfg(test)]
mod tests {
    use orderbell_lab::log_capture::LogCapture;

    use super::*;

    /// What librdkafka's report of this error adds to the log.
    fn logged(code: RDKafkaErrorCode) -> String {
        let log = LogCapture::at(tracing::Level::INFO);
        ScanContext(TokenContext::default()).error(KafkaError::Global(code), "1/1 brokers");
        log.text()
    }

    #[test]
    fn the_end_of_a_partition_is_not_logged_and_a_real_error_is() {
        assert_eq!(logged(RDKafkaErrorCode::PartitionEOF), "");
        let text = logged(RDKafkaErrorCode::AllBrokersDown);
        assert!(text.contains("ERROR") && text.contains("AllBrokersDown") && text.contains("1/1 brokers"), "{text}");
    }
}
