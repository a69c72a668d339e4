//! CORS: which routes pages of other origins may request.
//!
//! A chain's own web page may be served from elsewhere. Every request needs a token in a header, and nothing that a browser adds by itself
//! (cookies) counts; so any page may ask, as any program may, and the preflight says so, unless `allowed_origins` lists the pages. The wall is
//! for pages of this server and of `wall.allowed_origins`: with `wall.open` its numbers may be visible to a whole network, and a page from
//! outside must not carry them out of it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use orderbell_protocol::{Problem, ProblemCode};

use super::AppState;
use super::origin::{Page, Resource};
use super::response::Refusal;

/// For how long a browser may cache a preflight: two hours, the most that Chromium keeps.
const PREFLIGHT_MAX_AGE_SECONDS: &str = "7200";

/// Middleware: turns pages away that may not ask, answers preflights, and lets pages of other origins read the answers.
pub(super) async fn check_page(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response<Body>, Refusal> {
    let Some(resource) = Resource::at(request.uri().path()) else { return Ok(next.run(request).await) };
    let page = {
        let rules = state.page_rules();
        if resource == Resource::Wall && state.wall.is_open() && !rules.is_wall_host(request.headers()) {
            let problem = Problem::new(ProblemCode::MisdirectedRequest);
            return Err(state.rejected(problem.detail("if this name is right, list it under wall.allowed_hosts")));
        }
        rules.judge(resource, request.headers())
    };
    let allowed = match page {
        Page::Own => return Ok(next.run(request).await),
        Page::Refused => return Err(state.rejected(Problem::new(ProblemCode::ForbiddenOrigin))),
        Page::Any => HeaderValue::from_static("*"),
        Page::Listed => request.headers()[header::ORIGIN].clone(),
    };
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight { Response::new(Body::empty()) } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    // With a list, an answer is for the page that asked.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    if is_preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_MAX_AGE_SECONDS));
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    Ok(response)
}
