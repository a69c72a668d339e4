//! `GET /v1/notices`: poll and long-poll of a mailbox.
//!
//! `after` acknowledges everything up to that position, and reading continues from it; without `after` the server uses the device's cursor.
//! `wait` delays the answer until a notice exists. A poll moves the same cursor as a session of the same device, so the session does not push
//! what was polled.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::frame::encode_poll;
use orderbell_protocol::session::Cursor;
use orderbell_protocol::{DeviceId, Id, MailboxPage, Position, Problem, ReadError, Recipient, Role};
use serde::Deserialize;

use super::AppState;
use super::response::{self, Refusal};
use super::tokens::Principal;
use crate::clock::wall_clock;
use orderbell_ledger::DeliveryStep;

/// The device of a request that names none.
const DEVICE_DEFAULT: &str = "default";

#[derive(Deserialize)]
pub(crate) struct PollQuery {
    after: Option<String>,
    wait: Option<u64>,
    device: Option<String>,
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

/// The device that a request names in its query, or the default device.
pub(crate) fn device_of(uri: &axum::http::Uri) -> Result<DeviceId, String> {
    let Query(query) =
        Query::<PollQuery>::try_from_uri(uri).map_err(|_| String::from("the query cannot be decoded"))?;
    Id::parse(query.device.as_deref().unwrap_or(DEVICE_DEFAULT)).map_err(|error| error.to_string())
}

pub(crate) fn invalid_parameter(pointer: &str, reason: impl Into<String>) -> Refusal {
    Refusal(Problem::new(422, "invalid-parameter", "A parameter is invalid").error(pointer, reason))
}

pub(crate) async fn poll(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    query: Result<Query<PollQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, device, .. } = response::principal(&headers, &state)? else {
        return Err(state.wrong_role());
    };
    let Query(query) = query.map_err(|_| invalid_parameter("", "the query cannot be decoded"))?;
    let named = query.device.as_deref().unwrap_or(DEVICE_DEFAULT);
    let device = match device {
        Some(device) => device,
        None => Id::parse(named).map_err(|error| invalid_parameter("device", error.to_string()))?,
    };
    let (cursor, _) = state.ledger.cursor_and_head(&who, &device)?;
    let after = match &query.after {
        Some(text) => text.parse::<Position>().map_err(|_| Refusal(Problem::epoch_changed()))?,
        None => cursor.acked,
    };
    state.stats.polls.inc();
    if who.role == Role::Store && !who.shadow {
        state.hub.record_poll(&who, wall_clock());
    }
    let wait = Duration::from_secs(query.wait.unwrap_or(0)).min(state.limits().max_poll_wait);
    let page = read(&state, &who, after, wait).await?;
    // The cursor again: while a long-poll waited, a session of the same device may have moved it.
    let (cursor, _) = state.ledger.cursor_and_head(&who, &device)?;
    let text = answer(&state, &who, &device, after, cursor, &page);
    // Durable before it goes out: after a kill -9 these notices are marked as those that the device may have.
    if !page.notices.is_empty() && state.ledger.cursors_durable().await.is_err() {
        return Err(Problem::unavailable("the ledger cannot be written", 5_000).into());
    }
    Ok(response::json(text))
}

/// Reads the mailbox; without a notice, waits for wake-ups and reads again, at most for `wait`.
async fn read(state: &Arc<AppState>, who: &Recipient, after: Position, wait: Duration) -> Result<MailboxPage, Refusal> {
    // Rows that need no delivery (superseded, expired) are skipped, a bounded number at a time.
    let once = || {
        let mut page = state.ledger.read(who, after, after, state.limits().max_poll_notices, wall_clock())?;
        while page.notices.is_empty() && page.has_more() {
            page = state.ledger.read(who, after, page.next, state.limits().max_poll_notices, wall_clock())?;
        }
        Ok::<MailboxPage, ReadError>(page)
    };
    let page = once()?;
    if !page.notices.is_empty() || wait.is_zero() {
        return Ok(page);
    }
    let too_many = |_| {
        state.stats.rejections.record("too-many-connections", Some(who));
        let problem = Problem::new(429, "too-many-connections", "Too many requests of this recipient are waiting");
        Refusal(problem.retry_after_ms(60_000))
    };
    // Subscribed before the next read: a notice that is stored in between wakes this poll.
    let subscriber = state.hub.wait(who).map_err(too_many)?;
    let until = tokio::time::Instant::now() + wait;
    loop {
        let page = once()?;
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

/// Saves what the poll acknowledges and what it sends, and encodes the answer.
fn answer(
    state: &AppState,
    who: &Recipient,
    device: &DeviceId,
    after: Position,
    cursor: Cursor,
    page: &MailboxPage,
) -> String {
    let acked = if after.seq > cursor.acked.seq { after } else { cursor.acked };
    if acked != cursor.acked {
        state.hub.acked(who, device, acked);
        state.ledger.log_delivery(who, device, DeliveryStep::Acked(acked.seq));
    }
    let sent = page.notices.last().map_or(0, |delivery| delivery.position.seq);
    state.hub.sent_by_poll(who, device, sent);
    let sent_by_others = state.ledger.save_cursor(who, device, Cursor { acked, sent_seq: cursor.sent_seq.max(sent) });
    let sent_before = cursor.sent_seq.max(sent_by_others);
    let attempt = |seq: u64| if seq <= sent_before { 2 } else { 1 };
    let notices: Vec<_> =
        page.notices.iter().map(|delivery| (delivery.clone(), attempt(delivery.position.seq))).collect();
    for (delivery, attempt) in &notices {
        let (seq, attempt) = (delivery.position.seq, u8::try_from(*attempt).unwrap_or(u8::MAX));
        state.ledger.log_delivery(who, device, DeliveryStep::Sent { from: seq, to: seq, attempt });
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
