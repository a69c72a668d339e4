//! `GET /v1/wall`: the chain's live numbers for screens. One address, three transports: a single JSON response, server-sent events, a WebSocket.
//!
//! A viewer is given the latest document when it can take one, and not more often than it asked for: nothing queues for a slow viewer. Each
//! document is encoded once for all viewers. A wall token gives access to the wall only; with `wall.open` no token is needed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, header};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use orderbell_protocol::wall::WALL_SUBPROTOCOL;
use orderbell_protocol::{ClientFrame, Close, Id, Problem, UnixMs};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::connection::close_for;
use super::frame_meter::FrameMeter;
use super::places::RequestPlace;
use super::response::{self, Refusal};
use super::tokens::{InvalidToken, Principal};
use super::viewers::{NoPlace, ViewerPlace};
use super::{AppState, poll, upgrade};
use crate::clock::wall_clock;
use crate::wall::{EncodedWall, UPDATE_INTERVAL_MIN};

/// Longest interval that a viewer may ask for: below the idle time after which proxies end a silent response.
const UPDATE_INTERVAL_MAX: Duration = Duration::from_secs(20);
/// Largest frame of a viewer, which sends nothing but its hello.
const VIEWER_FRAME_BYTES_MAX: usize = 8 * 1024;
const READ_BUFFER_BYTES: usize = 512;
/// A viewer that takes no document within this time is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(crate) struct WallQuery {
    every_ms: Option<u64>,
}

/// The interval between two documents that a viewer asks for, within bounds.
fn interval(query: &WallQuery) -> Duration {
    Duration::from_millis(query.every_ms.unwrap_or(0)).clamp(UPDATE_INTERVAL_MIN, UPDATE_INTERVAL_MAX)
}

/// What a viewer was let in with.
struct Pass {
    /// The name in its token, and until when it may view.
    name: Id,
    expires: UnixMs,
}

/// The pass of this token. `None` where none is needed, because the wall is open.
fn authorize(state: &AppState, token: Option<&str>) -> Result<Option<Pass>, Problem> {
    if state.wall.is_open() {
        return Ok(None);
    }
    let checked = token.ok_or_else(|| InvalidToken::from("token-missing")).and_then(|token| state.principal_of(token));
    match checked {
        Ok(Principal::Viewer { name, expires }) => Ok(Some(Pass { name, expires: state.end_of_viewer(expires) })),
        Ok(_) => Err(state.wrong_role().0),
        Err(invalid) => Err(state.refuse_token(&invalid)),
    }
}

pub(crate) async fn wall(State(state): State<Arc<AppState>>, request: Request) -> Result<Response<Body>, Refusal> {
    let Query(query) = Query::<WallQuery>::try_from_uri(request.uri())
        .map_err(|_| poll::invalid_parameter("every_ms", "a number of milliseconds is needed"))?;
    if upgrade::has_token(request.headers(), header::UPGRADE, "websocket") {
        return open_socket(state, request, interval(&query));
    }
    let pass = authorize(&state, response::bearer(request.headers()))?;
    if !wants_events(request.headers()) {
        let snapshot = state.wall.snapshot(wall_clock(), state.freshness());
        return Ok(document(Body::from(snapshot.json), "application/json"));
    }
    // A HEAD request receives no document, so it must not become a viewer.
    if request.method() != Method::GET {
        return Ok(events(Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>())));
    }
    let viewer = admit_viewer(&state, pass)?;
    // Counted as a viewer from here on: its place among the requests is free for others.
    if let Some(place) = request.extensions().get::<RequestPlace>() {
        place.release();
    }
    let retry = Bytes::from("retry: 3000\n\n");
    let documents = Documents { state, viewer, latest: None, interval: interval(&query), last_sent: None };
    let head = futures_util::stream::once(async move { Ok::<_, Infallible>(retry) });
    let rest = futures_util::stream::unfold(documents, |mut documents| async move {
        let next = documents.next().await?;
        Some((Ok(next.sse), documents))
    });
    Ok(events(Body::from_stream(head.chain(rest))))
}

fn events(body: Body) -> Response<Body> {
    let mut response = document(body, "text/event-stream");
    // The connection's permit was released: no other request may follow on it.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.to_ascii_lowercase().contains("text/event-stream"))
}

fn document(body: Body, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Tells nginx not to buffer: a buffered wall would update in jumps.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One of the viewers that `wall.max_viewers` bounds.
struct Viewer {
    state: Arc<AppState>,
    /// None: without end, because the wall was open.
    expires: Option<UnixMs>,
    _place: ViewerPlace,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.state.stats.wall_viewers.dec();
    }
}

fn admit_viewer(state: &Arc<AppState>, pass: Option<Pass>) -> Result<Viewer, Problem> {
    if state.is_draining() {
        return Err(Problem::unavailable("the server is stopping", 2_000));
    }
    let place = state.viewers.admit(pass.as_ref().map(|pass| &pass.name)).map_err(|none| {
        let (reason, detail) = match none {
            NoPlace::Full => ("viewers-full", "too many viewers"),
            NoPlace::TokenFull => ("viewers-of-token-full", "too many viewers with this token"),
        };
        state.stats.record_full(reason);
        Problem::too_many_requests(detail, 10_000)
    })?;
    state.stats.wall_viewers.inc();
    Ok(Viewer { state: state.clone(), expires: pass.map(|pass| pass.expires), _place: place })
}

/// The documents of one viewer: a snapshot, then the latest document at its interval, until its token expires or the server stops.
struct Documents {
    state: Arc<AppState>,
    viewer: Viewer,
    latest: Option<watch::Receiver<EncodedWall>>,
    interval: Duration,
    last_sent: Option<Instant>,
}

impl Documents {
    async fn next(&mut self) -> Option<EncodedWall> {
        let document = match &mut self.latest {
            None => {
                let snapshot = self.state.wall.snapshot(wall_clock(), self.state.freshness());
                self.latest = Some(self.state.wall.subscribe());
                snapshot
            }
            Some(latest) => {
                let left = self.viewer.expires.map_or(i64::MAX, |expires| expires.0 - wall_clock().0);
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0).min(u64::MAX / 4));
                let expired = tokio::time::sleep(left);
                let pause = self.last_sent.map_or(Duration::ZERO, |sent| self.interval.saturating_sub(sent.elapsed()));
                let drain = self.viewer.state.drain.clone();
                let needs_token_now = self.viewer.expires.is_none() && !self.state.wall.is_open();
                let newest = async {
                    // A little less than the interval, so that a document that is made on time is not skipped.
                    tokio::time::sleep(pause.saturating_sub(UPDATE_INTERVAL_MIN / 5)).await;
                    latest.changed().await.ok()?;
                    Some(latest.borrow_and_update().clone())
                };
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return None,
                    () = expired => return None,
                    // A reload has closed the wall to viewers without a token.
                    () = std::future::ready(()), if needs_token_now => return None,
                    newest = newest => newest?,
                }
            }
        };
        self.last_sent = Some(Instant::now());
        self.state.stats.wall_documents.inc();
        Some(document)
    }
}

type Socket = WebSocketStream<FrameMeter<TokioIo<hyper::upgrade::Upgraded>>>;

fn open_socket(state: Arc<AppState>, mut request: Request, interval: Duration) -> Result<Response<Body>, Refusal> {
    upgrade::check_handshake(&request, WALL_SUBPROTOCOL).map_err(|problem| state.rejected(problem))?;
    // Until its hello it counts as a connection, not as a viewer.
    let connection = upgrade::admit(&state.connections, &state.stats, state.is_draining())?;
    let on_upgrade = hyper::upgrade::on(&mut request);
    let bad = |_| state.rejected(upgrade::bad_handshake());
    let mut response = create_response_with_body(&request.map(|_| ()), Body::empty).map_err(bad)?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(WALL_SUBPROTOCOL));
    let tasks = state.tasks.clone();
    tasks.spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .max_message_size(Some(VIEWER_FRAME_BYTES_MAX))
                .max_frame_size(Some(VIEWER_FRAME_BYTES_MAX));
            let metered = FrameMeter::new(TokioIo::new(upgraded), state.limits().session.max_frames_per_second);
            let socket = WebSocketStream::from_raw_socket(metered, Role::Server, Some(config)).await;
            Box::pin(serve(state, connection, socket, interval)).await;
        }
    });
    Ok(response)
}

/// Serves one WebSocket: its hello, then documents.
async fn serve(state: Arc<AppState>, connection: OwnedSemaphorePermit, mut socket: Socket, interval: Duration) {
    let stats = state.stats.clone();
    let close = match admit(&state, &mut socket).await {
        Err(close) => close,
        Ok(viewer) => {
            drop(connection);
            let documents = Documents { state, viewer, latest: None, interval, last_sent: None };
            send_documents(documents, &mut socket).await
        }
    };
    let Some(close) = close else { return };
    match close {
        Close::RateLimited => stats.rejections.record("rate-limited", None),
        Close::Timeout => stats.rejections.record("hello-timeout", None),
        _ => {}
    }
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
    let _best_effort = tokio::time::timeout(Duration::from_secs(2), socket.close(Some(frame))).await;
}

/// Waits for the hello: the viewer, with its place. `Err(None)`: the peer has gone.
async fn admit(state: &Arc<AppState>, socket: &mut Socket) -> Result<Viewer, Option<Close>> {
    let hello = tokio::time::timeout(state.limits().session.hello_timeout, hello(state, socket));
    let pass = tokio::select! {
        biased;
        () = state.drain.cancelled() => return Err(Some(Close::Restart { retry_ms: state.retry_ms() })),
        pass = hello => pass.map_err(|_| Some(Close::Timeout))??,
    };
    admit_viewer(state, pass).map_err(|_| Some(Close::Overloaded { retry_ms: state.retry_ms() }))
}

/// Reads the hello and checks its token. On an open wall no hello is waited for.
async fn hello(state: &AppState, socket: &mut Socket) -> Result<Option<Pass>, Option<Close>> {
    const NOT_HELLO: Close = Close::BadMessage("the first frame is hello");
    if state.wall.is_open() {
        return Ok(None);
    }
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let Ok(ClientFrame::Hello { token, .. }) = serde_json::from_str::<ClientFrame>(&text) else {
                    return Err(Some(NOT_HELLO));
                };
                return authorize(state, Some(&token.0)).map_err(|_| Some(Close::Unauthorized));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) => return Err(Some(NOT_HELLO)),
            Some(Err(error)) => return Err(close_for(&error)),
            None => return Err(None),
        }
    }
}

/// Sends documents until the viewer leaves, its token expires or the server stops. The close to send, if the peer is still there.
async fn send_documents(mut documents: Documents, socket: &mut Socket) -> Option<Close> {
    let mut had_text = false;
    loop {
        let next = tokio::select! {
            biased;
            received = socket.next() => match received {
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(error)) => return close_for(&error),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                // On an open wall a hello is not needed, and accepted once.
                Some(Ok(Message::Text(_)))
                    if documents.viewer.expires.is_none() && !std::mem::replace(&mut had_text, true) => continue,
                Some(Ok(_)) => return Some(Close::BadMessage("a viewer sends only hello")),
            },
            next = documents.next() => next,
        };
        let Some(next) = next else {
            let restart = Close::Restart { retry_ms: documents.state.retry_ms() };
            return Some(if documents.state.is_draining() { restart } else { Close::Unauthorized });
        };
        let text = Utf8Bytes::try_from(next.json).expect("a document is JSON, which is UTF-8");
        tokio::time::timeout(SEND_TIMEOUT, socket.send(Message::Text(text))).await.ok()?.ok()?;
    }
}
