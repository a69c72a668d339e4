//! Where a record's event is: in an envelope (CloudEvents, binary or structured), or in plain JSON.
//!
//! [`split`] finds the envelope's attributes and the JSON that the mapping's pointers lead into. The poll thread and the shard both use it.

use std::borrow::Cow;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::id_text;

use super::fields::{reject, scalar};
use super::members::Members;

/// Media type of Orderbell's own events: they are decoded by Orderbell's own member names, whatever mapping the chain's events need.
pub const OWN_EVENT_MEDIA_TYPE: &str = "application/cloudevents+json; profile=orderbell";

/// Header of a dead letter: the topic that it was read from.
const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";
/// Parameter of the media type with the same meaning, for a dead letter that the ledger stored: the embedded stream stores no other header.
pub const TOPIC_PARAMETER: &str = "; topic=";

/// The attributes of a CloudEvents envelope. Without an envelope none is there.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) kind: Option<String>,
    pub(super) id: Option<String>,
    pub(super) source: Option<String>,
    /// What the event is about, if it is an id.
    pub(super) subject: Option<String>,
    pub(super) time: Option<String>,
    /// JSON text.
    pub(super) shadow: Option<String>,
}

/// Splits a record, whose value is the JSON text `json`, into envelope and data.
///
/// # Errors
/// The value is not JSON, or the envelope is none that is known.
pub(super) fn split<'j>(record: &Record, json: &'j [u8]) -> Result<(Envelope, Cow<'j, [u8]>), Reason> {
    const POINTERS: [&str; 8] = ["/specversion", "/type", "/id", "/source", "/subject", "/time", "/shadow", "/data"];
    let members = Members::read(json, POINTERS).map_err(|error| {
        let problem = if json.is_empty() { "the value is empty" } else { "the value is not JSON" };
        reject("not-json", format!("{problem} (line {}, column {})", error.line(), error.column()))
    })?;
    let id =
        |text: Option<String>| text.map(|text| id_text::trim(&text).to_owned()).filter(|text| !id_text::is_no_id(text));
    let envelope = match mode(record, members.at("/specversion"))? {
        Mode::Plain => return Ok((Envelope::default(), Cow::Borrowed(json))),
        Mode::Binary => {
            let header = |name: &str| header_text(record, name);
            Envelope {
                kind: header("ce_type"),
                id: header("ce_id"),
                source: header("ce_source"),
                subject: id(header("ce_subject")),
                time: header("ce_time"),
                shadow: header("ce_shadow"),
            }
        }
        Mode::Structured => {
            let text = |pointer: &str| members.at(pointer).and_then(scalar);
            Envelope {
                kind: text("/type"),
                id: text("/id"),
                source: text("/source"),
                subject: id(text("/subject")),
                time: text("/time"),
                shadow: members.at("/shadow").map(str::to_owned),
            }
        }
    };
    let is_structured = header_text(record, "ce_specversion").is_none();
    let data = if is_structured { members.at("/data").unwrap_or("null").as_bytes() } else { json };
    Ok((envelope, Cow::Borrowed(data)))
}

/// True for an event that Orderbell published, whose id is what a till chose.
pub(super) fn is_own(record: &Record) -> bool {
    record.header("content-type").is_some_and(|media| media == OWN_EVENT_MEDIA_TYPE)
}

pub(super) fn header_text(record: &Record, name: &str) -> Option<String> {
    record.header(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// How a record carries its event.
enum Mode {
    /// JSON without an envelope.
    Plain,
    /// A CloudEvent whose envelope is in the headers.
    Binary,
    /// A CloudEvent whose envelope is in the JSON.
    Structured,
}

/// The mode of a record; `specversion` is that member of its JSON.
fn mode(record: &Record, specversion: Option<&str>) -> Result<Mode, Reason> {
    if let Some(version) = header_text(record, "ce_specversion") {
        return check_specversion(&version).map(|()| Mode::Binary);
    }
    let media = record.header("content-type").map_or(&b""[..], |media| &media[..]);
    if media.starts_with(b"application/cloudevents-batch") {
        return Err(reject("batch", "a record cannot be a batch of CloudEvents"));
    }
    let is_structured = media.starts_with(b"application/cloudevents") || specversion.is_some();
    if is_structured {
        check_specversion(&specversion.and_then(scalar).unwrap_or_default())?;
    }
    Ok(if is_structured { Mode::Structured } else { Mode::Plain })
}

fn check_specversion(version: &str) -> Result<(), Reason> {
    if version.starts_with("1.") { Ok(()) } else { Err(reject("bad-envelope", "only CloudEvents 1.x is supported")) }
}

/// The topic that a record was first read from: a replayed dead letter names it in a header, or in its media type.
pub(super) fn topic_of(record: &Record) -> &str {
    let text = |name: &str| record.header(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let named =
        text(ORIGINAL_TOPIC).or_else(|| text("content-type")?.split_once(TOPIC_PARAMETER).map(|(_, topic)| topic));
    named.unwrap_or(&record.partition.topic)
}
