//! One name, one type: no two public types of the workspace share a name. A type that is `pub(crate)` or private may, where its file makes clear
//! which is meant.

use std::collections::BTreeMap;

/// The name of the public type that this line declares.
fn declared(line: &str) -> Option<&str> {
    let item = line.trim_start().strip_prefix("pub ")?;
    let rest = ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|kind| item.strip_prefix(kind))?;
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest);
    // A macro's parameter is no name.
    (!name.is_empty()).then_some(name)
}

/// Names that several public types have, with their places.
fn shared_names<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, text) in files {
        for (at, line) in text.lines().enumerate() {
            if let Some(name) = declared(line) {
                places.entry(name).or_default().push(format!("{path}:{}", at + 1));
            }
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    shared.map(|(name, places)| format!("{name} names {} public types: {}", places.len(), places.join(", "))).collect()
}

#[test]
fn no_two_public_types_share_a_name() {
    let sources = super::product_sources();
    let found = sources.iter().flat_map(|(_, text)| text.lines()).filter_map(declared).count();
    assert!(found > 200, "only {found} public types were found");
    let shared = shared_names(sources.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    assert!(shared.is_empty(), "{}", shared.join("\n"));
}

#[test]
fn a_planted_second_type_is_found() {
    let second = |text| shared_names([("a.rs", "pub struct Place<T>(T);"), ("b.rs", text)].into_iter());
    assert_eq!(second("//! B.\n    pub enum Place {"), ["Place names 2 public types: a.rs:1, b.rs:2"]);
    assert_eq!(second("pub trait Place: Send {").len() + second("pub type Place = u8;").len(), 2);
    assert!(second("struct Place;\npub(crate) struct Place;\npub struct Placed;\npub fn place() {}").is_empty());
}
