//! `orderbell alerts list | ack`: what needs a person, and that a person has dealt with it.
//!
//! Most alerts end with their condition. Those that report something that happened (records that the log lost, dead letters that look like
//! paid orders, notices that no client can use) stay until they are acknowledged, those about losses also across restarts.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Subcommand;
use orderbell_client::{HttpClient, percent_encoded};
use orderbell_protocol::Problem;
use orderbell_protocol::admin::{AcknowledgeAnswer, ReadyAnswer};

use super::top::alert_line;
use super::{ConfigArgs, ask, decoded, failed, forbidden_message, out_line};

#[derive(Subcommand)]
pub(crate) enum AlertsCommand {
    /// Print one line for each alert of the running server.
    List {
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Acknowledge an alert that does not clear by itself, after you have dealt with it.
    Ack {
        /// The alert's code, for instance retention_gap.
        code: String,
        /// Only the alert about this subject, for instance orders/0.
        subject: Option<String>,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

pub(crate) fn run(command: &AlertsCommand) -> Result<(), ExitCode> {
    let (AlertsCommand::List { args } | AlertsCommand::Ack { args, .. }) = command;
    let admin = args.config()?.boot.listen.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let asked = runtime.block_on(async {
        match command {
            AlertsCommand::List { .. } => list(admin).await,
            AlertsCommand::Ack { code, subject, .. } => acknowledge(admin, code, subject.as_deref()).await,
        }
    });
    asked.map_err(failed)?.iter().for_each(|line| _ = out_line(line));
    Ok(())
}

/// Also of a server that is not ready: it says why.
async fn list(admin: SocketAddr) -> Result<Vec<String>, String> {
    let answer = ask(&HttpClient::new(admin), admin, "/ready").await?;
    let ready: ReadyAnswer = decoded(&answer)?;
    Ok(ready.alerts.iter().map(alert_line).collect())
}

async fn acknowledge(admin: SocketAddr, code: &str, subject: Option<&str>) -> Result<Vec<String>, String> {
    let subject = subject.map_or_else(String::new, |subject| format!("&subject={}", percent_encoded(subject)));
    let path = format!("/alerts/ack?code={}{subject}", percent_encoded(code));
    let answer = HttpClient::new(admin).send("POST", &path, "", "application/json", "").await;
    let answer = answer.map_err(|error| format!("no server answers on {admin}: {}", error.with_sources()))?;
    match answer.status {
        200 => {
            let answer: AcknowledgeAnswer = decoded(&answer)?;
            Ok(answer.acknowledged.iter().map(|alert| format!("acknowledged{}", alert_line(alert))).collect())
        }
        404 => Err(format!("no such alert is raised; or {}", forbidden_message(admin, 404))),
        422 => {
            let problem: Problem = decoded(&answer)?;
            Err(problem.errors.first().map_or(problem.detail, |error| format!("{code}: {}", error.reason)))
        }
        status => Err(forbidden_message(admin, status)),
    }
}
