//! The command line.

mod alerts;
mod balance;
mod bench;
mod config;
mod demo;
mod dlq;
mod doctor;
mod ledger;
mod mapping;
mod rate_limit;
mod reconcile;
mod serve;
mod stores;
mod table;
mod tail;
mod top;
mod trace;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use orderbell_consumers::{Offset, TopicPartition};
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use crate::clock::wall_clock;
use crate::config::{Config, ConfigError, ENV_PREFIX, HumanDuration};
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
  orderbell serve --config chain.toml   with a [kafka] section: on Kafka
  orderbell token store 17              a token for a till of store 17

Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 the ledger is damaged, 5 reconcile found differences, 70 the ledger cannot be written or
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
        /// Continue a partition at this offset and skip every record below it, for instance a damaged batch.
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
    /// Try the mapping of events.
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
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page: `orderbell man > /usr/local/share/man/man1/orderbell.1`.
    Man,
    /// Print a token, signed with the first key of the configuration.
    Token {
        /// Kind of client that the token is for.
        role: TokenRole,
        /// The store's, customer's or producer's id.
        id: String,
        /// Bind it to one installation.
        #[arg(long)]
        device: Option<String>,
        /// How long the token is valid, for instance 12h or 365d.
        #[arg(long, default_value = "24h")]
        lifetime: HumanDuration,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TokenRole {
    Store,
    Customer,
    Producer,
    /// A viewer of the wall; the id names the screen.
    Wall,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Options that every command shares: the configuration and what overrides it.
#[derive(clap::Args)]
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
            let name = name.into_string().ok().filter(|name| name.starts_with(ENV_PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        };
        let variables: Vec<(String, String)> = std::env::vars_os().filter_map(ours).collect();
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

/// Sets up the log on standard error: `ORDERBELL_LOG` filters it, `default` when that is not set.
fn init_log(default: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_env("ORDERBELL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // tungstenite logs whole frames at its finest levels: no filter may reach tokens and pickup codes.
    let filter = ["tungstenite=warn", "tokio_tungstenite=warn", "fjall=warn", "lsm_tree=warn"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi && format == LogFormat::Text)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        // One span at a time has fields that matter; the list would repeat it.
        LogFormat::Json => log.json().with_span_list(false).init(),
    }
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve { args, skip_to, playground, log_format, ready_json } => args.config().and_then(|mut config| {
            (config.skip_to, config.playground) = (skip_to, playground);
            serve::run(&config, log_format, ready_json, &|| args.read())
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
        Command::Token { role, id, device, lifetime, args } => {
            args.config().and_then(|config| token(&config, role, &id, device.as_deref(), lifetime))
        }
    };
    done.map_or_else(|code| code, |()| ExitCode::SUCCESS)
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

fn token(
    config: &Config,
    role: TokenRole,
    id: &str,
    device: Option<&str>,
    lifetime: HumanDuration,
) -> Result<(), ExitCode> {
    let tokens = config.load_tokens().map_err(failed)?;
    let role = match role {
        TokenRole::Store => "store",
        TokenRole::Customer => "customer",
        TokenRole::Producer => "producer",
        TokenRole::Wall => "wall",
    };
    for id in std::iter::once(id).chain(device) {
        orderbell_protocol::Id::parse(id).map_err(failed)?;
    }
    let token = tokens
        .mint(role, id, device, wall_clock(), lifetime.get().as_secs())
        .map_err(|_| failed("there is no key to sign with"))?;
    out_line(&token);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
