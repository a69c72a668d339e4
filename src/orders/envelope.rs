//! Where a record's event is: in an envelope (CloudEvents, binary or structured), or in plain JSON.
//!
//! [`open`] finds the envelope's attributes and the JSON that the mapping's pointers lead into.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use orderbell_consumers::{Reason, Record};
use orderbell_protocol::id_text;

use super::fields::{reject, scalar};
use super::json_text::{self, JsonText};
use super::mapping::MAX_VALUE_BYTES;
use super::members::{self, Members, Places, PointerTree};

/// Media type of Orderbell's own events: they are decoded by Orderbell's own member names, whatever mapping the chain's events need.
pub const OWN_EVENT_MEDIA_TYPE: &str = "application/cloudevents+json; profile=orderbell";

/// Header of a dead letter: the topic that it was read from.
const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";
/// Parameter of the media type with the same meaning, for a dead letter that the ledger stored: the embedded stream stores no other header.
pub const TOPIC_PARAMETER: &str = "; topic=";
/// Parameter of the media type of an event whose JSON was damaged when it was posted, and is stored repaired. It stands before the topic.
pub const REPAIRED_PARAMETER: &str = "; repaired=true";

/// What the headers of CloudEvents begin with, in lower case: by the Kafka binding, the HTTP binding, and Spring.
const PREFIXES: [&str; 4] = ["ce_", "ce-", "cloudevents_", "cloudevents:"];

/// Where a CloudEvent that is JSON has its attributes and its data.
pub(super) const POINTERS: [&str; 9] =
    ["/specversion", "/type", "/id", "/source", "/subject", "/time", "/shadow", "/data", "/data_base64"];

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
    /// The JSON of the event was damaged.
    pub(super) is_repaired: bool,
}

impl Envelope {
    /// The bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.kind, &self.id, &self.source, &self.subject, &self.time, &self.shadow];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

/// The JSON text of a record; `null` for a binary CloudEvent without a body. `cleaned` is the text of its value, if it is known.
///
/// # Errors
/// The value is missing, too long or not JSON.
pub(super) fn text<'r>(record: &'r Record, cleaned: Option<JsonText<'r>>) -> Result<JsonText<'r>, Reason> {
    let value = match record.value.as_ref() {
        Some(value) if value.len() > MAX_VALUE_BYTES => {
            return Err(reject("too-long", format!("the value has more than {MAX_VALUE_BYTES} bytes")));
        }
        Some(value) if !value.is_empty() => &value[..],
        // All that such an event says is in its headers.
        _ if attribute(record, "specversion").is_some() => b"null",
        Some(_) => return Err(reject("not-json", "the value is empty")),
        None if attribute(record, "type").is_some() => {
            return Err(reject("not-json", "the record has no value, although a header names its type"));
        }
        None => return Err(reject("tombstone", "the record has no value")),
    };
    match cleaned {
        Some(text) => Ok(text),
        None => json_text::read(value).map_err(|problem| reject("not-json", problem)),
    }
}

/// A record's envelope, and its data.
pub(super) struct Enclosed<'j> {
    pub(super) envelope: Envelope,
    /// JSON text, not validated where it stands in base64 or in a string.
    pub(super) data: Cow<'j, str>,
    /// Where the members of the data stand in it; an error where it is not JSON.
    pub(super) members: serde_json::Result<Places>,
}

/// Finds the envelope's attributes and the data in a record's JSON text. The tree has [`POINTERS`] and those that the data is read by: a text
/// without an envelope around it is parsed once, and so is each of an envelope and the data in it. JSON in strings that pointers lead into is taken out
/// of them.
///
/// # Errors
/// The text is not JSON, or the envelope is none that is known.
pub(super) fn open<'j>(record: &Record, json: &'j JsonText<'_>, tree: &PointerTree) -> Result<Enclosed<'j>, Reason> {
    let members = Members::read(json.text.as_bytes(), tree).map_err(|error| {
        reject("not-json", format!("the value is not JSON (line {}, column {})", error.line(), error.column()))
    })?;
    let id = |text: Option<String>| text.and_then(|text| id_text::id(&text).map(str::to_owned));
    let mode = mode(record, members.at("/specversion"))?;
    let (mut envelope, data) = match mode {
        Mode::Plain => (Envelope::default(), None),
        Mode::Binary => {
            let header = |name: &str| attribute(record, name);
            let envelope = Envelope {
                kind: header("type"),
                id: header("id"),
                source: header("source"),
                subject: id(header("subject")),
                time: header("time"),
                shadow: header("shadow"),
                is_repaired: false,
            };
            (envelope, None)
        }
        Mode::Structured => {
            let text = |pointer: &str| members.at(pointer).and_then(scalar);
            let (data, is_repaired) = data(&members)?;
            let envelope = Envelope {
                kind: text("/type"),
                id: text("/id"),
                source: text("/source"),
                subject: id(text("/subject")),
                time: text("/time"),
                shadow: members.at("/shadow").map(str::to_owned),
                is_repaired,
            };
            (envelope, Some(data))
        }
    };
    envelope.is_repaired |= json.is_repaired;
    let (mut data, mut members) = match data {
        None => (Cow::Borrowed(&*json.text), Ok(members.places(&json.text))),
        // What is wrong with it is said when its members are asked for.
        Some(data) => {
            let members = Places::read(&data, tree);
            (data, members)
        }
    };
    let leads_into_text = members.as_ref().is_ok_and(Places::leads_into_text);
    if leads_into_text && let Some((text, is_repaired)) = members::unfolded(&data, tree) {
        envelope.is_repaired |= is_repaired;
        members = Places::read(&text, tree);
        data = Cow::Owned(text);
    }
    Ok(Enclosed { envelope, data, members })
}

/// The data of a structured CloudEvent, and whether it was repaired: JSON, JSON in a string, or JSON in base64.
fn data<'j>(members: &Members<'_, 'j>) -> Result<(Cow<'j, str>, bool), Reason> {
    let bad = |problem: String| reject("bad-envelope", format!("the data of the CloudEvent: {problem}"));
    match (members.at("/data"), members.at("/data_base64").and_then(scalar)) {
        (Some(data), _) if data.starts_with('"') => {
            let JsonText { text, is_repaired } = json_text::read(data.as_bytes()).map_err(bad)?;
            Ok((text, is_repaired))
        }
        (Some(data), _) => Ok((Cow::Borrowed(data), false)),
        (None, Some(encoded)) => {
            let not_base64 = |_| bad("data_base64 is not in base64".into());
            let bytes = STANDARD.decode(id_text::trim(&encoded)).map_err(not_base64)?;
            let JsonText { text, is_repaired } = json_text::read(&bytes).map_err(bad)?;
            Ok((Cow::Owned(text.into_owned()), is_repaired))
        }
        (None, None) => Ok((Cow::Borrowed("null"), false)),
    }
}

/// The CloudEvents attribute that a header carries, in lower case; `None` for any other header.
#[must_use]
pub fn attribute_of_header(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).map(str::to_owned)
}

/// The value of a CloudEvents attribute in the headers, in whatever case and quoting: some serializers write each header as JSON.
pub(super) fn attribute(record: &Record, attribute: &str) -> Option<String> {
    let carries = |name: &str, prefix: &str| {
        let (before, rest) = name.split_at_checked(prefix.len())?;
        (before.eq_ignore_ascii_case(prefix) && rest.eq_ignore_ascii_case(attribute)).then_some(())
    };
    let is_it = |name: &str| PREFIXES.iter().any(|prefix| carries(name, prefix).is_some());
    let (_, value) = record.headers.iter().rev().find(|(name, value)| value.is_some() && is_it(name))?;
    Some(id_text::unquote(&String::from_utf8_lossy(value.as_ref()?)))
}

/// The type in the JSON of a structured CloudEvent that [`open`] refuses.
pub(super) fn structured_type(record: &Record) -> Option<String> {
    let value = record.value.as_deref().filter(|value| value.len() <= MAX_VALUE_BYTES)?;
    let JsonText { text, .. } = json_text::read(value).ok()?;
    let tree = PointerTree::new(["/specversion", "/type"]);
    let members = Members::read(text.as_bytes(), &tree).ok()?;
    members.at("/specversion").and_then(|_| members.at("/type")).and_then(scalar)
}

/// True for the JSON of a CloudEvent with its attributes.
pub(super) fn is_structured(text: &str) -> bool {
    let tree = PointerTree::new(["/specversion"]);
    Members::read(text.as_bytes(), &tree).is_ok_and(|members| members.at("/specversion").is_some())
}

/// True for an event that Orderbell published, whose id is what a till chose.
pub(super) fn is_own(record: &Record) -> bool {
    record.header("content-type").is_some_and(|media| media == OWN_EVENT_MEDIA_TYPE)
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
    if let Some(version) = attribute(record, "specversion") {
        return check_specversion(&version).map(|()| Mode::Binary);
    }
    let media = media_type(record);
    if media.starts_with("application/cloudevents-batch") {
        return Err(reject("batch", "a record cannot be a batch of CloudEvents"));
    }
    let is_structured = media.starts_with("application/cloudevents") || specversion.is_some();
    if is_structured {
        check_specversion(&specversion.and_then(scalar).unwrap_or_default())?;
    }
    Ok(if is_structured { Mode::Structured } else { Mode::Plain })
}

/// The media type, in lower case.
fn media_type(record: &Record) -> String {
    let is_media = |(name, _): &&(String, Option<Bytes>)| name.eq_ignore_ascii_case("content-type");
    let media = record.headers.iter().rev().find(is_media).and_then(|(_, media)| media.as_deref()).unwrap_or_default();
    id_text::unquote(&String::from_utf8_lossy(media)).to_ascii_lowercase()
}

/// True for the media type of a CloudEvent with its attributes, not of a batch of them.
pub(super) fn is_structured_media(record: &Record) -> bool {
    let media = media_type(record);
    media.starts_with("application/cloudevents") && !media.starts_with("application/cloudevents-batch")
}

fn check_specversion(version: &str) -> Result<(), Reason> {
    if version.starts_with("1.") { Ok(()) } else { Err(reject("bad-envelope", "only CloudEvents 1.x is supported")) }
}

/// True for an event whose JSON was damaged when it was posted.
pub(super) fn was_repaired(record: &Record) -> bool {
    let media = record.header("content-type").map(|media| String::from_utf8_lossy(media));
    let media = media.as_deref().map(|media| media.split_once(TOPIC_PARAMETER).map_or(media, |(media, _)| media));
    media.is_some_and(|media| media.ends_with(REPAIRED_PARAMETER))
}

/// The topic that a dead letter was read from, as the headers of its topic name it.
pub(super) fn original_topic(record: &Record) -> Option<&str> {
    std::str::from_utf8(record.header(ORIGINAL_TOPIC)?).ok()
}

/// The same of one that the ledger stored, as its media type names it.
pub(super) fn media_topic(record: &Record) -> Option<&str> {
    let media = std::str::from_utf8(record.header("content-type")?).ok()?;
    media.split_once(TOPIC_PARAMETER).map(|(_, topic)| topic)
}
