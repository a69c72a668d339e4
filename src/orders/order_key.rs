//! Reads only the members of a record that name its order, without building the rest.
//!
//! The poll thread needs an order's id to choose its queue, and the shard decodes the record afterwards. So the JSON is built once, by the shard:
//! here the parser skips all members that no pointer leads to, and allocates nothing for them.
//!
//! Whatever [`Value::pointer`](serde_json::Value::pointer) finds in a built value is found here, too: of members with the same name the last one
//! counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What an RFC 6901 pointer leads to, as far as it can be an id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the member is missing.
    #[default]
    Missing,
    /// `null`.
    Null,
    /// A string.
    Text(String),
    /// A whole number of at most 64 bits, in decimal.
    Number(String),
    /// Any other value.
    Other,
}

/// A pointer in two parts, so that one can be applied inside a member without being copied: `("/data", "/order")` is `/data/order`.
pub(super) type Pointer<'p> = (&'p str, &'p str);

/// Reads what the pointers lead to; `None` when `json` is not JSON.
pub(super) fn pull(json: &[u8], pointers: &[Pointer<'_>]) -> Option<Vec<Found>> {
    let mut found = vec![Found::Missing; pointers.len()];
    // As in RFC 6901: a pointer that is not empty begins with a slash.
    let is_valid = |part: &str| part.is_empty() || part.starts_with('/');
    let wanted = pointers.iter().enumerate().filter(|(_, (head, rest))| is_valid(head) && is_valid(rest));
    let wanted = wanted.map(|(at, pointer)| (*pointer, at)).collect();
    let mut parser = serde_json::Deserializer::from_slice(json);
    Pull { wanted, found: &mut found }.deserialize(&mut parser).ok()?;
    parser.end().ok()?;
    Some(found)
}

/// The rest of a pointer below the current value, and the index of its result.
type Wanted<'p> = Vec<(Pointer<'p>, usize)>;

struct Pull<'p, 'f> {
    wanted: Wanted<'p>,
    found: &'f mut Vec<Found>,
}

impl Pull<'_, '_> {
    fn set(self, value: &Found) {
        for (_, at) in self.wanted.iter().filter(|(rest, _)| *rest == ("", "")) {
            self.found[*at] = value.clone();
        }
    }
}

/// The pointers that go on below the member `name`.
fn below<'p>(wanted: &Wanted<'p>, is_here: impl Fn(&str) -> bool) -> Wanted<'p> {
    let step = |((head, rest), at): &(Pointer<'p>, usize)| {
        let part = if head.is_empty() { rest } else { head }.strip_prefix('/')?;
        let end = part.find('/').unwrap_or(part.len());
        let left = &part[end..];
        is_here(&part[..end]).then_some((if head.is_empty() { ("", left) } else { (left, *rest) }, *at))
    };
    wanted.iter().filter_map(step).collect()
}

fn is_member(token: &str, name: &str) -> bool {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~") == name } else { token == name }
}

fn is_index(token: &str, index: usize) -> bool {
    let is_canonical = !token.starts_with('+') && (!token.starts_with('0') || token.len() == 1);
    is_canonical && token.parse() == Ok(index)
}

impl<'de> DeserializeSeed<'de> for Pull<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return from.deserialize_ignored_any(IgnoredAny).map(|_| ());
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pull<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.set(&Found::Null);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.set(&Found::Other);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.set(&Found::Number(number.to_string()));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.set(&Found::Number(number.to_string()));
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.set(&Found::Other);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.set(&Found::Text(text.to_owned()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { wanted, found } = self;
        Pull { wanted: wanted.clone(), found: &mut *found }.set(&Found::Other);
        let mut index = 0;
        let item = |index| below(&wanted, |token| is_index(token, index));
        while items.next_element_seed(Pull { wanted: item(index), found: &mut *found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { wanted, found } = self;
        Pull { wanted: wanted.clone(), found: &mut *found }.set(&Found::Other);
        while let Some(wanted) = members.next_key_seed(Name(&wanted))? {
            // The last of several members with this name counts, with all that is in it.
            for (_, at) in &wanted {
                found[*at] = Found::Missing;
            }
            members.next_value_seed(Pull { wanted, found: &mut *found })?;
        }
        Ok(())
    }
}

/// Reads a member's name into the pointers that go on below it.
struct Name<'w, 'p>(&'w Wanted<'p>);

impl<'de, 'p> DeserializeSeed<'de> for Name<'_, 'p> {
    type Value = Wanted<'p>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Name<'_, 'p> {
    type Value = Wanted<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Wanted<'p>, E> {
        Ok(below(self.0, |token| is_member(token, name)))
    }
}
