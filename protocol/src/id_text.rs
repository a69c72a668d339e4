//! The one rule for ids that come as text: from events, record keys, tokens, URL paths and the directory of stores.
//!
//! A text that stands for "nothing here" names nobody: two orders whose number is `undefined` are not one order.

/// What programs write where they have no value, in lower case: JavaScript, Java, Python, Go, C, SQL.
const WORDS_FOR_NOTHING: [&str; 8] =
    ["undefined", "null", "none", "nil", "nan", "(null)", "<nil>", "[object object]"];

/// True for a text that is no id: it is empty, or a word for nothing in any case.
#[must_use]
pub fn is_no_id(text: &str) -> bool {
    text.is_empty() || WORDS_FOR_NOTHING.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_nothing_are_no_ids_in_any_case() {
        for text in ["", "undefined", "NULL", "None", "nil", "NaN", "<nil>", "[object Object]"] {
            assert!(is_no_id(text), "{text}");
        }
        for text in ["0", "nullo", "none1", "Nanjing", "17"] {
            assert!(!is_no_id(text), "{text}");
        }
    }
}
