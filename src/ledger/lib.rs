//! The ledger: all state that must survive a `kill -9`.
//!
//! Orders, mailboxes, cursors, checkpoints, the embedded log, dead letters: one fjall database in one directory, written by one
//! committer and read through snapshots of what is durable. The ledger imports nothing of sockets or Kafka and does not interpret the
//! state of an order: it stores bytes.
//!
//! [`Ledger`] opens, writes and closes. What concerns one subject is behind a handle, a reference to the ledger: [`Ledger::mailboxes`] and the
//! functions beside it, each in the file of its subject.
//!
//! One process per directory (a lock file), one format (older and newer ones are refused), one epoch (drawn when the ledger is created, and
//! again whenever its history cannot be trusted).

mod at_work;
mod backup;
mod balance;
mod bin_notes;
mod bin_row;
mod checkpoints;
mod committer;
mod connected;
mod consumer_impls;
mod counter_notifier;
pub mod counters;
pub mod crash;
mod damage;
mod dead_letters;
mod delivery_log;
mod device_backlog;
mod devices;
mod disk;
mod effects;
pub mod embedded_log;
mod free_space;
mod history;
mod integrity;
mod keys;
mod log_numbers;
mod losses;
mod mailbox;
mod mailbox_limit;
mod mailboxes;
mod maintenance;
mod offline;
mod open;
mod orders;
mod outbox;
mod partition_counts;
mod pending_cursors;
mod retention;
mod sharded;
mod tables;
mod write_batch;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use orderbell_protocol::UnixMs;
use tokio::sync::{Notify, oneshot};

use at_work::AtWork;
pub use at_work::RecordRange;
pub use balance::Balance;
use balance::Bins;
pub use bin_notes::BinNote;
pub use checkpoints::Checkpoints;
pub use committer::FailureObserver;
use committer::{Committer, Work};
use connected::Connected;
pub use connected::ConnectedDevice;
use counter_notifier::CounterNotifier;
pub use counter_notifier::{CounterObserver, NoCounterObserver, StoredBuckets};
pub use counters::{Bucket, CounterDelta, CounterSums};
pub use damage::{DamagedRow, LedgerDamage, LedgerReadError};
pub use dead_letters::{DeadLetters, HexBytes, StoredBytes, StoredDeadLetter};
use delivery_log::PendingSteps;
pub use delivery_log::{DeliveryHistory, DeliveryLog, DeliveryStep, LoggedNotice};
pub use device_backlog::{Backlog, DeviceBacklog};
use devices::CursorWriter;
pub use devices::{DeviceBinding, Devices};
use disk::Disk;
pub use disk::{DatabaseError, DiskError};
pub use effects::{Appended, KeyBatchEffects, LedgerFailed, NewEvent, NewNotice};
use embedded_log::{EmbeddedLogSource, GrowthSignal};
use free_space::{FreeSpaceMonitor, LedgerLimits, LowSpaceFlag};
use history::HistoryEnds;
pub use keys::OrderKey;
use log_numbers::LogNumbers;
use losses::Losses;
pub use losses::StoredLoss;
pub use mailbox::MailboxError;
use mailbox_limit::{MailboxLimit, Overflows};
pub use mailboxes::{MailboxObserver, Mailboxes};
pub use maintenance::LedgerReport;
pub use offline::OfflineLedger;
pub use open::OpenError;
pub use orders::{OpenOrders, StoredOrders};
pub use outbox::{Outbox, OutboxEntry, PublishTo};
use pending_cursors::PendingCursors;
use retention::Retention;
pub use sharded::{SHARDS, Sharded};

/// The format that this program reads and writes. Any other on disk is refused.
const FORMAT: u32 = 7;
/// Work items that may wait for the committer. A shard waits when it is full: backpressure up to the source.
const WORK_MAX: usize = 16_384;

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

/// Creates the directory of a ledger, for its owner alone: it holds what people ordered. One that is there stays as it is.
///
/// # Errors
/// When it cannot be created.
pub fn create_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// An open ledger.
pub struct Ledger {
    disk: Arc<Disk>,
    /// None once it was closed. Without a lock: it is taken for every poll that sends something.
    work: ArcSwapOption<flume::Sender<Work>>,
    cursors: Arc<PendingCursors>,
    connected: Connected,
    /// None when `timeline_retention_ms` is 0.
    pending_steps: Option<Arc<PendingSteps>>,
    timeline_retention_ms: i64,
    log_growth: Arc<GrowthSignal>,
    overflows: Overflows,
    losses: Losses,
    bins: Bins,
    log_numbers: LogNumbers,
    history_ends: HistoryEnds,
    outbox_grown: Arc<Notify>,
    low_space: LowSpaceFlag,
    limits: Arc<LedgerLimits>,
    /// Why the history is not trusted, until the topics have been read again to their end.
    rebuild_reason: Mutex<Option<String>>,
    /// The same as one bit: it is read for every frame.
    is_rebuilding: AtomicBool,
    was_rebuilding_at_open: bool,
    epoch: u32,
    began_at: UnixMs,
    id: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `dir`, or creates it. The failure observer is called once when the ledger can no longer be written: it must end the process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        dir: &Path,
        options: LedgerOptions,
        mailbox_observer: Arc<dyn MailboxObserver>,
        counter_observer: Arc<dyn CounterObserver>,
        failure_observer: Arc<dyn FailureObserver>,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        create_dir(dir).map_err(io)?;
        let lock = open::lock(dir)?;
        let (disk, damage) = open::open_verified(dir, options)?;
        let disk = Arc::new(disk);
        let meta = open::load_or_init_meta(&disk, dir, damage, options.state_retention_ms)?;
        counter_notifier::load_recent(&disk.view(), &*counter_observer, committer::now(), disk.newest_commit())
            .map_err(open::disk_error(dir))?;
        let (tx, rx) = flume::bounded(WORK_MAX);
        connected::count_as_sent(&disk, meta.epoch, meta.seq).map_err(open::disk_error(dir))?;
        let (cursors, connected) = (Arc::new(PendingCursors::default()), Connected::default());
        let (pending_steps, outbox_grown) = (Arc::new(PendingSteps::default()), Arc::new(Notify::new()));
        let (log_growth, overflows) = (Arc::new(GrowthSignal::default()), Overflows::default());
        let losses = Losses::load(&disk.view()).map_err(open::disk_error(dir))?;
        let bins = Bins::load(&disk.view()).map_err(open::disk_error(dir))?;
        let log_numbers = LogNumbers::load(&disk.view()).map_err(open::disk_error(dir))?;
        let (history_ends, low_space) = (HistoryEnds::default(), LowSpaceFlag::default());
        let limits = Arc::new(LedgerLimits::from(options));
        let committer = Committer {
            disk: disk.clone(),
            rx,
            mailbox_observer,
            counter_notifier: CounterNotifier::start(disk.clone(), counter_observer, failure_observer.clone())
                .map_err(io)?,
            cursors: cursors.clone(),
            connected: connected.clone(),
            pending_steps: pending_steps.clone(),
            log_growth: log_growth.clone(),
            failure_observer,
            cursor_writer: CursorWriter::default(),
            retention: Retention::new(options.state_retention_ms, options.timeline_retention_ms),
            free_space: FreeSpaceMonitor::new(dir.to_owned(), limits.clone(), low_space.clone()),
            mailbox_limit: MailboxLimit::new(limits.clone(), overflows.clone()),
            seq: meta.seq,
            dead_letters: meta.dead_letters,
            publish_to: options.publish_to,
            outbox: outbox::next(&disk.view()).map_err(open::disk_error(dir))?,
            outbox_grown: outbox_grown.clone(),
            losses: losses.clone(),
            bins: bins.clone(),
            log_numbers: log_numbers.clone(),
            history_ends: history_ends.clone(),
            at_work: AtWork::default(),
        };
        let thread = committer.spawn().map_err(io)?;
        Ok(Self {
            disk,
            work: ArcSwapOption::from_pointee(tx),
            cursors,
            connected,
            pending_steps: (options.timeline_retention_ms > 0).then_some(pending_steps),
            timeline_retention_ms: options.timeline_retention_ms,
            log_growth,
            overflows,
            losses,
            bins,
            log_numbers,
            history_ends,
            outbox_grown,
            low_space,
            limits,
            was_rebuilding_at_open: meta.rebuild_reason.is_some(),
            is_rebuilding: AtomicBool::new(meta.rebuild_reason.is_some()),
            rebuild_reason: Mutex::new(meta.rebuild_reason),
            epoch: meta.epoch,
            began_at: meta.began_at,
            id: meta.id,
            thread: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    /// Mailboxes, as their readers see them.
    #[must_use]
    pub fn mailboxes(&self) -> Mailboxes<'_> {
        Mailboxes(self)
    }

    /// Orders: their states, who has which open, and when each is to be checked.
    #[must_use]
    pub fn orders(&self) -> StoredOrders<'_> {
        StoredOrders(self)
    }

    /// Devices, and how far each has read.
    #[must_use]
    pub fn devices(&self) -> Devices<'_> {
        Devices(self)
    }

    /// What happened to notices on devices.
    #[must_use]
    pub fn delivery_log(&self) -> DeliveryLog<'_> {
        DeliveryLog(self)
    }

    /// Events that are still to be published.
    #[must_use]
    pub fn outbox(&self) -> Outbox<'_> {
        Outbox(self)
    }

    /// Dead letters that no topic took.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters(self)
    }

    /// Up to where each partition has been consumed.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints(&self.disk)
    }

    /// The rows that were found damaged since the start, whoever met them.
    #[must_use]
    pub fn damage(&self) -> &LedgerDamage {
        self.disk.damage()
    }

    /// The balance of paid orders.
    #[must_use]
    pub fn balance(&self) -> Balance<'_> {
        Balance(self)
    }

    /// The epoch of all positions. It changes only when the history cannot be trusted.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When the ledger was created, or rebuilt. 0 when that is not known.
    #[must_use]
    pub fn began_at(&self) -> UnixMs {
        self.began_at
    }

    /// An identifier drawn when the ledger was created; a rebuilt ledger keeps it. On Kafka it is the group instance id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
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

    /// Writes a backup of what is durable at this moment and returns how many rows it holds. The committer goes on meanwhile.
    ///
    /// # Errors
    /// When the files cannot be read or the backup cannot be written.
    pub fn backup(&self, to: impl std::io::Write, progress: impl FnMut(u64)) -> std::io::Result<u64> {
        backup::write(&self.disk.view(), to, progress)
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

    /// The source that consumes the embedded log.
    #[must_use]
    pub fn embedded_source(&self) -> EmbeddedLogSource {
        EmbeddedLogSource::new(self.disk.clone(), self.log_growth.clone())
    }

    /// The committer ends when nobody holds it any more.
    fn sender(&self) -> Result<Arc<flume::Sender<Work>>, LedgerFailed> {
        self.work.load_full().ok_or(LedgerFailed)
    }

    /// Hands work to the committer and waits until it is durable.
    async fn submit<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(work(tx)).await?;
        Ok(rx.await?)
    }

    /// Writes what is queued and ends the committer. Blocks for one batch.
    pub fn close(&self) {
        self.work.store(None);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod balance_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod low_space_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
