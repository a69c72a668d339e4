//! A consumer group of Kafka as a [`Source`].
//!
//! The rebalance callback only writes down what is asked; the poll thread's loop drains, saves, places and releases at its own pace,
//! while kept partitions deliver nothing. Only when the consumer is being dropped does the callback act at once.
//!
//! No `TopicPartitionList` outlives the call it is made for: one that is alive when the consumer drops hangs the drop for ever.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::statistics::{Broker, Statistics};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::inquest::{Inquest, Now, Step};
use crate::record::{Header, Offset, Part, Record};
use crate::seams::{Held, LogEnd, Polled, Source, SourceError};

/// Longest wait for an answer about offsets.
const ASK_MAX: Duration = Duration::from_secs(5);

enum Asked {
    Assign(Vec<Part>),
    Revoke(Vec<Part>),
    Lost(Vec<Part>),
}

#[derive(Default)]
struct Context {
    asked: Mutex<VecDeque<Asked>>,
    closing: AtomicBool,
    ends: Mutex<Vec<(Part, LogEnd)>>,
    /// All partitions of the topics that are subscribed to, as of the last statistics.
    all: Mutex<Vec<Part>>,
}

impl ClientContext for Context {
    /// Every few seconds, from within a poll. What a broker that is away said last is no news: its partitions are left out.
    fn stats(&self, statistics: Statistics) {
        // When they were made, not when this thread came to read them.
        let made_ms = statistics.time * 1000;
        let heard_ms = |broker: i32| {
            let up = |known: &&Broker| known.nodeid == broker && known.state == "UP" && known.rxidle >= 0;
            statistics.brokers.values().find(up).map(|known| made_ms - known.rxidle / 1000)
        };
        let (mut ends, mut all) = (Vec::new(), Vec::new());
        for (topic, held) in &statistics.topics {
            for (number, at) in &held.partitions {
                // -1 stands for "any".
                if *number < 0 {
                    continue;
                }
                all.push(part_of(topic, *number));
                // Behind the last stable offset stand transactions that are open: nobody delivers them yet.
                let end = if at.ls_offset >= 0 { at.ls_offset } else { at.hi_offset };
                let Some(at_ms) = heard_ms(at.broker).filter(|_| end >= 0) else { continue };
                let delivered = at.next_offset >= end && at.fetchq_cnt == 0;
                ends.push((part_of(topic, *number), LogEnd { next: offset(end), at_ms, delivered }));
            }
        }
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        // Empty lists are normal in the cooperative protocol and need nothing but their answer.
        if list.count() == 0 || self.closing.load(Ordering::Acquire) {
            let answered = if assign { consumer.incremental_assign(list) } else { consumer.incremental_unassign(list) };
            if let Err(error) = answered {
                tracing::warn!(%error, "a rebalance was not answered");
            }
            return;
        }
        let parts = list.elements().iter().map(|at| part_of(at.topic(), at.partition())).collect();
        let asked = match (assign, consumer.assignment_lost()) {
            (true, _) => Asked::Assign(parts),
            (false, true) => Asked::Lost(parts),
            (false, false) => Asked::Revoke(parts),
        };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push_back(asked);
    }
}

pub(super) fn part_of(topic: &str, number: i32) -> Part {
    Part::new(topic, u32::try_from(number).unwrap_or(0))
}

fn number(part: &Part) -> i32 {
    i32::try_from(part.number).unwrap_or(i32::MAX)
}

fn raw(offset: Offset) -> KafkaOffset {
    KafkaOffset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

fn offset(raw: i64) -> Offset {
    Offset::try_from(raw).unwrap_or(0)
}

fn passing(error: impl std::fmt::Display) -> SourceError {
    SourceError::Passing(error.to_string())
}

struct Place {
    next: Offset,
    paused: bool,
    damaged: bool,
    heard: Instant,
}

/// See the module.
pub struct KafkaSource {
    consumer: BaseConsumer<Context>,
    cluster: String,
    places: BTreeMap<Part, Place>,
    inquest: Inquest,
}

impl KafkaSource {
    /// Joins the group. Works without the cluster being there: it is waited for.
    ///
    /// # Errors
    /// A property that librdkafka does not take, in its words.
    pub fn join(options: &KafkaOptions) -> Result<Self, SourceError> {
        let fatal = |error: KafkaError| SourceError::Fatal(error.to_string());
        let consumer: BaseConsumer<Context> =
            options.consumer().create_with_context(Context::default()).map_err(fatal)?;
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(fatal)?;
        Ok(Self { consumer, cluster: String::new(), places: BTreeMap::new(), inquest: Inquest::default() })
    }

    /// What the callback wrote down. An assignment waits until the cluster's name is known: frontiers are kept under it.
    fn take_asked(&mut self, out: &mut Vec<Polled>) {
        loop {
            let context = self.consumer.context();
            let first = context.asked.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(asked) = first else { return };
            if let Asked::Assign(parts) = asked {
                if self.cluster.is_empty() {
                    let Some(cluster) = self.consumer.client().fetch_cluster_id(ASK_MAX) else {
                        let mut waiting = context.asked.lock().unwrap_or_else(PoisonError::into_inner);
                        waiting.push_front(Asked::Assign(parts));
                        return;
                    };
                    self.cluster = cluster;
                }
                out.push(Polled::Assigned(parts));
                continue;
            }
            out.push(match asked {
                Asked::Revoke(parts) => Polled::Revoking(parts),
                Asked::Lost(parts) | Asked::Assign(parts) => Polled::Lost(parts),
            });
        }
    }

    fn error(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        let KafkaError::MessageConsumption(code) = error else {
            return Err(match error {
                KafkaError::MessageConsumptionFatal(_) => SourceError::Fatal(error.to_string()),
                _ => passing(error),
            });
        };
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::BadMessage => {
                tracing::warn!(%error, "some partition cannot be read on; finding out which");
                self.inquest.error(Instant::now());
                Ok(())
            }
            _ => Err(passing(error)),
        }
    }

    /// One step of finding out which partition cannot be read on.
    fn look_into(&mut self, out: &mut Vec<Polled>) {
        let of = |part: &Part| match self.places.get(part) {
            None => Now::Gone,
            Some(place) if place.damaged => Now::Gone,
            Some(place) if place.paused => Now::Paused,
            Some(place) => Now::Heard(place.heard),
        };
        match self.inquest.step(Instant::now(), of) {
            None => (),
            Some(Step::Ask(since)) => self.ask_around(since, out),
            Some(Step::Damaged(part)) => {
                if let Some(place) = self.places.get_mut(&part) {
                    place.damaged = true;
                    out.push(Polled::Damaged(part, place.next));
                }
            }
            Some(Step::Try(part)) => {
                let Some(next) = self.places.get(&part).map(|place| place.next) else { return };
                match self.place(&[(part.clone(), next)]) {
                    Ok(()) => self.inquest.tried(part, Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, %part, "a partition could not be tried");
                        self.inquest.suspect(part.clone());
                        if !self.places.contains_key(&part) {
                            // Given up and not taken back: whoever placed it does so again.
                            let held = Held { start: next, end: next, by_time: next, committed: None };
                            out.push(Polled::OutOfRange(part, held));
                        }
                    }
                }
            }
        }
    }

    /// Who has something to read, and was silent since then?
    fn ask_around(&mut self, since: Instant, out: &mut Vec<Polled>) {
        let mut held_back = Vec::new();
        for (part, place) in &self.places {
            if place.damaged || place.heard > since {
                continue;
            }
            if place.paused {
                // It cannot show what it is now, and an error that was its own does not come again.
                held_back.push(part.clone());
                continue;
            }
            let Ok((low, high)) = self.consumer.fetch_watermarks(&part.topic, number(part), ASK_MAX) else {
                self.inquest.error(Instant::now());
                continue;
            };
            let held = Held { start: offset(low), end: offset(high), by_time: offset(low), committed: None };
            if place.next < held.start || place.next > held.end {
                out.push(Polled::OutOfRange(part.clone(), held));
            } else if place.next < held.end {
                held_back.push(part.clone());
            }
        }
        if let Err(error) = self.consumer.pause(&Self::list(&held_back)) {
            tracing::warn!(%error, ?held_back, "suspects were not held");
        }
        for part in held_back {
            self.inquest.suspect(part);
        }
    }

    /// librdkafka remembers a pause beyond the assignment: a partition that comes back would stand still for ever.
    fn unpause(&self, parts: &[Part]) {
        if let Err(error) = self.consumer.resume(&Self::list(parts)) {
            tracing::warn!(%error, ?parts, "partitions that go were not resumed");
        }
    }

    fn list(parts: &[Part]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(parts.len());
        for part in parts {
            list.add_partition(&part.topic, number(part));
        }
        list
    }
}

/// Payloads are copied out at once: a borrowed message pins the whole fetch it came with.
pub(super) fn record(message: &BorrowedMessage<'_>, part: Part) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let copied = |at| {
            let header = headers.get(at);
            (header.key.to_owned(), header.value.map(Bytes::copy_from_slice)) as Header
        };
        (0..headers.count()).map(copied).collect()
    });
    Record {
        part,
        offset: offset(message.offset()),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        read_ms: crate::poller::now_ms(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        self.take_asked(out);
        self.look_into(out);
        if !out.is_empty() {
            return Ok(());
        }
        let mut last: Option<Part> = None;
        let mut wait = if max == 0 { Duration::ZERO } else { wait };
        for _ in 0..max.max(1) {
            let (record, failed) = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let same = |part: &&Part| &*part.topic == message.topic() && number(part) == message.partition();
                    let part = last.as_ref().filter(same).cloned();
                    let part = part.unwrap_or_else(|| part_of(message.topic(), message.partition()));
                    (Some(record(&message, part)), None)
                }
                Some(Err(error)) => (None, Some(error)),
            };
            wait = Duration::ZERO;
            if let Some(error) = failed {
                self.error(&error)?;
            }
            if let Some(record) = record {
                if let Some(place) = self.places.get_mut(&record.part) {
                    place.next = record.offset + 1;
                    place.heard = Instant::now();
                }
                last = Some(record.part.clone());
                out.push(Polled::Record(record));
            }
        }
        self.take_asked(out);
        Ok(())
    }

    fn held(&mut self, part: &Part, since_ms: i64) -> Result<Held, SourceError> {
        let (low, high) = self.consumer.fetch_watermarks(&part.topic, number(part), ASK_MAX).map_err(passing)?;
        let ask = |at: KafkaOffset| -> Result<TopicPartitionList, SourceError> {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(&part.topic, number(part), at).map_err(passing)?;
            Ok(list)
        };
        let answer = |list: &TopicPartitionList| match list
            .elements()
            .first()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::offset)
        {
            Some(KafkaOffset::Offset(at)) => Some(offset(at)),
            _ => None,
        };
        let times =
            self.consumer.offsets_for_times(ask(KafkaOffset::Offset(since_ms.max(0)))?, ASK_MAX).map_err(passing)?;
        // On an idle topic the answer is "the end": the high watermark, which was read first.
        let by_time = answer(&times).unwrap_or_else(|| offset(high));
        let committed = self.consumer.committed_offsets(ask(KafkaOffset::Invalid)?, ASK_MAX).map_err(passing)?;
        Ok(Held { start: offset(low), end: offset(high), by_time, committed: answer(&committed) })
    }

    fn place(&mut self, at: &[(Part, Offset)]) -> Result<(), SourceError> {
        let again: Vec<Part> =
            at.iter().map(|(part, _)| part.clone()).filter(|part| self.places.contains_key(part)).collect();
        if !again.is_empty() {
            self.unpause(&again);
            self.consumer.incremental_unassign(&Self::list(&again)).map_err(passing)?;
            // Should the rest fail: it is not assigned any more, and must not be taken back twice.
            self.places.retain(|part, _| !again.contains(part));
        }
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (part, next) in at {
            list.add_partition_offset(&part.topic, number(part), raw(*next)).map_err(passing)?;
        }
        self.consumer.incremental_assign(&list).map_err(passing)?;
        for (part, next) in at {
            self.places
                .insert(part.clone(), Place { next: *next, paused: false, damaged: false, heard: Instant::now() });
        }
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), SourceError> {
        // What was assigned and never placed must be taken before it can be given back, or the rebalance waits for ever.
        let strangers: Vec<(Part, Offset)> =
            parts.iter().filter(|part| !self.places.contains_key(part)).map(|part| (part.clone(), 0)).collect();
        if !strangers.is_empty() {
            self.place(&strangers)?;
        }
        self.unpause(parts);
        self.places.retain(|part, _| !parts.contains(part));
        self.consumer.incremental_unassign(&Self::list(parts)).map_err(passing)
    }

    fn pause(&mut self, parts: &[Part], paused: bool) -> Result<(), SourceError> {
        let list: Vec<Part> = parts.iter().filter(|part| paused || !self.inquest.holds(part)).cloned().collect();
        let list = Self::list(&list);
        if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) }.map_err(passing)?;
        for part in parts {
            if let Some(place) = self.places.get_mut(part) {
                place.paused = paused;
            }
        }
        Ok(())
    }

    fn ends(&mut self) -> Vec<(Part, LogEnd)> {
        let context = self.consumer.context();
        let mut ends = std::mem::take(&mut *context.ends.lock().unwrap_or_else(PoisonError::into_inner));
        // What is paused is not fetched, and its end not heard of.
        ends.retain(|(part, _)| self.places.get(part).is_some_and(|place| !place.paused));
        ends
    }

    fn foreign(&mut self) -> Vec<Part> {
        let context = self.consumer.context();
        let all = context.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|part| !self.places.contains_key(*part)).cloned().collect()
    }

    fn saved(&mut self, at: &[(Part, Offset)]) {
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (part, next) in at.iter().filter(|(part, _)| self.places.contains_key(part)) {
            let _named_twice = list.add_partition_offset(&part.topic, number(part), raw(*next));
        }
        // Refused for a partition that was taken away meanwhile: the fence. Its price is a repeat, which changes nothing.
        if let Err(error) = self.consumer.store_offsets(&list) {
            tracing::info!(%error, "frontiers were not stored with the group");
        }
    }

    fn cluster(&self) -> String {
        self.cluster.clone()
    }
}

impl Drop for KafkaSource {
    /// Runs on the poll thread, which owns the source: dropping the consumer polls its callbacks and may take the session timeout when
    /// the brokers are away.
    fn drop(&mut self) {
        let context = self.consumer.context();
        context.closing.store(true, Ordering::Release);
        // What was asked and never answered would keep the consumer from closing.
        let asked = std::mem::take(&mut *context.asked.lock().unwrap_or_else(PoisonError::into_inner));
        for asked in asked {
            let (parts, assign) = match asked {
                Asked::Assign(parts) => (parts, true),
                Asked::Revoke(parts) | Asked::Lost(parts) => (parts, false),
            };
            let list = Self::list(&parts);
            if assign && let Err(error) = self.consumer.incremental_assign(&list) {
                tracing::warn!(%error, "an assignment was not answered");
            }
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::warn!(%error, "a revocation was not answered");
            }
        }
    }
}
