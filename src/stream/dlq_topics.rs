//! The dead letter topics: listed, shown and replayed, for `orderbell dlq` and the console.
//!
//! A replayed record stays in its dead letter topic, because nothing can be deleted from one. Refused: a copy of the dead letters in the ledger,
//! which would have to agree with the topic.

use orderbell_consumers::kafka::{KafkaOptions, KafkaSink, RecordReader, TopicScan};
use orderbell_consumers::{Offset, OutRecord, Record, Sink, SinkError, SourceError, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::admin::{TopicDeadLetter, TopicReplayAnswer};
use tokio::sync::mpsc;

use crate::config::Config;

/// Records that were read and wait for who asked for them. The thread that reads waits when there are more.
const MAX_READ_AHEAD: usize = 16;

/// Records that are being read on a blocking thread. Dropping it ends the read.
pub(crate) struct DeadLetterStream(mpsc::Receiver<Result<Record, SourceError>>);

impl DeadLetterStream {
    /// `read` calls its argument with each record, which answers whether to go on.
    fn of(read: impl FnOnce(&mut dyn FnMut(Record) -> bool) -> Result<(), SourceError> + Send + 'static) -> Self {
        let (tx, rx) = mpsc::channel(MAX_READ_AHEAD);
        let _ends_with_the_receiver = tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&mut |record| tx.blocking_send(Ok(record)).is_ok()) {
                let _receiver_gone = tx.blocking_send(Err(error));
            }
        });
        Self(rx)
    }

    /// The next record; `None` after the last one.
    ///
    /// # Errors
    /// The brokers do not answer, or their records cannot be read. Nothing follows.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, SourceError> {
        self.0.recv().await.transpose()
    }
}

/// Why dead letters cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// They cannot be read, or there is no client for the output topic.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output topic does not take one.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Making the client panicked.
    #[error("making a client panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The dead letter topics, and the output topic to which their records are replayed: Orderbell reads it and may write to it.
#[derive(Clone)]
pub(crate) struct DlqTopics {
    options: KafkaOptions,
    topics: Vec<String>,
    output: String,
}

/// The value of a header as text that can be printed, empty when it is missing.
pub(crate) fn header_text(record: &Record, header: &str) -> String {
    record.header(header).map_or_else(String::new, |bytes| printable(&String::from_utf8_lossy(bytes)))
}

/// What a producer wrote, without control characters, which a terminal would obey; lines and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// The name of a record: TOPIC/PARTITION@OFFSET.
pub(crate) fn record_name(record: &Record) -> String {
    format!("{}@{}", record.partition, record.offset)
}

/// The place that a record's name tells.
fn place(name: &str) -> Option<(TopicPartition, Offset)> {
    let (partition, offset) = name.rsplit_once('@')?;
    let (topic, number) = partition.rsplit_once('/')?;
    Some((TopicPartition::new(topic, number.parse().ok()?), offset.parse().ok()?))
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

    /// Calls `each` with every record that is there now, or the `newest` ones of each partition, while it returns true. What is appended
    /// meanwhile, as a replayed record that is rejected again, is not read. Blocks.
    fn scan(&self, newest: Option<u64>, each: &mut dyn FnMut(Record) -> bool) -> Result<(), SourceError> {
        let scans: Vec<TopicScan> = self
            .topics
            .iter()
            .map(|topic| TopicScan::open(&self.options, topic, newest))
            .collect::<Result<_, SourceError>>()?;
        let mut wanted = true;
        for scan in scans {
            scan.run(|record| {
                wanted = each(record);
                wanted
            })?;
            if !wanted {
                break;
            }
        }
        Ok(())
    }

    /// Every record that is there now, one after another.
    pub(crate) fn all(&self) -> DeadLetterStream {
        let topics = self.clone();
        DeadLetterStream::of(move |each| topics.scan(None, each))
    }

    /// The records with these names, each read at its place. Names of no record are left out.
    pub(crate) fn named(&self, names: Vec<String>) -> DeadLetterStream {
        let topics = self.clone();
        DeadLetterStream::of(move |each| {
            let reader = RecordReader::new(&topics.options)?;
            for (partition, offset) in names.iter().filter_map(|name| place(name)) {
                if topics.topics.iter().all(|topic| **topic != *partition.topic) {
                    continue;
                }
                if let Some(record) = reader.read(&partition, offset)?
                    && !each(record)
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The newest dead letters, newest first. Blocks.
    pub(crate) fn newest(&self, per_partition: u64) -> Result<Vec<TopicDeadLetter>, SourceError> {
        let mut found = Vec::new();
        self.scan(Some(per_partition), &mut |record| {
            found.push(describe(&record, false));
            true
        })?;
        found.sort_by_key(|dead_letter| std::cmp::Reverse(dead_letter.at));
        Ok(found)
    }

    /// The dead letter with this name and its value.
    pub(crate) async fn one(&self, name: String) -> Result<Option<TopicDeadLetter>, SourceError> {
        Ok(self.named(vec![name]).next().await?.map(|record| describe(&record, true)))
    }

    /// The producer that replays records to the output topic.
    pub(crate) fn sink(&self) -> Result<KafkaSink, SourceError> {
        let like = self.options.topics.first().unwrap_or(&self.output);
        KafkaSink::new(&self.options, &self.output, like)
    }

    /// Replays the named records with their headers, as far as they are found and whole.
    pub(crate) async fn replay(self, names: Vec<String>) -> Result<TopicReplayAnswer, ReplayError> {
        // A client may wait for its first token.
        let made = tokio::task::spawn_blocking(move || self.sink().map(|sink| (sink, self))).await;
        let (sink, topics) = made??;
        let (mut records, mut answer) = (topics.named(names), TopicReplayAnswer::default());
        while let Some(record) = records.next().await? {
            if record.is_cut() {
                answer.cut.push(record_name(&record));
                continue;
            }
            sink.send(&to_out_record(record)).await?;
            answer.replayed += 1;
        }
        Ok(answer)
    }
}

/// The record to send for a replay: key, value, headers and time of the dead letter.
pub(crate) fn to_out_record(dead_letter: Record) -> OutRecord {
    let Record { key, value, headers, timestamp_ms, .. } = dead_letter;
    OutRecord { key, value: value.unwrap_or_default(), headers: headers.to_vec(), timestamp_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: Offset) -> Record {
        Record {
            partition: TopicPartition::new("orders/eu.dlq", 3),
            offset,
            timestamp_ms: 0,
            read_ms: 0,
            key: None,
            value: None,
            headers: Default::default(),
        }
    }

    /// The bug: a producer's control characters reached the terminal of whoever listed dead letters.
    #[test]
    fn what_a_producer_wrote_is_printed_without_control_characters() {
        let header = ("kafka_dlt-original-topic".to_owned(), Some("nowhere\u{1b}[33m\u{9b}".into()));
        let record = Record { headers: vec![header].into(), ..record(7) };
        assert_eq!(header_text(&record, "kafka_dlt-original-topic"), "nowhere\u{fffd}[33m\u{fffd}");
        assert_eq!(printable("{\n\t\"a\":\"\u{7}\"}\r\n"), "{\n\t\"a\":\"\u{fffd}\"}\u{fffd}\n");
    }

    #[test]
    fn the_name_of_a_record_tells_its_place() {
        let record = record(77);
        assert_eq!(place(&record_name(&record)), Some((record.partition.clone(), 77)));
        for name in ["", "1", "t/0", "t@1", "t/x@1", "t/0@x", "t/-1@1"] {
            assert_eq!(place(name), None, "{name}");
        }
    }

    /// Regression: a list held every record of all topics.
    #[tokio::test]
    async fn a_read_is_never_far_ahead_of_who_takes_its_records() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};
        let read = Arc::<AtomicU64>::default();
        let counted = read.clone();
        let mut records = DeadLetterStream::of(move |each| {
            for _ in (0..1000).take_while(|offset| each(record(*offset))) {
                counted.fetch_add(1, Ordering::AcqRel);
            }
            Ok(())
        });
        for offset in 0..500 {
            let next = records.next().await.unwrap().unwrap();
            assert_eq!(next.offset, offset, "in order");
            let ahead = read.load(Ordering::Acquire).saturating_sub(offset + 1);
            assert!(ahead <= MAX_READ_AHEAD as u64, "{ahead} records in memory");
        }
        drop(records);
        assert!(read.load(Ordering::Acquire) <= 500 + MAX_READ_AHEAD as u64, "nobody wants the rest");
    }

    #[tokio::test]
    async fn an_error_comes_after_the_records_before_it() {
        let mut records = DeadLetterStream::of(|each| {
            each(record(1));
            Err(SourceError::transient("read", "away"))
        });
        assert_eq!(records.next().await.unwrap().map(|record| record.offset), Some(1));
        assert!(records.next().await.is_err());
        assert!(records.next().await.unwrap().is_none());
    }
}
