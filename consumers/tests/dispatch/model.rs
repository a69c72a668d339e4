//! What the model of the dispatch tests is made of: steps, logs, what one epoch has read; and how they are generated.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use orderbell_consumers::core::{Epoch, Limits};
use orderbell_consumers::seams::Frontier;
use orderbell_consumers::{KeyHash, Offset, Part, Record};
use proptest::prelude::*;

/// Most records of one poll.
pub(crate) const POLL_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Done,
    Retry(u64),
    Reject,
}

/// One thing that happens. Numbers choose among what is there at that moment, so that any sequence is a valid one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Poll {
        lane: usize,
        max: usize,
        again: bool,
    },
    Turn,
    /// A running turn ends: some are done, then `how`.
    Answer {
        which: usize,
        done: usize,
        how: How,
    },
    /// The dead letters took one.
    Buried {
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
        probe: bool,
    },
    End {
        lane: usize,
    },
    Tick(u64),
    Crash,
}

/// What one epoch has read: by offset its key, and whether it is done.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) lane: usize,
    pub(crate) records: BTreeMap<Offset, (KeyHash, bool)>,
    pub(crate) high: Offset,
    /// What was durable when it began: nothing below may be repeated.
    pub(crate) began: Offset,
    pub(crate) stored: Offset,
    pub(crate) fenced: bool,
}

impl Read {
    /// F(p): the first that is read and not done.
    pub(crate) fn frontier(&self) -> Offset {
        self.records.iter().find(|(_, (_, done))| !done).map_or(self.high, |(offset, _)| *offset)
    }

    pub(crate) fn open(&self) -> usize {
        self.records.values().filter(|(_, done)| !done).count()
    }
}

/// One partition: its log, what is durable of it, and its reader.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) part: Part,
    pub(crate) log: Vec<(Record, KeyHash)>,
    pub(crate) end: Offset,
    pub(crate) store: Frontier,
    pub(crate) finished: BTreeSet<Offset>,
    /// The end of what any reader has read.
    pub(crate) high_ever: Offset,
    pub(crate) epoch: Option<Epoch>,
    /// Index of the next record that the source delivers.
    pub(crate) next: usize,
    pub(crate) probe: Option<Offset>,
    pub(crate) draining: bool,
    pub(crate) paused: bool,
}

/// A record of a generated log: the gap before it, its key, the length of its value.
pub(crate) type Row = (u64, Option<u8>, usize);

pub(crate) fn lane(number: usize, rows: &[Row]) -> Lane {
    let part = Part::new("orders", u32::try_from(number).unwrap());
    let mut end = 10;
    let mut log = Vec::new();
    for (gap, key, len) in rows {
        let offset = end + gap;
        let unkeyed = 1_000 * (number as u64 + 1) + offset;
        let hash = KeyHash(key.map_or(unkeyed, u64::from));
        let (key, value) = (key.map(|key| Bytes::from(vec![key])), Some(Bytes::from(vec![7; *len])));
        let (part, timestamp_ms) = (part.clone(), offset.cast_signed());
        log.push((Record { part, offset, timestamp_ms, read_ms: 0, key, value, headers: Vec::new() }, hash));
        end = offset + 1;
    }
    let store = Frontier { next: 10, last: None };
    // Control records at the tail are never delivered.
    let (end, finished) = (end + number as u64, BTreeSet::new());
    Lane {
        part,
        log,
        end,
        store,
        finished,
        high_ever: store.next,
        epoch: None,
        next: 0,
        probe: None,
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
        12 => (lane.clone(), 1..=POLL_MAX, prop::bool::weighted(0.1))
            .prop_map(|(lane, max, again)| Step::Poll { lane, max, again }),
        14 => Just(Step::Turn),
        12 => (0_usize..8, 0_usize..4, how).prop_map(|(which, done, how)| Step::Answer { which, done, how }),
        3 => (0_usize..4).prop_map(|which| Step::Buried { which }),
        4 => Just(Step::Save),
        3 => Just(Step::Durable),
        1 => lane.clone().prop_map(|lane| Step::Drain { lane }),
        2 => lane.clone().prop_map(|lane| Step::Fence { lane }),
        4 => (lane.clone(), any::<bool>()).prop_map(|(lane, probe)| Step::Assign { lane, probe }),
        3 => lane.prop_map(|lane| Step::End { lane }),
        4 => (1_u64..30).prop_map(Step::Tick),
        1 => Just(Step::Crash),
    ]
}

pub(crate) fn limits() -> impl Strategy<Value = Limits> {
    (1_u64..=64, 200_u64..12_000, 1_usize..=64).prop_map(|(records, bytes, span)| Limits { records, bytes, span })
}
