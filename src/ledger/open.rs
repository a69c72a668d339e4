//! Opening a ledger: one process, the format that this program writes, and a history that can be trusted, or else a new epoch.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use orderbell_protocol::UnixMs;

use super::disk::{DatabaseError, Disk, DiskError, Table, UncheckedDisk, View};
use super::integrity::{self, Integrity};
use super::mailbox;
use super::outbox::PublishTo;
use super::tables::RowKind;
use super::{FORMAT, LedgerOptions, committer, counters, keys};

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

/// Adds the directory to an error of the database in it.
pub(super) fn disk_error<E: Into<DiskError>>(dir: &Path) -> impl Fn(E) -> OpenError {
    |source| OpenError::Disk { dir: dir.to_owned(), source: source.into() }
}

/// What the ledger knows of itself.
pub(super) struct Meta {
    pub(super) epoch: u32,
    /// When the ledger was created or rebuilt; 0 when that is not known.
    pub(super) began_at: UnixMs,
    pub(super) id: String,
    /// The newest seq that was given out.
    pub(super) seq: u64,
    /// Number of the newest dead letter.
    pub(super) dead_letters: u64,
    /// Why the history is not trusted.
    pub(super) rebuild_reason: Option<String>,
}

/// Takes the directory's lock: one process per directory.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let lock = File::create(dir.join("lock")).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Opens the database in `path`, or creates an empty one. One of another format is refused and left as it is.
pub(super) fn open_disk(dir: &Path, path: &Path) -> Result<Disk, OpenError> {
    let unchecked = UncheckedDisk::open(path).map_err(disk_error(dir))?;
    check_format(dir, unchecked.meta_row(keys::FORMAT).map_err(disk_error(dir))?)?;
    unchecked.into_disk().map_err(disk_error(dir))
}

/// Refuses another format than the one that this program writes. A database without a format row was just created.
pub(super) fn check_format(dir: &Path, row: Option<Vec<u8>>) -> Result<(), OpenError> {
    let Some(row) = row else { return Ok(()) };
    let Ok(found) = <[u8; 4]>::try_from(row) else {
        return Err(disk_error(dir)(DiskError::damaged(Table::Meta, keys::FORMAT, "a format")));
    };
    match u32::from_be_bytes(found) {
        FORMAT => Ok(()),
        found if found > FORMAT => Err(OpenError::Newer { dir: dir.to_owned(), found }),
        found => Err(OpenError::Older { dir: dir.to_owned(), found }),
    }
}

/// Opens the database and says why its history is not trusted, if so. With Kafka, a damaged database is quarantined and an empty one takes
/// its place; what can be read nowhere else (the outbox, dead letters, losses, the balance, old days of the counters) is carried over.
pub(super) fn open_verified(dir: &Path, options: LedgerOptions) -> Result<(Disk, Option<String>), OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let (path, next_path) = (dir.join("db"), dir.join("db.next"));
    if !path.exists() && next_path.exists() {
        // A crash came between the two renames below.
        std::fs::rename(&next_path, &path).map_err(io)?;
    }
    let disk = open_disk(dir, &path)?;
    let (damage, newest) = match integrity::check(&disk.view()).map_err(disk_error(dir))? {
        Integrity::Intact(newest) => {
            disk.set_newest_commit(newest);
            let rolled_back = || String::from("the offsets of the consumer group are ahead of this ledger");
            return Ok((disk, options.rolled_back.then(rolled_back)));
        }
        Integrity::Damaged(damage, newest) => (damage, newest),
    };
    tracing::error!(damage, "the ledger is damaged");
    if options.publish_to == PublishTo::EmbeddedLog {
        // The log is in the same database: there is nothing to rebuild it from.
        disk.set_newest_commit(newest + integrity::MARKS_KEPT);
        return Ok((disk, Some(damage)));
    }
    // The new database is complete, with the reason for the rebuild, before the old one is moved: a crash in between finds either.
    let carried_over = integrity::irreplaceable_rows(&disk.view()).map_err(disk_error(dir))?;
    let log_begins = committer::now().plus_ms(-options.state_retention_ms);
    let old_days = counters::days_before_log(&disk.view(), log_begins).map_err(disk_error(dir))?;
    if next_path.exists() {
        std::fs::remove_dir_all(&next_path).map_err(io)?;
    }
    let next = open_disk(dir, &next_path)?;
    let mut batch = next.batch();
    carried_over.iter().for_each(|(kind, (key, value))| batch.put(*kind, key, value));
    old_days.iter().for_each(|(key, value)| batch.put(RowKind::ChainDay, key, value));
    batch.commit().map_err(disk_error(dir))?;
    load_or_init_meta(&next, dir, Some(damage), options.state_retention_ms)?;
    drop((next, disk));
    let quarantined = integrity::quarantine(&path, committer::now().0).map_err(io)?;
    std::fs::rename(&next_path, &path).map_err(io)?;
    let (at, rows) = (quarantined.display(), carried_over.len());
    tracing::error!(%at, rows, "the damaged database was quarantined; the topics are read again");
    let disk = open_disk(dir, &path)?;
    let (Integrity::Intact(newest) | Integrity::Damaged(_, newest)) =
        integrity::check(&disk.view()).map_err(disk_error(dir))?;
    disk.set_newest_commit(newest);
    Ok((disk, None))
}

/// The stored epoch; 0 when the ledger is new.
pub(super) fn stored_epoch(view: &View<'_>) -> Result<u32, DiskError> {
    let decode = |row: &[u8]| Some(u32::from_be_bytes(row.try_into().ok()?));
    Ok(view.decoded(Table::Meta, keys::EPOCH, "an epoch", decode)?.unwrap_or(0))
}

/// The stored id of the ledger; none when it is missing or damaged.
fn stored_id(view: &View<'_>) -> Result<Option<String>, DatabaseError> {
    let decode = |row: &[u8]| String::from_utf8(row.to_vec()).ok();
    let id = view.decoded(Table::Meta, keys::LEDGER_ID, "the id of the ledger", decode);
    Ok(view.pass_over(id)?.flatten())
}

fn draw_id(dir: &Path) -> String {
    let seed = (committer::now().0, std::process::id(), dir.to_owned());
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{seed:?}").as_bytes()))
}

/// Reads what the ledger knows of itself, or writes it into a new one. When the history is not trusted, a new epoch begins.
pub(super) fn load_or_init_meta(
    disk: &Disk,
    dir: &Path,
    damage: Option<String>,
    state_retention_ms: i64,
) -> Result<Meta, OpenError> {
    if disk.view().row(Table::Meta, keys::FORMAT).map_err(disk_error(dir))?.is_some() {
        return load_meta(disk, dir, damage, state_retention_ms).map_err(disk_error(dir));
    }
    let view = disk.view();
    let old_epoch = view.pass_over(stored_epoch(&view)).map_err(disk_error(dir))?;
    // A rebuilt ledger keeps its id: to the consumer group it is the same member.
    let id = stored_id(&view).map_err(disk_error(dir))?.unwrap_or_else(|| draw_id(dir));
    let mut batch = disk.batch();
    batch.put(RowKind::Fact, keys::FORMAT, &FORMAT.to_be_bytes());
    batch.put(RowKind::Fact, keys::LEDGER_ID, id.as_bytes());
    // Older records of the topics are not read.
    let began_at = committer::now();
    batch.put(RowKind::Fact, keys::COUNTED_FROM, &began_at.plus_ms(-state_retention_ms).0.to_be_bytes());
    let epoch = integrity::begin_epoch(&mut batch, old_epoch, damage.as_deref(), disk.newest_commit());
    batch.commit().map_err(disk_error(dir))?;
    Ok(Meta { epoch, began_at, id, seq: 0, dead_letters: 0, rebuild_reason: damage })
}

/// Reads what the ledger knows of itself. A damaged fact is written again, as far as its readers then do no wrong: without the newest seq, or
/// the epoch, no position of before can be vouched for, so a new epoch begins.
fn load_meta(disk: &Disk, dir: &Path, damage: Option<String>, state_retention_ms: i64) -> Result<Meta, DatabaseError> {
    let view = disk.view();
    let counted_from = view.pass_over(view.decoded(Table::Meta, keys::COUNTED_FROM, "a time", keys::time))?.flatten();
    let began_at = counted_from.map_or(UnixMs(0), |from| from.plus_ms(state_retention_ms));
    let (old_epoch, stored_seq) = (view.pass_over(stored_epoch(&view))?, view.pass_over(view.number(keys::SEQ))?);
    let mut batch = disk.batch();
    let seq = match stored_seq {
        Some(seq) => seq.unwrap_or(0),
        None => {
            let seq = mailbox::highest_stored_seq(&view)?;
            batch.put(RowKind::Fact, keys::SEQ, &seq.to_be_bytes());
            seq
        }
    };
    if view.pass_over(mailbox::forgotten(&view))?.is_none() {
        batch.put(RowKind::Fact, keys::FORGOTTEN, &seq.to_be_bytes());
    }
    let id = match stored_id(&view)? {
        Some(id) => id,
        None => {
            let id = draw_id(dir);
            batch.put(RowKind::Fact, keys::LEDGER_ID, id.as_bytes());
            id
        }
    };
    let epoch = match old_epoch {
        Some(epoch) if damage.is_none() && stored_seq.is_some() => epoch,
        _ => integrity::begin_epoch(&mut batch, old_epoch, damage.as_deref(), disk.newest_commit()),
    };
    batch.commit()?;
    let rebuild_reason = match damage {
        Some(damage) => Some(damage),
        // A crash during a rebuild is not another loss: the epoch stays.
        None => view.row(Table::Meta, keys::REBUILDING)?.map(|reason| String::from_utf8_lossy(&reason).into_owned()),
    };
    let dead_letters = keys::newest_number(&view, RowKind::DeadLetter)?.unwrap_or(0);
    Ok(Meta { epoch, began_at, id, seq, dead_letters, rebuild_reason })
}
