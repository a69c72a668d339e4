//! Reads single members of an event from the JSON text that the producer wrote.

use orderbell_consumers::Reason;
use orderbell_protocol::id_text;

/// Longest id and source of an event, in bytes. They are compared whole, and an order's state holds up to eight sources.
pub(super) const MAX_EVENT_ID_BYTES: usize = 1024;
pub(super) fn reject(code: &'static str, message: impl Into<String>) -> Reason {
    Reason { code, message: message.into() }
}

/// The text of a string or number.
pub(super) fn scalar(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'-' | b'0'..=b'9' => Some(json.to_owned()),
        _ => None,
    }
}

/// The id in a JSON value, by the rule of [`id_text`]: strings and whole numbers are ids. `null`, `false` and words for nothing are none.
pub(super) fn id(json: &str) -> Result<Option<String>, Reason> {
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(json).map_err(|_| bad_id())?;
            Ok(id_text::id(&text).map(str::to_owned))
        }
        Some(b'n' | b'f') | None => Ok(None),
        Some(b'-' | b'0'..=b'9') => {
            let digits = id_text::whole_number(json).ok_or_else(bad_id)?;
            Ok(id_text::id(digits).map(str::to_owned))
        }
        Some(_) => Err(bad_id()),
    }
}

fn bad_id() -> Reason {
    reject("bad-id", "an id is a string or a whole number without an exponent")
}

/// The id or source of an event, compared whole: cut, two events could become one.
pub(super) fn within_limit(member: &str, text: Option<String>) -> Result<Option<String>, Reason> {
    let text = text.filter(|text| !text.is_empty());
    if text.as_ref().is_some_and(|text| text.len() > MAX_EVENT_ID_BYTES) {
        return Err(reject("bad-id", format!("the event's {member} has more than {MAX_EVENT_ID_BYTES} bytes")));
    }
    Ok(text)
}

/// The id of an event in a text, if it is one. A producer that writes nothing, 0 or `undefined` in every event identifies none of them.
pub(super) fn event_id(text: &str) -> Option<String> {
    let text = id_text::trim(text);
    // Damaged texts may be equal where the ids were not.
    let is_zero = id_text::plain(text) == "0";
    let is_id = !id_text::is_no_id(text) && !is_zero && !text.contains('\u{fffd}');
    is_id.then(|| text.to_owned())
}

/// The version of an order: a whole number, or a text of digits.
pub(super) fn version(json: &str) -> Option<u64> {
    id_text::whole_number(id_text::trim(&scalar(json)?))?.parse().ok()
}
