//! The one writer: an OS thread that folds whatever has arrived into one atomic batch, fsyncs it, and only then tells anybody.
//!
//! ```text
//!   shards: turns --+
//!   door: events  --+--flume--> stage --> one batch --> fsync --> durable: ring, wake the stream, answer
//!   poll thread:  --+
//!   frontiers       |
//!   cursors (lazy) -+
//! ```
//!
//! Grouping needs no timer: while one fsync runs, the next batch gathers. A write or fsync error calls `failed` once, which ends the
//! process; nobody is answered after it, so nobody is told a lie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orderbell_consumers::{Frontier, Part, Saved};
use orderbell_protocol::session::Standing;
use orderbell_protocol::{DeviceId, Recipient, UnixMs};
use tokio::sync::{Notify, oneshot};

use super::crowd::Crowd;
use super::disk::{Disk, DiskError, Space};
use super::effects::{Appended, Incoming, TurnEffects};
use super::keys;
use super::outbox::Emit;
use super::space::Guard;
use super::stage::{Done, Stage};
use super::trail::Trails;
use super::upkeep::Upkeep;
use super::{Bell, Board};
use crate::crash;

/// Work items folded into one batch: bounds how long an fsync's callers wait for each other.
const WORK_PER_BATCH_MAX: usize = 4096;
/// Without work, cursors and retention are looked after this often.
const TICK: Duration = Duration::from_millis(500);

/// Something to write.
pub(crate) enum Work {
    Turn(TurnEffects, oneshot::Sender<()>),
    Append(Vec<Incoming>, oneshot::Sender<Vec<Appended>>),
    Frontiers(String, Vec<(Part, Frontier)>, flume::Sender<Saved>),
    Letter(Vec<u8>, oneshot::Sender<()>),
    Sent(Vec<u64>, oneshot::Sender<()>),
    Rebuilt(oneshot::Sender<()>),
    Replay(Vec<Incoming>, Vec<u64>, oneshot::Sender<()>),
}

enum Answer {
    Turn(oneshot::Sender<()>),
    Append(oneshot::Sender<Vec<Appended>>, Vec<Appended>),
    Frontiers(flume::Sender<Saved>, Saved),
}

/// Cursors that wait to be written. Losing them costs redeliveries.
#[derive(Default)]
pub(crate) struct Standings(Mutex<StandingsInner>);

#[derive(Default)]
struct StandingsInner {
    waiting: HashMap<(Recipient, DeviceId), Standing>,
    writing: HashMap<(Recipient, DeviceId), Standing>,
}

impl Standings {
    pub(crate) fn note(&self, who: &Recipient, device: &DeviceId, standing: Standing) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A socket and a poll of one device may both note: the further one counts, within an epoch.
        let further = |old: Standing| Standing {
            acked: if old.acked.epoch == standing.acked.epoch && old.acked.seq > standing.acked.seq {
                old.acked
            } else {
                standing.acked
            },
            sent_seq: old.sent_seq.max(standing.sent_seq),
        };
        let slot = inner.waiting.entry((who.clone(), device.clone())).or_insert(standing);
        *slot = further(*slot);
    }

    /// The newest standing that is not written yet.
    pub(crate) fn newest(&self, who: &Recipient, device: &DeviceId) -> Option<Standing> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        inner.waiting.get(&key).or_else(|| inner.writing.get(&key)).copied()
    }

    fn begin(&self) -> Vec<((Recipient, DeviceId), Standing)> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.writing = std::mem::take(&mut inner.waiting);
        inner.writing.iter().map(|(key, standing)| (key.clone(), *standing)).collect()
    }

    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).writing.clear();
    }
}

pub(crate) struct Committer {
    pub(crate) disk: Arc<Disk>,
    pub(crate) rx: flume::Receiver<Work>,
    pub(crate) bell: Arc<dyn Bell>,
    pub(crate) board: Arc<dyn Board>,
    pub(crate) standings: Arc<Standings>,
    pub(crate) trails: Arc<Trails>,
    pub(crate) stream: Arc<super::stream::Growth>,
    pub(crate) failed: Arc<dyn Fn(&str) + Send + Sync>,
    pub(crate) upkeep: Upkeep,
    pub(crate) crowd: Crowd,
    pub(crate) guard: Guard,
    pub(crate) seq: u64,
    pub(crate) letters: u64,
    pub(crate) emit: Emit,
    pub(crate) outbox: u64,
    pub(crate) outbox_grown: Arc<Notify>,
}

impl Committer {
    /// Runs until every sender is gone; then writes what is left.
    pub(crate) fn run(mut self) {
        let mut upkept = std::time::Instant::now();
        loop {
            let first = match self.rx.recv_timeout(TICK) {
                Ok(work) => Some(work),
                Err(flume::RecvTimeoutError::Timeout) => None,
                Err(flume::RecvTimeoutError::Disconnected) => {
                    let _last = self.batch(None, true);
                    return;
                }
            };
            let tick = first.is_none() || upkept.elapsed() >= TICK;
            if tick {
                upkept = std::time::Instant::now();
            }
            if let Err(error) = self.batch(first, tick) {
                (self.failed)(&format!("the ledger cannot be written: {error}"));
                return;
            }
        }
    }

    fn batch(&mut self, first: Option<Work>, tick: bool) -> Result<(), DiskError> {
        let disk = self.disk.clone();
        let mut stage = Stage::new(&disk, self.emit, self.seq, self.outbox);
        let mut answers = Vec::new();
        let mut next = first;
        while let Some(work) = next.take() {
            answers.push(self.stage(&mut stage, work)?);
            if answers.len() < WORK_PER_BATCH_MAX {
                next = self.rx.try_recv().ok();
            }
        }
        if tick {
            for ((who, device), standing) in self.standings.begin() {
                stage.standing(&who, &device, standing);
            }
            self.trails.write(&mut stage);
            self.upkeep.step(&disk.view(), &mut stage, now())?;
        }
        if !answers.is_empty() {
            crash::point("batch");
        }
        let done = stage.commit(self.seq)?;
        if !answers.is_empty() {
            crash::point("durable");
        }
        if tick {
            self.standings.end();
            self.trails.written();
        }
        self.tell(done, answers);
        if tick {
            self.guard.look();
            self.thin()?;
        }
        Ok(())
    }

    /// Retention by count, in a batch of its own: what it looks at is durable, and nobody waits for its fsync.
    fn thin(&mut self) -> Result<(), DiskError> {
        let disk = self.disk.clone();
        let mut stage = Stage::new(&disk, self.emit, self.seq, self.outbox);
        self.crowd.step(&disk.view(), &mut stage, now())?;
        stage.commit(self.seq).map(drop)
    }

    fn stage(&mut self, stage: &mut Stage<'_>, work: Work) -> Result<Answer, DiskError> {
        Ok(match work {
            Work::Turn(effects, reply) => {
                stage.turn(&effects, now())?;
                Answer::Turn(reply)
            }
            Work::Append(events, reply) => {
                let at = now();
                let appended = events.iter().map(|event| stage.append(event, at)).collect::<Result<_, _>>()?;
                Answer::Append(reply, appended)
            }
            Work::Frontiers(cluster, at, reply) => {
                at.iter().for_each(|(part, frontier)| stage.frontier(&cluster, part, *frontier));
                Answer::Frontiers(reply, at)
            }
            Work::Sent(numbers, reply) => {
                stage.sent(&numbers);
                Answer::Turn(reply)
            }
            Work::Replay(events, letters, reply) => {
                let at = now();
                for event in &events {
                    stage.append(event, at)?;
                }
                letters.iter().for_each(|number| stage.drop_row(Space::Meta, &keys::letter(*number)));
                Answer::Turn(reply)
            }
            Work::Rebuilt(reply) => {
                stage.drop_row(Space::Meta, keys::REBUILDING);
                Answer::Turn(reply)
            }
            Work::Letter(letter, reply) => {
                self.letters += 1;
                stage.letter(self.letters, &letter);
                Answer::Turn(reply)
            }
        })
    }

    /// Everything is durable: now, and only now, it may be heard of.
    fn tell(&mut self, done: Option<Done>, answers: Vec<Answer>) {
        let mut tallies = Vec::new();
        if let Some(done) = done {
            tallies = done.tallies;
            self.seq = done.seq;
            self.outbox = done.outbox;
            if done.emitted {
                self.outbox_grown.notify_one();
            }
            self.bell.ring(&done.rung);
            if !done.rung.is_empty() {
                crash::point("rung");
            }
            self.crowd.counted(done.counts);
            if done.grown {
                self.stream.wake();
            }
        }
        for answer in answers {
            // Who asked may have gone meanwhile; what it asked for is durable all the same.
            match answer {
                Answer::Turn(reply) => drop(reply.send(())),
                Answer::Append(reply, appended) => drop(reply.send(appended)),
                Answer::Frontiers(reply, saved) => drop(reply.try_send(saved)),
            }
            crash::point("answered");
        }
        // Behind everybody who waits: a screen has time.
        if !tallies.is_empty() {
            self.board.counted(&tallies, self.disk.newest());
        }
    }
}

pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
