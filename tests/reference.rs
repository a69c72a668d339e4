//! Checks the protocol reference against the types: the types decode its examples and encode them again without loss, every field, kind, type, code
//! and reason is documented, and the JSON Schemas and the SDK's kinds and reasons match the types. `UPDATE=1 cargo test --test reference`
//! regenerates both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use orderbell_orders::notice_kinds::NOTICE_KINDS;
use orderbell_orders::order::{Effect, TRANSITIONS, Transition};
use orderbell_protocol::admin;
use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::cloud_event::CloudEvent;
use orderbell_protocol::frame::{
    EventRejectedBody, EventsAnswer, NoticeFrame, OpenOrder, OrderEnd, OrderStage, OrdersAnswer, PollAnswer,
};
use orderbell_protocol::wall::Wall;
use orderbell_protocol::{ClientFrame, CloseKind, EventType, NoticeKind, Problem, RejectionReason, Role, ServerFrame};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> String {
    std::fs::read_to_string(root().join("protocol/README.md")).unwrap()
}

/// The examples of the reference: the label of each, which names its type, and its JSON.
fn examples(text: &str) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for block in text.split("```json ").skip(1) {
        let (label, rest) = block.split_once('\n').unwrap();
        let (json, _) = rest.split_once("```").unwrap();
        all.push((
            label.trim().to_owned(),
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")),
        ));
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
        ("events-answer", of::<EventsAnswer>()),
        ("event-rejected-body", of::<EventRejectedBody>()),
        ("problem", of::<Problem>()),
        ("wall", of::<Wall>()),
    ]
}

/// The documents of the admin listener. Their fields are described by the schemas themselves, not by the reference.
fn admin_schemas() -> Vec<(&'static str, Value)> {
    fn of<T: JsonSchema>() -> Value {
        serde_json::to_value(schema_for!(T)).unwrap()
    }
    vec![
        ("admin-ready", of::<admin::ReadyAnswer>()),
        ("admin-acknowledge", of::<admin::AcknowledgeAnswer>()),
        ("admin-balance", of::<admin::BalanceAnswer>()),
        ("admin-top", of::<admin::TopAnswer>()),
        ("admin-stores", of::<admin::StoresAnswer>()),
        ("admin-tail", of::<admin::TailAnswer>()),
        ("admin-order", of::<admin::TraceAnswer>()),
        ("admin-dead-letters", of::<admin::DeadLettersAnswer>()),
        ("admin-dead-letter", of::<admin::DeadLetterAnswer>()),
        ("admin-replay", of::<admin::ReplayAnswer>()),
        ("admin-topic-dead-letters", of::<admin::TopicDeadLettersAnswer>()),
        ("admin-topic-replay", of::<admin::TopicReplayAnswer>()),
        ("published-event", of::<CloudEvent>()),
    ]
}

/// Collects the names of all properties of a schema, at any depth.
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

fn schema_properties(name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["type".to_owned()]);
    let (_, schema) = schemas().into_iter().find(|(known, _)| *known == name).unwrap();
    properties(&schema, &mut names);
    names
}

/// Collects the keys of an example, except those inside the free-form bodies.
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

/// Decodes an example with its type and encodes it again. Returns the name of the schema, and the result.
fn round_trip(label: &str, example: &Value) -> Result<(&'static str, Value), String> {
    fn through<T: DeserializeOwned + Serialize>(example: &Value) -> Result<Value, String> {
        let value: T = serde_json::from_value(example.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(value).map_err(|error| error.to_string())
    }
    let (schema, again) = match label {
        "client" => {
            let frame = ClientFrame::decode(&example.to_string())?;
            ("client-frame", serde_json::from_str(&frame.encode()).map_err(|error| error.to_string()))
        }
        "server" if example["type"] == "notice" => {
            let mut again = through::<NoticeFrame>(example)?;
            // The tag is written around the type: a poll answer has the same notices without it.
            again["type"] = "notice".into();
            ("notice-frame", Ok(again))
        }
        "server" => ("server-frame", through::<ServerFrame>(example)),
        "poll" => ("poll-answer", through::<PollAnswer>(example)),
        "orders" => ("orders-answer", through::<OrdersAnswer>(example)),
        "order" => ("order", through::<OpenOrder>(example)),
        "events" => ("events-answer", through::<EventsAnswer>(example)),
        "problem" => ("problem", through::<Problem>(example)),
        "wall" => ("wall", through::<Wall>(example)),
        other => return Err(format!("no type is known for the label {other}")),
    };
    Ok((schema, again?))
}

fn check(label: &str, example: &Value) -> Result<(), String> {
    let (schema, again) = round_trip(label, example)?;
    let mut used = BTreeSet::new();
    keys(example, &mut used);
    let unknown: Vec<_> = used.difference(&schema_properties(schema)).cloned().collect();
    if !unknown.is_empty() {
        return Err(format!("{unknown:?} are not fields: {example}"));
    }
    if again != *example {
        return Err(format!("{example} is encoded as {again}"));
    }
    Ok(())
}

#[test]
fn every_example_decodes_and_encodes_without_loss() {
    let text = reference();
    let examples = examples(&text);
    assert!(examples.len() >= 19, "{}", examples.len());
    for (label, example) in &examples {
        check(label, example).unwrap_or_else(|error| panic!("{label}: {error}"));
    }
    let planted = serde_json::json!({"type": "ack", "position": "1.1.0000", "positon": 1});
    assert!(check("client", &planted).is_err(), "a misspelt field is not detected");
}

#[test]
fn every_field_kind_code_and_word_is_in_the_reference() {
    let text = reference();
    let is_documented = |word: &str| text.contains(&format!("`{word}`")) || text.contains(&format!("\"{word}\""));
    let mut names = BTreeSet::new();
    schemas().iter().for_each(|(_, schema)| properties(schema, &mut names));
    let missing: Vec<_> = names.iter().filter(|name| !is_documented(name)).collect();
    assert!(missing.is_empty(), "fields: {missing:?}");
    for close in CloseKind::ALL {
        let row = format!("| {} | `{}` |", close.code(), close.word());
        assert!(text.contains(&row), "{row}");
    }
    let row_of = |word: &str| text.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{word}`")));
    let missing: Vec<_> =
        NoticeKind::KNOWN.iter().filter(|kind| !text.contains(&format!("\n| `{}` |", kind.word()))).collect();
    assert!(missing.is_empty(), "protocol/README.md, table of kinds, has no row for {missing:?}");
    let missing: Vec<_> = EventType::ALL.iter().map(|kind| kind.name()).filter(|name| !row_of(name)).collect();
    assert!(missing.is_empty(), "protocol/README.md, Event types, has no row for {missing:?}");
}

/// What the table of event types says of a transition: what becomes of the order, and whom it notifies.
fn documented(transition: &Transition) -> (String, String) {
    fn word(value: impl Serialize) -> String {
        format!("`{}`", serde_json::to_value(value).unwrap().as_str().unwrap())
    }
    let effect = match transition.effect {
        Effect::AdvanceTo(stage) => word(stage),
        Effect::Close(outcome, up_to) => format!("ends as {}, up to {}", word(outcome), word(up_to)),
        Effect::None => "–".into(),
    };
    let of = |role: Role| {
        let kinds =
            transition.notifies.iter().filter(|(to, _)| *to == role).map(|(_, kind)| format!("`{}`", kind.word()));
        let kinds: Vec<_> = kinds.collect();
        (!kinds.is_empty()).then(|| format!("{}: {}", role.word(), kinds.join(", ")))
    };
    let notifies: Vec<_> = [Role::Store, Role::Customer].into_iter().filter_map(of).collect();
    (effect, if notifies.is_empty() { "–".into() } else { notifies.join("; ") })
}

#[test]
fn the_table_of_event_types_says_what_the_order_rules_do() {
    let text = reference();
    let (_, table) = text.split_once("| type | from | the order | notifies | meaning |").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), TRANSITIONS.len());
    for transition in &TRANSITIONS {
        let name = format!("`{}`", transition.on.name());
        let row = rows.iter().find(|row| row[1] == name).unwrap_or_else(|| panic!("no row for {name}"));
        let (effect, notifies) = documented(transition);
        assert_eq!((row[3], row[4]), (effect.as_str(), notifies.as_str()), "protocol/README.md, Event types, {name}");
    }
}

/// A lifetime that the reference gives in hours, for each kind of notice.
#[test]
fn the_reference_says_how_long_each_notice_is_sent() {
    let text = reference();
    let sentence =
        "(2 hours for `new_order`, `order_accepted` and `event_rejected`, 12 hours for the others, from `at`)";
    assert!(text.contains(sentence));
    for row in &NOTICE_KINDS {
        let hours = if sentence.contains(&format!("`{}`", row.kind.word())) { 2 } else { 12 };
        assert_eq!(row.lifetime_ms, hours * 3_600_000, "{}", row.kind.word());
    }
    let sentence = "once an order has ended (collected, refused, cancelled, refunded), its `new_order`,\n`order_accepted`, `pickup_code` and `ready`;";
    assert!(text.contains(sentence));
    for row in &NOTICE_KINDS {
        let is_listed = sentence.contains(&format!("`{}`", row.kind.word()));
        assert_eq!(row.useless_from, is_listed.then_some(OrderStage::PickedUp), "{}", row.kind.word());
    }
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

/// Problems are created throughout the server, so their codes are collected from the source.
#[test]
fn every_problem_code_is_in_the_reference() {
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
}

/// The words in the first column of the table that begins with this line.
fn first_column<'a>(text: &'a str, head: &str) -> BTreeSet<&'a str> {
    let (_, table) = text.split_once(head).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.split('`').nth(1)).collect()
}

#[test]
fn the_reference_lists_exactly_the_reasons_of_rejected_events() {
    let text = reference();
    let listed = first_column(&text, "| `reason` | meaning | action |");
    let reasons: BTreeSet<&str> = RejectionReason::KNOWN.iter().map(|reason| reason.word()).collect();
    assert_eq!(listed, reasons, "protocol/README.md, table of the reasons of a rejected event");
    let (_, sentence) = text.split_once("The `reason` of an `event_rejected` says how the order had ended:").unwrap();
    let listed: BTreeSet<&str> = sentence.split('.').next().unwrap().split('`').skip(1).step_by(2).collect();
    let ends: BTreeSet<&str> = OrderEnd::KNOWN.iter().map(|end| end.word()).collect();
    assert_eq!(listed, ends, "protocol/README.md, Notices, the reason of an event_rejected");
}

#[test]
fn every_alert_is_in_the_operators_guide() {
    let text = std::fs::read_to_string(root().join("OPERATING.md")).unwrap();
    for code in AlertCode::ALL {
        let row = format!("\n| `{}` | {} | ", code.word(), code.severity().word());
        assert!(text.contains(&row), "OPERATING.md, Alerts, has no row that begins with {row}");
    }
}

/// Compares a generated file with its stored text, or rewrites it.
fn matches_types(path: &Path, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == text, "{} does not match its type: run UPDATE=1 cargo test --test reference", path.display());
}

#[test]
fn the_schemas_beside_the_reference_match_the_types() {
    let dir = root().join("protocol/schema");
    for (name, schema) in schemas().into_iter().chain(admin_schemas()) {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        matches_types(&dir.join(format!("{name}.json")), &text);
    }
}

/// The text of the SDK's types with the words of one of them replaced.
fn with_words(text: &str, name: &str, words: impl Iterator<Item = &'static str>) -> String {
    let head = format!("export type {name} =\n");
    let (before, rest) = text.split_once(&head).unwrap();
    let (_, after) = rest.split_once("  | (string & {});").unwrap();
    let words: String = words.map(|word| format!("  | \"{word}\"\n")).collect();
    format!("{before}{head}{words}  | (string & {{}});{after}")
}

#[test]
fn the_words_of_the_sdk_match_the_types() {
    let path = root().join("protocol/js/src/index.d.ts");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = with_words(&text, "NoticeKind", NoticeKind::KNOWN.iter().map(|kind| kind.word()));
    let text = with_words(&text, "RejectionReason", RejectionReason::KNOWN.iter().map(|reason| reason.word()));
    let text = with_words(&text, "OrderEnd", OrderEnd::KNOWN.iter().map(|end| end.word()));
    matches_types(&path, &text);
}
