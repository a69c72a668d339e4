//! The assembly: which part gets which, and the order in which they start and stop.
//!
//! Start: ledger, hub, group (source, shards, committer already runs), listeners, then ready. Stop: not ready, clients leave, the group
//! drains and saves its frontiers, the ledger closes. Nothing here has a rule of its own.

mod state;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orderbell_consumers::{Group, Stats};
use orderbell_protocol::{Id, Recipient, UnixMs};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError, Reloaded};
use crate::hub::Hub;
use crate::ingest::{OrderHandler, desk, door};
use crate::ledger::{Ledger, LedgerOptions, OpenError, OrderKey};
use crate::net::{self, Net, NetLimits, Rules};
use crate::observe::{Counted, Metrics};
#[cfg(feature = "kafka")]
use crate::stream::buried::Buried;
use crate::stream::{self, emitter::EmitStats};
use crate::wall::{Feed, WallBoard};
use state::State;

/// Orders whose retention is looked at in one go, and how often.
const SWEEP_MAX: usize = 2_048;
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long the emitter may take to end.
const EMIT_STOP_MAX: Duration = Duration::from_secs(1);
/// How often a ledger in doubt is looked at.
const VOUCH_INTERVAL: Duration = Duration::from_secs(1);
/// Connections of the admin listener.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// An address.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
    /// Kafka.
    #[error("Kafka: {0}")]
    Kafka(String),
}

/// A running server.
pub struct Server {
    net: Arc<Net>,
    ledger: Arc<Ledger>,
    group: Mutex<Option<Group>>,
    group_stats: Arc<Stats>,
    health: Arc<State>,
    admin_tasks: TaskTracker,
    /// The emitter, and what ends it.
    background: TaskTracker,
    emit_stop: CancellationToken,
    stopped: CancellationToken,
    handler: Arc<OrderHandler>,
    wall: Arc<Feed>,
    config: Mutex<Config>,
    public: SocketAddr,
    admin: SocketAddr,
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Server {
    /// Starts everything; ready when this returns. `failed` is called once if the ledger cannot be written any more.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays half started.
    pub async fn start(
        config: &Config,
        limits: NetLimits,
        failed: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, StartError> {
        let (public_listener, public) = listen(config.listen.public).await?;
        let (admin_listener, admin) = listen(config.listen.admin).await?;
        let hub = Arc::new(Hub::default());
        let failed: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(failed);
        let board = Arc::new(WallBoard::default());
        let ledger = open(config, &hub, &board, failed.clone()).await?;
        let tokens = config.tokens()?;
        let handler = Arc::new(OrderHandler::new(ledger.clone(), config.mapping.clone(), config.life()));
        let (background, emit_stop) = (TaskTracker::new(), CancellationToken::new());
        let emit_stats = Arc::<EmitStats>::default();
        let parts = stream::Parts {
            config,
            ledger: &ledger,
            handler: &handler,
            stats: &emit_stats,
            tasks: &background,
            stop: &emit_stop,
        };
        let group = stream::start(parts).await?;
        let group_stats = group.stats().clone();
        let wall = feed(config, board, &ledger, &hub)?;
        let rules = rules(config, &ledger, &handler, &group_stats, &wall);
        let net = Net::new(ledger.clone(), hub.clone(), tokens, limits, rules);
        let counted = Counted {
            net: net.stats().clone(),
            ingest: handler.stats().clone(),
            emit: emit_stats.clone(),
            group: group_stats.clone(),
            hub,
        };
        let metrics = Metrics::new(counted);
        let health = Arc::new(State {
            ready: AtomicBool::new(true),
            group: group_stats.clone(),
            emit: emit_stats,
            ingest: handler.stats().clone(),
            net: net.clone(),
            ledger: ledger.clone(),
            wall: wall.clone(),
            metrics,
            #[cfg(feature = "kafka")]
            buried: Buried::of(config).map(|buried| (buried, Arc::new(tokio::sync::Semaphore::new(1)))),
        });
        let server = Arc::new(Self {
            net: net.clone(),
            ledger,
            group: Mutex::new(Some(group)),
            group_stats,
            health,
            admin_tasks: TaskTracker::new(),
            background,
            emit_stop,
            stopped: CancellationToken::new(),
            handler: handler.clone(),
            wall: wall.clone(),
            config: Mutex::new(config.clone()),
            public,
            admin,
        });
        server.listen(public_listener, admin_listener, limits, config.trial);
        net.tasks().spawn(watch(server.clone(), failed, net.draining_token()));
        let fresh = net.clone();
        net.tasks().spawn(wall.run(move || fresh.fresh(), net.draining_token()));
        net.tasks().spawn(vouch(server.clone(), net.draining_token()));
        net.tasks().spawn(sweep(server.clone(), handler, net.draining_token()));
        Ok(server)
    }

    /// Accepts from here on.
    fn listen(&self, public: TcpListener, admin: TcpListener, limits: NetLimits, trial: bool) {
        let (tasks, drain) = (self.net.tasks().clone(), self.net.draining_token());
        let routes = self.net.routes(trial && self.public.ip().is_loopback());
        let serve = net::serve(public, routes, tasks.clone(), drain, limits.http_max, limits.head_timeout);
        tasks.spawn(serve);
        let (tasks, stopped) = (self.admin_tasks.clone(), self.stopped.clone());
        let routes = net::admin_routes(self.health.clone(), self.admin.ip().is_loopback());
        let serve = net::serve(admin, routes, tasks.clone(), stopped, ADMIN_CONNECTIONS_MAX, limits.head_timeout);
        tasks.spawn(serve);
    }

    /// Where tills and customers connect.
    #[must_use]
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where live, ready and metrics are.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What the group counts.
    #[must_use]
    pub fn group_stats(&self) -> &Arc<Stats> {
        &self.group_stats
    }

    /// Takes what may change while the server runs; what else differs is named, and waits for a restart.
    ///
    /// # Errors
    /// [`ConfigError`] when a key cannot be read: then nothing has changed.
    pub fn reload(&self, new: Config) -> Result<Reloaded, ConfigError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let reloaded = config.changed(&new);
        // What waits for a restart stays as it is also where it is looked at now.
        let now = config.with_what_may_change(new);
        let tokens = now.tokens()?;
        let names = now.wall.names().map_err(ConfigError::Value)?;
        self.net.renew(tokens, now.limits());
        self.handler.renew(now.life());
        self.wall.renew(names);
        let bounds = now.ledger();
        self.ledger.bound(bounds.mailbox_rows_max, bounds.free_space_min);
        *config = now;
        Ok(reloaded)
    }

    /// Stops in order; true when everybody left in time and every frontier was saved.
    pub async fn stop(&self) -> bool {
        self.health.ready.store(false, Ordering::Release);
        let drain_max = Duration::from_secs(self.config.lock().unwrap_or_else(PoisonError::into_inner).drain_seconds);
        let left = self.net.drain(drain_max).await;
        // What clients have said is durable; what is not emitted yet goes out after the next start.
        self.emit_stop.cancel();
        self.background.close();
        let _in_time = tokio::time::timeout(EMIT_STOP_MAX, self.background.wait()).await;
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ledger = self.ledger.clone();
        let saved = tokio::task::spawn_blocking(move || {
            let ended = group.is_none_or(|group| {
                group.stop().inspect_err(|error| tracing::error!(%error, "the source had ended")).is_ok()
            });
            ledger.close();
            ended
        });
        let saved = tokio::time::timeout(drain_max, saved).await.is_ok_and(|ended| ended.unwrap_or(false));
        self.stopped.cancel();
        self.admin_tasks.close();
        let _in_time = tokio::time::timeout(Duration::from_secs(1), self.admin_tasks.wait()).await;
        left && saved
    }
}

/// Opens the ledger; one that went back behind Kafka's group begins a new epoch and reads on from its own frontiers.
async fn open(
    config: &Config,
    hub: &Arc<Hub>,
    board: &Arc<WallBoard>,
    failed: Arc<dyn Fn(&str) + Send + Sync>,
) -> Result<Arc<Ledger>, StartError> {
    let open = |options| {
        let failed = failed.clone();
        Ledger::open(&config.data_dir, options, hub.clone(), board.clone(), move |error| failed(error)).map(Arc::new)
    };
    let ledger = open(config.ledger())?;
    let Some(kafka) = &config.kafka else { return Ok(ledger) };
    // One that is in doubt is behind on purpose.
    if ledger.is_in_doubt() || !stream::went_back(kafka, &ledger).await {
        return Ok(ledger);
    }
    ledger.close();
    drop(ledger);
    Ok(open(LedgerOptions { went_back: true, ..config.ledger() })?)
}

fn feed(
    config: &Config,
    board: Arc<WallBoard>,
    ledger: &Arc<Ledger>,
    hub: &Arc<Hub>,
) -> Result<Arc<Feed>, ConfigError> {
    let hub = hub.clone();
    let reach = move |store: &Id, now: UnixMs| hub.reach(&Recipient::store(store.clone()), now);
    let names = config.wall.names().map_err(ConfigError::Value)?;
    Ok(Feed::new(board, ledger.epoch(), config.counting(), names, Box::new(reach)))
}

fn rules(
    config: &Config,
    ledger: &Arc<Ledger>,
    handler: &Arc<OrderHandler>,
    group: &Arc<Stats>,
    wall: &Arc<Feed>,
) -> Rules {
    let (mapping, ledger, group, handler) = (config.mapping.clone(), ledger.clone(), group.clone(), handler.clone());
    Rules {
        door: Arc::new(move |media, body| door::open(&mapping, media, body, net::wall_clock())),
        desk: Arc::new(move |who, device, event, now| desk::open(&ledger, who, device, event, now)),
        view: Arc::new(move |who, key, state, trail| desk::view(who, key, state, trail, &handler.rules().visible)),
        as_of: Arc::new(move || group.as_of_ms().map(UnixMs)),
        wall: wall.clone(),
    }
}

/// Ends the process when it cannot do its work any more: better a restart than a server that only looks alive.
async fn watch(server: Arc<Server>, failed: Arc<dyn Fn(&str) + Send + Sync>, drain: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(VOUCH_INTERVAL) => {}
        }
        let ended = {
            let group = server.group.lock().unwrap_or_else(PoisonError::into_inner);
            group.as_ref().is_some_and(|group| !group.is_running())
        };
        if ended {
            return failed("the stream of orders is not read any more");
        }
        // The brokers did not answer at the start. The next start sees it and begins a new epoch.
        if server.group_stats.went_back.value() > 0 && !server.ledger.was_doubted() {
            return failed("this ledger is behind its group: it went back, and must begin a new epoch");
        }
    }
}

/// While the ledger's history is in doubt: waits until the log was read to an end that was seen after this start.
async fn vouch(server: Arc<Server>, drain: CancellationToken) {
    let since = net::wall_clock();
    while server.ledger.is_in_doubt() {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(VOUCH_INTERVAL) => {}
        }
        if server.group_stats.as_of_ms().is_some_and(|as_of| as_of > since.0) && server.ledger.rebuilt().await.is_err()
        {
            return;
        }
    }
}

/// Puts due looks at retention into the orders' own queues.
async fn sweep(server: Arc<Server>, handler: Arc<OrderHandler>, drain: CancellationToken) {
    let mut waiting: HashSet<(UnixMs, OrderKey)> = HashSet::new();
    loop {
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
        let due = match server.ledger.due(net::wall_clock(), SWEEP_MAX) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "orders that are due cannot be read");
                continue;
            }
        };
        let group = server.group.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = group.as_ref() else { return };
        // What was put into its queue before and is not looked at yet is there still: once is enough.
        waiting.retain(|look| due.contains(look));
        for (at, order) in due {
            if !waiting.insert((at, order.clone())) {
                continue;
            }
            let key = handler.key_of(order.id.as_str());
            // A queue that is full is offered again: the row stays until the look was taken.
            if group.inject(key, OrderHandler::sweep_record(at, &order)).is_err() {
                waiting.remove(&(at, order));
            }
        }
    }
}
