//! Who is connected, and the ringing.
//!
//! A ring is a wake without data: it says "look into your mailbox", a thousand of them are one. So the hub has no queue, loses nothing
//! when it forgets, and a reader that is slow costs it nothing.

mod registry;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orderbell_protocol::{DeviceId, Position, Recipient, UnixMs};
use tokio::sync::Notify;

use crate::ledger::Bell;
use registry::Registry;

/// Sessions and waiting polls of one recipient at once. A store has a handful of tills; a hundred is a loop that reconnects.
pub const SEATS_PER_RECIPIENT_MAX: usize = 64;

/// The place of one reader: what wakes it, and what it is told besides.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    device: Option<DeviceId>,
    wake: Notify,
    /// The first ring that nobody has looked at yet.
    rung_at: Mutex<Option<Instant>>,
    replaced: AtomicBool,
    acked: Mutex<Option<Position>>,
}

impl Seat {
    /// Waits for the next ring; one that came before is not lost.
    pub async fn rung(&self) {
        self.wake.notified().await;
    }

    /// Since when it is rung.
    #[must_use]
    pub fn take_rung(&self) -> Option<Instant> {
        self.rung_at.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// True when the same device has taken a newer seat.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// What the same device acknowledged on another way, since the last call.
    #[must_use]
    pub fn take_acked(&self) -> Option<Position> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A seat that is given up when this is dropped.
pub struct Seated {
    hub: Arc<Hub>,
    who: Recipient,
    seat: Arc<Seat>,
}

impl std::ops::Deref for Seated {
    type Target = Seat;
    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.hub.registry.leave(&self.who, self.seat.id);
        self.hub.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections that gave up on one notice, until it is set aside for that device.
pub const STUCK_AFTER: u32 = 3;
/// Devices that are remembered for not acknowledging; above it, one more is not.
const DEAF_MAX: usize = 10_000;
/// Who asked within this time is there: two polls, and one that was late.
const POLL_PRESENT_MS: i64 = 150_000;
/// Stores that are remembered for having asked: above what any chain has.
const POLLED_MAX: usize = 100_000;

/// No seat is free for this recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module.
#[derive(Debug, Default)]
pub struct Hub {
    registry: Registry,
    next_id: AtomicU64,
    taken: AtomicU64,
    rings: AtomicU64,
    /// The notice that a device's connections gave up on last, and how many did.
    deaf: Mutex<HashMap<(Recipient, DeviceId), (Position, u32)>>,
    /// When stores asked last.
    polled: Mutex<HashMap<Recipient, UnixMs>>,
}

impl Hub {
    /// Takes a seat for a session of `device`; an older session of the same device is told to go.
    ///
    /// # Errors
    /// [`Full`].
    pub fn attach(self: &Arc<Self>, who: &Recipient, device: &DeviceId) -> Result<Seated, Full> {
        self.sit(who, Some(device.clone()))
    }

    /// Takes a seat for a poll that waits: it is rung like a session and replaces nobody.
    ///
    /// # Errors
    /// [`Full`].
    pub fn listen(self: &Arc<Self>, who: &Recipient) -> Result<Seated, Full> {
        self.sit(who, None)
    }

    fn sit(self: &Arc<Self>, who: &Recipient, device: Option<DeviceId>) -> Result<Seated, Full> {
        let seat = Arc::new(Seat {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            device,
            wake: Notify::new(),
            rung_at: Mutex::default(),
            replaced: AtomicBool::new(false),
            acked: Mutex::new(None),
        });
        let older = self.registry.sit(who, &seat, SEATS_PER_RECIPIENT_MAX)?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        for old in older {
            old.replaced.store(true, Ordering::Release);
            old.wake.notify_one();
        }
        Ok(Seated { hub: self.clone(), who: who.clone(), seat })
    }

    /// A device acknowledged beside its session: the session need not push that any more.
    pub fn acked(&self, who: &Recipient, device: &DeviceId, position: Position) {
        self.registry.each(who, |seat| {
            if seat.device.as_ref() == Some(device) {
                let mut acked = seat.acked.lock().unwrap_or_else(PoisonError::into_inner);
                if acked.is_none_or(|before| before.epoch != position.epoch || before.seq < position.seq) {
                    *acked = Some(position);
                }
                drop(acked);
                seat.wake.notify_one();
            }
        });
    }

    /// A connection of this device was closed as deaf, with `first` the first that it did not acknowledge. True when that makes the notice
    /// stuck: the next connection goes on behind it.
    pub fn gave_up(&self, who: &Recipient, device: &DeviceId, first: Position) -> bool {
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        if deaf.len() >= DEAF_MAX && !deaf.contains_key(&key) {
            return false;
        }
        let (at, times) = deaf.entry(key).or_insert((first, 0));
        *times = if *at == first { *times + 1 } else { 1 };
        *at = first;
        *times == STUCK_AFTER
    }

    /// Where a device goes on: behind the notice that its connections could not get acknowledged, if there is one behind `acked`.
    #[must_use]
    pub fn set_aside(&self, who: &Recipient, device: &DeviceId, acked: Position) -> Option<Position> {
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        let (at, times) = *deaf.get(&key)?;
        if at.epoch != acked.epoch || at.seq <= acked.seq {
            deaf.remove(&key);
            return None;
        }
        (times >= STUCK_AFTER).then_some(at)
    }

    /// A recipient has asked for its notices.
    pub fn polled(&self, who: &Recipient, now: UnixMs) {
        let mut polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        if polled.len() >= POLLED_MAX && !polled.contains_key(who) {
            polled.retain(|_, at| at.plus_ms(POLL_PRESENT_MS) > now);
        }
        if polled.len() < POLLED_MAX || polled.contains_key(who) {
            polled.insert(who.clone(), now);
        }
    }

    /// How a recipient can be reached: true by push, false because it asks, nothing when neither.
    #[must_use]
    pub fn reach(&self, who: &Recipient, now: UnixMs) -> Option<bool> {
        if self.registry.has(who, |seat| seat.device.is_some()) {
            return Some(true);
        }
        let polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        polled.get(who).filter(|at| at.plus_ms(POLL_PRESENT_MS) > now).map(|_| false)
    }

    /// Whether a device has a session, and how many connections it had, one after another, that gave up on the same notice.
    #[must_use]
    pub fn device(&self, who: &Recipient, device: &DeviceId) -> (bool, u32) {
        let connected = self.registry.has(who, |seat| seat.device.as_ref() == Some(device));
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        (connected, deaf.get(&(who.clone(), device.clone())).map_or(0, |(_, times)| *times))
    }

    /// Seats taken at this moment.
    #[must_use]
    pub fn seats(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Rings since the start.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }
}

impl Bell for Hub {
    fn ring(&self, who: &[Recipient]) {
        for recipient in who {
            self.registry.each(recipient, |seat| {
                self.rings.fetch_add(1, Ordering::Relaxed);
                seat.rung_at.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
                seat.wake.notify_one();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    fn id(text: &str) -> Id {
        Id::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_ring_reaches_all_devices_of_one_recipient_and_nobody_else() {
        let hub = Arc::new(Hub::default());
        let (here, there) = (Recipient::store(id("1")), Recipient::store(id("10")));
        let (a, b, c) = (hub.attach(&here, &id("a")), hub.attach(&here, &id("b")), hub.attach(&there, &id("a")));
        hub.ring(std::slice::from_ref(&here));
        hub.ring(std::slice::from_ref(&here));
        a.unwrap().rung().await;
        b.unwrap().rung().await;
        assert_eq!(hub.rings(), 4);
        let c = c.unwrap();
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), c.rung()).await;
        assert!(quiet.is_err(), "another store was rung");
    }

    #[tokio::test]
    async fn an_old_session_that_leaves_does_not_take_the_new_one_along() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let old = hub.attach(&who, &id("a")).unwrap();
        let new = hub.attach(&who, &id("a")).unwrap();
        assert!(old.is_replaced() && !new.is_replaced());
        drop(old);
        hub.ring(&[who]);
        new.rung().await;
        assert_eq!(hub.seats(), 1);
    }

    #[test]
    fn a_notice_that_three_connections_could_not_get_acknowledged_is_set_aside() {
        let hub = Hub::default();
        let (who, device) = (Recipient::store(id("1")), id("a"));
        let at = |seq| Position { epoch: 1, seq, check: 0 };
        assert!(!hub.gave_up(&who, &device, at(5)) && !hub.gave_up(&who, &device, at(5)));
        assert_eq!(hub.set_aside(&who, &device, at(4)), None, "not yet");
        assert!(!hub.gave_up(&who, &device, at(6)), "it moved: counted anew");
        assert!(!hub.gave_up(&who, &device, at(6)) && hub.gave_up(&who, &device, at(6)));
        assert_eq!(hub.set_aside(&who, &id("b"), at(4)), None, "another device has its own");
        assert_eq!(hub.set_aside(&who, &device, at(4)), Some(at(6)));
        assert_eq!(hub.set_aside(&who, &device, at(6)), None, "it is behind");
        assert_eq!(hub.set_aside(&who, &device, at(4)), None, "and forgotten");
    }

    #[test]
    fn seats_are_bounded_and_given_back() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let seats: Vec<_> = (0..SEATS_PER_RECIPIENT_MAX).map(|_| hub.listen(&who).unwrap()).collect();
        assert!(hub.listen(&who).is_err());
        drop(seats);
        assert!(hub.listen(&who).is_ok() && hub.seats() == 0);
    }
}
