//! The classes of requests, each with places of its own: whatever can be made slow from outside, or scans, takes no place of a poll or a handshake.

use std::sync::Arc;

use orderbell_protocol::Role;
use tokio::sync::Semaphore;

use super::NetLimits;
use super::places::{PlacePermits, RequestPlace};
use super::recipient_limits::InFlightGuard;

/// Customers together have at most the places of a class divided by this, rounded up: a few phones leave the tills theirs.
const CUSTOMERS_DIVISOR: usize = 2;

/// What a request at work does. One of another kind (a poll that does not wait, a handshake) keeps the place that its listener gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RequestClass {
    /// A poll that waits.
    WaitingPoll,
    /// Open orders, or a timeline.
    List,
    /// Events of a till or a phone.
    ClientPost,
    /// Events of a producer.
    ProducerPost,
}

/// How many places of one class are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUse {
    /// A word.
    pub class: &'static str,
    /// Places that requests have now.
    pub in_use: u64,
    /// All of them.
    pub places: u64,
}

#[derive(Debug)]
struct Class {
    word: &'static str,
    max: usize,
    free: Arc<Semaphore>,
    free_for_customers: Arc<Semaphore>,
}

impl Class {
    fn new(word: &'static str, max: usize) -> Self {
        let for_customers = max.div_ceil(CUSTOMERS_DIVISOR);
        let free_for_customers = Arc::new(Semaphore::new(for_customers));
        Self { word, max, free: Arc::new(Semaphore::new(max)), free_for_customers }
    }

    /// A place for somebody of this role, or for a producer; none when all are in use that it may have.
    fn take(&self, role: Option<Role>) -> Option<PlacePermits> {
        let of_customers = match role {
            Some(Role::Customer) => Some(self.free_for_customers.clone().try_acquire_owned().ok()?),
            Some(Role::Store) | None => None,
        };
        Some([Some(self.free.clone().try_acquire_owned().ok()?), of_customers])
    }
}

/// A place among those of a class.
#[derive(Debug)]
pub(crate) struct ClassPlace {
    /// None when the place of the request holds them.
    _permits: PlacePermits,
}

/// A request at work, until it is dropped.
#[derive(Debug)]
pub(crate) struct AtWork {
    pub(super) _of_recipient: InFlightGuard,
    pub(super) _place: ClassPlace,
}

/// The places of all classes.
#[derive(Debug)]
pub struct ClassPlaces {
    waiting_polls: Class,
    lists: Class,
    client_posts: Class,
    producer_posts: Class,
}

impl ClassPlaces {
    /// As many as the limits say.
    #[must_use]
    pub fn new(limits: &NetLimits) -> Self {
        Self {
            waiting_polls: Class::new("waiting_poll", limits.max_waiting_polls),
            lists: Class::new("list", limits.max_lists),
            client_posts: Class::new("client_post", limits.max_client_posts),
            producer_posts: Class::new("producer_post", limits.max_producer_posts),
        }
    }

    fn class(&self, class: RequestClass) -> &Class {
        match class {
            RequestClass::WaitingPoll => &self.waiting_polls,
            RequestClass::List => &self.lists,
            RequestClass::ClientPost => &self.client_posts,
            RequestClass::ProducerPost => &self.producer_posts,
        }
    }

    /// A place of this class for a request of somebody of this role, or of a producer, instead of the one that it has. It keeps it until its answer
    /// was taken. None when all are in use that it may have.
    pub(super) fn exchange(
        &self,
        class: RequestClass,
        role: Option<Role>,
        place: Option<&RequestPlace>,
    ) -> Option<ClassPlace> {
        let permits = self.class(class).take(role)?;
        let Some(place) = place else { return Some(ClassPlace { _permits: permits }) };
        place.exchange(permits);
        Some(ClassPlace { _permits: [None, None] })
    }

    /// For the metrics: how many places are taken, and how many there are.
    #[must_use]
    pub fn in_use(&self) -> [ClassUse; 4] {
        let all = [&self.waiting_polls, &self.lists, &self.client_posts, &self.producer_posts];
        all.map(|Class { word, max, free, .. }| ClassUse {
            class: word,
            in_use: (max - free.available_permits()) as u64,
            places: *max as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PlaceLimits;
    use crate::net::places::{Admission, ConnectionPlace, Places};

    /// A connection with a request; none where all requests' places are taken.
    async fn begins(connection: &Arc<ConnectionPlace>) -> Option<RequestPlace> {
        match connection.begin(false).await {
            Admission::Served(place) => Some(place),
            Admission::Refused(_) | Admission::Lost => None,
        }
    }

    #[tokio::test]
    async fn a_list_leaves_its_place_to_polls_and_handshakes_and_above_the_bound_keeps_it() {
        let places = ClassPlaces::new(&NetLimits { max_lists: 1, ..NetLimits::default() });
        let listener = Places::new(PlaceLimits { idle: 4, requests: 1, classes: 1 });
        let in_use = || places.in_use().map(|class| class.in_use);
        let mut connections = Vec::new();
        for _ in 0..4 {
            connections.push(Arc::new(listener.enter().await.unwrap().0));
        }
        let list = begins(&connections[0]).await.unwrap();
        assert!(begins(&connections[1]).await.is_none(), "the only place");
        assert!(places.exchange(RequestClass::List, Some(Role::Store), Some(&list)).is_some());
        assert_eq!(in_use(), [0, 1, 0, 0]);
        let refused = begins(&connections[2]).await.unwrap();
        assert!(places.exchange(RequestClass::List, Some(Role::Store), Some(&refused)).is_none(), "one above");
        drop(refused);
        assert!(begins(&connections[3]).await.is_some(), "a poll or a handshake at that moment");
        drop(list);
        assert_eq!(in_use(), [0; 4]);
    }

    /// The bug: a few phones that took their answers slowly had all places, and tills were refused.
    #[tokio::test]
    async fn customers_have_half_of_a_class_until_their_answers_were_taken() {
        let places = ClassPlaces::new(&NetLimits { max_client_posts: 4, ..NetLimits::default() });
        let listener = Places::new(PlaceLimits { idle: 8, requests: 4, classes: 4 });
        let mut requests = Vec::new();
        for _ in 0..4 {
            requests.push(begins(&Arc::new(listener.enter().await.unwrap().0)).await.unwrap());
        }
        let takes = |role, request: &RequestPlace| {
            places.exchange(RequestClass::ClientPost, Some(role), Some(request)).is_some()
        };
        let [first, second, third, fourth] = requests.try_into().unwrap_or_else(|_| panic!("four requests"));
        assert!(takes(Role::Customer, &first) && takes(Role::Customer, &second));
        assert!(!takes(Role::Customer, &third), "one above");
        assert!(takes(Role::Store, &third) && takes(Role::Store, &fourth), "tills at that moment");
        drop((third, fourth));
        let later = begins(&Arc::new(listener.enter().await.unwrap().0)).await.unwrap();
        assert!(!takes(Role::Customer, &later), "the answers of the first two were not taken");
        drop(first);
        assert!(takes(Role::Customer, &later));
        drop((second, later));
        assert_eq!(places.in_use().map(|class| class.in_use), [0; 4]);
        assert_eq!(places.client_posts.free_for_customers.available_permits(), 2);
    }

    #[test]
    fn the_places_of_each_class_are_those_of_the_limits() {
        let places = ClassPlaces::new(&NetLimits::default()).in_use().map(|class| (class.class, class.places));
        let wanted = [("waiting_poll", 1_000), ("list", 50), ("client_post", 150), ("producer_post", 100)];
        assert_eq!(places, wanted);
    }
}
