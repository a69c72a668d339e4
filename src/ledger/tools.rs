//! What is done to a ledger that nothing runs on: look at it, write it out, put it back.

use std::io::{Read, Write};
use std::path::Path;

use super::disk::{Disk, Space};
use super::opening::lock;
use super::whole::{self, Whole};
use super::{Ledger, OpenError, backup, committer, keys};

/// What a look at a ledger found.
#[derive(Clone, Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// What is not as it should be.
    pub fault: Option<String>,
}

impl Ledger {
    /// Looks whether the ledger in `dir` is whole, and what is in it.
    ///
    /// # Errors
    /// [`OpenError`]; also when something runs on it.
    pub fn check(dir: &Path) -> Result<Report, OpenError> {
        let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
        let _lock = lock(dir)?;
        let disk = Disk::open(&dir.join("db")).map_err(broken)?;
        let view = disk.view();
        let (fault, newest) = match whole::look(&view).map_err(broken)? {
            Whole::Yes(newest) => (None, newest),
            Whole::No(why, newest) => (Some(why), newest),
        };
        let count = |space, from: &[u8], to: &[u8]| {
            view.rows(space, from, to).try_fold(0_u64, |rows, row| row.map(|_| rows + 1)).map_err(broken)
        };
        let meta = |prefix: &[u8]| count(Space::Meta, prefix, &keys::after_prefix(prefix));
        let epoch = view.row(Space::Meta, keys::EPOCH).map_err(broken)?;
        let epoch = epoch.and_then(|row| row.try_into().ok()).map_or(0, u32::from_be_bytes);
        let all = |space| count(space, &[], &[0xff; 64]);
        let text = format!(
            "commits    {newest}\nepoch      {epoch:x}\norders     {} rows with their notices' index\nmail       {} rows\nstream     {} \
             rows\nmeta       {} rows, of these {} cursors, {} event ids, {} dead letters, {} waiting to be emitted\ntrail      {} rows",
            all(Space::Orders)?,
            all(Space::Mail)?,
            all(Space::Stream)?,
            all(Space::Meta)?,
            meta(b"c")?,
            meta(b"e")?,
            meta(b"d")?,
            meta(b"x")?,
            all(Space::Trail)?,
        );
        Ok(Report { text, fault })
    }

    /// Writes a backup of the ledger in `dir`.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::InUse`] when something runs on it: then that gives the backup.
    pub fn write_backup(dir: &Path, to: impl Write, progress: impl FnMut(u64)) -> Result<u64, OpenError> {
        let _lock = lock(dir)?;
        let disk = Disk::open(&dir.join("db")).map_err(|error| OpenError::Disk { dir: dir.to_owned(), error })?;
        backup::write(&disk.view(), to, progress).map_err(|error| OpenError::Io { dir: dir.to_owned(), error })
    }

    /// Reads a backup to its end; how many rows it holds.
    ///
    /// # Errors
    /// When it cannot be read or is not whole.
    pub fn verify_backup(from: impl Read) -> std::io::Result<u64> {
        backup::read(from, |_, _, _| Ok(()))
    }

    /// Puts a backup in the place of the ledger in `dir`, which is set aside. A new epoch begins.
    ///
    /// # Errors
    /// [`OpenError`]; also when something runs on it.
    pub fn restore(dir: &Path, from: impl Read) -> Result<u64, OpenError> {
        let io = |error| OpenError::Io { dir: dir.to_owned(), error };
        let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(io)?;
        let _lock = lock(dir)?;
        // Beside the old one until it is whole: a restore that is cut off changes nothing.
        let (path, next) = (dir.join("db"), dir.join("db.restoring"));
        if next.exists() {
            std::fs::remove_dir_all(&next).map_err(io)?;
        }
        let disk = Disk::open(&next).map_err(broken)?;
        let rows = backup::put_back(&disk, from).map_err(io)?;
        let old = disk.view().row(Space::Meta, keys::EPOCH).map_err(broken)?;
        let old = old.and_then(|row| row.try_into().ok()).map_or(0, u32::from_be_bytes);
        let mut batch = disk.batch();
        whole::begin_epoch(&mut batch, old, Some("put back from a backup"), disk.newest());
        batch.commit().map_err(broken)?;
        drop(disk);
        if path.exists() {
            whole::set_aside(&path, committer::now().0).map_err(io)?;
        }
        std::fs::rename(&next, &path).map_err(io)?;
        Ok(rows)
    }
}
