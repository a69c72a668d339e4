//! A group: one source, its poll thread, its shards.
//!
//! ```text
//!  poll thread (OS)                          shards (tokio tasks), 4 x cores
//!  +------------------------------+ records  +---------------------------------+
//!  | Source::poll, at most 1,024  |--flume-->| key -> queue, batches, back-off |--> Handler
//!  | Tracker: watermarks, credits,|          +---------------------------------+
//!  |          epochs, pauses      |<-flume---  completions, in groups
//!  +------------------------------+
//!        | checkpoints that moved, once a second        ^
//!        +--> CheckpointStore::save --- durable --------+--> Source::checkpointed
//! ```
//!
//! The poll thread is the only writer of watermarks and epochs, and the order in which it hands records out is the order. A request of the
//! group coordinator in a rebalance is a step of its loop, not of a callback: drain (bounded), save, store the group's offset, fence,
//! unassign. It also owns the tasks of the shards: when it ends, they are aborted, and when one of them ends early, so does the group.
//!
//! Refused: a task per partition (a slow key would hold up its neighbours), and committing from the handlers (a checkpoint is a fact about
//! a whole prefix).

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;

use crate::error::SourceError;
use crate::key_queues::QueuedInput;
use crate::options::Options;
use crate::poller::{Poller, ShardTasks};
use crate::shard::{Shard, ShardLimits, ToShard, shard_of};
use crate::stats::Stats;
use crate::tracker::{Limits, Tracker};
use crate::traits::{CheckpointStore, DeadLetterSink, Handler, KeyHash, KeyInput, Source};

/// A running group, whose handler takes tasks of the type `T` and prepares a `P` of its records.
pub struct Group<T = Infallible, P = ()> {
    stop: Arc<AtomicBool>,
    waker: Option<Waker>,
    /// An error ended it; the thread may still close the source.
    has_failed: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
    shards: Vec<flume::Sender<ToShard<T, P>>>,
    stats: Arc<Stats>,
}

/// A task was not queued, and is returned.
#[derive(Debug, thiserror::Error)]
#[error("the task was not queued: its shard is full, or the group has ended")]
pub struct InjectError<T>(pub T);

impl<T: Clone + Send + Sync + 'static, P: Clone + Send + Sync + 'static> Group<T, P> {
    /// Starts the poll thread and the shards on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, or when the operating system gives no thread.
    pub fn start<S, H, C, D>(
        source: S,
        handler: Arc<H>,
        checkpoints: Arc<C>,
        dead_letters: Arc<D>,
        options: &Options,
    ) -> Self
    where
        S: Source,
        H: Handler<Task = T, Prepared = P>,
        C: CheckpointStore,
        D: DeadLetterSink,
    {
        let stats = Arc::new(Stats::default());
        stats.max_in_flight_records.set(options.max_in_flight_records);
        stats.max_in_flight_bytes.set(options.max_in_flight_bytes);
        stats.required_topics.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&options.required_topics);
        let stop = Arc::new(AtomicBool::new(false));
        let shards = options.shards.next_power_of_two();
        // Room for every credit, so that neither side can ever wait for the other with a full channel in between. The parts of one record may
        // exceed the credits: then a shard may wait, and never the poll thread, which sends a shard one message a poll and none without credits.
        let credits = usize::try_from(options.max_in_flight_records).unwrap_or(usize::MAX) + 1024;
        let (done_tx, done_rx) = flume::bounded(credits);
        let limits = ShardLimits {
            max_batch_records: options.max_batch_records,
            max_running_batches: (options.max_running_batches / shards).max(1),
            max_attempts: options.max_attempts,
        };
        let mut to_shards = Vec::with_capacity(shards);
        let mut tasks = ShardTasks::default();
        for _ in 0..shards {
            let (tx, rx) = flume::bounded(credits);
            to_shards.push(tx);
            let shard = Shard::new(handler.clone(), dead_letters.clone(), limits, stats.clone(), rx, done_tx.clone());
            tasks.spawn(shard.run());
        }
        let tracker = Tracker::new(Limits {
            records: options.max_in_flight_records,
            bytes: options.max_in_flight_bytes,
            span: options.max_span,
        });
        let waker = source.waker();
        let mut poller = Poller::new(
            source,
            tracker,
            handler,
            checkpoints,
            options.clone(),
            (to_shards.clone(), tasks),
            done_rx,
            stats.clone(),
            stop.clone(),
        );
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = has_failed.clone();
        let thread = std::thread::Builder::new().name("poll".into()).spawn(move || {
            let ended = poller.run();
            if let Err(error) = &ended {
                tracing::error!(%error, "the group ended");
                // Said before the source closes: one that hears of no broker waits for the session's timeout.
                failed.store(true, Ordering::Release);
            }
            drop(poller);
            ended
        });
        let thread = thread.expect("the operating system has a thread for the source");
        Self { stop, waker, has_failed, thread: Some(thread), shards: to_shards, stats }
    }

    /// Counters, partition states and alerts.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Puts a task into the queue of a key. It is handled in its turn, between the records of the key, and no checkpoint depends on it. It
    /// takes no credit: when the shard has no room, it is refused.
    ///
    /// # Errors
    /// [`InjectError`] when there is no room, or when the group has ended.
    pub fn inject(&self, key: KeyHash, task: T) -> Result<(), InjectError<T>> {
        let shard = &self.shards[shard_of(key, self.shards.len())];
        let queued = QueuedInput { input: KeyInput::Task(task), ticket: None, attempts: 0, rejection: None };
        shard.try_send(ToShard::Inputs(vec![(key, queued)])).map_err(|error| {
            if let ToShard::Inputs(mut inputs) = error.into_inner()
                && let Some((_, QueuedInput { input: KeyInput::Task(task), .. })) = inputs.pop()
            {
                return InjectError(task);
            }
            unreachable!("a failed send returns its message")
        })
    }

    /// True while records are taken: until the poll thread ends, or an error ended it that may take its time to close the source.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.has_failed.load(Ordering::Acquire) && self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Drains and ends: no record is taken any more, running batches may finish, checkpoints are saved. Blocks up to
    /// [`Options::stop_timeout`] and the time that the source needs to close.
    ///
    /// # Errors
    /// The error that ended the group, when it had ended by itself.
    ///
    /// # Panics
    /// When the poll thread panicked: a bug of this crate.
    pub fn stop(mut self) -> Result<(), SourceError> {
        self.request_stop();
        match self.thread.take() {
            Some(thread) => thread.join().expect("the poll thread does not panic"),
            None => Ok(()),
        }
    }
}

impl<T, P> Group<T, P> {
    fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl<T, P> Drop for Group<T, P> {
    /// Asks the poll thread to end, without waiting.
    fn drop(&mut self) {
        self.request_stop();
    }
}
