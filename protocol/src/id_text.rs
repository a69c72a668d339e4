//! The one rule for ids that come as text: from events, record keys, tokens, URL paths and the directory of stores.
//!
//! | in the text | what is done |
//! |---|---|
//! | white space, control and invisible characters at either end | removed: a person sees the same id |
//! | digits, a point and nothing but zeros, also as text: `17.0` | read as the digits: forms, CSV exports and data frames write whole numbers so |
//! | zero in any of these forms, also with a sign: `0.0`, `-0` | read as `0`. Whether 0 is an id is decided where it is read: an order has another |
//! | nothing else, a word for nothing such as `undefined`, `-`, `-1`, or a UUID of zeros | no id: two orders whose number is `undefined` are not one order |
//! | control or invisible characters inside | refused: two ids that look the same would be two |
//! | more than [`ID_BYTES_MAX`](crate::recipient::ID_BYTES_MAX) bytes | refused, never cut: two long ids would be one |
//!
//! A record's key may stand in JSON quotes. What is no whole number stays as it is, also where it looks like one: `1.50`, `2024.10`, `17.`, `v1.0`, `1e3`.
//! Zeros in front stay: `007.0` is `007`, and `00` is not `0`.
//!
//! Two orders do not become one quietly by it. Nobody who numbers orders in turn uses `17` and `17.0` for two of them, but one number reaches a chain
//! in both forms, as soon as one of its systems keeps numbers as floating point: as two ids, an order would not be accepted, and its store would not
//! be one that a till reads, with nothing to tell of it. Where a chain does use both, the second payment of the one order raises the alert
//! `paid_unannounced`, as wherever a number is used twice. The id of an *event* is compared as it was written: nobody addresses it.

/// What programs write where they have no value, in lower case: JavaScript, Java, Python, Go, C, SQL, Pandas, spreadsheets.
const WORDS_FOR_NOTHING: [&str; 12] =
    ["undefined", "null", "none", "nil", "nan", "(null)", "<null>", "<nil>", "<na>", "n/a", "#n/a", "[object object]"];
/// What they write where they have no id: a dash, the index of what was not found, and the empty UUID.
const NO_IDS: [&str; 3] = ["-", "-1", "00000000-0000-0000-0000-000000000000"];

/// True for a text that is no id: it is empty, a word for nothing in any case, or what stands for no id.
#[must_use]
pub fn is_no_id(text: &str) -> bool {
    is_nothing(text) || NO_IDS.contains(&text)
}

/// True for a text that says nothing: it is empty, or a word for nothing in any case.
#[must_use]
pub fn is_nothing(text: &str) -> bool {
    text.is_empty() || WORDS_FOR_NOTHING.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// The text without white space, control and invisible characters at its ends.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c) || is_joiner(c))
}

/// The text of an id from outside, without what surrounds it and without zeros behind a point; a text that is no id as well.
#[must_use]
pub fn plain(text: &str) -> &str {
    let text = trim(text);
    whole_number(text).unwrap_or(text)
}

/// The id in a text from outside. `None` for what [`is_no_id`].
#[must_use]
pub fn id(text: &str) -> Option<&str> {
    Some(plain(text)).filter(|text| !is_no_id(text))
}

/// True for characters that show nothing: byte order mark, soft hyphen, zero-width and bidirectional marks.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// True for the joiners of Indic scripts and emoji, which have a meaning inside a text and none at its ends.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// The text of a key without the JSON quotes around it, and without what [`trim`] removes.
///
/// A JSON serializer for keys writes the string `o1` with its quotes.
#[must_use]
pub fn unquote(text: &str) -> String {
    let text = trim(text);
    let quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
    let inner = quoted.then(|| serde_json::from_str::<String>(text).ok()).flatten();
    inner.map_or_else(|| text.to_owned(), |inner| trim(&inner).to_owned())
}

/// The digits of a JSON number that is whole: `17` for `17` and `17.0`. `None` for a fraction and for a number with an exponent, of which
/// nobody knows how many digits were meant.
#[must_use]
pub fn whole_number(json: &str) -> Option<&str> {
    let (whole, fraction) = json.split_once('.').unwrap_or((json, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = is_digits(digits) && is_digits(fraction) && fraction.bytes().all(|byte| byte == b'0');
    is_whole.then_some(if digits == "0" { digits } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_nothing_are_no_ids_in_any_case() {
        for text in ["", "undefined", "NULL", "None", "nil", "NaN", "<nil>", "[object Object]", "N/A"] {
            assert!(is_no_id(text) && is_nothing(text), "{text}");
        }
        // They may be the type of an event, such as the status of a row.
        for text in ["-", "-1", "00000000-0000-0000-0000-000000000000"] {
            assert!(is_no_id(text) && !is_nothing(text), "{text}");
        }
        for text in ["0", "nullo", "none1", "Nanjing", "NA", "17", "-17", "00000000-0000-0000-0000-000000000001"] {
            assert!(!is_no_id(text), "{text}");
        }
    }

    #[test]
    fn what_surrounds_an_id_is_removed() {
        for text in [
            "17",
            " 17\t",
            "17     ",
            "17\u{feff}",
            "\u{200b}17",
            "\u{ad}17\u{200f}",
            "\u{0}\t17\r\n\u{0}",
            "\u{200d}17",
            "\u{3000}17",
        ] {
            assert_eq!(trim(text), "17", "{text:?}");
        }
        assert_eq!((trim("1 7"), trim("１"), trim("017")), ("1 7", "１", "017"));
    }

    /// Regression: a store that a CSV export named `17.0` was another one than the store `17`, and no till was notified of its orders.
    #[test]
    fn a_whole_number_with_a_point_is_its_digits_also_as_a_text() {
        let same = ["17", "17.0", "17.000", " 17.0\t", "\u{feff}17.0"];
        same.iter().for_each(|text| assert_eq!((plain(text), id(text)), ("17", Some("17")), "{text:?}"));
        assert_eq!((plain("007.0"), plain("-17.0"), plain("10.0")), ("007", "-17", "10"));
        assert_eq!(plain("123456789012345678901234.0"), "123456789012345678901234", "no digit is lost");
        assert_eq!((id("-1.0"), id("")), (None, None), "-1 is no id");
        for other in [
            "1.50", "2024.10", "00", "v1.0", "17.", ".0", "17.0.0", "1e3", "1.0e3", "+17.0", "17,0", "17. 0", "１7.0",
            "17.0a", "1 7.0", "0x17.0",
        ] {
            assert_eq!(plain(other), other);
        }
    }

    /// Regression: the number `0.0` was 0, which is no order and no store, and the text was an order or a store of its own.
    #[test]
    fn zero_is_zero_in_every_form() {
        ["0", "0.0", "0.00", "-0", "-0.0", " 0.0\t"].iter().for_each(|text| assert_eq!(plain(text), "0", "{text:?}"));
        assert_eq!((plain("00"), plain("00.0"), plain("0.01")), ("00", "00", "0.01"), "zeros in front stay");
    }

    #[test]
    fn a_key_may_stand_in_json_quotes_once() {
        let all = ["o26", "\"o26\"", " \"o26\"\n", "\"\\u006f26\"", "\" o26 \""];
        all.iter().for_each(|key| assert_eq!(unquote(key), "o26", "{key}"));
        assert_eq!(unquote("\"\\\"o26\\\"\""), "\"o26\"");
        assert_eq!((unquote("\""), unquote("\"a"), unquote("\"\"")), ("\"".into(), "\"a".into(), String::new()));
    }

    #[test]
    fn a_whole_number_is_read_without_its_point_and_no_digit_is_lost() {
        assert_eq!(whole_number("12345.0"), Some("12345"));
        assert_eq!(whole_number("123456789012345678901234.00"), Some("123456789012345678901234"));
        assert_eq!((whole_number("-7"), whole_number("-0"), whole_number("-0.0")), (Some("-7"), Some("0"), Some("0")));
        assert_eq!((whole_number("1.5"), whole_number("1e3"), whole_number("1.0e3")), (None, None, None));
    }
}
