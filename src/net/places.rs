//! The places of a listener's connections, by what they do.
//!
//! Until its upgrade a connection has one of a fixed number of places, and is in one of three phases. It is idle: it sends a head, or is kept open
//! for the next request. It has a request at work, which has a place of its own class too: those that anybody can make slow (waiting polls, bodies)
//! take none from a poll or a handshake. Or it is answering: the answer is made, and not written yet.
//!
//! A newcomer that finds all places taken gets that of the connection that has been idle for longest. There is always one: as many places as may be
//! idle are left when every class is full, and of the answering at most half of these are spared. So nobody who comes is turned away, a load
//! balancer's check among them, however many hold half a head; and whoever waits for an answer receives it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time within which a client must have taken its answer: as long as the body of a request may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time within which a connection that lost its place has ended. It has nothing to do but that: more means that the process hardly runs.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections a listener has at once, by what they do.
#[derive(Clone, Copy, Debug)]
pub struct PlaceLimits {
    /// Connections without a request. More are, while requests are fewer.
    pub idle: usize,
    /// Requests at work that are of no class of their own.
    pub requests: usize,
    /// Requests at work that move on to a class of their own, in all classes together.
    pub classes: usize,
}

/// The places of one listener.
#[derive(Clone)]
pub(super) struct Places {
    evictable: Arc<Mutex<Evictable>>,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

/// Connections that may lose their place, by age, and what ends each.
#[derive(Default)]
struct Evictable {
    next: u64,
    idle: BTreeMap<u64, CancellationToken>,
    answering: BTreeMap<u64, CancellationToken>,
    /// Of those that are answering, so many are left alone.
    max_answering: usize,
}

impl Evictable {
    /// Ends the connection that has been idle for longest; false when there is none.
    fn end_oldest(&mut self) -> bool {
        let has_too_many = self.idle.is_empty() && self.answering.len() > self.max_answering;
        let oldest = if has_too_many { self.answering.pop_first() } else { self.idle.pop_first() };
        // Within the lock: a request that begins sees whether its connection has lost its place.
        oldest.inspect(|(_, ends)| ends.cancel()).is_some()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// All places are taken, and none can be given to another.
#[derive(Debug)]
pub(super) struct NoPlace;

/// What a request that comes is given.
pub(super) enum Admission {
    /// It may be served.
    Served(RequestPlace),
    /// Too many are at work: it is refused.
    Refused(RequestPlace),
    /// The connection has lost its place, and ends.
    Lost,
}

impl Places {
    pub(super) fn new(limits: PlaceLimits) -> Self {
        let evictable = Evictable { max_answering: limits.idle / 2, ..Evictable::default() };
        Self {
            evictable: Arc::new(Mutex::new(evictable)),
            connections: Arc::new(Semaphore::new(limits.idle + limits.requests + limits.classes)),
            requests: Arc::new(Semaphore::new(limits.requests)),
        }
    }

    /// A place for a connection; also whether another connection lost its place for it. The other one has ended then: the number is exact.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub(super) async fn enter(&self) -> Result<(ConnectionPlace, bool), NoPlace> {
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            return Ok((ConnectionPlace::new(self, permit), false));
        }
        if !self.evictable().end_oldest() {
            return Err(NoPlace);
        }
        let left = tokio::time::timeout(LEAVE_TIMEOUT, self.connections.clone().acquire_owned()).await;
        let permit = left.ok().and_then(Result::ok).ok_or(NoPlace)?;
        Ok((ConnectionPlace::new(self, permit), true))
    }

    fn evictable(&self) -> MutexGuard<'_, Evictable> {
        self.evictable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Its number among the idle.
    Idle(u64),
    AtWork,
    /// Since when its answer is made, once it is; and its number among the answering.
    Answering {
        made_at: Option<Instant>,
        number: u64,
    },
}

struct Held {
    phase: Phase,
    /// Its place, until another limit counts the connection.
    permit: Option<OwnedSemaphorePermit>,
}

/// Counted as idle or at work until it is dropped.
pub(super) struct ConnectionPlace {
    places: Places,
    /// Cancelled when another connection takes its place.
    ends: CancellationToken,
    held: Mutex<Held>,
    /// Wakes a request that waits until the answer before its own is written.
    written: Notify,
    /// It has been answered, and sent nothing since.
    is_kept_open: AtomicBool,
}

impl ConnectionPlace {
    fn new(places: &Places, permit: OwnedSemaphorePermit) -> Self {
        let ends = CancellationToken::new();
        let mut evictable = places.evictable();
        let number = evictable.number();
        evictable.idle.insert(number, ends.clone());
        drop(evictable);
        let held = Mutex::new(Held { phase: Phase::Idle(number), permit: Some(permit) });
        let is_kept_open = AtomicBool::new(false);
        Self { places: places.clone(), ends, held, written: Notify::new(), is_kept_open }
    }

    /// Returns when another connection has taken its place: it must end.
    pub(super) async fn lost(&self) {
        self.ends.cancelled().await;
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection goes on to another phase. False when it has lost its place.
    fn goes_on(&self, held: &mut Held, to: impl FnOnce(u64) -> Phase) -> bool {
        let mut evictable = self.places.evictable();
        match held.phase {
            Phase::Idle(number) => drop(evictable.idle.remove(&number)),
            Phase::Answering { number, .. } => drop(evictable.answering.remove(&number)),
            Phase::AtWork => {}
        }
        held.phase = to(evictable.number());
        // One that another limit counts makes no room for a newcomer.
        if held.permit.is_some() && !self.ends.is_cancelled() {
            match held.phase {
                Phase::Idle(number) => drop(evictable.idle.insert(number, self.ends.clone())),
                Phase::Answering { number, .. } => drop(evictable.answering.insert(number, self.ends.clone())),
                Phase::AtWork => {}
            }
        }
        !self.ends.is_cancelled()
    }

    /// A request has come; one that `is_always_served` has a place however many are at work. Waits until the answer before it is written: what a
    /// client does not take stays one answer, however many requests it sends ahead.
    pub(super) async fn begin(self: &Arc<Self>, is_always_served: bool) -> Admission {
        while matches!(self.held().phase, Phase::Answering { .. }) {
            self.written.notified().await;
        }
        let permit = if is_always_served { None } else { self.places.requests.clone().try_acquire_owned().ok() };
        // Without a place of a class it is bounded as an answer is: either is made at once.
        let phase = |number| match &permit {
            Some(_) => Phase::AtWork,
            None => Phase::Answering { made_at: None, number },
        };
        if !self.goes_on(&mut self.held(), phase) {
            return Admission::Lost;
        }
        let is_served = is_always_served || permit.is_some();
        let place =
            RequestPlace(Arc::new(RequestInner { connection: self.clone(), permits: Mutex::new([permit, None]) }));
        if is_served { Admission::Served(place) } else { Admission::Refused(place) }
    }

    /// The answer is made, and handed over to be written.
    fn made(&self) {
        let mut held = self.held();
        let now = Some(Instant::now());
        match &mut held.phase {
            Phase::Answering { made_at, .. } => *made_at = now,
            Phase::AtWork => drop(self.goes_on(&mut held, |number| Phase::Answering { made_at: now, number })),
            Phase::Idle(_) => {}
        }
    }

    /// Everything that was handed over is written.
    pub(super) fn flushed(&self) {
        let mut held = self.held();
        if let Phase::Answering { made_at: Some(_), .. } = held.phase {
            self.goes_on(&mut held, Phase::Idle);
            drop(held);
            self.is_kept_open.store(true, Ordering::Relaxed);
            self.written.notify_one();
        }
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        self.is_kept_open.store(false, Ordering::Relaxed);
    }

    /// True for a connection that is kept open for the next request, of which nothing has come.
    pub(super) fn is_kept_open(&self) -> bool {
        self.is_kept_open.load(Ordering::Relaxed)
    }

    /// When the client must have taken the answer that is being written.
    pub(super) fn answer_deadline(&self) -> Option<Instant> {
        match self.held().phase {
            Phase::Answering { made_at, .. } => made_at.map(|at| at + ANSWER_TIMEOUT),
            _ => None,
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let phase = self.held().phase;
        let mut evictable = self.places.evictable();
        match phase {
            Phase::Idle(number) => drop(evictable.idle.remove(&number)),
            Phase::Answering { number, .. } => drop(evictable.answering.remove(&number)),
            Phase::AtWork => {}
        }
    }
}

/// What a place is taken from: those of its class, and, for a customer's, the part of them that customers may have.
pub(super) type PlacePermits = [Option<OwnedSemaphorePermit>; 2];

struct RequestInner {
    connection: Arc<ConnectionPlace>,
    permits: Mutex<PlacePermits>,
}

impl Drop for RequestInner {
    fn drop(&mut self) {
        self.connection.made();
    }
}

/// The place of a request, until its answer was taken. In the extensions of the request.
#[derive(Clone)]
pub(crate) struct RequestPlace(Arc<RequestInner>);

impl RequestPlace {
    /// The request and its connection are counted by another limit from now on, until the connection ends.
    pub(crate) fn release(&self) {
        *self.0.permits.lock().unwrap_or_else(PoisonError::into_inner) = [None, None];
        self.0.connection.held().permit.take();
    }

    /// The request moves on to a place of another class.
    pub(super) fn exchange(&self, permits: PlacePermits) {
        *self.0.permits.lock().unwrap_or_else(PoisonError::into_inner) = permits;
    }

    /// Keeps the place until the body was taken.
    pub(super) fn until_taken(self, body: Body) -> Body {
        Body::new(PlacedBody { body, _place: self })
    }
}

struct PlacedBody {
    body: Body,
    _place: RequestPlace,
}

impl hyper::body::Body for PlacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PlaceLimits = PlaceLimits { idle: 2, requests: 1, classes: 0 };

    /// Lets a newcomer in, and ends whoever lost its place, as its task would.
    async fn enter(places: &Places, connections: &mut Vec<Arc<ConnectionPlace>>) -> bool {
        let ended = async {
            loop {
                connections.retain(|connection| !connection.ends.is_cancelled());
                tokio::task::yield_now().await;
            }
        };
        let entered = tokio::select! {
            entered = places.enter() => entered,
            () = ended => unreachable!("it does not end"),
        };
        let Ok((place, has_ended_another)) = entered else { return false };
        connections.push(Arc::new(place));
        assert_eq!(places.connections.available_permits(), 3 - connections.len(), "the number is exact");
        has_ended_another
    }

    fn is_lost(connection: &ConnectionPlace) -> bool {
        connection.ends.is_cancelled()
    }

    async fn served(connection: &Arc<ConnectionPlace>) -> RequestPlace {
        match connection.begin(false).await {
            Admission::Served(place) => place,
            _ => panic!("it is not served"),
        }
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_oldest_idle_place_and_none_that_is_at_work() {
        let (places, mut all) = (Places::new(LIMITS), Vec::new());
        for _ in 0..3 {
            assert!(!enter(&places, &mut all).await, "the limit");
        }
        let (first, second, third) = (all[0].clone(), Arc::downgrade(&all[1]), all[2].clone());
        let request = served(&first).await;
        assert!(enter(&places, &mut all).await, "one above");
        assert!(second.upgrade().is_none(), "it was idle for longest, however young it is");
        assert!(!is_lost(&first) && !is_lost(&third));
        assert!(matches!(third.begin(false).await, Admission::Refused(_)), "too many are at work");
        drop(request);
        first.flushed();
        assert!(enter(&places, &mut all).await);
        assert!(!is_lost(&first), "it has been idle for less time than others");
    }

    #[tokio::test]
    async fn an_answer_is_written_before_its_connection_loses_its_place() {
        let (places, mut all) = (Places::new(PlaceLimits { idle: 2, requests: 1, classes: 0 }), Vec::new());
        for _ in 0..3 {
            enter(&places, &mut all).await;
        }
        let first = all[0].clone();
        let body = served(&first).await.until_taken(Body::empty());
        first.flushed();
        assert!(first.answer_deadline().is_none(), "nothing is made: what was flushed is no answer");
        drop(body);
        assert!(first.answer_deadline().is_some());
        for _ in 0..5 {
            assert!(enter(&places, &mut all).await);
        }
        assert!(!is_lost(&first));
        // Of those that answer, only as many are spared as leave idle places.
        let second = all.iter().find(|other| !Arc::ptr_eq(other, &first)).cloned().unwrap();
        drop(served(&second).await);
        let third = all.iter().find(|other| ![&first, &second].iter().any(|one| Arc::ptr_eq(one, other))).cloned();
        drop(served(&third.unwrap()).await);
        let oldest = Arc::downgrade(&first);
        drop(first);
        assert!(enter(&places, &mut all).await);
        assert!(oldest.upgrade().is_none(), "the oldest");
        assert!(!is_lost(&second));
        second.flushed();
        assert!(second.answer_deadline().is_none());
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_lost_its_place_is_not_begun() {
        let places = Places::new(PlaceLimits { idle: 1, requests: 0, classes: 0 });
        let first = Arc::new(places.enter().await.unwrap().0);
        let newcomer = tokio::time::timeout(Duration::ZERO, places.enter()).await;
        assert!(newcomer.is_err() && is_lost(&first));
        assert!(matches!(first.begin(true).await, Admission::Lost));
        assert!(matches!(places.enter().await, Err(NoPlace)), "it has not ended");
        drop(first);
        assert!(places.enter().await.is_ok());
    }

    #[tokio::test]
    async fn the_next_request_waits_until_the_answer_before_it_is_written() {
        let places = Places::new(LIMITS);
        let one = Arc::new(places.enter().await.unwrap().0);
        drop(served(&one).await);
        let next = tokio::time::timeout(Duration::ZERO, one.begin(true)).await;
        assert!(next.is_err(), "also one that is always served");
        one.flushed();
        assert!(matches!(one.begin(true).await, Admission::Served(_)));
    }

    #[tokio::test]
    async fn a_request_that_moved_to_another_class_leaves_its_place_to_others() {
        let (places, slow) = (Places::new(LIMITS), Arc::new(Semaphore::new(1)));
        let one = Arc::new(places.enter().await.unwrap().0);
        let other = Arc::new(places.enter().await.unwrap().0);
        let request = served(&one).await;
        request.exchange([slow.clone().try_acquire_owned().ok(), None]);
        drop(served(&other).await);
        assert_eq!(slow.available_permits(), 0);
        let body = request.until_taken(Body::empty());
        assert_eq!(slow.available_permits(), 0, "until its answer was taken");
        drop(body);
        assert_eq!((slow.available_permits(), places.requests.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn a_connection_that_another_limit_counts_makes_room_and_cannot_lose_its_place() {
        let places = Places::new(PlaceLimits { idle: 1, requests: 0, classes: 0 });
        let first = Arc::new(places.enter().await.unwrap().0);
        let Admission::Served(viewer) = first.begin(true).await else { panic!("it is always served") };
        viewer.release();
        let (_second, has_ended_another) = places.enter().await.unwrap();
        assert!(!has_ended_another);
        drop(viewer);
        assert!(first.answer_deadline().is_some() && !is_lost(&first));
        drop(first);
        assert_eq!(places.connections.available_permits(), 0, "its place was given back once");
    }
}
