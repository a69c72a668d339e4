//! Statistics of the members of a sample's events: how many values, how many different ones, and of what form.
//!
//! Values are compared by hash. A few texts of each member are kept to guess types by, and are shown nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use orderbell_protocol::{UnixMs, id_text};
use serde_json::value::RawValue;

use super::super::decimal::Decimal;
use super::super::event_time::{self, Zone};
use super::super::fields::scalar;

/// Most members that are looked at: with more, names are made of values.
const MAX_MEMBERS: usize = 400;
/// Deepest member that is looked at.
const MAX_DEPTH: usize = 6;
/// Longest name of a member. A longer one is a text.
const MAX_NAME_CHARS: usize = 60;
/// Digits in a row from which a name may be somebody's number.
const NAME_DIGITS: usize = 4;
/// Texts of a member that are kept, and their longest.
const MAX_TEXTS: usize = 40;
const MAX_TEXT_CHARS: usize = 64;
/// Characters of a shape.
const MAX_SHAPE_CHARS: usize = 24;
/// A time this long after now is none.
const AHEAD_MAX_MS: i64 = 48 * 3_600_000;
/// Ids are no longer than this; longer texts are read by people.
const MAX_ID_CHARS: usize = 128;

/// What a value is, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A whole number, or a text of digits.
    Whole,
    /// A number with a point, or a text with one.
    Decimal,
    /// A text without white space, which may be an id.
    Word,
    /// Any other text.
    Text,
    /// True, false, or an array or object.
    Other,
}

/// The value of a member in one event.
#[derive(Debug)]
pub(super) struct MemberValue {
    /// Index of the event in the sample.
    pub(super) event: usize,
    pub(super) hash: u64,
    pub(super) form: Form,
    /// A plausible time.
    pub(super) is_time: bool,
    /// An id with blanks or invisible characters around it.
    pub(super) is_padded: bool,
}

/// One member of the events.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) values: Vec<MemberValue>,
    /// Different texts and how often each occurs, as many as are kept.
    pub(super) texts: BTreeMap<String, u64>,
    shapes: BTreeMap<String, u64>,
}

impl Member {
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }

    /// Number of different values.
    pub(super) fn distinct(&self) -> usize {
        self.values.iter().map(|value| value.hash).collect::<BTreeSet<_>>().len()
    }

    /// True where at least nine of ten values satisfy the condition.
    pub(super) fn mostly(&self, is_so: impl Fn(&MemberValue) -> bool) -> bool {
        let count = self.values.iter().filter(|value| is_so(value)).count();
        count > 0 && count * 10 >= self.count() * 9
    }

    /// The form of most values, as letters and digits that stand for any.
    pub(super) fn shape(&self) -> &str {
        self.shapes.iter().max_by_key(|(_, count)| **count).map_or("", |(shape, _)| shape)
    }

    /// The hash of the value in each event that has one.
    pub(super) fn by_event(&self) -> BTreeMap<usize, u64> {
        self.values.iter().map(|value| (value.event, value.hash)).collect()
    }
}

/// The members of all events, by their pointers.
#[derive(Debug, Default)]
pub(super) struct MemberTable(pub(super) BTreeMap<String, Member>);

/// The hash by which values are compared, of a text without what surrounds an id.
fn hash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id_text::trim(text).as_bytes())
}

impl MemberTable {
    /// Adds the members of an event's JSON.
    pub(super) fn add(&mut self, event: usize, data: &str, zone: &Zone, now: UnixMs) {
        let reader = MemberReader { event, zone, latest_ms: now.0.saturating_add(AHEAD_MAX_MS) };
        reader.read(self, &mut String::new(), data, 0);
    }

    fn at(&mut self, pointer: &str) -> Option<&mut Member> {
        if !self.0.contains_key(pointer) && self.0.len() >= MAX_MEMBERS {
            return None;
        }
        Some(self.0.entry(pointer.to_owned()).or_default())
    }
}

struct MemberReader<'a> {
    event: usize,
    zone: &'a Zone,
    latest_ms: i64,
}

impl MemberReader<'_> {
    fn read(&self, table: &mut MemberTable, pointer: &mut String, json: &str, depth: usize) {
        if json == "null" || depth > MAX_DEPTH {
            return;
        }
        // `{"$date": ...}` is a time, and what is in it no member.
        let is_time = self.is_time(json);
        if json.starts_with('{') && !is_time {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).unwrap_or_default();
            for (name, value) in members.iter().filter(|(name, _)| is_a_name(name)) {
                self.below(table, pointer, name, value.get(), depth);
            }
            return;
        }
        if json.starts_with('[') && !is_time {
            // Items of an order are none of its members; a row alone in its array is.
            let items: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
            if let [item] = items[..] {
                self.below(table, pointer, "0", item.get(), depth);
            }
            return;
        }
        if !pointer.is_empty()
            && let Some(member) = table.at(pointer)
        {
            member.add(self.event, json, is_time);
        }
    }

    fn below(&self, table: &mut MemberTable, pointer: &mut String, name: &str, json: &str, depth: usize) {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        self.read(table, pointer, json, depth + 1);
        pointer.truncate(length);
    }

    fn is_time(&self, json: &str) -> bool {
        /// 2010-01-01.
        const EARLIEST_MS: i64 = 1_262_304_000_000;
        let stated = event_time::stated(json, self.zone, false);
        stated.is_ok_and(|at_ms| (EARLIEST_MS..=self.latest_ms).contains(&at_ms))
    }
}

impl Member {
    fn add(&mut self, event: usize, json: &str, is_time: bool) {
        let Some(text) = scalar(json) else {
            let hash = hash(json);
            self.values.push(MemberValue { event, hash, form: Form::Other, is_time, is_padded: false });
            return;
        };
        let trimmed = id_text::trim(&text);
        if id_text::is_no_id(trimmed) {
            return;
        }
        let form = form(trimmed);
        let is_padded = trimmed != text && form != Form::Text;
        self.values.push(MemberValue { event, hash: hash(trimmed), form, is_time, is_padded });
        if trimmed.chars().count() <= MAX_TEXT_CHARS {
            add_one(&mut self.texts, trimmed.to_owned());
        }
        add_one(&mut self.shapes, shape(trimmed));
    }
}

fn add_one(counts: &mut BTreeMap<String, u64>, text: String) {
    if counts.len() < MAX_TEXTS || counts.contains_key(&text) {
        *counts.entry(text).or_default() += 1;
    }
}

fn form(text: &str) -> Form {
    match Decimal::parse(text) {
        Some(number) if number.exactly(0).is_some() && !text.contains(['.', 'e', 'E']) => Form::Whole,
        Some(_) => Form::Decimal,
        // An order's number may have more digits than a number that is calculated with.
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => Form::Whole,
        None if text.chars().any(char::is_whitespace) || text.chars().count() > MAX_ID_CHARS => Form::Text,
        None => Form::Word,
    }
}

/// A text in which each digit is 9 and each letter a letter that says nothing.
pub(super) fn shape(text: &str) -> String {
    let mask = |c: char| match c {
        '0'..='9' => '9',
        'a'..='z' => 'a',
        'A'..='Z' => 'A',
        '-' | '_' | ':' | '.' | '/' | '+' => c,
        c if c.is_alphabetic() => 'x',
        _ => '?',
    };
    text.chars().take(MAX_SHAPE_CHARS).map(mask).collect()
}

/// False for the names of members that are values: numbers of people or of orders, and texts.
fn is_a_name(name: &str) -> bool {
    let has_digits = name.as_bytes().windows(NAME_DIGITS).any(|part| part.iter().all(u8::is_ascii_digit));
    !name.is_empty() && !has_digits && !name.contains('@') && name.chars().count() <= MAX_NAME_CHARS
}
