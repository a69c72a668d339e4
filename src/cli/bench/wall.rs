//! `orderbell bench wall`: many viewers of one node's wall while orders arrive. Measures the update rate and the cost of a viewer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BenchServer, OPENING_MAX, out_line};
use crate::clock::wall_clock;
use orderbell_client::HttpClient;

/// One of this many viewers parses its updates to measure their age; the others only count them.
const PARSING_ONE_IN: u64 = 50;
/// Read buffer: an update is longer than one packet and shorter than this.
const BUFFER_BYTES: usize = 8 * 1024;
const STORES: u64 = 300;

/// Counts the updates of one viewer.
#[derive(Default)]
struct Viewer {
    updates: AtomicU64,
}

/// A viewer that is connected and has received its snapshot.
async fn connect(server: &BenchServer, token: &str) -> Result<BufReader<TcpStream>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(server.public).await.map_err(failed)?;
    let head = "GET /v1/wall HTTP/1.1\r\nhost: wall\r\naccept: text/event-stream\r\nauthorization: Bearer";
    stream.write_all(format!("{head} {token}\r\n\r\n").as_bytes()).await.map_err(failed)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        if reader.read_line(&mut line).await.map_err(failed)? == 0 || line.starts_with("HTTP/1.1 5") {
            return Err(format!("a viewer was rejected: {}", line.trim()));
        }
    }
    Ok(reader)
}

/// Counts updates until the end, and measures their age when `ages` is given.
async fn watch(
    mut reader: BufReader<TcpStream>,
    viewer: Arc<Viewer>,
    ages: Option<Arc<Mutex<Histogram<u64>>>>,
    end: CancellationToken,
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = tokio::select! {
            () = end.cancelled() => return,
            read = reader.read_until(b'\n', &mut line) => read,
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
        let Some(data) = line.strip_prefix(b"data: ") else { continue };
        viewer.updates.fetch_add(1, Ordering::Relaxed);
        if let Some(ages) = &ages {
            let at = serde_json::from_slice::<serde_json::Value>(data).ok().and_then(|wall| wall["at"].as_i64());
            let age = at.and_then(|at| u64::try_from(wall_clock().0 - at).ok());
            let mut ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
            age.into_iter().for_each(|age| ages.saturating_record(age));
        }
    }
}

/// Posts orders, so that the wall has something to show.
async fn orders(server: Arc<BenchServer>, rate: u64, end: CancellationToken) {
    let (http, Ok(token)) = (HttpClient::new(server.public), server.token("producer", "bench")) else { return };
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let (began, mut sent) = (Instant::now(), 0);
    while !end.is_cancelled() {
        pace.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let order = |n: u64| {
            json!({"type": "order.paid", "id": n.to_string(), "order": n.to_string(), "store": (n * 7919 % STORES).to_string(),
                   "amount": 1_000, "time": wall_clock().0})
        };
        let body = serde_json::Value::from((sent..due).map(order).collect::<Vec<_>>());
        if sent < due {
            let _busy = http.send("POST", "/v1/events", &token, "application/json", body.to_string()).await;
        }
        sent = due;
    }
}

pub(super) async fn wall(viewers: u64, rate: u64, time: Duration) -> Result<(), String> {
    let server = Arc::new(BenchServer::start_with(&[
        ("ORDERBELL__WALL__MAX_VIEWERS", viewers.to_string()),
        ("ORDERBELL__WALL__MAX_VIEWERS_PER_TOKEN", viewers.to_string()),
    ])?);
    let token = server.token("wall", "bench")?;
    let end = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(orders(server.clone(), rate, end.clone()));
    // Warm up: what the first viewer allocates for all must not be counted.
    drop(connect(&server, &token).await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.memory_kib()?;
    let mut readers = Vec::new();
    for from in (0..viewers).step_by(OPENING_MAX) {
        let next = (from..viewers.min(from + OPENING_MAX as u64)).map(|_| connect(&server, &token));
        for reader in futures_util::future::join_all(next).await {
            readers.push(reader?);
        }
    }
    let ages = Arc::new(Mutex::new(Histogram::<u64>::new(3).map_err(|error| error.to_string())?));
    let all: Vec<_> = readers
        .into_iter()
        .zip(0_u64..)
        .map(|(reader, n)| {
            let viewer = Arc::new(Viewer::default());
            let ages = n.is_multiple_of(PARSING_ONE_IN).then(|| ages.clone());
            tasks.spawn(watch(reader, viewer.clone(), ages, end.clone()));
            viewer
        })
        .collect();
    // Updates that queued while others connected must not be measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    all.iter().for_each(|viewer| viewer.updates.store(0, Ordering::Relaxed));
    ages.lock().unwrap_or_else(PoisonError::into_inner).reset();
    let (cpu, began) = (server.cpu_ms()?, Instant::now());
    tokio::time::sleep(time).await;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), server.cpu_ms()? - cpu);
    let grown = server.memory_kib()?.saturating_sub(before);
    let mut rates: Vec<f64> =
        all.iter().map(|viewer| viewer.updates.load(Ordering::Relaxed) as f64 / seconds).collect();
    rates.sort_by(f64::total_cmp);
    let took = ages.lock().unwrap_or_else(PoisonError::into_inner).clone();
    end.cancel();
    tasks.close();
    tasks.wait().await;
    let at = |share: usize| rates.get((rates.len() - 1) * share / 100).copied().unwrap_or(0.0);
    out_line(&format!(
        "{viewers} viewers for {seconds:.0} s, {rate} orders/s: updates per second and viewer: least {:.2}, median {:.2}, most {:.2}\nage of an \
         update when read: p50 {} ms, p99 {} ms, max {} ms\nserver: {} bytes per viewer, {:.0} % of one core, {:.1} us per update",
        at(0),
        at(50),
        at(100),
        took.value_at_quantile(0.5),
        took.value_at_quantile(0.99),
        took.max(),
        grown * 1024 / viewers.max(1),
        cpu as f64 / seconds / 10.0,
        cpu as f64 * 1000.0 / (rates.iter().sum::<f64>() * seconds).max(1.0)
    ));
    Ok(())
}
