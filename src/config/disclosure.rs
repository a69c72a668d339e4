//! What a mistake may show of a file or a variable: nothing that could be a secret, since it is printed, and logged at a reload.
//!
//! What is not known to be harmless is not shown. A line is shown when everything on it is a known key whose value is no secret; a value is
//! quoted when its key is one of these. A line with a syntax error is never shown: where a quote is missing, nobody can say what it holds. Place,
//! keys and what was expected are always shown. Refused: a list of words that secrets are called by; a misspelt one is not on it.

use std::cell::LazyCell;
use std::ops::Range;

use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::template::{resolve, schema};

/// Keys that may hold a secret, also by mistake: the key itself instead of its file, or a program's password among its arguments.
const SECRETS: [&[&str]; 6] = [
    &["kafka", "properties"],
    &["kafka", "oauth_token_file"],
    &["kafka", "oauth_token_command"],
    &["tokens", "keys", "secret_file"],
    &["tokens", "keys", "public_key_file"],
    &["tokens", "keys", "public_key"],
];
/// Keys of addresses, in which somebody may write a password, as in `https://user:password@host`. They are refused with a text that quotes nothing.
const ADDRESSES: [&[&str]; 4] =
    [&["tokens", "jwks_url"], &["allowed_origins"], &["wall", "allowed_origins"], &["wall", "allowed_hosts"]];
/// How the names of Kafka properties begin among which passwords are. Written under another header, they are secrets still.
const SECRET_PREFIXES: [&str; 2] = ["sasl", "ssl"];
/// The comment that the printed defaults have behind keys. Nobody knows what is in another.
const RELOAD_COMMENT: &str = "# reload";

/// How messages begin that name a value. They end with what was expected, whatever the value has in it.
const VALUE_STARTS: [&str; 4] = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "];

/// A key of the file and its value.
struct Entry {
    path: Vec<String>,
    key: Range<usize>,
    value: Range<usize>,
    is_table: bool,
}

/// Decides what may be shown of a file and of variables.
pub(super) struct Disclosure<'a> {
    text: &'a str,
    entries: Vec<Entry>,
    /// The key that each variable sets. Their values have the places after the end of the file.
    variables: Vec<Vec<String>>,
    schema: LazyCell<Json>,
}

/// A message of the parser with its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disclosed {
    /// The message, or what may be shown of it.
    pub(super) what: String,
    /// Whether its lines may be shown.
    pub(super) shows_lines: bool,
}

impl<'a> Disclosure<'a> {
    /// For a file as it was read, before anything is laid over it.
    pub(super) fn new(text: &'a str, table: &DeTable<'_>, variables: Vec<Vec<String>>) -> Self {
        let mut entries = Vec::new();
        collect(table, &mut Vec::new(), &mut entries);
        Self { text, entries, variables, schema: LazyCell::new(schema) }
    }

    /// What may be shown of a message about the value or key at `place`.
    pub(super) fn of_value(&self, message: &str, place: Option<&Range<usize>>) -> Disclosed {
        let path = place.and_then(|place| self.path_at(place));
        // A string over several lines may have swallowed others, for want of its end.
        let is_one_line = place.is_some_and(|place| !self.text.get(place.clone()).unwrap_or_default().contains('\n'));
        let is_harmless = is_one_line && path.is_some_and(|path| self.may_be_quoted(path));
        let is_quoting = VALUE_STARTS.iter().any(|start| message.starts_with(start));
        let is_fixed_text = !is_quoting && path.is_some_and(|path| is_below(&ADDRESSES, path));
        let what = if is_harmless || is_fixed_text {
            message.to_owned()
        } else {
            without_value(message, path.unwrap_or_default())
        };
        Disclosed { what, shows_lines: place.is_some_and(|place| self.shows_lines(place)) }
    }

    /// Whether the lines at `place` hold nothing but known keys whose values are no secrets.
    pub(super) fn shows_lines(&self, place: &Range<usize>) -> bool {
        let (Some(before), Some(after)) = (self.text.get(..place.start), self.text.get(place.end..)) else {
            return false;
        };
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let end = place.end + after.find('\n').unwrap_or(after.len());
        let touches = |entry: &&Entry| {
            let (first, last) = (entry.key.start.min(entry.value.start), entry.key.end.max(entry.value.end));
            first <= end && begin <= last
        };
        let lines = &self.text[begin..end];
        let code = lines.trim_end();
        !lines.contains('\n')
            && !code.strip_suffix(RELOAD_COMMENT).unwrap_or(code).contains('#')
            && self
                .entries
                .iter()
                .filter(|entry| !entry.is_table)
                .filter(touches)
                .all(|entry| self.is_harmless(&entry.path))
    }

    /// The key whose name or value is at `place`: the innermost one.
    fn path_at(&self, place: &Range<usize>) -> Option<&[String]> {
        if let Some(variable) = place.start.checked_sub(self.text.len() + 1) {
            return self.variables.get(variable).map(Vec::as_slice);
        }
        let has = |range: &Range<usize>| range.start <= place.start && place.end <= range.end;
        let length =
            |entry: &Entry| [&entry.key, &entry.value].into_iter().filter(|range| has(range)).map(Range::len).min();
        let hits = self.entries.iter().filter_map(|entry| Some((length(entry)?, entry)));
        hits.min_by_key(|(length, entry)| (*length, std::cmp::Reverse(entry.path.len())))
            .map(|(_, entry)| entry.path.as_slice())
    }

    /// Whether a message may quote what is there. No key of `mapping` is a secret, and its messages are about what is written there.
    fn may_be_quoted(&self, path: &[String]) -> bool {
        !is_secret(path) && (path.first().is_some_and(|first| first == "mapping") || self.is_harmless(path))
    }

    /// True for a known key that holds no table, no address and no secret.
    fn is_harmless(&self, path: &[String]) -> bool {
        let mut at: &Json = &self.schema;
        for key in path {
            let within = self.member(at);
            let Some(next) = within["properties"].get(key).or_else(|| map_value(within)) else { return false };
            at = next;
        }
        let within = self.member(at);
        within.get("properties").is_none()
            && map_value(within).is_none()
            && !is_secret(path)
            && !is_below(&ADDRESSES, path)
    }

    /// What the schema says of a value, or of the values in an array.
    fn member<'s>(&'s self, at: &'s Json) -> &'s Json {
        let at = resolve(&self.schema, at);
        at.get("items").map_or(at, |items| resolve(&self.schema, items))
    }
}

/// The values of a table whose keys the operator chooses.
fn map_value(at: &Json) -> Option<&Json> {
    at.get("additionalProperties").filter(|values| values.is_object())
}

fn is_secret(path: &[String]) -> bool {
    // By its own name, whatever it stands below: a line that was moved, or whose header is missing, holds what it held.
    let is_known = |key: &String| SECRETS.iter().any(|secret| secret.last() == Some(&key.as_str()));
    let has_prefix = |key: &String| key.split('.').next().is_some_and(|first| SECRET_PREFIXES.contains(&first));
    path.iter().any(|key| is_known(key) || has_prefix(key))
}

/// True when a path is one of these keys or within one.
fn is_below(keys: &[&[&str]], path: &[String]) -> bool {
    keys.iter().any(|key| path.len() >= key.len() && key.iter().zip(path).all(|(a, b)| a == b))
}

/// What a message says besides the value: which kind was expected. The names of keys stay.
fn without_value(message: &str, path: &[String]) -> String {
    if ["unknown field ", "missing field ", "duplicate field "].iter().any(|start| message.starts_with(start)) {
        return message.to_owned();
    }
    // The names below `kafka.properties` are the operator's.
    let shown: Vec<&str> = path.iter().take(2).map(String::as_str).collect();
    let at = if shown.is_empty() { String::new() } else { format!("{}: ", shown.join(".")) };
    let expected =
        VALUE_STARTS.iter().any(|start| message.starts_with(start)).then(|| message.rsplit_once(", expected "));
    match expected.flatten() {
        Some((_, expected)) => format!("{at}a value of another kind, expected {expected}"),
        None => format!("{at}a value that cannot be used"),
    }
}

/// A message about the syntax without what it quotes of the file. What it expects are signs, and stay.
pub(super) fn without_quotes(message: &str) -> String {
    let is_sign = |quoted: &str| !quoted.contains(char::is_alphanumeric);
    let outside = |part: &str| match (part.find('"'), part.rfind('"')) {
        (Some(first), Some(last)) if first < last => format!("{}...{}", &part[..first], &part[last + 1..]),
        (Some(first), _) => format!("{}...", &part[..first]),
        _ => part.to_owned(),
    };
    let parts = message.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => outside(part),
        _ if is_sign(part) => format!("`{part}`"),
        _ => "...".to_owned(),
    });
    parts.collect()
}

/// All keys, a table before its members, also those of tables in arrays.
fn collect(table: &DeTable<'_>, path: &mut Vec<String>, all: &mut Vec<Entry>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        all.push(Entry { path: path.clone(), key: key.span(), value: value.span(), is_table });
        collect_value(value.get_ref(), path, all);
        path.pop();
    }
}

fn collect_value(value: &DeValue<'_>, path: &mut Vec<String>, all: &mut Vec<Entry>) {
    match value {
        DeValue::Table(inner) => collect(inner, path, all),
        DeValue::Array(items) => items.iter().for_each(|item| collect_value(item.get_ref(), path, all)),
        _ => {}
    }
}

#[cfg(test)]
#[path = "disclosure_tests.rs"]
mod tests;
