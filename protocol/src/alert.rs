//! Alerts: conditions that an operator must act on or know about.
//!
//! One table lists every code with its severity. `/ready`, `/top`, the metric `orderbell_alerts{code,severity}` and the console show the same
//! alerts. An alert has no side effect. Most report a condition: they are raised while it holds and cleared when it ends. The others report
//! something that happened and does not undo itself: they stay until an operator acknowledges them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UnixMs;

/// How urgent an alert is.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Orders are still processed, or the condition ends by itself; look at it during working hours.
    Warning,
    /// Orders are lost, delayed or not processed until someone acts.
    Critical,
}

impl Severity {
    /// The word in JSON and in metric labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What ends an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsWith {
    /// The end of its condition.
    Condition,
    /// An operator, who acknowledges it: `orderbell alerts ack CODE`.
    Acknowledgement,
}

/// What becomes of an alert when the process ends and starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestart {
    /// It is in the ledger, and raised again at once.
    Kept,
    /// It is raised again within minutes when its condition still holds: the condition is outside of the process, or in what it reads again.
    IfItHolds,
    /// It was counted in memory, and is raised again only when the same happens again.
    Gone,
}

impl AfterRestart {
    /// The word in the operators' guide.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::IfItHolds => "if it holds",
            Self::Gone => "gone",
        }
    }
}

/// Declares [`AlertCode`]: a row has the variant, its description, its word, its severity, what ends it, and what becomes of it at a restart.
/// There is no second list of codes.
macro_rules! alert_codes {
    ($($(#[$doc:meta])+ $code:ident = $word:literal, $severity:ident, $end:ident, $restart:ident;)+) => {
        /// The condition of an alert. Stable: monitoring rules match on its word.
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum AlertCode {
            $($(#[$doc])+ #[serde(rename = $word)] $code,)+
        }

        impl AlertCode {
            /// Every code.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$code),+];

            /// The word in JSON and in metric labels, the severity, what ends it, and what becomes of it at a restart.
            const fn row(self) -> (&'static str, Severity, EndsWith, AfterRestart) {
                match self {
                    $(Self::$code => ($word, Severity::$severity, EndsWith::$end, AfterRestart::$restart),)+
                }
            }
        }
    };
}

alert_codes! {
    /// A partition holds a batch that cannot be read; it is paused until an operator skips the batch. Subject: `topic/partition`.
    PartitionDamaged = "partition_damaged", Critical, Condition, IfItHolds;
    /// Kafka deleted records, by retention, before they were consumed. Subject: `topic/partition`.
    RetentionGap = "retention_gap", Critical, Acknowledgement, Kept;
    /// The partition ends before the saved checkpoint: records were lost. Subject: `topic/partition`.
    LogTruncated = "log_truncated", Critical, Acknowledgement, Kept;
    /// The topic was deleted and created again: its offsets mean other records. Subject: `topic/partition`.
    TopicRecreated = "topic_recreated", Critical, Acknowledgement, Kept;
    /// The ledger is older than the consumer group's committed offset, for example restored from a backup. Subject: `topic/partition`.
    StateRolledBack = "state_rolled_back", Warning, Condition, Gone;
    /// A partition of a subscribed topic is assigned to no member of the consumer group. Subject: `topic/partition`; without one when this
    /// server gets no partition at all.
    PartitionUnassigned = "partition_unassigned", Warning, Condition, IfItHolds;
    /// Another member of the consumer group owns partitions that this server needs. Subject: `topic/partition`.
    GroupShared = "group_shared", Critical, Condition, IfItHolds;
    /// The handler cannot process records: intake is stopped. Or it panicked at a record, which is tried again. Subject then:
    /// `topic/partition`.
    HandlerFailing = "handler_failing", Critical, Condition, IfItHolds;
    /// Stored rows that do not decode: what they hold is not served until someone acts.
    LedgerDamaged = "ledger_damaged", Critical, Condition, Gone;
    /// The ledger is rebuilt from the log; open orders are not served until it is complete.
    LedgerRebuilding = "ledger_rebuilding", Warning, Condition, Kept;
    /// The server does not know that it has read the stream up to the present.
    StreamStale = "stream_stale", Critical, Condition, IfItHolds;
    /// Entries of the outbox cannot be published.
    OutboxBlocked = "outbox_blocked", Critical, Condition, IfItHolds;
    /// Free disk space is below the limit: intake is stopped.
    DiskLow = "disk_low", Critical, Condition, IfItHolds;
    /// There are paid orders among the dead letters.
    DeadLetters = "dead_letters", Critical, Acknowledgement, Kept;
    /// No event of a topic has a type that the mapping lists. Subject: the topic.
    TopicUndecodable = "topic_undecodable", Critical, Condition, Gone;
    /// No store is notified of paid orders.
    PaidUnannounced = "paid_unannounced", Critical, Acknowledgement, Kept;
    /// The times of a producer's events differ from those of their records, always by the same. Subject: the source of its events.
    SourceClockOff = "source_clock_off", Warning, Condition, Gone;
    /// Notices that devices rejected, or that no connection of a device could get acknowledged.
    NoticesUndeliverable = "notices_undeliverable", Warning, Acknowledgement, Gone;
    /// Two installations use one device id and replace each other's connection. Subject: the recipient, `store:N`.
    DeviceShared = "device_shared", Warning, Condition, Gone;
    /// A mailbox holds the maximum number of live notices. Subject: the recipient, `store:N`.
    MailboxOverflow = "mailbox_overflow", Warning, Condition, Gone;
    /// The live numbers are not updated.
    WallStalled = "wall_stalled", Warning, Condition, IfItHolds;
    /// The public keys of the tokens' issuer were not fetched for long, or never.
    IssuerKeysOld = "issuer_keys_old", Critical, Condition, IfItHolds;
}

impl AlertCode {
    /// The word in JSON and in metric labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    /// The severity of every alert with this code.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.row().1
    }

    /// What ends every alert with this code.
    #[must_use]
    pub const fn ends_with(self) -> EndsWith {
        self.row().2
    }

    /// What becomes of every alert with this code when the process ends and starts again.
    #[must_use]
    pub const fn after_restart(self) -> AfterRestart {
        self.row().3
    }

    /// The code with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.word() == word)
    }
}

impl fmt::Display for AlertCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One alert that is raised. Code and subject identify it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The condition.
    pub code: AlertCode,
    /// What the condition is about, when there can be several: a partition (`orders/0`) or a recipient (`store:17`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The severity of the code, repeated for readers without the table.
    pub severity: Severity,
    /// When the condition began. Milliseconds.
    pub since: UnixMs,
    /// The details in plain English, for people.
    pub detail: String,
}

impl Alert {
    /// An alert with the severity of its code.
    #[must_use]
    pub fn new(code: AlertCode, subject: Option<String>, since: UnixMs, detail: String) -> Self {
        Self { code, subject, severity: code.severity(), since, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn words_are_the_json_form_and_unique() {
        let mut words = BTreeSet::new();
        for code in AlertCode::ALL {
            assert_eq!(serde_json::json!(code), code.word());
            assert_eq!(serde_json::json!(code.severity()), code.severity().word());
            assert!(words.insert(code.word()), "{code}");
        }
    }

    #[test]
    fn an_alert_decodes_to_what_was_encoded() {
        let alert =
            Alert::new(AlertCode::MailboxOverflow, Some("store:17".into()), UnixMs(5), "20000 live notices".into());
        let text = crate::json::encode(&alert);
        assert_eq!(
            text,
            r#"{"code":"mailbox_overflow","subject":"store:17","severity":"warning","since":5,"detail":"20000 live notices"}"#
        );
        assert_eq!(serde_json::from_str::<Alert>(&text).unwrap(), alert);
    }
}
