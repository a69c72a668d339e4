//! `orderbell mapping try`: what sample records become under the configured mapping, whom they notify, and why they notify nobody.
//!
//! A file is one history: its records are applied in their order, as the server would. Nothing is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use orderbell_consumers::{Record, TopicPartition};
use orderbell_protocol::frame::OrderStage;
use orderbell_protocol::{Event, Id, NoticeKind, Role, UnixMs};
use serde_json::{Value, json};

use super::{ConfigArgs, failed, out_line};
use crate::clock::wall_clock;
use crate::config::Config;
use orderbell_orders::envelopes;
use orderbell_orders::event_types::IGNORED;
use orderbell_orders::mapping::Decoded;
use orderbell_orders::notice_kinds::NoticeRow;
use orderbell_orders::order::{ApplyResult, Effects, Order, OrderPolicy, TRANSITIONS, Unannounced};
use orderbell_orders::record_type::LooksPaid;
use orderbell_orders::{Mapping, json_text};

#[derive(Subcommand)]
pub(crate) enum MappingCommand {
    /// Show which events sample records become under the configured mapping, whom they notify, and why they notify nobody.
    Try {
        /// A file with one JSON record, or one on each line: the history of one or more orders, in its order.
        file: PathBuf,
        /// Topic of the records, to try the mapping that it has under [mapping.topics].
        #[arg(long)]
        topic: Option<String>,
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

/// Name of the topic when none is given.
const SAMPLE_TOPIC: &str = "sample";

pub(crate) fn run(command: &MappingCommand) -> Result<(), ExitCode> {
    let MappingCommand::Try { file, args, .. } = command;
    let config = args.config()?;
    let text = std::fs::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let (lines, summary, is_good) = try_records(command, &config, &text, wall_clock());
    for line in lines {
        out_line(&line);
    }
    if is_good {
        out_line(&summary);
        Ok(())
    } else {
        Err(failed(summary))
    }
}

/// What is said of the records in `text`, of all of them, and whether all is well with them.
fn try_records(command: &MappingCommand, config: &Config, text: &[u8], now: UnixMs) -> (Vec<String>, String, bool) {
    let MappingCommand::Try { topic, key, header, .. } = command;
    let is_one = json_text::read(text).is_ok_and(|json| json_text::canonical(&json.text).is_some());
    let values: Vec<&[u8]> = if is_one { vec![text] } else { text.split(|byte| *byte == b'\n').collect() };
    let note = topic_note(config, topic.as_deref());
    let mut lines: Vec<String> = note.into_iter().map(|note| format!("note: {note}")).collect();
    let policy = config.order_policy();
    let mapping = config.mapping();
    let mut history = History::new(&mapping, &policy, now);
    let values: Vec<&[u8]> = values.into_iter().filter(|value| !value.trim_ascii().is_empty()).collect();
    let count = values.len();
    for (at, value) in values.into_iter().enumerate() {
        let record = Record {
            partition: TopicPartition::new(topic.as_deref().unwrap_or(SAMPLE_TOPIC), 0),
            offset: at as u64,
            // They come one after another, the last one now.
            timestamp_ms: now.0 - (count - 1 - at) as i64,
            read_ms: 0,
            key: key.clone().map(Bytes::from),
            value: Some(Bytes::copy_from_slice(value)),
            headers: header.iter().map(|(name, value)| (name.clone(), Some(Bytes::from(value.clone())))).collect(),
        };
        lines.extend(history.add_all(&record));
    }
    let (summary, is_good) = history.summary();
    (lines, summary, is_good)
}

/// Which mapping is tried, where that may surprise.
fn topic_note(config: &Config, topic: Option<&str>) -> Option<String> {
    let with_mapping = &config.boot.mapping.topics;
    let names = || with_mapping.keys().cloned().collect::<Vec<_>>().join(", ");
    match topic {
        None if with_mapping.is_empty() => None,
        None => Some(format!(
            "[mapping] is tried; --topic NAME tries that of a topic with a mapping of its own: {}",
            names()
        )),
        Some(topic) if with_mapping.contains_key(topic) => None,
        Some(topic) => match &config.boot.kafka {
            Some(kafka) if !kafka.topics.iter().any(|known| known == topic) => {
                Some(format!("{topic} is none of kafka.topics; [mapping] is tried"))
            }
            _ => Some(format!("{topic} has no mapping of its own: [mapping] is tried")),
        },
    }
}

/// What is known of one order of the history.
struct Tried {
    order: Order,
    /// Its store was notified of it.
    store_was_notified: bool,
}

/// Records that are applied one after another.
struct History<'a> {
    mapping: &'a Mapping,
    policy: &'a OrderPolicy,
    now: UnixMs,
    orders: BTreeMap<(bool, Id), Tried>,
    notifying: u32,
    silent: u32,
    ignored: u32,
    rejected: u32,
    further_payments: u32,
    /// Orders that were paid so long ago that their store is not notified.
    too_old: u32,
}

impl<'a> History<'a> {
    fn new(mapping: &'a Mapping, policy: &'a OrderPolicy, now: UnixMs) -> Self {
        Self {
            mapping,
            policy,
            now,
            orders: BTreeMap::new(),
            notifying: 0,
            silent: 0,
            ignored: 0,
            rejected: 0,
            further_payments: 0,
            too_old: 0,
        }
    }

    /// Applies the events of the next record, and says in what they stood and what became of each.
    fn add_all(&mut self, record: &Record) -> Vec<String> {
        let envelope = self.mapping.envelope_of(record).map(|envelope| format!("envelope: {envelope}"));
        let parts = self.mapping.parts(record);
        let parts = parts.as_deref().unwrap_or(std::slice::from_ref(record));
        let events: Vec<String> = parts.iter().map(|part| self.add(part)).collect();
        envelope.into_iter().chain(events).collect()
    }

    /// Applies the event of a record, and says what became of it.
    fn add(&mut self, record: &Record) -> String {
        let Decoded { event, remarks, .. } = match self.mapping.explain(record, self.now) {
            Ok(decoded) => decoded,
            Err(reason) if reason.code == IGNORED => {
                self.ignored += 1;
                let kind = self.mapping.ignored(record).map(|event| event.kind).unwrap_or_default();
                return format!("ignored: the configuration ignores the type {kind}: notifies nobody");
            }
            Err(reason) if envelopes::is_no_event(&reason) => {
                self.ignored += 1;
                return format!("ignored: {}: notifies nobody", reason.message);
            }
            Err(reason) => return self.reject(record, reason.code, &reason.message),
        };
        let key = (event.shadow, event.order.clone());
        let before = self.orders.get(&key);
        let since = if before.is_some() { "after the events above" } else { "as the first event of its order" };
        let (order, effects) = match Order::apply(before.map(|tried| &tried.order), &event, self.now, self.policy) {
            Ok(applied) => applied,
            Err(reason) => return self.reject(record, reason.code, &reason.message),
        };
        let has_new_order = effects.notices.iter().any(|draft| draft.kind == NoticeKind::NewOrder);
        let store_was_notified = before.is_some_and(|tried| tried.store_was_notified) || has_new_order;
        self.too_old += u32::from(effects.is_new_order_expired);
        let recipients = recipients(self.mapping.of(record), &event, order.as_ref(), &effects);
        self.further_payments += u32::from(effects.further_payment.is_some());
        *(if effects.notices.is_empty() { &mut self.silent } else { &mut self.notifying }) += 1;
        if let Some(order) = order {
            self.orders.insert(key, Tried { order, store_was_notified });
        }
        let mut text = serde_json::to_string_pretty(&event_json(&event)).unwrap_or_default();
        for remark in remarks {
            text.push_str(&format!("\n{}: {}", remark.field, remark.why));
        }
        if effects.is_other_customer {
            text.push_str("\nthe order has another customer, whom it keeps");
        }
        text.push_str(&format!("\n{since}: {}{recipients}", effects.result.word()));
        text
    }

    fn reject(&mut self, record: &Record, code: &str, message: &str) -> String {
        self.rejected += 1;
        let alert = match self.mapping.looks_paid(record) {
            LooksPaid::Yes => ", and an alert: it is a paid order",
            LooksPaid::Unreadable | LooksPaid::Later => ", and an alert: it may be a paid order",
            LooksPaid::No => "",
        };
        format!("rejected: {code}: {message}\n  notifies nobody: it becomes a dead letter{alert}")
    }

    /// The whole history in a few words, and whether all is well with it.
    fn summary(&self) -> (String, bool) {
        let counts = [
            (self.notifying, "notify somebody"),
            (self.silent, "notify nobody"),
            (self.ignored, "are ignored"),
            (self.rejected, "would become dead letters"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let mut all = vec![format!("of the records, {}", counts.collect::<Vec<_>>().join(", "))];
        let waits = |tried: &&Tried| {
            let order = &tried.order;
            order.stage() >= OrderStage::Paid && !order.is_over() && !tried.store_was_notified
        };
        let waiting = self.orders.values().filter(waits).count();
        if waiting > 0 {
            all.push(format!("{waiting} orders are paid, and no store is notified of them"));
        }
        if self.too_old > 0 {
            all.push(format!("{} orders were paid too long ago to notify", self.too_old));
        }
        if self.further_payments > 0 {
            all.push(format!("{} payments may be of other orders that have the same id", self.further_payments));
        }
        (all.join("; "), self.rejected == 0 && waiting == 0 && self.further_payments == 0)
    }
}

/// Whom an event notifies, or why it notifies nobody.
fn recipients(mapping: &Mapping, event: &Event, order: Option<&Order>, effects: &Effects) -> String {
    let notice = |draft: &orderbell_orders::notices::NoticeDraft| {
        format!("\n  {} is notified: {} {}", draft.recipient, draft.kind.word(), draft.body)
    };
    let mut text: String = effects.notices.iter().map(notice).collect();
    if effects.expired > 0 {
        let who = if text.is_empty() { "nobody" } else { "nobody else" };
        text.push_str(&format!("\n  notifies {who}: the event is too old to notify"));
    }
    let missing = order.map_or_else(Vec::new, |order| missing(mapping, event, order, effects));
    if let Some(reason) = effects.further_payment {
        let who = if text.is_empty() { "notifies nobody, and an alert" } else { "an alert" };
        text.push_str(&format!("\n  {who}: {}", further_payment(reason)));
    }
    if !text.is_empty() {
        missing.iter().for_each(|what| text.push_str(&format!("\n  waits with a notice: {what}")));
        return text;
    }
    let why = match effects.result {
        _ if !missing.is_empty() => missing.join(", "),
        ApplyResult::Duplicate => "the same event came before, by source, id and type".into(),
        ApplyResult::Forgotten => "the order is unknown, and the event is older than state_retention".into(),
        ApplyResult::Stale => "the order had come further or had ended, or a newer version came before".into(),
        ApplyResult::LatePayment => {
            "the order had ended; order.late_payment is published, somebody must refund it".into()
        }
        ApplyResult::Moved if !rules(event).is_empty() => {
            "its recipients have this notice already, or were never notified of the order".into()
        }
        ApplyResult::Moved | ApplyResult::Noted => format!("no event of the type {} does", event.kind.name()),
    };
    format!("\n  notifies nobody: {why}")
}

/// What is odd about a payment, and what to configure.
fn further_payment(reason: Unannounced) -> String {
    let what = match reason {
        Unannounced::SecondPayment => "the order is paid already, and the two payments differ",
        _ => "the order had been picked up or had ended before this payment",
    };
    format!(
        "{what}. Where two orders may have one number, compose the id with what tells them apart, such as the store and the date: \
         order = [\"/shop/id\", \"/date\", \"/number\"]"
    )
}

fn rules(event: &Event) -> &'static [(Role, NoticeKind)] {
    TRANSITIONS.iter().find(|rule| rule.on == event.kind).map_or(&[], |rule| rule.notifies)
}

/// What the notices of an event wait for.
fn missing(mapping: &Mapping, event: &Event, order: &Order, effects: &Effects) -> Vec<String> {
    let mut all = Vec::new();
    if !matches!(effects.result, ApplyResult::Moved | ApplyResult::Stale) || order.is_over() {
        return all;
    }
    for (role, kind) in rules(event) {
        let made = effects.notices.iter().any(|draft| (draft.recipient.role, draft.kind) == (*role, *kind));
        let needs_code = NoticeRow::of(*kind).is_some_and(|row| row.needs_pickup_code) && event.pickup_code.is_none();
        let what = match role {
            Role::Store if order.store().is_none() => format!("no store at {}", mapping.store),
            Role::Customer if order.customer().is_none() => format!("no customer at {}", mapping.customer),
            _ if needs_code && !made && effects.result == ApplyResult::Moved => {
                format!("no pickup code at {}", mapping.pickup_code)
            }
            _ => continue,
        };
        if !all.contains(&what) {
            all.push(what);
        }
    }
    all
}

fn event_json(event: &Event) -> Value {
    let text = |id: &Option<Id>| id.as_ref().map(|id| id.as_str().to_owned());
    json!({
        "type": event.kind.name(), "order": event.order.as_str(), "id": event.id, "source": event.source,
        "at": jiff::Timestamp::from_millisecond(event.at.0).unwrap_or_default().to_string(), "version": event.version,
        "store": text(&event.store), "customer": text(&event.customer), "device": text(&event.device),
        "amount_in_smallest_units": event.amount, "currency": event.currency, "pickup_code": event.pickup_code, "reason": event.reason,
        "details": event.details, "flags": event.flags, "shadow": event.shadow,
    })
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
