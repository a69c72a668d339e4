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

mod rows;

use bytes::Bytes;
use orderbell_consumers::{Reason, Record};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope;
use super::fields::reject;
use super::json_text::{self, JsonText};
use super::mapping::Mapping;

/// Most events of one record. Each is queued by itself, and a poll takes up to 1,024 records; canal sends 50 rows in a message.
pub const MAX_EVENTS_PER_RECORD: usize = 256;
/// Longest value that is taken apart, Kafka's default for a message. Each part is as long as any event at most.
const MAX_SEVERAL_BYTES: usize = 1024 * 1024;
/// Code of the reason for which a record is not decoded that is plainly about no order, such as a change of a table: no dead letter.
pub const NO_EVENT: &str = "no-event";

const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch";
const CLOUDEVENTS: &[u8] = b"application/cloudevents+json";

/// What stands around the event in a record.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeName {
    /// CloudEvents in any mode, plain JSON, an array of either, or the rows of a canal message, of which pointers find one at `/data/0`. Whatever
    /// else it is, pointers lead into the JSON as it is.
    #[default]
    Auto,
    /// Plain JSON, also where it is an array: pointers lead into it. CloudEvents attributes count all the same.
    None,
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

/// The JSON text of a record of one event, as its mapping's pointers lead into it.
///
/// # Errors
/// The value is missing, too long or not JSON, is plainly no event, or holds more events than [`Mapping::parts`] takes.
pub(super) fn text<'r>(mapping: &Mapping, record: &'r Record) -> Result<JsonText<'r>, Reason> {
    let text = envelope::text(record)?;
    if mapping.envelope == EnvelopeName::None || envelope::is_own(record) {
        return Ok(text);
    }
    match rows::canal_rows(&text.text) {
        Some(rows) if rows > 1 => Err(too_many("rows", rows)),
        _ => Ok(text),
    }
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
    /// What stands around the events of a record, in a few words, where it is more than an event.
    #[must_use]
    pub fn envelope_of(&self, record: &Record) -> Option<String> {
        let count = |record: &Record| self.parts(record).map_or(1, |parts| parts.len());
        let JsonText { text, .. } = json_text::read(record.value.as_deref()?).ok()?;
        if is_binary(record) {
            return Some("a CloudEvent in binary mode".into());
        }
        if text.starts_with('[') {
            let events = count(record);
            return Some(format!("an array of {events} events, each a record of its own"));
        }
        match rows::canal_rows(&text) {
            Some(rows) => Some(format!("a message of canal with {rows} rows, each an event with its row at /data/0")),
            None => envelope::is_structured(&text)
                .then(|| "a CloudEvent in structured mode: pointers lead into data".into()),
        }
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
        let values = if text.starts_with('[') { parts_of_items(&text)? } else { rows::canal_parts(&text)? };
        let is_few = (1..=MAX_EVENTS_PER_RECORD).contains(&values.len());
        is_few.then(|| values.into_iter().map(|value| part(record, value)).collect())
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

fn part(record: &Record, value: String) -> Record {
    let mut part = Record { value: Some(Bytes::from(value)), ..record.clone() };
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
    let parts = items.into_iter().map(|item| match rows::canal_parts(item.get()) {
        Some(rows) => rows,
        None => vec![item.get().to_owned()],
    });
    Some(parts.flatten().collect())
}

/// An event whose attributes are in the headers: its value is its data, whatever that is.
fn is_binary(record: &Record) -> bool {
    envelope::attribute(record, "specversion").is_some()
}

#[cfg(test)]
#[path = "envelopes_tests.rs"]
mod tests;
