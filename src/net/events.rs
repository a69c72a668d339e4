//! `POST /v1/events`: events for producers without a Kafka client. Answered when durable, idempotent by event id.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, header};
use orderbell_protocol::Problem;
use serde::Serialize;

use super::Net;
use super::reply::{self, Refusal};
use super::tokens::Principal;
use crate::ledger::Appended;

/// Largest body. A batch of a thousand usual events has half of it.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Told {
    id: String,
    status: &'static str,
}

pub(crate) async fn append(State(net): State<Arc<Net>>, request: Request) -> Result<Response<Body>, Refusal> {
    let Principal::Producer = reply::principal(request.headers(), &net.tokens)? else {
        return Err(Problem::new(403, "forbidden", "This token may not post events").into());
    };
    let Some(door) = net.door.clone() else {
        return Err(Problem::not_found().detail("this server reads its events from Kafka").into());
    };
    let media = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let too_large = |_| {
        Refusal(
            Problem::new(413, "too-large", "The body is too large").detail(format!("at most {BODY_BYTES_MAX} bytes")),
        )
    };
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(too_large)?;
    let events = door(&media, &body)?;
    let (ids, events): (Vec<String>, Vec<_>) = events.into_iter().unzip();
    let appended =
        net.ledger.append(events).await.map_err(|_| Problem::unavailable("the ledger does not write", 5_000))?;
    net.stats.events_posted.inc_by(appended.len() as u64);
    if appended.contains(&Appended::Conflict) {
        let mut problem = Problem::new(409, "event-conflict", "Another event has this id; the others are logged");
        for (at, _) in appended.iter().enumerate().filter(|(_, appended)| **appended == Appended::Conflict) {
            problem = problem.error(format!("/{at}/id"), "another event was logged with this id");
        }
        return Err(problem.into());
    }
    let told = |(id, appended): (String, Appended)| Told {
        id,
        status: if appended == Appended::Logged { "logged" } else { "duplicate" },
    };
    let told: Vec<Told> = ids.into_iter().zip(appended).map(told).collect();
    Ok(reply::json(serde_json::json!({ "events": told }).to_string()))
}
