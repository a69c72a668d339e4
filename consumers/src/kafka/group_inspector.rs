//! Asks a group's coordinator about members and offsets, without joining the group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::oauth::TokenContext;
use super::source::{REQUEST_TIMEOUT, number};
use crate::error::SourceError;
use crate::record::{Offset, TopicPartition};

/// What fails where the metadata of a topic cannot be had.
const METADATA: &str = "fetch the topic's metadata";

/// A client that asks about one consumer group. Every method blocks.
pub struct GroupInspector {
    consumer: BaseConsumer<TokenContext>,
    /// The configured name of the cluster, and a topic to ask for.
    cluster: Option<String>,
    topic: String,
    request_timeout: Duration,
}

impl GroupInspector {
    /// A client for the group of `options`. No request waits longer than `request_timeout`.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message. [`SourceError::Transient`] without a token where one is needed.
    pub fn new(options: &KafkaOptions, request_timeout: Duration) -> Result<Self, SourceError> {
        let silent = KafkaOptions { instance: None, ..options.clone() };
        let context = silent.context();
        let consumer = silent.consumer().create_with_context(context.clone());
        let consumer: BaseConsumer<_> = consumer.map_err(|error| SourceError::fatal("create consumer", error))?;
        context.prime(&consumer)?;
        let topic = options.topics.first().cloned().unwrap_or_default();
        Ok(Self { consumer, cluster: options.cluster.clone(), topic, request_timeout })
    }

    /// The cluster's id, or its configured name when a broker answers.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while no broker answers, or when the brokers tell no id.
    pub fn cluster(&self) -> Result<String, SourceError> {
        if let Some(name) = &self.cluster {
            return self.partitions(&self.topic).map(|_| name.clone());
        }
        let cluster = self.consumer.client().fetch_cluster_id(self.request_timeout);
        cluster.ok_or_else(|| SourceError::transient("fetch the cluster's id", "no broker answers"))
    }

    /// The number of a topic's partitions; 0 when it does not exist.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while no broker answers, or when the brokers do not allow the request.
    pub fn partitions(&self, topic: &str) -> Result<usize, SourceError> {
        self.partitions_or_refusal(topic)?.map_err(|code| SourceError::transient(METADATA, code))
    }

    /// The same, or what the brokers answer instead.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while no broker answers.
    pub(super) fn partitions_or_refusal(&self, topic: &str) -> Result<Result<usize, RDKafkaErrorCode>, SourceError> {
        use rdkafka::types::RDKafkaRespErr as Code;

        let metadata = self.consumer.fetch_metadata(Some(topic), self.request_timeout);
        let metadata = metadata.map_err(|error| SourceError::transient(METADATA, error))?;
        let Some(found) = metadata.topics().first() else { return Ok(Ok(0)) };
        Ok(match found.error() {
            None => Ok(found.partitions().len()),
            Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(0),
            Some(code) => Err(code.into()),
        })
    }

    /// True when a new client would have something to read: the leader of a partition that is ours answers, and the coordinator does. Without
    /// a partition, only when no other member of the group can own them all. Blocks.
    pub(super) fn would_read(options: &KafkaOptions, granted: Option<TopicPartition>) -> bool {
        let made = Self::new(options, REQUEST_TIMEOUT);
        let Ok(inspector) = made.inspect_err(|error| tracing::warn!(%error, "a client cannot be made")) else {
            return false;
        };
        let is_ours = |id: &str| options.instance.as_ref().is_some_and(|instance| id.starts_with(instance));
        let may_read = |members: Vec<(String, String)>| granted.is_some() || members.iter().all(|(id, _)| is_ours(id));
        let partition = granted.clone().unwrap_or_else(|| TopicPartition::new(&inspector.topic, 0));
        let leader = inspector.consumer.fetch_watermarks(&partition.topic, number(&partition), REQUEST_TIMEOUT);
        let leader = leader.inspect_err(|error| tracing::debug!(%error, %partition, "its leader does not answer"));
        let members = || {
            let members = inspector.members(&options.group);
            members.inspect_err(|error| tracing::debug!(%error, "the coordinator does not answer"))
        };
        leader.is_ok() && members().is_ok_and(may_read)
    }

    /// The group's members: the id of each, which begins with the instance's name for a static member, and its host.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while the coordinator does not answer, or does not allow the request.
    pub fn members(&self, group: &str) -> Result<Vec<(String, String)>, SourceError> {
        let list = self.consumer.client().fetch_group_list(Some(group), self.request_timeout);
        let list = list.map_err(|error| SourceError::transient("list the group's members", error))?;
        let members = list.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| (member.id().to_owned(), member.client_host().to_owned())).collect())
    }

    /// The group's committed offsets of these partitions. Partitions without one are left out.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while the coordinator does not answer.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<Vec<(TopicPartition, Offset)>, SourceError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&partition.topic, number(partition));
        }
        let answer = self.consumer.committed_offsets(list, self.request_timeout);
        let answer = answer.map_err(|error| SourceError::transient("fetch the group's committed offsets", error))?;
        let known = answer.elements().into_iter().filter_map(|at| {
            let KafkaOffset::Offset(offset) = at.offset() else { return None };
            let partition = TopicPartition::new(at.topic(), u32::try_from(at.partition()).ok()?);
            Some((partition, Offset::try_from(offset).ok()?))
        });
        Ok(known.collect())
    }
}
