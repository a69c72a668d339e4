//! A whole topic, read once from its first record to the end that it had at the beginning: for tools. Joins no group, commits nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::source::{part_of, record};
use crate::record::Record;
use crate::seams::SourceError;

/// Longest wait for an answer, and for the next record.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Without a record, a partition may be without its leader for so long.
const LEADER_MAX: Duration = Duration::from_secs(60);
/// Without a word from any broker for so long, reading ends without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Between questions to a partition whose leader moves.
const ASK_AGAIN: Duration = Duration::from_millis(200);

fn passing(error: impl std::fmt::Display) -> SourceError {
    SourceError::Passing(error.to_string())
}

/// A leader that was just elected, or moves, is not there for a moment: that is no answer yet.
fn patiently<T>(ask: impl Fn() -> Result<T, KafkaError>) -> Result<T, SourceError> {
    let until = Instant::now() + ASK_MAX;
    loop {
        match ask() {
            Err(error) if moves(&error) && Instant::now() < until => std::thread::park_timeout(ASK_AGAIN),
            answer => return answer.map_err(passing),
        }
    }
}

fn moves(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

/// Reads `topic`, or of each partition the `newest` so many; `each` says whether to go on. How many records were read; 0 when there is no such topic. Blocks.
///
/// # Errors
/// [`SourceError`] when the brokers do not answer, or what they have cannot be read.
pub fn read_topic(
    options: &KafkaOptions,
    topic: &str,
    newest: Option<u64>,
    mut each: impl FnMut(Record) -> bool,
) -> Result<u64, SourceError> {
    let silent = KafkaOptions { instance: None, ..options.clone() };
    // The end is told, also where control records stand at the tail that are never delivered. One topic: the event's partition is enough.
    let mut config = silent.consumer();
    config.set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().map_err(|error| SourceError::Fatal(error.to_string()))?;
    let metadata = consumer.fetch_metadata(Some(topic), ASK_MAX).map_err(passing)?;
    let numbers: Vec<i32> =
        metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
    let (mut list, mut ends) = (TopicPartitionList::with_capacity(numbers.len()), BTreeMap::new());
    for number in numbers {
        let (low, high) = patiently(|| consumer.fetch_watermarks(topic, number, ASK_MAX))?;
        let low = newest.map_or(low, |newest| low.max(high.saturating_sub(i64::try_from(newest).unwrap_or(i64::MAX))));
        if low < high {
            list.add_partition_offset(topic, number, KafkaOffset::Offset(low)).map_err(passing)?;
            ends.insert(number, high);
        }
    }
    consumer.assign(&list).map_err(passing)?;
    drop(list);
    let (mut count, mut moving, mut heard) = (0, None, Instant::now());
    while !ends.is_empty() {
        let Some(message) = consumer.poll(ASK_MAX) else {
            // Half of a topic is not a topic.
            if heard.elapsed() > SILENCE_MAX {
                return Err(passing("the brokers do not answer"));
            }
            continue;
        };
        heard = Instant::now();
        let message = match message {
            Err(KafkaError::PartitionEOF(number)) => {
                ends.remove(&number);
                continue;
            }
            // Its leader moves: librdkafka finds the new one by itself.
            Err(error) if moves(&error) && moving.get_or_insert_with(Instant::now).elapsed() < LEADER_MAX => continue,
            message => message.map_err(passing)?,
        };
        moving = None;
        let number = message.partition();
        let Some(end) = ends.get(&number).copied() else { continue };
        if message.offset() + 1 >= end {
            ends.remove(&number);
        }
        if message.offset() < end {
            count += 1;
            if !each(record(&message, part_of(message.topic(), number))) {
                break;
            }
        }
    }
    Ok(count)
}
