//! The protocol reference against the types: its examples are read by the code that reads frames, every field, kind, code and word is in
//! it, and the JSON Schemas beside it are those of the types. `UPDATE=1 cargo test --test reference` writes the schemas anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use orderbell_protocol::frame::{NoticeFrame, OpenOrder, OrdersAnswer, PollAnswer, ToldAnswer};
use orderbell_protocol::wall::Wall;
use orderbell_protocol::{ClientFrame, Close, NoticeKind, ServerFrame};
use schemars::{JsonSchema, schema_for};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> String {
    std::fs::read_to_string(root().join("protocol/README.md")).unwrap()
}

/// The examples: what each is of, and its JSON.
fn examples(text: &str) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for block in text.split("```json ").skip(1) {
        let (of, rest) = block.split_once('\n').unwrap();
        let (json, _) = rest.split_once("```").unwrap();
        all.push((of.trim().to_owned(), serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))));
    }
    all
}

fn schemas() -> Vec<(&'static str, Value)> {
    fn of<T: JsonSchema>() -> Value {
        serde_json::to_value(schema_for!(T)).unwrap()
    }
    vec![
        ("client-frame", of::<ClientFrame>()),
        ("server-frame", of::<ServerFrame>()),
        ("notice-frame", of::<NoticeFrame>()),
        ("poll-answer", of::<PollAnswer>()),
        ("orders-answer", of::<OrdersAnswer>()),
        ("order", of::<OpenOrder>()),
        ("events-answer", of::<ToldAnswer>()),
        ("wall", of::<Wall>()),
    ]
}

/// Every name of a property, anywhere.
fn properties(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(known)) = members.get("properties") {
                names.extend(known.keys().cloned());
            }
            members.values().for_each(|member| properties(member, names));
        }
        Value::Array(items) => items.iter().for_each(|item| properties(item, names)),
        _ => {}
    }
}

fn known_to(name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["type".to_owned()]);
    let (_, schema) = schemas().into_iter().find(|(known, _)| *known == name).unwrap();
    properties(&schema, &mut names);
    names
}

/// Keys of an example outside the free-form bodies.
fn keys(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                names.insert(name.clone());
                if name != "body" {
                    keys(member, names);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, names)),
        _ => {}
    }
}

/// The schema of an example, once the code that reads such frames has taken it.
fn taken(of: &str, example: &Value) -> Result<&'static str, String> {
    fn read<T: serde::de::DeserializeOwned>(example: &Value) -> Result<(), String> {
        serde_json::from_value::<T>(example.clone()).map(drop).map_err(|error| error.to_string())
    }
    match of {
        "client" => ClientFrame::decode(&example.to_string()).map(|_| "client-frame").map_err(str::to_owned),
        "server" if example["type"] == "notice" => read::<NoticeFrame>(example).map(|()| "notice-frame"),
        "server" => read::<ServerFrame>(example).map(|()| "server-frame"),
        "poll" => read::<PollAnswer>(example).map(|()| "poll-answer"),
        "orders" => read::<OrdersAnswer>(example).map(|()| "orders-answer"),
        "order" => read::<OpenOrder>(example).map(|()| "order"),
        "events" => read::<ToldAnswer>(example).map(|()| "events-answer"),
        "wall" => read::<Wall>(example).map(|()| "wall"),
        other => Err(format!("an example of nothing known: {other}")),
    }
}

fn check(of: &str, example: &Value) -> Result<(), String> {
    let schema = taken(of, example)?;
    let mut named = BTreeSet::new();
    keys(example, &mut named);
    let unknown: Vec<_> = named.difference(&known_to(schema)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(format!("{unknown:?} are no fields: {example}")) }
}

#[test]
fn every_example_is_what_the_code_reads() {
    let text = reference();
    let examples = examples(&text);
    assert!(examples.len() >= 18, "{}", examples.len());
    for (of, example) in examples.iter().filter(|(of, _)| of != "problem") {
        check(of, example).unwrap_or_else(|why| panic!("{of}: {why}"));
    }
    let planted = serde_json::json!({"type": "ack", "position": "1.1.0000", "positon": 1});
    assert!(check("client", &planted).is_err(), "a wrong field is seen");
}

#[test]
fn every_field_kind_code_and_word_is_in_the_reference() {
    let text = reference();
    let told = |word: &str| text.contains(&format!("`{word}`"));
    let mut names = BTreeSet::new();
    schemas().iter().for_each(|(_, schema)| properties(schema, &mut names));
    let missing: Vec<_> = names.iter().filter(|name| !told(name) && !text.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "fields: {missing:?}");
    let closes = [
        Close::Bye,
        Close::Protocol,
        Close::Unsupported,
        Close::Encoding,
        Close::TooBig,
        Close::Internal,
        Close::Restart { retry_ms: 1 },
        Close::Overloaded { retry_ms: 1 },
        Close::Unauthorized,
        Close::Timeout,
        Close::BadMessage("why"),
        Close::Replaced,
        Close::ConnectionLimit,
        Close::Rate,
        Close::Deaf,
        Close::Resync("why"),
    ];
    for close in closes {
        let row = format!("| {} | `{}` |", close.code(), close.word());
        assert!(text.contains(&row), "{row}");
    }
    assert!(NoticeKind::KNOWN.iter().all(|kind| text.contains(&format!("| `{}` |", kind.word()))));
}

fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            sources(&entry.path(), text);
        } else if entry.path().extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Problems are made where they are met: their codes are looked for in the source.
#[test]
fn every_problem_and_every_refusal_is_in_the_reference() {
    let reference = reference();
    let mut source = String::new();
    for dir in ["src/net", "src/ingest", "protocol/src"] {
        sources(&root().join(dir), &mut source);
    }
    let quoted = |after: &str| -> BTreeSet<String> {
        let found = source.split(after).skip(1).filter_map(|rest| rest.split_once('"')?.1.split_once('"'));
        found
            .map(|(word, _)| word.to_owned())
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            .collect()
    };
    let problems: BTreeSet<String> =
        quoted("Problem::new(").into_iter().chain(quoted("Self::new(4")).chain(quoted("Self::new(5")).collect();
    assert!(problems.len() >= 16, "{problems:?}");
    let missing: Vec<_> = problems.iter().filter(|code| !reference.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "problems: {missing:?}");
    let desk = std::fs::read_to_string(root().join("src/ingest/desk.rs")).unwrap();
    let refusals =
        desk.split("Err(\"").skip(1).chain(desk.split("ok_or(\"").skip(1)).filter_map(|rest| rest.split_once('"'));
    let refusals: BTreeSet<&str> = refusals.map(|(word, _)| word).chain(["conflict", "busy"]).collect();
    assert!(refusals.len() >= 8, "{refusals:?}");
    let missing: Vec<_> = refusals.iter().filter(|word| !reference.contains(&format!("| `{word}` |"))).collect();
    assert!(missing.is_empty(), "refusals: {missing:?}");
}

#[test]
fn the_schemas_beside_the_reference_are_those_of_the_types() {
    let dir = root().join("protocol/schema");
    for (name, schema) in schemas() {
        let path = dir.join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{} is not that of the type: UPDATE=1 cargo test --test reference", path.display());
    }
}
