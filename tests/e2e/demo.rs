//! The demo, as somebody starts it who read its name a minute ago.

use std::path::Path;

use orderbell_client::{Endpoint, HttpClient};
use orderbell_lab::Process;
use orderbell_protocol::wall::Wall;
use tokio::task::block_in_place;

use crate::chain::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_chain_is_on_the_wall_with_nothing_installed() {
    let mut demo = Process::start(
        Path::new(env!("CARGO_BIN_EXE_orderbell")),
        &["demo", "--listen", "127.0.0.1:0", "--stores", "60", "--rate", "4", "--speed", "30"],
        &[],
    );
    let wall = |line: &str| Some(line.trim().strip_prefix("wall")?.trim().strip_prefix("http://")?.to_owned());
    let address = block_in_place(|| demo.out.wait_for("the wall's address", wall));
    let (server, path) = address.split_once('/').unwrap();
    let http = HttpClient::new(server.parse::<Endpoint>().unwrap());
    let page = http.get(&format!("/{path}"), "").await.unwrap();
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("/assets/wall.js"));
    let till = |line: &str| {
        Some(line.trim().strip_prefix("till")?.trim().strip_prefix("http://")?.split(' ').next()?.to_owned())
    };
    let till = block_in_place(|| demo.out.wait_for("the till's address", till));
    let (_, path) = till.split_once('/').unwrap();
    let page = http.get(&format!("/{path}"), "").await.unwrap();
    assert!(page.status == 200 && String::from_utf8_lossy(&page.body).contains("/assets/till.js"), "{till}");
    let console = |line: &str| line.trim().strip_prefix("console")?.trim().strip_prefix("http://").map(str::to_owned);
    let console = block_in_place(|| demo.out.wait_for("the console's address", console));
    let (admin, path) = console.split_once('/').unwrap();
    let page = HttpClient::new(admin.parse::<Endpoint>().unwrap()).get(&format!("/{path}"), "").await.unwrap();
    assert!(page.status == 200 && String::from_utf8_lossy(&page.body).contains("/assets/console.js"), "{console}");
    let look = async || serde_json::from_slice::<Wall>(&http.get("/v1/wall", "").await.unwrap().body).unwrap();
    until("a morning is behind it", async || look().await.today.paid > 1_000).await;
    let before = look().await;
    until("stores take orders, cook and hand over", async || {
        let now = look().await;
        let grown = |of: fn(&Wall) -> i64| of(&now) > of(&before);
        grown(|wall| wall.today.paid) && grown(|wall| wall.today.accepted) && grown(|wall| wall.today.picked_up)
    })
    .await;
    let now = look().await;
    assert!(now.reachability.push > 40 && now.reachability.poll > 0, "{:?}", now.reachability);
    assert_eq!(now.cities.len(), 12);
    demo.signal("TERM");
    assert!(block_in_place(|| demo.ends()).success(), "{}", demo.err.text());
    assert!(demo.out.text().contains("tills rang"), "{}", demo.out.text());
}

/// Counted against the time that really passed. A slow machine makes up for what it was late with; only the last moments may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_come_at_the_rate_that_was_chosen() {
    const RATE: f64 = 40.0;
    const SECONDS: f64 = 5.0;
    let began = std::time::Instant::now();
    let (rate, seconds) = (RATE.to_string(), SECONDS.to_string());
    let args = ["demo", "--terminal", "--listen", "127.0.0.1:0", "--rate", &rate, "--seconds", &seconds];
    let mut demo = Process::start(Path::new(env!("CARGO_BIN_EXE_orderbell")), &args, &[]);
    assert!(block_in_place(|| demo.ends()).success(), "{}", demo.err.text());
    let elapsed = began.elapsed().as_secs_f64();
    let summary = demo.out.text();
    let (summary, _) = summary.rsplit_once(" orders, ").unwrap();
    let orders: f64 = summary.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(orders >= RATE * SECONDS / 2.0, "{orders} orders in {elapsed} s");
    assert!(orders <= RATE * elapsed * 1.1, "{orders} orders in {elapsed} s");
}
