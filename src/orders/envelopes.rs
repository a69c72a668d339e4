//! What stands around events on the way to Orderbell: which envelopes there are, and how many events a record holds.
//!
//! ```text
//!   record --parts--> records of one event each --text--> JSON that the mapping's pointers lead into
//! ```
//!
//! [`Mapping::parts`] makes of an array of events, and of several changed rows, records that hold one each. Such a record stands for itself: its
//! value is all that its event and its id are made of, so a dead letter of it can be replayed like any other. Refused: the whole record with the
//! index of a part; each of many dead letters would hold them all.
//!
//! `auto` leaves pointers where they lead without an envelope; an envelope that is named lets them lead into the row or message inside.

mod changes;
mod messages;
mod rows;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use orderbell_consumers::{Reason, Record};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope;
use super::fields::reject;
use super::json_text::{self, JsonText};
use super::mapping::Mapping;
use super::members::{Members, pointer_to};

/// Most events of one record. Each is queued by itself, and a poll takes up to 1,024 records; canal sends 50 rows in a message.
pub const MAX_EVENTS_PER_RECORD: usize = 256;
/// Longest value that is taken apart, Kafka's default for a message. Each part is as long as any event at most.
const MAX_SEVERAL_BYTES: usize = 1024 * 1024;
/// Most bytes that the copies of a record's headers may take: each part has all of them. A record of 256 events may have 16 KiB of headers.
const MAX_HEADER_COPIES_BYTES: usize = 4 * 1024 * 1024;
/// Code of the reason for which a record is not decoded that is plainly about no order, such as a change of a table: no dead letter.
pub const NO_EVENT: &str = "no-event";

const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch";
const CLOUDEVENTS: &[u8] = b"application/cloudevents+json";

/// What stands around the event in a record. A record that is in none of these is rejected where one is named.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeName {
    /// CloudEvents in any mode, plain JSON, an array of either, or the rows of a canal message, of which pointers find one at `/data/0`. Whatever
    /// else it is, pointers lead into the JSON as it is.
    #[default]
    Auto,
    /// Plain JSON, also where it is an array: pointers lead into it. CloudEvents attributes count all the same.
    None,
    /// CloudEvents in any mode, and nothing else.
    CloudEvents,
    /// Change events of Debezium, with or without schema, or flattened: pointers lead into the row as it is now, in a deletion as it was. Further
    /// members are `/__op` (`c`, `u`, `d`, `r`), `/__deleted`, `/__db`, `/__table` and `/__source_ts_ms`. The time is that of the change where the row
    /// has none. A deletion is an event only where `type` is `/__op` or `/__deleted`, a row of a snapshot only with a time of its own.
    Debezium,
    /// Messages of Maxwell: as for Debezium.
    Maxwell,
    /// Flat messages of canal, with any number of rows: as for Debezium.
    Canal,
    /// MassTransit: pointers lead into the message; type (without `urn:message:`), id and time are the envelope's.
    MassTransit,
    /// Spring Cloud Stream and Spring Kafka: the type is the header `eventType`, `event-type`, `event_type`, `type` or `__TypeId__` (a class, with or
    /// without its package) if there is one, the id the header `id`, the time the header `timestamp` where the body has none.
    Spring,
}

impl EnvelopeName {
    /// True where every event has an id of its envelope's making, and a pointer to another has no effect.
    pub(super) fn gives_ids(self) -> bool {
        matches!(self, Self::Debezium | Self::Maxwell | Self::Canal)
    }
}

/// True for a record that is no event and no lost order either: it is counted and dropped.
#[must_use]
pub fn is_no_event(reason: &Reason) -> bool {
    matches!(reason.code, NO_EVENT | "tombstone")
}

pub(super) fn no_event(what: &str) -> Reason {
    reject(NO_EVENT, format!("the record is {what}, not an event"))
}

pub(super) fn too_many(what: &str, count: usize) -> Reason {
    reject("too-many-events", format!("the record holds {count} {what}: at most {MAX_EVENTS_PER_RECORD} are read"))
}

/// The JSON text of a record of one event, as its mapping's pointers lead into it: an envelope that is named becomes a CloudEvent.
///
/// # Errors
/// The value is missing, too long or not JSON, is not in the envelope, is plainly no event, or holds more rows than [`Mapping::parts`] takes.
pub(super) fn text<'r>(mapping: &Mapping, record: &'r Record) -> Result<JsonText<'r>, Reason> {
    let JsonText { text, is_repaired } = envelope::text(record)?;
    let name = mapping.envelope;
    if name == EnvelopeName::None || envelope::is_own(record) {
        return Ok(JsonText { text, is_repaired });
    }
    if let Some(rows) = rows::canal_rows(&text).filter(|rows| *rows > 1) {
        return Err(too_many("rows", rows));
    }
    // What is no JSON is named by its reader. The attributes of a CloudEvent in the headers are those of its data.
    let is_json = name == EnvelopeName::Auto || serde_json::from_str::<&RawValue>(&text).is_ok();
    if name == EnvelopeName::Auto || !is_json || is_binary(record) {
        return Ok(JsonText { text, is_repaired });
    }
    let text = match name {
        EnvelopeName::Debezium => changes::debezium(mapping, &text)?,
        EnvelopeName::Maxwell => changes::maxwell(mapping, &text)?,
        EnvelopeName::Canal => changes::canal(mapping, &text)?,
        EnvelopeName::MassTransit => messages::masstransit(mapping, &text)?,
        EnvelopeName::Spring => messages::spring(mapping, record, &text),
        EnvelopeName::CloudEvents if !envelope::is_structured(&text) => {
            return Err(reject("bad-envelope", "the record is no CloudEvent: it has no specversion"));
        }
        EnvelopeName::Auto | EnvelopeName::None | EnvelopeName::CloudEvents => {
            return Ok(JsonText { text, is_repaired });
        }
    };
    Ok(JsonText { text: Cow::Owned(text), is_repaired })
}

/// An event that was taken out of an envelope. It is written as a structured CloudEvent, so that there is one way in which attributes and pointers
/// into data go together.
struct Event<'j> {
    kind: Option<String>,
    id: Option<String>,
    time: Option<String>,
    /// JSON.
    data: &'j str,
}

impl Event<'_> {
    fn to_text(&self) -> String {
        let mut text = String::from("{\"specversion\":\"1.0\"");
        for (name, value) in [("type", &self.kind), ("id", &self.id), ("time", &self.time)] {
            let json = value.as_ref().and_then(|value| serde_json::to_string(value).ok());
            json.into_iter().for_each(|json| text.push_str(&format!(",\"{name}\":{json}")));
        }
        text.push_str(&format!(",\"data\":{}}}", self.data));
        text
    }
}

/// True where the mapping finds a time in the data itself.
fn has_time(mapping: &Mapping, data: &str) -> bool {
    let members = Members::read(data.as_bytes(), &mapping.compiled().tree);
    mapping.time.starts_with("/__") || members.is_ok_and(|members| members.at(&mapping.time).is_some())
}

/// A better reason for a record that becomes no event because a member is missing or unknown.
pub(super) fn refine(reason: Reason, text: &str) -> Reason {
    if !matches!(reason.code, "no-type" | "unknown-type" | "no-order") {
        return reason;
    }
    match items(text) {
        Some(items) if items.is_empty() => no_event("an empty array"),
        Some(items) if items.len() > MAX_EVENTS_PER_RECORD => too_many("events", items.len()),
        _ => rows::no_event_kind(text).map_or(reason, no_event),
    }
}

impl Mapping {
    /// What stands around the events of a record, in a few words, where it is more than an event; and what it may be, where pointers lead into
    /// an envelope that is not named.
    #[must_use]
    pub fn envelope_of(&self, record: &Record) -> Option<String> {
        let mapping = self.of(record);
        let text = json_text::read(record.value.as_deref()?).ok()?.text;
        let several = self.parts(record).map(|parts| parts.len());
        let name = match mapping.envelope {
            _ if is_binary(record) => "a CloudEvent in binary mode".into(),
            EnvelopeName::None => return None,
            _ if text.starts_with('[') => format!("an array of {} events, each a record of its own", several?),
            EnvelopeName::Auto | EnvelopeName::CloudEvents if envelope::is_structured(&text) => {
                "a CloudEvent in structured mode: pointers lead into data".into()
            }
            EnvelopeName::Auto => match (rows::canal_rows(&text), guess(&text)) {
                (Some(rows @ 1..), _) => {
                    format!(
                        "a message of canal with {rows} rows, each an event with its row at /data/0; \"canal\" lets pointers lead into the row"
                    )
                }
                (_, Some(name)) => format!("none; \"{name}\" lets pointers lead into what this one holds"),
                (_, None) => return None,
            },
            EnvelopeName::CloudEvents => return None,
            name => {
                let name = serde_json::to_string(&name).unwrap_or_default();
                let rows = several.map_or_else(String::new, |rows| format!(" with {rows} rows"));
                match self.parts(record).map_or_else(|| Some(record.clone()), |mut parts| parts.pop()) {
                    Some(part) => format!("{name}{rows}: pointers lead into {}", names_in_data(mapping, &part)?),
                    None => name,
                }
            }
        };
        Some(name)
    }

    /// The records of one event each that stand for a record of several; `None` for a record of one event, and for one that cannot be taken
    /// apart: [`Self::decode`] says why. A part has no parts.
    ///
    /// Cheap for a record of one event: its bytes are searched once and not parsed.
    #[must_use]
    pub fn parts(&self, record: &Record) -> Option<Vec<Record>> {
        let mapping = self.of(record);
        let value = record.value.as_deref()?;
        let is_one = mapping.envelope == EnvelopeName::None || envelope::is_own(record) || !may_be_several(value);
        if is_one || value.len() > MAX_SEVERAL_BYTES || is_binary(record) {
            return None;
        }
        let JsonText { text, .. } = json_text::read(value).ok()?;
        let values = if text.starts_with('[') {
            parts_of_items(&text)?
        } else {
            rows::canal_parts(&text, MAX_EVENTS_PER_RECORD)?
        };
        let is_few = (1..=MAX_EVENTS_PER_RECORD).contains(&values.len());
        let of_headers = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        let has_room = values.len() * of_headers.sum::<usize>() <= MAX_HEADER_COPIES_BYTES;
        (is_few && has_room).then(|| values.into_iter().map(|value| part(mapping, record, value)).collect())
    }
}

/// False for nearly every record of one event.
fn may_be_several(value: &[u8]) -> bool {
    match value.first() {
        // What surrounds the JSON is for its reader.
        Some(b'{') => std::str::from_utf8(value).map_or(true, |text| text.contains(rows::CANAL_MARK)),
        first => first.is_some(),
    }
}

fn part(mapping: &Mapping, record: &Record, value: String) -> Record {
    let mut part = Record { value: Some(Bytes::from(value)), ..record.clone() };
    if mapping.envelope == EnvelopeName::Spring {
        part.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(messages::SPRING_ID));
    }
    for (_, media) in part.headers.iter_mut().filter(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        let text = media.as_deref().map(String::from_utf8_lossy).unwrap_or_default().to_ascii_lowercase();
        if text.contains(CLOUDEVENTS_BATCH) {
            *media = Some(Bytes::from_static(CLOUDEVENTS));
        }
    }
    part
}

/// The items of an array; `None` when it is none.
fn items(text: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(text).ok()
}

/// The values of the parts of an array; `None` unless each item may be an event.
fn parts_of_items(text: &str) -> Option<Vec<String>> {
    let items = items(text)?;
    // A string may hold the JSON of an event.
    if !items.iter().all(|item| item.get().starts_with(['{', '"'])) {
        return None;
    }
    let mut parts = Vec::with_capacity(items.len().min(MAX_EVENTS_PER_RECORD));
    for item in items {
        // Refused before anything more is copied: a message of canal becomes many.
        let room = MAX_EVENTS_PER_RECORD.checked_sub(parts.len())?;
        match rows::canal_parts(item.get(), room) {
            Some(rows) => parts.extend(rows),
            None => parts.push(item.get().to_owned()),
        }
    }
    Some(parts)
}

/// The envelope that the JSON is in, by members that nothing else has.
fn guess(text: &str) -> Option<&'static str> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).ok()?;
    let has = |name: &str| members.contains_key(name);
    if has("schema")
        && let Some(payload) = members.get("payload")
    {
        return guess(payload.get());
    }
    match () {
        () if has("op") && has("source") && (has("after") || has("before")) => Some("debezium"),
        () if has("database") && has("table") && has("type") && has("data") && has("ts") => Some("maxwell"),
        () if has("messageType") && has("message") => Some("masstransit"),
        () => None,
    }
}

/// The pointers to the members at the top of the data of a record in a named envelope.
fn names_in_data(mapping: &Mapping, record: &Record) -> Option<String> {
    let event = text(mapping, record).ok()?.text;
    let event: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(&event).ok()?;
    let data: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(event.get("data")?.get()).ok()?;
    Some(data.keys().map(|name| pointer_to(name)).collect::<Vec<_>>().join(" "))
}

/// An event whose attributes are in the headers: its value is its data, whatever that is.
fn is_binary(record: &Record) -> bool {
    envelope::attribute(record, "specversion").is_some()
}

#[cfg(test)]
#[path = "envelopes_tests.rs"]
mod tests;
