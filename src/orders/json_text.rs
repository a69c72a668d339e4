//! JSON as text, in which no digit of a number changes: from the bytes of a value to text that a parser accepts.
//!
//! What can mean one thing only is understood, and a damaged text costs its characters and not the notice of a paid order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::framing;

/// Deepest nesting that is read. Parsers of clients stop at 128, and a notice's body adds some.
pub const MAX_DEPTH: usize = 100;

/// What stands for a character that cannot be kept.
const REPLACED: &str = "\\ufffd";

const BYTE_ORDER_MARK: &str = "\u{feff}";

struct TooDeep;

/// The JSON text of a value, as far as it can be understood.
#[derive(Debug)]
pub struct JsonText<'v> {
    /// The text. Whether it is JSON is for its reader to find out.
    pub text: Cow<'v, str>,
    /// Something was damaged, and is another character or missing now.
    pub is_repaired: bool,
}

/// Reads the bytes of a value: without byte order marks, the framing of a schema registry and NULs at the end, unwrapped once where the JSON
/// stands in a JSON string, and repaired.
///
/// # Errors
/// What the bytes are instead, in a sentence.
pub fn read(value: &[u8]) -> Result<JsonText<'_>, String> {
    #[cfg(test)]
    TEXTS_REPAIRED.set(TEXTS_REPAIRED.get() + 1);
    let (encoded, mut is_repaired) = strip(value)?;
    let text = String::from_utf8_lossy(encoded);
    is_repaired |= matches!(text, Cow::Owned(_));
    let text = repaired(text, &mut is_repaired)?;
    if !text.starts_with('"') {
        return Ok(JsonText { text, is_repaired });
    }
    match serde_json::from_str::<String>(&text) {
        Ok(inner) if inner.trim_start_matches(is_before_json).starts_with(['{', '[']) => {
            let json = inner.trim_start_matches(is_before_json);
            is_repaired |= inner[..inner.len() - json.len()].contains(BYTE_ORDER_MARK);
            let text = repaired(Cow::Owned(json.trim_end().to_owned()), &mut is_repaired)?;
            Ok(JsonText { text, is_repaired })
        }
        _ => Ok(JsonText { text, is_repaired }),
    }
}

/// True for what may stand before JSON in a string.
fn is_before_json(c: char) -> bool {
    c.is_whitespace() || BYTE_ORDER_MARK.starts_with(c)
}

#[cfg(test)]
thread_local! {
    /// Values that this thread has cleaned and repaired: what a record costs.
    pub(super) static TEXTS_REPAIRED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

fn repaired<'v>(text: Cow<'v, str>, is_repaired: &mut bool) -> Result<Cow<'v, str>, String> {
    let too_deep = |TooDeep| format!("the value is nested more deeply than {MAX_DEPTH} levels");
    let changed = match repair(&text).map_err(too_deep)? {
        Cow::Borrowed(_) => None,
        Cow::Owned(changed) => Some(changed),
    };
    *is_repaired |= changed.is_some();
    Ok(changed.map_or(text, Cow::Owned))
}

/// The bytes without what surrounds the JSON, and whether that was damage.
fn strip(value: &[u8]) -> Result<(&[u8], bool), String> {
    let is_utf16 = value.starts_with(&[0xff, 0xfe]) || value.starts_with(&[0xfe, 0xff]);
    if is_utf16 || matches!(value, [b'{' | b'[' | b'"', 0, _, 0, ..] | [0, b'{' | b'[' | b'"', 0, ..]) {
        return Err("the value is UTF-16, not UTF-8".into());
    }
    let (value, has_mark) = unmarked(value);
    // A serializer frames the text that its producer had marked.
    let (value, has_mark_inside) = unmarked(framing::unframed(value)?.trim_ascii());
    let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Ok((value[..end].trim_ascii(), has_mark || has_mark_inside || end < value.len()))
}

/// The bytes without a byte order mark, which RFC 8259 forbids in JSON, and whether there was one.
fn unmarked(value: &[u8]) -> (&[u8], bool) {
    let rest = value.strip_prefix(BYTE_ORDER_MARK.as_bytes());
    (rest.unwrap_or(value), rest.is_some())
}

/// JSON text with its damage repaired: what serializers in other languages write and JSON does not allow.
///
/// | found | becomes |
/// |---|---|
/// | half of a surrogate pair, a control character in a string | U+FFFD; tab and line breaks their escapes |
/// | an escape that JSON has not | the character itself, or its backslash |
/// | `NaN`, `Infinity`, a number beyond the range of floating point | `null` |
/// | NUL between tokens | nothing |
///
/// # Errors
/// The text is nested more deeply than [`MAX_DEPTH`].
fn repair(text: &str) -> Result<Cow<'_, str>, TooDeep> {
    let mut repaired = Repaired { text, copied: 0, out: String::new() };
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while let Some(byte) = bytes.get(at) {
        let (length, replacement) = match byte {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            // Every such byte is a character of its own: bytes of longer ones are above 0x7f.
            b'\\' if in_string => escape(&text[at..]),
            0..0x20 if in_string => (1, Some(control(*byte))),
            _ if in_string => {
                let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
                (bytes[at..].iter().position(is_special).unwrap_or(bytes.len() - at), None)
            }
            b'[' | b'{' => {
                depth += 1;
                (1, None)
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                (1, None)
            }
            0 => (1, Some("")),
            b'-' | b'N' | b'I' | b'0'..=b'9' => number(&text[at..]),
            _ => (1, None),
        };
        if depth > MAX_DEPTH {
            return Err(TooDeep);
        }
        if let Some(replacement) = replacement {
            repaired.replace(at, length, replacement);
        }
        at += length;
    }
    Ok(repaired.finish())
}

/// The text so far, copied only when something was replaced.
struct Repaired<'t> {
    text: &'t str,
    copied: usize,
    out: String,
}

impl<'t> Repaired<'t> {
    fn replace(&mut self, at: usize, length: usize, replacement: &str) {
        self.out.push_str(&self.text[self.copied..at]);
        self.out.push_str(replacement);
        self.copied = at + length;
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.push_str(&self.text[self.copied..]);
        Cow::Owned(self.out)
    }
}

fn control(byte: u8) -> &'static str {
    match byte {
        b'\t' => "\\t",
        b'\n' => "\\n",
        b'\r' => "\\r",
        _ => REPLACED,
    }
}

/// The escape at the beginning of `rest`: its length, and what takes its place where it is none.
fn escape(rest: &str) -> (usize, Option<&'static str>) {
    let unit = |rest: &str| {
        let digits = rest.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    match (rest.as_bytes().get(1), unit(rest)) {
        (_, Some(0xd800..=0xdbff)) => match rest.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some(REPLACED)),
        },
        (_, Some(0xdc00..=0xdfff)) => (6, Some(REPLACED)),
        (_, Some(_)) => (6, None),
        (Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'), None) => (2, None),
        // JavaScript's, which JSON does not need.
        (Some(b'\''), None) => (2, Some("'")),
        (_, None) => (1, Some("\\\\")),
    }
}

/// The number at the beginning of `rest`: its length, and `null` where no parser can hold it.
fn number(rest: &str) -> (usize, Option<&'static str>) {
    let is_word = matches!(rest.as_bytes(), [b'N' | b'I', ..] | [b'-', b'N' | b'I', ..]);
    let word = ["NaN", "Infinity", "-Infinity", "-NaN"].into_iter().find(|word| is_word && rest.starts_with(word));
    if let Some(word) = word {
        return (word.len(), Some("null"));
    }
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = rest.bytes().take_while(|byte| is_part(byte)).count().max(1);
    let digits = rest.get(..length).unwrap_or_default();
    // Without an exponent, it takes more digits than this to be beyond the range of floating point.
    let may_be_beyond = length > 308 || digits.contains(['e', 'E']);
    let is_beyond = may_be_beyond && digits.parse::<f64>().is_ok_and(f64::is_infinite);
    (length, is_beyond.then_some("null"))
}

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
                out.push_str(&quoted(&name));
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
        b'"' => out.push_str(&quoted(&serde_json::from_str::<String>(json).ok()?)),
        _ => out.push_str(json),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_text(value: &[u8]) -> (String, bool) {
        let read = read(value).unwrap();
        (read.text.into_owned(), read.is_repaired)
    }

    #[test]
    fn what_surrounds_json_is_removed() {
        let json = "{\"a\":1}";
        for value in [
            "{\"a\":1}",
            " {\"a\":1}\n",
            "\"{\\\"a\\\":1}\"",
            "\u{0}\u{0}\u{0}\u{0}\u{c}{\"a\":1}",
            "\u{0}\u{0}\u{0}\u{0}\u{a} {\"a\":1}",
        ] {
            assert_eq!(read_text(value.as_bytes()), (json.into(), false), "{value:?}");
        }
        for damaged in [
            "{\"a\":1}\0\0",
            "\u{feff}{\"a\":1}",
            "\u{feff} {\"a\":1}",
            " \u{feff}{\"a\":1}",
            "\u{0}\u{0}\u{0}\u{0}\u{c}\u{feff}{\"a\":1}",
            "\"\u{feff}{\\\"a\\\":1}\"",
            "\" \\ufeff{\\\"a\\\":1} \"",
        ] {
            assert_eq!(read_text(damaged.as_bytes()), (json.into(), true), "{damaged:?}");
        }
        let twice = serde_json::to_string(&serde_json::to_string(json).unwrap()).unwrap();
        assert!(read_text(twice.as_bytes()).0.starts_with('"'), "unwrapped once");
    }

    #[test]
    fn what_is_no_json_is_named() {
        let named = |value: &[u8]| read(value).unwrap_err();
        assert_eq!(
            named(b"\0\0\0\0\x0c\x02\x06o1"),
            "the value has the framing of a schema registry: schema 12, not JSON"
        );
        assert_eq!(named(b"\xff\xfe{\0}\0"), "the value is UTF-16, not UTF-8");
        assert_eq!(named(b"{\0\"\0}\0"), "the value is UTF-16, not UTF-8");
        assert!(named("[".repeat(101).as_bytes()).contains("100 levels"));
    }

    #[test]
    fn damage_is_repaired() {
        let cases: [(&[u8], &str); 14] = [
            (br#"{"a":"x \ud83d"}"#, r#"{"a":"x \ufffd"}"#),
            (br#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\ud83d\ude00"}"#),
            (br#"{"a":"\ude00\ud83d"}"#, r#"{"a":"\ufffd\ufffd"}"#),
            (br#"{"a":"\ud83d\ud83d\ude00"}"#, r#"{"a":"\ufffd\ud83d\ude00"}"#),
            (b"{\"a\":\"x\ty\nz\x01\"}", r#"{"a":"x\ty\nz\ufffd"}"#),
            (br#"{"a":NaN,"b":[Infinity,-Infinity],"c":"NaN"}"#, r#"{"a":null,"b":[null,null],"c":"NaN"}"#),
            (br#"{"a":1e400,"b":-1E+999,"c":1e40}"#, r#"{"a":null,"b":null,"c":1e40}"#),
            (b"{\"a\":\0 1}", r#"{"a": 1}"#),
            (br#"{"a":"it\'s \d"}"#, r#"{"a":"it's \\d"}"#),
            (b"{\"a\":\"\xb1\xb8\"}", "{\"a\":\"\u{fffd}\u{fffd}\"}"),
            (br#"{"a":"\u12"}"#, r#"{"a":"\\u12"}"#),
            ("{\"a\":\"餐\\\"😀\"}".as_bytes(), "{\"a\":\"餐\\\"😀\"}"),
            (b"\"{\\\"a\\\":NaN}\"", r#"{"a":null}"#),
            (b"{\"a\":\"\\", "{\"a\":\"\\\\"),
        ];
        for (damaged, whole) in cases {
            let (text, is_repaired) = read_text(damaged);
            assert_eq!((text.as_str(), is_repaired), (whole, whole.as_bytes() != damaged), "{whole}");
        }
    }

    proptest! {
        /// Whatever is no damage stays as it is.
        #[test]
        fn whole_json_is_not_touched(text in "\\PC{0,20}", number in any::<f64>(), deep in 0_usize..100) {
            let json = serde_json::json!({"text": text, "number": number, "list": [1, null, true]}).to_string();
            let json = format!("{}{json}{}", "[".repeat(deep.min(98)), "]".repeat(deep.min(98)));
            prop_assert_eq!(read_text(json.as_bytes()), (json, false));
        }

        /// A string with any damage inside is a string afterwards, and nothing around it changes.
        #[test]
        fn damage_in_a_string_stays_in_it(damage in prop::collection::vec(prop::sample::select(vec![
            "\\ud83d", "\\ude00", "\t", "\u{0}", "\\'", "\\x", "\\u12", "a", "\\\\", "\\n", "餐",
        ]), 0..12)) {
            let json = format!(r#"{{"order":"o1","note":"{}","store":"17"}}"#, damage.concat());
            let (text, _) = read_text(json.as_bytes());
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!((&value["order"], &value["store"]), (&"o1".into(), &"17".into()));
        }

        #[test]
        fn any_bytes_are_read_or_named(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&bytes);
        }
    }

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
