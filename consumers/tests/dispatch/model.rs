//! The parts of the dispatch tests' model: steps, logs, the records that one epoch has read; and the strategies that generate them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use orderbell_consumers::tracker::{Epoch, Limits};
use orderbell_consumers::traits::Checkpoint;
use orderbell_consumers::{KeyHash, Offset, Record, TopicPartition};
use proptest::prelude::*;

/// The first offset of a log.
pub(crate) const FIRST: Offset = 10;
/// Most records of one poll.
pub(crate) const MAX_POLL_RECORDS: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Done,
    Retry(u64),
    Reject,
}

/// One step of a world. Its numbers choose among what exists at that moment, so that any sequence is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Poll {
        lane: usize,
        max: usize,
        again: bool,
    },
    Batch,
    /// A running batch ends: `done` of its records are done, the next one ends as `how` says.
    Answer {
        which: usize,
        done: usize,
        how: How,
    },
    /// A dead letter is written.
    DeadLettered {
        which: usize,
    },
    Save,
    Durable,
    Drain {
        lane: usize,
    },
    Fence {
        lane: usize,
    },
    Assign {
        lane: usize,
        verify: bool,
    },
    Recreated {
        lane: usize,
    },
    CaughtUp {
        lane: usize,
    },
    Tick(u64),
    Crash,
}

/// Offset of a record, and index of one of its parts.
pub(crate) type Place = (Offset, usize);

/// The place of a record or a part. The index of a part is where a handler does not look for it.
pub(crate) fn place(part: &Record) -> Place {
    (part.offset, usize::try_from(part.read_ms).unwrap())
}

/// The parts that a handler finds in a record.
pub(crate) fn parts(record: &Record, keys: &[KeyHash]) -> Vec<(Record, KeyHash)> {
    let part = |(at, key): (usize, &KeyHash)| (Record { read_ms: at as i64, ..record.clone() }, *key);
    keys.iter().enumerate().map(part).collect()
}

/// The parts that one epoch has read: by place the key, and whether it is done.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) lane: usize,
    pub(crate) records: BTreeMap<Place, (KeyHash, bool)>,
    pub(crate) next_offset: Offset,
    /// The durable checkpoint when the epoch began: no record below may be repeated.
    pub(crate) began: Offset,
    pub(crate) saved: Offset,
    pub(crate) fenced: bool,
}

impl Read {
    /// The watermark: offset of the first record that was read and has a part that is not done.
    pub(crate) fn checkpoint(&self) -> Offset {
        self.records.iter().find(|(_, (_, done))| !done).map_or(self.next_offset, |((offset, _), _)| *offset)
    }

    pub(crate) fn open(&self) -> usize {
        self.records.values().filter(|(_, done)| !done).count()
    }
}

/// One partition: its log, its durable checkpoint, and its consumer.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) partition: TopicPartition,
    /// Each record with the keys of its parts.
    pub(crate) log: Vec<(Record, Vec<KeyHash>)>,
    pub(crate) end: Offset,
    pub(crate) durable: Checkpoint,
    pub(crate) finished: BTreeSet<Place>,
    /// One above the highest offset that any epoch has read.
    pub(crate) highest_ever: Offset,
    pub(crate) epoch: Option<Epoch>,
    /// Index of the next record that the source delivers.
    pub(crate) next: usize,
    pub(crate) verify: Option<Offset>,
    pub(crate) draining: bool,
    pub(crate) paused: bool,
}

impl Lane {
    /// True when every part of a record is finished.
    pub(crate) fn has_finished(&self, record: &Record, keys: &[KeyHash]) -> bool {
        (0..keys.len()).all(|part| self.finished.contains(&(record.offset, part)))
    }
}

/// A record of a generated log: the gap before it, its key, the length of its value, the keys of its parts beside the first.
pub(crate) type Row = (u64, Option<u8>, usize, Vec<u8>);
/// Most parts of a record.
pub(crate) const MAX_PARTS: usize = 4;

pub(crate) fn lane(number: usize, rows: &[Row]) -> Lane {
    let partition = TopicPartition::new("orders", u32::try_from(number).unwrap());
    let mut end = FIRST;
    let mut log = Vec::new();
    for (gap, key, len, others) in rows {
        let offset = end + gap;
        let unkeyed = 1_000 * (number as u64 + 1) + offset;
        let first = KeyHash(key.map_or(unkeyed, u64::from));
        let keys = std::iter::once(first).chain(others.iter().map(|key| KeyHash(u64::from(*key)))).collect();
        let (key, value) = (key.map(|key| Bytes::from(vec![key])), Some(Bytes::from(vec![7; *len])));
        let (partition, timestamp_ms) = (partition.clone(), offset.cast_signed());
        log.push((
            Record { partition, offset, timestamp_ms, read_ms: 0, key, value, headers: Default::default() },
            keys,
        ));
        end = offset + 1;
    }
    let durable = Checkpoint { next: FIRST, last: None };
    // Control records at the tail are never delivered.
    let (end, finished) = (end + number as u64, BTreeSet::new());
    Lane {
        partition,
        log,
        end,
        durable,
        finished,
        highest_ever: durable.next,
        epoch: None,
        next: 0,
        verify: None,
        draining: false,
        paused: false,
    }
}

pub(crate) fn how() -> impl Strategy<Value = How> {
    prop_oneof![4 => Just(How::Done), 2 => (1_u64..40).prop_map(How::Retry), 1 => Just(How::Reject)]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let how = how();
    let lane = 0_usize..3;
    prop_oneof![
        12 => (lane.clone(), 1..=MAX_POLL_RECORDS, prop::bool::weighted(0.1))
            .prop_map(|(lane, max, again)| Step::Poll { lane, max, again }),
        14 => Just(Step::Batch),
        12 => (0_usize..8, 0_usize..4, how).prop_map(|(which, done, how)| Step::Answer { which, done, how }),
        3 => (0_usize..4).prop_map(|which| Step::DeadLettered { which }),
        4 => Just(Step::Save),
        3 => Just(Step::Durable),
        1 => lane.clone().prop_map(|lane| Step::Drain { lane }),
        2 => lane.clone().prop_map(|lane| Step::Fence { lane }),
        4 => (lane.clone(), any::<bool>()).prop_map(|(lane, verify)| Step::Assign { lane, verify }),
        2 => lane.clone().prop_map(|lane| Step::Recreated { lane }),
        3 => lane.prop_map(|lane| Step::CaughtUp { lane }),
        4 => (1_u64..30).prop_map(Step::Tick),
        1 => Just(Step::Crash),
    ]
}

pub(crate) fn limits() -> impl Strategy<Value = Limits> {
    (1_u64..=64, 200_u64..12_000, 1_usize..=64).prop_map(|(records, bytes, span)| Limits { records, bytes, span })
}
