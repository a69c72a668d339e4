//! What each recipient may ask for and have at work, in shards: everything that is kept of a recipient is in one, behind a lock of its own. So no lock
//! of the whole process stands on the path of a poll or an acknowledgement, and ten thousand recipients do not wait for each other.

use std::sync::Arc;
use std::time::Duration;

use orderbell_ledger::{DeviceBinding, Sharded};
use orderbell_protocol::{Recipient, Role};

use super::class_places::RequestClass;
use super::identity_rates::{Identity, IdentityRate, IdentityRates};
use super::in_flight::InFlight;

/// A customer is one person: of the polls that may wait and of the posts at work for a store, a tenth, rounded up. Lists are few and short: a phone
/// that opens an order asks for several at once.
const CUSTOMER_DIVISOR: u16 = 10;

/// What a recipient asks for at a limited rate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// That events are stored.
    Events,
    /// A page of its mailbox, or orders.
    Polls,
    /// A session.
    Hellos,
}

#[derive(Debug, Default)]
struct Shard {
    events: IdentityRates,
    polls: IdentityRates,
    hellos: IdentityRates,
    in_flight: InFlight,
}

impl Shard {
    fn rates(&mut self, asked: Asked) -> &mut IdentityRates {
        match asked {
            Asked::Events => &mut self.events,
            Asked::Polls => &mut self.polls,
            Asked::Hellos => &mut self.hellos,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RecipientLimits(Sharded<Shard>);

/// One request at work, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    limits: Arc<RecipientLimits>,
    who: Recipient,
    class: RequestClass,
    binding: DeviceBinding,
}

impl RecipientLimits {
    /// See [`IdentityRates::take`].
    ///
    /// # Errors
    /// How long it takes until both buckets hold as many.
    pub(super) fn take(
        &self,
        asked: Asked,
        identity: Identity<'_>,
        count: u32,
        rate: IdentityRate,
        now: Duration,
    ) -> Result<(), Duration> {
        self.0.lock(identity.who).rates(asked).take(identity, count, rate, now)
    }

    /// One more request of this class and recipient; none when it has as many at work already as a store may have, which is `max`, or as a customer
    /// may. Those whose tokens name their devices are counted apart from those whose tokens name none.
    pub(super) fn begin(
        self: &Arc<Self>,
        class: RequestClass,
        (who, binding): (&Recipient, DeviceBinding),
        max: u16,
    ) -> Option<InFlightGuard> {
        let max = match (who.role, class) {
            (Role::Customer, RequestClass::WaitingPoll | RequestClass::ClientPost) => max.div_ceil(CUSTOMER_DIVISOR),
            _ => max,
        };
        let has_begun = self.0.lock(who).in_flight.begin((class, binding), who, max);
        has_begun.then(|| InFlightGuard { limits: self.clone(), who: who.clone(), class, binding })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.limits.0.lock(&self.who).in_flight.end((self.class, self.binding), &self.who);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::net::NetLimits;
    use orderbell_protocol::{DeviceId, Id};

    fn unbound<'a>(who: &'a Recipient, device: &'a DeviceId) -> Identity<'a> {
        Identity { who, device, binding: DeviceBinding::Unbound }
    }

    fn store(id: usize) -> Recipient {
        Recipient::store(Id::new(&id.to_string()).unwrap())
    }

    /// The address of a store's shard.
    fn shard_of(limits: &RecipientLimits, id: usize) -> usize {
        std::ptr::from_ref(&*limits.0.lock(&store(id))).addr()
    }

    #[test]
    fn a_thousand_recipients_are_spread_over_the_shards_and_each_stays_in_one() {
        let limits = RecipientLimits::default();
        let shards = || (0..1_000).map(|id| shard_of(&limits, id)).collect::<Vec<_>>();
        let used: HashSet<usize> = shards().into_iter().collect();
        assert!(used.len() > 32, "{} shards", used.len());
        assert_eq!(shards(), shards());
    }

    #[test]
    fn a_recipient_is_served_while_the_shard_of_another_is_locked() {
        let limits = Arc::new(RecipientLimits::default());
        let shards: Vec<usize> = (0..1_000).map(|id| shard_of(&limits, id)).collect();
        let other = store((1..1_000).find(|id| shards[*id] != shards[0]).unwrap());
        let held = limits.0.lock(&store(0));
        // A lock that both need would make this wait without end.
        let (rate, device) = (NetLimits::default().polls, Id::new("a").unwrap());
        assert_eq!(limits.take(Asked::Polls, unbound(&other, &device), 1, rate, Duration::ZERO), Ok(()));
        assert!(limits.begin(RequestClass::List, (&other, DeviceBinding::Unbound), 1).is_some());
        drop(held);
    }

    #[test]
    fn a_kind_of_request_takes_nothing_from_another() {
        let (limits, device, now) = (RecipientLimits::default(), Id::new("a").unwrap(), Duration::ZERO);
        let NetLimits { events, polls, hellos, .. } = NetLimits::default();
        for (asked, rate, burst) in
            [(Asked::Hellos, hellos, 60), (Asked::Polls, polls, 1_000), (Asked::Events, events, 1_000)]
        {
            let take = || limits.take(asked, unbound(&store(1), &device), 1, rate, now).is_ok();
            assert_eq!((0..5_000).filter(|_| take()).count(), burst, "{asked:?}");
        }
    }
}
