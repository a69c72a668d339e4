//! Free space: below `min_free_space` intake stops, long before a write could fail, since a write that failed ends the process.
//!
//! Reading, acknowledging and saving of checkpoints go on; they need little. Intake resumes by itself when enough space is free again, well
//! above the limit, so that it does not flap.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// Rows of one mailbox.
    pub(crate) max_mailbox_rows: AtomicU64,
    /// Bytes.
    pub(crate) min_free_space: AtomicU64,
}

/// Watches the file system of the ledger.
pub(crate) struct FreeSpaceMonitor {
    dir: PathBuf,
    limits: Arc<LedgerLimits>,
    flag: LowSpaceFlag,
}

impl FreeSpaceMonitor {
    pub(crate) fn new(dir: PathBuf, limits: Arc<LedgerLimits>, flag: LowSpaceFlag) -> Self {
        let monitor = Self { dir, limits, flag };
        monitor.check();
        monitor
    }

    /// Asks the file system. One that reports no free space counts as having enough: the writes themselves will fail if not.
    pub(crate) fn check(&self) {
        let Ok(stat) = rustix::fs::statvfs(&self.dir) else { return };
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
