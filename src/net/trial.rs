//! Tokens for whoever asks: for the pages that let somebody try it, on loopback and nowhere else.
//!
//! A page of another site must not get one through the browser of somebody who tries it. It cannot read the answer (no CORS here), and a
//! name that was made to point at this machine (DNS rebinding) is not the name under which this is answered.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::routing::get;
use orderbell_protocol::{Id, Problem};
use serde::Deserialize;

use super::origins::is_loopback;
use super::reply::Refusal;
use super::{Net, wall_clock};

/// A page asks again when its token is over.
const TOKEN_SECONDS: u64 = 3_600;
const ROLES: [&str; 3] = ["store", "customer", "producer"];

#[derive(Deserialize)]
struct Asked {
    role: String,
    id: String,
}

/// Adds `GET /try/token?role=store&id=17`.
pub(super) fn with(routes: Router<Arc<Net>>) -> Router<Arc<Net>> {
    routes.route("/try/token", get(token))
}

async fn token(
    State(net): State<Arc<Net>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response<Body>, Refusal> {
    if !is_loopback(&headers) || !ROLES.contains(&asked.role.as_str()) || Id::new(&asked.id).is_err() {
        return Err(Problem::not_found().into());
    }
    let minted = net.tokens().mint(&asked.role, &asked.id, None, wall_clock(), TOKEN_SECONDS);
    let token = minted.map_err(|_| Problem::unavailable("there is no key to sign with", 5_000))?;
    let mut answer = Response::new(Body::from(token));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}
