//! From a TOML file and the environment to a [`Config`], or to all mistakes at once.
//!
//! The file becomes a table whose values know their places; variables such as `ORDERBELL__LISTEN__PUBLIC` are laid over it. A value that does
//! not deserialize is recorded with its place and removed, and the rest is tried again, so that one run reports every mistake. Then values
//! are checked against each other. Refused: a second description of the configuration to validate against; the types are the only one.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer};

use super::Config;
use super::disclosure::{Disclosed, Disclosure, without_quotes};
use super::keys::ConfigFile;

/// Prefix of the variables that override a key of the file: `ORDERBELL__SESSIONS__MAX_IN_FLIGHT=32`.
pub const ENV_PREFIX: &str = "ORDERBELL__";
/// Most mistakes that are reported: the file of another program has hundreds.
const MISTAKES_MAX: usize = 50;
/// A known name with at least this Jaro-Winkler similarity, from 0 to 1, is suggested.
const SIMILARITY_MIN: f64 = 0.8;

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, in one line.
    pub what: String,
    /// The name that was probably meant.
    pub hint: Option<String>,
    /// Place in the file, in bytes; `None` for a variable or a key that is missing.
    pub span: Option<Range<usize>>,
    /// The environment variable that it comes from.
    pub variable: Option<String>,
    /// Its lines may be shown: they hold no secret.
    pub shows_lines: bool,
}

/// All mistakes of a configuration. Its `Debug` output leaves out the file, which may hold secrets.
pub struct Mistakes {
    name: String,
    text: String,
    /// In the order of the file.
    pub all: Vec<Mistake>,
}

impl Mistake {
    /// The mistake with the line of the file that it is in.
    fn report<'a>(&'a self, name: &'a str, text: &'a str) -> Group<'a> {
        let title = match &self.variable {
            Some(variable) => Level::ERROR.primary_title(format!("{variable}: {}", self.what)),
            None => Level::ERROR.primary_title(self.what.as_str()),
        };
        let hint = self.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let Some(span) = self.span.clone() else { return Group::with_title(title).elements(hint) };
        if self.shows_lines {
            let lines = Snippet::source(text).path(name).annotation(AnnotationKind::Primary.span(span));
            return title.element(lines).elements(hint);
        }
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        title.element(Origin::path(name).line(line).char_column(column)).elements(hint)
    }
}

impl std::fmt::Debug for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mistakes").field("name", &self.name).field("all", &self.all).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}: {}",
            self.name,
            if self.all.len() == 1 { "1 mistake".into() } else { format!("{} mistakes", self.all.len()) }
        )?;
        for mistake in &self.all {
            writeln!(f, "{}", Renderer::plain().render(&[mistake.report(&self.name, &self.text)]))?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads a configuration. `variables` are all of the environment; those without the prefix are ignored.
///
/// # Errors
/// All [`Mistakes`].
pub(super) fn read(name: &str, text: &str, variables: &[(String, String)]) -> Result<Config, Mistakes> {
    let fail = |mut all: Vec<Mistake>| {
        all.sort_by_key(|mistake| mistake.span.as_ref().map_or(usize::MAX, |span| span.start));
        all.dedup();
        all.truncate(MISTAKES_MAX);
        Err(Mistakes { name: name.into(), text: text.into(), all })
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // Values after a syntax error are not looked at: their mistakes may only be consequences of it.
        let syntax = |error: &toml::de::Error| {
            let what = without_quotes(first_line(error.message()));
            mistake(Disclosed { what, shows_lines: false }, error.span())
        };
        return fail(errors.iter().map(syntax).collect());
    }
    let mut variables: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    let paths = variables.iter().map(|(variable, _)| path_of(variable)).collect();
    let disclosure = Disclosure::new(text, table.get_ref(), paths);
    let mut table = table;
    let mut all = Vec::new();
    for (at, (variable, value)) in variables.iter().enumerate() {
        let place = text.len() + 1 + at;
        if !lay_over(table.get_mut(), variable, value, place..place) {
            let what = "names no key of the configuration".into();
            all.push(Mistake { what, hint: None, span: None, variable: Some(variable.clone()), shows_lines: false });
        }
    }
    let config = loop {
        match ConfigFile::deserialize(Deserializer::from(table.clone())) {
            Ok(file) => break Config::from(file),
            Err(error) => {
                let span = error.span();
                let disclosed = disclosure.of_value(first_line(error.message()), span.as_ref());
                all.push(mistake(disclosed, span.clone()));
                let removed = span.is_some_and(|span| take_out(table.get_mut(), &span));
                if !removed || all.len() >= MISTAKES_MAX {
                    return fail(named(all, text, &variables));
                }
            }
        }
    };
    all.extend(config.mistakes().into_iter().map(|(path, what)| {
        let span = find(table.get_ref(), &path);
        let shows_lines = span.as_ref().is_some_and(|span| disclosure.shows_lines(span));
        mistake(Disclosed { what: format!("{}: {what}", path.join(".")), shows_lines }, span)
    }));
    if all.is_empty() { Ok(config) } else { fail(named(all, text, &variables)) }
}

/// Names the variable of each mistake: places after the end of the file are the indexes of variables.
fn named(mut all: Vec<Mistake>, text: &str, variables: &[&(String, String)]) -> Vec<Mistake> {
    for mistake in &mut all {
        if let Some(at) = mistake.span.as_ref().and_then(|span| span.start.checked_sub(text.len() + 1)) {
            mistake.variable = variables.get(at).map(|(name, _)| name.clone());
            mistake.span = None;
        }
    }
    all
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default().trim()
}

fn mistake(Disclosed { what, shows_lines }: Disclosed, span: Option<Range<usize>>) -> Mistake {
    Mistake { hint: hint(&what), what, span, variable: None, shows_lines }
}

/// The most similar of the names that the message says were expected.
fn hint(what: &str) -> Option<String> {
    let (wrong, expected) = what.split_once(", expected ")?;
    let words = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let wrong = words(wrong).into_iter().next()?;
    let similarity = |known: &String| strsim::jaro_winkler(&wrong, known);
    let known = words(expected);
    let best = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(best) >= SIMILARITY_MIN).then(|| format!("did you mean `{best}`?"))
}

/// The key that a variable names: `ORDERBELL__LISTEN__PUBLIC` is `listen.public`.
fn path_of(variable: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    for part in variable[ENV_PREFIX.len()..].split("__") {
        // Names that the operator chose keep their case.
        let theirs = path.last().is_some_and(|map| ["types", "topics", "properties"].contains(&map.as_str()));
        path.push(if theirs { part.to_owned() } else { part.to_ascii_lowercase() });
    }
    path
}

/// Sets the key that a variable names. A value that is not TOML is taken as a string.
fn lay_over<'a>(table: &mut DeTable<'a>, variable: &'a str, value: &'a str, place: Range<usize>) -> bool {
    let path = path_of(variable);
    let Some((last, sections)) = path.split_last().filter(|_| path.iter().all(|part| !part.is_empty())) else {
        return false;
    };
    let mut table = table;
    for section in sections {
        let entry = table.entry(Spanned::new(place.clone(), DeString::Owned(section.clone())));
        let fresh = || Spanned::new(place.clone(), DeValue::Table(DeTable::new()));
        let DeValue::Table(inner) = entry.or_insert_with(fresh).get_mut() else { return false };
        table = inner;
    }
    let value = match DeValue::parse(value) {
        Ok(parsed) => parsed,
        Err(_) => Spanned::new(place.clone(), DeValue::String(DeString::Borrowed(value))),
    };
    let value = moved(value, &place);
    table.remove(last.as_str());
    table.insert(Spanned::new(place, DeString::Owned(last.clone())), value);
    true
}

fn moved<'a>(value: Spanned<DeValue<'a>>, place: &Range<usize>) -> Spanned<DeValue<'a>> {
    let moved_value = match value.into_inner() {
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| moved(item, place)).collect()),
        DeValue::Table(table) => {
            let entry = |(key, value): (Spanned<DeString<'a>>, _)| {
                (Spanned::new(place.clone(), key.into_inner()), moved(value, place))
            };
            DeValue::Table(table.into_iter().map(entry).collect())
        }
        other => other,
    };
    Spanned::new(place.clone(), moved_value)
}

/// All keys with the places of key and value, a table before its members.
fn keys(table: &DeTable<'_>, path: &mut Vec<String>, all: &mut Vec<(Vec<String>, Range<usize>, Range<usize>)>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        all.push((path.clone(), key.span(), value.span()));
        if let DeValue::Table(inner) = value.get_ref() {
            keys(inner, path, all);
        }
        path.pop();
    }
}

fn find(table: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let mut all = Vec::new();
    keys(table, &mut Vec::new(), &mut all);
    all.into_iter().find(|(known, _, _)| known == path).map(|(_, _, value)| value)
}

/// Removes the innermost key or value at `span`; false when there is none.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let mut all = Vec::new();
    keys(table, &mut Vec::new(), &mut all);
    let at = |place: &Range<usize>| place.start <= span.start && span.end <= place.end;
    let hit = all.iter().filter(|(_, key, value)| at(key) || at(value));
    let Some((path, _, _)) = hit.min_by_key(|(path, key, value)| {
        let len = if at(key) { key.len() } else { value.len() };
        (len, std::cmp::Reverse(path.len()))
    }) else {
        return false;
    };
    let (Some((last, sections)), mut table) = (path.split_last(), table) else { return false };
    for section in sections {
        match table.get_mut(section.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => table = inner,
            _ => return false,
        }
    }
    table.remove(last.as_str()).is_some()
}
