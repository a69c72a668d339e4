//! The ledger's own log of dead letters: always there, takes any size, keeps bytes as they were.

use bytes::Bytes;
use orderbell_consumers::{Letter, Record};
use orderbell_protocol::UnixMs;
use serde::{Deserialize, Serialize};

use super::disk::{DiskError, Space, View};
use super::keys;

/// Bytes as people can read them, where they are text; otherwise as hexadecimal digits. Nothing is lost either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Kept {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

impl Kept {
    fn of(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }

    /// The bytes as they were.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Hex { hex } => {
                let digits = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
                digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
            }
        }
    }
}

/// A dead letter as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLetter {
    /// When it was kept. Milliseconds since 1970.
    pub at: UnixMs,
    /// Where the record stood.
    pub topic: String,
    /// Where the record stood.
    pub partition: u32,
    /// Where the record stood.
    pub offset: u64,
    /// The record's own time. Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Why it was given up, as a stable word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The record's key.
    pub key: Option<Kept>,
    /// The record's value.
    pub value: Option<Kept>,
    /// The record's headers.
    pub headers: Vec<(String, Option<Kept>)>,
}

impl KeptLetter {
    pub(crate) fn of(letter: &Letter, at: UnixMs) -> Self {
        let Record { part, offset, timestamp_ms, key, value, headers, .. } = &letter.record;
        Self {
            at,
            topic: part.topic.to_string(),
            partition: part.number,
            offset: *offset,
            timestamp_ms: *timestamp_ms,
            reason: letter.reason.code.to_owned(),
            message: letter.reason.message.clone(),
            attempts: letter.attempts,
            key: key.as_ref().map(Kept::of),
            value: value.as_ref().map(Kept::of),
            headers: headers.iter().map(|(name, value)| (name.clone(), value.as_ref().map(Kept::of))).collect(),
        }
    }
}

/// Letters behind the number `after`, at most `max`.
pub(crate) fn behind(view: &View<'_>, after: u64, max: usize) -> Result<Vec<(u64, KeptLetter)>, DiskError> {
    let mut letters = Vec::new();
    for row in view.rows(Space::Meta, &keys::letter(after.saturating_add(1)), &keys::letter(u64::MAX)).take(max) {
        let (key, row) = row?;
        let number = super::mailbox::seq_of(&key);
        letters.push((number, serde_json::from_slice(&row).map_err(|error| DiskError::damaged(&error))?));
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_as_they_were() {
        for bytes in [&b""[..], b"{\"a\":1}", b"\xff\x00\xfe", "取餐码".as_bytes()] {
            let kept = serde_json::to_string(&Kept::of(&Bytes::copy_from_slice(bytes))).unwrap();
            assert_eq!(serde_json::from_str::<Kept>(&kept).unwrap().bytes(), bytes);
        }
    }
}
