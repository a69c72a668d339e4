//! A record of a partitioned log, and where it stands.
//!
//! Payloads are copied once, when they leave the source, into [`Bytes`]; from there on they are shared. Nothing here refers back into a
//! client library's buffers: a small record that pins a fetch of a megabyte is how consumers run out of memory.

use std::fmt;
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
    /// Headers in the log's order. A name may occur more than once.
    pub headers: Vec<Header>,
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

    /// The value of the last header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.as_ref())
    }
}
