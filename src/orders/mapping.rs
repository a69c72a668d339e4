//! Decodes a record into an [`Event`]: CloudEvents in both modes, and plain JSON through a mapping.
//!
//! A mapping names the members of the JSON by RFC 6901 pointers, and translates type strings. For CloudEvents it is applied to `data`, and
//! the envelope gives type, id, source and time. Mandatory are the type and the order id; anything else that is missing or invalid becomes a
//! flag. Only a record that cannot be decoded at all is rejected, with a code and a sentence that quote nothing of the content.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::{Event, EventType, Id, UnixMs, id_text};
use serde::{Deserialize, Serialize};

use super::envelope::{self, Envelope};
use super::envelopes::{self, EnvelopeName};
use super::event_fields::FieldReader;
use super::event_time::Zone;
use super::event_types::{IGNORED, TypeRule, TypeRules};
use super::fields::{self, reject, scalar};
use super::header_members::{self, HeaderPointer};
use super::members::{self, Members, PointerTree};
use super::pointers;
use super::prepared::{Opened, RecordView};
use super::subject;

pub use super::envelope::{OWN_EVENT_MEDIA_TYPE, REPAIRED_PARAMETER, TOPIC_PARAMETER, attribute_of_header};
pub use super::own_marks::{PLAIN, STRUCTURED};
pub use super::pointers::OrderIdPointers;

/// Longest value that is decoded. An order event has 300 bytes to a few KiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Extra fields without configuration.
const DEFAULT_EXTRA_FIELDS: [&str; 6] = ["items", "note", "table", "number", "channel", "due"];

/// The unit of the amounts in the chain's events.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AmountUnit {
    /// The currency's smallest unit: 1250 is 12.50.
    #[default]
    Minor,
    /// The main unit, with the decimals of the event's currency by ISO 4217, or else of the chain's: 12.5 or "12.50". Decimal digits are counted, never a
    /// floating-point number.
    Major,
}

/// How amounts are written.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AmountFormat {
    /// A decimal number, or a text with one.
    #[default]
    Decimal,
    /// As Kafka Connect and Debezium write precise decimals: a text with the bytes of a whole number in base64, and `amount_scale` decimals.
    Base64,
}

/// Why a flag was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The pointer of the field.
    pub field: String,
    /// A sentence that quotes nothing of the content.
    pub why: &'static str,
}

/// A record as an event, and what is odd about it.
#[derive(Debug)]
pub struct Decoded {
    /// Usable as it is; the remarks name what was odd.
    pub event: Event,
    /// Why each flag was set.
    pub remarks: Vec<Remark>,
    /// How far the producer's clock is off, where its time is not used for that. Milliseconds; positive is ahead.
    pub clock_offset_ms: Option<i64>,
}

/// How a time that is a number is read.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeNumbers {
    /// Time since 1970, unless the schema of the message calls the column a time without a zone.
    #[default]
    Utc,
    /// What a clock in `time_zone` shows, as if it were UTC: so Debezium writes a column without a zone, such as a `DATETIME`.
    Local,
}

/// What the key of a Kafka record identifies, besides the partition.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaKey {
    /// Unspecified: the key is not checked, and names nothing.
    #[default]
    Any,
    /// The order's id, also of an event that does not name it. A record whose body names another order is rejected and logged as a security
    /// event.
    Order,
    /// The store's id, also of an event that does not name it. A record whose body names another store is rejected likewise.
    Store,
}

/// What the `subject` of a CloudEvent identifies.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The order of an event whose data does not name it, as long as `order` is the default pointer, the subject holds a number that is not the
    /// event's store, customer or device, and no other member may be the order. Everything else is rejected.
    #[default]
    Auto,
    /// The order of an event whose data does not name it. A subject that is the event's store is no order.
    Order,
    /// Unspecified: it names nothing.
    Any,
}

/// Which member of an event's JSON is what. Every pointer is an RFC 6901 pointer into the JSON (for CloudEvents: into `data`), also into JSON that
/// stands in a string. `/__headers/NAME` is the header NAME of the record or request, in any case.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    /// What stands around the events of a record.
    pub envelope: EnvelopeName,
    /// Pointer to the event's type. For CloudEvents the envelope's `type` is used instead.
    #[serde(deserialize_with = "pointers::pointer")]
    pub r#type: String,
    /// Pointer to the event's id: two events with the same source, id and type are one event. Without an id, or with an empty one, 0 or a
    /// word for nothing such as `undefined`, it is the hash of topic, value and the headers that are read. For CloudEvents the envelope's `id` is
    /// used instead.
    #[serde(deserialize_with = "pointers::pointer")]
    pub id: String,
    /// Pointer to the event's source. For CloudEvents the envelope's `source` is used instead; without one it is the topic.
    #[serde(deserialize_with = "pointers::pointer")]
    pub source: String,
    /// Pointer to the order's id, which is mandatory: without it the record's key and a CloudEvent's subject count only where `kafka_key` and
    /// `subject` say so. Several pointers compose the id where a number alone is not unique in the chain; see
    /// [`OrderIdPointers`].
    pub order: OrderIdPointers,
    /// Pointer to the store's id.
    #[serde(deserialize_with = "pointers::pointer")]
    pub store: String,
    /// Pointer to the customer's id.
    #[serde(deserialize_with = "pointers::pointer")]
    pub customer: String,
    /// Pointer to the id of the device that sent the event.
    #[serde(deserialize_with = "pointers::pointer")]
    pub device: String,
    /// Pointer to the order's amount, a number or a text of digits.
    #[serde(deserialize_with = "pointers::pointer")]
    pub amount: String,
    /// Unit of the amount: the currency's smallest, or its main unit.
    pub amount_unit: AmountUnit,
    /// How amounts are written.
    pub amount_format: AmountFormat,
    /// Number of decimals of an amount in base64.
    pub amount_scale: u8,
    /// Pointer to the currency's ISO 4217 code.
    #[serde(deserialize_with = "pointers::pointer")]
    pub currency: String,
    /// Pointer to the pickup code, in events that accept an order or say that it is ready.
    #[serde(deserialize_with = "pointers::pointer")]
    pub pickup_code: String,
    /// Pointer to the reason of a refusal or cancellation.
    #[serde(deserialize_with = "pointers::pointer")]
    pub reason: String,
    /// Pointer to the order's version in its source: an end with a strictly older version than a known one is stale.
    #[serde(deserialize_with = "pointers::pointer")]
    pub version: String,
    /// Pointer to the time of the event, in any common form: RFC 3339 and 9557, HTTP dates, seconds to nanoseconds since 1970 as number or text,
    /// `{"$date": ...}`, or a local time in `time_zone`, also as an array or as fourteen digits. A date alone is no time. For CloudEvents the
    /// envelope's `time` is used if there is one.
    #[serde(deserialize_with = "pointers::pointer")]
    pub time: String,
    /// Time zone of local times, by its IANA name.
    pub time_zone: Zone,
    /// What numbers at `time` are, in rows of the envelope `debezium`.
    pub time_numbers: TimeNumbers,
    /// Pointer to the mark of load-test traffic: true or false.
    #[serde(deserialize_with = "pointers::pointer")]
    pub shadow: String,
    /// Orderbell's type names by the chain's own, or `"ignore"` for events that are none of Orderbell's: they are counted and dropped, without a
    /// dead letter. `"*" = "ignore"` does so with every type that is not listed. Orderbell's names are always accepted as well.
    pub types: TypeRules,
    /// Ids of customers and devices that stand for nobody, besides empty ones and words for nothing: guests must not share a mailbox.
    pub nobody: Vec<String>,
    /// Ids of stores that stand for none, besides empty ones and words for nothing: whoever has no number writes 0, and no till reads that
    /// mailbox.
    pub no_store: Vec<String>,
    /// Further members to keep, as `details` of notices: names at the top, or pointers. All others are dropped. Without this key none are kept
    /// where `order` leads below the top: a `table` there may be the database's.
    #[serde(deserialize_with = "pointers::names_or_pointers")]
    pub extra_fields: Vec<String>,
    /// What the key of a Kafka record identifies.
    pub kafka_key: KafkaKey,
    /// What the `subject` of a CloudEvent identifies.
    pub subject: Subject,
    /// The chain's currency, in which amounts without one are. It is not part of this section.
    #[serde(skip)]
    pub chain_currency: Option<String>,
    /// The topic that Orderbell writes, see [`Self::with_own_topic`]. It is not part of this section.
    #[serde(skip)]
    pub own_topic: Option<String>,
    /// Topics with other names for their members: each has a complete mapping of its own, which inherits nothing from this one.
    pub topics: BTreeMap<String, Self>,
    #[serde(skip)]
    compiled: CompiledOnce,
}

/// What a mapping's keys say, made ready for many records.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Another one for each, in this process: it tells whether a mapping is the one that read a record.
    pub(super) number: u64,
    /// Every pointer, and those of an envelope.
    pub(super) tree: PointerTree,
    pub(super) extra_fields: Vec<ExtraField>,
    /// Those of the pointers that lead to headers.
    pub(super) headers: Vec<HeaderPointer>,
}

/// A further member to keep.
#[derive(Debug)]
pub(super) struct ExtraField {
    /// Its name in a notice's `details`.
    pub(super) name: String,
    pub(super) pointer: String,
}

/// Made when the first record is decoded. A copy of a mapping, whose keys may then be changed, has none.
#[derive(Debug, Default)]
struct CompiledOnce(OnceLock<Box<Compiled>>);

impl Clone for CompiledOnce {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Equal keys are compiled into the same.
impl PartialEq for CompiledOnce {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for CompiledOnce {}

impl Default for Mapping {
    fn default() -> Self {
        let at = |pointer: &str| pointer.to_owned();
        Self {
            envelope: EnvelopeName::Auto,
            r#type: at("/type"),
            id: at("/id"),
            source: at("/source"),
            order: OrderIdPointers::default(),
            store: at("/store"),
            customer: at("/customer"),
            device: at("/device"),
            amount: at("/amount"),
            amount_unit: AmountUnit::Minor,
            amount_format: AmountFormat::Decimal,
            amount_scale: 2,
            currency: at("/currency"),
            pickup_code: at("/pickup_code"),
            reason: at("/reason"),
            version: at("/version"),
            time: at("/time"),
            time_zone: Zone::default(),
            time_numbers: TimeNumbers::Utc,
            shadow: at("/shadow"),
            types: TypeRules::default(),
            nobody: vec!["0".into()],
            no_store: vec!["0".into()],
            extra_fields: DEFAULT_EXTRA_FIELDS.map(String::from).to_vec(),
            kafka_key: KafkaKey::Any,
            subject: Subject::Auto,
            chain_currency: None,
            own_topic: None,
            topics: BTreeMap::new(),
            compiled: CompiledOnce::default(),
        }
    }
}

/// Whoever has no number writes 0 for every order.
const NO_NUMBER: &str = "0";

impl Mapping {
    /// Decodes a record.
    ///
    /// # Errors
    /// The reason why it cannot be decoded: for the dead letter, or for the answer to the producer that posted it.
    pub fn decode<'r>(&self, record: impl Into<RecordView<'r>>, now: UnixMs) -> Result<Event, Reason> {
        self.explain(record, now).map(|decoded| decoded.event)
    }

    /// Decodes a record, and says why each flag was set.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn explain<'r>(&self, record: impl Into<RecordView<'r>>, now: UnixMs) -> Result<Decoded, Reason> {
        let view = record.into();
        let (record, mapping) = (view.record, self.of(view.record));
        let prepared = view.read(mapping);
        let opened = prepared.open(mapping)?;
        opened.row.check_dated()?;
        let members = opened.members()?;
        let looks_paid = || mapping.looks_paid_beside_its_key(record, &opened, members);
        mapping
            .event(record, &opened, members, now)
            .map_err(|reason| envelopes::refine(reason, opened.data, looks_paid))
    }

    /// What is allowed and rarely meant, in sentences for whoever wrote the mapping.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let named = self.topics.iter().map(|(topic, mapping)| (format!("mapping.topics.{topic}"), mapping));
        let all = std::iter::once((String::from("mapping"), self)).chain(named);
        let is_shared = |mapping: &Self| mapping.order.0 == [mapping.id.as_str()] && !mapping.envelope.gives_ids();
        let shared = all.filter(|(_, mapping)| is_shared(mapping));
        let sentence = |(section, mapping): (String, &Self)| {
            format!(
                "{section}: id and order are one pointer, {}. Two events of the same type about one order, such as two refunds, have one id: \
                 the second is a duplicate if it states the same, and a dead letter (event-conflict) if it contradicts the order; set id to \"/none\" if the events have no id of their own",
                mapping.id
            )
        };
        shared.map(sentence).collect()
    }

    /// The mapping of a record: the default one for Orderbell's own events, the topic's own if it has one, otherwise this one.
    #[must_use]
    pub fn of(&self, record: &Record) -> &Self {
        static DEFAULT: LazyLock<Mapping> = LazyLock::new(Mapping::default);
        if self.is_own(record) {
            return &DEFAULT;
        }
        self.topics.get(self.topic_of(record)).unwrap_or(self)
    }

    /// The id of a record's order, by which its queue is chosen. Whenever [`Self::decode`] succeeds, it finds the same id: so two records of
    /// one order are never processed at the same time.
    #[must_use]
    pub fn order_of<'r>(&self, record: impl Into<RecordView<'r>>) -> Option<String> {
        let view = record.into();
        let (record, mapping) = (view.record, self.of(view.record));
        if let Some(key) = mapping.order_in_key(record) {
            return Some(key);
        }
        let prepared = view.read(mapping);
        let opened = prepared.open(mapping).ok()?;
        let members = opened.members().ok()?;
        let order = opened.order().ok()?;
        order.or_else(|| mapping.store(record, members).ok()?.or_else(|| opened.envelope.subject.clone()))
    }

    /// The record's key where it is the order, by which the queue is chosen: a record whose body names another order is rejected, whatever its queue.
    pub(super) fn order_in_key(&self, record: &Record) -> Option<String> {
        if self.kafka_key == KafkaKey::Order { key_text(record) } else { None }
    }

    /// The order's id: the member, or else the envelope's subject or the record's key where the configuration says that it is the order. A
    /// subject that is the event's store is no order. Where the id is composed, a missing part has no substitute.
    pub(super) fn order(
        &self,
        record: &Record,
        envelope: &Envelope,
        data: &str,
        members: &Members<'_, '_>,
    ) -> Result<Option<String>, Reason> {
        if let Some(id) = self.named_order(members)? {
            return Ok(Some(id));
        }
        if self.order.0.len() > 1 {
            return Ok(None);
        }
        let is_id = |id: &String| id != NO_NUMBER;
        let key = self.order_in_key(record).filter(is_id);
        if key.is_some() && self.subject != Subject::Order {
            return Ok(key);
        }
        let subject = envelope.subject.clone().filter(is_id);
        let is_order = |subject: &String| self.is_subject_order(record, envelope, data, members, subject);
        Ok(subject.filter(is_order).or(key))
    }

    /// The order's id as the members name it.
    pub(super) fn named_order(&self, members: &Members<'_, '_>) -> Result<Option<String>, Reason> {
        let part = |pointer| Ok::<_, Reason>(id_at(members, pointer)?.filter(|id| id != NO_NUMBER));
        if let [pointer] = &self.order.0[..] {
            return part(pointer);
        }
        let mut parts = Vec::with_capacity(self.order.0.len());
        for pointer in &self.order.0 {
            let Some(part) = part(pointer)? else { return Ok(None) };
            parts.push(part.replace('~', "~0").replace(':', "~1"));
        }
        Ok(Some(parts.join(":")))
    }

    fn is_subject_order(
        &self,
        record: &Record,
        envelope: &Envelope,
        data: &str,
        members: &Members<'_, '_>,
        subject: &str,
    ) -> bool {
        if self.is_own(record) {
            return true;
        }
        let store = self.store(record, members).ok().flatten();
        match self.subject {
            _ if store.as_deref() == Some(subject) => false,
            Subject::Auto if self.order == OrderIdPointers::default() => {
                subject::is_order(self, envelope, data, subject, store.as_deref())
            }
            Subject::Order => true,
            Subject::Auto | Subject::Any => false,
        }
    }

    /// The mapping of a chain with this currency.
    #[must_use]
    pub fn with_chain_currency(mut self, currency: &str) -> Self {
        let all = self.topics.values_mut().map(|mapping| &mut mapping.chain_currency);
        all.chain([&mut self.chain_currency]).for_each(|known| *known = Some(currency.to_owned()));
        self
    }

    /// The store that an event names, or else the record's key where it is the store.
    pub(super) fn store(&self, record: &Record, members: &Members<'_, '_>) -> Result<Option<String>, Reason> {
        let key = || key_text(record).filter(|_| self.kafka_key == KafkaKey::Store);
        // A till may be that of store 0.
        let is_store = |id: &String| self.is_own(record) || !is_one_of(&self.no_store, id);
        Ok(id_at(members, &self.store)?.filter(is_store).or_else(|| key().filter(is_store)))
    }

    /// What the keys say, made ready for many records.
    pub(super) fn compiled(&self) -> &Compiled {
        static COMPILED: AtomicU64 = AtomicU64::new(0);
        self.compiled.0.get_or_init(|| {
            let of_field = |name: &String| ExtraField {
                name: name.rsplit_once('/').map_or(name.as_str(), |(_, name)| name).to_owned(),
                pointer: members::pointer_to(name),
            };
            let extra_fields: Vec<_> = self.extra_fields().iter().map(of_field).collect();
            let of_fields = extra_fields.iter().map(|field| field.pointer.as_str());
            let pointers: Vec<&str> = self.pointers().chain(of_fields).collect();
            let headers = header_members::pointers(&pointers);
            let is_header = |pointer: &&str| headers.iter().any(|one| one.pointer == *pointer);
            let into_json = pointers.into_iter().filter(|pointer| !is_header(pointer));
            let mut tree = PointerTree::new(envelope::POINTERS.into_iter().chain(into_json));
            headers.iter().for_each(|one| tree.add_without_place(&one.pointer));
            Box::new(Compiled { number: COMPILED.fetch_add(1, Ordering::Relaxed), tree, extra_fields, headers })
        })
    }

    /// Every pointer into the data.
    pub(super) fn pointers(&self) -> impl Iterator<Item = &str> {
        let single = [
            &self.r#type,
            &self.id,
            &self.source,
            &self.store,
            &self.customer,
            &self.device,
            &self.amount,
            &self.currency,
            &self.pickup_code,
            &self.reason,
            &self.version,
            &self.time,
            &self.shadow,
        ];
        single.into_iter().chain(&self.order.0).map(String::as_str)
    }

    fn event(
        &self,
        record: &Record,
        opened: &Opened<'_>,
        members: &Members<'_, '_>,
        now: UnixMs,
    ) -> Result<Decoded, Reason> {
        let (envelope, row) = (opened.envelope, opened.row);
        let kind = envelope.kind.clone().or_else(|| members.at(&self.r#type).and_then(scalar));
        let kind = self.kind(&kind.ok_or_else(|| no_type(opened.data.as_bytes(), &self.r#type))?)?;
        let order = match kind.is_about_a_store() {
            true => self.store(record, members)?.or_else(|| envelope.subject.clone()),
            false => opened.order()?,
        };
        let order = order.ok_or_else(|| self.no_order(kind, envelope))?;
        let order = Id::parse(&order).map_err(|error| reject("bad-order", format!("the order's id: {error}")))?;
        let store = self.store(record, members)?.map(|text| Id::parse(&text)).transpose();
        let store = store.map_err(|error| reject("bad-id", format!("{}: {error}", self.store)))?;
        self.check_key(key_text(record), &order, store.as_ref())?;
        let (flags, remarks) = (Vec::new(), Vec::new());
        let clock_offset_ms = None;
        let mut reader =
            FieldReader { mapping: self, record, envelope, members, row, kind, flags, remarks, clock_offset_ms };
        let event = reader.event(order, store, now)?;
        Ok(Decoded { event, remarks: reader.remarks, clock_offset_ms: reader.clock_offset_ms })
    }

    /// Says what names no order, and what to configure.
    fn no_order(&self, kind: EventType, envelope: &Envelope) -> Reason {
        if kind.is_about_a_store() {
            return reject("no-order", format!("the event names no store at {}", self.store));
        }
        let mut message = format!("the event names no order at {}", self.order.0.join(" and "));
        if self.subject == Subject::Auto && self.order.0.len() == 1 && envelope.subject.is_some() {
            message.push_str(", and its subject may be something else: set order to the pointer of the order, or subject = \"order\"");
        }
        reject("no-order", message)
    }

    /// The extra fields, unless nobody asked for them where they would be taken from: at the top, beside what is no order, a `table` is the
    /// database's.
    fn extra_fields(&self) -> &[String] {
        let is_top = |pointer: &String| pointer.rfind('/') == Some(0);
        let is_asked = !self.extra_fields.iter().eq(DEFAULT_EXTRA_FIELDS);
        if is_asked || self.order.0.iter().all(is_top) { &self.extra_fields } else { &[] }
    }

    pub(super) fn kind(&self, name: &str) -> Result<EventType, Reason> {
        let name = id_text::trim(name);
        match self.types.rule(name) {
            Some(TypeRule::Is(kind)) => Ok(kind),
            Some(TypeRule::Ignore) => Err(reject(IGNORED, "the configuration ignores events of this type")),
            None if self.types.is_payment_spelt_otherwise(name) => Err(reject(
                "unknown-type",
                "the event's type is another spelling of one that is order.paid: list it in types",
            )),
            None => Err(reject("unknown-type", "the event's type is not known")),
        }
    }

    fn check_key(&self, key: Option<String>, order: &Id, store: Option<&Id>) -> Result<(), Reason> {
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
}

/// Says what is there instead of an event with a type.
fn no_type(data: &[u8], pointer: &str) -> Reason {
    match serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(data) {
        Ok(items) => reject("no-type", format!("the value is an array of {} items, which are no events", items.len())),
        Err(_) => reject("no-type", format!("the event has no type at {pointer}")),
    }
}

/// The id that a pointer leads to.
fn id_at(members: &Members<'_, '_>, pointer: &str) -> Result<Option<String>, Reason> {
    let id = |json| fields::id(json).map_err(|reason| reject(reason.code, format!("{pointer}: {}", reason.message)));
    members.at(pointer).map_or(Ok(None), id)
}

/// True for an id that a list of the configuration names, which are read as ids are.
pub(super) fn is_one_of(list: &[String], id: &str) -> bool {
    list.iter().any(|named| id_text::plain(named) == id)
}

/// The record's key, if it is an id.
pub(super) fn key_text(record: &Record) -> Option<String> {
    let key = std::str::from_utf8(record.key.as_ref()?).ok()?;
    id_text::id(&id_text::unquote(key)).map(str::to_owned)
}

#[cfg(test)]
#[path = "mapping_id_tests.rs"]
mod id_tests;
#[cfg(test)]
#[path = "prepared_tests.rs"]
mod prepared_tests;
#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
