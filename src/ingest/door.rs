//! What comes in by HTTP: the same events as over Kafka, checked at the door so that the producer hears at once what is wrong.

use bytes::Bytes;
use orderbell_consumers::{Part, Record};
use orderbell_protocol::{Problem, UnixMs};
use serde_json::Value;

use super::mapping::{Mapping, TOPIC_PARAMETER};
use crate::ledger::{Incoming, Kept, KeptLetter};

/// Events in one request.
pub const BATCH_MAX: usize = 1_000;

const PLAIN: &str = "application/json";
const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// Reads a request: one event, or an array of them. All are good, or none is taken.
///
/// # Errors
/// 400, 415 or 422, with a pointer to each event that is wrong.
pub fn open(mapping: &Mapping, media: &str, body: &[u8], now: UnixMs) -> Result<Vec<(String, Incoming)>, Problem> {
    let media = media.split(';').next().unwrap_or_default().trim();
    let content_type = match media {
        PLAIN | "" => PLAIN,
        STRUCTURED | BATCH => STRUCTURED,
        _ => {
            return Err(Problem::new(415, "unsupported-media-type", "Events come as JSON")
                .detail(format!("{PLAIN}, {STRUCTURED} or {BATCH}")));
        }
    };
    let json: Value = serde_json::from_slice(body).map_err(|error| {
        Problem::new(400, "malformed-json", "The body is not JSON").detail(format!(
            "line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    let (events, many) = match json {
        Value::Array(events) => (events, true),
        one => (vec![one], false),
    };
    if events.is_empty() || events.len() > BATCH_MAX {
        return Err(Problem::new(422, "invalid-field", "Wrong number of events").detail(format!("1 to {BATCH_MAX}")));
    }
    let mut taken = Vec::with_capacity(events.len());
    let mut problem = Problem::new(422, "invalid-event", "Events cannot be understood");
    for (at, event) in events.into_iter().enumerate() {
        match incoming(mapping, event, content_type, now) {
            Ok(incoming) => taken.push(incoming),
            Err(reason) => {
                let pointer = if many { format!("/{at}") } else { String::new() };
                problem = problem.error(pointer, format!("{}: {}", reason.code, reason.message));
            }
        }
    }
    if problem.errors.is_empty() { Ok(taken) } else { Err(problem) }
}

/// What an event's id is remembered by. Load-test traffic has ids of its own: its copy of an event must not make the real one a duplicate.
pub(crate) fn id_hash(shadow: bool, source: &str, id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(format!("{}\0{source}\0{id}", u8::from(shadow)).as_bytes())
}

fn incoming(
    mapping: &Mapping,
    event: Value,
    content_type: &'static str,
    now: UnixMs,
) -> Result<(String, Incoming), orderbell_consumers::Reason> {
    // Written anew, members sorted: two requests that say the same are the same, whatever their white space.
    let value = Bytes::from(event.to_string());
    let record = Record {
        part: Part::new(crate::ledger::stream::TOPIC, 0),
        offset: 0,
        timestamp_ms: now.0,
        read_ms: 0,
        key: None,
        value: Some(value.clone()),
        headers: vec![("content-type".into(), Some(Bytes::from_static(content_type.as_bytes())))],
    };
    let event = mapping.decode(&record, now)?;
    let incoming = Incoming {
        key: Bytes::copy_from_slice(event.order.as_str().as_bytes()),
        id_hash: id_hash(event.shadow, &event.source, &event.id),
        body_hash: xxhash_rust::xxh3::xxh3_64(&value),
        value,
        content_type: content_type.into(),
    };
    Ok((event.id, incoming))
}

/// A dead letter once more, as it was. Its own event id decides whether it is known; this appending is always new.
pub(crate) fn again(number: u64, letter: &KeptLetter, now: UnixMs) -> Incoming {
    let bytes = |kept: &Option<Kept>| kept.as_ref().map(Kept::bytes).unwrap_or_default();
    let header = |name: &str| letter.headers.iter().find(|(known, _)| known == name).map(|(_, value)| bytes(value));
    let known = [PLAIN, STRUCTURED, super::outgoing::OWN];
    let media = header("content-type").map(|media| String::from_utf8_lossy(&media).into_owned());
    let media = media.as_deref().map(|media| media.split_once(TOPIC_PARAMETER).map_or(media, |(media, _)| media));
    let mut content_type = known.into_iter().find(|known| media == Some(*known));
    let mut value = bytes(&letter.value);
    // The stream keeps no headers but the media type: binary mode becomes structured.
    if header("ce_specversion").is_some()
        && let Ok(data) = serde_json::from_slice::<Value>(&value)
    {
        let attributes = letter.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("ce_")?, value)));
        let text = |value: &Option<Kept>| Value::String(String::from_utf8_lossy(&bytes(value)).into_owned());
        let mut envelope: serde_json::Map<String, Value> =
            attributes.map(|(name, value)| (name.to_owned(), text(value))).collect();
        if let Some(shadow) = envelope.get_mut("shadow") {
            *shadow = Value::Bool(*shadow == "true");
        }
        envelope.insert("data".into(), data);
        (value, content_type) = (Bytes::from(Value::Object(envelope).to_string()), Some(STRUCTURED));
    }
    let appended = format!("replay\0{number}\0{}", now.0);
    Incoming {
        key: bytes(&letter.key),
        id_hash: xxhash_rust::xxh3::xxh3_128(appended.as_bytes()),
        body_hash: number,
        value,
        // Its topic may call things its own way.
        content_type: match content_type.unwrap_or(PLAIN) {
            super::outgoing::OWN => super::outgoing::OWN.into(),
            media => format!("{media}{TOPIC_PARAMETER}{}", letter.topic).into(),
        },
    }
}
