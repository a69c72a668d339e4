//! Pages of other origins: what a browser lets them ask, and what it does not.
//!
//! What is for this machine alone (the console, tokens to try it with) they do not get at all.
//!
//! A chain's own page may come from elsewhere than this server. Whoever asks has to bring a token in a header, and nothing that a browser
//! adds by itself (cookies) counts; so any page may ask, as any program may, and the preflight says so. Not for the wall, whose numbers may
//! be open to a network: a page from outside must not carry them out of it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use orderbell_protocol::Problem;

use super::reply::Refusal;

/// What such pages may ask for.
const SHARED: [&str; 3] = ["/v1/notices", "/v1/orders", "/v1/events"];

/// A browser asks so seldom whether it may ask: two hours, the most that Chromium keeps.
const PREFLIGHT_SECONDS: &str = "7200";

/// True when the page is this server's own.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (origin, host) = (text(header::ORIGIN), text(header::HOST));
    let authority = origin.and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)))
}

/// The name in the address is this machine's own.
pub(super) fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Keeps other sites' pages from asking what is for this machine alone: neither from where they are, nor under a name that was made to point here
/// (DNS rebinding).
pub(super) async fn own(request: Request, next: Next) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    let foreign = headers.contains_key(header::ORIGIN) && !is_own(headers);
    if foreign || !is_loopback(headers) {
        return Err(Problem::not_found().into());
    }
    Ok(next.run(request).await)
}

/// Lets pages of other origins ask, and read the answers.
pub(super) async fn shared(request: Request, next: Next) -> Response<Body> {
    let path = request.uri().path();
    let crosses = SHARED.iter().any(|shared| path.starts_with(shared))
        && request.headers().contains_key(header::ORIGIN)
        && !is_own(request.headers());
    let preflight = crosses
        && request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut answer = if preflight { Response::new(Body::empty()) } else { next.run(request).await };
    if crosses {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    if preflight {
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
    }
    answer
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
