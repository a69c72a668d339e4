//! Sockets and HTTP. Knows tokens, mailboxes and the hub; knows nothing of Kafka.

mod admin;
mod connection;
mod events;
mod letters;
mod listener;
mod orders;
mod origins;
mod pages;
mod poll;
mod reply;
mod stores;
pub mod tokens;
mod trial;
mod upgrade;
mod wall;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::{get, post};
use orderbell_protocol::session;
use orderbell_protocol::session::Verdict;
use orderbell_protocol::{ClientEvent, DeviceId, Freshness, Problem, Recipient, UnixMs};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admin::{Health, Replayed, TopicLetters, TopicReplayed, routes as admin_routes};
pub use letters::TopicLetter;
pub use listener::serve;
pub use stores::{DeviceSeen, StoreSeen};

use crate::hub::Hub;
use crate::ledger::{Appended, Incoming, Ledger, OrderKey, Trail};
use crate::observe::NetStats;
use crate::wall::Feed;
use tokens::Tokens;

/// Understands the body of `POST /v1/events`: the id of each event, and the event ready to be appended.
pub type Door = Arc<dyn Fn(&str, &[u8]) -> Result<Vec<(String, Incoming)>, Problem> + Send + Sync>;

/// Understands what a client says happened, and whether it may say so: the event ready to be appended, or a stable word why not.
pub type Desk =
    Arc<dyn Fn(&Recipient, &DeviceId, &ClientEvent, UnixMs) -> Result<Incoming, &'static str> + Send + Sync>;

/// What a recipient may see of an order, given its stored state and, for its story, what became of its notices; nothing when it is not theirs.
pub type View = Arc<dyn Fn(&Recipient, &OrderKey, &[u8], Option<&Trail>) -> Option<serde_json::Value> + Send + Sync>;

/// Up to when the stream of orders is known to be read and durable.
pub type AsOf = Arc<dyn Fn() -> Option<UnixMs> + Send + Sync>;

/// What orders mean: decided elsewhere, carried here.
#[derive(Clone)]
pub struct Rules {
    /// What producers post.
    pub door: Door,
    /// What clients say.
    pub desk: Desk,
    /// What clients see.
    pub view: View,
    /// How new that is.
    pub as_of: AsOf,
    /// The chain's numbers.
    pub wall: Arc<Feed>,
}

/// Bounds of the public listener.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Sessions' own bounds.
    pub session: session::Limits,
    /// Open WebSockets. Below the file limit of a process, with room for the ledger's files.
    pub sockets_max: usize,
    /// Viewers of the wall.
    pub viewers_max: usize,
    /// Open HTTP connections that are no WebSockets.
    pub http_max: usize,
    /// A request's head must be there within this time.
    pub head_timeout: Duration,
    /// Longest time that a poll waits. Below the 60 s after which many proxies cut a silent request.
    pub wait_max: Duration,
    /// What a poll answers with at most.
    pub poll_max: u16,
    /// When a client without a socket should ask again.
    pub poll_interval: Duration,
    /// Over how long the clients' leaving is spread in a drain.
    pub drain_spread: Duration,
    /// Without having read the stream to its end for this long, what is known is stale.
    pub stale_after: Duration,
    /// Clients of a drained server come back within this time, each at a moment of its own.
    pub retry_spread: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            session: session::Limits {
                hello_timeout: Duration::from_secs(5),
                window: 64,
                page: 32,
                heartbeat: Duration::from_secs(25),
                silence_timeout: Duration::from_secs(70),
                redeliver_after: Duration::from_secs(10),
                attempts_max: 4,
                frames_per_second: 200,
                // A till has one hand on its screen; a batch of answers after an outage goes eight at a time.
                events_max: 8,
            },
            sockets_max: 15_000,
            viewers_max: 2_000,
            http_max: 2_000,
            head_timeout: Duration::from_secs(5),
            wait_max: Duration::from_secs(50),
            poll_max: 100,
            poll_interval: Duration::from_secs(60),
            drain_spread: Duration::from_secs(2),
            stale_after: Duration::from_secs(30),
            retry_spread: Duration::from_secs(10),
        }
    }
}

/// What every request and connection shares.
pub struct Net {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) hub: Arc<Hub>,
    tokens: ArcSwap<Tokens>,
    limits: ArcSwap<NetLimits>,
    pub(crate) rules: Rules,
    pub(crate) stats: Arc<NetStats>,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) sockets: Arc<Semaphore>,
    pub(crate) viewers: Arc<Semaphore>,
    draining: AtomicBool,
    began: Instant,
    began_at: UnixMs,
}

impl Net {
    /// The shared part. `rules` say what orders mean.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, hub: Arc<Hub>, tokens: Tokens, limits: NetLimits, rules: Rules) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            hub,
            tokens: ArcSwap::from_pointee(tokens),
            limits: ArcSwap::from_pointee(limits),
            rules,
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            sockets: Arc::new(Semaphore::new(limits.sockets_max)),
            viewers: Arc::new(Semaphore::new(limits.viewers_max)),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            began_at: wall_clock(),
        })
    }

    /// The chain's numbers.
    pub(crate) fn wall(&self) -> &Arc<Feed> {
        &self.rules.wall
    }

    /// The bounds as they are now.
    pub(crate) fn limits(&self) -> NetLimits {
        **self.limits.load()
    }

    /// What tokens are checked with now.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// From now on these hold: for requests at once, for sockets from their next connection on. How many sockets there may be, and what the
    /// listeners were made with, stays.
    pub fn renew(&self, tokens: Tokens, limits: NetLimits) {
        self.tokens.store(Arc::new(tokens));
        self.limits.store(Arc::new(limits));
    }

    /// Makes what a client said durable: checked at once, answered when it is there.
    pub(crate) fn said(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
    ) -> impl Future<Output = Verdict> + Send + 'static {
        let incoming = (self.rules.desk)(who, device, event, wall_clock());
        let (ledger, stats) = (self.ledger.clone(), self.stats.clone());
        async move {
            let verdict = match incoming {
                Err(why) => Verdict::Refused(why),
                Ok(incoming) => match ledger.append(vec![incoming]).await.as_deref() {
                    Ok([Appended::Logged]) => Verdict::Logged,
                    Ok([Appended::Duplicate]) => Verdict::Duplicate,
                    Ok([Appended::Conflict]) => Verdict::Refused("conflict"),
                    _ => Verdict::Refused("unavailable"),
                },
            };
            stats.said(verdict);
            verdict
        }
    }

    /// How new what this server knows is. Unknown for a while after a start is not stale yet.
    pub fn fresh(&self) -> Freshness {
        let (at, as_of) = (wall_clock(), (self.rules.as_of)());
        let since = as_of.unwrap_or(self.began_at);
        let stale_after = i64::try_from(self.limits().stale_after.as_millis()).unwrap_or(i64::MAX);
        // While the log is read again, what is here is a part of what happened.
        let stale = since.plus_ms(stale_after) < at || self.ledger.is_in_doubt();
        Freshness { at, as_of, stale }
    }

    /// What to say while it is stale.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        let fresh = self.fresh();
        let since_s = (fresh.at.0 - fresh.as_of.unwrap_or(self.began_at).0) / 1000;
        fresh.stale.then(|| format!("the stream was not read to its end for {since_s} s: clients are told"))
    }

    /// Time since the start: what sessions count with.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> &Arc<NetStats> {
        &self.stats
    }

    /// Who is connected.
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

    /// When a client of a server that stops should be back: behind the restart, and each at a moment of its own. Milliseconds.
    pub(crate) fn retry_ms(&self, seed: u64) -> u64 {
        let spread = u64::try_from(self.limits().retry_spread.as_millis()).unwrap_or(1).max(1);
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.now().as_nanos() as u64;
        1_000 + (mixed >> 16) % spread
    }

    /// Accepts nobody any more, sends everybody away at a paced rate, and waits until they are gone, or `at_most`.
    pub async fn drain(&self, at_most: Duration) -> bool {
        self.draining.store(true, Ordering::Release);
        self.drain.cancel();
        self.tasks.close();
        tokio::time::timeout(at_most, self.tasks.wait()).await.is_ok()
    }

    /// The public routes; with a `trial`, also pages to try it with, and tokens for whoever asks for one.
    pub fn routes(self: &Arc<Self>, trial: bool) -> Router {
        let shared = pages::with(Router::new(), crate::pages::SHARED);
        let routes = pages::with(shared, crate::pages::PUBLIC);
        let routes = if trial { trial::with(pages::with(routes, crate::pages::TRIAL)) } else { routes };
        routes
            .route("/v1/ws", get(upgrade::upgrade))
            .route("/v1/notices", get(poll::poll))
            .route("/v1/orders", get(orders::open))
            .route("/v1/orders/{order}", get(orders::one))
            .route("/v1/events", post(events::append))
            .route("/v1/wall", get(wall::wall))
            .fallback(reply::not_found)
            .method_not_allowed_fallback(reply::wrong_method)
            .layer(axum::middleware::from_fn(origins::shared))
            .with_state(self.clone())
    }
}

pub(crate) fn wall_clock() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
