//! Events posted by HTTP: decoded before they are stored, so that the producer learns of an error at once; and replayed dead letters.

use std::borrow::Cow;

use bytes::Bytes;
use orderbell_consumers::{Header, Reason, Record, TopicPartition};
use orderbell_protocol::{EventType, Problem, ProblemCode, UnixMs};
use serde_json::value::RawValue;

use super::http_body::{Form, malformed};
use orderbell_ledger::{NewEvent, StoredBytes, StoredDeadLetter};
use orderbell_orders::envelopes::{self, NO_EVENT};
use orderbell_orders::event_types::IGNORED;
use orderbell_orders::json_text::{self, JsonText};
use orderbell_orders::mapping::{Mapping, PLAIN, REPAIRED_PARAMETER, STRUCTURED};
use orderbell_orders::record_type::IgnoredEvent;
use orderbell_orders::sha256;

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

/// Parses the body of a request: one event, an array of them, one on each line, the data of a CloudEvent whose attributes are headers, or a form.
/// Of the `headers`, those that the mapping reads are stored with each event. If one event is invalid, none is accepted.
///
/// # Errors
/// 400, 415 or 422, with a pointer to each invalid event.
pub fn parse(
    mapping: &Mapping,
    media: &str,
    headers: &[(String, String)],
    body: &[u8],
    now: UnixMs,
) -> Result<Vec<PostedEvent>, Problem> {
    let form = Form::of(media, headers, mapping.envelope)?;
    let bodies = form.texts(headers, body)?;
    let media = if matches!(form, Form::Structured | Form::Binary) { STRUCTURED } else { PLAIN };
    let mut events: Vec<(&RawValue, bool)> = Vec::new();
    for JsonText { text, is_repaired } in &bodies {
        let json: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        match json.get().starts_with('[') && form != Form::Binary {
            true => {
                let items: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(|error| malformed(&error))?;
                events.extend(items.into_iter().map(|item| (item, *is_repaired)));
            }
            false => events.push((json, *is_repaired)),
        }
    }
    let is_batch = form == Form::Lines || events.len() != 1 || bodies.iter().any(|json| json.text.starts_with('['));
    let headers = mapping.headers_to_store(topic(mapping), headers, is_batch);
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(wrong_number());
    }
    let mut accepted = Vec::with_capacity(events.len());
    let mut problem = Problem::new(ProblemCode::InvalidEvent);
    for (at, (event, is_repaired)) in events.into_iter().enumerate() {
        let event = Posted { json: event, media, is_repaired, headers: &headers };
        match incoming(mapping, &event, now) {
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
    Problem::new(ProblemCode::InvalidField).detail(format!("1 to {MAX_EVENTS}"))
}

/// The hash by which an event is recognised when it comes again: by source, id and type. Load-test traffic is hashed apart: its copy of an event must not turn the
/// real one into a duplicate.
pub(crate) fn id_hash(shadow: bool, source: &str, id: &str, kind: EventType) -> u128 {
    sha256::hash_128(&[&[u8::from(shadow)], source.as_bytes(), id.as_bytes(), kind.name().as_bytes()])
}

/// One event of a request, or several in an envelope.
struct Posted<'b> {
    json: &'b RawValue,
    media: &'static str,
    /// The JSON of the request was damaged.
    is_repaired: bool,
    /// The headers that are stored with it.
    headers: &'b [(String, Bytes)],
}

/// The topic in which posted events are read.
fn topic(mapping: &Mapping) -> &str {
    mapping.own_topic().unwrap_or(orderbell_ledger::embedded_log::TOPIC)
}

/// The headers of the record of an event that is stored with these.
pub(super) fn record_headers(content_type: &str, headers: &[(String, Bytes)]) -> Vec<Header> {
    let media = ("content-type".to_owned(), Some(Bytes::copy_from_slice(content_type.as_bytes())));
    let more = headers.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    std::iter::once(media).chain(more).collect()
}

fn incoming(mapping: &Mapping, event: &Posted<'_>, now: UnixMs) -> Result<Vec<PostedEvent>, Reason> {
    // Written again with sorted members: requests that differ only in white space or member order are equal.
    let value = json_text::canonical(event.json.get()).ok_or_else(|| Reason {
        code: "not-json",
        message: format!("the event is nested more deeply than {} levels", json_text::MAX_DEPTH),
    })?;
    let content_type: Cow<'static, str> = match event.is_repaired {
        true => format!("{}{REPAIRED_PARAMETER}", event.media).into(),
        false => event.media.into(),
    };
    let record = Record {
        partition: TopicPartition::new(topic(mapping), 0),
        offset: 0,
        timestamp_ms: now.0,
        read_ms: 0,
        key: None,
        value: Some(Bytes::from(value)),
        headers: record_headers(&content_type, event.headers).into(),
    };
    let parts = mapping.parts(&record).unwrap_or_else(|| vec![record]);
    parts.into_iter().map(|part| one(mapping, part, content_type.clone(), now)).collect()
}

/// Decoded in advance, so that the producer gets the reason with the answer.
fn one(mapping: &Mapping, record: Record, content_type: Cow<'static, str>, now: UnixMs) -> Result<PostedEvent, Reason> {
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
    // Those of a part: of several events, none has the header that is the id of them all.
    let media = |(name, _): &&Header| name != "content-type";
    let headers = record.headers.iter().filter(media).filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    let headers: Vec<(String, Bytes)> = headers.collect();
    let of_headers = headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]);
    let body: Vec<&[u8]> = std::iter::once(&value[..]).chain(of_headers).collect();
    let incoming = NewEvent {
        key: Bytes::copy_from_slice(event.order.as_str().as_bytes()),
        id_hash: id_hash(event.shadow, &event.source, &event.id, event.kind),
        body_hash: sha256::hash_64(&body),
        value,
        content_type,
        headers,
    };
    Ok(PostedEvent::New(event.id, incoming))
}

/// A dead letter to append to the stream once more, as it was read at first. Every replay is appended; the event's own id decides whether it is
/// applied.
pub(crate) fn replay(mapping: &Mapping, number: u64, dead_letter: &StoredDeadLetter, now: UnixMs) -> NewEvent {
    let record = record_of(dead_letter);
    let (content_type, headers) = mapping.replayed(&record);
    NewEvent {
        key: record.key.unwrap_or_default(),
        id_hash: sha256::hash_128(&[b"replay", &number.to_be_bytes(), &now.0.to_be_bytes()]),
        body_hash: number,
        value: record.value.unwrap_or_default(),
        content_type,
        headers,
    }
}

/// The record that became this dead letter.
fn record_of(dead_letter: &StoredDeadLetter) -> Record {
    let bytes = |kept: &Option<StoredBytes>| kept.as_ref().map(StoredBytes::bytes);
    let headers: Vec<Header> = dead_letter.headers.iter().map(|(name, value)| (name.clone(), bytes(value))).collect();
    Record {
        partition: TopicPartition::new(&dead_letter.topic, dead_letter.partition),
        offset: dead_letter.offset,
        timestamp_ms: dead_letter.timestamp_ms,
        read_ms: 0,
        key: bytes(&dead_letter.key),
        value: bytes(&dead_letter.value),
        headers: headers.into(),
    }
}

#[cfg(test)]
mod tests {
    use orderbell_orders::mapping::OWN_EVENT_MEDIA_TYPE;
    use orderbell_protocol::event::Flag;

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

    /// The record that the embedded stream makes of a posted event.
    fn stored(event: NewEvent) -> Record {
        Record {
            partition: TopicPartition::new(orderbell_ledger::embedded_log::TOPIC, 0),
            offset: 0,
            timestamp_ms: NOW.0,
            read_ms: 0,
            key: None,
            value: Some(event.value),
            headers: record_headers(&event.content_type, &event.headers).into(),
        }
    }

    const HEADERS: &str = "type = '/__headers/X-Topic'\nid = '/__headers/X-Id'\nstore = '/__headers/X-Shop'\n\
                           types = { 'orders/paid' = 'order.paid' }";

    #[test]
    fn the_headers_that_the_mapping_names_are_stored_with_a_posted_event() {
        let mapping: Mapping = toml::from_str(HEADERS).unwrap();
        let sent = [("x-topic", "orders/paid"), ("x-id", "w1"), ("x-shop", "17"), ("x-other", "never stored")];
        let sent = sent.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut events = parse(&mapping, PLAIN, &sent, br#"{"order":"o1"}"#, NOW).unwrap();
        let Some(PostedEvent::New(id, event)) = events.pop() else { panic!("it is one") };
        assert_eq!(id, "w1");
        assert_eq!(event.value, r#"{"order":"o1"}"#, "the body stays as it was");
        let names: Vec<&str> = event.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["orderbell-header-x-id", "orderbell-header-x-shop", "orderbell-header-x-topic"]);
        let again =
            sent.clone().map(|(name, value)| if name == "x-shop" { (name, "18".into()) } else { (name, value) });
        let again = parse(&mapping, PLAIN, &again, br#"{"order":"o1"}"#, NOW).unwrap().pop();
        let Some(PostedEvent::New(_, other)) = again else { panic!("it is one") };
        assert!(other.id_hash == event.id_hash && other.body_hash != event.body_hash, "another event with this id");
        let event = mapping.decode(&stored(event), NOW).unwrap();
        assert_eq!((event.id.as_str(), event.store.unwrap().as_str()), ("w1", "17"));
        let several = parse(&mapping, PLAIN, &sent, br#"[{"order":"o1"},{"order":"o2"}]"#, NOW).unwrap();
        let [PostedEvent::New(one, _), PostedEvent::New(other, _)] = &several[..] else { panic!("{several:?}") };
        assert!(one.starts_with("hash:") && one != other, "the id is that of the request");
        let faked = parse(&mapping, PLAIN, &sent[1..], br#"{"order":"o1","__headers":{"x-topic":"orders/paid"}}"#, NOW);
        assert_eq!(faked.unwrap_err().status, 422, "a body does not say what was sent in headers");
    }

    /// Regression: a text in an array held the JSON of an event, and what it said of headers counted: type, id and store, without a header.
    #[test]
    fn a_text_in_a_posted_array_does_not_say_what_was_sent_in_headers() {
        let mapping = toml::from_str::<Mapping>(HEADERS).unwrap().with_own_topic("orderbell.events");
        let faked = r#"{"order":"o1","__headers":{"x-topic":"orders/paid","x-id":"w9","x-shop":"18"}}"#;
        let text = serde_json::to_string(faked).unwrap();
        let topic = [("x-topic".to_owned(), "orders/paid".to_owned())];
        for body in [faked.to_owned(), text.clone(), format!("[{faked}]"), format!("[{text}]"), format!("[[{text}]]")] {
            let post = |headers: &[(String, String)]| parse(&mapping, PLAIN, headers, body.as_bytes(), NOW);
            assert_eq!(post(&[]).unwrap_err().status, 422, "{body}");
            let Some(PostedEvent::New(id, event)) = post(&topic).map_or(None, |mut events| events.pop()) else {
                assert!(body.starts_with("[["), "{body}");
                continue;
            };
            let event = mapping.decode(&stored(event), NOW).unwrap();
            assert!(id.starts_with("hash:") && event.id == id && event.store.is_none(), "{event:?}");
        }
    }

    /// Regression: the rows of one posted message shared the id of its request, so all but the first were duplicates.
    #[test]
    fn the_rows_of_a_posted_message_do_not_share_the_id_of_its_request() {
        let keys =
            "id = '/__headers/X-Id'\ntype = '/data/0/status'\norder = '/data/0/no'\ntypes = { '2' = 'order.paid' }";
        let in_text = |json: &str| serde_json::to_string(json).unwrap();
        let rows = r#"{"isDdl":false,"data":[{"no":"o1","status":2},{"no":"o2","status":2}]}"#;
        let sent = [("x-id".to_owned(), "w1".to_owned())];
        let post = |body: &str| {
            let mapping = toml::from_str::<Mapping>(keys).unwrap().with_own_topic("orderbell.events");
            let events = parse(&mapping, PLAIN, &sent, body.as_bytes(), NOW).unwrap();
            let events = events.into_iter().map(|event| match event {
                PostedEvent::New(id, event) => (id, mapping.decode(&stored(event), NOW).unwrap().id),
                PostedEvent::Ignored(event) => panic!("{event:?}"),
            });
            events.collect::<Vec<_>>()
        };
        for body in [rows.to_owned(), in_text(rows), format!("[{rows}]"), format!("[{}]", in_text(rows))] {
            let [(first, one), (second, two)] = &post(&body)[..] else { panic!("{body}") };
            assert!(first != second && first == one && second == two, "{body}: {first} {second}");
            assert_eq!(post(&body), post(&body), "sent again, it is the same");
        }
        let one_row = r#"{"isDdl":false,"data":[{"no":"o1","status":2}]}"#;
        assert_eq!(post(one_row)[0].0, "w1", "of one event");
    }

    #[test]
    fn a_form_is_an_event_where_the_mapping_says_so() {
        let mapping: Mapping =
            toml::from_str("envelope = 'form'\ntype = '/event'\norder = '/detail/order'\ntypes = { 2 = 'order.paid' }")
                .unwrap();
        let form = "event=2&detail=%7B%22order%22%3A%22o1%22%7D&caution=%E5%B0%91%E8%BE%A3&store=17";
        let post = |mapping: &Mapping| parse(mapping, "application/x-www-form-urlencoded", &[], form.as_bytes(), NOW);
        let Some(PostedEvent::New(_, event)) = post(&mapping).unwrap().pop() else { panic!("it is one") };
        assert_eq!(&event.key[..], b"o1");
        let event = mapping.decode(&stored(event), NOW).unwrap();
        assert_eq!((event.order.as_str(), event.store.unwrap().as_str()), ("o1", "17"));
        assert_eq!(post(&Mapping::default()).unwrap_err().status, 415);
    }

    /// Regression: posted events are stored repaired, so the notice of a damaged one had no flag.
    #[test]
    fn a_posted_event_that_was_damaged_has_the_flag_that_it_has_on_kafka() {
        let is_flagged = |media: &str, headers: &[(&str, &str)], body: &[u8]| {
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let events = parse(&Mapping::default(), media, &headers, body, NOW).unwrap();
            let flags = |event: PostedEvent| match event {
                PostedEvent::New(_, event) => Mapping::default().decode(&stored(event), NOW).unwrap().flags,
                PostedEvent::Ignored(event) => panic!("{event:?}"),
            };
            events.into_iter().map(|event| flags(event).contains(&Flag::Text)).collect::<Vec<_>>()
        };
        let whole = br#"{"type":"order.paid","order":"o1","rate":1}"#;
        let damaged = br#"{"type":"order.paid","order":"o2","rate":NaN}"#;
        assert_eq!((is_flagged(PLAIN, &[], whole), is_flagged(PLAIN, &[], damaged)), (vec![false], vec![true]));
        let lines = [&whole[..], damaged].join(&b'\n');
        assert_eq!(is_flagged("application/x-ndjson", &[], &lines), [false, true]);
        let binary = [("ce-specversion", "1.0"), ("ce-type", "order.paid"), ("ce-id", "e1"), ("ce-source", "/s")];
        assert_eq!(is_flagged(PLAIN, &binary, damaged), [true]);
        let event = posted(&Mapping::default(), std::str::from_utf8(damaged).unwrap());
        let own = Mapping::default().with_own_topic("orderbell.events");
        let elsewhere = Record { partition: TopicPartition::new("orders", 0), ..stored(event) };
        assert!(!own.decode(&elsewhere, NOW).unwrap().flags.contains(&Flag::Text), "a producer's own words");
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

    /// A dead letter of order `o1`, without a key.
    fn dead_letter(reason: &str, headers: &[(&str, &str)]) -> StoredDeadLetter {
        let text = |text: &str| Some(StoredBytes::Text(text.to_owned()));
        StoredDeadLetter {
            at: NOW,
            topic: "orders".into(),
            partition: 0,
            offset: 7,
            timestamp_ms: NOW.0,
            reason: reason.into(),
            message: String::new(),
            attempts: 1,
            key: None,
            value: text(r#"{"order":"o1"}"#),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect(),
        }
    }

    /// Regression: the stream keeps no header, so a replayed dead letter of Spring had lost its type.
    #[test]
    fn a_replayed_dead_letter_keeps_the_headers_that_the_mapping_reads() {
        let mapping: Mapping =
            toml::from_str("[topics.orders]\nenvelope = 'spring'\ntypes = { OrderPaid = 'order.paid' }").unwrap();
        let headers = [("__TypeId__", "com.shop.OrderPaid"), ("id", "m1"), ("trace", "t1")];
        let dead_letter = dead_letter("no-order", &headers);
        let replayed = replay(&mapping, 1, &dead_letter, NOW);
        assert!(replayed.headers.iter().all(|(name, _)| !name.contains("trace")), "no other");
        let event = mapping.decode(&stored(replayed), NOW).unwrap();
        assert_eq!((event.kind, event.id.as_str()), (EventType::Paid, "m1"));
    }

    /// The dead letter that a record becomes.
    fn dead_letter_of(record: &Record) -> StoredDeadLetter {
        let stored = |bytes: &Bytes| StoredBytes::Text(String::from_utf8_lossy(bytes).into_owned());
        let headers = record.headers.iter().map(|(name, value)| (name.clone(), value.as_ref().map(stored)));
        StoredDeadLetter {
            topic: record.partition.topic.to_string(),
            key: record.key.as_ref().map(stored),
            value: record.value.as_ref().map(stored),
            headers: headers.collect(),
            ..dead_letter("retries-exhausted", &[])
        }
    }

    /// Regression: a form had lost its headers when it was replayed, an event without an id had another one, and a second replay forgot the topic.
    #[test]
    fn a_replayed_dead_letter_is_the_event_that_it_was_at_first() {
        let keys = "type = '/__headers/X-Topic'\nid = '/__headers/X-Id'\nstore = '/__headers/Content-Type'\ntypes = { paid = 'order.paid' }";
        let mapping = format!("type = '/none'\n[topics.orders]\n{keys}\n[topics.forms]\nenvelope = 'form'\n{keys}");
        let mapping = toml::from_str::<Mapping>(&mapping).unwrap().with_own_topic("orderbell.events");
        let kafka = |topic: &str, value: &str, headers: &[(&str, &str)]| {
            let dead_letter = StoredDeadLetter { topic: topic.into(), ..dead_letter("x", headers) };
            Record { value: Some(Bytes::from(value.to_owned())), ..record_of(&dead_letter) }
        };
        let (topic, id) = (("X-Topic", "\"paid\""), ("x-id", "w1"));
        let binary = [("ce_specversion", "1.0"), ("ce_type", "paid"), ("ce_source", "/s")];
        let structured = r#"{"specversion":"1.0","type":"paid","id":"e1","source":"/s","data":{"order":"o1"}}"#;
        let damaged = r#"{"order":"o1","rate":NaN,"note":"a"}"#;
        for first in [
            kafka("forms", "order=o1&amount=500", &[topic, id, ("content-type", "a-17")]),
            kafka("forms", "order=o1&amount=500", &[topic]),
            kafka("orders", r#" {"order" : "o1"}"#, &[topic]),
            kafka("orders", r#"{"order":"o1","__headers":{"x-id":"w9"}}"#, &[topic]),
            kafka("orders", damaged, &[topic, id]),
            kafka("orders", r#" {"order" : "o1"}"#, &binary),
            kafka("orders", structured, &[("content-type", "application/cloudevents+json; charset=utf-8")]),
            kafka("orders", r#"{"order":"o1"}"#, &[topic, ("content-type", "application/json; repaired=true")]),
            kafka(
                "orders",
                structured,
                &[topic, ("content-type", OWN_EVENT_MEDIA_TYPE), ("orderbell-header-x-id", "w9")],
            ),
        ] {
            let said = |record: &Record| {
                let mut event = mapping.decode(record, NOW).unwrap();
                // The time of the record, which is that of its replay.
                event.at = NOW;
                format!("{event:?}")
            };
            let once = stored(replay(&mapping, 1, &dead_letter_of(&first), NOW));
            assert_eq!(said(&once), said(&first));
            let twice = stored(replay(&mapping, 2, &dead_letter_of(&once), NOW));
            assert_eq!(said(&twice), said(&first), "a second time");
        }
    }

    /// Regression: a record in a topic of orders that was marked as Orderbell's own was not; its replayed dead letter was.
    #[test]
    fn no_replayed_dead_letter_passes_for_orderbells_own() {
        let mapping = toml::from_str::<Mapping>("store = '/shop'").unwrap().with_own_topic("orderbell.events");
        let own = r#"{"specversion":"1.0","type":"order.paid","source":"s","id":"e","data":{"order":"o1","shop":"18","store":"17"}}"#;
        let dead_letter = StoredDeadLetter {
            value: Some(StoredBytes::Text(own.into())),
            ..dead_letter("x", &[("content-type", OWN_EVENT_MEDIA_TYPE)])
        };
        let replayed = stored(replay(&mapping, 1, &dead_letter, NOW));
        assert_eq!(mapping.decode(&replayed, NOW).unwrap().store.unwrap().as_str(), "18");
        // From its topic, it is sent with the headers that it had.
        let origin = ("kafka_dlt-original-topic".to_owned(), Some(Bytes::from_static(b"orders")));
        let sent = record_of(&dead_letter).headers.iter().cloned().chain([origin]).collect::<Vec<_>>();
        let partition = TopicPartition::new("orderbell.events", 0);
        let sent = Record { partition, headers: sent.into(), ..record_of(&dead_letter) };
        assert_eq!(mapping.decode(&sent, NOW).unwrap().store.unwrap().as_str(), "18");
        let ours = StoredDeadLetter { topic: "orderbell.events".into(), ..dead_letter };
        let replayed = stored(replay(&mapping, 1, &ours, NOW));
        assert_eq!(mapping.decode(&replayed, NOW).unwrap().store.unwrap().as_str(), "17");
    }

    /// Regression: a mark that was not `true` became real traffic when its dead letter was replayed.
    #[test]
    fn a_replayed_dead_letter_keeps_its_mark_of_load_test_traffic() {
        let shadow = |mark: &str| {
            let headers = [("ce_specversion", "1.0"), ("ce_type", "order.paid"), ("ce_id", "e1"), ("ce_shadow", mark)];
            let dead_letter = dead_letter("bad-shadow", &headers);
            let event = replay(&Mapping::default(), 1, &dead_letter, NOW);
            let record = stored(event);
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
