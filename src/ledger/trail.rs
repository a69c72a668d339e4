//! What became of notices: sent to which device at which attempt, received, shown. For an order's story; nothing is decided by it.
//!
//! Steps gather in memory and are written with the lazy cursors, one row per device and tick; a kill -9 costs the last half second of stories.
//! A step speaks of a stretch of seqs, so a page of thirty notices is one step. Rows begin with the hour: what is too old is the front of
//! the keyspace, and goes in bounded steps.
//!
//! Refused: a row per notice and device in the path of every notice (three writes for one), and times in the mailbox row (it is written
//! once, and a store has many devices).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use orderbell_protocol::{DeviceId, Id, Recipient, UnixMs};

use super::disk::{DiskError, Space, View};
use super::keys::{self, OrderKey};
use super::mailbox::{self, MailRow};
use super::stage::Stage;

/// Steps that wait to be written; more are dropped: stories get holes before the ledger gets slow.
const STEPS_MAX: usize = 65_536;
/// Of one device in one tick: more is a client that says things at random.
const DEVICE_STEPS_MAX: usize = 256;
/// Rows looked at for one story: bounds the time of a request about a very busy store.
const ROWS_MAX: usize = 4_096;
/// Rows dropped in one step of upkeep.
const DROPS_MAX: usize = 4_096;
/// A row is named by its first step, and holds those that came until it was written: a tick, or a slow disk's while.
const ROW_SPAN_MS: i64 = 10_000;
const HOUR_MS: i64 = 3_600_000;

/// What happened to a stretch of a mailbox on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sent, both ends included, for the nth time.
    Sent {
        /// First seq.
        from: u64,
        /// Last seq.
        to: u64,
        /// 1 at first.
        attempt: u8,
    },
    /// Everything up to here was received and kept.
    Received(u64),
    /// A person has seen it.
    Shown(u64),
    /// The device cannot use it.
    Unusable(u64),
}

impl Step {
    fn encode(self) -> [u8; 18] {
        let (kind, attempt, from, to) = match self {
            Self::Sent { from, to, attempt } => (0, attempt, from, to),
            Self::Received(seq) => (1, 0, 0, seq),
            Self::Shown(seq) => (2, 0, seq, seq),
            Self::Unusable(seq) => (3, 0, seq, seq),
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
            1 => Self::Received(to),
            2 => Self::Shown(to),
            3 => Self::Unusable(to),
            _ => return None,
        })
    }
}

/// One notice of an order in one mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The notice's id.
    pub id: String,
    /// Where it stands.
    pub seq: u64,
    /// When its batch was written; unknown once the notice was trimmed.
    pub stored_at: Option<UnixMs>,
}

/// What became of an order's notices in one mailbox, oldest step first.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The notices.
    pub notices: Vec<Told>,
    /// What happened in the mailbox since the first of them.
    pub steps: Vec<(UnixMs, DeviceId, Step)>,
}

type Steps = HashMap<(Recipient, DeviceId), Vec<(UnixMs, Step)>>;

#[derive(Default)]
struct Inner {
    waiting: Steps,
    count: usize,
    writing: Steps,
}

/// Steps that are not written yet.
#[derive(Default)]
pub(crate) struct Trails(Mutex<Inner>);

impl Trails {
    pub(crate) fn note(&self, who: &Recipient, device: &DeviceId, step: Step, at: UnixMs) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.count >= STEPS_MAX {
            return;
        }
        let steps = inner.waiting.entry((who.clone(), device.clone())).or_default();
        if steps.len() < DEVICE_STEPS_MAX {
            steps.push((at, step));
            inner.count += 1;
        }
    }

    /// Stages what waits.
    pub(crate) fn write(&self, stage: &mut Stage<'_>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count = 0;
        inner.writing = std::mem::take(&mut inner.waiting);
        for ((who, device), steps) in &inner.writing {
            let Some((first, _)) = steps.first() else { continue };
            let mut row = Vec::with_capacity(steps.len() * 26);
            for (at, step) in steps {
                row.extend(at.0.to_be_bytes());
                row.extend(step.encode());
            }
            stage.put_row(Space::Trail, &key(who, *first, device), &row);
        }
    }

    /// It is durable.
    pub(crate) fn written(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).writing.clear();
    }

    fn not_written(&self, who: &Recipient, steps: &mut Vec<(UnixMs, DeviceId, Step)>) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((_, device), told) in inner.writing.iter().chain(&inner.waiting).filter(|((of, _), _)| of == who) {
            steps.extend(told.iter().map(|(at, step)| (*at, device.clone(), *step)));
        }
    }
}

fn hour(at: UnixMs) -> u32 {
    u32::try_from(at.0.max(0) / HOUR_MS).unwrap_or(u32::MAX)
}

fn prefix(hour: u32, who: &Recipient) -> Vec<u8> {
    [hour.to_be_bytes().as_slice(), &keys::mailbox(who)].concat()
}

fn key(who: &Recipient, at: UnixMs, device: &DeviceId) -> Vec<u8> {
    [prefix(hour(at), who).as_slice(), &at.0.to_be_bytes(), device.as_str().as_bytes()].concat()
}

/// What became of an order's notices in a mailbox.
pub(crate) fn read(
    view: &View<'_>,
    trails: &Trails,
    who: &Recipient,
    order: &OrderKey,
    (oldest, now): (UnixMs, UnixMs),
) -> Result<Trail, DiskError> {
    let (index, mailbox) = (keys::notices_of(order), keys::mailbox(who));
    let mut trail = Trail::default();
    for row in view.rows(Space::Orders, &index, &keys::after_prefix(&index)) {
        let (name, at) = row?;
        if at.len() != mailbox.len() + 8 || !at.starts_with(&mailbox) {
            continue;
        }
        let row = view.row(Space::Mail, &at)?;
        let stored_at = row.as_deref().and_then(MailRow::decode).and_then(|row| row.stored_at());
        let id = String::from_utf8_lossy(&name[index.len()..]).into_owned();
        trail.notices.push(Told { id, seq: mailbox::seq_of(&at), stored_at });
    }
    let Some(since) = trail.notices.iter().filter_map(|told| told.stored_at).min() else { return Ok(trail) };
    // A clock that was wrong once must not make this a walk through decades: what is older than the keeping is gone anyway.
    let since = since.plus_ms(-ROW_SPAN_MS).max(oldest);
    let mut left = ROWS_MAX;
    for hour in hour(since)..=hour(now) {
        let prefix = prefix(hour, who);
        let from = [prefix.as_slice(), &since.0.to_be_bytes()].concat();
        for row in view.rows(Space::Trail, &from, &keys::after_prefix(&prefix)).take(left) {
            left -= 1;
            let (key, row) = row?;
            let device = key.get(prefix.len() + 8..).and_then(|device| std::str::from_utf8(device).ok());
            let Some(device) = device.and_then(|device| Id::new(device).ok()) else { continue };
            for step in row.chunks_exact(26) {
                let (at, step) = step.split_at(8);
                let at = at.try_into().map_or(0, i64::from_be_bytes);
                trail.steps.extend(Step::decode(step).map(|step| (UnixMs(at), device.clone(), step)));
            }
        }
    }
    trails.not_written(who, &mut trail.steps);
    trail.steps.sort_by_key(|(at, _, _)| *at);
    Ok(trail)
}

/// Drops what is older than `before`, a bounded number of rows at a time. `from` is where the last step ended: what was dropped in front of it is
/// not looked at again.
pub(crate) fn step(
    view: &View<'_>,
    stage: &mut Stage<'_>,
    before: UnixMs,
    from: &mut Vec<u8>,
) -> Result<(), DiskError> {
    let end = hour(before).to_be_bytes();
    if from.as_slice() >= end.as_slice() {
        return Ok(());
    }
    for row in view.rows(Space::Trail, from, &end).take(DROPS_MAX) {
        let (key, _) = row?;
        stage.drop_row(Space::Trail, &key);
        *from = key;
    }
    Ok(())
}
