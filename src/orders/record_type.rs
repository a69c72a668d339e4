//! What the type says of a record that becomes no event: whether a rejected one may be a paid order, and which ignored one it is.
//!
//! The type is compared, never searched for in the text: what merely mentions a payment is none. A record whose type cannot be read may be
//! anything, and a lost order must not be quiet.

use orderbell_consumers::Record;
use orderbell_protocol::{EventType, NoticeKind, Role, id_text};
use serde_json::Value;

use super::envelope;
use super::envelopes;
use super::event_fields;
use super::event_types::TypeRule;
use super::fields::scalar;
use super::mapping::Mapping;
use super::members::Members;
use super::order::TRANSITIONS;
use super::prepared::{Opened, RecordView};

/// Whether a rejected record may be a paid order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LooksPaid {
    /// Its type is that of a paid order.
    Yes,
    /// Its type is of a later stage, by which a store is notified of an order that it does not know.
    Later,
    /// Its type cannot be read, or is missing in what names an order or store.
    Unreadable,
    /// It has another type, or is not about an order.
    No,
}

/// What a record says of its type.
enum Types {
    /// It has no value.
    Tombstone,
    /// The types that it names: usually one.
    Named(Vec<String>),
    /// It cannot be read, or names none.
    Missing {
        /// It names an order or store, or may.
        may_be_an_order: bool,
    },
}

/// What the types of payments contain in most systems, in lower case.
const PAYMENT_WORDS: [&str; 5] = ["paid", "pay", "settle", "支付", "付款"];

/// An event that the configuration ignores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredEvent {
    /// The producer's name of its type.
    pub kind: String,
    /// Its id, as that of any event.
    pub id: String,
}

impl Mapping {
    /// Whether a record that was rejected may be a paid order.
    #[must_use]
    pub fn looks_paid<'r>(&self, record: impl Into<RecordView<'r>>) -> LooksPaid {
        self.with_types(record.into(), Self::looks_of)
    }

    fn looks_of(&self, types: Types) -> LooksPaid {
        match types {
            Types::Tombstone => LooksPaid::No,
            Types::Missing { may_be_an_order: false } => LooksPaid::No,
            Types::Missing { may_be_an_order: true } => LooksPaid::Unreadable,
            Types::Named(types) => types.iter().map(|kind| self.compared(kind)).min().unwrap_or(LooksPaid::No),
        }
    }

    /// The same for a record whose key alone is no reason to take it for an order: heartbeats have keys, too.
    pub(super) fn looks_paid_beside_its_key(
        &self,
        record: &Record,
        opened: &Opened<'_>,
        members: &Members<'_, '_>,
    ) -> LooksPaid {
        let names_nothing = || {
            let names_order = !matches!(self.named_order(members), Ok(None));
            members.at(&self.store).is_none() && !names_order && !self.holds_payment(opened.data)
        };
        match self.looks_of(self.types_in(record, opened)) {
            LooksPaid::Unreadable if names_nothing() => LooksPaid::No,
            looks => looks,
        }
    }

    /// Whether the type of a record that was rejected sounds like that of a payment. For a topic of which nothing is understood: elsewhere, what
    /// only sounds so is none.
    #[must_use]
    pub fn sounds_paid<'r>(&self, record: impl Into<RecordView<'r>>) -> bool {
        self.with_types(record.into(), |_, types| {
            let Types::Named(types) = types else { return false };
            types
                .iter()
                .map(|kind| kind.to_lowercase().replace("unpaid", ""))
                .any(|kind| PAYMENT_WORDS.iter().any(|word| kind.contains(word)))
        })
    }

    fn with_types<T>(&self, view: RecordView<'_>, then: impl FnOnce(&Self, Types) -> T) -> T {
        let (record, mapping) = (view.record, self.of(view.record));
        let types = match view.read(mapping).open(mapping) {
            Ok(opened) => mapping.types_in(record, &opened),
            Err(reason) if envelopes::is_no_event(&reason) => Types::Tombstone,
            // What is wrong is the data or the version, and the type may stand beside it.
            Err(_) => {
                let kind = envelope::attribute(record, "type").or_else(|| envelope::structured_type(record));
                kind.map_or(Types::Missing { may_be_an_order: true }, |kind| Types::Named(vec![kind]))
            }
        };
        then(mapping, types)
    }

    fn types_in(&self, record: &Record, opened: &Opened<'_>) -> Types {
        let (envelope, data) = (opened.envelope, opened.data);
        let members = opened.members();
        let in_data = || members.as_ref().ok()?.at(&self.r#type).and_then(scalar);
        // A binary CloudEvent whose version was left out is read as plain JSON: its type is in a header all the same.
        let in_headers = || envelope.kind.is_none().then(|| envelope::attribute(record, "type")).flatten();
        let named = [envelope.kind.clone().or_else(in_data), in_headers()];
        let is_type = |kind: &String| !id_text::is_nothing(id_text::trim(kind));
        let types: Vec<String> = named.into_iter().flatten().filter(is_type).collect();
        if !types.is_empty() {
            return Types::Named(types);
        }
        let Ok(members) = members else { return Types::Missing { may_be_an_order: true } };
        // An id that cannot be read is there all the same.
        let names_order = !matches!(opened.order(), Ok(None));
        let names_store = !matches!(self.store(record, members), Ok(None));
        let may_hold_others = !data.trim_start().starts_with('{') && data != "null";
        Types::Missing { may_be_an_order: names_order || names_store || may_hold_others || self.holds_payment(data) }
    }

    /// True where the type of a payment stands anywhere in the JSON: something is around the event which the mapping does not know, or its members are
    /// called otherwise. Orderbell's own name is one wherever it stands alone; the chain's names may be the words of anything, and are types only
    /// in a member that is called as the mapped one is.
    fn holds_payment(&self, json: &str) -> bool {
        let member = self.r#type.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~");
        serde_json::from_str(json).is_ok_and(|value| self.is_payment_in(&value, false, &member))
    }

    /// `is_type`: this is the value of a member that is called `member`, in any case.
    fn is_payment_in(&self, value: &Value, is_type: bool, member: &str) -> bool {
        let is_paid = |kind: &str| is_type && self.compared(kind) == LooksPaid::Yes;
        match value {
            Value::String(text) => {
                text == EventType::Paid.name()
                    || is_paid(text)
                    || (text.starts_with(['{', '[']) && self.holds_payment(text))
            }
            Value::Number(number) => is_paid(&number.to_string()),
            Value::Array(items) => items.iter().any(|item| self.is_payment_in(item, false, member)),
            Value::Object(members) => {
                members.iter().any(|(name, value)| self.is_payment_in(value, name.eq_ignore_ascii_case(member), member))
            }
            Value::Null | Value::Bool(_) => false,
        }
    }

    fn compared(&self, kind: &str) -> LooksPaid {
        let notifies =
            |kind: EventType| TRANSITIONS.iter().find(|row| row.on == kind).map_or(&[][..], |row| row.notifies);
        match self.kind(kind) {
            Ok(EventType::Paid) => LooksPaid::Yes,
            Ok(kind) if notifies(kind).contains(&(Role::Store, NoticeKind::NewOrder)) => LooksPaid::Later,
            Err(_) if self.types.is_payment_spelt_otherwise(id_text::trim(kind)) => LooksPaid::Yes,
            Err(_) if self.types.is_payment_of_another_version(id_text::trim(kind)) => LooksPaid::Yes,
            _ => LooksPaid::No,
        }
    }

    /// The event of a record that the configuration ignores; `None` for any other record.
    #[must_use]
    pub fn ignored<'r>(&self, record: impl Into<RecordView<'r>>) -> Option<IgnoredEvent> {
        let view = record.into();
        let (record, mapping) = (view.record, self.of(view.record));
        let prepared = view.read(mapping);
        let opened = prepared.open(mapping).ok()?;
        let (envelope, members) = (opened.envelope, opened.members().ok()?);
        let kind = envelope.kind.clone().or_else(|| members.at(&mapping.r#type).and_then(scalar))?;
        let kind = id_text::trim(&kind).to_owned();
        if mapping.types.rule(&kind) != Some(TypeRule::Ignore) {
            return None;
        }
        // One that is too long is answered without.
        let id = event_fields::id_of(mapping, record, envelope, members).unwrap_or_default();
        Some(IgnoredEvent { kind, id })
    }
}

#[cfg(test)]
#[path = "record_type_tests.rs"]
mod tests;
