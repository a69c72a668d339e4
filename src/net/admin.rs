//! The admin listener: live, ready, metrics; on loopback also a backup and the dead letters, for `orderbell ledger` and `orderbell dlq`, and the
//! console.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::Redirect;
use axum::routing::{get, post};
use bytes::Bytes;
use orderbell_protocol::{Id, Page, Position, ReadError};
use tokio::sync::mpsc;

use super::letters::{self, TopicLetter};
use super::{StoreSeen, origins, pages, reply, stores};
use crate::ledger::{DiskError, KeptLetter};

/// The answer to [`Health::replay`], when it is there: the ledger took it, or cannot write.
pub type Replayed = Pin<Box<dyn Future<Output = Result<(), ()>> + Send>>;

/// Letters of the topics, when they are read; or why not.
pub type TopicLetters = Pin<Box<dyn Future<Output = Result<Vec<TopicLetter>, String>> + Send>>;

/// How many letters of the topics were sent again, when they are; or why not.
pub type TopicReplayed = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// What the admin listener asks. Implemented by whoever runs the parts.
pub trait Health: Send + Sync + 'static {
    /// What is red: where, and a sentence. Empty means well.
    fn lights(&self) -> BTreeMap<String, String>;
    /// False while starting and from a drain on.
    fn ready(&self) -> bool;
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Writes a backup of the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read or the other side does not take it.
    fn backup(&self, to: &mut dyn Write) -> std::io::Result<u64>;
    /// Dead letters of the ledger's own log, behind a number.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn letters(&self, after: u64, max: usize) -> Result<Vec<(u64, KeptLetter)>, DiskError>;
    /// What is going on at this moment, as one document.
    fn top(&self) -> serde_json::Value;
    /// Notices of a store's mailbox behind a position, or the newest position when none is given. Changes nothing for its devices.
    ///
    /// # Errors
    /// [`ReadError`].
    fn tail(&self, store: &Id, after: Option<Position>) -> Result<Page, ReadError>;
    /// The story of one order; nothing when it is not held.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn story(&self, order: &Id, shadow: bool) -> Result<Option<serde_json::Value>, DiskError>;
    /// Stores by id, from one on, at most so many.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn stores(&self, from: &str, max: usize) -> Result<Vec<StoreSeen>, DiskError>;
    /// The newest dead letters of the topics, or one of them, whole; nothing where there are no topics.
    fn topic_letters(&self, one: Option<String>) -> Option<TopicLetters>;
    /// Sends dead letters of topics again, by their names.
    fn topic_replay(&self, which: Vec<String>) -> Option<TopicReplayed>;
    /// Sends dead letters again.
    fn replay(&self, letters: Vec<(u64, KeptLetter)>) -> Replayed;
}

/// The admin routes. Those that give out what people ordered are there only where nobody from outside this machine can ask (`private`).
pub fn routes(health: Arc<dyn Health>, private: bool) -> Router {
    let mut routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics));
    if private {
        let ours = pages::with(pages::with(Router::new(), crate::pages::SHARED), crate::pages::CONSOLE)
            .route("/", get(|| async { Redirect::temporary("/console/") }))
            .route("/ledger/backup", get(backup))
            .route("/top", get(stores::top))
            .route("/stores", get(stores::list))
            .route("/stores/{store}/tail", get(stores::tail))
            .route("/orders/{order}", get(stores::story))
            .route("/letters", get(letters::list))
            .route("/letters/replay", post(letters::replay))
            .route("/letters/topics", get(letters::of_topics))
            .route("/letters/topics/replay", post(letters::replay_of_topics))
            .route("/letters/{number}", get(letters::one))
            .layer(axum::middleware::from_fn(origins::own));
        routes = routes.merge(ours);
    }
    routes.fallback(reply::not_found).with_state(health)
}

/// 200 while clients may come; the lights are told either way. A red light does not make a server unready: what it has, it serves.
async fn ready(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    let ready = health.ready();
    let mut answer = reply::json(serde_json::json!({ "ready": ready, "red": health.lights() }).to_string());
    *answer.status_mut() = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer
}

/// Pieces of a backup that wait for a slow reader.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;
/// A reader that takes nothing for this long is gone: it holds a snapshot and a thread.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Hands pieces from the thread that reads the ledger to the one that answers.
struct Pieces(mpsc::Sender<std::io::Result<Bytes>>, tokio::runtime::Handle);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.send_timeout(Ok(Bytes::copy_from_slice(bytes)), PIECE_TIMEOUT);
        self.1.block_on(sent).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A backup of what is durable now, while everything goes on. One that fails in the middle ends without its check sum.
async fn backup(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    let (tx, rx) = mpsc::channel(PIECES_MAX);
    let _ends_by_itself = tokio::task::spawn_blocking(move || {
        let pieces = Pieces(tx.clone(), tokio::runtime::Handle::current());
        let mut out = BufWriter::with_capacity(PIECE_BYTES, pieces);
        if let Err(error) = health.backup(&mut out).and_then(|_| out.flush()) {
            tracing::error!(%error, "a backup was not finished");
            let _full_or_gone = tx.try_send(Err(error));
        }
    });
    let pieces = futures_util::stream::unfold(rx, async |mut rx| Some((rx.recv().await?, rx)));
    let mut answer = Response::new(Body::from_stream(pieces));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

async fn metrics(State(health): State<Arc<dyn Health>>) -> Response<Body> {
    let mut answer = Response::new(Body::from(health.metrics()));
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, media);
    answer
}
