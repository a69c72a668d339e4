//! `orderbell bench wall`: many viewers of one node's wall, while orders come. Is the rate held, what does a viewer cost?

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Bell, OPENING_MAX, tell};
use crate::client::Http;
use crate::net::wall_clock;

/// Every so manieth viewer reads what it is shown, to tell how old that is; the others count.
const READER_EVERY: u64 = 50;
/// A document is longer than one packet and shorter than this.
const BUFFER_BYTES: usize = 8 * 1024;
const STORES: u64 = 300;

/// One viewer, as it counts.
#[derive(Default)]
struct Viewer {
    documents: AtomicU64,
}

/// A viewer that is connected and has its snapshot.
async fn connect(bell: &Bell, token: &str) -> Result<BufReader<TcpStream>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(bell.public).await.map_err(failed)?;
    let head = "GET /v1/wall HTTP/1.1\r\nhost: wall\r\naccept: text/event-stream\r\nauthorization: Bearer";
    stream.write_all(format!("{head} {token}\r\n\r\n").as_bytes()).await.map_err(failed)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        if reader.read_line(&mut line).await.map_err(failed)? == 0 || line.starts_with("HTTP/1.1 5") {
            return Err(format!("a viewer was not let in: {}", line.trim()));
        }
    }
    Ok(reader)
}

/// Counts documents until the end; a reader also looks at how old they are.
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
        viewer.documents.fetch_add(1, Ordering::Relaxed);
        if let Some(ages) = &ages {
            let at = serde_json::from_slice::<serde_json::Value>(data).ok().and_then(|wall| wall["at"].as_i64());
            let age = at.and_then(|at| u64::try_from(wall_clock().0 - at).ok());
            let mut ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
            age.into_iter().for_each(|age| ages.saturating_record(age));
        }
    }
}

/// Orders, so that there is something to show.
async fn orders(bell: Arc<Bell>, rate: u64, end: CancellationToken) {
    let (http, Ok(token)) = (Http::new(bell.public), bell.token("producer", "bench")) else { return };
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
    let bell = Arc::new(Bell::start_with(&[("ORDERBELL__WALL__VIEWERS_MAX", viewers.to_string())])?);
    let token = bell.token("wall", "bench")?;
    let end = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(orders(bell.clone(), rate, end.clone()));
    // What one viewer needs that others do not is there before anything is counted. Its place is given back.
    drop(connect(&bell, &token).await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = bell.memory_kib();
    let mut readers = Vec::new();
    for from in (0..viewers).step_by(OPENING_MAX) {
        let some = (from..viewers.min(from + OPENING_MAX as u64)).map(|_| connect(&bell, &token));
        for reader in futures_util::future::join_all(some).await {
            readers.push(reader?);
        }
    }
    let ages = Arc::new(Mutex::new(Histogram::<u64>::new(3).map_err(|error| error.to_string())?));
    let all: Vec<_> = readers
        .into_iter()
        .zip(0_u64..)
        .map(|(reader, n)| {
            let viewer = Arc::new(Viewer::default());
            let ages = n.is_multiple_of(READER_EVERY).then(|| ages.clone());
            tasks.spawn(watch(reader, viewer.clone(), ages, end.clone()));
            viewer
        })
        .collect();
    // What waited while others connected is not what is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    all.iter().for_each(|viewer| viewer.documents.store(0, Ordering::Relaxed));
    ages.lock().unwrap_or_else(PoisonError::into_inner).reset();
    let (cpu, began) = (bell.cpu_ms(), Instant::now());
    tokio::time::sleep(time).await;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), bell.cpu_ms() - cpu);
    let grown = bell.memory_kib().saturating_sub(before);
    let mut rates: Vec<f64> =
        all.iter().map(|viewer| viewer.documents.load(Ordering::Relaxed) as f64 / seconds).collect();
    rates.sort_by(f64::total_cmp);
    let took = ages.lock().unwrap_or_else(PoisonError::into_inner).clone();
    end.cancel();
    tasks.close();
    tasks.wait().await;
    let at = |share: usize| rates.get((rates.len() - 1) * share / 100).copied().unwrap_or(0.0);
    tell(&format!(
        "{viewers} viewers for {seconds:.0} s, {rate} orders/s: documents a second each: least {:.2}, median {:.2}, most {:.2}\nfrom made to \
         read: p50 {} ms, p99 {} ms, max {} ms\nserver: {} bytes a viewer, {:.0} % of one core, {:.1} us a document",
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
