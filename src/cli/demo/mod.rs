//! `orderbell demo`: a simulated chain of stores, with nothing installed and no configuration.
//!
//! Only the people are simulated. The server is a real embedded one on loopback with a temporary directory; tills and phones have real
//! WebSocket connections, some tills only poll, some are slow, unresponsive or offline. The day is drawn from a seed ([`day`]); [`chain`]
//! plays it; [`terminal`] prints a small chain line by line, for a look without a browser.

mod arrivals;
mod chain;
mod day;
mod order_system;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

use orderbell_protocol::{ClientEvent, EventType};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::{err_line, failed, log};
use crate::config::{Config, Listen};
use crate::net::NetLimits;
use crate::server::Server;

#[derive(clap::Args)]
pub(crate) struct DemoOptions {
    /// Print a small chain line by line in this terminal instead.
    #[arg(long)]
    terminal: bool,
    /// Orders per second at lunch time [default: 1.2; with --terminal 3].
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Number of stores [default: 300; with --terminal 6].
    #[arg(long, value_parser = clap::value_parser!(u16).range(3..=2_000))]
    stores: Option<u16>,
    /// How fast stores accept and prepare orders: 2 is twice as fast as people are.
    #[arg(long, default_value_t = 6.0, value_parser = parse_speed)]
    speed: f64,
    /// The same seed draws the same orders.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Stop after this many seconds; 0 runs until Ctrl-C.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Address of the pages and the API [default: 127.0.0.1:8377, or a free port when that is in use].
    #[arg(long)]
    listen: Option<std::net::SocketAddr>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=500.0).contains(rate));
    rate.ok_or_else(|| String::from("expected 0.1 to 500 orders per second"))
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (1.0..=60.0).contains(speed));
    speed.ok_or_else(|| String::from("expected 1 to 60"))
}

/// What a till reports about an order, now.
fn reported(kind: EventType, order: &str, store: &str) -> ClientEvent {
    ClientEvent {
        id: format!("{}-{order}-{store}", kind.name()),
        kind: kind.name().to_owned(),
        order: order.to_owned(),
        pickup_code: None,
        reason: None,
        at: None,
    }
}

/// The body of a request.
fn body(events: &impl Serialize) -> String {
    serde_json::to_string(events).expect("events are encoded as JSON")
}

/// Random numbers from a seed: `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn between(&mut self, (from, to): (u64, u64)) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        from + (mixed ^ (mixed >> 31)) % (to - from).max(1)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.between((0, all.len() as u64))).expect("less than a length")]
    }

    /// True with a probability of one in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.between((0, times)) == 0
    }
}

/// Runs until Ctrl-C, or for the chosen time.
pub(crate) fn run(options: &DemoOptions) -> Result<(), ExitCode> {
    log::init(LevelFilter::WARN, log::LogFormat::Text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let played = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            if options.terminal { terminal::play(options).await } else { chain::play(options).await }
        })
    });
    played.map_err(failed)
}

/// Starts a server in this process.
async fn serve(config: &Config) -> Result<std::sync::Arc<Server>, String> {
    let failed = |error: &str| {
        err_line(&format!("orderbell: {error}"));
        std::process::exit(70);
    };
    let limits = NetLimits { drain_spread: Duration::from_millis(300), ..config.limits() };
    Server::start(config, limits, failed).await.map_err(|error| error.to_string())
}

/// The address to listen on: the chosen one, or `usual` when that is free, or any free port.
fn listen(options: &DemoOptions, usual: &str) -> std::net::SocketAddr {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let usual = usual.parse().ok().filter(|usual| std::net::TcpListener::bind(usual).is_ok());
    options.listen.or(usual).unwrap_or(any)
}

/// A configuration with the ledger in `dir`, and the admin listener on any free port.
fn config(dir: &std::path::Path, public: std::net::SocketAddr) -> Config {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public, admin: any };
    config
}

/// Waits for Ctrl-C, for the chosen time to pass, or for `end`.
async fn until_the_end(seconds: u64, end: &CancellationToken) -> Result<(), String> {
    let mut int = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let time = Duration::from_secs(if seconds == 0 { u64::MAX / 2000 } else { seconds });
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        () = end.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
    Ok(())
}
