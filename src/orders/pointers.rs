//! RFC 6901 pointers as the configuration writes them: one that leads nowhere is a mistake, since every event would lack that member.

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

/// Checks a pointer.
///
/// # Errors
/// A sentence with what was probably meant, quoted as the configuration's reader expects it.
pub(super) fn check(pointer: &str) -> Result<(), String> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(format!("`{pointer}` is no pointer: one begins with a slash, expected `{}`", suggestion(pointer)));
    }
    let is_escape = |rest: &str| rest.starts_with(['0', '1']);
    if pointer.split('~').skip(1).all(is_escape) {
        return Ok(());
    }
    Err(format!(
        "`{pointer}` is no pointer: ~ in a name is written ~0, and / is written ~1, expected `{}`",
        escaped(pointer)
    ))
}

/// The pointer that a name (`shop`), a path (`shop/id`, `shop.id`) or a JSONPath (`$.shop.id`) means.
fn suggestion(text: &str) -> String {
    let path = text.strip_prefix("$.").unwrap_or(text);
    let path = if path.contains('/') { path.to_owned() } else { path.replace('.', "/") };
    escaped(&format!("/{path}"))
}

/// Escapes each `~` that escapes nothing.
fn escaped(pointer: &str) -> String {
    let mut parts = pointer.split('~');
    let mut all = parts.next().expect("at least one part, if an empty one").to_owned();
    for part in parts {
        all.push_str(if part.starts_with(['0', '1']) { "~" } else { "~0" });
        all.push_str(part);
    }
    all
}

/// For `deserialize_with` of a key that holds a pointer.
pub(super) fn pointer<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    check(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// For `deserialize_with` of a key that holds names of members at the top, and pointers.
pub(super) fn names_or_pointers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let all = Vec::<String>::deserialize(from)?;
    all.iter().filter(|text| text.starts_with('/')).try_for_each(|text| check(text)).map_err(D::Error::custom)?;
    Ok(all)
}

/// The pointers whose values make an order's id: one, or several in this order: `"/order"` or `["/shop/id", "/number"]`.
///
/// Several values are joined with `:`. In each, `~` becomes `~0` and `:` becomes `~1`, so that no two orders share an id.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "OneOrMany", into = "OneOrMany")]
#[schemars(with = "OneOrMany")]
pub struct OrderIdPointers(pub(super) Vec<String>);

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OrderIdPointers {
    fn default() -> Self {
        Self(vec!["/order".into()])
    }
}

impl TryFrom<OneOrMany> for OrderIdPointers {
    type Error = String;
    fn try_from(given: OneOrMany) -> Result<Self, Self::Error> {
        let all = match given {
            OneOrMany::One(pointer) => vec![pointer],
            OneOrMany::Many(pointers) if pointers.is_empty() => {
                return Err("an order id needs at least one pointer".into());
            }
            OneOrMany::Many(pointers) => pointers,
        };
        all.iter().try_for_each(|pointer| check(pointer))?;
        Ok(Self(all))
    }
}

impl From<OrderIdPointers> for OneOrMany {
    fn from(value: OrderIdPointers) -> Self {
        let mut all = value.0;
        if all.len() == 1 { Self::One(all.remove(0)) } else { Self::Many(all) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_empty_or_begins_with_a_slash_and_has_valid_escapes() {
        for good in ["", "/", "/shop", "/data/0/shop", "/a~1b/~0c", "/a.b", "/$ref"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, meant) in [
            ("shop", "/shop"),
            ("shop/id", "/shop/id"),
            ("shop.id", "/shop/id"),
            ("$.shop.id", "/shop/id"),
            ("/a~b", "/a~0b"),
            ("/a~", "/a~0"),
            ("a~1b~2", "/a~1b~02"),
        ] {
            let said = check(bad).unwrap_err();
            assert!(said.starts_with(&format!("`{bad}` is no pointer: ")), "{said}");
            assert!(said.ends_with(&format!(", expected `{meant}`")), "{said}");
            assert_eq!(check(meant), Ok(()), "what is suggested is right");
        }
    }
}
