//! The documents of the admin listener, for `orderbell alerts`, `top`, `stores`, `tail`, `trace`, `dlq` and the console.
//!
//! They name stores and orders, so the server answers them on loopback only. None contains a pickup code or a customer; a dead letter is a whole
//! record, with what was ordered.

use serde::{Deserialize, Serialize};

use crate::alert::Alert;
use crate::balance::BinCount;
use crate::frame::{OrderOutcome, OrderStage, TimelineEntry};
use crate::position::Position;
use crate::{NoticeKind, Role, UnixMs};

/// The answer to `GET /ready`: 200 when `ready`, otherwise 503.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyAnswer {
    /// True while clients may connect: false while the server starts, and from the drain on.
    pub ready: bool,
    /// Everything that needs a person now. An alert does not make a server unready.
    pub alerts: Vec<Alert>,
}

/// The answer to `POST /alerts/ack?code=CODE&subject=SUBJECT`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgeAnswer {
    /// The alerts as they were raised; they are cleared now.
    pub acknowledged: Vec<Alert>,
}

/// The answer to `GET /balance`: where the records that may be paid orders ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceAnswer {
    /// Every bin of every topic that has had a record, by topic.
    pub bins: Vec<BinCount>,
}

/// The answer to `GET /top`: alerts and activity.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopAnswer {
    /// When the document was made, by the server's clock. Milliseconds.
    pub at: UnixMs,
    /// As in [`ReadyAnswer`].
    pub ready: bool,
    /// As in [`ReadyAnswer`].
    pub alerts: Vec<Alert>,
    /// What the server is doing.
    #[serde(flatten)]
    pub activity: Activity,
}

/// What the server is doing now.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Everything that the log held at this time is read and durable; null while unknown. Milliseconds.
    pub as_of: Option<UnixMs>,
    /// The assigned partitions.
    pub partitions: Vec<PartitionActivity>,
    /// Records in flight.
    pub in_flight: u64,
    /// The limit of the records in flight.
    pub max_in_flight: u64,
    /// Keys that wait for their next attempt.
    pub keys_backing_off: u64,
    /// The keys with most records in flight, most first.
    pub hot_keys: Vec<HotKeyActivity>,
    /// Sessions and waiting polls.
    pub subscribers: u64,
    /// Open streams and sockets of `/v1/wall`.
    pub wall_viewers: u64,
}

/// One partition of a topic.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionActivity {
    /// `topic/number`.
    pub partition: String,
    /// Offsets between the checkpoint and the end of the log.
    pub lag: u64,
    /// The offset below which everything is durable.
    pub checkpoint: u64,
    /// The end offset of the log; null while unknown.
    pub end: Option<u64>,
    /// Records in flight.
    pub in_flight: u64,
    /// True while the partition is not read, because of back-pressure or damage.
    pub paused: bool,
    /// True when the log is damaged at the next offset.
    pub damaged: bool,
    /// Everything that the partition held at this time is durable; null while unknown. Milliseconds.
    pub as_of: Option<UnixMs>,
}

/// A key with many records in flight.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKeyActivity {
    /// Its hash in hexadecimal: an order id is not shown here.
    pub key: String,
    /// Records in flight.
    pub records: u64,
    /// Bytes in flight.
    pub bytes: u64,
}

/// The fastest way in which a recipient can be notified now.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// At least one device has an open session.
    Push,
    /// No session is open, but a device polled recently.
    Poll,
    /// Neither: notices stay in the mailbox until a device connects or polls.
    Offline,
}

impl Reachability {
    /// The word in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
            Self::Offline => "offline",
        }
    }
}

/// The answer to `GET /stores?from=ID`: a page of stores, by id.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresAnswer {
    /// The stores of this page.
    pub stores: Vec<StoreStatus>,
    /// The first store of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Clients that were turned away since the server's start, by reason; on the first page only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedClients>,
}

/// Clients that were turned away for one reason.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedClients {
    /// Why: `token-expired`, `too-many-connections`, ...
    pub reason: String,
    /// How often since the start.
    pub count: u64,
    /// When it last happened. Milliseconds.
    pub last_at: UnixMs,
    /// The store that was last turned away, if its token was signed by one of the server's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// How a store can be notified, and what its devices have not acknowledged.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The store's id.
    pub id: String,
    /// Its name in the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its city in the store directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// How it can be notified now.
    pub reachability: Reachability,
    /// Notices that none of its devices has acknowledged.
    pub backlog: u64,
    /// When the oldest of them was stored. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_since: Option<UnixMs>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
    /// Its devices, by name.
    pub devices: Vec<DeviceStatus>,
}

/// One device of a store.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name.
    pub device: String,
    /// True while it has an open session.
    #[serde(default)]
    pub connected: bool,
    /// What is wrong with the device. Absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<DeviceProblem>,
    /// Notices that it has not acknowledged.
    pub backlog: u64,
    /// When the oldest of them was stored. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_since: Option<UnixMs>,
}

/// What is wrong with a device.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceProblem {
    /// It is connected, and a notice is unacknowledged for longer than the ack timeout.
    Slow,
    /// A connection ended with an ack timeout.
    Unresponsive,
    /// A notice was skipped after several ack timeouts.
    Poisoned,
    /// Two installations use its id and replace each other's connection.
    Shared,
}

impl DeviceProblem {
    /// The word in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Unresponsive => "unresponsive",
            Self::Poisoned => "poisoned",
            Self::Shared => "shared",
        }
    }
}

/// The answer to `GET /stores/ID/tail?after=POSITION`: notices of a store's mailbox. Without `after` it has none, and the newest position.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailAnswer {
    /// In mailbox order.
    pub notices: Vec<TailNotice>,
    /// The `after` of the next request.
    pub position: Position,
    /// True when more notices are there already.
    pub more: bool,
}

/// A notice without its body: what was ordered is not shown to operators.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailNotice {
    /// The notice's position in the mailbox.
    pub position: Position,
    /// When the fact occurred. Milliseconds.
    pub at: UnixMs,
    /// What the notice says.
    pub kind: NoticeKind,
    /// The order that it is about.
    pub order: String,
}

/// The answer to `GET /orders/ID`: one order without its fields and its customer, with the store's and the customer's timelines merged.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The id of the order.
    pub order: String,
    /// How far the order has progressed.
    pub stage: OrderStage,
    /// True while the store has to act on it.
    pub active: bool,
    /// How the order ended before it was picked up. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OrderOutcome>,
    /// The store, when an event named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// When the order's last event occurred. Milliseconds.
    pub at: UnixMs,
    /// The history of the order, oldest first.
    pub timeline: Vec<TraceEntry>,
}

/// One entry of the merged timelines.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// What is recorded.
    #[serde(flatten)]
    pub entry: TimelineEntry,
    /// Of a notice: to whom it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Role>,
}

/// The answer to `GET /dead-letters`: a page of the ledger's dead letter log, oldest first.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLettersAnswer {
    /// The dead letters of this page, without their values.
    pub records: Vec<DeadLetterSummary>,
    /// The `after` of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One dead letter of the ledger's log, without its value.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// Its number in the log.
    pub number: u64,
    /// When it was stored. Milliseconds.
    pub at: UnixMs,
    /// The topic that the record was read from.
    pub topic: String,
    /// The partition that the record was read from.
    pub partition: u32,
    /// The record's offset in that partition.
    pub offset: u64,
    /// Why it was rejected, as a stable word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
}

/// The answer to `GET /dead-letters/NUMBER`: one dead letter completely.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterAnswer {
    /// What is known without its value.
    #[serde(flatten)]
    pub summary: DeadLetterSummary,
    /// The record's own time. Milliseconds.
    pub timestamp_ms: i64,
    /// How often it was tried.
    pub attempts: u32,
    /// Null for a record without one.
    pub key: Option<RecordBytes>,
    /// Null for a tombstone.
    pub value: Option<RecordBytes>,
    /// Names and values of the record's headers.
    pub headers: Vec<(String, Option<RecordBytes>)>,
}

/// Bytes of a record as people can read them.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordBytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Hex {
        /// Two hexadecimal digits a byte.
        hex: String,
    },
}

/// The answer to `POST /dead-letters/replay`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayAnswer {
    /// How many records were appended to the stream again.
    pub replayed: u64,
    /// Their numbers in the dead letter log, from which they are removed.
    pub numbers: Vec<u64>,
    /// Numbers of those that hold only the beginning of their records: they are not replayed, and stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<u64>,
    /// The `after` of the next request; absent when no record was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The answer to `GET /dead-letters/topics`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDeadLettersAnswer {
    /// The newest dead letters of the topics, newest first.
    pub records: Vec<TopicDeadLetter>,
}

/// A dead letter in a topic; with `which` in the query, the answer to `GET /dead-letters/topics`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDeadLetter {
    /// Its name: TOPIC/PARTITION@OFFSET of the dead letter itself.
    pub which: String,
    /// When it was written. Milliseconds.
    pub at: UnixMs,
    /// The topic of the original record.
    pub topic: String,
    /// The partition of the original record; null when its header is missing.
    pub partition: Option<i32>,
    /// The offset of the original record; null when its header is missing.
    pub offset: Option<i64>,
    /// Why the record was rejected, as a stable word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// The value of the record; present only when one dead letter was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The answer to `POST /dead-letters/topics/replay`, whose body is an array of names.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReplayAnswer {
    /// How many of the named records were sent to the output topic again.
    pub replayed: u64,
    /// Names of those that hold only the beginning of their records: they are not replayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::TimelineStep;
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), text);
        assert_eq!(&serde_json::from_str::<T>(text).unwrap(), value);
    }

    #[test]
    fn words_are_the_json_form() {
        for reachability in [Reachability::Push, Reachability::Poll, Reachability::Offline] {
            assert_eq!(serde_json::json!(reachability), reachability.word());
        }
    }

    #[test]
    fn activity_stands_beside_the_alerts() {
        let top = TopAnswer { at: UnixMs(7), ready: true, alerts: Vec::new(), activity: Activity::default() };
        round_trip(
            &top,
            r#"{"at":7,"ready":true,"alerts":[],"as_of":null,"partitions":[],"in_flight":0,"max_in_flight":0,"keys_backing_off":0,"hot_keys":[],"subscribers":0,"wall_viewers":0}"#,
        );
    }

    #[test]
    fn a_notice_in_a_trace_says_to_whom_it_went() {
        let entry = TimelineEntry {
            at: UnixMs(5),
            step: TimelineStep::Sent,
            event: None,
            kind: Some(NoticeKind::NewOrder),
            device: Some("till".into()),
            attempt: Some(2),
        };
        round_trip(
            &TraceEntry { entry, to: Some(Role::Store) },
            r#"{"at":5,"step":"sent","kind":"new_order","device":"till","attempt":2,"to":"store"}"#,
        );
    }

    #[test]
    fn a_dead_letter_keeps_bytes_that_are_no_text() {
        let summary = DeadLetterSummary {
            number: 3,
            at: UnixMs(9),
            topic: "orders".into(),
            partition: 1,
            offset: 70,
            reason: "not-json".into(),
            message: "not JSON".into(),
        };
        let dead_letter = DeadLetterAnswer {
            summary,
            timestamp_ms: 8,
            attempts: 1,
            key: None,
            value: Some(RecordBytes::Hex { hex: "ff00".into() }),
            headers: vec![("a".into(), Some(RecordBytes::Text("b".into())))],
        };
        round_trip(
            &dead_letter,
            r#"{"number":3,"at":9,"topic":"orders","partition":1,"offset":70,"reason":"not-json","message":"not JSON","timestamp_ms":8,"attempts":1,"key":null,"value":{"hex":"ff00"},"headers":[["a","b"]]}"#,
        );
    }
}
