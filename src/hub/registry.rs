//! The map of seats. The only file that knows dashmap: it takes closures and hands out no guard, so no shard of the map can stay locked
//! across an await, or be locked twice by one thread.
//!
//! Leaving compares the seat's own number inside the map's lock: an old session that ends late cannot erase the new one of its device.

use std::sync::Arc;

use dashmap::DashMap;
use orderbell_protocol::Recipient;

use super::{Full, Seat};

#[derive(Debug, Default)]
pub(super) struct Registry {
    seats: DashMap<Recipient, Vec<Arc<Seat>>>,
}

impl Registry {
    /// Adds a seat; returns those that the same device had before.
    pub(super) fn sit(&self, who: &Recipient, seat: &Arc<Seat>, max: usize) -> Result<Vec<Arc<Seat>>, Full> {
        let mut seats = self.seats.entry(who.clone()).or_default();
        let same = |old: &Arc<Seat>| seat.device.is_some() && old.device == seat.device;
        let older: Vec<_> = seats.iter().filter(|old| same(old)).cloned().collect();
        if seats.len() - older.len() >= max {
            return Err(Full);
        }
        seats.retain(|old| !same(old));
        seats.push(seat.clone());
        Ok(older)
    }

    pub(super) fn leave(&self, who: &Recipient, id: u64) {
        self.seats.remove_if_mut(who, |_, seats| {
            seats.retain(|seat| seat.id != id);
            seats.is_empty()
        });
    }

    /// True when one of a recipient's seats is such. It must not come back into the registry.
    pub(super) fn has(&self, who: &Recipient, such: impl Fn(&Seat) -> bool) -> bool {
        self.seats.get(who).is_some_and(|seats| seats.iter().any(|seat| such(seat)))
    }

    /// Calls `what` for each seat of a recipient. It must not come back into the registry.
    pub(super) fn each(&self, who: &Recipient, what: impl Fn(&Seat)) {
        if let Some(seats) = self.seats.get(who) {
            seats.iter().for_each(|seat| what(seat));
        }
    }
}
