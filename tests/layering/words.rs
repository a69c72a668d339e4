//! Words that were replaced, so that none comes back: old identifiers, wire words, keys, metrics, and wording that was translated thought.
//!
//! Every tracked text file is searched. A pattern must not meet plain English that is right: "a till rings", "the window of a browser" and
//! "what is shown" stay allowed, so a word that is also English is only refused in the form that it had as a name.

use std::path::Path;

use Form::{Name, Phrase, Text};

/// How a pattern is matched.
#[derive(Clone, Debug)]
enum Form {
    /// As an identifier: case counts, and `_` belongs to the word.
    Name(String),
    /// As words in prose or parts of an identifier: case does not count, and `_` separates words.
    Phrase(String),
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
                "text" => Text(word.clone()),
                other => panic!("{other} is no form of a pattern"),
            };
            (form, instead.clone())
        }
        other => panic!("{other:?} has not three columns"),
    };
    columns(LIST).map(pattern).collect()
}

/// Kinds of files that are searched, by the end of their name.
const ENDINGS: [&str; 12] = ["rs", "js", "mjs", "ts", "css", "html", "md", "toml", "sh", "py", "java", "patch"];

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

/// Old words in a file, each with its line and what to write instead.
fn old_words(patterns: &[(Form, String)], path: &str, text: &str) -> Vec<String> {
    // Words of a phrase may be joined by a space, a hyphen or an underscore.
    let prose = text.to_ascii_lowercase().replace(['_', '-'], " ");
    let mut found: Vec<(usize, String)> = Vec::new();
    for (form, instead) in patterns {
        let (word, places): (&str, Vec<usize>) = match form {
            Name(word) => (word, whole_words(text, word, |c| c.is_alphanumeric() || c == '_').collect()),
            Phrase(word) => {
                let spaced = word.replace('_', " ");
                (word, whole_words(&prose, &spaced, char::is_alphanumeric).collect())
            }
            Text(word) => (word, text.match_indices(word).map(|(at, _)| at).collect()),
        };
        for at in places {
            let line = text[..at].matches('\n').count() + 1 + usize::from(word.starts_with('\n'));
            found.push((line, format!("{path}:{line}: {:?}: write {instead}", word.trim_start())));
        }
    }
    found.sort();
    found.into_iter().map(|(_, message)| message).collect()
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
    assert!(patterns.len() > 80 && refused >= 20 && plain >= 9, "{} {refused} {plain}", patterns.len());
    let pattern = [(Text("\nold = ".into()), "new".to_owned())];
    assert_eq!(old_words(&pattern, "a.md", "one\n\nold = 3\n"), ["a.md:3: \"old = \": write new"]);
    assert!(is_searched("src/hub/mod.rs") && is_searched("tests/mutants/x.patch") && !is_searched("CHANGELOG.md"));
}
