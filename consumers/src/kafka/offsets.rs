//! Frontiers for handlers that keep no durable state: the group's own offset on Kafka is all there is.
//!
//! Where a handler has a state on disk, its frontier belongs beside it: both are durable together, or neither is. A
//! handler without one (it calls another system, it counts in memory) has no such place, and what it did is done when
//! it says so. Then the position may live with the log: nothing has to be made durable first, so a save is answered at
//! once, and the source stores the offset with the group.
//!
//! To be used with [`Resume::Committed`](crate::Resume::Committed); with the other one, every start would be a first
//! start.
//!
//! The offset reaches Kafka up to `auto.commit.interval.ms` after the save, or after the partition was placed. Until the
//! first one does, a partition is begun by time, as on a first start.

use crate::record::Part;
use crate::seams::{Frontier, FrontierError, Frontiers, Saved};

/// Keeps nothing: the group's offsets on Kafka are the frontiers.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupOffsets;

impl Frontiers for GroupOffsets {
    fn load(&self, _cluster: &str, parts: &[Part]) -> Result<Vec<Option<Frontier>>, FrontierError> {
        Ok(vec![None; parts.len()])
    }

    fn save(&self, _cluster: &str, at: Vec<(Part, Frontier)>, durable: flume::Sender<Saved>) {
        // Never waits: the caller is the one who empties this channel, and it asks again only for what was answered.
        let _full_or_gone = durable.try_send(at);
    }

    fn knows_topic(&self, _cluster: &str, _topic: &str) -> Result<bool, FrontierError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_answered_at_once_and_leaves_nothing_behind() {
        let (tx, rx) = flume::bounded(1);
        let at = vec![(Part::new("readings", 3), Frontier { next: 8, last: None })];
        GroupOffsets.save("cluster", at.clone(), tx);
        assert_eq!(rx.try_recv().unwrap(), at);
        assert_eq!(GroupOffsets.load("cluster", &[Part::new("readings", 3)]).unwrap(), [None]);
        assert!(!GroupOffsets.knows_topic("cluster", "readings").unwrap());
    }
}
