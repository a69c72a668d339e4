//! `orderbell trace ORDER`: state and timeline of one order, from the admin listener of the running server.

use std::process::ExitCode;

use orderbell_protocol::NoticeKind;
use orderbell_protocol::admin::{TraceAnswer, TraceEntry};

use super::{ConfigArgs, ask, decoded, failed, forbidden_message, local_time, out_line};
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
    let order: TraceAnswer = decoded(&answer).map_err(failed)?;
    if options.json {
        out_line(&serde_json::to_string_pretty(&order).map_err(failed)?);
        return Ok(());
    }
    let outcome = order.outcome.map_or_else(String::new, |outcome| format!(", {}", outcome.word()));
    let store = order.store.as_ref().map_or_else(|| String::from("store unknown"), |store| format!("store {store}"));
    out_line(&format!("order {}: {}{outcome}; {store}", order.order, order.stage.word()));
    let zone = &config.counting().zone;
    for entry in &order.timeline {
        if !out_line(&line(entry, zone)) {
            break;
        }
    }
    Ok(())
}

fn line(TraceEntry { entry, to }: &TraceEntry, zone: &jiff::tz::TimeZone) -> String {
    let at = local_time(entry.at, zone, "%Y-%m-%d %H:%M:%S%.3f");
    let what = entry.event.as_deref().or_else(|| entry.kind.map(NoticeKind::word)).unwrap_or("?");
    let to = to.map_or_else(String::new, |to| format!(" to the {}", to.word()));
    let device = entry.device.as_ref().map_or_else(String::new, |device| format!(", device {device}"));
    let attempt = entry.attempt.filter(|attempt| *attempt > 1);
    let attempt = attempt.map_or_else(String::new, |attempt| format!(", attempt {attempt}"));
    format!("{at}  {:<9} {what}{to}{device}{attempt}", entry.step.word())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::frame::{TimelineEntry, TimelineStep};
    use orderbell_protocol::{Role, UnixMs};

    #[test]
    fn a_step_is_one_line() {
        let sent = TimelineEntry {
            at: UnixMs(1_790_000_000_123),
            step: TimelineStep::Sent,
            event: None,
            kind: Some(NoticeKind::NewOrder),
            device: Some("till-1".into()),
            attempt: Some(2),
        };
        let occurred = TimelineEntry {
            at: UnixMs(1_790_000_000_000),
            step: TimelineStep::Occurred,
            event: Some("order.paid".into()),
            kind: None,
            device: None,
            attempt: None,
        };
        let entry = TraceEntry { entry: sent, to: Some(Role::Store) };
        let utc = jiff::tz::TimeZone::UTC;
        assert_eq!(
            line(&entry, &utc),
            "2026-09-21 14:13:20.123  sent      new_order to the store, device till-1, attempt 2"
        );
        let entry = TraceEntry { entry: occurred, to: None };
        assert_eq!(line(&entry, &utc), "2026-09-21 14:13:20.000  occurred  order.paid");
    }
}
