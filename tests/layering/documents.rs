//! What the documents name exists: paths of this repository, links, packages, test targets and examples of commands, and scenarios.

use std::path::Path;

/// Folders at the root with which a path in a document begins.
const FOLDERS: [&str; 7] = ["src/", "protocol/", "consumers/", "tests/", "docs/", "examples/", ".ci/"];

/// Documents that may name what is gone, by prefix.
const ALLOWED: [&str; 1] = ["CHANGELOG.md"];

/// Paths that exist only after a build or a download.
const MADE: [&str; 1] = ["protocol/js/dist"];

/// The words of a document: separated by white space and by everything that stands around a path or a command.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let separates = |c: char| c.is_whitespace() || "`\"'()[]|,;<>=".contains(c);
    text.split(separates).map(|word| word.trim_end_matches(['.', ':'])).filter(|word| !word.is_empty())
}

/// Paths of this repository that the document names. What follows a line number or a wildcard is not looked at.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let named = words(text).filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
    let cut = named.map(|word| word.split(['*', '#', '{', ':']).next().unwrap_or(word));
    cut.map(|path| if Path::new(path).extension().is_none() { path.trim_end_matches('/') } else { path })
}

/// Targets of links that are no addresses, without their section.
pub(super) fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|t| !t.is_empty())
}

/// What follows a flag of Cargo in the document's commands.
fn values_of<'a>(text: &'a str, flags: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let all: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || "`|()".contains(c)).filter(|word| !word.is_empty()).collect();
    let pairs: Vec<_> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().filter(|(flag, _)| flags.contains(flag)).map(|(_, value)| value)
}

/// Names of packages, of test targets and of examples in this repository.
#[derive(Default)]
struct Targets {
    packages: Vec<String>,
    tests: Vec<String>,
    examples: Vec<String>,
}

impl Targets {
    fn of(files: &[String]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut targets = Self::default();
        for file in files {
            let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
            if name == "Cargo.toml" {
                let manifest: toml::Table = std::fs::read_to_string(root.join(file)).unwrap().parse().unwrap();
                let package = manifest.get("package").and_then(|package| package["name"].as_str());
                targets.packages.extend(package.map(str::to_owned));
            }
            let stem = name.strip_suffix(".rs").unwrap_or(name);
            let (above, inside) = folder.rsplit_once('/').unwrap_or(("", folder));
            match (inside, name) {
                ("tests", _) => targets.tests.push(stem.into()),
                ("examples", _) => targets.examples.push(stem.into()),
                (_, "main.rs") if above.ends_with("tests") => targets.tests.push(inside.into()),
                _ => {}
            }
        }
        targets
    }
}

/// What a document names that does not exist.
fn faults(document: &str, text: &str, targets: &Targets, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    for path in paths(text) {
        // A package's own page may name a path from its folder.
        let is_there =
            exists(path) || exists(&format!("{folder}/{path}")) || MADE.iter().any(|made| path.starts_with(made));
        // A wildcard: the folder, or files that begin so.
        let (parent, start) = path.rsplit_once('/').unwrap_or(("", path));
        let is_prefix = text.contains(&format!("{path}*")) && exists(parent) && !start.contains('.');
        if !is_there && !is_prefix {
            faults.push(format!("{document} names {path}, which does not exist"));
        }
    }
    for link in links(text).filter(|link| !exists(&format!("{folder}/{link}"))) {
        faults.push(format!("{document} links to {link}, which does not exist"));
    }
    let known: [(&[&str], &Vec<String>); 3] =
        [(&["-p", "--package"], &targets.packages), (&["--test"], &targets.tests), (&["--example"], &targets.examples)];
    for (flags, names) in known {
        for value in values_of(text, flags).filter(|value| !names.iter().any(|name| name == value)) {
            faults.push(format!("{document} has a command with {} {value}, which does not exist", flags[0]));
        }
    }
    faults
}

#[test]
fn what_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = super::tracked_files();
    let targets = Targets::of(&files);
    let exists = |path: &str| root.join(path.trim_start_matches('/')).exists();
    let (mut all, mut found) = (Vec::new(), 0);
    for document in
        files.iter().filter(|file| file.ends_with(".md") && !ALLOWED.iter().any(|name| file.starts_with(name)))
    {
        let Ok(text) = std::fs::read_to_string(root.join(document)) else { continue };
        found += paths(&text).count();
        all.extend(faults(document, &text, &targets, exists));
    }
    assert!(found > 100, "only {found} paths were found");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// A scenario is named by its file and the beginning of its name: `crash::killed_*`.
/// The map is read whole, so it stays a map: what needs more room is a decision record or the comment of a file.
#[test]
fn the_architecture_fits_in_150_lines() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= 150, "{} lines", text.lines().count());
}

#[test]
fn scenarios_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known: Vec<String> = std::fs::read_dir(root.join("tests/e2e"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    let mut found = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for word in words(&text).filter(|word| word.contains("::")) {
            let Some((module, name)) = word.split_once("::") else { continue };
            // `Type::function` is no scenario, nor is a module of the product or of a library.
            let is_module = ["src", "protocol/src", "consumers/src"].iter().any(|folder| {
                let path = root.join(folder).join(module);
                path.exists() || path.with_extension("rs").exists()
            });
            let is_scenario = known.iter().any(|known| known == module);
            if module.starts_with(char::is_uppercase) || ["tokio", "std"].contains(&module) || is_module && !is_scenario
            {
                continue;
            }
            assert!(is_scenario, "{document} names {word}: tests/e2e/{module}.rs does not exist");
            let source = std::fs::read_to_string(root.join(format!("tests/e2e/{module}.rs"))).unwrap();
            found += 1;
            let name = name.trim_end_matches('*');
            let is_there = ["fn ", "mod "].iter().any(|item| source.contains(&format!("{item}{name}")));
            // The macro `scenarios!` makes this module.
            assert!(
                is_there || name == "embedded" && source.contains("scenarios!"),
                "{document} names {word}, which does not exist"
            );
        }
    }
    assert!(found >= 3, "only {found} scenarios were found");
}

#[test]
fn planted_names_of_nothing_are_found() {
    let targets = Targets { packages: vec!["a".into()], tests: vec!["e2e".into()], examples: vec!["till".into()] };
    let exists = |path: &str| ["src/a.rs", "tests/x", "docs", "docs/b.md"].contains(&path.trim_start_matches('/'));
    let has_fault = |text: &str| !faults("docs/b.md", text, &targets, exists).is_empty();
    assert!(!has_fault("See `src/a.rs`, tests/x/ and [b](b.md#part), [c](https://example.org/c.md)."));
    assert!(!has_fault("`cargo run -p a --example till`, `cargo test --test e2e`"));
    assert!(has_fault("See `src/gone.rs`.") && has_fault("tests/gone") && has_fault("[b](gone.md)"));
    assert!(has_fault("cargo run -p gone") && has_fault("cargo test --test gone") && has_fault("--example gone"));
}
