//! HTTP responses: problem+json for errors, JSON, request bodies within bounds, and the principal of a request.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use orderbell_protocol::Problem;
use orderbell_protocol::problem::PROBLEM_JSON;
use serde::Serialize;

use super::AppState;
use super::tokens::{InvalidToken, Principal};

/// A [`Problem`] as an HTTP response.
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.0.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(ms) = self.0.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        response
    }
}

/// How much of a body that is too large is read and discarded, so that the client receives the 413: a client that is cut off while it sends
/// sees only a broken connection.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// Time within which a body must have arrived: a client that sends a byte now and then must not hold a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a request's body of at most `max` bytes.
pub(crate) async fn body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let timed_out = |_| Problem::new(408, "timeout", "The body did not arrive in time");
    tokio::time::timeout(BODY_TIMEOUT, read(body, max)).await.map_err(timed_out)?
}

async fn read(mut body: Body, max: usize) -> Result<Bytes, Refusal> {
    let (mut read, mut bytes) = (0, BytesMut::new());
    while let Some(frame) = body.frame().await {
        let incomplete = |_| Problem::new(400, "malformed-body", "The body ended early");
        let Ok(data) = frame.map_err(incomplete)?.into_data() else { continue };
        read += data.len();
        if read <= max {
            bytes.extend_from_slice(&data);
        } else if read > max + DISCARD_BYTES_MAX {
            break;
        }
    }
    if read <= max {
        return Ok(bytes.freeze());
    }
    Err(Problem::new(413, "too-large", "The body is too large").detail(format!("at most {max} bytes")).into())
}

/// A type of the wire model as JSON.
pub(crate) fn answer<T: Serialize>(answer: &T) -> Response<Body> {
    json(orderbell_protocol::json::encode(answer))
}

/// JSON that no cache may store.
pub(crate) fn json(text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) async fn not_found() -> Refusal {
    Refusal(Problem::not_found())
}

pub(crate) async fn method_not_allowed() -> Refusal {
    Refusal(Problem::new(405, "method-not-allowed", "This address does not support the method"))
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The principal of a request, by its bearer token. Who is turned away is recorded.
pub(crate) fn principal(headers: &HeaderMap, state: &AppState) -> Result<Principal, Refusal> {
    let checked = bearer(headers).ok_or_else(|| InvalidToken::from("token-missing"));
    checked.and_then(|token| state.tokens().check(token)).map_err(|InvalidToken { reason, who }| {
        state.stats.rejections.record(reason, who.as_ref());
        Refusal(Problem::unauthorized())
    })
}
