//! Decodes a record into an [`Event`]: CloudEvents in both modes, and plain JSON through a mapping.
//!
//! A mapping names the members of the JSON by RFC 6901 pointers, and translates type strings. For CloudEvents it is applied to `data`, and
//! the envelope gives type, id, source and time. Mandatory are the type and the order id; anything else that is missing or invalid becomes a
//! flag. Only a record that cannot be decoded at all is rejected, with a code and a sentence that quote nothing of the content.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::id_text::is_no_id;
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::event_time::{self, Zone};
use super::order_key::{self, Found};
use super::sha256;

/// Media type of Orderbell's own events: they are decoded by Orderbell's own member names, whatever mapping the chain's events need.
pub const OWN_EVENT_MEDIA_TYPE: &str = "application/cloudevents+json; profile=orderbell";
/// Longest value that is decoded. An order event has 300 bytes to a few KiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Longer extra fields are left out of notices, with a flag: a mailbox row must fit into a page of a poll.
const MAX_DETAILS_BYTES: usize = 8 * 1024;
/// Longest id and source of an event, in bytes. They are compared whole, and an order's state holds up to eight sources.
const MAX_EVENT_ID_BYTES: usize = 1024;
/// Pickup codes, reasons and currencies are cut to this length, in characters.
const MAX_TEXT_CHARS: usize = 200;

/// Header of a dead letter: the topic that it was read from.
const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";
/// Parameter of the media type with the same meaning, for a dead letter that the ledger stored: the embedded stream stores no other header.
pub const TOPIC_PARAMETER: &str = "; topic=";

/// The unit of the amounts in the chain's events.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AmountUnit {
    /// The currency's smallest unit: 1250 is 12.50.
    #[default]
    Minor,
    /// The main unit with two decimals: 12.5 or "12.50". Decimal digits are counted, never a floating-point number.
    Major,
}

/// What the key of a Kafka record identifies, besides the partition.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaKey {
    /// Unspecified: the key is not checked.
    #[default]
    Any,
    /// The order's id: a record whose body names another order is rejected and logged as a security event.
    Order,
    /// The store's id: a record whose body names another store is rejected likewise.
    Store,
}

/// Which member of an event's JSON is what. Every pointer is an RFC 6901 pointer into the JSON (for CloudEvents: into `data`).
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    /// Pointer to the event's type. For CloudEvents the envelope's `type` is used instead.
    pub r#type: String,
    /// Pointer to the event's id: two events with the same source, id and type are one event. Without an id, or with an empty one, 0 or a
    /// word for nothing such as `undefined`, it is the hash of topic and value. For CloudEvents the envelope's `id` is used instead.
    pub id: String,
    /// Pointer to the event's source. For CloudEvents the envelope's `source` is used instead; without one it is the topic.
    pub source: String,
    /// Pointer to the order's id, which is mandatory. Several pointers compose the id where a number alone is not unique in the chain; see
    /// [`OrderIdPointers`].
    pub order: OrderIdPointers,
    /// Pointer to the store's id.
    pub store: String,
    /// Pointer to the customer's id.
    pub customer: String,
    /// Pointer to the id of the device that sent the event.
    pub device: String,
    /// Pointer to the order's amount, a number or a text of digits.
    pub amount: String,
    /// Unit of the amount: the currency's smallest, or its main unit.
    pub amount_unit: AmountUnit,
    /// Pointer to the currency's ISO 4217 code.
    pub currency: String,
    /// Pointer to the pickup code.
    pub pickup_code: String,
    /// Pointer to the reason of a refusal or cancellation.
    pub reason: String,
    /// Pointer to the order's version in its source: an event with an older version than a known one is stale.
    pub version: String,
    /// Pointer to the time of the event: RFC 3339, Unix seconds or milliseconds, or a local time in `time_zone`. For CloudEvents the
    /// envelope's `time` is used if there is one.
    pub time: String,
    /// Time zone of local times, by its IANA name.
    pub time_zone: Zone,
    /// Pointer to the mark of load-test traffic: true or false.
    pub shadow: String,
    /// Orderbell's type names by the chain's own; Orderbell's names are always accepted as well.
    pub types: BTreeMap<String, String>,
    /// Names of further members to keep, as `details` of notices; all others are dropped.
    pub extra_fields: Vec<String>,
    /// What the key of a Kafka record identifies.
    pub kafka_key: KafkaKey,
    /// Topics with other names for their members: each has a complete mapping of its own, which inherits nothing from this one.
    pub topics: BTreeMap<String, Self>,
}

/// The pointers whose values make an order's id: one, or several in this order: `"/order"` or `["/shop/id", "/number"]`.
///
/// Several values are joined with `:`. In each, `~` becomes `~0` and `:` becomes `~1`, so that no two orders share an id.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "OneOrMany", into = "OneOrMany")]
#[schemars(with = "OneOrMany")]
pub struct OrderIdPointers(Vec<String>);

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<OneOrMany> for OrderIdPointers {
    type Error = &'static str;
    fn try_from(given: OneOrMany) -> Result<Self, Self::Error> {
        match given {
            OneOrMany::One(pointer) => Ok(Self(vec![pointer])),
            OneOrMany::Many(pointers) if pointers.is_empty() => Err("an order id needs at least one pointer"),
            OneOrMany::Many(pointers) => Ok(Self(pointers)),
        }
    }
}

impl From<OrderIdPointers> for OneOrMany {
    fn from(value: OrderIdPointers) -> Self {
        let mut all = value.0;
        if all.len() == 1 { Self::One(all.remove(0)) } else { Self::Many(all) }
    }
}

impl Default for Mapping {
    fn default() -> Self {
        let at = |pointer: &str| pointer.to_owned();
        Self {
            r#type: at("/type"),
            id: at("/id"),
            source: at("/source"),
            order: OrderIdPointers(vec![at("/order")]),
            store: at("/store"),
            customer: at("/customer"),
            device: at("/device"),
            amount: at("/amount"),
            amount_unit: AmountUnit::Minor,
            currency: at("/currency"),
            pickup_code: at("/pickup_code"),
            reason: at("/reason"),
            version: at("/version"),
            time: at("/time"),
            time_zone: Zone::default(),
            shadow: at("/shadow"),
            types: BTreeMap::new(),
            extra_fields: ["items", "note", "table", "number", "channel", "due"].map(String::from).to_vec(),
            kafka_key: KafkaKey::Any,
            topics: BTreeMap::new(),
        }
    }
}

/// A CloudEvents envelope, from headers (binary mode) or from the JSON itself (structured mode).
#[derive(Debug, Default)]
struct Envelope {
    kind: Option<String>,
    id: Option<String>,
    source: Option<String>,
    subject: Option<String>,
    time: Option<String>,
    shadow: Option<Value>,
}

fn reject(code: &'static str, message: impl Into<String>) -> Reason {
    Reason { code, message: message.into() }
}

impl Mapping {
    /// Decodes a record.
    ///
    /// # Errors
    /// The reason why it cannot be decoded: for the dead letter, or for the answer to the producer that posted it.
    pub fn decode(&self, record: &Record, now: UnixMs) -> Result<Event, Reason> {
        self.of(record).decode_mapped(record, now)
    }

    /// What is allowed and rarely meant, in sentences for whoever wrote the mapping.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let named = self.topics.iter().map(|(topic, mapping)| (format!("mapping.topics.{topic}"), mapping));
        let all = std::iter::once((String::from("mapping"), self)).chain(named);
        let shared = all.filter(|(_, mapping)| mapping.order.0 == [mapping.id.as_str()]);
        let sentence = |(section, mapping): (String, &Self)| {
            format!(
                "{section}: id and order are one pointer, {}. Two events of the same type about one order, such as two refunds, count as one; \
                 set id to \"/none\" if the events have no id of their own",
                mapping.id
            )
        };
        shared.map(sentence).collect()
    }

    /// The mapping of a record: the default one for Orderbell's own events, the topic's own if it has one, otherwise this one.
    fn of(&self, record: &Record) -> &Self {
        static DEFAULT: LazyLock<Mapping> = LazyLock::new(Mapping::default);
        if is_own(record) {
            return &DEFAULT;
        }
        self.topics.get(topic_of(record)).unwrap_or(self)
    }

    fn decode_mapped(&self, record: &Record, now: UnixMs) -> Result<Event, Reason> {
        let Some(value) = record.value.as_ref() else { return Err(reject("tombstone", "the record has no value")) };
        if value.len() > MAX_VALUE_BYTES {
            return Err(reject("too-long", format!("the value has more than {MAX_VALUE_BYTES} bytes")));
        }
        let json: Value = serde_json::from_slice(value).map_err(|error| {
            let problem = if value.is_empty() { "the value is empty" } else { "the value is not JSON" };
            reject("not-json", format!("{problem} (line {}, column {})", error.line(), error.column()))
        })?;
        let (envelope, data) = Self::split(record, json)?;
        self.event(record, &envelope, &data, now)
    }

    /// Splits a record into envelope and data.
    fn split(record: &Record, mut json: Value) -> Result<(Envelope, Value), Reason> {
        let header = |name: &str| header_text(record, name);
        match mode(record, json.get("specversion").is_some())? {
            Mode::Plain => return Ok((Envelope::default(), json)),
            Mode::Binary => {
                let shadow = header("ce_shadow").map(|text| match text.as_str() {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    _ => Value::String(text),
                });
                let envelope = Envelope {
                    kind: header("ce_type"),
                    id: header("ce_id"),
                    source: header("ce_source"),
                    subject: header("ce_subject"),
                    time: header("ce_time"),
                    shadow,
                };
                return Ok((envelope, json));
            }
            Mode::Structured => {}
        }
        check_specversion(json.get("specversion").and_then(Value::as_str).unwrap_or_default())?;
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let envelope = Envelope {
            kind: text("type"),
            id: text("id"),
            source: text("source"),
            subject: text("subject"),
            time: text("time"),
            shadow: json.get("shadow").cloned(),
        };
        Ok((envelope, json.get_mut("data").map_or(Value::Null, Value::take)))
    }

    /// True when a record that cannot be decoded contains the type of a paid order anywhere. A guess that prefers a false alert.
    #[must_use]
    pub fn looks_paid(&self, record: &Record) -> bool {
        let paid = EventType::Paid.name();
        let theirs = self.of(record).types.iter().filter(|(_, ours)| *ours == paid).map(|(theirs, _)| theirs.as_str());
        let mut names = theirs.chain([paid]);
        let value = record.value.as_deref().unwrap_or_default();
        names.any(|name| {
            let in_header = record.header("ce_type").is_some_and(|kind| kind == name);
            in_header || value.windows(name.len()).any(|window| window == name.as_bytes())
        })
    }

    /// The id of a record's order, by which its queue is chosen. Whenever [`Self::decode`] succeeds, it finds the same id: so two records of
    /// one order are never processed at the same time.
    #[must_use]
    pub fn order_of(&self, record: &Record) -> Option<String> {
        let mapping = self.of(record);
        // A record whose body names another order is rejected, whatever its queue.
        if mapping.kafka_key == KafkaKey::Order
            && let Some(key) = key_text(record)
        {
            return Some(key.to_owned());
        }
        let value = record.value.as_ref().filter(|value| value.len() <= MAX_VALUE_BYTES)?;
        let members: Vec<&str> = mapping.order.0.iter().chain([&mapping.store]).map(String::as_str).collect();
        let in_data = members.iter().map(|pointer| ("/data", *pointer));
        let pointers = [("", "/specversion"), ("", "/subject")].into_iter();
        let pointers: Vec<_> = pointers.chain(members.iter().map(|pointer| ("", *pointer))).chain(in_data).collect();
        let found = order_key::pull(value, &pointers)?;
        let (in_json, in_data) = found.get(2..)?.split_at(members.len());
        let (subject, found) = match mode(record, found.first() != Some(&Found::Missing)).ok()? {
            Mode::Plain => (None, in_json),
            Mode::Binary => (header_text(record, "ce_subject"), in_json),
            Mode::Structured => {
                let text =
                    |at: usize| if let Some(Found::Text(text)) = found.get(at) { Some(text.clone()) } else { None };
                check_specversion(&text(0).unwrap_or_default()).ok()?;
                (text(1), in_data)
            }
        };
        let id_at =
            |pointer: &str| match members.iter().position(|known| *known == pointer).and_then(|at| found.get(at)) {
                Some(Found::Text(text) | Found::Number(text)) => Ok(Some(text.clone())),
                Some(Found::Other) => Err(bad_id()),
                Some(Found::Missing | Found::Null) | None => Ok(None),
            };
        let order = mapping.order(record, subject.as_deref(), id_at).ok()?;
        order.or_else(|| mapping.named(record, subject.as_deref(), id_at(&mapping.store)).ok()?)
    }

    /// The order's id; `id_at` reads the id that a pointer leads to. Where it is composed, a missing part has no substitute: the envelope's
    /// subject or the record's key is another id.
    fn order(
        &self,
        record: &Record,
        subject: Option<&str>,
        id_at: impl Fn(&str) -> Result<Option<String>, Reason>,
    ) -> Result<Option<String>, Reason> {
        let [pointer] = &self.order.0[..] else {
            let mut parts = Vec::with_capacity(self.order.0.len());
            for pointer in &self.order.0 {
                let Some(part) = id_at(pointer)? else { return Ok(None) };
                // Orders with a blank number must not share an id.
                if part.is_empty() || part.trim() != part {
                    return Err(reject(
                        "bad-order",
                        format!("{pointer}: a part of the order's id is empty, or begins or ends with white space"),
                    ));
                }
                parts.push(part.replace('~', "~0").replace(':', "~1"));
            }
            return Ok(Some(parts.join(":")));
        };
        self.named(record, subject, id_at(pointer))
    }

    /// The id of a member, or else the envelope's subject, or else the record's key.
    fn named(
        &self,
        record: &Record,
        subject: Option<&str>,
        member: Result<Option<String>, Reason>,
    ) -> Result<Option<String>, Reason> {
        let key = key_text(record).filter(|_| self.kafka_key != KafkaKey::Store);
        Ok(member?.or_else(|| subject.or(key).map(str::to_owned)))
    }

    fn event(&self, record: &Record, envelope: &Envelope, data: &Value, now: UnixMs) -> Result<Event, Reason> {
        let at = |pointer: &str| data.pointer(pointer).filter(|value| !value.is_null());
        let text = |pointer: &str| at(pointer).and_then(scalar).map(clip);
        let kind = envelope.kind.clone().or_else(|| text(&self.r#type));
        let kind = self.kind(&kind.ok_or_else(|| reject("no-type", "the event has no type"))?)?;
        let subject = envelope.subject.as_deref();
        let id_at = |pointer: &str| data.pointer(pointer).map_or(Ok(None), id_text);
        let order = match kind.is_about_a_store() {
            true => self.named(record, subject, id_at(&self.store))?,
            false => self.order(record, subject, id_at)?,
        };
        let order = order.ok_or_else(|| reject("no-order", "the event names no order"))?;
        let order = Id::new(&order).map_err(|error| reject("bad-order", format!("the order's id: {error}")))?;
        let id_of = |pointer: &str| -> Result<Option<Id>, Reason> {
            let Some(text) = at(pointer).map_or(Ok(None), id_text)? else { return Ok(None) };
            Id::new(&text).map(Some).map_err(|error| reject("bad-id", format!("{pointer}: {error}")))
        };
        let (store, customer, device) = (id_of(&self.store)?, id_of(&self.customer)?, id_of(&self.device)?);
        self.check_key(key_text(record), &order, store.as_ref())?;
        let shadow = envelope.shadow.as_ref().or_else(|| at(&self.shadow)).cloned().unwrap_or(Value::Bool(false));
        let Value::Bool(shadow) = shadow else {
            return Err(reject("bad-shadow", "the shadow mark is neither true nor false"));
        };
        let mut flags = Vec::new();
        let time = envelope.time.clone().map(Value::String).or_else(|| at(&self.time).cloned());
        let at_ms = event_time::resolve(time.as_ref(), &self.time_zone, record.timestamp_ms, now, &mut flags);
        let amount = self.amount(at(&self.amount), kind, &mut flags);
        let details = self.details(data, &mut flags);
        let whole = |pointer: &str| at(pointer).and_then(scalar);
        let id = match envelope.id.clone().filter(|id| is_own(record) || is_event_id(id)) {
            Some(id) => Some(id),
            None => whole(&self.id).filter(|id| is_event_id(id)),
        };
        let id = within_limit("id", id)?;
        let source = within_limit("source", envelope.source.clone().or_else(|| whole(&self.source)))?;
        Ok(Event {
            kind,
            order,
            id: id.unwrap_or_else(|| derived_id(record)),
            // Events without a source have their topic as source: versions and ids of two topics must not be compared.
            source: source.unwrap_or_else(|| topic_of(record).to_owned()),
            at: at_ms,
            read_at: (record.read_ms > 0).then_some(UnixMs(record.read_ms)),
            version: at(&self.version).and_then(Value::as_u64),
            store,
            customer,
            device,
            amount,
            currency: text(&self.currency),
            pickup_code: text(&self.pickup_code).filter(|code| !code.is_empty()).map(PickupCode),
            reason: text(&self.reason),
            details,
            flags,
            shadow,
        })
    }

    fn kind(&self, name: &str) -> Result<EventType, Reason> {
        let ours = self.types.get(name).map_or(name, String::as_str);
        EventType::named(ours).ok_or_else(|| reject("unknown-type", "the event's type is not known"))
    }

    fn check_key(&self, key: Option<&str>, order: &Id, store: Option<&Id>) -> Result<(), Reason> {
        let matches = match (self.kafka_key, key) {
            (KafkaKey::Any, _) | (_, None) => true,
            (KafkaKey::Order, Some(key)) => key == order.as_str(),
            (KafkaKey::Store, Some(key)) => store.is_none_or(|store| key == store.as_str()),
        };
        if matches {
            Ok(())
        } else {
            Err(reject("key-mismatch", "the record's key and its body identify different things"))
        }
    }

    fn amount(&self, value: Option<&Value>, kind: EventType, flags: &mut Vec<Flag>) -> Option<MinorUnits> {
        let parsed = value.and_then(|value| minor_units(value, self.amount_unit));
        let needed = matches!(kind, EventType::Created | EventType::Paid);
        if parsed.is_none() && (needed || value.is_some()) {
            flags.push(Flag::Amount);
        }
        parsed
    }

    fn details(&self, data: &Value, flags: &mut Vec<Flag>) -> Option<Box<RawValue>> {
        let kept: serde_json::Map<String, Value> =
            self.extra_fields.iter().filter_map(|name| Some((name.clone(), data.get(name)?.clone()))).collect();
        if kept.is_empty() {
            return None;
        }
        let text = Value::Object(kept).to_string();
        if text.len() > MAX_DETAILS_BYTES {
            flags.push(Flag::Details);
            return None;
        }
        RawValue::from_string(text).ok()
    }
}

fn bad_id() -> Reason {
    reject("bad-id", "an id is a string or a whole number of at most 64 bits")
}

fn key_text(record: &Record) -> Option<&str> {
    record.key.as_ref().and_then(|key| std::str::from_utf8(key).ok())
}

fn header_text(record: &Record, name: &str) -> Option<String> {
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

/// The mode of a record; `has_specversion` says that its JSON has that member.
fn mode(record: &Record, has_specversion: bool) -> Result<Mode, Reason> {
    if let Some(version) = header_text(record, "ce_specversion") {
        return check_specversion(&version).map(|()| Mode::Binary);
    }
    let media = record.header("content-type").map_or(&b""[..], |media| &media[..]);
    if media.starts_with(b"application/cloudevents-batch") {
        return Err(reject("batch", "a record cannot be a batch of CloudEvents"));
    }
    let is_structured = media.starts_with(b"application/cloudevents") || has_specversion;
    Ok(if is_structured { Mode::Structured } else { Mode::Plain })
}

/// The topic that a record was first read from: a replayed dead letter names it in a header, or in its media type.
fn topic_of(record: &Record) -> &str {
    let text = |name: &str| record.header(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let named =
        text(ORIGINAL_TOPIC).or_else(|| text("content-type")?.split_once(TOPIC_PARAMETER).map(|(_, topic)| topic));
    named.unwrap_or(&record.partition.topic)
}

fn check_specversion(version: &str) -> Result<(), Reason> {
    if version.starts_with("1.") { Ok(()) } else { Err(reject("bad-envelope", "only CloudEvents 1.x is supported")) }
}

/// The id or source of an event, compared whole: cut, two events could become one.
fn within_limit(member: &str, text: Option<String>) -> Result<Option<String>, Reason> {
    let text = text.filter(|text| !text.is_empty());
    if text.as_ref().is_some_and(|text| text.len() > MAX_EVENT_ID_BYTES) {
        return Err(reject("bad-id", format!("the event's {member} has more than {MAX_EVENT_ID_BYTES} bytes")));
    }
    Ok(text)
}

/// True for a text that identifies an event. A producer that writes nothing, 0 or `undefined` in every event identifies none of them.
fn is_event_id(text: &str) -> bool {
    !is_no_id(text) && text != "0"
}

/// True for an event that Orderbell published, whose id is what a till chose.
fn is_own(record: &Record) -> bool {
    record.header("content-type").is_some_and(|media| media == OWN_EVENT_MEDIA_TYPE)
}

/// The id of an event without one: the same whenever the same value comes again.
fn derived_id(record: &Record) -> String {
    let value = record.value.as_deref().unwrap_or_default();
    let hash = sha256::hash_128(&[record.partition.topic.as_bytes(), value]);
    format!("hash:{hash:032x}")
}

/// Strings and whole numbers are ids. A number of more than 64 bits has lost digits in the JSON parser, so that two orders could share an
/// id: it is rejected.
fn id_text(value: &Value) -> Result<Option<String>, Reason> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        _ => Err(bad_id()),
    }
}

/// The text of a string or number.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn clip(text: String) -> String {
    if text.chars().count() <= MAX_TEXT_CHARS { text } else { text.chars().take(MAX_TEXT_CHARS).collect() }
}

/// Works on the decimal digits, so that no amount passes through floating point.
fn minor_units(value: &Value, unit: AmountUnit) -> Option<MinorUnits> {
    let text = scalar(value)?;
    let minor = match unit {
        AmountUnit::Minor => text.parse::<i64>().ok()?,
        AmountUnit::Major => {
            let (whole, cents) = text.split_once('.').unwrap_or((&text, ""));
            if cents.len() > 2
                || !cents.bytes().all(|byte| byte.is_ascii_digit())
                || !whole.bytes().all(|byte| byte.is_ascii_digit())
            {
                return None;
            }
            let cents = format!("{cents:0<2}");
            whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(cents.parse().ok()?)?
        }
    };
    (minor >= 0).then_some(MinorUnits(minor))
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
