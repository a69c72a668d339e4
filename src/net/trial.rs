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

/// The name in the address is this machine's own.
fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_answered() {
        let known =
            |host: &'static str| is_loopback(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        for host in ["127.0.0.1:8377", "localhost:8377", "localhost", "[::1]:8377", "127.9.9.9"] {
            assert!(known(host), "{host}");
        }
        for host in ["evil.example:8377", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:8377", ""] {
            assert!(!known(host), "{host}");
        }
        assert!(!is_loopback(&HeaderMap::new()));
    }
}
