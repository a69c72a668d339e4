//! Conditions of a consumer group that need an operator.
//!
//! An alert is raised for a kind and a subject, and stays until the same kind and subject is cleared. Raising it again replaces its detail
//! and keeps the time at which it began.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What kind of condition an alert reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// Bytes of a partition cannot be read. The partition stays paused until an operator skips them.
    PartitionDamaged,
    /// The log's retention deleted records before this group had read them.
    RetentionGap,
    /// The log ends before the saved checkpoint: its brokers lost data, or the topic was deleted and created again.
    Truncated,
    /// The record below the saved checkpoint is not the one that was read: the topic was deleted and created again.
    Recreated,
    /// The group's committed offset is ahead of the saved checkpoint: the state was restored from an older copy.
    StateRolledBack,
    /// A partition is assigned to this member, but its start offset cannot be determined yet. Or, without a subject: none is, and the source
    /// knows why.
    Unassigned,
    /// Another member of the group owns partitions that this member must own, or no partition is assigned to it at all.
    GroupShared,
    /// The handler asked to halt: intake is stopped, and resumes by itself. Or it panicked at a record, which is tried again.
    HandlerFailing,
}

/// A condition that needs an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAlert {
    /// What is wrong.
    pub kind: AlertKind,
    /// The partition, as `topic/0`. Empty for [`AlertKind::GroupShared`], for [`AlertKind::Unassigned`] about all of them, and for [`AlertKind::HandlerFailing`] after a halt: they concern the
    /// whole group.
    pub subject: String,
    /// When it was raised. Milliseconds since 1970.
    pub since_ms: i64,
    /// The same in a sentence, with numbers.
    pub detail: String,
}

/// Alerts that are raised at present, at most one for each kind and subject.
#[derive(Debug, Default)]
pub(crate) struct ActiveAlerts(Mutex<BTreeMap<(String, AlertKind), (i64, String)>>);

impl ActiveAlerts {
    pub(crate) fn raise(&self, kind: AlertKind, subject: &str, detail: String) {
        let mut active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        active.entry((subject.to_owned(), kind)).or_insert_with(|| (crate::clock::unix_ms(), String::new())).1 = detail;
    }

    pub(crate) fn clear(&self, kind: AlertKind, subject: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(subject.to_owned(), kind));
    }

    /// Clears every alert about `subject` that is of another kind than `except`.
    pub(crate) fn clear_subject(&self, subject: &str, except: Option<AlertKind>) {
        let mut active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|(about, kind), _| about != subject || Some(*kind) == except);
    }

    /// By subject, then by kind.
    pub(crate) fn snapshot(&self) -> Vec<GroupAlert> {
        let active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alert = |((subject, kind), (since_ms, detail)): (&(String, AlertKind), &(i64, String))| GroupAlert {
            kind: *kind,
            subject: subject.clone(),
            since_ms: *since_ms,
            detail: detail.clone(),
        };
        active.iter().map(alert).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_keeps_its_begin_until_it_is_cleared() {
        let alerts = ActiveAlerts::default();
        alerts.raise(AlertKind::Truncated, "t/0", "first".into());
        let since_ms = alerts.snapshot()[0].since_ms;
        alerts.raise(AlertKind::Truncated, "t/0", "second".into());
        alerts.raise(AlertKind::HandlerFailing, "", "disk".into());
        let truncated =
            GroupAlert { kind: AlertKind::Truncated, subject: "t/0".into(), since_ms, detail: "second".into() };
        assert_eq!(alerts.snapshot()[1], truncated);
        alerts.clear(AlertKind::Recreated, "t/0");
        assert_eq!(alerts.snapshot().len(), 2, "another kind was cleared");
        alerts.clear_subject("t/0", Some(AlertKind::Truncated));
        assert_eq!(alerts.snapshot().len(), 2, "the kind that stays was cleared");
        alerts.clear_subject("t/0", None);
        alerts.clear(AlertKind::HandlerFailing, "");
        assert_eq!(alerts.snapshot(), []);
    }
}
