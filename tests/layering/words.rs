//! Words that were replaced, so that none comes back: old identifiers, wire words, keys, metrics, and wording that was translated thought.
//!
//! Every tracked text file is searched. A pattern must not meet plain English that is right: "a till rings", "the window of a browser" and
//! "what is shown" stay allowed, so a word that is also English is only refused in the form that it had as a name.

use std::path::Path;

use Form::{Member, Name, Phrase, Text};

/// How a pattern is matched.
#[derive(Clone, Debug)]
enum Form {
    /// As an identifier: case counts, and `_` belongs to the word.
    Name(String),
    /// As words in prose or parts of an identifier: case does not count, and `_`, `-` and capitals inside a name separate words.
    Phrase(String),
    /// As a part of an identifier or a whole one, for words that are also plain English: comments, texts in quotes and documents are only
    /// searched for compound names.
    Member(String),
    /// Anywhere, exactly so.
    Text(String),
}

/// The list: form, pattern, and what to write instead.
const LIST: &str = include_str!("old_words.txt");
/// Sentences that hold an old word, and some that are plain English.
const EXAMPLES: &str = include_str!("examples.txt");

/// The lines of one of the two files, in their columns.
fn columns(file: &'static str) -> impl Iterator<Item = Vec<String>> {
    let lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split('\t').map(|column| column.replace("\\n", "\n")).collect())
}

/// What is refused, and what to write instead.
fn patterns() -> Vec<(Form, String)> {
    let pattern = |columns: Vec<String>| match columns.as_slice() {
        [form, word, instead] => {
            let form = match form.as_str() {
                "name" => Name(word.clone()),
                "phrase" => Phrase(word.clone()),
                "member" => Member(word.clone()),
                "text" => Text(word.clone()),
                other => panic!("{other} is no form of a pattern"),
            };
            (form, instead.clone())
        }
        other => panic!("{other:?} has not three columns"),
    };
    columns(LIST).filter(|columns| columns[0] != "plain").map(pattern).collect()
}

/// What is right although a phrase or a member is in it, with words separated by spaces.
fn plain_english() -> Vec<String> {
    columns(LIST).filter(|columns| columns[0] == "plain").map(|columns| columns[1].clone()).collect()
}

/// Kinds of files that are searched, by the end of their name.
const ENDINGS: [&str; 13] = ["rs", "js", "mjs", "ts", "css", "html", "md", "toml", "sh", "py", "java", "go", "patch"];

/// Files, by prefix, that may contain old words, and why.
const ALLOWED: [(&str, &str); 2] =
    [("CHANGELOG.md", "says what was renamed"), ("src/pages/vendor/", "other people's code")];

/// Places of `word` in `text` where the characters around it do not belong to a word.
fn whole_words<'a>(text: &'a str, word: &'a str, belongs: fn(char) -> bool) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(belongs) && !after.is_some_and(belongs)
    })
}

/// The text in small letters, with a space wherever a word of a name ends: at `_`, at `-`, and before a capital that follows a small letter.
fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len() + text.len() / 8);
    let mut is_after_small = false;
    for c in text.chars() {
        if is_after_small && c.is_ascii_uppercase() {
            spaced.push(' ');
        }
        is_after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        spaced.push(if c == '_' || c == '-' { ' ' } else { c.to_ascii_lowercase() });
    }
    spaced
}

/// A line of code without its comment and without what stands in quotes.
fn code_of(line: &str) -> String {
    let trimmed = line.trim_start_matches([' ', '+', '-']);
    if ["//", "/*", "*", "# ", "#!"].iter().any(|mark| trimmed.starts_with(mark)) {
        return String::new();
    }
    let outside_quotes: Vec<&str> = line.split('"').step_by(2).collect();
    let code = outside_quotes.join(";");
    code.split(" // ").next().unwrap_or_default().to_owned()
}

/// The identifiers of a text, one or more lines per line of it: all that are code, and compound ones wherever they stand.
fn identifiers(path: &str, text: &str) -> String {
    let is_code = is_code(path);
    let mut identifiers = String::new();
    for line in text.lines() {
        if is_code {
            identifiers.push_str(&code_of(line));
        }
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in line.split(|c| !is_in_name(c)).filter(|name| spaced(name).trim().contains(' ')) {
            identifiers.push(';');
            identifiers.push_str(name);
        }
        identifiers.push('\n');
    }
    spaced(&identifiers)
}

/// Places of a phrase in a text of words with spaces between them, without those that lie within plain English.
fn phrase_places(words: &str, phrase: &str, plain: &[String]) -> Vec<usize> {
    let is_plain = |at: usize| {
        let around = plain.iter().filter(|plain| plain.contains(phrase));
        around
            .flat_map(|plain| words.match_indices(plain.as_str()))
            .any(|(from, plain)| (from..from + plain.len()).contains(&at) && at + phrase.len() <= from + plain.len())
    };
    whole_words(words, phrase, char::is_alphanumeric).filter(|at| !is_plain(*at)).collect()
}

/// Old words in a file, each with its line and what to write instead.
fn old_words(patterns: &[(Form, String)], path: &str, text: &str) -> Vec<String> {
    let (plain, prose, names) = (plain_english(), spaced(text), identifiers(path, text));
    let mut found: Vec<(usize, String)> = Vec::new();
    for (form, instead) in patterns {
        let in_names = |c: char| c.is_alphanumeric() || c == '_';
        let (word, searched, places) = match form {
            Name(word) => (word, text, whole_words(text, word, in_names).collect()),
            Phrase(word) => (word, &*prose, phrase_places(&prose, &word.replace('_', " "), &plain)),
            Member(word) => (word, &*names, phrase_places(&names, word, &plain)),
            Text(word) => (word, text, text.match_indices(word).map(|(at, _)| at).collect::<Vec<_>>()),
        };
        for at in places {
            let line = searched[..at].matches('\n').count() + 1 + usize::from(word.starts_with('\n'));
            found.push((line, format!("{path}:{line}: {:?}: write {instead}", word.trim_start())));
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, message)| message).collect()
}

/// True for a file whose lines are code, with comments and texts in quotes.
fn is_code(path: &str) -> bool {
    let ending = Path::new(path).extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ["rs", "js", "mjs", "ts", "py", "java", "go", "patch"].contains(&ending))
}

fn is_searched(path: &str) -> bool {
    let ending = Path::new(path).extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
        && !ALLOWED.iter().any(|(prefix, _)| path.starts_with(prefix))
}

#[test]
fn no_old_word_comes_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = super::tracked_files();
    let files: Vec<&String> = listed.iter().filter(|path| is_searched(path)).collect();
    assert!(files.len() > 150, "only {} files were found", files.len());
    let (patterns, mut all) = (patterns(), Vec::new());
    for path in files {
        all.extend(old_words(&patterns, path, path));
        // A file that was deleted and is not committed yet is still listed.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            all.extend(old_words(&patterns, path, &text));
        }
    }
    assert!(all.is_empty(), "{} old words:\n{}", all.len(), all.join("\n"));
}

#[test]
fn planted_old_words_are_found_and_plain_english_is_not() {
    let patterns = patterns();
    let (mut refused, mut plain) = (0, 0);
    for example in columns(EXAMPLES) {
        let found = old_words(&patterns, "a.rs", &example[1]);
        match example[0].as_str() {
            "refused" => refused += usize::from(!found.is_empty()),
            _ => plain += usize::from(found.is_empty()),
        }
        assert_eq!(example[0] == "refused", !found.is_empty(), "{example:?}: {found:?}");
    }
    assert!(patterns.len() > 80 && refused >= 30 && plain >= 14, "{} {refused} {plain}", patterns.len());
    let pattern = [(Text("\nold = ".into()), "new".to_owned())];
    assert_eq!(old_words(&pattern, "a.md", "one\n\nold = 3\n"), ["a.md:3: \"old = \": write new"]);
    assert!(is_searched("src/hub/mod.rs") && is_searched("tests/mutants/x.patch") && !is_searched("CHANGELOG.md"));
}
