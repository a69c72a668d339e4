//! The balance of paid orders: how many records of each topic ended in which bin.
//!
//! ```text
//!   key batch: BinDelta with the order's state ------------------------------+--one batch--> rows --> Ledger::balance
//!   records without an order: BinNotes, by offset --checkpoint passes them---+
//! ```
//!
//! A record that becomes part of an order's state is counted in the batch of that state, which remembers that it was. A record that leaves no state
//! (a dead letter, an ignored event) is noted in memory, and counted in the batch of the checkpoint that passes it. So a crash loses no count
//! and doubles none, whatever is read again.
//!
//! Refused: counting dead letters when they are written. What is read again after a crash would be counted twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orderbell_consumers::{Checkpoint, Record, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{Bin, BinCount, BinDelta, BinKey, RecordPlace};

use super::committer::Work;
use super::disk::{DiskError, Table, View};
use super::tables::RowKind;
use super::{Ledger, LedgerFailed, keys};

/// What is known of a record that leaves no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinNote {
    /// Its bin.
    pub bin: Bin,
    /// Code of the dead letter's reason; empty in other bins.
    pub reason: &'static str,
}

/// Notes of one partition by offset and fingerprint: parts of one record have its offset.
type PartitionNotes = BTreeMap<(u64, u64), BinNote>;

/// Notes of one partition. A partition has at most 65,536 records between its checkpoint and the newest, few of which have several parts; events
/// that the output topic refuses have no checkpoint, and are noted until the next start.
const NOTES_MAX: usize = 131_072;

/// Records that no checkpoint has passed yet. A record that is read again has the same note.
#[derive(Debug, Default)]
pub(crate) struct BinNotes(Mutex<HashMap<TopicPartition, PartitionNotes>>);

impl BinNotes {
    fn lock(&self) -> MutexGuard<'_, HashMap<TopicPartition, PartitionNotes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the notes that these checkpoints pass, as changes of the balance.
    pub(crate) fn take_passed(&self, at: &[(TopicPartition, Checkpoint)]) -> Vec<BinDelta> {
        let mut notes = self.lock();
        if notes.is_empty() {
            return Vec::new();
        }
        let mut passed = Vec::new();
        for (partition, checkpoint) in at {
            let Some(of_partition) = notes.get_mut(partition) else { continue };
            let above = of_partition.split_off(&(checkpoint.next, 0));
            passed.extend(std::mem::replace(of_partition, above).into_iter().map(|note| delta(partition, note)));
            if of_partition.is_empty() {
                notes.remove(partition);
            }
        }
        passed
    }

    /// Forgets the notes of partitions that are read from their checkpoints: what is above them comes again.
    pub(crate) fn forget(&self, partitions: &[TopicPartition]) {
        let mut notes = self.lock();
        partitions.iter().for_each(|partition| drop(notes.remove(partition)));
    }
}

fn delta(partition: &TopicPartition, ((offset, _), note): ((u64, u64), BinNote)) -> BinDelta {
    let (topic, reason) = (partition.topic.to_string(), note.reason.to_owned());
    BinDelta {
        key: BinKey { shadow: false, topic, bin: note.bin, reason },
        by: 1,
        place: RecordPlace { partition: partition.number, offset },
    }
}

/// One row: the value of a [`BinKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BinRow {
    records: i64,
    /// May be more than `records` for a moment: notes are acknowledged before they are counted.
    acknowledged: i64,
    since: UnixMs,
    newest: RecordPlace,
}

impl BinRow {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.records, self.acknowledged, self.since.0].map(i64::to_be_bytes).concat();
        [&numbers[..], &self.newest.offset.to_be_bytes(), &self.newest.partition.to_be_bytes()].concat()
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let ([records, acknowledged, since, offset], partition) = row.as_chunks::<8>() else { return None };
        Some(Self {
            records: i64::from_be_bytes(*records),
            acknowledged: i64::from_be_bytes(*acknowledged),
            since: UnixMs(i64::from_be_bytes(*since)),
            newest: RecordPlace {
                partition: u32::from_be_bytes(partition.try_into().ok()?),
                offset: u64::from_be_bytes(*offset),
            },
        })
    }

    fn open(&self) -> i64 {
        self.records - self.acknowledged
    }

    /// The row at a start: notes that were acknowledged and not counted are gone, and may become something else when they are read again.
    fn without_notes(self) -> Self {
        Self { acknowledged: self.acknowledged.min(self.records), ..self }
    }

    /// The row after a change.
    fn changed(known: Option<Self>, delta: &BinDelta, now: UnixMs) -> Self {
        let Some(known) = known else {
            return Self { records: delta.by, acknowledged: 0, since: now, newest: delta.place };
        };
        let records = known.records.saturating_add(delta.by);
        let changed = Self { records, acknowledged: known.acknowledged, ..known };
        if delta.by <= 0 {
            // Whoever looked after an order that leaves the bin looked after no other.
            return Self { acknowledged: known.acknowledged.min(records), ..changed };
        }
        let since = if known.open() > 0 { known.since } else { now };
        Self { since, newest: delta.place, ..changed }
    }
}

/// The rows that are durable. The committer changes them, everybody else reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct BinRows(Arc<Mutex<BTreeMap<BinKey, BinRow>>>);

/// Rows as a batch leaves them.
pub(crate) type ChangedRows = BTreeMap<BinKey, BinRow>;

impl BinRows {
    /// Those that the ledger holds.
    pub(crate) fn load(view: &View<'_>) -> Result<Self, DiskError> {
        let (from, to) = RowKind::Balance.range();
        let mut rows = BTreeMap::new();
        for row in view.rows(Table::Meta, &from, &to) {
            let (key, row) = row?;
            let decoded = keys::bin_key(&key).zip(BinRow::decode(&row));
            let decoded = decoded.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "a bin of the balance"));
            let looked_after_of_records = |(key, row): (BinKey, BinRow)| (key, row.without_notes());
            rows.extend(view.pass_over(decoded)?.map(looked_after_of_records));
        }
        Ok(Self(Arc::new(Mutex::new(rows))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BinKey, BinRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is durable.
    pub(crate) fn counts(&self) -> Vec<BinCount> {
        counts(self.lock().clone())
    }

    /// Applies changes to the rows as `changed` has them, or else as they are durable.
    pub(crate) fn change(&self, changed: &mut ChangedRows, deltas: &[BinDelta], now: UnixMs) {
        if deltas.is_empty() {
            return;
        }
        let durable = self.lock();
        for delta in deltas {
            let known = changed.get(&delta.key).or_else(|| durable.get(&delta.key)).copied();
            changed.insert(delta.key.clone(), BinRow::changed(known, delta, now));
        }
    }

    /// Marks so many records of each bin as looked after.
    pub(crate) fn acknowledge(&self, changed: &mut ChangedRows, counts: &[(BinKey, i64)]) {
        let durable = self.lock();
        for (key, count) in counts {
            let known = changed.get(key).or_else(|| durable.get(key)).copied();
            let nothing = RecordPlace { partition: 0, offset: 0 };
            let row = known.unwrap_or(BinRow { records: 0, acknowledged: 0, since: UnixMs(0), newest: nothing });
            let row = BinRow { acknowledged: row.acknowledged.max(*count), ..row };
            // No note is ever in that bin, and an order may have left it since it was looked at.
            changed.insert(key.clone(), if key.bin == Bin::AwaitsStore { row.without_notes() } else { row });
        }
    }

    /// These rows are durable.
    pub(crate) fn committed(&self, changed: ChangedRows) {
        if !changed.is_empty() {
            self.lock().extend(changed);
        }
    }
}

fn counts(rows: BTreeMap<BinKey, BinRow>) -> Vec<BinCount> {
    let count = |number: i64| u64::try_from(number).unwrap_or_default();
    let bin = |(key, row): (BinKey, BinRow)| BinCount {
        key,
        records: count(row.records),
        acknowledged: count(row.acknowledged),
        since: (row.open() > 0).then_some(row.since),
        newest: row.newest,
    };
    rows.into_iter().map(bin).collect()
}

/// A row as it is written.
pub(crate) fn encode((key, row): (&BinKey, &BinRow)) -> (Vec<u8>, Vec<u8>) {
    (keys::bin(key), row.encode())
}

/// The balance of a ledger.
#[derive(Clone, Copy)]
pub struct Balance<'a>(pub(super) &'a Ledger);

impl Balance<'_> {
    /// Notes the bin of a record that leaves no state, before it is finished.
    pub fn note(self, record: &Record, note: BinNote) {
        let mut notes = self.0.bin_notes.lock();
        let of_partition = notes.entry(record.partition.clone()).or_default();
        if of_partition.len() < NOTES_MAX {
            of_partition.insert((record.offset, record.fingerprint()), note);
        } else {
            tracing::error!(part = %record.partition, offset = record.offset, bin = note.bin.word(), "a record is missing in the balance: too many are not finished");
        }
    }

    /// Every bin of every topic, with the records that no checkpoint has passed yet.
    #[must_use]
    pub fn counts(self) -> Vec<BinCount> {
        let mut rows = self.0.bin_rows.lock().clone();
        let now = super::committer::now();
        // Taken after the rows: a note that is counted in between is missing for a moment, and never there twice.
        let notes = self.0.bin_notes.lock();
        let all = notes.iter().flat_map(|(part, notes)| notes.iter().map(move |(at, note)| (part, *at, note)));
        for (partition, at, note) in all {
            let delta = delta(partition, (at, note.clone()));
            let row = BinRow::changed(rows.get(&delta.key).copied(), &delta, now);
            rows.insert(delta.key, row);
        }
        counts(rows)
    }

    /// Marks records as looked after, as [`Self::counts`] had them, and returns when that is durable.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn acknowledge(self, counts: Vec<BinCount>) -> Result<(), LedgerFailed> {
        let counts = counts.into_iter().map(|bin| (bin.key, i64::try_from(bin.records).unwrap_or(i64::MAX)));
        let counts = counts.collect();
        self.0.submit(|reply| Work::BalanceAcknowledged(counts, reply)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn key(bin: Bin, reason: &str) -> BinKey {
        BinKey { shadow: false, topic: "orders".into(), bin, reason: reason.into() }
    }

    fn add(key: &BinKey, by: i64, offset: u64) -> BinDelta {
        BinDelta { key: key.clone(), by, place: RecordPlace { partition: 3, offset } }
    }

    #[test]
    fn a_bin_survives_storing() {
        let row = BinRow { records: 7, acknowledged: -1, since: NOW, newest: RecordPlace { partition: 3, offset: 9 } };
        for key in [key(Bin::Notified, ""), BinKey { shadow: true, ..key(Bin::Rejected, "bad-id") }] {
            let (stored, value) = encode((&key, &row));
            assert_eq!((keys::bin_key(&stored), BinRow::decode(&value)), (Some(key), Some(row)));
            assert_eq!(BinRow::decode(&value[1..]), None);
        }
    }

    #[test]
    fn a_bin_is_open_since_the_first_record_that_nobody_looked_after() {
        let (rows, mut changed, bin) = (BinRows::default(), ChangedRows::new(), key(Bin::AwaitsStore, ""));
        let after = |changed: &ChangedRows| (changed[&bin].open(), changed[&bin].since.0 - NOW.0);
        rows.change(&mut changed, &[add(&bin, 1, 5)], NOW);
        rows.change(&mut changed, &[add(&bin, 1, 8)], NOW.plus_ms(1));
        assert_eq!((after(&changed), changed[&bin].newest.offset), ((2, 0), 8));
        rows.acknowledge(&mut changed, &[(bin.clone(), 2)]);
        rows.committed(std::mem::take(&mut changed));
        // One that leaves was among those that somebody looked after: the next is open again.
        rows.change(&mut changed, &[add(&bin, -1, 9), add(&bin, 1, 10)], NOW.plus_ms(2));
        assert_eq!(after(&changed), (1, 2));
    }

    #[test]
    fn a_record_without_state_is_counted_once_when_its_checkpoint_passes_it() {
        let notes = BinNotes::default();
        let part = TopicPartition::new("orders", 3);
        let note = |offset| {
            let note = BinNote { bin: Bin::Rejected, reason: "bad-id" };
            notes.lock().entry(part.clone()).or_default().insert((offset, 0), note);
        };
        let passed = |next| {
            let at = [(part.clone(), Checkpoint { next, last: None })];
            notes.take_passed(&at).iter().map(|delta| delta.place.offset).collect::<Vec<_>>()
        };
        [4, 5, 7, 5].into_iter().for_each(note);
        assert_eq!(passed(6), [4, 5]);
        assert_eq!(passed(6), [0_u64; 0]);
        notes.forget(std::slice::from_ref(&part));
        assert_eq!(passed(9), [0_u64; 0], "it is read again, and noted again");
    }
}
