//! The server: connects the parts, and starts and stops them in order. It has no rules of its own.
//!
//! Start: ledger (with its committer), hub, consumer group (source, shards), listeners, then ready. Stop: not ready, clients leave, the outbox
//! publisher ends, the group drains and saves its checkpoints, the ledger closes.

mod admin_api;
mod alerts;
mod balance_alerts;
mod dead_letters;
mod inspector;
mod issuer_keys;
mod orders;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orderbell_consumers::Stats;
use orderbell_protocol::admin::Reachability;
use orderbell_protocol::{Id, Recipient, UnixMs};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::wall_clock;
use crate::config::{Config, ConfigError, Reloaded, TokenKeys};
use crate::hub::Hub;
use crate::ingest::{ExpiryCheck, OrderHandler};
use crate::metrics::{MetricSources, Metrics};
use crate::net::{self, AdminApi, AppState, Blocking, Listening, NetLimits, PlaceLimits};
#[cfg(feature = "kafka")]
use crate::stream::dlq_topics::DlqTopics;
use crate::stream::{self, OrderGroup, StreamError, outbox_publisher::PublisherStats};
use crate::wall::{Feed, ReachabilitySource, WallTotals};
use admin_api::Status;
use alerts::Alerts;
use dead_letters::DeadLetterAdmin;
use inspector::Inspector;
use issuer_keys::{FetchPacer, KeyFetches};
use orderbell_ledger::{FailureObserver, Ledger, LedgerOptions, OpenError};
use orders::OrderRules;

/// Orders whose expiry is enqueued in one sweep.
const EXPIRY_BATCH_MAX: usize = 4_096;
/// Time between two expiry sweeps.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);
/// The same after a sweep that was full: more orders are due than one sweep takes, as on a busy day.
const EXPIRY_BACKLOG_INTERVAL: Duration = Duration::from_millis(500);
/// Time that the outbox publisher is given to end.
const PUBLISHER_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that requests on the admin listener are given to end.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two checks of the group, the alerts and a rebuild.
const SUPERVISE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address from the configuration.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The stream cannot be started.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A running server.
pub struct Server {
    state: Arc<AppState>,
    ledger: Arc<Ledger>,
    group: Mutex<Option<OrderGroup>>,
    group_stats: Arc<Stats>,
    status: Arc<Status>,
    alerts: Arc<Alerts>,
    admin_tasks: TaskTracker,
    /// The outbox publisher, and what stops it.
    background: TaskTracker,
    publisher_stop: CancellationToken,
    stopped: CancellationToken,
    handler: Arc<OrderHandler>,
    wall: Arc<Feed>,
    config: Mutex<Config>,
    /// Locked after `config`.
    token_keys: Mutex<TokenKeys>,
    key_fetches: Arc<KeyFetches>,
    public: SocketAddr,
    admin: SocketAddr,
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Server {
    /// Starts all parts; the server is ready when this returns. The failure observer is called once when the server cannot continue (the ledger cannot be
    /// written, the stream is not read any more) and should end the process.
    ///
    /// # Errors
    /// [`StartError`]; then no part stays running.
    pub async fn start(
        config: &Config,
        limits: NetLimits,
        failure_observer: impl FailureObserver,
    ) -> Result<Arc<Self>, StartError> {
        let (public_listener, public) = bind(config.boot.listen.public).await?;
        let (admin_listener, admin) = bind(config.boot.listen.admin).await?;
        let hub = Arc::new(Hub::default());
        let failure_observer: Arc<dyn FailureObserver> = Arc::new(failure_observer);
        let totals = Arc::new(WallTotals::default());
        let ledger = open_ledger(config, &hub, &totals, failure_observer.clone()).await?;
        let token_keys = config.load_token_keys()?;
        let handler = Arc::new(OrderHandler::new(ledger.clone(), config.mapping(), config.order_policy()));
        let (background, publisher_stop) = (TaskTracker::new(), CancellationToken::new());
        let publisher_stats = Arc::<PublisherStats>::default();
        let parts = stream::StreamContext {
            config,
            ledger: &ledger,
            handler: &handler,
            stats: &publisher_stats,
            tasks: &background,
            stop: &publisher_stop,
        };
        let group = stream::start(parts).await?;
        let group_stats = group.stats().clone();
        let wall = wall_feed(config, totals, &ledger, &hub)?;
        let rules = OrderRules::new(config.mapping(), &ledger, &handler, &group_stats);
        let state = AppState::new(
            ledger.clone(),
            hub.clone(),
            token_keys.tokens(),
            limits,
            config.page_rules(),
            Arc::new(rules),
            wall.clone(),
        );
        let key_fetches = Arc::<KeyFetches>::default();
        let alerts = Alerts::new(
            group_stats.clone(),
            publisher_stats.clone(),
            handler.stats().clone(),
            state.clone(),
            ledger.clone(),
            wall.clone(),
            key_fetches.clone(),
        );
        let status =
            Status::new(alerts.clone(), metrics(&state, &handler, publisher_stats, &group_stats, &ledger, &alerts));
        let server = Arc::new(Self {
            state: state.clone(),
            ledger,
            group: Mutex::new(Some(group)),
            group_stats,
            status,
            alerts,
            admin_tasks: TaskTracker::new(),
            background,
            publisher_stop,
            stopped: CancellationToken::new(),
            handler: handler.clone(),
            wall: wall.clone(),
            config: Mutex::new(config.clone()),
            token_keys: Mutex::new(token_keys),
            key_fetches,
            public,
            admin,
        });
        let fetches = issuer_keys::fetch_first(&server).await;
        server.serve_public(public_listener, limits, config.playground);
        server.serve_admin(admin_listener, limits, server.admin_api(config));
        server.run_tasks(fetches, failure_observer);
        Ok(server)
    }

    /// Everything that goes on until the drain.
    fn run_tasks(self: &Arc<Self>, fetches: FetchPacer, failure_observer: Arc<dyn FailureObserver>) {
        let (tasks, state) = (self.state.tasks(), self.state.clone());
        let draining = || self.state.draining_token();
        tasks.spawn(self.wall.clone().run(move || state.freshness(), draining()));
        tasks.spawn(supervise(self.clone(), failure_observer, draining()));
        tasks.spawn(await_rebuild(self.clone(), draining()));
        tasks.spawn(issuer_keys::keep_fresh(self.clone(), fetches, draining()));
        tasks.spawn(expire_orders(self.clone(), self.handler.clone(), draining()));
    }

    /// Accepts tills, customers and producers from here on.
    fn serve_public(&self, listener: TcpListener, limits: NetLimits, playground: bool) {
        let (tasks, drain) = (self.state.tasks().clone(), self.state.draining_token());
        let routes = self.state.routes(playground && self.public.ip().is_loopback());
        let listening = Listening {
            routes,
            places: limits.places(),
            always_served: &["/healthz"],
            head_timeout: limits.head_timeout,
            stats: self.state.stats().clone(),
        };
        tasks.spawn(net::serve(listener, listening, tasks.clone(), drain));
    }

    /// Accepts operators and scrapers from here on, until the end of the drain.
    fn serve_admin(&self, listener: TcpListener, limits: NetLimits, api: AdminApi) {
        let (tasks, stopped) = (self.admin_tasks.clone(), self.stopped.clone());
        let routes = net::admin_routes(api, self.admin.ip().is_loopback());
        let listening = Listening {
            routes,
            places: PlaceLimits {
                idle: net::ADMIN_IDLE_CONNECTIONS_MAX,
                requests: net::ADMIN_REQUESTS_MAX,
                classes: 0,
            },
            always_served: &["/live", "/ready"],
            head_timeout: limits.head_timeout,
            stats: self.state.stats().clone(),
        };
        tasks.spawn(net::serve(listener, listening, tasks.clone(), stopped));
    }

    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "without Kafka there are no topics"))]
    fn admin_api(&self, config: &Config) -> AdminApi {
        let inspector = Inspector {
            group: self.group_stats.clone(),
            state: self.state.clone(),
            ledger: self.ledger.clone(),
            wall: self.wall.clone(),
        };
        let dead_letters = DeadLetterAdmin {
            mapping: config.mapping(),
            ledger: self.ledger.clone(),
            #[cfg(feature = "kafka")]
            topics: DlqTopics::of(config).map(|topics| (topics, Arc::new(tokio::sync::Semaphore::new(1)))),
        };
        admin_api::compose(self.status.clone(), inspector, dead_letters, self.ledger.clone())
    }

    /// The address of the public listener.
    #[must_use]
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Counters and partitions of the consumer group.
    #[must_use]
    pub fn group_stats(&self) -> &Arc<Stats> {
        &self.group_stats
    }

    /// Applies the keys that may change while the server runs, and names the others that differ: they wait for a restart.
    /// Reads files, for as long as the disk takes. Of two that run at once, the later to end counts.
    ///
    /// # Errors
    /// [`ConfigError`] when a file that the configuration names cannot be read: then nothing has changed.
    pub fn reload(&self, new: Config) -> Result<Reloaded, ConfigError> {
        let (reloaded, now) = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            // Keys that wait for a restart keep their old values here.
            (config.differences(&new), config.with_live(new))
        };
        // Without a lock: a disk may hang, and a stop needs the locks.
        let mut keys = now.load_token_keys()?;
        let names = now.wall().names()?;
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.token_keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.keep_set_of(&held);
        self.state.reload(keys.tokens(), now.limits(), now.page_rules());
        *held = keys;
        self.key_fetches.want();
        self.handler.set_policy(now.order_policy());
        self.wall.set_names(names);
        let bounds = now.ledger();
        self.ledger.set_limits(bounds.max_mailbox_rows, bounds.min_free_space);
        *config = now;
        Ok(reloaded)
    }

    /// Stops all parts in order. True when every client left in time and every checkpoint was saved.
    pub async fn stop(&self) -> bool {
        self.status.set_not_ready();
        let drain_timeout = self.config.lock().unwrap_or_else(PoisonError::into_inner).live.drain_timeout.get();
        let all_left = self.state.drain(drain_timeout).await;
        // The outbox is durable: what is not published yet goes out after the next start.
        self.publisher_stop.cancel();
        self.background.close();
        let _in_time = tokio::time::timeout(PUBLISHER_STOP_TIMEOUT, self.background.wait()).await;
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ledger = self.ledger.clone();
        let saved = tokio::task::spawn_blocking(move || {
            let ended = group.is_none_or(|group| {
                group.stop().inspect_err(|error| tracing::error!(%error, "the source had ended")).is_ok()
            });
            ledger.close();
            ended
        });
        let saved = tokio::time::timeout(drain_timeout, saved).await.is_ok_and(|ended| ended.unwrap_or(false));
        self.stopped.cancel();
        self.admin_tasks.close();
        let _in_time = tokio::time::timeout(ADMIN_STOP_TIMEOUT, self.admin_tasks.wait()).await;
        all_left && saved
    }
}

/// Opens the ledger. One that is older than the offsets of Kafka's group (a restored backup) is opened again with a new epoch, and continues
/// from its own checkpoints.
async fn open_ledger(
    config: &Config,
    hub: &Arc<Hub>,
    totals: &Arc<WallTotals>,
    failure_observer: Arc<dyn FailureObserver>,
) -> Result<Arc<Ledger>, StartError> {
    let open = |options| {
        let failure_observer = failure_observer.clone();
        Ledger::open(&config.boot.data_dir, options, hub.clone(), totals.clone(), failure_observer).map(Arc::new)
    };
    let ledger = open(config.ledger())?;
    let Some(kafka) = &config.boot.kafka else { return Ok(ledger) };
    // A ledger that is being rebuilt is behind the group on purpose.
    if ledger.is_rebuilding() || !stream::is_rolled_back(kafka, &ledger).await {
        return Ok(ledger);
    }
    ledger.close();
    drop(ledger);
    Ok(open(LedgerOptions { rolled_back: true, ..config.ledger() })?)
}

fn wall_feed(
    config: &Config,
    totals: Arc<WallTotals>,
    ledger: &Arc<Ledger>,
    hub: &Arc<Hub>,
) -> Result<Arc<Feed>, ConfigError> {
    let names = config.wall().names()?;
    Ok(Feed::new(totals, ledger.epoch(), config.counting(), names, hub.clone()))
}

impl ReachabilitySource for Hub {
    fn of_store(&self, store: &Id, now: UnixMs) -> Reachability {
        self.reachability(&Recipient::store(store.clone()), now)
    }
}

fn metrics(
    state: &Arc<AppState>,
    handler: &Arc<OrderHandler>,
    publisher: Arc<PublisherStats>,
    group: &Arc<Stats>,
    ledger: &Arc<Ledger>,
    alerts: &Arc<Alerts>,
) -> Metrics {
    Metrics::new(MetricSources {
        net: state.stats().clone(),
        places: state.places().clone(),
        ingest: handler.stats().clone(),
        publisher,
        group: group.clone(),
        hub: state.hub().clone(),
        balance: ledger.clone(),
        alerts: alerts.clone(),
    })
}

/// Ends the process when it cannot do its work any more: a restart is better than a server that only looks alive. Also evaluates the alerts
/// once a second, so that their `since` does not depend on who asks.
async fn supervise(server: Arc<Server>, failure_observer: Arc<dyn FailureObserver>, drain: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(SUPERVISE_INTERVAL) => {}
        }
        let has_ended = {
            let group = server.group.lock().unwrap_or_else(PoisonError::into_inner);
            group.as_ref().is_some_and(|group| !group.is_running())
        };
        if has_ended {
            return failure_observer.failed("the stream of orders is not read any more");
        }
        // The brokers did not answer at the start, so the check that `open_ledger` makes came late. The next start begins a new epoch.
        if server.group_stats.partitions_rolled_back.value() > 0 && !server.ledger.was_rebuilding_at_open() {
            return failure_observer
                .failed("this ledger is older than the offsets of its consumer group: it must begin a new epoch");
        }
        let _remembered = server.alerts.current();
    }
}

/// While the ledger is rebuilt: waits until the log has been read to an end that was seen after this start, then ends the rebuild.
async fn await_rebuild(server: Arc<Server>, drain: CancellationToken) {
    let since = wall_clock();
    while server.ledger.is_rebuilding() {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(SUPERVISE_INTERVAL) => {}
        }
        if server.group_stats.as_of_ms().is_some_and(|as_of| as_of > since.0)
            && server.ledger.finish_rebuild().await.is_err()
        {
            return;
        }
    }
}

/// Puts the orders whose retention is due into their own key queues, where the handler decides whether they expire.
async fn expire_orders(server: Arc<Server>, handler: Arc<OrderHandler>, drain: CancellationToken) {
    let mut enqueued: HashSet<ExpiryCheck> = HashSet::new();
    let scans = Blocking::new(server.ledger.clone());
    let mut interval = EXPIRY_INTERVAL;
    loop {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let due = scans.run(|ledger| ledger.orders().due_expiries(wall_clock(), EXPIRY_BATCH_MAX)).await;
        let due = match due.map(|due| server.ledger.damage().check(due)) {
            Ok(Ok(due)) => due,
            // Logged by `check`; the next sweep tries again.
            Ok(Err(_)) => continue,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the orders that are due to expire"
                );
                continue;
            }
        };
        // A sweep that was full leaves orders that are due: the next follows as soon as these may be done.
        interval = if due.len() == EXPIRY_BATCH_MAX { EXPIRY_BACKLOG_INTERVAL } else { EXPIRY_INTERVAL };
        let group = server.group.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = group.as_ref() else { return };
        // An order that was enqueued before and is still due waits in its queue: it is not enqueued twice.
        let due: HashSet<ExpiryCheck> = due.into_iter().map(|(due, order)| ExpiryCheck { due, order }).collect();
        enqueued.retain(|check| due.contains(check));
        for check in due {
            if enqueued.contains(&check) {
                continue;
            }
            let key = handler.key_of(check.order.id.as_str());
            // When the queue is full the order is tried again at the next sweep: its row stays until the handler has seen it.
            if group.inject(key, check.clone()).is_ok() {
                enqueued.insert(check);
            }
        }
    }
}

#[cfg(test)]
#[path = "server/alert_tests.rs"]
mod alert_tests;
#[cfg(test)]
#[path = "server/issuer_keys_tests.rs"]
mod issuer_keys_tests;
#[cfg(test)]
#[path = "server/rates_tests.rs"]
mod rates_tests;
#[cfg(test)]
#[path = "server/reload_tests.rs"]
mod reload_tests;
#[cfg(test)]
#[path = "server/route_tests.rs"]
mod route_tests;
#[cfg(test)]
#[path = "server/sister_tests.rs"]
mod sister_tests;
#[cfg(test)]
#[path = "server/damage_tests.rs"]
mod tests;
