//! Retention of what belongs to no order: event ids that came through the door, stories, tallies, and the embedded stream below its frontier.
//!
//! fjall deletes no ranges, so this goes in small bounded steps beside the committer's other work.

use orderbell_protocol::UnixMs;

use super::disk::{DiskError, Space, View};
use super::keys;
use super::stage::Stage;
use super::stream;
use super::tally::Swept;
use super::trail;

/// Rows looked at in one step, of each kind.
const ROWS_PER_STEP: usize = 256;

/// Where the last step ended.
pub(crate) struct Upkeep {
    retention_ms: i64,
    trail_ms: i64,
    trail_from: Vec<u8>,
    event_ids: Vec<u8>,
    tallies: Swept,
}

impl Upkeep {
    pub(crate) fn new(retention_ms: i64, trail_ms: i64) -> Self {
        Self { retention_ms, trail_ms, trail_from: Vec::new(), event_ids: keys::event_id(0), tallies: Swept::default() }
    }

    pub(crate) fn step(&mut self, view: &View<'_>, stage: &mut Stage<'_>, now: UnixMs) -> Result<(), DiskError> {
        let before = now.plus_ms(-self.retention_ms);
        self.step_event_ids(view, stage, before)?;
        self.tallies.step(view, stage, now)?;
        trail::step(view, stage, now.plus_ms(-self.trail_ms), &mut self.trail_from)?;
        for part in 0..stream::PARTITIONS {
            step_stream(view, stage, part, before)?;
        }
        Ok(())
    }

    fn step_event_ids(&mut self, view: &View<'_>, stage: &mut Stage<'_>, before: UnixMs) -> Result<(), DiskError> {
        let end = keys::after_prefix(b"e");
        let mut seen = 0;
        let from = std::mem::replace(&mut self.event_ids, keys::event_id(0));
        for row in view.rows(Space::Meta, &from, &end).take(ROWS_PER_STEP) {
            let (mut key, row) = row?;
            seen += 1;
            if row.last_chunk::<8>().is_some_and(|at| i64::from_be_bytes(*at) < before.0) {
                stage.drop_row(Space::Meta, &key);
            }
            if seen == ROWS_PER_STEP {
                key.push(0);
                self.event_ids = key;
                break;
            }
        }
        Ok(())
    }
}

fn step_stream(view: &View<'_>, stage: &mut Stage<'_>, part: u32, before: UnixMs) -> Result<(), DiskError> {
    let frontier = stream::frontier(view, part)?;
    let (from, to) = (keys::stream(part, stream::start(view, part)?), keys::stream(part, frontier));
    let mut start = None;
    if from >= to {
        return Ok(());
    }
    for row in view.rows(Space::Stream, &from, &to).take(ROWS_PER_STEP) {
        let (key, row) = row?;
        if stream::timestamp(&row) >= before.0 {
            break;
        }
        stage.drop_row(Space::Stream, &key);
        start = key.last_chunk::<8>().map(|offset| u64::from_be_bytes(*offset) + 1);
    }
    if let Some(start) = start {
        stage.raise_stream_start(part, start);
    }
    Ok(())
}
