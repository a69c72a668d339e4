//! How partitions come and go: start offsets, saves of new ones, drains, fences.
//!
//! A partition that the coordinator assigned is started at a concrete offset ([`start_offset`]). When its log or the checkpoint store does
//! not answer, it stays unassigned and is tried again, with a back-off, while the other partitions go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{POLL_WAIT, Poller};
use crate::alert::AlertKind;
use crate::error::{CheckpointError, SourceError};
use crate::loss::Loss;
use crate::record::TopicPartition;
use crate::shard::ToShard;
use crate::start_offset::{self, StartAlert, StartOffset};
use crate::traits::{Checkpoint, CheckpointStore, Handler, PartitionOffsets, Source};

/// How long a start waits for its new checkpoints to be durable, and a revocation for its last ones.
const MAX_SAVE_WAIT: Duration = Duration::from_secs(5);
/// First and longest back-off of a partition that could not be started: asking blocks this thread for seconds, and the other partitions
/// wait meanwhile.
pub(super) const RETRY_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why a partition cannot be started yet.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("its last checkpoint is not durable yet")]
    CheckpointPending,
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
                Err(error) => {
                    self.stats.source_errors.increment();
                    tracing::warn!(%error, %partition, "a partition cannot be started yet");
                    let detail = format!("cannot be started yet: {error}");
                    self.stats.active_alerts.raise(AlertKind::Unassigned, &partition.to_string(), detail);
                    self.start_later(vec![partition]);
                }
            }
        }
        if !ready.is_empty() {
            self.assign(ready, &starts);
        }
    }

    fn start_later(&mut self, partitions: Vec<TopicPartition>) {
        self.unassigned.extend(partitions);
        self.stats.unassigned_partitions.set(self.unassigned.len() as u64);
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
        self.stats.unassigned_partitions.set(before as u64);
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
                Ok(self.start_offset(&partition, saved, offsets))
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
        Ok(Saved { checkpoint: saved.into_iter().next().flatten(), has_topic })
    }

    fn start_offset(&self, partition: &TopicPartition, saved: Saved, offsets: PartitionOffsets) -> StartOffset {
        let start = start_offset::resolve(saved.checkpoint, offsets, saved.has_topic, self.options.resume_from);
        let skip = self.options.skip_to.iter().find(|(named, _)| named == partition);
        match skip {
            Some((_, at)) if start.checkpoint.next < *at => {
                tracing::warn!(%partition, from = start.checkpoint.next, to = at, "records are skipped, as an operator requested");
                start_offset::skip_to(start, (*at).min(offsets.end))
            }
            _ => start,
        }
    }

    fn assign(&mut self, partitions: Vec<TopicPartition>, starts: &[StartOffset]) {
        let new: Vec<(TopicPartition, Checkpoint)> = partitions
            .iter()
            .zip(starts)
            .filter(|(_, start)| start.is_new)
            .map(|(partition, start)| (partition.clone(), start.checkpoint))
            .collect();
        let losses = partitions.iter().zip(starts);
        let losses = losses.filter_map(|(partition, start)| Some((partition.clone(), start.loss()?))).collect();
        if !new.is_empty() && !self.save_and_wait(new, losses) {
            tracing::warn!(?partitions, "the checkpoints of the start offsets are not durable yet");
            return self.start_later(partitions);
        }
        let mut at = Vec::with_capacity(partitions.len());
        for (partition, start) in partitions.iter().zip(starts) {
            self.alert(partition, start);
            self.tracker.assign(partition, start.checkpoint, start.verify_last);
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

    /// True when these checkpoints, and these losses, became durable in time.
    fn save_and_wait(&mut self, at: Vec<(TopicPartition, Checkpoint)>, losses: Vec<(TopicPartition, Loss)>) -> bool {
        let (tx, rx) = flume::bounded(1);
        self.checkpoints.save_with_losses(&self.source.cluster(), at, losses, tx);
        rx.recv_timeout(MAX_SAVE_WAIT).is_ok()
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

    /// The topic was deleted and created again: fences the records that were taken, and starts at its first record.
    pub(super) fn restart_recreated(&mut self, partition: &TopicPartition) {
        let partitions = [partition.clone()];
        let ended = self.tracker.fence(&partitions);
        self.fence_shards(&ended);
        let answer = self.source.offsets(&partitions, crate::clock::unix_ms()).pop();
        match answer.unwrap_or_else(|| Err(no_answer())) {
            Ok(offsets) => self.assign(partitions.to_vec(), &[start_offset::restart(offsets)]),
            Err(error) => {
                tracing::warn!(%error, %partition, "the offsets of a recreated topic are not known yet");
                self.start_later(partitions.to_vec());
            }
        }
    }

    fn fence_shards(&mut self, ended: &[(u32, u32)]) {
        self.send();
        for shard in &self.shards {
            let _runtime_ended = shard.send(ToShard::Fence(ended.to_vec()));
        }
    }

    /// Fences partitions and gives them back to the source.
    pub(super) fn unassign(&mut self, partitions: &[TopicPartition]) {
        self.unassigned.retain(|partition| !partitions.contains(partition));
        self.stats.unassigned_partitions.set(self.unassigned.len() as u64);
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
}
