//! The offsets of many partitions in a fixed number of calls.
//!
//! rdkafka 0.39 does not expose librdkafka's admin call for offsets, and its `fetch_watermarks` takes one partition and sends two requests for
//! it. But `offsets_for_times` hands its times through to the protocol's own request, which knows two that are no times: -2 is the first
//! offset, -1 the next one to be written (with `read_committed`, the end of what is decided), the same that `fetch_watermarks` asks for. A
//! request must not name a partition twice, so there are three: first, end, and by time; then one for what the group committed. librdkafka
//! sends each to every broker that leads one of the partitions, all at once.
//!
//! Such a call fails as a whole when one partition does, without telling which: [`one_by_one`] is for then. A broker that cannot read a batch
//! of a partition answers first and end, and fails by time: such a partition starts at its first record, where the damage is found and named.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::source::{REQUEST_TIMEOUT, number, offset, transient};
use crate::error::SourceError;
use crate::record::{Offset, TopicPartition};
use crate::traits::PartitionOffsets;

/// How long partitions are asked one after another. Those whose turn does not come are asked again later.
const ONE_BY_ONE_TIMEOUT: Duration = Duration::from_secs(15);

/// The answers to one request; partitions without an offset are left out.
#[derive(Clone)]
struct Answers(HashMap<(String, i32), KafkaOffset>);

impl Answers {
    fn of(&self, partition: &TopicPartition) -> Option<Offset> {
        match self.0.get(&(partition.topic.to_string(), number(partition))) {
            Some(KafkaOffset::Offset(at)) => offset(*at),
            _ => None,
        }
    }
}

/// True when a broker failed at the records themselves: it reads them to search by time, and cannot when a batch does not unpack.
fn is_unreadable(error: &SourceError) -> bool {
    let SourceError::Transient { source, .. } = error else { return false };
    let code = source.downcast_ref().and_then(KafkaError::rdkafka_error_code);
    matches!(code, Some(RDKafkaErrorCode::Unknown | RDKafkaErrorCode::InvalidMessage))
}

/// One request about all partitions. Its list lives no longer than the call.
fn ask(
    operation: &'static str,
    partitions: &[TopicPartition],
    at: KafkaOffset,
    request: impl FnOnce(TopicPartitionList) -> Result<TopicPartitionList, KafkaError>,
) -> Result<Answers, SourceError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(&partition.topic, number(partition), at).map_err(transient(operation))?;
    }
    Ok(Answers(request(list).map_err(transient(operation))?.to_topic_map()))
}

/// The offsets of all partitions, in the same order: four calls, whatever their number.
pub(super) fn all<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[TopicPartition],
    since_ms: i64,
) -> Result<Vec<PartitionOffsets>, SourceError> {
    let by_time = |list| consumer.offsets_for_times(list, REQUEST_TIMEOUT);
    let starts = ask("fetch first offsets", partitions, KafkaOffset::Beginning, by_time)?;
    let ends = ask("fetch end offsets", partitions, KafkaOffset::End, by_time)?;
    let times = ask("fetch offsets by time", partitions, KafkaOffset::Offset(since_ms.max(0)), by_time);
    let times = match times {
        // Only one partition can be meant.
        Err(error) if partitions.len() == 1 && is_unreadable(&error) => {
            tracing::warn!(%error, partition = %partitions[0], "the broker cannot search by time, so its first record counts: is the partition damaged?");
            starts.clone()
        }
        times => times?,
    };
    let committed = ask("fetch committed offsets", partitions, KafkaOffset::Invalid, |list| {
        consumer.committed_offsets(list, REQUEST_TIMEOUT)
    })?;
    let missing = |operation| SourceError::transient(operation, "the broker gave none");
    let offsets = |partition| {
        let start = starts.of(partition).ok_or_else(|| missing("fetch first offsets"))?;
        let end = ends.of(partition).ok_or_else(|| missing("fetch end offsets"))?;
        // On an idle topic the answer is "the end": the one that was read first.
        let by_time = times.of(partition).unwrap_or(end);
        Ok(PartitionOffsets { start, end, by_time, committed: committed.of(partition) })
    };
    partitions.iter().map(offsets).collect()
}

/// The offsets of each partition that answers, in the same order.
pub(super) fn one_by_one<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[TopicPartition],
    since_ms: i64,
) -> Vec<Result<PartitionOffsets, SourceError>> {
    let until = Instant::now() + ONE_BY_ONE_TIMEOUT;
    let ask = |partition: &TopicPartition| {
        if Instant::now() >= until {
            return Err(SourceError::transient("fetch offsets", "other partitions did not answer in time"));
        }
        let mut one = all(consumer, std::slice::from_ref(partition), since_ms)?;
        one.pop().ok_or_else(|| SourceError::transient("fetch offsets", "no answer"))
    };
    partitions.iter().map(ask).collect()
}
