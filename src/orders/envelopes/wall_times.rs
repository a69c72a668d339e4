//! Which numbers of Debezium are local times.
//!
//! A column without a zone, such as a `DATETIME` of MySQL, holds what a clock on the wall shows. Debezium writes it as if it were UTC, so in China
//! it is eight hours ahead. The schema of a message tells such a column from one that holds seconds since 1970; without a schema, `time_numbers` of
//! the mapping does.

use serde::Deserialize;

use super::super::event_time::Zone;
use super::super::mapping::{Mapping, TimeNumbers};
use super::EnvelopeName;

/// The types of columns without a zone, in the schema of a message: by Debezium, and by Kafka Connect.
pub(super) const WALL_TIMES: [&str; 4] = [
    "io.debezium.time.Timestamp",
    "io.debezium.time.MicroTimestamp",
    "io.debezium.time.NanoTimestamp",
    "org.apache.kafka.connect.data.Timestamp",
];

/// A field of a schema, and the schema itself.
#[derive(Deserialize)]
struct Field {
    field: Option<String>,
    name: Option<String>,
    #[serde(default)]
    fields: Vec<Self>,
}

impl Field {
    fn named(&self, name: &str) -> Option<&Self> {
        self.fields.iter().find(|field| field.field.as_deref() == Some(name))
    }
}

/// True for a number that is the time of a row, and a column of it: a member that is added to rows, such as `__source_ts_ms`, is in UTC.
pub(in super::super) fn may_be_at(mapping: &Mapping, json: &str) -> bool {
    let is_number = json.starts_with(|c: char| c.is_ascii_digit());
    mapping.envelope == EnvelopeName::Debezium && is_number && !mapping.time.starts_with("/__")
}

/// True where a number that is the time of a row is a local time. `member` is that of the row in the message, if it has one.
pub(super) fn are_at(mapping: &Mapping, schema: Option<&str>, member: Option<&str>) -> bool {
    let column = mapping.time.split('/').nth(1).unwrap_or_default();
    if mapping.time_numbers == TimeNumbers::Local || column.starts_with("__") {
        return !column.starts_with("__");
    }
    // Read as UTC it is the same either way, and no schema need be taken apart for it.
    let Some(schema) = schema.filter(|_| mapping.time_zone != Zone::default()) else { return false };
    let Ok(schema) = serde_json::from_str::<Field>(schema) else { return false };
    let row = member.map_or(Some(&schema), |member| schema.named(member));
    let name = row.and_then(|row| row.named(column)).and_then(|column| column.name.as_deref());
    name.is_some_and(|name| WALL_TIMES.contains(&name))
}
