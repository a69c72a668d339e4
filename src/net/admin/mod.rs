//! The admin listener.
//!
//! | route | | only on loopback |
//! |---|---|---|
//! | `/live`, `/ready`, `/metrics` | health and metrics, for orchestrators and scrapers | no |
//! | `/`, `/console/` | the console | yes |
//! | `/alerts/ack` | acknowledges alerts: `orderbell alerts` | yes |
//! | `/top`, `/stores`, `/stores/{id}/tail`, `/orders/{id}` | what the server is doing: `orderbell top`, `stores`, `tail`, `trace` | yes |
//! | `/dead-letters...` | dead letters: `orderbell dlq` | yes |
//! | `/ledger/backup` | a backup: `orderbell ledger` | yes |
//!
//! Each group asks a trait of its own, implemented by the server. The routes that expose orders exist only when the listener is on loopback, and
//! there only for requests of this machine.

pub(super) mod alerts;
pub(super) mod dead_letters;
pub(super) mod inspect;

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::response::Redirect;
use axum::routing::{get, post};
use bytes::Bytes;
use orderbell_protocol::admin::ReadyAnswer;
use orderbell_protocol::alert::{Alert, AlertCode};
use tokio::sync::mpsc;

use super::ledger_handle::Blocking;
use super::{local_only, response, static_files};
use alerts::AcknowledgeFuture;
use dead_letters::DeadLetterAccess;
use inspect::Inspection;

/// Health and metrics of the server.
pub trait ServerStatus: Send + Sync + 'static {
    /// True when clients may connect: false while the server starts, and from the drain on.
    fn is_ready(&self) -> bool;
    /// Everything that needs a person now. Empty when all is well.
    fn alerts(&self) -> Vec<Alert>;
    /// Clears the alerts with this code, of this subject if one is given. A code that [ends with its
    /// condition](orderbell_protocol::alert::EndsWith::Condition) clears nothing.
    fn acknowledge(&self, code: AlertCode, subject: Option<String>) -> AcknowledgeFuture;
    /// The metrics in the OpenMetrics text format.
    fn metrics(&self) -> String;
}

/// Writes backups.
pub trait BackupSource: Send + Sync + 'static {
    /// Writes a backup of what is durable now, and returns its number of rows. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read or `to` cannot be written.
    fn backup(&self, to: &mut dyn Write) -> std::io::Result<u64>;
}

/// The parts of the server that the admin listener asks.
#[derive(Clone)]
pub struct AdminApi {
    /// For `/ready`, `/alerts` and `/metrics`.
    pub status: Arc<dyn ServerStatus>,
    /// For `/top`, `/stores` and `/orders`.
    pub inspection: Blocking<dyn Inspection>,
    /// For `/dead-letters` and what is below it.
    pub dead_letters: Blocking<dyn DeadLetterAccess>,
    /// For `/ledger/backup`.
    pub backup: Arc<dyn BackupSource>,
}

impl AdminApi {
    /// Everything that needs a person now: the one list behind `/ready`, `/top` and `orderbell_alerts`.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        self.status.alerts()
    }
}

/// The admin routes. With `is_loopback`, also those that expose orders.
pub fn routes(api: AdminApi, is_loopback: bool) -> Router {
    let mut routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics));
    if is_loopback {
        let local = static_files::add(static_files::add(Router::new(), crate::pages::SHARED), crate::pages::CONSOLE)
            .route("/", get(|| async { Redirect::temporary("/console/") }))
            .route("/ledger/backup", get(backup))
            .route("/alerts/ack", post(alerts::acknowledge))
            .route("/balance", get(inspect::balance))
            .route("/top", get(inspect::top))
            .route("/stores", get(inspect::stores))
            .route("/stores/{store}/tail", get(inspect::tail))
            .route("/orders/{order}", get(inspect::order))
            .route("/dead-letters", get(dead_letters::list))
            .route("/dead-letters/replay", post(dead_letters::replay))
            .route("/dead-letters/topics", get(dead_letters::list_topics))
            .route("/dead-letters/topics/replay", post(dead_letters::replay_topics))
            .route("/dead-letters/{number}", get(dead_letters::show))
            .layer(axum::middleware::from_fn(local_only::require_local));
        routes = routes.merge(local);
    }
    let routes = routes.fallback(response::not_found).layer(axum::middleware::map_response(response::only_problems));
    routes.with_state(api)
}

/// `GET /ready`: 200 while clients may connect, with all alerts. An alert does not make a server unready: what it has, it still serves.
async fn ready(State(api): State<AdminApi>) -> Response<Body> {
    let is_ready = api.status.is_ready();
    let mut response = response::answer(&ReadyAnswer { ready: is_ready, alerts: api.alerts() });
    *response.status_mut() = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response
}

/// Chunks of a backup that may wait for a slow reader.
const CHUNKS_MAX: usize = 8;
const CHUNK_BYTES: usize = 64 * 1024;
/// A backup whose reader takes no chunk for this long is aborted: it holds a snapshot and a thread.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// Hands chunks from the blocking thread that reads the ledger to the response body.
struct ChunkWriter(mpsc::Sender<std::io::Result<Bytes>>, tokio::runtime::Handle);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.send_timeout(Ok(Bytes::copy_from_slice(bytes)), CHUNK_TIMEOUT);
        self.1.block_on(sent).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `GET /ledger/backup`: a backup of what is durable now, while the server keeps working. One that fails midway ends without its checksum.
async fn backup(State(api): State<AdminApi>, method: Method) -> Response<Body> {
    backup_of(api.backup, &method)
}

fn backup_of(source: Arc<dyn BackupSource>, method: &Method) -> Response<Body> {
    let (tx, rx) = mpsc::channel(CHUNKS_MAX);
    // A HEAD is answered without a snapshot: nobody would take what it holds.
    if method == Method::GET {
        let _ends_by_itself = tokio::task::spawn_blocking(move || {
            let chunks = ChunkWriter(tx.clone(), tokio::runtime::Handle::current());
            let mut out = BufWriter::with_capacity(CHUNK_BYTES, chunks);
            if let Err(error) = source.backup(&mut out).and_then(|_| out.flush()) {
                tracing::error!(%error, "a backup failed");
                let _full_or_closed = tx.try_send(Err(error));
            }
        });
    }
    let chunks = futures_util::stream::unfold(rx, async |mut rx| Some((rx.recv().await?, rx)));
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

async fn metrics(State(api): State<AdminApi>) -> Response<Body> {
    let mut response = Response::new(Body::from(api.status.metrics()));
    let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;

    use super::*;

    struct Counted(AtomicUsize);

    impl BackupSource for Counted {
        fn backup(&self, to: &mut dyn Write) -> std::io::Result<u64> {
            self.0.fetch_add(1, Ordering::Relaxed);
            to.write_all(b"rows").map(|()| 1)
        }
    }

    #[tokio::test]
    async fn a_head_of_a_backup_makes_none() {
        let source = Arc::new(Counted(AtomicUsize::new(0)));
        let (head, get) = (backup_of(source.clone(), &Method::HEAD), backup_of(source.clone(), &Method::GET));
        assert_eq!(head.headers(), get.headers());
        assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(get.into_body().collect().await.unwrap().to_bytes(), &b"rows"[..]);
        assert_eq!(source.0.load(Ordering::Relaxed), 1);
    }
}
