//! The one file that imports fjall.
//!
//! Six keyspaces, one journal: a batch over all of them is atomic, and `durability(SyncData)` makes fjall write the journal, fsync it,
//! and only then show the batch to readers. So a snapshot never shows anything that is not durable; the durable head is simply what a
//! snapshot shows. "Store first, notify later" rests on that order, and `tests/mutants` holds a patch that breaks it.
//!
//! An error while writing is final: fjall poisons itself, and whoever calls [`Batch::commit`] ends the process. Nothing is retried on a
//! file that failed (a second fsync may succeed and mean nothing).
//!
//! A damaged row is another matter: the files work, and one row of them is wrong. The two are told apart by type. What the writer calls returns
//! [`DatabaseError`], which no damaged row can become, so no row ends the process; [`View::pass_over`] is the way from one to the other.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::damage::LedgerDamage;
use super::tables::RowKind;

/// Rows in memory before they are written out as tables. Larger means fewer stalls and a longer replay at open.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// The journal on disk; bounds the replay at open.
const JOURNAL_BYTES: u64 = 256 << 20;
/// Blocks kept in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// The database failed to read or write. Nothing that follows can be trusted: the writer ends the process.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the database failed: {0}")]
pub struct DatabaseError(#[source] Arc<dyn Error + Send + Sync>);

impl From<fjall::Error> for DatabaseError {
    fn from(error: fjall::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// The ledger's files cannot be read or written, or a row of them is damaged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    /// The database failed to read or write.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A row does not decode, or misses the row that it refers to. No reader goes on without it, since a row less would be a wrong answer; the
    /// writer does, since it serves everybody.
    #[error("damaged row in the table {table}, key {key}: {what}")]
    DamagedRow {
        /// Name of the table.
        table: &'static str,
        /// The row's key, with bytes that are not printable as escapes.
        key: String,
        /// What the row should have been.
        what: &'static str,
        /// The decoder's error, where it has one.
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
}

impl DiskError {
    /// The row of `key` is no `what`.
    pub(crate) fn damaged(table: Table, key: &[u8], what: &'static str) -> Self {
        Self::DamagedRow { table: table.name(), key: key.escape_ascii().to_string(), what, source: None }
    }

    /// The same, with the decoder's error.
    pub(crate) fn damaged_by(
        table: Table,
        key: &[u8],
        what: &'static str,
        error: impl Error + Send + Sync + 'static,
    ) -> Self {
        let key = key.escape_ascii().to_string();
        Self::DamagedRow { table: table.name(), key, what, source: Some(Arc::new(error)) }
    }
}

impl From<fjall::Error> for DiskError {
    fn from(error: fjall::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A keyspace of the database. The discriminant is its number in backups and its bit in commit marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Table {
    /// Orders and the index of their notices.
    Orders,
    /// Notices by recipient and seq.
    Mailboxes,
    /// The embedded log.
    EventLog,
    /// Checkpoints, cursors, floors, event ids, dead letters, the outbox, and what the ledger knows of itself.
    Meta,
    /// What happened to notices on devices.
    DeliveryLog,
    /// Sums by minute and day.
    Counters,
}

impl Table {
    pub(crate) const ALL: [Self; 6] =
        [Self::Orders, Self::Mailboxes, Self::EventLog, Self::Meta, Self::DeliveryLog, Self::Counters];

    /// Its place in a set of tables.
    pub(crate) fn bit(self) -> u8 {
        1 << (self as u8)
    }

    /// Name of the keyspace on disk. `meta` is the same in every format: the format itself is read from it.
    fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Mailboxes => "mailboxes",
            Self::EventLog => "event_log",
            Self::Meta => "meta",
            Self::DeliveryLog => "delivery_log",
            Self::Counters => "counters",
        }
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

/// A database whose format is not known yet: nothing is created in it until [`Self::into_disk`].
pub(crate) struct UncheckedDisk(Database);

impl UncheckedDisk {
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        Ok(Self(Database::builder(dir).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).open()?))
    }

    /// A row of the table `meta`, if there is such a table.
    pub(crate) fn meta_row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        if !self.0.keyspace_exists(Table::Meta.name()) {
            return Ok(None);
        }
        let meta = self.0.keyspace(Table::Meta.name(), options)?;
        Ok(self.0.snapshot().get(&meta, key)?.map(|value| value.to_vec()))
    }

    pub(crate) fn into_disk(self) -> Result<Disk, DiskError> {
        let [orders, mailboxes, event_log, meta, delivery_log, counters] =
            Table::ALL.map(|table| self.0.keyspace(table.name(), options));
        let tables = [orders?, mailboxes?, event_log?, meta?, delivery_log?, counters?];
        Ok(Disk { db: self.0, tables, commits: AtomicU64::new(0), damage: LedgerDamage::default() })
    }
}

/// An open database of the format that this program writes.
pub(crate) struct Disk {
    db: Database,
    tables: [Keyspace; 6],
    /// Number of the newest commit.
    commits: AtomicU64,
    damage: LedgerDamage,
}

impl Disk {
    /// The rows that were found damaged.
    pub(crate) fn damage(&self) -> &LedgerDamage {
        &self.damage
    }

    /// Number of the newest commit.
    pub(crate) fn newest_commit(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The next commit gets the number after this one.
    pub(crate) fn set_newest_commit(&self, newest: u64) {
        self.commits.store(newest, Ordering::Relaxed);
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }

    /// What is durable at this moment; later writes do not change it.
    pub(crate) fn view(&self) -> View<'_> {
        self.view_at(self.snapshot())
    }

    /// The same, to be viewed later: until then the database keeps what is overwritten.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.db.snapshot())
    }

    /// What was durable when the snapshot was taken.
    pub(crate) fn view_at(&self, snapshot: Snapshot) -> View<'_> {
        View { disk: self, snapshot: snapshot.0 }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { disk: self, batch: self.db.batch().durability(Some(PersistMode::SyncData)), touched: 0 }
    }
}

/// A moment of the database.
pub(crate) struct Snapshot(fjall::Snapshot);

/// A consistent, durable view.
pub(crate) struct View<'a> {
    disk: &'a Disk,
    snapshot: fjall::Snapshot,
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

impl View<'_> {
    /// Goes on without a damaged row: it is recorded, which logs it and raises an alert, and left as it is. What depends on it must stay
    /// correct: whoever calls this says how.
    pub(crate) fn pass_over<T>(&self, read: Result<T, DiskError>) -> Result<Option<T>, DatabaseError> {
        match read {
            Ok(row) => Ok(Some(row)),
            Err(DiskError::Database(error)) => Err(error),
            Err(damaged @ DiskError::DamagedRow { .. }) => {
                let _recorded = self.disk.damage.record_failure(damaged);
                Ok(None)
            }
        }
    }

    pub(crate) fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self.snapshot.get(self.disk.keyspace(table), key)?.map(|value| value.to_vec()))
    }

    /// A row, decoded; an error that names it as `what` when it does not decode.
    pub(crate) fn decoded<T>(
        &self,
        table: Table,
        key: &[u8],
        what: &'static str,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, DiskError> {
        let Some(row) = self.row(table, key)? else { return Ok(None) };
        decode(&row).map(Some).ok_or_else(|| DiskError::damaged(table, key, what))
    }

    /// All rows of a kind. One that does not decode as `what` is passed over.
    pub(crate) fn all_of<T>(
        &self,
        kind: RowKind,
        what: &'static str,
        decode: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> impl Iterator<Item = Result<T, DatabaseError>> {
        let (from, to) = kind.range();
        let decoded = move |row: Result<Row, DatabaseError>| {
            let (key, value) = row?;
            decode(&key, &value).ok_or_else(|| DiskError::damaged(kind.table(), &key, what))
        };
        self.rows(kind.table(), &from, &to).filter_map(move |row| self.pass_over(decoded(row)).transpose())
    }

    /// A row of `meta` that holds a number of 64 bits and nothing else.
    pub(crate) fn number(&self, key: &[u8]) -> Result<Option<u64>, DiskError> {
        self.decoded(Table::Meta, key, "a number", |row| Some(u64::from_be_bytes(row.try_into().ok()?)))
    }

    /// Rows with `from <= key < to`, in order.
    pub(crate) fn rows(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, DatabaseError>> + use<> {
        self.snapshot.range(self.disk.keyspace(table), from..to).map(|guard| {
            let (key, value) = guard.into_inner()?;
            Ok((key.to_vec(), value.to_vec()))
        })
    }
}

/// Rows that are written together or not at all.
pub(crate) struct Batch<'a> {
    disk: &'a Disk,
    batch: fjall::OwnedWriteBatch,
    /// Bits of the tables that it writes to.
    touched: u8,
}

impl Batch<'_> {
    /// A row is written through its kind: a kind says when its rows go.
    pub(crate) fn put(&mut self, kind: RowKind, key: &[u8], value: &[u8]) {
        let table = kind.table();
        debug_assert_eq!(RowKind::of(table, key), Some(kind), "{}", key.escape_ascii());
        self.touched |= table.bit();
        self.batch.insert(self.disk.keyspace(table), key, value);
    }

    pub(crate) fn remove(&mut self, kind: RowKind, key: &[u8]) {
        let table = kind.table();
        self.touched |= table.bit();
        self.batch.remove(self.disk.keyspace(table), key);
    }

    /// Durable when this returns `Ok`, and visible only then.
    pub(crate) fn commit(mut self) -> Result<(), DatabaseError> {
        if self.touched == 0 {
            return Ok(());
        }
        // One thread at a time commits: the committer, or whoever opens the ledger.
        let number = self.disk.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = super::integrity::encode_mark(number, self.touched);
        for table in Table::ALL.into_iter().filter(|table| self.touched & table.bit() != 0) {
            self.batch.insert(self.disk.keyspace(table), super::keys::commit_mark(number), mark);
        }
        Ok(self.batch.commit()?)
    }
}
