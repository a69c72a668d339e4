//! Ids of notices that were delivered, to drop duplicates.

use std::collections::{HashSet, VecDeque};

/// Ids that are remembered. A server has at most 64 notices in flight and a poll returns at most 100: duplicates come soon. The rest is for
/// restarts and resyncs.
const MAX_IDS: usize = 4096;

/// A bounded set that forgets the oldest id first.
#[derive(Debug)]
pub(super) struct KnownNotices {
    ids: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl KnownNotices {
    pub(super) fn new(oldest_first: VecDeque<String>) -> Self {
        Self { ids: oldest_first.iter().cloned().collect(), oldest_first }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn insert(&mut self, id: String) {
        if self.ids.insert(id.clone()) {
            self.oldest_first.push_back(id);
        }
        if self.oldest_first.len() > MAX_IDS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub(super) fn ids(&self) -> VecDeque<String> {
        self.oldest_first.clone()
    }
}
