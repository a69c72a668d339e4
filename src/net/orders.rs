//! `GET /v1/orders?open=1` and `GET /v1/orders/ID`: the current state, for a client that cannot continue from its position.
//!
//! A new device, a device whose position was rejected (409, 410, 4200) or a phone that comes to the foreground takes the open orders and the
//! position that came with them, and continues from there. Both are read from one durable snapshot, so no notice falls between them. The list
//! is paged: each page says where the next begins, and the client continues from the position of the first page.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::{Id, Problem};
use serde::Deserialize;

use super::AppState;
use super::poll::invalid_parameter;
use super::response::{self, Refusal};
use super::tokens::Principal;
use orderbell_ledger::{DiskError, OrderKey};

/// Largest number of orders in one page.
const PAGE_MAX: usize = 200;

#[derive(Deserialize)]
pub(crate) struct OrdersQuery {
    open: Option<String>,
    from: Option<String>,
}

fn unreadable(error: DiskError) -> Refusal {
    tracing::error!(%error, "cannot read orders");
    Problem::unavailable("the ledger cannot be read", 5_000).into()
}

pub(crate) async fn list_open(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    query: Result<Query<OrdersQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, .. } = response::principal(&headers, &state.tokens())? else {
        return Err(Problem::not_found().into());
    };
    let Query(query) = query.map_err(|_| invalid_parameter("", "the query cannot be decoded"))?;
    if query.open.as_deref() != Some("1") {
        return Err(invalid_parameter("open", "only open orders can be listed: open=1"));
    }
    if state.ledger.is_rebuilding() {
        return Err(Problem::unavailable(
            "the ledger is being rebuilt from the log: the open orders are not known yet",
            2_000,
        )
        .into());
    }
    let from =
        query.from.as_deref().map(Id::new).transpose().map_err(|error| invalid_parameter("from", error.to_string()))?;
    let page = state.ledger.open_orders(&who, from.as_ref(), PAGE_MAX).map_err(unreadable)?;
    let view = |(key, order): &(OrderKey, Vec<u8>)| state.orders.view(&who, key, order, None);
    let orders: Vec<_> = page.orders.iter().filter_map(view).collect();
    let mut answer = serde_json::json!({ "orders": orders, "position": page.head });
    if let (Some(members), Ok(serde_json::Value::Object(freshness))) =
        (answer.as_object_mut(), serde_json::to_value(state.freshness()))
    {
        members.extend(freshness);
    }
    if let Some(next) = page.next {
        answer["next"] = next.as_str().into();
    }
    Ok(response::json(answer.to_string()))
}

pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    Path(order): Path<String>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, .. } = response::principal(&headers, &state.tokens())? else {
        return Err(Problem::not_found().into());
    };
    // A foreign order and a missing one give the same 404.
    let id = Id::new(&order).map_err(|_| Problem::not_found())?;
    let key = OrderKey { shadow: who.shadow, id };
    let stored = state.ledger.order(&key).map_err(unreadable)?.ok_or_else(Problem::not_found)?;
    let history = state.ledger.delivery_history(&who, &key).map_err(unreadable)?;
    let order = state.orders.view(&who, &key, &stored, Some(&history)).ok_or_else(Problem::not_found)?;
    Ok(response::json(order.to_string()))
}
