//! Free space: below `min_free_space` intake stops, long before a write could fail, since a write that failed ends the process.
//!
//! Reading, acknowledging and saving of checkpoints go on; they write over a bounded number of rows. The delivery log is left out. Intake resumes
//! by itself when enough space is free again, well above the limit, so that it does not flap.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::LedgerOptions;

/// Whether free space was below the limit at the last check. Shared with whoever takes events in.
#[derive(Clone, Debug, Default)]
pub(crate) struct LowSpaceFlag(Arc<AtomicBool>);

impl LowSpaceFlag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Limits that may change while the ledger runs.
#[derive(Debug)]
pub(crate) struct LedgerLimits {
    /// For each mailbox; load-test traffic has mailboxes of its own.
    pub(crate) max_mailbox_rows: AtomicU64,
    /// Bytes.
    pub(crate) min_free_space: AtomicU64,
}

impl From<LedgerOptions> for LedgerLimits {
    fn from(options: LedgerOptions) -> Self {
        Self { max_mailbox_rows: options.max_mailbox_rows.into(), min_free_space: options.min_free_space.into() }
    }
}

/// Watches the file system of the ledger.
pub(crate) struct FreeSpaceMonitor {
    dir: PathBuf,
    limits: Arc<LedgerLimits>,
    flag: LowSpaceFlag,
    /// The last question failed.
    is_unknown: AtomicBool,
}

impl FreeSpaceMonitor {
    pub(crate) fn new(dir: PathBuf, limits: Arc<LedgerLimits>, flag: LowSpaceFlag) -> Self {
        let monitor = Self { dir, limits, flag, is_unknown: AtomicBool::new(false) };
        monitor.check();
        monitor
    }

    /// Whether free space was below the limit at the last check.
    pub(crate) fn is_low(&self) -> bool {
        self.flag.is_set()
    }

    /// Asks the file system. One that reports no free space counts as having enough: the writes themselves will fail if not.
    pub(crate) fn check(&self) {
        let stat = match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => stat,
            Err(error) => {
                // One line, not one for each check.
                if !self.is_unknown.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "free space is unknown: intake will not stop before the disk is full");
                }
                return;
            }
        };
        self.is_unknown.store(false, Ordering::Relaxed);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let min_free = self.limits.min_free_space.load(Ordering::Relaxed);
        let before = self.flag.is_set();
        let after = is_low(before, free, min_free);
        if before != after {
            let intake = if after { "stops" } else { "resumes" };
            tracing::error!(free, min_free, intake, "free space passed the limit");
        }
        self.flag.0.store(after, Ordering::Release);
    }
}

/// Low below the limit; no longer low a quarter above it.
fn is_low(was_low: bool, free: u64, min_free: u64) -> bool {
    let bound = if was_low { min_free.saturating_add(min_free / 4) } else { min_free };
    free < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_low_below_the_limit_until_it_is_well_above_it() {
        assert!(!is_low(false, 100, 100) && is_low(false, 99, 100));
        assert!(is_low(true, 100, 100) && is_low(true, 124, 100) && !is_low(true, 125, 100));
        assert!(!is_low(false, 0, 0), "no limit");
    }
}
