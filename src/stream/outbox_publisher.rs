//! Publishes the outbox to the output topic: in sequence within an order, many orders at once, with unlimited retries.
//!
//! The oldest event of every order is in flight; the next one of an order is sent only after the one before it was acknowledged and deleted
//! from the outbox, whatever fails in between. A partition that accepts nothing delays its own orders alone. An event that cannot be sent stays
//! in the outbox, with an alert; one that the topic rejects for good becomes a dead letter, so that nothing behind it is blocked.
//!
//! The publisher keeps its place in memory and reads only what is new behind it, in small reads on a blocking thread: the cost of a round
//! follows what it publishes, not what waits. A restart begins with the oldest entry that is still in the outbox.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use orderbell_consumers::stats::Count;
use orderbell_consumers::{DeadLetter, Reason, Record, Sink, SinkError, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{NOT_PUBLISHED, RecordPlace};
use tokio_util::sync::CancellationToken;

use super::outbox_backlog::OutboxBacklog;
use crate::clock::wall_clock;
use orderbell_ledger::crash;
use orderbell_ledger::{BinNote, DatabaseError, Ledger, LedgerFailed, OutboxEntry};

/// Entries read at a time: little enough for sends and acknowledgements to go on in between.
const MAX_READ: usize = 256;
/// Events in flight at once.
const MAX_IN_FLIGHT: usize = 1_024;
/// First and longest back-off of an order after a failed send.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An event that waits for longer than this raises an alert. Milliseconds.
const BLOCKED_AFTER_MS: i64 = 10_000;
/// Interval of reading the outbox without a notification, and after an error.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The outbox, as the publisher reads it.
pub trait OutboxReader: Send + Sync + 'static {
    /// The oldest entries from number `from` on, at most `max`. Blocks.
    ///
    /// # Errors
    /// When the outbox cannot be read.
    fn entries(&self, from: u64, max: usize) -> Result<Vec<OutboxEntry>, DatabaseError>;
}

impl OutboxReader for Ledger {
    fn entries(&self, from: u64, max: usize) -> Result<Vec<OutboxEntry>, DatabaseError> {
        self.outbox().pending(from, max)
    }
}

/// Counters of the outbox publisher.
#[derive(Debug, Default)]
pub struct PublisherStats {
    /// Events acknowledged by the output topic.
    pub published: Count,
    /// Failed sends, which are retried.
    pub failed: Count,
    /// Events in the outbox, as far as the publisher reads ahead.
    pub pending: Count,
    blocked: Mutex<Option<String>>,
}

impl PublisherStats {
    /// The detail of the alert `outbox_blocked`, if it is raised.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_blocked(&self, detail: Option<String>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = detail;
    }
}

/// An event in flight, and the result of sending it.
type Sending = Pin<Box<dyn Future<Output = (OutboxEntry, Result<(), SinkError>)> + Send>>;

/// The publisher's state: what it has read, and which events are in flight.
struct Publisher<S, R> {
    ledger: Arc<Ledger>,
    reader: Arc<R>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<PublisherStats>,
    observer: Arc<dyn RefusedEventObserver>,
    sending: FuturesUnordered<Sending>,
    backlog: OutboxBacklog,
    /// When the outbox is read next; now when it has grown.
    read_at: Instant,
    /// Why the last read failed.
    unreadable: Option<String>,
    /// Why the last send failed.
    unsent: Option<String>,
    back_off: Duration,
}

/// Sees each event that becomes a dead letter here.
pub trait RefusedEventObserver: Send + Sync + 'static {
    /// The topic takes the record never, for this reason. Reports it as a shard reports its dead letters
    /// ([`orderbell_consumers::report_dead_letter`]). Returns its bin of the balance, if it may be a paid order.
    fn refused(&self, record: &Record, reason: &Reason) -> Option<BinNote>;
}

/// Why the outbox could not be read. It is tried again.
#[derive(Debug, thiserror::Error)]
enum OutboxReadError {
    #[error("the outbox cannot be read: {0}")]
    Database(#[from] DatabaseError),
    #[error("reading the outbox did not finish: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The detail of the alert about an event that has waited for `since_ms`, with why it was not sent; none while that is no time.
fn waits_too_long(since_ms: i64, why: Option<&str>) -> Option<String> {
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let seconds = since_ms / 1000;
    (since_ms > BLOCKED_AFTER_MS)
        .then(|| format!("the oldest event has waited for {seconds} s for the output topic{why}"))
}

/// Publishes until `stop` is cancelled. `topic` names the output topic in dead letters.
pub async fn publish<S: Sink>(
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<PublisherStats>,
    observer: Arc<dyn RefusedEventObserver>,
    stop: CancellationToken,
) {
    publish_from(ledger.clone(), ledger, sink, topic, stats, observer, stop).await;
}

/// [`publish`] with a reader of its own.
async fn publish_from<R: OutboxReader, S: Sink>(
    reader: Arc<R>,
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<PublisherStats>,
    observer: Arc<dyn RefusedEventObserver>,
    stop: CancellationToken,
) {
    let mut publisher = Publisher {
        ledger: ledger.clone(),
        reader,
        sink,
        topic,
        stats,
        observer,
        sending: FuturesUnordered::new(),
        backlog: OutboxBacklog::default(),
        read_at: Instant::now(),
        unreadable: None,
        unsent: None,
        back_off: BACK_OFF.0,
    };
    loop {
        publisher.read().await;
        let wait = publisher.send_next();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(answer) = publisher.sending.next() => {
                if publisher.complete(answer).await.is_err() {
                    return;
                }
            }
            () = ledger.outbox().wait_for_growth() => publisher.read_at = Instant::now(),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl<S: Sink, R: OutboxReader> Publisher<S, R> {
    /// Reads some entries behind the place, when the outbox has grown or was not read for a while, and when there is room.
    async fn read(&mut self) {
        let max = self.backlog.room().min(MAX_READ);
        if max == 0 || Instant::now() < self.read_at {
            return;
        }
        let (reader, from) = (self.reader.clone(), self.backlog.next_number());
        let read = tokio::task::spawn_blocking(move || reader.entries(from, max)).await;
        let entries = read.map_err(OutboxReadError::from).and_then(|read| Ok(read?));
        // A full read may have left some behind.
        let has_more = entries.as_ref().is_ok_and(|entries| entries.len() == max);
        self.read_at = if has_more { Instant::now() } else { Instant::now() + READ_INTERVAL };
        match entries {
            Ok(entries) => {
                self.unreadable = None;
                self.backlog.extend(entries);
            }
            Err(error) => {
                tracing::error!(%error, "the outbox is read again later");
                self.unreadable = Some(error.to_string());
            }
        }
    }

    /// Sends the oldest event of every key that has none in flight. Returns the longest time to wait until the next call.
    fn send_next(&mut self) -> Duration {
        let now = Instant::now();
        while self.sending.len() < MAX_IN_FLIGHT
            && let Some(entry) = self.backlog.next(now)
        {
            crash::point("publish");
            let sink = self.sink.clone();
            self.sending.push(Box::pin(async move {
                let answer = sink.send(&entry.record).await;
                (entry, answer)
            }));
        }
        self.report(wall_clock());
        // Without room an acknowledgement comes first.
        let read_at = (self.backlog.room() > 0).then_some(self.read_at);
        let next = read_at.into_iter().chain(self.backlog.first_due()).min();
        next.map_or(READ_INTERVAL, |at| at.saturating_duration_since(now).min(READ_INTERVAL))
    }

    fn report(&self, at: UnixMs) {
        self.stats.pending.set(self.backlog.len() as u64);
        let since_ms = self.backlog.oldest_ms().map_or(0, |oldest| at.0 - oldest);
        let waits = waits_too_long(since_ms, self.unsent.as_deref());
        self.stats.set_blocked(self.unreadable.clone().or(waits));
    }

    /// Handles this result and all others that are ready, and deletes the acknowledged events from the outbox.
    async fn complete(&mut self, first: (OutboxEntry, Result<(), SinkError>)) -> Result<(), LedgerFailed> {
        let (mut sent, mut next) = (Vec::new(), Some(first));
        while let Some((entry, answer)) = next {
            match answer {
                Ok(()) => {
                    self.unsent = None;
                    self.back_off = BACK_OFF.0;
                    self.stats.published.increment();
                    sent.push(entry);
                }
                Err(SinkError::Refused(why)) => {
                    let why = why.to_string();
                    tracing::error!(why, "the output topic rejected an event for good: it becomes a dead letter");
                    let dead_letter = dead_letter(&self.topic, &entry, why);
                    let note = self.observer.refused(&dead_letter.record, &dead_letter.reason);
                    let place = RecordPlace { partition: dead_letter.record.partition.number, offset: entry.number };
                    let delta = note.map(|note| note.delta(&self.topic, place));
                    let refused = self.ledger.outbox().refused(entry.number, &dead_letter, delta.into_iter().collect());
                    refused.await?;
                    self.backlog.published(&entry);
                }
                Err(SinkError::Transient(why)) => {
                    let why = why.to_string();
                    tracing::warn!(why, "an event was not published and is retried");
                    self.stats.failed.increment();
                    self.unsent = Some(why);
                    self.backlog.failed(entry, Instant::now() + self.back_off);
                    self.back_off = (self.back_off * 2).min(BACK_OFF.1);
                }
            }
            next = self.sending.next().now_or_never().flatten();
        }
        if sent.is_empty() {
            return Ok(());
        }
        crash::point("published");
        let numbers = sent.iter().map(|entry| entry.number).collect();
        self.ledger.outbox().delivered(numbers).await?;
        crash::point("marked");
        // Only now: after a crash the next event of a key must not be ahead of one that is sent once more.
        sent.iter().for_each(|entry| self.backlog.published(entry));
        Ok(())
    }
}

fn dead_letter(topic: &str, entry: &OutboxEntry, message: String) -> DeadLetter {
    let record = entry.record.clone();
    DeadLetter {
        record: Record {
            partition: TopicPartition::new(topic, 0),
            offset: entry.number,
            timestamp_ms: record.timestamp_ms,
            read_ms: 0,
            key: record.key,
            value: Some(record.value),
            headers: record.headers.into(),
        },
        reason: Reason { code: NOT_PUBLISHED, message },
        attempts: 1,
    }
}

#[cfg(test)]
#[path = "outbox_publisher_tests.rs"]
mod tests;
