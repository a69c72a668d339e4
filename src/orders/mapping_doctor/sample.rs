//! The events of a sample, as a mapping sees them.

use std::collections::BTreeMap;

use orderbell_consumers::Record;
use orderbell_protocol::event::RowChange;
use orderbell_protocol::{UnixMs, id_text};

use super::super::envelope;
use super::super::envelopes::wall_times;
use super::super::envelopes::{self, EnvelopeName as Name};
use super::super::fields::{event_id, scalar};
use super::super::form;
use super::super::json_text;
use super::super::mapping::{Mapping, key_text};
use super::super::prepared::RecordView;
use super::super::sample_run::{parts_of, quietly};
use super::member_stats::MemberTable;

/// Records, the events in them, and the members of these.
pub(super) struct Sample {
    /// Number of records before they were taken apart.
    pub(super) records: u64,
    /// Records that hold several events, and how many these are.
    pub(super) several: (u64, u64),
    /// Records of one event each.
    pub(super) parts: Vec<Record>,
    /// How many records are in each envelope.
    pub(super) envelopes: BTreeMap<&'static str, u64>,
    /// What can be read of the parts.
    pub(super) events: Vec<SampleEvent>,
    pub(super) members: MemberTable,
}

/// What one event says.
pub(super) struct SampleEvent {
    /// Index of its record in [`Sample::parts`].
    pub(super) part: usize,
    /// The producer's name of its type.
    pub(super) kind: Option<String>,
    pub(super) source: String,
    /// The producer's id.
    pub(super) id: Option<String>,
    /// The subject of a CloudEvent.
    pub(super) subject: Option<String>,
    /// The record's key.
    pub(super) key: Option<String>,
    pub(super) order: Option<String>,
    pub(super) store: Option<String>,
    /// JSON.
    pub(super) time: Option<String>,
    /// JSON.
    pub(super) version: Option<String>,
    /// Its attributes are those of an envelope: pointers to type, id, source and time have no effect.
    pub(super) is_in_envelope: bool,
    /// When its record was written. Milliseconds since 1970; 0 when that is unknown.
    pub(super) recorded_ms: i64,
    /// Its record was written long after it: once more, for a snapshot, or for a change of something else.
    pub(super) is_late: bool,
    /// A number that is its time is read as a local time.
    pub(super) has_local_numbers: bool,
    /// Its time is a number that may be a local time, for all that is known.
    pub(super) may_be_local: bool,
}

impl Sample {
    pub(super) fn read(records: &[Record], mapping: &Mapping, now: UnixMs) -> Self {
        let mut sample = Self {
            records: records.len() as u64,
            several: (0, 0),
            parts: Vec::with_capacity(records.len()),
            envelopes: BTreeMap::new(),
            events: Vec::new(),
            members: MemberTable::default(),
        };
        for record in records {
            let name = quietly(|| Some(envelope_name(record))).unwrap_or("records that cannot be read");
            *sample.envelopes.entry(name).or_default() += 1;
            let parts = parts_of(mapping, record);
            if parts.len() > 1 {
                sample.several.0 += 1;
                sample.several.1 += parts.len() as u64;
            }
            sample.parts.extend(parts.into_owned());
        }
        for (part, record) in sample.parts.iter().enumerate() {
            let Some((event, data)) = quietly(|| SampleEvent::read(mapping, record, part)) else { continue };
            sample.members.add(sample.events.len(), &data, &mapping.time_zone, now);
            sample.events.push(event);
        }
        sample
    }

    /// The events that the mapping makes events about orders of, or would if it knew their order.
    pub(super) fn about_orders(&self, mapping: &Mapping) -> Vec<(usize, &SampleEvent)> {
        let is_one = |event: &SampleEvent| {
            event.kind.as_ref().is_some_and(|kind| mapping.kind(kind).is_ok_and(|kind| !kind.is_about_a_store()))
        };
        self.events.iter().enumerate().filter(|(_, event)| is_one(event)).collect()
    }
}

impl SampleEvent {
    /// The event of a record of one event, and its JSON.
    fn read(mapping: &Mapping, record: &Record, part: usize) -> Option<(Self, String)> {
        let prepared = RecordView::from(record).read(mapping);
        let opened = prepared.open(mapping).ok()?;
        // No event is made of it.
        opened.row.check_dated().ok()?;
        let members = opened.members().ok()?;
        let envelope = opened.envelope;
        let at = |pointer: &str| members.at(pointer).and_then(scalar);
        let kind = envelope.kind.clone().or_else(|| at(&mapping.r#type));
        let kind = kind.map(|kind| id_text::trim(&kind).to_owned()).filter(|kind| !id_text::is_nothing(kind));
        let id = envelope.id.clone().or_else(|| at(&mapping.id));
        let in_envelope = envelope.time.as_deref().map(json_text::quoted);
        let time = in_envelope.or_else(|| members.at(&mapping.time).map(str::to_owned));
        let event = Self {
            part,
            kind,
            source: envelope
                .source
                .clone()
                .or_else(|| at(&mapping.source))
                .unwrap_or_else(|| mapping.topic_of(record).to_owned()),
            id: id.and_then(|id| event_id(&id)),
            subject: envelope.subject.clone(),
            key: key_text(record),
            order: opened.order().ok().flatten(),
            store: mapping.store(record, members).ok().flatten(),
            may_be_local: time.as_deref().is_some_and(|json| wall_times::may_be_at(mapping, json)),
            time,
            version: members.at(&mapping.version).map(str::to_owned),
            is_in_envelope: envelope.id.is_some(),
            recorded_ms: record.timestamp_ms.max(0),
            is_late: opened.row.change.is_some_and(RowChange::is_old) || mapping.is_replayed(record),
            has_local_numbers: opened.row.has_local_time,
        };
        let data = opened.data.to_string();
        Some((event, data))
    }
}

/// What stands around the events of a record, whatever the mapping says.
fn envelope_name(record: &Record) -> &'static str {
    if envelope::attribute(record, "specversion").is_some() {
        return "CloudEvents in binary mode";
    }
    let Some(value) = record.value.as_deref() else { return "records without a value" };
    let Ok(json) = json_text::read(value) else { return "records that are not JSON" };
    match envelopes::likely(&json.text) {
        Some(Name::Canal) => "messages of canal",
        Some(Name::Debezium) => "change events of Debezium",
        Some(Name::Maxwell) => "messages of Maxwell",
        Some(Name::MassTransit) => "messages of MassTransit",
        _ if json.text.starts_with('[') => "arrays of events",
        _ if form::is_likely(value) => "forms",
        _ if !json.text.starts_with('{') => "records that are not JSON",
        _ if envelope::is_structured(&json.text) => "CloudEvents in structured mode",
        _ => "plain JSON",
    }
}
