//! `POST /v1/events`: for producers without a Kafka client, and for tills and phones without a WebSocket. Answered when durable, idempotent by
//! event id. Events go into the embedded stream or, with Kafka, through the outbox to the output topic.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Response, header};
use futures_util::future::join_all;
use orderbell_protocol::frame::{CLIENT_FRAME_BYTES_MAX, EventsAnswer};
use orderbell_protocol::{ClientEvent, DeviceId, EventResult, EventStatus, Problem, ProblemCode, Recipient};
use serde::Deserialize;

use super::content_encoding::{self, ContentEncoding};
use super::identity_rates::Identity;
use super::response::{self, Refusal};
use super::tokens::Principal;
use super::{AppState, Blocking, poll};
use orderbell_ledger::{Appended, DeviceBinding};

/// What the headers of a CloudEvent in binary mode begin with.
const ATTRIBUTE_PREFIX: &str = "ce-";
/// Headers that are never part of an event, whatever the mapping names: an event is stored and shown.
const SECRET_HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];
/// Largest body: twice the size of a batch of a thousand usual events.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Largest body that is decoded where it was read, which takes about a millisecond. A larger one would hold up other connections.
const DECODED_HERE_MAX: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(ClientEvent),
    Many(Vec<ClientEvent>),
}

pub(crate) async fn append(State(state): State<Arc<AppState>>, request: Request) -> Result<Response<Body>, Refusal> {
    let principal = response::principal(request.headers(), &state)?;
    let encoding = match ContentEncoding::of(request.headers()) {
        Ok(encoding) => encoding,
        Err(problem) => return Ok(content_encoding::refuse(problem)),
    };
    match principal {
        Principal::Producer => {
            let _at_work = state.begin_producer_post(request.extensions().get())?;
            append_produced(&state, encoding, request).await
        }
        Principal::Reader { who, device, .. } => {
            // Before the body is read: a body that comes slowly is bounded, too.
            let binding = DeviceBinding::of_token(device.as_ref());
            let _at_work = state.begin_client_post(&who, binding, request.extensions().get())?;
            append_client_events(&state, &who, device, encoding, request).await
        }
        Principal::Viewer { .. } => Err(Problem::not_found().into()),
    }
}

/// Events of a till or a phone without a WebSocket: the same as in `event` frames, each with its own answer.
async fn append_client_events(
    state: &Arc<AppState>,
    who: &Recipient,
    device: Option<DeviceId>,
    encoding: ContentEncoding,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let invalid =
        |pointer: &str, reason: String| Refusal(Problem::new(ProblemCode::InvalidField).error(pointer, reason));
    let binding = DeviceBinding::of_token(device.as_ref());
    let device = match device {
        Some(device) => device,
        None => poll::device_of(request.uri())?,
    };
    let body_max = CLIENT_FRAME_BYTES_MAX * usize::from(state.limits().session.max_pending_events);
    let body = encoding.read(request.into_body(), body_max).await?;
    let events: OneOrMany = serde_json::from_slice(&body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            return invalid("", format!("not an event or a list of events ({place})"));
        }
        Refusal(Problem::new(ProblemCode::MalformedJson).detail(place))
    })?;
    let events = match events {
        OneOrMany::One(event) => vec![event],
        OneOrMany::Many(events) => events,
    };
    if events.is_empty() || events.len() > usize::from(state.limits().session.max_pending_events) {
        return Err(invalid("", format!("1 to {} events", state.limits().session.max_pending_events)));
    }
    let client = Identity { who, device: &device, binding };
    state.admit_events(client, events.len())?;
    state.check_name(client)?;
    // Appended in their order; all are in flight together, so that the ledger can write them in one batch.
    let verdicts = join_all(events.iter().map(|event| state.publish_client_event(who, &device, event))).await;
    let results = events.into_iter().zip(verdicts).map(|(event, verdict)| verdict.into_result(event.id));
    Ok(response::answer(&EventsAnswer { events: results.collect() }))
}

fn disk_low() -> Refusal {
    Problem::unavailable("the ledger's disk has too little free space", 10_000).into()
}

/// Events of a producer: all are taken or none.
async fn append_produced(
    state: &Arc<AppState>,
    encoding: ContentEncoding,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let media = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let is_read = |name: &HeaderName| {
        let may_be_read = !SECRET_HEADERS.contains(&name.as_str()) && state.orders.reads_header(name.as_str());
        may_be_read || name.as_str().starts_with(ATTRIBUTE_PREFIX)
    };
    let headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .filter(|(name, _)| is_read(name))
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let body = encoding.read(request.into_body(), BODY_BYTES_MAX).await?;
    let events = if body.len() > DECODED_HERE_MAX {
        let orders = Blocking::new(state.orders.clone());
        orders.run(move |orders| orders.decode_events(&media, &headers, &body)).await?
    } else {
        state.orders.decode_events(&media, &headers, &body)
    };
    let events = events?;
    if state.ledger.is_disk_low() {
        return Err(disk_low());
    }
    let (ids, events): (Vec<String>, Vec<Option<_>>) = events.into_iter().unzip();
    let is_new: Vec<bool> = events.iter().map(Option::is_some).collect();
    let appended = state.ledger.append(events.into_iter().flatten().collect()).await;
    let appended = appended.map_err(|_| Problem::unavailable("the ledger cannot write", 5_000))?;
    state.stats.events_posted.inc_by(appended.len() as u64);
    // One entry for each event of the request, none for an ignored one: it was not appended.
    let mut appended = appended.into_iter();
    let appended: Vec<_> = is_new.into_iter().map(|is_new| if is_new { appended.next() } else { None }).collect();
    if appended.contains(&Some(Appended::DiskLow)) {
        return Err(disk_low());
    }
    if appended.contains(&Some(Appended::Conflict)) {
        let mut problem = Problem::new(ProblemCode::EventConflict);
        for (at, _) in appended.iter().enumerate().filter(|(_, appended)| **appended == Some(Appended::Conflict)) {
            problem = problem.error(format!("/{at}/id"), "another event of this type was stored with this id");
        }
        return Err(problem.into());
    }
    let result = |(id, appended): (String, Option<Appended>)| EventResult {
        id,
        status: match appended {
            Some(Appended::Stored) => EventStatus::Stored,
            Some(Appended::Duplicate | Appended::Conflict | Appended::DiskLow) => EventStatus::Duplicate,
            None => EventStatus::Ignored,
        },
        reason: None,
    };
    Ok(response::answer(&EventsAnswer { events: ids.into_iter().zip(appended).map(result).collect() }))
}
