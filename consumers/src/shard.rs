//! One shard: the task that alone owns a set of keys, runs their handlers, and reports to the poll thread which records are finished.
//!
//! ```text
//!   poll thread --records--> KeyQueues --batch--> handler: polled once in place, kept aside if it is not ready
//!        ^                                           |
//!        +----- completions, in groups --------------+--- Reject --> dead letters; finished only once it is written
//! ```
//!
//! A shard never waits for the poll thread: the channel back has room for every credit there is. A panic in a handler is caught and
//! counts as a retry of its batch's first record, with an alert that names the record's place until it is handled or a dead letter; a panic
//! in the dead letter sink counts as a write that failed.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::alert::AlertKind;
use crate::dead_letters::report_dead_letter;
use crate::error::DeadLetterError;
use crate::key_queues::{KeyQueues, QueuedInput};
use crate::stats::Stats;
use crate::tracker::{Epoch, Ticket};
use crate::traits::{DeadLetter, DeadLetterSink, Handler, KeyBatch, KeyHash, KeyInput, Outcome, Reason};

/// Batches started in one go before other tasks of the runtime get their share.
const BATCHES_PER_GO: usize = 64;
/// Back-off of a record whose handler panicked.
const PANIC_BACK_OFF: Duration = Duration::from_millis(200);
/// Back-off of a record whose handler asked to halt.
const HALT_BACK_OFF: Duration = Duration::from_secs(1);
/// First and longest wait between two attempts to write a dead letter.
const DEAD_LETTER_BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

pub(crate) enum ToShard<T, P> {
    Inputs(Vec<(KeyHash, QueuedInput<T, P>)>),
    /// These epochs are over: slot of the partition, last ended epoch.
    Fence(Vec<(u32, Epoch)>),
}

pub(crate) enum FromShard {
    Completed(Vec<Ticket>),
    Abandoned(Vec<Ticket>),
    Halted(Reason),
}

/// Bounds of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardLimits {
    pub(crate) max_batch_records: usize,
    pub(crate) max_running_batches: usize,
    pub(crate) max_attempts: u32,
}

type Work<T, P> = Pin<Box<dyn Future<Output = Finished<T, P>> + Send>>;
/// What is queued for a handler.
pub(crate) type InputOf<H> = QueuedInput<<H as Handler>::Task, <H as Handler>::Prepared>;
/// What is sent to the shards of a handler.
pub(crate) type ToShardOf<H> = ToShard<<H as Handler>::Task, <H as Handler>::Prepared>;
/// Work of a handler.
type WorkOf<H> = Work<<H as Handler>::Task, <H as Handler>::Prepared>;

struct Finished<T, P> {
    key: KeyHash,
    result: WorkResult<T, P>,
}

enum WorkResult<T, P> {
    /// The handler returned; without outcomes, it panicked.
    Handled { outcomes: Option<Vec<Outcome>>, batch: Vec<QueuedInput<T, P>> },
    /// A dead letter was written; `unhandled` is the rest of its batch.
    DeadLettered { ticket: Option<Ticket>, unhandled: Vec<QueuedInput<T, P>> },
}

pub(crate) struct Shard<H: Handler, D> {
    handler: Arc<H>,
    dead_letters: Arc<D>,
    limits: ShardLimits,
    stats: Arc<Stats>,
    queues: KeyQueues<H::Task, H::Prepared>,
    running: FuturesUnordered<WorkOf<H>>,
    /// Last ended epoch of each partition slot.
    fenced: Vec<Epoch>,
    rx: flume::Receiver<ToShardOf<H>>,
    tx: flume::Sender<FromShard>,
    completed: Vec<Ticket>,
    /// The partitions of records at which the handler panicked, by key: each has an alert until the record's next try.
    panicked: HashMap<KeyHash, String>,
    /// This shard's share of [`Stats::keys_backing_off`].
    reported_backing_off: u64,
    started_at: Instant,
}

impl<H: Handler, D: DeadLetterSink> Shard<H, D> {
    pub(crate) fn new(
        handler: Arc<H>,
        dead_letters: Arc<D>,
        limits: ShardLimits,
        stats: Arc<Stats>,
        rx: flume::Receiver<ToShardOf<H>>,
        tx: flume::Sender<FromShard>,
    ) -> Self {
        Self {
            handler,
            dead_letters,
            limits,
            stats,
            queues: KeyQueues::new(limits.max_batch_records),
            running: FuturesUnordered::new(),
            fenced: Vec::new(),
            rx,
            tx,
            completed: Vec::new(),
            panicked: HashMap::new(),
            reported_backing_off: 0,
            started_at: Instant::now(),
        }
    }

    /// Runs until every sender to this shard is gone, or until the group aborts it.
    pub(crate) async fn run(mut self) {
        loop {
            let has_more = self.start_batches().await;
            self.flush();
            let backing_off = self.queues.backing_off() as u64;
            self.stats.keys_backing_off.replace(self.reported_backing_off, backing_off);
            self.reported_backing_off = backing_off;
            if has_more {
                tokio::task::yield_now().await;
                self.take_ready();
                continue;
            }
            let sleep = self.queues.deadline().map(|at| at.saturating_sub(self.started_at.elapsed()));
            tokio::select! {
                biased;
                Some(finished) = self.running.next(), if !self.running.is_empty() => self.finished(finished),
                message = self.rx.recv_async() => match message {
                    Ok(message) => self.message(message),
                    Err(_) => return,
                },
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            }
            self.take_ready();
        }
    }

    /// Takes the work that has finished and the messages that have arrived, without waiting.
    fn take_ready(&mut self) {
        while let Some(Some(finished)) = self.running.next().now_or_never() {
            self.finished(finished);
        }
        while let Ok(message) = self.rx.try_recv() {
            self.message(message);
        }
    }

    fn message(&mut self, message: ToShardOf<H>) {
        match message {
            ToShard::Inputs(inputs) => inputs.into_iter().for_each(|(key, queued)| self.queues.push(key, queued)),
            ToShard::Fence(ended) => {
                for (slot, epoch) in &ended {
                    let slot = *slot as usize;
                    if self.fenced.len() <= slot {
                        self.fenced.resize(slot + 1, 0);
                    }
                    self.fenced[slot] = self.fenced[slot].max(*epoch);
                }
                let keys: Vec<KeyHash> = self.panicked.keys().copied().collect();
                keys.into_iter().for_each(|key| self.clear_panic(key));
                let fenced = &self.fenced;
                let dropped = self.queues.fence(|ticket| is_fenced(fenced, ticket));
                self.abandon(dropped);
            }
        }
    }

    fn abandon(&self, dropped: Vec<InputOf<H>>) {
        let tickets: Vec<Ticket> = dropped.into_iter().filter_map(|queued| queued.ticket).collect();
        if !tickets.is_empty() {
            let _poll_thread_ended = self.tx.send(FromShard::Abandoned(tickets));
        }
    }

    /// Starts the batches of ready keys; true when there are more.
    async fn start_batches(&mut self) -> bool {
        for _ in 0..BATCHES_PER_GO {
            if self.running.len() >= self.limits.max_running_batches {
                return false;
            }
            let Some((key, batch)) = self.queues.next_batch(self.started_at.elapsed()) else { return false };
            let mut work = self.handle(key, batch);
            match std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
                Poll::Ready(finished) => self.finished(finished),
                Poll::Pending => self.running.push(work),
            }
        }
        true
    }

    fn handle(&self, key: KeyHash, mut batch: Vec<InputOf<H>>) -> WorkOf<H> {
        if let Some(reason) = batch.first_mut().and_then(|first| first.rejection.take()) {
            // It is alone in its batch and never reaches the handler.
            let outcomes = Some(vec![Outcome::Reject(*reason)]);
            return Box::pin(std::future::ready(Finished { key, result: WorkResult::Handled { outcomes, batch } }));
        }
        let handler = self.handler.clone();
        Box::pin(async move {
            let attempts = batch.first().map_or(0, |first| first.attempts);
            let meta: Vec<_> = batch.iter().map(|queued| (queued.ticket, queued.attempts)).collect();
            let inputs: Arc<Vec<KeyInput<H::Task, H::Prepared>>> =
                Arc::new(batch.into_iter().map(|queued| queued.input).collect());
            let call = KeyBatch { inputs: inputs.clone(), attempts };
            let outcomes = AssertUnwindSafe(async move { handler.handle(call).await }).catch_unwind().await.ok();
            let inputs = Arc::try_unwrap(inputs).unwrap_or_else(|shared| (*shared).clone());
            let queued = |(input, (ticket, attempts))| QueuedInput { input, ticket, attempts, rejection: None };
            let batch = inputs.into_iter().zip(meta).map(queued).collect();
            Finished { key, result: WorkResult::Handled { outcomes, batch } }
        })
    }

    fn finished(&mut self, finished: Finished<H::Task, H::Prepared>) {
        match finished.result {
            WorkResult::DeadLettered { ticket, unhandled } => {
                self.completed.extend(ticket);
                self.finish(finished.key, unhandled);
            }
            WorkResult::Handled { outcomes, batch } => self.handled(finished.key, outcomes, batch),
        }
    }

    fn handled(&mut self, key: KeyHash, outcomes: Option<Vec<Outcome>>, batch: Vec<InputOf<H>>) {
        let outcomes = if let Some(outcomes) = outcomes {
            self.clear_panic(key);
            outcomes
        } else {
            self.panicked(key, &batch);
            vec![Outcome::Retry(PANIC_BACK_OFF)]
        };
        let mut outcomes = outcomes.into_iter();
        let mut batch = batch.into_iter();
        while let Some(mut queued) = batch.next() {
            match outcomes.next().unwrap_or(Outcome::Retry(PANIC_BACK_OFF)) {
                Outcome::Done => self.completed.extend(queued.ticket),
                Outcome::Retry(_) if queued.attempts + 1 >= self.limits.max_attempts => {
                    queued.attempts += 1;
                    let how = if self.panicked.contains_key(&key) { "; the handler panicked" } else { "" };
                    let message = format!("given up after {} attempts{how}", queued.attempts);
                    self.clear_panic(key);
                    let reason = Reason { code: "retries-exhausted", message };
                    return self.dead_letter(key, queued, reason, batch.collect());
                }
                Outcome::Retry(back_off) => {
                    self.stats.batches_retried.increment();
                    queued.attempts += 1;
                    return self.back_off(key, std::iter::once(queued).chain(batch).collect(), back_off);
                }
                Outcome::Reject(reason) => return self.dead_letter(key, queued, reason, batch.collect()),
                Outcome::Halt(reason) => {
                    let _poll_thread_ended = self.tx.send(FromShard::Halted(reason));
                    return self.back_off(key, std::iter::once(queued).chain(batch).collect(), HALT_BACK_OFF);
                }
            }
        }
        self.finish(key, Vec::new());
    }

    /// Counts a panic of the handler, and names the first record of its batch in the log and in an alert, and the last one: any of them may be why. A
    /// task has no place; it is named by its key, and by the records that came with it.
    fn panicked(&mut self, key: KeyHash, batch: &[InputOf<H>]) {
        self.stats.panics.increment();
        let is_task = batch.first().is_some_and(|first| matches!(first.input, KeyInput::Task(_)));
        let mut records = batch.iter().filter_map(|queued| queued.input.record());
        let Some(first) = records.next() else {
            tracing::error!(
                key = format!("{:016x}", key.0),
                "the handler panicked at a task, which will be tried again"
            );
            return;
        };
        let (partition, offset) = (&first.partition, first.offset);
        let last =
            records.next_back().map_or_else(String::new, |last| format!(" to {}@{}", last.partition, last.offset));
        let at = if is_task { "a task before the record" } else { "the record" };
        tracing::error!(%partition, offset, last, is_task, "the handler panicked; what it panicked at will be tried again");
        let detail =
            format!("the handler panicked at {at} {partition}@{offset}{last}; it is tried again, then a dead letter");
        self.stats.active_alerts.raise(AlertKind::HandlerFailing, &partition.to_string(), detail);
        self.panicked.insert(key, partition.to_string());
    }

    fn clear_panic(&mut self, key: KeyHash) {
        if let Some(partition) = self.panicked.remove(&key) {
            self.stats.active_alerts.clear(AlertKind::HandlerFailing, &partition);
        }
    }

    fn finish(&mut self, key: KeyHash, unhandled: Vec<InputOf<H>>) {
        let unhandled = self.drop_fenced(unhandled);
        self.queues.finish(key, unhandled);
    }

    fn back_off(&mut self, key: KeyHash, unhandled: Vec<InputOf<H>>, back_off: Duration) {
        let unhandled = self.drop_fenced(unhandled);
        if unhandled.is_empty() {
            self.queues.finish(key, unhandled);
        } else {
            self.queues.back_off(key, unhandled, self.started_at.elapsed() + back_off);
        }
    }

    /// Records of a batch whose epoch ended while it ran are abandoned; the others are returned.
    fn drop_fenced(&self, unhandled: Vec<InputOf<H>>) -> Vec<InputOf<H>> {
        let is_fenced =
            |queued: &InputOf<H>| queued.ticket.as_ref().is_some_and(|ticket| is_fenced(&self.fenced, ticket));
        let (dropped, kept) = unhandled.into_iter().partition(is_fenced);
        self.abandon(dropped);
        kept
    }

    /// Writes a dead letter; a task is given up instead. Until it is written the key stays busy and the record keeps its credit.
    fn dead_letter(&mut self, key: KeyHash, queued: InputOf<H>, reason: Reason, unhandled: Vec<InputOf<H>>) {
        let KeyInput::Record(record, prepared) = queued.input else {
            let key_text = format!("{:016x}", key.0);
            tracing::error!(key = key_text, reason = reason.code, message = reason.message, "a task was given up");
            return self.finish(key, unhandled);
        };
        report_dead_letter(&*self.handler, &self.stats, &record, prepared.as_ref(), &reason);
        let (dead_letters, stats) = (self.dead_letters.clone(), self.stats.clone());
        let ticket = queued.ticket;
        let dead_letter = DeadLetter { record, reason, attempts: queued.attempts + 1 };
        self.running.push(Box::pin(async move {
            let mut back_off = DEAD_LETTER_BACK_OFF.0;
            while let Err(error) = write_caught(&*dead_letters, dead_letter.clone()).await {
                stats.dead_letter_writes_failed.increment();
                let (partition, offset) = (&dead_letter.record.partition, dead_letter.record.offset);
                tracing::warn!(%error, %partition, offset, "a dead letter was not written, trying again");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(DEAD_LETTER_BACK_OFF.1);
            }
            Finished { key, result: WorkResult::DeadLettered { ticket, unhandled } }
        }));
    }

    fn flush(&mut self) {
        if !self.completed.is_empty() {
            let _poll_thread_ended = self.tx.send(FromShard::Completed(std::mem::take(&mut self.completed)));
        }
        let violations = self.queues.take_violations();
        if violations > 0 {
            self.stats.invariant_violations.add(violations);
        }
    }
}

/// A panic of the sink counts as a write that failed.
async fn write_caught<D: DeadLetterSink>(dead_letters: &D, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
    let write = AssertUnwindSafe(async move { dead_letters.write(dead_letter).await }).catch_unwind().await;
    write.unwrap_or_else(|_| Err(DeadLetterError::new("the dead letter sink panicked")))
}

fn is_fenced(fenced: &[Epoch], ticket: &Ticket) -> bool {
    fenced.get(ticket.slot as usize).is_some_and(|epoch| ticket.epoch <= *epoch)
}

/// `shards` is a power of two.
pub(crate) fn shard_of(key: KeyHash, shards: usize) -> usize {
    // The upper half: the lower bits choose buckets in the shards' own maps.
    (key.0 >> 32) as usize & (shards - 1)
}
