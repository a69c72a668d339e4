//! A group: one source, its poll thread, its shards.
//!
//! ```text
//!  poll thread (OS)                          shards (tokio tasks), 4 x cores
//!  +------------------------------+  batch   +-----------------------------+
//!  | Source::poll, at most 1,024  |--flume-->| key -> queue, turns, parking|--> Handler
//!  | Core: watermarks, credits,   |          +-----------------------------+
//!  |       epochs, pauses         |<-flume---  completions, in batches
//!  +------------------------------+
//!        | frontiers that moved, once a second          ^
//!        +--> Frontiers::save --- durable --------------+--> Source::saved
//! ```
//!
//! The poll thread is the only writer of watermarks and epochs, and the order in which it hands records out is the order. What the log
//! asks for in a rebalance is a step of its loop, not of a callback: drain (bounded), save, tell the log, fence, release.
//!
//! Refused: a task per partition (a slow key would hold up its neighbours), and committing from the handlers (a frontier is a fact about
//! a whole prefix).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use crate::core::{Core, Limits};
use crate::key_queues::Item;
use crate::options::Options;
use crate::poller::Poller;
use crate::record::Record;
use crate::seams::{DeadLetters, Frontiers, Handler, KeyHash, Source, SourceError, Waker};
use crate::shard::{Shard, ShardLimits, ToShard, shard_of};
use crate::stats::Stats;

/// A running group.
pub struct Group {
    stop: Arc<AtomicBool>,
    waker: Option<Waker>,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
    shards: Vec<flume::Sender<ToShard>>,
    stats: Arc<Stats>,
}

/// An injected record was not taken: its shard is full, or the group has ended. The record comes back.
#[derive(Debug)]
pub struct NotInjected(pub Box<Record>);

impl Group {
    /// Starts the poll thread and the shards on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, or when the system gives no thread.
    pub fn start<S, H, F, D>(source: S, handler: Arc<H>, frontiers: Arc<F>, dead: Arc<D>, options: &Options) -> Self
    where
        S: Source,
        H: Handler,
        F: Frontiers,
        D: DeadLetters,
    {
        let stats = Arc::new(Stats::default());
        stats.records_max.set(options.records_max);
        stats.bytes_max.set(options.bytes_max);
        stats.needs.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&options.needs_topics);
        let stop = Arc::new(AtomicBool::new(false));
        let shards = options.shards.next_power_of_two();
        // Room for every credit, so that neither side can ever wait for the other with a full channel in between.
        let credits = usize::try_from(options.records_max).unwrap_or(usize::MAX) + 1024;
        let (done_tx, done_rx) = flume::bounded(credits);
        let limits = ShardLimits {
            turn_max: options.turn_max,
            running_max: (options.running_max / shards).max(1),
            attempts_max: options.attempts_max,
        };
        let mut to_shards = Vec::with_capacity(shards);
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..shards {
            let (tx, rx) = flume::bounded(credits);
            to_shards.push(tx);
            let shard = Shard::new(handler.clone(), dead.clone(), limits, stats.clone(), rx, done_tx.clone());
            // Ends by itself when the poll thread and this group have dropped their senders.
            runtime.spawn(shard.run());
        }
        let core = Core::new(Limits { records: options.records_max, bytes: options.bytes_max, span: options.span_max });
        let waker = source.waker();
        let poller = Poller::new(
            source,
            core,
            handler,
            frontiers,
            options.clone(),
            to_shards.clone(),
            done_rx,
            stats.clone(),
            stop.clone(),
        );
        let thread = std::thread::Builder::new()
            .name("poll".into())
            .spawn(move || poller.run().inspect_err(|error| tracing::error!(%error, "the source ended")));
        let thread = thread.expect("the system has a thread for the source");
        Self { stop, waker, thread: Some(thread), shards: to_shards, stats }
    }

    /// Counters, partitions and lights.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Puts a record of the caller's own into the queue of a key: it runs in its turn, and no frontier depends on it.
    ///
    /// # Errors
    /// [`NotInjected`] when there is no room.
    pub fn inject(&self, key: KeyHash, record: Record) -> Result<(), NotInjected> {
        let shard = &self.shards[shard_of(key, self.shards.len())];
        let batch = vec![(key, Item { record, ticket: None, attempts: 0 })];
        shard.try_send(ToShard::Batch(batch)).map_err(|error| {
            let (flume::TrySendError::Full(ToShard::Batch(mut batch))
            | flume::TrySendError::Disconnected(ToShard::Batch(mut batch))) = error
            else {
                unreachable!("what was sent comes back")
            };
            NotInjected(Box::new(batch.remove(0).1.record))
        })
    }

    /// True while the poll thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Drains and ends: nothing new is taken, what runs may finish, frontiers are saved. Blocks up to [`Options::stop_max`] and the time
    /// that the source needs to close.
    ///
    /// # Errors
    /// What ended the group, when it had ended by itself.
    ///
    /// # Panics
    /// When the poll thread panicked: a bug of this crate.
    pub fn stop(mut self) -> Result<(), SourceError> {
        self.stop.store(true, Ordering::Release);
        if let Some(waker) = &self.waker {
            waker();
        }
        match self.thread.take() {
            Some(thread) => thread.join().expect("the poll thread does not panic"),
            None => Ok(()),
        }
    }
}

impl Drop for Group {
    /// Asks the poll thread to end, without waiting.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(waker) = &self.waker {
            waker();
        }
    }
}
