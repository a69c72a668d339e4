//! `orderbell tail STORE`: what comes into one store's mailbox, as it comes. No device hears less for it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Place, ask, failed, not_told, say, tell};
use crate::client::{Http, escaped};

/// How often the mailbox is looked at.
const EVERY: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct TailOptions {
    /// The store's id.
    store: String,
    /// Stop after so many seconds; 0 goes on until Ctrl-C.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// One JSON document a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(options: &TailOptions) -> Result<(), ExitCode> {
    let config = options.place.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(follow(options, config.listen.admin, &config.counting().zone)).map_err(failed)
}

async fn follow(options: &TailOptions, admin: std::net::SocketAddr, zone: &jiff::tz::TimeZone) -> Result<(), String> {
    let http = Http::new(admin);
    let began = Instant::now();
    let path = format!("/stores/{}/tail", escaped(&options.store));
    let mut after = None::<String>;
    loop {
        let asked = after.as_ref().map_or_else(|| path.clone(), |after| format!("{path}?after={after}"));
        let answer = ask(&http, admin, &asked).await?;
        let page = answer.json();
        match answer.status {
            200 => {}
            // The ledger began another history: from its newest on.
            409 | 410 => {
                say("orderbell: the mailbox has another history now");
                after = None;
                continue;
            }
            status => return Err(not_told(admin, status)),
        }
        if after.is_none() && !options.json {
            say(&format!("orderbell: following store {}", options.store));
        }
        for notice in page["notices"].as_array().into_iter().flatten() {
            let line = if options.json { notice.to_string() } else { line(notice, zone) };
            if !tell(&line) {
                return Ok(());
            }
        }
        after = page["position"].as_str().map(str::to_owned);
        if options.seconds > 0 && began.elapsed().as_secs() >= options.seconds {
            return Ok(());
        }
        if page["more"] != true {
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn line(notice: &serde_json::Value, zone: &jiff::tz::TimeZone) -> String {
    let at = jiff::Timestamp::from_millisecond(notice["at"].as_i64().unwrap_or(0)).unwrap_or_default();
    let word = |name: &str| notice[name].as_str().unwrap_or("?");
    format!("{}  {:<11} {}", zone.to_datetime(at).strftime("%H:%M:%S"), word("kind"), word("order"))
}
