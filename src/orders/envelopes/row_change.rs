//! What an update says of a row: whether it made the order paid, or left a row that was paid before as it was.
//!
//! Each update of a paid row is an event of a paid order, with an id of its own: without this, another note would be another payment. What the row
//! was before is known whole (Debezium), by the columns that changed (Maxwell, canal), or not at all (Debezium behind its transformation, and where
//! the database logs no more than the key).

use std::borrow::Cow;
use std::collections::BTreeMap;

use orderbell_protocol::event::RowChange;
use serde_json::value::RawValue;

use super::super::fields::scalar;
use super::super::mapping::Mapping;
use super::super::members::Members;

/// What a change says of the row before it.
pub(super) enum Before<'j> {
    /// The row, or as much of it as the database logs.
    Whole(Cow<'j, str>),
    /// The columns that changed.
    Changed(&'j str),
}

/// How an update to `row` compares with what the row was before; `None` where it had another type: such an update is like any other event.
pub(super) fn compare(mapping: &Mapping, before: Option<&Before<'_>>, row: &str) -> Option<RowChange> {
    let Some(before) = before.and_then(|before| Columns::read(mapping, before)) else {
        return Some(RowChange::Updated);
    };
    let Ok(now) = Members::read(row.as_bytes(), &mapping.compiled().tree) else { return Some(RowChange::Updated) };
    let kind_of = |json: &str| scalar(json).and_then(|name| mapping.kind(&name).ok());
    let is_same_type = match before.at(&mapping.r#type, &now) {
        Column::Unknown => return Some(RowChange::Updated),
        Column::Null => false,
        Column::Is(json) => {
            let type_now = now.at(&mapping.r#type);
            type_now == Some(json) || kind_of(json).is_some_and(|kind| type_now.and_then(kind_of) == Some(kind))
        }
    };
    if !is_same_type {
        return None;
    }
    let stays = |pointer: &String| match before.at(pointer, &now) {
        Column::Is(json) => now.at(pointer) == Some(json),
        Column::Null | Column::Unknown => now.at(pointer).is_none(),
    };
    let stays_as_it_was = [&mapping.amount, &mapping.currency, &mapping.customer].into_iter().all(stays);
    Some(if stays_as_it_was { RowChange::Unchanged } else { RowChange::Updated })
}

/// The columns of a row as they were before an update.
struct Columns<'b> {
    named: BTreeMap<Cow<'b, str>, &'b RawValue>,
    members: Members<'b, 'b>,
    /// Those that are not there did not change.
    are_changed_ones: bool,
}

/// What one column was before an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column<'j> {
    Is(&'j str),
    Null,
    Unknown,
}

impl<'b> Columns<'b> {
    fn read(mapping: &'b Mapping, before: &'b Before<'_>) -> Option<Self> {
        let (json, are_changed_ones) = match before {
            Before::Whole(json) => (&**json, false),
            Before::Changed(json) => (*json, true),
        };
        let named = serde_json::from_str(json).ok()?;
        let members = Members::read(json.as_bytes(), &mapping.compiled().tree).ok()?;
        Some(Self { named, members, are_changed_ones })
    }

    /// What a pointer led to; `now` is the row after the update.
    fn at<'j>(&self, pointer: &str, now: &Members<'_, 'j>) -> Column<'j>
    where
        'b: 'j,
    {
        let name = pointer.split('/').nth(1).unwrap_or_default().replace("~1", "/").replace("~0", "~");
        // What is added to a row, such as `__op`, is no column.
        if name.starts_with("__") {
            return Column::Unknown;
        }
        match (self.named.contains_key(name.as_str()), self.members.at(pointer)) {
            (true, Some(json)) => Column::Is(json),
            // A database that logs no more than the key has the other columns empty.
            (true, None) if !self.are_changed_ones => Column::Unknown,
            (true, None) => Column::Null,
            (false, _) if self.are_changed_ones => now.at(pointer).map_or(Column::Null, Column::Is),
            (false, _) => Column::Unknown,
        }
    }
}
