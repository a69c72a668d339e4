//! `orderbell dlq list | show | replay`: dead letters, on Kafka in their topics and in the ledger's own log, embedded in the latter.
//!
//! The ledger's log is asked for through the admin listener of the server that runs. Replaying is safe: what an event says a second time
//! changes nothing.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{FAILED, Place, say, tell};
use crate::client::Http;
use crate::config::Config;

#[derive(Subcommand)]
pub(crate) enum DlqCommand {
    /// One line a letter: where, why, when.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        place: Place,
    },
    /// One letter whole, with what people ordered.
    Show {
        /// As `list` names it: a number, or TOPIC/PARTITION@OFFSET.
        which: String,
        #[command(flatten)]
        place: Place,
    },
    /// Send letters again, after what was wrong with them was mended: a mapping, a missing type.
    Replay {
        #[command(flatten)]
        filter: Filter,
        /// Letters a second, at most.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
pub(crate) struct Filter {
    /// Only letters with this reason.
    #[arg(long)]
    reason: Option<String>,
}

fn failed(what: impl std::fmt::Display) -> ExitCode {
    say(&format!("orderbell: {what}"));
    ExitCode::from(FAILED)
}

pub(crate) fn run(command: &DlqCommand) -> Result<(), ExitCode> {
    let (DlqCommand::List { place, .. } | DlqCommand::Show { place, .. } | DlqCommand::Replay { place, .. }) = command;
    let config = place.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        match command {
            DlqCommand::List { filter, .. } => list(&config, filter).await,
            DlqCommand::Show { which, .. } => show(&config, which).await,
            DlqCommand::Replay { filter, rate, .. } => replay(&config, filter, (*rate).max(1)).await,
        }
    })
}

/// Asks the server that runs.
async fn ask(config: &Config, method: &str, path: &str) -> Result<Value, ExitCode> {
    let admin = config.listen.admin;
    let answer = Http::new(admin).send(method, path, "", "application/json", "").await;
    let answer = answer.map_err(|error| failed(format!("no server answers on its admin listener {admin}: {error}")))?;
    match answer.status {
        200 => Ok(answer.json()),
        404 => Err(failed("there is no such letter")),
        status => Err(failed(format!("{status} {}", String::from_utf8_lossy(&answer.body)))),
    }
}

fn query(filter: &Filter, after: u64, limit: usize) -> String {
    let reason = filter.reason.as_ref().map_or_else(String::new, |reason| format!("&reason={reason}"));
    format!("after={after}&limit={limit}{reason}")
}

async fn list(config: &Config, filter: &Filter) -> Result<(), ExitCode> {
    let (mut after, mut count) = (0, 0_u64);
    loop {
        let page = ask(config, "GET", &format!("/letters?{}", query(filter, after, 500))).await?;
        for letter in page["letters"].as_array().into_iter().flatten() {
            let text = |name: &str| letter[name].as_str().unwrap_or_default();
            let (number, partition, offset) = (&letter["number"], &letter["partition"], &letter["offset"]);
            count += 1;
            tell(&format!("{number}\t{}/{partition}@{offset}\t{}\t{}", text("topic"), text("reason"), text("message")));
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    count += kafka::list(config, filter).await?;
    say(&format!("{count} letters"));
    Ok(())
}

async fn show(config: &Config, which: &str) -> Result<(), ExitCode> {
    if which.parse::<u64>().is_ok() {
        let letter = ask(config, "GET", &format!("/letters/{which}")).await?;
        tell(&serde_json::to_string_pretty(&letter).unwrap_or_default());
        return Ok(());
    }
    kafka::show(config, which).await
}

async fn replay(config: &Config, filter: &Filter, rate: u32) -> Result<(), ExitCode> {
    let (mut after, mut count) = (0, 0_u64);
    // Those that are there now: one that cannot be understood comes back behind them, and is not sent for ever.
    let newest = newest(config).await?;
    while after < newest {
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        second.tick().await;
        let page = ask(config, "POST", &format!("/letters/replay?{}", query(filter, after, rate as usize))).await?;
        count += page["replayed"].as_u64().unwrap_or(0);
        say(&format!("{count} sent again"));
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
        second.tick().await;
    }
    count += kafka::replay(config, filter, rate).await?;
    tell(&format!("{count} letters were sent again"));
    Ok(())
}

async fn newest(config: &Config) -> Result<u64, ExitCode> {
    let (mut after, mut newest) = (0, 0);
    loop {
        let page = ask(config, "GET", &format!("/letters?after={after}")).await?;
        let numbers = page["letters"].as_array().into_iter().flatten().filter_map(|letter| letter["number"].as_u64());
        newest = numbers.max().unwrap_or(newest);
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(newest),
        }
    }
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signatures as with Kafka")]
mod kafka {
    use super::{Config, ExitCode, Filter, failed};

    pub(super) async fn list(_: &Config, _: &Filter) -> Result<u64, ExitCode> {
        Ok(0)
    }

    pub(super) async fn show(_: &Config, _: &str) -> Result<(), ExitCode> {
        Err(failed("there is no such letter"))
    }

    pub(super) async fn replay(_: &Config, _: &Filter, _: u32) -> Result<u64, ExitCode> {
        Ok(0)
    }
}

#[cfg(feature = "kafka")]
mod kafka {
    use std::time::Duration;

    use orderbell_consumers::{Record, Sink};

    use super::{Config, ExitCode, Filter, failed, tell};
    use crate::cli::progress;
    use crate::stream::buried::{Buried, out, text, which};

    /// All letters that the filter lets through.
    async fn letters(buried: Buried, filter: &Filter) -> Result<Vec<Record>, ExitCode> {
        let reason = filter.reason.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            buried.each(None, |record| {
                if reason.as_ref().is_none_or(|reason| *reason == text(&record, "x-dlq-reason")) {
                    found.push(record);
                }
            })?;
            Ok::<_, orderbell_consumers::SourceError>(found)
        });
        read.await.map_err(failed)?.map_err(|error| failed(format!("Kafka: {error}")))
    }

    pub(super) async fn list(config: &Config, filter: &Filter) -> Result<u64, ExitCode> {
        let Some(buried) = Buried::of(config) else { return Ok(0) };
        let letters = letters(buried, filter).await?;
        for letter in &letters {
            tell(&format!(
                "{}\t{}/{}@{}\t{}\t{}",
                which(letter),
                text(letter, "kafka_dlt-original-topic"),
                text(letter, "kafka_dlt-original-partition"),
                text(letter, "kafka_dlt-original-offset"),
                text(letter, "x-dlq-reason"),
                text(letter, "x-dlq-message")
            ));
        }
        Ok(letters.len() as u64)
    }

    pub(super) async fn show(config: &Config, wanted: &str) -> Result<(), ExitCode> {
        let none = || failed("there is no such letter");
        let letters = letters(Buried::of(config).ok_or_else(none)?, &Filter { reason: None }).await?;
        let letter = letters.iter().find(|letter| which(letter) == wanted).ok_or_else(none)?;
        for (name, value) in &letter.headers {
            tell(&format!("{name}: {}", value.as_deref().map_or("".into(), String::from_utf8_lossy)));
        }
        tell(&format!("\n{}", letter.value.as_deref().map_or("".into(), String::from_utf8_lossy)));
        Ok(())
    }

    /// Into the output topic, at a pace.
    pub(super) async fn replay(config: &Config, filter: &Filter, rate: u32) -> Result<u64, ExitCode> {
        let Some(buried) = Buried::of(config) else { return Ok(0) };
        let sink = buried.sink().map_err(failed)?;
        let letters = letters(buried, filter).await?;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        let total = letters.len();
        let bar = progress(Some(total as u64), "letters");
        for (count, letter) in letters.into_iter().enumerate() {
            pace.tick().await;
            bar.inc(1);
            sink.send(&out(letter)).await.map_err(|error| failed(format!("after {count} of {total}: {error}")))?;
        }
        bar.finish_and_clear();
        Ok(total as u64)
    }
}
