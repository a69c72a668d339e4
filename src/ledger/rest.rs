//! A ledger that nothing runs on, for looking into it: its tallies, its frontiers, its embedded stream.

use std::fs::File;
use std::path::Path;

use orderbell_consumers::{Frontier, Part, Record};
use orderbell_protocol::UnixMs;

use super::disk::{Disk, DiskError, Space};
use super::opening::lock;
use super::tally::{self, Cells, Window};
use super::{FORMAT, OpenError, frontiers, keys, stream};

/// See the module.
pub struct AtRest {
    disk: Disk,
    _lock: File,
}

impl AtRest {
    /// Opens the ledger in `dir` for reading.
    ///
    /// # Errors
    /// [`OpenError`]; also when something runs on it, when there is none, or when it was written by another version.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let missing = || OpenError::Io { dir: dir.to_owned(), error: std::io::ErrorKind::NotFound.into() };
        if !dir.join("db").exists() {
            return Err(missing());
        }
        let broken = |error| OpenError::Disk { dir: dir.to_owned(), error };
        let lock = lock(dir)?;
        let disk = Disk::open(&dir.join("db")).map_err(broken)?;
        let found = disk.view().row(Space::Meta, keys::FORMAT).map_err(broken)?;
        let found = found.and_then(|row| row.try_into().ok()).map_or(0, u32::from_be_bytes);
        match found {
            FORMAT => Ok(Self { disk, _lock: lock }),
            newer if newer > FORMAT => Err(OpenError::Newer { dir: dir.to_owned(), found }),
            _ => Err(OpenError::Older { dir: dir.to_owned(), found }),
        }
    }

    /// Every window of the tallies, and whether it is of load-test traffic.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn tallies(&self) -> Result<Vec<(bool, Window, Cells)>, DiskError> {
        tally::all(&self.disk.view()).collect()
    }

    /// Events that the log got before this moment were not read.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn counted_from(&self) -> Result<UnixMs, DiskError> {
        let row = self.disk.view().row(Space::Meta, keys::COUNTED_FROM)?;
        Ok(UnixMs(row.and_then(|row| row.try_into().ok()).map_or(0, i64::from_be_bytes)))
    }

    /// All frontiers that were saved for a cluster.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn frontiers(&self, cluster: &str) -> Result<Vec<(Part, Frontier)>, DiskError> {
        frontiers(&self.disk.view(), cluster)
    }

    /// The embedded stream, partition by partition; from when on it is there, if older records are gone: `now` when all are.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn stream(&self, now: UnixMs, mut each: impl FnMut(&Record)) -> Result<Option<UnixMs>, DiskError> {
        let view = self.disk.view();
        let mut begins = None;
        for number in 0..stream::PARTITIONS {
            let part = Part::new(stream::TOPIC, number);
            let start = stream::start(&view, number)?;
            let (from, to) = (keys::stream(number, start), keys::stream(number, stream::end(&view, number)?));
            let mut first = true;
            if from >= to {
                begins = begins.max((start > 0).then_some(now));
                continue;
            }
            for row in view.rows(Space::Stream, &from, &to) {
                let (key, row) = row?;
                let offset = key.last_chunk::<8>().map_or(0, |offset| u64::from_be_bytes(*offset));
                let Some(record) = stream::decode(&part, offset, row) else { continue };
                if std::mem::take(&mut first) && start > 0 {
                    begins = begins.max(Some(UnixMs(record.timestamp_ms)));
                }
                each(&record);
            }
        }
        Ok(begins)
    }
}
