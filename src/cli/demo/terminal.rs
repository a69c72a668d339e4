//! `orderbell demo --terminal`: a small chain, printed line by line.
//!
//! The server is a real embedded one on loopback with a temporary directory; the tills have real WebSocket connections, except one that only
//! polls and one that comes and goes. Orders are drawn from a seed. One line for each notice, and a summary every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orderbell_protocol::event::PickupCode;
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{ClientEvent, EventType, NoticeKind, Position};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::{self, Arrivals};
use super::order_system::ProducedOrder;
use super::{DemoOptions, Dice, body, config, listen, reported, serve, until_the_end};
use crate::cli::{err_line, out_line};
use crate::clock::wall_clock;
use crate::net::tokens::Tokens;
use crate::server::Server;
use orderbell_client::{HttpClient, Received, Socket};

const RATE: f64 = 3.0;
const STORES: u16 = 6;
/// How long a store takes to accept, and then to prepare, an order: short, so that much happens. Milliseconds.
const ACCEPT_MS: (u64, u64) = (600, 2_500);
const COOK_MS: (u64, u64) = (1_500, 5_000);
/// The till that comes and goes is online, and offline, for this long.
const COME_AND_GO: Duration = Duration::from_secs(6);

/// What all simulated people share.
struct SmallChain {
    http: HttpClient,
    server: Arc<Server>,
    tokens: Tokens,
    began: Instant,
    end: CancellationToken,
    tasks: TaskTracker,
    totals: Mutex<Totals>,
}

#[derive(Default)]
struct Totals {
    orders: u64,
    rings: u64,
    pickup_codes: u64,
    acks: u64,
    /// Latencies of new orders by push. Milliseconds.
    latencies: Vec<u64>,
    /// When each open order was paid.
    paid: HashMap<String, Instant>,
}

impl SmallChain {
    fn totals(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, who: &str, what: &str) {
        let at = self.began.elapsed();
        if !out_line(&format!("{:>7.2}s  {who:<14} {what}", at.as_secs_f64())) {
            // Nobody reads the output any longer.
            self.end.cancel();
        }
    }

    fn token(&self, role: &str, id: &str) -> String {
        self.tokens.mint(role, id, None, wall_clock(), 3600).expect("an id of the demo, and a key to sign with")
    }

    async fn post(&self, role: &str, id: &str, event: &impl Serialize) {
        let token = self.token(role, id);
        let posted = self.http.send("POST", "/v1/events", &token, "application/json", body(event)).await;
        match posted {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => err_line(&format!("an event was rejected: {}", String::from_utf8_lossy(&answer.body))),
            Err(error) => {
                if !self.end.is_cancelled() {
                    err_line(&format!("an event was not posted: {error}"));
                }
            }
        }
    }

    /// Waits; false when the demo ends meanwhile.
    async fn sleep(&self, ms: u64) -> bool {
        tokio::select! {
            () = self.end.cancelled() => false,
            () = tokio::time::sleep(Duration::from_millis(ms)) => true,
        }
    }

    /// Prints a notice, and adds it to the totals.
    fn receive(&self, who: &str, notice: &NoticeFrame, how: &str) {
        let order = &notice.notice.order;
        let mut totals = self.totals();
        totals.acks += 1;
        let latency = totals.paid.get(order).map(Instant::elapsed);
        let body = &notice.notice.body;
        let again = if notice.attempt > 1 { format!(", attempt {}", notice.attempt) } else { String::new() };
        let what = match notice.notice.kind {
            NoticeKind::NewOrder => {
                totals.rings += 1;
                let after = latency.map(|latency| latency.as_millis());
                if how == "push" {
                    totals.latencies.extend(after.and_then(|ms| u64::try_from(ms).ok()));
                }
                let amount = body["amount"].as_i64().unwrap_or(0);
                let after = after.map_or_else(String::new, |ms| format!(" {ms} ms after payment"));
                format!("(( new order {order} )) {}.{:02}{after} [{how}{again}]", amount / 100, amount % 100)
            }
            NoticeKind::PickupCode => {
                totals.pickup_codes += 1;
                format!("order {order}: pickup code {} [{how}{again}]", body["pickup_code"].as_str().unwrap_or("?"))
            }
            NoticeKind::Ready => {
                format!(
                    "order {order} is ready, pickup code {} [{how}{again}]",
                    body["pickup_code"].as_str().unwrap_or("?")
                )
            }
            NoticeKind::Cancelled => format!("order {order} was cancelled [{how}{again}]"),
            _ => return,
        };
        drop(totals);
        self.line(who, &what);
    }

    /// A client with a connection, until the end or for `online`.
    async fn push(
        &self,
        who: &str,
        token: &str,
        device: &str,
        position: &mut Option<Position>,
        online: Option<Duration>,
    ) {
        // A notice that waited for an offline till says nothing about the latency of a push.
        let how = if device == "till" && online.is_some() { "push after being offline" } else { "push" };
        let Ok(mut socket) = Socket::open_with_hello(self.server.public(), token, device, *position).await else {
            return;
        };
        let going_offline = async {
            match online {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(going_offline);
        loop {
            let received = tokio::select! {
                () = self.end.cancelled() => return,
                () = &mut going_offline => return,
                received = socket.next() => received,
            };
            match received {
                Ok(Received::Notice(notice)) => {
                    self.receive(who, &notice, how);
                    if socket.ack(notice.position).await.is_err() {
                        return;
                    }
                    *position = Some(notice.position);
                }
                Ok(Received::Frame(_)) => {}
                Ok(Received::Closed(_)) | Err(_) => return,
            }
        }
    }

    async fn till(self: Arc<Self>, store: String) {
        let token = self.token("store", &store);
        self.push(&format!("till {store}"), &token, "till", &mut None, None).await;
    }

    async fn till_that_comes_and_goes(self: Arc<Self>, store: String) {
        let (token, who) = (self.token("store", &store), format!("till {store}"));
        let mut position = None;
        while !self.end.is_cancelled() {
            self.line(&who, "comes online and fetches what it missed");
            self.push(&who, &token, "till", &mut position, Some(COME_AND_GO)).await;
            self.line(&who, "goes offline");
            if !self.sleep(u64::try_from(COME_AND_GO.as_millis()).expect("a few seconds")).await {
                return;
            }
        }
    }

    async fn till_that_polls(self: Arc<Self>, store: String) {
        let (token, who) = (self.token("store", &store), format!("till {store}"));
        let mut after = None;
        while self.sleep(5_000).await {
            let Ok(answer) = self.http.poll(&token, "till", after, Duration::ZERO).await else { return };
            answer.notices.iter().for_each(|notice| self.receive(&who, notice, "poll"));
            after = Some(answer.position);
        }
    }

    /// One order from payment to ready, and the phone that waits for its pickup code.
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
        let till = |kind: EventType| reported(kind, &order, &store);
        let produced = ProducedOrder {
            order: order.clone(),
            store: store.clone(),
            customer: Some(customer.clone()),
            amount,
            meal: None,
        };
        let event = |kind: EventType| produced.event(kind, wall_clock());
        self.totals().paid.insert(order.clone(), Instant::now());
        self.totals().orders += 1;
        self.post("producer", "demo", &event(EventType::Paid)).await;
        let phone = self.clone();
        let token = self.token("customer", &customer);
        let online = Duration::from_millis(accept_ms + cook_ms + 3_000);
        self.tasks.spawn(async move {
            phone.push(&format!("phone {customer}"), &token, "phone", &mut None, Some(online)).await
        });
        if !self.sleep(accept_ms).await {
            return;
        }
        if cancelled {
            return self.post("producer", "demo", &event(EventType::Cancelled)).await;
        }
        let pickup_code = format!("{}{:02}", char::from(b'A' + (number % 26) as u8), number % 100);
        let pickup_code = Some(PickupCode(pickup_code));
        self.post("store", &store, &ClientEvent { pickup_code, ..till(EventType::Accepted) }).await;
        if self.sleep(cook_ms).await {
            self.post("store", &store, &till(EventType::Ready)).await;
            self.totals().paid.remove(&order);
        }
    }

    async fn status(self: Arc<Self>) {
        while self.sleep(5_000).await {
            self.line("--", &self.summary());
        }
    }

    fn summary(&self) -> String {
        let mut totals = self.totals();
        totals.latencies.sort_unstable();
        let at = |share: usize| totals.latencies.get(totals.latencies.len() * share / 100).copied().unwrap_or(0);
        let lag: u64 = self.server.group_stats().status().iter().map(|part| part.next_offset - part.watermark).sum();
        format!(
            "{} orders, {} new-order notices, {} pickup codes, {} acks; push latency p50 {} ms, p99 {} ms; lag {} records",
            totals.orders,
            totals.rings,
            totals.pickup_codes,
            totals.acks,
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
    let chain = Arc::new(SmallChain {
        http: HttpClient::new(server.public()),
        tokens: config.load_tokens().map_err(|error| error.to_string())?,
        server: server.clone(),
        began: Instant::now(),
        end: CancellationToken::new(),
        tasks: TaskTracker::new(),
        totals: Mutex::default(),
    });
    let stores = u64::from(options.stores.unwrap_or(STORES));
    out_line(&format!(
        "A chain of {stores} stores on {}. Store S{} only polls, store S{} comes and goes. Metrics are on http://{}/metrics. Ctrl-C ends it.\n",
        server.public(),
        stores - 1,
        stores,
        server.admin()
    ));
    for store in 1..=stores {
        let (chain, name) = (chain.clone(), format!("S{store}"));
        let tasks = chain.tasks.clone();
        match stores - store {
            0 => tasks.spawn(chain.till_that_comes_and_goes(name)),
            1 => tasks.spawn(chain.till_that_polls(name)),
            _ => tasks.spawn(chain.till(name)),
        };
    }
    chain.tasks.spawn(chain.clone().status());
    let ordering = chain.tasks.spawn(orders(chain.clone(), options.seed, options.rate.unwrap_or(RATE), stores));
    until_the_end(options.seconds, &chain.end).await?;
    ordering.abort();
    chain.line("--", "draining");
    chain.end.cancel();
    chain.tasks.close();
    chain.tasks.wait().await;
    let clean = server.stop().await;
    chain.line("--", &chain.summary());
    if clean { Ok(()) } else { Err("the drain did not end in time".into()) }
}

/// Draws orders from the seed at the chosen rate.
async fn orders(chain: Arc<SmallChain>, seed: u64, rate: f64, stores: u64) {
    let (mut dice, mut arrivals, start) = (Dice(seed), Arrivals::default(), Instant::now());
    for number in 1.. {
        let (store, amount) = (dice.between((1, stores + 1)), dice.between((380, 8_900)));
        let (accept_ms, cook_ms) = (dice.between(ACCEPT_MS), dice.between(COOK_MS));
        let cancelled = dice.between((0, 12)) == 0;
        let next = start + arrivals.next(rate, &mut dice);
        chain.tasks.spawn(chain.clone().order(number, store, amount, accept_ms, cook_ms, cancelled));
        if !arrivals::sleep_until(next, &chain.end).await {
            return;
        }
    }
}
