//! `orderbell top`: alerts, partitions and hot keys of the running server, refreshed on a terminal.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use orderbell_protocol::UnixMs;
use orderbell_protocol::admin::TopAnswer;
use orderbell_protocol::alert::{Alert, Severity};

use super::{ConfigArgs, ask, decoded, failed, forbidden_message, out_line};
use orderbell_client::HttpClient;

/// Interval of refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Most partitions and keys that are shown.
const ROWS_MAX: usize = 12;

#[derive(clap::Args)]
pub(crate) struct TopOptions {
    /// Print once instead of refreshing.
    #[arg(long)]
    once: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

pub(crate) fn run(options: &TopOptions) -> Result<(), ExitCode> {
    let admin = options.args.config()?.boot.listen.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let http = HttpClient::new(admin);
        let terminal = std::io::stdout().is_terminal();
        loop {
            let answer = ask(&http, admin, "/top").await.map_err(failed)?;
            if answer.status != 200 {
                return Err(failed(forbidden_message(admin, answer.status)));
            }
            let top: TopAnswer = decoded(&answer).map_err(failed)?;
            if options.json {
                out_line(&serde_json::to_string_pretty(&top).map_err(failed)?);
                return Ok(());
            }
            let clear = if terminal && !options.once { "\x1b[H\x1b[2J" } else { "" };
            if !out_line(&format!("{clear}{}", lines(&top).join("\n"))) || options.once {
                return Ok(());
            }
            tokio::time::sleep(REFRESH_INTERVAL).await;
        }
    })
}

/// One word for the whole: the most severe alert decides.
fn health(alerts: &[Alert]) -> &'static str {
    match alerts.iter().map(|alert| alert.severity).max() {
        None => "ok",
        Some(Severity::Warning) => "degraded",
        Some(Severity::Critical) => "failing",
    }
}

/// Severity, code, subject and detail of an alert.
pub(super) fn alert_line(alert: &Alert) -> String {
    let subject = alert.subject.as_ref().map_or_else(String::new, |subject| format!(" {subject}"));
    format!("  {:<8}  {}{subject}: {}", alert.severity.word(), alert.code.word(), alert.detail)
}

fn lines(top: &TopAnswer) -> Vec<String> {
    let age = |as_of: Option<UnixMs>| {
        as_of.map_or_else(|| String::from("unknown"), |as_of| format!("{:.1} s", (top.at.0 - as_of.0) as f64 / 1000.0))
    };
    let activity = &top.activity;
    let mut lines = vec![format!(
        "{}; stream read up to {} ago; {} subscribers, {} wall viewers; {} of {} records in flight, {} keys backing off",
        health(&top.alerts),
        age(activity.as_of),
        activity.subscribers,
        activity.wall_viewers,
        activity.in_flight,
        activity.max_in_flight,
        activity.keys_backing_off
    )];
    lines.extend(top.alerts.iter().map(alert_line));
    let mut parts: Vec<_> = activity.partitions.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.lag));
    lines.push(format!("{:<40} {:>10} {:>10} {:>10}", "PARTITION", "LAG", "IN FLIGHT", "AGE"));
    for part in parts.into_iter().take(ROWS_MAX) {
        let mark = match (part.damaged, part.paused) {
            (true, _) => "  damaged",
            (false, true) => "  paused",
            (false, false) => "",
        };
        let age = age(part.as_of);
        lines.push(format!("{:<40} {:>10} {:>10} {age:>10}{mark}", part.partition, part.lag, part.in_flight));
    }
    if !activity.hot_keys.is_empty() {
        lines.push(format!("{:<40} {:>10} {:>10}", "HOT KEY (HASH)", "RECORDS", "BYTES"));
    }
    for key in activity.hot_keys.iter().take(ROWS_MAX) {
        lines.push(format!("{:<40} {:>10} {:>10}", key.key, key.records, key.bytes));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::admin::{Activity, HotKeyActivity, PartitionActivity};
    use orderbell_protocol::alert::AlertCode;

    #[test]
    fn alerts_and_the_largest_lag_stand_on_top() {
        let part = |name: &str, lag: u64| PartitionActivity {
            partition: name.into(),
            lag,
            checkpoint: 0,
            end: None,
            in_flight: 0,
            paused: lag > 0,
            damaged: false,
            as_of: Some(UnixMs(9_000)),
        };
        let alert = |code, subject: Option<&str>, detail: &str| {
            Alert::new(code, subject.map(String::from), UnixMs(1), detail.into())
        };
        let top = TopAnswer {
            at: UnixMs(10_000),
            ready: true,
            alerts: vec![
                alert(AlertCode::DiskLow, None, "full"),
                alert(AlertCode::StateRolledBack, Some("a/0"), "restored"),
            ],
            activity: Activity {
                partitions: vec![part("a/0", 0), part("a/1", 7)],
                hot_keys: vec![HotKeyActivity { key: "00ff".into(), records: 3, bytes: 90 }],
                ..Activity::default()
            },
        };
        let lines = lines(&top);
        assert!(lines[0].starts_with("failing; stream read up to unknown ago"), "{}", lines[0]);
        assert_eq!(lines[1], "  critical  disk_low: full");
        assert_eq!(lines[2], "  warning   state_rolled_back a/0: restored");
        assert!(lines[4].starts_with("a/1") && lines[4].ends_with("1.0 s  paused"), "{}", lines[4]);
        assert_eq!(health(&[]), "ok");
        assert!(lines.last().unwrap().starts_with("00ff"));
    }
}
