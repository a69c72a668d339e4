//! `GET /v1/orders?open=1` and `GET /v1/orders/ID`: what is, for a client that cannot go on from what was.
//!
//! A new device, one whose position is refused (409, 410, 4200), a phone that comes to the foreground: it takes the open orders and the
//! position that came with them, and goes on from there. Both are of one durable snapshot, so nothing falls between them. In pages: each
//! says where the next begins; the position of the first page is the one to go on from.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::{Id, Problem};
use serde::Deserialize;

use super::Net;
use super::reply::{self, Refusal};
use super::tokens::Principal;
use crate::ledger::{DiskError, OrderKey};

/// Orders in one answer.
const PAGE_MAX: usize = 200;

#[derive(Deserialize)]
pub(crate) struct Asked {
    open: Option<String>,
    from: Option<String>,
}

fn unreadable(error: DiskError) -> Refusal {
    tracing::error!(%error, "orders cannot be read");
    Problem::unavailable("the ledger cannot be read", 5_000).into()
}

fn wrong(pointer: &str, reason: impl Into<String>) -> Refusal {
    Problem::new(422, "invalid-field", "A parameter is wrong").error(pointer, reason).into()
}

pub(crate) async fn open(
    State(net): State<Arc<Net>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, .. } = reply::principal(&headers, &net.tokens())? else {
        return Err(Problem::not_found().into());
    };
    let Query(asked) = asked.map_err(|_| wrong("", "the query cannot be read"))?;
    if asked.open.as_deref() != Some("1") {
        return Err(wrong("open", "only open orders are listed: open=1"));
    }
    if net.ledger.is_in_doubt() {
        return Err(Problem::unavailable("the log is read again: what is open is not known yet", 2_000).into());
    }
    let from = asked.from.as_deref().map(Id::new).transpose().map_err(|error| wrong("from", error.to_string()))?;
    let page = net.ledger.open_orders(&who, from.as_ref(), PAGE_MAX).map_err(unreadable)?;
    let seen = |(key, state): &(OrderKey, Vec<u8>)| (net.rules.view)(&who, key, state, None);
    let orders: Vec<_> = page.orders.iter().filter_map(seen).collect();
    let mut answer = serde_json::json!({ "orders": orders, "position": page.head });
    if let (Some(told), Ok(serde_json::Value::Object(fresh))) =
        (answer.as_object_mut(), serde_json::to_value(net.fresh()))
    {
        told.extend(fresh);
    }
    if let Some(next) = page.next {
        answer["next"] = next.as_str().into();
    }
    Ok(reply::json(answer.to_string()))
}

pub(crate) async fn one(
    State(net): State<Arc<Net>>,
    headers: HeaderMap,
    Path(order): Path<String>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, .. } = reply::principal(&headers, &net.tokens())? else {
        return Err(Problem::not_found().into());
    };
    // Foreign and missing look the same.
    let id = Id::new(&order).map_err(|_| Problem::not_found())?;
    let key = OrderKey { shadow: who.shadow, id };
    let state = net.ledger.order(&key).map_err(unreadable)?.ok_or_else(Problem::not_found)?;
    let trail = net.ledger.trail(&who, &key).map_err(unreadable)?;
    let order = (net.rules.view)(&who, &key, &state, Some(&trail)).ok_or_else(Problem::not_found)?;
    Ok(reply::json(order.to_string()))
}
