//! Asks a group's coordinator about members and offsets, without joining the group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use crate::error::SourceError;
use crate::record::{Offset, TopicPartition};

/// A client that asks about one consumer group. Every method blocks.
pub struct GroupInspector {
    consumer: BaseConsumer,
    request_timeout: Duration,
}

impl GroupInspector {
    /// A client for the group of `options`. No request waits longer than `request_timeout`.
    ///
    /// # Errors
    /// A property that librdkafka does not accept, with its message.
    pub fn new(options: &KafkaOptions, request_timeout: Duration) -> Result<Self, SourceError> {
        let silent = KafkaOptions { instance: None, ..options.clone() };
        let consumer = silent.consumer().create().map_err(|error| SourceError::fatal("create consumer", error))?;
        Ok(Self { consumer, request_timeout })
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while no broker answers.
    pub fn cluster(&self) -> Result<String, SourceError> {
        let cluster = self.consumer.client().fetch_cluster_id(self.request_timeout);
        cluster.ok_or_else(|| SourceError::transient("fetch the cluster's id", "no broker answers"))
    }

    /// The number of a topic's partitions; 0 when it does not exist.
    ///
    /// # Errors
    /// [`SourceError::Transient`] while no broker answers, or when the brokers do not allow the request.
    pub fn partitions(&self, topic: &str) -> Result<usize, SourceError> {
        use rdkafka::types::RDKafkaRespErr as Code;

        const OPERATION: &str = "fetch the topic's metadata";

        let metadata = self.consumer.fetch_metadata(Some(topic), self.request_timeout);
        let metadata = metadata.map_err(|error| SourceError::transient(OPERATION, error))?;
        let Some(found) = metadata.topics().first() else { return Ok(0) };
        match found.error() {
            None => Ok(found.partitions().len()),
            Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(0),
            Some(code) => Err(SourceError::transient(OPERATION, rdkafka::error::RDKafkaErrorCode::from(code))),
        }
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
            list.add_partition(&partition.topic, i32::try_from(partition.number).unwrap_or(i32::MAX));
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
