//! An order system: produces order events, to Kafka or over HTTP.
//!
//! ```sh
//! cargo run --example produce -- --kafka 127.0.0.1:9092 --topic orders --rate 5
//! ORDERBELL_TOKEN=$(orderbell token producer me) cargo run --example produce -- --http http://localhost:8377 --rate 5
//! ```
//!
//! A seed determines the orders: most are created and paid, some are cancelled, a few are never paid. `--rate` is in orders per second; each order
//! has its own scheduled time, even when the previous one was late. `--count` limits the number of orders, `--once` produces one paid order.
//!
//! Rules for a producer: the order id is the record key, so that the events of an order keep their order; event ids make retries harmless; an
//! event is sent again until the receiver confirms it.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orderbell_client::{Endpoint, HttpClient};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::time::Instant;

/// First and longest delay before an event is sent again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

enum Target {
    /// The producer, and the topic.
    Kafka(FutureProducer, String),
    /// The client, and the token.
    Http(HttpClient, String),
}

impl Target {
    fn kafka(bootstrap: &str, topic: String) -> Result<Self, Box<dyn Error>> {
        let mut config = ClientConfig::new();
        // Without these settings a retry may duplicate or reorder events, and keys go to other partitions than those of other clients.
        config.set("enable.idempotence", "true").set("partitioner", "murmur2_random");
        Ok(Self::Kafka(config.set("bootstrap.servers", bootstrap).create()?, topic))
    }

    async fn send(&self, order: &str, event: &Value) -> Result<(), String> {
        let text = event.to_string();
        match self {
            Self::Kafka(producer, topic) => {
                let record = FutureRecord::to(topic).key(order).payload(&text);
                producer.send(record, Duration::from_secs(30)).await.map(|_| ()).map_err(|(error, _)| error.to_string())
            }
            Self::Http(http, token) => {
                let answer = http.send("POST", "/v1/events", token, "application/json", text).await;
                let answer = answer.map_err(|error| error.with_sources())?;
                if answer.status == 200 {
                    return Ok(());
                }
                let problem = answer.json().map_err(|error| format!("{}: {error}", answer.status))?;
                Err(format!("{}: {}", answer.status, problem["code"]))
            }
        }
    }

    /// Sends the event until it is confirmed. It is the same event each time, so duplicates are ignored.
    async fn deliver(&self, order: &str, event: &Value) {
        let mut wait = BACK_OFF.0;
        while let Err(error) = self.send(order, event).await {
            eprintln!("{order}: {error}; retrying");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
        println!("{} {order}", event["type"].as_str().unwrap_or_default());
    }
}

/// A seeded random generator: `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }
}

fn event(kind: &str, order: &str, store: u64, amount: u64) -> Value {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(at.as_millis()).unwrap_or(0);
    json!({
        "type": kind, "id": format!("{kind}-{order}"), "order": order, "time": at,
        "store": store.to_string(), "customer": format!("c{}", store * 7), "amount": amount, "currency": "CNY",
        "items": [{"name": "noodles", "count": 1 + amount % 3}],
    })
}

/// The events of one order, in sequence.
fn order_events(rng: &mut Rng, order: &str, stores: u64, once: bool) -> Vec<Value> {
    let (store, amount) = (1 + rng.below(stores), 900 + rng.below(9_000));
    let event = |kind| event(kind, order, store, amount);
    match if once { 50 } else { rng.below(100) } {
        0..5 => vec![event("order.created")],
        5..15 => vec![event("order.created"), event("order.paid"), event("order.cancelled")],
        _ => vec![event("order.created"), event("order.paid")],
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "produce (--http URL | --kafka BOOTSTRAP [--topic NAME]) [--rate N] [--stores N] [--seed N] [--count N] [--once]";
    let (mut http, mut kafka, mut topic) = (None, None, String::from("orders"));
    let (mut rate, mut stores, mut seed, mut count, mut once) = (2.0_f64, 3, 7, u64::MAX, false);
    let mut args = std::env::args().skip(1);
    while let Some(word) = args.next() {
        if word == "--once" {
            (once, count) = (true, 1);
            continue;
        }
        let value = args.next().ok_or(usage)?;
        match word.as_str() {
            "--http" => http = Some(value.parse::<Endpoint>()?),
            "--kafka" => kafka = Some(value),
            "--topic" => topic = value,
            "--rate" => rate = value.parse()?,
            "--stores" => stores = value.parse()?,
            "--seed" => seed = value.parse()?,
            "--count" => count = value.parse()?,
            _ => return Err(usage.into()),
        }
    }
    let target = match (http, kafka) {
        (Some(server), None) => {
            let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
            Target::Http(HttpClient::new(server), token)
        }
        (None, Some(bootstrap)) => Target::kafka(&bootstrap, topic)?,
        _ => return Err(usage.into()),
    };
    if !rate.is_finite() || rate <= 0.0 {
        return Err("--rate is orders per second and must be greater than 0".into());
    }
    // The order ids contain the start time, so that a second run produces other orders.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (mut rng, began) = (Rng(seed), Instant::now());
    for number in 0..count {
        let due = began + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due).await;
        let order = format!("{run:x}-{number}");
        for event in order_events(&mut rng, &order, stores, once) {
            target.deliver(&order, &event).await;
        }
    }
    Ok(())
}
