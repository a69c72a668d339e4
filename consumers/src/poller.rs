//! The loop of the poll thread. See [`crate::group`] for the picture.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::{Core, Offer};
use crate::key_queues::Item;
use crate::options::Options;
use crate::pace::{Next, Pace};
use crate::record::{Offset, Part, Record};
use crate::seams::{Frontier, Frontiers, Handler, KeyHash, Polled, Saved, Source, SourceError};
use crate::shard::{FromShard, ToShard, shard_of};
use crate::start::{self, Alarm, Start};
use crate::stats::Stats;

/// Keys that are named as the hottest.
const HOTTEST_MAX: usize = 10;
/// Records taken in one turn: enough to fill every shard, few enough that completions are looked at often.
const POLL_MAX: usize = 1024;
/// Longest wait inside one poll: bounds how late a stop, a save or a completion is seen.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// How long placing waits for a new start to be durable, and a revoke for its frontier.
const SAVE_MAX: Duration = Duration::from_secs(5);
/// Placing that failed is tried again after this long, twice as long each time up to the second: asking blocks this thread for seconds, and
/// the other partitions wait meanwhile.
const PLACE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

pub(crate) struct Poller<S, H, F> {
    source: S,
    core: Core,
    handler: Arc<H>,
    frontiers: Arc<F>,
    options: Options,
    shards: Vec<flume::Sender<ToShard>>,
    batches: Vec<Vec<(KeyHash, Item)>>,
    done: flume::Receiver<FromShard>,
    saved_tx: flume::Sender<Saved>,
    saved_rx: flume::Receiver<Saved>,
    stats: Arc<Stats>,
    stop: Arc<AtomicBool>,
    /// Assigned and not placed yet: the log or the frontiers did not answer. Tried again at the given time.
    unplaced: Vec<Part>,
    place_at: Instant,
    place_retry: Duration,
    saved_at: Instant,
    polled_at: Instant,
    /// Longest time between two polls since the last upkeep.
    poll_gap_ms: u64,
    pace: Pace,
    began: Instant,
    halted_until: Option<Instant>,
    /// Partitions are somebody else's, since then; and whether that is too long.
    shared: Option<(Instant, bool)>,
    news: Vec<Polled>,
    /// Partitions that went back, and where they are again where the group was: then their light goes out.
    behind: Vec<(Part, Offset)>,
    /// Placed while this turn's news were looked at: what else the turn holds of them was read from the old place.
    placed: Vec<Part>,
}

impl<S: Source, H: Handler, F: Frontiers> Poller<S, H, F> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the group that owns all of these")]
    pub(crate) fn new(
        source: S,
        core: Core,
        handler: Arc<H>,
        frontiers: Arc<F>,
        options: Options,
        shards: Vec<flume::Sender<ToShard>>,
        done: flume::Receiver<FromShard>,
        stats: Arc<Stats>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        // One answer per save and partition set; saves are not repeated before their answer, so a handful is plenty.
        let (saved_tx, saved_rx) = flume::bounded(1024);
        let now = Instant::now();
        let batches = shards.iter().map(|_| Vec::new()).collect();
        let pace = Pace::new(POLL_MAX, options.records_max);
        Self {
            source,
            core,
            handler,
            frontiers,
            options,
            shards,
            batches,
            done,
            saved_tx,
            saved_rx,
            stats,
            stop,
            unplaced: Vec::new(),
            place_at: now,
            place_retry: PLACE_RETRY.0,
            saved_at: now,
            polled_at: now,
            poll_gap_ms: 0,
            pace,
            began: now,
            halted_until: None,
            shared: None,
            news: Vec::new(),
            behind: Vec::new(),
            placed: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) -> Result<(), SourceError> {
        while !self.stop.load(Ordering::Acquire) {
            self.completions();
            self.pauses();
            self.place_again();
            self.upkeep();
            self.poll()?;
            self.take_news();
        }
        let parts = self.core.parts();
        self.give_up(&parts, self.options.stop_max, false);
        // What was assigned and never placed is given back, or the source would wait for its answer.
        let unplaced = std::mem::take(&mut self.unplaced);
        if !unplaced.is_empty() {
            self.forget(&unplaced);
        }
        // What the last second saw: no upkeep follows.
        self.stats.violations.add(std::mem::take(&mut self.core.violations));
        Ok(())
    }

    /// Completions and durable frontiers that have arrived.
    fn completions(&mut self) {
        while let Ok(message) = self.done.try_recv() {
            self.completed(message);
        }
        while let Ok(saved) = self.saved_rx.try_recv() {
            self.durable(&saved);
        }
    }

    fn completed(&mut self, message: FromShard) {
        match message {
            FromShard::Completed(tickets) => {
                self.stats.completed.add(tickets.len() as u64);
                tickets.iter().for_each(|ticket| self.core.complete(ticket));
            }
            FromShard::Abandoned(tickets) => {
                self.stats.abandoned.add(tickets.len() as u64);
                tickets.iter().for_each(|ticket| self.core.abandon(ticket));
            }
            FromShard::Halted(reason) => {
                self.stats.light_named("handler".into(), format!("{}: {}", reason.code, reason.message));
                self.halted_until = Some(Instant::now() + Duration::from_secs(2));
            }
        }
    }

    fn durable(&mut self, saved: &Saved) {
        let ours = self.core.saved(saved);
        if !ours.is_empty() {
            self.source.saved(&ours);
        }
    }

    fn pauses(&mut self) {
        let (pause, resume) = self.core.pauses();
        for (parts, paused) in [(pause, true), (resume, false)] {
            // While everything is paused for want of credits, nothing is resumed alone; the end of the stall resumes all.
            if !parts.is_empty()
                && (paused || !self.pace.is_paused())
                && let Err(error) = self.source.pause(&parts, paused)
            {
                tracing::warn!(%error, ?parts, paused, "a partition was not paused or resumed");
            }
        }
    }

    /// Once a second: frontiers that moved, and what the outside may see.
    fn upkeep(&mut self) {
        let now = Instant::now();
        if now < self.saved_at + self.options.save_interval {
            return;
        }
        self.saved_at = now;
        self.save();
        let (records, bytes) = self.core.held();
        self.stats.held_records.set(records);
        self.stats.held_bytes.set(bytes);
        self.stats.violations.add(std::mem::take(&mut self.core.violations));
        self.core.ends(&self.source.ends());
        self.look_around(now);
        let status = self.core.status();
        self.behind.retain(|(part, at)| {
            let there = status.iter().any(|status| status.part == *part && status.durable >= *at);
            if there {
                self.stats.unlight(&part.to_string());
            }
            !there
        });
        self.stats.publish(status);
        self.stats.hottest(self.core.hottest(HOTTEST_MAX));
        self.stats.poll_gap_ms.set(self.poll_gap_ms);
        self.poll_gap_ms = 0;
    }

    /// A group that must be whole, and is not: nothing is taken in, so that nobody takes half for all.
    fn look_around(&mut self, now: Instant) {
        let Some(whole_after) = self.options.whole_after else { return };
        let mut foreign = self.source.foreign();
        foreign.retain(|part| !self.unplaced.contains(part));
        if foreign.is_empty() {
            if self.shared.take().is_some_and(|(_, told)| told) {
                tracing::warn!("every partition is ours again");
                self.stats.unlight("group");
            }
            self.stats.foreign.set(0);
            return;
        }
        let (since, told) = self.shared.get_or_insert((now, false));
        if now < *since + whole_after {
            return;
        }
        if !*told {
            tracing::error!(?foreign, "partitions are somebody else's: nothing is taken in");
        }
        *told = true;
        self.stats.foreign.set(foreign.len() as u64);
        let what = if self.core.parts().is_empty() {
            String::from("no partition is ours: the group's coordinator is away, or somebody else has them all")
        } else {
            format!("{} partitions are somebody else's: stop the other member of this group", foreign.len())
        };
        self.stats.light_named("group".into(), what);
    }

    fn save(&mut self) {
        let moved = self.core.unsaved();
        if !moved.is_empty() {
            self.frontiers.save(&self.source.cluster(), moved, self.saved_tx.clone());
        }
    }

    /// Halted by a handler: nothing is taken in until it had time to recover.
    fn halted(&mut self) -> bool {
        let halted = self.halted_until.is_some_and(|until| Instant::now() < until);
        if !halted && self.halted_until.take().is_some() {
            self.stats.unlight("handler");
        }
        halted
    }

    fn poll(&mut self) -> Result<(), SourceError> {
        let shared = self.shared.is_some_and(|(_, told)| told);
        let room = if self.halted() || shared { 0 } else { self.core.room() };
        let pause = self.pace.wants_pause(room, self.began.elapsed());
        self.stall(pause);
        let Next::Poll { max } = self.pace.next(room, self.began.elapsed()) else {
            if let Ok(message) = self.done.recv_timeout(POLL_WAIT) {
                self.completed(message);
            }
            return Ok(());
        };
        let gap = u64::try_from(self.polled_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.poll_gap_ms = self.poll_gap_ms.max(gap);
        self.polled_at = Instant::now();
        let polled = self.source.poll(max, POLL_WAIT, &mut self.news);
        if max == 0
            && let Ok(message) = self.done.recv_timeout(POLL_WAIT)
        {
            // Nothing is asked of the source: it answers at once, so the wait is here.
            self.completed(message);
        }
        match polled {
            Ok(()) => Ok(()),
            Err(SourceError::Passing(error)) => {
                self.stats.source_errors.up();
                tracing::warn!(error, "the source had an error and is polled again");
                Ok(())
            }
            Err(fatal) => Err(fatal),
        }
    }

    fn stall(&mut self, paused: bool) {
        if self.pace.is_paused() == paused {
            return;
        }
        let parts: Vec<Part> = self.core.status().into_iter().filter(|s| !s.paused).map(|s| s.part).collect();
        match self.source.pause(&parts, paused) {
            Ok(()) => self.pace.paused(paused),
            Err(error) => tracing::warn!(%error, paused, "the source was not paused or resumed"),
        }
    }

    fn take_news(&mut self) {
        let mut news = std::mem::take(&mut self.news);
        self.placed.clear();
        for polled in news.drain(..) {
            match polled {
                Polled::Record(record) if self.placed.contains(&record.part) => {}
                Polled::Record(record) => self.record(record),
                Polled::Assigned(parts) => self.place(parts),
                Polled::Revoking(parts) => self.give_up(&parts, self.options.drain_max, true),
                Polled::Lost(parts) => self.lost(&parts),
                Polled::End(part, end) => self.core.end(&part, end),
                Polled::Damaged(part, offset) => {
                    tracing::error!(%part, offset, "the log is damaged here: this partition stands still until an operator skips it");
                    self.stats.light(&part, format!("damaged at offset {offset}"));
                    self.core.damaged(&part);
                }
                Polled::OutOfRange(part, _) => self.place(vec![part]),
            }
        }
        self.news = news;
        self.send();
    }

    fn record(&mut self, record: Record) {
        // A record without a key carries no order promise: it is spread by where it stands.
        let key = self.handler.key(&record).unwrap_or_else(|| KeyHash(record.fingerprint() ^ record.offset));
        match self.core.offer(&record, key) {
            Offer::Ignore | Offer::Verified => {}
            Offer::Mismatch => self.changed(&record.part),
            Offer::Take(ticket) => self.take(key, Item { record, ticket: Some(ticket), attempts: 0 }),
            Offer::Unverified(ticket) => {
                tracing::info!(part = %record.part, "the record below the frontier is gone, which is no reason to worry");
                self.take(key, Item { record, ticket: Some(ticket), attempts: 0 });
            }
        }
    }

    fn take(&mut self, key: KeyHash, item: Item) {
        let shard = shard_of(key, self.shards.len());
        self.batches[shard].push((key, item));
    }

    fn send(&mut self) {
        for (shard, batch) in self.batches.iter_mut().enumerate() {
            if !batch.is_empty() {
                self.stats.taken.add(batch.len() as u64);
                // Never full: the channel has room for every credit. Disconnected only when the runtime is gone.
                let _gone = self.shards[shard].send(ToShard::Batch(std::mem::take(batch)));
            }
        }
    }

    /// Places partitions; those whose place cannot be found out now are tried again.
    fn place(&mut self, parts: Vec<Part>) {
        if parts.is_empty() {
            return;
        }
        let (mut ready, mut starts) = (Vec::new(), Vec::new());
        for (part, start) in self.starts(parts) {
            match start {
                Ok(start) => {
                    ready.push(part);
                    starts.push(start);
                }
                Err(error) => {
                    self.stats.source_errors.up();
                    tracing::warn!(error, %part, "a partition cannot be placed yet");
                    self.stats.light(&part, format!("cannot be placed yet: {error}"));
                    self.place_later(vec![part]);
                }
            }
        }
        if !ready.is_empty() {
            self.place_at(ready, starts);
        }
    }

    fn place_later(&mut self, parts: Vec<Part>) {
        self.unplaced.extend(parts);
        self.stats.unplaced.set(self.unplaced.len() as u64);
        self.place_at = Instant::now() + self.place_retry;
        self.place_retry = (self.place_retry * 2).min(PLACE_RETRY.1);
    }

    /// One partition at a time, or all of a topic that begins: each that does not answer costs the others seconds.
    fn place_again(&mut self) {
        if self.unplaced.is_empty() || Instant::now() < self.place_at {
            return;
        }
        let first = self.unplaced.remove(0);
        let known = self.frontiers.knows_topic(&self.source.cluster(), &first.topic).unwrap_or(true);
        let mut parts = vec![first];
        if !known {
            let (same, others) = self.unplaced.drain(..).partition(|part| part.topic == parts[0].topic);
            parts.extend::<Vec<_>>(same);
            self.unplaced = others;
        }
        let before = self.unplaced.len();
        self.stats.unplaced.set(before as u64);
        self.place(parts);
        if self.unplaced.len() == before {
            // It answered: so may the next.
            (self.place_retry, self.place_at) = (PLACE_RETRY.0, Instant::now());
        }
    }

    /// Each partition's start. The first starts of a topic are saved in one batch, so a topic without any frontier begins whole or not yet;
    /// otherwise one that cannot be asked holds up no other.
    fn starts(&mut self, parts: Vec<Part>) -> Vec<(Part, Result<Start, String>)> {
        let mut starts = Vec::with_capacity(parts.len());
        let mut begins_whole = BTreeSet::new();
        let mut unasked = BTreeSet::new();
        for part in parts {
            let start = self.start(&part);
            match &start {
                Ok((_, topic_known)) if !topic_known => drop(begins_whole.insert(part.topic.clone())),
                Ok(_) => {}
                Err(_) => drop(unasked.insert(part.topic.clone())),
            }
            starts.push((part, start.map(|(start, _)| start)));
        }
        for (part, start) in &mut starts {
            if begins_whole.contains(&part.topic) && unasked.contains(&part.topic) && start.is_ok() {
                *start = Err(String::from("another partition of its topic cannot be asked yet"));
            }
        }
        starts
    }

    /// Where a partition begins, and whether its topic has frontiers already.
    fn start(&mut self, part: &Part) -> Result<(Start, bool), String> {
        let until = Instant::now() + SAVE_MAX;
        while self.core.is_saving(part) && Instant::now() < until {
            if let Ok(saved) = self.saved_rx.recv_timeout(POLL_WAIT) {
                self.durable(&saved);
            }
        }
        if self.core.is_saving(part) {
            return Err(String::from("its last frontier is not durable yet"));
        }
        let cluster = self.source.cluster();
        let saved = self.frontiers.load(&cluster, std::slice::from_ref(part)).map_err(|error| error.to_string())?;
        let known = self.frontiers.knows_topic(&cluster, &part.topic).map_err(|error| error.to_string())?;
        let since = now_ms() - self.options.retention_ms;
        let held = self.source.held(part, since).map_err(|error| error.to_string())?;
        let start = start::start(saved.into_iter().next().flatten(), held, known, self.options.resume);
        let skip = self.options.skips.iter().find(|(named, _)| named == part);
        Ok(match skip {
            Some((_, at)) if start.frontier.next < *at => {
                tracing::warn!(%part, from = start.frontier.next, to = at, "skipping, as an operator said");
                (start::skip(start, (*at).min(held.end)), known)
            }
            _ => (start, known),
        })
    }

    fn place_at(&mut self, parts: Vec<Part>, starts: Vec<Start>) {
        let fresh: Vec<(Part, Frontier)> = parts
            .iter()
            .zip(&starts)
            .filter(|(_, start)| start.fresh)
            .map(|(part, start)| (part.clone(), start.frontier))
            .collect();
        if !fresh.is_empty() && !self.save_and_wait(fresh) {
            tracing::warn!(?parts, "the start offsets are not durable yet");
            return self.place_later(parts);
        }
        let mut at = Vec::with_capacity(parts.len());
        for (part, start) in parts.iter().zip(&starts) {
            self.stats.unlight(&part.to_string());
            self.alarm(part, start);
            self.core.place(part, start.frontier, start.probe);
            at.push((part.clone(), start.offset()));
            self.placed.push(part.clone());
        }
        if let Err(error) = self.source.place(&at) {
            tracing::warn!(%error, "the log did not take the start offsets");
            self.core.fence(&parts);
            return self.place_later(parts);
        }
        // Durable frontiers all of them: the log's own position may follow at once, also where nothing new ever comes.
        // Not where our state went back: the log's position is what shows it, until somebody acted on it.
        let kept = parts.iter().zip(&starts).filter(|(_, start)| !matches!(start.alarm, Some(Alarm::WentBack { .. })));
        let durable: Vec<_> = kept.map(|(part, start)| (part.clone(), start.frontier.next)).collect();
        self.source.saved(&durable);
        // A group that is out of credits must not deliver the newcomers either.
        if self.pace.is_paused() {
            let _told_again = self.source.pause(&at.into_iter().map(|(part, _)| part).collect::<Vec<_>>(), true);
        }
    }

    /// True when these frontiers became durable in time. Answers for others are taken as they come.
    fn save_and_wait(&mut self, at: Vec<(Part, Frontier)>) -> bool {
        let (tx, rx) = flume::bounded(1);
        self.frontiers.save(&self.source.cluster(), at, tx);
        rx.recv_timeout(SAVE_MAX).is_ok()
    }

    fn alarm(&mut self, part: &Part, start: &Start) {
        let Some(alarm) = start.alarm else { return };
        if let Alarm::WentBack { by } = alarm {
            self.stats.went_back.up();
            self.behind.push((part.clone(), start.frontier.next + by));
        }
        let what = match alarm {
            Alarm::Passed { missing } => format!("retention passed us: {missing} offsets were never read"),
            Alarm::Shrunk { beyond } => format!("the log ends {beyond} offsets before our frontier: made anew?"),
            Alarm::WentBack { by } => format!("the group is {by} offsets ahead of our frontier: our state went back"),
            Alarm::Changed => String::from("the record below our frontier is another one: made anew?"),
        };
        tracing::error!(%part, next = start.frontier.next, what, "a partition does not go on where it was left");
        self.stats.light(part, what);
    }

    /// The topic is another one under the same name: fence what was taken, begin at its first record.
    fn changed(&mut self, part: &Part) {
        let parts = [part.clone()];
        let ended = self.core.fence(&parts);
        self.tell_shards(ended);
        match self.source.held(part, now_ms()) {
            Ok(held) => self.place_at(parts.to_vec(), vec![start::start_anew(held)]),
            Err(error) => {
                tracing::warn!(%error, %part, "the log does not say where it begins");
                self.place_later(parts.to_vec());
            }
        }
    }

    fn tell_shards(&mut self, ended: Vec<(u32, u32)>) {
        self.send();
        for shard in &self.shards {
            let _gone = shard.send(ToShard::Fence(ended.clone()));
        }
    }

    fn lost(&mut self, parts: &[Part]) {
        tracing::warn!(?parts, "partitions were lost: somebody else has them");
        self.forget(parts);
    }

    fn forget(&mut self, parts: &[Part]) {
        self.unplaced.retain(|part| !parts.contains(part));
        self.stats.unplaced.set(self.unplaced.len() as u64);
        let ended = self.core.fence(parts);
        self.tell_shards(ended);
        if let Err(error) = self.source.release(parts) {
            tracing::warn!(%error, ?parts, "partitions were not released");
        }
    }

    /// Drain, save, tell the log, fence, release. What is not finished in time is repeated by the next owner, never lost.
    fn give_up(&mut self, parts: &[Part], drain_max: Duration, release: bool) {
        self.send();
        self.core.drain(parts);
        let until = Instant::now() + drain_max;
        while !self.core.drained(parts) && Instant::now() < until {
            if let Ok(message) = self.done.recv_timeout(POLL_WAIT) {
                self.completed(message);
            }
        }
        if !self.core.drained(parts) {
            self.stats.drain_timeouts.up();
        }
        let until = Instant::now() + SAVE_MAX.min(drain_max);
        while !self.core.settled(parts) && Instant::now() < until {
            self.save();
            if let Ok(saved) = self.saved_rx.recv_timeout(POLL_WAIT) {
                self.durable(&saved);
            }
        }
        if release {
            self.forget(parts);
        }
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
