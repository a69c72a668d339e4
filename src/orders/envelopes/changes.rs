//! The rows of change events of Debezium, Maxwell and canal, each as a CloudEvent whose data is the row.
//!
//! The row gets members with the names that Debezium's own transformation gives them: `__op` (`c`, `u`, `d`, or `r` of a snapshot), `__deleted`,
//! `__db`, `__table` and `__source_ts_ms`. The event's id is made of the change, because a row's own `id` identifies the row. Refused: an event for
//! a deleted row whose type is a column, and for a row of a snapshot without a time. Old orders are deleted when they are long over, and a snapshot
//! holds every order there is: both would notify stores of what nobody paid just now.

use std::borrow::Cow;
use std::sync::LazyLock;

use orderbell_consumers::Reason;
use orderbell_protocol::event::RowChange;

use super::super::fields::{reject, scalar};
use super::super::mapping::Mapping;
use super::super::members::{Members, PointerTree};
use super::super::sha256;
use super::row_change::{Before, compare};
use super::rows::{self, rows_at};
use super::{CapturedRow, Event, no_event, wall_times};

/// A change of one row, as the text of an event and what else it says.
type RowEvent = (String, CapturedRow);

/// A change of one row.
struct Change<'j> {
    op: Op,
    /// The row is read for a snapshot, whatever the operation is called.
    is_snapshot: bool,
    row: Cow<'j, str>,
    /// What an update says of the row before it.
    before: Option<Before<'j>>,
    database: Option<&'j str>,
    table: Option<&'j str>,
    /// When the database made it, in milliseconds since 1970, as JSON.
    at_ms: Option<String>,
    /// What makes it the same change again.
    identity: u128,
    has_local_time: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    Update,
    Delete,
    Snapshot,
}

impl Op {
    fn code(self) -> char {
        match self {
            Self::Create => 'c',
            Self::Update => 'u',
            Self::Delete => 'd',
            Self::Snapshot => 'r',
        }
    }
}

fn bad(what: &str) -> Reason {
    reject("bad-envelope", format!("the record is no {what}"))
}

/// A record that is none of these changes: about a table, or not understood.
fn other(text: &str, what: &str) -> Reason {
    rows::no_event_kind(text).map_or_else(|| bad(what), no_event)
}

/// The row of a change event of Debezium, with or without its schema, or flattened by its transformation.
pub(super) fn debezium(mapping: &Mapping, text: &str) -> Result<RowEvent, Reason> {
    debezium_in(mapping, text, None)
}

/// `schema` is that of the message, where it is beside the payload.
fn debezium_in(mapping: &Mapping, text: &str, schema: Option<&str>) -> Result<RowEvent, Reason> {
    static TREE: LazyLock<PointerTree> = LazyLock::new(|| {
        let change = ["/op", "/before", "/after", "/source", "/source/db", "/source/table", "/source/ts_ms", "/ts_ms"];
        let flat = ["/__op", "/__deleted", "/__db", "/__table", "/__source_ts_ms", "/__ts_ms", "/schema", "/payload"];
        let snapshot = ["/source/snapshot", "/__source_snapshot", "/__snapshot"];
        PointerTree::new(change.into_iter().chain(flat).chain(snapshot))
    });
    const WHAT: &str = "change event of Debezium: it has no op";
    let members = Members::read(text.as_bytes(), &TREE).map_err(|_| other(text, WHAT))?;
    if members.at("/op").is_none()
        && let Some(payload) = members.at("/payload").filter(|payload| payload.starts_with('{'))
    {
        return debezium_in(mapping, payload, members.at("/schema"));
    }
    let text_at = |pointer: &str| members.at(pointer).and_then(scalar);
    let (op, is_flat) = match (text_at("/op"), text_at("/__op"), text_at("/__deleted")) {
        (Some(op), _, _) => (op, false),
        (None, _, Some(deleted)) if deleted == "true" => ("d".into(), true),
        (None, Some(op), _) => (op, true),
        (None, None, Some(_)) => ("u".into(), true),
        (None, None, None) => return Err(other(text, WHAT)),
    };
    let op = match op.as_str() {
        "c" => Op::Create,
        "u" => Op::Update,
        "d" => Op::Delete,
        "r" => Op::Snapshot,
        _ => return Err(other(text, "change event of Debezium of a kind that is known")),
    };
    let state = if op == Op::Delete { members.at("/before") } else { members.at("/after") };
    let row = if is_flat { Some(text) } else { state }.ok_or_else(|| match op {
        Op::Delete => no_event("a deletion of Debezium without its row"),
        // What was changed is not in it: it may be a payment.
        Op::Create | Op::Update | Op::Snapshot => bad(
            "change event of Debezium with its row: MongoDB's has one with capture.mode = change_streams_update_full",
        ),
    })?;
    let part = |pointer: &str| members.at(pointer).unwrap_or_default().as_bytes();
    // A change that is read again has another ts_ms beside its source.
    let source = if part("/source").is_empty() { part("/ts_ms") } else { part("/source") };
    let identity =
        [source, &[op.code() as u8], part("/before"), if is_flat { text.as_bytes() } else { part("/after") }];
    let either = |one: &str, other: &str| members.at(one).or_else(|| members.at(other));
    let at_ms = either("/source/ts_ms", "/ts_ms").or_else(|| either("/__source_ts_ms", "/__ts_ms"));
    // `true`, `first`, `last` or `incremental`: some connectors call what they read for a snapshot created.
    let snapshot = either("/source/snapshot", "/__source_snapshot").or_else(|| members.at("/__snapshot"));
    let is_marked = snapshot.is_some_and(|mark| !matches!(mark.trim_matches('"'), "false" | ""));
    // MongoDB's rows are JSON in a string.
    let parsed = |row: &'_ str| row.starts_with('"').then(|| scalar(row).unwrap_or_default());
    let change = Change {
        op,
        is_snapshot: op == Op::Snapshot || (op == Op::Create && is_marked),
        before: (!is_flat)
            .then(|| members.at("/before"))
            .flatten()
            .map(|before| Before::Whole(parsed(before).map_or(Cow::Borrowed(before), Cow::Owned))),
        has_local_time: wall_times::are_at(mapping, schema, if is_flat { None } else { Some("after") }),
        row: parsed(row).map_or(Cow::Borrowed(row), Cow::Owned),
        database: either("/source/db", "/__db"),
        table: either("/source/table", "/__table"),
        at_ms: at_ms.map(str::to_owned),
        identity: sha256::hash_128(&identity),
    };
    change.event(mapping)
}

/// The row of a message of Maxwell.
pub(super) fn maxwell(mapping: &Mapping, text: &str) -> Result<RowEvent, Reason> {
    static TREE: LazyLock<PointerTree> =
        LazyLock::new(|| PointerTree::new(["/type", "/data", "/old", "/database", "/table", "/ts"]));
    const WHAT: &str = "message of Maxwell: it has no type of a change, or no data";
    let members = Members::read(text.as_bytes(), &TREE).map_err(|_| bad(WHAT))?;
    let op = match members.at("/type").and_then(scalar).as_deref() {
        Some("insert") => Op::Create,
        Some("update") => Op::Update,
        Some("delete") => Op::Delete,
        Some("bootstrap-insert") => Op::Snapshot,
        _ => return Err(other(text, WHAT)),
    };
    let change = Change {
        op,
        is_snapshot: op == Op::Snapshot,
        row: Cow::Borrowed(members.at("/data").ok_or_else(|| bad(WHAT))?),
        before: members.at("/old").map(Before::Changed),
        has_local_time: false,
        database: members.at("/database"),
        table: members.at("/table"),
        at_ms: members.at("/ts").and_then(scalar).and_then(|seconds| in_ms(&seconds)),
        identity: sha256::hash_128(&[text.as_bytes()]),
    };
    change.event(mapping)
}

/// Whole seconds as milliseconds. Anything else is no time: it must not become members of the row.
fn in_ms(seconds: &str) -> Option<String> {
    let seconds: u32 = seconds.parse().ok()?;
    Some(format!("{}", u64::from(seconds) * 1000))
}

/// The row of a message of canal that has one.
pub(super) fn canal(mapping: &Mapping, text: &str) -> Result<RowEvent, Reason> {
    static TREE: LazyLock<PointerTree> =
        LazyLock::new(|| PointerTree::new(["/isDdl", "/type", "/data", "/old", "/database", "/table", "/es", "/ts"]));
    const WHAT: &str = "message of canal: it has no isDdl, or no type of a change";
    let members = Members::read(text.as_bytes(), &TREE).map_err(|_| bad(WHAT))?;
    let rows = rows_at(&members, "/data");
    let (Some(_), Some(row)) = (members.at("/isDdl"), rows.first()) else { return Err(other(text, WHAT)) };
    let op = match members.at("/type").and_then(scalar).as_deref() {
        Some("INSERT") => Op::Create,
        Some("UPDATE") => Op::Update,
        Some("DELETE") => Op::Delete,
        _ => return Err(other(text, WHAT)),
    };
    let part = |pointer: &str| members.at(pointer).unwrap_or_default().as_bytes();
    let old = rows_at(&members, "/old");
    let change = Change {
        op,
        is_snapshot: false,
        row: Cow::Borrowed(row.get()),
        before: old.first().map(|old| Before::Changed(old.get())),
        has_local_time: false,
        database: members.at("/database"),
        table: members.at("/table"),
        at_ms: members.at("/es").or_else(|| members.at("/ts")).map(str::to_owned),
        // A message that is sent again has another id and ts.
        identity: sha256::hash_128(&[
            part("/database"),
            part("/table"),
            part("/type"),
            part("/es"),
            part("/data"),
            part("/old"),
        ]),
    };
    change.event(mapping)
}

impl Change<'_> {
    fn event(self, mapping: &Mapping) -> Result<RowEvent, Reason> {
        let row = self.row.trim();
        let open = row.strip_suffix('}').filter(|row| row.starts_with('{')).ok_or_else(|| bad("change of a row"))?;
        let is_asked = matches!(mapping.r#type.as_str(), "/__op" | "/__deleted");
        if self.op == Op::Delete && !is_asked {
            return Err(no_event("the deletion of a row"));
        }
        let has_time = super::has_time(mapping, row);
        let change = match self.op {
            _ if self.is_snapshot => Some(RowChange::Snapshot),
            Op::Update => compare(mapping, self.before.as_ref(), row),
            Op::Create | Op::Delete | Op::Snapshot => None,
        };
        let mut data = open.trim_end().to_owned();
        let mut add = |name: &str, json: &str| {
            data.push_str(if data.len() > 1 { ",\"" } else { "\"" });
            data.push_str(&format!("{name}\":{json}"));
        };
        add("__op", &format!("\"{}\"", self.op.code()));
        add("__deleted", if self.op == Op::Delete { "\"true\"" } else { "\"false\"" });
        for (name, json) in
            [("__db", self.database), ("__table", self.table), ("__source_ts_ms", self.at_ms.as_deref())]
        {
            json.into_iter().for_each(|json| add(name, json));
        }
        data.push('}');
        let id = format!("row:{:032x}", self.identity);
        let time = self.at_ms.as_deref().filter(|_| !has_time).and_then(scalar);
        let text = Event { kind: None, id: Some(id), time, data: &data }.to_text();
        // The members that the envelope adds say when the snapshot was made.
        let is_undated = self.is_snapshot && (!has_time || mapping.time.starts_with("/__"));
        Ok((text, CapturedRow { change, is_undated, has_local_time: self.has_local_time }))
    }
}
