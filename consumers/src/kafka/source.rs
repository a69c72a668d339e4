//! A consumer group of Kafka as a [`Source`].
//!
//! The rebalance callback only queues the coordinator's request; the poll thread's loop drains, saves, assigns and unassigns at its own
//! pace, while the partitions that stay deliver nothing. Only when the consumer is being dropped does the callback answer at once.
//!
//! No `TopicPartitionList` outlives the call it is made for: one that is alive when the consumer drops hangs the drop for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::consumer_context::{Context, Rebalance};
use super::fault_isolation::{FaultIsolation, Progress, Step};
use super::silence::Silence;
use super::{GroupInspector, KafkaOptions, TokenSource, offset_requests, record_copy};
use crate::error::SourceError;
use crate::record::{Offset, TopicPartition};
use crate::traits::{EndOffset, PartitionOffsets, Polled, Source};

/// Longest wait for an answer about offsets.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the records of one poll, at which it ends: the bytes in flight are limited, and this is what one poll may add above the limit.
const MAX_POLL_BYTES: u64 = 8 << 20;

/// The partition of something that librdkafka assigned or delivered: -1, which stands for "any", is none.
pub(super) fn partition_of(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, u32::try_from(number).expect("what is assigned or delivered is of a partition"))
}

/// A number that is too large for Kafka, as an operator may name it, stays one that no partition has.
pub(super) fn number(partition: &TopicPartition) -> i32 {
    i32::try_from(partition.number).unwrap_or(i32::MAX)
}

/// An offset that is too large for Kafka, as an operator may name it, stays one that no record has.
pub(super) fn raw(offset: Offset) -> KafkaOffset {
    KafkaOffset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// The offset that a broker answered; none where its answer is negative, which stands for "unknown".
pub(super) fn offset(raw: i64) -> Option<Offset> {
    Offset::try_from(raw).ok()
}

pub(super) fn transient(operation: &'static str) -> impl Fn(KafkaError) -> SourceError {
    move |error| SourceError::transient(operation, error)
}

/// The state of an assigned partition.
struct Assigned {
    next: Offset,
    paused: bool,
    damaged: bool,
    delivered_at: Instant,
}

/// Consumes topics of Kafka as a member of a consumer group.
pub struct KafkaSource {
    consumer: BaseConsumer<Context>,
    cluster: String,
    assigned: BTreeMap<TopicPartition, Assigned>,
    isolation: FaultIsolation,
    options: KafkaOptions,
    /// Partitions that the coordinator assigned, also those that wait for a start offset.
    granted: BTreeSet<TopicPartition>,
    silence: Silence,
    /// The answer to a question of another client: whether it is served.
    question: Option<flume::Receiver<bool>>,
    /// Why the cluster's id is not known.
    nameless: Option<&'static str>,
}

impl KafkaSource {
    /// Joins the group. It succeeds while the brokers are unreachable, and waits for them in [`Source::poll`].
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn join(options: &KafkaOptions) -> Result<Self, SourceError> {
        let consumer: BaseConsumer<Context> = options
            .consumer()
            .create_with_context(Context { token: options.context(), ..Context::default() })
            .map_err(|error| SourceError::fatal("create consumer", error))?;
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|error| SourceError::fatal("subscribe", error))?;
        Ok(Self {
            consumer,
            cluster: options.cluster.clone().unwrap_or_default(),
            assigned: BTreeMap::new(),
            isolation: FaultIsolation::default(),
            options: options.clone(),
            granted: BTreeSet::new(),
            silence: Silence::new(Instant::now()),
            question: None,
            nameless: None,
        })
    }

    /// Takes what the callback has queued. An assignment waits until the cluster's id is known: checkpoints are kept under it.
    fn take_rebalances(&mut self, out: &mut Vec<Polled>) {
        loop {
            let context = self.consumer.context();
            let first = context.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(rebalance) = first else { return };
            if let Rebalance::Assign(partitions) = rebalance {
                if self.cluster.is_empty() {
                    let Some(cluster) = self.consumer.client().fetch_cluster_id(REQUEST_TIMEOUT) else {
                        let mut rebalances = context.rebalances.lock().unwrap_or_else(PoisonError::into_inner);
                        rebalances.push_front(Rebalance::Assign(partitions));
                        drop(rebalances);
                        return self.note_nameless();
                    };
                    (self.cluster, self.nameless) = (cluster, None);
                }
                self.granted.extend(partitions.iter().cloned());
                out.push(Polled::Assigned(partitions));
                continue;
            }
            out.push(match rebalance {
                Rebalance::Revoke(partitions) => Polled::Revoking(partitions),
                Rebalance::Lost(partitions) | Rebalance::Assign(partitions) => Polled::Lost(partitions),
            });
        }
    }

    /// The coordinator assigned partitions, and the cluster's id is not known.
    fn note_nameless(&mut self) {
        let topic = self.options.topics.first().map(String::as_str);
        let is_answered = self.consumer.fetch_metadata(topic, REQUEST_TIMEOUT).is_ok();
        let why = if is_answered {
            "the brokers tell no cluster id, under which checkpoints are kept: set kafka.cluster to a name"
        } else {
            "no broker tells the cluster's id"
        };
        if self.nameless != Some(why) {
            tracing::error!("{why}");
        }
        self.nameless = Some(why);
        // A new client would not know more.
        self.silence.reset(Instant::now());
    }

    /// Gives this client up when it hears nothing and another one is served.
    fn watch_silence(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        if let Some(is_served) = self.question.as_ref().and_then(|answer| answer.try_recv().ok()) {
            self.question = None;
            if self.silence.answer(is_served, now) {
                let seconds = self.silence.lasts_for(now).expect("only a silence that lasts is given up").as_secs();
                let why = format!(
                    "no broker answered for {seconds} s, and another client is answered: only a new start helps"
                );
                return Err(SourceError::fatal("read the stream", why));
            }
        }
        if self.question.is_none() && self.silence.should_ask(now) {
            let (tx, rx) = flume::bounded(1);
            let (options, granted) = (self.options.clone(), self.granted.first().cloned());
            // Not on the poll thread, which a request would hold up for seconds.
            std::thread::spawn(move || tx.send(GroupInspector::would_read(&options, granted)));
            self.question = Some(rx);
        }
        Ok(())
    }

    fn error(&mut self, error: KafkaError) -> Result<(), SourceError> {
        const OPERATION: &str = "fetch records";
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(SourceError::fatal(OPERATION, error)),
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                // A wrong check sum; bytes that do not unpack; a batch of no known format.
                | RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented,
            ) => {
                tracing::warn!(%error, "a partition cannot be read; finding out which");
                self.isolation.error(Instant::now());
                Ok(())
            }
            _ => Err(SourceError::transient(OPERATION, error)),
        }
    }

    /// One step of finding the partition that cannot be read.
    fn isolate_fault(&mut self, out: &mut Vec<Polled>) {
        let progress = |partition: &TopicPartition| match self.assigned.get(partition) {
            None => Progress::Gone,
            Some(assigned) if assigned.damaged => Progress::Gone,
            Some(assigned) if assigned.paused => Progress::Paused,
            Some(assigned) => Progress::DeliveredAt(assigned.delivered_at),
        };
        match self.isolation.step(Instant::now(), progress) {
            None => (),
            Some(Step::FindCandidates(since)) => self.find_candidates(since, out),
            Some(Step::Damaged(partition)) => {
                if let Some(assigned) = self.assigned.get_mut(&partition) {
                    assigned.damaged = true;
                    out.push(Polled::Damaged(partition, assigned.next));
                }
            }
            Some(Step::Probe(partition)) => {
                let Some(next) = self.assigned.get(&partition).map(|assigned| assigned.next) else { return };
                match self.assign(&[(partition.clone(), next)]) {
                    Ok(()) => self.isolation.probe_started(partition, Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, %partition, "a partition could not be probed");
                        self.isolation.add_candidate(partition.clone());
                        if !self.assigned.contains_key(&partition) {
                            // Unassigned and not assigned again: the poll thread does so. The log was not asked.
                            let end = Offset::MAX;
                            let offsets = PartitionOffsets { start: next, end, by_time: next, committed: None };
                            out.push(Polled::OutOfRange(partition, offsets));
                        }
                    }
                }
            }
        }
    }

    /// Pauses the partitions that have data to read and delivered nothing since `since`, and makes them candidates.
    fn find_candidates(&mut self, since: Instant, out: &mut Vec<Polled>) {
        let mut candidates = Vec::new();
        for (partition, assigned) in &self.assigned {
            if assigned.damaged || assigned.delivered_at > since {
                continue;
            }
            if assigned.paused {
                // It cannot make progress now, and if the error was its own, it is not reported again.
                candidates.push(partition.clone());
                continue;
            }
            let watermarks = self.consumer.fetch_watermarks(&partition.topic, number(partition), REQUEST_TIMEOUT);
            let Some((start, end)) = watermarks.ok().and_then(|(low, high)| offset(low).zip(offset(high))) else {
                self.isolation.error(Instant::now());
                continue;
            };
            if assigned.next < start || assigned.next > end {
                let offsets = PartitionOffsets { start, end, by_time: start, committed: None };
                out.push(Polled::OutOfRange(partition.clone(), offsets));
            } else if assigned.next < end {
                candidates.push(partition.clone());
            }
        }
        if let Err(error) = self.consumer.pause(&Self::list(&candidates)) {
            tracing::warn!(%error, ?candidates, "candidates of a fault were not paused");
        }
        for partition in candidates {
            self.isolation.add_candidate(partition);
        }
    }

    /// librdkafka remembers a pause beyond the assignment: a partition that comes back would deliver nothing for ever.
    fn unpause(&self, partitions: &[TopicPartition]) {
        if let Err(error) = self.consumer.resume(&Self::list(partitions)) {
            tracing::warn!(%error, ?partitions, "partitions were not resumed before they were unassigned");
        }
    }

    fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&partition.topic, number(partition));
        }
        list
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        self.watch_silence()?;
        self.take_rebalances(out);
        self.isolate_fault(out);
        if !out.is_empty() {
            return Ok(());
        }
        let mut last: Option<TopicPartition> = None;
        let mut wait = if max == 0 { Duration::ZERO } else { wait };
        let mut bytes = 0;
        for _ in 0..max.max(1) {
            if bytes >= MAX_POLL_BYTES {
                break;
            }
            let (copied, failed) = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let is_same = |partition: &&TopicPartition| {
                        &*partition.topic == message.topic() && number(partition) == message.partition()
                    };
                    let partition = last.as_ref().filter(is_same).cloned();
                    let partition = partition.unwrap_or_else(|| partition_of(message.topic(), message.partition()));
                    (Some(record_copy::copy(&message, partition)), None)
                }
                Some(Err(error)) => (None, Some(error)),
            };
            wait = Duration::ZERO;
            if let Some(error) = failed {
                self.error(error)?;
            }
            if let Some((record, rejection)) = copied {
                bytes += record.bytes();
                if let Some(assigned) = self.assigned.get_mut(&record.partition) {
                    assigned.next = record.offset + 1;
                    assigned.delivered_at = Instant::now();
                }
                last = Some(record.partition.clone());
                out.push(match rejection {
                    None => Polled::Record(record),
                    Some(reason) => Polled::Rejected(record, reason),
                });
            }
        }
        self.take_rebalances(out);
        Ok(())
    }

    fn offsets(&mut self, partitions: &[TopicPartition], since_ms: i64) -> Vec<Result<PartitionOffsets, SourceError>> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let answers = match offset_requests::all(&self.consumer, partitions, since_ms) {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(error) if partitions.len() == 1 => vec![Err(error)],
            Err(error) => {
                tracing::warn!(%error, "not all partitions answer; asking one after another");
                offset_requests::one_by_one(&self.consumer, partitions, since_ms)
            }
        };
        if answers.iter().any(Result::is_ok) {
            self.silence.reset(Instant::now());
        }
        answers
    }

    fn assign(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), SourceError> {
        const OPERATION: &str = "assign partitions";
        let assigned_already = |partition: &TopicPartition| self.assigned.contains_key(partition);
        let again: Vec<TopicPartition> =
            at.iter().map(|(partition, _)| partition.clone()).filter(assigned_already).collect();
        if !again.is_empty() {
            self.unpause(&again);
            self.consumer.incremental_unassign(&Self::list(&again)).map_err(transient(OPERATION))?;
            // Should the rest fail: they are not assigned any more, and must not be unassigned twice.
            self.assigned.retain(|partition, _| !again.contains(partition));
        }
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (partition, next) in at {
            list.add_partition_offset(&partition.topic, number(partition), raw(*next)).map_err(transient(OPERATION))?;
        }
        self.consumer.incremental_assign(&list).map_err(transient(OPERATION))?;
        for (partition, next) in at {
            let assigned = Assigned { next: *next, paused: false, damaged: false, delivered_at: Instant::now() };
            self.assigned.insert(partition.clone(), assigned);
        }
        Ok(())
    }

    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        // Partitions of a rebalance that were never assigned must be before they can be unassigned, or the rebalance waits for ever.
        let never_assigned: Vec<(TopicPartition, Offset)> = partitions
            .iter()
            .filter(|partition| !self.assigned.contains_key(partition))
            .map(|partition| (partition.clone(), 0))
            .collect();
        if !never_assigned.is_empty() {
            self.assign(&never_assigned)?;
        }
        self.unpause(partitions);
        self.assigned.retain(|partition, _| !partitions.contains(partition));
        self.granted.retain(|partition| !partitions.contains(partition));
        self.consumer.incremental_unassign(&Self::list(partitions)).map_err(transient("unassign partitions"))
    }

    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<(), SourceError> {
        let may_change = |partition: &&TopicPartition| paused || !self.isolation.is_candidate(partition);
        let list: Vec<TopicPartition> = partitions.iter().filter(may_change).cloned().collect();
        let list = Self::list(&list);
        if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) }
            .map_err(transient("pause or resume partitions"))?;
        for partition in partitions {
            if let Some(assigned) = self.assigned.get_mut(partition) {
                assigned.paused = paused;
            }
        }
        Ok(())
    }

    fn end_offsets(&mut self) -> Vec<(TopicPartition, EndOffset)> {
        let context = self.consumer.context();
        let mut ends = std::mem::take(&mut *context.ends.lock().unwrap_or_else(PoisonError::into_inner));
        if ends.iter().any(|(partition, _)| self.assigned.contains_key(partition)) {
            self.silence.reset(Instant::now());
        }
        // A paused partition is not fetched, so its end is not up to date.
        ends.retain(|(partition, _)| self.assigned.get(partition).is_some_and(|assigned| !assigned.paused));
        ends
    }

    fn unowned_partitions(&mut self) -> Vec<TopicPartition> {
        let context = self.consumer.context();
        let all = context.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|partition| !self.assigned.contains_key(*partition)).cloned().collect()
    }

    fn trouble(&mut self) -> Option<String> {
        let silent = self.silence.lasts_for(Instant::now());
        let silent = silent.map(|silent| format!("no broker answered for {} s", silent.as_secs()));
        let of_brokers = self.nameless.map(str::to_owned).or(silent);
        // The likelier cause of the other.
        let of_token = self.options.token.as_ref().and_then(TokenSource::trouble);
        let all: Vec<String> = of_token.into_iter().chain(of_brokers).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn checkpointed(&mut self, at: &[(TopicPartition, Offset)]) {
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (partition, next) in at.iter().filter(|(partition, _)| self.assigned.contains_key(partition)) {
            let _named_twice = list.add_partition_offset(&partition.topic, number(partition), raw(*next));
        }
        // librdkafka refuses a partition that was taken away meanwhile, which is the fence. The next owner then repeats some records, which
        // changes nothing.
        if let Err(error) = self.consumer.store_offsets(&list) {
            tracing::info!(%error, "offsets were not stored with the group");
        }
    }

    fn cluster(&self) -> String {
        self.cluster.clone()
    }
}

impl Drop for KafkaSource {
    /// Runs on the poll thread, which owns the source: dropping the consumer polls its callbacks, and may take the session timeout while
    /// the brokers are unreachable.
    fn drop(&mut self) {
        let context = self.consumer.context();
        context.closing.store(true, Ordering::Release);
        // A rebalance that is never answered would keep the consumer from closing.
        let rebalances = std::mem::take(&mut *context.rebalances.lock().unwrap_or_else(PoisonError::into_inner));
        for rebalance in rebalances {
            let (partitions, assign) = match rebalance {
                Rebalance::Assign(partitions) => (partitions, true),
                Rebalance::Revoke(partitions) | Rebalance::Lost(partitions) => (partitions, false),
            };
            let list = Self::list(&partitions);
            if assign && let Err(error) = self.consumer.incremental_assign(&list) {
                tracing::warn!(%error, "an assignment was not answered");
            }
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::warn!(%error, "a revocation was not answered");
            }
        }
    }
}
