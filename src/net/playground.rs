//! Tokens for the playground pages, without authentication: on loopback only.
//!
//! A page of another site must not get a token through the browser of somebody who runs the playground. It cannot read the answer (no CORS on
//! this route), and a name that was made to resolve to this machine (DNS rebinding) is not a loopback name. Nor is a request that a proxy on this
//! machine forwards one of this machine.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::routing::get;
use orderbell_protocol::{Id, Problem};
use serde::Deserialize;

use super::AppState;
use super::local_only::is_local;
use super::response::Refusal;
use crate::clock::wall_clock;

/// Lifetime of a token. A page requests a new one when it expires.
const TOKEN_LIFETIME_SECONDS: u64 = 3_600;
const ROLES: [&str; 3] = ["store", "customer", "producer"];

#[derive(Deserialize)]
struct TokenQuery {
    role: String,
    id: String,
}

/// Adds `GET /playground/token?role=store&id=17`.
pub(super) fn add(routes: Router<Arc<AppState>>) -> Router<Arc<AppState>> {
    routes.route("/playground/token", get(token))
}

async fn token(
    State(state): State<Arc<AppState>>,
    Query(query): Query<TokenQuery>,
    headers: HeaderMap,
) -> Result<Response<Body>, Refusal> {
    if !is_local(&headers) || !ROLES.contains(&query.role.as_str()) || Id::parse(&query.id).is_err() {
        return Err(Problem::not_found().into());
    }
    let minted = state.tokens().mint(&query.role, &query.id, None, wall_clock(), TOKEN_LIFETIME_SECONDS);
    let token = minted.map_err(|_| Problem::unavailable("no signing key is configured", 5_000))?;
    let mut response = Response::new(Body::from(token));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
