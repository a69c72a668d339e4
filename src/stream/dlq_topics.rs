//! The dead letter topics: listed, shown and replayed, for `orderbell dlq` and the console.
//!
//! A replayed record stays in its dead letter topic, because nothing can be deleted from one. Refused: a copy of the dead letters in the ledger,
//! which would have to agree with the topic.

use std::collections::HashSet;

use orderbell_consumers::kafka::{KafkaOptions, KafkaSink, scan_topic};
use orderbell_consumers::{OutRecord, Record, Sink, SourceError};
use orderbell_protocol::UnixMs;
use orderbell_protocol::admin::TopicDeadLetter;

use crate::config::Config;

/// The dead letter topics, and the output topic to which their records are replayed: Orderbell reads it and may write to it.
#[derive(Clone)]
pub(crate) struct DlqTopics {
    options: KafkaOptions,
    topics: Vec<String>,
    output: String,
}

/// The value of a header as text, empty when it is missing.
pub(crate) fn header_text(record: &Record, header: &str) -> String {
    record.header(header).map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// The name of a record: TOPIC/PARTITION@OFFSET.
pub(crate) fn record_name(record: &Record) -> String {
    format!("{}@{}", record.partition, record.offset)
}

/// A dead letter as the console shows it, with its value if `with_value`.
fn describe(record: &Record, with_value: bool) -> TopicDeadLetter {
    TopicDeadLetter {
        which: record_name(record),
        at: UnixMs(record.timestamp_ms),
        topic: header_text(record, "kafka_dlt-original-topic"),
        partition: header_text(record, "kafka_dlt-original-partition").parse().ok(),
        offset: header_text(record, "kafka_dlt-original-offset").parse().ok(),
        reason: header_text(record, "x-dlq-reason"),
        message: header_text(record, "x-dlq-message"),
        value: record.value.as_deref().filter(|_| with_value).map(|value| String::from_utf8_lossy(value).into_owned()),
    }
}

impl DlqTopics {
    /// `None` on the embedded stream, whose dead letters are in the ledger.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let kafka = config.boot.kafka.as_ref()?;
        let output = kafka.output_topic();
        let topics = kafka.topics.iter().chain([&output]).map(|topic| format!("{topic}.dlq")).collect();
        Some(Self { options: kafka.options(), topics, output })
    }

    /// Calls `each` with every record, or the `newest` ones of each partition. Blocks.
    pub(crate) fn scan(&self, newest: Option<u64>, mut each: impl FnMut(Record)) -> Result<(), SourceError> {
        for topic in &self.topics {
            scan_topic(&self.options, topic, newest, |record| {
                each(record);
                true
            })?;
        }
        Ok(())
    }

    /// The newest dead letters, newest first; or only the one named `one`, with its value. Blocks.
    pub(crate) fn newest(&self, per_partition: u64, one: Option<&str>) -> Result<Vec<TopicDeadLetter>, SourceError> {
        let mut found = Vec::new();
        self.scan(Some(per_partition), |record| {
            if one.is_none_or(|one| record_name(&record) == one) {
                found.push(describe(&record, one.is_some()));
            }
        })?;
        found.sort_by_key(|letter| std::cmp::Reverse(letter.at));
        Ok(found)
    }

    /// The producer that replays records to the output topic.
    pub(crate) fn sink(&self) -> Result<KafkaSink, SourceError> {
        let like = self.options.topics.first().unwrap_or(&self.output);
        KafkaSink::new(&self.options, &self.output, like)
    }

    /// Replays the named records with their headers, and returns how many were found.
    pub(crate) async fn replay(self, wanted: Vec<String>) -> Result<u64, String> {
        let topics = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let wanted: HashSet<String> = wanted.into_iter().collect();
            let mut found = Vec::new();
            topics.scan(None, |record| {
                if wanted.contains(&record_name(&record)) {
                    found.push(record);
                }
            })?;
            Ok::<_, SourceError>(found)
        });
        let records = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let sink = self.sink().map_err(|error| error.to_string())?;
        let count = records.len() as u64;
        for record in records {
            sink.send(&to_out_record(record)).await.map_err(|error| error.to_string())?;
        }
        Ok(count)
    }
}

/// The record to send for a replay: key, value, headers and time of the dead letter.
pub(crate) fn to_out_record(letter: Record) -> OutRecord {
    let Record { key, value, headers, timestamp_ms, .. } = letter;
    OutRecord { key, value: value.unwrap_or_default(), headers, timestamp_ms }
}
