//! How partitions come and go: start offsets, saves of new ones, drains, fences.
//!
//! A partition that the coordinator assigned is started at a concrete offset ([`start_offset`]). When its log or the checkpoint store does
//! not answer, it stays unassigned and is tried again, with a back-off, while the other partitions go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::finishing::Finishing;
use super::{POLL_WAIT, Poller};
use crate::alert::AlertKind;
use crate::error::{CheckpointError, SourceError};
use crate::loss::Loss;
use crate::record::{Offset, TopicPartition};
use crate::shard::ToShard;
use crate::start_offset::{self, StartAlert, StartOffset};
use crate::tracker::Tracker;
use crate::traits::{Begin, Checkpoint, CheckpointStore, Handler, PartitionOffsets, Source};

/// How long a start waits until its begin is durable, and a revocation for its last ones.
const MAX_SAVE_WAIT: Duration = Duration::from_secs(5);
/// How long a partition that is out of range of its log waits for its records in flight. What is not finished then is read again, where the log still
/// has it.
const MAX_FINISH_WAIT: Duration = Duration::from_secs(1);
/// First and longest back-off of a partition that could not be started: asking blocks this thread for seconds, and the other partitions
/// wait meanwhile.
pub(super) const RETRY_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why a partition cannot be started yet.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("its last checkpoint is not durable yet")]
    CheckpointPending,
    #[error("records of its earlier log are not finished yet")]
    EarlierLogInFlight(Loss),
    #[error("another partition of its topic has no start offset yet")]
    TopicIncomplete,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What the checkpoint store holds for a partition.
struct Saved {
    checkpoint: Option<Checkpoint>,
    /// Whether its topic has checkpoints already.
    has_topic: bool,
    /// The skip that was used already.
    used_skip: Option<Offset>,
}

/// A source left a partition out of its answers, which is a bug of the source.
fn no_answer() -> SourceError {
    SourceError::transient("request offsets", "no answer for this partition")
}

impl<S: Source, H: Handler, C: CheckpointStore> Poller<S, H, C> {
    /// Starts partitions. Those whose start offset cannot be determined now are tried again.
    pub(super) fn start(&mut self, partitions: Vec<TopicPartition>) {
        if partitions.is_empty() {
            return;
        }
        let (mut ready, mut starts) = (Vec::new(), Vec::new());
        for (partition, start) in self.start_offsets(partitions) {
            match start {
                Ok(start) => {
                    ready.push(partition);
                    starts.push(start);
                }
                Err(StartError::EarlierLogInFlight(loss)) => self.finish_earlier_log(partition, loss),
                Err(error) => self.cannot_start(partition, &error),
            }
        }
        if !ready.is_empty() {
            self.assign(ready, &starts);
        }
    }

    fn cannot_start(&mut self, partition: TopicPartition, error: &StartError) {
        self.stats.source_errors.increment();
        self.report_unassigned(&partition, error);
        self.start_later(vec![partition]);
    }

    fn report_unassigned(&self, partition: &TopicPartition, error: &StartError) {
        tracing::warn!(%error, %partition, "a partition cannot be started yet");
        let detail = format!("cannot be started yet: {error}");
        self.stats.active_alerts.raise(AlertKind::Unassigned, &partition.to_string(), detail);
    }

    fn count_unassigned(&self) {
        self.stats.unassigned_partitions.set((self.unassigned.len() + self.finishing.len()) as u64);
    }

    /// The offset to read next is outside of what the log holds, and all before it is taken: that is finished first.
    pub(super) fn out_of_range(&mut self, partition: TopicPartition, offsets: PartitionOffsets) {
        // None where the partition was taken away meanwhile, or is to start anyway.
        let Some(next) = self.tracker.next_offset(&partition) else { return };
        let is_finishing = self.finishing.iter().any(|finishing| finishing.partition == partition);
        if is_finishing || self.unassigned.contains(&partition) {
            return;
        }
        self.tracker.drain(std::slice::from_ref(&partition));
        match next.checked_sub(offsets.end).filter(|beyond| *beyond > 0) {
            Some(beyond) => self.finish_earlier_log(partition, Loss::Truncated { beyond }),
            None => self.finish(partition, Some(Instant::now() + MAX_FINISH_WAIT)),
        }
    }

    /// The log is another one than what was read. It may grow beyond that, so this is remembered until it begins.
    fn finish_earlier_log(&mut self, partition: TopicPartition, loss: Loss) {
        self.other_logs.entry(partition.clone()).or_insert(loss);
        if self.tracker.has_in_flight(&partition) {
            self.report_unassigned(&partition, &StartError::EarlierLogInFlight(loss));
        }
        self.finish(partition, None);
    }

    fn finish(&mut self, partition: TopicPartition, until: Option<Instant>) {
        self.finishing.push(Finishing { partition, until });
        self.count_unassigned();
    }

    /// Starts the partitions of which what was read is finished.
    pub(super) fn start_finished(&mut self) {
        if self.finishing.is_empty() {
            return;
        }
        let (now, tracker) = (Instant::now(), &self.tracker);
        let finishing = std::mem::take(&mut self.finishing).into_iter();
        let (ready, waiting): (Vec<_>, Vec<_>) = finishing.partition(|finishing| finishing.may_start(tracker, now));
        let is_unsaved = waiting.iter().any(|waiting| waiting.is_finished(tracker) && !waiting.is_saved(tracker));
        self.finishing = waiting;
        if is_unsaved {
            self.save();
        }
        self.count_unassigned();
        self.start(ready.into_iter().map(|finishing| finishing.partition).collect());
    }

    fn start_later(&mut self, partitions: Vec<TopicPartition>) {
        self.unassigned.extend(partitions);
        self.count_unassigned();
        self.retry_at = Instant::now() + self.retry_back_off;
        self.retry_back_off = (self.retry_back_off * 2).min(RETRY_BACK_OFF.1);
    }

    /// Tries one partition at a time, or all of a topic without checkpoints: each that does not answer costs the others seconds.
    pub(super) fn retry_unassigned(&mut self) {
        if self.unassigned.is_empty() || Instant::now() < self.retry_at {
            return;
        }
        let first = self.unassigned.remove(0);
        let has_topic = self.checkpoints.has_topic(&self.source.cluster(), &first.topic).unwrap_or(true);
        let mut partitions = vec![first];
        if !has_topic {
            let (same, others) =
                self.unassigned.drain(..).partition(|partition| partition.topic == partitions[0].topic);
            partitions.extend::<Vec<_>>(same);
            self.unassigned = others;
        }
        let before = self.unassigned.len();
        self.count_unassigned();
        self.start(partitions);
        if self.unassigned.len() == before {
            // The log answers, so the next partition need not wait.
            (self.retry_back_off, self.retry_at) = (RETRY_BACK_OFF.0, Instant::now());
        }
    }

    /// The start offset of each partition; the log is asked for all of them in one call. The first checkpoints of a topic are saved in one
    /// batch, so a topic without any checkpoint starts as a whole or not yet. Otherwise a partition that cannot be started holds up no other.
    fn start_offsets(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> Vec<(TopicPartition, Result<StartOffset, StartError>)> {
        let known: Vec<(TopicPartition, Result<Saved, StartError>)> = partitions
            .into_iter()
            .map(|partition| {
                let saved = self.saved(&partition);
                (partition, saved)
            })
            .collect();
        let asked: Vec<TopicPartition> =
            known.iter().filter(|(_, saved)| saved.is_ok()).map(|(partition, _)| partition.clone()).collect();
        let mut answers = self.source.offsets(&asked, crate::clock::unix_ms() - self.options.retention_ms).into_iter();
        let mut starts = Vec::with_capacity(known.len());
        let mut new_topics = BTreeSet::new();
        let mut incomplete_topics = BTreeSet::new();
        for (partition, saved) in known {
            let has_topic = saved.as_ref().is_ok_and(|saved| saved.has_topic);
            let start = saved.and_then(|saved| {
                let offsets = answers.next().unwrap_or_else(|| Err(no_answer()))?;
                let start = self.start_offset(&partition, saved, offsets);
                match start.loss().filter(|loss| loss.is_another_log() && self.tracker.has_in_flight(&partition)) {
                    Some(loss) => Err(StartError::EarlierLogInFlight(loss)),
                    None => Ok(start),
                }
            });
            match &start {
                Ok(_) if !has_topic => drop(new_topics.insert(partition.topic.clone())),
                Ok(_) => {}
                Err(_) => drop(incomplete_topics.insert(partition.topic.clone())),
            }
            starts.push((partition, start));
        }
        for (partition, start) in &mut starts {
            let topic = &partition.topic;
            if new_topics.contains(topic) && incomplete_topics.contains(topic) && start.is_ok() {
                *start = Err(StartError::TopicIncomplete);
            }
        }
        starts
    }

    /// What the checkpoint store holds for a partition. Waits until the last save is durable.
    fn saved(&mut self, partition: &TopicPartition) -> Result<Saved, StartError> {
        let until = Instant::now() + MAX_SAVE_WAIT;
        while self.tracker.is_saving(partition) && Instant::now() < until {
            self.wait_for_save();
        }
        if self.tracker.is_saving(partition) {
            return Err(StartError::CheckpointPending);
        }
        let cluster = self.source.cluster();
        let saved = self.checkpoints.load(&cluster, std::slice::from_ref(partition))?;
        let has_topic = self.checkpoints.has_topic(&cluster, &partition.topic)?;
        let used_skip = self.checkpoints.used_skip(&cluster, partition)?;
        Ok(Saved { checkpoint: saved.into_iter().next().flatten(), has_topic, used_skip })
    }

    /// The skip that an operator named for a partition.
    fn named_skip(&self, partition: &TopicPartition) -> Option<Offset> {
        self.options.skip_to.iter().find(|(named, _)| named == partition).map(|(_, at)| *at)
    }

    fn start_offset(&mut self, partition: &TopicPartition, saved: Saved, offsets: PartitionOffsets) -> StartOffset {
        // Its begin is durable by now, with all that was lost: it is not begun once more.
        if let Some(begun) = self.begun.get(partition) {
            return *begun;
        }
        // A checkpoint may be far below what was read, and inside of a log that is another one.
        let next = self.tracker.next_offset(partition).unwrap_or_default();
        if next > offsets.end {
            self.other_logs.entry(partition.clone()).or_insert(Loss::Truncated { beyond: next - offsets.end });
        }
        let start = match self.other_logs.get(partition) {
            Some(loss) => start_offset::another_log(offsets, *loss),
            None => start_offset::resolve(saved.checkpoint, offsets, saved.has_topic, self.options.resume_from),
        };
        let Some(at) = self.named_skip(partition).filter(|_| !self.used_skips.contains(partition)) else {
            return start;
        };
        if saved.used_skip == Some(at) {
            tracing::warn!(%partition, at, "this skip was used at an earlier start and is left out: start without it, and then with it, to use it again");
            return start;
        }
        let skipped = start_offset::skip_to(start, at, offsets.end);
        if skipped != start {
            let (from, to) = (start.checkpoint.next, skipped.checkpoint.next);
            tracing::warn!(%partition, from, to, "records are skipped, as an operator requested");
        } else if start.checkpoint.next < at {
            tracing::error!(%partition, at, "nothing is skipped: the topic is another one than the skip was named for");
        }
        skipped
    }

    fn assign(&mut self, partitions: Vec<TopicPartition>, starts: &[StartOffset]) {
        self.drop_held(&partitions);
        // No save of an earlier epoch may follow the begin: it would be of what was read before.
        self.tracker.fence(&partitions);
        if !self.begin(&partitions, starts) {
            tracing::warn!(?partitions, "the begin of partitions is not durable yet");
            self.begun.extend(partitions.iter().cloned().zip(starts.iter().copied()));
            return self.start_later(partitions);
        }
        let mut at = Vec::with_capacity(partitions.len());
        for (partition, start) in partitions.iter().zip(starts) {
            self.alert(partition, start);
            self.tracker.assign(partition, start.checkpoint, start.verify_last);
            self.other_logs.remove(partition);
            self.begun.remove(partition);
            self.used_skips.extend(self.named_skip(partition).map(|_| partition.clone()));
            at.push((partition.clone(), start.offset()));
            self.reassigned.push(partition.clone());
        }
        if let Err(error) = self.source.assign(&at) {
            tracing::warn!(%error, "the source did not take the start offsets");
            self.tracker.fence(&partitions);
            return self.start_later(partitions);
        }
        // All of these checkpoints are durable: the group's offsets may follow at once, also where no record ever comes. Not where the state
        // was rolled back: the committed offset is what shows it, until an operator acts.
        let is_rolled_back = |start: &StartOffset| matches!(start.alert, Some(StartAlert::StateRolledBack { .. }));
        let durable = partitions.iter().zip(starts).filter(|(_, start)| !is_rolled_back(start));
        let durable: Vec<_> = durable.map(|(partition, start)| (partition.clone(), start.checkpoint.next)).collect();
        self.source.checkpointed(&durable);
        // During a stall the new partitions must not deliver either.
        if self.pacer.is_paused() {
            let _retried_by_next_stall = self.source.pause(&partitions, true);
        }
    }

    /// Tells the checkpoint store how partitions begin. True when that became durable in time; otherwise they are not started before it does.
    fn begin(&mut self, partitions: &[TopicPartition], starts: &[StartOffset]) -> bool {
        let begin = |(partition, start): (&TopicPartition, &StartOffset)| Begin {
            partition: partition.clone(),
            checkpoint: start.checkpoint,
            is_new: start.is_new,
            loss: start.loss(),
            handled_before: start.handled_before,
            skip_to: self.named_skip(partition),
        };
        let new = partitions.iter().zip(starts).filter(|(partition, _)| !self.begun.contains_key(*partition));
        let begins: Vec<Begin> = new.map(begin).collect();
        if begins.is_empty() {
            return true;
        }
        let requested: Vec<TopicPartition> = begins.iter().map(|begin| begin.partition.clone()).collect();
        self.tracker.begin_requested(&requested);
        self.checkpoints.begin(&self.source.cluster(), begins, self.saved_tx.clone());
        let until = Instant::now() + MAX_SAVE_WAIT;
        let is_pending = |tracker: &Tracker| partitions.iter().any(|partition| tracker.is_saving(partition));
        while is_pending(&self.tracker) && Instant::now() < until {
            self.wait_for_save();
        }
        !is_pending(&self.tracker)
    }

    fn wait_for_save(&mut self) {
        if let Ok(saved) = self.saved_rx.recv_timeout(POLL_WAIT) {
            self.checkpoints_saved(&saved);
        }
    }

    /// Replaces the alerts of a partition by that of its start, if there is one.
    fn alert(&mut self, partition: &TopicPartition, start: &StartOffset) {
        let subject = partition.to_string();
        let Some(alert) = start.alert else { return self.stats.active_alerts.clear_subject(&subject, None) };
        if let StartAlert::StateRolledBack { by } = alert {
            self.stats.partitions_rolled_back.increment();
            self.rolled_back.push((partition.clone(), start.checkpoint.next + by));
        }
        let (kind, detail) = match alert {
            StartAlert::Loss(loss) => (loss.kind(), loss.to_string()),
            StartAlert::StateRolledBack { by } => (
                AlertKind::StateRolledBack,
                format!(
                    "the group's committed offset is {by} offsets ahead of the checkpoint: the state is an older copy"
                ),
            ),
        };
        tracing::error!(%partition, next = start.checkpoint.next, detail, "a partition does not resume where it ended");
        self.stats.active_alerts.clear_subject(&subject, Some(kind));
        self.stats.active_alerts.raise(kind, &subject, detail);
    }

    /// The topic was deleted and created again: starts at its first record. Nothing was taken in this epoch, but of an earlier one something may be in
    /// flight.
    pub(super) fn restart_recreated(&mut self, partition: &TopicPartition) {
        let partitions = [partition.clone()];
        self.tracker.fence(&partitions);
        // What it delivers meanwhile would be dropped.
        if let Err(error) = self.source.pause(&partitions, true) {
            tracing::warn!(%error, %partition, "a partition was not paused");
        }
        self.finish_earlier_log(partition.clone(), Loss::Recreated);
    }

    fn fence_shards(&mut self, ended: &[(u32, u32)]) {
        self.send();
        for shard in &self.shards {
            let _runtime_ended = shard.send(ToShard::Fence(ended.to_vec()));
        }
    }

    /// Fences partitions and gives them back to the source.
    pub(super) fn unassign(&mut self, partitions: &[TopicPartition]) {
        self.drop_held(partitions);
        self.unassigned.retain(|partition| !partitions.contains(partition));
        self.finishing.retain(|finishing| !partitions.contains(&finishing.partition));
        self.count_unassigned();
        self.other_logs.retain(|partition, _| !partitions.contains(partition));
        self.begun.retain(|partition, _| !partitions.contains(partition));
        for partition in partitions {
            self.stats.active_alerts.clear(AlertKind::Unassigned, &partition.to_string());
        }
        let ended = self.tracker.fence(partitions);
        self.fence_shards(&ended);
        if let Err(error) = self.source.unassign(partitions) {
            tracing::warn!(%error, ?partitions, "partitions were not unassigned");
        }
    }

    /// Waits up to `timeout` for the records in flight, and then for the checkpoints. What is not finished in time is repeated by the next
    /// owner, never lost.
    pub(super) fn drain_and_save(&mut self, partitions: &[TopicPartition], timeout: Duration) {
        self.send();
        self.tracker.drain(partitions);
        let until = Instant::now() + timeout;
        while !self.tracker.is_drained(partitions) && Instant::now() < until {
            self.wait_for_completion();
        }
        if !self.tracker.is_drained(partitions) {
            self.stats.drain_timeouts.increment();
        }
        let until = Instant::now() + MAX_SAVE_WAIT.min(timeout);
        while !self.tracker.is_settled(partitions) && Instant::now() < until {
            self.save();
            self.wait_for_save();
        }
    }

    /// Waits for the records in flight of earlier logs, which nobody reads again.
    pub(super) fn drain_earlier_logs(&mut self, until: Instant) {
        let unfinished = |poller: &Self| {
            let is_in_flight =
                |finishing: &&Finishing| finishing.is_of_another_log() && !finishing.is_finished(&poller.tracker);
            let in_flight = poller.finishing.iter().filter(is_in_flight);
            in_flight.map(|finishing| finishing.partition.to_string()).collect::<Vec<_>>()
        };
        while !unfinished(self).is_empty() && Instant::now() < until {
            self.wait_for_completion();
        }
        let partitions = unfinished(self);
        if !partitions.is_empty() {
            self.stats.drain_timeouts.increment();
            tracing::error!(
                ?partitions,
                "records of an earlier log were not finished before the stop, and cannot be read again"
            );
        }
    }
}
