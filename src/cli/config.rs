//! `orderbell config check | default` and `orderbell mapping try`: find out before it matters.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use orderbell_consumers::{Part, Record};
use orderbell_protocol::{Event, UnixMs};
use serde_json::{Value, json};

use super::{FAILED, Place, say, tell};
use crate::ingest::Mapping;
use crate::ingest::life::{LifeRules, Order};
use crate::net;

/// Every key with its default and its reason.
const DEFAULT: &str = include_str!("default.toml");

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration and say whether it would do.
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Print a configuration with every key, its default and its reason.
    Default,
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

#[derive(Subcommand)]
pub(crate) enum MappingCommand {
    /// Show what sample records become under the configured mapping, and why a bad one is rejected.
    Try {
        /// One JSON record, or one a line.
        file: PathBuf,
        /// The record's key.
        #[arg(long)]
        key: Option<String>,
        /// A header of the record, NAME=VALUE; several.
        #[arg(long, value_parser = parse_header)]
        header: Vec<(String, String)>,
        #[command(flatten)]
        place: Place,
    },
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    split.ok_or_else(|| String::from("a header is NAME=VALUE"))
}

pub(crate) fn run(command: &ConfigCommand) -> Result<(), ExitCode> {
    match command {
        ConfigCommand::Default => {
            tell(DEFAULT.trim_end());
            Ok(())
        }
        ConfigCommand::Schema => {
            let schema = schemars::schema_for!(crate::config::Config);
            tell(&serde_json::to_string_pretty(&schema).unwrap_or_default());
            Ok(())
        }
        ConfigCommand::Check { place } => {
            let config = place.config()?;
            config.tokens().map_err(|error| {
                say(&format!("orderbell: {error}"));
                ExitCode::from(super::CONFIG)
            })?;
            let stream = match &config.kafka {
                Some(kafka) => format!("Kafka at {}, topics {}", kafka.bootstrap, kafka.topics.join(", ")),
                None => String::from("the embedded stream"),
            };
            tell(&format!(
                "good: listens on {}, ledger in {}, orders from {stream}",
                config.listen.public,
                config.data_dir.display()
            ));
            Ok(())
        }
    }
}

pub(crate) fn run_mapping(command: &MappingCommand) -> Result<(), ExitCode> {
    let MappingCommand::Try { file, key, header, place } = command;
    let config = place.config()?;
    let failed = |what: String| {
        say(&format!("orderbell: {what}"));
        ExitCode::from(FAILED)
    };
    let text = std::fs::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let one = serde_json::from_slice::<Value>(&text).is_ok();
    let values: Vec<&[u8]> = if one { vec![&text] } else { text.split(|byte| *byte == b'\n').collect() };
    let now = net::wall_clock();
    let mut bad = 0;
    for value in values.into_iter().filter(|value| !value.trim_ascii().is_empty()) {
        let record = Record {
            part: Part::new("sample", 0),
            offset: 0,
            timestamp_ms: now.0,
            read_ms: 0,
            key: key.as_ref().map(|key| Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value)),
            headers: header
                .iter()
                .map(|(name, value)| (name.clone(), Some(Bytes::copy_from_slice(value.as_bytes()))))
                .collect(),
        };
        let (good, said) = tried(&config.mapping, &record, &config.life(), now);
        bad += u32::from(!good);
        tell(&said);
    }
    if bad == 0 { Ok(()) } else { Err(failed(format!("{bad} would go to the dead letters"))) }
}

/// What becomes of a record, as the first of its order.
fn tried(mapping: &Mapping, record: &Record, rules: &LifeRules, now: UnixMs) -> (bool, String) {
    let event = match mapping.decode(record, now) {
        Ok(event) => event,
        Err(reason) => return (false, format!("rejected: {}: {}", reason.code, reason.message)),
    };
    let told = match Order::apply(None, &event, now, rules) {
        Err(reason) => format!("rejected: {}: {}", reason.code, reason.message),
        Ok((_, effects)) => {
            let notice = |draft: &crate::ingest::notices::Draft| {
                format!("\n  {} hears {} {}", draft.recipient, draft.kind.word(), draft.body)
            };
            let notices: String = effects.notices.iter().map(notice).collect();
            let old = if effects.too_old > 0 { "\n  too old to ring" } else { "" };
            format!("as the first event of its order: {}{notices}{old}", effects.verdict.word())
        }
    };
    (true, format!("{}\n{told}", serde_json::to_string_pretty(&shown(&event)).unwrap_or_default()))
}

fn shown(event: &Event) -> Value {
    let text = |id: &Option<orderbell_protocol::Id>| id.as_ref().map(|id| id.as_str().to_owned());
    json!({
        "type": event.kind.name(), "order": event.order.as_str(), "id": event.id, "source": event.source,
        "at": jiff::Timestamp::from_millisecond(event.at.0).unwrap_or_default().to_string(), "version": event.version,
        "store": text(&event.store), "customer": text(&event.customer), "device": text(&event.device),
        "amount_in_smallest_units": event.amount, "currency": event.currency, "code": event.code, "reason": event.reason,
        "details": event.details, "flags": event.flags, "shadow": event.shadow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let printed: Config = toml::from_str(DEFAULT).unwrap();
        assert_eq!(format!("{printed:?}"), format!("{:?}", Config::default()));
    }

    /// What is printed as default has only keys that the schema knows, and the schema none that has no default or is left out on purpose.
    #[test]
    fn the_schema_knows_every_key() {
        let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        let printed: toml::Table = toml::from_str(DEFAULT).unwrap();
        let known: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let mut keys: Vec<String> = printed.keys().cloned().chain(["kafka".to_owned()]).collect();
        keys.sort();
        assert_eq!(known.into_iter().cloned().collect::<Vec<_>>(), keys);
        let sessions = schema["$defs"]["Sessions"]["properties"].as_object().unwrap();
        assert!(printed["sessions"].as_table().unwrap().keys().all(|key| sessions.contains_key(key)));
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn what_a_record_becomes_is_shown_and_why_another_is_rejected() {
        let mut mapping = Mapping::default();
        mapping.types.insert("PAY_SUCCESS".into(), "order.paid".into());
        let record = |value: &str| Record {
            part: Part::new("sample", 0),
            offset: 0,
            timestamp_ms: 1_790_000_000_000,
            read_ms: 0,
            key: None,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Vec::new(),
        };
        let now = UnixMs(1_790_000_000_000);
        let rules = LifeRules { retention_ms: 86_400_000, ..LifeRules::default() };
        let (good, said) =
            tried(&mapping, &record(r#"{"type":"PAY_SUCCESS","order":"o1","store":"17","amount":5}"#), &rules, now);
        assert!(good && said.contains("\"type\": \"order.paid\""), "{said}");
        assert!(said.contains("moved\n  store:17 hears new_order {\"amount\":5"), "{said}");
        let (good, said) = tried(&mapping, &record("{\"type\":\"EATEN\"}"), &rules, now);
        assert_eq!((good, said.as_str()), (false, "rejected: unknown-type: the event's type is not known"));
    }
}
