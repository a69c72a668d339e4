//! Events posted by HTTP: decoded before they are stored, so that the producer learns of an error at once; and replayed dead letters.

use bytes::Bytes;
use orderbell_consumers::{Reason, Record, TopicPartition};
use orderbell_protocol::{EventType, Problem, UnixMs, id_text};
use serde_json::Value;
use serde_json::value::RawValue;

use super::http_body::{Form, PLAIN, STRUCTURED, malformed, structured};
use orderbell_ledger::{NewEvent, StoredBytes, StoredDeadLetter};
use orderbell_orders::envelopes::{self, NO_EVENT};
use orderbell_orders::event_types::IGNORED;
use orderbell_orders::mapping::OWN_EVENT_MEDIA_TYPE;
use orderbell_orders::mapping::{Mapping, TOPIC_PARAMETER, attribute_of_header};
use orderbell_orders::record_type::IgnoredEvent;
use orderbell_orders::{json_text, sha256};

/// Largest number of events in one request.
pub const MAX_EVENTS: usize = 1_000;

/// One event of a request.
#[derive(Debug)]
pub enum PostedEvent {
    /// To be appended, with its id.
    New(String, NewEvent),
    /// The configuration ignores it.
    Ignored(IgnoredEvent),
}

/// Parses the body of a request: one event, an array of them, one on each line, or the data of a CloudEvent whose `attributes` are headers. If
/// one is invalid, none is accepted.
///
/// # Errors
/// 400, 415 or 422, with a pointer to each invalid event.
pub fn parse(
    mapping: &Mapping,
    media: &str,
    attributes: &[(String, String)],
    body: &[u8],
    now: UnixMs,
) -> Result<Vec<PostedEvent>, Problem> {
    let form = Form::of(media, attributes)?;
    let bodies = form.texts(attributes, body)?;
    let content_type = if matches!(form, Form::Structured | Form::Binary) { STRUCTURED } else { PLAIN };
    let mut events: Vec<&RawValue> = Vec::new();
    for text in &bodies {
        let json: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        match json.get().starts_with('[') && form != Form::Binary {
            true => {
                events.extend(serde_json::from_str::<Vec<&RawValue>>(json.get()).map_err(|error| malformed(&error))?)
            }
            false => events.push(json),
        }
    }
    let is_batch = form == Form::Lines || events.len() != 1 || bodies.iter().any(|text| text.starts_with('['));
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(wrong_number());
    }
    let mut accepted = Vec::with_capacity(events.len());
    let mut problem = Problem::new(422, "invalid-event", "Events are invalid");
    for (at, event) in events.into_iter().enumerate() {
        match incoming(mapping, event, content_type, now) {
            // A message of several rows is as many events.
            Ok(incoming) if accepted.len() + incoming.len() > MAX_EVENTS => return Err(wrong_number()),
            Ok(incoming) => accepted.extend(incoming),
            Err(reason) => {
                let pointer = if is_batch { format!("/{at}") } else { String::new() };
                problem = problem.error(pointer, format!("{}: {}", reason.code, reason.message));
            }
        }
    }
    if problem.errors.is_empty() { Ok(accepted) } else { Err(problem) }
}

fn wrong_number() -> Problem {
    Problem::new(422, "invalid-field", "Wrong number of events").detail(format!("1 to {MAX_EVENTS}"))
}

/// The hash by which an event is recognised when it comes again: by source, id and type. Load-test traffic is hashed apart: its copy of an event must not turn the
/// real one into a duplicate.
pub(crate) fn id_hash(shadow: bool, source: &str, id: &str, kind: EventType) -> u128 {
    sha256::hash_128(&[&[u8::from(shadow)], source.as_bytes(), id.as_bytes(), kind.name().as_bytes()])
}

fn incoming(
    mapping: &Mapping,
    event: &RawValue,
    content_type: &'static str,
    now: UnixMs,
) -> Result<Vec<PostedEvent>, Reason> {
    // Written again with sorted members: requests that differ only in white space or member order are equal.
    let value = json_text::canonical(event.get()).ok_or_else(|| Reason {
        code: "not-json",
        message: format!("the event is nested more deeply than {} levels", json_text::MAX_DEPTH),
    })?;
    let record = Record {
        partition: TopicPartition::new(orderbell_ledger::embedded_log::TOPIC, 0),
        offset: 0,
        timestamp_ms: now.0,
        read_ms: 0,
        key: None,
        value: Some(Bytes::from(value)),
        headers: vec![("content-type".into(), Some(Bytes::from_static(content_type.as_bytes())))],
    };
    let parts = mapping.parts(&record).unwrap_or_else(|| vec![record]);
    parts.into_iter().map(|part| one(mapping, part, content_type, now)).collect()
}

/// A record of one event.
fn one(mapping: &Mapping, record: Record, content_type: &'static str, now: UnixMs) -> Result<PostedEvent, Reason> {
    let event = match mapping.decode(&record, now) {
        Ok(event) => event,
        Err(reason) if reason.code == IGNORED => {
            return mapping.ignored(&record).map(PostedEvent::Ignored).ok_or(reason);
        }
        Err(reason) if envelopes::is_no_event(&reason) => {
            return Ok(PostedEvent::Ignored(IgnoredEvent { kind: NO_EVENT.into(), id: String::new() }));
        }
        Err(reason) => return Err(reason),
    };
    let value = record.value.unwrap_or_default();
    let incoming = NewEvent {
        key: Bytes::copy_from_slice(event.order.as_str().as_bytes()),
        id_hash: id_hash(event.shadow, &event.source, &event.id, event.kind),
        body_hash: sha256::hash_64(&[&value]),
        value,
        content_type: content_type.into(),
    };
    Ok(PostedEvent::New(event.id, incoming))
}

/// A dead letter to append to the stream once more. Every replay is appended; the event's own id decides whether it is applied.
pub(crate) fn replay(number: u64, letter: &StoredDeadLetter, now: UnixMs) -> NewEvent {
    let bytes = |kept: &Option<StoredBytes>| kept.as_ref().map(StoredBytes::bytes).unwrap_or_default();
    let header = |name: &str| letter.headers.iter().find(|(known, _)| known == name).map(|(_, value)| bytes(value));
    let known = [PLAIN, STRUCTURED, OWN_EVENT_MEDIA_TYPE];
    let media = header("content-type").map(|media| String::from_utf8_lossy(&media).into_owned());
    let media = media.as_deref().map(|media| media.split_once(TOPIC_PARAMETER).map_or(media, |(media, _)| media));
    let mut content_type = known.into_iter().find(|known| media == Some(*known));
    let mut value = bytes(&letter.value);
    // The stream stores no header but the media type: an event in binary mode becomes structured.
    let attributes = letter.headers.iter().filter_map(|(name, value)| Some((attribute_of_header(name)?, value)));
    let text = |value: &Option<StoredBytes>| id_text::unquote(&String::from_utf8_lossy(&bytes(value)));
    let envelope: serde_json::Map<String, Value> =
        attributes.map(|(name, value)| (name, Value::String(text(value)))).collect();
    if envelope.contains_key("specversion")
        && let Some(structured) = structured(envelope, &value)
    {
        (value, content_type) = (Bytes::from(structured), Some(STRUCTURED));
    }
    NewEvent {
        key: bytes(&letter.key),
        id_hash: sha256::hash_128(&[b"replay", &number.to_be_bytes(), &now.0.to_be_bytes()]),
        body_hash: number,
        value,
        // The media type carries the topic, which may have a mapping of its own.
        content_type: match content_type.unwrap_or(PLAIN) {
            OWN_EVENT_MEDIA_TYPE => OWN_EVENT_MEDIA_TYPE.into(),
            media => format!("{media}{TOPIC_PARAMETER}{}", letter.topic).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn posted(mapping: &Mapping, body: &str) -> NewEvent {
        match parse(mapping, PLAIN, &[], body.as_bytes(), NOW).unwrap().remove(0) {
            PostedEvent::New(_, event) => event,
            PostedEvent::Ignored(event) => panic!("{event:?}"),
        }
    }

    #[test]
    fn an_ignored_event_is_no_mistake_of_its_producer() {
        let mapping: Mapping = toml::from_str("types = { 'courier.moved' = 'ignore' }").unwrap();
        let body = r#"[{"type":"courier.moved","id":7},{"type":"order.paid","id":8,"order":"o1"}]"#;
        let events = parse(&mapping, PLAIN, &[], body.as_bytes(), NOW).unwrap();
        let [PostedEvent::Ignored(ignored), PostedEvent::New(id, _)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((ignored.kind.as_str(), ignored.id.as_str(), id.as_str()), ("courier.moved", "7", "8"));
        let problem = parse(&mapping, PLAIN, &[], br#"[{"type":"courier.moved"},{"type":"x"}]"#, NOW).unwrap_err();
        assert_eq!((problem.errors.len(), problem.errors[0].pointer.as_str()), (1, "/1"));
    }

    fn results(media: &str, attributes: &[(&str, &str)], body: &str) -> Result<Vec<String>, (u16, Vec<String>)> {
        let attributes: Vec<_> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let key = |event: PostedEvent| match event {
            PostedEvent::New(id, event) => format!("{id} {}", String::from_utf8_lossy(&event.key)),
            PostedEvent::Ignored(event) => event.kind,
        };
        let posted = parse(&Mapping::default(), media, &attributes, body.as_bytes(), NOW);
        let posted = posted.map(|events| events.into_iter().map(key).collect());
        posted.map_err(|problem| (problem.status, problem.errors.into_iter().map(|error| error.pointer).collect()))
    }

    /// Case 15.
    #[test]
    fn a_cloudevent_in_binary_mode_has_its_attributes_in_headers() {
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-type", "order.paid"),
            ("ce-id", "e%2015"),
            ("ce-source", "/shop"),
            ("ce-subject", "o15"),
        ];
        let paid = |body: &str| results("Application/JSON", &binary, body);
        assert_eq!(paid(r#"{"store":"17","amount":500}"#), Ok(vec!["e 15 o15".into()]));
        assert_eq!(paid(""), Ok(vec!["e 15 o15".into()]), "without a body");
        assert_eq!(paid(r#"[{"order":"o1"},{"order":"o2"}]"#), Err((422, vec![String::new()])), "one event, not two");
        assert_eq!(paid("store=17"), Err((400, vec![])));
        assert_eq!(results(STRUCTURED, &binary, r#"{"type":"order.paid","order":"o1"}"#).unwrap_err().0, 422);
    }

    /// Case 54.
    #[test]
    fn each_line_of_a_body_of_lines_is_an_event() {
        let lines = |body: &str| results("application/x-ndjson", &[], body);
        let paid = |n: u32| format!(r#"{{"type":"order.paid","id":"e{n}","order":"o{n}"}}"#);
        let both = Ok(vec!["e1 o1".to_owned(), "e2 o2".to_owned()]);
        assert_eq!(lines(&format!("{}\r\n\n{}\n", paid(1), paid(2))), both);
        assert_eq!(lines(&format!("[{},{}]", paid(1), paid(2))), both);
        assert_eq!(lines(&format!("{}\n{{}}", paid(1))), Err((422, vec!["/1".into()])));
        assert_eq!(lines(&format!("{}\n{{", paid(1))), Err((400, vec![])));
        assert_eq!(lines("\n"), Err((422, vec![])));
        assert_eq!(lines(&vec![paid(1); MAX_EVENTS + 1].join("\n")), Err((422, vec![])));
    }

    #[test]
    fn the_rows_of_a_posted_message_are_stored_one_by_one() {
        let mapping: Mapping =
            toml::from_str("type = '/data/0/status'\norder = '/data/0/no'\ntypes = { '2' = 'order.paid' }").unwrap();
        let rows = r#"{"isDdl":false,"id":7,"data":[{"no":"o1","status":2},{"no":"o2","status":2}]}"#;
        let body = format!(r#"[{rows},{{"isDdl":true,"data":null}}]"#);
        let events = parse(&mapping, PLAIN, &[], body.as_bytes(), NOW).unwrap();
        let [PostedEvent::New(first, one), PostedEvent::New(second, two), PostedEvent::Ignored(ddl)] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((first.as_str(), second.as_str(), ddl.kind.as_str()), ("7:0", "7:1", "no-event"));
        assert_eq!((&one.key[..], &two.key[..]), (&b"o1"[..], &b"o2"[..]));
        assert_ne!(one.id_hash, two.id_hash);
    }

    #[test]
    fn a_damaged_body_is_read_and_stored_as_json() {
        let body =
            "\u{feff}{\"type\":\"order.paid\",\"order\":\"o1\",\"note\":\"x \\ud83d\ty\",\"rate\":NaN,\"price\":12.50}";
        let event = posted(&Mapping::default(), body);
        let stored =
            "{\"note\":\"x \u{fffd}\\ty\",\"order\":\"o1\",\"price\":12.50,\"rate\":null,\"type\":\"order.paid\"}";
        assert_eq!(event.value, stored);
    }

    /// Regression: a mark that was not `true` became real traffic when its dead letter was replayed.
    #[test]
    fn a_replayed_dead_letter_keeps_its_mark_of_load_test_traffic() {
        let shadow = |mark: &str| {
            let headers = [("ce_specversion", "1.0"), ("ce_type", "order.paid"), ("ce_id", "e1"), ("ce_shadow", mark)];
            let text = |text: &str| Some(StoredBytes::Text(text.to_owned()));
            let letter = StoredDeadLetter {
                at: NOW,
                topic: "orders".into(),
                partition: 0,
                offset: 7,
                timestamp_ms: NOW.0,
                reason: "bad-shadow".into(),
                message: String::new(),
                attempts: 1,
                key: None,
                value: text(r#"{"order":"o1"}"#),
                headers: headers.map(|(name, value)| (name.to_owned(), text(value))).to_vec(),
            };
            let event = replay(1, &letter, NOW);
            let record = Record {
                partition: TopicPartition::new(orderbell_ledger::embedded_log::TOPIC, 0),
                offset: 0,
                timestamp_ms: NOW.0,
                read_ms: 0,
                key: None,
                value: Some(event.value),
                headers: vec![("content-type".into(), Some(Bytes::copy_from_slice(event.content_type.as_bytes())))],
            };
            Mapping::default().decode(&record, NOW).map(|event| event.shadow).map_err(|reason| reason.code)
        };
        assert_eq!([shadow("1"), shadow("TRUE"), shadow("true")], [Ok(true); 3]);
        assert_eq!((shadow("0"), shadow("perhaps")), (Ok(false), Err("bad-shadow")));
    }

    #[test]
    fn posted_events_that_share_their_id_and_differ_in_type_have_distinct_hashes() {
        let post = |kind: &str, source: &str| {
            let body = format!(r#"{{"type":"{kind}","id":900123,"order":"900123","store":"17","source":"{source}"}}"#);
            posted(&Mapping::default(), &body).id_hash
        };
        let paid = post("order.paid", "shop");
        assert_eq!(paid, post("order.paid", "shop"), "the same event again");
        assert_ne!(paid, post("order.created", "shop"), "another type");
        assert_ne!(paid, post("order.paid", "app"), "another source");
    }
}
