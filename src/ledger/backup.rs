//! A ledger as one file: all rows of one durable snapshot, so states, mailboxes and checkpoints belong together.
//!
//! ```text
//!   "orderbell ledger 1\n"   then rows: table (1 byte), key length, value length (4 bytes each), key, value    0xff, rows, check sum
//! ```
//!
//! The committer goes on while a backup is taken. A restored ledger begins a new epoch: clients may have received more than it knows, and
//! their positions must not be taken for its own. Commit marks are left out: a restored ledger begins its own.

use std::io::{Error, ErrorKind, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::disk::{DatabaseError, Disk, Table, View};
use super::keys;
use super::tables::RowKind;

const HEAD: &[u8] = b"orderbell ledger 1\n";
const END: u8 = 0xff;
/// Rows of one batch while restoring.
const BATCH_ROWS: usize = 4_096;
/// No key and no value is longer (the largest is a dead letter with its bytes as hexadecimal digits): more means that the file is damaged.
const FIELD_BYTES_MAX: usize = 256 << 20;

/// Why a file is no backup.
#[derive(Debug, thiserror::Error)]
enum BackupDamage {
    #[error("not a complete backup: it ends too early")]
    CutOff(#[source] Error),
    #[error("not a complete backup: {0}")]
    Content(&'static str),
}

impl From<BackupDamage> for Error {
    fn from(damage: BackupDamage) -> Self {
        Self::new(ErrorKind::InvalidData, damage)
    }
}

fn damaged(what: &'static str) -> Error {
    BackupDamage::Content(what).into()
}

/// A file that ends is damaged; one that cannot be read may be whole.
fn read_failed(error: Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof { BackupDamage::CutOff(error).into() } else { error }
}

/// A reader or writer that sums what passes through it.
struct Summed<T> {
    inner: T,
    sum: Xxh3,
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Summed<T> {
    fn take(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes).map_err(read_failed)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> std::io::Result<usize> {
        let mut bytes = [0; 4];
        self.inner.read_exact(&mut bytes).map_err(read_failed)?;
        self.sum.update(&bytes);
        let number = u32::from_be_bytes(bytes) as usize;
        if number > FIELD_BYTES_MAX { Err(damaged("a length is impossible")) } else { Ok(number) }
    }
}

fn io(error: DatabaseError) -> Error {
    Error::other(error)
}

/// Writes everything that `view` shows and returns how many rows that were. `progress` is given the number now and then.
pub(crate) fn write(view: &View<'_>, to: impl Write, mut progress: impl FnMut(u64)) -> std::io::Result<u64> {
    let mut out = Summed { inner: to, sum: Xxh3::new() };
    out.put(HEAD)?;
    let mut rows = 0;
    for table in Table::ALL {
        for row in view.rows(table, &[], &[0xff; 64]) {
            let (key, value) = row.map_err(io)?;
            if key.starts_with(keys::COMMIT_MARKS) {
                continue;
            }
            out.put(&[table as u8])?;
            out.put(&(key.len() as u32).to_be_bytes())?;
            out.put(&(value.len() as u32).to_be_bytes())?;
            out.put(&key)?;
            out.put(&value)?;
            rows += 1;
            if rows % 65_536 == 0 {
                progress(rows);
            }
        }
    }
    out.put(&[END])?;
    out.put(&rows.to_be_bytes())?;
    let sum = out.sum.digest();
    out.inner.write_all(&sum.to_be_bytes())?;
    out.inner.flush()?;
    Ok(rows)
}

/// Reads a backup to its end. `row` is given each row before the checksum at the end is known to match: use nothing until this returns.
pub(crate) fn read(
    from: impl Read,
    mut row: impl FnMut(Table, Vec<u8>, Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut file = Summed { inner: from, sum: Xxh3::new() };
    if file.take(HEAD.len())? != HEAD {
        return Err(damaged("it does not begin like one"));
    }
    let mut rows = 0_u64;
    loop {
        let tag = file.take(1)?[0];
        if tag == END {
            break;
        }
        let table = Table::ALL.into_iter().find(|table| *table as u8 == tag);
        let table = table.ok_or_else(|| damaged("an unknown table"))?;
        let (key_len, value_len) = (file.number()?, file.number()?);
        let (key, value) = (file.take(key_len)?, file.take(value_len)?);
        row(table, key, value)?;
        rows += 1;
    }
    let stored_rows = file.take(8)?;
    let sum = file.sum.digest();
    let mut stored_sum = [0; 8];
    file.inner.read_exact(&mut stored_sum).map_err(read_failed)?;
    if stored_rows != rows.to_be_bytes() || stored_sum != sum.to_be_bytes() {
        return Err(damaged("its checksum does not match"));
    }
    Ok(rows)
}

/// Restores all rows into an empty database and returns how many. On an error the database must be removed.
pub(crate) fn restore_rows(disk: &Disk, from: impl Read) -> std::io::Result<u64> {
    let (mut batch, mut in_batch) = (disk.batch(), 0);
    let read = read(from, |table, key, value| {
        let kind = RowKind::of(table, &key).ok_or_else(|| damaged("a row of an unknown kind"))?;
        batch.put(kind, &key, &value);
        in_batch += 1;
        if in_batch == BATCH_ROWS {
            in_batch = 0;
            std::mem::replace(&mut batch, disk.batch()).commit().map_err(io)?;
        }
        Ok(())
    })?;
    batch.commit().map_err(io)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as a disk does.
    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(Error::from(ErrorKind::PermissionDenied))
        }
    }

    #[test]
    fn a_file_that_ends_is_damaged_and_one_that_cannot_be_read_is_not_called_so() {
        let nothing = |_, _, _| Ok(());
        let cut = read(&HEAD[..4], nothing).unwrap_err();
        let damage = cut.get_ref().unwrap();
        assert_eq!(damage.to_string(), "not a complete backup: it ends too early");
        assert!(damage.source().is_some(), "the error of the file is kept");
        assert_eq!(read(Failing, nothing).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
