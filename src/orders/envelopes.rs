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
mod row_change;
mod rows;
pub(super) mod wall_times;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use orderbell_consumers::{Header, Headers, Reason, Record};
use orderbell_protocol::event::RowChange;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope;
use super::fields::reject;
use super::form;
use super::header_members::HeaderMembers;
use super::json_text::{self, JsonText};
use super::mapping::Mapping;
use super::members::{Members, pointer_to, unfolded};
use super::record_type::LooksPaid;

/// Most events of one record. Each is queued by itself, and so many may exceed the credits; canal sends 50 rows in a message.
pub const MAX_EVENTS_PER_RECORD: usize = 256;
/// Longest value that is taken apart, Kafka's default for a message. Each part is as long as any event at most.
const MAX_SEVERAL_BYTES: usize = 1024 * 1024;
/// Most bytes of a record's headers, times its events: the dead letter of each has them all. A record of 256 events may have 16 KiB of headers.
const MAX_HEADER_COPIES_BYTES: usize = 4 * 1024 * 1024;
/// Code of the reason for which a record is not decoded that is plainly about no order, such as a change of a table: no dead letter.
pub const NO_EVENT: &str = "no-event";
/// Code of the reason for which the row of a snapshot is no event: nobody knows when the order that it tells of was paid. No dead letter.
pub const UNDATED_ROW: &str = "undated-row";

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
    /// has none. A deletion is an event only where `type` is `/__op` or `/__deleted`, a row of a snapshot only with a time of its own. Numbers at
    /// `time` of which the schema says that they have no zone, or which `time_numbers` calls local, are what a clock in `time_zone` shows.
    Debezium,
    /// Messages of Maxwell: as for Debezium.
    Maxwell,
    /// Flat messages of canal, with any number of rows: as for Debezium.
    Canal,
    /// MassTransit: pointers lead into the message; type (without `urn:message:`), id and time are the envelope's. Of a message of its raw
    /// serializers, type and id are the headers `MT-MessageType` and `MessageId`, and the time is the record's where the message has none.
    MassTransit,
    /// Spring Cloud Stream and Spring Kafka: the type is the header `eventType`, `event-type`, `event_type`, `type` or `__TypeId__` (a class, with or
    /// without its package) if there is one, the id the header `id`, the time the header `timestamp` where the body has none.
    Spring,
    /// A form as browsers and platforms post it (`application/x-www-form-urlencoded`), or plain JSON: pointers lead to its fields, each a text, and
    /// into the JSON in them.
    Form,
}

impl EnvelopeName {
    /// True where every event has an id of its envelope's making, and a pointer to another has no effect.
    pub(super) fn gives_ids(self) -> bool {
        matches!(self, Self::Debezium | Self::Maxwell | Self::Canal)
    }

    /// Names of the headers in which it has attributes, in lower case. Those of CloudEvents count in each.
    pub(super) fn header_names(self) -> &'static [&'static str] {
        match self {
            Self::Spring => &messages::SPRING_HEADERS,
            Self::MassTransit => &messages::MASSTRANSIT_HEADERS,
            _ => &[],
        }
    }

    /// Name of the header that is the id of a whole record.
    pub(super) fn id_header(self) -> Option<&'static str> {
        match self {
            Self::Spring => Some(messages::SPRING_ID),
            Self::MassTransit => Some(messages::MASSTRANSIT_ID),
            _ => None,
        }
    }
}

/// True for a record that is no event and no lost order either: it is counted and dropped.
#[must_use]
pub fn is_no_event(reason: &Reason) -> bool {
    matches!(reason.code, NO_EVENT | UNDATED_ROW | "tombstone")
}

/// What capturing the changes of a database says about the row that is the event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CapturedRow {
    pub(super) change: Option<RowChange>,
    /// It is a row of a snapshot without a time of its own.
    pub(super) is_undated: bool,
    /// A number that is its time is what a clock in the mapping's zone shows.
    pub(super) has_local_time: bool,
}

impl CapturedRow {
    /// # Errors
    /// Nobody knows when the row became what it is: it would notify stores of orders that are long over.
    pub(super) fn check_dated(self) -> Result<(), Reason> {
        if self.is_undated { Err(undated("without a time of its own")) } else { Ok(()) }
    }

    /// # Errors
    /// It is a row of a snapshot, whose time is not usable.
    pub(super) fn check_time_is_usable(self, is_usable: bool) -> Result<(), Reason> {
        let is_undated = self.change == Some(RowChange::Snapshot) && !is_usable;
        if is_undated { Err(undated("whose time is not usable")) } else { Ok(()) }
    }
}

fn undated(what: &str) -> Reason {
    reject(UNDATED_ROW, format!("the record is a row of a snapshot {what}, not an event"))
}

/// The JSON of an event, and what else is known of it where it is a row.
pub(super) struct EventText<'r> {
    pub(super) json: JsonText<'r>,
    pub(super) row: CapturedRow,
    pub(super) headers: HeaderMembers,
}

impl<'r> From<JsonText<'r>> for EventText<'r> {
    fn from(json: JsonText<'r>) -> Self {
        Self { json, row: CapturedRow::default(), headers: HeaderMembers::default() }
    }
}

pub(super) fn no_event(what: &str) -> Reason {
    reject(NO_EVENT, format!("the record is {what}, not an event"))
}

pub(super) fn too_many(what: &str, count: usize) -> Reason {
    reject("too-many-events", format!("the record holds {count} {what}: at most {MAX_EVENTS_PER_RECORD} are read"))
}

/// The JSON text of a record of one event, as its mapping's pointers lead into it: an envelope that is named becomes a CloudEvent. `cleaned` is the
/// text of the record's value, if it is known.
///
/// # Errors
/// The value is missing, too long or not JSON, is not in the envelope, is plainly no event, or holds more rows than [`Mapping::parts`] takes.
pub(super) fn text<'r>(
    mapping: &Mapping,
    record: &'r Record,
    cleaned: Option<JsonText<'r>>,
) -> Result<EventText<'r>, Reason> {
    let json = match mapping.envelope {
        EnvelopeName::Form => form::text(record, cleaned)?,
        _ => envelope::text(record, cleaned)?,
    };
    let headers = HeaderMembers::of(mapping, record);
    Ok(EventText { headers, ..text_in(mapping, record, json)? })
}

fn text_in<'r>(mapping: &Mapping, record: &'r Record, json: JsonText<'r>) -> Result<EventText<'r>, Reason> {
    let JsonText { text, is_repaired } = json;
    let name = mapping.envelope;
    if text.starts_with('[') && !is_binary(record) && items(&text).is_some_and(|items| items.is_empty()) {
        return Err(no_event("an empty array"));
    }
    if name == EnvelopeName::None || mapping.is_own(record) {
        return Ok(JsonText { text, is_repaired }.into());
    }
    if let Some(rows) = rows::canal_rows(&text).filter(|rows| *rows > 1) {
        return Err(too_many("rows", rows));
    }
    // What is no JSON is named by its reader. The attributes of a CloudEvent in the headers are those of its data.
    let is_json = name == EnvelopeName::Auto || serde_json::from_str::<&RawValue>(&text).is_ok();
    if name == EnvelopeName::Auto || !is_json || is_binary(record) {
        return Ok(JsonText { text, is_repaired }.into());
    }
    let message = |text: String| (text, CapturedRow::default());
    let (text, row) = match name {
        EnvelopeName::Debezium => changes::debezium(mapping, &text)?,
        EnvelopeName::Maxwell => changes::maxwell(mapping, &text)?,
        EnvelopeName::Canal => changes::canal(mapping, &text)?,
        EnvelopeName::MassTransit => message(messages::masstransit(mapping, record, &text)?),
        EnvelopeName::Spring => message(messages::spring(mapping, record, &text)),
        EnvelopeName::CloudEvents if !envelope::is_structured(&text) => {
            return Err(reject("bad-envelope", "the record is no CloudEvent: it has no specversion"));
        }
        EnvelopeName::Auto | EnvelopeName::None | EnvelopeName::CloudEvents | EnvelopeName::Form => {
            return Ok(JsonText { text, is_repaired }.into());
        }
    };
    Ok(EventText { json: JsonText { text: Cow::Owned(text), is_repaired }, row, headers: HeaderMembers::default() })
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
            let json = value.as_deref().map(json_text::quoted);
            json.into_iter().for_each(|json| text.push_str(&format!(",\"{name}\":{json}")));
        }
        text.push_str(&format!(",\"data\":{}}}", self.data));
        text
    }
}

/// True where the mapping finds a time in the data itself.
fn has_time(mapping: &Mapping, data: &str) -> bool {
    let tree = &mapping.compiled().tree;
    let is_in = |data: &str| {
        let members = Members::read(data.as_bytes(), tree);
        members.map(|members| (members.at(&mapping.time).is_some(), members.leads_into_text()))
    };
    mapping.time.starts_with("/__")
        || match is_in(data) {
            Ok((false, true)) => {
                unfolded(data, tree).is_some_and(|(data, _)| is_in(&data).is_ok_and(|(is_in, _)| is_in))
            }
            Ok((is_in, _)) => is_in,
            Err(_) => false,
        }
}

/// A better reason for a record that becomes no event because a member is missing or unknown.
pub(super) fn refine(reason: Reason, text: &str, looks_paid: impl FnOnce() -> LooksPaid) -> Reason {
    if !matches!(reason.code, "no-type" | "unknown-type" | "no-order") {
        return reason;
    }
    match items(text) {
        Some(items) if items.len() > MAX_EVENTS_PER_RECORD => too_many("events", items.len()),
        // Whatever else it resembles: what may be a paid order is rejected, and counted.
        _ if looks_paid() != LooksPaid::No => reason,
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
                (_, None) if messages::is_raw_masstransit(record) => {
                    "none; \"masstransit\" takes type and id from its headers".into()
                }
                (_, None) => return None,
            },
            EnvelopeName::CloudEvents => return None,
            EnvelopeName::Form => {
                format!("\"form\": pointers lead to {}", names_at_top(&form::text(record, None).ok()?.text)?)
            }
            name => {
                let name = serde_json::to_string(&name).expect("a word");
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
    /// apart: [`Self::decode`] says why. A part has no parts. Equal parts have one id: they are one event, and one part.
    ///
    /// Cheap for a record of one event: its bytes are searched once and not parsed.
    #[must_use]
    pub fn parts(&self, record: &Record) -> Option<Vec<Record>> {
        let mapping = self.of(record);
        mapping.parts_of_text(record, &mapping.text_of_several(record)?)
    }

    /// The JSON text of a record that may hold several events; `None` for any other, and for one that is no text.
    pub(super) fn text_of_several<'r>(&self, record: &'r Record) -> Option<JsonText<'r>> {
        let value = record.value.as_deref()?;
        let is_one = self.envelope == EnvelopeName::None || self.is_own(record) || !may_be_several(value);
        if is_one || value.len() > MAX_SEVERAL_BYTES || is_binary(record) {
            return None;
        }
        json_text::read(value).ok()
    }

    /// As [`Self::parts`], of a record with this text.
    pub(super) fn parts_of_text(&self, record: &Record, JsonText { text, .. }: &JsonText<'_>) -> Option<Vec<Record>> {
        let values =
            if text.starts_with('[') { parts_of_items(text)? } else { rows::canal_parts(text, MAX_EVENTS_PER_RECORD)? };
        let is_few = (1..=MAX_EVENTS_PER_RECORD).contains(&values.len());
        let of_headers = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        let has_room = values.len() * of_headers.sum::<usize>() <= MAX_HEADER_COPIES_BYTES;
        if !is_few || !has_room {
            return None;
        }
        let headers = headers_of_parts(self, record);
        let part = |value| Record { value: Some(Bytes::from(value)), headers: headers.clone(), ..record.clone() };
        Some(distinct(values).map(part).collect())
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

/// The first of each.
fn distinct(values: Vec<String>) -> impl Iterator<Item = String> {
    let mut seen = BTreeSet::new();
    let is_first: Vec<bool> = values.iter().map(|value| seen.insert(value.as_str())).collect();
    values.into_iter().zip(is_first).filter_map(|(value, is_first)| is_first.then_some(value))
}

/// The headers that the parts of a record share: those of the record, and a copy only where some are of the whole.
fn headers_of_parts(mapping: &Mapping, record: &Record) -> Headers {
    let is_id = |(name, _): &Header| mapping.is_id_header(name);
    let is_batch = |(name, media): &Header| {
        let text = media.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        name.eq_ignore_ascii_case("content-type") && text.to_ascii_lowercase().contains(CLOUDEVENTS_BATCH)
    };
    let mut headers = record.headers.clone();
    if headers.iter().any(is_id) {
        headers.retain(|header| !is_id(header));
    }
    if headers.iter().any(is_batch) {
        headers.iter_mut().filter(|header| is_batch(header)).for_each(|(_, media)| *media = Some(CLOUDEVENTS.into()));
    }
    headers
}

/// The items of an array; `None` when it is none.
fn items(text: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(text).ok()
}

/// The values of the parts of an array; `None` unless each item may be an event.
fn parts_of_items(text: &str) -> Option<Vec<String>> {
    let items = items(text)?;
    // A string may hold the JSON of an event.
    let may_be_event = |item: &&RawValue| item.get().starts_with(['{', '"']) && !holds_several(item.get());
    if !items.iter().all(may_be_event) {
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

/// True for a string that holds several events: a part has no parts.
fn holds_several(item: &str) -> bool {
    let text = item.starts_with('"').then(|| json_text::read(item.as_bytes()).ok()).flatten();
    text.is_some_and(|JsonText { text, .. }| {
        text.starts_with('[') || rows::canal_rows(&text).is_some_and(|rows| rows > 1)
    })
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

/// The envelope that the JSON is in where the configuration names none, also by members that few others have.
pub(super) fn likely(text: &str) -> Option<EnvelopeName> {
    if rows::canal_rows(text).is_some() {
        return Some(EnvelopeName::Canal);
    }
    match guess(text) {
        Some("debezium") => return Some(EnvelopeName::Debezium),
        Some("maxwell") => return Some(EnvelopeName::Maxwell),
        Some("masstransit") => return Some(EnvelopeName::MassTransit),
        _ => {}
    }
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).ok()?;
    let json = |name: &str| members.get(name).map_or("", |json| json.get());
    let is_row = json("data").starts_with('{') && members.contains_key("database") && members.contains_key("table");
    let is_change = matches!(json("type"), "\"insert\"" | "\"update\"" | "\"delete\"");
    let is_flat = members.contains_key("__op") || members.contains_key("__deleted");
    match () {
        () if is_row && is_change => Some(EnvelopeName::Maxwell),
        () if is_flat => Some(EnvelopeName::Debezium),
        () => None,
    }
}

/// True for a row that Debezium's transformation flattened without its operation, which also tells the rows of snapshots.
pub(super) fn is_flattened_without_op(text: &str) -> bool {
    let members: Option<BTreeMap<Cow<'_, str>, &RawValue>> = serde_json::from_str(text).ok();
    let has = |name: &str| members.as_ref().is_some_and(|members| members.contains_key(name));
    has("__deleted") && !has("__op") && !has("__source_snapshot") && !has("__snapshot")
}

/// The envelope whose attributes are in a record's headers, where the configuration names none.
pub(super) fn in_headers(record: &Record) -> Option<EnvelopeName> {
    match () {
        () if messages::is_raw_masstransit(record) => Some(EnvelopeName::MassTransit),
        () if messages::has_type(record) => Some(EnvelopeName::Spring),
        () => None,
    }
}

/// The pointers to the members at the top of the data of a record in a named envelope.
fn names_in_data(mapping: &Mapping, record: &Record) -> Option<String> {
    let event = text(mapping, record, None).ok()?.json.text;
    let event: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(&event).ok()?;
    names_at_top(event.get("data")?.get())
}

fn names_at_top(json: &str) -> Option<String> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json).ok()?;
    Some(members.keys().map(|name| pointer_to(name)).collect::<Vec<_>>().join(" "))
}

/// An event whose attributes are in the headers: its value is its data, whatever that is.
fn is_binary(record: &Record) -> bool {
    envelope::attribute(record, "specversion").is_some()
}

#[cfg(test)]
#[path = "envelopes_tests.rs"]
mod tests;
