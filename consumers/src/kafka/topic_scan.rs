//! Reads a whole topic once, from its first record to the end that it had at the beginning: for tools. Joins no group, commits nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::record_copy;
use super::scan_consumer::{ScanContext, scan_consumer};
use super::source::partition_of;
use crate::error::SourceError;
use crate::record::{Offset, Record};

/// Longest wait for an answer, and for the next record.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a partition may have no leader before the scan fails, while no record arrives.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the brokers may be silent before the scan fails.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait between two requests to a partition whose leader moves.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn transient(operation: &'static str) -> impl Fn(KafkaError) -> SourceError {
    move |error| SourceError::transient(operation, error)
}

/// A partition has no leader for a moment when one was just elected or moves: the request is repeated.
pub(super) fn with_retry<T>(
    operation: &'static str,
    request: impl Fn() -> Result<T, KafkaError>,
) -> Result<T, SourceError> {
    let until = Instant::now() + REQUEST_TIMEOUT;
    loop {
        match request() {
            Err(error) if is_leader_change(&error) && Instant::now() < until => {
                std::thread::park_timeout(RETRY_INTERVAL)
            }
            answer => return answer.map_err(transient(operation)),
        }
    }
}

pub(super) fn is_leader_change(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

/// A topic whose end is known, to be read once. Records that are appended after [`Self::open`] are not read.
pub struct TopicScan {
    consumer: BaseConsumer<ScanContext>,
    topic: String,
    /// First offset of each partition that the brokers know.
    begins: BTreeMap<u32, Offset>,
    /// First and next offset of each partition that holds something.
    bounds: BTreeMap<i32, (i64, i64)>,
}

/// Reads `topic`, or only the `newest` so many offsets of each partition. `each` returns whether to go on. Returns the number of records
/// that were read, which is 0 when the topic does not exist. Blocks.
///
/// # Errors
/// [`SourceError`] when the brokers do not answer, or when their records cannot be read.
pub fn scan_topic(
    options: &KafkaOptions,
    topic: &str,
    newest: Option<u64>,
    each: impl FnMut(Record) -> bool,
) -> Result<u64, SourceError> {
    TopicScan::open(options, topic, newest)?.run(each)
}

impl TopicScan {
    /// Finds out where each partition begins and ends, or where its `newest` so many offsets begin. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when the brokers do not answer.
    pub fn open(options: &KafkaOptions, topic: &str, newest: Option<u64>) -> Result<Self, SourceError> {
        let consumer = scan_consumer(options, None)?;
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(transient("fetch metadata"))?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let numbers: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        let (mut bounds, mut begins) = (BTreeMap::new(), BTreeMap::new());
        for &number in &numbers {
            let (low, high) =
                with_retry("fetch watermarks", || consumer.fetch_watermarks(topic, number, REQUEST_TIMEOUT))?;
            begins.insert(u32::try_from(number).unwrap_or_default(), Offset::try_from(low).unwrap_or_default());
            let low =
                newest.map_or(low, |newest| low.max(high.saturating_sub(i64::try_from(newest).unwrap_or(i64::MAX))));
            if low < high {
                bounds.insert(number, (low, high));
            }
        }
        Ok(Self { consumer, topic: topic.to_owned(), begins, bounds })
    }

    /// False where the brokers know no such topic, or do not let this user know it.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.begins.is_empty()
    }

    /// Where the log of each partition begins.
    #[must_use]
    pub fn begins(&self) -> &BTreeMap<u32, Offset> {
        &self.begins
    }

    /// Reads to the end. `each` returns whether to go on, and may take its time: meanwhile only what librdkafka fetches in advance is in
    /// memory. Returns the number of records that were read. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when the brokers do not answer, or when their records cannot be read.
    pub fn run(self, mut each: impl FnMut(Record) -> bool) -> Result<u64, SourceError> {
        let Self { consumer, topic, bounds: mut left, .. } = self;
        let mut list = TopicPartitionList::with_capacity(left.len());
        for (number, (low, _)) in &left {
            list.add_partition_offset(&topic, *number, KafkaOffset::Offset(*low))
                .map_err(transient("assign partitions"))?;
        }
        consumer.assign(&list).map_err(transient("assign partitions"))?;
        // A list that is alive when the consumer drops hangs the drop.
        drop(list);
        let (mut count, mut leaderless_since, mut answered_at) = (0, None, Instant::now());
        while !left.is_empty() {
            let Some(message) = consumer.poll(REQUEST_TIMEOUT) else {
                // A part of a topic is not an answer.
                if answered_at.elapsed() > SILENCE_TIMEOUT {
                    return Err(SourceError::transient("read the topic", "the brokers do not answer"));
                }
                continue;
            };
            answered_at = Instant::now();
            let message = match message {
                Err(KafkaError::PartitionEOF(number)) => {
                    left.remove(&number);
                    continue;
                }
                // librdkafka finds the new leader by itself.
                Err(error)
                    if is_leader_change(&error)
                        && leaderless_since.get_or_insert_with(Instant::now).elapsed() < LEADER_TIMEOUT =>
                {
                    continue;
                }
                message => message.map_err(transient("read the topic"))?,
            };
            leaderless_since = None;
            let number = message.partition();
            let Some((_, end)) = left.get(&number).copied() else { continue };
            if message.offset() + 1 >= end {
                left.remove(&number);
            }
            if message.offset() < end {
                count += 1;
                if !each(record_copy::copy(&message, partition_of(message.topic(), number)).0) {
                    break;
                }
                // The brokers were not asked while `each` took its time.
                answered_at = Instant::now();
            }
        }
        Ok(count)
    }
}
