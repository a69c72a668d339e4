//! From an HTTP request to a socket.
//!
//! Everything that can be wrong with a handshake gets an HTTP answer here; tungstenite alone would drop the connection without a word.
//! The token is not looked at yet: browsers and mini-programs cannot see why a handshake failed, so it comes in `hello` and a bad one
//! is answered with close code 3000.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use orderbell_protocol::{Problem, SUBPROTOCOL};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::Net;
use super::connection;
use super::origins;
use super::reply::Refusal;

pub(super) fn has(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
}

pub(super) fn check(request: &Request, subprotocol: &str) -> Result<(), Problem> {
    let headers = request.headers();
    if request.version() == Version::HTTP_10 {
        return Err(Problem::new(505, "http-version", "HTTP/1.1 is needed"));
    }
    if !has(headers, header::CONNECTION, "upgrade") || !has(headers, header::UPGRADE, "websocket") {
        return Err(Problem::new(426, "upgrade-required", "This address speaks WebSocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem::new(426, "websocket-version", "WebSocket version 13 is needed"));
    }
    if !has(headers, header::SEC_WEBSOCKET_PROTOCOL, subprotocol) {
        let problem = Problem::new(400, "unsupported-subprotocol", "No subprotocol that is spoken here was offered");
        return Err(problem.detail(format!("offer {subprotocol}")));
    }
    // A browser says where its page is from. Tokens are not cookies, so another site's page has nothing to ride on; still, one that brings
    // somebody's cookies is not what it seems. Those of our own pages are of other programs on this host, and mean nothing.
    if headers.contains_key(header::COOKIE) && headers.contains_key(header::ORIGIN) && !origins::is_own(headers) {
        return Err(Problem::new(403, "forbidden", "Cookies are not taken here"));
    }
    Ok(())
}

pub(crate) async fn upgrade(State(net): State<Arc<Net>>, mut request: Request) -> Result<Response<Body>, Refusal> {
    check(&request, SUBPROTOCOL)?;
    if net.is_draining() {
        return Err(Problem::unavailable("this server stops", 2_000).into());
    }
    let Ok(permit) = net.sockets.clone().try_acquire_owned() else {
        net.stats.refused.inc();
        return Err(Problem::unavailable("too many connections", 10_000).into());
    };
    let on_upgrade = hyper::upgrade::on(&mut request);
    let bad = |_| Refusal(Problem::new(400, "bad-handshake", "The WebSocket handshake is not complete"));
    let mut answer = create_response_with_body(&request.map(|_| ()), Body::empty).map_err(bad)?;
    answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    debug_assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let tasks = net.tasks.clone();
    // A task of its own: the handshake's future must not stay in memory for as long as the connection lives.
    tasks.spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            Box::pin(connection::run(net, upgraded)).await;
        }
        drop(permit);
    });
    Ok(answer)
}
