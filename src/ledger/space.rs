//! Free space: below the guard nothing new is taken in, long before a write could fail, since a write that failed ends the process.
//!
//! Reading, acknowledging and saving of frontiers go on; they need little. Intake resumes by itself when there is room again, well above
//! the guard, so that it does not flutter.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether there is room, as of the last look. Shared with whoever takes in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<AtomicBool>);

impl Room {
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Bounds that may change while the ledger runs.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Rows of one mailbox.
    pub(crate) mailbox_rows_max: AtomicU64,
    /// Bytes.
    pub(crate) free_space_min: AtomicU64,
}

/// Watches the file system of the ledger.
pub(crate) struct Guard {
    dir: PathBuf,
    bounds: Arc<Bounds>,
    room: Room,
}

impl Guard {
    pub(crate) fn new(dir: PathBuf, bounds: Arc<Bounds>, room: Room) -> Self {
        let guard = Self { dir, bounds, room };
        guard.look();
        guard
    }

    /// Looks at the file system. One that does not tell is taken for roomy: the writes themselves will say.
    pub(crate) fn look(&self) {
        let Ok(told) = rustix::fs::statvfs(&self.dir) else { return };
        let free = told.f_bavail.saturating_mul(told.f_frsize);
        let bytes_min = self.bounds.free_space_min.load(Ordering::Relaxed);
        let (before, after) = (self.room.is_full(), is_full(self.room.is_full(), free, bytes_min));
        if before != after {
            tracing::error!(free, guard = bytes_min, full = after, "free space passed the guard");
        }
        self.room.0.store(after, Ordering::Release);
    }
}

/// Full below the guard; roomy again a quarter above it.
fn is_full(was_full: bool, free: u64, bytes_min: u64) -> bool {
    let bound = if was_full { bytes_min.saturating_add(bytes_min / 4) } else { bytes_min };
    free < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_below_the_guard_and_roomy_well_above_it() {
        assert!(!is_full(false, 100, 100) && is_full(false, 99, 100));
        assert!(is_full(true, 100, 100) && is_full(true, 124, 100) && !is_full(true, 125, 100));
        assert!(!is_full(false, 0, 0), "no guard");
    }
}
