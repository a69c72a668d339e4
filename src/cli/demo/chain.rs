//! The simulated chain: a server, tills of stores, phones of customers, and orders at the rate of the day.
//!
//! ```text
//!   orders (rate by time of day) --POST--> server --notice--> till: accepts, prepares, hands over    phone: shows the pickup code
//! ```
//!
//! Tills behave differently: most have a connection, some only poll, some are slow, a few never acknowledge anything, a few are offline for
//! a while. They report with events like any till, answered when durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use orderbell_protocol::event::PickupCode;
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{ClientEvent, EventType, NoticeKind, Position, UnixMs};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::{self, Arrivals};
use super::order_system::ProducedOrder;
use super::{DemoOptions, Dice, body, config, day, listen, reported, serve, until_the_end};
use crate::cli::out_line;
use crate::clock::wall_clock;
use crate::config::LiveWall;
use crate::net::tokens::Tokens;
use crate::server::Server;
use orderbell_client::{HttpClient, Received, Socket};

const RATE: f64 = 1.2;
const STORES: u16 = 300;
/// How long people take, before `--speed`: until a store accepts, until the meal is ready, until it is collected. Milliseconds.
const ACCEPT_MS: (u64, u64) = (8_000, 60_000);
const COOK_MS: (u64, u64) = (150_000, 420_000);
const COLLECT_MS: (u64, u64) = (60_000, 240_000);
/// From ordering to paying. Milliseconds.
const PAY_MS: (u64, u64) = (2_000, 20_000);
/// A slow till acknowledges after this long.
const SLOW_MS: u64 = 4_000;
/// Tills that come and go are online, and offline, for this long. Milliseconds.
const COME_AND_GO_MS: (u64, u64) = (20_000, 60_000);
const POLL_MS: u64 = 15_000;
/// The store without a simulated till: the person in front of the browser is its till.
const YOURS: u16 = 1;
/// Interval of its orders, and how long a customer there waits until the order is accepted.
const YOURS_MS: (u64, u64) = (12_000, 30_000);
const PATIENCE_MS: u64 = 120_000;
/// One of this many customers watches a phone; the others go to the counter.
const PHONE_ONE_IN: u64 = 2;
/// Most phones at once: far below the open-file limit.
const PHONES_MAX: usize = 2_000;
/// Lifetime of tokens. A demo may be left running for long.
const TOKEN_S: u64 = 365 * 86_400;
/// Most events of the past in one request.
const BATCH: usize = 1_000;

/// How a till behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Quick,
    Slow,
    Unresponsive,
    ComesAndGoes,
    Polls,
    Offline,
    Yours,
}

impl Behaviour {
    /// That of the nth store.
    fn of(n: u16) -> Self {
        match n % 50 {
            _ if n == YOURS => Self::Yours,
            7 | 23 => Self::Slow,
            11 if n < 100 => Self::Unresponsive,
            17 | 41 => Self::ComesAndGoes,
            3 | 19 | 33 => Self::Polls,
            29 => Self::Offline,
            _ => Self::Quick,
        }
    }
}

/// What all simulated people share.
struct Chain {
    http: HttpClient,
    server: Arc<Server>,
    tokens: Tokens,
    end: CancellationToken,
    tasks: TaskTracker,
    phones: Arc<Semaphore>,
    speed: f64,
    orders: AtomicU64,
    rings: AtomicU64,
    pickup_codes: AtomicU64,
    /// Sum and number of the latencies from paid to notified, by push. Milliseconds.
    latency_ms: (AtomicU64, AtomicU64),
}

impl Chain {
    fn token(&self, role: &str, id: &str) -> String {
        self.tokens.mint(role, id, None, wall_clock(), TOKEN_S).expect("an id of the demo, and a key to sign with")
    }

    /// Waits; false when the demo ends meanwhile.
    async fn sleep(&self, ms: u64) -> bool {
        tokio::select! {
            () = self.end.cancelled() => false,
            () = tokio::time::sleep(Duration::from_millis(ms)) => true,
        }
    }

    /// How long a person takes, at the speed of the demo. Milliseconds.
    fn person_ms(&self, dice: &mut Dice, length: (u64, u64)) -> u64 {
        (dice.between(length) as f64 / self.speed) as u64
    }

    async fn post(&self, token: &str, events: &impl Serialize) -> bool {
        let sent = self.http.send("POST", "/v1/events", token, "application/json", body(events));
        sent.await.is_ok_and(|answer| answer.status == 200)
    }

    /// A till received a notice; it works on a new order.
    fn receive(self: &Arc<Self>, store: &str, token: &Arc<str>, notice: &NoticeFrame, pushed: bool) {
        if notice.notice.kind != NoticeKind::NewOrder || notice.attempt > 1 {
            return;
        }
        self.rings.fetch_add(1, Ordering::Relaxed);
        let late = u64::try_from(wall_clock().0 - notice.notice.at.0).unwrap_or(0);
        // A notice that waited for an offline till says nothing about the latency of a push.
        if pushed && late < 1_000 {
            self.latency_ms.0.fetch_add(late, Ordering::Relaxed);
            self.latency_ms.1.fetch_add(1, Ordering::Relaxed);
        }
        let (chain, token) = (self.clone(), token.clone());
        let (store, order) = (store.to_owned(), notice.notice.order.clone());
        self.tasks.spawn(async move { chain.prepare(&store, &order, &token).await });
    }

    /// The staff accepts or refuses the order, prepares it and hands it over.
    async fn prepare(&self, store: &str, order: &str, token: &str) {
        let mut dice = Dice(xxhash_rust::xxh3::xxh3_64(order.as_bytes()));
        let event = |kind: EventType| reported(kind, order, store);
        if !self.sleep(self.person_ms(&mut dice, ACCEPT_MS)).await {
            return;
        }
        if dice.once_in(40) {
            let reason = Some("sold out".to_owned());
            self.post(token, &ClientEvent { reason, ..event(EventType::Refused) }).await;
            return;
        }
        let pickup_code = format!("{}{:03}", char::from(b'A' + dice.between((0, 26)) as u8), dice.between((0, 1000)));
        let accepted = ClientEvent { pickup_code: Some(PickupCode(pickup_code)), ..event(EventType::Accepted) };
        for (event, then) in [(accepted, COOK_MS), (event(EventType::Ready), COLLECT_MS)] {
            if !self.post(token, &event).await || !self.sleep(self.person_ms(&mut dice, then)).await {
                return;
            }
        }
        self.post(token, &event(EventType::PickedUp)).await;
    }

    /// A till with a connection, until the end or for `online_ms`.
    async fn push(
        self: &Arc<Self>,
        store: &str,
        token: &Arc<str>,
        position: &mut Option<Position>,
        behaviour: Behaviour,
        online_ms: Option<u64>,
    ) {
        let Ok(mut socket) = Socket::open_with_hello(self.server.public(), token, "till", *position).await else {
            self.sleep(1_000).await;
            return;
        };
        let going_offline = async {
            match online_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
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
                Ok(Received::Notice(_)) if behaviour == Behaviour::Unresponsive => {}
                Ok(Received::Notice(notice)) => {
                    if behaviour == Behaviour::Slow && !self.sleep(SLOW_MS).await {
                        return;
                    }
                    self.receive(store, token, &notice, true);
                    if socket.ack(notice.position).await.is_err() {
                        return;
                    }
                    *position = Some(notice.position);
                }
                Ok(Received::Frame(_)) => {}
                Ok(Received::Closed(_)) | Err(_) => {
                    *position = None;
                    self.sleep(1_000).await;
                    return;
                }
            }
        }
    }

    async fn till(self: Arc<Self>, store: String, behaviour: Behaviour, seed: u64) {
        let token: Arc<str> = self.token("store", &store).into();
        let (mut dice, mut position) = (Dice(seed), None);
        while !self.end.is_cancelled() {
            match behaviour {
                Behaviour::Offline | Behaviour::Yours => return,
                Behaviour::Polls => {
                    let polled = self.http.poll(&token, "till", position, Duration::ZERO).await;
                    for notice in polled.iter().flat_map(|answer| &answer.notices) {
                        self.receive(&store, &token, notice, false);
                    }
                    position = polled.ok().map(|answer| answer.position);
                    self.sleep(POLL_MS).await;
                }
                Behaviour::ComesAndGoes => {
                    let online_ms = dice.between(COME_AND_GO_MS);
                    self.push(&store, &token, &mut position, behaviour, Some(online_ms)).await;
                    self.sleep(dice.between(COME_AND_GO_MS)).await;
                }
                Behaviour::Quick | Behaviour::Slow | Behaviour::Unresponsive => {
                    self.push(&store, &token, &mut position, behaviour, None).await;
                }
            }
        }
    }

    /// A customer watches the phone for the pickup code, until the meal is ready or it takes too long.
    async fn phone(self: Arc<Self>, customer: String) {
        let Ok(_permit) = self.phones.clone().try_acquire_owned() else { return };
        let token = self.token("customer", &customer);
        let watching = async {
            let Ok(mut socket) = Socket::open_with_hello(self.server.public(), &token, "phone", None).await else {
                return;
            };
            while let Ok(received) = socket.next().await {
                match received {
                    Received::Notice(notice) => {
                        self.pickup_codes
                            .fetch_add(u64::from(notice.notice.kind == NoticeKind::PickupCode), Ordering::Relaxed);
                        let over = matches!(
                            notice.notice.kind,
                            NoticeKind::Ready | NoticeKind::OrderRefused | NoticeKind::Cancelled
                        );
                        if socket.ack(notice.position).await.is_err() || over {
                            return;
                        }
                    }
                    Received::Frame(_) => {}
                    Received::Closed(_) => return,
                }
            }
        };
        let longest = ((ACCEPT_MS.1 + COOK_MS.1) as f64 / self.speed) as u64;
        tokio::select! {
            () = watching => {}
            _ = self.sleep(longest) => {}
        }
    }

    /// A customer orders, and pays a little later.
    async fn order(self: Arc<Self>, number: u64, store: u64, amount: u64, token: Arc<str>) {
        let mut dice = Dice(number);
        let (order, customer) = (format!("{number:05}"), format!("C{number}"));
        let (store, watching) = (format!("S{store}"), customer.clone());
        let order = ProducedOrder { order, store, customer: Some(customer), amount, meal: None };
        let event = |kind: EventType| order.event(kind, wall_clock());
        self.post(&token, &event(EventType::Created)).await;
        if dice.once_in(25) || !self.sleep(self.person_ms(&mut dice, PAY_MS)).await {
            return;
        }
        if dice.once_in(PHONE_ONE_IN) {
            self.tasks.spawn(self.clone().phone(watching));
        }
        self.post(&token, &event(EventType::Paid)).await;
        self.orders.fetch_add(1, Ordering::Relaxed);
        if dice.once_in(60) && self.sleep(self.person_ms(&mut dice, ACCEPT_MS)).await {
            self.post(&token, &event(EventType::Cancelled)).await;
            self.post(&token, &event(EventType::Refunded)).await;
        }
    }

    /// Orders for the store of the person in front of the browser.
    async fn orders_for_you(self: Arc<Self>, seed: u64) {
        let (mut dice, store) = (Dice(seed), format!("S{YOURS}"));
        let (producer, till): (Arc<str>, Arc<str>) =
            (self.token("producer", "demo").into(), self.token("store", &store).into());
        for number in 1.. {
            if !self.sleep(dice.between(YOURS_MS)).await {
                return;
            }
            let (order, amount) = (format!("Y{number}"), dice.between((900, 8_900)));
            let meal = Some((dice.one_of(&day::MEALS), dice.between((1, 3))));
            let order = ProducedOrder { customer: Some(order.clone()), order, store: store.clone(), amount, meal };
            let chain = self.clone();
            let (producer, till) = (producer.clone(), till.clone());
            self.tasks.spawn(async move { chain.impatient_order(order, &producer, &till).await });
        }
    }

    /// One order whose customer cancels it when it is not accepted in time.
    async fn impatient_order(&self, order: ProducedOrder, producer: &str, till: &str) {
        let event = |kind: EventType| order.event(kind, wall_clock());
        self.post(producer, &[event(EventType::Created), event(EventType::Paid)]).await;
        if !self.sleep(PATIENCE_MS).await {
            return;
        }
        let path = format!("/v1/orders/{}", order.order);
        let known = self.http.get(&path, till).await.and_then(|answer| answer.json());
        if known.is_ok_and(|known| known["stage"] == "paid") {
            self.post(producer, &[event(EventType::Cancelled), event(EventType::Refunded)]).await;
        }
    }

    /// Draws orders at the rate of the time of day.
    async fn orders(self: Arc<Self>, began: UnixMs, rate: f64, stores: u16, seed: u64) {
        let token: Arc<str> = self.token("producer", "demo").into();
        let (mut dice, mut arrivals, start) = (Dice(seed), Arrivals::default(), Instant::now());
        for number in 1.. {
            let (store, amount) = (day::store(&mut dice, stores).max(u64::from(YOURS) + 1), dice.between((900, 8_900)));
            let now_per_second = rate * day::busy(day::hour(began, wall_clock()));
            let next = start + arrivals.next(now_per_second, &mut dice);
            self.tasks.spawn(self.clone().order(number, store, amount, token.clone()));
            if !arrivals::sleep_until(next, &self.end).await {
                return;
            }
        }
    }

    /// Posts the events from before the demo began.
    async fn past(self: Arc<Self>, now: UnixMs, rate: f64, stores: u16, seed: u64) {
        let token = self.token("producer", "demo");
        let mut batch = Vec::with_capacity(BATCH);
        for minute in day::before(now, rate, stores, seed) {
            batch.extend(minute);
            if batch.len() >= BATCH {
                let full: Vec<Value> = std::mem::take(&mut batch);
                for part in full.chunks(BATCH) {
                    if self.end.is_cancelled() {
                        return;
                    }
                    self.post(&token, &part).await;
                }
            }
        }
        self.post(&token, &batch).await;
    }

    fn summary(&self) -> String {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let lag: u64 = self.server.group_stats().status().iter().map(|part| part.next_offset - part.watermark).sum();
        let mean = count(&self.latency_ms.0).checked_div(count(&self.latency_ms.1));
        let mean = mean.map_or_else(String::new, |ms| format!(", {ms} ms after payment on average"));
        format!(
            "{} orders, {} tills rang{mean}; {} pickup codes on phones; lag {lag} records",
            count(&self.orders),
            count(&self.rings),
            count(&self.pickup_codes)
        )
    }

    /// One line that is refreshed on a terminal; nothing elsewhere.
    async fn status(self: Arc<Self>) {
        let bar = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        while self.sleep(500).await {
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
    let mut config = config(dir.path(), listen(options, "127.0.0.1:8377"));
    config.playground = true;
    config.boot.wall.time_zone = day::zone(now).try_into().ok();
    config.live.wall =
        LiveWall { name: "Orderbell Kitchen".into(), stores: Some(names), open: true, ..config.live.wall };
    let server = serve(&config).await?;
    let chain = Arc::new(Chain {
        http: HttpClient::new(server.public()),
        tokens: config.load_tokens().map_err(|error| error.to_string())?,
        server: server.clone(),
        end: CancellationToken::new(),
        tasks: TaskTracker::new(),
        phones: Arc::new(Semaphore::new(PHONES_MAX)),
        speed: options.speed,
        orders: AtomicU64::new(0),
        rings: AtomicU64::new(0),
        pickup_codes: AtomicU64::new(0),
        latency_ms: (AtomicU64::new(0), AtomicU64::new(0)),
    });
    out_line(&format!(
        "A chain of {stores} stores in {} cities is running:\n\n  wall      http://{public}/wall/\n  \
         till      http://{public}/playground/till/?store=S{YOURS}   you are the till of this store: accept its orders\n  \
         phone     http://{public}/playground/phone/?store=S{YOURS}  order there, and wait for your pickup code\n  console   http://{admin}/console/\n  metrics   http://{admin}/metrics\n\n\
         Most tills are connected, some only poll, some are slow, unresponsive or offline. Nothing leaves this machine; Ctrl-C ends it.\n",
        day::CITIES.len().min(usize::from(stores)),
        public = server.public(),
        admin = server.admin(),
    ));
    for n in 1..=stores {
        chain.tasks.spawn(chain.clone().till(format!("S{n}"), Behaviour::of(n), options.seed ^ u64::from(n)));
    }
    chain.tasks.spawn(chain.clone().past(now, rate, stores, options.seed));
    chain.tasks.spawn(chain.clone().orders(now, rate, stores, options.seed));
    chain.tasks.spawn(chain.clone().orders_for_you(options.seed));
    chain.tasks.spawn(chain.clone().status());
    until_the_end(options.seconds, &chain.end).await?;
    chain.end.cancel();
    chain.tasks.close();
    out_line("Draining ...");
    chain.tasks.wait().await;
    let clean = server.stop().await;
    out_line(&format!("{} in {} s", chain.summary(), began.elapsed().as_secs()));
    if clean { Ok(()) } else { Err("the drain did not end in time".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_behaviour_occurs_and_most_tills_are_quick() {
        let all: Vec<Behaviour> = (1..=STORES).map(Behaviour::of).collect();
        let count = |behaviour: Behaviour| all.iter().filter(|known| **known == behaviour).count();
        for behaviour in [
            Behaviour::Slow,
            Behaviour::Unresponsive,
            Behaviour::ComesAndGoes,
            Behaviour::Polls,
            Behaviour::Offline,
            Behaviour::Yours,
        ] {
            assert!((1..=30).contains(&count(behaviour)), "{behaviour:?}");
        }
        assert!(count(Behaviour::Quick) > 230);
    }
}
