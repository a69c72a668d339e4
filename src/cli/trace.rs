//! `orderbell trace ORDER`: state and timeline of one order, from the admin listener of the running server.

use std::process::ExitCode;

use serde_json::Value;

use super::{ConfigArgs, ask, failed, forbidden_message, out_line};
use orderbell_client::{HttpClient, percent_encoded};

#[derive(clap::Args)]
pub(crate) struct TraceOptions {
    /// The order's id.
    order: String,
    /// Look among load-test orders.
    #[arg(long)]
    shadow: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

pub(crate) fn run(options: &TraceOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let admin = config.boot.listen.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let path = format!("/orders/{}?shadow={}", percent_encoded(&options.order), u8::from(options.shadow));
    let answer = runtime.block_on(ask(&HttpClient::new(admin), admin, &path)).map_err(failed)?;
    match answer.status {
        200 => {}
        404 => {
            return Err(failed(format!(
                "order {} is not found: older than state_retention, never read, or a dead letter (`orderbell dlq list`); or the admin listener is not on \
                 loopback",
                options.order
            )));
        }
        status => return Err(failed(forbidden_message(admin, status))),
    }
    let order = answer.json();
    if options.json {
        out_line(&serde_json::to_string_pretty(&order).map_err(failed)?);
        return Ok(());
    }
    let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
    let outcome = order["outcome"].as_str().map_or_else(String::new, |outcome| format!(", {outcome}"));
    let store = order["store"].as_str().map_or_else(|| String::from("store unknown"), |store| format!("store {store}"));
    out_line(&format!("order {}: {}{outcome}; {store}", text("order"), text("stage")));
    let zone = &config.counting().zone;
    for entry in order["timeline"].as_array().into_iter().flatten() {
        if !out_line(&line(entry, zone)) {
            break;
        }
    }
    Ok(())
}

fn line(entry: &Value, zone: &jiff::tz::TimeZone) -> String {
    let at = jiff::Timestamp::from_millisecond(entry["at"].as_i64().unwrap_or(0)).unwrap_or_default();
    let at = zone.to_datetime(at).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
    let word = |name: &str| entry[name].as_str();
    let what = word("event").or_else(|| word("kind")).unwrap_or("?");
    let to = word("to").map_or_else(String::new, |to| format!(" to the {to}"));
    let device = word("device").map_or_else(String::new, |device| format!(", device {device}"));
    let attempt = entry["attempt"].as_u64().filter(|attempt| *attempt > 1);
    let attempt = attempt.map_or_else(String::new, |attempt| format!(", attempt {attempt}"));
    format!("{at}  {:<9} {what}{to}{device}{attempt}", word("step").unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_is_one_line() {
        let entry = json!({"at": 1_790_000_000_123_i64, "step": "sent", "kind": "new_order", "to": "store", "device": "till-1", "attempt": 2});
        let utc = jiff::tz::TimeZone::UTC;
        assert_eq!(
            line(&entry, &utc),
            "2026-09-21 14:13:20.123  sent      new_order to the store, device till-1, attempt 2"
        );
        let entry = json!({"at": 1_790_000_000_000_i64, "step": "occurred", "event": "order.paid"});
        assert_eq!(line(&entry, &utc), "2026-09-21 14:13:20.000  occurred  order.paid");
    }
}
