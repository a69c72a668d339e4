//! The map of subscribers. Beside `polled` the only file that knows dashmap: it takes closures and hands out no guard, so no shard of the map can stay locked
//! across an await, or be locked twice by one thread.
//!
//! Removal compares the subscriber's own number under the map's lock: an old session that ends late cannot remove the newer one of its device.

use std::sync::Arc;

use dashmap::DashMap;
use orderbell_protocol::Recipient;

use super::{Refused, Subscriber};

#[derive(Debug, Default)]
pub(super) struct Registry {
    subscribers: DashMap<Recipient, Vec<Arc<Subscriber>>>,
}

impl Registry {
    /// Adds a subscriber and returns those of the same device that it replaces. There are at most `max` sessions, and as many waiting polls; and
    /// as many again of clients whose tokens name their devices, which those of the others leave no less. A client whose token names its device is
    /// replaced by none whose token names no device.
    pub(super) fn insert(
        &self,
        who: &Recipient,
        new: &Arc<Subscriber>,
        max: usize,
    ) -> Result<Vec<Arc<Subscriber>>, Refused> {
        let mut subscribers = self.subscribers.entry(who.clone()).or_default();
        let same_device = |old: &Arc<Subscriber>| new.device.is_some() && old.device == new.device;
        let replaced: Vec<_> = subscribers.iter().filter(|old| same_device(old)).cloned().collect();
        if !new.binding.is_bound() && replaced.iter().any(|old| old.binding.is_bound()) {
            return Err(Refused::DeviceIsBound);
        }
        let is_counted =
            |old: &Arc<Subscriber>| old.device.is_some() == new.device.is_some() && old.binding == new.binding;
        if subscribers.iter().filter(|old| is_counted(old) && !same_device(old)).count() >= max {
            return Err(Refused::TooMany);
        }
        subscribers.retain(|old| !same_device(old));
        subscribers.push(new.clone());
        Ok(replaced)
    }

    pub(super) fn remove(&self, who: &Recipient, id: u64) {
        self.subscribers.remove_if_mut(who, |_, subscribers| {
            subscribers.retain(|subscriber| subscriber.id != id);
            subscribers.is_empty()
        });
    }

    /// One of a recipient's subscribers that matches. `matches` must not call the registry: the map's shard is locked.
    pub(super) fn find(&self, who: &Recipient, matches: impl Fn(&Subscriber) -> bool) -> Option<Arc<Subscriber>> {
        let subscribers = self.subscribers.get(who)?;
        subscribers.iter().find(|subscriber| matches(subscriber)).cloned()
    }

    /// True when one of a recipient's subscribers matches. `matches` must not call the registry: the map's shard is locked.
    pub(super) fn any(&self, who: &Recipient, matches: impl Fn(&Subscriber) -> bool) -> bool {
        self.subscribers.get(who).is_some_and(|subscribers| subscribers.iter().any(|subscriber| matches(subscriber)))
    }

    /// Calls `visit` for each subscriber of a recipient. `visit` must not call the registry: the map's shard is locked.
    pub(super) fn for_each(&self, who: &Recipient, visit: impl Fn(&Subscriber)) {
        if let Some(subscribers) = self.subscribers.get(who) {
            subscribers.iter().for_each(|subscriber| visit(subscriber));
        }
    }
}
