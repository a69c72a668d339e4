//! The balance of paid orders: how many records of each topic ended in which bin.
//!
//! ```text
//!   key batch: BinDelta with the order's state ------------------------------+--one batch--> rows --> Ledger::balance
//!   records without an order: BinNotes, by offset --checkpoint passes them---+
//!   events that the output topic refuses: BinDelta with the dead letter -----+
//! ```
//!
//! A record that becomes part of an order's state is counted in the batch of that state, which remembers that it was. A record that leaves no state
//! (a dead letter, an ignored event) is noted in memory, and counted in the batch of the checkpoint that passes it. So a crash loses no count
//! and doubles none, whatever is read again. Rows and notes have one lock, so whoever reads the balance sees each record once at every moment.
//! A reader has the lock while it takes a [`BinsView`], and sums without it: screens read the balance every second, and the committer waits for none.
//!
//! Refused: counting dead letters when they are written. What is read again after a crash would be counted twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orderbell_consumers::{Begin, Checkpoint, Record, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{BinCount, BinDelta, BinKey, PartitionCount, RecordPlace};

use super::bin_notes::{BinNote, BinNotes, NotesView, Sum};
use super::bin_row::BinRow;
use super::committer::{self, Work};
use super::disk::{DatabaseError, View};
use super::partition_counts::PartitionRow;
use super::tables::RowKind;
use super::{Ledger, LedgerFailed, keys};

/// Counts by topic and partition.
type Partitions = BTreeMap<(String, u32), PartitionRow>;

/// What is durable, and what is noted until then. The committer changes the rows, everybody else reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bins(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Copied by the committer when it changes them while somebody has a view: there is a row for each bin of a topic, not for each record.
    rows: Arc<BTreeMap<BinKey, BinRow>>,
    partitions: Arc<Partitions>,
    notes: BinNotes,
    /// Of each bin, how many records were looked after before a batch counted them.
    acknowledged_before: BTreeMap<BinKey, i64>,
}

/// What a batch changes.
#[derive(Debug, Default)]
pub(crate) struct ChangedBins {
    /// Rows as the batch leaves them.
    rows: BTreeMap<BinKey, BinRow>,
    partitions: Partitions,
    /// Passing notes that they count.
    passed: Vec<u64>,
}

impl ChangedBins {
    /// The rows as they are written.
    pub(crate) fn rows(&self) -> Vec<(RowKind, Vec<u8>, Vec<u8>)> {
        let bins = self.rows.iter().map(|(key, row)| (RowKind::Balance, keys::bin(key), row.encode()));
        let partition = |((topic, partition), row): (&(String, u32), &PartitionRow)| {
            (RowKind::PartitionCount, keys::partition_count(topic, *partition), row.encode())
        };
        bins.chain(self.partitions.iter().map(partition)).collect()
    }

    fn row(&mut self, inner: &Inner, key: &BinKey, now: UnixMs) -> &mut BinRow {
        let durable = || inner.rows.get(key).cloned().unwrap_or_else(|| BinRow::empty(now));
        self.rows.entry(key.clone()).or_insert_with(durable)
    }

    fn partition(&mut self, inner: &Inner, topic: &str, partition: u32) -> &mut PartitionRow {
        let key = (topic.to_owned(), partition);
        let durable = inner.partitions.get(&key).copied().unwrap_or_default();
        self.partitions.entry(key).or_insert(durable)
    }

    /// Counts records of a bin that the log tells, too, for their partition.
    fn count(&mut self, inner: &Inner, key: &BinKey, by: i64, place: RecordPlace) {
        if key.is_in_the_log() {
            self.partition(inner, &key.topic, place.partition).change(by, place.offset);
        }
    }
}

/// One bin of which somebody looked after what was there.
#[derive(Clone, Debug)]
pub(crate) struct SeenBin {
    key: BinKey,
    /// So many records were counted in its row, or in that of a batch that was not durable.
    records: i64,
    /// Of [`Inner::acknowledged_before`] so many were counted by then. Those since then were looked after, too.
    acknowledged_before: i64,
    /// Orders that wait for their store came up to this second.
    alerted_until: i64,
}

impl Bins {
    /// Those that the ledger holds.
    pub(crate) fn load(view: &View<'_>) -> Result<Self, DatabaseError> {
        let bin = |key: &[u8], row: &[u8]| keys::bin_key(key).zip(BinRow::decode(row));
        let rows = view.all_of(RowKind::Balance, "a bin of the balance", bin);
        let rows = Arc::new(rows.collect::<Result<_, _>>()?);
        let partition = |key: &[u8], row: &[u8]| keys::counted_partition(key).zip(PartitionRow::decode(row));
        let partitions = view.all_of(RowKind::PartitionCount, "the count of a partition", partition);
        let partitions = Arc::new(partitions.collect::<Result<_, _>>()?);
        Ok(Self(Arc::new(Mutex::new(Inner { rows, partitions, ..Inner::default() }))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies changes to the rows as `changed` has them, or else as they are durable.
    pub(crate) fn change(&self, changed: &mut ChangedBins, deltas: &[BinDelta], now: UnixMs) {
        if deltas.is_empty() {
            return;
        }
        let inner = self.lock();
        for delta in deltas {
            changed.row(&inner, &delta.key, now).change(delta, 0, now);
            changed.count(&inner, &delta.key, delta.by, delta.place);
        }
    }

    /// Takes the notes that these checkpoints pass, for [`Self::change_by_passed`]; none when there are none.
    pub(crate) fn pass(&self, at: &[(TopicPartition, Checkpoint)]) -> Option<u64> {
        self.lock().notes.pass(at)
    }

    /// Partitions begin: takes the notes of what is never read again, for [`Self::change_by_passed`]; none when there are none.
    pub(crate) fn begin(&self, partitions: &[Begin]) -> Option<u64> {
        self.lock().notes.begin(partitions)
    }

    /// Counts the notes that are passing under this number, if there are any.
    pub(crate) fn change_by_passed(&self, changed: &mut ChangedBins, number: Option<u64>) {
        let Some(number) = number else { return };
        let mut inner = self.lock();
        for Sum { delta, acknowledged, since, by_partition } in &*inner.notes.count(number) {
            changed.row(&inner, &delta.key, *since).change(delta, *acknowledged, *since);
            by_partition.iter().for_each(|(by, place)| changed.count(&inner, &delta.key, *by, *place));
            *inner.acknowledged_before.entry(delta.key.clone()).or_default() += acknowledged;
        }
        changed.passed.push(number);
    }

    /// A partition starts at this new checkpoint.
    pub(crate) fn start(&self, changed: &mut ChangedBins, partition: &TopicPartition, checkpoint: Checkpoint) {
        changed.partition(&self.lock(), &partition.topic, partition.number).start(checkpoint.next);
    }

    /// Somebody looked after the records of these bins.
    pub(crate) fn acknowledge(&self, changed: &mut ChangedBins, seen: &[SeenBin], now: UnixMs) {
        let inner = self.lock();
        for SeenBin { key, records, acknowledged_before, alerted_until } in seen {
            let since = inner.acknowledged_before(key) - acknowledged_before;
            changed.row(&inner, key, now).acknowledge(*records + since, *alerted_until);
        }
    }

    /// These rows are durable.
    pub(crate) fn committed(&self, changed: ChangedBins) {
        if changed.rows.is_empty() && changed.partitions.is_empty() && changed.passed.is_empty() {
            return;
        }
        let mut inner = self.lock();
        Arc::make_mut(&mut inner.rows).extend(changed.rows);
        Arc::make_mut(&mut inner.partitions).extend(changed.partitions);
        changed.passed.iter().for_each(|number| inner.notes.counted(*number));
    }

    /// The balance at this moment.
    pub(crate) fn view(&self) -> BinsView {
        self.lock().view()
    }

    /// Marks what is noted in some bins as looked after. Returns these bins, and what is to be marked in their rows. What is noted meanwhile
    /// must not pass for seen, so all of it is under the lock: an operator does it by hand.
    pub(super) fn look_after(
        &self,
        is_meant: impl Fn(&BinCount) -> bool,
        now: UnixMs,
    ) -> (Vec<BinCount>, Vec<SeenBin>) {
        let mut inner = self.lock();
        let mut seen = inner.view().counts(now);
        seen.retain(is_meant);
        let keys: Vec<&BinKey> = seen.iter().map(|bin| &bin.key).collect();
        // What is noted or passing may be counted before the rows are marked, or after it.
        let counted = inner.notes.acknowledge(&keys);
        let in_row = |key: &BinKey| {
            let row = inner.rows.get(key).cloned().unwrap_or_else(|| BinRow::empty(now));
            let records = row.alerted(now) + counted.get(key).copied().unwrap_or(0);
            let acknowledged_before = inner.acknowledged_before(key);
            SeenBin { key: key.clone(), records, acknowledged_before, alerted_until: row.alerted_until(now) }
        };
        let in_rows = keys.into_iter().map(in_row).filter(|bin| bin.records > 0).collect();
        (seen, in_rows)
    }
}

impl Inner {
    fn acknowledged_before(&self, key: &BinKey) -> i64 {
        self.acknowledged_before.get(key).copied().unwrap_or(0)
    }

    fn view(&self) -> BinsView {
        BinsView { rows: self.rows.clone(), partitions: self.partitions.clone(), notes: self.notes.view() }
    }
}

/// The balance at one moment. Whoever has one holds up neither the committer nor those who note a bin.
#[derive(Debug)]
pub(crate) struct BinsView {
    rows: Arc<BTreeMap<BinKey, BinRow>>,
    partitions: Arc<Partitions>,
    notes: NotesView,
}

impl BinsView {
    /// With the records that no checkpoint has passed yet, as of `now`.
    pub(crate) fn counts(&self, now: UnixMs) -> Vec<BinCount> {
        let mut rows = BTreeMap::clone(&self.rows);
        for Sum { delta, acknowledged, since, .. } in self.notes.passing().chain(&self.notes.noted()) {
            let row = rows.entry(delta.key.clone()).or_insert_with(|| BinRow::empty(*since));
            row.change(delta, *acknowledged, *since);
        }
        rows.into_iter().map(|(key, row)| row.count(key, now)).collect()
    }

    /// The counts of every partition, with the records that no checkpoint has passed yet.
    pub(crate) fn partition_counts(&self) -> Vec<PartitionCount> {
        let mut partitions = Partitions::clone(&self.partitions);
        let noted = self.notes.noted();
        for Sum { delta: BinDelta { key, .. }, by_partition, .. } in self.notes.passing().chain(&noted) {
            for (by, place) in by_partition.iter().filter(|_| key.is_in_the_log()) {
                partitions.entry((key.topic.clone(), place.partition)).or_default().change(*by, place.offset);
            }
        }
        let count = |((topic, partition), row): ((String, u32), PartitionRow)| {
            let PartitionRow { records, from, earlier } = row;
            PartitionCount { topic, partition, records, from, earlier }
        };
        partitions.into_iter().map(count).collect()
    }
}

/// Where the records that may be paid orders ended: the handle that reads and acknowledges it.
#[derive(Clone, Copy)]
pub struct Balance<'a>(pub(super) &'a Ledger);

impl Balance<'_> {
    /// Notes the bin of a record that leaves no state, before it is finished.
    pub fn note(self, record: &Record, note: BinNote) {
        self.0.bins.lock().notes.add(record, note, committer::now());
    }

    /// Every bin of every topic, with the records that no checkpoint has passed yet.
    #[must_use]
    pub fn counts(self) -> Vec<BinCount> {
        self.0.bins.view().counts(committer::now())
    }

    /// How many records of each partition there are, for a comparison with the log.
    #[must_use]
    pub fn partition_counts(self) -> Vec<PartitionCount> {
        self.0.bins.view().partition_counts()
    }

    /// Marks the records as looked after that are in some bins now, and returns these bins when that is durable. Of records that no checkpoint has
    /// passed, it becomes durable when one does: when they are read again before, they are open again.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn acknowledge(self, is_meant: impl Fn(&BinCount) -> bool) -> Result<Vec<BinCount>, LedgerFailed> {
        let (seen, in_rows) = self.0.bins.look_after(is_meant, committer::now());
        self.0.submit(|reply| Work::BalanceAcknowledged(in_rows, reply)).await?;
        Ok(seen)
    }
}
