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
//! Grouping needs no timer: while one fsync runs, the next batch gathers. A write or fsync error calls `failed` once, which ends the
//! process; no reply is sent after it, so no caller takes for durable what is not. A damaged row does not: it would end the process again after
//! each restart, and with it the service of all stores. No function here can return one (see `disk`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use orderbell_consumers::{Checkpoint, DurableCheckpoints, Loss, TopicPartition};
use orderbell_protocol::balance::{BinDelta, BinKey};
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Recipient, UnixMs};
use tokio::sync::{Notify, oneshot};
use tracing::field::Empty;

use super::balance::BinRows;
use super::connected::Connected;
use super::counter_notifier::CounterNotifier;
use super::delivery_log::PendingSteps;
use super::devices::{CursorWriter, Cursors, StoredCursor};
use super::disk::{DatabaseError, Disk};
use super::effects::{Appended, KeyBatchEffects, NewEvent};
use super::embedded_log::GrowthSignal;
use super::free_space::FreeSpaceMonitor;
use super::keys;
use super::losses::{Losses, StoredLoss};
use super::mailbox_limit::MailboxLimit;
use super::mailboxes::MailboxObserver;
use super::outbox::PublishTo;
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

/// Something to write, and whom to reply to when it is durable.
pub(crate) enum Work {
    KeyBatch(KeyBatchEffects, oneshot::Sender<()>),
    Append(Vec<NewEvent>, oneshot::Sender<Vec<Appended>>),
    /// Checkpoints of a cluster, what the log lost of their partitions, and records without state that they pass.
    Checkpoints(
        String,
        Vec<(TopicPartition, Checkpoint)>,
        Vec<(TopicPartition, Loss)>,
        Vec<BinDelta>,
        flume::Sender<DurableCheckpoints>,
    ),
    BalanceAcknowledged(Vec<(BinKey, i64)>, oneshot::Sender<()>),
    LossesAcknowledged(Vec<StoredLoss>, oneshot::Sender<()>),
    DeadLetter(Vec<u8>, oneshot::Sender<()>),
    OutboxDelivered(Vec<u64>, oneshot::Sender<()>),
    FinishRebuild(oneshot::Sender<()>),
    /// The device is connected.
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

/// Cursors that are not durable yet. Losing them costs redeliveries.
#[derive(Default)]
pub(crate) struct PendingCursors(Mutex<PendingCursorsInner>);

#[derive(Default)]
struct PendingCursorsInner {
    waiting: Cursors,
    /// In the batch that is being written: readers see them here until the snapshot shows them.
    writing: Arc<Cursors>,
}

impl PendingCursors {
    /// Returns the highest `sent_seq` of the device that was pending.
    pub(crate) fn save(&self, who: &Recipient, device: &DeviceId, cursor: Cursor, used: UnixMs) -> u64 {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        let pending = [inner.waiting.get(&key), inner.writing.get(&key)];
        let sent = pending.into_iter().flatten().map(|stored| stored.cursor.sent_seq).max().unwrap_or(0);
        // A socket and a poll of one device may both save: the further one counts, within an epoch.
        let further = |old: Cursor| Cursor {
            acked: if old.acked.epoch == cursor.acked.epoch && old.acked.seq > cursor.acked.seq {
                old.acked
            } else {
                cursor.acked
            },
            sent_seq: old.sent_seq.max(cursor.sent_seq),
        };
        let slot = inner.waiting.entry(key).or_insert(StoredCursor { cursor, used });
        *slot = StoredCursor { cursor: further(slot.cursor), used };
        sent
    }

    /// The newest cursor that is not durable yet.
    pub(crate) fn newest(&self, who: &Recipient, device: &DeviceId) -> Option<Cursor> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        inner.waiting.get(&key).or_else(|| inner.writing.get(&key)).map(|stored| stored.cursor)
    }

    /// Takes what is waiting. The lock is held for two moves: every acknowledgement takes it.
    fn begin_write(&self) -> Arc<Cursors> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.writing = Arc::new(std::mem::take(&mut inner.waiting));
        inner.writing.clone()
    }

    fn end_write(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = std::mem::take(&mut inner.writing);
        drop(inner);
        // Freed without the lock.
        drop(written);
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
    pub(crate) failed: Arc<dyn Fn(&str) + Send + Sync>,
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
    pub(crate) bin_rows: BinRows,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        let failed = self.failed.clone();
        std::thread::Builder::new().name("committer".into()).spawn(move || {
            // A panic here is a bug. A process that goes on consuming without writing would be worse than one that ends.
            let run = std::panic::AssertUnwindSafe(|| self.run());
            if std::panic::catch_unwind(run).is_err() {
                failed("the committer panicked");
            }
        })
    }

    /// Runs until every sender is gone; then writes what is left.
    fn run(mut self) {
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
            if let Err(error) = self.turn(first, &mut tick_at, &mut retention_at) {
                (self.failed)(&format!("the ledger cannot be written: {error}"));
                return;
            }
        }
    }

    fn turn(
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
        let mut lazy = LazyWrites { are_due: tick, marked: HashSet::new() };
        let disk = self.disk.clone();
        let mut batch = BatchBuilder::new(&disk, self.publish_to, self.seq, self.outbox);
        let mut replies = Vec::new();
        let mut next = first;
        while let Some(work) = next.take() {
            replies.push(self.add(&mut batch, &mut lazy, work)?);
            if replies.len() < WORK_PER_BATCH_MAX {
                next = self.rx.try_recv().ok();
            }
        }
        if lazy.are_due {
            self.connected.remove_ended(&lazy.marked, &mut batch);
            self.cursor_writer.write(&disk.view(), &mut batch, &self.cursors.begin_write())?;
            self.pending_steps.begin_write(&mut batch);
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
        self.report(committed, replies);
        if tick {
            self.free_space.check();
        }
        Ok(())
    }

    /// A step of retention, in a batch of its own: it reads durable rows only, and no caller waits for its fsync. Returns how long to wait
    /// before the next one.
    fn retain(&mut self) -> Result<Duration, DatabaseError> {
        let began = Instant::now();
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
                self.bin_rows.change(&mut batch.bins, &effects.bin_deltas, at);
                Reply::Done(reply)
            }
            Work::Append(events, reply) => {
                let at = now();
                let appended = events.iter().map(|event| batch.append(event, at)).collect::<Result<_, _>>()?;
                Reply::Appended(reply, appended)
            }
            Work::Checkpoints(cluster, at, losses, passed, reply) => {
                at.iter().for_each(|(part, checkpoint)| batch.put_checkpoint(&cluster, part, *checkpoint));
                // The poll thread waits for each loss to be durable: a batch holds no two of one kind and partition.
                let at_now = now();
                self.bin_rows.change(&mut batch.bins, &passed, at_now);
                let stored = losses.into_iter().map(|(part, loss)| self.losses.add_to_stored(part, loss, at_now));
                let stored: Vec<_> = stored.collect();
                stored.iter().for_each(|loss| batch.put_row(RowKind::Loss, &loss.key(), &loss.encode()));
                Reply::Checkpoints(reply, at, stored)
            }
            Work::BalanceAcknowledged(counts, reply) => {
                self.bin_rows.acknowledge(&mut batch.bins, &counts);
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
                self.dead_letters += 1;
                batch.put_row(RowKind::DeadLetter, &keys::dead_letter(self.dead_letters), &row);
                Reply::Done(reply)
            }
        })
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
            self.bin_rows.committed(committed.bins);
            self.mailbox_observer.changed(&committed.changed_mailboxes);
            if !committed.changed_mailboxes.is_empty() {
                crash::point("notified");
            }
            self.mailbox_limit.note_counts(committed.row_counts);
            if committed.log_grown {
                self.log_growth.wake();
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
            self.counter_notifier.add(counter_deltas, self.disk.newest_commit());
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
    use super::super::disk::UncheckedDisk;
    use super::*;
    use std::io;

    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_commit_says_its_number_rows_and_bytes_at_debug_and_nothing_above() {
        let dir = tempfile::tempdir().unwrap();
        let disk = UncheckedDisk::open(dir.path()).unwrap().into_disk().unwrap();
        let logged = |level: tracing::Level, rows: &[&[u8]]| {
            let bytes = Arc::<Mutex<Vec<u8>>>::default();
            let writer = bytes.clone();
            let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
            let log = log.with_writer(move || Writer(writer.clone())).finish();
            tracing::subscriber::with_default(log, || {
                let mut batch = BatchBuilder::new(&disk, PublishTo::EmbeddedLog, 0, 0);
                rows.iter().for_each(|key| batch.put_row(RowKind::OrderState, key, b"value"));
                commit(batch, &disk, 0).unwrap();
            });
            let text = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
            text.split_once("commit{").map(|(_, fields)| fields.split_once('}').unwrap().0.to_owned())
        };
        assert_eq!(logged(tracing::Level::DEBUG, &[b"\0o1", b"\0o2"]).as_deref(), Some("number=1 rows=2 bytes=16"));
        assert_eq!(logged(tracing::Level::INFO, &[b"\0o3"]), None);
        assert_eq!(logged(tracing::Level::DEBUG, &[b"\0o44"]).as_deref(), Some("number=3 rows=1 bytes=9"));
        assert_eq!(logged(tracing::Level::DEBUG, &[]), None, "a batch without writes commits nothing");
    }
}
