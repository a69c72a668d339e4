//! How many records of each partition the balance contains. Bins are of topics and have no times; by these counts reconciliation knows what the log can
//! still tell.
//!
//! ```text
//!   earlier log, or below a gap   |   from ... checkpoint
//!   earlier                       |   records: the log has exactly these
//! ```

use super::tables::Value;

/// The counts of one partition as they are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionRow {
    pub(super) records: i64,
    pub(super) from: u64,
    pub(super) earlier: i64,
}

impl PartitionRow {
    pub(super) fn encode(self) -> Vec<u8> {
        [self.records.to_be_bytes(), self.from.to_be_bytes(), self.earlier.to_be_bytes()].concat()
    }

    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let ([records, from, earlier], []) = row.as_chunks::<8>() else { return None };
        Some(Self {
            records: i64::from_be_bytes(*records),
            from: u64::from_be_bytes(*from),
            earlier: i64::from_be_bytes(*earlier),
        })
    }

    /// So many records are added whose newest has this offset, or taken out.
    pub(super) fn change(&mut self, by: i64, offset: u64) {
        let counted = if offset >= self.from { &mut self.records } else { &mut self.earlier };
        *counted = counted.saturating_add(by);
    }

    /// The partition starts at this offset. What was counted is not in the log from there on.
    pub(super) fn start(&mut self, from: u64) {
        *self = Self { records: 0, from, earlier: self.earlier.saturating_add(self.records) };
    }
}

impl Value for PartitionRow {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}
