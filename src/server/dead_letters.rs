//! [`DeadLetterAccess`]: dead letters of the ledger's own log, and of the dead letter topics.

use std::sync::Arc;

#[cfg(feature = "kafka")]
use tokio::sync::Semaphore;

use crate::clock::wall_clock;
#[cfg(feature = "kafka")]
use crate::net::TopicAccessError;
use crate::net::{DeadLetterAccess, ReplayFuture, TopicListFuture, TopicReplayFuture};
#[cfg(feature = "kafka")]
use crate::stream::dlq_topics::DlqTopics;
use orderbell_ledger::{Ledger, LedgerReadError, StoredDeadLetter};
use orderbell_orders::Mapping;

/// Dead letters shown of each partition of a dead letter topic: the newest. `orderbell dlq` lists all.
#[cfg(feature = "kafka")]
const SHOWN_PER_PARTITION: u64 = 200;

/// Where the dead letters are.
pub(super) struct DeadLetterAdmin {
    pub(super) ledger: Arc<Ledger>,
    pub(super) mapping: Mapping,
    /// The topics, and a permit: one request at a time reads them, since it takes a consumer of its own and may take a while.
    #[cfg(feature = "kafka")]
    pub(super) topics: Option<(DlqTopics, Arc<Semaphore>)>,
}

impl DeadLetterAccess for DeadLetterAdmin {
    fn list(&self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, LedgerReadError> {
        self.ledger.damage().check(self.ledger.dead_letters().list(after, max))
    }

    fn replay(&self, dead_letters: Vec<(u64, StoredDeadLetter)>) -> ReplayFuture {
        let numbers = dead_letters.iter().map(|(number, _)| *number).collect();
        let events = dead_letters
            .iter()
            .map(|(number, dead_letter)| {
                crate::ingest::http_events::replay(&self.mapping, *number, dead_letter, wall_clock())
            })
            .collect();
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.dead_letters().replay(events, numbers).await })
    }

    #[cfg(feature = "kafka")]
    fn list_topics(&self, which: Option<String>) -> Option<TopicListFuture> {
        let (topics, permits) = self.topics.clone()?;
        Some(Box::pin(async move {
            let _permit = permits.acquire().await.expect("nobody closes it");
            if let Some(which) = which {
                let found = topics.one(which).await.map_err(TopicAccessError::new)?;
                return Ok(found.into_iter().collect());
            }
            let read = tokio::task::spawn_blocking(move || topics.newest(SHOWN_PER_PARTITION));
            read.await.map_err(TopicAccessError::new)?.map_err(TopicAccessError::new)
        }))
    }

    #[cfg(feature = "kafka")]
    fn replay_topics(&self, which: Vec<String>) -> Option<TopicReplayFuture> {
        let (topics, permits) = self.topics.clone()?;
        Some(Box::pin(async move {
            let _permit = permits.acquire().await.expect("nobody closes it");
            topics.replay(which).await.map_err(TopicAccessError::new)
        }))
    }

    #[cfg(not(feature = "kafka"))]
    fn list_topics(&self, _: Option<String>) -> Option<TopicListFuture> {
        None
    }

    #[cfg(not(feature = "kafka"))]
    fn replay_topics(&self, _: Vec<String>) -> Option<TopicReplayFuture> {
        None
    }
}
