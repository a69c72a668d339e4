//! `orderbell doctor`: checks everything that usually goes wrong on the first day, and says how to fix it.
//!
//! Nothing is changed: a probe file in the data directory is written and removed, addresses are bound and released, Kafka is queried without
//! joining the group. Run it before the first start or beside a running server, whose addresses and ledger it then reports as in use.

#[cfg_attr(not(feature = "kafka"), path = "doctor/no_kafka.rs")]
mod kafka;

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use orderbell_protocol::command_output::{CheckResult, DoctorFinding};
use orderbell_protocol::json;

use super::{ConfigArgs, FAILED, file_limit, out_line};
use crate::config::Config;

/// Number of timed fsyncs: their median is not moved by a few slow ones.
const FSYNCS: usize = 21;
/// Bytes of each write: as many as a small batch of the ledger.
const FSYNC_BYTES: usize = 4096;
/// A notice is sent after one fsync. With a slower one, the disk dominates the latency of a notification.
const FSYNC_SLOW: Duration = Duration::from_millis(20);
/// A clock before 2026-01-01, when this program was written, is wrong. Milliseconds since 1970.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

#[derive(clap::Args)]
pub(crate) struct DoctorOptions {
    /// Print one JSON object on each line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

fn ok(check: &'static str, found: impl Into<String>) -> DoctorFinding {
    DoctorFinding { check: check.into(), result: CheckResult::Ok, found: found.into(), fix: None }
}

fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> DoctorFinding {
    DoctorFinding { check: check.into(), result: CheckResult::Warning, found: found.into(), fix: Some(fix.into()) }
}

fn failure(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> DoctorFinding {
    DoctorFinding { check: check.into(), result: CheckResult::Failed, found: found.into(), fix: Some(fix.into()) }
}

/// Runs every check; fails when one of them fails.
pub(crate) fn run(options: &DoctorOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let mut has_failed = false;
    let mut show = |finding: DoctorFinding| {
        has_failed |= finding.result == CheckResult::Failed;
        let text = if options.json {
            json::encode(&finding)
        } else {
            let mark = match finding.result {
                CheckResult::Ok => "ok",
                CheckResult::Warning => "warning",
                CheckResult::Failed => "FAILED",
            };
            let fix = finding.fix.map_or(String::new(), |fix| format!("\n         {:<10} -> {fix}", ""));
            format!("{mark:<7}  {:<10} {}{fix}", finding.check, finding.found)
        };
        out_line(&text);
    };
    show(files(&config));
    show(clock());
    show(tokens(&config));
    for (check, address) in [("public", config.boot.listen.public), ("admin", config.boot.listen.admin)] {
        show(port(check, address));
    }
    directory(&config).into_iter().for_each(&mut show);
    kafka::check(&config).into_iter().for_each(&mut show);
    if has_failed { Err(ExitCode::from(FAILED)) } else { Ok(()) }
}

fn files(config: &Config) -> DoctorFinding {
    // `serve` raises its limit to the highest that is allowed.
    let (limit, needed) = (file_limit::highest(), file_limit::needed(&config.limits()));
    let found = limit.map_or_else(|| "no limit".into(), |limit| format!("{limit} open files"));
    if limit.is_none_or(|limit| limit >= needed) {
        return ok("files", found);
    }
    let fix = format!(
        "LimitNOFILE={needed} in the unit (or `ulimit -n {needed}`), or a smaller sessions.max_connections (now {}) or wall.max_viewers",
        config.boot.sessions.max_connections
    );
    failure("files", found, fix)
}

fn clock() -> DoctorFinding {
    let now = crate::clock::wall_clock();
    let text = jiff::Timestamp::from_millisecond(now.0).map_or_else(|_| now.0.to_string(), |at| at.to_string());
    if now.0 < CLOCK_MIN_MS {
        return failure(
            "clock",
            text,
            "set the clock, and keep it right with chrony or systemd-timesyncd: notices expire by it",
        );
    }
    ok("clock", format!("{text}; compare it with your own clock"))
}

fn tokens(config: &Config) -> DoctorFinding {
    let tokens = &config.live.tokens;
    let left_out = match config.check_tokens() {
        Ok(left_out) => left_out,
        Err(error) => {
            let fix = "correct this key; a secret has at least 32 bytes and is readable by this user only";
            return failure("tokens", error.to_string(), fix);
        }
    };
    if tokens.signing_kid().is_some() && tokens.keys.is_empty() {
        let fix = "fine for a trial; configure [tokens] keys when another system issues tokens";
        return warning("tokens", "no key is configured: one is generated in the data directory at the start", fix);
    }
    if !left_out.is_empty() {
        let fix = "fine when no till's token is signed with these keys";
        return warning("tokens", format!("left out of the issuer's keys: {}", left_out.join("; ")), fix);
    }
    let signs = tokens.signing_kid().map_or_else(|| "none signs".to_owned(), |kid| format!("{kid} signs"));
    let set = match (&tokens.jwks_file, &tokens.jwks_url) {
        (Some(_), _) => " and those of tokens.jwks_file",
        (None, Some(_)) => " and those of tokens.jwks_url",
        (None, None) => "",
    };
    ok("tokens", format!("{} keys{set}, {signs}", tokens.keys.len()))
}

fn port(check: &'static str, address: std::net::SocketAddr) -> DoctorFinding {
    match std::net::TcpListener::bind(address) {
        Ok(_) => ok(check, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => warning(
            check,
            format!("{address} is in use"),
            "fine if that is Orderbell; otherwise choose another port under [listen]",
        ),
        Err(error) => failure(check, format!("{address}: {error}"), "choose an address of this machine under [listen]"),
    }
}

fn directory(config: &Config) -> Vec<DoctorFinding> {
    let dir = &config.boot.data_dir;
    let existing = std::iter::successors(Some(dir.as_path()), |dir| dir.parent())
        .find(|dir| dir.as_os_str().is_empty() || dir.exists())
        .map_or_else(|| PathBuf::from("."), |dir| if dir.as_os_str().is_empty() { ".".into() } else { dir.to_owned() });
    let mut findings = vec![lock(dir)];
    match fsync_time(&existing) {
        Ok(median) => {
            let found = format!("{}: an fsync takes {median:.1?}", existing.display());
            let fix = "use a local disk, or one with power-loss protection: each notice waits for one fsync";
            findings.push(if median < FSYNC_SLOW { ok("disk", found) } else { warning("disk", found, fix) });
        }
        Err(error) => {
            let found = format!("{}: {error}", existing.display());
            findings.push(failure("disk", found, "set data_dir to a directory that this user may write to"));
        }
    }
    if let Ok(stat) = rustix::fs::statvfs(&existing) {
        let (free, least) = (stat.f_bavail.saturating_mul(stat.f_frsize), config.live.min_free_space);
        let found = format!("{} MiB free", free >> 20);
        findings.push(if free >= least.bytes().saturating_mul(4) {
            ok("space", found)
        } else {
            failure("space", found, format!("free some space: below min_free_space = \"{least}\" nothing is taken in"))
        });
    }
    findings
}

fn lock(dir: &Path) -> DoctorFinding {
    let path = dir.join("lock");
    if !path.exists() {
        return ok("ledger", format!("{}: none yet, it is created at the first start", dir.display()));
    }
    match File::open(&path).map(|file| file.try_lock()) {
        Ok(Ok(())) => ok("ledger", format!("{}: exists and is not in use", dir.display())),
        Ok(Err(TryLockError::WouldBlock)) => {
            warning("ledger", format!("{}: in use", dir.display()), "fine if that is the running server")
        }
        Ok(Err(TryLockError::Error(error))) | Err(error) => {
            failure("ledger", format!("{}: {error}", path.display()), "make this user the owner of the data directory")
        }
    }
}

/// Median time of small writes, each with its fdatasync.
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
