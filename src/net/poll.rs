//! `GET /v1/notices`: poll and long-poll of a mailbox.
//!
//! `after` acknowledges everything up to that position, and reading continues from it; without `after` the server uses the device's cursor.
//! `wait` delays the answer until a notice exists. A poll moves the same cursor as a session of the same device, so the session does not push
//! what was polled.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::frame::encode_poll;
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{
    Delivery, DeviceId, Id, MailboxPage, Position, Problem, ProblemCode, ReadError, Recipient, Role,
};
use serde::Deserialize;

use super::AppState;
use super::connection::{log_unavailable, span};
use super::identity_rates::Identity;
use super::places::RequestPlace;
use super::response::{self, Refusal};
use super::tokens::Principal;
use crate::clock::wall_clock;
use orderbell_ledger::{DeliveryStep, DeviceBinding};

/// The device of a request that names none.
const DEVICE_DEFAULT: &str = "default";

#[derive(Deserialize)]
pub(crate) struct PollQuery {
    after: Option<String>,
    wait: Option<u64>,
    device: Option<String>,
}

impl PollQuery {
    /// The device that it names, or the default device.
    fn device(&self) -> Result<DeviceId, Refusal> {
        let named = self.device.as_deref().unwrap_or(DEVICE_DEFAULT);
        Id::parse(named).map_err(|error| invalid_parameter("device", error.to_string()))
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self(match error {
            ReadError::EpochChanged => Problem::epoch_changed(),
            ReadError::PositionExpired => Problem::position_expired(),
            // Logged where it was found. Damage does not end by itself.
            ReadError::Unavailable => Problem::unavailable("the mailbox cannot be read", 30_000),
        })
    }
}

/// The device of a request that has no parameter for it.
pub(crate) fn device_or_default(of_token: Option<DeviceId>) -> DeviceId {
    of_token.unwrap_or_else(|| Id::new(DEVICE_DEFAULT).expect("the default device is an id"))
}

/// The device that a request names in its query, or the default device.
pub(crate) fn device_of(uri: &axum::http::Uri) -> Result<DeviceId, Refusal> {
    let Query(query) = Query::<PollQuery>::try_from_uri(uri).map_err(undecodable_query)?;
    query.device()
}

/// A query that is none. The library's text may quote it, and ids are in it.
pub(crate) fn undecodable_query(_: QueryRejection) -> Refusal {
    invalid_parameter("", "the query cannot be decoded")
}

pub(crate) fn invalid_parameter(pointer: &str, reason: impl Into<String>) -> Refusal {
    Refusal(Problem::new(ProblemCode::InvalidParameter).error(pointer, reason))
}

pub(crate) async fn poll(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    place: Option<Extension<RequestPlace>>,
    query: Result<Query<PollQuery>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, device, expires } = response::principal(&headers, &state)? else {
        return Err(state.wrong_role());
    };
    let Query(query) = query.map_err(undecodable_query)?;
    let binding = DeviceBinding::of_token(device.as_ref());
    let device = device.map_or_else(|| query.device(), Ok)?;
    let client = Identity { who: &who, device: &device, binding };
    let refuse = |error: ReadError| {
        span::of_poll(&who, &device).in_scope(|| log_unavailable(error));
        Refusal::from(error)
    };
    let taken = state.take_poll(client);
    state.check_name(client)?;
    if let Err(wait) = taken
        && !something_new_waits(&state, &who, &device, &query).map_err(refuse)?
    {
        return Err(state.rate_limited(&who, wait));
    }
    let (cursor, _) = state.ledger.cursor_and_head(&who, &device).map_err(refuse)?;
    let after = match &query.after {
        Some(text) => text.parse::<Position>().map_err(|_| Refusal(Problem::epoch_changed()))?,
        None => cursor.acked,
    };
    state.stats.polls.inc();
    if who.role == Role::Store && !who.shadow {
        state.hub.record_poll(&who, wall_clock());
    }
    // Not beyond the token's end.
    let left = Duration::from_millis(u64::try_from(expires.0.saturating_sub(wall_clock().0)).unwrap_or(0));
    let wait = Duration::from_secs(query.wait.unwrap_or(0)).min(state.limits().max_poll_wait).min(left);
    let page = read(&state, (&who, binding), after, wait, place.map(|Extension(place)| place)).await.map_err(refuse)?;
    // While it waited, a client may have come whose token names this device.
    state.check_name(client)?;
    // The cursor again: while a long-poll waited, a session of the same device may have moved it.
    let (cursor, _) = state.ledger.cursor_and_head(&who, &device).map_err(refuse)?;
    let text = answer(&state, client, after, cursor, &page);
    // Durable before it goes out: after a kill -9 these notices are marked as those that the device may have.
    if !page.notices.is_empty() && state.ledger.cursors_durable().await.is_err() {
        return Err(Problem::unavailable("the ledger cannot be written", 5_000).into());
    }
    Ok(response::json(text))
}

/// True when the first notice that a poll would get was never sent to its device: no rate delays it. A device that got nothing yet has to wait,
/// since device ids can be invented, and one that does not acknowledge has nothing new.
fn something_new_waits(
    state: &AppState,
    who: &Recipient,
    device: &DeviceId,
    query: &PollQuery,
) -> Result<bool, ReadError> {
    let (cursor, head) = state.ledger.cursor_and_head(who, device)?;
    let after = query.after.as_ref().map_or(Ok(cursor.acked), |text| text.parse::<Position>());
    let Some(after) = after.ok().filter(|_| cursor.sent_seq > 0 && head.seq > cursor.sent_seq) else {
        return Ok(false);
    };
    let first = state.ledger.read(who, after, after, 1, wall_clock());
    Ok(first.is_ok_and(|page| page.notices.first().is_some_and(|first| first.position.seq > cursor.sent_seq)))
}

/// Reads the mailbox; without a notice, waits for wake-ups and reads again, at most for `wait`.
async fn read(
    state: &Arc<AppState>,
    (who, binding): (&Recipient, DeviceBinding),
    after: Position,
    wait: Duration,
    place: Option<RequestPlace>,
) -> Result<MailboxPage, ReadError> {
    let page = first_page(state, who, after).await?;
    if !page.notices.is_empty() || wait.is_zero() {
        return Ok(page);
    }
    // Where too many wait, of all or of this recipient, this one is answered at once, as if it did not want to wait: nobody is turned away.
    let Some(_waits) = state.begin_waiting(who, binding, place.as_ref()) else { return Ok(page) };
    // Subscribed before the next read: a notice that is stored in between wakes this poll.
    let Ok(subscriber) = state.hub.wait(who, binding) else {
        state.too_many_wait(who);
        return Ok(page);
    };
    let until = tokio::time::Instant::now() + wait;
    loop {
        let page = first_page(state, who, after).await?;
        if !page.notices.is_empty() {
            return Ok(page);
        }
        tokio::select! {
            biased;
            () = state.drain.cancelled() => return Ok(page),
            () = subscriber.wakeup() => {}
            () = tokio::time::sleep_until(until) => return Ok(page),
        }
    }
}

/// The first page with a notice, or the last one. Rows that need no delivery (superseded, expired) are skipped, a bounded number at a time; between
/// two pages the other tasks of the worker have their turn.
async fn first_page(state: &AppState, who: &Recipient, after: Position) -> Result<MailboxPage, ReadError> {
    let read = |scan| state.ledger.read(who, after, scan, state.limits().max_poll_notices, wall_clock());
    let mut page = read(after)?;
    while page.notices.is_empty() && page.has_more() {
        tokio::task::yield_now().await;
        page = read(page.next)?;
    }
    Ok(page)
}

/// Saves what the poll acknowledges and what it sends, and encodes the answer.
fn answer(state: &AppState, client: Identity<'_>, after: Position, cursor: Cursor, page: &MailboxPage) -> String {
    let Identity { who, device, binding } = client;
    let acked = if after.seq > cursor.acked.seq { after } else { cursor.acked };
    if acked != cursor.acked {
        state.hub.acked(who, device, acked);
        state.ledger.log_delivery(who, device, DeliveryStep::Acked(acked.seq));
    }
    let sent = page.notices.last().map_or(0, |delivery| delivery.position.seq);
    state.hub.sent_by_poll(who, device, sent);
    let sent_by_others = state.ledger.save_cursor(client, Cursor { acked, sent_seq: cursor.sent_seq.max(sent) });
    if binding.is_bound() {
        // Only now that the name is taken: none comes after it.
        state.hub.end_unbound(who, device);
    }
    let sent_before = cursor.sent_seq.max(sent_by_others);
    let attempt = |seq: u64| if seq <= sent_before { 2 } else { 1 };
    let notices: Vec<_> =
        page.notices.iter().map(|delivery| (delivery.clone(), attempt(delivery.position.seq))).collect();
    // One step for all of one attempt: a client that polls the same page again and again writes little.
    for same in notices.chunk_by(|(_, one), (_, next)| one == next) {
        let seq_of = |at: Option<&(Delivery, u32)>| at.map_or(0, |(delivery, _)| delivery.position.seq);
        let attempt = same.first().map_or(1, |(_, attempt)| u8::try_from(*attempt).unwrap_or(u8::MAX));
        let (from, to) = (seq_of(same.first()), seq_of(same.last()));
        state.ledger.log_delivery(who, device, DeliveryStep::Sent { from, to, attempt });
    }
    state.stats.notices_polled.inc_by(notices.len() as u64);
    // Without a notice, the position is the end of the rows that were skipped: the next poll need not read them again.
    let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
    let interval = u64::try_from(state.limits().poll_interval.as_millis()).unwrap_or(60_000);
    let next_poll_ms = match page.has_more() {
        true => 0,
        // A stopping server answers waiting polls at once: their clients return after the restart, spread over time.
        false if state.is_draining() => u64::from(state.retry_ms()),
        false => interval,
    };
    encode_poll(&notices, position, page.head, next_poll_ms, state.freshness())
}
