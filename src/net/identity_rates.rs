//! How often one recipient may ask, and one device of it: a token bucket for each kind of request, so that nobody writes rows or takes a core for ever
//! with one token, and no till that loops shuts its sisters out.
//!
//! A bucket has room for what a till does at once when it comes back after an outage, and is filled at the rate that a busy store needs. A customer
//! is one person: a tenth of both. A device has a bucket of its own inside its recipient's: what that refuses takes nothing from the recipient's.
//! Recipients are named by signed tokens alone, so nobody can invent them. Device ids can be invented where the token names none, and the recipient's
//! bucket bounds what they get together. Those that a token names have buckets of their own, and the recipient has a second one for them: what
//! clients ask whose token names no device takes nothing from the others. Pure: the caller brings the time.

use std::time::Duration;

use orderbell_ledger::DeviceBinding;
use orderbell_protocol::{DeviceId, Recipient, Role};

use super::token_bucket::{Rate, TokenBuckets};

/// A customer may ask as often as a store, divided by this.
const CUSTOMER_DIVISOR: u32 = 10;
/// A device has at most its recipient's rate divided by this: something is left for its sisters, also of a customer, and where the configured
/// rates are small.
const DEVICE_DIVISOR: u32 = 2;

/// How often a store may ask, and one device of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRate {
    /// All devices of a store together.
    pub store: Rate,
    /// One of them, and at most half of the store's rate.
    pub device: Rate,
}

impl IdentityRate {
    /// The same bursts, filled at other rates.
    #[must_use]
    pub fn per_minute(self, store: u32, device: u32) -> Self {
        Self { store: Rate { per_minute: store, ..self.store }, device: Rate { per_minute: device, ..self.device } }
    }

    fn of_recipient(self, role: Role) -> Rate {
        if role == Role::Customer { self.store.divided_by(CUSTOMER_DIVISOR) } else { self.store }
    }

    fn of_device(self, role: Role) -> Rate {
        self.device.at_most(self.of_recipient(role).divided_by(DEVICE_DIVISOR))
    }
}

/// Who asks: a device of a recipient, and whether its token names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) who: &'a Recipient,
    pub(crate) device: &'a DeviceId,
    pub(crate) binding: DeviceBinding,
}

/// The buckets of one kind of request, of the recipients of one shard.
#[derive(Debug, Default)]
pub(super) struct IdentityRates {
    recipients: TokenBuckets<(Recipient, DeviceBinding)>,
    /// A table of their own: invented devices take no recipient's place.
    devices: TokenBuckets<(Recipient, DeviceId, DeviceBinding)>,
}

impl IdentityRates {
    /// Takes `count` from the bucket of a device and from that of its recipient, or nothing when either holds fewer.
    ///
    /// # Errors
    /// How long it takes until it holds as many.
    pub(super) fn take(
        &mut self,
        Identity { who, device, binding }: Identity<'_>,
        count: u32,
        rate: IdentityRate,
        now: Duration,
    ) -> Result<(), Duration> {
        let (key, all) = ((who.clone(), device.clone(), binding), (who.clone(), binding));
        let of_device = self.devices.full_at_without(&key, count, rate.of_device(who.role), now)?;
        let of_recipient = self.recipients.full_at_without(&all, count, rate.of_recipient(who.role), now)?;
        self.devices.set(key, of_device, now);
        self.recipients.set(all, of_recipient, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    use crate::net::NetLimits;

    const RATE: IdentityRate =
        IdentityRate { store: Rate { burst: 100, per_minute: 60 }, device: Rate { burst: 20, per_minute: 12 } };

    fn store(id: &str) -> Recipient {
        Recipient::store(Id::new(id).unwrap())
    }

    fn unbound<'a>(who: &'a Recipient, device: &'a DeviceId) -> Identity<'a> {
        Identity { who, device, binding: DeviceBinding::Unbound }
    }

    /// How many of so many are let through, one after another.
    fn taken(rates: &mut IdentityRates, who: &Recipient, device: &str, of: usize, now: Duration) -> usize {
        let device = Id::new(device).unwrap();
        (0..of).filter(|_| rates.take(unbound(who, &device), 1, RATE, now).is_ok()).count()
    }

    /// The same, each under another device id.
    fn taken_by_invented(rates: &mut IdentityRates, who: &Recipient, of: usize, now: Duration) -> usize {
        (0..of).filter(|n| taken(rates, who, &format!("invented-{n}"), 1, now) == 1).count()
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_and_a_neighbour_is_not_touched() {
        let (mut rates, now) = (IdentityRates::default(), Duration::from_secs(1_000));
        let take = |rates: &mut IdentityRates, who: &str, device: &str, count| {
            rates.take(unbound(&store(who), &Id::new(device).unwrap()), count, RATE, now)
        };
        assert_eq!(taken_by_invented(&mut rates, &store("1"), 100, now), 100, "the burst");
        assert_eq!(take(&mut rates, "1", "a", 1), Err(Duration::from_secs(1)), "one above");
        assert_eq!(take(&mut rates, "1", "a", 8), Err(Duration::from_secs(8)));
        assert_eq!(take(&mut rates, "2", "a", 20), Ok(()), "its neighbour");
        let later = now + Duration::from_secs(30);
        assert_eq!(taken_by_invented(&mut rates, &store("1"), 100, later), 30, "the rate");
        let rested = later + Duration::from_secs(3_600);
        assert_eq!(taken_by_invented(&mut rates, &store("1"), 200, rested), 100, "never more");
    }

    /// The bug: a till that reconnected in a loop used up what its store may open in a minute, and its sisters were refused.
    #[test]
    fn a_device_that_loops_is_refused_by_its_own_bucket_and_its_sisters_are_not() {
        let (mut rates, who, now) = (IdentityRates::default(), store("1"), Duration::from_secs(1_000));
        assert_eq!(taken(&mut rates, &who, "loops", 10_000, now), 20, "its burst");
        let looping = Id::new("loops").unwrap();
        assert_eq!(rates.take(unbound(&who, &looping), 1, RATE, now), Err(Duration::from_secs(5)), "its own rate");
        for sister in ["a", "b", "c", "d"] {
            assert_eq!(
                taken(&mut rates, &who, sister, 30, now),
                20,
                "{sister}: what the loop was refused is not taken from the store"
            );
        }
        // The loop goes on all the time: it has its own rate, and a sister all that is left.
        let mut got = (0, 0);
        for second in 1..=60 {
            let now = now + Duration::from_secs(second);
            got.0 += taken(&mut rates, &who, "loops", 100, now);
            got.1 += taken(&mut rates, &who, "late sister", 1, now);
        }
        assert_eq!(got, (12, 31), "20 at once, and 11 in the 59 seconds after");
    }

    #[test]
    fn invented_devices_get_no_more_than_their_recipient_has() {
        let (mut rates, who, now) = (IdentityRates::default(), store("1"), Duration::from_secs(1_000));
        assert_eq!(taken_by_invented(&mut rates, &who, 50_000, now), 100);
        assert_eq!(rates.devices.len(), 100, "nothing is kept of those that were refused");
        assert_eq!(taken(&mut rates, &store("2"), "a", 1, now), 1, "its neighbour");
    }

    /// The bug: whoever had a token of the store that names no device used up the rates of its tills, under invented names or under theirs.
    #[test]
    fn what_is_asked_with_tokens_that_name_no_device_takes_nothing_from_devices_that_are_named() {
        let (mut rates, who, now) = (IdentityRates::default(), store("1"), Duration::from_secs(1_000));
        let till = Id::new("till-1").unwrap();
        assert_eq!(taken(&mut rates, &who, "till-1", 100, now), 20, "under the name of the till");
        assert_eq!(taken_by_invented(&mut rates, &who, 100, now), 80, "and all that the store has");
        let bound = |device| Identity { binding: DeviceBinding::Bound, ..unbound(&who, device) };
        assert_eq!((0..100).filter(|_| rates.take(bound(&till), 1, RATE, now).is_ok()).count(), 20);
        // The devices that tokens name share a bucket of their recipient, too.
        let others: Vec<_> = (0..8).map(|n| Id::new(&format!("till-{}", n + 2)).unwrap()).collect();
        let of_others =
            others.iter().flat_map(|till| [till; 20]).filter(|till| rates.take(bound(till), 1, RATE, now).is_ok());
        assert_eq!(of_others.count(), 80);
    }

    #[test]
    fn a_customer_has_a_tenth_and_each_of_its_devices_half_of_that_and_all_have_at_least_one() {
        let (mut rates, who) = (IdentityRates::default(), Recipient::customer(Id::new("c").unwrap()));
        assert_eq!(taken(&mut rates, &who, "phone", 200, Duration::ZERO), 5);
        assert_eq!(taken(&mut rates, &who, "tablet", 200, Duration::ZERO), 5);
        let (one, mut other) = (Rate { burst: 1, per_minute: 1 }, IdentityRates::default());
        let least = IdentityRate { store: one, device: one };
        assert_eq!(other.take(unbound(&who, &Id::new("phone").unwrap()), 1, least, Duration::ZERO), Ok(()));
    }

    /// A balancer that restarts every three seconds for a minute: each till of a large store comes back twice each time.
    #[test]
    fn twelve_tills_that_lose_their_connections_twenty_times_in_a_minute_are_all_let_in() {
        let (mut rates, who, hellos) = (IdentityRates::default(), store("1"), NetLimits::default().hellos);
        for cut in 0..20 {
            for till in 0..12 {
                let (device, at) = (Id::new(&format!("till-{till}")).unwrap(), Duration::from_secs(cut * 3));
                assert_eq!(rates.take(unbound(&who, &device), 1, hellos, at), Ok(()));
                assert_eq!(rates.take(unbound(&who, &device), 1, hellos, at + Duration::from_secs(1)), Ok(()));
            }
        }
    }

    /// The bug: whoever had used up a burst at a low rate was refused for as long after the rate was raised, since the debt was kept as a time.
    #[test]
    fn a_rate_that_is_raised_holds_at_once_for_those_who_have_nothing_left() {
        let (mut rates, who, now) = (IdentityRates::default(), store("1"), Duration::from_secs(1_000));
        assert_eq!(taken_by_invented(&mut rates, &who, 80, now), 80);
        assert_eq!(taken(&mut rates, &who, "a", 30, now), 20, "both are empty");
        let raised = RATE.per_minute(600, 120);
        let take = |rates: &mut IdentityRates, device: &str, now| {
            rates.take(unbound(&who, &Id::new(device).unwrap()), 1, raised, now)
        };
        assert_eq!(take(&mut rates, "a", now), Err(Duration::from_millis(500)), "one interval of a device");
        assert_eq!(take(&mut rates, "b", now), Err(Duration::from_millis(100)), "one of its store");
        let later = now + Duration::from_millis(500);
        assert_eq!(take(&mut rates, "a", later), Ok(()));
        assert_eq!(take(&mut rates, "a", later), Err(Duration::from_millis(500)), "no burst is given away");
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let mut rates = IdentityRates::default();
        for n in 0..20_000_u64 {
            let now = Duration::from_millis(n * 10);
            assert_eq!(taken(&mut rates, &store(&n.to_string()), "a", 1, now), 1);
        }
        assert!(rates.recipients.len() < 300, "a hundred are in use at a time");
        assert!(rates.devices.len() < 1_500, "five hundred");
    }
}
