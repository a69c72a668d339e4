//! Publishes the outbox to the output topic: in sequence within an order, many orders at once, with unlimited retries.
//!
//! The oldest event of every order is in flight; the next one of an order is sent only after the one before it was acknowledged and deleted
//! from the outbox, whatever fails in between. A partition that accepts nothing delays its own orders alone. An event that cannot be sent stays
//! in the outbox, with an alert; one that the topic rejects for good becomes a dead letter, so that nothing behind it is blocked.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use orderbell_consumers::stats::Count;
use orderbell_consumers::{DeadLetter, DeadLetterSink, Reason, Record, Sink, SinkError, TopicPartition};
use orderbell_protocol::UnixMs;
use tokio_util::sync::CancellationToken;

use crate::clock::wall_clock;
use orderbell_ledger::crash;
use orderbell_ledger::{DiskError, Ledger, OutboxEntry};

/// Outbox rows read at a time. When this many events wait for a partition that accepts nothing, newer ones of other partitions wait as well.
const MAX_ROWS: usize = 4_096;
/// Events in flight at once.
const MAX_IN_FLIGHT: usize = 1_024;
/// First and longest back-off of an order after a failed send.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An event that waits for longer than this raises an alert. Milliseconds.
const BLOCKED_AFTER_MS: i64 = 10_000;
/// Interval of reading the outbox without a notification.
const READ_INTERVAL: Duration = Duration::from_secs(1);

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

    fn set_unreadable(&self, error: &DiskError) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("the outbox cannot be read: {error}"));
    }

    fn update(&self, waiting: &[OutboxEntry], at: UnixMs) {
        self.pending.set(waiting.len() as u64);
        let since_ms = waiting.first().map_or(0, |oldest| at.0 - oldest.record.timestamp_ms);
        let is_blocked = since_ms > BLOCKED_AFTER_MS;
        let detail =
            is_blocked.then(|| format!("the oldest event has waited for {} s for the output topic", since_ms / 1000));
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = detail;
    }
}

/// An event in flight, and the result of sending it.
type Sending = Pin<Box<dyn Future<Output = (OutboxEntry, Result<(), SinkError>)> + Send>>;

/// The publisher's state: which events are in flight, and which keys wait.
struct Publisher<S> {
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<PublisherStats>,
    sending: FuturesUnordered<Sending>,
    /// Keys with an event in flight (`None`), or backing off until the instant.
    busy: HashMap<Option<Bytes>, Option<Instant>>,
    back_off: Duration,
}

/// The ledger cannot write any more: the process is about to exit.
struct LedgerGone;

/// Publishes until `stop` is cancelled. `topic` names the output topic in dead letters.
pub async fn publish<S: Sink>(
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<PublisherStats>,
    stop: CancellationToken,
) {
    let (sending, busy) = (FuturesUnordered::new(), HashMap::new());
    let mut publisher = Publisher { ledger: ledger.clone(), sink, topic, stats, sending, busy, back_off: BACK_OFF.0 };
    loop {
        let wait = publisher.send_next();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(answer) = publisher.sending.next() => {
                if publisher.complete(answer).await.is_err() {
                    return;
                }
            }
            () = ledger.wait_for_outbox() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl<S: Sink> Publisher<S> {
    /// Sends the oldest event of every key that has none in flight. Returns the longest time to wait until the next call.
    fn send_next(&mut self) -> Duration {
        let now = Instant::now();
        self.busy.retain(|_, backs_off| backs_off.is_none_or(|until| until > now));
        let waiting = match self.ledger.pending_outbox(MAX_ROWS) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read and is retried");
                self.stats.set_unreadable(&error);
                return READ_INTERVAL;
            }
        };
        self.stats.update(&waiting, wall_clock());
        for row in waiting {
            // The first event of a key makes it busy; those behind it wait for the acknowledgement.
            if self.sending.len() >= MAX_IN_FLIGHT || self.busy.contains_key(&row.record.key) {
                continue;
            }
            self.busy.insert(row.record.key.clone(), None);
            crash::point("emit");
            let sink = self.sink.clone();
            self.sending.push(Box::pin(async move {
                let answer = sink.send(&row.record).await;
                (row, answer)
            }));
        }
        let first_due = self.busy.values().flatten().min();
        first_due.map_or(READ_INTERVAL, |until| until.saturating_duration_since(now).min(READ_INTERVAL))
    }

    /// Handles this result and all others that are ready, and deletes the acknowledged events from the outbox.
    async fn complete(&mut self, first: (OutboxEntry, Result<(), SinkError>)) -> Result<(), LedgerGone> {
        let (mut sent, mut next) = (Vec::new(), Some(first));
        while let Some((row, answer)) = next {
            match answer {
                Ok(()) => {
                    self.back_off = BACK_OFF.0;
                    self.stats.published.increment();
                    sent.push(row);
                }
                Err(SinkError::Refused(why)) => {
                    let why = why.to_string();
                    tracing::error!(why, "the output topic rejected an event for good: it becomes a dead letter");
                    DeadLetterSink::write(&*self.ledger, dead_letter(&self.topic, &row, why))
                        .await
                        .map_err(|_| LedgerGone)?;
                    sent.push(row);
                }
                Err(SinkError::Transient(why)) => {
                    let why = why.to_string();
                    tracing::warn!(why, "an event was not published and is retried");
                    self.stats.failed.increment();
                    self.busy.insert(row.record.key, Some(Instant::now() + self.back_off));
                    self.back_off = (self.back_off * 2).min(BACK_OFF.1);
                }
            }
            next = self.sending.next().now_or_never().flatten();
        }
        if sent.is_empty() {
            return Ok(());
        }
        crash::point("emitted");
        let numbers = sent.iter().map(|row| row.number).collect();
        self.ledger.outbox_delivered(numbers).await.map_err(|_| LedgerGone)?;
        crash::point("marked");
        // Only now, since an event that is still in the outbox would be sent once more.
        for row in &sent {
            self.busy.remove(&row.record.key);
        }
        Ok(())
    }
}

fn dead_letter(topic: &str, row: &OutboxEntry, message: String) -> DeadLetter {
    let record = row.record.clone();
    DeadLetter {
        record: Record {
            partition: TopicPartition::new(topic, 0),
            offset: row.number,
            timestamp_ms: record.timestamp_ms,
            read_ms: 0,
            key: record.key,
            value: Some(record.value),
            headers: record.headers,
        },
        reason: Reason { code: "not-published", message },
        attempts: 1,
    }
}

#[cfg(test)]
#[path = "outbox_publisher_tests.rs"]
mod tests;
