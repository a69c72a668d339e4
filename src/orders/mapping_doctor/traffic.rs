//! Findings about records as a whole: envelopes, and several events in a record.

use std::collections::BTreeMap;

use orderbell_consumers::Record;

use super::super::envelopes::{self, EnvelopeName};
use super::super::form;
use super::super::json_text;
use super::super::mapping::Mapping;
use super::proposal::{Change, pointers_of};
use super::{Context, Finding};

/// Keys whose values are pointers.
const POINTER_KEYS: [&str; 14] = [
    "type",
    "id",
    "source",
    "order",
    "store",
    "customer",
    "device",
    "amount",
    "currency",
    "pickup_code",
    "reason",
    "version",
    "time",
    "shadow",
];

/// Records with several rows or events.
pub(super) fn several_events(context: &Context<'_>) -> Option<Finding> {
    let (records, events) = context.sample.several;
    (records > 0).then(|| {
        let all = context.sample.records;
        let sentence = format!(
            "{records} of {all} records hold several rows or events, {events} in all: each is an event of its own"
        );
        Finding::note("several-events", sentence)
    })
}

/// An envelope that the mapping does not name.
pub(super) fn unnamed_envelope(context: &Context<'_>) -> Option<Finding> {
    if context.mapping.envelope != EnvelopeName::Auto {
        return None;
    }
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for record in &context.sample.parts {
        let text = record.value.as_deref().and_then(|value| json_text::read(value).ok());
        let in_text = text.and_then(|text| envelopes::likely(&text.text));
        let name = match in_text.or_else(|| envelopes::in_headers(record)) {
            Some(EnvelopeName::Canal) => "canal",
            Some(EnvelopeName::Debezium) => "debezium",
            Some(EnvelopeName::Maxwell) => "maxwell",
            Some(EnvelopeName::MassTransit) => "masstransit",
            Some(EnvelopeName::Spring) => "spring",
            _ if record.value.as_deref().is_some_and(form::is_likely) => "form",
            _ => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
    let (name, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let parts = context.sample.parts.len();
    let has_types = context.sample.events.iter().filter(|event| event.kind.is_some()).count() * 2 > parts;
    if count * 2 < parts || (name == "spring" && has_types) {
        return None;
    }
    let mut changes = vec![Change::new("envelope", name)];
    changes.extend(rebased(context.mapping, name));
    let what = if name == "spring" { "have their type in a header" } else { "are in this envelope" };
    let sentence =
        format!("{count} of {parts} records {what}, \"{name}\": named, it lets pointers lead into what it holds");
    Some(Finding::fix("envelope", sentence, changes))
}

/// Rows that Debezium's transformation flattened without saying what happened to them.
pub(super) fn flattened_without_op(context: &Context<'_>) -> Option<Finding> {
    let is_one = |record: &&Record| {
        let text = record.value.as_deref().and_then(|value| json_text::read(value).ok());
        text.is_some_and(|text| envelopes::is_flattened_without_op(&text.text))
    };
    let (count, all) = (context.sample.parts.iter().filter(is_one).count(), context.sample.parts.len());
    (context.mapping.envelope == EnvelopeName::Debezium && count > 0).then(|| {
        let sentence = format!(
            "{count} of {all} rows are flattened and do not say what happened to them: a row of a snapshot looks like an update of this \
             moment; set add.fields=op,source.ts_ms,source.snapshot in the connector's transformation"
        );
        Finding::note("flattened-without-op", sentence)
    })
}

/// The pointers that lead into the envelope, as they lead into what it holds.
fn rebased(mapping: &Mapping, envelope: &str) -> Vec<Change> {
    let prefixes: &[&str] = match envelope {
        "canal" => &["/data/0"],
        "maxwell" => &["/data"],
        "debezium" => &["/payload/after", "/after"],
        "masstransit" => &["/message"],
        _ => &[],
    };
    let inside = |pointer: &String| {
        let rest = prefixes.iter().find_map(|&prefix| pointer.strip_prefix(prefix));
        rest.filter(|rest| rest.starts_with('/')).map(str::to_owned)
    };
    let mut changes = Vec::new();
    for key in POINTER_KEYS {
        let pointers = pointers_of(mapping, key);
        if !pointers.iter().any(|pointer| inside(pointer).is_some()) {
            continue;
        }
        let mut moved: Vec<String> =
            pointers.iter().map(|pointer| inside(pointer).unwrap_or_else(|| pointer.clone())).collect();
        changes.push(match moved.len() {
            1 => Change::new(key, moved.remove(0)),
            _ => Change::new(key, moved),
        });
    }
    changes
}
