//! Retention of what belongs to no order: the rules of `tables`, carried out.
//!
//! fjall deletes no ranges, so this goes in bounded steps beside the committer's other work, each in a batch of its own that no caller waits
//! for. Its pace follows what there is to do:
//!
//! ```text
//!   keys in order of time (log, delivery log, counters):   everything that is due, from the front
//!   keys in no such order (event ids, cursors, floors):    a scan in circles; one circle takes an eighth of the kind's period, so a row
//!                                                          outlives its time by an eighth, however many there are
//! ```
//!
//! A step reads at most [`ROWS_PER_STEP`] rows. When more is due it says so, and the committer makes the next one soon.
//!
//! Refused: an index of these rows by time (a second row for every event id on the path of every event).

use std::collections::HashMap;

use orderbell_protocol::UnixMs;

use super::disk::{DiskError, Table, View};
use super::tables::{Age, Periods, Retention as Rule, RowKind};
use super::write_batch::BatchBuilder;
use super::{embedded_log, keys, mailbox};

/// Rows read in one step, of all kinds together: bounds what a step adds to the time of the batch that waits behind it.
const ROWS_PER_STEP: usize = 2_048;
/// Rows of each kind in one step of its first circle.
const FIRST_CIRCLE_ROWS: usize = ROWS_PER_STEP / 4;
/// A circle takes this part of the kind's period.
const CIRCLES_PER_PERIOD: i64 = 8;

/// What a step has left over.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// More is due.
    pub(crate) is_behind: bool,
    /// Keys of the cursors that it removed.
    pub(crate) cursors: Vec<Vec<u8>>,
}

/// A scan in circles.
struct Circle {
    /// Where it continues.
    from: Vec<u8>,
    began: UnixMs,
    /// Rows since it began, and of the circle before; none before the first has ended.
    rows: u64,
    rows_before: Option<u64>,
}

/// For each kind of row, where the last step ended. See the module.
pub(crate) struct Retention {
    periods: Periods,
    circles: HashMap<RowKind, Circle>,
    /// By kind and the beginning of the range: what was removed before is not read again.
    fronts: HashMap<(RowKind, Vec<u8>), Vec<u8>>,
    /// The kind that is first in the next step: a kind with a large backlog keeps no other waiting.
    first: usize,
}

impl Retention {
    pub(crate) fn new(state_ms: i64, timeline_ms: i64) -> Self {
        let periods = Periods { state_ms, timeline_ms };
        Self { periods, circles: HashMap::new(), fronts: HashMap::new(), first: 0 }
    }

    pub(crate) fn step(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        now: UnixMs,
    ) -> Result<Step, DiskError> {
        let (mut step, mut left) = (Step::default(), ROWS_PER_STEP);
        self.first = (self.first + 1) % RowKind::ALL.len();
        for nth in 0..RowKind::ALL.len() {
            let kind = RowKind::ALL[(self.first + nth) % RowKind::ALL.len()];
            match kind.retention() {
                // Removed where the order, the mailbox or the entry is.
                Rule::WithOrder | Rule::WithMailbox | Rule::UntilTaken(_) | Rule::Fixed(_) => {}
                Rule::ByAge(Age::Log) => step_log(view, batch, now.plus_ms(-self.periods.state_ms), &mut left)?,
                Rule::ByAge(Age::Ranges(too_old)) => {
                    for range in too_old(&self.periods, now) {
                        self.step_front(kind, range, view, batch, &mut left)?;
                    }
                }
                Rule::ByAge(Age::Written(at)) => {
                    let period = self.periods.state_ms;
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if written(kind, key, row, at)? < now.plus_ms(-period) {
                            batch.remove_row(kind, key);
                        }
                        Ok(())
                    })?;
                }
                Rule::AfterLastUse(used) => {
                    let period = self.periods.device_ms();
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if written(kind, key, row, used)? < now.plus_ms(-period) {
                            batch.remove_row(kind, key);
                            step.cursors.push(key.to_vec());
                        }
                        Ok(())
                    })?;
                }
                Rule::AfterMailbox(at) => {
                    let period = self.periods.state_ms;
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if written(kind, key, row, at)? < now.plus_ms(-period) {
                            mailbox::forget_floor(view, batch, (key, row), now)?;
                        }
                        Ok(())
                    })?;
                }
            }
        }
        step.is_behind = left == 0;
        Ok(step)
    }

    /// Removes what lies in `range`.
    fn step_front(
        &mut self,
        kind: RowKind,
        (begin, end): (Vec<u8>, Vec<u8>),
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        left: &mut usize,
    ) -> Result<(), DiskError> {
        let from = self.fronts.entry((kind, begin.clone())).or_insert(begin);
        if from.as_slice() >= end.as_slice() {
            return Ok(());
        }
        for row in view.rows(kind.table(), from, &end).take(*left) {
            let (key, _) = row?;
            *left -= 1;
            // Commit marks stand among the rows of their table.
            if RowKind::of(kind.table(), &key) == Some(kind) {
                batch.remove_row(kind, &key);
            }
            *from = key;
        }
        Ok(())
    }

    /// Shows `each` as many rows of a kind as are due by now.
    fn step_circle(
        &mut self,
        kind: RowKind,
        period_ms: i64,
        now: UnixMs,
        view: &View<'_>,
        left: &mut usize,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let (begin, end) = kind.range();
        let new = || Circle { from: begin.clone(), began: now, rows: 0, rows_before: None };
        let circle = self.circles.entry(kind).or_insert_with(new);
        let (elapsed, length) = (now.0 - circle.began.0, (period_ms / CIRCLES_PER_PERIOD).max(1));
        if elapsed < 0 {
            // The clock was set back: the circle would wait until it has caught up.
            circle.began = now;
        }
        // The rows that are due by now. How many there are is not known in the first circle.
        let due = match circle.rows_before {
            _ if elapsed >= length => *left,
            None => FIRST_CIRCLE_ROWS.min(*left),
            Some(rows) => {
                let passed = rows as f64 * elapsed.max(0) as f64 / length as f64;
                ((passed as u64).saturating_sub(circle.rows) as usize).min(*left)
            }
        };
        let mut seen = 0;
        for row in view.rows(kind.table(), &circle.from, &end).take(due) {
            let (mut key, row) = row?;
            seen += 1;
            each(&key, &row)?;
            key.push(0);
            circle.from = key;
        }
        circle.rows += seen as u64;
        *left -= seen;
        if seen < due {
            *circle = Circle { from: begin, began: now, rows: 0, rows_before: Some(circle.rows) };
        }
        Ok(())
    }
}

fn written(
    kind: RowKind,
    key: &[u8],
    row: &[u8],
    at: impl FnOnce(&[u8]) -> Option<UnixMs>,
) -> Result<UnixMs, DiskError> {
    at(row).ok_or_else(|| DiskError::damaged(kind.table(), key, kind.schema().name))
}

/// Removes records that are older than `before` and below the checkpoint.
fn step_log(view: &View<'_>, batch: &mut BatchBuilder<'_>, before: UnixMs, left: &mut usize) -> Result<(), DiskError> {
    for part in 0..embedded_log::PARTITIONS {
        let checkpoint = embedded_log::checkpoint(view, part)?;
        let (from, to) = (keys::log_record(part, embedded_log::start(view, part)?), keys::log_record(part, checkpoint));
        let mut start = None;
        if from >= to {
            continue;
        }
        for row in view.rows(Table::EventLog, &from, &to).take(*left) {
            let (key, row) = row?;
            if embedded_log::timestamp(&key, &row)? >= before.0 {
                break;
            }
            *left -= 1;
            batch.remove_row(RowKind::LogRecord, &key);
            start = Some(keys::trailing_number(Table::EventLog, &key)? + 1);
        }
        if let Some(start) = start {
            batch.raise_log_start(part, start);
        }
    }
    Ok(())
}
