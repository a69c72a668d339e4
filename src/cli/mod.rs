//! The command line.

mod alerts;
mod balance;
mod bench;
mod config;
mod demo;
mod dlq;
mod doctor;
mod file_limit;
mod ledger;
mod log;
mod mapping;
mod mapping_doctor;
mod rate_limit;
mod reconcile;
mod serve;
mod stores;
mod table;
mod tail;
mod token;
mod top;
mod trace;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use orderbell_consumers::{Offset, TopicPartition};
use orderbell_protocol::UnixMs;
use serde::de::DeserializeOwned;

use log::LogFormat;

use crate::config::{Config, ConfigError, ENV_PREFIX, NotUtf8};
use orderbell_client::{HttpClient, HttpResponse};

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code for a wrong configuration.
const CONFIG: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  orderbell demo                        a simulated chain in your browser, with nothing installed
  orderbell serve                       embedded, on loopback; prints what to try next
  orderbell serve --playground          the same, with a till and a phone in your browser
  orderbell doctor --config chain.toml  checks this machine and says what to fix
  orderbell mapping doctor --topic orders --config chain.toml  says what is wrong with the mapping, and proposes lines
  orderbell serve --config chain.toml   with a [kafka] section: on Kafka
  orderbell token store 17              a token for a till of store 17
  orderbell token check - < token.txt   says in words why a token is refused

Exit codes: 0 ok, 1 failure, or a stop that left something unfinished, 2 usage, 3 configuration, 4 the ledger is damaged, 5 reconcile found differences, 70 the ledger cannot be written or
orders can no longer be read: restart the process.";

/// Notifies a store when an order is paid, and shows a customer the pickup code when it exists.
#[derive(Parser)]
#[command(name = "orderbell", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        #[command(flatten)]
        args: ConfigArgs,
        /// Continue a partition at this offset and give up every record below it that was not read, for instance a damaged batch. It moves a
        /// partition forward only, at most to the end of its log, and the new checkpoint is saved. Each is used once: the next start does without it,
        /// and one that still names it passes over nothing, also where the topic was created again. May be repeated.
        #[arg(long, value_name = "TOPIC/PARTITION@OFFSET", value_parser = parse_skip_to)]
        skip_to: Vec<(TopicPartition, Offset)>,
        /// Serve the playground: a till and a phone in the browser, and tokens for whoever asks. On loopback only.
        #[arg(long)]
        playground: bool,
        /// Form of the log on standard error.
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
        /// Print one JSON line with both addresses on standard output when ready, instead of the text for people.
        #[arg(long)]
        ready_json: bool,
    },
    /// Simulate a chain of stores in your browser: real connections and polls, orders from a seed.
    Demo {
        #[command(flatten)]
        options: demo::DemoOptions,
    },
    /// Measure performance on this machine with bounded loads on loopback.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Check file limit, clock, token keys, ports, disk and Kafka, and say what to fix.
    Doctor {
        #[command(flatten)]
        options: doctor::DoctorOptions,
    },
    /// Check a configuration, or print the defaults or the schema.
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Try the event mapping on sample records, or diagnose it.
    Mapping {
        #[command(subcommand)]
        command: mapping::MappingCommand,
    },
    /// List alerts, and acknowledge those that stay until you do.
    Alerts {
        #[command(subcommand)]
        command: alerts::AlertsCommand,
    },
    /// Show where the records that may be paid orders ended: whom they notified, or why nobody.
    Balance {
        #[command(flatten)]
        options: balance::BalanceOptions,
    },
    /// List, show and replay dead letters.
    Dlq {
        #[command(subcommand)]
        command: dlq::DlqCommand,
    },
    /// Check, back up or restore the ledger.
    Ledger {
        #[command(subcommand)]
        command: ledger::LedgerCommand,
    },
    /// List stores: reachability, devices and backlog.
    Stores {
        #[command(flatten)]
        options: stores::StoresOptions,
    },
    /// Follow the notices of one store's mailbox.
    Tail {
        #[command(flatten)]
        options: tail::TailOptions,
    },
    /// Show alerts, lag of each partition, hot keys and subscribers of the running server.
    Top {
        #[command(flatten)]
        options: top::TopOptions,
    },
    /// Show the timeline of one order: events, notices and deliveries.
    Trace {
        #[command(flatten)]
        options: trace::TraceOptions,
    },
    /// Count the log again and print where the stored counters differ. The server must be stopped.
    Reconcile {
        #[command(flatten)]
        options: reconcile::ReconcileOptions,
    },
    /// Print completions for a shell: `orderbell completions bash > /etc/bash_completion.d/orderbell`.
    Completions {
        /// What to write the script for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page: `orderbell man > /usr/local/share/man/man1/orderbell.1`.
    Man,
    /// Print a token, signed with the first secret of the configuration, or say why one is refused.
    Token(token::TokenOptions),
}

/// Options that every command shares: the configuration and what overrides it.
#[derive(Clone, clap::Args)]
struct ConfigArgs {
    /// The TOML file; without it, defaults that work on loopback.
    #[arg(long, env = "ORDERBELL_CONFIG")]
    config: Option<PathBuf>,
    /// The ledger's directory, instead of the configured one.
    #[arg(long, env = "ORDERBELL_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The public address, instead of the configured one; port 0 takes a free one.
    #[arg(long, env = "ORDERBELL_LISTEN")]
    listen: Option<std::net::SocketAddr>,
    /// The admin address, instead of the configured one.
    #[arg(long, env = "ORDERBELL_ADMIN")]
    admin: Option<std::net::SocketAddr>,
}

impl ConfigArgs {
    fn config(&self) -> Result<Config, ExitCode> {
        self.read().map_err(|error| {
            err_line(&format!("orderbell: {error}"));
            ExitCode::from(CONFIG)
        })
    }

    /// File, environment, then flags: the last one that names a key decides.
    fn read(&self) -> Result<Config, ConfigError> {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.to_string_lossy().into_owned();
            let is_ours = name.starts_with(ENV_PREFIX);
            let value = is_ours.then(|| value.into_string())?;
            Some(value.map(|value| (name.clone(), value)).map_err(|_| NotUtf8::Unknown { place: name }))
        };
        let variables: Vec<(String, String)> = std::env::vars_os().filter_map(ours).collect::<Result<_, _>>()?;
        let mut config = Config::load(self.config.as_deref(), &variables)?;
        if let Some(dir) = &self.data_dir {
            config.boot.data_dir.clone_from(dir);
        }
        let listen = &mut config.boot.listen;
        listen.public = self.listen.unwrap_or(listen.public);
        listen.admin = self.admin.unwrap_or(listen.admin);
        Ok(config)
    }
}

/// The options with which another command reads the same configuration and ledger, for a command to copy.
fn same_options(config: Option<&Path>, data_dir: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let config = config.map_or_else(String::new, |config| format!("--config {} ", quoted(config)));
    format!("{config}--data-dir {}", quoted(data_dir))
}

fn parse_skip_to(text: &str) -> Result<(TopicPartition, Offset), String> {
    let parsed = text.rsplit_once('@').and_then(|(part, offset)| {
        let (topic, number) = part.rsplit_once('/')?;
        Some((TopicPartition::new(topic, number.parse().ok()?), offset.parse().ok()?))
    });
    parsed.ok_or_else(|| String::from("expected TOPIC/PARTITION@OFFSET, for instance orders/3@1200"))
}

/// A progress bar on a terminal; nothing elsewhere. `total` is the amount of work, when that is known.
fn progress(total: Option<u64>, unit: &'static str) -> ProgressBar {
    let (bar, template) = match total {
        Some(all) => {
            (ProgressBar::new(all), format!("{{bar:40}} {{percent}} % of {{human_len}} {unit}, {{eta}} to go"))
        }
        None => (ProgressBar::new_spinner(), format!("{{spinner}} {{human_pos}} {unit}, {{per_sec}}, {{elapsed}}")),
    };
    bar.with_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Writes a line to standard error. That it is closed is no reason to stop.
fn err_line(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Writes a line to standard output; false when it is closed.
fn out_line(text: &str) -> bool {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints why a command failed, and gives its exit code.
fn failed(error: impl std::fmt::Display) -> ExitCode {
    err_line(&format!("orderbell: {error}"));
    ExitCode::from(FAILED)
}

/// A GET request to the admin listener of the running server.
async fn ask(http: &HttpClient, admin: std::net::SocketAddr, path: &str) -> Result<HttpResponse, String> {
    http.get(path, "").await.map_err(|error| format!("no server answers on {admin}: {}", error.with_sources()))
}

/// Decodes a document of the admin listener.
fn decoded<T: DeserializeOwned>(response: &HttpResponse) -> Result<T, String> {
    let invalid =
        |error| format!("the admin listener's answer cannot be decoded; is the server of this version? {error}");
    serde_json::from_slice(&response.body).map_err(invalid)
}

fn forbidden_message(admin: std::net::SocketAddr, status: u16) -> String {
    format!("the admin listener {admin} answers {status}: it serves stores and orders on loopback only")
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve { args, skip_to, playground, log_format, ready_json } => args.config().and_then(|mut config| {
            (config.skip_to, config.playground) = (skip_to, playground);
            serve::run(&config, log_format, ready_json, &args)
        }),
        Command::Demo { options } => demo::run(&options),
        Command::Bench { bench } => bench::run(&bench),
        Command::Doctor { options } => doctor::run(&options),
        Command::Config { command } => config::run(&command),
        Command::Mapping { command } => mapping::run(&command),
        Command::Alerts { command } => alerts::run(&command),
        Command::Dlq { command } => dlq::run(&command),
        Command::Ledger { command } => ledger::run(&command),
        Command::Stores { options } => stores::run(&options),
        Command::Tail { options } => tail::run(&options),
        Command::Balance { options } => balance::run(&options),
        Command::Top { options } => top::run(&options),
        Command::Trace { options } => trace::run(&options),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "orderbell", &mut out);
            out_line(String::from_utf8_lossy(&out).trim_end());
            Ok(())
        }
        Command::Man => manual().map_err(failed).map(|text| {
            out_line(text.trim_end());
        }),
        Command::Reconcile { options } => reconcile::run(&options),
        Command::Token(options) => token::run(&options),
    };
    done.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

/// A time in a zone, for people; one that no calendar has, in milliseconds since 1970.
fn local_time(at: UnixMs, zone: &jiff::tz::TimeZone, format: &str) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(moment) => zone.to_datetime(moment).strftime(format).to_string(),
        Err(_) => format!("{} ms", at.0),
    }
}

/// The manual page: every command with its options.
fn manual() -> std::io::Result<String> {
    let mut out = Vec::new();
    let mut command = Args::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let page = clap_mangen::Man::new(sub.clone());
        writeln!(out, ".SH {}", sub.get_name().to_uppercase())?;
        writeln!(out, "{}", sub.get_about().map(ToString::to_string).unwrap_or_default().replace('\n', " "))?;
        let mut options = Vec::new();
        page.render_options_section(&mut options)?;
        // Under the command's own heading.
        out.extend_from_slice(String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".SS Options").as_bytes());
    }
    man.render_extra_section(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a token that was printed without the configuration had another key than the server.
    #[test]
    fn commands_to_copy_name_the_configuration() {
        let options = |config: Option<&str>, dir| same_options(config.map(Path::new), Path::new(dir));
        assert_eq!(options(None, "./orderbell-data"), "--data-dir './orderbell-data'");
        assert_eq!(options(Some("my chain.toml"), "/d"), "--config 'my chain.toml' --data-dir '/d'");
        assert_eq!(options(None, "it's"), r"--data-dir 'it'\''s'");
    }

    #[test]
    fn the_command_line_is_consistent_and_the_manual_has_every_command() {
        Args::command().debug_assert();
        let manual = manual().unwrap();
        for command in Args::command().get_subcommands() {
            let heading = format!(".SH {}\n", command.get_name().to_uppercase());
            assert!(manual.contains(&heading), "{heading}");
        }
        assert!(manual.contains("Exit codes"));
    }
}
