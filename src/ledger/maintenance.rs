//! Maintenance of a ledger that no process runs on: check it, back it up, restore it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use super::disk::{DiskError, Table};
use super::integrity::{self, Integrity};
use super::open::{check_format, disk_error, lock, open_disk, stored_epoch};
use super::tables::RowKind;
use super::{Ledger, OpenError, backup, committer, keys};

/// The result of checking a ledger.
#[derive(Clone, Debug)]
pub struct LedgerReport {
    /// Lines for people: newest commit, epoch, rows of each table.
    pub text: String,
    /// The damage that was found, in words.
    pub fault: Option<String>,
}

impl Ledger {
    /// Checks whether the ledger in `dir` is intact, and counts its rows.
    ///
    /// # Errors
    /// [`OpenError`]; also when a process runs on it.
    pub fn check(dir: &Path) -> Result<LedgerReport, OpenError> {
        let _lock = lock(dir)?;
        let disk = open_disk(dir, &dir.join("db"))?;
        let view = disk.view();
        let (fault, newest) = match integrity::check(&view).map_err(disk_error(dir))? {
            Integrity::Intact(newest) => (None, newest),
            Integrity::Damaged(damage, newest) => (Some(damage), newest),
        };
        let (mut rows, mut damaged) = (HashMap::new(), None);
        for table in Table::ALL {
            for row in view.rows(table, &[], &[0xff; 64]) {
                let (key, value) = row.map_err(disk_error(dir))?;
                let kind = RowKind::of(table, &key).filter(|kind| (kind.schema().decodes)(&value));
                let fault = || DiskError::damaged(table, &key, "a row of a known kind").to_string();
                damaged = damaged.or_else(|| kind.is_none().then(fault));
                *rows.entry((table, kind)).or_insert(0_u64) += 1;
            }
        }
        let count = |kind: RowKind| rows.get(&(kind.table(), Some(kind))).copied().unwrap_or(0);
        let all = |table| rows.iter().filter(|((of, _), _)| *of == table).map(|(_, rows)| rows).sum::<u64>();
        let epoch = stored_epoch(&view).map_err(disk_error(dir))?;
        let text = format!(
            "commits       {newest}\nepoch         {epoch:x}\norders        {} rows, with the index of their notices\n\
             mailboxes     {} rows\nevent log     {} rows\nmeta          {} rows: {} cursors, {} event ids, {} dead letters, {} pending \
             in the outbox, and others\ndelivery log  {} rows",
            all(Table::Orders),
            all(Table::Mailboxes),
            all(Table::EventLog),
            all(Table::Meta),
            count(RowKind::Cursor),
            count(RowKind::EventId),
            count(RowKind::DeadLetter),
            count(RowKind::OutboxEntry),
            all(Table::DeliveryLog),
        );
        let fault = fault.or(damaged);
        Ok(LedgerReport { text, fault })
    }

    /// Writes a backup of the ledger in `dir` and returns how many rows it holds.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::InUse`] when a process runs on it: ask that process for a backup instead.
    pub fn write_backup(dir: &Path, to: impl Write, progress: impl FnMut(u64)) -> Result<u64, OpenError> {
        let _lock = lock(dir)?;
        let disk = open_disk(dir, &dir.join("db"))?;
        backup::write(&disk.view(), to, progress).map_err(|source| OpenError::Io { dir: dir.to_owned(), source })
    }

    /// Reads a backup to its end and returns how many rows it holds.
    ///
    /// # Errors
    /// When it cannot be read or is incomplete.
    pub fn verify_backup(from: impl Read) -> std::io::Result<u64> {
        backup::read(from, |_, _, _| Ok(()))
    }

    /// Restores a backup in place of the ledger in `dir`, which is quarantined, and returns how many rows it holds. A new epoch begins.
    ///
    /// # Errors
    /// [`OpenError`]; also when a process runs on the ledger, or when the backup has another format.
    pub fn restore(dir: &Path, from: impl Read) -> Result<u64, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        crate::create_dir(dir).map_err(io)?;
        let _lock = lock(dir)?;
        // Beside the old one until it is complete: a restore that is interrupted changes nothing.
        let (path, next) = (dir.join("db"), dir.join("db.restoring"));
        if next.exists() {
            std::fs::remove_dir_all(&next).map_err(io)?;
        }
        let disk = open_disk(dir, &next)?;
        let rows = backup::restore_rows(&disk, from).map_err(io)?;
        let format = disk.view().row(Table::Meta, keys::FORMAT).map_err(disk_error(dir))?;
        check_format(dir, format)?;
        let old = disk.view().pass_over(stored_epoch(&disk.view())).map_err(disk_error(dir))?;
        let mut batch = disk.batch();
        integrity::begin_epoch(&mut batch, old, Some("restored from a backup"), disk.newest_commit());
        batch.commit().map_err(disk_error(dir))?;
        drop(disk);
        if path.exists() {
            integrity::quarantine(&path, committer::now().0).map_err(io)?;
        }
        std::fs::rename(&next, &path).map_err(io)?;
        Ok(rows)
    }
}
