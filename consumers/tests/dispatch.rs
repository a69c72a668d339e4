//! The tracker and the key queues against naive models: invariants I1 to I14, I16 and I19 of the design, for any sequence of operations, also
//! with records of several parts, each with a key and a result of its own.
//!
//! A world of two or three small logs is driven step by step, without threads, clocks or sleeps: time is a number that a step moves. The
//! world does what the poll thread and a shard do between `Tracker` and `KeyQueues`, and beside them it keeps the simplest model that can
//! be right: per epoch a map from offset to "done", per log the set of offsets ever finished, per key a list of what waits.
//!
//! Attacked: a checkpoint that leads (a record that no restart reads again is lost), order within a key, two batches of one key at once,
//! credits that leak or return too early, epochs that affect each other, keys that stand in line twice. Limits are tiny, so that every bound
//! is met. Every sequence ends undisturbed: what is still open must then finish, with nothing left over.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "dispatch/model.rs"]
mod model;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use model::{How, Lane, MAX_PARTS, MAX_POLL_RECORDS, Place, Read, Step, place};
use orderbell_consumers::key_queues::{KeyQueues, QueuedInput};
use orderbell_consumers::tracker::{Cost, Epoch, Limits, Offer, Ticket, Tracker};
use orderbell_consumers::traits::Checkpoint;
use orderbell_consumers::{KeyHash, KeyInput, Offset, Record, TopicPartition};
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};

struct World {
    limits: Limits,
    max_batch_records: usize,
    lanes: Vec<Lane>,
    reads: HashMap<Epoch, Read>,
    tracker: Tracker,
    queues: KeyQueues,
    queued: BTreeMap<KeyHash, VecDeque<Ticket>>,
    running: Vec<(KeyHash, Vec<QueuedInput>)>,
    dead_letters: Vec<(KeyHash, QueuedInput, Vec<QueuedInput>)>,
    backing_off: HashMap<KeyHash, Duration>,
    /// By waiting key: the keys that had a batch since it stands in line.
    passed: HashMap<KeyHash, HashSet<KeyHash>>,
    saves: VecDeque<Vec<(TopicPartition, Checkpoint)>>,
    in_flight: (u64, u64),
    now: Duration,
    /// A key whose handler never ends.
    stuck: Option<KeyHash>,
}

impl World {
    fn new(limits: Limits, max_batch_records: usize, logs: &[Vec<model::Row>]) -> Self {
        let lanes = logs.iter().enumerate().map(|(number, log)| model::lane(number, log)).collect();
        Self {
            limits,
            max_batch_records,
            lanes,
            reads: HashMap::new(),
            tracker: Tracker::new(limits),
            queues: KeyQueues::new(max_batch_records),
            queued: BTreeMap::new(),
            running: Vec::new(),
            dead_letters: Vec::new(),
            backing_off: HashMap::new(),
            passed: HashMap::new(),
            saves: VecDeque::new(),
            in_flight: (0, 0),
            now: Duration::ZERO,
            stuck: None,
        }
    }

    fn step(&mut self, step: Step) {
        let lanes = self.lanes.len();
        match step {
            Step::Poll { lane, max, again } => self.poll(lane % lanes, max, again),
            Step::Batch => self.batch(),
            Step::Answer { which, done, how } => self.answer(which, done, how),
            Step::DeadLettered { which } => self.dead_lettered(which),
            Step::Save => self.save(),
            Step::Durable => self.durable(),
            Step::Drain { lane } => self.drain(lane % lanes),
            Step::Fence { lane } => self.fence(lane % lanes),
            Step::Assign { lane, verify } => self.assign(lane % lanes, verify),
            Step::Recreated { lane } => self.recreated(lane % lanes),
            Step::CaughtUp { lane } => self.caught_up(lane % lanes),
            Step::Tick(ms) => self.now += Duration::from_millis(ms),
            Step::Crash => self.crash(),
        }
        self.check();
    }

    fn assign(&mut self, at: usize, verify: bool) {
        // Its checkpoint is read once every save that was requested is answered.
        while self.tracker.is_saving(&self.lanes[at].partition) {
            self.durable();
        }
        // A partition may be assigned already: the log reported "out of range". The shards are not fenced then.
        let lane = &mut self.lanes[at];
        self.tracker.fence(std::slice::from_ref(&lane.partition));
        self.tracker.begin_requested(std::slice::from_ref(&lane.partition));
        assert!(self.tracker.is_saving(&lane.partition), "its begin counts as a save until it is answered");
        assert_eq!(self.tracker.saved(&[(lane.partition.clone(), lane.durable)]), [], "a begin is no save of an epoch");
        lane.verify = lane.durable.last.filter(|_| verify).map(|(offset, _)| offset);
        let epoch = self.tracker.assign(&lane.partition, lane.durable, verify);
        let from = lane.verify.unwrap_or(lane.durable.next);
        lane.next = lane.log.partition_point(|(record, _)| record.offset < from);
        (lane.epoch, lane.draining, lane.paused) = (Some(epoch), false, false);
        let next = lane.durable.next;
        let read =
            Read { lane: at, records: BTreeMap::new(), next_offset: next, began: next, saved: next, fenced: false };
        let fresh = self.reads.insert(epoch, read);
        assert!(fresh.is_none(), "an epoch was used twice");
    }

    /// A log was created again: nothing more of it is taken, and the next one begins when all that was taken is finished and saved.
    fn recreated(&mut self, at: usize) {
        self.drain(at);
        let partition = [self.lanes[at].partition.clone()];
        let is_saved = !self.tracker.is_saving(&partition[0]) && self.tracker.is_settled(&partition);
        if self.tracker.has_in_flight(&partition[0]) || !is_saved {
            return;
        }
        assert_eq!(self.in_flight_of(at), 0, "another log begins while records of the earlier one are in flight");
        let lane = &mut self.lanes[at];
        (lane.durable, lane.highest_ever) = (Checkpoint { next: model::FIRST, last: None }, model::FIRST);
        lane.finished.clear();
        self.assign(at, false);
    }

    /// Records and parts of a lane in flight, those of ended epochs too.
    fn in_flight_of(&self, at: usize) -> usize {
        let of_batches = self.running.iter().flat_map(|(_, records)| records);
        let of_dead_letters = self.dead_letters.iter().flat_map(|(_, first, rest)| std::iter::once(first).chain(rest));
        let busy = of_batches.chain(of_dead_letters).filter_map(|queued| queued.ticket.as_ref());
        let tickets = self.queued.values().flatten().chain(busy);
        tickets.filter(|ticket| self.reads[&ticket.epoch].lane == at).count()
    }

    fn pauses(&mut self) {
        let (pause, resume) = self.tracker.pauses();
        for (partitions, paused) in [(pause, true), (resume, false)] {
            for lane in self.lanes.iter_mut().filter(|lane| partitions.contains(&lane.partition)) {
                assert_ne!(lane.paused, paused, "{} was paused or resumed twice", lane.partition);
                lane.paused = paused;
            }
        }
    }

    fn poll(&mut self, at: usize, max: usize, again: bool) {
        self.pauses();
        let lane = &mut self.lanes[at];
        if lane.epoch.is_none() || lane.paused {
            return;
        }
        if again && lane.next > 0 && lane.verify.is_none() {
            lane.next -= 1;
        }
        for _ in 0..max.min(self.tracker.free_credits()) {
            let Some((record, keys)) = self.lanes[at].log.get(self.lanes[at].next).cloned() else { break };
            self.lanes[at].next += 1;
            self.offer(at, &record, &keys);
        }
    }

    fn offer(&mut self, at: usize, record: &Record, keys: &[KeyHash]) {
        let lane = &mut self.lanes[at];
        let epoch = lane.epoch.unwrap();
        let read = self.reads.get_mut(&epoch).unwrap();
        let costs: Vec<Cost> = keys.iter().map(|key| Cost { key: *key, bytes: record.bytes() }).collect();
        let offer = self.tracker.offer(record, &costs);
        if lane.draining {
            return assert_eq!(offer, Offer::Ignore, "I9: a draining partition took a record");
        }
        if lane.verify.take().is_some_and(|verify| verify == record.offset) {
            return assert_eq!(offer, Offer::Verified);
        }
        if record.offset < read.next_offset {
            return assert_eq!(offer, Offer::Ignore, "offset {} was taken twice in an epoch", record.offset);
        }
        let Offer::Take(ticket) = offer else { panic!("{offer:?} instead of a ticket for {}", record.offset) };
        assert_eq!((ticket.epoch, ticket.key, ticket.bytes), (epoch, keys[0], record.bytes()));
        read.next_offset = record.offset + 1;
        self.lanes[at].highest_ever = self.lanes[at].highest_ever.max(read.next_offset);
        for ((part, key), cost) in model::parts(record, keys).into_iter().zip(costs) {
            read.records.insert(place(&part), (key, false));
            self.in_flight = (self.in_flight.0 + 1, self.in_flight.1 + cost.bytes);
            let ticket = ticket.of_part(cost);
            self.queued.entry(key).or_default().push_back(ticket);
            let input = KeyInput::Record(part, None);
            self.queues.push(key, QueuedInput { input, ticket: Some(ticket), attempts: 0, rejection: None });
        }
    }

    fn is_busy(&self, key: KeyHash) -> bool {
        self.running.iter().any(|(busy, _)| *busy == key) || self.dead_letters.iter().any(|(busy, ..)| *busy == key)
    }

    fn ready(&self) -> Vec<KeyHash> {
        let is_backing_off = |key| self.backing_off.get(key).is_some_and(|until| *until > self.now);
        self.queued.keys().filter(|key| !self.is_busy(**key) && !is_backing_off(key)).copied().collect()
    }

    fn batch(&mut self) {
        let ready = self.ready();
        let Some((key, records)) = self.queues.next_batch(self.now) else {
            return assert!(ready.is_empty(), "I19, I12: no batch, although {ready:?} wait");
        };
        assert!(!self.is_busy(key), "I4: a second batch of {key:?}");
        let back_off = self.backing_off.remove(&key).filter(|until| *until > self.now);
        assert_eq!(back_off, None, "I19: {key:?} runs before its back-off ends");
        assert!(ready.contains(&key), "a batch of a key that has no records: {key:?}");
        self.passed.remove(&key);
        for waiting in ready.into_iter().filter(|ready| *ready != key) {
            let first = self.passed.entry(waiting).or_default().insert(key);
            assert!(first, "I13: {key:?} had two batches while {waiting:?} waited for one");
        }
        assert!((1..=self.max_batch_records).contains(&records.len()), "a batch of {} records", records.len());
        let queue = self.queued.get_mut(&key).unwrap();
        for queued in &records {
            assert_eq!(queued.ticket, queue.pop_front(), "I5: not the front of its queue");
        }
        if queue.is_empty() {
            self.queued.remove(&key);
        }
        self.check_order(key, &records);
        self.running.push((key, records));
    }

    /// I5: a record that starts has no open one before it in its own partition and epoch, except in the same batch.
    fn check_order(&self, key: KeyHash, records: &[QueuedInput]) {
        for (at, queued) in records.iter().enumerate() {
            let ticket = queued.ticket.unwrap();
            let read = &self.reads[&ticket.epoch];
            assert!(!read.fenced, "I9: a record of a fenced epoch starts");
            let here = place(queued.input.record().unwrap());
            let is_in_batch = |place_of_open: &Place| {
                let mut before = records[..at].iter().filter(|other| other.ticket.unwrap().epoch == ticket.epoch);
                before.any(|other| place(other.input.record().unwrap()) == *place_of_open)
            };
            let mut open = read.records.range(..here).filter(|(_, (k, done))| *k == key && !done);
            assert!(open.all(|(open, _)| is_in_batch(open)), "I5: {here:?} overtook one of its key");
            let may_lead = queued.attempts == 0 || records.len() == 1;
            assert!(may_lead || at > 0, "a record that was tried before is not alone");
        }
    }

    fn answer(&mut self, which: usize, done: usize, how: How) {
        let ends: Vec<usize> = (0..self.running.len()).filter(|at| Some(self.running[*at].0) != self.stuck).collect();
        if ends.is_empty() {
            return;
        }
        let (key, records) = self.running.swap_remove(ends[which % ends.len()]);
        let mut records = VecDeque::from(records);
        for _ in 0..done.min(records.len()) {
            self.complete(records.pop_front().unwrap());
        }
        let Some(mut first) = records.pop_front() else { return self.put_back(key, Vec::new(), None) };
        match how {
            How::Done => {
                self.complete(first);
                records.drain(..).for_each(|queued| self.complete(queued));
                self.put_back(key, Vec::new(), None);
            }
            How::Retry(ms) => {
                first.attempts += 1;
                records.push_front(first);
                self.put_back(key, records.into(), Some(self.now + Duration::from_millis(ms)));
            }
            How::Reject => self.dead_letters.push((key, first, records.into())),
        }
    }

    /// The steps that are possible now and make progress.
    fn enabled(&mut self) -> Vec<Step> {
        self.pauses();
        let (max, again, which, done, how) = (1, false, 0, 0, How::Done);
        let can_read = |lane: &Lane| lane.epoch.is_some() && !lane.paused && lane.next < lane.log.len();
        let readable = (0..self.lanes.len()).filter(|at| self.tracker.free_credits() > 0 && can_read(&self.lanes[*at]));
        let mut steps: Vec<Step> = readable.map(|lane| Step::Poll { lane, max, again }).collect();
        steps.extend((!self.ready().is_empty()).then_some(Step::Batch));
        steps.extend((!self.running.is_empty()).then_some(Step::Answer { which, done, how }));
        steps.extend((!self.dead_letters.is_empty()).then_some(Step::DeadLettered { which }));
        steps.extend(self.backing_off.values().any(|until| *until > self.now).then_some(Step::Tick(1)));
        steps
    }

    fn is_finished(&self) -> bool {
        self.lanes.iter().all(|lane| lane.log.iter().all(|(record, keys)| lane.has_finished(record, keys)))
    }

    fn dead_lettered(&mut self, which: usize) {
        if !self.dead_letters.is_empty() {
            let (key, dead_letter, rest) = self.dead_letters.swap_remove(which % self.dead_letters.len());
            self.complete(dead_letter);
            self.put_back(key, rest, None);
        }
    }

    /// As a shard does it: records that were fenced meanwhile are abandoned, the others go back to the front.
    fn put_back(&mut self, key: KeyHash, rest: Vec<QueuedInput>, back_off: Option<Duration>) {
        let (gone, rest): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|queued| self.reads[&queued.ticket.unwrap().epoch].fenced);
        gone.into_iter().for_each(|queued| self.abandon(queued.ticket.unwrap()));
        for queued in rest.iter().rev() {
            self.queued.entry(key).or_default().push_front(queued.ticket.unwrap());
        }
        match back_off.filter(|_| !rest.is_empty()) {
            Some(until) => {
                self.backing_off.insert(key, until);
                self.queues.back_off(key, rest, until);
            }
            None => self.queues.finish(key, rest),
        }
    }

    fn complete(&mut self, queued: QueuedInput) {
        let ticket = queued.ticket.unwrap();
        let part = queued.input.record().unwrap();
        let lane = self.lanes.iter_mut().find(|lane| lane.partition == part.partition).unwrap();
        let before = self.tracker.status();
        self.tracker.complete(&ticket);
        self.in_flight = (self.in_flight.0 - 1, self.in_flight.1 - ticket.bytes);
        if lane.epoch != Some(ticket.epoch) {
            assert_eq!(before, self.tracker.status(), "I8: a completion of an old epoch changed something");
        }
        if !lane.finished.insert(place(part)) {
            let repeatable = self.reads[&ticket.epoch].began..lane.highest_ever;
            let (offset, partition) = (part.offset, &lane.partition);
            assert!(repeatable.contains(&offset), "I7: {offset} of {partition} is repeated, outside of {repeatable:?}");
        }
        let read = self.reads.get_mut(&ticket.epoch).unwrap();
        let (_, done) = read.records.get_mut(&place(part)).unwrap();
        assert!(!std::mem::replace(done, true), "{:?} was finished twice in one epoch", place(part));
    }

    fn abandon(&mut self, ticket: Ticket) {
        self.tracker.abandon(&ticket);
        self.in_flight = (self.in_flight.0 - 1, self.in_flight.1 - ticket.bytes);
    }

    fn save(&mut self) {
        let moved = self.tracker.take_unsaved();
        for (partition, checkpoint) in &moved {
            let lane = self.lanes.iter().find(|lane| lane.partition == *partition).unwrap();
            let read = &self.reads[&lane.epoch.unwrap()];
            assert!(checkpoint.next <= read.checkpoint(), "I1: {partition} asks to save {checkpoint:?}");
            assert!(checkpoint.next > read.saved, "I2: {partition} asks to save {checkpoint:?} again, or moves back");
        }
        if !moved.is_empty() {
            self.saves.push_back(moved);
        }
    }

    /// The oldest save becomes durable, also that of an epoch that ended: the tracker must not take it for one of the new epoch.
    fn durable(&mut self) {
        let Some(saved) = self.saves.pop_front() else { return };
        for (partition, checkpoint) in &saved {
            let lane = self.lanes.iter_mut().find(|lane| lane.partition == *partition).unwrap();
            assert!(
                checkpoint.next >= lane.durable.next,
                "{partition} was durable at {} and moves back",
                lane.durable.next
            );
            lane.durable = *checkpoint;
            let passed = lane.log.iter().take_while(|(record, _)| record.offset < checkpoint.next);
            let lost: Vec<Offset> = passed
                .filter(|(record, keys)| !lane.has_finished(record, keys))
                .map(|(record, _)| record.offset)
                .collect();
            assert!(lost.is_empty(), "I1: {partition} saved {} but {lost:?} are not finished", checkpoint.next);
        }
        for (partition, next) in self.tracker.saved(&saved) {
            let lane = self.lanes.iter().find(|lane| lane.partition == partition).unwrap();
            let read = self.reads.get_mut(&lane.epoch.unwrap()).unwrap();
            assert!(next >= read.saved, "I2: {partition} stored {} and then {next}", read.saved);
            read.saved = next;
        }
    }

    fn drain(&mut self, at: usize) {
        self.tracker.drain(&[self.lanes[at].partition.clone()]);
        self.lanes[at].draining = self.lanes[at].epoch.is_some();
    }

    /// The partition is revoked (after a drain, complete or not) or lost (without a drain).
    fn fence(&mut self, at: usize) {
        let Some(epoch) = self.lanes[at].epoch.take() else { return };
        let ended = self.tracker.fence(&[self.lanes[at].partition.clone()]);
        assert_eq!(ended.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>(), [epoch]);
        // As in a shard: every epoch of the partition up to this one is fenced.
        self.reads.values_mut().filter(|read| read.lane == at).for_each(|read| read.fenced = true);
        let is_fenced = |ticket: &Ticket| self.reads[&ticket.epoch].fenced;
        let dropped = self.queues.fence(is_fenced);
        let waiting = self.queued.values().flatten().filter(|ticket| is_fenced(ticket)).count();
        assert_eq!(
            dropped.len(),
            waiting,
            "I9: records of a fenced epoch stay queued, or others were dropped with them"
        );
        self.queued.retain(|_, queue| {
            queue.retain(|ticket| !is_fenced(ticket));
            !queue.is_empty()
        });
        dropped.into_iter().for_each(|queued| self.abandon(queued.ticket.unwrap()));
        self.backing_off.retain(|key, _| self.queued.contains_key(key));
        (self.lanes[at].draining, self.lanes[at].paused) = (false, false);
    }

    fn caught_up(&mut self, at: usize) {
        let lane = &self.lanes[at];
        let Some(epoch) = lane.epoch.filter(|_| lane.verify.is_none()) else { return };
        // Also in the middle of a log: every record below the next one was delivered.
        let end = lane.log.get(lane.next).map_or(lane.end, |(record, _)| record.offset);
        self.tracker.caught_up(&lane.partition, end);
        let read = self.reads.get_mut(&epoch).unwrap();
        if !lane.draining {
            read.next_offset = read.next_offset.max(end);
        }
    }

    /// The process dies: the logs, the durable checkpoints and the work of the handlers are left.
    fn crash(&mut self) {
        let lanes = std::mem::take(&mut self.lanes);
        let fresh = Self::new(self.limits, self.max_batch_records, &[]);
        let now = std::mem::replace(self, fresh).now;
        let unassigned = |lane| Lane { epoch: None, verify: None, draining: false, paused: false, ..lane };
        (self.lanes, self.now) = (lanes.into_iter().map(unassigned).collect(), now);
    }

    fn check(&mut self) {
        assert_eq!(self.tracker.in_flight(), self.in_flight, "I11: credits do not match the records in flight");
        // The parts of one poll may exceed the credits that were left.
        let parts_beyond = (MAX_POLL_RECORDS * (MAX_PARTS - 1)) as u64;
        let most = self.limits.records + parts_beyond;
        assert!(self.in_flight.0 <= most, "I11: {} records in flight", self.in_flight.0);
        let left = usize::try_from(self.limits.records.saturating_sub(self.in_flight.0)).unwrap();
        assert_eq!(
            self.tracker.free_credits(),
            if self.in_flight.1 < self.limits.bytes { left } else { 0 },
            "I11: free credits"
        );
        assert_eq!((self.tracker.violations, self.queues.take_violations()), (0, 0), "an invariant was violated");
        let idle = self.queued.keys().filter(|key| !self.is_busy(**key)).count();
        let keys = idle + self.running.len() + self.dead_letters.len();
        assert!(self.queues.keys() == keys, "I16: {} keys have a queue, but {keys} have work", self.queues.keys());
        let ready = self.ready();
        self.passed.retain(|key, _| ready.contains(key));
        for (at, lane) in self.lanes.iter().enumerate() {
            assert_eq!(self.tracker.has_in_flight(&lane.partition), self.in_flight_of(at) > 0, "{}", lane.partition);
        }
        let status = self.tracker.status();
        assert_eq!(status.len(), self.lanes.iter().filter(|lane| lane.epoch.is_some()).count());
        for status in status {
            let lane = self.lanes.iter().find(|lane| lane.partition == status.partition).unwrap();
            let read = &self.reads[&lane.epoch.unwrap()];
            assert_eq!(status.watermark, read.checkpoint(), "I1, I3, I10: the watermark of {}", lane.partition);
            assert_eq!((status.next_offset, status.checkpoint), (read.next_offset, read.saved), "{}", lane.partition);
            assert_eq!(status.in_flight, read.open() as u64);
            assert!(status.checkpoint <= read.checkpoint(), "I1: the checkpoint of {} leads", lane.partition);
            let span = read.records.range((read.checkpoint(), 0)..).filter(|((_, part), _)| *part == 0).count();
            assert!(span < self.limits.span + MAX_POLL_RECORDS, "I11: a span of {span} in {}", lane.partition);
            assert_eq!(self.tracker.is_drained(std::slice::from_ref(&lane.partition)), read.open() == 0);
        }
    }

    /// I6, I10, I12, I16: without disturbance everything finishes, and nothing is left over.
    fn settle(&mut self) {
        let all = 0..self.lanes.len();
        for lane in all.clone() {
            if self.lanes[lane].draining || self.lanes[lane].epoch.is_none() {
                self.step(Step::Fence { lane });
                self.step(Step::Assign { lane, verify: lane % 2 == 0 });
            }
        }
        let partitions: Vec<TopicPartition> = self.lanes.iter().map(|lane| lane.partition.clone()).collect();
        let open = |world: &Self| {
            let behind = world.lanes.iter().any(|lane| lane.durable.next < lane.end);
            behind || world.queues.keys() > 0 || !world.tracker.is_settled(&partitions)
        };
        let mut rounds = 4 * self.lanes.iter().map(|lane| lane.log.len() * MAX_PARTS + 2).sum::<usize>();
        while open(self) && rounds > 0 {
            rounds -= 1;
            let (which, done, how) = (0, usize::MAX, How::Done);
            for lane in all.clone() {
                self.poll(lane, MAX_POLL_RECORDS, false);
                self.caught_up(lane);
            }
            let steps = [Step::Tick(100), Step::Batch, Step::Answer { which, done, how }, Step::DeadLettered { which }];
            steps.into_iter().for_each(|step| self.step(step));
            self.save();
            self.durable();
        }
        let durable: Vec<_> = self.lanes.iter().map(|lane| (lane.durable.next, lane.end)).collect();
        let left = (durable, self.queues.keys(), self.saves.len(), rounds);
        assert!(!open(self), "I10, I12: a log was not finished: {:?}, {left:?}", self.tracker.status());
        for lane in &self.lanes {
            let missed = lane.log.iter().filter(|(record, keys)| !lane.has_finished(record, keys)).count();
            assert_eq!(missed, 0, "I6: records of {} were never finished", lane.partition);
        }
        assert_eq!(
            (self.tracker.in_flight(), self.queues.keys(), self.queues.backing_off()),
            ((0, 0), 0, 0),
            "I16: left over"
        );
        assert!(self.tracker.is_drained(&partitions) && self.tracker.is_settled(&partitions), "I16: not settled");
    }
}

#[test]
fn a_partition_is_not_assigned_again_while_a_save_of_its_ended_epoch_is_pending() {
    let mut world = World::new(
        Limits { records: 8, bytes: 1 << 20, span: 8 },
        1,
        &[vec![(0, Some(1), 0, vec![]), (0, Some(1), 0, vec![])]],
    );
    let partition = world.lanes[0].partition.clone();
    let (lane, max, again, which, done, how) = (0, 1, false, 0, 1, How::Done);
    let one = [Step::Poll { lane, max, again }, Step::Batch, Step::Answer { which, done, how }, Step::Save];
    [Step::Assign { lane, verify: false }].into_iter().chain(one).for_each(|step| world.step(step));
    world.step(Step::Fence { lane });
    assert!(world.tracker.is_saving(&partition), "the ended epoch's save is still to be answered");
    world.step(Step::Durable);
    assert!(!world.tracker.is_saving(&partition));
    world.settle();
}

fn logs() -> impl Strategy<Value = Vec<Vec<model::Row>>> {
    let others = prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(0_u8..4, 1..MAX_PARTS)];
    let row = (0_u64..3, prop::option::weighted(0.9, 0_u8..4), 0_usize..40, others);
    prop::collection::vec(prop::collection::vec(row, 0..30), 2..=3)
}

/// A case that failed is kept beside this file, to be committed and tried first from then on. The default looks for a `lib.rs`, which tests have not.
fn kept_failures() -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::WithSource("regressions")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: kept_failures(), ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_polls_batches_rebalances_and_crashes_keeps_the_invariants(
        limits in model::limits(),
        max_batch_records in 1_usize..=4,
        logs in logs(),
        steps in prop::collection::vec(model::step(), 0..140),
    ) {
        let mut world = World::new(limits, max_batch_records, &logs);
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, verify: false }));
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
    }

    /// I12, with every bound at one: in any order of steps, some step is possible until every record is finished.
    #[test]
    fn with_every_bound_at_one_there_is_no_deadlock(
        logs in logs(),
        choices in prop::collection::vec((any::<u16>(), model::how()), 0..120),
    ) {
        let mut world = World::new(Limits { records: 1, bytes: 1, span: 1 }, 1, &logs);
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, verify: false }));
        let mut choices = choices.into_iter().chain(std::iter::repeat((0, How::Done)));
        while !world.is_finished() {
            let enabled = world.enabled();
            assert!(!enabled.is_empty(), "I12: no step is possible: {:?}", world.tracker.status());
            let (choice, how) = choices.next().unwrap();
            world.step(match enabled[usize::from(choice) % enabled.len()] {
                Step::Answer { which, done, .. } => Step::Answer { which, done, how },
                step => step,
            });
        }
        world.settle();
    }

    /// I14: a handler that never ends delays its own key, and in its partitions the records beyond the span, but no other record.
    #[test]
    fn a_handler_that_never_ends_delays_no_other_key(logs in logs(), stuck in 0_u64..4, span in 1_usize..=40) {
        // Enough credits for all records, also of one key: only the span is limited.
        let mut world = World::new(Limits { records: 1_000, bytes: 1 << 20, span }, 4, &logs);
        world.stuck = Some(KeyHash(stuck));
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, verify: false }));
        let (which, done, how) = (0, usize::MAX, How::Done);
        for _ in 0..2 * logs.iter().map(|log| log.len() * MAX_PARTS + 1).sum::<usize>() {
            (0..world.lanes.len()).for_each(|lane| world.step(Step::Poll { lane, max: MAX_POLL_RECORDS, again: false }));
            [Step::Batch, Step::Answer { which, done, how }].into_iter().for_each(|step| world.step(step));
        }
        for lane in &world.lanes {
            let stuck = KeyHash(stuck);
            let first = lane.log.iter().position(|(_, keys)| keys.contains(&stuck)).unwrap_or(lane.log.len());
            // A partition that was paused for its span before the stuck record reached the watermark resumes at seven tenths.
            for (record, keys) in lane.log.iter().take(first + (span * 7 / 10).max(1)) {
                for (part, key) in model::parts(record, keys).iter().filter(|(_, key)| *key != stuck) {
                    assert!(lane.finished.contains(&place(part)), "I14: {key:?} at {:?} waits for another", place(part));
                }
            }
        }
    }
}
