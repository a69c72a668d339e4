//! The blocks of TOML in the documents: the product loads each, and the mapping on a page about connecting is that of the recipe which the page
//! names in front of it.

use std::path::Path;

use orderbell::config::Config;

use super::documents;

/// Pages whose every block is a recipe.
const PAGES: &str = "docs/connecting";
const RECIPES: &str = "examples/mappings/";
/// What stands in other places of the same file where a document shows a part of a section.
const CONTEXT: [(&str, &str); 1] =
    [("[kafka.properties]", "[kafka]\nbootstrap = \"kafka-1:9092\"\ntopics = [\"orders\"]\n")];

/// The blocks of a document, each with what stands between it and the one before.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let (mut rest, mut all) = (text, Vec::new());
    while let Some((before, behind)) = rest.split_once("```toml\n") {
        let (block, next) = behind.split_once("```").unwrap_or((behind, ""));
        all.push((before, block));
        rest = next;
    }
    all
}

/// The recipe that a page names last.
fn recipe_named(before: &str) -> Option<&str> {
    let names = documents::links(before).filter_map(|link| Some(link.split_once(RECIPES)?.1));
    names.filter(|name| name.ends_with(".toml")).last()
}

/// What a recipe says behind the comments at its beginning.
fn without_heading(recipe: &str) -> &str {
    recipe.split_once("\n\n").map_or(recipe, |(_, keys)| keys)
}

/// What is wrong with a block.
fn fault(document: &str, before: &str, block: &str, recipe: impl Fn(&str) -> Option<String>) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.toml");
    let context = CONTEXT.iter().filter(|(part, _)| block.starts_with(part)).map(|(_, context)| *context);
    // The file of the stores is the reader's own.
    let stores = dir.path().join("stores.csv");
    std::fs::write(&stores, "id,name,city\n17,Bund,Shanghai\n").unwrap();
    let text = context.chain([block]).collect::<String>().replace("stores.csv", stores.to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    if let Err(error) = Config::load(Some(&path), &[]) {
        return Some(format!("{document} has a configuration that is none: {error}"));
    }
    if !document.starts_with(PAGES) {
        return None;
    }
    let Some(name) = recipe_named(before) else { return Some(format!("{document} names no recipe for\n{block}")) };
    let recipe = recipe(name).unwrap_or_default();
    (without_heading(&recipe) != block).then(|| format!("{document} differs from {RECIPES}{name}:\n{block}"))
}

#[test]
fn the_configurations_in_the_documents_are_loaded_and_are_their_recipes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = |name: &str| std::fs::read_to_string(root.join(RECIPES).join(name)).ok();
    let (mut faults, mut of_pages) = (Vec::new(), 0);
    for document in super::tracked_files().into_iter().filter(|file| file.ends_with(".md")) {
        let Ok(text) = std::fs::read_to_string(root.join(&document)) else { continue };
        let all = blocks(&text);
        of_pages += if document.starts_with(PAGES) { all.len() } else { 0 };
        faults.extend(all.into_iter().filter_map(|(before, block)| fault(&document, before, block, recipe)));
    }
    assert!(of_pages >= 6, "only {of_pages} blocks were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn planted_configurations_are_found() {
    let recipe = |name: &str| (name == "a.toml").then(|| "# What it is.\n\n[mapping]\nstore = \"/shop\"\n".to_owned());
    let said = |document: &str, before: &str, block: &str| fault(document, before, block, recipe).unwrap_or_default();
    let (page, named) =
        ("docs/connecting/a.md", "See [b](../../examples/mappings/b.toml) and [a](../../examples/mappings/a.toml):");
    assert_eq!(said(page, named, "[mapping]\nstore = \"/shop\"\n"), "");
    assert!(
        said(page, named, "[mapping]\nstore = \"/shop\"\nid = \"/id\"\n")
            .contains("differs from examples/mappings/a.toml")
    );
    assert!(said(page, named, "[mapping]\n").contains("differs"), "a line less");
    assert!(said(page, "See a.toml:", "[mapping]\nstore = \"/shop\"\n").contains("names no recipe"));
    assert!(said("README.md", "", "[mapping]\nstore = \"shop\"\n").contains("did you mean `/shop`?"));
    assert_eq!(said("README.md", "", "[kafka.properties]\n\"client.rack\" = \"a\"\n"), "");
    assert!(said("README.md", "", "[kafka.property]\n").contains("is none"));
    assert_eq!(blocks("a\n```toml\nx = 1\n```\nb\n```json\n{}\n```\n```toml\ny = 2\n```\n").len(), 2);
}
