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
    EventRejectedBody, EventsAnswer, NoticeFrame, OpenOrder, OrderEnd, OrderOutcome, OrderStage, OrdersAnswer,
    PollAnswer,
};
use orderbell_protocol::wall::Wall;
use orderbell_protocol::{
    ClientFrame, CloseKind, EventType, NoticeKind, Problem, ProblemCode, RejectionReason, Role, ServerFrame,
};
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

/// A value of the wire as the reference writes it.
fn word(value: impl Serialize) -> String {
    format!("`{}`", serde_json::to_value(value).unwrap().as_str().unwrap())
}

/// What the table of event types says of a transition: what becomes of the order, and whom it notifies.
fn documented(transition: &Transition) -> (String, String) {
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

#[test]
fn the_table_of_notices_says_how_long_each_is_sent() {
    let text = reference();
    for row in &NOTICE_KINDS {
        let name = row.kind.word();
        let begin = format!("| `{name}` |");
        let line = text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no row for {name}"));
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let sent_for = format!("{} h", row.lifetime_ms / 3_600_000);
        let useless_from = row.useless_from.map_or("–".into(), word);
        assert_eq!((cells[3], cells[4]), (sent_for.as_str(), useless_from.as_str()), "protocol/README.md, {name}");
    }
}

#[test]
fn every_problem_code_is_in_the_reference_with_its_status() {
    let text = reference();
    let is_listed = |code: &ProblemCode| {
        let begin = format!("| {} | ", code.status());
        text.lines().any(|line| line.starts_with(&begin) && line.contains(&format!("`{}`", code.word())))
    };
    let missing: Vec<_> = ProblemCode::ALL.into_iter().filter(|code| !is_listed(code)).collect();
    assert!(missing.is_empty(), "protocol/README.md, HTTP errors, has no row for {missing:?}");
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
        let row = format!("\n| `{}` | {} | {} | ", code.word(), code.severity().word(), code.after_restart().word());
        assert!(text.contains(&row), "OPERATING.md, Alerts, has no row that begins with {row}");
    }
}

/// What stands in quotes behind each of these openings in the sources of a folder, without their tests.
fn quoted_behind(folder: &Path, openings: &[&str], found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.contains("tests") {
            quoted_behind(&path, openings, found);
        }
        if !name.ends_with(".rs") || name.contains("tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod").next().unwrap();
        for behind in openings.iter().flat_map(|opening| text.split(opening).skip(1)) {
            let quoted = behind.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            found.extend(quoted.map(str::to_owned));
        }
    }
}

#[test]
fn every_reason_of_a_dead_letter_is_in_the_operators_guide() {
    // Records with the first are dropped without a dead letter; with the others the handler halts, and the record waits.
    const NO_DEAD_LETTERS: [&str; 3] = ["tombstone", "ledger", "disk-full"];
    let mut codes = BTreeSet::from([orderbell_protocol::balance::NOT_PUBLISHED.to_owned()]);
    for folder in ["src/orders", "src/ingest", "src/stream", "consumers/src"] {
        quoted_behind(&root().join(folder), &["reject(", "mismatch(", "code: "], &mut codes);
    }
    codes.retain(|code| !NO_DEAD_LETTERS.contains(&code.as_str()));
    let text = std::fs::read_to_string(root().join("OPERATING.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Dead letters\n")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let listed: BTreeSet<String> =
        rows.flat_map(|cell| cell.split("`, `").map(|code| code.trim_end_matches('`').to_owned())).collect();
    assert!(codes.len() > 20, "{codes:?}");
    assert_eq!(listed, codes, "OPERATING.md, Dead letters, the table of reasons");
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

#[test]
fn the_close_codes_of_the_sdk_match_the_types() {
    let mut text = String::from(
        "// The close codes of the protocol by their words. Generated from `CloseKind` in Rust: `UPDATE=1 cargo test --test reference`.\n\n",
    );
    for kind in CloseKind::ALL {
        let name = kind.word().to_uppercase().replace('-', "_");
        text.push_str(&format!("export const {name} = {};\n", kind.code()));
    }
    matches_types(&root().join("protocol/js/src/close.js"), &text);
}

/// A number that is written where a name of the generated file should stand: `1006` is no code of the protocol.
#[test]
fn the_sdk_names_each_close_code() {
    for entry in std::fs::read_dir(root().join("protocol/js/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "js") || path.ends_with("close.js") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|line| line.contains("close(") || line.contains("code ===") || line.contains("code: "))
        {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let numbers: Vec<_> = words.filter_map(|word| word.parse().ok()).filter_map(CloseKind::from_code).collect();
            assert!(numbers.is_empty(), "{} has {numbers:?} as a number: {line}", path.display());
        }
    }
}

/// The words of a union of the SDK that stands in one line.
fn union(text: &str, begin: &str) -> Vec<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(begin).filter(|words| words.contains('"')))
        .unwrap();
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of an enum, in their order.
fn words_of<T: JsonSchema>() -> Vec<String> {
    let schema = serde_json::to_value(schema_for!(T)).unwrap();
    let of = |part: &Value| match (&part["const"], &part["enum"]) {
        (Value::String(word), _) => vec![word.clone()],
        (_, Value::Array(words)) => words.iter().map(|word| word.as_str().unwrap().to_owned()).collect(),
        _ => Vec::new(),
    };
    let parts = schema["oneOf"].as_array().cloned().unwrap_or_default();
    of(&schema).into_iter().chain(parts.iter().flat_map(of)).collect()
}

/// `protocol/js/test/types.test.js` compares the members of the interfaces with the schemas.
#[test]
fn the_words_in_the_interfaces_of_the_sdk_are_those_of_the_types() {
    let text = std::fs::read_to_string(root().join("protocol/js/src/index.d.ts")).unwrap();
    assert_eq!(union(&text, "stage: "), words_of::<OrderStage>());
    assert_eq!(union(&text, "outcome?: "), words_of::<OrderOutcome>());
    let known: Vec<&str> = EventType::ALL.iter().map(|kind| kind.name()).collect();
    assert!(union(&text, "kind: ").iter().all(|kind| known.contains(&kind.as_str())));
}
