//! The dispatch core and the key queues against naive models: invariants I1 to I14, I16 and I19 of the design, for any sequence of
//! operations.
//!
//! A world of two or three small logs is driven step by step, without threads, clocks or sleeps: time is a number
//! that a step moves. The world does what the poll thread and a shard do between `Core` and `KeyQueues`, and beside
//! them it keeps the simplest model that can be right: per epoch a map from offset to "done", per log the set of
//! offsets ever finished, per key a list of what waits.
//!
//! Attacked: a frontier that leads (a record that no restart reads again is lost), order within a key, two turns of
//! one key at once, credits that leak or come back too early, epochs that reach into each other, lines in which
//! somebody stands twice. Limits are tiny, so that every bound is met. Every sequence ends undisturbed: what is still
//! open must then finish, with nothing left over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

#[path = "dispatch/model.rs"]
mod model;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use model::{How, Lane, POLL_MAX, Read, Step};
use orderbell_consumers::core::{Core, Epoch, Limits, Offer, Ticket};
use orderbell_consumers::key_queues::{Item, KeyQueues};
use orderbell_consumers::seams::Frontier;
use orderbell_consumers::{KeyHash, Offset, Part, Record};
use proptest::prelude::*;

struct World {
    limits: Limits,
    turn_max: usize,
    lanes: Vec<Lane>,
    reads: HashMap<Epoch, Read>,
    core: Core,
    queues: KeyQueues,
    queued: BTreeMap<KeyHash, VecDeque<Ticket>>,
    running: Vec<(KeyHash, Vec<Item>)>,
    letters: Vec<(KeyHash, Item, Vec<Item>)>,
    parked: HashMap<KeyHash, Duration>,
    /// By waiting key: who had a turn since it stands in line.
    passed: HashMap<KeyHash, HashSet<KeyHash>>,
    saves: VecDeque<Vec<(Part, Frontier)>>,
    held: (u64, u64),
    now: Duration,
    /// A key whose handler never ends.
    stuck: Option<KeyHash>,
}

impl World {
    fn new(limits: Limits, turn_max: usize, logs: &[Vec<model::Row>]) -> Self {
        let lanes = logs.iter().enumerate().map(|(number, log)| model::lane(number, log)).collect();
        Self {
            limits,
            turn_max,
            lanes,
            reads: HashMap::new(),
            core: Core::new(limits),
            queues: KeyQueues::new(turn_max),
            queued: BTreeMap::new(),
            running: Vec::new(),
            letters: Vec::new(),
            parked: HashMap::new(),
            passed: HashMap::new(),
            saves: VecDeque::new(),
            held: (0, 0),
            now: Duration::ZERO,
            stuck: None,
        }
    }

    fn step(&mut self, step: Step) {
        let lanes = self.lanes.len();
        match step {
            Step::Poll { lane, max, again } => self.poll(lane % lanes, max, again),
            Step::Turn => self.turn(),
            Step::Answer { which, done, how } => self.answer(which, done, how),
            Step::Buried { which } => self.buried(which),
            Step::Save => self.save(),
            Step::Durable => self.durable(),
            Step::Drain { lane } => self.drain(lane % lanes),
            Step::Fence { lane } => self.fence(lane % lanes),
            Step::Assign { lane, probe } => self.assign(lane % lanes, probe),
            Step::End { lane } => self.end(lane % lanes),
            Step::Tick(ms) => self.now += Duration::from_millis(ms),
            Step::Crash => self.crash(),
        }
        self.check();
    }

    fn assign(&mut self, at: usize, probe: bool) {
        // Its place is read when every save that was asked for is answered.
        while self.core.is_saving(&self.lanes[at].part) {
            self.durable();
        }
        // A partition may be placed already: the log said "out of range". Nobody fences the shards then.
        let lane = &mut self.lanes[at];
        lane.probe = lane.store.last.filter(|_| probe).map(|(offset, _)| offset);
        let epoch = self.core.place(&lane.part, lane.store, probe);
        let from = lane.probe.unwrap_or(lane.store.next);
        lane.next = lane.log.partition_point(|(record, _)| record.offset < from);
        (lane.epoch, lane.draining, lane.paused) = (Some(epoch), false, false);
        let next = lane.store.next;
        let read = Read { lane: at, records: BTreeMap::new(), high: next, began: next, stored: next, fenced: false };
        let fresh = self.reads.insert(epoch, read);
        assert!(fresh.is_none(), "an epoch was given out twice");
    }

    fn pauses(&mut self) {
        let (pause, resume) = self.core.pauses();
        for (parts, paused) in [(pause, true), (resume, false)] {
            for lane in self.lanes.iter_mut().filter(|lane| parts.contains(&lane.part)) {
                assert_ne!(lane.paused, paused, "{} was told twice", lane.part);
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
        if again && lane.next > 0 && lane.probe.is_none() {
            lane.next -= 1;
        }
        for _ in 0..max.min(self.core.room()) {
            let Some((record, key)) = self.lanes[at].log.get(self.lanes[at].next).cloned() else { break };
            self.lanes[at].next += 1;
            self.offer(at, record, key);
        }
    }

    fn offer(&mut self, at: usize, record: Record, key: KeyHash) {
        let lane = &mut self.lanes[at];
        let epoch = lane.epoch.unwrap();
        let read = self.reads.get_mut(&epoch).unwrap();
        let offer = self.core.offer(&record, key);
        if lane.draining {
            return assert_eq!(offer, Offer::Ignore, "I9: a partition that is drained took a record");
        }
        if lane.probe.take().is_some_and(|probe| probe == record.offset) {
            return assert_eq!(offer, Offer::Verified);
        }
        if record.offset < read.high {
            return assert_eq!(offer, Offer::Ignore, "offset {} was taken twice in an epoch", record.offset);
        }
        let Offer::Take(ticket) = offer else { panic!("{offer:?} instead of a ticket for {}", record.offset) };
        assert_eq!((ticket.epoch, ticket.key, ticket.bytes), (epoch, key, record.bytes()));
        read.records.insert(record.offset, (key, false));
        read.high = record.offset + 1;
        self.lanes[at].high_ever = self.lanes[at].high_ever.max(read.high);
        self.held = (self.held.0 + 1, self.held.1 + record.bytes());
        self.queued.entry(key).or_default().push_back(ticket);
        self.queues.push(key, Item { record, ticket: Some(ticket), attempts: 0 });
    }

    fn busy(&self, key: KeyHash) -> bool {
        self.running.iter().any(|(busy, _)| *busy == key) || self.letters.iter().any(|(busy, ..)| *busy == key)
    }

    fn ready(&self) -> Vec<KeyHash> {
        let rests = |key| self.parked.get(key).is_some_and(|until| *until > self.now);
        self.queued.keys().filter(|key| !self.busy(**key) && !rests(key)).copied().collect()
    }

    fn turn(&mut self) {
        let ready = self.ready();
        let Some((key, items)) = self.queues.next_turn(self.now) else {
            return assert!(ready.is_empty(), "I19, I12: no turn, although {ready:?} wait");
        };
        assert!(!self.busy(key), "I4: a second turn of {key:?}");
        let rests = self.parked.remove(&key).filter(|until| *until > self.now);
        assert_eq!(rests, None, "I19: {key:?} was parked and runs early");
        assert!(ready.contains(&key), "a turn of a key that has nothing: {key:?}");
        self.passed.remove(&key);
        for waiting in ready.into_iter().filter(|ready| *ready != key) {
            let first = self.passed.entry(waiting).or_default().insert(key);
            assert!(first, "I13: {key:?} had two turns while {waiting:?} waited for one");
        }
        assert!((1..=self.turn_max).contains(&items.len()), "a turn of {} records", items.len());
        let queue = self.queued.get_mut(&key).unwrap();
        for item in &items {
            assert_eq!(item.ticket, queue.pop_front(), "I5: not the front of its queue");
        }
        if queue.is_empty() {
            self.queued.remove(&key);
        }
        self.ordered(key, &items);
        self.running.push((key, items));
    }

    /// I5: what starts has nothing open before it in its own partition and epoch, except what is in the same turn.
    fn ordered(&self, key: KeyHash, items: &[Item]) {
        for (at, item) in items.iter().enumerate() {
            let ticket = item.ticket.unwrap();
            let read = &self.reads[&ticket.epoch];
            assert!(!read.fenced, "I9: a record of a fenced epoch starts");
            let here = |offset: &Offset| {
                let mut before = items[..at].iter().filter(|other| other.ticket.unwrap().epoch == ticket.epoch);
                before.any(|other| other.record.offset == *offset)
            };
            let mut open = read.records.range(..item.record.offset).filter(|(_, (k, done))| *k == key && !done);
            assert!(open.all(|(offset, _)| here(offset)), "I5: {} overtook one of its key", item.record.offset);
            let alone = item.attempts == 0 || items.len() == 1;
            assert!(alone || at > 0, "a record that was tried before is not alone");
        }
    }

    fn answer(&mut self, which: usize, done: usize, how: How) {
        let ends: Vec<usize> = (0..self.running.len()).filter(|at| Some(self.running[*at].0) != self.stuck).collect();
        if ends.is_empty() {
            return;
        }
        let (key, items) = self.running.swap_remove(ends[which % ends.len()]);
        let mut items = VecDeque::from(items);
        for _ in 0..done.min(items.len()) {
            self.complete(items.pop_front().unwrap());
        }
        let Some(mut first) = items.pop_front() else { return self.give_back(key, Vec::new(), None) };
        match how {
            How::Done => {
                self.complete(first);
                items.drain(..).for_each(|item| self.complete(item));
                self.give_back(key, Vec::new(), None);
            }
            How::Retry(ms) => {
                first.attempts += 1;
                items.push_front(first);
                self.give_back(key, items.into(), Some(self.now + Duration::from_millis(ms)));
            }
            How::Reject => self.letters.push((key, first, items.into())),
        }
    }

    /// Everything that could happen now and brings the end nearer.
    fn enabled(&mut self) -> Vec<Step> {
        self.pauses();
        let (max, again, which, done, how) = (1, false, 0, 0, How::Done);
        let can_read = |lane: &Lane| lane.epoch.is_some() && !lane.paused && lane.next < lane.log.len();
        let readable = (0..self.lanes.len()).filter(|at| self.core.room() > 0 && can_read(&self.lanes[*at]));
        let mut steps: Vec<Step> = readable.map(|lane| Step::Poll { lane, max, again }).collect();
        steps.extend((!self.ready().is_empty()).then_some(Step::Turn));
        steps.extend((!self.running.is_empty()).then_some(Step::Answer { which, done, how }));
        steps.extend((!self.letters.is_empty()).then_some(Step::Buried { which }));
        steps.extend(self.parked.values().any(|until| *until > self.now).then_some(Step::Tick(1)));
        steps
    }

    fn is_finished(&self) -> bool {
        self.lanes.iter().all(|lane| lane.log.iter().all(|(record, _)| lane.finished.contains(&record.offset)))
    }

    fn buried(&mut self, which: usize) {
        if !self.letters.is_empty() {
            let (key, letter, rest) = self.letters.swap_remove(which % self.letters.len());
            self.complete(letter);
            self.give_back(key, rest, None);
        }
    }

    /// As a shard does it: what was fenced meanwhile is abandoned, the rest goes back to the front.
    fn give_back(&mut self, key: KeyHash, rest: Vec<Item>, park: Option<Duration>) {
        let (gone, rest): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|item| self.reads[&item.ticket.unwrap().epoch].fenced);
        gone.into_iter().for_each(|item| self.abandon(item.ticket.unwrap()));
        for item in rest.iter().rev() {
            self.queued.entry(key).or_default().push_front(item.ticket.unwrap());
        }
        match park.filter(|_| !rest.is_empty()) {
            Some(until) => {
                self.parked.insert(key, until);
                self.queues.park(key, rest, until);
            }
            None => self.queues.finish(key, rest),
        }
    }

    fn complete(&mut self, item: Item) {
        let ticket = item.ticket.unwrap();
        let lane = self.lanes.iter_mut().find(|lane| lane.part == item.record.part).unwrap();
        let before = self.core.status();
        self.core.complete(&ticket);
        self.held = (self.held.0 - 1, self.held.1 - ticket.bytes);
        if lane.epoch != Some(ticket.epoch) {
            assert_eq!(before, self.core.status(), "I8: a completion of an old epoch changed something");
        }
        if !lane.finished.insert(item.record.offset) {
            let repeatable = self.reads[&ticket.epoch].began..lane.high_ever;
            let offset = item.record.offset;
            assert!(
                repeatable.contains(&offset),
                "I7: {offset} of {} is repeated, outside of {repeatable:?}",
                lane.part
            );
        }
        let read = self.reads.get_mut(&ticket.epoch).unwrap();
        let (_, done) = read.records.get_mut(&item.record.offset).unwrap();
        assert!(!std::mem::replace(done, true), "{} was finished twice in one epoch", item.record.offset);
    }

    fn abandon(&mut self, ticket: Ticket) {
        self.core.abandon(&ticket);
        self.held = (self.held.0 - 1, self.held.1 - ticket.bytes);
    }

    fn save(&mut self) {
        let moved = self.core.unsaved();
        for (part, frontier) in &moved {
            let lane = self.lanes.iter().find(|lane| lane.part == *part).unwrap();
            let read = &self.reads[&lane.epoch.unwrap()];
            assert!(frontier.next <= read.frontier(), "I1: {part} asks to save {frontier:?}");
            assert!(frontier.next > read.stored, "I2: {part} asks to save {frontier:?} again or goes back");
        }
        if !moved.is_empty() {
            self.saves.push_back(moved);
        }
    }

    /// The oldest save becomes durable, also that of an epoch that ended: the core must not take it for its own.
    fn durable(&mut self) {
        let Some(saved) = self.saves.pop_front() else { return };
        for (part, frontier) in &saved {
            let lane = self.lanes.iter_mut().find(|lane| lane.part == *part).unwrap();
            assert!(frontier.next >= lane.store.next, "{part} was durable at {} and goes back", lane.store.next);
            lane.store = *frontier;
            let lost = lane.log.iter().map(|(record, _)| record.offset).take_while(|offset| *offset < frontier.next);
            let lost: Vec<Offset> = lost.filter(|offset| !lane.finished.contains(offset)).collect();
            assert!(lost.is_empty(), "I1: {part} saved {} and nobody finished {lost:?}", frontier.next);
        }
        for (part, next) in self.core.saved(&saved) {
            let lane = self.lanes.iter().find(|lane| lane.part == part).unwrap();
            let read = self.reads.get_mut(&lane.epoch.unwrap()).unwrap();
            assert!(next >= read.stored, "I2: {part} stored {} and then {next}", read.stored);
            read.stored = next;
        }
    }

    fn drain(&mut self, at: usize) {
        self.core.drain(&[self.lanes[at].part.clone()]);
        self.lanes[at].draining = self.lanes[at].epoch.is_some();
    }

    /// Revoked (after a drain, complete or not) or lost (without).
    fn fence(&mut self, at: usize) {
        let Some(epoch) = self.lanes[at].epoch.take() else { return };
        let ended = self.core.fence(&[self.lanes[at].part.clone()]);
        assert_eq!(ended.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>(), [epoch]);
        // As in a shard: all epochs of the partition up to this one.
        self.reads.values_mut().filter(|read| read.lane == at).for_each(|read| read.fenced = true);
        let gone = |ticket: &Ticket| self.reads[&ticket.epoch].fenced;
        let dropped = self.queues.fence(gone);
        let waiting = self.queued.values().flatten().filter(|ticket| gone(ticket)).count();
        assert_eq!(dropped.len(), waiting, "I9: records of a fenced epoch stay queued, or others went with them");
        self.queued.retain(|_, queue| {
            queue.retain(|ticket| !gone(ticket));
            !queue.is_empty()
        });
        dropped.into_iter().for_each(|item| self.abandon(item.ticket.unwrap()));
        self.parked.retain(|key, _| self.queued.contains_key(key));
        (self.lanes[at].draining, self.lanes[at].paused) = (false, false);
    }

    fn end(&mut self, at: usize) {
        let lane = &self.lanes[at];
        let Some(epoch) = lane.epoch.filter(|_| lane.probe.is_none()) else { return };
        // Also in the middle of a log: everything below the next record was delivered.
        let end = lane.log.get(lane.next).map_or(lane.end, |(record, _)| record.offset);
        self.core.end(&lane.part, end);
        let read = self.reads.get_mut(&epoch).unwrap();
        if !lane.draining {
            read.high = read.high.max(end);
        }
    }

    /// The process dies: only logs, durable frontiers and what handlers have done are left.
    fn crash(&mut self) {
        let lanes = std::mem::take(&mut self.lanes);
        let fresh = Self::new(self.limits, self.turn_max, &[]);
        let now = std::mem::replace(self, fresh).now;
        let forget = |lane| Lane { epoch: None, probe: None, draining: false, paused: false, ..lane };
        (self.lanes, self.now) = (lanes.into_iter().map(forget).collect(), now);
    }

    fn check(&mut self) {
        assert_eq!(self.core.held(), self.held, "I11: credits are not what is held");
        assert!(self.held.0 <= self.limits.records, "I11: {} records held", self.held.0);
        let left = usize::try_from(self.limits.records - self.held.0).unwrap();
        assert_eq!(self.core.room(), if self.held.1 < self.limits.bytes { left } else { 0 }, "I11: room");
        assert_eq!((self.core.violations, self.queues.take_violations()), (0, 0), "a sentinel rang");
        let idle = self.queued.keys().filter(|key| !self.busy(**key)).count();
        let keys = idle + self.running.len() + self.letters.len();
        assert!(self.queues.keys() == keys, "I16: {} keys kept for {keys} that have work", self.queues.keys());
        let ready = self.ready();
        self.passed.retain(|key, _| ready.contains(key));
        let status = self.core.status();
        assert_eq!(status.len(), self.lanes.iter().filter(|lane| lane.epoch.is_some()).count());
        for status in status {
            let lane = self.lanes.iter().find(|lane| lane.part == status.part).unwrap();
            let read = &self.reads[&lane.epoch.unwrap()];
            assert_eq!(status.watermark, read.frontier(), "I1, I3, I10: the watermark of {}", lane.part);
            assert_eq!((status.high, status.durable), (read.high, read.stored), "{}", lane.part);
            assert_eq!(status.in_flight, read.open() as u64);
            assert!(status.durable <= read.frontier(), "I1: {} is saved ahead", lane.part);
            let span = read.records.range(read.frontier()..).count();
            assert!(span < self.limits.span + POLL_MAX, "I11: a span of {span} in {}", lane.part);
            assert_eq!(self.core.drained(std::slice::from_ref(&lane.part)), read.open() == 0);
        }
    }

    /// I6, I10, I12, I16: left alone, everything ends, and nothing is left over.
    fn settle(&mut self) {
        let all = 0..self.lanes.len();
        for lane in all.clone() {
            if self.lanes[lane].draining || self.lanes[lane].epoch.is_none() {
                self.step(Step::Fence { lane });
                self.step(Step::Assign { lane, probe: lane % 2 == 0 });
            }
        }
        let parts: Vec<Part> = self.lanes.iter().map(|lane| lane.part.clone()).collect();
        let open = |world: &Self| {
            let behind = world.lanes.iter().any(|lane| lane.store.next < lane.end);
            behind || world.queues.keys() > 0 || !world.core.settled(&parts)
        };
        let mut rounds = 4 * self.lanes.iter().map(|lane| lane.log.len() + 2).sum::<usize>();
        while open(self) && rounds > 0 {
            rounds -= 1;
            let (which, done, how) = (0, usize::MAX, How::Done);
            for lane in all.clone() {
                self.poll(lane, POLL_MAX, false);
                self.end(lane);
            }
            let steps = [Step::Tick(100), Step::Turn, Step::Answer { which, done, how }, Step::Buried { which }];
            steps.into_iter().for_each(|step| self.step(step));
            self.save();
            self.durable();
        }
        let stores: Vec<_> = self.lanes.iter().map(|lane| (lane.store.next, lane.end)).collect();
        let left = (stores, self.queues.keys(), self.saves.len(), rounds);
        assert!(!open(self), "I10, I12: a log did not come to its end: {:?}, {left:?}", self.core.status());
        for lane in &self.lanes {
            let missed = lane.log.iter().filter(|(record, _)| !lane.finished.contains(&record.offset)).count();
            assert_eq!(missed, 0, "I6: records of {} were never finished", lane.part);
        }
        assert_eq!((self.core.held(), self.queues.keys(), self.queues.parked()), ((0, 0), 0, 0), "I16: left over");
        assert!(self.core.drained(&parts) && self.core.settled(&parts), "I16: not settled");
    }
}

#[test]
fn a_partition_is_not_placed_again_while_a_save_of_its_ended_epoch_is_under_way() {
    let mut world =
        World::new(Limits { records: 8, bytes: 1 << 20, span: 8 }, 1, &[vec![(0, Some(1), 0), (0, Some(1), 0)]]);
    let part = world.lanes[0].part.clone();
    let (lane, max, again, which, done, how) = (0, 1, false, 0, 1, How::Done);
    let one = [Step::Poll { lane, max, again }, Step::Turn, Step::Answer { which, done, how }, Step::Save];
    [Step::Assign { lane, probe: false }].into_iter().chain(one).for_each(|step| world.step(step));
    world.step(Step::Fence { lane });
    assert!(world.core.is_saving(&part), "what the ended epoch has asked for still comes");
    world.step(Step::Durable);
    assert!(!world.core.is_saving(&part));
    world.settle();
}

fn logs() -> impl Strategy<Value = Vec<Vec<model::Row>>> {
    let row = (0_u64..3, prop::option::weighted(0.9, 0_u8..4), 0_usize..40);
    prop::collection::vec(prop::collection::vec(row, 0..30), 2..=3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_polls_turns_rebalances_and_crashes_keeps_the_invariants(
        limits in model::limits(),
        turn_max in 1_usize..=4,
        logs in logs(),
        steps in prop::collection::vec(model::step(), 0..140),
    ) {
        let mut world = World::new(limits, turn_max, &logs);
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, probe: false }));
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
    }

    /// I12, with every bound at one: whatever is done in whatever order, there is something to do until all is done.
    #[test]
    fn with_every_bound_at_one_nothing_ever_waits_for_itself(
        logs in logs(),
        choices in prop::collection::vec((any::<u16>(), model::how()), 0..120),
    ) {
        let mut world = World::new(Limits { records: 1, bytes: 1, span: 1 }, 1, &logs);
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, probe: false }));
        let mut choices = choices.into_iter().chain(std::iter::repeat((0, How::Done)));
        while !world.is_finished() {
            let enabled = world.enabled();
            assert!(!enabled.is_empty(), "I12: nothing can happen any more: {:?}", world.core.status());
            let (choice, how) = choices.next().unwrap();
            world.step(match enabled[usize::from(choice) % enabled.len()] {
                Step::Answer { which, done, .. } => Step::Answer { which, done, how },
                step => step,
            });
        }
        world.settle();
    }

    /// I14: what a handler that never ends holds up is its own key, and of its partitions what lies beyond the span.
    #[test]
    fn a_handler_that_never_ends_delays_no_other_key(logs in logs(), stuck in 0_u64..4, span in 1_usize..=40) {
        // Credits for all of it, also for one key: what is shown is the span alone.
        let mut world = World::new(Limits { records: 1_000, bytes: 1 << 20, span }, 4, &logs);
        world.stuck = Some(KeyHash(stuck));
        (0..world.lanes.len()).for_each(|lane| world.step(Step::Assign { lane, probe: false }));
        let (which, done, how) = (0, usize::MAX, How::Done);
        for _ in 0..2 * logs.iter().map(|log| log.len() + 1).sum::<usize>() {
            (0..world.lanes.len()).for_each(|lane| world.step(Step::Poll { lane, max: POLL_MAX, again: false }));
            [Step::Turn, Step::Answer { which, done, how }].into_iter().for_each(|step| world.step(step));
        }
        for lane in &world.lanes {
            let first = lane.log.iter().position(|(_, key)| Some(*key) == world.stuck).unwrap_or(lane.log.len());
            // A partition that was paused for its span before the stuck record came to its front goes on at seven tenths.
            let reached = lane.log.iter().take(first + (span * 7 / 10).max(1)).filter(|(_, key)| Some(*key) != world.stuck);
            for (record, key) in reached {
                assert!(lane.finished.contains(&record.offset), "I14: {key:?} at {} waits for another", record.offset);
            }
        }
    }
}
