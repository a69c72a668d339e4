//! `GET /healthz`: for load balancers in front of the public listener, which cannot reach the admin listener.
//!
//! 200 while requests are served, 503 once the server stops. Nothing else: what is wrong with the stream or a partition is in `/ready` of the
//! admin listener, and does not make this server a worse choice than none.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use orderbell_protocol::Problem;

use super::AppState;
use super::response::Refusal;

/// Needs no token. HEAD is answered as well.
pub(crate) async fn health(State(state): State<Arc<AppState>>) -> Result<Response<Body>, Refusal> {
    if state.is_draining() {
        return Err(Problem::unavailable("the server is stopping", u64::from(state.retry_ms())).into());
    }
    let mut response = Response::new(Body::from("ok\n"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
