//! Messages of MassTransit and Spring, each as a CloudEvent whose data is what the application sent.

use std::sync::LazyLock;

use orderbell_consumers::{Reason, Record};

use super::super::event_types::IGNORED;
use super::super::fields::{reject, scalar};
use super::super::header_members;
use super::super::mapping::Mapping;
use super::super::members::{Members, PointerTree};
use super::Event;

/// What the types of MassTransit begin with.
const URN: &str = "urn:message:";
/// Headers in which MassTransit's raw serializers write the types of a message, with `;` between them, and its id.
const MASSTRANSIT_TYPES: &str = "mt-messagetype";
pub(super) const MASSTRANSIT_ID: &str = "messageid";
/// Names are in lower case.
pub(super) const MASSTRANSIT_HEADERS: [&str; 2] = [MASSTRANSIT_TYPES, MASSTRANSIT_ID];
/// Header of a Spring message with its own id. It is that of the record, not of an event in an array.
pub(super) const SPRING_ID: &str = "id";
const SPRING_TIME: &str = "timestamp";
/// Number of headers that carry an event's type, the first that is there: those of applications, and that of Spring's JSON serializer, a class.
const TYPE_HEADERS: usize = 5;
pub(super) const SPRING_HEADERS: [&str; TYPE_HEADERS + 2] =
    ["eventtype", "event-type", "event_type", "type", "__typeid__", SPRING_ID, SPRING_TIME];

/// The message in an envelope of MassTransit, or the one that the record is where its attributes are in the headers.
pub(super) fn masstransit(mapping: &Mapping, record: &Record, text: &str) -> Result<String, Reason> {
    static TREE: LazyLock<PointerTree> =
        LazyLock::new(|| PointerTree::new(["/messageType", "/message", "/messageId", "/sentTime"]));
    let bad = || {
        let what = "it has no messageType and message, and no header MT-MessageType";
        reject("bad-envelope", format!("the record is no message of MassTransit: {what}"))
    };
    let members = Members::read(text.as_bytes(), &TREE).map_err(|_| bad())?;
    let (Some(types), Some(data)) = (members.at("/messageType"), members.at("/message")) else {
        return raw_masstransit(mapping, record, text).ok_or_else(bad);
    };
    let types: Vec<String> = serde_json::from_str(types).unwrap_or_else(|_| scalar(types).into_iter().collect());
    let text_at = |pointer: &str| members.at(pointer).and_then(scalar);
    let time = text_at("/sentTime").filter(|_| !super::has_time(mapping, data));
    let types = types.iter().map(|urn| without_urn(urn)).collect();
    Ok(Event { kind: known(mapping, types), id: text_at("/messageId"), time, data }.to_text())
}

/// What a raw serializer of MassTransit wrote. It writes no time.
fn raw_masstransit(mapping: &Mapping, record: &Record, data: &str) -> Option<String> {
    let types = header(mapping, record, MASSTRANSIT_TYPES)?;
    let types = types.split(';').map(without_urn).filter(|kind| !kind.is_empty()).collect();
    Some(Event { kind: known(mapping, types), id: header(mapping, record, MASSTRANSIT_ID), time: None, data }.to_text())
}

fn without_urn(kind: &str) -> String {
    let kind = kind.trim();
    kind.strip_prefix(URN).unwrap_or(kind).to_owned()
}

/// True for a record whose attributes of MassTransit are in its headers.
pub(super) fn is_raw_masstransit(record: &Record) -> bool {
    of_record(record, MASSTRANSIT_TYPES).is_some()
}

/// The payload of a Spring message, whose attributes are in its headers.
pub(super) fn spring(mapping: &Mapping, record: &Record, data: &str) -> String {
    let header = |name: &str| header(mapping, record, name);
    let types = SPRING_HEADERS[..TYPE_HEADERS].iter().find_map(|name| header(name)).map_or_else(Vec::new, |kind| {
        let class = kind.rsplit(['.', '$']).next().unwrap_or(&kind).to_owned();
        vec![kind, class]
    });
    let time = header(SPRING_TIME).filter(|_| !super::has_time(mapping, data));
    Event { kind: known(mapping, types), id: header(SPRING_ID), time, data }.to_text()
}

/// True where a header may be the type.
pub(super) fn has_type(record: &Record) -> bool {
    SPRING_HEADERS[..TYPE_HEADERS].iter().any(|name| of_record(record, name).is_some())
}

/// The name that the mapping knows, or else the first.
fn known(mapping: &Mapping, mut names: Vec<String>) -> Option<String> {
    let is_ours = |name: &String| mapping.kind(name).is_ok();
    let is_listed = |name: &String| mapping.kind(name).map_or_else(|reason| reason.code == IGNORED, |_| true);
    let at = names.iter().position(is_ours).or_else(|| names.iter().position(is_listed)).unwrap_or(0);
    (!names.is_empty()).then(|| names.swap_remove(at))
}

/// The text of a header that is not empty, whatever was stored with the record.
fn of_record(record: &Record, name: &str) -> Option<String> {
    header_members::header_of_record(record, name).filter(|text| !text.is_empty())
}

/// The text of a header that is not empty.
fn header(mapping: &Mapping, record: &Record, name: &str) -> Option<String> {
    header_members::header(mapping, record, name).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::record_type::LooksPaid;
    use super::*;
    use bytes::Bytes;
    use orderbell_consumers::TopicPartition;
    use orderbell_protocol::UnixMs;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn record(value: &str, headers: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Some(Bytes::from((*value).to_owned())));
        Record {
            partition: TopicPartition::new("orders", 0),
            offset: 7,
            timestamp_ms: NOW.0 - 1000,
            read_ms: 0,
            key: None,
            value: Some(Bytes::from(value.to_owned())),
            headers: headers.iter().map(header).collect(),
        }
    }

    /// Regression: of a message whose attributes MassTransit writes into headers, nothing was read: a dead letter for each.
    #[test]
    fn a_raw_message_of_masstransit_has_its_type_and_id_in_headers() {
        let mapping: Mapping = toml::from_str(
            "envelope = 'masstransit'\norder = '/no'\ntypes = { 'Shop:IPaid' = 'order.paid', 'Shop:Moved' = 'ignore' }",
        )
        .unwrap();
        let read = |value: &str, headers: &[(&str, &str)]| {
            let records = mapping.parts(&record(value, headers)).unwrap_or_else(|| vec![record(value, headers)]);
            let event = |record: &Record| match mapping.decode(record, NOW) {
                Ok(event) => format!("{} {} {}", event.kind.name(), event.order.as_str(), event.id),
                Err(reason) => reason.code.to_owned(),
            };
            records.iter().map(event).collect::<Vec<_>>()
        };
        let (one, id) = (r#"{"no":"o1"}"#, ("MessageId", "m1"));
        for types in
            ["urn:message:Shop:Paid;urn:message:Shop:IPaid", "urn:message:Shop:IPaid", "Shop:Paid; Shop:IPaid;"]
        {
            assert_eq!(read(one, &[("MT-MessageType", types), id]), ["order.paid o1 m1"], "{types}");
        }
        let quoted = [("mt-messagetype", "\"urn:message:Shop:IPaid\""), ("messageid", "\"m1\"")];
        assert_eq!(read(one, &quoted), ["order.paid o1 m1"]);
        assert_eq!(read(one, &[("MT-MessageType", "urn:message:Shop:Moved"), id]), ["ignored"]);
        assert_eq!(read(one, &[("MT-MessageType", "urn:message:Shop:Other"), id]), ["unknown-type"]);
        assert_eq!(read(one, &[id]), ["bad-envelope"], "nothing says what it is");
        assert_eq!(mapping.looks_paid(&record(one, &[id])), LooksPaid::Unreadable);
        let types = ("MT-MessageType", "urn:message:Shop:IPaid");
        let in_envelope = r#"{"messageType":["urn:message:Shop:IPaid"],"messageId":"m2","message":{"no":"o2"}}"#;
        assert_eq!(read(in_envelope, &[types, id]), ["order.paid o2 m2"], "an envelope says it itself");
        let two = read(r#"[{"no":"o1"},{"no":"o2"}]"#, &[types, id]);
        assert!(two[0].starts_with("order.paid o1 hash:") && two[1].starts_with("order.paid o2 hash:"), "{two:?}");
        let auto = Mapping::default().envelope_of(&record(one, &[types])).unwrap();
        assert!(auto.contains("\"masstransit\" takes type and id from its headers"), "{auto}");
    }
}
