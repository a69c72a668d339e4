//! `GET /v1/wall`: the chain's live numbers, for screens. One address, three ways: an answer, server-sent events, a WebSocket.
//!
//! Every viewer is given the newest document when it can take one, and no more often than it wants: nothing queues for a slow one. The
//! bytes are made once for all. A token for the wall sees the wall and nothing else; with `wall.open` none is asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, header};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use orderbell_protocol::wall::WALL_SUBPROTOCOL;
use orderbell_protocol::{ClientFrame, Close, Problem, UnixMs};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::listener::Place;
use super::reply::{self, Refusal};
use super::tokens::Principal;
use super::{Net, upgrade, wall_clock};
use crate::wall::{EVERY_MIN, Shown};

/// Slowest pace that a viewer may ask for: below the idle time after which proxies cut a silent answer.
const EVERY_MAX: Duration = Duration::from_secs(20);
/// A viewer says nothing but its hello.
const VIEWER_FRAME_BYTES_MAX: usize = 8 * 1024;
const READ_BUFFER_BYTES: usize = 512;
/// A viewer that takes nothing for this long is gone.
const SEND_MAX: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(crate) struct Asked {
    every_ms: Option<u64>,
}

/// How far apart a viewer wants its documents.
fn pace(asked: &Asked) -> Duration {
    Duration::from_millis(asked.every_ms.unwrap_or(0)).clamp(EVERY_MIN, EVERY_MAX)
}

/// Until when somebody may look. `None`: for ever, since everybody may.
fn may_look(net: &Net, token: Option<&str>) -> Result<Option<UnixMs>, Problem> {
    if net.wall().is_open() {
        return Ok(None);
    }
    match net.tokens().check(token.ok_or_else(Problem::unauthorized)?) {
        Ok(Principal::Viewer { expires }) => Ok(Some(expires)),
        Ok(_) => Err(Problem::not_found()),
        Err(_) => Err(Problem::unauthorized()),
    }
}

pub(crate) async fn wall(State(net): State<Arc<Net>>, request: Request) -> Result<Response<Body>, Refusal> {
    let wrong = |reason: &str| Problem::new(422, "invalid-field", "A parameter is wrong").error("every_ms", reason);
    let Query(asked) =
        Query::<Asked>::try_from_uri(request.uri()).map_err(|_| wrong("a number of milliseconds is needed"))?;
    if upgrade::has(request.headers(), header::UPGRADE, "websocket") {
        return socket(net, request, pace(&asked));
    }
    let until = may_look(&net, reply::bearer(request.headers()))?;
    // Who asks for the head alone is shown nothing, and must not become a viewer.
    if !wants_events(request.headers()) || request.method() != Method::GET {
        let shown = net.wall().snapshot(wall_clock(), net.fresh());
        return Ok(document(Body::from(shown.json), "application/json"));
    }
    let viewer = viewer(&net)?;
    // From here on it is a viewer; its place among the requests is free for others.
    if let Some(place) = request.extensions().get::<Place>() {
        place.leave();
    }
    let first = Bytes::from("retry: 3000\n\n");
    let show = Showing { net, viewer, looking: None, pace: pace(&asked), until, sent: None };
    let head = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(first) });
    let rest = futures_util::stream::unfold(show, |mut show| async move {
        let next = show.next().await?;
        Some((Ok(next.sse), show))
    });
    let mut answer = document(Body::from_stream(head.chain(rest)), "text/event-stream");
    // Its place among the requests is gone: no other request follows on this connection.
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(answer)
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.to_ascii_lowercase().contains("text/event-stream"))
}

fn document(body: Body, media: &'static str) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would show the wall in jumps.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

/// A place among the viewers.
struct Viewer {
    net: Arc<Net>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.net.stats.viewers.dec();
    }
}

fn viewer(net: &Arc<Net>) -> Result<Viewer, Problem> {
    if net.is_draining() {
        return Err(Problem::unavailable("this server stops", 2_000));
    }
    let Ok(place) = net.viewers.clone().try_acquire_owned() else {
        net.stats.refused.inc();
        return Err(Problem::unavailable("too many viewers", 10_000));
    };
    net.stats.viewers.inc();
    Ok(Viewer { net: net.clone(), _place: place })
}

/// What one viewer is shown: a snapshot, then the newest document at its pace, until its token or the server ends.
struct Showing {
    net: Arc<Net>,
    viewer: Viewer,
    looking: Option<watch::Receiver<Shown>>,
    pace: Duration,
    until: Option<UnixMs>,
    sent: Option<Instant>,
}

impl Showing {
    async fn next(&mut self) -> Option<Shown> {
        let shown = match &mut self.looking {
            None => {
                let snapshot = self.net.wall().snapshot(wall_clock(), self.net.fresh());
                self.looking = Some(self.net.wall().look());
                snapshot
            }
            Some(looking) => {
                let left = self.until.map_or(i64::MAX, |until| until.0 - wall_clock().0);
                let end = tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0).min(u64::MAX / 4)));
                let rest = self.sent.map_or(Duration::ZERO, |sent| self.pace.saturating_sub(sent.elapsed()));
                let drain = self.viewer.net.drain.clone();
                let closed = self.until.is_none() && !self.net.wall().is_open();
                let newest = async {
                    // A little less than the pace, so that a document that comes on time is not waited past.
                    tokio::time::sleep(rest.saturating_sub(EVERY_MIN / 5)).await;
                    looking.changed().await.ok()?;
                    Some(looking.borrow_and_update().clone())
                };
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return None,
                    () = end => return None,
                    // Open to everybody no longer.
                    () = std::future::ready(()), if closed => return None,
                    newest = newest => newest?,
                }
            }
        };
        self.sent = Some(Instant::now());
        self.net.stats.shown_wall.inc();
        Some(shown)
    }
}

fn socket(net: Arc<Net>, mut request: Request, pace: Duration) -> Result<Response<Body>, Refusal> {
    upgrade::check(&request, WALL_SUBPROTOCOL)?;
    if net.is_draining() {
        return Err(Problem::unavailable("this server stops", 2_000).into());
    }
    // Until it has said who it is, it is a socket like any other, and takes no viewer's place.
    let Ok(waiting) = net.sockets.clone().try_acquire_owned() else {
        net.stats.refused.inc();
        return Err(Problem::unavailable("too many connections", 10_000).into());
    };
    let on_upgrade = hyper::upgrade::on(&mut request);
    let bad = |_| Refusal(Problem::new(400, "bad-handshake", "The WebSocket handshake is not complete"));
    let mut answer = create_response_with_body(&request.map(|_| ()), Body::empty).map_err(bad)?;
    answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(WALL_SUBPROTOCOL));
    let tasks = net.tasks.clone();
    tasks.spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .max_message_size(Some(VIEWER_FRAME_BYTES_MAX))
                .max_frame_size(Some(VIEWER_FRAME_BYTES_MAX));
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            Box::pin(show(net, waiting, socket, pace)).await;
        }
    });
    Ok(answer)
}

fn retry_ms(net: &Net) -> u32 {
    u32::try_from(net.retry_ms(net.stats.shown_wall.get())).unwrap_or(u32::MAX)
}

/// Serves one socket: its hello, then documents.
async fn show(net: Arc<Net>, waiting: OwnedSemaphorePermit, mut socket: Socket, pace: Duration) {
    let close = match admitted(&net, &mut socket).await {
        Err(close) => close,
        Ok((until, viewer)) => {
            drop(waiting);
            documents(Showing { net, viewer, looking: None, pace, until, sent: None }, &mut socket).await
        }
    };
    let Some(close) = close else { return };
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
    let _gone = tokio::time::timeout(Duration::from_secs(2), socket.close(Some(frame))).await;
}

/// Until when it may look, and its place; or why not.
async fn admitted(net: &Arc<Net>, socket: &mut Socket) -> Result<(Option<UnixMs>, Viewer), Option<Close>> {
    let said = tokio::time::timeout(net.limits().session.hello_timeout, hello(net, socket));
    let until = tokio::select! {
        biased;
        () = net.drain.cancelled() => return Err(Some(Close::Restart { retry_ms: retry_ms(net) })),
        said = said => said.map_err(|_| Some(Close::Timeout))??,
    };
    match viewer(net) {
        Ok(viewer) => Ok((until, viewer)),
        Err(_) => Err(Some(Close::Overloaded { retry_ms: retry_ms(net) })),
    }
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Where the wall is open, whatever a viewer says first is good.
async fn hello(net: &Net, socket: &mut Socket) -> Result<Option<UnixMs>, Option<Close>> {
    if net.wall().is_open() {
        return Ok(None);
    }
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let bad = |_| Some(Close::BadMessage("the first frame is hello"));
                let frame = serde_json::from_str::<ClientFrame>(&text).map_err(bad)?;
                let ClientFrame::Hello { token, .. } = frame else {
                    return Err(Some(Close::BadMessage("the first frame is hello")));
                };
                return may_look(net, Some(&token)).map_err(|_| Some(Close::Unauthorized));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) => return Err(Some(Close::BadMessage("the first frame is hello"))),
            Some(Err(_)) | None => return Err(None),
        }
    }
}

/// Documents until the viewer goes, its token ends or the server stops; what it is told then.
async fn documents(mut show: Showing, socket: &mut Socket) -> Option<Close> {
    let mut spoke = false;
    loop {
        let next = tokio::select! {
            biased;
            said = socket.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                // Where the wall is open a hello is not waited for, and does no harm.
                Some(Ok(Message::Text(_))) if show.until.is_none() && !std::mem::replace(&mut spoke, true) => continue,
                Some(Ok(_)) => return Some(Close::BadMessage("a viewer has nothing to say")),
            },
            next = show.next() => next,
        };
        let Some(next) = next else {
            let restart = Close::Restart { retry_ms: retry_ms(&show.net) };
            return Some(if show.net.is_draining() { restart } else { Close::Unauthorized });
        };
        let text = Utf8Bytes::try_from(next.json).ok()?;
        tokio::time::timeout(SEND_MAX, socket.send(Message::Text(text))).await.ok()?.ok()?;
    }
}
