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
//! A row that does not say how old it is stays, whatever its age: nobody knows that its time has come. The scan goes on behind it.
//!
//! Refused: an index of these rows by time (a second row for every event id on the path of every event).

use std::collections::HashMap;

use orderbell_protocol::UnixMs;

use super::disk::{DatabaseError, DiskError, Table, View};
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
    /// By partition of the embedded log.
    log_fronts: HashMap<u32, LogFront>,
    /// The kind that is first in the next step: a kind with a large backlog keeps no other waiting.
    first: usize,
}

impl Retention {
    pub(crate) fn new(state_ms: i64, timeline_ms: i64) -> Self {
        let periods = Periods { state_ms, timeline_ms };
        Self { periods, circles: HashMap::new(), fronts: HashMap::new(), log_fronts: HashMap::new(), first: 0 }
    }

    pub(crate) fn step(
        &mut self,
        view: &View<'_>,
        batch: &mut BatchBuilder<'_>,
        now: UnixMs,
    ) -> Result<Step, DatabaseError> {
        let (mut step, mut left) = (Step::default(), ROWS_PER_STEP);
        self.first = (self.first + 1) % RowKind::ALL.len();
        for nth in 0..RowKind::ALL.len() {
            let kind = RowKind::ALL[(self.first + nth) % RowKind::ALL.len()];
            match kind.retention() {
                // Removed where the order, the mailbox, the connection or the entry is.
                Rule::WithOrder | Rule::WithMailbox | Rule::WithConnection | Rule::UntilTaken(_) | Rule::Fixed(_) => {}
                Rule::ByAge(Age::Log) => {
                    step_log(&mut self.log_fronts, view, batch, now.plus_ms(-self.periods.state_ms), &mut left)?;
                }
                Rule::ByAge(Age::Ranges(too_old)) => {
                    for range in too_old(&self.periods, now) {
                        self.step_front(kind, range, view, batch, &mut left)?;
                    }
                }
                Rule::ByAge(Age::Written(at)) => {
                    let period = self.periods.state_ms;
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if is_older(view, (kind, key, row), at, now.plus_ms(-period))? {
                            batch.remove_row(kind, key);
                        }
                        Ok(())
                    })?;
                }
                Rule::AfterLastUse(used) => {
                    let period = self.periods.device_ms();
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if is_older(view, (kind, key, row), used, now.plus_ms(-period))? {
                            batch.remove_row(kind, key);
                            step.cursors.push(key.to_vec());
                        }
                        Ok(())
                    })?;
                }
                Rule::AfterMailbox(at) => {
                    let period = self.periods.state_ms;
                    self.step_circle(kind, period, now, view, &mut left, |key, row| {
                        if is_older(view, (kind, key, row), at, now.plus_ms(-period))? {
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
    ) -> Result<(), DatabaseError> {
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
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
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

/// True when a row says that it was written, or last used, before this moment. One that does not decode says nothing.
fn is_older(
    view: &View<'_>,
    (kind, key, row): (RowKind, &[u8], &[u8]),
    at: fn(&[u8]) -> Option<UnixMs>,
    before: UnixMs,
) -> Result<bool, DatabaseError> {
    let at = at(row).ok_or_else(|| DiskError::damaged(kind.table(), key, kind.schema().name));
    Ok(view.pass_over(at)?.is_some_and(|at| at < before))
}

/// What is known of the oldest records of a partition.
#[derive(Default)]
struct LogFront {
    /// The key behind them, when none of them has a time that decodes.
    undated: Vec<u8>,
    /// The key behind a record that is due and was read after them: they are older.
    due: Vec<u8>,
}

/// The first key after this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Removes records that are older than `before` and below the checkpoint. A record whose time does not decode is older than the one that was
/// appended after it, and goes with it: it was reported when it was read. However many of them stand in front, each is read once.
fn step_log(
    fronts: &mut HashMap<u32, LogFront>,
    view: &View<'_>,
    batch: &mut BatchBuilder<'_>,
    before: UnixMs,
    left: &mut usize,
) -> Result<(), DatabaseError> {
    for part in 0..embedded_log::PARTITIONS {
        // Without a checkpoint nobody knows what has been consumed.
        let Some(checkpoint) = embedded_log::checkpoint(view, part)? else { continue };
        let front = fronts.entry(part).or_default();
        let from = keys::log_record(part, embedded_log::start(view, part)?);
        let mut step = LogStep { front, view, batch, left, from, start: None };
        step.run(&keys::log_record(part, checkpoint), before)?;
        if let Some(start) = step.start {
            batch.raise_log_start(part, start);
        }
    }
    Ok(())
}

/// A step in one partition.
struct LogStep<'a, 'v, 'b> {
    front: &'a mut LogFront,
    view: &'a View<'v>,
    batch: &'a mut BatchBuilder<'b>,
    left: &'a mut usize,
    /// Where the records begin that are left.
    from: Vec<u8>,
    /// The offset behind the newest that was removed.
    start: Option<u64>,
}

impl LogStep<'_, '_, '_> {
    fn run(&mut self, to: &[u8], before: UnixMs) -> Result<(), DatabaseError> {
        loop {
            self.remove_older()?;
            if *self.left == 0 || !self.remove_dated(to, before)? {
                return Ok(());
            }
        }
    }

    /// Removes what stands before a record that is due, and it.
    fn remove_older(&mut self) -> Result<(), DatabaseError> {
        if self.from >= self.front.due {
            return Ok(());
        }
        for row in self.view.rows(Table::EventLog, &self.from.clone(), &self.front.due).take(*self.left) {
            self.remove(&row?.0)?;
        }
        Ok(())
    }

    /// Removes the records that are due, up to the first that is not. True when it came to one behind records without a time that an earlier
    /// step has read: they go first.
    fn remove_dated(&mut self, to: &[u8], before: UnixMs) -> Result<bool, DatabaseError> {
        let has_older = self.front.undated > self.from;
        let begin = if has_older { &self.front.undated } else { &self.from }.clone();
        if begin.as_slice() >= to {
            return Ok(false);
        }
        let mut undated = Vec::new();
        for row in self.view.rows(Table::EventLog, &begin, to).take(*self.left) {
            let (key, row) = row?;
            match self.view.pass_over(embedded_log::timestamp(&key, &row))? {
                None => undated.push(key),
                Some(at) if at >= before.0 => break,
                Some(_) if has_older => {
                    self.front.due = after(&key);
                    return Ok(true);
                }
                Some(_) => undated.drain(..).chain([key]).try_for_each(|key| self.remove(&key))?,
            }
        }
        *self.left = self.left.saturating_sub(undated.len());
        if let Some(newest) = undated.last() {
            self.front.undated = after(newest);
        }
        Ok(false)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), DatabaseError> {
        *self.left = self.left.saturating_sub(1);
        self.batch.remove_row(RowKind::LogRecord, key);
        let offset = self.view.pass_over(embedded_log::offset_of(key))?;
        self.start = offset.map(|offset| offset + 1).or(self.start);
        self.from = after(key);
        Ok(())
    }
}
