//! A record's JSON is read once: what its reading found is kept for all that is asked of the record afterwards.
//!
//! ```text
//!   poll thread: record --read--> PreparedRecord --> the order's id, by which the queue is chosen
//!   shard:       record, PreparedRecord --> event; whether it is ignored, or may be a paid order
//! ```
//!
//! Members are kept as places in the text, and the text as a part of the record's value, unless something had to be changed in it: so what is kept is
//! small, and shares the record's memory. Refused: the decoded event, which depends on the time at which it is handled.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use orderbell_consumers::{KeyHash, Part, Parts, Reason, Record};

use super::envelope::{self, Enclosed, Envelope};
use super::envelopes::{self, CapturedRow, EventText};
use super::fields::reject;
use super::header_members::HeaderMembers;
use super::json_text::JsonText;
use super::mapping::Mapping;
use super::members::{Members, Places};

/// What reading a record found, by the mapping that read it. Clones share it.
#[derive(Clone, Debug)]
pub struct PreparedRecord(Arc<Reading>);

#[derive(Debug)]
struct Reading {
    /// [`Compiled::number`](super::mapping::Compiled::number) of the mapping that read it.
    mapping: u64,
    found: Result<Found, Reason>,
}

/// What was found in a record that is JSON in a known envelope.
#[derive(Debug)]
struct Found {
    envelope: Envelope,
    /// The JSON text that pointers lead into. It is text in UTF-8.
    data: Bytes,
    /// Bytes of the data that are not the record's own.
    copied_bytes: usize,
    row: CapturedRow,
    headers: HeaderMembers,
    members: Result<Places, Reason>,
    /// The order's id, unless what names it is no id. `None` too where the members cannot be read.
    order: Result<Option<String>, Reason>,
}

/// A record whose event is asked for, with what an earlier reading found if there was one.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'r> {
    pub(super) record: &'r Record,
    prepared: Option<&'r PreparedRecord>,
}

impl<'r> From<&'r Record> for RecordView<'r> {
    fn from(record: &'r Record) -> Self {
        Self { record, prepared: None }
    }
}

impl<'r> From<(&'r Record, Option<&'r PreparedRecord>)> for RecordView<'r> {
    fn from((record, prepared): (&'r Record, Option<&'r PreparedRecord>)) -> Self {
        Self { record, prepared }
    }
}

impl RecordView<'_> {
    /// What its reading by this mapping finds. What another mapping found is of no use.
    pub(super) fn read(self, mapping: &Mapping) -> PreparedRecord {
        let known = self.prepared.filter(|prepared| prepared.0.mapping == mapping.compiled().number);
        known.cloned().unwrap_or_else(|| PreparedRecord::read(mapping, self.record, None))
    }
}

/// A record's event as its reading found it.
pub(super) struct Opened<'o> {
    pub(super) envelope: &'o Envelope,
    /// JSON text, not validated where it stands in base64 or in a string.
    pub(super) data: &'o str,
    pub(super) row: CapturedRow,
    members: Result<Members<'o, 'o>, &'o Reason>,
    order: &'o Result<Option<String>, Reason>,
}

impl<'o> Opened<'o> {
    /// The members of the data that pointers lead to.
    ///
    /// # Errors
    /// The data is not JSON.
    pub(super) fn members(&self) -> Result<&Members<'o, 'o>, Reason> {
        self.members.as_ref().map_err(|reason| (*reason).clone())
    }

    /// The order's id.
    ///
    /// # Errors
    /// What names the order is no id.
    pub(super) fn order(&self) -> Result<Option<String>, Reason> {
        self.order.clone()
    }
}

impl PreparedRecord {
    /// Reads a record, whose mapping this is. `cleaned` is the text of its value, if it is known.
    fn read<'r>(mapping: &Mapping, record: &'r Record, cleaned: Option<JsonText<'r>>) -> Self {
        let found = Found::read(mapping, record, cleaned);
        Self(Arc::new(Reading { mapping: mapping.compiled().number, found }))
    }

    /// The bytes that it holds beside the record.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let held = match &self.0.found {
            Ok(found) => found.bytes(),
            Err(reason) => reason.message.len(),
        };
        (size_of::<Reading>() + held) as u64
    }

    /// The event that was found, as the pointers of the mapping that read it lead into it.
    ///
    /// # Errors
    /// The record is not JSON, or not in a known envelope.
    pub(super) fn open<'o>(&'o self, mapping: &'o Mapping) -> Result<Opened<'o>, Reason> {
        let found = self.0.found.as_ref().map_err(Clone::clone)?;
        let members = found.members(mapping);
        let Found { envelope, row, order, .. } = found;
        Ok(Opened { envelope, data: found.text(), row: *row, members, order })
    }
}

impl Found {
    fn read<'r>(mapping: &Mapping, record: &'r Record, cleaned: Option<JsonText<'r>>) -> Result<Self, Reason> {
        let EventText { json, row, headers } = envelopes::text(mapping, record, cleaned)?;
        let Enclosed { envelope, data, members } = envelope::open(record, &json, &mapping.compiled().tree)?;
        let shared = record.value.as_ref().and_then(|value| part_of(value, &data));
        let copied_bytes = if shared.is_some() { 0 } else { data.len() };
        let data = shared.unwrap_or_else(|| match data {
            // Without what it could still grow by: its length is what is counted.
            Cow::Owned(text) => Bytes::from(text.into_boxed_str().into_boxed_bytes()),
            Cow::Borrowed(text) => Bytes::copy_from_slice(text.as_bytes()),
        });
        let members =
            members.map_err(|error| reject("not-json", format!("the data is not JSON (column {})", error.column())));
        let mut found = Self { envelope, data, copied_bytes, row, headers, members, order: Ok(None) };
        if let Ok(members) = found.members(mapping) {
            found.order = mapping.order(record, &found.envelope, found.text(), &members);
        }
        Ok(found)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.data).expect("it was text when it was read")
    }

    fn members<'o>(&'o self, mapping: &'o Mapping) -> Result<Members<'o, 'o>, &'o Reason> {
        let mut members = Members::at_places(self.text(), self.members.as_ref()?, &mapping.compiled().tree);
        self.headers.add_to(&mut members);
        Ok(members)
    }

    fn bytes(&self) -> usize {
        let order =
            self.order.as_ref().map_or_else(|reason| reason.message.len(), |id| id.as_ref().map_or(0, String::len));
        let members = self.members.as_ref().map_or_else(|reason| reason.message.len(), Places::bytes);
        self.copied_bytes + self.envelope.bytes() + self.headers.bytes() + members + order
    }
}

/// The part of a value that a text in it is; `None` for a text that is elsewhere.
fn part_of(value: &Bytes, text: &str) -> Option<Bytes> {
    let start = text.as_ptr().addr().checked_sub(value.as_ptr().addr())?;
    let end = start + text.len();
    (end <= value.len()).then(|| value.slice(start..end))
}

impl Mapping {
    /// Reads a record, for all that is asked of it afterwards.
    #[must_use]
    pub fn prepare(&self, record: &Record) -> PreparedRecord {
        PreparedRecord::read(self.of(record), record, None)
    }

    /// The records of one event each that stand for a record, as of [`Self::parts`], or the record itself, with what reading them found. `key_of` gives
    /// the queue of the order with an id, as of [`Self::order_of`]. Nothing is read of a record whose key names its order.
    #[must_use]
    pub fn prepared_parts(&self, record: &Record, key_of: impl Fn(&str) -> KeyHash) -> Parts<PreparedRecord> {
        let mapping = self.of(record);
        let several = mapping.text_of_several(record);
        let Some(parts) = several.as_ref().and_then(|text| mapping.parts_of_text(record, text)) else {
            let (order, prepared) = self.order_and_reading(record, several);
            return Parts::One { key: order.as_deref().map(key_of), prepared };
        };
        let part = |record: Record| {
            let (order, prepared) = self.order_and_reading(&record, None);
            Part { key: order.as_deref().map(&key_of), prepared, record }
        };
        Parts::Several(parts.into_iter().map(part).collect())
    }

    fn order_and_reading<'r>(
        &self,
        record: &'r Record,
        cleaned: Option<JsonText<'r>>,
    ) -> (Option<String>, Option<PreparedRecord>) {
        let mapping = self.of(record);
        if let Some(key) = mapping.order_in_key(record) {
            return (Some(key), None);
        }
        let prepared = PreparedRecord::read(mapping, record, cleaned);
        (self.order_of((record, Some(&prepared))), Some(prepared))
    }
}
