//! The network side: WebSocket, HTTP and the admin listener. It knows tokens, mailboxes and the hub; it does not know Kafka, and what an order
//! means only through [`Orders`].

mod admin;
mod authentication;
mod class_places;
mod connection;
mod content_encoding;
mod cors;
mod events;
mod frame_meter;
mod health;
mod identity_rates;
mod in_flight;
mod ledger_handle;
mod listener;
mod local_only;
mod orders;
mod placed_stream;
mod places;
mod playground;
mod poll;
mod recipient_limits;
mod rejections;
mod response;
mod retry_spread;
mod static_files;
mod stats;
pub mod tokens;
mod upgrade;
mod wall;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::{get, post};
use orderbell_protocol::frame::OpenOrder;
use orderbell_protocol::session;
use orderbell_protocol::session::EventVerdict;
use orderbell_protocol::{
    ClientEvent, DeviceId, Freshness, Problem, ProblemCode, Recipient, RejectionReason, Role, UnixMs,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admin::alerts::AcknowledgeFuture;
pub use admin::dead_letters::{DeadLetterAccess, ReplayFuture, TopicAccessError, TopicListFuture, TopicReplayFuture};
pub use admin::inspect::{Inspection, TailError};
pub use admin::{AdminApi, BackupSource, ServerStatus, routes as admin_routes};
pub use class_places::{ClassPlaces, ClassUse};
pub use identity_rates::{IdentityRate, Rate};
pub use ledger_handle::{Blocking, BlockingFailed};
pub use listener::{Listening, serve};
pub use places::PlaceLimits;
use places::RequestPlace;
pub use rejections::{RejectionLabels, Rejections};
use response::Refusal;
pub use stats::{ClientEventLabels, CloseLabels, NetStats};

use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::wall::Feed;
use class_places::{AtWork, ClassPlace, RequestClass};
use ledger_handle::LedgerHandle;
use orderbell_ledger::{Appended, DamagedRow, DeliveryHistory, Ledger, NewEvent, OrderKey};
use recipient_limits::{Asked, RecipientLimits};
use retry_spread::RetrySpread;
use tokens::Tokens;

/// What orders mean. Declared here because the network side calls it; implemented by the server, which knows the mapping and the order rules.
pub trait Orders: Send + Sync + 'static {
    /// True for a header of a request that the configured mapping reads.
    fn reads_header(&self, name: &str) -> bool;

    /// Decodes the body of `POST /v1/events`: the id of each event, and the event ready to be appended; none for an event whose type the
    /// configuration ignores. `headers` are those of a CloudEvent in binary mode, and those that [`Self::reads_header`] names.
    ///
    /// # Errors
    /// A [`Problem`] that names every event that cannot be decoded; then none is taken.
    fn decode_events(
        &self,
        media_type: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Vec<(String, Option<NewEvent>)>, Problem>;

    /// Checks an event that a client published, and whether this client may publish it: the event ready to be appended, or none when it repeats
    /// what the order already knows.
    ///
    /// # Errors
    /// The reason of the rejection.
    fn check_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
        now: UnixMs,
    ) -> Result<Option<NewEvent>, RejectionReason>;

    /// What a recipient may see of an order, from its stored state; with its delivery history, also the timeline. None when the order is not theirs.
    ///
    /// # Errors
    /// The state does not decode. An order that cannot be shown must not look like one that is not there.
    fn view(
        &self,
        who: &Recipient,
        key: &OrderKey,
        state: &[u8],
        history: Option<&DeliveryHistory>,
    ) -> Result<Option<OpenOrder>, DamagedRow>;

    /// Everything that the log held at this time is read and durable. None while that is unknown.
    fn as_of(&self) -> Option<UnixMs>;
}

/// When a recipient may come again that has too many requests at work.
const BUSY_RETRY: Duration = Duration::from_secs(5);
/// Connections of the admin listener without a request.
pub const ADMIN_IDLE_CONNECTIONS_MAX: usize = 32;
/// Requests of the admin listener at work; `/live` and `/ready` do not count.
pub const ADMIN_REQUESTS_MAX: usize = 32;

/// Limits of the public listener.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Time-outs and limits of one WebSocket.
    pub session: session::SessionLimits,
    /// Events that the clients of one store may report.
    pub events: IdentityRate,
    /// Polls and requests for orders of one store.
    pub polls: IdentityRate,
    /// Sessions that one store may begin.
    pub hellos: IdentityRate,
    /// Tolerated difference between the clocks of the tokens' issuer and this server.
    pub clock_skew: Duration,
    /// Open WebSockets. Below the process's file limit, so that the ledger's files still find room.
    pub max_connections: usize,
    /// Viewers of the wall at once.
    pub max_viewers: usize,
    /// HTTP connections without a request: those that send the head of one, and those that are kept open for the next. More are, while
    /// requests are fewer than they may be.
    pub max_idle_connections: usize,
    /// Requests at work that are of no class of their own: polls that do not wait, handshakes.
    pub max_requests: usize,
    /// Polls that wait at once. Above it a poll is answered without waiting. Customers together have half of these, and of lists and posts.
    pub max_waiting_polls: usize,
    /// The same of one store; a customer has a tenth.
    pub max_waiting_polls_per_recipient: u16,
    /// Requests for open orders and timelines at work, which scan.
    pub max_lists: usize,
    /// The same of one recipient.
    pub max_lists_per_recipient: u16,
    /// `POST /v1/events` of tills and phones at work, whose bodies may come slowly.
    pub max_client_posts: usize,
    /// The same of one store; a customer has a tenth.
    pub max_posts_per_recipient: u16,
    /// `POST /v1/events` of producers at work.
    pub max_producer_posts: usize,
    /// Time within which the head of a request must have arrived.
    pub head_timeout: Duration,
    /// Longest time that a poll waits. Below the 60 s after which many proxies end a silent request.
    pub max_poll_wait: Duration,
    /// Largest number of notices in the answer to one poll.
    pub max_poll_notices: u16,
    /// When a client without a WebSocket should poll again.
    pub poll_interval: Duration,
    /// The time over which a drain spreads its `goaway` frames.
    pub drain_spread: Duration,
    /// When the stream was not read to its end for this long, clients see `stale`.
    pub stale_after: Duration,
    /// The time over which clients of a draining server spread their return.
    pub retry_spread: Duration,
}

impl NetLimits {
    /// The largest number of connections of all kinds, those of the admin listener among them.
    #[must_use]
    pub fn max_descriptors(&self) -> usize {
        let PlaceLimits { idle, requests, classes } = self.places();
        let admin = ADMIN_IDLE_CONNECTIONS_MAX + ADMIN_REQUESTS_MAX;
        self.max_connections + self.max_viewers + idle + requests + classes + admin
    }

    /// The connections of the public listener before their upgrade, and their requests.
    #[must_use]
    pub fn places(&self) -> PlaceLimits {
        let posts = self.max_client_posts + self.max_producer_posts;
        let classes = self.max_waiting_polls + self.max_lists + posts;
        PlaceLimits { idle: self.max_idle_connections, requests: self.max_requests, classes }
    }
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            session: session::SessionLimits {
                hello_timeout: Duration::from_secs(5),
                max_in_flight: 64,
                page_size: 32,
                heartbeat_interval: Duration::from_secs(25),
                idle_timeout: Duration::from_secs(70),
                ack_timeout: Duration::from_secs(10),
                max_delivery_attempts: 4,
                max_frames_per_second: 200,
                // A till is used with one hand; what it collected during an outage goes out in batches of eight.
                max_pending_events: 8,
            },
            // The bursts of a device: what a till collects during an outage, the pages of a full mailbox five times, and a minute of connections
            // that are cut at once. Those of a store: two such devices, as it may have a single one that does everything; and ten times as many
            // connections as it may have.
            events: IdentityRate {
                store: Rate { burst: 2_000, per_minute: 240 },
                device: Rate { burst: 1_000, per_minute: 120 },
            },
            polls: IdentityRate {
                store: Rate { burst: 2_000, per_minute: 1_200 },
                device: Rate { burst: 1_000, per_minute: 600 },
            },
            hellos: IdentityRate {
                store: Rate { burst: 640, per_minute: 240 },
                device: Rate { burst: 60, per_minute: 30 },
            },
            clock_skew: Duration::from_secs(60),
            max_connections: 15_000,
            max_viewers: 2_000,
            // Together 2,500. A class of its own for whatever can be made slow from outside: it takes no place of another.
            max_idle_connections: 1_000,
            max_requests: 200,
            max_waiting_polls: 1_000,
            // A store has a handful of tills, and each waits with one poll.
            max_waiting_polls_per_recipient: 32,
            // A scan takes a thread for milliseconds: fifty keep every core busy, and eight tills of one store come back at once.
            max_lists: 50,
            max_lists_per_recipient: 8,
            max_client_posts: 150,
            max_posts_per_recipient: 8,
            max_producer_posts: 100,
            head_timeout: Duration::from_secs(5),
            max_poll_wait: Duration::from_secs(50),
            max_poll_notices: 100,
            poll_interval: Duration::from_secs(60),
            drain_spread: Duration::from_secs(2),
            stale_after: Duration::from_secs(30),
            retry_spread: Duration::from_secs(10),
        }
    }
}

/// What all requests and connections share.
pub struct AppState {
    pub(crate) ledger: LedgerHandle,
    pub(crate) hub: Arc<Hub>,
    tokens: ArcSwap<Tokens>,
    /// A token named a key that is unknown.
    unknown_key: Notify,
    limits: ArcSwap<NetLimits>,
    pub(crate) orders: Arc<dyn Orders>,
    pub(crate) wall: Arc<Feed>,
    pub(crate) stats: Arc<NetStats>,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) viewers: Arc<Semaphore>,
    places: Arc<ClassPlaces>,
    of_recipients: Arc<RecipientLimits>,
    draining: AtomicBool,
    started: Instant,
    started_at: UnixMs,
    retry_spread: RetrySpread,
}

impl AppState {
    /// The shared state of a server that starts now.
    #[must_use]
    pub fn new(
        ledger: Arc<Ledger>,
        hub: Arc<Hub>,
        tokens: Tokens,
        limits: NetLimits,
        orders: Arc<dyn Orders>,
        wall: Arc<Feed>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: LedgerHandle::new(ledger),
            hub,
            tokens: ArcSwap::from_pointee(tokens),
            unknown_key: Notify::new(),
            limits: ArcSwap::from_pointee(limits),
            orders,
            wall,
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            viewers: Arc::new(Semaphore::new(limits.max_viewers)),
            places: Arc::new(ClassPlaces::new(&limits)),
            of_recipients: Arc::default(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            started_at: wall_clock(),
            retry_spread: RetrySpread::default(),
        })
    }

    /// The limits that hold now.
    pub(crate) fn limits(&self) -> NetLimits {
        **self.limits.load()
    }

    /// Replaces keys and limits: for requests at once, for a client with a WebSocket from its next connection on. The bounds of connections and
    /// viewers, and what the listeners were started with, stay.
    pub fn reload(&self, tokens: Tokens, limits: NetLimits) {
        self.set_tokens(tokens);
        self.limits.store(Arc::new(limits));
    }

    /// Takes so many events from the rates of a device and its recipient.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn admit_events(&self, who: &Recipient, device: &DeviceId, events: usize) -> Result<(), Refusal> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let taken = self.of_recipients.take(Asked::Events, (who, device), events, self.limits().events, self.uptime());
        taken.map_err(|wait| self.rate_limited(who, wait))
    }

    /// Takes a request from the rates of a device and its recipient.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn admit_request(&self, who: &Recipient, device: &DeviceId) -> Result<(), Refusal> {
        self.take_poll(who, device).map_err(|wait| self.rate_limited(who, wait))
    }

    /// As [`Self::admit_request`], for a poll that may be answered nevertheless.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn take_poll(&self, who: &Recipient, device: &DeviceId) -> Result<(), Duration> {
        self.of_recipients.take(Asked::Polls, (who, device), 1, self.limits().polls, self.uptime())
    }

    /// Takes a session from the rates of a device and its recipient; false when either has none left.
    pub(crate) fn admit_hello(&self, who: &Recipient, device: &DeviceId) -> bool {
        self.of_recipients.take(Asked::Hellos, (who, device), 1, self.limits().hellos, self.uptime()).is_ok()
    }

    /// A place for a poll that waits, instead of its place among the requests, until its answer was taken. None when too many wait, of this
    /// recipient or of all: then it is answered at once, and that is recorded.
    pub(crate) fn begin_waiting(&self, who: &Recipient, place: Option<&RequestPlace>) -> Option<AtWork> {
        let (class, max) = (RequestClass::WaitingPoll, self.limits().max_waiting_polls_per_recipient);
        let began = self.of_recipients.begin(class, who, max).and_then(|of_recipient| {
            let place = self.places.exchange(class, Some(who.role), place)?;
            Some(AtWork { _of_recipient: of_recipient, _place: place })
        });
        if began.is_none() {
            self.too_many_wait(who);
        }
        began
    }

    /// Records that a poll is answered at once, because too many wait.
    pub(crate) fn too_many_wait(&self, who: &Recipient) {
        self.stats.rejections.record("too-many-waiting-polls", Some(who));
    }

    /// A place for a request for open orders or a timeline, instead of its place among the requests.
    ///
    /// # Errors
    /// As many of this recipient are at work as may be, or of all.
    pub(crate) fn begin_list(&self, who: &Recipient, place: Option<&RequestPlace>) -> Result<AtWork, Refusal> {
        self.begin(RequestClass::List, who, self.limits().max_lists_per_recipient, place)
    }

    /// A place for the posted events of a till or a phone, instead of its place among the requests.
    ///
    /// # Errors
    /// As many of this recipient are at work as may be, or of all.
    pub(crate) fn begin_client_post(&self, who: &Recipient, place: Option<&RequestPlace>) -> Result<AtWork, Refusal> {
        self.begin(RequestClass::ClientPost, who, self.limits().max_posts_per_recipient, place)
    }

    fn begin(
        &self,
        class: RequestClass,
        who: &Recipient,
        max: u16,
        place: Option<&RequestPlace>,
    ) -> Result<AtWork, Refusal> {
        let Some(of_recipient) = self.of_recipients.begin(class, who, max) else {
            return Err(self.rate_limited(who, BUSY_RETRY));
        };
        let place = self.exchange(class, Some(who.role), place)?;
        Ok(AtWork { _of_recipient: of_recipient, _place: place })
    }

    /// A place for the posted events of a producer, instead of its place among the requests.
    ///
    /// # Errors
    /// As many are at work as may be.
    pub(crate) fn begin_producer_post(&self, place: Option<&RequestPlace>) -> Result<ClassPlace, Refusal> {
        self.exchange(RequestClass::ProducerPost, None, place)
    }

    fn exchange(
        &self,
        class: RequestClass,
        role: Option<Role>,
        place: Option<&RequestPlace>,
    ) -> Result<ClassPlace, Refusal> {
        self.places.exchange(class, role, place).ok_or_else(|| {
            self.stats.record_full("too-many-requests");
            Problem::too_many_requests("too many requests of this kind", 5_000).into()
        })
    }

    /// The places of the classes of requests.
    #[must_use]
    pub fn places(&self) -> &Arc<ClassPlaces> {
        &self.places
    }

    pub(crate) fn rate_limited(&self, who: &Recipient, wait: Duration) -> Refusal {
        self.stats.rejections.record("rate-limited", Some(who));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Refusal(Problem::new(ProblemCode::RateLimited).retry_after_ms(wait_ms))
    }

    /// Makes an event of a client durable: checked at the call, answered when it is durable.
    pub(crate) fn publish_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
    ) -> impl Future<Output = EventVerdict> + Send + 'static {
        let incoming = self.orders.check_client_event(who, device, event, wall_clock());
        let appended = incoming.map(|event| event.map(|event| self.ledger.append(vec![event])));
        let stats = self.stats.clone();
        async move {
            let verdict = match appended {
                Err(reason) => EventVerdict::Rejected(reason),
                Ok(None) => EventVerdict::Duplicate,
                Ok(Some(appended)) => match appended.await.as_deref() {
                    Ok([Appended::Stored]) => EventVerdict::Stored,
                    Ok([Appended::Duplicate]) => EventVerdict::Duplicate,
                    Ok([Appended::Conflict]) => EventVerdict::Rejected(RejectionReason::Conflict),
                    _ => EventVerdict::Rejected(RejectionReason::Unavailable),
                },
            };
            stats.record_client_event(verdict);
            verdict
        }
    }

    /// Up to when the stream has been read, and whether that is too long ago. For `stale_after` after a start an unknown `as_of` is not stale.
    pub fn freshness(&self) -> Freshness {
        let (at, as_of) = (wall_clock(), self.orders.as_of());
        let since = as_of.unwrap_or(self.started_at);
        let stale_after = i64::try_from(self.limits().stale_after.as_millis()).unwrap_or(i64::MAX);
        // While the ledger is rebuilt from the log, it holds only a part of what happened.
        let stale = since.plus_ms(stale_after) < at || self.ledger.is_rebuilding();
        Freshness { at, as_of, stale }
    }

    /// For how long the stream was not read to its end, when clients see `stale`.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        let fresh = self.freshness();
        let ms = fresh.at.0 - fresh.as_of.unwrap_or(self.started_at).0;
        fresh.stale.then(|| Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// Time since the start: the clock of the sessions.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counters of the network side.
    #[must_use]
    pub fn stats(&self) -> &Arc<NetStats> {
        &self.stats
    }

    /// The registry of connected subscribers.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The tasks that a drain waits for.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the drain begins.
    #[must_use]
    pub fn draining_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// True once [`Self::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Records that a token of another role was sent. To the client nothing is there.
    pub(crate) fn wrong_role(&self) -> Refusal {
        self.stats.rejections.record("token-role", None);
        Refusal(Problem::not_found())
    }

    /// Records that a handshake is turned away with this problem.
    pub(crate) fn rejected(&self, problem: Problem) -> Refusal {
        if let std::borrow::Cow::Borrowed(code) = problem.code {
            self.stats.rejections.record(code, None);
        }
        Refusal(problem)
    }

    /// When the next viewer of the wall leaves whose token is taken until `expires`: screens often share one token.
    pub(crate) fn end_of_viewer(&self, expires: UnixMs) -> UnixMs {
        let now = wall_clock();
        let left = u64::try_from(expires.0.saturating_sub(now.0)).unwrap_or(0);
        let left = retry_spread::before_expiry(self.retry_spread.next(), left, self.limits().clock_skew);
        now.plus_ms(i64::try_from(left).unwrap_or(i64::MAX))
    }

    /// When the next client of a stopping server should reconnect, in milliseconds: after the restart, and spread over `retry_spread`.
    pub(crate) fn retry_ms(&self) -> u32 {
        self.retry_spread.next_ms(self.limits().retry_spread)
    }

    /// Stops accepting, sends every client away at a paced rate, and waits until all are gone, at most `timeout`. True when all were.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.draining.store(true, Ordering::Release);
        self.drain.cancel();
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }

    /// The public routes. With `playground`, also the playground pages and the route that issues their tokens.
    pub fn routes(self: &Arc<Self>, playground: bool) -> Router {
        let shared = static_files::add(Router::new(), crate::pages::SHARED);
        let mut routes = static_files::add(shared, crate::pages::PUBLIC);
        if playground {
            routes = playground::add(static_files::add(routes, crate::pages::PLAYGROUND));
        }
        routes
            .route("/healthz", get(health::health))
            .route("/v1/ws", get(upgrade::upgrade))
            .route("/v1/notices", get(poll::poll).head(response::only_get))
            .route("/v1/orders", get(orders::list_open))
            .route("/v1/orders/{order}", get(orders::show))
            .route("/v1/events", post(events::append))
            .route("/v1/wall", get(wall::wall))
            .fallback(response::not_found)
            .method_not_allowed_fallback(response::method_not_allowed)
            .layer(axum::middleware::map_response(response::only_problems))
            .layer(axum::middleware::from_fn(cors::allow_other_origins))
            .with_state(self.clone())
    }
}
