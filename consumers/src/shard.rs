//! One shard: the task that alone owns a set of keys, runs their handlers and tells the poll thread what became of each record.
//!
//! ```text
//!   poll thread --batches--> KeyQueues --turn--> handler: polled once in place, kept aside if it is not ready
//!        ^                                          |
//!        +---- completions, in batches -------------+--- Reject --> dead letters; terminal only after they took it
//! ```
//!
//! A shard never waits for the poll thread: the channel back has room for every credit there is. A panic in a handler is caught and
//! counts as a retry of its turn's first record.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::core::{Epoch, Ticket};
use crate::key_queues::{Item, KeyQueues};
use crate::record::Record;
use crate::seams::{DeadLetters, Handler, KeyHash, Letter, Outcome, Reason, Turn};
use crate::stats::Stats;

/// Turns started in one go before other tasks of the runtime get their share.
const TURNS_PER_GO: usize = 64;
/// A handler that panicked is tried again after this long.
const PANIC_RETRY: Duration = Duration::from_millis(200);
/// A halted shard looks again after this long.
const HALT_RETRY: Duration = Duration::from_secs(1);
/// First and longest wait between two offers of a dead letter.
const BURY_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// To a shard.
pub(crate) enum ToShard {
    Batch(Vec<(KeyHash, Item)>),
    /// These epochs are over.
    Fence(Vec<(u32, Epoch)>),
}

/// From a shard.
pub(crate) enum FromShard {
    Completed(Vec<Ticket>),
    Abandoned(Vec<Ticket>),
    Halted(Reason),
}

/// Bounds of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardLimits {
    pub(crate) turn_max: usize,
    pub(crate) running_max: usize,
    pub(crate) attempts_max: u32,
}

type Work = Pin<Box<dyn Future<Output = Ended> + Send>>;

struct Ended {
    key: KeyHash,
    what: What,
}

enum What {
    Handled { outcomes: Option<Vec<Outcome>>, items: Vec<Item> },
    Buried { ticket: Option<Ticket>, rest: Vec<Item> },
}

pub(crate) struct Shard<H, D> {
    handler: Arc<H>,
    dead: Arc<D>,
    limits: ShardLimits,
    stats: Arc<Stats>,
    queues: KeyQueues,
    running: FuturesUnordered<Work>,
    /// Last fenced epoch of each partition slot.
    fenced: Vec<Epoch>,
    rx: flume::Receiver<ToShard>,
    tx: flume::Sender<FromShard>,
    completed: Vec<Ticket>,
    /// Keys that rest, as it was told last.
    parked_told: u64,
    began: Instant,
}

impl<H: Handler, D: DeadLetters> Shard<H, D> {
    pub(crate) fn new(
        handler: Arc<H>,
        dead: Arc<D>,
        limits: ShardLimits,
        stats: Arc<Stats>,
        rx: flume::Receiver<ToShard>,
        tx: flume::Sender<FromShard>,
    ) -> Self {
        Self {
            handler,
            dead,
            limits,
            stats,
            queues: KeyQueues::new(limits.turn_max),
            running: FuturesUnordered::new(),
            fenced: Vec::new(),
            rx,
            tx,
            completed: Vec::new(),
            parked_told: 0,
            began: Instant::now(),
        }
    }

    /// Runs until the poll thread is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let busy = self.start_turns().await;
            self.flush();
            let parked = self.queues.parked() as u64;
            self.stats.parked.change(std::mem::replace(&mut self.parked_told, parked), parked);
            if busy {
                tokio::task::yield_now().await;
                self.take_news();
                continue;
            }
            let rest = self.queues.deadline().map(|at| at.saturating_sub(self.began.elapsed()));
            tokio::select! {
                biased;
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.ended(ended),
                message = self.rx.recv_async() => match message {
                    Ok(message) => self.message(message),
                    Err(_) => return,
                },
                () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
            }
            self.take_news();
        }
    }

    /// Whatever has ended or arrived meanwhile, without waiting.
    fn take_news(&mut self) {
        while let Some(Some(ended)) = self.running.next().now_or_never() {
            self.ended(ended);
        }
        while let Ok(message) = self.rx.try_recv() {
            self.message(message);
        }
    }

    fn message(&mut self, message: ToShard) {
        match message {
            ToShard::Batch(items) => items.into_iter().for_each(|(key, item)| self.queues.push(key, item)),
            ToShard::Fence(ended) => {
                for (slot, epoch) in &ended {
                    let slot = *slot as usize;
                    if self.fenced.len() <= slot {
                        self.fenced.resize(slot + 1, 0);
                    }
                    self.fenced[slot] = self.fenced[slot].max(*epoch);
                }
                let fenced = &self.fenced;
                let dropped = self.queues.fence(|ticket| is_fenced(fenced, ticket));
                self.abandon(dropped);
            }
        }
    }

    fn abandon(&self, items: Vec<Item>) {
        let tickets: Vec<Ticket> = items.into_iter().filter_map(|item| item.ticket).collect();
        if !tickets.is_empty() {
            let _gone = self.tx.send(FromShard::Abandoned(tickets));
        }
    }

    /// Starts what is ready; true when there is more.
    async fn start_turns(&mut self) -> bool {
        for _ in 0..TURNS_PER_GO {
            if self.running.len() >= self.limits.running_max {
                return false;
            }
            let Some((key, items)) = self.queues.next_turn(self.began.elapsed()) else { return false };
            let mut work = self.turn(key, items);
            match std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
                Poll::Ready(ended) => self.ended(ended),
                Poll::Pending => self.running.push(work),
            }
        }
        true
    }

    fn turn(&self, key: KeyHash, items: Vec<Item>) -> Work {
        let handler = self.handler.clone();
        Box::pin(async move {
            let attempts = items.first().map_or(0, |item| item.attempts);
            let meta: Vec<(Option<Ticket>, u32)> = items.iter().map(|item| (item.ticket, item.attempts)).collect();
            let records: Arc<Vec<Record>> = Arc::new(items.into_iter().map(|item| item.record).collect());
            let turn = Turn { records: records.clone(), attempts };
            let called = AssertUnwindSafe(async move { handler.handle(turn).await }).catch_unwind().await;
            let records = Arc::try_unwrap(records).unwrap_or_else(|shared| (*shared).clone());
            let items = records.into_iter().zip(meta);
            let items = items.map(|(record, (ticket, attempts))| Item { record, ticket, attempts }).collect();
            Ended { key, what: What::Handled { outcomes: called.ok(), items } }
        })
    }

    fn ended(&mut self, ended: Ended) {
        match ended.what {
            What::Buried { ticket, rest } => {
                self.completed.extend(ticket);
                self.finish(ended.key, rest);
            }
            What::Handled { outcomes, items } => self.handled(ended.key, outcomes, items),
        }
    }

    fn handled(&mut self, key: KeyHash, outcomes: Option<Vec<Outcome>>, items: Vec<Item>) {
        let outcomes = outcomes.unwrap_or_else(|| {
            self.stats.panics.up();
            tracing::error!("a handler panicked; its record will be tried again");
            vec![Outcome::Retry(PANIC_RETRY)]
        });
        let mut outcomes = outcomes.into_iter();
        let mut items = items.into_iter();
        while let Some(mut item) = items.next() {
            match outcomes.next().unwrap_or(Outcome::Retry(PANIC_RETRY)) {
                Outcome::Done => self.completed.extend(item.ticket),
                Outcome::Retry(_) if item.attempts + 1 >= self.limits.attempts_max => {
                    item.attempts += 1;
                    let message = format!("given up after {} attempts", item.attempts);
                    return self.bury(key, item, Reason { code: "retries-exhausted", message }, items.collect());
                }
                Outcome::Retry(after) => {
                    self.stats.retried.up();
                    item.attempts += 1;
                    return self.park(key, std::iter::once(item).chain(items).collect(), after);
                }
                Outcome::Reject(reason) => return self.bury(key, item, reason, items.collect()),
                Outcome::Halt(reason) => {
                    let _gone = self.tx.send(FromShard::Halted(reason));
                    return self.park(key, std::iter::once(item).chain(items).collect(), HALT_RETRY);
                }
            }
        }
        self.finish(key, Vec::new());
    }

    fn finish(&mut self, key: KeyHash, rest: Vec<Item>) {
        let rest = self.keep(rest);
        self.queues.finish(key, rest);
    }

    fn park(&mut self, key: KeyHash, rest: Vec<Item>, after: Duration) {
        let rest = self.keep(rest);
        if rest.is_empty() {
            self.queues.finish(key, rest);
        } else {
            self.queues.park(key, rest, self.began.elapsed() + after);
        }
    }

    /// What came back from a turn and was fenced meanwhile is not given out again.
    fn keep(&self, items: Vec<Item>) -> Vec<Item> {
        let gone = |item: &Item| item.ticket.as_ref().is_some_and(|ticket| is_fenced(&self.fenced, ticket));
        let (dropped, kept) = items.into_iter().partition(gone);
        self.abandon(dropped);
        kept
    }

    /// The key stays busy, and the record keeps its credit, until the dead letters took it.
    fn bury(&mut self, key: KeyHash, item: Item, reason: Reason, rest: Vec<Item>) {
        self.stats.rejected.up();
        let (dead, stats) = (self.dead.clone(), self.stats.clone());
        let ticket = item.ticket;
        let letter = Letter { record: item.record, reason, attempts: item.attempts + 1 };
        self.running.push(Box::pin(async move {
            let mut wait = BURY_RETRY.0;
            while let Err(error) = dead.bury(letter.clone()).await {
                stats.burials_failed.up();
                tracing::warn!(%error, part = %letter.record.part, offset = letter.record.offset, "dead letter not taken, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BURY_RETRY.1);
            }
            Ended { key, what: What::Buried { ticket, rest } }
        }));
    }

    fn flush(&mut self) {
        if !self.completed.is_empty() {
            let _gone = self.tx.send(FromShard::Completed(std::mem::take(&mut self.completed)));
        }
        let broken = self.queues.take_violations();
        if broken > 0 {
            self.stats.violations.add(broken);
        }
    }
}

fn is_fenced(fenced: &[Epoch], ticket: &Ticket) -> bool {
    fenced.get(ticket.slot as usize).is_some_and(|epoch| ticket.epoch <= *epoch)
}

/// Spreads keys over shards.
pub(crate) fn shard_of(key: KeyHash, shards: usize) -> usize {
    // The upper half: the lower bits choose buckets in the shards' own maps.
    (key.0 >> 32) as usize & (shards - 1)
}
