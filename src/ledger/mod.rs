//! The ledger: everything that must still be true after a kill -9.
//!
//! Orders, mailboxes, cursors, frontiers, the embedded stream, dead letters: one fjall database in one directory, written by one
//! committer, read through durable snapshots. The ledger knows nothing of sockets or Kafka and nothing of what an order's state means:
//! states are bytes to it.
//!
//! One process per directory (a lock file), one format (a newer one is refused), one epoch (drawn when the ledger is made).

mod backup;
mod committer;
mod crowd;
mod disk;
mod effects;
mod keys;
mod letters;
mod mailbox;
mod opening;
mod outbox;
mod places;
mod rest;
mod seams;
mod space;
mod stage;
pub mod stream;
pub mod tally;
mod tools;
mod trail;
mod upkeep;
mod whole;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use orderbell_consumers::{Frontier, Part};
use orderbell_protocol::session::Standing;
use orderbell_protocol::{DeviceId, Id, Page, Position, ReadError, Recipient, UnixMs};
use tokio::sync::{Notify, oneshot};

use committer::{Committer, Standings, Work};
use crowd::{Alarms, Crowd};
pub use disk::DiskError;
use disk::{Disk, Space};
pub use effects::{Appended, Incoming, LedgerFailed, NewNotice, TurnEffects};
pub use keys::OrderKey;
pub use letters::{Kept, KeptLetter};
use mailbox::Mailbox;
pub use outbox::{Emit, Waiting};
pub use places::{Behind, DeviceBehind};
pub use rest::AtRest;
use space::{Bounds, Guard, Room};
use stream::{Growth, StreamSource};
pub use tally::{Cells, Tally, Window};
use trail::Trails;
pub use trail::{Step, Told, Trail};
use upkeep::Upkeep;

/// The format that this program writes. A higher one on disk is refused.
const FORMAT: u32 = 3;
/// Work items that may wait for the committer. A shard waits when it is full: backpressure up to the source.
const WORK_MAX: usize = 16_384;

/// Who is told that mailboxes have grown. The hub is one; the ledger imports nothing of it.
pub trait Bell: Send + Sync + 'static {
    /// These recipients have something new, durably.
    fn ring(&self, who: &[Recipient]);
}

/// Who shows the tallies. The wall is one; the ledger imports nothing of it.
pub trait Board: Send + Sync + 'static {
    /// A window as it is durable at the start, before anything is counted; `commit` is the number of the newest commit.
    fn stands(&self, shadow: bool, window: &Window, cells: &Cells, commit: u64);
    /// These changes are durable, with the commit of this number.
    fn counted(&self, changes: &[Tally], commit: u64);
}

/// Nobody looks at the tallies: they are counted all the same.
#[derive(Debug)]
pub struct NoBoard;

impl Board for NoBoard {
    fn stands(&self, _shadow: bool, _window: &Window, _cells: &Cells, _commit: u64) {}
    fn counted(&self, _changes: &[Tally], _commit: u64) {}
}

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: one ledger serves one process", .0.display())]
    InUse(PathBuf),
    /// A newer program wrote it.
    #[error("{} was written by a newer version (format {found}; this program knows {FORMAT})", .dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// An older program wrote it, and only looking at it is asked for.
    #[error("{} was written by an older version (format {found}; this program knows {FORMAT}): start the server on it once", .dir.display())]
    Older {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The directory cannot be made or read.
    #[error("{}: {error}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The files cannot be read.
    #[error("{}: {error}", .dir.display())]
    Disk {
        /// The directory.
        dir: PathBuf,
        /// The database's words.
        error: DiskError,
    },
}

/// What is kept, for how long, and where emitted events go.
#[derive(Clone, Copy, Debug)]
pub struct LedgerOptions {
    /// Event ids and the embedded stream. Milliseconds.
    pub state_retention_ms: i64,
    /// Rows of one mailbox. Above it, those that nobody needs any more go, oldest first; live ones stay and are an alarm.
    pub mailbox_rows_max: u64,
    /// Free space on the ledger's file system, below which nothing new is taken in. Bytes.
    pub free_space_min: u64,
    /// How long it is kept what became of each notice on each device; 0 keeps nothing. Milliseconds.
    pub trail_ms: i64,
    /// Where emitted events go.
    pub emit: Emit,
    /// Somebody outside knows that this ledger went back: it begins a new epoch.
    pub went_back: bool,
}

/// A page of a recipient's open orders.
#[derive(Clone, Debug)]
pub struct OpenOrders {
    /// Their states, by order id.
    pub orders: Vec<(OrderKey, Vec<u8>)>,
    /// The newest position of the mailbox in the same snapshot.
    pub head: Position,
    /// Where the next page begins.
    pub next: Option<Id>,
}

/// An open ledger.
pub struct Ledger {
    disk: Arc<Disk>,
    work: Mutex<Option<flume::Sender<Work>>>,
    standings: Arc<Standings>,
    /// None: nothing is kept of what became of notices.
    trails: Option<Arc<Trails>>,
    trail_ms: i64,
    growth: Arc<Growth>,
    crowded: Alarms,
    outbox_grown: Arc<Notify>,
    room: Room,
    bounds: Arc<Bounds>,
    /// Why history could not be vouched for, until the log was read again.
    doubt: Mutex<Option<String>>,
    /// The same as one bit: it is asked for every frame.
    in_doubt: AtomicBool,
    was_doubted: bool,
    epoch: u32,
    id: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Ledger {
    /// Opens or makes the ledger in `dir`. `failed` is called once if it can no longer be written: it should end the process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        dir: &Path,
        options: LedgerOptions,
        bell: Arc<dyn Bell>,
        board: Arc<dyn Board>,
        failed: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = opening::lock(dir)?;
        let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
        let (disk, doubt) = opening::open_whole(dir, options)?;
        let disk = Arc::new(disk);
        let known = opening::know(&disk, dir, doubt, options.state_retention_ms)?;
        for row in tally::recent(&disk.view(), committer::now()) {
            let (shadow, window, cells) = row.map_err(broken)?;
            board.stands(shadow, &window, &cells, disk.newest());
        }
        let (tx, rx) = flume::bounded(WORK_MAX);
        let standings = Arc::new(Standings::default());
        let trails = Arc::new(Trails::default());
        let growth = Arc::new(Growth::default());
        let crowded = Alarms::default();
        let outbox_grown = Arc::new(Notify::new());
        let room = Room::default();
        let bounds = Arc::new(Bounds {
            mailbox_rows_max: options.mailbox_rows_max.into(),
            free_space_min: options.free_space_min.into(),
        });
        let failed: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(failed);
        let committer = Committer {
            disk: disk.clone(),
            rx,
            bell,
            board,
            standings: standings.clone(),
            trails: trails.clone(),
            stream: growth.clone(),
            failed: failed.clone(),
            upkeep: Upkeep::new(options.state_retention_ms, options.trail_ms),
            guard: Guard::new(dir.to_owned(), bounds.clone(), room.clone()),
            crowd: Crowd::new(bounds.clone(), crowded.clone()),
            seq: known.seq,
            letters: known.letters,
            emit: options.emit,
            outbox: outbox::next(&disk.view()).map_err(broken)?,
            outbox_grown: outbox_grown.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || {
                // A panic is a bug of ours; a process that takes in and never writes would be worse than one that ends.
                let run = std::panic::AssertUnwindSafe(|| committer.run());
                if std::panic::catch_unwind(run).is_err() {
                    failed("the committer panicked");
                }
            })
            .map_err(io)?;
        Ok(Self {
            disk,
            work: Mutex::new(Some(tx)),
            standings,
            trails: (options.trail_ms > 0).then_some(trails),
            trail_ms: options.trail_ms,
            growth,
            crowded,
            outbox_grown,
            room,
            bounds,
            was_doubted: known.doubt.is_some(),
            in_doubt: AtomicBool::new(known.doubt.is_some()),
            doubt: Mutex::new(known.doubt),
            epoch: known.epoch,
            id: known.id,
            thread: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    /// Changes only when history cannot be vouched for.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A name of this ledger, for as long as it lives.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Dead letters behind the number `after`, at most `max`.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn letters(&self, after: u64, max: usize) -> Result<Vec<(u64, KeptLetter)>, DiskError> {
        letters::behind(&self.disk.view(), after, max)
    }

    /// Appends events, and in the same batch takes the dead letters away that they came from.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger does not write any more.
    pub async fn replay(&self, events: Vec<Incoming>, letters: Vec<u64>) -> Result<(), LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(Work::Replay(events, letters, tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)
    }

    /// From now on these bounds hold: rows of one mailbox, and free space in bytes.
    pub fn bound(&self, mailbox_rows_max: u64, free_space_min: u64) {
        self.bounds.mailbox_rows_max.store(mailbox_rows_max, Ordering::Relaxed);
        self.bounds.free_space_min.store(free_space_min, Ordering::Relaxed);
    }

    /// True while there is too little free space to take anything in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// Why history could not be vouched for; nothing once the log was read again to its end.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True while history could not be vouched for.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }

    /// True when this start began, or went on, in doubt: what the log says of going back is known then.
    #[must_use]
    pub fn was_doubted(&self) -> bool {
        self.was_doubted
    }

    /// The log was read again to its end: the doubt is over, durably.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger does not write any more.
    pub async fn rebuilt(&self) -> Result<(), LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(Work::Rebuilt(tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)?;
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.in_doubt.store(false, Ordering::Release);
        Ok(())
    }

    /// All frontiers that were saved for a cluster.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn frontiers(&self, cluster: &str) -> Result<Vec<(Part, Frontier)>, DiskError> {
        frontiers(&self.disk.view(), cluster)
    }

    /// Writes a backup of what is durable at this moment; how many rows it holds. The writer goes on meanwhile.
    ///
    /// # Errors
    /// When the files cannot be read or the backup cannot be written.
    pub fn backup(&self, to: impl std::io::Write, progress: impl FnMut(u64)) -> std::io::Result<u64> {
        backup::write(&self.disk.view(), to, progress)
    }

    fn sender(&self) -> Result<flume::Sender<Work>, LedgerFailed> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LedgerFailed)
    }

    /// The state of an order, as it was committed last. Safe without a lock: the order's key is busy until its turn is durable.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn order(&self, order: &OrderKey) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.view().row(Space::Orders, &keys::order(order))
    }

    /// A recipient's open orders, from the order `from` on, at most `max`, with the mailbox's newest position: all of one durable snapshot,
    /// so whoever takes both and goes on from the position misses nothing.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn open_orders(&self, who: &Recipient, from: Option<&Id>, max: usize) -> Result<OpenOrders, DiskError> {
        let view = self.disk.view();
        let mailbox = Mailbox::new(&view, who, self.epoch);
        let head = mailbox.floor().and_then(|floor| mailbox.head(floor)).map_err(|error| DiskError::damaged(&error))?;
        let prefix = keys::open_of(who);
        let begin = from.map_or_else(|| prefix.clone(), |order| keys::open(who, order));
        let (mut orders, mut next) = (Vec::new(), None);
        for row in view.rows(Space::Meta, &begin, &keys::after_prefix(&prefix)) {
            let (key, _) = row?;
            let name = std::str::from_utf8(&key[prefix.len()..]).ok();
            let Some(id) = name.and_then(|name| Id::new(name).ok()) else { continue };
            if orders.len() == max {
                next = Some(id);
                break;
            }
            let key = OrderKey { shadow: who.shadow, id };
            if let Some(state) = view.row(Space::Orders, &keys::order(&key))? {
                orders.push((key, state));
            }
        }
        Ok(OpenOrders { orders, head, next })
    }

    /// Writes the effects of a turn; answers when they are durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger does not write any more.
    pub async fn commit(&self, effects: TurnEffects) -> Result<(), LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(Work::Turn(effects, tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)
    }

    /// Appends events to the embedded stream, or to the outbox; answers when they are durable, one verdict each.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger does not write any more.
    pub async fn append(&self, events: Vec<Incoming>) -> Result<Vec<Appended>, LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(Work::Append(events, tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)
    }

    /// The oldest events that wait to be emitted, at most `max`.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn outbox(&self, max: usize) -> Result<Vec<Waiting>, DiskError> {
        outbox::oldest(&self.disk.view(), max)
    }

    /// Waits until the outbox has grown; growth before the call is not lost.
    pub async fn outbox_grown(&self) {
        self.outbox_grown.notified().await;
    }

    /// The output topic has these: they need not wait any more. Answers when that is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger does not write any more.
    pub async fn sent(&self, numbers: Vec<u64>) -> Result<(), LedgerFailed> {
        let (tx, rx) = oneshot::channel();
        self.sender()?.send_async(Work::Sent(numbers, tx)).await.map_err(|_| LedgerFailed)?;
        rx.await.map_err(|_| LedgerFailed)
    }

    /// The one way to read a mailbox. See [`Page`].
    ///
    /// # Errors
    /// [`ReadError`] when `after` is not of this mailbox's history, or older than what is kept.
    pub fn read(
        &self,
        who: &Recipient,
        after: Position,
        scan: Position,
        limit: u16,
        now: UnixMs,
    ) -> Result<Page, ReadError> {
        let view = self.disk.view();
        Mailbox::new(&view, who, self.epoch).read(after, scan, limit, now)
    }

    /// The mailbox's newest position, and where a device stands in it: its own cursor, or the floor when it is new or its cursor is of
    /// no use any more.
    ///
    /// # Errors
    /// [`ReadError::Ledger`].
    pub fn standing(&self, who: &Recipient, device: &DeviceId) -> Result<(Standing, Position), ReadError> {
        let view = self.disk.view();
        let mailbox = Mailbox::new(&view, who, self.epoch);
        let floor = mailbox.floor()?;
        let head = mailbox.head(floor)?;
        let stored = match self.standings.newest(who, device) {
            Some(standing) => Some(standing),
            None => view
                .row(Space::Meta, &keys::cursor(who, device))
                .map_err(ReadError::from)?
                .as_deref()
                .and_then(parse_standing),
        };
        // A cursor of the server's own must never lock its device out: one that cannot be vouched for is as good as none.
        let usable = stored.filter(|standing| mailbox.vouch(standing.acked, floor, head).is_ok());
        Ok((
            usable.unwrap_or(Standing { acked: floor, sent_seq: stored.map_or(0, |standing| standing.sent_seq) }),
            head,
        ))
    }

    /// Where a recipient's devices stand, and what would wait for one more.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn places(&self, who: &Recipient) -> Result<(Vec<DeviceBehind>, Behind), DiskError> {
        places::read(&self.disk.view(), &self.standings, who, committer::now())
    }

    /// Notes where a device stands. Written lazily: losing it costs a redelivery.
    pub fn stand(&self, who: &Recipient, device: &DeviceId, standing: Standing) {
        self.standings.note(who, device, standing);
    }

    /// Notes what became of notices on a device, for stories.
    pub fn tell(&self, who: &Recipient, device: &DeviceId, step: Step) {
        if let Some(trails) = &self.trails {
            trails.note(who, device, step, committer::now());
        }
    }

    /// What became of an order's notices in one mailbox.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn trail(&self, who: &Recipient, order: &OrderKey) -> Result<Trail, DiskError> {
        let Some(trails) = &self.trails else { return Ok(Trail::default()) };
        let now = committer::now();
        trail::read(&self.disk.view(), trails, who, order, (now.plus_ms(-self.trail_ms), now))
    }

    /// Orders whose retention is to be looked at, oldest first, and the moments they were due.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn due(&self, now: UnixMs, max: usize) -> Result<Vec<(UnixMs, OrderKey)>, DiskError> {
        let view = self.disk.view();
        let rows = view.rows(Space::Meta, &keys::due_until(0), &keys::due_until(now.0));
        let mut orders = Vec::new();
        for row in rows.take(max) {
            orders.extend(keys::due_order(&row?.0).map(|(due_ms, order)| (UnixMs(due_ms), order)));
        }
        Ok(orders)
    }

    /// Recipients with more live notices than a mailbox should hold, and how many: somebody does not come for them. Most first.
    #[must_use]
    pub fn crowded(&self) -> Vec<(Recipient, u64)> {
        let crowded = self.crowded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named: Vec<_> =
            crowded.iter().filter_map(|(mailbox, live)| Some((keys::recipient(mailbox)?, *live))).collect();
        named.sort_by_key(|(_, live)| std::cmp::Reverse(*live));
        named
    }

    /// The consumer of the embedded stream.
    #[must_use]
    pub fn stream(&self) -> StreamSource {
        StreamSource::new(self.disk.clone(), self.growth.clone())
    }

    /// Writes what is waiting and ends the committer. Blocks for one batch.
    pub fn close(&self) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _panicked = thread.join();
        }
    }
}

fn frontiers(view: &disk::View<'_>, cluster: &str) -> Result<Vec<(Part, Frontier)>, DiskError> {
    let prefix = keys::frontiers_of(cluster);
    let mut all = Vec::new();
    for row in view.rows(Space::Meta, &prefix, &keys::after_prefix(&prefix)) {
        let (key, row) = row?;
        all.extend(keys::frontier_part(&key[prefix.len()..]).zip(parse_frontier(&row)));
    }
    Ok(all)
}

fn parse_standing(row: &[u8]) -> Option<Standing> {
    let (acked, sent) = std::str::from_utf8(row).ok()?.split_once(' ')?;
    Some(Standing { acked: acked.parse().ok()?, sent_seq: u64::from_str_radix(sent, 16).ok()? })
}

fn parse_frontier(row: &[u8]) -> Option<Frontier> {
    let number = |at: usize| Some(u64::from_be_bytes(row.get(at..at + 8)?.try_into().ok()?));
    let last = number(8).zip(number(16));
    Some(Frontier { next: number(0)?, last })
}

#[cfg(test)]
mod tests;
