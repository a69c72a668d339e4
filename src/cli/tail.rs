//! `orderbell tail STORE`: the notices of one store's mailbox, as they are appended. Cursors of devices are not touched.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{ConfigArgs, ask, decoded, err_line, failed, forbidden_message, local_time, out_line};
use orderbell_client::{HttpClient, percent_encoded};
use orderbell_protocol::admin::{TailAnswer, TailNotice};

/// Interval of reads when nothing new was there.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct TailOptions {
    /// The store's id.
    store: String,
    /// Stop after this many seconds; 0 runs until Ctrl-C.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Print one JSON document on each line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

pub(crate) fn run(options: &TailOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(follow(options, config.boot.listen.admin, &config.counting().zone)).map_err(failed)
}

async fn follow(options: &TailOptions, admin: std::net::SocketAddr, zone: &jiff::tz::TimeZone) -> Result<(), String> {
    let http = HttpClient::new(admin);
    let began = Instant::now();
    let path = format!("/stores/{}/tail", percent_encoded(&options.store));
    let mut after = None::<String>;
    loop {
        let url = after.as_ref().map_or_else(|| path.clone(), |after| format!("{path}?after={after}"));
        let answer = ask(&http, admin, &url).await?;
        match answer.status {
            200 => {}
            // The ledger began a new epoch, or removed the position: continue with the newest notice.
            409 | 410 => {
                err_line("orderbell: the position is no longer valid; continuing with the newest notice");
                after = None;
                continue;
            }
            status => return Err(forbidden_message(admin, status)),
        }
        let page: TailAnswer = decoded(&answer)?;
        if after.is_none() && !options.json {
            err_line(&format!("orderbell: following store {}", options.store));
        }
        for notice in &page.notices {
            let line = if options.json { orderbell_protocol::json::encode(notice) } else { line(notice, zone) };
            if !out_line(&line) {
                return Ok(());
            }
        }
        after = Some(page.position.to_string());
        if options.seconds > 0 && began.elapsed().as_secs() >= options.seconds {
            return Ok(());
        }
        if !page.more {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn line(notice: &TailNotice, zone: &jiff::tz::TimeZone) -> String {
    let at = local_time(notice.at, zone, "%H:%M:%S");
    format!("{at}  {:<11} {}", notice.kind.word(), notice.order)
}
