//! `GET /v1/orders?open=1` and `GET /v1/orders/ID`: the current state, for a client that cannot continue from its position.
//!
//! A new device, a device whose position was rejected (409, 410, 4200) or a phone that comes to the foreground takes the open orders and the
//! position that came with them, and continues from there. Both are read from one durable snapshot, so no notice falls between them. The list
//! is paged: each page says where the next begins, and the client continues from the position of the first page.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::frame::{OpenOrder, OrdersAnswer};
use orderbell_protocol::{Id, Problem, Recipient};
use serde::Deserialize;

use super::AppState;
use super::connection::span;
use super::identity_rates::Identity;
use super::places::RequestPlace;
use super::poll::{device_or_default, invalid_parameter, undecodable_query};
use super::response::{self, Refusal};
use super::tokens::Principal;
use orderbell_ledger::{DeliveryHistory, DeviceBinding, Ledger, LedgerReadError, OrderKey};

/// Largest number of orders in one page.
const PAGE_MAX: usize = 200;

#[derive(Deserialize)]
pub(crate) struct OrdersQuery {
    open: Option<String>,
    from: Option<String>,
}

pub(crate) async fn list_open(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    place: Option<Extension<RequestPlace>>,
    query: Result<Query<OrdersQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, device, .. } = response::principal(&headers, &state)? else {
        return Err(state.wrong_role());
    };
    let binding = DeviceBinding::of_token(device.as_ref());
    let device = device_or_default(device);
    state.admit_request(Identity { who: &who, device: &device, binding })?;
    let Query(query) = query.map_err(undecodable_query)?;
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
    let _at_work = state.begin_list(&who, binding, place.as_deref())?;
    let app = state.clone();
    let span = span::of_list(&who, &device);
    let read = span.clone();
    let scan = state.ledger.scan(move |ledger| read.in_scope(|| open_orders(&app, ledger, &who, from.as_ref())));
    let answer = scan.await.map_err(|error| span.in_scope(|| Refusal::from(error)))??;
    Ok(response::json(answer.encode()))
}

/// A page of open orders. One that does not decode fails the whole page: a client takes off what a page does not have.
fn open_orders(
    state: &AppState,
    ledger: &Ledger,
    who: &Recipient,
    from: Option<&Id>,
) -> Result<OrdersAnswer, LedgerReadError> {
    let page = ledger.damage().check(ledger.orders().open(who, from, PAGE_MAX))?;
    let mut orders = Vec::with_capacity(page.orders.len());
    for (key, order) in &page.orders {
        orders.extend(state.orders.view(who, key, order, None)?);
    }
    let next = page.next.map(|id| id.as_str().to_owned());
    Ok(OrdersAnswer { orders, position: page.head, next, fresh: state.freshness() })
}

pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    place: Option<Extension<RequestPlace>>,
    Path(order): Path<String>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, device, .. } = response::principal(&headers, &state)? else {
        return Err(state.wrong_role());
    };
    let binding = DeviceBinding::of_token(device.as_ref());
    let device = device_or_default(device);
    state.admit_request(Identity { who: &who, device: &device, binding })?;
    // A foreign order and a missing one give the same 404.
    let id = Id::parse(&order).map_err(|_| Problem::not_found())?;
    let _at_work = state.begin_list(&who, binding, place.as_deref())?;
    let app = state.clone();
    let span = span::of_list(&who, &device);
    let read = span.clone();
    let scan = state.ledger.scan(move |ledger| read.in_scope(|| order_with_timeline(&app, ledger, &who, id)));
    let order = scan.await.map_err(|error| span.in_scope(|| Refusal::from(error)))??;
    Ok(response::json(order.ok_or_else(Problem::not_found)?.encode()))
}

fn order_with_timeline(
    state: &AppState,
    ledger: &Ledger,
    who: &Recipient,
    id: Id,
) -> Result<Option<OpenOrder>, LedgerReadError> {
    let (key, damage) = (OrderKey { shadow: who.shadow, id }, ledger.damage());
    let stored = damage.check(ledger.orders().state(&key))?;
    let view = |stored: &[u8], history: Option<&DeliveryHistory>| Ok(state.orders.view(who, &key, stored, history)?);
    let history = || damage.check(ledger.delivery_log().history(who, &key));
    with_history(stored.as_deref(), view, history)
}

/// Views an order with its delivery history, which is read only for whose order it is: one of another recipient costs the same reads as one that
/// is not there, so the time of a 404 does not tell which it was.
fn with_history<T, E>(
    stored: Option<&[u8]>,
    view: impl Fn(&[u8], Option<&DeliveryHistory>) -> Result<Option<T>, E>,
    history: impl FnOnce() -> Result<DeliveryHistory, E>,
) -> Result<Option<T>, E> {
    let Some(stored) = stored else { return Ok(None) };
    if view(stored, None)?.is_none() {
        return Ok(None);
    }
    view(stored, Some(&history()?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// What the owner of `mine` is shown of a stored order, and how often its history was read.
    fn shown(stored: Option<&[u8]>) -> (Option<bool>, u32) {
        let reads = Cell::new(0);
        let view = |stored: &[u8], history: Option<&DeliveryHistory>| {
            Ok::<_, Infallible>((stored == b"mine").then_some(history.is_some()))
        };
        let history = || {
            reads.set(reads.get() + 1);
            Ok(DeliveryHistory::default())
        };
        let Ok(shown) = with_history(stored, view, history);
        (shown, reads.get())
    }

    /// The bug: the delivery history of an order was read before it was known whose order it is, so a foreign one took longer than a missing one.
    #[test]
    fn a_foreign_order_costs_the_same_reads_as_a_missing_one() {
        assert_eq!(shown(Some(b"theirs")), (None, 0));
        assert_eq!(shown(None), (None, 0));
        assert_eq!(shown(Some(b"mine")), (Some(true), 1), "with its timeline");
    }
}
