//! What can be chosen about a group: bounds and times, each with its reason.

use std::time::Duration;

use crate::record::{Offset, Part};
use crate::start::Resume;

/// The bounds and times of a group. The defaults carry their reasons.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records held at once. Bounds memory together with `bytes_max`; large enough that no fsync is waited for with idle cores.
    pub records_max: u64,
    /// Bytes held at once.
    pub bytes_max: u64,
    /// Records between a partition's watermark and its newest one: what a restart may have to repeat.
    pub span_max: usize,
    /// Number of shards, a power of two. Four per core overlap handlers that compute with handlers that wait.
    pub shards: usize,
    /// Records of one key in one turn: one durable write serves them all.
    pub turn_max: usize,
    /// Handlers running at once, over all shards.
    pub running_max: usize,
    /// Tries of one record before it is given up.
    pub attempts_max: u32,
    /// A frontier that moved is saved after this long.
    pub save_interval: Duration,
    /// How long a revoke waits for what is running.
    pub drain_max: Duration,
    /// How long a stop waits for what is running.
    pub stop_max: Duration,
    /// A partition without a position begins this far back. Milliseconds.
    pub retention_ms: i64,
    /// Who keeps the position.
    pub resume: Resume,
    /// Topics of which this group must have a partition before it says how new its knowledge is. Empty: whatever it has.
    pub needs_topics: Vec<String>,
    /// This group must own every partition of its topics: one that is somebody else's for this long is a red light, nothing is taken in, and
    /// how new the knowledge is, is not known. Longer than a rebalance, and than a partition that was just added waits for its owner. None:
    /// members share.
    pub whole_after: Option<Duration>,
    /// An operator's word: nothing below this offset of this partition is read any more, whatever stands there. The way on for a
    /// partition whose bytes are damaged.
    pub skips: Vec<(Part, Offset)>,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        Self {
            records_max: 65_536,
            bytes_max: 64 << 20,
            span_max: 65_536,
            shards: (4 * cores).next_power_of_two(),
            turn_max: 64,
            running_max: 8_192,
            attempts_max: 10,
            save_interval: Duration::from_secs(1),
            drain_max: Duration::from_secs(1),
            stop_max: Duration::from_secs(10),
            retention_ms: 3 * 24 * 3600 * 1000,
            resume: Resume::Frontiers,
            needs_topics: Vec::new(),
            whole_after: None,
            skips: Vec::new(),
        }
    }
}
