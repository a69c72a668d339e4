//! Routes for this machine only (console, dead letters, playground tokens): pages of other sites must not reach them through the browser of
//! somebody who works here.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use orderbell_protocol::Problem;

use super::cors::is_same_origin;
use super::response::Refusal;

/// True when the request's host name is `localhost` or a loopback address.
pub(super) fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Middleware: 404 for pages of other origins, and for requests under a name that is not loopback (DNS rebinding: a name of another site
/// that was made to resolve to this machine).
pub(super) async fn require_local(request: Request, next: Next) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    let is_foreign = headers.contains_key(header::ORIGIN) && !is_same_origin(headers);
    if is_foreign || !is_loopback(headers) {
        return Err(Problem::not_found().into());
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_loopback_host_names_are_local() {
        let is_local =
            |host: &'static str| is_loopback(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        for host in ["127.0.0.1:8377", "localhost:8377", "localhost", "[::1]:8377", "127.9.9.9"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example:8377", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:8377", ""] {
            assert!(!is_local(host), "{host}");
        }
        assert!(!is_loopback(&HeaderMap::new()));
    }
}
