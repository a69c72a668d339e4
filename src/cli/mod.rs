//! The command line.

mod bench;
mod config;
mod demo;
mod dlq;
mod doctor;
mod ledger;
mod reconcile;
mod serve;
mod stores;
mod tail;
mod top;
mod trace;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use orderbell_consumers::{Offset, Part};
use tracing_subscriber::EnvFilter;

use crate::client::{Answer, Http};
use crate::config::{Config, ConfigError, ENV_PREFIX};
use crate::net;

/// Something could not be done.
const FAILED: u8 = 1;
/// The configuration is wrong.
const CONFIG: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  orderbell demo                        a living chain in your browser, with nothing installed
  orderbell serve                       embedded, on loopback; prints what to try next
  orderbell serve --try                 the same, with a till and a phone in your browser
  orderbell doctor --config chain.toml  what would go wrong on the first day, and what to do
  orderbell serve --config chain.toml   with a [kafka] section: on Kafka
  orderbell token store 17              a token for a till of store 17

Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 the ledger is not whole, 5 reconcile found differences, 70 the ledger cannot be written or orders
cannot be read any more: start again.";

/// Rings a store's bell when an order is paid, and a customer's phone when the pickup code is there.
#[derive(Parser)]
#[command(name = "orderbell", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the push centre.
    Serve {
        #[command(flatten)]
        place: Place,
        /// Give up what stands below this offset of a partition, for instance a damaged batch: TOPIC/PARTITION@OFFSET.
        #[arg(long, value_parser = parse_skip)]
        skip: Vec<(Part, Offset)>,
        /// Show pages to try it with, a till and a phone, and give a token to whoever asks: on loopback only.
        #[arg(long = "try")]
        trial: bool,
    },
    /// Show a living chain in your browser: real sockets, real polls, seeded orders.
    Demo {
        #[command(flatten)]
        options: demo::DemoOptions,
    },
    /// Measure on this machine: bounded loads on loopback.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Will it run here? Looks at file limit, clock, keys, ports, disk and Kafka, and says what to do.
    Doctor {
        #[command(flatten)]
        options: doctor::DoctorOptions,
    },
    /// Read a configuration, or print one.
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Try the mapping of events.
    Mapping {
        #[command(subcommand)]
        command: config::MappingCommand,
    },
    /// Dead letters: list, look, send again.
    Dlq {
        #[command(subcommand)]
        command: dlq::DlqCommand,
    },
    /// Look at the ledger, write it out, put it back.
    Ledger {
        #[command(subcommand)]
        command: ledger::LedgerCommand,
    },
    /// Every store: how it is reached, its devices, and what waits for them.
    Stores {
        #[command(flatten)]
        options: stores::StoresOptions,
    },
    /// Follow what comes into one store's mailbox.
    Tail {
        #[command(flatten)]
        options: tail::TailOptions,
    },
    /// What is going on: what is red, how far the log is read, which keys are hot, who is connected.
    Top {
        #[command(flatten)]
        options: top::TopOptions,
    },
    /// What happened to one order, step by step, to every device.
    Trace {
        #[command(flatten)]
        options: trace::TraceOptions,
    },
    /// Count the log a second time, and print where the tallies differ. Nothing may run on the ledger.
    Reconcile {
        #[command(flatten)]
        options: reconcile::ReconcileOptions,
    },
    /// Print completions for a shell: `orderbell completions bash > /etc/bash_completion.d/orderbell`.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page: `orderbell man > /usr/local/share/man/man1/orderbell.1`.
    Man,
    /// Mint a token with the newest key.
    Token {
        /// Who it is for.
        role: TokenRole,
        /// The store's, customer's or producer's id.
        id: String,
        /// Bind it to one installation.
        #[arg(long)]
        device: Option<String>,
        /// How long it is good for. Seconds.
        #[arg(long, default_value_t = 86_400)]
        seconds: u64,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TokenRole {
    Store,
    Customer,
    Producer,
    /// Looks at the chain's numbers; the id is a name of the wall.
    Wall,
}

/// Where the configuration and the data are.
#[derive(clap::Args)]
struct Place {
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

impl Place {
    fn config(&self) -> Result<Config, ExitCode> {
        self.read().map_err(|error| {
            say(&format!("orderbell: {error}"));
            ExitCode::from(CONFIG)
        })
    }

    /// File, environment, then flags: the later one holds.
    fn read(&self) -> Result<Config, ConfigError> {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(ENV_PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        };
        let variables: Vec<(String, String)> = std::env::vars_os().filter_map(ours).collect();
        let mut config = Config::load(self.config.as_deref(), &variables)?;
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        config.listen.public = self.listen.unwrap_or(config.listen.public);
        config.listen.admin = self.admin.unwrap_or(config.listen.admin);
        Ok(config)
    }
}

fn parse_skip(text: &str) -> Result<(Part, Offset), String> {
    let parsed = text.rsplit_once('@').and_then(|(part, offset)| {
        let (topic, number) = part.rsplit_once('/')?;
        Some((Part::new(topic, number.parse().ok()?), offset.parse().ok()?))
    });
    parsed.ok_or_else(|| String::from("a skip is TOPIC/PARTITION@OFFSET"))
}

/// Shows on a terminal how far a long work is; nothing elsewhere. `of` is how much there is, when that is known.
fn progress(of: Option<u64>, unit: &'static str) -> ProgressBar {
    let (bar, template) = match of {
        Some(all) => {
            (ProgressBar::new(all), format!("{{bar:40}} {{percent}} % of {{human_len}} {unit}, {{eta}} to go"))
        }
        None => (ProgressBar::new_spinner(), format!("{{spinner}} {{human_pos}} {unit}, {{per_sec}}, {{elapsed}}")),
    };
    bar.with_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// To the standard error; a closed one is no reason to stop.
fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// To the standard output; false when nobody reads it any more.
fn tell(text: &str) -> bool {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// What could not be done, and the code for it.
fn failed(what: impl std::fmt::Display) -> ExitCode {
    say(&format!("orderbell: {what}"));
    ExitCode::from(FAILED)
}

/// Asks the admin listener of the server that runs.
async fn ask(http: &Http, admin: std::net::SocketAddr, path: &str) -> Result<Answer, String> {
    http.ask(path, "").await.map_err(|error| format!("no server answers on {admin}: {error}"))
}

fn not_told(admin: std::net::SocketAddr, status: u16) -> String {
    format!("the admin listener {admin} answers {status}: what stores and orders do it tells on loopback only")
}

fn logs(default: &str) {
    let filter = EnvFilter::try_from_env("ORDERBELL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // tungstenite writes whole frames at its finest levels: tokens and codes must not be reachable by any filter.
    let filter = ["tungstenite=warn", "tokio_tungstenite=warn", "fjall=warn", "lsm_tree=warn"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve { place, skip, trial } => place.config().and_then(|mut config| {
            (config.skips, config.trial) = (skip, trial);
            serve::run(&config, &|| place.read())
        }),
        Command::Demo { options } => demo::run(&options),
        Command::Bench { bench } => bench::run(&bench),
        Command::Doctor { options } => doctor::run(&options),
        Command::Config { command } => config::run(&command),
        Command::Mapping { command } => config::run_mapping(&command),
        Command::Dlq { command } => dlq::run(&command),
        Command::Ledger { command } => ledger::run(&command),
        Command::Stores { options } => stores::run(&options),
        Command::Tail { options } => tail::run(&options),
        Command::Top { options } => top::run(&options),
        Command::Trace { options } => trace::run(&options),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "orderbell", &mut out);
            tell(String::from_utf8_lossy(&out).trim_end());
            Ok(())
        }
        Command::Man => manual().map_err(failed).map(|text| {
            tell(text.trim_end());
        }),
        Command::Reconcile { options } => reconcile::run(&options),
        Command::Token { role, id, device, seconds, place } => {
            place.config().and_then(|config| token(&config, role, &id, device.as_deref(), seconds))
        }
    };
    done.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

/// One page for the whole: what each command does, and its options.
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

fn token(config: &Config, role: TokenRole, id: &str, device: Option<&str>, seconds: u64) -> Result<(), ExitCode> {
    let failed = |text: String| {
        say(&format!("orderbell: {text}"));
        ExitCode::from(FAILED)
    };
    let tokens = config.tokens().map_err(|error| failed(error.to_string()))?;
    let role = match role {
        TokenRole::Store => "store",
        TokenRole::Customer => "customer",
        TokenRole::Producer => "producer",
        TokenRole::Wall => "wall",
    };
    for id in std::iter::once(id).chain(device) {
        orderbell_protocol::Id::new(id).map_err(|error| failed(error.to_string()))?;
    }
    let token = tokens
        .mint(role, id, device, net::wall_clock(), seconds)
        .map_err(|_| failed("there is no key to sign with".into()))?;
    tell(&token);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_the_manual_has_every_command() {
        Args::command().debug_assert();
        let manual = manual().unwrap();
        for command in Args::command().get_subcommands() {
            let heading = format!(".SH {}\n", command.get_name().to_uppercase());
            assert!(manual.contains(&heading), "{heading}");
        }
        assert!(manual.contains("Exit codes"));
    }
}
