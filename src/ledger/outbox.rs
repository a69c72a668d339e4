//! The outbox: events that Orderbell will tell the world, durable in the batch of their cause.
//!
//! On Kafka an event waits here until the output topic has it; the emitter reads rows in order and takes away what was acknowledged. A row
//! that was sent and not taken away before a crash is sent again, with the same event id. On the embedded stream nothing waits: the stream
//! is in the same database, so the event is appended in the very batch.

use orderbell_consumers::OutRecord;

use super::disk::{DiskError, Space, View};
use super::{keys, stream};

/// Where emitted events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// Into the embedded stream, at once.
    Stream,
    /// Into the outbox, until somebody has taken them to the output topic.
    Outbox,
}

/// An event that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its number; grows.
    pub number: u64,
    /// What is to be sent.
    pub record: OutRecord,
}

/// The oldest rows, at most `max`.
pub(crate) fn oldest(view: &View<'_>, max: usize) -> Result<Vec<Waiting>, DiskError> {
    let rows = view.rows(Space::Meta, &keys::outbox(0), &keys::outbox(u64::MAX)).take(max);
    let mut waiting = Vec::new();
    for row in rows {
        let (key, row) = row?;
        let number = key.last_chunk::<8>().map_or(0, |number| u64::from_be_bytes(*number));
        if let Some((timestamp_ms, key, content_type, value)) = stream::parts(&row.into()) {
            let headers = vec![(String::from("content-type"), Some(content_type))];
            waiting.push(Waiting { number, record: OutRecord { key: Some(key), value, headers, timestamp_ms } });
        }
    }
    Ok(waiting)
}

/// The number after the newest row.
pub(crate) fn next(view: &View<'_>) -> Result<u64, DiskError> {
    let newest = view.rows(Space::Meta, &keys::outbox(0), &keys::outbox(u64::MAX)).next_back().transpose()?;
    Ok(newest.and_then(|(key, _)| key.last_chunk::<8>().copied()).map_or(0, |number| u64::from_be_bytes(number) + 1))
}
