//! `orderbell doctor`: will it run here? One line for each thing that goes wrong on the first day, with what to do.
//!
//! Nothing is changed: a probe file in the data directory is written and removed, addresses are bound and let go, Kafka is asked and joined
//! by nobody. Run it before the first start, or beside a running server (then its addresses and its ledger are in use, which it says).

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{FAILED, Place, tell};
use crate::config::Config;

/// Writes whose fsync is timed: the median of so many tells a disk from a bad moment.
const FSYNCS: usize = 21;
/// As large as a small batch of the ledger.
const FSYNC_BYTES: usize = 4096;
/// A notice waits for one fsync before it rings. Above this the disk is what a till waits for.
const FSYNC_SLOW: Duration = Duration::from_millis(20);
/// Files of the ledger, the admin listener and the process itself, beside one for each connection.
const FILES_BESIDE: u64 = 1_000;
/// No clock that is before this program was written is right. Milliseconds: 2026-01-01.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

/// What is looked at.
#[derive(clap::Args)]
pub(crate) struct DoctorOptions {
    /// For machines: one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    /// It runs, but not as well as it could.
    Weak,
    Bad,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Good, found: found.into(), fix: None }
}

fn weak(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Weak, found: found.into(), fix: Some(fix.into()) }
}

fn bad(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Bad, found: found.into(), fix: Some(fix.into()) }
}

/// Looks at everything; fails when something is bad.
pub(crate) fn run(options: &DoctorOptions) -> Result<(), ExitCode> {
    let config = options.place.config()?;
    let mut worst = Verdict::Good;
    let mut show = |finding: Finding| {
        if finding.verdict == Verdict::Bad || worst == Verdict::Good {
            worst = finding.verdict;
        }
        let text = if options.json {
            serde_json::to_string(&finding).unwrap_or_default()
        } else {
            let mark = match finding.verdict {
                Verdict::Good => "good",
                Verdict::Weak => "weak",
                Verdict::Bad => "BAD ",
            };
            let fix = finding.fix.map_or(String::new(), |fix| format!("\n      {:<10} -> {fix}", ""));
            format!("{mark}  {:<10} {}{fix}", finding.what, finding.found)
        };
        tell(&text);
    };
    show(files(&config));
    show(clock());
    show(tokens(&config));
    for (what, address) in [("public", config.listen.public), ("admin", config.listen.admin)] {
        show(port(what, address));
    }
    directory(&config).into_iter().for_each(&mut show);
    kafka(&config).into_iter().for_each(&mut show);
    if worst == Verdict::Bad { Err(ExitCode::from(FAILED)) } else { Ok(()) }
}

fn files(config: &Config) -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limits = config.limits();
    let needed = (limits.sockets_max + limits.viewers_max + limits.http_max) as u64 + FILES_BESIDE;
    let found = limit.current.map_or_else(|| "no limit".into(), |current| format!("{current} files a process"));
    if limit.current.is_none_or(|current| current >= needed) {
        return good("files", found);
    }
    let fix = format!(
        "LimitNOFILE={needed} in the unit (or `ulimit -n {needed}`), or a smaller sessions.sockets_max or wall.viewers_max than {}",
        config.sessions.sockets_max
    );
    bad("files", found, fix)
}

fn clock() -> Finding {
    let now = crate::net::wall_clock();
    let text = jiff::Timestamp::from_millisecond(now.0).map_or_else(|_| now.0.to_string(), |at| at.to_string());
    if now.0 < CLOCK_MIN_MS {
        return bad(
            "clock",
            text,
            "set the clock, and keep it with chrony or systemd-timesyncd: notices have a life by it",
        );
    }
    good("clock", format!("{text}: is that right?"))
}

fn tokens(config: &Config) -> Finding {
    let known = config.tokens.keys.len();
    for key in &config.tokens.keys {
        if let Err(error) = std::fs::metadata(&key.secret_file) {
            let found = format!("{}: {error}", key.secret_file.display());
            return bad("tokens", found, "write a secret of at least 32 bytes there, readable by this user alone");
        }
    }
    if known == 0 {
        let fix = "fine for a try; configure [tokens] keys where others mint tokens";
        return weak("tokens", "no key is configured: one is made in the data directory", fix);
    }
    match config.tokens() {
        Ok(_) => good("tokens", format!("{known} keys, the first signs")),
        Err(error) => bad("tokens", error.to_string(), "write a secret of at least 32 bytes there"),
    }
}

fn port(what: &'static str, address: std::net::SocketAddr) -> Finding {
    match std::net::TcpListener::bind(address) {
        Ok(_) => good(what, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => weak(
            what,
            format!("{address} is in use"),
            "fine if that is Orderbell; otherwise another port under [listen]",
        ),
        Err(error) => bad(what, format!("{address}: {error}"), "an address of this machine under [listen]"),
    }
}

fn directory(config: &Config) -> Vec<Finding> {
    let dir = &config.data_dir;
    let existing = std::iter::successors(Some(dir.as_path()), |dir| dir.parent())
        .find(|dir| dir.as_os_str().is_empty() || dir.exists())
        .map_or_else(|| PathBuf::from("."), |dir| if dir.as_os_str().is_empty() { ".".into() } else { dir.to_owned() });
    let mut findings = vec![lock(dir)];
    match fsync_time(&existing) {
        Ok(median) => {
            let found = format!("{}: an fsync takes {median:.1?}", existing.display());
            let fix = "a disk with power-loss protection, or a local one: each notice waits for one fsync";
            findings.push(if median < FSYNC_SLOW { good("disk", found) } else { weak("disk", found, fix) });
        }
        Err(error) => {
            let found = format!("{}: {error}", existing.display());
            findings.push(bad("disk", found, "a directory that this user may write to under data_dir"));
        }
    }
    if let Ok(told) = rustix::fs::statvfs(&existing) {
        let free_mb = told.f_bavail.saturating_mul(told.f_frsize) >> 20;
        let found = format!("{free_mb} MiB free");
        findings.push(if free_mb >= 4 * config.free_space_min_mb {
            good("space", found)
        } else {
            bad("space", found, format!("more room: below {} MiB nothing is taken in", config.free_space_min_mb))
        });
    }
    findings
}

fn lock(dir: &Path) -> Finding {
    let path = dir.join("lock");
    if !path.exists() {
        return good("ledger", format!("{}: none yet, it is made at the first start", dir.display()));
    }
    match File::open(&path).map(|file| file.try_lock()) {
        Ok(Ok(())) => good("ledger", format!("{}: there, and nobody uses it", dir.display())),
        Ok(Err(TryLockError::WouldBlock)) => {
            weak("ledger", format!("{}: in use", dir.display()), "fine if that is the running server")
        }
        Ok(Err(TryLockError::Error(error))) | Err(error) => {
            bad("ledger", format!("{}: {error}", path.display()), "give this user the data directory")
        }
    }
}

/// The median of some small writes, each with its fdatasync.
fn fsync_time(dir: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        file.write_all(&[0x5a; FSYNC_BYTES])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[FSYNCS / 2])
}

#[cfg(not(feature = "kafka"))]
fn kafka(config: &Config) -> Vec<Finding> {
    let fix = "build with the feature `kafka`";
    config.kafka.iter().map(|_| bad("kafka", "this binary was built without it", fix)).collect()
}

#[cfg(feature = "kafka")]
fn kafka(config: &Config) -> Vec<Finding> {
    use orderbell_consumers::kafka::GroupReader;

    /// A question waits no longer: a doctor that hangs tells nothing.
    const ASK_MAX: Duration = Duration::from_secs(5);

    let Some(kafka) = &config.kafka else { return vec![good("stream", "embedded: no Kafka is configured")] };
    let options = kafka.options();
    if let Err(error) = options.check() {
        return vec![bad("kafka", error.to_string(), "take it out of kafka.properties")];
    }
    let reader = match GroupReader::new(&options, ASK_MAX) {
        Ok(reader) => reader,
        Err(error) => return vec![bad("kafka", error.to_string(), "mend kafka.properties")],
    };
    let mut findings = Vec::new();
    match reader.cluster() {
        Ok(cluster) => findings.push(good("kafka", format!("cluster {cluster} answers at {}", kafka.bootstrap))),
        Err(error) => {
            let fix = "is kafka.bootstrap right, are the brokers up, do TLS and SASL under kafka.properties fit?";
            return vec![bad("kafka", format!("{}: {error}", kafka.bootstrap), fix)];
        }
    }
    for topic in &kafka.topics {
        findings.push(match reader.partitions(topic) {
            Ok(0) => bad("topic", format!("{topic} is not there"), "make it, or mend kafka.topics"),
            Ok(count) => good("topic", format!("{topic} has {count} partitions")),
            Err(error) => {
                bad("topic", format!("{topic}: {error}"), "this user needs the right to read and describe it")
            }
        });
    }
    let output = kafka.output();
    findings.push(match reader.partitions(&output) {
        Ok(0) => weak(
            "output",
            format!("{output} is not there"),
            "Orderbell makes it at its start, if it may; or make it yourself",
        ),
        Ok(count) => good("output", format!("{output} has {count} partitions")),
        Err(error) => {
            bad("output", format!("{output}: {error}"), "this user needs the right to write to and describe it")
        }
    });
    findings.push(match reader.members(&kafka.group) {
        Ok(members) if members.is_empty() => good("group", format!("nobody reads as {}", kafka.group)),
        Ok(members) => {
            let found = format!("{} reads as {}", members[0].1, kafka.group);
            weak("group", found, "fine if that is the running server; one ledger serves one process")
        }
        Err(error) => weak("group", error.to_string(), "this user needs the right to describe the group"),
    });
    findings
}
