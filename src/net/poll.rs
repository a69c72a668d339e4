//! `GET /v1/notices`: the same mailbox, read by asking.
//!
//! `after` is acknowledged and read from; without it the server's own cursor of the device is used. `wait` holds the answer until
//! something is there. Beside an open socket it moves the same cursor, so nothing is pushed that was polled.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response};
use orderbell_protocol::frame::encode_poll;
use orderbell_protocol::session::Standing;
use orderbell_protocol::{DeviceId, Id, Page, Position, Problem, ReadError, Recipient, Role};
use serde::Deserialize;

use super::reply::{self, Refusal};
use super::tokens::Principal;
use super::{Net, wall_clock};
use crate::ledger::Step;

/// The device of a poll that names none.
const DEVICE_DEFAULT: &str = "default";

#[derive(Deserialize)]
pub(crate) struct Asked {
    after: Option<String>,
    wait: Option<u64>,
    device: Option<String>,
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self(match error {
            ReadError::Epoch => Problem::epoch_changed(),
            ReadError::Gone => Problem::continuity_lost(),
            ReadError::Ledger(what) => {
                tracing::error!(what, "a mailbox cannot be read");
                Problem::unavailable("the ledger cannot be read", 5_000)
            }
        })
    }
}

/// The device that a request names in its query, or the one of requests that name none.
pub(crate) fn device_of(uri: &axum::http::Uri) -> Result<DeviceId, String> {
    let Query(asked) = Query::<Asked>::try_from_uri(uri).map_err(|_| String::from("the query cannot be read"))?;
    Id::new(asked.device.as_deref().unwrap_or(DEVICE_DEFAULT)).map_err(|error| error.to_string())
}

fn wrong(pointer: &str, reason: impl Into<String>) -> Refusal {
    Refusal(Problem::new(422, "invalid-field", "A parameter is wrong").error(pointer, reason))
}

pub(crate) async fn poll(
    State(net): State<Arc<Net>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Principal::Reader { who, device, .. } = reply::principal(&headers, &net.tokens())? else {
        return Err(Problem::not_found().into());
    };
    let Query(asked) = asked.map_err(|_| wrong("", "the query cannot be read"))?;
    let named = asked.device.as_deref().unwrap_or(DEVICE_DEFAULT);
    let device = match device {
        Some(device) => device,
        None => Id::new(named).map_err(|error| wrong("device", error.to_string()))?,
    };
    let (standing, _) = net.ledger.standing(&who, &device)?;
    let after = match &asked.after {
        Some(text) => text.parse::<Position>().map_err(|_| Refusal(Problem::epoch_changed()))?,
        None => standing.acked,
    };
    net.stats.polls.inc();
    if who.role == Role::Store && !who.shadow {
        net.hub.polled(&who, wall_clock());
    }
    let page = read(&net, &who, after, Duration::from_secs(asked.wait.unwrap_or(0)).min(net.limits().wait_max)).await?;
    // A long-poll may have waited: meanwhile the same device may have gone on over its socket.
    let (standing, _) = net.ledger.standing(&who, &device)?;
    Ok(reply::json(answer(&net, &who, &device, after, standing, &page)))
}

/// Reads; with nothing there, waits to be rung and reads again.
async fn read(net: &Arc<Net>, who: &Recipient, after: Position, wait: Duration) -> Result<Page, Refusal> {
    // A stretch of rows that ring nobody is passed over, a bounded piece at a time.
    let once = || {
        let mut page = net.ledger.read(who, after, after, net.limits().poll_max, wall_clock())?;
        while page.notices.is_empty() && page.more() {
            page = net.ledger.read(who, after, page.next, net.limits().poll_max, wall_clock())?;
        }
        Ok::<Page, ReadError>(page)
    };
    let page = once()?;
    if !page.notices.is_empty() || wait.is_zero() {
        return Ok(page);
    }
    // The seat is taken before the next look: what comes in between rings it.
    let full =
        |_| Refusal(Problem::new(429, "conn-limit", "Too many requests of this recipient wait").retry_after_ms(60_000));
    let seat = net.hub.listen(who).map_err(full)?;
    let until = tokio::time::Instant::now() + wait;
    loop {
        let page = once()?;
        if !page.notices.is_empty() {
            return Ok(page);
        }
        tokio::select! {
            biased;
            () = net.drain.cancelled() => return Ok(page),
            () = seat.rung() => {}
            () = tokio::time::sleep_until(until) => return Ok(page),
        }
    }
}

/// Notes what was acknowledged and what is sent, and tells the notices with their `attempt`.
fn answer(net: &Net, who: &Recipient, device: &DeviceId, after: Position, standing: Standing, page: &Page) -> String {
    let acked = if after.seq > standing.acked.seq { after } else { standing.acked };
    if acked != standing.acked {
        net.hub.acked(who, device, acked);
        net.ledger.tell(who, device, Step::Received(acked.seq));
    }
    let sent = page.notices.last().map_or(0, |delivery| delivery.position.seq);
    net.ledger.stand(who, device, Standing { acked, sent_seq: standing.sent_seq.max(sent) });
    let repeat = |seq: u64| if seq <= standing.sent_seq { 2 } else { 1 };
    let notices: Vec<_> =
        page.notices.iter().map(|delivery| (delivery.clone(), repeat(delivery.position.seq))).collect();
    for (delivery, attempt) in &notices {
        let (seq, attempt) = (delivery.position.seq, u8::try_from(*attempt).unwrap_or(u8::MAX));
        net.ledger.tell(who, device, Step::Sent { from: seq, to: seq, attempt });
    }
    net.stats.polled.inc_by(notices.len() as u64);
    // Rows behind the last notice that ring nobody are behind this reader, too: unless more is waiting, it may stand at their end.
    let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
    let interval = u64::try_from(net.limits().poll_interval.as_millis()).unwrap_or(60_000);
    let next_poll_ms = match page.more() {
        true => 0,
        // A server that stops lets those go that wait: back when the next one is there, each at a moment of its own.
        false if net.is_draining() => net.retry_ms(position.seq ^ acked.seq),
        false => interval,
    };
    encode_poll(&notices, position, page.head, next_poll_ms, net.fresh())
}
