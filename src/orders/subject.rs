//! Whether the subject of a CloudEvent is its order where the configuration says nothing about it.
//!
//! Producers write the order there, and as often the store, a path to it, the customer, a city or the name of the event. Taken for the order,
//! such a subject makes all orders one, and every order after the first notifies nobody. So it counts only where it holds a number that is
//! none of the event's other ids, and where no other member can be the order. All else is refused, and the rejection names the key to set.
//!
//! The data is parsed here once more, on the poll thread; `subject = "order"` or a pointer to the order saves that.

use serde_json::Value;

use super::envelope::Envelope;
use super::fields;
use super::mapping::Mapping;
use super::members;

/// Letters before an id that make a word for its owner, as in `store17`. Orders are called `o17` or `A17`.
const MIN_WORD_CHARS: usize = 3;
/// An extra field by default, and in many systems the order's number.
const ORDER_NUMBER: &str = "/number";

/// True when an event's subject can be its order only. `store` is the event's store.
pub(super) fn is_order(mapping: &Mapping, envelope: &Envelope, data: &str, subject: &str, store: Option<&str>) -> bool {
    let Ok(data) = serde_json::from_str::<Value>(data) else { return false };
    let is_name = [&envelope.kind, &envelope.source].into_iter().flatten().any(|name| name == subject);
    if is_name || may_name_order(&data, &mut String::new(), &known(mapping)) {
        return false;
    }
    let person = |pointer: &str| fields::id(&data.pointer(pointer)?.to_string()).ok().flatten();
    let ids = store
        .map(str::to_owned)
        .into_iter()
        .chain([&mapping.customer, &mapping.device].into_iter().filter_map(|at| person(at)));
    ids.fold(subject.to_owned(), |rest, id| without(&rest, &id)).contains(char::is_numeric)
}

/// Pointers to what is no order. The event's id is in the envelope: an `id` in the data may be the order's.
fn known(mapping: &Mapping) -> Vec<String> {
    let extra_fields =
        mapping.extra_fields.iter().map(|name| members::pointer_to(name)).filter(|at| at != ORDER_NUMBER);
    mapping.pointers().filter(|at| *at != mapping.id).map(str::to_owned).chain(extra_fields).collect()
}

/// True when the data holds something with a digit that no pointer leads to. `path` is the pointer to `value`.
fn may_name_order(value: &Value, path: &mut String, known: &[String]) -> bool {
    if known.contains(path) {
        return false;
    }
    let length = path.len();
    let mut below = |name: &str, value: &Value| {
        path.push('/');
        path.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let found = may_name_order(value, path, known);
        path.truncate(length);
        found
    };
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| below(name, value)),
        Value::Array(items) => items.iter().enumerate().any(|(at, item)| below(&at.to_string(), item)),
        Value::String(text) => text.contains(char::is_numeric),
        Value::Number(_) => true,
        Value::Bool(_) | Value::Null => false,
    }
}

/// A subject without the places where this id stands as a word, or behind a word, also with zeros behind a point: `shops/17.0`.
fn without(subject: &str, id: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let stands_alone = |at: &usize| {
        let (before, after) = (&subject[..*at], &subject[at + id.len()..]);
        let word = before.trim_end_matches(char::is_alphabetic);
        let is_behind_word =
            before[word.len()..].chars().count() >= MIN_WORD_CHARS && !is_part(word.chars().next_back());
        (!is_part(before.chars().next_back()) || is_behind_word) && !is_part(after.chars().next())
    };
    let (mut rest, mut from) = (String::new(), 0);
    for at in subject.match_indices(id).map(|(at, _)| at).filter(stands_alone) {
        // The zeros of the last one may hold an id that is 0.
        if at >= from {
            rest.push_str(&subject[from..at]);
            from = at + id.len();
            from += zeros_behind_point(&subject[from..]);
        }
    }
    rest.push_str(&subject[from..]);
    rest
}

/// Length of a point and the zeros behind it, where nothing more of a word follows.
fn zeros_behind_point(text: &str) -> usize {
    let Some(rest) = text.strip_prefix('.') else { return 0 };
    let end = rest.trim_start_matches('0');
    let is_end = end.len() < rest.len() && !end.starts_with(|c: char| c.is_alphanumeric() || c == '.');
    if is_end { text.len() - end.len() } else { 0 }
}
