//! A record of a partitioned log, and where it stands.
//!
//! Payloads are copied once, when they leave the source, into [`Bytes`]; from there on they are shared. Nothing here refers back into a
//! client library's buffers: a small record that pins a fetch of a megabyte is how consumers run out of memory.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;

/// Position of a record in its partition.
pub type Offset = u64;

/// One partition of one topic. It is displayed as `topic/0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name, shared between all records of a topic.
    pub topic: Arc<str>,
    /// Number of the partition within its topic, from 0.
    pub number: u32,
}

impl TopicPartition {
    /// The partition `number` of `topic`.
    #[must_use]
    pub fn new(topic: &str, number: u32) -> Self {
        Self { topic: Arc::from(topic), number }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a header and its value, which may be null.
pub type Header = (String, Option<Bytes>);

/// The headers of a record in the log's order; a name may occur more than once. Clones share them until one is changed: a record of several
/// events is handed on in many parts, and each has them all.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<Vec<Header>>>);

impl Deref for Headers {
    type Target = Vec<Header>;

    fn deref(&self) -> &Vec<Header> {
        static NONE: Vec<Header> = Vec::new();
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Headers {
    fn deref_mut(&mut self) -> &mut Vec<Header> {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl From<Vec<Header>> for Headers {
    fn from(headers: Vec<Header>) -> Self {
        Self((!headers.is_empty()).then(|| Arc::new(headers)))
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(headers: I) -> Self {
        Vec::from_iter(headers).into()
    }
}

impl<'h> IntoIterator for &'h Headers {
    type Item = &'h Header;
    type IntoIter = std::slice::Iter<'h, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Names of headers that a source adds to a record that it could not take whole: how long its value and its key were, and how many headers it
/// had. What is left of such a record is kept as a dead letter, and is never handled.
pub const CUT_MARKS: [&str; 3] = ["x-cut-value-bytes", "x-cut-key-bytes", "x-cut-headers"];

/// Header of a dead letter with the code of its reason. One that its producer wrote is left out.
pub const DEAD_LETTER_REASON: &str = "x-dlq-reason";
/// The reasons of dead letters that hold the beginning of their record. In any other record, headers named as [`CUT_MARKS`] are its producer's.
pub const CUT_REASONS: [&str; 2] = ["too-large", "cut"];

/// One record as the source delivered it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The partition that it was read from.
    pub partition: TopicPartition,
    /// Its offset in that partition.
    pub offset: Offset,
    /// The log's time stamp. Milliseconds since 1970; 0 when the log has none.
    pub timestamp_ms: i64,
    /// When the source delivered it. Milliseconds since 1970; 0 when it was not read from a log.
    pub read_ms: i64,
    /// The key, unless null.
    pub key: Option<Bytes>,
    /// The value, unless null (a tombstone).
    pub value: Option<Bytes>,
    /// In the order in which they were written; a name may occur more than once.
    pub headers: Headers,
}

impl Record {
    /// The byte credits that this record takes while it is in flight: its payload, and a flat charge for the bookkeeping around it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        const OVERHEAD: usize = 160;
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + len(value) + 48).sum();
        (OVERHEAD + len(&self.key) + len(&self.value) + headers) as u64
    }

    /// A hash of key, value and time stamp, the same in every process and version. It tells whether the log below a checkpoint is still
    /// the log that was read.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        use xxhash_rust::xxh3::Xxh3;
        let mut hash = Xxh3::new();
        for field in [&self.key, &self.value] {
            match field {
                None => hash.update(&[0]),
                Some(bytes) => {
                    hash.update(&[1]);
                    hash.update(&(bytes.len() as u64).to_le_bytes());
                    hash.update(bytes);
                }
            }
        }
        hash.update(&self.timestamp_ms.to_le_bytes());
        hash.digest()
    }

    /// True for what is left of a record that was not taken whole.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let reason = self.header(DEAD_LETTER_REASON).map(|code| &code[..]);
        let is_dead_letter = CUT_REASONS.iter().any(|code| reason == Some(code.as_bytes()));
        is_dead_letter && self.headers.iter().any(|(name, _)| CUT_MARKS.contains(&name.as_str()))
    }

    /// The value of the last header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_record_share_its_headers_until_one_changes_its_own() {
        let whole = Headers::from(vec![("trace".into(), None), ("id".into(), Some(Bytes::from_static(b"1")))]);
        let (same, mut other) = (whole.clone(), whole.clone());
        assert!(std::ptr::eq(whole.as_ptr(), same.as_ptr()));
        other.retain(|(name, _)| name != "id");
        assert_eq!((whole.len(), same.len(), other.len()), (2, 2, 1));
        assert_eq!((Headers::from(Vec::new()), Headers::default().len()), (Headers::default(), 0));
    }
}
