//! Reads single records by their place: for tools. Joins no group, commits nothing.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::record_copy;
use super::scan_consumer::{ScanContext, scan_consumer};
use super::source::{number, partition_of, raw};
use super::topic_scan::{REQUEST_TIMEOUT, is_leader_change, transient, with_retry};
use crate::error::SourceError;
use crate::record::{Offset, Record, TopicPartition};

/// How long one record may take, from the request to its arrival.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const OPERATION: &str = "read a record";

/// Reads single records. It starts each read at the record's own offset, so its cost does not depend on the size of the topic.
pub struct RecordReader {
    consumer: BaseConsumer<ScanContext>,
}

impl RecordReader {
    /// A reader. It connects with the first read.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn new(options: &KafkaOptions) -> Result<Self, SourceError> {
        // Nothing is fetched in advance, beyond the batches of the first answer.
        Ok(Self { consumer: scan_consumer(options, Some(1))? })
    }

    /// The record at this offset. `None` when the topic holds none there: it has no such partition, the record was deleted or is still to
    /// come, or the offset is that of a control record. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when the brokers do not answer, or when the record cannot be read.
    pub fn read(&self, partition: &TopicPartition, at: Offset) -> Result<Option<Record>, SourceError> {
        let topic = &*partition.topic;
        let metadata =
            self.consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(transient("fetch metadata"))?;
        let mut numbers = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|known| known.id());
        if !numbers.any(|known| known == number(partition)) {
            return Ok(None);
        }
        let watermarks = with_retry("fetch watermarks", || {
            self.consumer.fetch_watermarks(topic, number(partition), REQUEST_TIMEOUT)
        });
        let (low, high) = watermarks?;
        if !i64::try_from(at).is_ok_and(|at| (low..high).contains(&at)) {
            return Ok(None);
        }
        self.assign(partition, raw(at))?;
        let found = self.await_record(partition, at);
        // The next read must not wait for what this one asked for.
        self.consumer.unassign().map_err(transient(OPERATION))?;
        found
    }

    fn assign(&self, partition: &TopicPartition, at: KafkaOffset) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&partition.topic, number(partition), at).map_err(transient(OPERATION))?;
        self.consumer.assign(&list).map_err(transient(OPERATION))
    }

    /// The first thing that arrives tells: the record itself, a later one, or the end.
    fn await_record(&self, partition: &TopicPartition, at: Offset) -> Result<Option<Record>, SourceError> {
        let until = Instant::now() + READ_TIMEOUT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.consumer.poll(left) {
                None => {}
                Some(Ok(message)) => {
                    let from = partition_of(message.topic(), message.partition());
                    let found = from == *partition && i64::try_from(at) == Ok(message.offset());
                    return Ok(found.then(|| record_copy::copy(&message, from).0));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                // Deleted since the watermarks were read.
                Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => {
                    return Ok(None);
                }
                // librdkafka finds the new leader by itself.
                Some(Err(error)) if is_leader_change(&error) => {}
                Some(Err(error)) => return Err(SourceError::transient(OPERATION, error)),
            }
        }
        Err(SourceError::transient(OPERATION, "the brokers do not answer"))
    }
}
