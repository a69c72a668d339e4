//! Retention of what belongs to no order: event ids, the delivery log, counters, and the embedded log below its checkpoint.
//!
//! fjall deletes no ranges, so this goes in small bounded steps beside the committer's other work.

use orderbell_protocol::UnixMs;

use super::counters::CounterRetention;
use super::disk::{DiskError, Table, View};
use super::write_batch::BatchBuilder;
use super::{delivery_log, embedded_log, keys};

/// Rows read in one step, of each kind.
const ROWS_PER_STEP: usize = 256;

/// Retention periods, and for each kind of row where the last step ended.
pub(crate) struct Retention {
    state_retention_ms: i64,
    timeline_retention_ms: i64,
    delivery_log_from: Vec<u8>,
    event_ids_from: Vec<u8>,
    counters: CounterRetention,
}

impl Retention {
    pub(crate) fn new(state_retention_ms: i64, timeline_retention_ms: i64) -> Self {
        Self {
            state_retention_ms,
            timeline_retention_ms,
            delivery_log_from: Vec::new(),
            event_ids_from: keys::event_id(0),
            counters: CounterRetention::default(),
        }
    }

    pub(crate) fn step(&mut self, view: &View<'_>, batch: &mut BatchBuilder<'_>, now: UnixMs) -> Result<(), DiskError> {
        let before = now.plus_ms(-self.state_retention_ms);
        self.step_event_ids(view, batch, before)?;
        self.counters.step(view, batch, now)?;
        let log_before = now.plus_ms(-self.timeline_retention_ms);
        delivery_log::step(view, batch, log_before, &mut self.delivery_log_from)?;
        for part in 0..embedded_log::PARTITIONS {
            step_embedded_log(view, batch, part, before)?;
        }
        Ok(())
    }

    fn step_event_ids(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        before: UnixMs,
    ) -> Result<(), DiskError> {
        let end = keys::after_prefix(keys::EVENT_IDS);
        let mut seen = 0;
        let from = std::mem::replace(&mut self.event_ids_from, keys::event_id(0));
        for row in view.rows(Table::Meta, &from, &end).take(ROWS_PER_STEP) {
            let (mut key, row) = row?;
            seen += 1;
            let at = row.last_chunk::<8>().ok_or_else(|| DiskError::damaged(Table::Meta, &key, "an event id"))?;
            if i64::from_be_bytes(*at) < before.0 {
                batch.remove_row(Table::Meta, &key);
            }
            if seen == ROWS_PER_STEP {
                key.push(0);
                self.event_ids_from = key;
                break;
            }
        }
        Ok(())
    }
}

fn step_embedded_log(
    view: &View<'_>,
    batch: &mut BatchBuilder<'_>,
    part: u32,
    before: UnixMs,
) -> Result<(), DiskError> {
    let checkpoint = embedded_log::checkpoint(view, part)?;
    let (from, to) = (keys::log_record(part, embedded_log::start(view, part)?), keys::log_record(part, checkpoint));
    let mut start = None;
    if from >= to {
        return Ok(());
    }
    for row in view.rows(Table::EventLog, &from, &to).take(ROWS_PER_STEP) {
        let (key, row) = row?;
        if embedded_log::timestamp(&key, &row)? >= before.0 {
            break;
        }
        batch.remove_row(Table::EventLog, &key);
        start = Some(keys::trailing_number(Table::EventLog, &key)? + 1);
    }
    if let Some(start) = start {
        batch.raise_log_start(part, start);
    }
    Ok(())
}
