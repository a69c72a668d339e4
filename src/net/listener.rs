//! Accepts connections: bounded in their number, and in the size and the duration of a request's head. Never spins on a failing accept.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use orderbell_protocol::problem::PROBLEM_JSON;
use orderbell_protocol::{Problem, ProblemCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::NetStats;
use super::placed_stream::{AnswerTimeout, PlacedStream};
use super::places::{Admission, ConnectionPlace, NoPlace, PlaceLimits, Places};
use super::response::{PassedLimit, Refusal};

/// Largest size of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest number of headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a connection may last after the drain began: waiting polls are answered at once, and a client that has not read its response by
/// then is cut off.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// TCP_USER_TIMEOUT: the kernel ends a connection whose sent data was not acknowledged for this long. Above the idle timeout of a session
/// (70 s), so that a session ends by its own rule first.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause after a failed accept, which is most likely a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two log lines about failed accepts.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Connections that are answered 503 at the same time. More are closed without an answer: they must not use up the descriptors that are kept back.
const REJECTIONS_MAX: usize = 64;

/// What a listener serves, and how much of it at once.
#[derive(Clone)]
pub struct Listening {
    /// Of the public or the admin listener.
    pub routes: Router,
    /// Its connections and requests.
    pub places: PlaceLimits,
    /// Paths whose requests always have a place: what says whether the server is alive.
    pub always_served: &'static [&'static str],
    /// Time within which the head of a request must have arrived.
    pub head_timeout: Duration,
    /// Counts who was turned away, or lost its place to another, by reason.
    pub stats: Arc<NetStats>,
}

/// Accepts connections and serves them until `drain` is cancelled. Each connection is a task of `tasks`.
pub async fn serve(listener: TcpListener, listening: Listening, tasks: TaskTracker, drain: CancellationToken) {
    let places = Places::new(listening.places);
    let (rejections, listening) = (Arc::new(Semaphore::new(REJECTIONS_MAX)), Arc::new(listening));
    let mut warned_at: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                listening.stats.rejections.record("accept-failed", None);
                if warned_at.is_none_or(|at| at.elapsed() >= ACCEPT_WARN_INTERVAL) {
                    warned_at = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(entered) = enter(&places, &drain).await else { return };
        let Ok((place, has_ended_another)) = entered else {
            listening.stats.record_full("too-many-requests");
            if let Ok(permit) = rejections.clone().try_acquire_owned() {
                tasks.spawn(async move {
                    reject_overloaded(stream).await;
                    drop(permit);
                });
            }
            continue;
        };
        if has_ended_another {
            listening.stats.record_full("place-taken");
        }
        tasks.spawn(serve_connection(stream, listening.clone(), Arc::new(place), drain.clone()));
    }
}

/// A place for a connection, for which another may have to leave first. None when the drain began meanwhile: nobody new is served.
async fn enter(places: &Places, drain: &CancellationToken) -> Option<Result<(ConnectionPlace, bool), NoPlace>> {
    tokio::select! {
        biased;
        () = drain.cancelled() => None,
        entered = places.enter() => Some(entered),
    }
}

/// Answers 503 and closes, without reading the request.
async fn reject_overloaded(mut stream: TcpStream) {
    let body = Problem::too_many_requests("too many connections", 5_000).to_json();
    let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5";
    let text = format!("{head}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answered = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    let _best_effort = tokio::time::timeout(Duration::from_secs(1), answered).await;
}

/// Serves one request, if there is a place for it.
async fn serve_request(
    connection: Arc<ConnectionPlace>,
    listening: Arc<Listening>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let is_always_served = listening.always_served.contains(&request.uri().path());
    let place = match connection.begin(is_always_served).await {
        Admission::Served(place) => place,
        Admission::Refused(place) => {
            listening.stats.record_full("too-many-requests");
            let refusal = Refusal(Problem::too_many_requests("too many requests", 5_000)).into_response();
            return Ok(refusal.map(|body| place.until_taken(body)));
        }
        // The connection ends before this is polled again.
        Admission::Lost => std::future::pending().await,
    };
    // RFC 9112: what two parties between us and the client may read differently is refused. Load balancers check without a name whether the
    // server lives.
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let is_unnamed = hosts == 0 && request.version() == Version::HTTP_11 && !is_always_served;
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = if hosts > 1 || is_unnamed {
        Refusal(Problem::new(ProblemCode::BadHost)).into_response()
    } else {
        request.extensions_mut().insert(place.clone());
        TowerToHyperService::new(listening.routes.clone()).call(request).await?
    };
    if let Some(PassedLimit(reason)) = response.extensions().get() {
        listening.stats.rejections.record(reason, None);
    }
    // RFC 9112, 6.1: whoever reads the Content-Length that such a request may have as well sees its end elsewhere. hyper takes that header out, so
    // the rest is not read as a request whether there was one or not.
    if is_chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| place.until_taken(body)))
}

/// Why a connection was ended that did not keep to its limits. None when its client left, or was kept open and sent no further request.
fn reason_of(error: &hyper::Error, is_kept_open: bool) -> Option<&'static str> {
    match error {
        _ if AnswerTimeout::is_cause_of(error) => Some("answer-timeout"),
        _ if error.is_parse_too_large() => Some("head-too-large"),
        _ if error.is_parse() => Some("bad-head"),
        _ if error.is_timeout() && !is_kept_open => Some("head-timeout"),
        _ => None,
    }
}

async fn serve_connection(
    stream: TcpStream,
    listening: Arc<Listening>,
    place: Arc<ConnectionPlace>,
    drain: CancellationToken,
) {
    // Notices are small and must not wait for the next packet (Nagle).
    let _best_effort = stream.set_nodelay(true);
    // Enforced by the kernel, whoever reads or writes the connection: a peer that reads nothing does not hold a permit for ever.
    let timeout_ms = u32::try_from(TCP_USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let _best_effort = rustix::net::sockopt::set_tcp_user_timeout(&stream, timeout_ms);
    serve_stream(stream, listening, place, drain).await;
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    listening: Arc<Listening>,
    place: Arc<ConnectionPlace>,
    drain: CancellationToken,
) {
    let stream = PlacedStream::new(stream, Arc::downgrade(&place));
    let (head_timeout, of_requests, stats) = (listening.head_timeout, place.clone(), listening.stats.clone());
    let service = service_fn(move |request| serve_request(of_requests.clone(), listening.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended: Result<(), hyper::Error> = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.lost() => return,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        if let Some(reason) = reason_of(&error, place.is_kept_open()) {
            stats.rejections.record(reason, None);
        }
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
