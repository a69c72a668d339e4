//! `orderbell bench`: figures by hand, never in a test. Each load is bounded in count and time and goes to loopback only.

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
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{FAILED, say, tell};
use crate::client::{Heard, Http, Socket};
use crate::config::Config;
use crate::net::wall_clock;

/// Connections that are opened at once.
const OPENING_MAX: usize = 64;
/// The open-file limit of most systems, less what this process needs itself.
const CONNECTIONS_MAX: u64 = 15_000;
/// Events are posted in batches at this pace: a producer that keeps up, not one that hurries.
const BATCH_EVERY: Duration = Duration::from_millis(5);

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// From the moment an event is sent to the server until a till has its notice.
    Ring {
        /// Events a second.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
        rate: u64,
        /// For how long. Seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Stores, each with one till.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        stores: u64,
    },
    /// Resident memory of the server for each till that is connected and hears nothing.
    Idle {
        /// How many tills.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
        connections: u64,
    },
    /// Viewers of the wall by server-sent events, while orders come: the rate that each is shown, and what one costs.
    Wall {
        /// How many viewers.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        viewers: u64,
        /// Orders a second.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=5_000))]
        rate: u64,
        /// For how long. Seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
}

/// A server of this same binary, in a process of its own and on a directory that goes away.
struct Bell {
    child: Child,
    config: Config,
    public: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Bell {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Bell {
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
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let out = child.stdout.take().ok_or("the server has no output")?;
        let mut lines = std::io::BufReader::new(out).lines().map_while(Result::ok);
        let public = lines.find_map(|line| line.strip_prefix("Orderbell listens on ")?.split(';').next()?.parse().ok());
        let public = public.ok_or("the server did not start")?;
        let config = Config { data_dir: data, ..Config::default() };
        Ok(Self { child, config, public, _dir: dir })
    }

    fn token(&self, role: &str, id: &str) -> Result<String, String> {
        let tokens = self.config.tokens().map_err(|error| error.to_string())?;
        tokens.mint(role, id, None, wall_clock(), 86_400).map_err(|_| "no key to sign with".to_owned())
    }

    /// Time of all cores since its start, in milliseconds: ticks of ten, as Linux counts on every machine of today.
    fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("stat"));
        let stat = stat.unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
    }

    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status"))
            .unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }
}

/// Runs a bench.
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
    done.map_err(|error| {
        say(&format!("orderbell: {error}"));
        ExitCode::from(FAILED)
    })
}

/// When each order was sent, and how long its notice took.
struct Times {
    sent: Mutex<HashMap<String, Instant>>,
    took: Mutex<Histogram<u64>>,
    heard: AtomicU64,
}

async fn till(bell: Arc<Bell>, store: u64, times: Arc<Times>) {
    let Ok(token) = bell.token("store", &store.to_string()) else { return };
    let Ok(mut socket) = Socket::hello(bell.public, &token, "till", None).await else { return };
    while let Ok(Heard::Notice(_) | Heard::Frame(_)) = hear(&mut socket, &times).await {}
}

async fn hear(socket: &mut Socket, times: &Times) -> Result<Heard, crate::client::ClientError> {
    let heard = socket.next().await?;
    if let Heard::Notice(notice) = &heard {
        let sent = times.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&notice.notice.order);
        if let Some(sent) = sent {
            let us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            times.took.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
            times.heard.fetch_add(1, Ordering::Relaxed);
        }
        socket.ack(notice.position).await?;
    }
    Ok(heard)
}

async fn ring(rate: u64, time: Duration, stores: u64) -> Result<(), String> {
    let bell = Arc::new(Bell::start()?);
    let took = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
    let times = Arc::new(Times { sent: Mutex::default(), took: Mutex::new(took), heard: AtomicU64::new(0) });
    let tasks = TaskTracker::new();
    for store in 0..stores {
        tasks.spawn(till(bell.clone(), store, times.clone()));
    }
    let (http, token) = (Http::new(bell.public), bell.token("producer", "bench")?);
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
    while times.heard.load(Ordering::Relaxed) < sent && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = times.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ms = |share: f64| took.value_at_quantile(share) as f64 / 1000.0;
    tell(&format!(
        "{sent} events at {rate}/s to {stores} stores; heard {}; failed posts {}\nsent to heard: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        times.heard.load(Ordering::Relaxed),
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
    let bell = Bell::start()?;
    // Threads, caches and the allocator's first pages are there before anything is counted.
    let mut warm = Vec::new();
    for n in 0..100 {
        warm.push(connect(&bell, u64::MAX - n).await?);
    }
    let before = bell.memory_kib();
    let mut open = Vec::new();
    for from in (0..connections).step_by(OPENING_MAX) {
        let some = (from..connections.min(from + OPENING_MAX as u64)).map(|n| connect(&bell, n));
        for socket in futures_util::future::join_all(some).await {
            open.push(socket?);
        }
    }
    let grown = bell.memory_kib().saturating_sub(before);
    tell(&format!("{} idle tills: {} KiB, {} bytes each", open.len(), grown, grown * 1024 / connections.max(1)));
    drop(warm);
    Ok(())
}

/// A till that has said hello and was welcomed.
async fn connect(bell: &Bell, n: u64) -> Result<Socket, String> {
    let failed = |error: crate::client::ClientError| error.to_string();
    let token = bell.token("store", &format!("s{n}"))?;
    let mut socket = Socket::hello(bell.public, &token, "till", None).await.map_err(failed)?;
    socket.next().await.map_err(failed)?;
    Ok(socket)
}
