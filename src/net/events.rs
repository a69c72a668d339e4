//! `POST /v1/events`: for producers without a Kafka client, and for tills and phones without a WebSocket. Answered when durable, idempotent by
//! event id. Events go into the embedded stream or, with Kafka, through the outbox to the output topic.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Response, header};
use futures_util::future::join_all;
use orderbell_protocol::frame::{CLIENT_FRAME_BYTES_MAX, EventsAnswer};
use orderbell_protocol::{ClientEvent, DeviceId, EventResult, EventStatus, Problem, Recipient};
use serde::Deserialize;

use super::response::{self, Refusal};
use super::tokens::Principal;
use super::{AppState, poll};
use orderbell_ledger::Appended;

/// What the headers of a CloudEvent in binary mode begin with.
const ATTRIBUTE_PREFIX: &str = "ce-";
/// Largest body: twice the size of a batch of a thousand usual events.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(ClientEvent),
    Many(Vec<ClientEvent>),
}

pub(crate) async fn append(State(state): State<Arc<AppState>>, request: Request) -> Result<Response<Body>, Refusal> {
    let principal = response::principal(request.headers(), &state)?;
    check_encoding(request.headers())?;
    match principal {
        Principal::Producer => append_produced(&state, request).await,
        Principal::Reader { who, device, .. } => append_client_events(&state, &who, device, request).await,
        Principal::Viewer { .. } => Err(Problem::not_found().into()),
    }
}

/// Bodies are small, and a compressed one may be of any size when it is read: it is refused, with what to do.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    let encoding = String::from_utf8_lossy(encoding.as_bytes()).to_ascii_lowercase();
    if matches!(encoding.trim(), "" | "identity") {
        return Ok(());
    }
    let named: String = encoding.chars().filter(char::is_ascii_graphic).take(20).collect();
    Err(Problem::new(415, "unsupported-media-type", "The body must not be compressed")
        .detail(format!("Content-Encoding is {named}: send the JSON as it is")))
}

/// Events of a till or a phone without a WebSocket: the same as in `event` frames, each with its own answer.
async fn append_client_events(
    state: &Arc<AppState>,
    who: &Recipient,
    device: Option<DeviceId>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let invalid = |pointer: &str, reason: String| {
        Refusal(Problem::new(422, "invalid-field", "An event is invalid").error(pointer, reason))
    };
    let device = match device {
        Some(device) => device,
        None => poll::device_of(request.uri()).map_err(|reason| poll::invalid_parameter("device", reason))?,
    };
    let body_max = CLIENT_FRAME_BYTES_MAX * usize::from(state.limits().session.max_pending_events);
    let body = response::body(request.into_body(), body_max).await?;
    let events: OneOrMany = serde_json::from_slice(&body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            return invalid("", format!("not an event or a list of events ({place})"));
        }
        Refusal(Problem::new(400, "malformed-json", "The body is not JSON").detail(place))
    })?;
    let events = match events {
        OneOrMany::One(event) => vec![event],
        OneOrMany::Many(events) => events,
    };
    if events.is_empty() || events.len() > usize::from(state.limits().session.max_pending_events) {
        return Err(invalid("", format!("1 to {} events", state.limits().session.max_pending_events)));
    }
    // Appended in their order; all are in flight together, so that the ledger can write them in one batch.
    let verdicts = join_all(events.iter().map(|event| state.publish_client_event(who, &device, event))).await;
    let results = events.into_iter().zip(verdicts).map(|(event, verdict)| verdict.into_result(event.id));
    Ok(response::answer(&EventsAnswer { events: results.collect() }))
}

/// Events of a producer: all are taken or none.
async fn append_produced(state: &Arc<AppState>, request: Request) -> Result<Response<Body>, Refusal> {
    let media = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let named = |name: &HeaderName| name.as_str().starts_with(ATTRIBUTE_PREFIX);
    let attributes = request.headers().iter().filter(|(name, _)| named(name));
    let attributes: Vec<(String, String)> = attributes
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let body = response::body(request.into_body(), BODY_BYTES_MAX).await?;
    let events = state.orders.decode_events(&media, &attributes, &body)?;
    if state.ledger.is_disk_low() {
        return Err(Problem::unavailable("the ledger's disk has too little free space", 10_000).into());
    }
    let (ids, events): (Vec<String>, Vec<Option<_>>) = events.into_iter().unzip();
    let is_new: Vec<bool> = events.iter().map(Option::is_some).collect();
    let appended = state.ledger.append(events.into_iter().flatten().collect()).await;
    let appended = appended.map_err(|_| Problem::unavailable("the ledger cannot write", 5_000))?;
    state.stats.events_posted.inc_by(appended.len() as u64);
    // One entry for each event of the request, none for an ignored one: it was not appended.
    let mut appended = appended.into_iter();
    let appended: Vec<_> = is_new.into_iter().map(|is_new| if is_new { appended.next() } else { None }).collect();
    if appended.contains(&Some(Appended::Conflict)) {
        let mut problem =
            Problem::new(409, "event-conflict", "Another event of this type has this id; the other events were stored");
        for (at, _) in appended.iter().enumerate().filter(|(_, appended)| **appended == Some(Appended::Conflict)) {
            problem = problem.error(format!("/{at}/id"), "another event of this type was stored with this id");
        }
        return Err(problem.into());
    }
    let result = |(id, appended): (String, Option<Appended>)| EventResult {
        id,
        status: match appended {
            Some(Appended::Stored) => EventStatus::Stored,
            Some(Appended::Duplicate | Appended::Conflict) => EventStatus::Duplicate,
            None => EventStatus::Ignored,
        },
        reason: None,
    };
    Ok(response::answer(&EventsAnswer { events: ids.into_iter().zip(appended).map(result).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_body_is_refused_with_what_to_do() {
        let check = |encoding: &'static str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            check_encoding(&headers).map_err(|problem| (problem.status, problem.detail))
        };
        let refused = |name: &str| Err((415, format!("Content-Encoding is {name}: send the JSON as it is")));
        assert_eq!((check("GZip"), check("gzip, br")), (refused("gzip"), refused("gzip,br")));
        assert_eq!((check("identity"), check_encoding(&HeaderMap::new()).is_ok()), (Ok(()), true));
    }
}
