//! What operators ask on the admin listener: every store with its devices and what waits for them, what comes into one store's mailbox, one
//! order's story, what is going on. For `orderbell stores`, `tail`, `trace` and `top`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::{Id, Position, Problem, UnixMs};
use serde::{Deserialize, Serialize};

use super::admin::Health;
use super::reply::{self, Refusal};

/// Stores in one answer.
const PAGE_MAX: usize = 500;

/// One store, as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreSeen {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its city.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// `push`, `poll` or `away`.
    pub reach: String,
    /// Notices that no device of it has acknowledged.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<UnixMs>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
    /// Its devices, by name.
    pub devices: Vec<DeviceSeen>,
}

/// One device of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceSeen {
    /// Its name.
    pub device: String,
    /// Whether it has a socket.
    #[serde(default)]
    pub connected: bool,
    /// Connected, and what is sent to it is not acknowledged: `slow` (for a while), `deaf` (a connection was given up for it), `stuck` (a notice was
    /// set aside).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Notices that it has not acknowledged.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<UnixMs>,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    from: String,
}

pub(super) async fn list(
    State(health): State<Arc<dyn Health>>,
    Query(asked): Query<Asked>,
) -> Result<Response<Body>, Refusal> {
    // It walks through cursors and mailboxes: not on a thread that serves sockets.
    let listed = tokio::task::spawn_blocking(move || health.stores(&asked.from, PAGE_MAX + 1)).await;
    let Ok(Ok(mut stores)) = listed else {
        return Err(Problem::unavailable("the ledger cannot be read", 5_000).into());
    };
    let next = (stores.len() > PAGE_MAX).then(|| stores.pop()).flatten().map(|store| store.id);
    let mut answer = serde_json::json!({ "stores": stores });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(reply::json(answer.to_string()))
}

#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    shadow: u8,
}

/// `GET /orders/ID`: the story of one order, without what was ordered and by whom.
pub(super) async fn story(
    State(health): State<Arc<dyn Health>>,
    Path(order): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response<Body>, Refusal> {
    let id = Id::new(&order).map_err(|_| Problem::not_found())?;
    let told = tokio::task::spawn_blocking(move || health.story(&id, which.shadow == 1)).await;
    let Ok(Ok(told)) = told else { return Err(Problem::unavailable("the ledger cannot be read", 5_000).into()) };
    Ok(reply::json(told.ok_or_else(Problem::not_found)?.to_string()))
}

/// `GET /top`: what is going on.
pub(super) async fn top(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    reply::json(health.top().to_string())
}

#[derive(Deserialize)]
pub(super) struct Behind {
    after: Option<String>,
}

/// `GET /stores/ID/tail?after=POSITION`: what came into a store's mailbox, by kind and order. Without `after` only where the newest stands.
pub(super) async fn tail(
    State(health): State<Arc<dyn Health>>,
    Path(store): Path<String>,
    Query(asked): Query<Behind>,
) -> Result<Response<Body>, Refusal> {
    let id = Id::new(&store).map_err(|_| Problem::not_found())?;
    let after = asked.after.map(|text| text.parse::<Position>()).transpose().map_err(|_| Problem::epoch_changed())?;
    let read = tokio::task::spawn_blocking(move || health.tail(&id, after)).await;
    let page = read.map_err(|_| Problem::unavailable("the ledger cannot be read", 5_000))??;
    let notices: Vec<serde_json::Value> = page
        .notices
        .iter()
        .filter_map(|delivery| {
            let notice: serde_json::Value = serde_json::from_str(delivery.notice.as_str()).ok()?;
            // What was ordered is the store's business.
            Some(serde_json::json!({"position": delivery.position, "at": notice["at"], "kind": notice["kind"], "order": notice["order"]}))
        })
        .collect();
    let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
    Ok(reply::json(serde_json::json!({"notices": notices, "position": position, "more": page.more()}).to_string()))
}
