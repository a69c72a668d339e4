//! What librdkafka tells a member of a group while it is polled: requests of the coordinator, and statistics.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::statistics::{Broker, Statistics};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::oauth::TokenContext;
use super::source::{offset, partition_of};
use crate::record::TopicPartition;
use crate::traits::EndOffset;

/// A request of the group coordinator.
pub(super) enum Rebalance {
    Assign(Vec<TopicPartition>),
    Revoke(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
}

#[derive(Default)]
pub(super) struct Context {
    pub(super) token: TokenContext,
    pub(super) rebalances: Mutex<VecDeque<Rebalance>>,
    pub(super) closing: AtomicBool,
    pub(super) ends: Mutex<Vec<(TopicPartition, EndOffset)>>,
    /// All partitions of the subscribed topics, as of the last statistics.
    pub(super) all: Mutex<Vec<TopicPartition>>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token.generate()
    }

    /// Called every few seconds, from within a poll. The partitions of a broker that cannot be reached are left out: its offsets are old.
    fn stats(&self, statistics: Statistics) {
        // When they were made, not when this thread came to read them.
        let made_ms = statistics.time * 1000;
        let response_ms = |broker: i32| {
            let up = |known: &&Broker| known.nodeid == broker && known.state == "UP" && known.rxidle >= 0;
            statistics.brokers.values().find(up).map(|known| made_ms - known.rxidle / 1000)
        };
        let (mut ends, mut all) = (Vec::new(), Vec::new());
        for (topic, of_topic) in &statistics.topics {
            for (number, at) in &of_topic.partitions {
                // -1 stands for "any".
                if *number < 0 {
                    continue;
                }
                all.push(partition_of(topic, *number));
                // The log's own end: what open transactions hold back is behind, too, and not known to be nothing.
                let (Some(next), Some(at_ms)) = (offset(at.hi_offset), response_ms(at.broker)) else { continue };
                let delivered = at.next_offset >= at.hi_offset && at.fetchq_cnt == 0;
                let open_transaction = offset(at.ls_offset).filter(|stable| *stable < next);
                ends.push((partition_of(topic, *number), EndOffset { next, at_ms, delivered, open_transaction }));
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
        let partitions = list.elements().iter().map(|at| partition_of(at.topic(), at.partition())).collect();
        let rebalance = match (assign, consumer.assignment_lost()) {
            (true, _) => Rebalance::Assign(partitions),
            (false, true) => Rebalance::Lost(partitions),
            (false, false) => Rebalance::Revoke(partitions),
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
    }
}
