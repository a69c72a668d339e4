//! The log on standard error and what it lets through.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{CONFIG, err_line, failed};

/// Filters the log: a level, `target=level`, or several of them with commas.
const VARIABLE: &str = "ORDERBELL_LOG";

/// What the targets of this program begin with. All others are libraries, which log no more than warnings, whatever the filter says: tungstenite
/// logs whole frames at its finest levels, rustls and hyper what passes through them, and no filter may reach tokens and pickup codes.
const OWN: [&str; 2] = ["orderbell", "security"];

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the log lets through: `filter`, or `default` when it is empty.
fn targets(filter: &str, default: LevelFilter) -> Result<Targets, String> {
    let filter = match filter.trim() {
        "" => Targets::new().with_default(default),
        filter => filter.parse::<Targets>().map_err(|error| {
            format!("{VARIABLE}: {error}; write a level, or target=level, for instance info,orderbell::net=debug")
        })?,
    };
    let default = filter.default_level().unwrap_or(LevelFilter::OFF);
    // Where the filter names an own target itself, that holds: what comes last replaces what came before.
    let own = OWN.map(|name| (name.to_owned(), default));
    let named = filter.iter().map(|(target, level)| (target.to_owned(), level));
    let named = named.map(|(target, level)| {
        let is_own = OWN.iter().any(|name| target.starts_with(name));
        let level = if is_own { level } else { level.min(LevelFilter::WARN) };
        (target, level)
    });
    Ok(Targets::new().with_targets(own).with_targets(named).with_default(default.min(LevelFilter::WARN)))
}

/// Sets up the log on standard error: `ORDERBELL_LOG` filters it, `default` when that is not set.
///
/// # Errors
///
/// The exit code of a wrong configuration when the filter cannot be read; standard error then says why.
pub(super) fn init(default: LevelFilter, format: LogFormat) -> Result<(), ExitCode> {
    let filter = std::env::var_os(VARIABLE).unwrap_or_default();
    let targets = targets(&filter.to_string_lossy(), default).map_err(|error| {
        err_line(&format!("orderbell: {error}"));
        ExitCode::from(CONFIG)
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let log = tracing_subscriber::registry().with(targets);
    match format {
        LogFormat::Text => log.with(lines).try_init(),
        // One span at a time has fields that matter; the list would repeat it.
        LogFormat::Json => log.with(lines.json().with_span_list(false)).try_init(),
    }
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_filter_chooses_levels_by_target() {
        let log = targets("warn,orderbell::net=debug", LevelFilter::INFO).unwrap();
        assert!(log.would_enable("orderbell::net::connection", &Level::DEBUG));
        assert!(!log.would_enable("orderbell::net::connection", &Level::TRACE));
        assert!(!log.would_enable("orderbell::hub", &Level::INFO));
        assert!(log.would_enable("orderbell::hub", &Level::WARN));
        for unset in ["", " "] {
            let log = targets(unset, LevelFilter::INFO).unwrap();
            assert!(log.would_enable("orderbell", &Level::INFO) && !log.would_enable("orderbell", &Level::DEBUG));
        }
    }

    #[test]
    fn no_filter_makes_a_library_more_talkative_than_warnings() {
        const LIBRARIES: [&str; 7] = [
            "tungstenite",
            "tokio_tungstenite",
            "rustls::server::hs",
            "hyper::proto::h1::conn",
            "fjall",
            "lsm_tree::tree",
            "a_library_of_tomorrow",
        ];
        for target in LIBRARIES {
            for filter in ["", "debug", "trace", &format!("{target}=trace"), &format!("warn,{}=debug", &target[..3])] {
                let log = targets(filter, LevelFilter::INFO).unwrap();
                assert!(!log.would_enable(target, &Level::INFO), "{filter} lets {target} through");
                assert!(log.would_enable(target, &Level::WARN), "{filter} keeps warnings of {target}");
            }
            let quieter = targets(&format!("info,{target}=off"), LevelFilter::INFO).unwrap();
            assert!(!quieter.would_enable(target, &Level::ERROR) && quieter.would_enable("orderbell", &Level::INFO));
        }
        let off = targets("off", LevelFilter::INFO).unwrap();
        assert!(!off.would_enable("fjall", &Level::ERROR) && !off.would_enable("security", &Level::ERROR));
        let all = targets("trace", LevelFilter::INFO).unwrap();
        for own in ["orderbell", "orderbell_consumers::kafka", "security"] {
            assert!(all.would_enable(own, &Level::TRACE), "{own}");
        }
        assert!(!targets("trace,orderbell=warn", LevelFilter::INFO).unwrap().would_enable("orderbell", &Level::INFO));
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_shows_the_form() {
        let error = targets("orderbell=loud", LevelFilter::INFO).unwrap_err();
        assert!(error.starts_with("ORDERBELL_LOG: ") && error.contains("info,orderbell::net=debug"), "{error}");
    }
}
