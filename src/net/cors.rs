//! CORS: which routes pages of other origins may request.
//!
//! A chain's own web page may be served from elsewhere. Every request needs a token in a header, and nothing that a browser adds by itself
//! (cookies) counts; so any page may ask, as any program may, and the preflight says so. The wall is excluded: with `wall.open` its numbers
//! may be visible to a whole network, and a page from outside must not carry them out of it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;

/// Path prefixes that pages of other origins may request.
const SHARED_PREFIXES: [&str; 3] = ["/v1/notices", "/v1/orders", "/v1/events"];

/// For how long a browser may cache a preflight: two hours, the most that Chromium keeps.
const PREFLIGHT_MAX_AGE_SECONDS: &str = "7200";

/// True when the request comes from a page of this server. The default port of the origin's scheme may be written or left out: browsers leave it
/// out, and proxies may add it to the Host.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return host.eq_ignore_ascii_case(authority),
    };
    let without_port = |authority| str::strip_suffix(authority, default_port).unwrap_or(authority);
    without_port(host).eq_ignore_ascii_case(without_port(authority))
}

/// Middleware: answers preflights, and lets pages of other origins read the answers of the shared routes.
pub(super) async fn allow_other_origins(request: Request, next: Next) -> Response<Body> {
    let path = request.uri().path();
    let is_cross_origin = SHARED_PREFIXES.iter().any(|prefix| path.starts_with(prefix))
        && request.headers().contains_key(header::ORIGIN)
        && !is_same_origin(request.headers());
    let is_preflight = is_cross_origin
        && request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight { Response::new(Body::empty()) } else { next.run(request).await };
    if is_cross_origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    if is_preflight {
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_MAX_AGE_SECONDS));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_may_be_written_or_left_out() {
        let is_same = |origin: &'static str, host: &'static str| {
            let value = HeaderValue::from_static;
            is_same_origin(&HeaderMap::from_iter([(header::ORIGIN, value(origin)), (header::HOST, value(host))]))
        };
        for (origin, host) in [
            ("https://push.example", "push.example"),
            ("https://push.example", "push.example:443"),
            ("https://push.example:443", "PUSH.example"),
            ("http://push.example", "push.example:80"),
            ("http://[::1]", "[::1]:80"),
            ("http://localhost:8377", "localhost:8377"),
        ] {
            assert!(is_same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://push.example", "push.example:80"),
            ("http://push.example", "push.example:443"),
            ("http://push.example", "push.example:8377"),
            ("https://push.example.evil", "push.example"),
            ("https://push.example:4430", "push.example:443"),
            ("null", "push.example"),
        ] {
            assert!(!is_same(origin, host), "{origin} {host}");
        }
        assert!(!is_same_origin(&HeaderMap::new()));
    }
}
