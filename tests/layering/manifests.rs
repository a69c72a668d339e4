//! Seams that Cargo holds: what each crate may depend on, read from its manifest. A dependency that is not there cannot be imported.
//!
//! Dependencies for tests are left out: they reach no user.

use std::path::Path;

use toml::{Table, Value};

/// Crates that wait, read a clock, or reach the network or a disk.
const IO: [&str; 14] = [
    "axum",
    "chrono",
    "fjall",
    "flume",
    "futures-util",
    "hyper",
    "hyper-util",
    "mio",
    "rdkafka",
    "reqwest",
    "rustix",
    "time",
    "tokio",
    "tokio-tungstenite",
];

/// A crate by the folder of its manifest, what it is, and the crates that it must not depend on.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("protocol", &["jiff", "orderbell-consumers", "orderbell-ledger", "orderbell-orders", "orderbell", "tokio-util"]),
    (
        "consumers",
        &[
            "axum",
            "fjall",
            "orderbell",
            "orderbell-ledger",
            "orderbell-orders",
            "orderbell-protocol",
            "serde",
            "serde_json",
        ],
    ),
    ("src/orders", &["orderbell", "orderbell-ledger", "tokio-util"]),
    ("src/ledger", &["axum", "orderbell", "orderbell-orders", "rdkafka", "tokio-tungstenite"]),
    (
        "protocol/rust",
        &["axum", "fjall", "orderbell", "orderbell-consumers", "orderbell-ledger", "orderbell-orders", "rdkafka"],
    ),
];

/// Crates without any of [`IO`].
const PURE: [&str; 2] = ["protocol", "src/orders"];

/// A library, and the only crates that may depend on it. `.` is the root package.
const OWNERS: [(&str, &[&str]); 6] = [
    ("axum", &["."]),
    ("dashmap", &["."]),
    ("fjall", &["src/ledger"]),
    ("flume", &["consumers", "src/ledger"]),
    ("rdkafka", &["consumers"]),
    ("tokio-tungstenite", &[".", "protocol/rust"]),
];

/// The names of the crates that a manifest depends on, those for one platform and those of build scripts included. A crate under another name
/// (`package = "..."`) counts by its own.
fn dependencies(manifest: &Table, workspace: &Table) -> Vec<String> {
    let shared = workspace.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let mut tables: Vec<&Table> = vec![manifest];
    let platforms = manifest.get("target").and_then(Value::as_table);
    tables.extend(platforms.into_iter().flatten().filter_map(|(_, platform)| platform.as_table()));
    let lists = tables.into_iter().flat_map(|table| {
        ["dependencies", "build-dependencies"].into_iter().filter_map(|kind| table.get(kind).and_then(Value::as_table))
    });
    let real_name = |name: &str, about: &Value| {
        let shared = shared.and_then(|shared| shared.get(name)).filter(|_| about.get("workspace").is_some());
        let package = about.get("package").or_else(|| shared?.get("package"));
        package.and_then(Value::as_str).unwrap_or(name).to_owned()
    };
    lists.flatten().map(|(name, about)| real_name(name, about)).collect()
}

/// What a manifest must not contain. `folder` is that of the manifest.
fn faults(folder: &str, manifest: &str, workspace: &Table) -> Vec<String> {
    let manifest: Table = manifest.parse().unwrap();
    let mut faults = Vec::new();
    for name in dependencies(&manifest, workspace) {
        let is_forbidden = FORBIDDEN.iter().any(|(of, names)| *of == folder && names.contains(&name.as_str()))
            || PURE.contains(&folder) && IO.contains(&name.as_str());
        if is_forbidden {
            faults.push(format!("{folder}/Cargo.toml: {folder} must not depend on {name}"));
        }
        // The lab starts processes for tests, and no user gets it.
        if let Some((_, owners)) = OWNERS.iter().find(|(library, _)| *library == name)
            && !owners.contains(&folder)
            && !folder.starts_with("tests/")
        {
            faults.push(format!("{folder}/Cargo.toml: only {owners:?} may depend on {name}"));
        }
    }
    faults
}

/// The root manifest, and the folders of all packages.
fn workspace() -> (Table, Vec<String>) {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let root: Table = root.parse().unwrap();
    let members = root["workspace"]["members"].as_array().unwrap();
    let folders = members.iter().map(|member| member.as_str().unwrap().to_owned()).chain([".".to_owned()]).collect();
    (root, folders)
}

#[test]
fn every_crate_depends_only_on_what_it_may() {
    let (workspace, folders) = workspace();
    let mut all = Vec::new();
    for folder in &folders {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
        all.extend(faults(folder, &std::fs::read_to_string(path).unwrap(), &workspace));
    }
    // The client's own crate may not be there yet.
    for (folder, _) in FORBIDDEN.iter().filter(|(folder, _)| *folder != "protocol/rust") {
        assert!(folders.iter().any(|known| known == folder), "{folder} is no package of the workspace");
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn planted_dependencies_are_found() {
    let workspace: Table =
        "[workspace.dependencies]\nquick = { version = \"1\", package = \"rdkafka\" }".parse().unwrap();
    let has_fault = |folder: &str, manifest: &str| !faults(folder, manifest, &workspace).is_empty();
    let on = |name: &str| format!("[dependencies]\nthiserror = \"2\"\n{name} = {{ workspace = true }}\n");
    for (folder, names) in FORBIDDEN {
        assert!(names.iter().all(|name| has_fault(folder, &on(name))), "{folder}");
    }
    assert!(PURE.iter().all(|folder| IO.iter().all(|name| has_fault(folder, &on(name)))));
    for (library, owners) in OWNERS {
        assert!(
            owners.iter().all(|folder| !has_fault(folder, &format!("[dependencies]\n{library} = \"1\""))),
            "{library}"
        );
        let others = [".", "consumers", "protocol/rust", "src/ledger", "src/orders"]
            .into_iter()
            .filter(|folder| !owners.contains(folder));
        others.for_each(|folder| assert!(has_fault(folder, &on(library)), "{folder} {library}"));
    }
    assert!(!has_fault("protocol", &on("bytes")) && !has_fault(".", &on("orderbell-ledger")));
    assert!(has_fault("protocol", "[build-dependencies]\ntokio = \"1\""));
    assert!(has_fault("protocol", "[target.'cfg(unix)'.dependencies]\nrustix = \"1\""));
    assert!(
        has_fault("src/ledger", "[dependencies]\nkafka = { version = \"1\", package = \"rdkafka\" }"),
        "another name"
    );
    assert!(has_fault("src/ledger", &on("quick")), "another name in the workspace");
    assert!(!has_fault("src/orders", "[dev-dependencies]\ntokio = \"1\""), "tests may");
}
