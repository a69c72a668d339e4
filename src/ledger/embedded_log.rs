//! The embedded log: a durable partitioned log in the ledger's own database, and a [`Source`] that reads it.
//!
//! `POST /v1/events` appends to it. An event is appended in one batch with its id, so a repeated request is answered without appending
//! again; the consumer reads durable rows only, through the same dispatch as Kafka's records. Offsets are never used twice: the end of a
//! partition is a row of its own and does not move back when old records are removed.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use orderbell_consumers::{
    EndOffset, Header, Offset, PartitionOffsets, Polled, Record, Source, SourceError, TopicPartition,
};
use orderbell_protocol::UnixMs;

use super::disk::{DatabaseError, Disk, DiskError, Row, Table, View};
use super::effects::NewEvent;
use super::keys;

/// Name of the one topic.
pub const TOPIC: &str = "orderbell.events";
/// Its partitions: fixed, since a key's partition decides its order.
pub const PARTITIONS: u32 = 4;
/// Name of the cluster that checkpoints are kept under.
pub const CLUSTER: &str = "embedded";

pub(crate) fn partition_of(key: &[u8]) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(key) % u64::from(PARTITIONS)) as u32
}

/// Records of a partition.
fn records(view: &View<'_>, part: u32) -> impl DoubleEndedIterator<Item = Result<Row, DatabaseError>> + use<> {
    view.rows(Table::EventLog, &keys::log_record(part, 0), &keys::log_record(part, Offset::MAX))
}

/// The next offset of a partition. Where its row is damaged, the records say it, or what is known of those that were removed: they were below
/// both the first offset that is still held and the checkpoint. The next append writes the row again.
pub(crate) fn end(view: &View<'_>, part: u32) -> Result<Offset, DatabaseError> {
    if let Some(end) = view.pass_over(view.number(&keys::log_end(part)))? {
        return Ok(end.unwrap_or(0));
    }
    let newest = records(view, part).next_back().transpose()?;
    let newest = newest.map(|(key, _)| view.pass_over(offset_of(&key))).transpose()?.flatten();
    let consumed = checkpoint(view, part)?.unwrap_or(0);
    Ok(newest.map_or(0, |newest| newest + 1).max(start(view, part)?).max(consumed))
}

/// The first offset that a partition still holds. Where its row is damaged, the first record says it.
pub(crate) fn start(view: &View<'_>, part: u32) -> Result<Offset, DatabaseError> {
    if let Some(start) = view.pass_over(view.number(&keys::log_start(part)))? {
        return Ok(start.unwrap_or(0));
    }
    let first = records(view, part).next().transpose()?;
    Ok(first.map(|(key, _)| view.pass_over(offset_of(&key))).transpose()?.flatten().unwrap_or(0))
}

/// Up to where a partition has been consumed; none when that row is damaged.
pub(crate) fn checkpoint(view: &View<'_>, part: u32) -> Result<Option<Offset>, DatabaseError> {
    let key = keys::checkpoint(CLUSTER, &TopicPartition::new(TOPIC, part));
    let stored = view.pass_over(view.decoded(Table::Meta, &key, "a checkpoint", super::checkpoints::decode))?;
    Ok(stored.map(|stored| stored.map_or(0, |checkpoint| checkpoint.next)))
}

/// The offset that a record's key ends with.
pub(crate) fn offset_of(key: &[u8]) -> Result<Offset, DiskError> {
    keys::trailing_number(Table::EventLog, key)
}

/// A record as bytes: time, key length, key, length of the media type and the headers behind it, media type, headers, value. In front of each header
/// are a NUL, which no media type has, and the lengths of its name and value.
pub(crate) fn encode(event: &NewEvent, now: UnixMs) -> Vec<u8> {
    let mut row = Vec::with_capacity(16 + event.key.len() + event.content_type.len() + event.value.len());
    row.extend(now.0.to_be_bytes());
    row.extend((event.key.len() as u32).to_be_bytes());
    row.extend_from_slice(&event.key);
    let of_headers = event.headers.iter().map(|(name, value)| 9 + name.len() + value.len()).sum::<usize>();
    row.extend(((event.content_type.len() + of_headers) as u32).to_be_bytes());
    row.extend_from_slice(event.content_type.as_bytes());
    for (name, value) in &event.headers {
        row.push(0);
        row.extend((name.len() as u32).to_be_bytes());
        row.extend((value.len() as u32).to_be_bytes());
        row.extend_from_slice(name.as_bytes());
        row.extend_from_slice(value);
    }
    row.extend_from_slice(&event.value);
    row
}

/// The time of [`encode`]d bytes that were read with their key. Milliseconds since 1970.
pub(crate) fn timestamp(key: &[u8], row: &[u8]) -> Result<i64, DiskError> {
    let at = row.first_chunk::<8>().ok_or_else(|| DiskError::damaged(Table::EventLog, key, "a record"))?;
    Ok(i64::from_be_bytes(*at))
}

/// What [`encode`] made bytes of.
pub(crate) struct LogFields {
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Bytes,
    /// The media type first.
    pub(crate) headers: Vec<Header>,
    pub(crate) value: Bytes,
}

/// What [`encode`]d bytes say.
pub(crate) fn fields(row: &Bytes) -> Option<LogFields> {
    let field = |at: usize| {
        let end = at.checked_add(4)?.checked_add(length(row, at)?)?;
        (end <= row.len()).then(|| row.slice(at + 4..end))
    };
    let timestamp_ms = i64::from_be_bytes(*row.first_chunk::<8>()?);
    let key = field(8)?;
    let with_headers = field(12 + key.len())?;
    let value = row.slice(16 + key.len() + with_headers.len()..);
    Some(LogFields { timestamp_ms, key, headers: headers(&with_headers)?, value })
}

fn length(bytes: &Bytes, at: usize) -> Option<usize> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize)
}

/// The media type and the headers behind it.
fn headers(bytes: &Bytes) -> Option<Vec<Header>> {
    let mut at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut headers = vec![(String::from("content-type"), Some(bytes.slice(..at)))];
    while at < bytes.len() {
        let name_at = at + 9;
        let value_at = name_at.checked_add(length(bytes, at + 1)?)?;
        at = value_at.checked_add(length(bytes, at + 5)?)?;
        let name = std::str::from_utf8(bytes.get(name_at..value_at)?).ok()?.to_owned();
        let _is_whole = bytes.get(value_at..at)?;
        headers.push((name, Some(bytes.slice(value_at..at))));
    }
    Some(headers)
}

pub(super) fn decode(part: &TopicPartition, offset: Offset, row: Vec<u8>) -> Option<Record> {
    let LogFields { timestamp_ms, key, headers, value } = fields(&Bytes::from(row))?;
    Some(Record {
        partition: part.clone(),
        offset,
        timestamp_ms,
        read_ms: super::committer::now().0,
        key: Some(key),
        value: Some(value),
        headers: headers.into(),
    })
}

/// Wakes a waiting source when the log has grown, or when it must not wait any longer.
#[derive(Default)]
pub(crate) struct GrowthSignal {
    grown: Mutex<bool>,
    woken: Condvar,
}

impl Wake for GrowthSignal {
    fn wake(self: Arc<Self>) {
        self.notify();
    }
}

impl GrowthSignal {
    pub(crate) fn notify(&self) {
        *self.grown.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_all();
    }

    fn wait(&self, at_most: Duration) {
        let grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut grown, _) =
            self.woken.wait_timeout_while(grown, at_most, |grown| !*grown).unwrap_or_else(PoisonError::into_inner);
        *grown = false;
    }
}

/// Reads the embedded log, as a source of records.
pub struct EmbeddedLogSource {
    disk: Arc<Disk>,
    growth: Arc<GrowthSignal>,
    reading: BTreeMap<u32, ReadPosition>,
    assigned: bool,
    first: u32,
}

/// Where a partition is read next.
struct ReadPosition {
    part: TopicPartition,
    next: Offset,
    paused: bool,
}

fn transient(error: DiskError) -> SourceError {
    SourceError::transient("read the embedded stream", error)
}

impl EmbeddedLogSource {
    pub(crate) fn new(disk: Arc<Disk>, growth: Arc<GrowthSignal>) -> Self {
        Self { disk, growth, reading: BTreeMap::new(), assigned: false, first: 0 }
    }

    fn deliver(&mut self, max: usize, out: &mut Vec<Polled>) -> Result<(), DiskError> {
        let view = self.disk.view();
        let mut left = max;
        // Another partition comes first each time: with a backlog in all of them, none waits for the end of another.
        self.first = (self.first + 1) % PARTITIONS;
        let first = self.first;
        let order = (0..PARTITIONS).map(|nth| (first + nth) % PARTITIONS);
        for number in order {
            let Some(position) = self.reading.get_mut(&number) else { continue };
            if position.paused || left == 0 {
                continue;
            }
            let end = end(&view, number)?;
            let (from, to) = (keys::log_record(number, position.next), keys::log_record(number, end));
            if from >= to {
                continue;
            }
            for row in view.rows(Table::EventLog, &from, &to).take(left) {
                let (key, row) = row?;
                let offset = offset_of(&key)?;
                left -= 1;
                position.next = offset + 1;
                match decode(&position.part, offset, row) {
                    Some(record) => out.push(Polled::Record(record)),
                    None => {
                        out.push(Polled::Damaged(position.part.clone(), offset));
                        position.paused = true;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn offsets(view: &View<'_>, part: u32, since_ms: i64) -> Result<PartitionOffsets, DiskError> {
    let (start, end) = (start(view, part)?, end(view, part)?);
    let (from, to) = (keys::log_record(part, start), keys::log_record(part, end));
    let mut by_time = end;
    if from < to {
        for row in view.rows(Table::EventLog, &from, &to) {
            let (key, row) = row?;
            if view.pass_over(timestamp(&key, &row))?.is_some_and(|at| at >= since_ms) {
                by_time = offset_of(&key)?;
                break;
            }
        }
    }
    Ok(PartitionOffsets { start, end, by_time, committed: None })
}

impl Source for EmbeddedLogSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        if !std::mem::replace(&mut self.assigned, true) {
            out.push(Polled::Assigned((0..PARTITIONS).map(|number| TopicPartition::new(TOPIC, number)).collect()));
            return Ok(());
        }
        self.deliver(max, out).map_err(transient)?;
        if out.is_empty() {
            self.growth.wait(wait);
            self.deliver(max, out).map_err(transient)?;
        }
        Ok(())
    }

    fn offsets(&mut self, parts: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>> {
        let view = self.disk.view();
        parts.iter().map(|part| offsets(&view, part.number, since_ms).map_err(transient)).collect()
    }

    fn assign(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), SourceError> {
        for (part, next) in at {
            self.reading.insert(part.number, ReadPosition { part: part.clone(), next: *next, paused: false });
        }
        Ok(())
    }

    fn unassign(&mut self, parts: &[TopicPartition]) -> Result<(), SourceError> {
        self.reading.retain(|number, _| !parts.iter().any(|part| part.number == *number));
        Ok(())
    }

    fn pause(&mut self, parts: &[TopicPartition], paused: bool) -> Result<(), SourceError> {
        for part in parts {
            if let Some(position) = self.reading.get_mut(&part.number) {
                position.paused = paused;
            }
        }
        Ok(())
    }

    /// Nobody else keeps a position in this log: the checkpoint row is the position.
    fn checkpointed(&mut self, _at: &[(TopicPartition, Offset)]) {}

    fn end_offsets(&mut self) -> Vec<(TopicPartition, EndOffset)> {
        let view = self.disk.view();
        let at_ms = super::committer::now().0;
        // An error here is no end, so no freshness; the next poll reports it.
        let end_of = |position: &ReadPosition| {
            let next = end(&view, position.part.number).ok()?;
            Some((position.part.clone(), EndOffset { next, at_ms, delivered: false, open_transaction: None }))
        };
        self.reading.values().filter_map(end_of).collect()
    }

    fn waker(&self) -> Option<Waker> {
        Some(self.growth.clone().into())
    }

    fn cluster(&self) -> String {
        CLUSTER.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the log kept no header but the media type, so whatever else an event was read by stood in its value, where anybody could write it.
    #[test]
    fn an_event_comes_back_with_its_headers_and_a_damaged_one_not_at_all() {
        let of = |headers: &[(&str, &'static [u8])]| NewEvent {
            key: Bytes::from_static(b"o1"),
            id_hash: 1,
            body_hash: 1,
            value: Bytes::from_static(b"{}"),
            content_type: "application/json".into(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value))).collect(),
        };
        let back = |event: &NewEvent| decode(&TopicPartition::new(TOPIC, 0), 7, encode(event, UnixMs(5)));
        let cases: [&[(&str, &[u8])]; 3] =
            [&[], &[("x-topic", b"paid")], &[("a", b""), ("b", b"\0\xff\0"), ("", b"c")]];
        for headers in cases {
            let event = of(headers);
            let record = back(&event).unwrap();
            let media = ("content-type".to_owned(), Some(Bytes::from_static(b"application/json")));
            let more = event.headers.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
            assert_eq!(record.headers.to_vec(), std::iter::once(media).chain(more).collect::<Vec<_>>());
            assert_eq!((record.timestamp_ms, record.key, record.value), (5, Some(event.key), Some(event.value)));
        }
        let row = encode(&of(&[("x-topic", b"paid")]), UnixMs(5));
        // Behind the media type: where the lengths of name and value are.
        let at = 18 + "application/json".len();
        for (damaged, byte) in [(at + 1, 0xff), (at + 4, 12), (at + 5, 0xff), (at + 8, 5)] {
            let mut row = row.clone();
            row[damaged] = byte;
            assert!(decode(&TopicPartition::new(TOPIC, 0), 7, row).is_none(), "{damaged}");
        }
    }
}
