//! The layers of ARCHITECTURE.md and the vocabulary, held by a test: which crate may depend on which (by manifest), which room of the root
//! package may name which (by text), in which one place a library is used, how long a file may be, which old words must not come back, that no
//! two public types share a name, that what the documents name exists, that the product loads the configurations in them, that the README in
//! Chinese says what the English one says, that every alert is raised and ended by a test, that no doc comment only repeats a
//! name, that no `Debug` form prints a token, that a decision has at most twenty lines, and that prose has at most 120
//! characters a line.
//!
//! Each rule is a function of a file's path and text, so that planted faults show that it finds something.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails where it stands")]

#[path = "layering/alerts.rs"]
mod alerts;
#[path = "layering/configurations.rs"]
mod configurations;
#[path = "layering/decisions.rs"]
mod decisions;
#[path = "layering/doc_comments.rs"]
mod doc_comments;
#[path = "layering/documents.rs"]
mod documents;
#[path = "layering/manifests.rs"]
mod manifests;
#[path = "layering/prose.rs"]
mod prose;
#[path = "layering/secrets.rs"]
mod secrets;
#[path = "layering/translations.rs"]
mod translations;
#[path = "layering/types.rs"]
mod types;
#[path = "layering/words.rs"]
mod words;

use std::path::Path;
use std::process::Command;

/// Most lines of a source file, tests not counted.
const LINES_MAX: usize = 600;

/// A library, or a means, and the path prefixes of the only places that may use it. Which crates may depend on a library is held by their manifests.
const LIBRARIES: [(&str, &[&str]); 9] = [
    ("rdkafka", &["consumers/src/kafka/"]),
    ("fjall::", &["src/ledger/disk.rs"]),
    ("dashmap::", &["src/hub/polled.rs", "src/hub/registry.rs"]),
    ("tungstenite::", &["src/net/", "protocol/rust/src/"]),
    ("flume::", &["consumers/src/", "src/ledger/"]),
    ("axum::", &["src/net/"]),
    ("flate2::", &["src/net/content_encoding.rs"]),
    // JSON as text.
    ("push_str(\"{", &["protocol/src/frame/"]),
    // An error is kept as it is until somebody reads it: on a terminal.
    ("map_err(|error| error.to_string())", &["src/cli/"]),
];

/// What a pure crate must not name: clocks, threads, locks, sockets, files.
const IMPURE: [&str; 8] =
    ["Instant", "SystemTime", "std::net", "std::thread", "std::fs", "std::process", "Mutex", "tokio"];

/// How an error loses its source. Where errors become problems, closes and reasons of dead letters, which show nothing of it, that is meant.
const CAUSE_DROPPED: &str = "map_err(|_|";

/// A layer by its path prefix, and what must not be named in it.
const LAYERS: [(&str, &[&str]); 12] = [
    ("protocol/src/", &IMPURE),
    ("src/orders/", &IMPURE),
    ("src/ledger/", &["tokio::net", "kafka::", CAUSE_DROPPED]),
    ("protocol/src/", &[CAUSE_DROPPED]),
    ("consumers/src/", &[CAUSE_DROPPED]),
    // What leaves the process is a type of `protocol`: no JSON is put together by hand.
    ("src/ingest/", &["tokio::", "kafka::", "json!("]),
    ("src/wall/", &["tokio::net", "kafka::"]),
    ("src/hub/", &["tokio::net", "kafka::", "orderbell_orders", "orderbell_consumers"]),
    ("src/net/", &["kafka::", "orderbell_orders", "orderbell_consumers", "json!("]),
    ("src/server/", &["json!("]),
    ("src/cli/mapping", &["json!("]),
    ("src/cli/demo/", &["json!("]),
];

/// Files that may do what their layer must not: the demo's order system stands for a producer, which has no types of ours.
const EXCEPTED: [(&str, &str); 1] = [("src/cli/demo/order_system.rs", "json!(")];

/// A room of the root package by its path prefix, and the rooms that it must not name. Rooms above all others (`server`, `cli`) are not listed.
const ROOMS: [(&str, &[&str]); 9] = [
    ("src/hub/", &["cli", "config", "ingest", "metrics", "net", "server", "stream", "wall"]),
    ("src/wall/", &["cli", "config", "hub", "ingest", "metrics", "net", "server", "stream"]),
    ("src/ingest/", &["cli", "config", "hub", "metrics", "net", "server", "stream", "wall"]),
    ("src/net/", &["cli", "config", "ingest", "metrics", "server", "stream"]),
    ("src/stream/", &["cli", "hub", "metrics", "net", "server", "wall"]),
    ("src/metrics/", &["cli", "config", "server", "wall"]),
    ("src/config", &["cli", "hub", "ingest", "metrics", "server", "stream"]),
    ("src/pages/", &["cli", "config", "hub", "ingest", "metrics", "net", "server", "stream", "wall"]),
    ("src/server", &["cli"]),
];

/// What must not stand in product code. Concatenated, so that this file does not contain it.
fn forbidden_everywhere() -> Vec<String> {
    let mut words: Vec<String> =
        ["TO", "FIX", "XX"].iter().zip(["DO", "ME", "X"]).map(|(a, b)| format!("{a}{b}")).collect();
    words.extend(["Manager", "Service ", "Util ", "Helper"].iter().map(|name| format!("struct {name}")));
    words.push("fn get_".into());
    words
}

fn is_test(path: &str) -> bool {
    path.contains("tests")
}

/// The rooms that the code names: the first module behind `crate::`, also inside braces.
fn rooms_named(code: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            rooms.push(rest);
            continue;
        };
        let mut depth = 0;
        let end = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        };
        let group = group.split(end).next().unwrap_or(group);
        let mut depth = 0;
        let separates = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        };
        rooms.extend(group.split(separates).map(str::trim_start));
    }
    rooms.iter().map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest)).collect()
}

fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    for (library, places) in LIBRARIES {
        if code.contains(library) && !places.iter().any(|place| path.starts_with(place)) {
            faults.push(format!("{path} uses {library}: only {places:?} may"));
        }
    }
    for (layer, names) in LAYERS {
        let is_excepted = |name: &str| EXCEPTED.contains(&(path, name));
        for name in names.iter().filter(|name| path.starts_with(layer) && code.contains(**name) && !is_excepted(name)) {
            faults.push(format!("{path} names {name}: {layer} must not know it"));
        }
    }
    for (room, names) in ROOMS.iter().filter(|(room, _)| path.starts_with(room)) {
        for name in rooms_named(&code).into_iter().filter(|name| names.contains(name)) {
            faults.push(format!("{path} names crate::{name}: {room} must not know it"));
        }
    }
    // Also where rustfmt has put the type on a line of its own.
    if code.split_whitespace().collect::<String>().contains("<dynFn") {
        faults.push(format!("{path} owns a boxed closure: a trait says what is called, and when"));
    }
    for line in text.lines().filter(|line| line.trim_start().starts_with("pub")) {
        let is_type = line.contains(" type ");
        if line.contains("dyn Fn") || is_type && line.contains(", String>") {
            faults.push(format!("{path}: a trait instead of a closure, an error type instead of a string: {line}"));
        }
    }
    let forbidden = forbidden_everywhere();
    faults.extend(forbidden.iter().filter(|word| text.contains(*word)).map(|word| format!("{path} contains {word}")));
    if text.lines().count() > LINES_MAX {
        faults.push(format!("{path} has more than {LINES_MAX} lines"));
    }
    let has_module_doc = text.starts_with("//!") || text.starts_with("#![doc");
    if !has_module_doc {
        faults.push(format!("{path} does not begin with what it is"));
    }
    faults
}

/// Paths of all files that git tracks, or would if they were added. A file that was deleted and is not committed yet is still listed.
fn tracked_files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("git is needed to list the files");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// The text of a file of the repository; none where it was deleted.
fn text_of(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Path and text of every source file of the packages, tests left out. The lab counts: scenarios use it beside the product.
fn product_sources() -> Vec<(String, String)> {
    let is_product = |path: &str| {
        let folders = ["src/", "protocol/src/", "protocol/rust/", "consumers/src/"];
        folders.iter().any(|folder| path.starts_with(folder)) && !is_test(path) || path.starts_with("tests/lab/src/")
    };
    let files = tracked_files().into_iter().filter(|path| is_product(path) && path.ends_with(".rs"));
    files.filter_map(|path| text_of(&path).map(|text| (path, text))).collect()
}

#[test]
fn every_module_keeps_to_its_layer() {
    let sources = product_sources();
    assert!(sources.len() > 100, "the sources were not found");
    let of_product = sources.iter().filter(|(path, _)| !is_test(path));
    let all: Vec<String> = of_product.flat_map(|(path, text)| faults(path, text)).collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
    // A rule about a folder that is gone holds nothing.
    for (room, _) in LAYERS.iter().chain(&ROOMS) {
        assert!(sources.iter().any(|(path, _)| path.starts_with(room)), "{room} is not there");
    }
}

#[test]
fn planted_faults_are_found() {
    let has_fault = |path: &str, text: &str| !faults(path, &format!("//! What it is.\n{text}\n")).is_empty();
    assert!(!has_fault("src/hub/mod.rs", "use std::fmt;"));
    assert!(!has_fault("src/hub/mod.rs", "// dashmap:: is named in a comment"));
    for (library, _) in LIBRARIES {
        assert!(has_fault("src/wall/mod.rs", &format!("use {library};")), "{library}");
    }
    for (layer, names) in LAYERS {
        let path = format!("{layer}mod.rs");
        assert!(names.iter().all(|name| has_fault(&path, &format!("    let it = {name};"))), "{layer}");
    }
    for (path, name) in EXCEPTED {
        assert!(!has_fault(path, &format!("    let it = {name};")), "{path}");
    }
    for (room, names) in ROOMS {
        let path = format!("{}/mod.rs", room.trim_end_matches('/'));
        assert!(names.iter().all(|name| has_fault(&path, &format!("use crate::{name}::It;"))), "{room}");
        assert!(
            names.iter().all(|name| has_fault(&path, &format!("use crate::{{clock::{{A, B}}, {name}::It}};"))),
            "{room}"
        );
        assert!(!has_fault(&path, "use crate::{clock, latency::{A, B}};"));
    }
    assert!(!has_fault("src/net/mod.rs", "use crate::hub::Hub; use crate::net_like;"));
    assert!(has_fault("src/hub/mod.rs", &"\n".repeat(LINES_MAX)));
    assert!(has_fault("src/hub/mod.rs", &format!("// {}{}: later", "TO", "DO")));
    assert_eq!(faults("src/hub/mod.rs", "use std::fmt;\n").len(), 1, "no module documentation");
    for closure in [
        "pub(crate) type OnChange = Arc<dyn Fn(u64) + Send>;",
        "pub type Waker = Arc<dyn Fn() + Send + Sync>;",
        "struct Watch {\n    on_change: Option<Box<dyn FnMut(u64) + Send>>,\n}",
        "trait Source {\n    fn waker(&self) -> Option<\n        Arc<\n            dyn Fn() + Send,\n        >,\n    >;\n}",
        "pub(crate) fn each(&self, run: &mut dyn FnMut(u64)) {}",
    ] {
        assert!(has_fault("consumers/src/traits.rs", closure), "{closure}");
    }
    assert!(!has_fault("src/hub/mod.rs", "fn each(&self, run: &mut dyn FnMut(u64)) {}"));
    assert!(has_fault("src/hub/mod.rs", "pub type Asked = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;"));
    assert!(!has_fault("src/hub/mod.rs", "pub type Asked = Pin<Box<dyn Future<Output = Result<u64, Gone>> + Send>>;"));
}
