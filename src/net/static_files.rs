//! The web pages as HTTP responses: served from the binary with an entity tag, and with a content security policy that lets a page request
//! this server and no other.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::Redirect;
use axum::routing::get;

use crate::pages::File;

/// Own files only, no inline script. uPlot and the bars set styles through the DOM, which no policy restricts.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

fn response(file: File, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(file.bytes));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_unchanged = known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag));
    let mut response = Response::new(if is_unchanged { Body::empty() } else { Body::from(file.bytes) });
    if is_unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.media));
    // Revalidated at each load with the entity tag: a new version of the server shows at the next load.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Adds the files to a listener's routes. The address of a page without its trailing slash redirects to the page.
pub(super) fn add<S: Clone + Send + Sync + 'static>(mut routes: Router<S>, files: &'static [File]) -> Router<S> {
    for file in files.iter().copied() {
        routes = routes.route(file.path, get(async move |headers: HeaderMap| response(file, &headers)));
        if let Some(bare) = file.path.strip_suffix('/').filter(|bare| !bare.is_empty()) {
            routes = routes.route(bare, get(|| async { Redirect::permanent(file.path) }));
        }
    }
    routes
}
