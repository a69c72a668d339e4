//! From a record's bytes to an [`Event`]: CloudEvents in both modes, and plain JSON through a mapping.
//!
//! A mapping says which member of the JSON is what, as RFC 6901 pointers, and which type strings mean what. For CloudEvents it is applied
//! to `data`, and the envelope gives type, id, source and time. Mandatory are the type and the order id; whatever else is missing or odd
//! becomes a flag. Only what cannot be understood at all is refused, with a word and a sentence that hold nothing of the content.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::{Event, EventType, Id, UnixMs};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::outgoing;
use super::time::{self, Zone};

/// Longest value that is looked at. An order event has 300 bytes to a few KiB.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Details longer than this are left out of notices (flagged): a mailbox row must fit a page.
const DETAILS_BYTES_MAX: usize = 8 * 1024;
/// Longest pickup code, reason or source that is kept, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// Header of a dead letter: where it was read.
const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";
/// The same for a letter that the ledger kept: the stream keeps no headers but the media type.
pub(super) const TOPIC_PARAMETER: &str = "; topic=";

/// How the number of an amount is meant.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AmountUnit {
    /// The smallest unit: 1250 is 12.50.
    #[default]
    Minor,
    /// The main unit with two decimals: 12.5 or "12.50". Decimal digits are counted, never a floating-point number.
    Major,
}

/// What a Kafka record's key is, besides a way to partition.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaKey {
    /// Nothing that is checked.
    #[default]
    Any,
    /// The order's id: a body that names another order is refused as a security event.
    Order,
    /// The store's id: likewise.
    Store,
}

/// Where the members are. Every field is an RFC 6901 pointer into the JSON (for CloudEvents: into `data`).
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    /// Type of the event; for CloudEvents the envelope's `type` is taken.
    pub r#type: String,
    /// Id of the event; for CloudEvents the envelope's `id`.
    pub id: String,
    /// Source of the event; for CloudEvents the envelope's `source`.
    pub source: String,
    /// Order id. Mandatory. Several pointers compose one where a number alone is not unique in the chain; see [`Composed`].
    pub order: Composed,
    /// Store id.
    pub store: String,
    /// Customer id.
    pub customer: String,
    /// Device that spoke.
    pub device: String,
    /// Amount.
    pub amount: String,
    /// Unit of the amount.
    pub amount_unit: AmountUnit,
    /// Currency.
    pub currency: String,
    /// Pickup code.
    pub code: String,
    /// Reason of a refusal or cancellation.
    pub reason: String,
    /// Version of the order in its source.
    pub version: String,
    /// Time of the fact: RFC 3339, Unix seconds or milliseconds, or a local time in `time_zone`. For CloudEvents the envelope's `time`
    /// is taken where there is one.
    pub time: String,
    /// Zone of local times, by IANA name.
    pub time_zone: Zone,
    /// Mark of load-test traffic: true or false.
    pub shadow: String,
    /// What the type strings mean, besides Orderbell's own names.
    pub types: BTreeMap<String, String>,
    /// Names of members that stores may see in a `new_order`; everything else stays behind.
    pub details: Vec<String>,
    /// What the record's key is.
    pub kafka_key: KafkaKey,
    /// Topics whose events are called otherwise: each with a whole mapping of its own, which takes nothing from this one.
    pub topics: BTreeMap<String, Self>,
}

/// An order id made of one member, or of several in this order: `"/order"` or `["/shop/id", "/number"]`.
///
/// Several are joined with `:`. In each `~` becomes `~0` and `:` becomes `~1`, so that no two orders share an id.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOrMore")]
#[schemars(with = "OneOrMore")]
pub struct Composed(Vec<String>);

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl TryFrom<OneOrMore> for Composed {
    type Error = &'static str;
    fn try_from(given: OneOrMore) -> Result<Self, Self::Error> {
        match given {
            OneOrMore::One(pointer) => Ok(Self(vec![pointer])),
            OneOrMore::More(pointers) if pointers.is_empty() => Err("an order id has at least one member"),
            OneOrMore::More(pointers) => Ok(Self(pointers)),
        }
    }
}

impl Default for Mapping {
    fn default() -> Self {
        let at = |pointer: &str| pointer.to_owned();
        Self {
            r#type: at("/type"),
            id: at("/id"),
            source: at("/source"),
            order: Composed(vec![at("/order")]),
            store: at("/store"),
            customer: at("/customer"),
            device: at("/device"),
            amount: at("/amount"),
            amount_unit: AmountUnit::Minor,
            currency: at("/currency"),
            code: at("/code"),
            reason: at("/reason"),
            version: at("/version"),
            time: at("/time"),
            time_zone: Zone::default(),
            shadow: at("/shadow"),
            types: BTreeMap::new(),
            details: ["items", "note", "table", "number", "channel", "due"].map(String::from).to_vec(),
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
    /// Understands a record.
    ///
    /// # Errors
    /// The reason why it cannot be understood: for the dead letters, or for the one who posted it.
    pub fn decode(&self, record: &Record, now: UnixMs) -> Result<Event, Reason> {
        self.of(record).decode_by(record, now)
    }

    /// Our own events are understood by our own names, whatever the chain calls things; a topic may have names of its own.
    fn of(&self, record: &Record) -> &Self {
        static OURS: LazyLock<Mapping> = LazyLock::new(Mapping::default);
        if record.header("content-type").is_some_and(|media| media == outgoing::OWN) {
            return &OURS;
        }
        self.topics.get(&topic_of(record)).unwrap_or(self)
    }

    fn decode_by(&self, record: &Record, now: UnixMs) -> Result<Event, Reason> {
        let Some(value) = record.value.as_ref() else { return Err(reject("tombstone", "the record has no value")) };
        if value.len() > VALUE_BYTES_MAX {
            return Err(reject("too-long", format!("the value has more than {VALUE_BYTES_MAX} bytes")));
        }
        let json: Value = serde_json::from_slice(value).map_err(|error| {
            let what = if value.is_empty() { "the value is empty" } else { "the value is not JSON" };
            reject("not-json", format!("{what} (line {}, column {})", error.line(), error.column()))
        })?;
        let (envelope, data) = self.open(record, json)?;
        self.event(record, &envelope, &data, now)
    }

    /// Splits a record into envelope and data.
    fn open(&self, record: &Record, json: Value) -> Result<(Envelope, Value), Reason> {
        let header = |name: &str| record.header(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        if let Some(version) = header("ce_specversion") {
            check_specversion(&version)?;
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
        let media = header("content-type").unwrap_or_default();
        if media.starts_with("application/cloudevents-batch") {
            return Err(reject("batch", "a batch of CloudEvents cannot be one record"));
        }
        if !media.starts_with("application/cloudevents") && json.get("specversion").is_none() {
            return Ok((Envelope::default(), json));
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
        Ok((envelope, json.get("data").cloned().unwrap_or(Value::Null)))
    }

    /// True when a record that cannot be understood names the type of a paid order somewhere: a guess, on the side of the alarm.
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

    /// The order a record is about, without understanding the rest: the key of its queue. The same rule as in [`Self::decode`], so that
    /// two records of one order never run at once.
    #[must_use]
    pub fn order_of(&self, record: &Record) -> Option<String> {
        let value = record.value.as_ref().filter(|value| value.len() <= VALUE_BYTES_MAX)?;
        let json: Value = serde_json::from_slice(value).ok()?;
        let mapping = self.of(record);
        let (envelope, data) = mapping.open(record, json).ok()?;
        let order = mapping.order(record, &envelope, &data).ok()?;
        order.or_else(|| mapping.named(record, &envelope, &data, &mapping.store).ok()?)
    }

    /// The order's id. One of several members has no substitute: subject or key would be another id.
    fn order(&self, record: &Record, envelope: &Envelope, data: &Value) -> Result<Option<String>, Reason> {
        let [pointer] = &self.order.0[..] else {
            let mut parts = Vec::with_capacity(self.order.0.len());
            for pointer in &self.order.0 {
                let Some(part) = data.pointer(pointer).map_or(Ok(None), id_text)? else { return Ok(None) };
                // Orders whose number is blank must not become one.
                if part.is_empty() || part.trim() != part {
                    return Err(reject(
                        "bad-order",
                        format!("{pointer}: a part of the order's id is empty or begins or ends with space"),
                    ));
                }
                parts.push(part.replace('~', "~0").replace(':', "~1"));
            }
            return Ok(Some(parts.join(":")));
        };
        self.named(record, envelope, data, pointer)
    }

    fn named(
        &self,
        record: &Record,
        envelope: &Envelope,
        data: &Value,
        pointer: &str,
    ) -> Result<Option<String>, Reason> {
        let key = record
            .key
            .as_ref()
            .and_then(|key| std::str::from_utf8(key).ok())
            .filter(|_| self.kafka_key != KafkaKey::Store);
        let member = data.pointer(pointer).map_or(Ok(None), id_text)?;
        Ok(member.or_else(|| envelope.subject.clone()).or_else(|| key.map(str::to_owned)))
    }

    fn event(&self, record: &Record, envelope: &Envelope, data: &Value, now: UnixMs) -> Result<Event, Reason> {
        let at = |pointer: &str| data.pointer(pointer).filter(|value| !value.is_null());
        let text = |pointer: &str| at(pointer).and_then(scalar).map(clip);
        let kind = envelope.kind.clone().or_else(|| text(&self.r#type));
        let kind = self.kind(&kind.ok_or_else(|| reject("no-type", "the event has no type"))?)?;
        let key_text = record.key.as_ref().and_then(|key| std::str::from_utf8(key).ok());
        let order = match kind.is_about_a_store() {
            true => self.named(record, envelope, data, &self.store)?,
            false => self.order(record, envelope, data)?,
        };
        let order = order.ok_or_else(|| reject("no-order", "the event names no order"))?;
        let order = Id::new(&order).map_err(|error| reject("bad-order", format!("the order's id: {error}")))?;
        let id_of = |pointer: &str| -> Result<Option<Id>, Reason> {
            let Some(text) = at(pointer).map_or(Ok(None), id_text)? else { return Ok(None) };
            Id::new(&text).map(Some).map_err(|error| reject("bad-id", format!("{pointer}: {error}")))
        };
        let (store, customer, device) = (id_of(&self.store)?, id_of(&self.customer)?, id_of(&self.device)?);
        self.check_key(key_text, &order, store.as_ref())?;
        let shadow = envelope.shadow.as_ref().or_else(|| at(&self.shadow)).cloned().unwrap_or(Value::Bool(false));
        let Value::Bool(shadow) = shadow else {
            return Err(reject("bad-shadow", "the shadow mark is neither true nor false"));
        };
        let mut flags = Vec::new();
        let time = envelope.time.clone().map(Value::String).or_else(|| at(&self.time).cloned());
        let at_ms = time::fact_time(time.as_ref(), &self.time_zone, record.timestamp_ms, now, &mut flags);
        let amount = self.amount(at(&self.amount), kind, &mut flags);
        let details = self.details(data, &mut flags);
        let id = envelope.id.clone().or_else(|| text(&self.id)).map(clip).unwrap_or_else(|| derived_id(record));
        Ok(Event {
            kind,
            order,
            id,
            // Two topics that name no source are two sources all the same: their versions and ids are not to be compared.
            source: envelope.source.clone().or_else(|| text(&self.source)).map_or_else(|| topic_of(record), clip),
            at: at_ms,
            read_at: (record.read_ms > 0).then_some(UnixMs(record.read_ms)),
            version: at(&self.version).and_then(Value::as_u64),
            store,
            customer,
            device,
            amount,
            currency: text(&self.currency),
            code: text(&self.code).filter(|code| !code.is_empty()).map(PickupCode),
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
        let same = match (self.kafka_key, key) {
            (KafkaKey::Any, _) | (_, None) => true,
            (KafkaKey::Order, Some(key)) => key == order.as_str(),
            (KafkaKey::Store, Some(key)) => store.is_none_or(|store| key == store.as_str()),
        };
        if same { Ok(()) } else { Err(reject("key-mismatch", "the record's key and its body name different ones")) }
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
            self.details.iter().filter_map(|name| Some((name.clone(), data.get(name)?.clone()))).collect();
        if kept.is_empty() {
            return None;
        }
        let text = Value::Object(kept).to_string();
        if text.len() > DETAILS_BYTES_MAX {
            flags.push(Flag::Details);
            return None;
        }
        RawValue::from_string(text).ok()
    }
}

/// The topic that a record came from at first: a dead letter that is sent again keeps it in a header, or in its media type.
fn topic_of(record: &Record) -> String {
    let text = |name: &str| record.header(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let named =
        text(ORIGINAL_TOPIC).or_else(|| text("content-type")?.split_once(TOPIC_PARAMETER).map(|(_, topic)| topic));
    named.unwrap_or(&record.part.topic).to_owned()
}

fn check_specversion(version: &str) -> Result<(), Reason> {
    if version.starts_with("1.") { Ok(()) } else { Err(reject("bad-envelope", "only CloudEvents 1.x is understood")) }
}

fn derived_id(record: &Record) -> String {
    let value = record.value.as_deref().unwrap_or_default();
    let hash = xxhash_rust::xxh3::xxh3_128(&[record.part.topic.as_bytes(), b"\0", value].concat());
    format!("hash:{hash:032x}")
}

/// Strings and whole numbers serve as ids. A number that is too large for 64 bits has lost its digits on the way in: two orders could
/// become one, so it is refused instead.
fn id_text(value: &Value) -> Result<Option<String>, Reason> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        _ => Err(reject("bad-id", "an id is a string or a whole number of at most 64 bits")),
    }
}

/// Strings and numbers as they are written.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn clip(text: String) -> String {
    if text.chars().count() <= TEXT_CHARS_MAX { text } else { text.chars().take(TEXT_CHARS_MAX).collect() }
}

/// Digits as they are written, so that no amount passes through floating point.
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
