//! The ledger's own log of dead letters: it exists without any topic, takes records of any size, and keeps their bytes as they were.

use bytes::Bytes;
use orderbell_consumers::{CUT_MARKS, CUT_REASONS, DeadLetter, Record};
use orderbell_protocol::UnixMs;
use serde::{Deserialize, Serialize};

use super::committer::Work;
use super::disk::{DiskError, Table};
use super::effects::{LedgerFailed, NewEvent};
use super::{Ledger, keys};

/// Bytes as people can read them, where they are text; otherwise as hexadecimal digits. Nothing is lost either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoredBytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Hex {
        /// Written as two digits a byte.
        hex: HexBytes,
    },
}

/// Bytes that are written as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexBytes(Bytes);

impl From<HexBytes> for String {
    fn from(bytes: HexBytes) -> Self {
        bytes.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for HexBytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or("not two hexadecimal digits a byte")?;
        Ok(Self(digits.chunks_exact(2).map(|pair| ((pair[0] << 4) | pair[1]) as u8).collect()))
    }
}

impl StoredBytes {
    fn of(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex { hex: HexBytes(bytes.clone()) },
        }
    }

    /// The bytes as they were.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Hex { hex } => hex.0.clone(),
        }
    }
}

/// A dead letter as the ledger stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDeadLetter {
    /// When it was stored. Milliseconds since 1970.
    pub at: UnixMs,
    /// Topic that the record was read from.
    pub topic: String,
    /// Partition that the record was read from.
    pub partition: u32,
    /// The record's offset in that partition.
    pub offset: u64,
    /// The record's own time. Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Why it was rejected, as a stable word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The record's key.
    pub key: Option<StoredBytes>,
    /// The record's value.
    pub value: Option<StoredBytes>,
    /// The record's headers.
    pub headers: Vec<(String, Option<StoredBytes>)>,
}

impl StoredDeadLetter {
    pub(crate) fn of(dead_letter: &DeadLetter, at: UnixMs) -> Self {
        let Record { partition: part, offset, timestamp_ms, key, value, headers, .. } = &dead_letter.record;
        Self {
            at,
            topic: part.topic.to_string(),
            partition: part.number,
            offset: *offset,
            timestamp_ms: *timestamp_ms,
            reason: dead_letter.reason.code.to_owned(),
            message: dead_letter.reason.message.clone(),
            attempts: dead_letter.attempts,
            key: key.as_ref().map(StoredBytes::of),
            value: value.as_ref().map(StoredBytes::of),
            headers: headers.iter().map(|(name, value)| (name.clone(), value.as_ref().map(StoredBytes::of))).collect(),
        }
    }

    /// As it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and lists: nothing that JSON cannot hold")
    }
}

impl StoredDeadLetter {
    /// True when it holds only the beginning of its record: handled again, it might pass for another one.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        CUT_REASONS.contains(&self.reason.as_str())
            && self.headers.iter().any(|(name, _)| CUT_MARKS.contains(&name.as_str()))
    }
}

/// Records that no topic took: the handle that lists them.
#[derive(Clone, Copy)]
pub struct DeadLetters<'a>(pub(super) &'a Ledger);

impl DeadLetters<'_> {
    /// Dead letters with numbers above `after`, at most `max`, in order.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn list(self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, DiskError> {
        let mut dead_letters = Vec::new();
        let (from, to) = (keys::dead_letter(after.saturating_add(1)), keys::dead_letter(u64::MAX));
        for row in self.0.disk.view().rows(Table::Meta, &from, &to).take(max) {
            let (key, row) = row?;
            let dead_letter = serde_json::from_slice(&row)
                .map_err(|error| DiskError::damaged_by(Table::Meta, &key, "a dead letter", error))?;
            dead_letters.push((keys::trailing_number(Table::Meta, &key)?, dead_letter));
        }
        Ok(dead_letters)
    }

    /// Appends events, and in the same batch removes the dead letters that they were made of.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub async fn replay(self, events: Vec<NewEvent>, dead_letters: Vec<u64>) -> Result<(), LedgerFailed> {
        self.0.submit(|reply| Work::Replay(events, dead_letters, reply)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_storing() {
        for bytes in [&b""[..], b"{\"a\":1}", b"\xff\x00\xfe", "取餐码".as_bytes()] {
            let stored = serde_json::to_string(&StoredBytes::of(&Bytes::copy_from_slice(bytes))).unwrap();
            assert_eq!(serde_json::from_str::<StoredBytes>(&stored).unwrap().bytes(), bytes);
        }
        for damaged in ["{\"hex\":\"fff\"}", "{\"hex\":\"xy\"}"] {
            assert!(serde_json::from_str::<StoredBytes>(damaged).is_err(), "{damaged}");
        }
    }
}
