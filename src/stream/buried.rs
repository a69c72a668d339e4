//! Dead letters in their topics: looked at and sent again, for `orderbell dlq` and the console.
//!
//! A topic keeps what was sent again, too: there is no taking out of it. Refused: a copy of its letters in the ledger, which would have to agree
//! with it.

use std::collections::HashSet;

use orderbell_consumers::kafka::{KafkaOptions, KafkaSink, read_topic};
use orderbell_consumers::{OutRecord, Record, Sink, SourceError};
use orderbell_protocol::UnixMs;

use crate::config::Config;
use crate::net::TopicLetter;

/// The topics of dead letters, and where their letters go when they are sent again: into the output topic, which Orderbell reads and may write to.
#[derive(Clone)]
pub(crate) struct Buried {
    options: KafkaOptions,
    topics: Vec<String>,
    output: String,
}

/// A header as text.
pub(crate) fn text(record: &Record, header: &str) -> String {
    record.header(header).map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// How a letter is named: TOPIC/PARTITION@OFFSET.
pub(crate) fn which(record: &Record) -> String {
    format!("{}@{}", record.part, record.offset)
}

/// As the console tells of it, with its value if that was asked for.
fn told(record: &Record, whole: bool) -> TopicLetter {
    TopicLetter {
        which: which(record),
        at: UnixMs(record.timestamp_ms),
        topic: text(record, "kafka_dlt-original-topic"),
        partition: text(record, "kafka_dlt-original-partition").parse().ok(),
        offset: text(record, "kafka_dlt-original-offset").parse().ok(),
        reason: text(record, "x-dlq-reason"),
        message: text(record, "x-dlq-message"),
        value: record.value.as_deref().filter(|_| whole).map(|value| String::from_utf8_lossy(value).into_owned()),
    }
}

impl Buried {
    /// Nothing on the embedded stream.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let kafka = config.kafka.as_ref()?;
        let output = kafka.output();
        let topics = kafka.topics.iter().chain([&output]).map(|topic| format!("{topic}.dlq")).collect();
        Some(Self { options: kafka.options(), topics, output })
    }

    /// All letters, or the `newest` of each partition, as they come. Blocks.
    pub(crate) fn each(&self, newest: Option<u64>, mut each: impl FnMut(Record)) -> Result<(), SourceError> {
        for topic in &self.topics {
            read_topic(&self.options, topic, newest, |record| {
                each(record);
                true
            })?;
        }
        Ok(())
    }

    /// The newest letters, newest first; or one of them, whole. Blocks.
    pub(crate) fn newest(&self, per_partition: u64, one: Option<&str>) -> Result<Vec<TopicLetter>, SourceError> {
        let mut found = Vec::new();
        self.each(Some(per_partition), |record| {
            if one.is_none_or(|one| which(&record) == one) {
                found.push(told(&record, one.is_some()));
            }
        })?;
        found.sort_by_key(|letter| std::cmp::Reverse(letter.at));
        Ok(found)
    }

    /// What sends letters again.
    pub(crate) fn sink(&self) -> Result<KafkaSink, SourceError> {
        let like = self.options.topics.first().unwrap_or(&self.output);
        KafkaSink::new(&self.options, &self.output, like)
    }

    /// Sends these again, with the headers that they came with; how many there were.
    pub(crate) async fn again(self, wanted: Vec<String>) -> Result<u64, String> {
        let buried = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let wanted: HashSet<String> = wanted.into_iter().collect();
            let mut found = Vec::new();
            buried.each(None, |record| {
                if wanted.contains(&which(&record)) {
                    found.push(record);
                }
            })?;
            Ok::<_, SourceError>(found)
        });
        let letters = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let sink = self.sink().map_err(|error| error.to_string())?;
        let count = letters.len() as u64;
        for letter in letters {
            sink.send(&out(letter)).await.map_err(|error| error.to_string())?;
        }
        Ok(count)
    }
}

/// A letter as the record that it was.
pub(crate) fn out(letter: Record) -> OutRecord {
    let Record { key, value, headers, timestamp_ms, .. } = letter;
    OutRecord { key, value: value.unwrap_or_default(), headers, timestamp_ms }
}
