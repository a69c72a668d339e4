//! The loop of the poll thread. See [`crate::group`] for the picture, and [`assignment`] for what it does in a rebalance.

mod assignment;
mod finishing;
mod intake;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::alert::AlertKind;
use crate::error::SourceError;
use crate::loss::Loss;
use crate::options::Options;
use crate::poll_pacer::{PollAction, PollPacer};
use crate::record::{Offset, TopicPartition};
use crate::shard::{FromShard, InputOf, ToShard, ToShardOf};
use crate::start_offset::StartOffset;
use crate::stats::Stats;
use crate::tracker::{PartitionStatus, Tracker};
use crate::traits::{CheckpointStore, DurableCheckpoints, Handler, KeyHash, Polled, Source};
use finishing::Finishing;

/// Number of hot keys that are reported.
const MAX_HOT_KEYS: usize = 10;
/// Records taken in one poll: enough to fill every shard, few enough that completions are looked at often.
const MAX_POLL_RECORDS: usize = 1024;
/// Longest wait inside one poll: bounds how late a stop, a save or a completion is seen.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// How long intake stops after a handler asked to halt.
const HALT_TIME: Duration = Duration::from_secs(2);
/// Subject of the alerts that concern the whole group.
const WHOLE_GROUP: &str = "";

/// The tasks of a group's shards. Dropping it aborts them.
#[derive(Debug, Default)]
pub(crate) struct ShardTasks(Vec<tokio::task::JoinHandle<()>>);

impl ShardTasks {
    /// Runs a shard on the current runtime.
    pub(crate) fn spawn(&mut self, shard: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::runtime::Handle::current().spawn(shard));
    }

    /// True when a shard ended while the group runs: it panicked, or its runtime was shut down.
    fn has_ended(&self) -> bool {
        self.0.iter().any(tokio::task::JoinHandle::is_finished)
    }
}

impl Drop for ShardTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

pub(crate) struct Poller<S, H: Handler, C> {
    source: S,
    tracker: Tracker,
    handler: Arc<H>,
    checkpoints: Arc<C>,
    options: Options,
    shards: Vec<flume::Sender<ToShardOf<H>>>,
    /// Records that were taken and not sent yet, by shard.
    to_send: Vec<Vec<(KeyHash, InputOf<H>)>>,
    done: flume::Receiver<FromShard>,
    saved_tx: flume::Sender<DurableCheckpoints>,
    saved_rx: flume::Receiver<DurableCheckpoints>,
    stats: Arc<Stats>,
    stop: Arc<AtomicBool>,
    /// Partitions of this member without a start offset: the log or the checkpoint store did not answer. Tried again at `retry_at`.
    unassigned: Vec<TopicPartition>,
    retry_at: Instant,
    retry_back_off: Duration,
    saved_at: Instant,
    polled_at: Instant,
    /// Longest time between two polls since the last maintenance. Milliseconds.
    poll_interval_ms: u64,
    pacer: PollPacer,
    started_at: Instant,
    halted_until: Option<Instant>,
    /// Since when partitions are unowned, and whether that is too long already.
    unowned_since: Option<(Instant, bool)>,
    polled: Vec<Polled>,
    /// Results of a poll that wait until there are credits again: those behind a record whose parts used them up.
    held: Vec<Polled>,
    /// Partitions whose state was rolled back, and the offset at which their alert is cleared: the group's committed offset.
    rolled_back: Vec<(TopicPartition, Offset)>,
    /// Partitions that start again when what was read of them is finished.
    finishing: Vec<Finishing>,
    /// Partitions whose log is another one than what was read of them, and what was lost with the earlier one, until they start again.
    other_logs: HashMap<TopicPartition, Loss>,
    /// How partitions begin whose begin was not durable in time: so they start as soon as it is.
    begun: HashMap<TopicPartition, StartOffset>,
    /// Partitions that started with the skip that an operator named for them.
    used_skips: BTreeSet<TopicPartition>,
    /// Assigned while the results of the last poll were processed: records of these in the same results are from the old offset.
    reassigned: Vec<TopicPartition>,
    /// Dropped last, so that running batches may finish while the source closes.
    shard_tasks: ShardTasks,
}

/// The partition of whose log this tells; none when the coordinator says something.
fn partition_of(polled: &Polled) -> Option<&TopicPartition> {
    match polled {
        Polled::Record(record) | Polled::Rejected(record, _) => Some(&record.partition),
        Polled::CaughtUp(partition, _) | Polled::Damaged(partition, _) | Polled::OutOfRange(partition, _) => {
            Some(partition)
        }
        Polled::Assigned(_) | Polled::Revoking(_) | Polled::Lost(_) => None,
    }
}

impl<S: Source, H: Handler, C: CheckpointStore> Poller<S, H, C> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the group that owns all of these")]
    pub(crate) fn new(
        source: S,
        tracker: Tracker,
        handler: Arc<H>,
        checkpoints: Arc<C>,
        options: Options,
        (shards, shard_tasks): (Vec<flume::Sender<ToShardOf<H>>>, ShardTasks),
        done: flume::Receiver<FromShard>,
        stats: Arc<Stats>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        // One answer per save and partition set; saves are not repeated before their answer, so a handful is plenty.
        let (saved_tx, saved_rx) = flume::bounded(1024);
        let now = Instant::now();
        let to_send = shards.iter().map(|_| Vec::new()).collect();
        let pacer = PollPacer::new(MAX_POLL_RECORDS, options.max_in_flight_records);
        Self {
            source,
            tracker,
            handler,
            checkpoints,
            options,
            shards,
            to_send,
            done,
            saved_tx,
            saved_rx,
            stats,
            stop,
            unassigned: Vec::new(),
            retry_at: now,
            retry_back_off: assignment::RETRY_BACK_OFF.0,
            saved_at: now,
            polled_at: now,
            poll_interval_ms: 0,
            pacer,
            started_at: now,
            halted_until: None,
            unowned_since: None,
            polled: Vec::new(),
            held: Vec::new(),
            rolled_back: Vec::new(),
            finishing: Vec::new(),
            other_logs: HashMap::new(),
            begun: HashMap::new(),
            used_skips: BTreeSet::new(),
            reassigned: Vec::new(),
            shard_tasks,
        }
    }

    /// Runs until the group is stopped. A panic ends it with an error that names the next offset of each partition: what stands there is
    /// what made it panic, if a record did.
    pub(crate) fn run(&mut self) -> Result<(), SourceError> {
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.run_until_stopped())) {
            Ok(ended) => ended,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
                let (text, next) = (text.unwrap_or_default(), self.next_offsets().join(", "));
                Err(SourceError::fatal(
                    "poll",
                    format!(
                        "panicked: {text}; next offsets: {next}; --skip-to TOPIC/PARTITION@OFFSET passes a record over"
                    ),
                ))
            }
        }
    }

    /// The offset that each partition expects next, as `topic/0@5`: behind what the last poll returned.
    fn next_offsets(&self) -> Vec<String> {
        let next = |status: PartitionStatus| {
            let polled = self.polled.iter().filter_map(|polled| match polled {
                Polled::Record(record) | Polled::Rejected(record, _) if record.partition == status.partition => {
                    Some(record.offset + 1)
                }
                _ => None,
            });
            format!("{}@{}", status.partition, polled.fold(status.next_offset, Offset::max))
        };
        self.tracker.status().into_iter().map(next).collect()
    }

    fn run_until_stopped(&mut self) -> Result<(), SourceError> {
        while !self.stop.load(Ordering::Acquire) {
            self.take_completions();
            self.apply_pauses();
            self.start_finished();
            self.retry_unassigned();
            self.maintain()?;
            self.poll()?;
            self.process_polled();
        }
        let (partitions, until) = (self.tracker.partitions(), Instant::now() + self.options.stop_timeout);
        self.drain_and_save(&partitions, self.options.stop_timeout);
        self.drain_earlier_logs(until);
        // Partitions that were assigned by the coordinator and never started are given back, or the source would wait for their answer.
        let mut unassigned = std::mem::take(&mut self.unassigned);
        unassigned.extend(self.finishing.drain(..).map(|finishing| finishing.partition));
        if !unassigned.is_empty() {
            self.unassign(&unassigned);
        }
        // Those of the last second: no maintenance follows.
        self.stats.invariant_violations.add(std::mem::take(&mut self.tracker.violations));
        Ok(())
    }

    /// Takes the completions and the durable checkpoints that have arrived.
    fn take_completions(&mut self) {
        while let Ok(message) = self.done.try_recv() {
            self.completed(message);
        }
        while let Ok(saved) = self.saved_rx.try_recv() {
            self.checkpoints_saved(&saved);
        }
    }

    fn completed(&mut self, message: FromShard) {
        match message {
            FromShard::Completed(tickets) => {
                self.stats.completed.add(tickets.len() as u64);
                tickets.iter().for_each(|ticket| self.tracker.complete(ticket));
            }
            FromShard::Abandoned(tickets) => {
                self.stats.abandoned.add(tickets.len() as u64);
                tickets.iter().for_each(|ticket| self.tracker.abandon(ticket));
            }
            FromShard::Halted(reason) => {
                let detail = format!("{}: {}", reason.code, reason.message);
                self.stats.active_alerts.raise(AlertKind::HandlerFailing, WHOLE_GROUP, detail);
                self.halted_until = Some(Instant::now() + HALT_TIME);
            }
        }
    }

    fn checkpoints_saved(&mut self, saved: &DurableCheckpoints) {
        let current = self.tracker.saved(saved);
        if !current.is_empty() {
            self.source.checkpointed(&current);
        }
    }

    fn apply_pauses(&mut self) {
        let (pause, resume) = self.tracker.pauses();
        for (partitions, paused) in [(pause, true), (resume, false)] {
            // During a stall no partition is resumed by itself; the end of the stall resumes them all.
            if !partitions.is_empty()
                && (paused || !self.pacer.is_paused())
                && let Err(error) = self.source.pause(&partitions, paused)
            {
                tracing::warn!(%error, ?partitions, paused, "partitions were not paused or resumed");
            }
        }
    }

    /// Once a second: saves the checkpoints that moved, and refreshes what the group reports.
    fn maintain(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        if now < self.saved_at + self.options.checkpoint_interval {
            return Ok(());
        }
        self.saved_at = now;
        if self.shard_tasks.has_ended() {
            let next = self.next_offsets().join(", ");
            let why = format!("a shard's task panicked, or its runtime was shut down; next offsets: {next}");
            return Err(SourceError::fatal("run the shards", why));
        }
        self.save();
        let (records, bytes) = self.tracker.in_flight();
        self.stats.in_flight_records.set(records);
        self.stats.in_flight_bytes.set(bytes);
        self.stats.invariant_violations.add(std::mem::take(&mut self.tracker.violations));
        self.tracker.set_end_offsets(&self.source.end_offsets());
        let trouble = self.source.trouble();
        self.check_ownership(now, trouble.as_ref());
        self.stats.set_trouble(trouble);
        let status = self.tracker.status();
        self.rolled_back.retain(|(partition, at)| {
            let caught_up = status.iter().any(|status| status.partition == *partition && status.checkpoint >= *at);
            if caught_up {
                self.stats.active_alerts.clear(AlertKind::StateRolledBack, &partition.to_string());
            }
            !caught_up
        });
        self.stats.set_status(status);
        self.stats.set_hot_keys(self.tracker.hot_keys(MAX_HOT_KEYS));
        self.stats.poll_interval_ms.set(self.poll_interval_ms);
        self.poll_interval_ms = 0;
        Ok(())
    }

    /// Stops intake when the group must own every partition and has not for too long, so that nobody takes a part of the topics for the
    /// whole.
    fn check_ownership(&mut self, now: Instant, trouble: Option<&String>) {
        let Some(require_after) = self.options.require_full_assignment_after else { return };
        let mut unowned = self.source.unowned_partitions();
        let is_finishing =
            |partition: &TopicPartition| self.finishing.iter().any(|finishing| finishing.partition == *partition);
        unowned.retain(|partition| !self.unassigned.contains(partition) && !is_finishing(partition));
        if unowned.is_empty() {
            if self.unowned_since.take().is_some_and(|(_, is_too_long)| is_too_long) {
                tracing::warn!("this member owns every partition again");
                self.stats.active_alerts.clear(AlertKind::GroupShared, WHOLE_GROUP);
                self.stats.active_alerts.clear(AlertKind::Unassigned, WHOLE_GROUP);
            }
            self.stats.unowned_partitions.set(0);
            return;
        }
        let (since, is_too_long) = self.unowned_since.get_or_insert((now, false));
        if now < *since + require_after {
            return;
        }
        if !*is_too_long {
            tracing::error!(?unowned, trouble, "this member does not own all partitions: intake stops");
        }
        *is_too_long = true;
        self.stats.unowned_partitions.set(unowned.len() as u64);
        let alerts = &self.stats.active_alerts;
        let is_without = self.tracker.partitions().is_empty();
        if let Some(trouble) = trouble.filter(|_| is_without) {
            alerts.clear(AlertKind::GroupShared, WHOLE_GROUP);
            return alerts.raise(AlertKind::Unassigned, WHOLE_GROUP, trouble.clone());
        }
        alerts.clear(AlertKind::Unassigned, WHOLE_GROUP);
        let detail = if is_without {
            String::from(
                "no partition is assigned to this member: the group coordinator is unreachable, or another member owns them all",
            )
        } else {
            format!("{} partitions are owned by another member of this group: stop that member", unowned.len())
        };
        alerts.raise(AlertKind::GroupShared, WHOLE_GROUP, detail);
    }

    fn save(&mut self) {
        let moved = self.tracker.take_unsaved();
        if !moved.is_empty() {
            self.checkpoints.save(&self.source.cluster(), moved, self.saved_tx.clone());
        }
    }

    /// True while intake is stopped because a handler asked to halt.
    fn is_halted(&mut self) -> bool {
        let is_halted = self.halted_until.is_some_and(|until| Instant::now() < until);
        if !is_halted && self.halted_until.take().is_some() {
            self.stats.active_alerts.clear(AlertKind::HandlerFailing, WHOLE_GROUP);
        }
        is_halted
    }

    fn poll(&mut self) -> Result<(), SourceError> {
        let is_shared = self.unowned_since.is_some_and(|(_, is_too_long)| is_too_long);
        let free_credits = if self.is_halted() || is_shared { 0 } else { self.tracker.free_credits() };
        if free_credits > 0 && !self.held.is_empty() {
            // What was read already is taken first. It leaves no credits, or nothing that waits: the source is polled in the next round.
            return Ok(());
        }
        let pause = self.pacer.wants_pause(free_credits, self.started_at.elapsed());
        self.pause_all(pause);
        let PollAction::Poll { max } = self.pacer.next_action(free_credits, self.started_at.elapsed()) else {
            self.wait_for_completion();
            return Ok(());
        };
        let interval_ms = u64::try_from(self.polled_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.poll_interval_ms = self.poll_interval_ms.max(interval_ms);
        self.polled_at = Instant::now();
        let polled = self.source.poll(max, POLL_WAIT, &mut self.polled);
        if max == 0 {
            // A poll for callbacks alone returns at once, so the wait is here.
            self.wait_for_completion();
        }
        match polled {
            Ok(()) => Ok(()),
            Err(error @ SourceError::Transient { .. }) => {
                self.stats.source_errors.increment();
                tracing::warn!(%error, "the source had an error and is polled again");
                Ok(())
            }
            Err(fatal) => Err(fatal),
        }
    }

    fn wait_for_completion(&mut self) {
        if let Ok(message) = self.done.recv_timeout(POLL_WAIT) {
            self.completed(message);
        }
    }

    /// Begins or ends a stall.
    fn pause_all(&mut self, paused: bool) {
        if self.pacer.is_paused() == paused {
            return;
        }
        let status = self.tracker.status();
        let partitions: Vec<_> = status.into_iter().filter(|s| !s.paused).map(|s| s.partition).collect();
        match self.source.pause(&partitions, paused) {
            Ok(()) => self.pacer.set_paused(paused),
            Err(error) => tracing::warn!(%error, paused, "the source was not paused or resumed"),
        }
    }

    /// Takes what was polled, as long as there are credits: one record may be many parts, and the others of its poll wait. What the coordinator
    /// says does not wait, and what waits of a partition that is taken away or assigned anew is read again. That a partition is out of range waits for
    /// its turn: what stands before it may be of an earlier log, which nobody reads again.
    fn process_polled(&mut self) {
        let mut results = std::mem::take(&mut self.held);
        results.append(&mut self.polled);
        self.reassigned.clear();
        for polled in results {
            let of_log = partition_of(&polled);
            if of_log.is_some_and(|partition| self.reassigned.contains(partition)) {
                continue;
            }
            if of_log.is_some() && self.must_wait(&polled) {
                self.held.push(polled);
                continue;
            }
            match polled {
                Polled::Record(record) => self.record(record, None),
                Polled::Rejected(record, reason) => self.record(record, Some(reason)),
                Polled::Assigned(partitions) => self.start(partitions),
                Polled::Revoking(partitions) => {
                    self.drain_and_save(&partitions, self.options.revoke_timeout);
                    self.unassign(&partitions);
                }
                Polled::Lost(partitions) => {
                    tracing::warn!(?partitions, "partitions were lost: another member may own them already");
                    self.unassign(&partitions);
                }
                Polled::CaughtUp(partition, end) => self.tracker.caught_up(&partition, end),
                Polled::Damaged(partition, offset) => {
                    tracing::error!(%partition, offset, "a record cannot be read: its partition is paused until an operator skips it");
                    let detail = format!("the record at offset {offset} cannot be read");
                    self.stats.active_alerts.raise(AlertKind::PartitionDamaged, &partition.to_string(), detail);
                    self.tracker.mark_damaged(&partition);
                }
                Polled::OutOfRange(partition, offsets) => self.out_of_range(partition, offsets),
            }
        }
        self.send();
    }

    /// True for what cannot be taken now, and for all behind it.
    fn must_wait(&self, polled: &Polled) -> bool {
        let is_record = matches!(polled, Polled::Record(_) | Polled::Rejected(..));
        !self.held.is_empty() || (is_record && self.tracker.free_credits() == 0)
    }

    /// Forgets what waits of partitions that are assigned anew or not any more: it is read again, by whoever owns them.
    fn drop_held(&mut self, partitions: &[TopicPartition]) {
        self.held.retain(|polled| partition_of(polled).is_none_or(|partition| !partitions.contains(partition)));
    }

    fn send(&mut self) {
        for (shard, records) in self.to_send.iter_mut().enumerate() {
            if !records.is_empty() {
                self.stats.taken.add(records.len() as u64);
                // Never full: the channel has room for every credit. Disconnected only when the runtime is gone.
                let _runtime_ended = self.shards[shard].send(ToShard::Inputs(std::mem::take(records)));
            }
        }
    }
}
