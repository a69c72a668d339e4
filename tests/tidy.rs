//! The house rules of ARCHITECTURE.md, held by a test: which room may name what, how long a file may be, what may not stand anywhere.
//!
//! Each rule is a function of a file's path and text, so that planted faults show that it bites.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::path::{Path, PathBuf};

/// Lines of a source file, tests not counted: what a reader can hold.
const LINES_MAX: usize = 600;

/// A word, and the only places (by prefix) that may say it.
const ROOMS: [(&str, &[&str]); 6] = [
    ("rdkafka", &["consumers/src/kafka/"]),
    ("fjall::", &["src/ledger/disk.rs"]),
    ("dashmap::", &["src/hub/registry.rs"]),
    ("tungstenite::", &["src/net/", "src/client/"]),
    ("flume::", &["consumers/src/", "src/ledger/"]),
    ("axum::", &["src/net/"]),
];

/// A room (by prefix), and what may not be said in it.
const ABSENT: [(&str, &[&str]); 7] = [
    ("protocol/src/", &["tokio", "Instant", "SystemTime", "std::net", "std::thread", "Mutex", "orderbell_consumers"]),
    ("consumers/src/", &["orderbell_protocol", "serde"]),
    ("src/ledger/", &["crate::hub", "crate::net", "crate::ingest", "tokio::net", "kafka::"]),
    ("src/ingest/", &["crate::hub", "crate::net", "tokio::", "kafka::"]),
    ("src/wall/", &["crate::net", "crate::hub", "tokio::net", "kafka::"]),
    ("src/hub/", &["crate::net", "crate::ingest", "tokio::net", "kafka::"]),
    ("src/net/", &["crate::ingest", "kafka::", "orderbell_consumers"]),
];

/// What stands nowhere in product code. Written apart, so that this file does not say it.
fn nowhere() -> Vec<String> {
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
    for (word, places) in ROOMS {
        if code.contains(word) && !places.iter().any(|place| path.starts_with(place)) {
            faults.push(format!("{path} says {word}: only {places:?} may"));
        }
    }
    for (room, words) in ABSENT {
        for word in words.iter().filter(|word| path.starts_with(room) && code.contains(**word)) {
            faults.push(format!("{path} says {word}: {room} does not know it"));
        }
    }
    faults.extend(nowhere().iter().filter(|word| text.contains(*word)).map(|word| format!("{path} says {word}")));
    if text.lines().count() > LINES_MAX {
        faults.push(format!("{path} has more than {LINES_MAX} lines"));
    }
    let essay = text.starts_with("//!") || text.starts_with("#![doc");
    if !essay {
        faults.push(format!("{path} does not say at its top what it is"));
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
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for room in ["src", "protocol/src", "consumers/src"] {
        sources(&root.join(room), &mut found);
    }
    assert!(found.len() > 30, "the house was not found");
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
    let bites = |path: &str, text: &str| !faults(path, &format!("//! Essay.\n{text}\n")).is_empty();
    assert!(!bites("src/hub/mod.rs", "use std::fmt;"));
    assert!(!bites("src/hub/mod.rs", "// dashmap:: is named in a comment"));
    assert!(bites("src/net/mod.rs", "use rdkafka::ClientConfig;"));
    assert!(bites("src/ledger/mod.rs", "use fjall::Database;"));
    assert!(bites("src/hub/mod.rs", "use dashmap::DashMap;"));
    assert!(bites("src/ledger/mod.rs", "use crate::hub::Hub;"));
    assert!(bites("src/ingest/life.rs", "use crate::net::Net;"));
    assert!(bites("protocol/src/session.rs", "let now = Instant::now();"));
    assert!(bites("src/hub/mod.rs", &"\n".repeat(LINES_MAX)));
    assert!(bites("src/hub/mod.rs", &format!("// {}{}: later", "TO", "DO")));
    assert_eq!(faults("src/hub/mod.rs", "use std::fmt;\n").len(), 1, "no essay");
}
