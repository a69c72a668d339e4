//! Reads only the members of a record that its mapping names, as the producer wrote them.
//!
//! A number stays the text that it was: built into a value, `12.50` becomes 12.5, and an order's number of more than 64 bits loses digits. The
//! parser skips all other members, and nothing is allocated for them. The poll thread needs an order's id to choose its queue, and the shard
//! decodes the record afterwards: both read the same way, so both find the same id.
//!
//! Whatever [`Value::pointer`](serde_json::Value::pointer) finds in a built value is found here, too: of members with the same name the last one
//! counts.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What RFC 6901 pointers lead to in one JSON text.
#[derive(Clone, Debug)]
pub(super) struct Members<'p, 'j>(Vec<(&'p str, Option<&'j str>)>);

impl<'p, 'j> Members<'p, 'j> {
    /// Reads what the pointers lead to.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(super) fn read(json: &'j [u8], pointers: impl IntoIterator<Item = &'p str>) -> serde_json::Result<Self> {
        let pointers: Vec<&str> = pointers.into_iter().collect();
        let mut found = vec![None; pointers.len()];
        // As in RFC 6901: a pointer that is not empty begins with a slash.
        let is_valid = |pointer: &str| pointer.is_empty() || pointer.starts_with('/');
        let wanted = pointers.iter().enumerate().filter(|(_, pointer)| is_valid(pointer));
        let wanted = wanted.map(|(at, pointer)| (*pointer, at)).collect();
        let mut parser = serde_json::Deserializer::from_slice(json);
        Pull { wanted, found: &mut found }.deserialize(&mut parser)?;
        parser.end()?;
        Ok(Self(pointers.into_iter().zip(found).collect()))
    }

    /// The JSON text at one of the pointers that were read; `None` where nothing is, or `null`.
    pub(super) fn at(&self, pointer: &str) -> Option<&'j str> {
        let (_, found) = self.0.iter().find(|(known, _)| *known == pointer)?;
        found.filter(|json| *json != "null")
    }
}

/// The rest of a pointer below the current value, and the index of its result.
type Wanted<'p> = Vec<(&'p str, usize)>;

struct Pull<'p, 'f, 'j> {
    wanted: Wanted<'p>,
    found: &'f mut Vec<Option<&'j str>>,
}

/// The pointers that go on below the member `name`.
fn below<'p>(wanted: &Wanted<'p>, is_here: impl Fn(&str) -> bool) -> Wanted<'p> {
    let step = |(pointer, at): &(&'p str, usize)| {
        let part = pointer.strip_prefix('/')?;
        let end = part.find('/').unwrap_or(part.len());
        is_here(&part[..end]).then_some((&part[end..], *at))
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

impl<'de> DeserializeSeed<'de> for Pull<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return from.deserialize_ignored_any(IgnoredAny).map(|_| ());
        }
        let (here, deeper): (Wanted<'_>, Wanted<'_>) = self.wanted.into_iter().partition(|(rest, _)| rest.is_empty());
        if here.is_empty() {
            return from.deserialize_any(Pull { wanted: deeper, found: self.found });
        }
        let json = <&'de RawValue>::deserialize(from)?.get();
        here.iter().for_each(|(_, at)| self.found[*at] = Some(json));
        if deeper.is_empty() {
            return Ok(());
        }
        let mut parser = serde_json::Deserializer::from_str(json);
        Pull { wanted: deeper, found: self.found }.deserialize(&mut parser).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for Pull<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    // A scalar has nothing below it.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { wanted, found } = self;
        let mut index = 0;
        let item = |index| below(&wanted, |token| is_index(token, index));
        while items.next_element_seed(Pull { wanted: item(index), found: &mut *found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { wanted, found } = self;
        while let Some(wanted) = members.next_key_seed(Name(&wanted))? {
            // The last of several members with this name counts, with all that is in it.
            for (_, at) in &wanted {
                found[*at] = None;
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

/// The pointer to a member of the top level, or the pointer itself.
pub(super) fn pointer_to(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/{}", name.replace('~', "~0").replace('/', "~1")) }
}
