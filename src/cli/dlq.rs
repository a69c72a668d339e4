//! `orderbell dlq list | show | replay`: records that were rejected. On Kafka they are in the dead letter topics and in the ledger's own dead
//! letter log, in embedded mode in the latter alone.
//!
//! The ledger's log is read through the admin listener of the running server. A replay is safe: an event that was applied before changes
//! nothing.

use std::process::ExitCode;
use std::time::Instant;

use clap::Subcommand;
use orderbell_protocol::admin::{DeadLetterAnswer, DeadLettersAnswer, ReplayAnswer};
use serde::de::DeserializeOwned;

use super::rate_limit::RateLimit;
use super::{ConfigArgs, decoded, err_line, failed, out_line};
use crate::config::Config;
use orderbell_client::HttpClient;

#[derive(Subcommand)]
pub(crate) enum DlqCommand {
    /// Print one line for each record: its name, where it was read, and why it was rejected.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Print one record completely, with the content of the order.
    Show {
        /// The record's name in `list`: a number, or TOPIC/PARTITION@OFFSET.
        which: String,
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Send records again after the cause of their rejection was fixed, for instance a type that the mapping lacked.
    Replay {
        #[command(flatten)]
        filter: Filter,
        /// Most records per second.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

#[derive(clap::Args)]
pub(crate) struct Filter {
    /// Only records with this reason.
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) fn run(command: &DlqCommand) -> Result<(), ExitCode> {
    let (DlqCommand::List { args, .. } | DlqCommand::Show { args, .. } | DlqCommand::Replay { args, .. }) = command;
    let config = args.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        match command {
            DlqCommand::List { filter, .. } => list(&config, filter).await,
            DlqCommand::Show { which, .. } => show(&config, which).await,
            DlqCommand::Replay { filter, rate, .. } => replay(&config, filter, (*rate).max(1)).await,
        }
    })
}

/// A request to the running server.
async fn ask<T: DeserializeOwned>(config: &Config, method: &str, path: &str) -> Result<T, ExitCode> {
    let admin = config.boot.listen.admin;
    let answer = HttpClient::new(admin).send(method, path, "", "application/json", "").await;
    let answer = answer.map_err(|error| {
        failed(format!("no server answers on the admin listener {admin}: {}", error.with_sources()))
    })?;
    match answer.status {
        200 => decoded(&answer).map_err(failed),
        404 => Err(failed("there is no such record")),
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
        let page: DeadLettersAnswer =
            ask(config, "GET", &format!("/dead-letters?{}", query(filter, after, 500))).await?;
        for record in &page.records {
            count += 1;
            out_line(&format!(
                "{}\t{}/{}@{}\t{}\t{}",
                record.number, record.topic, record.partition, record.offset, record.reason, record.message
            ));
        }
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    count += kafka::list(config, filter).await?;
    err_line(&format!("{count} records"));
    Ok(())
}

async fn show(config: &Config, which: &str) -> Result<(), ExitCode> {
    if which.parse::<u64>().is_ok() {
        let record: DeadLetterAnswer = ask(config, "GET", &format!("/dead-letters/{which}")).await?;
        out_line(&serde_json::to_string_pretty(&record).map_err(failed)?);
        return Ok(());
    }
    kafka::show(config, which).await
}

async fn replay(config: &Config, filter: &Filter, rate: u32) -> Result<(), ExitCode> {
    let (mut after, mut count) = (0, 0_u64);
    // Only records that are there now: one that is rejected again is appended behind them, and must not be sent for ever.
    let newest = newest(config).await?;
    let mut limit = RateLimit::new(rate);
    while after < newest {
        tokio::time::sleep_until(limit.slot(Instant::now()).into()).await;
        let at = Instant::now();
        let page: ReplayAnswer =
            ask(config, "POST", &format!("/dead-letters/replay?upto={newest}&{}", query(filter, after, rate as usize)))
                .await?;
        limit.sent(at, u32::try_from(page.replayed).unwrap_or(u32::MAX));
        count += page.replayed;
        page.cut.iter().for_each(|number| err_line(&left_out(&number.to_string())));
        err_line(&format!("{count} records replayed"));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    count += kafka::replay(config, filter, limit).await?;
    out_line(&format!("{count} records were replayed"));
    Ok(())
}

/// Why a record is not replayed.
fn left_out(which: &str) -> String {
    format!(
        "{which} is not replayed: it holds only the beginning of its record (x-cut headers); its producer must send it again"
    )
}

/// Number of the newest record in the ledger's dead letter log; 0 when there is none.
async fn newest(config: &Config) -> Result<u64, ExitCode> {
    let (mut after, mut newest) = (0, 0);
    loop {
        let page: DeadLettersAnswer = ask(config, "GET", &format!("/dead-letters?after={after}")).await?;
        newest = page.records.last().map_or(newest, |record| record.number);
        match page.next {
            Some(next) => after = next,
            None => return Ok(newest),
        }
    }
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the same signatures as with Kafka")]
mod kafka {
    use super::{Config, ExitCode, Filter, RateLimit, failed};

    pub(super) async fn list(_: &Config, _: &Filter) -> Result<u64, ExitCode> {
        Ok(0)
    }

    pub(super) async fn show(_: &Config, _: &str) -> Result<(), ExitCode> {
        Err(failed("there is no such record"))
    }

    pub(super) async fn replay(_: &Config, _: &Filter, _: RateLimit) -> Result<u64, ExitCode> {
        Ok(0)
    }
}

#[cfg(feature = "kafka")]
mod kafka {
    use std::time::Instant;

    use orderbell_consumers::{Record, Sink, SourceError};

    use super::{Config, ExitCode, Filter, RateLimit, err_line, failed, left_out, out_line};
    use crate::cli::progress;
    use crate::stream::dlq_topics::{DeadLetterStream, DlqTopics, header_text, printable, record_name, to_out_record};

    /// The next record that matches the filter.
    async fn next_match(records: &mut DeadLetterStream, filter: &Filter) -> Result<Option<Record>, ExitCode> {
        let unread = |error: SourceError| failed(format!("Kafka: {error}"));
        while let Some(record) = records.next().await.map_err(unread)? {
            if filter.reason.as_ref().is_none_or(|reason| *reason == header_text(&record, "x-dlq-reason")) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    pub(super) async fn list(config: &Config, filter: &Filter) -> Result<u64, ExitCode> {
        let Some(topics) = DlqTopics::of(config) else { return Ok(0) };
        let (mut records, mut count) = (topics.all(), 0);
        while let Some(record) = next_match(&mut records, filter).await? {
            count += 1;
            out_line(&format!(
                "{}\t{}/{}@{}\t{}\t{}",
                record_name(&record),
                header_text(&record, "kafka_dlt-original-topic"),
                header_text(&record, "kafka_dlt-original-partition"),
                header_text(&record, "kafka_dlt-original-offset"),
                header_text(&record, "x-dlq-reason"),
                header_text(&record, "x-dlq-message")
            ));
        }
        Ok(count)
    }

    pub(super) async fn show(config: &Config, wanted: &str) -> Result<(), ExitCode> {
        let none = || failed("there is no such record");
        let mut records = DlqTopics::of(config).ok_or_else(none)?.named(vec![wanted.to_owned()]);
        let record = next_match(&mut records, &Filter { reason: None }).await?.ok_or_else(none)?;
        for (name, value) in &record.headers {
            let value = value.as_deref().map_or("".into(), String::from_utf8_lossy);
            out_line(&printable(&format!("{name}: {value}")));
        }
        let value = record.value.as_deref().map_or("".into(), String::from_utf8_lossy);
        out_line(&printable(&format!("\n{value}")));
        Ok(())
    }

    /// Sends matching records to the output topic, as many in a second as the limit lets through.
    pub(super) async fn replay(config: &Config, filter: &Filter, mut limit: RateLimit) -> Result<u64, ExitCode> {
        let Some(topics) = DlqTopics::of(config) else { return Ok(0) };
        let sink = topics.sink().map_err(failed)?;
        let bar = progress(None, "records");
        let (mut records, mut count) = (topics.all(), 0);
        while let Some(record) = next_match(&mut records, filter).await? {
            if record.is_cut() {
                err_line(&left_out(&record_name(&record)));
                continue;
            }
            tokio::time::sleep_until(limit.slot(Instant::now()).into()).await;
            limit.sent(Instant::now(), 1);
            let sent = sink.send(&to_out_record(record)).await;
            sent.map_err(|error| failed(format!("after {count} records: {error}")))?;
            count += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(count)
    }
}
