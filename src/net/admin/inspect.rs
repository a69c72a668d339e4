//! What operators look at: activity, stores with their devices and backlogs, the newest notices of a store, one order. For `orderbell top`,
//! `stores`, `tail` and `trace`, and for the console.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::alert::Alert;
use orderbell_protocol::{Id, MailboxPage, Position, Problem, ReadError, UnixMs};
use serde::{Deserialize, Serialize};

use super::AdminApi;
use crate::clock::wall_clock;
use crate::net::response::{self, Refusal};
use orderbell_ledger::DiskError;

/// Largest number of stores in one page.
const PAGE_MAX: usize = 500;

/// Answers what operators look at.
pub trait Inspection: Send + Sync + 'static {
    /// What the server is doing now.
    fn activity(&self) -> Activity;
    /// Stores by id, from the id `from` on, at most `max`. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn stores(&self, from: &str, max: usize) -> Result<Vec<StoreStatus>, DiskError>;
    /// Notices of a store's mailbox after a position; without one, no notice and the newest position. Moves no cursor. Blocks.
    ///
    /// # Errors
    /// [`ReadError`].
    fn tail(&self, store: &Id, after: Option<Position>) -> Result<MailboxPage, ReadError>;
    /// State and timeline of one order; none when the ledger does not hold it. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn order(&self, order: &Id, shadow: bool) -> Result<Option<serde_json::Value>, DiskError>;
}

/// What the server is doing now.
#[derive(Clone, Debug, Serialize)]
pub struct Activity {
    /// Everything that the log held at this time is read and durable; none while unknown.
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
    /// Viewers of the wall.
    pub wall_viewers: i64,
}

/// One partition of a topic.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionActivity {
    /// `topic/number`.
    pub partition: String,
    /// Offsets between the checkpoint and the end of the log.
    pub lag: u64,
    /// The offset below which everything is durable.
    pub checkpoint: u64,
    /// The end offset of the log; none while unknown.
    pub end: Option<u64>,
    /// Records in flight.
    pub in_flight: u64,
    /// True while the partition is not read, because of back-pressure or damage.
    pub paused: bool,
    /// True when the log is damaged at the next offset.
    pub damaged: bool,
    /// Everything that the partition held at this time is durable; none while unknown.
    pub as_of: Option<UnixMs>,
}

/// A key with many records in flight.
#[derive(Clone, Debug, Serialize)]
pub struct HotKeyActivity {
    /// Its hash in hexadecimal: an order id is not shown here.
    pub key: String,
    /// Records in flight.
    pub records: u64,
    /// Bytes in flight.
    pub bytes: u64,
}

/// One store for operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The store's id.
    pub id: String,
    /// Its name in the store directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its city in the store directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// `push`, `poll` or `offline`.
    pub reachability: String,
    /// Notices that none of its devices has acknowledged.
    pub backlog: u64,
    /// When the oldest of them was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_since: Option<UnixMs>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
    /// Its devices, by name.
    pub devices: Vec<DeviceStatus>,
}

/// One device of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name.
    pub device: String,
    /// True while it has an open session.
    #[serde(default)]
    pub connected: bool,
    /// Why the device acknowledges too little: `slow` (connected, and a notice is unacknowledged for longer than the ack timeout),
    /// `unresponsive` (a connection ended with an ack timeout) or `poisoned` (a notice was skipped after several ack timeouts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Notices that it has not acknowledged.
    pub backlog: u64,
    /// When the oldest of them was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_since: Option<UnixMs>,
}

fn unreadable() -> Refusal {
    Problem::unavailable("the ledger cannot be read", 5_000).into()
}

#[derive(Deserialize)]
pub(super) struct StoresQuery {
    #[serde(default)]
    from: String,
}

/// `GET /stores?from=ID`: a page of stores, and the id at which the next begins.
pub(super) async fn stores(
    State(api): State<AdminApi>,
    Query(query): Query<StoresQuery>,
) -> Result<Response<Body>, Refusal> {
    // It reads cursors and mailboxes of every store: not on a thread that serves sockets.
    let listed = tokio::task::spawn_blocking(move || api.inspection.stores(&query.from, PAGE_MAX + 1)).await;
    let Ok(Ok(mut stores)) = listed else { return Err(unreadable()) };
    let next = (stores.len() > PAGE_MAX).then(|| stores.pop()).flatten().map(|store| store.id);
    let mut answer = serde_json::json!({ "stores": stores });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(response::json(answer.to_string()))
}

#[derive(Deserialize)]
pub(super) struct OrderQuery {
    #[serde(default)]
    shadow: u8,
}

/// `GET /orders/ID`: state and timeline of one order, without its items and its customer.
pub(super) async fn order(
    State(api): State<AdminApi>,
    Path(order): Path<String>,
    Query(query): Query<OrderQuery>,
) -> Result<Response<Body>, Refusal> {
    let id = Id::new(&order).map_err(|_| Problem::not_found())?;
    let found = tokio::task::spawn_blocking(move || api.inspection.order(&id, query.shadow == 1)).await;
    let Ok(Ok(found)) = found else { return Err(unreadable()) };
    Ok(response::json(found.ok_or_else(Problem::not_found)?.to_string()))
}

/// The document of `GET /top`.
#[derive(Serialize)]
struct Top {
    at: UnixMs,
    ready: bool,
    alerts: Vec<Alert>,
    #[serde(flatten)]
    activity: Activity,
}

/// `GET /top`: alerts and activity.
pub(super) async fn top(State(api): State<AdminApi>) -> Response<Body> {
    let top = Top {
        at: wall_clock(),
        ready: api.status.is_ready(),
        alerts: api.alerts(),
        activity: api.inspection.activity(),
    };
    response::json(serde_json::json!(top).to_string())
}

#[derive(Deserialize)]
pub(super) struct TailQuery {
    after: Option<String>,
}

/// `GET /stores/ID/tail?after=POSITION`: notices of a store's mailbox, by kind and order. Without `after`, only the newest position.
pub(super) async fn tail(
    State(api): State<AdminApi>,
    Path(store): Path<String>,
    Query(query): Query<TailQuery>,
) -> Result<Response<Body>, Refusal> {
    let id = Id::new(&store).map_err(|_| Problem::not_found())?;
    let after = query.after.map(|text| text.parse::<Position>()).transpose().map_err(|_| Problem::epoch_changed())?;
    let read = tokio::task::spawn_blocking(move || api.inspection.tail(&id, after)).await;
    let page = read.map_err(|_| unreadable())??;
    let notices: Vec<serde_json::Value> = page
        .notices
        .iter()
        .filter_map(|delivery| {
            let notice: serde_json::Value = serde_json::from_str(delivery.notice.as_str()).ok()?;
            // Without the body: what was ordered is not shown to operators.
            Some(serde_json::json!({"position": delivery.position, "at": notice["at"], "kind": notice["kind"], "order": notice["order"]}))
        })
        .collect();
    let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
    let answer = serde_json::json!({"notices": notices, "position": position, "more": page.has_more()});
    Ok(response::json(answer.to_string()))
}
