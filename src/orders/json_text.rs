//! JSON as text, in which no digit of a number changes.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Deepest nesting that is read. Parsers of clients stop at 128, and a notice's body adds some.
pub const MAX_DEPTH: usize = 100;

/// JSON text without the white space between its tokens: a notice is one line.
pub(super) fn compact(json: &str) -> String {
    let (mut in_string, mut is_escaped) = (false, false);
    json.chars()
        .filter(|c| {
            let keep = in_string || !matches!(c, ' ' | '\t' | '\n' | '\r');
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = in_string,
                '"' => in_string = !in_string,
                _ => {}
            }
            keep
        })
        .collect()
}

/// JSON text with sorted members and one way to write a string, so that texts which differ only in white space, the order of members or
/// escapes are equal. `None` when it is not JSON, or nested more deeply than [`MAX_DEPTH`].
#[must_use]
pub fn canonical(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len());
    write_canonical(json.trim_ascii(), 0, &mut out)?;
    Some(out)
}

fn write_canonical(json: &str, depth: usize, out: &mut String) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut separator = "";
    match json.as_bytes().first()? {
        b'{' => {
            out.push('{');
            for (name, value) in serde_json::from_str::<BTreeMap<String, &RawValue>>(json).ok()? {
                out.push_str(std::mem::replace(&mut separator, ","));
                out.push_str(&serde_json::to_string(&name).ok()?);
                out.push(':');
                write_canonical(value.get(), depth + 1, out)?;
            }
            out.push('}');
        }
        b'[' => {
            out.push('[');
            for value in serde_json::from_str::<Vec<&RawValue>>(json).ok()? {
                out.push_str(std::mem::replace(&mut separator, ","));
                write_canonical(value.get(), depth + 1, out)?;
            }
            out.push(']');
        }
        b'"' => out.push_str(&serde_json::to_string(&serde_json::from_str::<String>(json).ok()?).ok()?),
        _ => out.push_str(json),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_differs_only_where_the_content_differs() {
        let text = canonical(
            " { \"b\" : [1.50, 123456789012345678901234567890, {} , [] ],\n\"a\":\"\\u0041 b\", \"b2\":null} ",
        );
        let expected = r#"{"a":"A b","b":[1.50,123456789012345678901234567890,{},[]],"b2":null}"#;
        assert_eq!(text.as_deref(), Some(expected));
        assert_eq!(canonical(expected).as_deref(), Some(expected));
        assert_eq!(canonical(r#"{"a":1,"a":2}"#).as_deref(), Some(r#"{"a":2}"#), "the last one counts");
        assert_eq!(canonical(&format!("{}{}", "[".repeat(5000), "]".repeat(5000))), None);
    }

    #[test]
    fn compact_text_keeps_what_is_in_strings() {
        assert_eq!(compact("{ \"a b\" : \"x \\\" y\\\\\" ,\n\"c\": 1 }"), "{\"a b\":\"x \\\" y\\\\\",\"c\":1}");
    }
}
