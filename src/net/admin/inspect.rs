//! What operators look at: activity, stores with their devices and backlogs, the newest notices of a store, one order. For `orderbell top`,
//! `stores`, `tail` and `trace`, and for the console.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::admin::{
    Activity, BalanceAnswer, RejectedClients, StoreStatus, StoresAnswer, TailAnswer, TopAnswer, TraceAnswer,
};
use orderbell_protocol::balance::BinCount;
use orderbell_protocol::{Id, Position, Problem, ReadError};
use serde::Deserialize;

use super::AdminApi;
use crate::clock::wall_clock;
use crate::net::response::{self, Refusal};
use orderbell_ledger::{DamagedRow, LedgerReadError};

/// Largest number of stores in one page.
const PAGE_MAX: usize = 500;

/// Answers what operators look at. Every call blocks.
pub trait Inspection: Send + Sync + 'static {
    /// What the server is doing now.
    fn activity(&self) -> Activity;
    /// Stores by id, from the id `from` on, at most `max`.
    ///
    /// # Errors
    /// [`LedgerReadError`].
    fn stores(&self, from: &str, max: usize) -> Result<Vec<StoreStatus>, LedgerReadError>;
    /// Where the records that may be paid orders ended.
    fn balance(&self) -> Vec<BinCount>;
    /// Clients that were turned away since the start.
    fn rejected(&self) -> Vec<RejectedClients>;
    /// Notices of a store's mailbox after a position; without one, no notice and the newest position. Moves no cursor.
    ///
    /// # Errors
    /// [`TailError`].
    fn tail(&self, store: &Id, after: Option<Position>) -> Result<TailAnswer, TailError>;
    /// State and timeline of one order; none when the ledger does not hold it.
    ///
    /// # Errors
    /// [`LedgerReadError`].
    fn order(&self, order: &Id, shadow: bool) -> Result<Option<TraceAnswer>, LedgerReadError>;
}

/// Why the tail of a mailbox cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TailError {
    /// The mailbox cannot be read from the position.
    #[error(transparent)]
    Mailbox(#[from] ReadError),
    /// A stored notice does not decode.
    #[error(transparent)]
    Damaged(#[from] DamagedRow),
}

impl From<TailError> for Refusal {
    fn from(error: TailError) -> Self {
        match error {
            TailError::Mailbox(error) => error.into(),
            TailError::Damaged(row) => row.into(),
        }
    }
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
    let is_first = query.from.is_empty();
    let mut stores = api.inspection.run(move |inspection| inspection.stores(&query.from, PAGE_MAX + 1)).await??;
    let rejected = match is_first {
        true => api.inspection.run(|inspection| inspection.rejected()).await?,
        false => Vec::new(),
    };
    let next = (stores.len() > PAGE_MAX).then(|| stores.pop()).flatten().map(|store| store.id);
    Ok(response::answer(&StoresAnswer { stores, next, rejected }))
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
    let id = Id::parse(&order).map_err(|_| Problem::not_found())?;
    let found = api.inspection.run(move |inspection| inspection.order(&id, query.shadow == 1)).await??;
    Ok(response::answer(&found.ok_or_else(Problem::not_found)?))
}

/// `GET /balance`: where the records that may be paid orders ended.
pub(super) async fn balance(State(api): State<AdminApi>) -> Result<Response<Body>, Refusal> {
    let bins = api.inspection.run(|inspection| inspection.balance()).await?;
    Ok(response::answer(&BalanceAnswer { bins }))
}

/// `GET /top`: alerts and activity.
pub(super) async fn top(State(api): State<AdminApi>) -> Result<Response<Body>, Refusal> {
    let activity = api.inspection.run(|inspection| inspection.activity()).await?;
    let (ready, alerts) = (api.status.is_ready(), api.alerts());
    Ok(response::answer(&TopAnswer { at: wall_clock(), ready, alerts, activity }))
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
    let id = Id::parse(&store).map_err(|_| Problem::not_found())?;
    let after = query.after.map(|text| text.parse::<Position>()).transpose().map_err(|_| Problem::epoch_changed())?;
    let answer = api.inspection.run(move |inspection| inspection.tail(&id, after)).await??;
    Ok(response::answer(&answer))
}
