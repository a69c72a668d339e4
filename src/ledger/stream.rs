//! The embedded stream: a durable partitioned log in the ledger's own database, and a [`Source`] that reads it.
//!
//! It is fed by `POST /v1/events`. An event is appended in one batch with its id, so a repeated request is answered without appending
//! again; the consumer reads durable rows only, through the same dispatch as Kafka's records. Offsets are never used twice: the end of a
//! partition is a row of its own and does not move back when old records go.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use orderbell_consumers::{Held, LogEnd, Offset, Part, Polled, Record, Source, SourceError, Waker};
use orderbell_protocol::UnixMs;

use super::disk::{Disk, DiskError, Space, View};
use super::effects::Incoming;
use super::keys;

/// Name of the one topic.
pub const TOPIC: &str = "orderbell.events";
/// Its partitions: fixed, since a key's partition decides its order.
pub const PARTITIONS: u32 = 4;
/// Name of the cluster that frontiers are kept under.
pub const CLUSTER: &str = "embedded";

/// The partition of a key.
pub(crate) fn partition_of(key: &[u8]) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(key) % u64::from(PARTITIONS)) as u32
}

fn number(view: &View<'_>, key: &[u8]) -> Result<u64, DiskError> {
    Ok(view.row(Space::Meta, key)?.and_then(|row| row.first_chunk::<8>().copied()).map_or(0, u64::from_be_bytes))
}

pub(crate) fn end(view: &View<'_>, part: u32) -> Result<Offset, DiskError> {
    number(view, &keys::stream_end(part))
}

pub(crate) fn start(view: &View<'_>, part: u32) -> Result<Offset, DiskError> {
    number(view, &keys::stream_start(part))
}

pub(crate) fn frontier(view: &View<'_>, part: u32) -> Result<Offset, DiskError> {
    number(view, &keys::frontier(CLUSTER, &Part::new(TOPIC, part)))
}

/// A record as bytes: time, key length, key, media type's length, media type, value.
pub(crate) fn encode(event: &Incoming, now: UnixMs) -> Vec<u8> {
    let mut row = Vec::with_capacity(16 + event.key.len() + event.content_type.len() + event.value.len());
    row.extend(now.0.to_be_bytes());
    row.extend((event.key.len() as u32).to_be_bytes());
    row.extend_from_slice(&event.key);
    row.extend((event.content_type.len() as u32).to_be_bytes());
    row.extend_from_slice(event.content_type.as_bytes());
    row.extend_from_slice(&event.value);
    row
}

pub(crate) fn timestamp(row: &[u8]) -> i64 {
    row.first_chunk::<8>().map_or(0, |at| i64::from_be_bytes(*at))
}

/// Time, key, media type and value of [`encode`]d bytes.
pub(crate) fn parts(row: &Bytes) -> Option<(i64, Bytes, Bytes, Bytes)> {
    let field = |at: usize| {
        let len = u32::from_be_bytes(row.get(at..at + 4)?.try_into().ok()?) as usize;
        let end = at + 4 + len;
        (end <= row.len()).then(|| row.slice(at + 4..end))
    };
    let key = field(8)?;
    let content_type = field(12 + key.len())?;
    let value = row.slice(16 + key.len() + content_type.len()..);
    Some((timestamp(row), key, content_type, value))
}

pub(super) fn decode(part: &Part, offset: Offset, row: Vec<u8>) -> Option<Record> {
    let (timestamp_ms, key, content_type, value) = parts(&Bytes::from(row))?;
    Some(Record {
        part: part.clone(),
        offset,
        timestamp_ms,
        read_ms: super::committer::now().0,
        key: Some(key),
        value: Some(value),
        headers: vec![(String::from("content-type"), Some(content_type))],
    })
}

/// Tells a waiting source that the stream has grown.
#[derive(Default)]
pub(crate) struct Growth {
    grown: Mutex<bool>,
    woken: Condvar,
}

impl Growth {
    pub(crate) fn wake(&self) {
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

/// The consumer of the embedded stream.
pub struct StreamSource {
    disk: Arc<Disk>,
    growth: Arc<Growth>,
    at: BTreeMap<u32, Place>,
    assigned: bool,
    first: u32,
}

struct Place {
    part: Part,
    next: Offset,
    paused: bool,
}

fn passing(error: DiskError) -> SourceError {
    SourceError::Passing(error.to_string())
}

impl StreamSource {
    pub(crate) fn new(disk: Arc<Disk>, growth: Arc<Growth>) -> Self {
        Self { disk, growth, at: BTreeMap::new(), assigned: false, first: 0 }
    }

    fn deliver(&mut self, max: usize, out: &mut Vec<Polled>) -> Result<(), DiskError> {
        let view = self.disk.view();
        let mut left = max;
        // Another partition goes first each time: under a backlog none waits for the end of another.
        self.first = (self.first + 1) % PARTITIONS;
        let first = self.first;
        let order = (0..PARTITIONS).map(|nth| (first + nth) % PARTITIONS);
        for number in order {
            let Some(place) = self.at.get_mut(&number) else { continue };
            if place.paused || left == 0 {
                continue;
            }
            let end = end(&view, number)?;
            let (from, to) = (keys::stream(number, place.next), keys::stream(number, end));
            if from >= to {
                continue;
            }
            for row in view.rows(Space::Stream, &from, &to).take(left) {
                let (key, row) = row?;
                let offset = key.last_chunk::<8>().map_or(0, |offset| u64::from_be_bytes(*offset));
                left -= 1;
                place.next = offset + 1;
                match decode(&place.part, offset, row) {
                    Some(record) => out.push(Polled::Record(record)),
                    None => {
                        out.push(Polled::Damaged(place.part.clone(), offset));
                        place.paused = true;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Source for StreamSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        if !std::mem::replace(&mut self.assigned, true) {
            out.push(Polled::Assigned((0..PARTITIONS).map(|number| Part::new(TOPIC, number)).collect()));
            return Ok(());
        }
        self.deliver(max, out).map_err(passing)?;
        if out.is_empty() {
            self.growth.wait(wait);
            self.deliver(max, out).map_err(passing)?;
        }
        Ok(())
    }

    fn held(&mut self, part: &Part, since_ms: i64) -> Result<Held, SourceError> {
        let view = self.disk.view();
        let (start, end) = (start(&view, part.number).map_err(passing)?, end(&view, part.number).map_err(passing)?);
        let (from, to) = (keys::stream(part.number, start), keys::stream(part.number, end));
        let mut by_time = end;
        if from < to {
            for row in view.rows(Space::Stream, &from, &to) {
                let (key, row) = row.map_err(passing)?;
                if timestamp(&row) >= since_ms {
                    by_time = key.last_chunk::<8>().map_or(end, |offset| u64::from_be_bytes(*offset));
                    break;
                }
            }
        }
        Ok(Held { start, end, by_time, committed: None })
    }

    fn place(&mut self, at: &[(Part, Offset)]) -> Result<(), SourceError> {
        for (part, next) in at {
            self.at.insert(part.number, Place { part: part.clone(), next: *next, paused: false });
        }
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), SourceError> {
        self.at.retain(|number, _| !parts.iter().any(|part| part.number == *number));
        Ok(())
    }

    fn pause(&mut self, parts: &[Part], paused: bool) -> Result<(), SourceError> {
        for part in parts {
            if let Some(place) = self.at.get_mut(&part.number) {
                place.paused = paused;
            }
        }
        Ok(())
    }

    /// Nobody else keeps a position of this stream: the frontier row is the position.
    fn saved(&mut self, _at: &[(Part, Offset)]) {}

    fn ends(&mut self) -> Vec<(Part, LogEnd)> {
        let view = self.disk.view();
        let at_ms = super::committer::now().0;
        let known = |place: &Place| {
            let next = end(&view, place.part.number).ok()?;
            Some((place.part.clone(), LogEnd { next, at_ms, delivered: false }))
        };
        self.at.values().filter_map(known).collect()
    }

    fn waker(&self) -> Option<Waker> {
        let growth = self.growth.clone();
        Some(Arc::new(move || growth.wake()))
    }

    fn cluster(&self) -> String {
        CLUSTER.into()
    }
}
