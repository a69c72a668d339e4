//! `orderbell top`: alerts, partitions and hot keys of the running server, refreshed on a terminal.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{ConfigArgs, ask, failed, forbidden_message, out_line};
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
            let top = answer.json();
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
fn health(alerts: &[&Value]) -> &'static str {
    match alerts {
        [] => "ok",
        alerts if alerts.iter().any(|alert| alert["severity"] == "critical") => "failing",
        _ => "degraded",
    }
}

/// Severity, code, subject and detail of an alert.
fn alert_line(alert: &Value) -> String {
    let text = |name: &str| alert[name].as_str().unwrap_or_default();
    let subject = alert["subject"].as_str().map_or_else(String::new, |subject| format!(" {subject}"));
    format!("  {:<8}  {}{subject}: {}", text("severity"), text("code"), text("detail"))
}

fn lines(top: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let at = number(&top["at"]);
    let age = |as_of: &Value| {
        as_of.as_i64().map_or_else(|| String::from("unknown"), |as_of| format!("{:.1} s", (at - as_of) as f64 / 1000.0))
    };
    let alerts: Vec<&Value> = top["alerts"].as_array().into_iter().flatten().collect();
    let mut lines = vec![format!(
        "{}; stream read up to {} ago; {} subscribers, {} wall viewers; {} of {} records in flight, {} keys backing off",
        health(&alerts),
        age(&top["as_of"]),
        number(&top["subscribers"]),
        number(&top["wall_viewers"]),
        number(&top["in_flight"]),
        number(&top["max_in_flight"]),
        number(&top["keys_backing_off"])
    )];
    lines.extend(alerts.iter().map(|alert| alert_line(alert)));
    let mut parts: Vec<&Value> = top["partitions"].as_array().into_iter().flatten().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(number(&part["lag"])));
    lines.push(format!("{:<40} {:>10} {:>10} {:>10}", "PARTITION", "LAG", "IN FLIGHT", "AGE"));
    for part in parts.iter().take(ROWS_MAX) {
        let mark = if part["damaged"] == true {
            "  damaged"
        } else if part["paused"] == true {
            "  paused"
        } else {
            ""
        };
        let name = part["partition"].as_str().unwrap_or("?");
        let row = format!(
            "{name:<40} {:>10} {:>10} {:>10}",
            number(&part["lag"]),
            number(&part["in_flight"]),
            age(&part["as_of"])
        );
        lines.push(format!("{row}{mark}"));
    }
    let hot_keys: Vec<&Value> = top["hot_keys"].as_array().into_iter().flatten().take(ROWS_MAX).collect();
    if !hot_keys.is_empty() {
        lines.push(format!("{:<40} {:>10} {:>10}", "HOT KEY (HASH)", "RECORDS", "BYTES"));
    }
    for key in hot_keys {
        let name = key["key"].as_str().unwrap_or("?");
        lines.push(format!("{name:<40} {:>10} {:>10}", number(&key["records"]), number(&key["bytes"])));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn alerts_and_the_largest_lag_stand_on_top() {
        let part = |name: &str, lag: u64| json!({"partition": name, "lag": lag, "in_flight": 0, "paused": lag > 0, "as_of": 9_000});
        let top = json!({"at": 10_000, "as_of": null, "alerts": [{"code": "disk_low", "severity": "critical", "since": 1, "detail": "full"},
                         {"code": "state_rolled_back", "subject": "a/0", "severity": "warning", "since": 1, "detail": "restored"}], "partitions": [part("a/0", 0), part("a/1", 7)],
                         "hot_keys": [{"key": "00ff", "records": 3, "bytes": 90}]});
        let lines = lines(&top);
        assert!(lines[0].starts_with("failing; stream read up to unknown ago"), "{}", lines[0]);
        assert_eq!(lines[1], "  critical  disk_low: full");
        assert_eq!(lines[2], "  warning   state_rolled_back a/0: restored");
        assert!(lines[4].starts_with("a/1") && lines[4].ends_with("1.0 s  paused"), "{}", lines[4]);
        assert_eq!(health(&[]), "ok");
        assert!(lines.last().unwrap().starts_with("00ff"));
    }
}
