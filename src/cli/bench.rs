//! `orderbell bench`: measurements started by hand, never by a test. Each load is bounded in count and time and goes to loopback only.

mod wall;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Subcommand;
use hdrhistogram::Histogram;
use orderbell_protocol::command_output::ReadyLine;
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{failed, out_line};
use crate::clock::wall_clock;
use crate::config::Config;
use orderbell_client::{HttpClient, Received, Socket};

/// Connections that are opened concurrently.
const OPENING_MAX: usize = 64;
/// Below the open-file limit of most systems, with room for this process itself.
const CONNECTIONS_MAX: u64 = 15_000;
/// Interval of the batches that events are posted in: that of a producer which keeps up with its orders.
const BATCH_EVERY: Duration = Duration::from_millis(5);

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Measure the time from sending an event until the store's till has its notice.
    Ring {
        /// Events per second.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
        rate: u64,
        /// Duration in seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Number of stores, each with one till.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        stores: u64,
    },
    /// Measure the resident memory of the server for each idle connection.
    Idle {
        /// Number of tills.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
        connections: u64,
    },
    /// Measure the update rate and the cost of viewers of the wall, by server-sent events, while orders arrive.
    Wall {
        /// Number of viewers.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        viewers: u64,
        /// Orders per second.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        rate: u64,
        /// Duration in seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
}

/// A server of this binary in a process of its own, on a temporary directory.
struct BenchServer {
    child: Child,
    config: Config,
    public: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for BenchServer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl BenchServer {
    fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    fn start_with(env: &[(&str, String)]) -> Result<Self, String> {
        use std::io::BufRead;
        let failed = |error: std::io::Error| error.to_string();
        let dir = tempfile::tempdir().map_err(failed)?;
        let exe = std::env::current_exe().map_err(failed)?;
        let data = dir.path().join("data");
        let mut child = Command::new(exe)
            .args(["serve", "--ready-json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let out = child.stdout.take().ok_or("the server has no output")?;
        let line = std::io::BufReader::new(out).lines().next().ok_or("the server did not start")?.map_err(failed)?;
        let public = serde_json::from_str::<ReadyLine>(&line).map_err(|error| error.to_string())?.public;
        Ok(Self { child, config: Config::in_dir(&data), public, _dir: dir })
    }

    fn token(&self, role: &str, id: &str) -> Result<String, String> {
        let tokens = self.config.load_tokens().map_err(|error| error.to_string())?;
        tokens.mint(role, id, None, wall_clock(), 86_400).map_err(|error| error.to_string())
    }

    /// CPU time of all threads since the start, in milliseconds. A clock tick of Linux is 10 ms.
    fn cpu_ms(&self) -> Result<u64, String> {
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc has another form")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Ok(ticks.sum::<Result<u64, _>>().map_err(|error| error.to_string())? * 10)
    }

    fn memory_kib(&self) -> Result<u64, String> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("/proc has another form")?;
        line.trim().trim_end_matches(" kB").parse().map_err(|error: std::num::ParseIntError| error.to_string())
    }

    fn proc(&self, file: &str) -> Result<String, String> {
        let path = Path::new("/proc").join(self.child.id().to_string()).join(file);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Prints what it measured; nothing is asserted.
pub(crate) fn run(bench: &Bench) -> Result<(), ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            match bench {
                Bench::Ring { rate, seconds, stores } => ring(*rate, Duration::from_secs(*seconds), *stores).await,
                Bench::Idle { connections } => idle(*connections).await,
                Bench::Wall { viewers, rate, seconds } => {
                    wall::wall(*viewers, *rate, Duration::from_secs(*seconds)).await
                }
            }
        })
    });
    done.map_err(failed)
}

/// When each order was sent, and the latency of its notice.
struct Latencies {
    sent: Mutex<HashMap<String, Instant>>,
    took: Mutex<Histogram<u64>>,
    received: AtomicU64,
}

async fn till(server: Arc<BenchServer>, store: u64, times: Arc<Latencies>) {
    let Ok(token) = server.token("store", &store.to_string()) else { return };
    let Ok(mut socket) = Socket::open_with_hello(server.public, &token, "till", None).await else { return };
    while let Ok(Received::Notice(_) | Received::Frame(_)) = receive(&mut socket, &times).await {}
}

/// Receives one frame, records its latency and acknowledges it.
async fn receive(socket: &mut Socket, times: &Latencies) -> Result<Received, orderbell_client::ClientError> {
    let received = socket.next().await?;
    if let Received::Notice(notice) = &received {
        let sent = times.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&notice.notice.order);
        if let Some(sent) = sent {
            let us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            times.took.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
            times.received.fetch_add(1, Ordering::Relaxed);
        }
        socket.ack(notice.position).await?;
    }
    Ok(received)
}

async fn ring(rate: u64, time: Duration, stores: u64) -> Result<(), String> {
    let server = Arc::new(BenchServer::start()?);
    let took = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
    let times = Arc::new(Latencies { sent: Mutex::default(), took: Mutex::new(took), received: AtomicU64::new(0) });
    let tasks = TaskTracker::new();
    for store in 0..stores {
        tasks.spawn(till(server.clone(), store, times.clone()));
    }
    let (http, token) = (HttpClient::new(server.public), server.token("producer", "bench")?);
    let mut pace = tokio::time::interval(BATCH_EVERY);
    let (began, mut sent) = (Instant::now(), 0_u64);
    let failures = Arc::new(AtomicU64::new(0));
    while began.elapsed() < time {
        pace.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let orders: Vec<String> = (sent..due).map(|n| format!("o{n}")).collect();
        sent = due;
        if orders.is_empty() {
            continue;
        }
        let store = |n: usize| ((due + n as u64) % stores).to_string();
        let at = wall_clock().0;
        let event = |(n, order): (usize, &String)| json!({"type": "order.paid", "id": order, "order": order, "store": store(n), "amount": 1, "time": at});
        let body = serde_json::Value::from(orders.iter().enumerate().map(event).collect::<Vec<_>>()).to_string();
        let now = Instant::now();
        times.sent.lock().unwrap_or_else(PoisonError::into_inner).extend(orders.into_iter().map(|order| (order, now)));
        let (http, token, failures) = (http.clone(), token.clone(), failures.clone());
        tasks.spawn(async move {
            let posted = http.send("POST", "/v1/events", &token, "application/json", body).await;
            failures.fetch_add(u64::from(!posted.is_ok_and(|answer| answer.status == 200)), Ordering::Relaxed);
        });
    }
    let until = Instant::now() + Duration::from_secs(30);
    while times.received.load(Ordering::Relaxed) < sent && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = times.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ms = |share: f64| took.value_at_quantile(share) as f64 / 1000.0;
    out_line(&format!(
        "{sent} events at {rate}/s to {stores} stores; notices received {}; failed posts {}\nfrom event sent to notice received: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        times.received.load(Ordering::Relaxed),
        failures.load(Ordering::Relaxed),
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(0.999),
        ms(1.0)
    ));
    Ok(())
}

async fn idle(connections: u64) -> Result<(), String> {
    let server = BenchServer::start()?;
    // Warm up: threads, caches and the allocator's first pages must not be counted.
    let mut warm = Vec::new();
    for n in 0..100 {
        warm.push(connect(&server, u64::MAX - n).await?);
    }
    let before = server.memory_kib()?;
    let mut open = Vec::new();
    for from in (0..connections).step_by(OPENING_MAX) {
        let next = (from..connections.min(from + OPENING_MAX as u64)).map(|n| connect(&server, n));
        for socket in futures_util::future::join_all(next).await {
            open.push(socket?);
        }
    }
    let grown = server.memory_kib()?.saturating_sub(before);
    out_line(&format!("{} idle tills: {} KiB, {} bytes each", open.len(), grown, grown * 1024 / connections.max(1)));
    drop(warm);
    Ok(())
}

/// A till that has its `welcome`.
async fn connect(server: &BenchServer, n: u64) -> Result<Socket, String> {
    let failed = |error: orderbell_client::ClientError| error.with_sources();
    let token = server.token("store", &format!("s{n}"))?;
    let mut socket = Socket::open_with_hello(server.public, &token, "till", None).await.map_err(failed)?;
    socket.next().await.map_err(failed)?;
    Ok(socket)
}
