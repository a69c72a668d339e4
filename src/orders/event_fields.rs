//! The fields of an event besides its order: each is read by itself, and what is wrong with one costs that one.
//!
//! A paid order that can be announced is announced. A customer, device, amount, time or text that cannot be read is left out, and a flag on the
//! notice says so. Only the store, without which nobody is notified, and the mark of load-test traffic reject a record.

use std::collections::BTreeMap;

use orderbell_consumers::{Reason, Record};
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode, RowChange};
use orderbell_protocol::{Event, EventType, Id, UnixMs, id_text};
use serde_json::value::RawValue;

use super::amount;
use super::envelope::Envelope;
use super::envelopes::CapturedRow;
use super::event_time::{self, TimeRules};
use super::fields::{self, event_id, reject, scalar, within_limit};
use super::header_members;
use super::json_text::{self, compact};
use super::mapping::{Mapping, Remark, is_one_of};
use super::members::Members;
use super::sha256;

/// Longer extra fields are left out of notices, with a flag: a mailbox row must fit into a page of a poll.
const MAX_DETAILS_BYTES: usize = 8 * 1024;
/// Pickup codes, reasons and currencies are cut to this length, in characters.
const MAX_TEXT_CHARS: usize = 200;

/// Reads the fields of one event, and collects the flags.
pub(super) struct FieldReader<'a, 'j> {
    pub(super) mapping: &'a Mapping,
    pub(super) record: &'a Record,
    pub(super) envelope: &'a Envelope,
    pub(super) members: &'a Members<'a, 'j>,
    pub(super) row: CapturedRow,
    pub(super) kind: EventType,
    pub(super) flags: Vec<Flag>,
    /// For whoever tries a mapping.
    pub(super) remarks: Vec<Remark>,
    /// How far the producer's clock is off. Milliseconds; positive is ahead.
    pub(super) clock_offset_ms: Option<i64>,
}

impl FieldReader<'_, '_> {
    /// The event about `order`, which names `store`.
    pub(super) fn event(&mut self, order: Id, store: Option<Id>, now: UnixMs) -> Result<Event, Reason> {
        let (mapping, members) = (self.mapping, self.members);
        if self.envelope.is_repaired || mapping.was_repaired(self.record) {
            self.flag(Flag::Text, "", "the JSON was damaged and was repaired");
        }
        let shadow = self.shadow()?;
        let (id, source) = (id_of(mapping, self.record, self.envelope, members)?, self.source()?);
        let customer = self.person(&mapping.customer, Flag::Customer);
        let device = self.person(&mapping.device, Flag::Device);
        let (at, notify_at) = self.time(now)?;
        let currency = self.text(&mapping.currency);
        let amount = self.amount(currency.as_deref());
        let reason = self.text(&mapping.reason);
        // Other events have members of that name that are no pickup codes, such as the code of the event's kind.
        let gives_code = matches!(self.kind, EventType::Accepted | EventType::Ready);
        let pickup_code = if gives_code { self.text(&mapping.pickup_code) } else { None };
        let details = self.details();
        Ok(Event {
            kind: self.kind,
            order,
            id,
            source,
            at,
            notify_at,
            read_at: (self.record.read_ms > 0).then_some(UnixMs(self.record.read_ms)),
            version: members.at(&mapping.version).and_then(fields::version),
            store,
            customer,
            device,
            amount,
            currency,
            pickup_code: pickup_code.map(PickupCode),
            reason,
            details,
            flags: self.flags.clone(),
            shadow,
            row: self.row.change,
        })
    }

    fn flag(&mut self, flag: Flag, pointer: &str, why: &'static str) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
        self.remarks.push(Remark { field: pointer.to_owned(), why });
    }

    /// Events without a source have their topic as source: versions and ids of two topics must not be compared.
    fn source(&self) -> Result<String, Reason> {
        let source = self.envelope.source.clone();
        let source = source.or_else(|| self.members.at(&self.mapping.source).and_then(scalar));
        Ok(within_limit("source", source)?.unwrap_or_else(|| self.mapping.topic_of(self.record).to_owned()))
    }

    /// A customer or device. Nobody is no mistake: guests have no id, or all have the same.
    fn person(&mut self, pointer: &str, flag: Flag) -> Option<Id> {
        let id = self.members.at(pointer).map_or(Ok(None), fields::id);
        // A till may be called 0.
        let is_nobody = |id: &String| !self.mapping.is_own(self.record) && is_one_of(&self.mapping.nobody, id);
        let id = id.map(|id| id.filter(|id| !is_nobody(id)));
        match id.map(|id| id.map(|id| Id::parse(&id)).transpose()) {
            Ok(Ok(id)) => id,
            Err(_) | Ok(Err(_)) => {
                self.flag(flag, pointer, "the value is no id");
                None
            }
        }
    }

    fn shadow(&self) -> Result<bool, Reason> {
        let mark = self.envelope.shadow.as_deref().or_else(|| self.members.at(&self.mapping.shadow));
        let mark = mark.map(|mark| scalar(mark).unwrap_or_else(|| mark.to_owned()).to_ascii_lowercase());
        match mark.as_deref().map(id_text::trim) {
            None | Some("" | "false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(reject("bad-shadow", "the shadow mark is neither true nor false")),
        }
    }

    fn time(&mut self, now: UnixMs) -> Result<(UnixMs, Option<UnixMs>), Reason> {
        // The envelope's time is text, also where a producer wrote a number.
        let in_envelope = self.envelope.time.as_deref().map(json_text::quoted);
        let json = in_envelope.as_deref().or_else(|| self.members.at(&self.mapping.time));
        let is_old_row = self.row.change.is_some_and(RowChange::is_old);
        let rules = TimeRules {
            zone: &self.mapping.time_zone,
            has_local_numbers: self.row.has_local_time,
            is_late: is_old_row || self.mapping.is_replayed(self.record),
        };
        let time = event_time::resolve(json, rules, self.record.timestamp_ms, now);
        self.row.check_time_is_usable(time.why.is_none())?;
        if let Some(why) = time.why {
            self.flag(Flag::Clock, &self.mapping.time, why);
        }
        self.clock_offset_ms = time.clock_offset_ms;
        Ok((time.at, time.notify_at))
    }

    fn amount(&mut self, currency: Option<&str>) -> Option<MinorUnits> {
        let pointer = &self.mapping.amount;
        match self.members.at(pointer).map(|json| amount::read(json, self.mapping, currency)) {
            Some(Ok(minor)) => return Some(minor),
            Some(Err(why)) => self.flag(Flag::Amount, pointer, why),
            None if matches!(self.kind, EventType::Created | EventType::Paid) => {
                self.flag(Flag::Amount, pointer, "the event has no amount");
            }
            None => {}
        }
        None
    }

    /// A text of one line. What is none, or had to be changed, is flagged.
    fn text(&mut self, pointer: &str) -> Option<String> {
        let json = self.members.at(pointer)?;
        let Some(text) = scalar(json) else {
            // PHP writes false where it has nothing.
            if json != "false" {
                self.flag(Flag::Text, pointer, "the value is no text");
            }
            return None;
        };
        let text = id_text::trim(&text);
        let line: String = text.chars().take(MAX_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line != text {
            self.flag(Flag::Text, pointer, "the text has control characters, or was cut");
        }
        (!line.is_empty()).then_some(line)
    }

    /// The extra fields as one JSON object, each as the producer wrote it: no digit of a number changes.
    fn details(&mut self) -> Option<Box<RawValue>> {
        let fields = &self.mapping.compiled().extra_fields;
        let there = fields.iter().filter_map(|field| Some((&*field.name, self.members.at(&field.pointer)?)));
        let kept = there.map(|(name, json)| Ok((name, RawValue::from_string(compact(json))?)));
        let kept: Result<BTreeMap<&str, Box<RawValue>>, serde_json::Error> = kept.collect();
        let object = kept
            .and_then(|kept| if kept.is_empty() { Ok(None) } else { serde_json::value::to_raw_value(&kept).map(Some) });
        let Ok(object) = object else {
            self.flag(Flag::Details, "extra_fields", "they cannot be written again as JSON and were left out");
            return None;
        };
        let object = object?;
        // Parts of a record are taken out of its repaired text: what was lost is seen here only.
        if object.get().contains('\u{fffd}') || object.get().contains("\\ufffd") {
            self.flag(Flag::Text, "extra_fields", "they have characters that were damaged");
        }
        if object.get().len() > MAX_DETAILS_BYTES {
            self.flag(Flag::Details, "extra_fields", "they are longer than 8 KiB and were left out");
            return None;
        }
        Some(object)
    }
}

/// The producer's id of an event, or else a hash of topic, value and the headers that the mapping reads: the same whenever the same event comes again.
/// Without such headers it is that of topic and value alone.
pub(super) fn id_of(
    mapping: &Mapping,
    record: &Record,
    envelope: &Envelope,
    members: &Members<'_, '_>,
) -> Result<String, Reason> {
    let id = match envelope.id.as_deref() {
        // A till may count its events from 0.
        Some(id) if mapping.is_own(record) => Some(id.to_owned()),
        id => id.and_then(event_id).or_else(|| event_id(&members.at(&mapping.id).and_then(scalar)?)),
    };
    Ok(within_limit("id", id)?.unwrap_or_else(|| {
        let value = record.value.as_deref().unwrap_or_default();
        let stated = header_members::stated(mapping, record);
        let headers = stated.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
        let parts: Vec<&[u8]> = [mapping.topic_of(record).as_bytes(), value].into_iter().chain(headers).collect();
        let hash = sha256::hash_128(&parts);
        format!("hash:{hash:032x}")
    }))
}
