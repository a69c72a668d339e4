//! RFC 6901 pointers as the configuration writes them: one that leads nowhere is a mistake, since every event would lack that member.

use serde::de::{Deserialize, Deserializer, Error};

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
    let mut all = parts.next().unwrap_or_default().to_owned();
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
