//! Routes for this machine only (console, dead letters, playground tokens): pages of other sites must not reach them through the browser of
//! somebody who works here, nor anybody through a proxy that runs here.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use orderbell_protocol::Problem;

use super::origin::{host_address, host_name, is_same_origin};
use super::response::Refusal;

/// True when the request's host name is `localhost` or a loopback address.
fn is_loopback(headers: &HeaderMap) -> bool {
    let name = host_name(headers);
    name == "localhost" || host_address(name).is_some_and(|address| address.is_loopback())
}

/// What proxies add to a request that somebody else sent.
const FORWARDING_HEADERS: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
/// `Sec-Fetch-Site` of requests that a page of this server makes, or a person. Programs send none.
const OWN_SITES: [&str; 2] = ["same-origin", "none"];

/// True for a request of this machine: under a loopback name (a name of another site may have been made to resolve to this machine), of no page of
/// another site (an image of it sends no `Origin`), and through no proxy (whose default `Host` is this server's address).
pub(super) fn is_local(headers: &HeaderMap) -> bool {
    let is_foreign = headers.contains_key(header::ORIGIN) && !is_same_origin(headers);
    let is_of_own_site = headers.get_all("sec-fetch-site").iter().all(|site| OWN_SITES.iter().any(|own| site == own));
    let is_forwarded = FORWARDING_HEADERS.iter().any(|name| headers.contains_key(*name));
    is_loopback(headers) && !is_foreign && is_of_own_site && !is_forwarded
}

/// Middleware: 404 for whatever is not [`is_local`].
pub(super) async fn require_local(request: Request, next: Next) -> Result<Response<Body>, Refusal> {
    if !is_local(request.headers()) {
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

    #[test]
    fn other_sites_and_proxies_are_not_local_whatever_host_they_name() {
        let with = |name: &'static str, value: &'static str| {
            let host = (header::HOST, HeaderValue::from_static("127.0.0.1:8378"));
            is_local(&HeaderMap::from_iter([
                host,
                (header::HeaderName::from_static(name), HeaderValue::from_static(value)),
            ]))
        };
        for (name, value) in [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none"), ("accept", "*/*")] {
            assert!(with(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-real-ip", "203.0.113.9"),
            ("via", "1.1 proxy"),
        ] {
            assert!(!with(name, value), "{name}: {value}");
        }
    }
}
