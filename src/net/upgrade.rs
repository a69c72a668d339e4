//! From an HTTP request to a WebSocket.
//!
//! A faulty handshake gets an HTTP error here; tungstenite alone would drop the connection without a response. The token is not checked yet:
//! browsers and mini-programs cannot see why a handshake failed, so the token comes in `hello`, and an invalid one closes with code 3000.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use orderbell_protocol::{Problem, ProblemCode, SUBPROTOCOL};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::connection;
use super::response::Refusal;
use super::{AppState, NetStats};

/// True when a comma-separated header has this token.
pub(super) fn has_token(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
}

/// Checks everything about a handshake but the token.
pub(super) fn check_handshake(request: &Request, subprotocol: &str) -> Result<(), Problem> {
    let headers = request.headers();
    if request.version() == Version::HTTP_10 {
        return Err(Problem::new(ProblemCode::HttpVersion));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") || !has_token(headers, header::UPGRADE, "websocket") {
        return Err(Problem::new(ProblemCode::UpgradeRequired));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem::new(ProblemCode::WebsocketVersion));
    }
    if !has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, subprotocol) {
        let problem = Problem::new(ProblemCode::UnsupportedSubprotocol);
        return Err(problem.detail(format!("offer {subprotocol}")));
    }
    // The Origin was judged before (see cors), and Cookie is not looked at. A page cannot leave out the cookies of a proxy, and no cookie is ever read: the token comes in
    // `hello`, so a page of another site gains nothing from them.
    Ok(())
}

pub(super) fn bad_handshake() -> Problem {
    Problem::new(ProblemCode::BadHandshake)
}

/// A permit among the bounded `connections`, for as long as the WebSocket lives. A newcomer above the bound is counted, and its answer says when to return.
pub(super) fn admit(
    connections: &Arc<Semaphore>,
    stats: &NetStats,
    is_draining: bool,
) -> Result<OwnedSemaphorePermit, Problem> {
    if is_draining {
        return Err(Problem::unavailable("the server is stopping", 2_000));
    }
    connections.clone().try_acquire_owned().map_err(|_| {
        stats.record_full("sockets-full");
        Problem::too_many_requests("too many connections", 10_000)
    })
}

pub(crate) async fn upgrade(
    State(state): State<Arc<AppState>>,
    mut request: Request,
) -> Result<Response<Body>, Refusal> {
    check_handshake(&request, SUBPROTOCOL).map_err(|problem| state.rejected(problem))?;
    let permit = admit(&state.connections, &state.stats, state.is_draining())?;
    let on_upgrade = hyper::upgrade::on(&mut request);
    let bad = |_| state.rejected(bad_handshake());
    let mut response = create_response_with_body(&request.map(|_| ()), Body::empty).map_err(bad)?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    debug_assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let tasks = state.tasks.clone();
    // Its own task, so that the future of the handshake is not kept in memory for as long as the connection lives.
    tasks.spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            Box::pin(connection::run(state, upgraded)).await;
        }
        drop(permit);
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_above_the_bound_is_refused_with_503_and_counted() {
        let (connections, stats) = (Arc::new(Semaphore::new(1)), NetStats::default());
        let first = admit(&connections, &stats, false).unwrap();
        let refused = admit(&connections, &stats, false).unwrap_err();
        assert_eq!((refused.status, stats.connections_rejected.get()), (503, 1));
        assert_eq!((&*refused.code, stats.rejections.list()[0].reason.as_str()), ("too-many-requests", "sockets-full"));
        drop(first);
        assert!(admit(&connections, &stats, false).is_ok(), "whoever leaves makes room");
        let refused = admit(&connections, &stats, true).unwrap_err();
        assert_eq!((refused.status, stats.connections_rejected.get()), (503, 1), "a drain is no limit");
    }
}
