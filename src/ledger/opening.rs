//! Opening a ledger: one process, a format that is known, a history that can be vouched for or a new epoch.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::disk::{Disk, Space};
use super::outbox::Emit;
use super::whole::{self, Whole};
use super::{FORMAT, LedgerOptions, OpenError, committer, keys, mailbox, tally};

/// The first format with tallies.
const COUNTING_SINCE: u32 = 3;

/// What a ledger knows of itself.
pub(super) struct Known {
    pub(super) epoch: u32,
    pub(super) id: String,
    pub(super) seq: u64,
    pub(super) letters: u64,
    pub(super) doubt: Option<String>,
}

/// One process per directory.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { dir: dir.to_owned(), error };
    let lock = File::create(dir.join("lock")).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Opens the database, and why it cannot be vouched for, if so. One that is not whole and whose log can be read again is set aside; what
/// was promised and stands nowhere else (the outbox, dead letters) comes along.
pub(super) fn open_whole(dir: &Path, options: LedgerOptions) -> Result<(Disk, Option<String>), OpenError> {
    let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
    let path = dir.join("db");
    if !path.exists() && dir.join("db.next").exists() {
        // A crash between the two names.
        std::fs::rename(dir.join("db.next"), &path).map_err(|error| OpenError::Io { dir: dir.to_owned(), error })?;
    }
    let disk = Disk::open(&path).map_err(broken)?;
    let looked = whole::look(&disk.view()).map_err(broken)?;
    let (why, newest) = match looked {
        Whole::Yes(newest) => {
            disk.number_from(newest);
            return Ok((disk, options.went_back.then(|| String::from("the log is ahead of this ledger"))));
        }
        Whole::No(why, newest) => (why, newest),
    };
    tracing::error!(why, "the ledger is not whole");
    if options.emit == Emit::Stream {
        // Its log is in the same files: what is there is all there is.
        disk.number_from(newest + whole::RING);
        return Ok((disk, Some(why)));
    }
    // The new one is whole, doubt and all, before the old one goes: a crash in between finds either.
    let saved = whole::promised(&disk.view()).map_err(broken)?;
    let log_begins = committer::now().plus_ms(-options.state_retention_ms);
    let bygone = tally::bygone(&disk.view(), log_begins).map_err(broken)?;
    let io = |error| OpenError::Io { dir: dir.to_owned(), error };
    let next_path = dir.join("db.next");
    if next_path.exists() {
        std::fs::remove_dir_all(&next_path).map_err(io)?;
    }
    let next = Disk::open(&next_path).map_err(broken)?;
    let mut batch = next.batch();
    saved.iter().for_each(|(key, value)| batch.put(Space::Meta, key, value));
    bygone.iter().for_each(|(key, value)| batch.put(Space::Tally, key, value));
    batch.commit().map_err(broken)?;
    know(&next, dir, Some(why.clone()), options.state_retention_ms)?;
    drop((next, disk));
    let aside = whole::set_aside(&path, committer::now().0).map_err(io)?;
    std::fs::rename(&next_path, &path).map_err(io)?;
    tracing::error!(aside = %aside.display(), rows = saved.len(), "set aside; the log is read again");
    let disk = Disk::open(&path).map_err(broken)?;
    let (Whole::Yes(newest) | Whole::No(_, newest)) = whole::look(&disk.view()).map_err(broken)?;
    disk.number_from(newest);
    Ok((disk, None))
}

/// Reads what the ledger knows of itself, or makes it. With a doubt, a new epoch begins.
pub(super) fn know(
    disk: &Disk,
    dir: &Path,
    doubt: Option<String>,
    state_retention_ms: i64,
) -> Result<Known, OpenError> {
    let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
    let view = disk.view();
    let row = |key: &[u8]| view.row(Space::Meta, key).map_err(broken);
    let number = |row: Option<Vec<u8>>| row.and_then(|row| row.try_into().ok()).map_or(0, u32::from_be_bytes);
    let old_epoch = number(row(keys::EPOCH)?);
    let Some(format) = row(keys::FORMAT)? else {
        let now = committer::now();
        let seed = (now.0, std::process::id(), dir.to_owned());
        let made = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{seed:?}").as_bytes()));
        // One that takes the place of another keeps its name: to Kafka's group it is the same member.
        let id = row(keys::LEDGER_ID)?.map_or(made, |row| String::from_utf8_lossy(&row).into_owned());
        let mut batch = disk.batch();
        batch.put(Space::Meta, keys::FORMAT, &FORMAT.to_be_bytes());
        batch.put(Space::Meta, keys::LEDGER_ID, id.as_bytes());
        // What is older is not read.
        batch.put(Space::Meta, keys::COUNTED_FROM, &now.plus_ms(-state_retention_ms).0.to_be_bytes());
        let epoch = whole::begin_epoch(&mut batch, old_epoch, doubt.as_deref(), disk.newest());
        batch.commit().map_err(broken)?;
        return Ok(Known { epoch, id, seq: 0, letters: 0, doubt });
    };
    let found = format.try_into().map_or(u32::MAX, u32::from_be_bytes);
    if found > FORMAT {
        return Err(OpenError::Newer { dir: dir.to_owned(), found });
    }
    if found < FORMAT {
        // What the older one wrote is read as it is; from now on it is not to be opened by an older program.
        let mut batch = disk.batch();
        batch.put(Space::Meta, keys::FORMAT, &FORMAT.to_be_bytes());
        if found < COUNTING_SINCE {
            batch.put(Space::Meta, keys::COUNTED_FROM, &committer::now().0.to_be_bytes());
        }
        batch.commit().map_err(broken)?;
    }
    let (epoch, doubt) = if doubt.is_some() {
        let mut batch = disk.batch();
        let epoch = whole::begin_epoch(&mut batch, old_epoch, doubt.as_deref(), disk.newest());
        batch.commit().map_err(broken)?;
        (epoch, doubt)
    } else {
        // A crash in the middle of reading again is not another loss.
        let before = row(keys::REBUILDING)?.map(|why| String::from_utf8_lossy(&why).into_owned());
        (old_epoch, before)
    };
    let seq = row(keys::SEQ)?.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes);
    let id = row(keys::LEDGER_ID)?.map_or_else(String::new, |row| String::from_utf8_lossy(&row).into_owned());
    let letter = view.rows(Space::Meta, b"d", &keys::after_prefix(b"d")).next_back().transpose().map_err(broken)?;
    Ok(Known { epoch, id, seq, doubt, letters: letter.map_or(0, |(key, _)| mailbox::seq_of(&key)) })
}
