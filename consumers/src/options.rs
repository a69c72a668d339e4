//! The options of a group: bounds and times, each with its reason.

use std::time::Duration;

use crate::record::{Offset, TopicPartition};
use crate::start_offset::ResumeFrom;

/// The bounds and times of a group. The defaults carry their reasons.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records in flight, over all partitions. Bounds memory together with `max_in_flight_bytes`; large enough that no core is idle while a
    /// write is made durable.
    pub max_in_flight_records: u64,
    /// Bytes in flight, over all partitions, decompressed.
    pub max_in_flight_bytes: u64,
    /// Records between a partition's watermark and its newest record: at most so many are repeated after a restart. A partition that reaches
    /// it is paused alone.
    pub max_span: usize,
    /// Number of shards, rounded up to a power of two. Four per core overlap handlers that compute with handlers that wait.
    pub shards: usize,
    /// Records of one key in one batch: one durable write serves them all.
    pub max_batch_records: usize,
    /// Batches that run at once, over all shards.
    pub max_running_batches: usize,
    /// Attempts at one record before it goes to the dead letters.
    pub max_attempts: u32,
    /// How often checkpoints that moved are saved, and alerts and partition states are refreshed.
    pub checkpoint_interval: Duration,
    /// How long a revocation waits for running batches.
    pub revoke_timeout: Duration,
    /// How long [`Group::stop`](crate::Group::stop) waits for running batches.
    pub stop_timeout: Duration,
    /// A partition without a checkpoint starts this far back. Milliseconds.
    pub retention_ms: i64,
    /// Which offset a partition resumes from.
    pub resume_from: ResumeFrom,
    /// Topics of which at least one partition must be assigned before [`Stats::as_of_ms`](crate::Stats::as_of_ms) is known. When empty,
    /// the assigned partitions alone decide.
    pub required_topics: Vec<String>,
    /// If set, the group must own every partition of its topics. When another member has owned a partition for longer than this, intake
    /// stops, an alert is raised, and `as_of_ms` is not known. It must be longer than a rebalance, and than a partition that was just
    /// added waits for its owner. `None`: several members may share the partitions.
    pub require_full_assignment_after: Option<Duration>,
    /// Offsets below which an operator gave up a partition's records. It is the way past bytes that are damaged. Each is used once, at the first start
    /// of its partition, and never for a topic that was created again.
    pub skip_to: Vec<(TopicPartition, Offset)>,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        Self {
            max_in_flight_records: 65_536,
            max_in_flight_bytes: 64 << 20,
            max_span: 65_536,
            shards: (4 * cores).next_power_of_two(),
            max_batch_records: 64,
            max_running_batches: 8_192,
            max_attempts: 10,
            checkpoint_interval: Duration::from_secs(1),
            revoke_timeout: Duration::from_secs(1),
            stop_timeout: Duration::from_secs(10),
            retention_ms: 3 * 24 * 3600 * 1000,
            resume_from: ResumeFrom::Checkpoint,
            required_topics: Vec::new(),
            require_full_assignment_after: None,
            skip_to: Vec::new(),
        }
    }
}
