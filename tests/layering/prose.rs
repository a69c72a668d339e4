//! Prose in the documents: a line has at most 120 characters, so that a diff shows the sentence that changed.
//!
//! Not prose are headings, rows of tables and blocks of code. A line that is one link or one address cannot be wrapped.

const CHARACTERS_MAX: usize = 120;

/// A list of entries to which every branch adds.
const ALLOWED: [&str; 1] = ["CHANGELOG.md"];

/// True for a link or an address alone, also as an item of a list.
fn is_one_link(line: &str) -> bool {
    let item = line.trim_start_matches(['-', '*', ' ']).trim_end_matches(['.', ',', ';', ' ']);
    let is_address = item.trim_start_matches('<').starts_with("http") && !item.contains(char::is_whitespace);
    let link = item.strip_prefix('[').and_then(|rest| rest.strip_suffix(')')?.split_once("]("));
    is_address || link.is_some_and(|(text, target)| !text.contains(']') && !target.contains([')', ' ']))
}

/// Lines of prose that are too long, and a block of code without an end, which would hide those behind it.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = None;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") {
            block = if block.is_some() { None } else { Some(at + 1) };
        }
        let is_heading = trimmed.starts_with('#') && trimmed.trim_start_matches('#').starts_with(' ');
        let is_prose = block.is_none() && !is_heading && !trimmed.starts_with('|') && !is_one_link(trimmed);
        let characters = line.chars().count();
        if is_prose && characters > CHARACTERS_MAX {
            found.push(format!("{path}:{}: {characters} characters, at most {CHARACTERS_MAX}", at + 1));
        }
    }
    found.extend(block.map(|line| format!("{path}:{line}: this block of code has no end")));
    found
}

#[test]
fn no_line_of_prose_has_more_than_120_characters() {
    let documents = super::tracked_files();
    let documents = documents.iter().filter(|path| path.ends_with(".md") && !ALLOWED.contains(&path.as_str()));
    let documents: Vec<_> = documents.filter_map(|path| Some((path, super::text_of(path)?))).collect();
    assert!(documents.len() > 70, "only {} documents were found", documents.len());
    let faults: Vec<_> = documents.iter().flat_map(|(path, text)| faults(path, text)).collect();
    assert!(faults.is_empty(), "{} lines are to be wrapped:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn planted_long_lines_are_found() {
    let long = "word ".repeat(30);
    let found = |text: &str| faults("a.md", text);
    assert_eq!(found(&format!("# A\n\nShort.\n{long}\n")), ["a.md:4: 150 characters, at most 120"]);
    assert_eq!(found(&"字".repeat(121)).len(), 1, "without a space, too");
    assert_eq!(found(&"字".repeat(120)), [""; 0], "characters are counted, not bytes");
    let prose = ["- ", "   ", "> ", "#1 ", "[a](b.md) ", "https://example.org "].map(|begin| format!("{begin}{long}"));
    let prose = prose.into_iter().chain([format!("[a](b.md) {long}[c](d.md)"), format!("```\nx\n```\n{long}")]);
    for text in prose {
        assert_eq!(found(&text).len(), 1, "{text}");
    }
    let address = format!("https://example.org/{}", "a".repeat(120));
    let other = [format!("## {long}"), format!("| {long} |"), format!("  ```text\n{long}\n  ```"), address.clone()];
    for text in other.into_iter().chain([format!("<{address}>"), format!("- [{long}]({address})."), "word".into()]) {
        assert_eq!(found(&text), [""; 0], "{text}");
    }
    assert_eq!(found(&format!("a\n```sh\n{long}")), ["a.md:2: this block of code has no end"]);
}
