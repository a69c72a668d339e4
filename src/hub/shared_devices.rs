//! Devices whose id two installations use: each connection replaces the other's, without end.
//!
//! A till whose network fails replaces its own old connection, and that is no fault. So only a replaced connection whose peer reacted to the close
//! is recorded: two peers were there at once. Several of these within a short time make the device shared: operators are alerted, and a newcomer
//! waits longer and longer before it replaces a connection that is still open. Meanwhile one of the two is served in peace. A newcomer with another
//! token that is turned away because the other is there (`challenge`) makes it shared at once. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use orderbell_protocol::{DeviceId, Recipient, UnixMs};

/// Replacements within [`WINDOW_MS`] from which a device counts as shared. An installation that was copied over to a new machine makes one or two.
const SHARED_AFTER: usize = 5;
/// Clients that keep to the protocol wait for minutes after a replacement. Milliseconds.
const WINDOW_MS: i64 = 10 * 60_000;
/// How long the first newcomer to a shared device waits; doubled for each replacement since. A person does not notice it.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait: less than clients wait for their `welcome` (10 s), or a till behind its own half-open connection would never be served.
const WAIT_MAX: Duration = Duration::from_secs(8);
/// Devices that are remembered. One beyond this bound is not tracked.
const DEVICES_MAX: usize = 10_000;

/// Replacements of one device.
#[derive(Debug, Default)]
struct Replacements {
    /// The newest ones, at most [`SHARED_AFTER`].
    recent: VecDeque<UnixMs>,
    /// All of them since the last pause of a window.
    count: u32,
}

impl Replacements {
    fn is_over(&self, now: UnixMs) -> bool {
        self.recent.back().is_none_or(|at| at.plus_ms(WINDOW_MS) <= now)
    }

    fn is_shared(&self, now: UnixMs) -> bool {
        self.recent.len() == SHARED_AFTER && self.recent.front().is_some_and(|at| at.plus_ms(WINDOW_MS) > now)
    }
}

/// A device that two installations use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDevice {
    /// Whose device it is.
    pub who: Recipient,
    /// Its name.
    pub device: DeviceId,
    /// How often its connection was replaced.
    pub replacements: u32,
}

#[derive(Debug, Default)]
pub(super) struct SharedDevices(HashMap<(Recipient, DeviceId), Replacements>);

impl SharedDevices {
    /// A connection of this device was replaced while its peer was there. True when this makes the device shared.
    pub(super) fn record(&mut self, who: &Recipient, device: &DeviceId, now: UnixMs) -> bool {
        self.change(who, device, now, |entry| {
            if entry.recent.len() == SHARED_AFTER {
                entry.recent.pop_front();
            }
            entry.recent.push_back(now);
            entry.count = entry.count.saturating_add(1);
        })
    }

    /// A newcomer with another token was turned away, because the client of the open connection is there: two installations for certain. True when
    /// this makes the device shared.
    pub(super) fn record_in_use(&mut self, who: &Recipient, device: &DeviceId, now: UnixMs) -> bool {
        self.change(who, device, now, |entry| {
            entry.recent = [now; SHARED_AFTER].into();
            entry.count = entry.count.max(SHARED_AFTER as u32);
        })
    }

    fn change(
        &mut self,
        who: &Recipient,
        device: &DeviceId,
        now: UnixMs,
        change: impl FnOnce(&mut Replacements),
    ) -> bool {
        let key = (who.clone(), device.clone());
        if self.0.len() >= DEVICES_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, replacements| !replacements.is_over(now));
            if self.0.len() >= DEVICES_MAX {
                return false;
            }
        }
        let entry = self.0.entry(key).or_default();
        if entry.is_over(now) {
            *entry = Replacements::default();
        }
        let was_shared = entry.is_shared(now);
        change(entry);
        !was_shared && entry.is_shared(now)
    }

    /// How long a newcomer waits before it replaces an open connection of this device. None while the device is not shared.
    pub(super) fn wait(&self, who: &Recipient, device: &DeviceId, now: UnixMs) -> Option<Duration> {
        let entry = self.0.get(&(who.clone(), device.clone())).filter(|entry| entry.is_shared(now))?;
        let doublings = entry.count.saturating_sub(SHARED_AFTER as u32).min(16);
        Some((WAIT_MIN * 2_u32.pow(doublings)).min(WAIT_MAX))
    }

    /// The shared devices, most replacements first.
    pub(super) fn list(&self, now: UnixMs) -> Vec<SharedDevice> {
        let shared = self.0.iter().filter(|(_, entry)| entry.is_shared(now));
        let named = |((who, device), entry): (&(Recipient, DeviceId), &Replacements)| SharedDevice {
            who: who.clone(),
            device: device.clone(),
            replacements: entry.count,
        };
        let mut all: Vec<_> = shared.map(named).collect();
        all.sort_by(|a, b| (b.replacements, &a.device).cmp(&(a.replacements, &b.device)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    #[test]
    fn a_device_is_shared_after_five_replacements_and_newcomers_wait_longer_and_longer() {
        let (who, device) = (Recipient::store(Id::new("17").unwrap()), Id::new("till-1").unwrap());
        let mut shared = SharedDevices::default();
        let at = |second: i64| UnixMs(1_000 * second);
        let became: Vec<bool> = (0..6).map(|n| shared.record(&who, &device, at(n))).collect();
        assert_eq!(became, [false, false, false, false, true, false]);
        assert_eq!(shared.wait(&who, &device, at(6)), Some(Duration::from_secs(2)));
        assert_eq!(shared.wait(&who, &Id::new("till-2").unwrap(), at(6)), None, "its neighbour");
        (6..40).for_each(|n| _ = shared.record(&who, &device, at(n)));
        assert_eq!(shared.wait(&who, &device, at(40)), Some(WAIT_MAX));
        assert_eq!(shared.list(at(40)), [SharedDevice { who: who.clone(), device: device.clone(), replacements: 40 }]);
        // The other installation has an id of its own now.
        assert_eq!((shared.wait(&who, &device, at(640)), shared.list(at(640)).len()), (None, 0));
        assert!(!shared.record(&who, &device, at(700)), "it begins anew");
    }

    #[test]
    fn a_device_in_use_is_shared_at_once_and_a_till_that_comes_back_waits_no_longer_for_it() {
        let (who, device) = (Recipient::store(Id::new("17").unwrap()), Id::new("till-1").unwrap());
        let mut shared = SharedDevices::default();
        let became: Vec<bool> = (0..20).map(|n| shared.record_in_use(&who, &device, UnixMs(n))).collect();
        assert_eq!((became[0], became[1..].contains(&true)), (true, false));
        assert_eq!(shared.wait(&who, &device, UnixMs(20)), Some(WAIT_MIN));
        assert_eq!(shared.list(UnixMs(20 + WINDOW_MS)).len(), 0);
    }

    #[test]
    fn replacements_far_apart_make_nothing_shared_and_the_devices_are_bounded() {
        let (who, device) = (Recipient::store(Id::new("17").unwrap()), Id::new("till-1").unwrap());
        let mut shared = SharedDevices::default();
        assert!((0..50).all(|n| !shared.record(&who, &device, UnixMs(n * 150_001))));
        for n in 0..DEVICES_MAX + 10 {
            shared.record(&who, &Id::new(&format!("d{n}")).unwrap(), UnixMs(50 * 150_001));
        }
        assert_eq!(shared.0.len(), DEVICES_MAX);
        shared.record(&who, &Id::new("new").unwrap(), UnixMs(100 * 150_001));
        assert_eq!(shared.0.len(), 1, "what is over makes room");
    }
}
