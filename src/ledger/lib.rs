//! The ledger: all state that must survive a `kill -9`.
//!
//! Orders, mailboxes, cursors, checkpoints, the embedded log, dead letters: one fjall database in one directory, written by one
//! committer and read through snapshots of what is durable. The ledger imports nothing of sockets or Kafka and does not interpret the
//! state of an order: it stores bytes.
//!
//! One process per directory (a lock file), one format (older and newer ones are refused), one epoch (drawn when the ledger is created, and
//! again whenever its history cannot be trusted).

mod backup;
mod committer;
mod consumer_impls;
mod counter_notifier;
pub mod counters;
pub mod crash;
mod dead_letters;
mod delivery_log;
mod device_backlog;
mod devices;
mod disk;
mod effects;
pub mod embedded_log;
mod free_space;
mod integrity;
mod keys;
mod mailbox;
mod mailbox_limit;
mod maintenance;
mod offline;
mod open;
mod outbox;
mod retention;
mod tables;
mod write_batch;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use orderbell_consumers::{Checkpoint, TopicPartition};
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Id, MailboxPage, Position, Recipient, UnixMs};
use tokio::sync::{Notify, oneshot};

use committer::{Committer, PendingCursors, Work};
use counter_notifier::CounterNotifier;
pub use counters::{Bucket, CounterDelta, CounterSums};
pub use dead_letters::{HexBytes, StoredBytes, StoredDeadLetter};
use delivery_log::DeliveryLog;
pub use delivery_log::{DeliveryHistory, DeliveryStep, LoggedNotice};
pub use device_backlog::{Backlog, DeviceBacklog};
use devices::CursorWriter;
pub use disk::DiskError;
use disk::{Disk, Table};
pub use effects::{Appended, KeyBatchEffects, LedgerFailed, NewEvent, NewNotice};
use embedded_log::{EmbeddedLogSource, GrowthSignal};
use free_space::{FreeSpaceMonitor, LedgerLimits, LowSpaceFlag};
pub use keys::OrderKey;
use mailbox::Mailbox;
pub use mailbox::MailboxError;
use mailbox_limit::{MailboxLimit, Overflows};
pub use maintenance::LedgerReport;
pub use offline::OfflineLedger;
pub use outbox::{OutboxEntry, PublishTo};
use retention::Retention;

/// The format that this program reads and writes. Any other on disk is refused.
const FORMAT: u32 = 5;
/// Work items that may wait for the committer. A shard waits when it is full: backpressure up to the source.
const WORK_MAX: usize = 16_384;

/// Is notified when mailboxes change. The hub implements it; the ledger imports nothing of the hub.
pub trait MailboxObserver: Send + Sync + 'static {
    /// These recipients' mailboxes hold new notices, durably.
    fn changed(&self, recipients: &[Recipient]);
}

/// Is given the counters. The wall implements it; the ledger imports nothing of the wall.
pub trait CounterObserver: Send + Sync + 'static {
    /// The sums of one bucket as they are durable at the start, before any change; `commit` is the number of the newest commit.
    fn loaded(&self, shadow: bool, bucket: &Bucket, sums: &CounterSums, commit: u64);
    /// These changes are durable; `commit` is the number of the newest commit among those that wrote them. Called on a thread of its own, so
    /// it may wait for a lock.
    fn changed(&self, deltas: &[CounterDelta], commit: u64);
}

/// For whoever shows no counters: they are summed in the ledger all the same.
#[derive(Debug)]
pub struct NoCounterObserver;

impl CounterObserver for NoCounterObserver {
    fn loaded(&self, _shadow: bool, _bucket: &Bucket, _sums: &CounterSums, _commit: u64) {}
    fn changed(&self, _deltas: &[CounterDelta], _commit: u64) {}
}

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the lock.
    #[error("{} is in use by another process: only one process may open a ledger", .0.display())]
    InUse(PathBuf),
    /// A newer program wrote it.
    #[error("{} was written by a newer version (format {found}; this program reads format {FORMAT})", .dir.display())]
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// An older program wrote it. No older format was ever released, so none is converted.
    #[error(
        "{} was written by an older version (format {found}; this program reads format {FORMAT}). Start with an empty directory: with Kafka, \
         the topics are read again from `state_retention` ago",
        .dir.display()
    )]
    Older {
        /// The data directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The directory cannot be created or read.
    #[error("{}: {source}", .dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The database cannot be opened or read.
    #[error("{}: {source}", .dir.display())]
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// What failed.
        source: DiskError,
    },
}

/// What is kept, for how long, and where Orderbell's own events go.
#[derive(Clone, Copy, Debug)]
pub struct LedgerOptions {
    /// Retention of event ids and of the embedded log. Milliseconds.
    pub state_retention_ms: i64,
    /// Rows of one mailbox. Above it, superseded and expired rows are trimmed, oldest first; live ones stay and raise an alert.
    pub max_mailbox_rows: u64,
    /// Free space on the ledger's file system below which intake stops. Bytes.
    pub min_free_space: u64,
    /// Retention of the delivery log; 0 keeps none. Milliseconds.
    pub timeline_retention_ms: i64,
    /// Where Orderbell's own events go.
    pub publish_to: PublishTo,
    /// The consumer group's offset is beyond the stored checkpoints, so this ledger is older than the one that saved it: begin a new epoch.
    pub rolled_back: bool,
}

/// A page of a recipient's open orders.
#[derive(Clone, Debug)]
pub struct OpenOrders {
    /// Their states, by order id.
    pub orders: Vec<(OrderKey, Vec<u8>)>,
    /// The newest position of the mailbox in the same snapshot.
    pub head: Position,
    /// The first order of the next page; none on the last page.
    pub next: Option<Id>,
}

/// An open ledger.
pub struct Ledger {
    disk: Arc<Disk>,
    work: Mutex<Option<flume::Sender<Work>>>,
    cursors: Arc<PendingCursors>,
    /// None when `timeline_retention_ms` is 0.
    delivery_log: Option<Arc<DeliveryLog>>,
    timeline_retention_ms: i64,
    log_growth: Arc<GrowthSignal>,
    overflows: Overflows,
    outbox_grown: Arc<Notify>,
    low_space: LowSpaceFlag,
    limits: Arc<LedgerLimits>,
    /// Why the history is not trusted, until the topics have been read again to their end.
    rebuild_reason: Mutex<Option<String>>,
    /// The same as one bit: it is read for every frame.
    is_rebuilding: AtomicBool,
    was_rebuilding_at_open: bool,
    epoch: u32,
    id: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `dir`, or creates it. `failed` is called once when the ledger can no longer be written: it must end the process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        dir: &Path,
        options: LedgerOptions,
        mailbox_observer: Arc<dyn MailboxObserver>,
        counter_observer: Arc<dyn CounterObserver>,
        failed: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = open::lock(dir)?;
        let disk_error = |source| OpenError::Disk { dir: dir.to_owned(), source };
        let (disk, damage) = open::open_verified(dir, options)?;
        let disk = Arc::new(disk);
        let meta = open::load_or_init_meta(&disk, dir, damage, options.state_retention_ms)?;
        for row in counters::recent(&disk.view(), committer::now()) {
            let (shadow, bucket, sums) = row.map_err(disk_error)?;
            counter_observer.loaded(shadow, &bucket, &sums, disk.newest_commit());
        }
        let (tx, rx) = flume::bounded(WORK_MAX);
        let cursors = Arc::new(PendingCursors::default());
        let delivery_log = Arc::new(DeliveryLog::default());
        let log_growth = Arc::new(GrowthSignal::default());
        let overflows = Overflows::default();
        let outbox_grown = Arc::new(Notify::new());
        let low_space = LowSpaceFlag::default();
        let limits = Arc::new(LedgerLimits {
            max_mailbox_rows: options.max_mailbox_rows.into(),
            min_free_space: options.min_free_space.into(),
        });
        let failed: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(failed);
        let committer = Committer {
            disk: disk.clone(),
            rx,
            mailbox_observer,
            counter_notifier: CounterNotifier::start(counter_observer, failed.clone()).map_err(io)?,
            cursors: cursors.clone(),
            delivery_log: delivery_log.clone(),
            log_growth: log_growth.clone(),
            failed: failed.clone(),
            cursor_writer: CursorWriter::default(),
            retention: Retention::new(options.state_retention_ms, options.timeline_retention_ms),
            free_space: FreeSpaceMonitor::new(dir.to_owned(), limits.clone(), low_space.clone()),
            mailbox_limit: MailboxLimit::new(limits.clone(), overflows.clone()),
            seq: meta.seq,
            dead_letters: meta.dead_letters,
            publish_to: options.publish_to,
            outbox: outbox::next(&disk.view()).map_err(disk_error)?,
            outbox_grown: outbox_grown.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || {
                // A panic here is a bug. A process that goes on consuming without writing would be worse than one that ends.
                let run = std::panic::AssertUnwindSafe(|| committer.run());
                if std::panic::catch_unwind(run).is_err() {
                    failed("the committer panicked");
                }
            })
            .map_err(io)?;
        Ok(Self {
            disk,
            work: Mutex::new(Some(tx)),
            cursors,
            delivery_log: (options.timeline_retention_ms > 0).then_some(delivery_log),
            timeline_retention_ms: options.timeline_retention_ms,
            log_growth,
            overflows,
            outbox_grown,
            low_space,
            limits,
            was_rebuilding_at_open: meta.rebuild_reason.is_some(),
            is_rebuilding: AtomicBool::new(meta.rebuild_reason.is_some()),
            rebuild_reason: Mutex::new(meta.rebuild_reason),
            epoch: meta.epoch,
            id: meta.id,
            thread: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    /// The epoch of all positions. It changes only when the history cannot be trusted.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// An identifier drawn when the ledger was created; a rebuilt ledger keeps it. On Kafka it is the group instance id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Dead letters with numbers above `after`, at most `max`, in order.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn dead_letters(&self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, DiskError> {
        dead_letters::read_after(&self.disk.view(), after, max)
    }

    /// Appends events, and in the same batch removes the dead letters that they were made of.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn replay(&self, events: Vec<NewEvent>, dead_letters: Vec<u64>) -> Result<(), LedgerFailed> {
        self.submit(|reply| Work::Replay(events, dead_letters, reply)).await
    }

    /// Replaces the limits that may change while the ledger runs: rows of one mailbox, and free space in bytes.
    pub fn set_limits(&self, max_mailbox_rows: u64, min_free_space: u64) {
        self.limits.max_mailbox_rows.store(max_mailbox_rows, Ordering::Relaxed);
        self.limits.min_free_space.store(min_free_space, Ordering::Relaxed);
    }

    /// True while free space is below the limit: intake stops.
    #[must_use]
    pub fn is_disk_low(&self) -> bool {
        self.low_space.is_set()
    }

    /// Why the history is not trusted; none once the topics have been read again to their end.
    #[must_use]
    pub fn rebuild_reason(&self) -> Option<String> {
        self.rebuild_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True until [`Self::finish_rebuild`], when the history was not trusted at the start.
    #[must_use]
    pub fn is_rebuilding(&self) -> bool {
        self.is_rebuilding.load(Ordering::Acquire)
    }

    /// True when this start began or continued a rebuild: checkpoints that lie behind the group's offsets are expected then.
    #[must_use]
    pub fn was_rebuilding_at_open(&self) -> bool {
        self.was_rebuilding_at_open
    }

    /// The topics were read again to their end: ends the rebuild, durably.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn finish_rebuild(&self) -> Result<(), LedgerFailed> {
        self.submit(Work::FinishRebuild).await?;
        self.rebuild_reason.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_rebuilding.store(false, Ordering::Release);
        Ok(())
    }

    /// All checkpoints that were saved for a cluster.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn checkpoints(&self, cluster: &str) -> Result<Vec<(TopicPartition, Checkpoint)>, DiskError> {
        read_checkpoints(&self.disk.view(), cluster)
    }

    /// Writes a backup of what is durable at this moment and returns how many rows it holds. The committer goes on meanwhile.
    ///
    /// # Errors
    /// When the files cannot be read or the backup cannot be written.
    pub fn backup(&self, to: impl std::io::Write, progress: impl FnMut(u64)) -> std::io::Result<u64> {
        backup::write(&self.disk.view(), to, progress)
    }

    fn sender(&self) -> Result<flume::Sender<Work>, LedgerFailed> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LedgerFailed)
    }

    /// Hands work to the committer and waits until it is durable.
    async fn submit<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(work(tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)
    }

    /// The state of an order as it was committed last. No lock is needed: the order's key stays busy until its key batch is durable.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn order(&self, order: &OrderKey) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.view().row(Table::Orders, &keys::order(order))
    }

    /// A recipient's open orders, from the order `from` on, at most `max`, with the mailbox's newest position. Both come from one durable
    /// snapshot, so a client that takes the orders and continues from the position misses nothing.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn open_orders(&self, who: &Recipient, from: Option<&Id>, max: usize) -> Result<OpenOrders, DiskError> {
        let view = self.disk.view();
        let mailbox = Mailbox::new(&view, who, self.epoch);
        let head = mailbox.head()?.map_or_else(|| mailbox.floor(), Ok)?;
        let prefix = keys::open_orders_of(who);
        let begin = from.map_or_else(|| prefix.clone(), |order| keys::open_order(who, order));
        let (mut orders, mut next) = (Vec::new(), None);
        for row in view.rows(Table::Meta, &begin, &keys::after_prefix(&prefix)) {
            let (key, _) = row?;
            let id = keys::trailing_id(Table::Meta, &key, prefix.len())?;
            if orders.len() == max {
                next = Some(id);
                break;
            }
            let order = OrderKey { shadow: who.shadow, id };
            // One batch enters an order here and writes its state, and one removes both.
            let state = view.row(Table::Orders, &keys::order(&order))?;
            let state = state.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "an open order that has a state"))?;
            orders.push((order, state));
        }
        Ok(OpenOrders { orders, head, next })
    }

    /// Writes the effects of a key batch and returns when they are durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn commit(&self, effects: KeyBatchEffects) -> Result<(), LedgerFailed> {
        self.submit(|reply| Work::KeyBatch(effects, reply)).await
    }

    /// Appends events to the embedded log, or to the outbox, and returns one result each when they are durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, LedgerFailed> {
        self.submit(|reply| Work::Append(events, reply)).await
    }

    /// The oldest entries of the outbox from number `from` on, at most `max`. Entries become visible in the order of their numbers.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn pending_outbox(&self, from: u64, max: usize) -> Result<Vec<OutboxEntry>, DiskError> {
        outbox::oldest(&self.disk.view(), from, max)
    }

    /// Waits until the outbox has grown; growth before the call is not lost.
    pub async fn wait_for_outbox(&self) {
        self.outbox_grown.notified().await;
    }

    /// Removes entries that the output topic has acknowledged, and returns when that is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn outbox_delivered(&self, numbers: Vec<u64>) -> Result<(), LedgerFailed> {
        self.submit(|reply| Work::OutboxDelivered(numbers, reply)).await
    }

    /// Reads a mailbox; no other function does. See [`MailboxPage`].
    ///
    /// # Errors
    /// [`MailboxError`]: `after` is not of this mailbox's history, or older than what is kept; or the files cannot be read.
    pub fn read(
        &self,
        who: &Recipient,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<MailboxPage, MailboxError> {
        let view = self.disk.view();
        Mailbox::new(&view, who, self.epoch).read(after, scan, limit, now)
    }

    /// A device's cursor and the mailbox's newest position. A device without a cursor, or with one that is no longer valid, is given the
    /// mailbox's floor.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn cursor_and_head(&self, who: &Recipient, device: &DeviceId) -> Result<(Cursor, Position), DiskError> {
        let view = self.disk.view();
        let mailbox = Mailbox::new(&view, who, self.epoch);
        let head = mailbox.head()?;
        let stored = match self.cursors.newest(who, device) {
            Some(cursor) => Some(cursor),
            None => devices::read(&view, who, device)?,
        };
        // The server's own cursor must never lock its device out: an invalid one counts as none.
        let is_valid = match stored.map(|cursor| mailbox.validate_position(cursor.acked, head)) {
            Some(Ok(())) => true,
            Some(Err(MailboxError::Disk(error))) => return Err(error),
            Some(Err(MailboxError::EpochChanged | MailboxError::PositionExpired)) | None => false,
        };
        let cursor = match stored {
            Some(cursor) if is_valid => cursor,
            _ => Cursor { acked: mailbox.floor()?, sent_seq: stored.map_or(0, |cursor| cursor.sent_seq) },
        };
        Ok((cursor, head.unwrap_or(cursor.acked)))
    }

    /// The backlog of each of a recipient's devices, and the backlog that a new device would have.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn device_backlogs(&self, who: &Recipient) -> Result<(Vec<DeviceBacklog>, Backlog), DiskError> {
        device_backlog::read(&self.disk.view(), &self.cursors, who, committer::now())
    }

    /// Saves a device's cursor. It is written lazily: losing it costs a redelivery.
    pub fn save_cursor(&self, who: &Recipient, device: &DeviceId, cursor: Cursor) {
        self.cursors.save(who, device, cursor, committer::now());
    }

    /// Records in the delivery log what happened to notices on a device.
    pub fn log_delivery(&self, who: &Recipient, device: &DeviceId, step: DeliveryStep) {
        if let Some(log) = &self.delivery_log {
            log.record(who, device, step, committer::now());
        }
    }

    /// What happened to an order's notices in one mailbox.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn delivery_history(&self, who: &Recipient, order: &OrderKey) -> Result<DeliveryHistory, DiskError> {
        let Some(log) = &self.delivery_log else { return Ok(DeliveryHistory::default()) };
        let now = committer::now();
        delivery_log::read(&self.disk.view(), log, who, order, (now.plus_ms(-self.timeline_retention_ms), now))
    }

    /// Orders whose expiry check is due, oldest first, each with the time it was due.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn due_expiries(&self, now: UnixMs, max: usize) -> Result<Vec<(UnixMs, OrderKey)>, DiskError> {
        let view = self.disk.view();
        let rows = view.rows(Table::Meta, &keys::expiry_until(0), &keys::expiry_until(now.0));
        let mut orders = Vec::new();
        for row in rows.take(max) {
            let (key, _) = row?;
            let due = keys::expiry_order(&key);
            let (due_ms, order) = due.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "an order's expiry"))?;
            orders.push((UnixMs(due_ms), order));
        }
        Ok(orders)
    }

    /// Recipients with more live notices than `max_mailbox_rows`, and how many, most first: nobody acknowledges them.
    #[must_use]
    pub fn overflowing_mailboxes(&self) -> Vec<(Recipient, u64)> {
        let overflows = self.overflows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named: Vec<_> = overflows.values().cloned().collect();
        named.sort_by_key(|(_, live)| std::cmp::Reverse(*live));
        named
    }

    /// The source that consumes the embedded log.
    #[must_use]
    pub fn embedded_source(&self) -> EmbeddedLogSource {
        EmbeddedLogSource::new(self.disk.clone(), self.log_growth.clone())
    }

    /// Writes what is queued and ends the committer. Blocks for one batch.
    pub fn close(&self) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _panicked = thread.join();
        }
    }
}

fn read_checkpoints(view: &disk::View<'_>, cluster: &str) -> Result<Vec<(TopicPartition, Checkpoint)>, DiskError> {
    let prefix = keys::checkpoints_of_cluster(cluster);
    let mut all = Vec::new();
    for row in view.rows(Table::Meta, &prefix, &keys::after_prefix(&prefix)) {
        let (key, row) = row?;
        let checkpoint = keys::checkpoint_part(&key[prefix.len()..]).zip(parse_checkpoint(&row));
        all.push(checkpoint.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "a checkpoint"))?);
    }
    Ok(all)
}

fn parse_checkpoint(row: &[u8]) -> Option<Checkpoint> {
    let (numbers, rest) = row.as_chunks::<8>();
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    match (numbers, rest) {
        ([next], []) => Some(Checkpoint { next: number(next), last: None }),
        ([next, offset, fingerprint], []) => {
            Some(Checkpoint { next: number(next), last: Some((number(offset), number(fingerprint))) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
