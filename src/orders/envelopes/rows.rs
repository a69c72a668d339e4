//! The rows of canal's messages, and which messages about tables have none.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::value::RawValue;

use super::super::fields::scalar;
use super::super::json_text;
use super::super::mapping::MAX_VALUE_BYTES;
use super::super::members::{Members, PointerTree};

/// The member that every canal message has, and nothing else.
pub(super) const CANAL_MARK: &str = "isDdl";

fn canal_members(text: &str) -> Option<Members<'_, '_>> {
    static TREE: LazyLock<PointerTree> = LazyLock::new(|| PointerTree::new(["/isDdl", "/data", "/old", "/id"]));
    Members::read(text.as_bytes(), &TREE).ok()
}

/// The number of rows of a canal message; `None` for anything else.
pub(super) fn canal_rows(text: &str) -> Option<usize> {
    if !text.contains(CANAL_MARK) {
        return None;
    }
    let members = canal_members(text)?;
    let _is_canal = members.at("/isDdl")?;
    Some(rows_at(&members, "/data").len())
}

pub(super) fn rows_at<'j>(members: &Members<'_, 'j>, pointer: &str) -> Vec<&'j RawValue> {
    members.at(pointer).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The messages of one row each that stand for a canal message of several; `None` for anything else.
///
/// The message's `id` gets the row's index, because it identifies no row. Descriptions of the columns are left out. Nothing is copied of a message
/// with more than `max` rows, or with so much beside its rows that none of its parts could be read: each part has all of that.
pub(super) fn canal_parts(text: &str, max: usize) -> Option<Vec<String>> {
    if !(2..=max).contains(&canal_rows(text)?) {
        return None;
    }
    let members = canal_members(text)?;
    let of_rows = [members.at("/data"), members.at("/old")].into_iter().flatten().map(str::len).sum::<usize>();
    if text.len().saturating_sub(of_rows) > MAX_VALUE_BYTES {
        return None;
    }
    let (rows, mut old) = (rows_at(&members, "/data"), rows_at(&members, "/old"));
    if old.len() != rows.len() {
        // Nobody knows which of them belongs to which row.
        old.clear();
    }
    let id = members.at("/id").and_then(scalar);
    let mut message: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    message.retain(|name, _| !matches!(name.as_str(), "mysqlType" | "sqlType"));
    let mut part = |(index, row): (usize, &RawValue)| {
        let mut set =
            |name: &str, json: String| Some(message.insert(name.to_owned(), RawValue::from_string(json).ok()?));
        set("data", format!("[{}]", row.get()))?;
        set("old", old.get(index).map_or_else(|| String::from("null"), |old| format!("[{}]", old.get())))?;
        if let Some(id) = &id {
            set("id", json_text::quoted(&format!("{id}:{index}")))?;
        }
        serde_json::to_string(&message).ok()
    };
    rows.into_iter().enumerate().map(&mut part).collect()
}

/// What a record is that is plainly about no order; `None` for any other record.
pub(super) fn no_event_kind(text: &str) -> Option<&'static str> {
    static TREE: LazyLock<PointerTree> = LazyLock::new(|| {
        PointerTree::new(["/isDdl", "/data", "/payload", "/ddl", "/databaseName", "/op", "/ts_ms", "/status", "/type"])
    });
    let members = Members::read(text.as_bytes(), &TREE).ok()?;
    if members.at("/isDdl").is_some() {
        let data = members.at("/data").unwrap_or("null");
        // Rows that stand otherwise than in an array are not understood, and may be paid orders.
        let is_without =
            data == "null" || serde_json::from_str::<Vec<&RawValue>>(data).is_ok_and(|rows| rows.is_empty());
        return (is_without || members.at("/isDdl") == Some("true")).then_some("a message of canal without a row");
    }
    if let Some(payload) = members.at("/payload").filter(|payload| payload.starts_with('{')) {
        return no_event_kind(payload);
    }
    let text_at = |pointer: &str| members.at(pointer).and_then(scalar).unwrap_or_default();
    if members.at("/ddl").is_some() && members.at("/databaseName").is_some() && members.at("/op").is_none() {
        return Some("a schema change of Debezium");
    }
    if matches!(text_at("/op").as_str(), "t" | "m") && members.at("/ts_ms").is_some() {
        return Some("a truncation or message of Debezium, without a row");
    }
    if matches!(text_at("/status").as_str(), "BEGIN" | "END") && members.at("/ts_ms").is_some() {
        return Some("the begin or end of a transaction of Debezium");
    }
    let names = serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?;
    if names.len() == 1 && names.contains_key("ts_ms") {
        return Some("a heartbeat of Debezium");
    }
    if names.contains_key("schema") && names.get("payload").is_some_and(|payload| payload.get() == "null") {
        return Some("a tombstone of Debezium");
    }
    let kind = text_at("/type");
    let is_ddl =
        ["table-", "database-"].iter().any(|prefix| kind.starts_with(prefix)) && names.contains_key("database");
    let is_mark = matches!(kind.as_str(), "bootstrap-start" | "bootstrap-complete") && names.contains_key("table");
    (is_ddl || is_mark).then_some("a message of Maxwell without a row")
}
