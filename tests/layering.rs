//! The layers of ARCHITECTURE.md and the vocabulary, held by a test: which module may name which, in which one place a library is used, how
//! long a file may be, and which old words must not come back.
//!
//! Each rule is a function of a file's path and text, so that planted faults show that it finds something.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails where it stands")]

#[path = "layering/words.rs"]
mod words;

use std::path::{Path, PathBuf};

/// Most lines of a source file, tests not counted.
const LINES_MAX: usize = 600;

/// A library, and the path prefixes of the only places that may use it.
const LIBRARIES: [(&str, &[&str]); 6] = [
    ("rdkafka", &["consumers/src/kafka/"]),
    ("fjall::", &["src/ledger/disk.rs"]),
    ("dashmap::", &["src/hub/registry.rs"]),
    ("tungstenite::", &["src/net/", "protocol/rust/src/"]),
    ("flume::", &["consumers/src/", "src/ledger/"]),
    ("axum::", &["src/net/"]),
];

/// A layer by its path prefix, and what must not be named in it.
const LAYERS: [(&str, &[&str]); 7] = [
    ("protocol/src/", &["tokio", "Instant", "SystemTime", "std::net", "std::thread", "Mutex", "orderbell_consumers"]),
    ("consumers/src/", &["orderbell_protocol", "serde"]),
    ("src/ledger/", &["crate::hub", "crate::net", "crate::ingest", "tokio::net", "kafka::"]),
    ("src/ingest/", &["crate::hub", "crate::net", "tokio::", "kafka::"]),
    ("src/wall/", &["crate::net", "crate::hub", "tokio::net", "kafka::"]),
    ("src/hub/", &["crate::net", "crate::ingest", "tokio::net", "kafka::"]),
    ("src/net/", &["crate::ingest", "kafka::", "orderbell_consumers"]),
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
        for name in names.iter().filter(|name| path.starts_with(layer) && code.contains(**name)) {
            faults.push(format!("{path} names {name}: {layer} must not know it"));
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

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_module_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "protocol/src", "protocol/rust/src", "consumers/src"] {
        sources(&root.join(dir), &mut found);
    }
    assert!(found.len() > 30, "the sources were not found");
    let mut all = Vec::new();
    for path in found {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if !is_test(&name) {
            all.extend(faults(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn planted_faults_are_found() {
    let has_fault = |path: &str, text: &str| !faults(path, &format!("//! What it is.\n{text}\n")).is_empty();
    assert!(!has_fault("src/hub/mod.rs", "use std::fmt;"));
    assert!(!has_fault("src/hub/mod.rs", "// dashmap:: is named in a comment"));
    assert!(has_fault("src/net/mod.rs", "use rdkafka::ClientConfig;"));
    assert!(has_fault("src/ledger/mod.rs", "use fjall::Database;"));
    assert!(has_fault("src/hub/mod.rs", "use dashmap::DashMap;"));
    assert!(has_fault("src/ledger/mod.rs", "use crate::hub::Hub;"));
    assert!(has_fault("src/ingest/order.rs", "use crate::net::AppState;"));
    assert!(has_fault("protocol/src/session.rs", "let now = Instant::now();"));
    assert!(has_fault("src/hub/mod.rs", &"\n".repeat(LINES_MAX)));
    assert!(has_fault("src/hub/mod.rs", &format!("// {}{}: later", "TO", "DO")));
    assert_eq!(faults("src/hub/mod.rs", "use std::fmt;\n").len(), 1, "no module documentation");
}
