//! Carries the outbox to the output topic: in order within an order, many orders at once, for as long as it takes.
//!
//! The oldest event of every order is on its way; the next one of an order is sent only after the one before it was acknowledged and taken
//! out of the outbox, whatever fails in between. A partition that takes nothing holds up its own orders alone. What cannot be sent waits, and
//! a red light says since when; what the topic will never take goes to the dead letters, so that nothing behind it is held up.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use orderbell_consumers::stats::Count;
use orderbell_consumers::{DeadLetters, Letter, Part, Reason, Record, Sink, SinkError};
use orderbell_protocol::UnixMs;
use tokio_util::sync::CancellationToken;

use crate::crash;
use crate::ledger::{DiskError, Ledger, Waiting};
use crate::net::wall_clock;

/// Rows looked at: so many events may wait for a partition that takes nothing, before they are all that is looked at.
const WINDOW: usize = 4_096;
/// Events on their way at once.
const SENDING_MAX: usize = 1_024;
/// First and longest wait of an order after a send that failed.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An event that waits for longer than this is a red light. Milliseconds.
const LATE_MS: i64 = 10_000;
/// Without news, the outbox is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// What the emitter counts.
#[derive(Debug, Default)]
pub struct EmitStats {
    /// Events that the output topic has.
    pub emitted: Count,
    /// Sends that failed; they are tried again.
    pub failed: Count,
    /// Events that wait, as far as the emitter looks ahead.
    pub waiting: Count,
    light: Mutex<Option<String>>,
}

impl EmitStats {
    /// What is red, if anything.
    #[must_use]
    pub fn light(&self) -> Option<String> {
        self.light.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unreadable(&self, error: &DiskError) {
        *self.light.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("the outbox cannot be read: {error}"));
    }

    fn look(&self, waiting: &[Waiting], at: UnixMs) {
        self.waiting.set(waiting.len() as u64);
        let since_ms = waiting.first().map_or(0, |oldest| at.0 - oldest.record.timestamp_ms);
        let late = since_ms > LATE_MS;
        let what = late.then(|| format!("events have been waiting for the output topic for {} s", since_ms / 1000));
        *self.light.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// An event on its way, and what became of it.
type Sending = Pin<Box<dyn Future<Output = (Waiting, Result<(), SinkError>)> + Send>>;

/// See the module.
struct Emitter<S> {
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<EmitStats>,
    sending: FuturesUnordered<Sending>,
    /// Keys with an event on its way, or one that failed and rests until then.
    busy: HashMap<Option<Bytes>, Option<Instant>>,
    again: Duration,
}

/// The ledger does not write any more: the process is about to end.
struct LedgerGone;

/// Runs until `stop`. `topic` names the output topic in dead letters.
pub async fn emit<S: Sink>(
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<EmitStats>,
    stop: CancellationToken,
) {
    let (sending, busy) = (FuturesUnordered::new(), HashMap::new());
    let mut emitter = Emitter { ledger: ledger.clone(), sink, topic, stats, sending, busy, again: AGAIN.0 };
    loop {
        let rest = emitter.fill();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(answer) = emitter.sending.next() => {
                if emitter.answered(answer).await.is_err() {
                    return;
                }
            }
            () = ledger.outbox_grown() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

impl<S: Sink> Emitter<S> {
    /// Sends the oldest event of every key that has none on its way; when to look again at the latest.
    fn fill(&mut self) -> Duration {
        let now = Instant::now();
        self.busy.retain(|_, rests| rests.is_none_or(|until| until > now));
        let waiting = match self.ledger.outbox(WINDOW) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read, trying again");
                self.stats.unreadable(&error);
                return LOOK;
            }
        };
        self.stats.look(&waiting, wall_clock());
        for row in waiting {
            // The first of a key makes it busy; what stands behind it waits for its answer.
            if self.sending.len() >= SENDING_MAX || self.busy.contains_key(&row.record.key) {
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
        let rests = self.busy.values().flatten().min();
        rests.map_or(LOOK, |until| until.saturating_duration_since(now).min(LOOK))
    }

    /// Takes this answer and all that are there besides, and takes what the topic has out of the outbox.
    async fn answered(&mut self, first: (Waiting, Result<(), SinkError>)) -> Result<(), LedgerGone> {
        let (mut sent, mut next) = (Vec::new(), Some(first));
        while let Some((row, answer)) = next {
            match answer {
                Ok(()) => {
                    self.again = AGAIN.0;
                    self.stats.emitted.up();
                    sent.push(row);
                }
                Err(SinkError::Refused(why)) => {
                    tracing::error!(why, "the output topic will never take an event: it goes to the dead letters");
                    self.ledger.bury(letter(&self.topic, &row, why)).await.map_err(|_| LedgerGone)?;
                    sent.push(row);
                }
                Err(SinkError::Passing(why)) => {
                    tracing::warn!(why, "an event was not emitted and is sent again");
                    self.stats.failed.up();
                    self.busy.insert(row.record.key, Some(Instant::now() + self.again));
                    self.again = (self.again * 2).min(AGAIN.1);
                }
            }
            next = self.sending.next().now_or_never().flatten();
        }
        if sent.is_empty() {
            return Ok(());
        }
        crash::point("emitted");
        let numbers = sent.iter().map(|row| row.number).collect();
        self.ledger.sent(numbers).await.map_err(|_| LedgerGone)?;
        crash::point("marked");
        // Only now: an event that is still in the outbox must not be sent once more.
        for row in &sent {
            self.busy.remove(&row.record.key);
        }
        Ok(())
    }
}

fn letter(topic: &str, row: &Waiting, message: String) -> Letter {
    let record = row.record.clone();
    Letter {
        record: Record {
            part: Part::new(topic, 0),
            offset: row.number,
            timestamp_ms: record.timestamp_ms,
            read_ms: 0,
            key: record.key,
            value: Some(record.value),
            headers: record.headers,
        },
        reason: Reason { code: "not-emitted", message },
        attempts: 1,
    }
}

#[cfg(test)]
#[path = "emitter_tests.rs"]
mod tests;
