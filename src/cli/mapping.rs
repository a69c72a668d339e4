//! `orderbell mapping try`: what sample records become under the configured mapping, whom they notify, and why they notify nobody.
//!
//! A file is one history: its records are applied in their order, as the server would. Nothing is written.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use orderbell_consumers::{Reason, Record, TopicPartition};
use orderbell_protocol::balance::{Bin, STORE_MAX_WAIT_MS};
use orderbell_protocol::command_output::MappedEvent;
use orderbell_protocol::{Event, NoticeKind, Role, UnixMs};

use super::mapping_doctor::{self, MappingDoctorOptions};
use super::{ConfigArgs, failed, out_line};
use crate::clock::wall_clock;
use crate::config::Config;
use orderbell_orders::event_effects::{EventEffects, MadeNotice};
use orderbell_orders::mapping::Decoded;
use orderbell_orders::notice_kinds::NoticeRow;
use orderbell_orders::order::{ApplyResult, Effects, Order, OrderPolicy, TRANSITIONS, Unannounced};
use orderbell_orders::sample_run::{AppliedSample, SampleResult, SampleRun, parts_of, quietly};
use orderbell_orders::{Mapping, json_text};

#[derive(Subcommand)]
pub(crate) enum MappingCommand {
    /// Show which events sample records become under the configured mapping, whom they notify, and why they notify nobody.
    Try {
        #[command(flatten)]
        options: TryOptions,
    },
    /// Read the newest records of a topic, or a file, say what is wrong with the mapping, and propose lines of configuration.
    Doctor {
        #[command(flatten)]
        options: MappingDoctorOptions,
    },
}

#[derive(clap::Args)]
pub(crate) struct TryOptions {
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
    /// When the records are taken to be read: `now`; `event`, each when its event says that it happened; or a time such as 2026-09-21T14:13:00Z.
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = parse_read_at)]
    at: ReadAt,
    #[command(flatten)]
    args: ConfigArgs,
}

/// When the records of a file are taken to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadAt {
    Now,
    /// Each at the time of its own event: a sample of any day notifies as it did then.
    Event,
    At(UnixMs),
}

fn parse_read_at(text: &str) -> Result<ReadAt, String> {
    match text {
        "now" => Ok(ReadAt::Now),
        "event" => Ok(ReadAt::Event),
        time => {
            let time = time.parse::<jiff::Timestamp>();
            let time = time.map_err(|_| "expected now, event, or a time such as 2026-09-21T14:13:00Z")?;
            Ok(ReadAt::At(UnixMs(time.as_millisecond())))
        }
    }
}

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    split.ok_or_else(|| String::from("expected NAME=VALUE"))
}

/// Name of the topic when none is given.
const SAMPLE_TOPIC: &str = "sample";

pub(crate) fn run(command: &MappingCommand) -> Result<(), ExitCode> {
    match command {
        MappingCommand::Try { options } => run_try(options),
        MappingCommand::Doctor { options } => mapping_doctor::run(options),
    }
}

fn run_try(options: &TryOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let text = std::fs::read(&options.file).map_err(|error| failed(format!("{}: {error}", options.file.display())))?;
    let (lines, summary, is_good) = try_records(options, &config, &text, wall_clock());
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

/// The values of a file's records: the whole text where it is one, otherwise its lines.
fn values(text: &[u8]) -> Vec<&[u8]> {
    let is_json = |json: &str| json.starts_with(['{', '[', '"']) && json_text::canonical(json).is_some();
    let is_one = json_text::read(text).is_ok_and(|json| is_json(&json.text));
    let all: Vec<&[u8]> = if is_one { vec![text] } else { text.split(|byte| *byte == b'\n').collect() };
    all.into_iter().filter(|value| !value.trim_ascii().is_empty()).collect()
}

/// What a file does not hold of its records.
pub(super) struct SampleRecords<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) headers: &'a [(String, String)],
    /// When the last one was written, the others just before it. Without it that is not known of any.
    pub(super) last_at: Option<UnixMs>,
}

impl SampleRecords<'_> {
    /// The records of a file with this text.
    pub(super) fn of(&self, text: &[u8]) -> Vec<Record> {
        let values = values(text);
        let (count, partition) = (values.len(), TopicPartition::new(self.topic.unwrap_or(SAMPLE_TOPIC), 0));
        let header = |(name, value): &(String, String)| (name.clone(), Some(Bytes::from(value.clone())));
        let record = |(at, value): (usize, &[u8])| Record {
            partition: partition.clone(),
            offset: at as u64,
            timestamp_ms: self.last_at.map_or(0, |last| last.0 - (count - 1 - at) as i64),
            read_ms: 0,
            key: self.key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value)),
            headers: self.headers.iter().map(header).collect(),
        };
        values.into_iter().enumerate().map(record).collect()
    }
}

/// What is said of the records in `text`, of all of them, and whether all is well with them.
pub(super) fn try_records(
    options: &TryOptions,
    config: &Config,
    text: &[u8],
    now: UnixMs,
) -> (Vec<String>, String, bool) {
    let TryOptions { topic, key, header, at, .. } = options;
    let now = if let ReadAt::At(time) = at { *time } else { now };
    let note = topic_note(config, topic.as_deref());
    let mut lines: Vec<String> = note.into_iter().map(|note| format!("note: {note}")).collect();
    let policy = config.order_policy();
    let mapping = config.mapping();
    let mut history = History::new(&mapping, &policy, now);
    let last_at = (*at != ReadAt::Event).then_some(now);
    let sample = SampleRecords { topic: topic.as_deref(), key: key.as_deref(), headers: header, last_at };
    lines.extend(sample.of(text).iter().flat_map(|record| history.add_all(record)));
    let (summary, is_good) = history.summary();
    (lines, summary, is_good)
}

/// Which mapping is tried, where that may surprise.
pub(super) fn topic_note(config: &Config, topic: Option<&str>) -> Option<String> {
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

/// Records that are applied one after another, and what is said of them.
struct History<'a> {
    mapping: &'a Mapping,
    run: SampleRun<'a>,
    now: UnixMs,
    records: u32,
    notifying: u32,
    silent: u32,
    ignored: u32,
    rejected: u32,
    further_payments: u32,
    /// Orders that were paid so long ago that their store is not notified.
    too_old: u32,
    /// Events that notify nobody because of their time.
    old_events: u32,
}

impl<'a> History<'a> {
    fn new(mapping: &'a Mapping, policy: &'a OrderPolicy, now: UnixMs) -> Self {
        Self {
            mapping,
            run: SampleRun::new(mapping, policy, now),
            now,
            records: 0,
            notifying: 0,
            silent: 0,
            ignored: 0,
            rejected: 0,
            further_payments: 0,
            too_old: 0,
            old_events: 0,
        }
    }

    /// Applies the events of the next record, and returns a line for their envelope and one for the result of each.
    fn add_all(&mut self, record: &Record) -> Vec<String> {
        let envelope = quietly(|| self.mapping.envelope_of(record)).map(|envelope| format!("envelope: {envelope}"));
        let events: Vec<String> = parts_of(self.mapping, record).iter().map(|part| self.add(part)).collect();
        envelope.into_iter().chain(events).collect()
    }

    /// Applies the event of a record, and returns a line for the result.
    fn add(&mut self, record: &Record) -> String {
        self.records += 1;
        // It is read as soon as it has happened where nobody says when its record was written.
        match self.run.add(record, (record.timestamp_ms > 0).then_some(self.now)) {
            SampleResult::Applied(applied) => self.applied(record, &applied),
            SampleResult::Dropped(reason, _) => {
                self.ignored += 1;
                let why = match quietly(|| self.mapping.ignored(record)) {
                    Some(event) => format!("the configuration ignores the type {}", event.kind),
                    None => reason.message,
                };
                format!("ignored: {why}: notifies nobody")
            }
            SampleResult::Rejected(Reason { code, message }, bin) => {
                self.rejected += 1;
                let alert = match bin {
                    Some(Bin::Rejected) => ", and an alert: it is a paid order",
                    Some(_) => ", and an alert: it may be a paid order",
                    None => "",
                };
                format!("rejected: {code}: {message}\n  notifies nobody: it becomes a dead letter{alert}")
            }
        }
    }

    fn applied(&mut self, record: &Record, applied: &AppliedSample) -> String {
        let AppliedSample { decoded: Decoded { event, remarks, .. }, done, was_known } = applied;
        let effects = &done.effects;
        self.too_old += u32::from(done.alert() == Some(Bin::TooOld));
        self.old_events += u32::from(effects.expired > 0 || effects.result == ApplyResult::Forgotten);
        self.further_payments += u32::from(other_order(effects).is_some());
        *(if done.notices.is_empty() { &mut self.silent } else { &mut self.notifying }) += 1;
        let mut text = serde_json::to_string_pretty(&mapped(event)).expect("a type of the wire model");
        for remark in remarks {
            text.push_str(&format!("\n{}: {}", remark.field, remark.why));
        }
        if effects.is_other_customer {
            text.push_str("\nthe order has another customer, whom it keeps");
        }
        let since = if *was_known { "after the events above" } else { "as the first event of its order" };
        let recipients = recipients(self.mapping.of(record), event, done);
        text.push_str(&format!("\n{since}: {}{recipients}", effects.result.word()));
        text
    }

    /// The whole history in a few words, and whether all is well with it.
    fn summary(&self) -> (String, bool) {
        if self.records == 0 {
            return (String::from("there are no records: nothing was tried"), false);
        }
        let counts = [
            (self.notifying, "notify somebody"),
            (self.silent, "notify nobody"),
            (self.ignored, "are ignored"),
            (self.rejected, "would become dead letters"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let mut all = vec![format!("of the records, {}", counts.collect::<Vec<_>>().join(", "))];
        let waiting = self.run.orders().filter(|known| known.is_unannounced()).count();
        if waiting > 0 {
            all.push(format!("{waiting} orders are paid, and no store is notified of them"));
        }
        if self.too_old > 0 {
            all.push(format!("{} orders were paid too long ago to notify", self.too_old));
        }
        if self.old_events > 0 {
            all.push(format!("{} are too old by their time; --at event reads each when it happened", self.old_events));
        }
        if self.further_payments > 0 {
            all.push(format!("{} payments may be of other orders that have the same id", self.further_payments));
        }
        let is_good = [self.rejected, self.too_old, self.further_payments] == [0; 3] && waiting == 0;
        (all.join("; "), is_good)
    }
}

/// Whom an event notifies, or why it notifies nobody, and whether a person is alerted.
fn recipients(mapping: &Mapping, event: &Event, done: &EventEffects) -> String {
    let EventEffects { effects, notices, next, .. } = done;
    let notice = |made: &MadeNotice| {
        format!("\n  {} is notified: {} {}", made.recipient, made.notice.kind.word(), made.notice.body)
    };
    let mut text: String = notices.iter().map(notice).collect();
    let alert = alert_of(done);
    if effects.expired > 0 {
        let who = if text.is_empty() { "nobody" } else { "nobody else" };
        text.push_str(&format!("\n  notifies {who}: the event is too old to notify{alert}"));
    }
    let missing = next.as_ref().map_or_else(Vec::new, |order| missing(mapping, event, order, done));
    if let Some(reason) = other_order(effects) {
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
    format!("\n  notifies nobody: {why}{alert}")
}

/// The end of a sentence that says why nobody is notified.
fn alert_of(done: &EventEffects) -> String {
    match done.alert() {
        Some(Bin::AwaitsStore) => {
            format!(", and an alert unless an event names the store within {} seconds", STORE_MAX_WAIT_MS / 1000)
        }
        Some(_) => String::from(", and an alert: it is a paid order"),
        None => String::new(),
    }
}

/// Why a payment may be of another order that has the same id.
fn other_order(effects: &Effects) -> Option<Unannounced> {
    effects.further_payment.filter(|reason| *reason != Unannounced::LatePayment)
}

/// What is odd about a payment, and what to configure.
fn further_payment(reason: Unannounced) -> String {
    let what = match reason {
        Unannounced::SecondPayment => {
            "the order is paid already, and the two payments differ, if only in event id and time: one payment keeps both when it is sent again"
        }
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
fn missing(mapping: &Mapping, event: &Event, order: &Order, done: &EventEffects) -> Vec<String> {
    let (mut all, result) = (Vec::new(), done.effects.result);
    if !matches!(result, ApplyResult::Moved | ApplyResult::Stale) || order.is_over() {
        return all;
    }
    for (role, kind) in rules(event) {
        let is_this = |made: &MadeNotice| (made.recipient.role, made.notice.kind) == (*role, *kind);
        let made = done.notices.iter().any(is_this);
        let needs_code = NoticeRow::of(*kind).is_some_and(|row| row.needs_pickup_code) && event.pickup_code.is_none();
        let what = match role {
            Role::Store if order.store().is_none() => format!("no store at {}", mapping.store),
            Role::Customer if order.customer().is_none() => format!("no customer at {}", mapping.customer),
            _ if needs_code && !made && result == ApplyResult::Moved => {
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

/// An event as it is printed.
fn mapped(event: &Event) -> MappedEvent {
    let in_no_calendar = |_| format!("{} ms since 1970", event.at.0);
    MappedEvent {
        amount_in_smallest_units: event.amount,
        at: jiff::Timestamp::from_millisecond(event.at.0).map_or_else(in_no_calendar, |at| at.to_string()),
        currency: event.currency.clone(),
        customer: event.customer.clone(),
        details: event.details.clone(),
        device: event.device.clone(),
        flags: event.flags.clone(),
        id: event.id.clone(),
        order: event.order.clone(),
        pickup_code: event.pickup_code.clone(),
        reason: event.reason.clone(),
        shadow: event.shadow,
        source: event.source.clone(),
        store: event.store.clone(),
        kind: event.kind.name().to_owned(),
        version: event.version,
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "mapping_fault_tests.rs"]
mod fault_tests;
