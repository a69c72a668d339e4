//! `POST /v1/events`: events for producers without a Kafka client. Answered when durable, idempotent by event id. They go into the embedded
//! stream, or, on Kafka, through the outbox to the output topic.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, header};
use futures_util::future::join_all;
use orderbell_protocol::frame::CLIENT_FRAME_BYTES_MAX;
use orderbell_protocol::session::Verdict;
use orderbell_protocol::{ClientEvent, DeviceId, Problem, Recipient};
use serde::{Deserialize, Serialize};

use super::reply::{self, Refusal};
use super::tokens::Principal;
use super::{Net, poll};
use crate::ledger::Appended;

/// Largest body. A batch of a thousand usual events has half of it.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Told {
    id: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(ClientEvent),
    Many(Vec<ClientEvent>),
}

pub(crate) async fn append(State(net): State<Arc<Net>>, request: Request) -> Result<Response<Body>, Refusal> {
    match reply::principal(request.headers(), &net.tokens())? {
        Principal::Producer => produced(&net, request).await,
        Principal::Reader { who, device, .. } => said(&net, &who, device, request).await,
        Principal::Viewer { .. } => Err(Problem::not_found().into()),
    }
}

/// What a till or a phone without a socket says: the same events as in frames, answered one by one.
async fn said(
    net: &Arc<Net>,
    who: &Recipient,
    device: Option<DeviceId>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let wrong = |pointer: &str, reason: String| {
        Refusal(Problem::new(422, "invalid-field", "An event cannot be understood").error(pointer, reason))
    };
    let device = match device {
        Some(device) => device,
        None => poll::device_of(request.uri()).map_err(|reason| wrong("device", reason))?,
    };
    let body_max = CLIENT_FRAME_BYTES_MAX * usize::from(net.limits().session.events_max);
    let body = reply::body(request.into_body(), body_max).await?;
    let events: OneOrMany = serde_json::from_slice(&body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            return wrong("", format!("not an event or a list of them ({place})"));
        }
        Refusal(Problem::new(400, "malformed-json", "The body is not JSON").detail(place))
    })?;
    let events = match events {
        OneOrMany::One(event) => vec![event],
        OneOrMany::Many(events) => events,
    };
    if events.is_empty() || events.len() > usize::from(net.limits().session.events_max) {
        return Err(wrong("", format!("1 to {} events", net.limits().session.events_max)));
    }
    // In their order, and in as few batches as the ledger makes of them.
    let answers = join_all(events.iter().map(|event| net.said(who, &device, event))).await;
    let told = |(event, answer): (ClientEvent, Verdict)| {
        let (status, reason) = answer.words();
        Told { id: event.id, status, reason }
    };
    let told: Vec<Told> = events.into_iter().zip(answers).map(told).collect();
    Ok(reply::json(serde_json::json!({ "events": told }).to_string()))
}

async fn produced(net: &Arc<Net>, request: Request) -> Result<Response<Body>, Refusal> {
    let media = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = reply::body(request.into_body(), BODY_BYTES_MAX).await?;
    let events = (net.rules.door)(&media, &body)?;
    if net.ledger.is_full() {
        return Err(Problem::unavailable("there is too little free space on the ledger's disk", 10_000).into());
    }
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
        reason: None,
    };
    let told: Vec<Told> = ids.into_iter().zip(appended).map(told).collect();
    Ok(reply::json(serde_json::json!({ "events": told }).to_string()))
}
