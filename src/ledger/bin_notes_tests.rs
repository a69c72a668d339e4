//! Notes: passed once, set aside when their partition starts again, and summed.

use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
const REJECTED: BinNote = BinNote { shadow: false, bin: Bin::Rejected, reason: "bad-id" };
const IGNORED: BinNote = BinNote { shadow: false, bin: Bin::Ignored, reason: "" };

fn part(number: u32) -> TopicPartition {
    TopicPartition::new("orders", number)
}

fn record(partition: u32, offset: u64, value: &'static str) -> Record {
    Record {
        partition: part(partition),
        offset,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(value.into()),
        headers: Default::default(),
    }
}

fn pass(notes: &mut BinNotes, partition: u32, next: u64) -> Option<u64> {
    notes.pass(&[(part(partition), Checkpoint { next, last: None })])
}

fn begin(notes: &mut BinNotes, partition: u32, next: u64, loss: Option<Loss>) -> Option<u64> {
    let (partition, checkpoint) = (part(partition), Checkpoint { next, last: None });
    notes.begin(&[Begin { partition, checkpoint, is_new: loss.is_some(), loss, handled_before: None, skip_to: None }])
}

/// Number, of these looked after, and newest offset of what is passing.
fn passing(notes: &BinNotes, number: u64) -> Vec<(Bin, i64, i64, u64)> {
    let sum = |sum: &Sum| (sum.delta.key.bin, sum.delta.by, sum.acknowledged, sum.delta.place.offset);
    let mut all: Vec<_> = notes.passing[&number].sums.iter().map(sum).collect();
    all.sort();
    all
}

#[test]
fn a_record_is_passed_once_by_its_checkpoint_however_often_it_is_handled() {
    let mut notes = BinNotes::default();
    [4, 5, 7, 5].into_iter().for_each(|offset| notes.add(&record(3, offset, "a"), REJECTED, NOW));
    let number = pass(&mut notes, 3, 6).unwrap();
    assert_eq!(passing(&notes, number), [(Bin::Rejected, 2, 0, 5)]);
    assert_eq!(pass(&mut notes, 3, 6), None);
    assert_eq!(begin(&mut notes, 3, 6, None), None);
    assert_eq!(pass(&mut notes, 3, 9), None, "it was read again, and is something else");
    assert_eq!(notes.view().passing().count(), 1, "what was passed is not read again");
    notes.counted(number);
    assert_eq!(notes.view().passing().count(), 0);
}

/// Regression: above a limit, records of any bin were left out, and each ignored one was a change of its own.
#[test]
fn any_number_of_records_is_one_change_for_each_bin() {
    const RECORDS: u64 = 200_000;
    let mut notes = BinNotes::default();
    (0..RECORDS).for_each(|offset| notes.add(&record(0, offset, "a"), IGNORED, NOW));
    ["a", "b", "a"].into_iter().for_each(|part| notes.add(&record(1, 5, part), REJECTED, NOW));
    notes.add(&record(1, 5, "c"), IGNORED, NOW);
    let both = [(part(0), Checkpoint { next: RECORDS, last: None }), (part(1), Checkpoint { next: 6, last: None })];
    let number = notes.pass(&both).unwrap();
    let all = passing(&notes, number);
    let all: Vec<_> = all.iter().map(|(bin, by, ..)| (*bin, *by)).collect();
    assert_eq!(all, [(Bin::Rejected, 2), (Bin::Ignored, RECORDS as i64 + 1)]);
}

#[test]
fn what_was_looked_after_is_told_apart_until_it_is_counted() {
    let mut notes = BinNotes::default();
    notes.add(&record(0, 1, "a"), REJECTED, NOW);
    let first = pass(&mut notes, 0, 2).unwrap();
    notes.add(&record(0, 2, "a"), REJECTED, NOW);
    notes.add(&record(0, 2, "a"), IGNORED, NOW);
    let key = notes.passing[&first].sums[0].delta.key.clone();
    assert_eq!(notes.acknowledge(&[&key]), HashMap::new(), "it is counted as looked after");
    notes.count(first);
    assert_eq!(notes.acknowledge(&[&key]), [(key, 1)].into(), "a batch counts it already");
    notes.add(&record(0, 3, "a"), REJECTED, NOW);
    notes.add(&record(0, 2, "b"), REJECTED, NOW);
    let second = pass(&mut notes, 0, 9).unwrap();
    assert_eq!(passing(&notes, first), [(Bin::Rejected, 1, 1, 1)]);
    assert_eq!(passing(&notes, second), [(Bin::Rejected, 3, 1, 3), (Bin::Ignored, 1, 0, 2)]);
}

/// The bug: what stood above a stuck checkpoint was dropped when its partition started again, also when the log lost it, and its alert ended by itself.
#[test]
fn what_the_log_lost_is_counted_though_it_is_never_read_again() {
    let noted = || {
        let mut notes = BinNotes::default();
        [5, 6, 8].into_iter().for_each(|offset| notes.add(&record(0, offset, "a"), REJECTED, NOW));
        assert_eq!(begin(&mut notes, 0, 4, None), None);
        assert_eq!(notes.view().noted()[0].delta.by, 3, "it is open until it is read again");
        notes
    };
    let start = |notes: &mut BinNotes, next: u64, loss: Option<Loss>| {
        let number = begin(notes, 0, next, loss);
        number.map(|number| passing(notes, number))
    };
    let mut gap = noted();
    assert_eq!(start(&mut gap, 7, Some(Loss::RetentionGap { missing: 2 })), Some(vec![(Bin::Rejected, 2, 0, 6)]));
    assert_eq!(gap.view().noted()[0].delta.by, 1, "the other comes again");
    assert_eq!(start(&mut noted(), 7, None), Some(vec![(Bin::Rejected, 2, 0, 6)]), "skipped by an operator");
    for loss in [Loss::Recreated, Loss::Truncated { beyond: 9 }] {
        let mut another = noted();
        // It was handled when the partition had been set aside already.
        another.add(&record(0, 9, "a"), REJECTED, NOW);
        assert_eq!(start(&mut another, 0, Some(loss)), Some(vec![(Bin::Rejected, 4, 0, 9)]));
        assert!(another.view().noted().is_empty());
    }
}

#[test]
fn what_is_set_aside_is_replaced_by_what_it_is_now() {
    let mut notes = BinNotes::default();
    ["a", "b"].into_iter().for_each(|part| notes.add(&record(0, 5, part), REJECTED, NOW));
    notes.add(&record(0, 6, "a"), REJECTED, NOW);
    let key = notes.view().noted()[0].delta.key.clone();
    notes.acknowledge(&[&key]);
    assert_eq!(begin(&mut notes, 0, 5, None), None);
    notes.add(&record(0, 5, "a"), REJECTED, NOW);
    notes.add(&record(0, 5, "b"), IGNORED, NOW);
    notes.add(&record(0, 7, "a"), REJECTED, NOW);
    let mut sums: Vec<_> =
        notes.view().noted().iter().map(|sum| (sum.delta.key.bin, sum.delta.by, sum.acknowledged)).collect();
    sums.sort();
    assert_eq!(sums, [(Bin::Rejected, 3, 2), (Bin::Ignored, 1, 0)], "6 is still to come");
    let number = pass(&mut notes, 0, 9).unwrap();
    assert_eq!(
        passing(&notes, number),
        [(Bin::Rejected, 2, 1, 7), (Bin::Ignored, 1, 0, 5)],
        "6 came as something else"
    );
    assert!(notes.view().noted().is_empty());
}

/// The bug: whoever read the balance went through every note, once a second, and the committer waited.
#[test]
fn the_sums_of_many_notes_are_read_without_going_through_them() {
    const NOTES: u64 = 65_536;
    let mut notes = BinNotes::default();
    for number in 0..NOTES {
        notes.add(
            &record((number % 64) as u32, number / 64, "a"),
            if number % 2 == 0 { REJECTED } else { IGNORED },
            NOW,
        );
    }
    assert_eq!(notes.bin_sums().count(), 64, "one for each bin of a partition");
    let sums = |notes: &BinNotes| {
        let mut sums: Vec<_> =
            notes.view().noted().iter().map(|sum| (sum.delta.key.bin, sum.delta.by, sum.acknowledged)).collect();
        sums.sort();
        sums
    };
    let half = NOTES as i64 / 2;
    assert_eq!(sums(&notes), [(Bin::Rejected, half, 0), (Bin::Ignored, half, 0)]);
    let key = notes.view().noted().iter().find(|sum| sum.delta.key.bin == Bin::Ignored).unwrap().delta.key.clone();
    notes.acknowledge(&[&key]);
    // Partition 1 has those that are ignored.
    assert!(pass(&mut notes, 1, 1_000).is_some());
    assert_eq!(sums(&notes), [(Bin::Rejected, half, 0), (Bin::Ignored, half - 1_000, half - 1_000)]);
}
