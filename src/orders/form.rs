//! Forms (`application/x-www-form-urlencoded`) as JSON: an object of texts, as some platforms post their orders.

use std::borrow::Cow;
use std::collections::BTreeMap;

use orderbell_consumers::{Reason, Record};

use super::envelope;
use super::fields::reject;
use super::json_text::JsonText;
use super::mapping::MAX_VALUE_BYTES;

/// Most fields of a form. Platforms post some tens.
const MAX_FIELDS: usize = 256;

/// The media type of a form.
pub const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The JSON text of a record that is a form, or JSON already: as the stream holds a form that was posted. `cleaned` is the text of its
/// value, if it is known.
///
/// # Errors
/// The value is missing or too long, or is neither.
pub(super) fn text<'r>(record: &'r Record, cleaned: Option<JsonText<'r>>) -> Result<JsonText<'r>, Reason> {
    let value = record.value.as_deref().unwrap_or_default();
    let is_json = matches!(value.trim_ascii_start().first(), Some(b'{' | b'[' | b'"' | 0 | 0x80..) | None);
    if is_json || !value.contains(&b'=') || value.len() > MAX_VALUE_BYTES {
        return envelope::text(record, cleaned);
    }
    json(value)
}

/// True for a value that is a form and hardly anything else: several pairs, and no character that a form encodes.
pub(super) fn is_likely(value: &[u8]) -> bool {
    let is_encoded = |byte: &u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte);
    let value = value.trim_ascii();
    value.iter().all(is_encoded)
        && value.contains(&b'&')
        && value.split(|byte| *byte == b'&').all(|pair| pair.contains(&b'='))
}

/// The fields of a form as a JSON object, each a text; of several with one name the last one counts, as in JSON.
///
/// # Errors
/// It has too many fields.
pub fn json(form: &[u8]) -> Result<JsonText<'static>, Reason> {
    let mut fields: BTreeMap<Cow<'_, str>, Cow<'_, str>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(form.trim_ascii()) {
        fields.insert(name, value);
        if fields.len() > MAX_FIELDS {
            return Err(reject("bad-envelope", format!("the form has more than {MAX_FIELDS} fields")));
        }
    }
    let is_repaired = fields.iter().any(|(name, value)| name.contains('\u{fffd}') || value.contains('\u{fffd}'));
    let text = serde_json::to_string(&fields).map_err(|_| reject("not-json", "the form cannot be written as JSON"))?;
    Ok(JsonText { text: Cow::Owned(text), is_repaired })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use orderbell_consumers::TopicPartition;

    fn read(value: &str) -> Result<(String, bool), &'static str> {
        let record = Record {
            partition: TopicPartition::new("orders", 0),
            offset: 7,
            timestamp_ms: 0,
            read_ms: 0,
            key: None,
            value: Some(Bytes::from(value.to_owned())),
            headers: Vec::new().into(),
        };
        text(&record, None).map(|json| (json.text.into_owned(), json.is_repaired)).map_err(|reason| reason.code)
    }

    #[test]
    fn a_form_is_an_object_of_texts() {
        let whole = |value: &str, json: &str| assert_eq!(read(value), Ok((json.into(), false)), "{value}");
        whole("order_id=o1&total=12.50&caution=", r#"{"caution":"","order_id":"o1","total":"12.50"}"#);
        whole("a=%E5%B0%91+%E8%BE%A3%26&b=%7B%22c%22%3A1%7D\n", "{\"a\":\"少 辣&\",\"b\":\"{\\\"c\\\":1}\"}");
        whole("a=1&a=2&&flag", r#"{"a":"2","flag":""}"#);
        whole(r#" {"a":1}"#, r#"{"a":1}"#);
        assert_eq!(read("a=%FF"), Ok(("{\"a\":\"\u{fffd}\"}".into(), true)), "damaged, and flagged");
        let many = |count: usize| (0..count).map(|at| format!("f{at}=1")).collect::<Vec<_>>().join("&");
        assert!(read(&many(MAX_FIELDS)).is_ok());
        assert_eq!(read(&many(MAX_FIELDS + 1)), Err("bad-envelope"));
        assert_eq!(read(&format!("a={}", "x".repeat(MAX_VALUE_BYTES))), Err("too-long"));
        assert_eq!(read(""), Err("not-json"));
    }
}
