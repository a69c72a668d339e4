//! The living chain: a server, its stores' tills, its customers' phones, and orders as a day brings them.
//!
//! ```text
//!   orders (by the day's curve) --POST--> server --ring--> till: takes it, cooks, hands over     phone: hears its code
//! ```
//!
//! Tills differ as in life: most have a socket, some only poll, some are slow, a few never acknowledge anything, a few are away and come
//! back. What they say goes the way of every till: as events, answered when durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{NoticeKind, Position, UnixMs};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{DemoOptions, Dice, config, day, listen, serve, until_the_end};
use crate::cli::tell;
use crate::client::{Heard, Http, Socket};
use crate::config::Config;
use crate::net::tokens::Tokens;
use crate::net::wall_clock;
use crate::server::Server;
use crate::wall::WallConfig;

const RATE: f64 = 1.2;
const STORES: u16 = 300;
/// How long people take, before `--speed`: until a store looks, until the meal is made, until it is collected. Milliseconds.
const ACCEPT_MS: (u64, u64) = (8_000, 60_000);
const COOK_MS: (u64, u64) = (150_000, 420_000);
const COLLECT_MS: (u64, u64) = (60_000, 240_000);
/// Between ordering and paying.
const PAY_MS: (u64, u64) = (2_000, 20_000);
/// A slow till acknowledges so late.
const SLOW_MS: u64 = 4_000;
/// Tills that come and go are there, and away, for so long.
const COME_AND_GO_MS: (u64, u64) = (20_000, 60_000);
const POLL_MS: u64 = 15_000;
/// The store that nobody tends: its till is the page that is open for whoever watches.
const YOURS: u16 = 1;
/// It gets an order so often, and a customer there waits so long for somebody to take it.
const YOURS_MS: (u64, u64) = (12_000, 30_000);
const PATIENCE_MS: u64 = 120_000;
/// Every so manieth customer watches a phone; the others come to the counter.
const PHONE_ONE_IN: u64 = 2;
/// Phones and requests at once: far below the open-file limit.
const PHONES_MAX: usize = 2_000;
/// A demo may be left running.
const TOKEN_S: u64 = 365 * 86_400;
/// Events of the past in one request.
const BATCH: usize = 1_000;

/// How a till behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Quick,
    Slow,
    Deaf,
    ComesAndGoes,
    Polls,
    Away,
    Yours,
}

impl Temper {
    /// The nth store's.
    fn of(n: u16) -> Self {
        match n % 50 {
            _ if n == YOURS => Self::Yours,
            7 | 23 => Self::Slow,
            11 if n < 100 => Self::Deaf,
            17 | 41 => Self::ComesAndGoes,
            3 | 19 | 33 => Self::Polls,
            29 => Self::Away,
            _ => Self::Quick,
        }
    }
}

/// What all actors share.
struct Chain {
    http: Http,
    server: Arc<Server>,
    tokens: Tokens,
    end: CancellationToken,
    tasks: TaskTracker,
    phones: Arc<Semaphore>,
    speed: f64,
    orders: AtomicU64,
    rings: AtomicU64,
    codes: AtomicU64,
    /// Sum and number of the times from paid to heard, over sockets.
    ring_ms: (AtomicU64, AtomicU64),
}

impl Chain {
    fn token(&self, role: &str, id: &str) -> String {
        self.tokens.mint(role, id, None, wall_clock(), TOKEN_S).unwrap_or_default()
    }

    /// Waits, or ends early with false.
    async fn rest(&self, ms: u64) -> bool {
        tokio::select! {
            () = self.end.cancelled() => false,
            () = tokio::time::sleep(Duration::from_millis(ms)) => true,
        }
    }

    /// A length of people's time, at the demo's speed.
    fn people(&self, dice: &mut Dice, length: (u64, u64)) -> u64 {
        (dice.between(length) as f64 / self.speed) as u64
    }

    async fn post(&self, token: &str, body: &Value) -> bool {
        let sent = self.http.send("POST", "/v1/events", token, "application/json", body.to_string());
        sent.await.is_ok_and(|answer| answer.status == 200)
    }

    /// A till heard something; a new order is taken care of.
    fn rang(self: &Arc<Self>, store: &str, token: &Arc<str>, notice: &NoticeFrame, pushed: bool) {
        if notice.notice.kind != NoticeKind::NewOrder || notice.attempt > 1 {
            return;
        }
        self.rings.fetch_add(1, Ordering::Relaxed);
        let late = u64::try_from(wall_clock().0 - notice.notice.at.0).unwrap_or(0);
        // What waited for a till that was away says nothing about how fast a ring is.
        if pushed && late < 1_000 {
            self.ring_ms.0.fetch_add(late, Ordering::Relaxed);
            self.ring_ms.1.fetch_add(1, Ordering::Relaxed);
        }
        let (chain, token) = (self.clone(), token.clone());
        let (store, order) = (store.to_owned(), notice.notice.order.clone());
        self.tasks.spawn(async move { chain.cooks(&store, &order, &token).await });
    }

    /// From the bell to the counter.
    async fn cooks(&self, store: &str, order: &str, token: &str) {
        let mut dice = Dice(xxhash_rust::xxh3::xxh3_64(order.as_bytes()));
        let say = |kind: &str, more: Value| {
            let mut event =
                json!({"id": format!("{kind}-{order}-{store}"), "kind": format!("order.{kind}"), "order": order});
            if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
                event.extend(more.clone());
            }
            event
        };
        if !self.rest(self.people(&mut dice, ACCEPT_MS)).await {
            return;
        }
        if dice.once_in(40) {
            self.post(token, &say("refused", json!({"reason": "sold out"}))).await;
            return;
        }
        let code = format!("{}{:03}", char::from(b'A' + dice.between((0, 26)) as u8), dice.between((0, 1000)));
        let steps = [("accepted", json!({"code": code}), COOK_MS), ("ready", json!({}), COLLECT_MS)];
        for (kind, more, then) in steps {
            if !self.post(token, &say(kind, more)).await || !self.rest(self.people(&mut dice, then)).await {
                return;
            }
        }
        self.post(token, &say("picked_up", json!({}))).await;
    }

    /// A till with a socket, until the end or until `away` has passed.
    async fn socket(
        self: &Arc<Self>,
        store: &str,
        token: &Arc<str>,
        position: &mut Option<Position>,
        temper: Temper,
        away: Option<u64>,
    ) {
        let Ok(mut socket) = Socket::hello(self.server.public(), token, "till", *position).await else {
            self.rest(1_000).await;
            return;
        };
        let gone = async {
            match away {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
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
                Ok(Heard::Notice(_)) if temper == Temper::Deaf => {}
                Ok(Heard::Notice(notice)) => {
                    if temper == Temper::Slow && !self.rest(SLOW_MS).await {
                        return;
                    }
                    self.rang(store, token, &notice, true);
                    if socket.ack(notice.position).await.is_err() {
                        return;
                    }
                    *position = Some(notice.position);
                }
                Ok(Heard::Frame(_)) => {}
                Ok(Heard::Closed(_)) | Err(_) => {
                    *position = None;
                    self.rest(1_000).await;
                    return;
                }
            }
        }
    }

    async fn till(self: Arc<Self>, store: String, temper: Temper, seed: u64) {
        let token: Arc<str> = self.token("store", &store).into();
        let (mut dice, mut position) = (Dice(seed), None);
        while !self.end.is_cancelled() {
            match temper {
                Temper::Away | Temper::Yours => return,
                Temper::Polls => {
                    let polled = self.http.poll(&token, "till", position, Duration::ZERO).await;
                    for notice in polled.iter().flat_map(|answer| &answer.notices) {
                        self.rang(&store, &token, notice, false);
                    }
                    position = polled.ok().map(|answer| answer.position);
                    self.rest(POLL_MS).await;
                }
                Temper::ComesAndGoes => {
                    let away = dice.between(COME_AND_GO_MS);
                    self.socket(&store, &token, &mut position, temper, Some(away)).await;
                    self.rest(dice.between(COME_AND_GO_MS)).await;
                }
                Temper::Quick | Temper::Slow | Temper::Deaf => {
                    self.socket(&store, &token, &mut position, temper, None).await;
                }
            }
        }
    }

    /// A customer watches for the code, until the meal is ready or it gets too late.
    async fn phone(self: Arc<Self>, customer: String) {
        let Ok(_place) = self.phones.clone().try_acquire_owned() else { return };
        let token = self.token("customer", &customer);
        let watching = async {
            let Ok(mut socket) = Socket::hello(self.server.public(), &token, "phone", None).await else { return };
            while let Ok(heard) = socket.next().await {
                match heard {
                    Heard::Notice(notice) => {
                        self.codes
                            .fetch_add(u64::from(notice.notice.kind == NoticeKind::PickupCode), Ordering::Relaxed);
                        let over = matches!(
                            notice.notice.kind,
                            NoticeKind::Ready | NoticeKind::Refused | NoticeKind::Cancelled
                        );
                        if socket.ack(notice.position).await.is_err() || over {
                            return;
                        }
                    }
                    Heard::Frame(_) => {}
                    Heard::Closed(_) => return,
                }
            }
        };
        let longest = ((ACCEPT_MS.1 + COOK_MS.1) as f64 / self.speed) as u64;
        tokio::select! {
            () = watching => {}
            _ = self.rest(longest) => {}
        }
    }

    /// A customer orders, and pays a little later.
    async fn order(self: Arc<Self>, number: u64, store: u64, amount: u64, token: Arc<str>) {
        let mut dice = Dice(number);
        let (order, customer) = (format!("{number:05}"), format!("C{number}"));
        let event = |kind: &str| {
            json!({"type": format!("order.{kind}"), "id": format!("{kind}-{order}"), "order": order, "store": format!("S{store}"),
                   "customer": customer, "amount": amount, "time": wall_clock().0})
        };
        self.post(&token, &event("created")).await;
        if dice.once_in(25) || !self.rest(self.people(&mut dice, PAY_MS)).await {
            return;
        }
        if dice.once_in(PHONE_ONE_IN) {
            self.tasks.spawn(self.clone().phone(customer.clone()));
        }
        self.post(&token, &event("paid")).await;
        self.orders.fetch_add(1, Ordering::Relaxed);
        if dice.once_in(60) && self.rest(self.people(&mut dice, ACCEPT_MS)).await {
            self.post(&token, &event("cancelled")).await;
            self.post(&token, &event("refunded")).await;
        }
    }

    /// Orders for the store that is tended in the browser; who waits too long calls it off.
    async fn yours(self: Arc<Self>, seed: u64) {
        let (mut dice, store) = (Dice(seed), format!("S{YOURS}"));
        let (producer, till): (Arc<str>, Arc<str>) =
            (self.token("producer", "demo").into(), self.token("store", &store).into());
        for number in 1.. {
            if !self.rest(dice.between(YOURS_MS)).await {
                return;
            }
            let (order, amount) = (format!("Y{number}"), dice.between((900, 8_900)));
            let (meal, count) = (dice.one_of(&day::MEALS), dice.between((1, 3)));
            let event = json!({"order": order, "store": store, "customer": format!("Y{number}"), "amount": amount, "currency": "CNY",
                               "items": [{"name": meal, "count": count}]});
            let chain = self.clone();
            let (producer, till) = (producer.clone(), till.clone());
            self.tasks.spawn(async move { chain.waits(event, &producer, &till).await });
        }
    }

    /// Pays for it, and calls it off when nobody has taken it in time.
    async fn waits(&self, order: Value, producer: &str, till: &str) {
        let event = |kind: &str| {
            let mut event = order.clone();
            event["type"] = format!("order.{kind}").into();
            event["id"] = format!("{kind}-{}", order["order"].as_str().unwrap_or_default()).into();
            event["time"] = wall_clock().0.into();
            event
        };
        self.post(producer, &json!([event("created"), event("paid")])).await;
        if !self.rest(PATIENCE_MS).await {
            return;
        }
        let path = format!("/v1/orders/{}", order["order"].as_str().unwrap_or_default());
        if self.http.ask(&path, till).await.is_ok_and(|answer| answer.json()["stage"] == "paid") {
            self.post(producer, &json!([event("cancelled"), event("refunded")])).await;
        }
    }

    /// Draws orders by the day's curve.
    async fn orders(self: Arc<Self>, began: UnixMs, rate: f64, stores: u16, seed: u64) {
        let token: Arc<str> = self.token("producer", "demo").into();
        let mut dice = Dice(seed);
        for number in 1.. {
            let (store, amount) = (day::store(&mut dice, stores).max(u64::from(YOURS) + 1), dice.between((900, 8_900)));
            let pace = 1000.0 / (rate * day::busy(day::hour(began, wall_clock())));
            let wait = (pace * dice.between((20, 180)) as f64 / 100.0) as u64;
            self.tasks.spawn(self.clone().order(number, store, amount, token.clone()));
            if !self.rest(wait).await {
                return;
            }
        }
    }

    /// Tells the server what happened before the demo began.
    async fn past(self: Arc<Self>, now: UnixMs, rate: f64, stores: u16, seed: u64) {
        let token = self.token("producer", "demo");
        let mut batch = Vec::with_capacity(BATCH);
        for minute in day::before(now, rate, stores, seed) {
            batch.extend(minute);
            if batch.len() >= BATCH {
                let some: Vec<Value> = std::mem::take(&mut batch);
                for part in some.chunks(BATCH) {
                    if self.end.is_cancelled() {
                        return;
                    }
                    self.post(&token, &Value::from(part.to_vec())).await;
                }
            }
        }
        self.post(&token, &Value::from(batch)).await;
    }

    fn summary(&self) -> String {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let lag: u64 = self.server.group_stats().status().iter().map(|part| part.high - part.watermark).sum();
        let mean = count(&self.ring_ms.0).checked_div(count(&self.ring_ms.1));
        let mean = mean.map_or_else(String::new, |ms| format!(", {ms} ms after they were paid"));
        format!(
            "{} orders, {} bells rung{mean}; {} codes on phones; {lag} records behind",
            count(&self.orders),
            count(&self.rings),
            count(&self.codes)
        )
    }

    /// One line that stays where it is on a terminal; elsewhere nothing until the end.
    async fn status(self: Arc<Self>) {
        let bar = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        while self.rest(500).await {
            bar.set_message(self.summary());
            bar.tick();
        }
        bar.finish_and_clear();
    }
}

pub(super) async fn play(options: &DemoOptions) -> Result<(), String> {
    let began = Instant::now();
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (rate, stores) = (options.rate.unwrap_or(RATE), options.stores.unwrap_or(STORES));
    let names = dir.path().join("stores.csv");
    std::fs::write(&names, day::directory(stores)).map_err(|error| error.to_string())?;
    let now = wall_clock();
    let wall = WallConfig {
        name: String::from("Orderbell Kitchen"),
        time_zone: day::zone(now).try_into().ok(),
        stores: Some(names),
        open: true,
        ..WallConfig::default()
    };
    let config = Config { wall, trial: true, ..config(dir.path(), listen(options, "127.0.0.1:8377")) };
    let server = serve(&config).await?;
    let chain = Arc::new(Chain {
        http: Http::new(server.public()),
        tokens: config.tokens().map_err(|error| error.to_string())?,
        server: server.clone(),
        end: CancellationToken::new(),
        tasks: TaskTracker::new(),
        phones: Arc::new(Semaphore::new(PHONES_MAX)),
        speed: options.speed,
        orders: AtomicU64::new(0),
        rings: AtomicU64::new(0),
        codes: AtomicU64::new(0),
        ring_ms: (AtomicU64::new(0), AtomicU64::new(0)),
    });
    tell(&format!(
        "A chain of {stores} stores in {} cities is at work. Look at it:\n\n  wall      http://{public}/wall/\n  \
         till      http://{public}/try/till/?store=S{YOURS}   the store that nobody else tends: take its orders\n  \
         phone     http://{public}/try/phone/?store=S{YOURS}  order there, and wait for your code\n  console   http://{admin}/console/\n  metrics   http://{admin}/metrics\n\n\
         Most tills have a socket, some only poll, some are slow, deaf or away. Nothing leaves this machine; Ctrl-C ends it.\n",
        day::CITIES.len().min(usize::from(stores)),
        public = server.public(),
        admin = server.admin(),
    ));
    for n in 1..=stores {
        chain.tasks.spawn(chain.clone().till(format!("S{n}"), Temper::of(n), options.seed ^ u64::from(n)));
    }
    chain.tasks.spawn(chain.clone().past(now, rate, stores, options.seed));
    chain.tasks.spawn(chain.clone().orders(now, rate, stores, options.seed));
    chain.tasks.spawn(chain.clone().yours(options.seed));
    chain.tasks.spawn(chain.clone().status());
    until_the_end(options.seconds, &chain.end).await?;
    chain.end.cancel();
    chain.tasks.close();
    tell("Draining ...");
    chain.tasks.wait().await;
    let clean = server.stop().await;
    tell(&format!("{} in {} s", chain.summary(), began.elapsed().as_secs()));
    if clean { Ok(()) } else { Err("the drain did not end in time".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_till_is_there_and_most_are_quick() {
        let all: Vec<Temper> = (1..=STORES).map(Temper::of).collect();
        let count = |temper: Temper| all.iter().filter(|known| **known == temper).count();
        for temper in [Temper::Slow, Temper::Deaf, Temper::ComesAndGoes, Temper::Polls, Temper::Away, Temper::Yours] {
            assert!((1..=30).contains(&count(temper)), "{temper:?}");
        }
        assert!(count(Temper::Quick) > 230);
    }
}
