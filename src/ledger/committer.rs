//! The one writer: an OS thread that folds whatever has arrived into one atomic batch, fsyncs it, and only then reports anything.
//!
//! ```text
//!   shards: key batches --+
//!   HTTP, sockets: events +--flume--> BatchBuilder --> one batch --> fsync --> durable: observers, embedded log, replies
//!   poll thread:          |
//!   checkpoints         --+
//!   cursors (lazy) -------+
//! ```
//!
//! Grouping needs no timer: while one fsync runs, the next batch gathers. A write or fsync error is reported to the [`FailureObserver`] once, which ends the
//! process; no reply is sent after it, so no caller takes for durable what is not. A damaged row does not: it would end the process again after
//! each restart, and with it the service of all stores. No function here can return one (see `disk`).

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use orderbell_consumers::{Begin, Checkpoint, DurableCheckpoints, Loss, TopicPartition};
use orderbell_protocol::balance::BinDelta;
use orderbell_protocol::{DeviceId, Recipient, UnixMs};
use tokio::sync::{Notify, oneshot};
use tracing::field::Empty;

use super::at_work::AtWork;
use super::balance::{Bins, SeenBin};
use super::checkpoints::Checkpoints;
use super::connected::Connected;
use super::counter_notifier::CounterNotifier;
use super::delivery_log::PendingSteps;
use super::devices::CursorWriter;
use super::disk::{DatabaseError, Disk};
use super::effects::{Appended, KeyBatchEffects, NewEvent};
use super::embedded_log::GrowthSignal;
use super::free_space::FreeSpaceMonitor;
use super::history::HistoryEnds;
use super::keys;
use super::log_numbers::LogNumbers;
use super::losses::{Losses, StoredLoss};
use super::mailbox_limit::MailboxLimit;
use super::mailboxes::MailboxObserver;
use super::outbox::PublishTo;
use super::pending_cursors::PendingCursors;
use super::retention::Retention;
use super::tables::RowKind;
use super::write_batch::{BatchBuilder, CommittedBatch};
use crate::crash;

/// Work items folded into one batch: bounds how long an fsync's callers wait for each other.
const WORK_PER_BATCH_MAX: usize = 4096;
/// Interval at which cursors and the delivery log are written, and at which retention advances while it is not behind.
const TICK: Duration = Duration::from_millis(500);
/// While retention is behind, it rests for so many times as long as its last step took: it takes at most a fifth of the writer's time.
const RETENTION_REST: u32 = 4;

/// What the writer does, as its panic says.
const WRITING: &str = "writing the effects";
const RETAINING: &str = "removing what is too old";

/// Something to write, and whom to reply to when it is durable.
pub(crate) enum Work {
    KeyBatch(KeyBatchEffects, oneshot::Sender<()>),
    Append(Vec<NewEvent>, oneshot::Sender<Vec<Appended>>),
    /// Checkpoints of a cluster, and the number of the records without state that they pass.
    Checkpoints(String, Vec<(TopicPartition, Checkpoint)>, Option<u64>, flume::Sender<DurableCheckpoints>),
    /// How partitions of a cluster begin, and the number of the records without state that are never read again.
    Begin(String, Vec<Begin>, Option<u64>, flume::Sender<DurableCheckpoints>),
    BalanceAcknowledged(Vec<SeenBin>, oneshot::Sender<()>),
    LossesAcknowledged(Vec<StoredLoss>, oneshot::Sender<()>),
    DeadLetter(Vec<u8>, oneshot::Sender<()>),
    OutboxDelivered(Vec<u64>, oneshot::Sender<()>),
    /// Number of an entry that became this dead letter, and what it changes in the balance.
    OutboxRefused(u64, Vec<u8>, Vec<BinDelta>, oneshot::Sender<()>),
    FinishRebuild(oneshot::Sender<()>),
    /// Answered when the mark that the device may have received notices is durable.
    Connected((Recipient, DeviceId), oneshot::Sender<()>),
    /// Write the pending cursors with this batch.
    Cursors(oneshot::Sender<()>),
    Replay(Vec<NewEvent>, Vec<u64>, oneshot::Sender<()>),
}

/// What a batch has to do with cursors and the marks of connected devices.
struct LazyWrites {
    /// It writes what is pending.
    are_due: bool,
    /// The marks that it adds.
    marked: HashSet<(Recipient, DeviceId)>,
}

/// A reply that is sent once the batch is durable.
enum Reply {
    Done(oneshot::Sender<()>),
    Appended(oneshot::Sender<Vec<Appended>>, Vec<Appended>),
    Checkpoints(flume::Sender<DurableCheckpoints>, DurableCheckpoints, Vec<StoredLoss>),
    LossesAcknowledged(oneshot::Sender<()>, Vec<StoredLoss>),
}

/// Learns that the ledger cannot be written any more. The server implements it, and ends the process.
pub trait FailureObserver: Send + Sync + 'static {
    /// Called once; `why` is a sentence for the log.
    fn failed(&self, why: &str);
}

impl<F: Fn(&str) + Send + Sync + 'static> FailureObserver for F {
    fn failed(&self, why: &str) {
        self(why);
    }
}

pub(crate) struct Committer {
    pub(crate) disk: Arc<Disk>,
    pub(crate) rx: flume::Receiver<Work>,
    pub(crate) mailbox_observer: Arc<dyn MailboxObserver>,
    pub(crate) counter_notifier: CounterNotifier,
    pub(crate) cursors: Arc<PendingCursors>,
    pub(crate) connected: Connected,
    pub(crate) pending_steps: Arc<PendingSteps>,
    pub(crate) log_growth: Arc<GrowthSignal>,
    pub(crate) failure_observer: Arc<dyn FailureObserver>,
    pub(crate) cursor_writer: CursorWriter,
    pub(crate) retention: Retention,
    pub(crate) mailbox_limit: MailboxLimit,
    pub(crate) free_space: FreeSpaceMonitor,
    /// The newest seq that was given out.
    pub(crate) seq: u64,
    /// Number of the newest dead letter.
    pub(crate) dead_letters: u64,
    pub(crate) publish_to: PublishTo,
    /// Number of the next entry of the outbox.
    pub(crate) outbox: u64,
    pub(crate) outbox_grown: Arc<Notify>,
    pub(crate) losses: Losses,
    pub(crate) bins: Bins,
    pub(crate) log_numbers: LogNumbers,
    pub(crate) history_ends: HistoryEnds,
    pub(crate) at_work: AtWork,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        let failure_observer = self.failure_observer.clone();
        std::thread::Builder::new().name("committer".into()).spawn(move || {
            // A panic here is a bug. A process that goes on consuming without writing would be worse than one that ends.
            let run = std::panic::AssertUnwindSafe(|| self.run());
            if std::panic::catch_unwind(run).is_err() {
                failure_observer.failed(&format!("the committer panicked {}", self.at_work));
            }
        })
    }

    /// Runs until every sender is gone; then writes what is left.
    fn run(&mut self) {
        let mut tick_at = Instant::now() + TICK;
        let mut retention_at = tick_at;
        loop {
            let first = match self.rx.recv_deadline(tick_at.min(retention_at)) {
                Ok(work) => Some(work),
                Err(flume::RecvTimeoutError::Timeout) => None,
                Err(flume::RecvTimeoutError::Disconnected) => {
                    let _last = self.write_batch(None, true);
                    return;
                }
            };
            if let Err(error) = self.write_and_retain(first, &mut tick_at, &mut retention_at) {
                self.failure_observer.failed(&format!("the ledger cannot be written: {error}"));
                return;
            }
        }
    }

    fn write_and_retain(
        &mut self,
        first: Option<Work>,
        tick_at: &mut Instant,
        retention_at: &mut Instant,
    ) -> Result<(), DatabaseError> {
        let tick = Instant::now() >= *tick_at;
        if tick {
            *tick_at = Instant::now() + TICK;
        }
        if tick || first.is_some() {
            self.write_batch(first, tick)?;
        }
        if Instant::now() >= *retention_at {
            *retention_at = Instant::now() + self.retain()?;
        }
        Ok(())
    }

    fn write_batch(&mut self, first: Option<Work>, tick: bool) -> Result<(), DatabaseError> {
        self.at_work.begin(WRITING);
        let mut lazy = LazyWrites { are_due: tick, marked: HashSet::new() };
        let disk = self.disk.clone();
        let mut batch = BatchBuilder::new(&disk, self.publish_to, self.seq, self.outbox);
        let mut replies = Vec::new();
        let mut next = first;
        while let Some(work) = next.take() {
            self.at_work.take(&work);
            replies.push(self.add(&mut batch, &mut lazy, work)?);
            if replies.len() < WORK_PER_BATCH_MAX {
                next = self.rx.try_recv().ok();
            }
        }
        if lazy.are_due {
            self.connected.remove_ended(&lazy.marked, &mut batch);
            for cursors in self.cursors.begin_write() {
                self.cursor_writer.write(&disk.view(), &mut batch, &cursors)?;
            }
            self.pending_steps.begin_write(&mut batch, self.free_space.is_low());
        }
        if !replies.is_empty() {
            crash::point("batch");
        }
        let committed = commit(batch, &disk, self.seq)?;
        if !replies.is_empty() {
            crash::point("durable");
        }
        if lazy.are_due {
            self.cursors.end_write();
            self.pending_steps.end_write();
        }
        // After each batch: at full speed half a second of batches is more than the limit leaves.
        self.free_space.check();
        self.report(committed, replies);
        Ok(())
    }

    /// A step of retention, in a batch of its own: it reads durable rows only, and no caller waits for its fsync. Returns how long to wait
    /// before the next one.
    fn retain(&mut self) -> Result<Duration, DatabaseError> {
        let began = Instant::now();
        self.at_work.begin(RETAINING);
        let disk = self.disk.clone();
        let mut batch = BatchBuilder::new(&disk, self.publish_to, self.seq, self.outbox);
        let view = disk.view();
        let step = self.retention.step(&view, &mut batch, now())?;
        let is_behind = self.mailbox_limit.step(&view, &mut batch, now())? || step.is_behind;
        commit(batch, &disk, self.seq)?;
        self.cursor_writer.removed(&step.cursors);
        Ok(if is_behind { TICK.min(began.elapsed() * RETENTION_REST) } else { TICK })
    }

    fn add(&mut self, batch: &mut BatchBuilder<'_>, lazy: &mut LazyWrites, work: Work) -> Result<Reply, DatabaseError> {
        Ok(match work {
            Work::KeyBatch(effects, reply) => {
                let at = now();
                batch.add_effects(&effects, at)?;
                self.bins.change(&mut batch.bins, &effects.bin_deltas, at);
                Reply::Done(reply)
            }
            Work::Append(events, reply) => {
                let appended = self.append(batch, &events)?;
                Reply::Appended(reply, appended)
            }
            Work::Checkpoints(cluster, at, passed, reply) => {
                self.bins.change_by_passed(&mut batch.bins, passed);
                for (part, checkpoint) in &at {
                    batch.put_checkpoint(&cluster, part, *checkpoint, self.log_numbers.current(part));
                }
                Reply::Checkpoints(reply, at, Vec::new())
            }
            Work::Begin(cluster, partitions, unread, reply) => {
                let stored = self.begin(batch, &cluster, &partitions, unread)?;
                let at = partitions.into_iter().map(|begin| (begin.partition, begin.checkpoint)).collect();
                Reply::Checkpoints(reply, at, stored)
            }
            Work::BalanceAcknowledged(seen, reply) => {
                self.bins.acknowledge(&mut batch.bins, &seen, now());
                Reply::Done(reply)
            }
            Work::LossesAcknowledged(mut losses, reply) => {
                // One that has grown meanwhile was not seen by whoever acknowledges it.
                losses.retain(|loss| self.losses.holds(loss));
                losses.iter().for_each(|loss| batch.remove_row(RowKind::Loss, &loss.key()));
                Reply::LossesAcknowledged(reply, losses)
            }
            Work::OutboxDelivered(numbers, reply) => {
                batch.remove_from_outbox(&numbers);
                Reply::Done(reply)
            }
            Work::Replay(events, dead_letters, reply) => {
                let at = now();
                for event in &events {
                    batch.append(event, at)?;
                }
                dead_letters
                    .iter()
                    .for_each(|number| batch.remove_row(RowKind::DeadLetter, &keys::dead_letter(*number)));
                Reply::Done(reply)
            }
            Work::FinishRebuild(reply) => {
                batch.remove_row(RowKind::Fact, keys::REBUILDING);
                Reply::Done(reply)
            }
            Work::Connected(device, reply) => {
                self.connected.mark(device, &mut lazy.marked, batch);
                Reply::Done(reply)
            }
            Work::Cursors(reply) => {
                lazy.are_due = true;
                Reply::Done(reply)
            }
            Work::DeadLetter(row, reply) => {
                self.put_dead_letter(batch, &row);
                Reply::Done(reply)
            }
            Work::OutboxRefused(number, row, deltas, reply) => {
                self.put_dead_letter(batch, &row);
                self.bins.change(&mut batch.bins, &deltas, now());
                batch.remove_from_outbox(&[number]);
                Reply::Done(reply)
            }
        })
    }

    /// What waited for the writer when space ran low is not written: the guard stands before the write, not only before the queue.
    fn append(&self, batch: &mut BatchBuilder<'_>, events: &[NewEvent]) -> Result<Vec<Appended>, DatabaseError> {
        if self.free_space.is_low() {
            return Ok(vec![Appended::DiskLow; events.len()]);
        }
        let at = now();
        events.iter().map(|event| batch.append(event, at)).collect()
    }

    /// Partitions begin: their new checkpoints, what their logs lost, and where their history ends. Returns the losses as they are stored.
    fn begin(
        &mut self,
        batch: &mut BatchBuilder<'_>,
        cluster: &str,
        partitions: &[Begin],
        unread: Option<u64>,
    ) -> Result<Vec<StoredLoss>, DatabaseError> {
        self.bins.change_by_passed(&mut batch.bins, unread);
        let parts: Vec<TopicPartition> = partitions.iter().map(|begin| begin.partition.clone()).collect();
        // The poll thread waits for each begin and for each save before it: both are durable, and a batch holds no two of one partition.
        let stored = Checkpoints(&self.disk).of(cluster, &parts)?;
        self.history_ends.load(&self.disk, cluster, &parts)?;
        let at = now();
        let mut losses = Vec::new();
        for (begin, stored) in partitions.iter().zip(stored) {
            let Begin { partition, checkpoint, is_new, loss, handled_before, skip_to } = begin;
            let is_another_log = loss.is_some_and(Loss::is_another_log);
            let stored = stored.map(|(_, log_number)| log_number);
            let log_number = self.log_numbers.begin(partition, stored, is_another_log);
            if *is_new {
                self.bins.start(&mut batch.bins, partition, *checkpoint);
                batch.put_checkpoint(cluster, partition, *checkpoint, log_number);
            }
            let history_end = keys::history_end(cluster, partition);
            if let Some(end) = handled_before {
                self.history_ends.set(partition, Some(*end));
                batch.put_row(RowKind::HistoryEnd, &history_end, &end.to_be_bytes());
            } else if is_another_log {
                // It was about the offsets of the earlier log.
                self.history_ends.set(partition, None);
                batch.remove_row(RowKind::HistoryEnd, &history_end);
            }
            let used_skip = keys::used_skip(cluster, partition);
            match (skip_to, Checkpoints(&self.disk).used_skip(cluster, partition)?) {
                (Some(at), stored) if stored != Some(*at) => {
                    batch.put_row(RowKind::UsedSkip, &used_skip, &at.to_be_bytes());
                }
                // Whoever names it again means it.
                (None, Some(_)) => batch.remove_row(RowKind::UsedSkip, &used_skip),
                (Some(_), _) | (None, None) => {}
            }
            losses.extend(loss.map(|loss| self.losses.add_to_stored(partition.clone(), loss, at)));
        }
        losses.iter().for_each(|loss| batch.put_row(RowKind::Loss, &loss.key(), &loss.encode()));
        Ok(losses)
    }

    fn put_dead_letter(&mut self, batch: &mut BatchBuilder<'_>, row: &[u8]) {
        self.dead_letters += 1;
        batch.put_row(RowKind::DeadLetter, &keys::dead_letter(self.dead_letters), row);
    }

    /// Everything is durable: now, and only now, observers and callers learn of it.
    fn report(&mut self, committed: Option<CommittedBatch>, replies: Vec<Reply>) {
        let mut counter_deltas = Vec::new();
        if let Some(committed) = committed {
            counter_deltas = committed.counter_deltas;
            self.seq = committed.seq;
            self.outbox = committed.outbox;
            if committed.outbox_grown {
                self.outbox_grown.notify_one();
            }
            self.bins.committed(committed.bins);
            self.mailbox_observer.changed(&committed.changed_mailboxes);
            if !committed.changed_mailboxes.is_empty() {
                crash::point("notified");
            }
            self.mailbox_limit.note_counts(committed.row_counts);
            if committed.log_grown {
                self.log_growth.notify();
            }
        }
        for reply in replies {
            // The caller may be gone meanwhile; what it asked for is durable all the same.
            match reply {
                Reply::Done(reply) => drop(reply.send(())),
                Reply::Appended(reply, appended) => drop(reply.send(appended)),
                Reply::Checkpoints(reply, saved, losses) => {
                    losses.into_iter().for_each(|loss| self.losses.insert(loss));
                    drop(reply.try_send(saved));
                }
                Reply::LossesAcknowledged(reply, losses) => {
                    losses.iter().for_each(|loss| self.losses.remove(loss));
                    let _gone_meanwhile = reply.send(());
                }
            }
            crash::point("answered");
        }
        // After every caller that waits: the wall is not urgent.
        if !counter_deltas.is_empty() {
            self.counter_notifier.add(counter_deltas, &self.disk);
        }
    }
}

/// Commits a batch in a span of its own: what it wrote is known when it is durable.
pub(crate) fn commit(batch: BatchBuilder<'_>, disk: &Disk, seq: u64) -> Result<Option<CommittedBatch>, DatabaseError> {
    let span = tracing::debug_span!("commit", number = Empty, rows = Empty, bytes = Empty).entered();
    let committed = batch.commit(seq)?;
    if let Some(committed) = &committed
        && !span.is_disabled()
    {
        span.record("number", disk.newest_commit()).record("rows", committed.rows).record("bytes", committed.bytes);
        tracing::debug!("durable");
    }
    Ok(committed)
}

pub(crate) fn now() -> UnixMs {
    UnixMs(orderbell_consumers::clock::unix_ms())
}

#[cfg(test)]
mod tests {
    use orderbell_lab::log_capture::LogCapture;
    use serde_json::json;

    use super::super::disk::UncheckedDisk;
    use super::*;

    #[test]
    fn a_commit_says_its_number_rows_and_bytes_at_debug_and_nothing_above() {
        let dir = tempfile::tempdir().unwrap();
        let disk = UncheckedDisk::open(dir.path()).unwrap().into_disk().unwrap();
        let commit_rows = |rows: &[&[u8]]| {
            let mut batch = BatchBuilder::new(&disk, PublishTo::EmbeddedLog, 0, 0);
            rows.iter().for_each(|key| batch.put_row(RowKind::OrderState, key, b"value"));
            commit(batch, &disk, 0).unwrap();
        };
        let span = |rows: &[&[u8]]| {
            let log = LogCapture::at(tracing::Level::DEBUG);
            commit_rows(rows);
            log.line("durable")["span"].clone()
        };
        let nothing_logged = |level: tracing::Level, rows: &[&[u8]]| {
            let log = LogCapture::at(level);
            commit_rows(rows);
            assert_eq!(log.text(), "");
        };
        assert_eq!(span(&[b"\0o1", b"\0o2"]), json!({"name": "commit", "number": 1, "rows": 2, "bytes": 16}));
        nothing_logged(tracing::Level::INFO, &[b"\0o3"]);
        assert_eq!(span(&[b"\0o44"]), json!({"name": "commit", "number": 3, "rows": 1, "bytes": 9}));
        // A batch without writes commits nothing.
        nothing_logged(tracing::Level::DEBUG, &[]);
    }
}
