//! The network side: WebSocket, HTTP and the admin listener. It knows tokens, mailboxes and the hub; it does not know Kafka, and what an order
//! means only through [`Orders`].

mod admin;
mod connection;
mod cors;
mod events;
mod health;
mod ledger_handle;
mod listener;
mod local_only;
mod orders;
mod playground;
mod poll;
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
use orderbell_protocol::{ClientEvent, DeviceId, Freshness, Problem, Recipient, RejectionReason, UnixMs};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admin::alerts::AcknowledgeFuture;
pub use admin::dead_letters::{DeadLetterAccess, ReplayFuture, TopicListFuture, TopicReplayFuture};
pub use admin::inspect::{Inspection, TailError};
pub use admin::{AdminApi, BackupSource, ServerStatus, routes as admin_routes};
pub use ledger_handle::{Blocking, BlockingFailed};
pub use listener::serve;
pub use rejections::{RejectionLabels, Rejections};
use response::Refusal;
pub use stats::{ClientEventLabels, CloseLabels, NetStats};

use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::wall::Feed;
use ledger_handle::LedgerHandle;
use orderbell_ledger::{Appended, DamagedRow, DeliveryHistory, Ledger, NewEvent, OrderKey};
use retry_spread::RetrySpread;
use tokens::Tokens;

/// What orders mean. Declared here because the network side calls it; implemented by the server, which knows the mapping and the order rules.
pub trait Orders: Send + Sync + 'static {
    /// Decodes the body of `POST /v1/events`: the id of each event, and the event ready to be appended; none for an event whose type the
    /// configuration ignores. `attributes` are the headers of a CloudEvent in binary mode.
    ///
    /// # Errors
    /// A [`Problem`] that names every event that cannot be decoded; then none is taken.
    fn decode_events(
        &self,
        media_type: &str,
        attributes: &[(String, String)],
        body: &[u8],
    ) -> Result<Vec<(String, Option<NewEvent>)>, Problem>;

    /// Checks an event that a client published, and whether this client may publish it: the event ready to be appended.
    ///
    /// # Errors
    /// The reason of the rejection.
    fn check_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
        now: UnixMs,
    ) -> Result<NewEvent, RejectionReason>;

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

/// Limits of the public listener.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Limits of each session.
    pub session: session::SessionLimits,
    /// Open WebSockets. Below the process's file limit, so that the ledger's files still find room.
    pub max_connections: usize,
    /// Viewers of the wall at once.
    pub max_viewers: usize,
    /// Open HTTP connections that are not WebSockets.
    pub max_http_connections: usize,
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
    /// When the stream was not read to its end for this long, clients are told that what they see is stale.
    pub stale_after: Duration,
    /// The time over which clients of a draining server spread their return.
    pub retry_spread: Duration,
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
            max_connections: 15_000,
            max_viewers: 2_000,
            max_http_connections: 2_000,
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
    limits: ArcSwap<NetLimits>,
    pub(crate) orders: Arc<dyn Orders>,
    pub(crate) wall: Arc<Feed>,
    pub(crate) stats: Arc<NetStats>,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) viewers: Arc<Semaphore>,
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
            limits: ArcSwap::from_pointee(limits),
            orders,
            wall,
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            viewers: Arc::new(Semaphore::new(limits.max_viewers)),
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

    /// The keys that tokens are checked with now.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// Replaces keys and limits: for requests at once, for a client with a WebSocket from its next connection on. The bounds of connections and
    /// viewers, and what the listeners were started with, stay.
    pub fn reload(&self, tokens: Tokens, limits: NetLimits) {
        self.tokens.store(Arc::new(tokens));
        self.limits.store(Arc::new(limits));
    }

    /// Makes an event of a client durable: checked at the call, answered when it is durable.
    pub(crate) fn publish_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
    ) -> impl Future<Output = EventVerdict> + Send + 'static {
        let incoming = self.orders.check_client_event(who, device, event, wall_clock());
        let appended = incoming.map(|event| self.ledger.append(vec![event]));
        let stats = self.stats.clone();
        async move {
            let verdict = match appended {
                Err(reason) => EventVerdict::Rejected(reason),
                Ok(appended) => match appended.await.as_deref() {
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

    /// For how long the stream was not read to its end, when clients are told that what they see is stale.
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
        let left = retry_spread::before_expiry(self.retry_spread.next(), u64::try_from(expires.0 - now.0).unwrap_or(0));
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
            .route("/v1/notices", get(poll::poll))
            .route("/v1/orders", get(orders::list_open))
            .route("/v1/orders/{order}", get(orders::show))
            .route("/v1/events", post(events::append))
            .route("/v1/wall", get(wall::wall))
            .fallback(response::not_found)
            .method_not_allowed_fallback(response::method_not_allowed)
            .layer(axum::middleware::from_fn(cors::allow_other_origins))
            .with_state(self.clone())
    }
}
