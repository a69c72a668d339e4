//! `orderbell token`: signs a token with the first secret of the configuration. `orderbell token check` says whether a token is taken, and in
//! words why not.

use std::io::Read;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use orderbell_protocol::UnixMs;

use super::{ConfigArgs, FAILED, failed, local_time, out_line};
use crate::clock::wall_clock;
use crate::config::HumanDuration;
use crate::net::tokens::{Principal, RefusedToken, Tokens, shown_kid};

/// The longest lifetime of a token: a year and a day.
const LIFETIME_MAX: HumanDuration = HumanDuration::from_hours(366 * 24);

/// What is read of a token on standard input: more than is taken, so that it can be said how long it is.
const INPUT_BYTES_MAX: u64 = 64 << 10;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TokenOptions {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    /// Kind of client that the token is for.
    #[arg(required = true)]
    role: Option<TokenRole>,
    /// The store's, customer's or producer's id.
    #[arg(required = true)]
    id: Option<String>,
    /// Bind it to one installation.
    #[arg(long)]
    device: Option<String>,
    /// How long the token is valid, for instance 12h or 365d; at most 366d.
    #[arg(long, default_value = "24h")]
    lifetime: HumanDuration,
    /// For load-test traffic: the store or customer reads the notices of marked events, and no real ones.
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Say whether a token is taken by a server of this configuration, and in words why not. Exits with 1 when it is refused.
    Check {
        /// The token, or - to read it from standard input, which keeps it out of the shell's history.
        token: String,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenRole {
    Store,
    Customer,
    Producer,
    /// A viewer of the wall; the id names the screen.
    Wall,
}

/// Prints the token, or what is to be said of one.
pub(crate) fn run(options: &TokenOptions) -> Result<(), ExitCode> {
    let TokenOptions { command, role, id, device, lifetime, shadow, args } = options;
    if let Some(TokenCommand::Check { token, args }) = command {
        return check(token, args);
    }
    let (role, id) = (role.expect("clap requires it"), id.as_deref().expect("clap requires it"));
    if *shadow && matches!(role, TokenRole::Producer | TokenRole::Wall) {
        return Err(failed(
            "only stores and customers have mailboxes of load-test traffic; a producer marks its events",
        ));
    }
    if *lifetime > LIFETIME_MAX {
        return Err(failed(format!("--lifetime is at most {LIFETIME_MAX}: a token that leaks must end by itself")));
    }
    let tokens = args.config()?.load_tokens().map_err(failed)?;
    let role = match role {
        TokenRole::Store => "store",
        TokenRole::Customer => "customer",
        TokenRole::Producer => "producer",
        TokenRole::Wall => "wall",
    };
    let device = device.as_deref();
    for id in std::iter::once(id).chain(device) {
        orderbell_protocol::Id::parse(id).map_err(failed)?;
    }
    let (now, seconds) = (wall_clock(), lifetime.get().as_secs());
    let token = match shadow {
        true => tokens.mint_shadow(role, id, device, now, seconds),
        false => tokens.mint(role, id, device, now, seconds),
    };
    out_line(&token.map_err(failed)?);
    Ok(())
}

fn check(token: &str, args: &ConfigArgs) -> Result<(), ExitCode> {
    let tokens = args.config()?.stored_tokens().map_err(failed)?;
    let token = if token == "-" { from_input().map_err(failed)? } else { token.trim().to_owned() };
    match tokens.explain(&token, wall_clock()) {
        Ok(principal) => {
            out_line(&taken(&tokens, &token, &principal));
            Ok(())
        }
        Err(RefusedToken { reason, sentence }) => {
            out_line(&format!("refused, {reason}: {sentence}"));
            Err(ExitCode::from(FAILED))
        }
    }
}

fn from_input() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Whose token it is, how long it is taken, and by which key.
fn taken(tokens: &Tokens, token: &str, principal: &Principal) -> String {
    let (whose, expires) = match principal {
        Principal::Reader { who, device, expires } => {
            let device = device.as_ref().map_or_else(String::new, |device| format!(", device {device}"));
            (format!("{who}{device}"), Some(*expires))
        }
        Principal::Producer => ("a producer".to_owned(), None),
        Principal::Viewer { expires, .. } => ("a viewer of the wall".to_owned(), Some(*expires)),
    };
    let until = |at: UnixMs| format!(", until {}", local_time(at, &jiff::tz::TimeZone::UTC, "%Y-%m-%dT%H:%M:%SZ"));
    let until = expires.map_or_else(String::new, until);
    let by = |(kid, algorithm): (String, _)| format!(", by the key {} ({algorithm})", shown_kid(&kid));
    let key = tokens.key_of(token).map_or_else(String::new, by);
    format!("taken: {whose}{until}{key}")
}
