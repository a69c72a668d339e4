//! `orderbell top`: what is going on in the server that runs.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{Place, ask, failed, not_told, tell};
use crate::client::Http;

/// How often it is drawn anew.
const EVERY: Duration = Duration::from_secs(2);
/// Partitions and keys that are told.
const ROWS_MAX: usize = 12;

#[derive(clap::Args)]
pub(crate) struct TopOptions {
    /// Once, instead of again and again.
    #[arg(long)]
    once: bool,
    /// One JSON document, once.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(options: &TopOptions) -> Result<(), ExitCode> {
    let admin = options.place.config()?.listen.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let http = Http::new(admin);
        let terminal = std::io::stdout().is_terminal();
        loop {
            let answer = ask(&http, admin, "/top").await.map_err(failed)?;
            if answer.status != 200 {
                return Err(failed(not_told(admin, answer.status)));
            }
            let top = answer.json();
            if options.json {
                tell(&serde_json::to_string_pretty(&top).map_err(failed)?);
                return Ok(());
            }
            let clear = if terminal && !options.once { "\x1b[H\x1b[2J" } else { "" };
            if !tell(&format!("{clear}{}", lines(&top).join("\n"))) || options.once {
                return Ok(());
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

fn lines(top: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let at = number(&top["at"]);
    let age = |as_of: &Value| {
        as_of.as_i64().map_or_else(|| String::from("unknown"), |as_of| format!("{:.1} s", (at - as_of) as f64 / 1000.0))
    };
    let red = top["red"].as_object().cloned().unwrap_or_default();
    let word = if red.is_empty() { "well" } else { "hurt" };
    let mut lines = vec![format!(
        "{word}; read up to {} ago; {} readers, {} viewers of the wall; {} of {} records held, {} keys parked",
        age(&top["as_of"]),
        number(&top["readers"]),
        number(&top["viewers"]),
        number(&top["held"]),
        number(&top["held_max"]),
        number(&top["parked"])
    )];
    lines.extend(red.iter().map(|(place, what)| format!("  red  {place}: {}", what.as_str().unwrap_or_default())));
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
    let hot: Vec<&Value> = top["hot"].as_array().into_iter().flatten().take(ROWS_MAX).collect();
    if !hot.is_empty() {
        lines.push(format!("{:<40} {:>10} {:>10}", "HOT KEY (HASH)", "RECORDS", "BYTES"));
    }
    for key in hot {
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
    fn what_hurts_and_what_lags_stands_on_top() {
        let part = |name: &str, lag: u64| json!({"partition": name, "lag": lag, "in_flight": 0, "paused": lag > 0, "as_of": 9_000});
        let top = json!({"at": 10_000, "as_of": null, "red": {"disk": "full"}, "partitions": [part("a/0", 0), part("a/1", 7)],
                         "hot": [{"key": "00ff", "records": 3, "bytes": 90}]});
        let lines = lines(&top);
        assert!(lines[0].starts_with("hurt; read up to unknown ago"), "{}", lines[0]);
        assert_eq!(lines[1], "  red  disk: full");
        assert!(lines[3].starts_with("a/1") && lines[3].ends_with("1.0 s  paused"), "{}", lines[3]);
        assert!(lines.last().unwrap().starts_with("00ff"));
    }
}
