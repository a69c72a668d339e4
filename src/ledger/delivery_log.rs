//! The delivery log: which notice was sent to which device at which attempt, acknowledged, displayed, refused. It serves the timeline of an
//! order; nothing is decided by it.
//!
//! Steps gather in memory and are written with the lazy cursors, one row per device and tick; a kill -9 costs the last half second of them.
//! A step covers a range of seqs, so a page of thirty notices is one step. Keys begin with the hour: what is too old is the front of the
//! table, and is removed in bounded steps.
//!
//! Refused: a row per notice and device on the path of every notice (three writes for one), and times in the mailbox row (it is written
//! once, and a store has many devices).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use orderbell_protocol::{DeviceId, NoticeKind, Recipient, UnixMs};

use super::disk::{DiskError, Table, View};
use super::keys::{self, OrderKey};
use super::mailbox::{self, IndexEntry};
use super::sharded::Sharded;
use super::tables::{Periods, Range, RowKind};
use super::write_batch::BatchBuilder;
use super::{Ledger, committer};

/// Steps in memory; more are left out, which the log says: timelines get gaps before the ledger gets slow.
const STEPS_MAX: usize = 65_536;
/// Steps of one device in one tick: more is a client that sends frames at random.
const DEVICE_STEPS_MAX: usize = 256;
/// Steps of one recipient in an hour: four times as many as the busiest store has on five devices. More are left out: whoever sends frames at
/// random writes no more than three megabytes in an hour.
const RECIPIENT_STEPS_PER_HOUR_MAX: u32 = 100_000;
/// Counters of these, for each shard. Two recipients that share one share its bound: a quarter of a million of them make that harmless.
const COUNTERS: usize = 4_096;
/// Time between two log lines about steps that were left out. Milliseconds.
const WARN_INTERVAL_MS: i64 = 60_000;
/// Rows read for one timeline: bounds the time of a request about a very busy store.
const ROWS_MAX: usize = 4_096;
/// A row is named by its first step, and holds those that came until it was written: a tick, or longer on a slow disk.
const ROW_SPAN_MS: i64 = 10_000;
const HOUR_MS: i64 = 3_600_000;
/// Bytes of one step in a row: its time, then [`DeliveryStep::encode`].
const STEP_BYTES: usize = 8 + 18;

/// What happened to a range of a mailbox on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStep {
    /// Sent, both ends included.
    Sent {
        /// First seq.
        from: u64,
        /// Last seq.
        to: u64,
        /// 1 at first.
        attempt: u8,
    },
    /// The device acknowledged everything up to this seq.
    Acked(u64),
    /// A person has seen the notice of this seq.
    Displayed(u64),
    /// The device cannot process the notice of this seq.
    Nacked(u64),
}

impl DeliveryStep {
    fn encode(self) -> [u8; 18] {
        let (kind, attempt, from, to) = match self {
            Self::Sent { from, to, attempt } => (0, attempt, from, to),
            Self::Acked(seq) => (1, 0, 0, seq),
            Self::Displayed(seq) => (2, 0, seq, seq),
            Self::Nacked(seq) => (3, 0, seq, seq),
        };
        let mut row = [kind; 18];
        row[1] = attempt;
        row[2..10].copy_from_slice(&from.to_be_bytes());
        row[10..].copy_from_slice(&to.to_be_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(row.get(at..at + 8)?.try_into().ok()?));
        let (from, to) = (number(2)?, number(10)?);
        Some(match row[0] {
            0 => Self::Sent { from, to, attempt: row[1] },
            1 => Self::Acked(to),
            2 => Self::Displayed(to),
            3 => Self::Nacked(to),
            _ => return None,
        })
    }
}

/// One notice of an order in one mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedNotice {
    /// The notice's id.
    pub id: String,
    /// Its kind; known also after the notice was trimmed.
    pub kind: NoticeKind,
    /// Its seq in the mailbox.
    pub seq: u64,
    /// When its batch was written; unknown once the notice was trimmed.
    pub stored_at: Option<UnixMs>,
}

/// What happened to an order's notices in one mailbox, oldest step first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryHistory {
    /// The order's notices.
    pub notices: Vec<LoggedNotice>,
    /// What happened in the mailbox since the first of them was stored.
    pub steps: Vec<(UnixMs, DeviceId, DeliveryStep)>,
}

/// What was sent, acknowledged and displayed: the handle that records and reads it.
#[derive(Clone, Copy)]
pub struct DeliveryLog<'a>(pub(super) &'a Ledger);

impl DeliveryLog<'_> {
    /// Records what happened to notices on a device.
    pub fn record(self, who: &Recipient, device: &DeviceId, step: DeliveryStep) {
        if let Some(log) = &self.0.pending_steps {
            log.record(who, device, step, committer::now());
        }
    }

    /// What happened to an order's notices in one mailbox.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn history(self, who: &Recipient, order: &OrderKey) -> Result<DeliveryHistory, DiskError> {
        let Some(log) = &self.0.pending_steps else { return Ok(DeliveryHistory::default()) };
        let now = committer::now();
        read(&self.0.disk.view(), log, who, order, (now.plus_ms(-self.0.timeline_retention_ms), now))
    }
}

type Steps = HashMap<Recipient, HashMap<DeviceId, Vec<(UnixMs, DeliveryStep)>>>;

#[derive(Default)]
struct Shard {
    waiting: Steps,
    /// In the batch that is being written: readers see them here until the snapshot shows them.
    writing: Arc<Steps>,
    /// The hour, and how many steps were recorded in it, by hash of the recipient.
    counted: (u32, Vec<u32>),
}

impl Shard {
    /// Counts a step; false when its recipient has as many as it may.
    fn admit(&mut self, hash: u64, at: UnixMs) -> bool {
        let hour = hour(at);
        if self.counted.0 != hour || self.counted.1.is_empty() {
            self.counted = (hour, vec![0; COUNTERS]);
        }
        let counted = &mut self.counted.1[hash as usize % COUNTERS];
        *counted = counted.saturating_add(1);
        *counted <= RECIPIENT_STEPS_PER_HOUR_MAX
    }
}

/// Steps that are not durable yet, in shards by recipient: every connection takes a lock for each step that it records. Nobody holds one for
/// longer than a few moves and look-ups: rows are encoded and freed without it.
#[derive(Default)]
pub(crate) struct PendingSteps {
    shards: Sharded<Shard>,
    /// Steps that are waiting.
    count: AtomicUsize,
    /// Steps that were left out since the last warning.
    left_out: AtomicU64,
    /// When that warning was logged. Milliseconds since 1970.
    warned_at: AtomicI64,
    hasher: foldhash::fast::RandomState,
}

impl PendingSteps {
    pub(crate) fn record(&self, who: &Recipient, device: &DeviceId, step: DeliveryStep, at: UnixMs) {
        if self.count.load(Ordering::Relaxed) >= STEPS_MAX {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut shard = self.shards.lock(who);
        if !shard.admit(self.hasher.hash_one(who), at) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let devices = shard.waiting.entry(who.clone()).or_default();
        let steps = devices.entry(device.clone()).or_default();
        if steps.len() < DEVICE_STEPS_MAX {
            steps.push((at, step));
            self.count.fetch_add(1, Ordering::Relaxed);
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Vec<Arc<Steps>> {
        self.count.store(0, Ordering::Relaxed);
        let take = |mut shard: MutexGuard<'_, Shard>| {
            shard.writing = Arc::new(std::mem::take(&mut shard.waiting));
            shard.writing.clone()
        };
        self.shards.each().map(take).filter(|steps| !steps.is_empty()).collect()
    }

    /// One line in a minute, however many steps a client makes up.
    fn warn_of_left_out(&self, now: UnixMs) {
        let warned_at = UnixMs(self.warned_at.load(Ordering::Relaxed));
        // A clock that was set back must not silence the log.
        let is_due = now < warned_at || warned_at.plus_ms(WARN_INTERVAL_MS) <= now;
        if is_due && self.left_out.load(Ordering::Relaxed) > 0 {
            self.warned_at.store(now.0, Ordering::Relaxed);
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            tracing::warn!(left_out, "delivery steps left out: timelines have gaps");
        }
    }

    /// Adds the pending steps to a batch, or leaves them out while the disk has too little free space.
    pub(crate) fn begin_write(&self, batch: &mut BatchBuilder<'_>, is_disk_low: bool) {
        let mut writing = self.take();
        if is_disk_low {
            let steps = writing.iter().flat_map(|shard| shard.values()).flat_map(HashMap::values).map(Vec::len);
            self.left_out.fetch_add(steps.sum::<usize>() as u64, Ordering::Relaxed);
            writing.clear();
        }
        self.warn_of_left_out(committer::now());
        let by_device = writing
            .iter()
            .flat_map(|shard| shard.iter())
            .flat_map(|(who, devices)| devices.iter().map(move |device| (who, device)));
        for (who, (device, steps)) in by_device {
            let Some((first, _)) = steps.first() else { continue };
            let mut row = Vec::with_capacity(steps.len() * STEP_BYTES);
            for (at, step) in steps {
                row.extend(at.0.to_be_bytes());
                row.extend(step.encode());
            }
            batch.put_row(RowKind::DeliverySteps, &key(who, *first, device), &row);
        }
    }

    /// The batch of [`Self::begin_write`] is durable.
    pub(crate) fn end_write(&self) {
        for mut shard in self.shards.each() {
            let written = std::mem::take(&mut shard.writing);
            drop(shard);
            drop(written);
        }
    }

    fn add_pending(&self, who: &Recipient, steps: &mut Vec<(UnixMs, DeviceId, DeliveryStep)>) {
        let shard = self.shards.lock(who);
        let of_recipient = shard.writing.get(who).into_iter().chain(shard.waiting.get(who)).flatten();
        for (device, of_device) in of_recipient {
            steps.extend(of_device.iter().map(|(at, step)| (*at, device.clone(), *step)));
        }
    }
}

fn hour(at: UnixMs) -> u32 {
    (at.0 / HOUR_MS).clamp(0, i64::from(u32::MAX)) as u32
}

fn prefix(hour: u32, who: &Recipient) -> Vec<u8> {
    [hour.to_be_bytes().as_slice(), &keys::mailbox(who)].concat()
}

fn key(who: &Recipient, at: UnixMs, device: &DeviceId) -> Vec<u8> {
    [prefix(hour(at), who).as_slice(), &at.0.to_be_bytes(), device.as_str().as_bytes()].concat()
}

/// What happened to an order's notices in one mailbox, within the retention of the log: from `oldest` until `now`.
pub(crate) fn read(
    view: &View<'_>,
    log: &PendingSteps,
    who: &Recipient,
    order: &OrderKey,
    (oldest, now): (UnixMs, UnixMs),
) -> Result<DeliveryHistory, DiskError> {
    let (index, mailbox) = (keys::notices_of(order), keys::mailbox(who));
    let mut history = DeliveryHistory::default();
    for row in view.rows(Table::Orders, &index, &keys::after_prefix(&index)) {
        let (name, entry) = row?;
        let IndexEntry { kind, key } = mailbox::decode_index(&name, &entry)?;
        if key.len() != mailbox.len() + 8 || !key.starts_with(&mailbox) {
            continue;
        }
        let stored_at = mailbox::read_row(view, &key)?.map(|row| row.stored_at);
        let id = std::str::from_utf8(&name[index.len()..])
            .map_err(|error| DiskError::damaged_by(Table::Orders, &name, "a key that ends with a notice id", error))?;
        history.notices.push(LoggedNotice { id: id.to_owned(), kind, seq: mailbox::seq_of(&key)?, stored_at });
    }
    let Some(since) = history.notices.iter().filter_map(|notice| notice.stored_at).min() else { return Ok(history) };
    // A clock that was wrong once must not make this a scan of decades: what is older than the retention is removed anyway.
    let since = since.plus_ms(-ROW_SPAN_MS).max(oldest);
    let mut left = ROWS_MAX;
    for hour in hour(since)..=hour(now) {
        let prefix = prefix(hour, who);
        let from = [prefix.as_slice(), &since.0.to_be_bytes()].concat();
        for row in view.rows(Table::DeliveryLog, &from, &keys::after_prefix(&prefix)).take(left) {
            left -= 1;
            let (key, row) = row?;
            let device = keys::trailing_id(Table::DeliveryLog, &key, prefix.len() + 8)?;
            for step in row.chunks(STEP_BYTES) {
                let decoded = step.split_first_chunk::<8>().and_then(|(at, step)| {
                    Some((UnixMs(i64::from_be_bytes(*at)), device.clone(), DeliveryStep::decode(step)?))
                });
                let damaged = || DiskError::damaged(Table::DeliveryLog, &key, "steps of a device");
                history.steps.push(decoded.ok_or_else(damaged)?);
            }
        }
    }
    log.add_pending(who, &mut history.steps);
    history.steps.sort_by_key(|(at, _, _)| *at);
    Ok(history)
}

/// Steps that are older than the retention: whole hours.
pub(super) fn too_old(periods: &Periods, now: UnixMs) -> Vec<Range> {
    vec![(Vec::new(), hour(now.plus_ms(-periods.timeline_ms)).to_be_bytes().to_vec())]
}

/// True when a row is a list of steps.
pub(super) fn decodes(row: &[u8]) -> bool {
    row.chunks(STEP_BYTES).all(|step| step.get(8..).and_then(DeliveryStep::decode).is_some())
}
