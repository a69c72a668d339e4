//! `orderbell config check | default | schema` and `orderbell mapping try`: find mistakes before the server runs.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use orderbell_consumers::{Record, TopicPartition};
use orderbell_protocol::{Event, UnixMs};
use serde_json::{Value, json};

use super::{ConfigArgs, failed, out_line};
use crate::clock::wall_clock;
use crate::config;
use orderbell_orders::order::{Order, OrderPolicy};
use orderbell_orders::{Mapping, json_text};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration, report every mistake, and check that its secrets can be read.
    Check {
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Print every key with its default and its description.
    Default,
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

#[derive(Subcommand)]
pub(crate) enum MappingCommand {
    /// Show which events and notices sample records become under the configured mapping, or why they are rejected.
    Try {
        /// A file with one JSON record, or one on each line.
        file: PathBuf,
        /// Key of the records.
        #[arg(long)]
        key: Option<String>,
        /// A header of the records; may be repeated.
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
        header: Vec<(String, String)>,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    split.ok_or_else(|| String::from("expected NAME=VALUE"))
}

pub(crate) fn run(command: &ConfigCommand) -> Result<(), ExitCode> {
    match command {
        ConfigCommand::Default => {
            out_line(config::template().trim_end());
            Ok(())
        }
        ConfigCommand::Schema => {
            out_line(&serde_json::to_string_pretty(&config::schema()).map_err(failed)?);
            Ok(())
        }
        ConfigCommand::Check { args } => {
            let config = args.config()?;
            config.check_tokens().map_err(|error| {
                super::err_line(&format!("orderbell: {error}"));
                ExitCode::from(super::CONFIG)
            })?;
            let stream = match &config.boot.kafka {
                Some(kafka) => format!("Kafka at {}, topics {}", kafka.bootstrap, kafka.topics.join(", ")),
                None => String::from("the embedded stream"),
            };
            out_line(&format!(
                "ok: listens on {}, ledger in {}, orders from {stream}",
                config.boot.listen.public,
                config.boot.data_dir.display()
            ));
            for remark in config.boot.mapping.remarks() {
                out_line(&format!("note: {remark}"));
            }
            Ok(())
        }
    }
}

pub(crate) fn run_mapping(command: &MappingCommand) -> Result<(), ExitCode> {
    let MappingCommand::Try { file, key, header, args } = command;
    let config = args.config()?;
    let text = std::fs::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let one = json_text::read(&text).is_ok_and(|json| json_text::canonical(&json.text).is_some());
    let values: Vec<&[u8]> = if one { vec![&text] } else { text.split(|byte| *byte == b'\n').collect() };
    let now = wall_clock();
    let mut rejected = 0_u32;
    for value in values.into_iter().filter(|value| !value.trim_ascii().is_empty()) {
        let record = Record {
            partition: TopicPartition::new("sample", 0),
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
        match try_record(&config.boot.mapping, &record, &config.order_policy(), now) {
            Ok(text) => out_line(&text),
            Err(text) => {
                rejected += 1;
                out_line(&text)
            }
        };
    }
    if rejected == 0 { Ok(()) } else { Err(failed(format!("{rejected} records would become dead letters"))) }
}

/// The event of a record and its notices, as the first event of its order; or why it is rejected.
fn try_record(mapping: &Mapping, record: &Record, rules: &OrderPolicy, now: UnixMs) -> Result<String, String> {
    let (event, remarks) = match mapping.explain(record, now) {
        Ok(explained) => explained,
        Err(reason) => return Err(format!("rejected: {}: {}", reason.code, reason.message)),
    };
    let outcome = match Order::apply(None, &event, now, rules) {
        Err(reason) => format!("rejected: {}: {}", reason.code, reason.message),
        Ok((_, effects)) => {
            let notice = |draft: &orderbell_orders::notices::NoticeDraft| {
                format!("\n  {} is notified: {} {}", draft.recipient, draft.kind.word(), draft.body)
            };
            let notices: String = effects.notices.iter().map(notice).collect();
            let old = if effects.expired > 0 { "\n  nobody is notified: the event is too old" } else { "" };
            format!("as the first event of its order: {}{notices}{old}", effects.result.word())
        }
    };
    let event = serde_json::to_string_pretty(&event_json(&event)).map_err(|error| error.to_string())?;
    let remarks: String = remarks.iter().map(|remark| format!("{}: {}\n", remark.field, remark.why)).collect();
    Ok(format!("{event}\n{remarks}{outcome}"))
}

fn event_json(event: &Event) -> Value {
    let text = |id: &Option<orderbell_protocol::Id>| id.as_ref().map(|id| id.as_str().to_owned());
    json!({
        "type": event.kind.name(), "order": event.order.as_str(), "id": event.id, "source": event.source,
        "at": jiff::Timestamp::from_millisecond(event.at.0).unwrap_or_default().to_string(), "version": event.version,
        "store": text(&event.store), "customer": text(&event.customer), "device": text(&event.device),
        "amount_in_smallest_units": event.amount, "currency": event.currency, "pickup_code": event.pickup_code, "reason": event.reason,
        "details": event.details, "flags": event.flags, "shadow": event.shadow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_as_event_and_notices_or_with_the_reason_of_its_rejection() {
        let mapping: Mapping = toml::from_str("types = { PAY_SUCCESS = 'order.paid' }").unwrap();
        let record = |value: &str| Record {
            partition: TopicPartition::new("sample", 0),
            offset: 0,
            timestamp_ms: 1_790_000_000_000,
            read_ms: 0,
            key: None,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Vec::new(),
        };
        let now = UnixMs(1_790_000_000_000);
        let rules = OrderPolicy { retention_ms: 86_400_000, ..OrderPolicy::default() };
        let paid = record(r#"{"type":"PAY_SUCCESS","order":"o1","store":"17","amount":5}"#);
        let text = try_record(&mapping, &paid, &rules, now).unwrap();
        assert!(text.contains("\"type\": \"order.paid\""), "{text}");
        assert!(text.contains("\n  store:17 is notified: new_order {\"amount\":5"), "{text}");
        let comma = record(r#"{"type":"order.paid","order":"o1","store":"17","amount":"12,50"}"#);
        let text = try_record(&mapping, &comma, &rules, now).unwrap();
        assert!(text.contains("\n/amount: the amount has a comma"), "{text}");
        assert!(text.contains("\n/time: the event has no time\n"), "{text}");
        let text = try_record(&mapping, &record("{\"type\":\"EATEN\"}"), &rules, now).unwrap_err();
        assert!(text.starts_with("rejected: unknown-type: "), "{text}");
    }
}
