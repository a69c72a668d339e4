//! The registry of connected subscribers and their wake-ups.
//!
//! A wake-up carries no data: it says "read your mailbox", and a thousand of them are one. So the hub has no queue, loses no notice when it
//! forgets a subscriber, and a slow reader costs it nothing.

mod challenge;
mod polled;
mod registry;
mod shared_devices;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orderbell_protocol::{DeviceId, Position, Recipient, UnixMs};
use tokio::sync::Notify;

use challenge::TokenTags;
pub use challenge::{Challenge, TokenTag};
use orderbell_ledger::{DeviceBinding, MailboxObserver};
use orderbell_protocol::admin::Reachability;
use polled::PolledStores;
use registry::Registry;
pub use shared_devices::SharedDevice;
use shared_devices::SharedDevices;

/// Sessions of one recipient at once, and as many polls and hellos that wait: whoever only waits keeps no till out. As many again of clients whose
/// tokens name their devices: names that others invent keep none of these out. A store has a handful of tills; more than 64 is a client that
/// reconnects in a loop.
pub const SUBSCRIBERS_PER_RECIPIENT_MAX: usize = 64;
/// Connections that ended with an ack timeout at the same notice, until that notice counts as poison for the device and is skipped.
pub const POISON_AFTER: u32 = 3;
/// Devices whose ack timeouts are remembered. A device beyond this bound is not tracked.
const ACK_TIMEOUT_DEVICES_MAX: usize = 10_000;

/// One session or waiting poll: how it is woken, and what it learns when it wakes up.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    /// The device of a session; none for a waiting poll.
    device: Option<DeviceId>,
    binding: DeviceBinding,
    /// The token of a session.
    token: Option<TokenTag>,
    /// Frames that the client of a session has sent.
    frames: AtomicU64,
    is_challenged: AtomicBool,
    wake: Notify,
    /// Time of the first wake-up that was not taken yet.
    woken_at: Mutex<Option<Instant>>,
    replaced: AtomicBool,
    acked: Mutex<Option<Position>>,
    /// The highest seq that a poll of the same device was sent; 0 for none.
    polled_seq: AtomicU64,
}

impl Subscriber {
    /// Waits for the next wake-up; one that came before the call counts.
    pub async fn wakeup(&self) {
        self.wake.notified().await;
    }

    /// Takes the time of the first wake-up since the last call.
    #[must_use]
    pub fn take_woken_at(&self) -> Option<Instant> {
        self.woken_at.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn end(&self) {
        self.replaced.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// True when the same device has opened a newer session, or has become bound while this one's token names no device.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Records that the client has sent a frame, and not its last.
    pub fn record_frame(&self) {
        self.frames.fetch_add(1, Ordering::Release);
    }

    /// True, once, when a newcomer wants to know whether the client is there: it is sent a ping.
    #[must_use]
    pub fn take_challenge(&self) -> bool {
        self.is_challenged.swap(false, Ordering::AcqRel)
    }

    /// The highest seq that a poll of the same device was sent since this subscriber came.
    #[must_use]
    pub fn polled_seq(&self) -> u64 {
        self.polled_seq.load(Ordering::Acquire)
    }

    /// Takes the position that the same device acknowledged by a poll since the last call.
    #[must_use]
    pub fn take_acked(&self) -> Option<Position> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Keeps a [`Subscriber`] registered until it is dropped.
pub struct SubscriberGuard {
    hub: Arc<Hub>,
    who: Recipient,
    subscriber: Arc<Subscriber>,
}

impl std::ops::Deref for SubscriberGuard {
    type Target = Subscriber;
    fn deref(&self) -> &Subscriber {
        &self.subscriber
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        self.hub.registry.remove(&self.who, self.subscriber.id);
        self.hub.open(self.subscriber.device.is_some()).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a subscriber is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The recipient already has [`SUBSCRIBERS_PER_RECIPIENT_MAX`] subscribers of this kind, of clients with tokens of this kind.
    TooMany,
    /// The open session of this device has a token that names it, and the newcomer's names none.
    DeviceIsBound,
}

/// What the hub knows of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceConnection {
    /// True while the device has an open session.
    pub is_connected: bool,
    /// Consecutive connections that ended with an ack timeout at the same notice.
    pub ack_timeouts: u32,
    /// True while two installations use the device's id.
    pub is_shared: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hub {
    registry: Registry,
    next_id: AtomicU64,
    sessions: AtomicU64,
    waiting_polls: AtomicU64,
    wakeups: AtomicU64,
    /// By device: the notice at which its last connections ended with an ack timeout, and how many did.
    ack_timeouts: Mutex<HashMap<(Recipient, DeviceId), (Position, u32)>>,
    /// Devices whose connections replaced each other.
    shared: Mutex<SharedDevices>,
    token_tags: TokenTags,
    polled: PolledStores,
}

impl Hub {
    /// Registers a session of `device`. An older session of the same device is replaced: its connection closes.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn connect(
        self: &Arc<Self>,
        who: &Recipient,
        device: &DeviceId,
        binding: DeviceBinding,
        token: TokenTag,
    ) -> Result<SubscriberGuard, Refused> {
        self.subscribe(who, Some(device.clone()), binding, Some(token))
    }

    /// Registers a poll that waits: it is woken like a session and replaces no other subscriber.
    ///
    /// # Errors
    /// [`Refused::TooMany`].
    pub fn wait(self: &Arc<Self>, who: &Recipient, binding: DeviceBinding) -> Result<SubscriberGuard, Refused> {
        self.subscribe(who, None, binding, None)
    }

    fn subscribe(
        self: &Arc<Self>,
        who: &Recipient,
        device: Option<DeviceId>,
        binding: DeviceBinding,
        token: Option<TokenTag>,
    ) -> Result<SubscriberGuard, Refused> {
        let subscriber = Arc::new(Subscriber {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            device,
            binding,
            token,
            frames: AtomicU64::new(0),
            is_challenged: AtomicBool::new(false),
            wake: Notify::new(),
            woken_at: Mutex::default(),
            replaced: AtomicBool::new(false),
            acked: Mutex::new(None),
            polled_seq: AtomicU64::new(0),
        });
        let replaced = self.registry.insert(who, &subscriber, SUBSCRIBERS_PER_RECIPIENT_MAX)?;
        self.open(subscriber.device.is_some()).fetch_add(1, Ordering::Relaxed);
        for old in replaced {
            if old.token == subscriber.token {
                // For a newcomer that asked the old session: its client is there, in the new one.
                old.record_frame();
            }
            old.end();
        }
        Ok(SubscriberGuard { hub: self.clone(), who: who.clone(), subscriber })
    }

    /// The count of open subscribers of one kind.
    fn open(&self, is_session: bool) -> &AtomicU64 {
        if is_session { &self.sessions } else { &self.waiting_polls }
    }

    /// Records that a device is sent notices up to `seq` by a poll: its session marks them as repeats. Nobody is woken.
    pub fn sent_by_poll(&self, who: &Recipient, device: &DeviceId, seq: u64) {
        self.registry.for_each(who, |subscriber| {
            if subscriber.device.as_ref() == Some(device) {
                subscriber.polled_seq.fetch_max(seq, Ordering::AcqRel);
            }
        });
    }

    /// Ends the session of this device if its token names no device: a token that names it has polled.
    pub fn end_unbound(&self, who: &Recipient, device: &DeviceId) {
        self.registry.for_each(who, |subscriber| {
            if subscriber.device.as_ref() == Some(device) && !subscriber.binding.is_bound() {
                subscriber.end();
            }
        });
    }

    /// Records that a device acknowledged by a poll: its session need not push these notices any more.
    pub fn acked(&self, who: &Recipient, device: &DeviceId, position: Position) {
        self.registry.for_each(who, |subscriber| {
            if subscriber.device.as_ref() == Some(device) {
                let mut acked = subscriber.acked.lock().unwrap_or_else(PoisonError::into_inner);
                if acked.is_none_or(|before| before.epoch != position.epoch || before.seq < position.seq) {
                    *acked = Some(position);
                }
                drop(acked);
                subscriber.wake.notify_one();
            }
        });
    }

    /// Records that a connection of this device ended with an ack timeout; `first` is its first unacknowledged notice. True when this makes
    /// the notice poison: the device's next connection continues behind it.
    pub fn record_ack_timeout(&self, who: &Recipient, device: &DeviceId, first: Position) -> bool {
        let mut timeouts = self.ack_timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        if timeouts.len() >= ACK_TIMEOUT_DEVICES_MAX && !timeouts.contains_key(&key) {
            return false;
        }
        let (at, times) = timeouts.entry(key).or_insert((first, 0));
        *times = if *at == first { *times + 1 } else { 1 };
        *at = first;
        *times == POISON_AFTER
    }

    /// The position of the poison notice behind `acked`, if the device has one: its connection continues from there.
    #[must_use]
    pub fn skip_poison(&self, who: &Recipient, device: &DeviceId, acked: Position) -> Option<Position> {
        let mut timeouts = self.ack_timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.clone(), device.clone());
        let (at, times) = *timeouts.get(&key)?;
        if at.epoch != acked.epoch || at.seq <= acked.seq {
            timeouts.remove(&key);
            return None;
        }
        (times >= POISON_AFTER).then_some(at)
    }

    /// Records that a connection of this device was replaced while its peer was there. True when this makes the device shared: two
    /// installations use its id.
    pub fn record_replaced(&self, who: &Recipient, device: &DeviceId, now: UnixMs) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).record(who, device, now)
    }

    /// Records that a newcomer with another token was turned away, because the client of the open connection is there. True when this makes the device
    /// shared.
    pub fn record_in_use(&self, who: &Recipient, device: &DeviceId, now: UnixMs) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).record_in_use(who, device, now)
    }

    /// How long a new connection of this device has to wait before it replaces the open one. None when there is no reason to wait.
    #[must_use]
    pub fn wait_before_replacing(&self, who: &Recipient, device: &DeviceId, now: UnixMs) -> Option<Duration> {
        let wait = self.shared.lock().unwrap_or_else(PoisonError::into_inner).wait(who, device, now)?;
        self.is_connected(who, device).then_some(wait)
    }

    /// What a session with this token is opened with: equal for equal tokens, for as long as this process lives.
    #[must_use]
    pub fn tag_of(&self, token: &str) -> TokenTag {
        self.token_tags.of(token)
    }

    /// Asks the open session of this device whether its client is there, if it was opened with another token and neither names the device. None when
    /// there is nobody to ask: a token that names the device decides whose it is.
    #[must_use]
    pub fn challenge(
        &self,
        who: &Recipient,
        device: &DeviceId,
        (binding, token): (DeviceBinding, TokenTag),
    ) -> Option<Challenge> {
        let is_of_another = |open: &Subscriber| {
            let are_unbound = !open.binding.is_bound() && !binding.is_bound();
            are_unbound && open.device.as_ref() == Some(device) && open.token != Some(token)
        };
        self.registry.find(who, is_of_another).map(Challenge::of)
    }

    /// True while the device has an open session.
    #[must_use]
    pub fn is_connected(&self, who: &Recipient, device: &DeviceId) -> bool {
        self.registry.any(who, |subscriber| subscriber.device.as_ref() == Some(device))
    }

    /// True while the device has an open session whose token names it.
    #[must_use]
    pub fn has_bound_session(&self, who: &Recipient, device: &DeviceId) -> bool {
        let is_bound = |open: &Subscriber| open.binding.is_bound() && open.device.as_ref() == Some(device);
        self.registry.any(who, is_bound)
    }

    /// The devices whose id two installations use, most replacements first.
    #[must_use]
    pub fn shared_devices(&self, now: UnixMs) -> Vec<SharedDevice> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).list(now)
    }

    /// Records that a recipient polled.
    pub fn record_poll(&self, who: &Recipient, now: UnixMs) {
        self.polled.record(who, now);
    }

    /// How a recipient can be notified now.
    #[must_use]
    pub fn reachability(&self, who: &Recipient, now: UnixMs) -> Reachability {
        if self.registry.any(who, |subscriber| subscriber.device.is_some()) {
            return Reachability::Push;
        }
        if self.polled.is_recent(who, now) { Reachability::Poll } else { Reachability::Offline }
    }

    /// Whether a device is connected, how many of its connections ended with an ack timeout, and whether it is shared.
    #[must_use]
    pub fn device(&self, who: &Recipient, device: &DeviceId, now: UnixMs) -> DeviceConnection {
        let is_connected = self.is_connected(who, device);
        let is_shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner).wait(who, device, now).is_some();
        let timeouts = self.ack_timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        let ack_timeouts = timeouts.get(&(who.clone(), device.clone())).map_or(0, |(_, times)| *times);
        DeviceConnection { is_connected, ack_timeouts, is_shared }
    }

    /// Sessions that are open now.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Polls that wait now.
    #[must_use]
    pub fn waiting_polls(&self) -> u64 {
        self.waiting_polls.load(Ordering::Relaxed)
    }

    /// Wake-ups of subscribers since the start.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Relaxed)
    }
}

impl MailboxObserver for Hub {
    fn changed(&self, who: &[Recipient]) {
        for recipient in who {
            self.registry.for_each(recipient, |subscriber| {
                self.wakeups.fetch_add(1, Ordering::Relaxed);
                let mut woken_at = subscriber.woken_at.lock().unwrap_or_else(PoisonError::into_inner);
                woken_at.get_or_insert_with(Instant::now);
                drop(woken_at);
                subscriber.wake.notify_one();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceBinding::{Bound, Unbound};
    use orderbell_protocol::Id;

    fn id(text: &str) -> Id {
        Id::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_wakeup_reaches_all_devices_of_one_recipient_and_no_other_recipient() {
        let hub = Arc::new(Hub::default());
        let (here, there) = (Recipient::store(id("1")), Recipient::store(id("10")));
        let (a, b, c) = (
            hub.connect(&here, &id("a"), Unbound, hub.tag_of("token")),
            hub.connect(&here, &id("b"), Unbound, hub.tag_of("token")),
            hub.connect(&there, &id("a"), Unbound, hub.tag_of("token")),
        );
        hub.changed(std::slice::from_ref(&here));
        hub.changed(std::slice::from_ref(&here));
        a.unwrap().wakeup().await;
        b.unwrap().wakeup().await;
        assert_eq!(hub.wakeups(), 4);
        let c = c.unwrap();
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), c.wakeup()).await;
        assert!(quiet.is_err(), "another store was woken");
    }

    #[tokio::test]
    async fn an_old_session_that_ends_does_not_remove_the_new_one_of_its_device() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let old = hub.connect(&who, &id("a"), Unbound, hub.tag_of("token")).unwrap();
        let new = hub.connect(&who, &id("a"), Unbound, hub.tag_of("token")).unwrap();
        assert!(old.is_replaced() && !new.is_replaced());
        drop(old);
        hub.changed(std::slice::from_ref(&who));
        new.wakeup().await;
        assert_eq!((hub.sessions(), hub.waiting_polls()), (1, 0));
    }

    #[test]
    fn a_notice_with_three_ack_timeouts_is_skipped() {
        let hub = Hub::default();
        let (who, device) = (Recipient::store(id("1")), id("a"));
        let at = |seq| Position { epoch: 1, seq, check: 0 };
        let timeout = |seq| hub.record_ack_timeout(&who, &device, at(seq));
        assert!(!timeout(5) && !timeout(5));
        assert_eq!(hub.skip_poison(&who, &device, at(4)), None, "two timeouts are not enough");
        assert!(!timeout(6), "the device made progress: the count starts again");
        assert!(!timeout(6) && timeout(6));
        assert_eq!(hub.skip_poison(&who, &id("b"), at(4)), None, "each device has its own count");
        assert_eq!(hub.skip_poison(&who, &device, at(4)), Some(at(6)));
        assert_eq!(hub.skip_poison(&who, &device, at(6)), None, "the device is past the notice");
        assert_eq!(hub.skip_poison(&who, &device, at(4)), None, "and the entry is gone");
    }

    #[test]
    fn subscribers_are_bounded_and_released() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let guards: Vec<_> = (0..SUBSCRIBERS_PER_RECIPIENT_MAX).map(|_| hub.wait(&who, Unbound).unwrap()).collect();
        assert!(hub.wait(&who, Unbound).is_err());
        let tills: Vec<_> = (0..SUBSCRIBERS_PER_RECIPIENT_MAX)
            .map(|n| hub.connect(&who, &id(&n.to_string()), Unbound, hub.tag_of("token")))
            .collect();
        assert!(
            tills.iter().all(Result::is_ok)
                && hub.connect(&who, &id("one more"), Unbound, hub.tag_of("token")).is_err()
        );
        assert!(hub.connect(&who, &id("1"), Unbound, hub.tag_of("token")).is_ok(), "a till that comes back");
        drop(tills);
        assert_eq!(hub.waiting_polls(), SUBSCRIBERS_PER_RECIPIENT_MAX as u64);
        drop(guards);
        assert!(hub.wait(&who, Unbound).is_ok() && hub.waiting_polls() == 0);
    }

    /// The bug: with a token of the store that names no device, 64 sockets of invented names kept each till out, and as many polls each poll that waits.
    #[test]
    fn what_names_no_device_in_its_token_takes_no_place_of_what_does() {
        let hub = Arc::new(Hub::default());
        let (who, neighbour) = (Recipient::store(id("1")), Recipient::store(id("2")));
        let names: Vec<_> = (0..SUBSCRIBERS_PER_RECIPIENT_MAX).map(|n| id(&n.to_string())).collect();
        let fill = |binding| {
            let all = names.iter().map(|name| {
                (hub.connect(&who, name, binding, hub.tag_of("token")).unwrap(), hub.wait(&who, binding).unwrap())
            });
            all.collect::<Vec<_>>()
        };
        let is_full = |binding| {
            hub.connect(&who, &id("one more"), binding, hub.tag_of("token")).is_err()
                && hub.wait(&who, binding).is_err()
        };
        let invented = fill(Unbound);
        assert!(is_full(Unbound) && !is_full(Bound));
        assert!(
            hub.connect(&neighbour, &id("1"), Unbound, hub.tag_of("token")).is_ok()
                && hub.wait(&neighbour, Unbound).is_ok()
        );
        let tills = fill(Bound);
        assert!(is_full(Bound), "one above");
        assert!(invented.iter().all(|(session, _)| session.is_replaced()), "the tills have these names");
        assert!(
            hub.connect(&who, &id("one more"), Unbound, hub.tag_of("token")).is_ok(),
            "those that were replaced make room"
        );
        drop((invented, tills));
        assert_eq!((hub.sessions(), hub.waiting_polls()), (0, 0));
    }

    /// The bug: a token that names no device replaced the living session of a till whose token names it, once the till's cursor was gone.
    #[test]
    fn a_session_that_names_no_device_in_its_token_replaces_none_that_does() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let connect = |device, binding| hub.connect(&who, &id(device), binding, hub.tag_of("token"));
        let till = connect("a", Bound).unwrap();
        assert_eq!(connect("a", Unbound).err(), Some(Refused::DeviceIsBound));
        assert!(hub.has_bound_session(&who, &id("a")) && !till.is_replaced());
        let other = connect("b", Unbound).unwrap();
        assert!(!hub.has_bound_session(&who, &id("b")) && !hub.has_bound_session(&Recipient::store(id("2")), &id("a")));
        let back = connect("a", Bound).unwrap();
        assert!(till.is_replaced() && connect("b", Bound).is_ok() && other.is_replaced());
        drop((till, back));
        assert!(connect("a", Unbound).is_ok());
    }

    /// The bug: two installations that had chosen one name replaced each other's connection again and again before any of them had to wait.
    #[tokio::test]
    async fn a_session_is_asked_whether_its_client_is_there_by_another_token_that_names_no_device() {
        let hub = Arc::new(Hub::default());
        let who = Recipient::store(id("1"));
        let (mine, other) = (hub.tag_of("mine"), hub.tag_of("other"));
        let open = hub.connect(&who, &id("a"), Unbound, mine).unwrap();
        assert!(hub.challenge(&who, &id("a"), (Unbound, mine)).is_none(), "the same till comes back");
        assert!(hub.challenge(&who, &id("a"), (Bound, other)).is_none(), "its token names the device");
        assert!(hub.challenge(&who, &id("b"), (Unbound, other)).is_none(), "another device");
        assert!(hub.challenge(&Recipient::store(id("2")), &id("a"), (Unbound, other)).is_none(), "another store");
        assert!(!open.take_challenge());
        open.record_frame();
        let challenge = hub.challenge(&who, &id("a"), (Unbound, other)).unwrap();
        open.wakeup().await;
        assert!(open.take_challenge() && !open.take_challenge());
        assert!(!challenge.is_answered(), "what came before is no answer");
        open.record_frame();
        assert!(challenge.is_answered());
        let _bound = hub.connect(&who, &id("b"), Bound, mine).unwrap();
        assert!(hub.challenge(&who, &id("b"), (Unbound, other)).is_none());
        assert_eq!(format!("{mine:?}"), "TokenTag(***)");
    }
}
