//! Records that leave no state, from the moment they are handled until the checkpoint that passes them is durable.
//!
//! ```text
//!   note --> noted, by partition and offset --checkpoint passes them--> passing, summed by bin --batch is durable--> rows
//!             |    ^                                                       ^
//!   its partition begins again: set aside                                  |
//!             |    +-- noted again when it is read again                   |
//!             +-- the log does not hold it any more: a loss, or a skip ----+
//! ```
//!
//! Each bin of a partition keeps its sums, and what passes is summed once: the balance is read every second, and while a [`NotesView`] is taken
//! the committer waits.
//!
//! Nothing is left out: a partition has a bounded span of offsets between its checkpoint and the newest record, and of each part of a record only a
//! hash is kept, by which it is known when it is handled again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orderbell_consumers::{Begin, Checkpoint, Loss, Record, TopicPartition};
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::{Bin, BinDelta, BinKey, RecordPlace};

/// What is known of a record that leaves no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BinNote {
    /// Load-test traffic.
    pub shadow: bool,
    /// Where the record ended.
    pub bin: Bin,
    /// Code of the dead letter's reason; empty in other bins.
    pub reason: &'static str,
}

impl BinNote {
    /// The record of this note, as a change of the balance.
    #[must_use]
    pub fn delta(self, topic: &str, place: RecordPlace) -> BinDelta {
        let Self { shadow, bin, reason } = self;
        let key = BinKey { shadow, topic: topic.to_owned(), bin, reason: reason.to_owned() };
        BinDelta { key, by: 1, place, waits_since: None }
    }
}

/// The parts of a record with one note: usually the record itself.
#[derive(Debug)]
struct Noted {
    first: u64,
    others: Vec<u64>,
    /// So many of them were looked after.
    acknowledged: usize,
    at: UnixMs,
}

impl Noted {
    fn parts(&self) -> usize {
        1 + self.others.len()
    }
}

/// The notes of one bin in one partition, by offset.
#[derive(Debug, Default)]
struct NotedBin {
    by_offset: BTreeMap<u64, Noted>,
    /// Of all of them: how many parts there are, and how many were looked after.
    records: i64,
    acknowledged: i64,
}

impl NotedBin {
    /// Adds a part, unless it is there.
    fn add(&mut self, offset: u64, part: u64, is_acknowledged: bool, at: UnixMs) {
        let acknowledged = usize::from(is_acknowledged);
        match self.by_offset.entry(offset) {
            Entry::Vacant(new) => drop(new.insert(Noted { first: part, others: Vec::new(), acknowledged, at })),
            Entry::Occupied(noted) if noted.get().first == part || noted.get().others.contains(&part) => return,
            Entry::Occupied(mut noted) => {
                noted.get_mut().others.push(part);
                noted.get_mut().acknowledged += acknowledged;
            }
        }
        self.records += 1;
        self.acknowledged += acknowledged as i64;
    }

    /// Removes a part. True when it was looked after; of parts of which some were, nobody knows which.
    fn remove(&mut self, offset: u64, part: u64) -> bool {
        let Some(noted) = self.by_offset.get_mut(&offset) else { return false };
        let (parts, acknowledged) = (noted.parts(), noted.acknowledged);
        if noted.first != part {
            noted.others.retain(|other| *other != part);
        } else if noted.others.is_empty() {
            self.by_offset.remove(&offset);
            self.records -= 1;
            self.acknowledged -= acknowledged as i64;
            return acknowledged > 0;
        } else {
            noted.first = noted.others.swap_remove(0);
        }
        noted.acknowledged = acknowledged.min(noted.parts());
        self.records -= (parts - noted.parts()) as i64;
        self.acknowledged -= (acknowledged - noted.acknowledged) as i64;
        noted.acknowledged < acknowledged
    }

    /// `None` without a record.
    fn sum(&self) -> Option<BinSum> {
        let ((_, first), (newest, _)) = self.by_offset.first_key_value().zip(self.by_offset.last_key_value())?;
        let Self { records, acknowledged, .. } = *self;
        Some(BinSum { records, acknowledged, since: first.at, newest: *newest })
    }

    /// Takes what is below this offset.
    fn take_below(&mut self, next: u64) -> Option<BinSum> {
        let mut below: Option<BinSum> = None;
        while let Some(first) = self.by_offset.first_entry()
            && *first.key() < next
        {
            let (newest, noted) = first.remove_entry();
            let since = below.map_or(noted.at, |below| below.since);
            let (records, acknowledged) = below.map_or((0, 0), |below| (below.records, below.acknowledged));
            let (records, acknowledged) = (records + noted.parts() as i64, acknowledged + noted.acknowledged as i64);
            below = Some(BinSum { records, acknowledged, since, newest });
        }
        if let Some(below) = below {
            self.records -= below.records;
            self.acknowledged -= below.acknowledged;
        }
        below
    }

    fn acknowledge(&mut self) {
        self.by_offset.values_mut().for_each(|noted| noted.acknowledged = noted.parts());
        self.acknowledged = self.records;
    }
}

/// What is noted of one bin in one partition, or of some of it.
#[derive(Clone, Copy, Debug)]
struct BinSum {
    records: i64,
    acknowledged: i64,
    /// When the one with the lowest offset was noted.
    since: UnixMs,
    /// The highest offset.
    newest: u64,
}

/// The notes of some partitions.
type Notes = HashMap<TopicPartition, BTreeMap<BinNote, NotedBin>>;
/// Sums of the notes of all partitions of a topic.
type Sums = HashMap<(Arc<str>, BinNote), Sum>;

/// Records of one bin, summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) delta: BinDelta,
    /// So many of them were looked after before they were counted.
    pub(super) acknowledged: i64,
    /// When the first of them was noted.
    pub(super) since: UnixMs,
    /// Of each partition how many, and the newest.
    pub(super) by_partition: Vec<(i64, RecordPlace)>,
}

/// What checkpoints passed that are not durable yet.
#[derive(Debug)]
struct Passing {
    sums: Arc<Vec<Sum>>,
    /// A batch counts them.
    is_counted: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BinNotes {
    noted: Notes,
    /// Of partitions that began again: what was noted before and was not read again.
    set_aside: Notes,
    /// By number of the checkpoints' work.
    passing: BTreeMap<u64, Passing>,
    /// The newest of these numbers.
    newest: u64,
}

impl BinNotes {
    /// Notes the bin of a record. One that is handled again has the same note, or has only the new one.
    pub(super) fn add(&mut self, record: &Record, note: BinNote, now: UnixMs) {
        let (partition, part) = (&record.partition, record.fingerprint());
        let mut is_acknowledged = false;
        for (set_aside, bin) in self.set_aside.get_mut(partition).into_iter().flatten() {
            let was_acknowledged = bin.remove(record.offset, part);
            is_acknowledged |= was_acknowledged && *set_aside == note;
        }
        let of_partition = self.noted.entry(partition.clone()).or_default();
        of_partition.entry(note).or_default().add(record.offset, part, is_acknowledged, now);
    }

    /// Takes the notes that these checkpoints pass. They are passing under this number until [`Self::counted`]; `None` when there are none.
    pub(super) fn pass(&mut self, at: &[(TopicPartition, Checkpoint)]) -> Option<u64> {
        let mut passed = Sums::new();
        for (partition, checkpoint) in at {
            let below = take_below(&mut self.noted, partition, checkpoint.next);
            below.into_iter().for_each(|(note, sum)| add_up(&mut passed, partition, note, sum));
            // What was set aside there was read again since its partition began, and has other notes.
            take_below(&mut self.set_aside, partition, checkpoint.next);
        }
        self.passing(passed)
    }

    /// Partitions begin: what is above their checkpoints comes again, so its notes are set aside until then. What is below is never read again, and
    /// of a partition that begins with another log nothing is: takes these notes, as [`Self::pass`] does. What is passing already is below.
    pub(super) fn begin(&mut self, partitions: &[Begin]) -> Option<u64> {
        let mut unread = Sums::new();
        for Begin { partition, checkpoint, loss, .. } in partitions {
            self.set_aside(partition);
            let next = if loss.is_some_and(Loss::is_another_log) { u64::MAX } else { checkpoint.next };
            let below = take_below(&mut self.set_aside, partition, next);
            below.into_iter().for_each(|(note, sum)| add_up(&mut unread, partition, note, sum));
        }
        self.passing(unread)
    }

    fn passing(&mut self, sums: Sums) -> Option<u64> {
        if sums.is_empty() {
            return None;
        }
        self.newest += 1;
        let sums = Arc::new(sums.into_values().collect());
        self.passing.insert(self.newest, Passing { sums, is_counted: false });
        Some(self.newest)
    }

    /// What is passing under this number. A batch counts it from now on.
    pub(super) fn count(&mut self, number: u64) -> Arc<Vec<Sum>> {
        let Some(passing) = self.passing.get_mut(&number) else { return Arc::default() };
        passing.is_counted = true;
        passing.sums.clone()
    }

    /// It is counted in the rows.
    pub(super) fn counted(&mut self, number: u64) {
        self.passing.remove(&number);
    }

    /// The notes at this moment. It costs some numbers of each bin in each partition, however many notes they have.
    pub(super) fn view(&self) -> NotesView {
        let noted = self.bin_sums().map(|(partition, note, sum)| (partition.clone(), note, sum));
        NotesView {
            noted: noted.collect(),
            passing: self.passing.values().map(|passing| passing.sums.clone()).collect(),
        }
    }

    /// Of every bin in every partition its sum, however many notes it has.
    fn bin_sums(&self) -> impl Iterator<Item = (&TopicPartition, BinNote, BinSum)> {
        let partitions = self.noted.iter().chain(&self.set_aside);
        let bins = partitions.flat_map(|(partition, bins)| bins.iter().map(move |(note, bin)| (partition, note, bin)));
        bins.filter_map(|(partition, note, bin)| Some((partition, *note, bin.sum()?)))
    }

    /// Somebody looked after all records in these bins. Returns how many of each a batch counts that is not durable yet.
    pub(super) fn acknowledge(&mut self, bins: &[&BinKey]) -> HashMap<BinKey, i64> {
        for (partition, notes) in self.noted.iter_mut().chain(&mut self.set_aside) {
            let is_its = |key: &&BinKey, note: &BinNote| {
                (key.shadow, key.bin, key.reason.as_str()) == (note.shadow, note.bin, note.reason)
                    && *key.topic == *partition.topic
            };
            let seen = notes.iter_mut().filter(|(note, _)| bins.iter().any(|key| is_its(key, note)));
            seen.for_each(|(_, bin)| bin.acknowledge());
        }
        let mut counted = HashMap::new();
        for Passing { sums, is_counted } in self.passing.values_mut() {
            for sum in Arc::make_mut(sums).iter_mut().filter(|sum| bins.contains(&&sum.delta.key)) {
                sum.acknowledged = sum.delta.by;
                if *is_counted {
                    *counted.entry(sum.delta.key.clone()).or_default() += sum.delta.by;
                }
            }
        }
        counted
    }

    fn set_aside(&mut self, partition: &TopicPartition) {
        let Some(noted) = self.noted.remove(partition) else { return };
        let set_aside = self.set_aside.entry(partition.clone()).or_default();
        for (note, bin) in noted {
            let known = set_aside.entry(note).or_default();
            for (offset, noted) in bin.by_offset {
                let parts = std::iter::once(noted.first).chain(noted.others).enumerate();
                parts.for_each(|(at, part)| known.add(offset, part, at < noted.acknowledged, noted.at));
            }
        }
    }
}

/// The notes at one moment.
#[derive(Debug)]
pub(super) struct NotesView {
    noted: Vec<(TopicPartition, BinNote, BinSum)>,
    passing: Vec<Arc<Vec<Sum>>>,
}

impl NotesView {
    /// Counted by no row yet.
    pub(super) fn passing(&self) -> impl Iterator<Item = &Sum> {
        self.passing.iter().flat_map(|sums| sums.iter())
    }

    /// All that no checkpoint has passed, summed by bin.
    pub(super) fn noted(&self) -> Vec<Sum> {
        let mut sums = Sums::new();
        self.noted.iter().for_each(|(partition, note, sum)| add_up(&mut sums, partition, *note, *sum));
        sums.into_values().collect()
    }
}

/// Takes the notes of a partition below an offset.
fn take_below(notes: &mut Notes, partition: &TopicPartition, next: u64) -> Vec<(BinNote, BinSum)> {
    let Some(bins) = notes.get_mut(partition) else { return Vec::new() };
    let below = bins.iter_mut().filter_map(|(note, bin)| Some((*note, bin.take_below(next)?))).collect();
    bins.retain(|_, bin| !bin.by_offset.is_empty());
    if bins.is_empty() {
        notes.remove(partition);
    }
    below
}

fn add_up(sums: &mut Sums, partition: &TopicPartition, note: BinNote, bin: BinSum) {
    let place = RecordPlace { partition: partition.number, offset: bin.newest };
    let new = || {
        let delta = BinDelta { by: 0, ..note.delta(&partition.topic, place) };
        Sum { delta, acknowledged: 0, since: bin.since, by_partition: Vec::new() }
    };
    let sum = sums.entry((partition.topic.clone(), note)).or_insert_with(new);
    sum.delta.by += bin.records;
    let newest = &mut sum.delta.place;
    if newest.partition != place.partition || newest.offset < place.offset {
        *newest = place;
    }
    sum.acknowledged += bin.acknowledged;
    sum.since = sum.since.min(bin.since);
    sum.by_partition.push((bin.records, place));
}

#[cfg(test)]
#[path = "bin_notes_tests.rs"]
mod tests;
