//! The one file that knows fjall.
//!
//! Six keyspaces, one journal: a batch over all of them is atomic, and `durability(SyncData)` makes fjall write the journal, fsync it,
//! and only then show the batch to readers. So a snapshot never sees anything that is not durable; the durable head is simply what a
//! snapshot sees. That order is what "store first, ring later" rests on, and `tests/mutants` holds a patch that breaks it.
//!
//! An error while writing is final: fjall poisons itself, and whoever calls [`Batch::commit`] ends the process. Nothing is retried on a
//! file that failed (a second fsync may succeed and mean nothing).

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

/// Memory that rows wait in before they are written out as tables. Larger means fewer stalls and a longer replay at open.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// The journal on disk; bounds the replay at open.
const JOURNAL_BYTES: u64 = 256 << 20;
/// Blocks kept in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// The ledger's files failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(String);

impl DiskError {
    /// What was read is not what was written.
    pub(crate) fn damaged(what: &impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl From<fjall::Error> for DiskError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
}

/// Which keyspace a row lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// Orders and the index of their notices.
    Orders,
    /// Mailboxes.
    Mail,
    /// The embedded stream.
    Stream,
    /// Frontiers, cursors, floors, event ids, dead letters, and what the ledger knows of itself.
    Meta,
    /// What became of notices, for stories.
    Trail,
    /// Sums by minute and day.
    Tally,
}

impl Space {
    pub(crate) const ALL: [Self; 6] = [Self::Orders, Self::Mail, Self::Stream, Self::Meta, Self::Trail, Self::Tally];

    /// Its place in a set of keyspaces.
    pub(crate) fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// An open database.
pub(crate) struct Disk {
    db: Database,
    spaces: [Keyspace; 6],
    /// Number of the newest commit.
    commits: AtomicU64,
}

impl Disk {
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let db = Database::builder(dir).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).open()?;
        let space = |name| db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES));
        let names = ["orders", "mail", "stream", "meta", "trail", "tally"];
        let [orders, mail, stream, meta, trail, tally] = names.map(space);
        let spaces = [orders?, mail?, stream?, meta?, trail?, tally?];
        Ok(Self { db, spaces, commits: AtomicU64::new(0) })
    }

    /// Number of the newest commit.
    pub(crate) fn newest(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Commits go on behind this number.
    pub(crate) fn number_from(&self, newest: u64) {
        self.commits.store(newest, Ordering::Relaxed);
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    /// What is durable at this moment, unmoved by later writes.
    pub(crate) fn view(&self) -> View<'_> {
        View { disk: self, snapshot: self.db.snapshot() }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { disk: self, batch: self.db.batch().durability(Some(PersistMode::SyncData)), touched: 0 }
    }
}

/// A consistent, durable view.
pub(crate) struct View<'a> {
    disk: &'a Disk,
    snapshot: fjall::Snapshot,
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

impl View<'_> {
    pub(crate) fn row(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.snapshot.get(self.disk.space(space), key)?.map(|value| value.to_vec()))
    }

    /// Rows with `from <= key < to`, in order.
    pub(crate) fn rows(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, DiskError>> + use<> {
        self.snapshot.range(self.disk.space(space), from..to).map(|guard| {
            let (key, value) = guard.into_inner()?;
            Ok((key.to_vec(), value.to_vec()))
        })
    }
}

/// Rows that are written together or not at all.
pub(crate) struct Batch<'a> {
    disk: &'a Disk,
    batch: fjall::OwnedWriteBatch,
    /// Keyspaces that it writes to.
    touched: u8,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.touched |= space.bit();
        self.batch.insert(self.disk.space(space), key, value);
    }

    pub(crate) fn remove(&mut self, space: Space, key: &[u8]) {
        self.touched |= space.bit();
        self.batch.remove(self.disk.space(space), key);
    }

    /// Durable when this returns `Ok`, and visible only then.
    pub(crate) fn commit(mut self) -> Result<(), DiskError> {
        if self.touched == 0 {
            return Ok(());
        }
        // Drawn by one thread at a time: the committer, or whoever opens the ledger.
        let number = self.disk.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let row = super::whole::row(number, self.touched);
        for space in Space::ALL.into_iter().filter(|space| self.touched & space.bit() != 0) {
            self.batch.insert(self.disk.space(space), super::keys::ring(number), row);
        }
        Ok(self.batch.commit()?)
    }
}
