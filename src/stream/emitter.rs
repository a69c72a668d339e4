//! Carries the outbox to the output topic: in order within an order, many orders at once, for as long as it takes.
//!
//! A round takes the oldest rows, sends the first of each key, waits for all answers, and takes away what the topic has. So the next event
//! of an order is sent only after the one before it was acknowledged, whatever fails in between. What cannot be sent waits, and a red light
//! says since when; what the topic will never take goes to the dead letters, so that nothing behind it is held up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use orderbell_consumers::stats::Count;
use orderbell_consumers::{DeadLetters, Letter, Part, Reason, Record, Sink, SinkError};
use orderbell_protocol::UnixMs;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Waiting};
use crate::net::wall_clock;

/// Rows looked at in one round: bounds memory and how many sends are in flight.
const WINDOW: usize = 256;
/// First and longest wait after a round in which something failed.
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

    fn look(&self, waiting: &[Waiting], at: UnixMs) {
        self.waiting.set(waiting.len() as u64);
        let since_ms = waiting.first().map_or(0, |oldest| at.0 - oldest.record.timestamp_ms);
        let late = since_ms > LATE_MS;
        let what = late.then(|| format!("events have been waiting for the output topic for {} s", since_ms / 1000));
        *self.light.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// Runs until `stop`. `topic` names the output topic in dead letters.
pub async fn emit<S: Sink>(
    ledger: Arc<Ledger>,
    sink: Arc<S>,
    topic: String,
    stats: Arc<EmitStats>,
    stop: CancellationToken,
) {
    let mut again = AGAIN.0;
    loop {
        let waiting = match ledger.outbox(WINDOW) {
            Ok(waiting) => waiting,
            Err(error) => return tracing::error!(%error, "the outbox cannot be read: nothing is emitted any more"),
        };
        stats.look(&waiting, wall_clock());
        let rest = if waiting.is_empty() {
            LOOK
        } else {
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                round = round(&ledger, &*sink, &topic, &stats, waiting) => round,
                () = keep_looking(&ledger, &stats) => return,
            };
            match round {
                Round::All => {
                    again = AGAIN.0;
                    continue;
                }
                Round::SomeFailed => {
                    let rest = again;
                    again = (again * 2).min(AGAIN.1);
                    rest
                }
                Round::LedgerFailed => return,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = ledger.outbox_grown(), if rest == LOOK => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// While a round waits for brokers that are away: how much waits, and since when. Ends only when the outbox cannot be read.
async fn keep_looking(ledger: &Ledger, stats: &EmitStats) {
    loop {
        tokio::time::sleep(LOOK).await;
        match ledger.outbox(WINDOW) {
            Ok(waiting) => stats.look(&waiting, wall_clock()),
            Err(error) => return tracing::error!(%error, "the outbox cannot be read: nothing is emitted any more"),
        }
    }
}

enum Round {
    All,
    SomeFailed,
    LedgerFailed,
}

async fn round<S: Sink>(
    ledger: &Arc<Ledger>,
    sink: &S,
    topic: &str,
    stats: &EmitStats,
    waiting: Vec<Waiting>,
) -> Round {
    let mut keys = HashSet::new();
    let firsts: Vec<Waiting> = waiting.into_iter().filter(|row| keys.insert(row.record.key.clone())).collect();
    let answers = join_all(firsts.iter().map(|row| sink.send(&row.record))).await;
    let mut sent = Vec::with_capacity(firsts.len());
    let mut failed = None;
    for (row, answer) in firsts.into_iter().zip(answers) {
        match answer {
            Ok(()) => {
                stats.emitted.up();
                sent.push(row.number);
            }
            Err(SinkError::Refused(why)) => {
                tracing::error!(why, "the output topic will never take an event: it goes to the dead letters");
                match ledger.bury(letter(topic, &row, why)).await {
                    Ok(()) => sent.push(row.number),
                    Err(_) => return Round::LedgerFailed,
                }
            }
            Err(SinkError::Passing(why)) => {
                stats.failed.up();
                failed = Some(why);
            }
        }
    }
    if !sent.is_empty() && ledger.sent(sent).await.is_err() {
        return Round::LedgerFailed;
    }
    match failed {
        None => Round::All,
        Some(why) => {
            tracing::warn!(why, "events were not emitted and are sent again");
            Round::SomeFailed
        }
    }
}

fn letter(topic: &str, row: &Waiting, message: String) -> Letter {
    let record = row.record.clone();
    Letter {
        record: Record {
            part: Part::new(topic, 0),
            offset: row.number,
            timestamp_ms: record.timestamp_ms,
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
