//! HTTP responses: problem+json for errors, JSON, request bodies within bounds, and the principal of a request.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use orderbell_protocol::json::{WireDocument, encode};
use orderbell_protocol::problem::PROBLEM_JSON;
use orderbell_protocol::{Problem, ProblemCode};

use super::AppState;
use super::tokens::{InvalidToken, Principal};

/// A [`Problem`] as an HTTP response.
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// Problems of any request, and the reasons under which they are counted. Others are counted where they arise, or are mistakes of one client.
const LIMITS: [(ProblemCode, &str); 3] = [
    (ProblemCode::BadHost, "bad-host"),
    (ProblemCode::Timeout, "body-timeout"),
    (ProblemCode::TooLarge, "body-too-large"),
];

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.0.to_json()));
        *response.status_mut() = status;
        let passed = LIMITS.iter().find(|(code, _)| code.word() == self.0.code);
        if let Some((_, reason)) = passed {
            response.extensions_mut().insert(PassedLimit(reason));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(ms) = self.0.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        response
    }
}

/// On the answer to a request that passed a limit which every request has: the reason, for whoever counts those that are turned away.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassedLimit(pub(super) &'static str);

/// How much of a body that is too large is read and discarded, so that the client receives the 413: a client that is cut off while it sends
/// sees only a broken connection.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// Parts in which a body may come, besides one for each [`PART_BYTES`]: a network cuts a body, and not into single bytes.
const PARTS_MIN: usize = 4_096;
const PART_BYTES: usize = 256;

/// Time within which a body must have arrived: a client that sends a byte now and then must not hold a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a request's body of at most `max` bytes.
pub(crate) async fn body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let timed_out = |_| Problem::new(ProblemCode::Timeout);
    tokio::time::timeout(BODY_TIMEOUT, read(body, max)).await.map_err(timed_out)?
}

async fn read(mut body: Body, max: usize) -> Result<Bytes, Refusal> {
    let (mut read, mut bytes) = (0, BytesMut::new());
    let mut parts_left = PARTS_MIN + max / PART_BYTES;
    while let Some(frame) = body.frame().await {
        // Each part costs as much as many bytes: of a body in single bytes no more is read, and its rest is not discarded.
        let Some(left) = parts_left.checked_sub(1) else {
            return Err(Problem::new(ProblemCode::TooLarge).detail("in fewer and larger chunks").into());
        };
        parts_left = left;
        let incomplete = |_| Problem::new(ProblemCode::MalformedBody).detail("it ended early");
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
    Err(Problem::new(ProblemCode::TooLarge).detail(format!("at most {max} bytes")).into())
}

/// A type of the wire model as JSON.
pub(crate) fn answer<T: WireDocument>(answer: &T) -> Response<Body> {
    json(encode(answer))
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
    Refusal(Problem::new(ProblemCode::MethodNotAllowed))
}

/// For an address whose GET has effects: a HEAD must have none.
pub(crate) async fn only_get() -> Response<Body> {
    let mut response = method_not_allowed().await.into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

/// The refusals of the framework (an address or a query that does not decode, a method) in the form of all others.
pub(crate) async fn only_problems(response: Response<Body>) -> Response<Body> {
    let media = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let status = response.status();
    if !status.is_client_error() || media.is_some_and(|media| !media.starts_with(b"text/plain")) {
        return response;
    }
    let problem = match status {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(ProblemCode::MethodNotAllowed),
        _ => Problem::new(ProblemCode::InvalidParameter).detail("the address or its query cannot be decoded"),
    };
    let mut refusal = Refusal(problem).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        refusal.headers_mut().insert(header::ALLOW, allow.clone());
    }
    refusal
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The principal of a request, by its bearer token. Who is turned away is recorded.
pub(crate) fn principal(headers: &HeaderMap, state: &AppState) -> Result<Principal, Refusal> {
    let checked = bearer(headers).ok_or_else(|| InvalidToken::from("token-missing"));
    let refused = |invalid| Refusal(state.refuse_token(&invalid));
    checked.and_then(|token| state.principal_of(token)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body in so many parts of so many bytes, and how many were taken of it.
    fn in_parts(parts: usize, bytes: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::<AtomicUsize>::default();
        let (count, part) = (taken.clone(), Bytes::from(vec![b' '; bytes]));
        let parts = futures_util::stream::iter((0..parts).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(part.clone())
        }));
        (Body::from_stream(parts), taken)
    }

    async fn status(body: Body, max: usize) -> u16 {
        body_status(super::body(body, max).await)
    }

    fn body_status(read: Result<Bytes, Refusal>) -> u16 {
        read.map_or_else(|refusal| refusal.0.status, |_| 200)
    }

    #[tokio::test]
    async fn of_a_body_in_single_bytes_no_more_is_read_than_of_one_that_a_network_cuts() {
        const MAX: usize = 1 << 20;
        let parts_max = PARTS_MIN + MAX / PART_BYTES;
        let (body, taken) = in_parts(10 * MAX, 1);
        assert_eq!((status(body, MAX).await, taken.load(Ordering::Relaxed)), (413, parts_max + 1));
        assert_eq!(status(in_parts(parts_max, 1).0, MAX).await, 200, "the limit");
        assert_eq!(status(in_parts(parts_max + 1, 1).0, MAX).await, 413, "one above");
        assert_eq!(status(in_parts(MAX / 536, 536).0, MAX).await, 200, "in the smallest packets of TCP");
        // What is too large is read on for a while, so that its sender hears why it is refused.
        let (body, taken) = in_parts(2, MAX);
        assert_eq!((status(body, MAX).await, taken.load(Ordering::Relaxed)), (413, 2));
    }
}
