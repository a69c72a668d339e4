//! A ledger as one file: all rows of one durable snapshot, so states, mailboxes and frontiers fit each other.
//!
//! ```text
//!   "orderbell ledger 1\n"   then rows: keyspace (1 byte), key length, value length (4 bytes each), key, value    0xff, rows, check sum
//! ```
//!
//! It is taken beside the writer, which goes on. What is put back begins a new epoch: clients may have heard more than it knows, and their
//! positions must not be taken for its own. The rows of the ring are left out, since a ledger that is put back begins its own.

use std::io::{Error, ErrorKind, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::disk::{Disk, DiskError, Space, View};
use super::keys;

const HEAD: &[u8] = b"orderbell ledger 1\n";
const END: u8 = 0xff;
/// Rows of one batch while putting back.
const BATCH_ROWS: usize = 4_096;
/// No key and no value is longer (the largest is a dead letter with its bytes as hexadecimal digits): more means that the file is damaged.
const FIELD_BYTES_MAX: usize = 256 << 20;

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("not a whole backup: {what}"))
}

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
        self.inner.read_exact(&mut bytes).map_err(|_| damaged("it ends too early"))?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> std::io::Result<usize> {
        let bytes = self.take(4)?;
        let number = bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
        if number > FIELD_BYTES_MAX { Err(damaged("a length is absurd")) } else { Ok(number) }
    }
}

fn io(error: DiskError) -> Error {
    Error::other(error)
}

/// Writes everything that `view` shows; how many rows that were. `progress` hears the number now and then.
pub(crate) fn write(view: &View<'_>, to: impl Write, mut progress: impl FnMut(u64)) -> std::io::Result<u64> {
    let mut out = Summed { inner: to, sum: Xxh3::new() };
    out.put(HEAD)?;
    let mut rows = 0;
    for space in Space::ALL {
        for row in view.rows(space, &[], &[0xff; 64]) {
            let (key, value) = row.map_err(io)?;
            if key.starts_with(keys::RING) {
                continue;
            }
            out.put(&[space as u8])?;
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

/// Reads a backup to its end; `row` takes each row, before it is known that the whole is sound: read twice.
pub(crate) fn read(
    from: impl Read,
    mut row: impl FnMut(Space, Vec<u8>, Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut file = Summed { inner: from, sum: Xxh3::new() };
    if file.take(HEAD.len())? != HEAD {
        return Err(damaged("it begins otherwise"));
    }
    let mut rows = 0_u64;
    loop {
        let tag = file.take(1)?[0];
        if tag == END {
            break;
        }
        let space = Space::ALL.into_iter().find(|space| *space as u8 == tag);
        let space = space.ok_or_else(|| damaged("an unknown keyspace"))?;
        let (key_len, value_len) = (file.number()?, file.number()?);
        let (key, value) = (file.take(key_len)?, file.take(value_len)?);
        row(space, key, value)?;
        rows += 1;
    }
    let told = file.take(8)?;
    let sum = file.sum.digest();
    let mut wanted = [0; 8];
    file.inner.read_exact(&mut wanted).map_err(|_| damaged("it ends too early"))?;
    if told != rows.to_be_bytes() || wanted != sum.to_be_bytes() {
        return Err(damaged("its check sum is another"));
    }
    Ok(rows)
}

/// Puts rows back into an empty database; how many. On an error the database is of no use.
pub(crate) fn put_back(disk: &Disk, from: impl Read) -> std::io::Result<u64> {
    let (mut batch, mut waiting) = (disk.batch(), 0);
    let read = read(from, |space, key, value| {
        batch.put(space, &key, &value);
        waiting += 1;
        if waiting == BATCH_ROWS {
            waiting = 0;
            std::mem::replace(&mut batch, disk.batch()).commit().map_err(io)?;
        }
        Ok(())
    })?;
    batch.commit().map_err(io)?;
    Ok(read)
}
