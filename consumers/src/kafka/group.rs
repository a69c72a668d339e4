//! What a group's coordinator knows, asked without joining the group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use crate::record::{Offset, Part};
use crate::seams::SourceError;

/// See the module.
pub struct GroupReader {
    consumer: BaseConsumer,
    ask_max: Duration,
}

fn passing(error: impl std::fmt::Display) -> SourceError {
    SourceError::Passing(error.to_string())
}

impl GroupReader {
    /// Asks about the group of `options`; no question waits for longer than `ask_max`.
    ///
    /// # Errors
    /// A property that librdkafka does not take, in its words.
    pub fn new(options: &KafkaOptions, ask_max: Duration) -> Result<Self, SourceError> {
        let silent = KafkaOptions { instance: None, ..options.clone() };
        let consumer = silent.consumer().create().map_err(|error| SourceError::Fatal(error.to_string()))?;
        Ok(Self { consumer, ask_max })
    }

    /// The cluster's name. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Passing`] while no broker answers.
    pub fn cluster(&self) -> Result<String, SourceError> {
        self.consumer
            .client()
            .fetch_cluster_id(self.ask_max)
            .ok_or_else(|| passing("no broker tells the cluster's name"))
    }

    /// How many partitions a topic has; 0 when it is not there. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Passing`] while no broker answers, or when we may not ask.
    pub fn partitions(&self, topic: &str) -> Result<usize, SourceError> {
        use rdkafka::types::RDKafkaRespErr as Code;
        let metadata = self.consumer.fetch_metadata(Some(topic), self.ask_max).map_err(passing)?;
        let Some(told) = metadata.topics().first() else { return Ok(0) };
        match told.error() {
            None => Ok(told.partitions().len()),
            Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(0),
            Some(code) => Err(passing(rdkafka::error::RDKafkaErrorCode::from(code))),
        }
    }

    /// The group's members, by id (for a static member it begins with its instance's name) and host. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Passing`] while the coordinator does not answer, or does not let us ask.
    pub fn members(&self, group: &str) -> Result<Vec<(String, String)>, SourceError> {
        let list = self.consumer.client().fetch_group_list(Some(group), self.ask_max).map_err(passing)?;
        let members = list.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| (member.id().to_owned(), member.client_host().to_owned())).collect())
    }

    /// The group's offsets of these partitions, where it has some. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Passing`] while the coordinator does not answer.
    pub fn committed(&self, parts: &[Part]) -> Result<Vec<(Part, Offset)>, SourceError> {
        let mut list = TopicPartitionList::with_capacity(parts.len());
        for part in parts {
            list.add_partition(&part.topic, i32::try_from(part.number).unwrap_or(i32::MAX));
        }
        let answer = self.consumer.committed_offsets(list, self.ask_max).map_err(passing)?;
        let known = answer.elements().into_iter().filter_map(|at| {
            let KafkaOffset::Offset(offset) = at.offset() else { return None };
            let part = Part::new(at.topic(), u32::try_from(at.partition()).ok()?);
            Some((part, Offset::try_from(offset).ok()?))
        });
        Ok(known.collect())
    }
}
