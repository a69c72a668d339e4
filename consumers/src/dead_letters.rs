//! The one way in which a dead letter is counted and reported, wherever it is made: by a shard, or by a program that publishes records and has one
//! refused for good.

use std::panic::AssertUnwindSafe;

use crate::record::Record;
use crate::stats::Stats;
use crate::traits::{Handler, Reason};

/// Counts a record that becomes a dead letter and tells the handler, before the dead letter is written. A panic of the handler is caught.
pub fn report_dead_letter<H: Handler>(
    handler: &H,
    stats: &Stats,
    record: &Record,
    prepared: Option<&H::Prepared>,
    reason: &Reason,
) {
    stats.dead_lettered.increment();
    let report = AssertUnwindSafe(|| handler.on_dead_letter(record, prepared, reason));
    if std::panic::catch_unwind(report).is_err() {
        stats.panics.increment();
        let (partition, offset) = (&record.partition, record.offset);
        tracing::error!(%partition, offset, "the handler panicked about a dead letter; it is written all the same");
    }
}
