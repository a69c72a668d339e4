//! `orderbell demo --terminal`: a small chain, told line by line.
//!
//! Everything is real: an embedded server on loopback in a directory that goes away afterwards, WebSocket tills, one till that only
//! polls, one that comes and goes, customers' phones. Orders are drawn from a seed. One line per ring; a status line every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{NoticeKind, Position};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{DemoOptions, Dice, config, listen, serve, until_the_end};
use crate::cli::{say, tell};
use crate::client::{Heard, Http, Socket};
use crate::net::tokens::Tokens;
use crate::net::wall_clock;
use crate::server::Server;

const RATE: f64 = 3.0;
const STORES: u16 = 6;
/// How long a store takes to accept, and then to cook: short, so that the demo is lively. Milliseconds.
const ACCEPT_MS: (u64, u64) = (600, 2_500);
const COOK_MS: (u64, u64) = (1_500, 5_000);
/// The till that comes and goes is connected, and away, for this long.
const COME_AND_GO: Duration = Duration::from_secs(6);

/// What all actors share.
struct Stage {
    http: Http,
    server: Arc<Server>,
    tokens: Tokens,
    began: Instant,
    end: CancellationToken,
    tasks: TaskTracker,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    orders: u64,
    rings: u64,
    codes: u64,
    acks: u64,
    /// Latencies of rings over sockets, in milliseconds.
    latencies: Vec<u64>,
    /// When each order was paid.
    paid: HashMap<String, Instant>,
}

impl Stage {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, who: &str, what: &str) {
        let at = self.began.elapsed();
        if !tell(&format!("{:>7.2}s  {who:<14} {what}", at.as_secs_f64())) {
            // Nobody reads any more.
            self.end.cancel();
        }
    }

    fn token(&self, role: &str, id: &str) -> String {
        self.tokens.mint(role, id, None, wall_clock(), 3600).unwrap_or_default()
    }

    async fn post(&self, event: Value) {
        let token = self.token("producer", "demo");
        let posted = self.http.send("POST", "/v1/events", &token, "application/json", event.to_string()).await;
        match posted {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => say(&format!("an event was not taken: {}", answer.json())),
            Err(error) => {
                if !self.end.is_cancelled() {
                    say(&format!("an event was not posted: {error}"));
                }
            }
        }
    }

    /// Waits, or ends early with false.
    async fn rest(&self, ms: u64) -> bool {
        tokio::select! {
            () = self.end.cancelled() => false,
            () = tokio::time::sleep(Duration::from_millis(ms)) => true,
        }
    }

    /// One ring: what a person would see and hear.
    fn rang(&self, who: &str, notice: &NoticeFrame, how: &str) {
        let order = &notice.notice.order;
        let mut told = self.told();
        told.acks += 1;
        let latency = told.paid.get(order).map(Instant::elapsed);
        let body = &notice.notice.body;
        let again = if notice.attempt > 1 { format!(", attempt {}", notice.attempt) } else { String::new() };
        let what = match notice.notice.kind {
            NoticeKind::NewOrder => {
                told.rings += 1;
                let after = latency.map(|latency| latency.as_millis());
                if how == "push" {
                    told.latencies.extend(after.and_then(|ms| u64::try_from(ms).ok()));
                }
                let amount = body["amount"].as_i64().unwrap_or(0);
                let after = after.map_or_else(String::new, |ms| format!(" {ms} ms after it was paid"));
                format!("(( new order {order} )) {}.{:02}{after} [{how}{again}]", amount / 100, amount % 100)
            }
            NoticeKind::PickupCode => {
                told.codes += 1;
                format!("order {order}: pickup code {} [{how}{again}]", body["code"].as_str().unwrap_or("?"))
            }
            NoticeKind::Ready => {
                format!("order {order} is ready, code {} [{how}{again}]", body["code"].as_str().unwrap_or("?"))
            }
            NoticeKind::Cancelled => format!("order {order} was cancelled [{how}{again}]"),
            NoticeKind::Taken | NoticeKind::Refused | NoticeKind::Declined | NoticeKind::Unknown => return,
        };
        drop(told);
        self.line(who, &what);
    }

    /// A client with a socket, until the end or until `away` has passed.
    async fn socket(
        &self,
        who: &str,
        token: &str,
        device: &str,
        position: &mut Option<Position>,
        away: Option<Duration>,
    ) {
        // What waited while a till was away says nothing about how fast a push is.
        let how = if device == "till" && away.is_some() { "push after being away" } else { "push" };
        let Ok(mut socket) = Socket::hello(self.server.public(), token, device, *position).await else { return };
        let gone = async {
            match away {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(gone);
        loop {
            let heard = tokio::select! {
                () = self.end.cancelled() => return,
                () = &mut gone => return,
                heard = socket.next() => heard,
            };
            match heard {
                Ok(Heard::Notice(notice)) => {
                    self.rang(who, &notice, how);
                    if socket.ack(notice.position).await.is_err() {
                        return;
                    }
                    *position = Some(notice.position);
                }
                Ok(Heard::Frame(_)) => {}
                Ok(Heard::Closed(_)) | Err(_) => return,
            }
        }
    }

    async fn till(self: Arc<Self>, store: String) {
        let token = self.token("store", &store);
        self.socket(&format!("till {store}"), &token, "till", &mut None, None).await;
    }

    async fn till_that_comes_and_goes(self: Arc<Self>, store: String) {
        let (token, who) = (self.token("store", &store), format!("till {store}"));
        let mut position = None;
        while !self.end.is_cancelled() {
            self.line(&who, "comes back and asks for what it missed");
            self.socket(&who, &token, "till", &mut position, Some(COME_AND_GO)).await;
            self.line(&who, "goes away");
            if !self.rest(u64::try_from(COME_AND_GO.as_millis()).unwrap_or(0)).await {
                return;
            }
        }
    }

    async fn till_that_polls(self: Arc<Self>, store: String) {
        let (token, who) = (self.token("store", &store), format!("till {store}"));
        let mut after = None;
        while self.rest(5_000).await {
            let Ok(answer) = self.http.poll(&token, "till", after, Duration::ZERO).await else { return };
            answer.notices.iter().for_each(|notice| self.rang(&who, notice, "poll"));
            after = Some(answer.position);
        }
    }

    /// One order's life, and the phone that waits for its code.
    async fn order(
        self: Arc<Self>,
        number: u64,
        store: u64,
        amount: u64,
        accept_ms: u64,
        cook_ms: u64,
        cancelled: bool,
    ) {
        let (order, store, customer) = (format!("{number:04}"), format!("S{store}"), format!("c{number}"));
        let event = |kind: &str, more: Value| {
            let mut event =
                json!({"type": kind, "order": order, "id": format!("{kind}-{order}"), "time": wall_clock().0});
            if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
                event.extend(more.clone());
            }
            event
        };
        self.told().paid.insert(order.clone(), Instant::now());
        self.told().orders += 1;
        self.post(event("order.paid", json!({"store": store, "customer": customer, "amount": amount}))).await;
        let phone = self.clone();
        let token = self.token("customer", &customer);
        let life = Duration::from_millis(accept_ms + cook_ms + 3_000);
        self.tasks.spawn(async move {
            phone.socket(&format!("phone {customer}"), &token, "phone", &mut None, Some(life)).await
        });
        if !self.rest(accept_ms).await {
            return;
        }
        if cancelled {
            return self.post(event("order.cancelled", json!({"reason": "changed my mind"}))).await;
        }
        let code = format!("{}{:02}", char::from(b'A' + (number % 26) as u8), number % 100);
        self.post(event("order.accepted", json!({"code": code, "device": "till"}))).await;
        if self.rest(cook_ms).await {
            self.post(event("order.ready", json!({}))).await;
            self.told().paid.remove(&order);
        }
    }

    async fn status(self: Arc<Self>) {
        while self.rest(5_000).await {
            self.line("--", &self.summary());
        }
    }

    fn summary(&self) -> String {
        let mut told = self.told();
        told.latencies.sort_unstable();
        let at = |share: usize| told.latencies.get(told.latencies.len() * share / 100).copied().unwrap_or(0);
        let lag: u64 = self.server.group_stats().status().iter().map(|part| part.high - part.watermark).sum();
        format!(
            "{} orders, {} rings, {} codes, {} acks; pushed rings p50 {} ms, p99 {} ms; {} records behind",
            told.orders,
            told.rings,
            told.codes,
            told.acks,
            at(50),
            at(99),
            lag
        )
    }
}

pub(super) async fn play(options: &DemoOptions) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config = config(dir.path(), listen(options, "127.0.0.1:0"));
    let server = serve(&config).await?;
    let stage = Arc::new(Stage {
        http: Http::new(server.public()),
        tokens: config.tokens().map_err(|error| error.to_string())?,
        server: server.clone(),
        began: Instant::now(),
        end: CancellationToken::new(),
        tasks: TaskTracker::new(),
        told: Mutex::default(),
    });
    let stores = u64::from(options.stores.unwrap_or(STORES));
    tell(&format!(
        "A chain of {stores} stores on {}. Store S{} only polls, store S{} comes and goes. Metrics on http://{}/metrics. Ctrl-C ends it.\n",
        server.public(),
        stores - 1,
        stores,
        server.admin()
    ));
    for store in 1..=stores {
        let (stage, name) = (stage.clone(), format!("S{store}"));
        let tasks = stage.tasks.clone();
        match stores - store {
            0 => tasks.spawn(stage.till_that_comes_and_goes(name)),
            1 => tasks.spawn(stage.till_that_polls(name)),
            _ => tasks.spawn(stage.till(name)),
        };
    }
    stage.tasks.spawn(stage.clone().status());
    let ordering = stage.tasks.spawn(orders(stage.clone(), options.seed, options.rate.unwrap_or(RATE), stores));
    until_the_end(options.seconds, &stage.end).await?;
    ordering.abort();
    stage.line("--", "draining");
    stage.end.cancel();
    stage.tasks.close();
    stage.tasks.wait().await;
    let clean = server.stop().await;
    stage.line("--", &stage.summary());
    if clean { Ok(()) } else { Err("the drain did not end in time".into()) }
}

/// Draws orders from the seed at the chosen pace, most of them at peaks, as chains know them.
async fn orders(stage: Arc<Stage>, seed: u64, rate: f64, stores: u64) {
    let mut dice = Dice(seed);
    let pace = 1000.0 / rate.clamp(0.1, 500.0);
    for number in 1.. {
        let (store, amount) = (dice.between((1, stores + 1)), dice.between((380, 8_900)));
        let (accept_ms, cook_ms) = (dice.between(ACCEPT_MS), dice.between(COOK_MS));
        let cancelled = dice.between((0, 12)) == 0;
        let wait = (pace * dice.between((40, 160)) as f64 / 100.0) as u64;
        stage.tasks.spawn(stage.clone().order(number, store, amount, accept_ms, cook_ms, cancelled));
        if !stage.rest(wait).await {
            return;
        }
    }
}
