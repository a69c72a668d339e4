//! What the type says of a record that becomes no event: whether a rejected one may be a paid order, and which ignored one it is.
//!
//! The type is compared, never searched for in the text: what merely mentions a payment is none. A record whose type cannot be read may be
//! anything, and a lost order must not be quiet.

use orderbell_consumers::Record;
use orderbell_protocol::{EventType, id_text};

use super::envelope::{self, Opened};
use super::event_fields;
use super::event_types::TypeRule;
use super::fields::scalar;
use super::mapping::Mapping;
use super::members::PointerTree;

/// Whether a rejected record may be a paid order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksPaid {
    /// Its type is that of a paid order.
    Yes,
    /// Its type cannot be read, or is missing in what names an order or store.
    Unreadable,
    /// It has another type, or is not about an order.
    No,
}

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
    pub fn looks_paid(&self, record: &Record) -> LooksPaid {
        let mapping = self.of(record);
        let tree = &mapping.compiled().tree;
        let text = envelope::text(record);
        let opened = text.as_ref().map_err(Clone::clone);
        match opened.and_then(|text| envelope::open(record, text, tree)) {
            Ok(opened) => mapping.looks_paid_in(record, &opened, tree),
            Err(reason) if reason.code == "tombstone" => LooksPaid::No,
            // What is wrong is the data or the version, and the type may stand beside it.
            Err(_) => {
                let kind = envelope::attribute(record, "type").or_else(|| envelope::structured_type(record));
                kind.map_or(LooksPaid::Unreadable, |kind| mapping.compared(&kind))
            }
        }
    }

    fn looks_paid_in<'p>(&self, record: &Record, opened: &Opened<'p, '_>, tree: &'p PointerTree) -> LooksPaid {
        let (envelope, data) = (&opened.envelope, &*opened.data);
        let members = opened.members(tree);
        let in_data = || members.as_ref().ok()?.at(&self.r#type).and_then(scalar);
        let is_type = |kind: &String| !id_text::is_no_id(id_text::trim(kind));
        if let Some(kind) = envelope.kind.clone().or_else(in_data).filter(is_type) {
            return self.compared(&kind);
        }
        let Ok(members) = &members else { return LooksPaid::Unreadable };
        // An id that cannot be read is there all the same.
        let names_order = !matches!(self.order(record, opened, members), Ok(None));
        let names_store = !matches!(self.store(record, members), Ok(None));
        let may_hold_others = !data.trim_start().starts_with('{') && data != "null";
        if names_order || names_store || may_hold_others { LooksPaid::Unreadable } else { LooksPaid::No }
    }

    fn compared(&self, kind: &str) -> LooksPaid {
        if matches!(self.kind(kind), Ok(EventType::Paid)) { LooksPaid::Yes } else { LooksPaid::No }
    }

    /// The event of a record that the configuration ignores; `None` for any other record.
    #[must_use]
    pub fn ignored(&self, record: &Record) -> Option<IgnoredEvent> {
        let mapping = self.of(record);
        let text = envelope::text(record).ok()?;
        let tree = &mapping.compiled().tree;
        let opened = envelope::open(record, &text, tree).ok()?;
        let (envelope, members) = (&opened.envelope, opened.members(tree).ok()?);
        let kind = envelope.kind.clone().or_else(|| members.at(&mapping.r#type).and_then(scalar))?;
        let kind = id_text::trim(&kind).to_owned();
        if mapping.types.rule(&kind) != Some(TypeRule::Ignore) {
            return None;
        }
        // One that is too long is answered without.
        let id = event_fields::id_of(mapping, record, envelope, &members).unwrap_or_default();
        Some(IgnoredEvent { kind, id })
    }
}

#[cfg(test)]
#[path = "record_type_tests.rs"]
mod tests;
