//! The admin listener: live, ready, metrics. Loopback by default, no order data.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::routing::get;

use super::reply;

/// What the admin listener asks. Implemented by whoever runs the parts.
pub trait Health: Send + Sync + 'static {
    /// What is red: where, and a sentence. Empty means well.
    fn lights(&self) -> BTreeMap<String, String>;
    /// False while starting and from a drain on.
    fn ready(&self) -> bool;
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// The admin routes.
pub fn routes(health: Arc<dyn Health>) -> Router {
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(reply::not_found)
        .with_state(health)
}

/// 200 while clients may come; the lights are told either way. A red light does not make a server unready: what it has, it serves.
async fn ready(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    let ready = health.ready();
    let mut answer = reply::json(serde_json::json!({ "ready": ready, "red": health.lights() }).to_string());
    *answer.status_mut() = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer
}

async fn metrics(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    let mut answer = Response::new(Body::from(health.metrics()));
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, media);
    answer
}
