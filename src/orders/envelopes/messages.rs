//! Messages of MassTransit and Spring, each as a CloudEvent whose data is what the application sent.

use std::sync::LazyLock;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::id_text;

use super::super::event_types::IGNORED;
use super::super::fields::{reject, scalar};
use super::super::mapping::Mapping;
use super::super::members::{Members, PointerTree};
use super::Event;

/// What the types of MassTransit begin with.
const URN: &str = "urn:message:";
/// Headers that carry an event's type, the first that is there: those of applications, and that of Spring's JSON serializer, a class.
const TYPE_HEADERS: [&str; 5] = ["eventType", "event-type", "event_type", "type", "__TypeId__"];
/// Header of a Spring message with its own id. It is that of the record, not of an event in an array.
pub(super) const SPRING_ID: &str = "id";
const SPRING_TIME: &str = "timestamp";

/// The message in an envelope of MassTransit.
pub(super) fn masstransit(mapping: &Mapping, text: &str) -> Result<String, Reason> {
    static TREE: LazyLock<PointerTree> =
        LazyLock::new(|| PointerTree::new(["/messageType", "/message", "/messageId", "/sentTime"]));
    let bad =
        || reject("bad-envelope", "the record is no envelope of MassTransit: it has no messageType, or no message");
    let members = Members::read(text.as_bytes(), &TREE).map_err(|_| bad())?;
    let types = members.at("/messageType").ok_or_else(bad)?;
    let types: Vec<String> = serde_json::from_str(types).unwrap_or_else(|_| scalar(types).into_iter().collect());
    let types = types.iter().map(|urn| urn.strip_prefix(URN).unwrap_or(urn).to_owned()).collect();
    let data = members.at("/message").ok_or_else(bad)?;
    let text_at = |pointer: &str| members.at(pointer).and_then(scalar);
    let time = text_at("/sentTime").filter(|_| !super::has_time(mapping, data));
    Ok(Event { kind: known(mapping, types), id: text_at("/messageId"), time, data }.to_text())
}

/// The payload of a Spring message, whose attributes are in its headers.
pub(super) fn spring(mapping: &Mapping, record: &Record, data: &str) -> String {
    let types = TYPE_HEADERS.iter().find_map(|name| header(record, name)).map_or_else(Vec::new, |kind| {
        let class = kind.rsplit(['.', '$']).next().unwrap_or(&kind).to_owned();
        vec![kind, class]
    });
    let time = header(record, SPRING_TIME).filter(|_| !super::has_time(mapping, data));
    Event { kind: known(mapping, types), id: header(record, SPRING_ID), time, data }.to_text()
}

/// The name that the mapping knows, or else the first.
fn known(mapping: &Mapping, mut names: Vec<String>) -> Option<String> {
    let is_ours = |name: &String| mapping.kind(name).is_ok();
    let is_listed = |name: &String| mapping.kind(name).map_or_else(|reason| reason.code == IGNORED, |_| true);
    let at = names.iter().position(is_ours).or_else(|| names.iter().position(is_listed)).unwrap_or(0);
    (!names.is_empty()).then(|| names.swap_remove(at))
}

/// The text of a header in any case. Spring writes each value as JSON.
fn header(record: &Record, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().rev().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    let text = id_text::unquote(&String::from_utf8_lossy(value.as_deref()?));
    (!text.is_empty()).then_some(text)
}
