//! A ledger that no process runs on, opened to be read: its counters, its checkpoints, its embedded log.

use std::fs::File;
use std::path::Path;

use orderbell_consumers::{Record, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{BinCount, PartitionCount};

use super::balance::Bins;
use super::checkpoints::Checkpoints;
use super::counters::{self, Bucket, CounterSums};
use super::disk::{Disk, DiskError, Table};
use super::{OpenError, committer, embedded_log, keys, open};

/// A ledger opened for reading. It holds the directory's lock.
pub struct OfflineLedger {
    disk: Disk,
    _lock: File,
}

impl OfflineLedger {
    /// Opens the ledger in `dir` for reading.
    ///
    /// # Errors
    /// [`OpenError`]; also when a process runs on it, when there is none, or when it has another format.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        if !dir.join("db").exists() {
            return Err(OpenError::Io { dir: dir.to_owned(), source: std::io::ErrorKind::NotFound.into() });
        }
        let lock = open::lock(dir)?;
        Ok(Self { disk: open::open_disk(dir, &dir.join("db"))?, _lock: lock })
    }

    /// Every bucket of the counters, and whether it is of load-test traffic.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn counters(&self) -> Result<Vec<(bool, Bucket, CounterSums)>, DiskError> {
        counters::all(&self.disk.view()).collect()
    }

    /// The balance of paid orders.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn balance(&self) -> Result<Vec<BinCount>, DiskError> {
        Ok(Bins::load(&self.disk.view())?.view().counts(committer::now()))
    }

    /// How many records of each partition the balance contains.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn partition_counts(&self) -> Result<Vec<PartitionCount>, DiskError> {
        Ok(Bins::load(&self.disk.view())?.view().partition_counts())
    }

    /// Where the partitions of the embedded log begin.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn log_begins(&self) -> Result<Vec<(TopicPartition, u64)>, DiskError> {
        let view = self.disk.view();
        let begin =
            |number| Ok((TopicPartition::new(embedded_log::TOPIC, number), embedded_log::start(&view, number)?));
        (0..embedded_log::PARTITIONS).map(begin).collect()
    }

    /// Events that the log received before this moment were not counted.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn counted_from(&self) -> Result<UnixMs, DiskError> {
        let at = self.disk.view().decoded(Table::Meta, keys::COUNTED_FROM, "a time", keys::time)?;
        at.ok_or_else(|| DiskError::damaged(Table::Meta, keys::COUNTED_FROM, "a time, but missing"))
    }

    /// The same handle as that of a running ledger.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints(&self.disk)
    }

    /// Hands every record of the embedded log to `each`, partition by partition. Returns from when on the log is complete, if older records
    /// were removed: `now` when all were.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn read_log(&self, now: UnixMs, mut each: impl FnMut(&Record)) -> Result<Option<UnixMs>, DiskError> {
        let view = self.disk.view();
        let mut complete_from = None;
        for number in 0..embedded_log::PARTITIONS {
            let part = TopicPartition::new(embedded_log::TOPIC, number);
            let start = embedded_log::start(&view, number)?;
            let (from, to) =
                (keys::log_record(number, start), keys::log_record(number, embedded_log::end(&view, number)?));
            let mut first = true;
            if from >= to {
                complete_from = complete_from.max((start > 0).then_some(now));
                continue;
            }
            for row in view.rows(Table::EventLog, &from, &to) {
                let (key, row) = row?;
                let offset = keys::trailing_number(Table::EventLog, &key)?;
                let record = embedded_log::decode(&part, offset, row);
                let record = record.ok_or_else(|| DiskError::damaged(Table::EventLog, &key, "a record"))?;
                if std::mem::take(&mut first) && start > 0 {
                    complete_from = complete_from.max(Some(UnixMs(record.timestamp_ms)));
                }
                each(&record);
            }
        }
        Ok(complete_from)
    }
}
