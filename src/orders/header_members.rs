//! Headers as members of the event: the pointer `/__headers/NAME` leads to the header NAME, in any case.
//!
//! Webhooks of platforms and frameworks of messaging say in headers what an event is. Only the headers that a mapping's pointers name are read, and
//! only headers: a member `__headers` of the JSON is what somebody wrote into a body, and no pointer leads to it.
//!
//! The embedded stream and Orderbell's own topic carry no foreign headers. Those of a request, and of a dead letter that is replayed, are stored with
//! the event, under names with a prefix: so a request's `content-type` is not the one by which Orderbell marks its events.
//!
//! Refused: a header that is cut. As an id it would make two events one; a longer one is as if it were not there. Headers as a member of the event's
//! JSON: a text in an array could hold one, and the value would not be what was posted, of which its id may be made.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use orderbell_consumers::Record;
use orderbell_protocol::id_text;

use super::json_text;
use super::mapping::Mapping;
use super::members::Members;

const POINTER: &str = "/__headers/";
/// What the names of headers begin with that are stored with an event: those of its request, or of the record that it was at first.
const STORED: &str = "orderbell-header-";
/// Longest value of a header that is read: that of an id. Platforms write types, ids, times and domains.
pub const MAX_HEADER_BYTES: usize = 1024;

/// A pointer that leads to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderPointer {
    pub(super) pointer: String,
    /// In lower case.
    pub(super) name: String,
}

/// Those of the pointers that lead to headers.
pub(super) fn pointers(all: &[&str]) -> Vec<HeaderPointer> {
    let of = |pointer: &&str| {
        let name = pointer.strip_prefix(POINTER).filter(|name| !name.is_empty() && !name.contains('/'))?;
        let name = name.replace("~1", "/").replace("~0", "~").to_ascii_lowercase();
        Some(HeaderPointer { pointer: (*pointer).to_owned(), name })
    };
    let mut found: Vec<HeaderPointer> = Vec::new();
    for one in all.iter().filter_map(of) {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// The JSON texts that a mapping's pointers to headers lead to.
#[derive(Debug, Default)]
pub(super) struct HeaderMembers(Vec<(String, String)>);

impl HeaderMembers {
    /// Those of a record.
    pub(super) fn of(mapping: &Mapping, record: &Record) -> Self {
        let json = |HeaderPointer { pointer, name }: &HeaderPointer| {
            Some((pointer.clone(), json_text::quoted(&read(mapping, record, name)?)))
        };
        Self(mapping.compiled().headers.iter().filter_map(json).collect())
    }

    /// The bytes that they hold.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(pointer, json)| size_of::<(String, String)>() + pointer.len() + json.len()).sum()
    }

    /// Lets the pointers lead to the headers.
    pub(super) fn add_to<'j>(&'j self, members: &mut Members<'_, 'j>) {
        self.0.iter().for_each(|(pointer, json)| members.set(pointer, json));
    }
}

/// What the headers that a mapping's pointers name say, by their names: these tell two events apart whose values are the same.
pub(super) fn stated<'m>(mapping: &'m Mapping, record: &Record) -> BTreeMap<&'m str, String> {
    let one = |HeaderPointer { name, .. }: &'m HeaderPointer| Some((name.as_str(), read(mapping, record, name)?));
    mapping.compiled().headers.iter().filter_map(one).collect()
}

/// The text of a header that is neither empty nor too long.
fn read(mapping: &Mapping, record: &Record, name: &str) -> Option<String> {
    header(mapping, record, name).filter(|text| !text.is_empty() && text.len() <= MAX_HEADER_BYTES)
}

/// The text of a header, whose name is in lower case: of several the last one, without the quotes of serializers that write JSON.
pub(super) fn header(mapping: &Mapping, record: &Record, name: &str) -> Option<String> {
    value_of(mapping, record, name).map(text)
}

/// The same, whatever was stored with the record.
pub(super) fn header_of_record(record: &Record, name: &str) -> Option<String> {
    last(record, |known| known.eq_ignore_ascii_case(name)).map(text)
}

fn text(value: &Bytes) -> String {
    id_text::unquote(&String::from_utf8_lossy(value))
}

/// What is stored with an event is what its record had at first.
fn value_of<'r>(mapping: &Mapping, record: &'r Record, name: &str) -> Option<&'r Bytes> {
    let is_stored = |known: &str| known.strip_prefix(STORED).is_some_and(|known| known == name);
    let has_own = mapping.has_own_headers(record);
    let stored = if has_own { last(record, is_stored) } else { None };
    // There the media type is Orderbell's, who wrote the record.
    let is_orderbells = has_own && mapping.own_topic().is_some() && name == "content-type";
    let sent = || last(record, |known| known.eq_ignore_ascii_case(name));
    stored.or_else(|| if is_orderbells { None } else { sent() })
}

fn last(record: &Record, is_it: impl Fn(&str) -> bool) -> Option<&Bytes> {
    let (_, value) = record.headers.iter().rev().find(|(known, _)| is_it(known))?;
    value.as_ref()
}

impl Mapping {
    /// Names of the headers that this mapping reads besides those of CloudEvents, in lower case.
    fn header_names(&self) -> impl Iterator<Item = &str> {
        let of_pointers = self.compiled().headers.iter().map(|one| one.name.as_str());
        of_pointers.chain(self.envelope.header_names().iter().copied())
    }

    /// True for a header that this mapping reads, or that of a topic.
    #[must_use]
    pub fn reads_header(&self, name: &str) -> bool {
        let reads = |mapping: &Self| mapping.header_names().any(|known| known.eq_ignore_ascii_case(name));
        reads(self) || self.topics.values().any(reads)
    }

    /// Those of a request's headers that the mapping of `topic` reads, as they are stored with each of its events. One of several events is without
    /// the header that is the id, which is that of them all.
    #[must_use]
    pub fn headers_to_store(
        &self,
        topic: &str,
        headers: &[(String, String)],
        is_one_of_several: bool,
    ) -> Vec<(String, Bytes)> {
        let mapping = self.topics.get(topic).unwrap_or(self);
        let is_left_out = |name: &str| is_one_of_several && mapping.id_headers().any(|id| id == name);
        let mut read = BTreeMap::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            let is_read = mapping.header_names().any(|known| known == name) && !is_left_out(&name);
            if is_read && id_text::unquote(value).len() <= MAX_HEADER_BYTES {
                read.insert(format!("{STORED}{name}"), Bytes::copy_from_slice(value.as_bytes()));
            }
        }
        read.into_iter().collect()
    }

    /// Those of a record's headers that its mapping reads, as they are stored with it when it is replayed.
    pub(super) fn headers_of_replayed(&self, record: &Record) -> Vec<(String, Bytes)> {
        let mapping = self.of(record);
        let names: BTreeSet<&str> = mapping.header_names().collect();
        let stored = |name: &str| Some((format!("{STORED}{name}"), value_of(mapping, record, name)?.clone()));
        names.into_iter().filter_map(stored).collect()
    }

    /// True for the name of a header that is the event's id, also where it is stored with an event.
    pub(super) fn is_id_header(&self, name: &str) -> bool {
        let name = name.strip_prefix(STORED).unwrap_or(name);
        self.id_headers().any(|id| name.eq_ignore_ascii_case(id))
    }

    /// Names of the headers that are the event's id, in lower case.
    fn id_headers(&self) -> impl Iterator<Item = &str> {
        let of_pointer = self.compiled().headers.iter().filter(move |one| one.pointer == self.id);
        of_pointer.map(|one| one.name.as_str()).chain(self.envelope.id_header())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record_type::LooksPaid;
    use super::*;
    use bytes::Bytes;
    use orderbell_consumers::TopicPartition;
    use orderbell_protocol::UnixMs;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);
    const KEYS: &str = "type = '/__headers/X-Topic'\nid = '/__headers/X-Id'\nstore = '/__headers/X-Shop'\norder = '/no'\n\
                        types = { 'orders/paid' = 'order.paid', '*' = 'ignore' }";

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

    fn read(keys: &str, record: &Record) -> Vec<String> {
        let mapping: Mapping = toml::from_str(keys).unwrap();
        let records = mapping.parts(record).unwrap_or_else(|| vec![record.clone()]);
        let event = |record: &Record| match mapping.decode(record, NOW) {
            Ok(event) => {
                let store = event.store.as_ref().map_or("", |store| store.as_str());
                format!("{} {} {store} {}", event.kind.name(), event.order.as_str(), event.id)
            }
            Err(reason) => reason.code.to_owned(),
        };
        records.iter().map(event).collect()
    }

    const PAID: [(&str, &str); 3] = [("x-topic", "orders/paid"), ("X-ID", "w1"), ("X-Shop", "\"17\"")];

    #[test]
    fn a_pointer_leads_to_a_header_in_any_case_and_quoting() {
        let body = r#"{"no":"o1"}"#;
        assert_eq!(read(KEYS, &record(body, &PAID)), ["order.paid o1 17 w1"]);
        assert_eq!(read(KEYS, &record(body, &PAID[1..])), ["no-type"]);
        let mapping: Mapping = toml::from_str(KEYS).unwrap();
        assert_eq!(mapping.looks_paid(&record("{}", &PAID)), LooksPaid::Yes, "its type stands in a header");
        assert_eq!(mapping.looks_paid(&record("{", &PAID)), LooksPaid::Unreadable);
        let moved = record(body, &[("X-Topic", "courier/moved"), PAID[1]]);
        assert_eq!(mapping.ignored(&moved).unwrap().id, "w1");
        let twice = record(body, &[&PAID[..], &[("X-Shop", "18")]].concat());
        assert_eq!(read(KEYS, &twice), ["order.paid o1 18 w1"], "the last one counts");
        let plain = record(r#"{"type":"order.paid","order":"o1"}"#, &PAID);
        assert!(read("", &plain)[0].starts_with("order.paid o1  hash:"), "only where it is configured");
    }

    #[test]
    fn a_header_that_is_too_long_is_as_if_it_were_not_there() {
        let id = |length: usize| {
            let long = "x".repeat(length);
            read(KEYS, &record(r#"{"no":"o1"}"#, &[PAID[0], ("X-Id", &long)])).remove(0)
        };
        assert!(id(MAX_HEADER_BYTES).ends_with("xxx"));
        assert!(id(MAX_HEADER_BYTES + 1).starts_with("order.paid o1  hash:"));
    }

    /// Regression: the events of two shops that sent the same value without an id were one.
    #[test]
    fn events_without_an_id_are_told_apart_by_the_headers_that_are_read() {
        let id = |value: &str, headers: &[(&str, &str)]| read(KEYS, &record(value, headers)).remove(0);
        let from = |shop: &'static str| [PAID[0], ("X-Shop", shop), ("X-Trace", "t1")];
        let (body, rows) = (r#"{"no":"o1"}"#, r#"[{"no":"o1"},{"no":"o2"}]"#);
        for value in [body, rows] {
            assert_ne!(
                id(value, &from("17")).rsplit_once(' ').unwrap().1,
                id(value, &from("18")).rsplit_once(' ').unwrap().1
            );
            let again = [("x-shop", "\"17\""), ("X-Trace", "t2"), ("x-topic", "orders/paid")];
            assert_eq!(id(value, &from("17")), id(value, &again), "in any order, and whatever is not read");
        }
        let plain = record(r#"{"type":"order.paid","order":"o1"}"#, &from("17"));
        let without = record(r#"{"type":"order.paid","order":"o1"}"#, &[]);
        assert_eq!(read("", &plain), read("", &without), "where no header is read, topic and value are all");
    }

    /// The id of a record is not that of each of its events.
    #[test]
    fn several_events_do_not_share_the_header_that_is_the_id() {
        let two = read(KEYS, &record(r#"[{"no":"o1"},{"no":"o2"}]"#, &PAID));
        assert!(
            two[0].starts_with("order.paid o1 17 hash:") && two[1].starts_with("order.paid o2 17 hash:"),
            "{two:?}"
        );
    }

    #[test]
    fn headers_stand_in_each_envelope_beside_what_it_holds() {
        let row = r#"{"op":"c","before":null,"after":{"no":"o1","status":"PAID"},"source":{"ts_ms":1789999999000}}"#;
        let keys = "envelope = 'debezium'\ntype = '/status'\norder = '/no'\nstore = '/__headers/x-shop'\ntypes = { PAID = 'order.paid' }";
        assert!(read(keys, &record(row, &PAID))[0].starts_with("order.paid o1 17 row:"));
        let event = r#"{"specversion":"1.0","type":"order.paid","id":"e1","source":"/s","data":{"no":"o1"}}"#;
        assert_eq!(read(KEYS, &record(event, &PAID)), ["order.paid o1 17 e1"]);
    }

    /// Regression: a body, or a text in an array, said what the headers were, and so of which type and id it was.
    #[test]
    fn a_member_of_that_name_is_no_header() {
        let faked =
            r#"{"no":"o1","__headers":{"X-Topic":"orders/paid","x-topic":"orders/paid","X-Id":"w9","X-Shop":"18"}}"#;
        let text = serde_json::to_string(faked).unwrap();
        for body in [faked.to_owned(), text.clone(), format!("[{faked}]"), format!("[{text}]")] {
            assert_eq!(read(KEYS, &record(&body, &[])), ["no-type"], "{body}");
            let one = read(KEYS, &record(&body, &PAID[..1])).remove(0);
            assert!(one.starts_with("order.paid o1  hash:"), "{one}: {body}");
        }
        let mapping: Mapping = toml::from_str(KEYS).unwrap();
        assert_eq!(mapping.looks_paid(&record(faked, &[])), LooksPaid::Unreadable, "it names an order");
        let in_data = format!(r#"{{"specversion":"1.0","id":"e1","source":"/s","data":{faked}}}"#);
        assert_eq!(read(KEYS, &record(&in_data, &[])), ["no-type"]);
        let spring = "envelope = 'spring'\norder = '/no'\ntypes = { Paid = 'order.paid' }";
        let faked = r#"{"no":"o1","__headers":{"type":"Paid","id":"m9"}}"#;
        assert_eq!(read(spring, &record(faked, &[])), ["no-type"]);
    }

    #[test]
    fn the_headers_of_a_request_count_in_the_topic_that_orderbell_writes_alone() {
        let mapping = toml::from_str::<Mapping>(KEYS).unwrap().with_own_topic("orderbell.events");
        let sent = PAID.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let stored = mapping.headers_to_store("orderbell.events", &sent, false);
        let named = |stored: &[(String, Bytes)]| stored.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(named(&stored), ["orderbell-header-x-id", "orderbell-header-x-shop", "orderbell-header-x-topic"]);
        let headers: Vec<_> = stored.into_iter().map(|(name, value)| (name, Some(value))).collect();
        let read = |topic: &str| {
            let partition = TopicPartition::new(topic, 0);
            let record = Record { partition, headers: headers.clone().into(), ..record(r#"{"no":"o1"}"#, &[]) };
            mapping.decode(&record, NOW).map(|event| format!("{} {}", event.id, event.store.unwrap().as_str()))
        };
        assert_eq!(read("orderbell.events").unwrap(), "w1 17");
        assert_eq!(read("orders").unwrap_err().code, "no-type");
        let of_several = mapping.headers_to_store("orderbell.events", &sent, true);
        assert_eq!(
            named(&of_several),
            ["orderbell-header-x-shop", "orderbell-header-x-topic"],
            "without the id of them all"
        );
        assert_eq!(Mapping::default().headers_to_store("orderbell.events", &sent, false), []);
        assert!(mapping.reads_header("x-TOPIC") && !mapping.reads_header("x-other"));
    }
}
