//! Dead letters: list, show, replay. They are whole records with what people ordered, so these routes exist on loopback only.
//!
//! Those of the ledger's own log have numbers; those of dead letter topics have names, TOPIC/PARTITION@OFFSET.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::Problem;
use orderbell_protocol::UnixMs;
use serde::{Deserialize, Serialize};

use super::AdminApi;
use crate::net::response::{self, Refusal};
use orderbell_ledger::{DiskError, StoredDeadLetter};

/// Resolves when the replayed records are durable; `Err` when the ledger cannot write.
pub type ReplayFuture = Pin<Box<dyn Future<Output = Result<(), ()>> + Send>>;

/// Resolves to dead letters of topics, or to the reason for which they cannot be read.
pub type TopicListFuture = Pin<Box<dyn Future<Output = Result<Vec<TopicDeadLetter>, String>> + Send>>;

/// Resolves to the number of replayed dead letters, or to the reason for which they cannot be replayed.
pub type TopicReplayFuture = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// Reads and replays dead letters.
pub trait DeadLetterAccess: Send + Sync + 'static {
    /// Dead letters of the ledger's log after a number, at most `max`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn list(&self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, DiskError>;
    /// Appends dead letters to the stream again and removes them from the ledger's log.
    fn replay(&self, letters: Vec<(u64, StoredDeadLetter)>) -> ReplayFuture;
    /// The newest dead letters of the topics, or the one named `which` with its value; none on the embedded stream.
    fn list_topics(&self, which: Option<String>) -> Option<TopicListFuture>;
    /// Replays the named dead letters of topics; none on the embedded stream.
    fn replay_topics(&self, which: Vec<String>) -> Option<TopicReplayFuture>;
}

/// A dead letter in a topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicDeadLetter {
    /// Its name: TOPIC/PARTITION@OFFSET of the dead letter itself.
    pub which: String,
    /// When it was written.
    pub at: UnixMs,
    /// The topic of the original record.
    pub topic: String,
    /// The partition of the original record.
    pub partition: Option<i32>,
    /// The offset of the original record.
    pub offset: Option<i64>,
    /// Why the record was rejected: a stable word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// The value of the record; present only when one dead letter was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Largest number of dead letters in one page, and of those replayed by one request.
const PAGE_MAX: usize = 500;
/// Largest body of a topic replay: thousands of names.
const NAMES_BYTES_MAX: usize = 256 * 1024;

#[derive(Deserialize)]
pub(crate) struct DeadLettersQuery {
    #[serde(default)]
    after: u64,
    reason: Option<String>,
    limit: Option<usize>,
}

/// Dead letters with their numbers, and the number after which the next page begins.
type MatchingPage = (Vec<(u64, StoredDeadLetter)>, Option<u64>);

fn matching(api: &AdminApi, query: &DeadLettersQuery) -> Result<MatchingPage, Refusal> {
    let unreadable = |error| {
        tracing::error!(%error, "cannot read dead letters");
        Refusal(Problem::unavailable("the ledger cannot be read", 5_000))
    };
    let limit = query.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let letters = api.dead_letters.list(query.after, PAGE_MAX).map_err(unreadable)?;
    let last = letters.last().map(|(number, _)| *number).filter(|_| letters.len() == PAGE_MAX);
    let matches = |letter: &StoredDeadLetter| query.reason.as_ref().is_none_or(|reason| *reason == letter.reason);
    let found: Vec<_> = letters.into_iter().filter(|(_, letter)| matches(letter)).take(limit).collect();
    // When the limit cut the page short, the next begins after the last match; otherwise after the last one that was read.
    let next = if found.len() == limit { found.last().map(|(number, _)| *number) } else { last };
    Ok((found, next))
}

/// `GET /dead-letters?after=&reason=&limit=`.
pub(super) async fn list(
    State(api): State<AdminApi>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&api, &query)?;
    let rows: Vec<_> = letters
        .iter()
        .map(|(number, letter)| {
            serde_json::json!({
                "number": number, "at": letter.at, "topic": letter.topic, "partition": letter.partition,
                "offset": letter.offset, "reason": letter.reason, "message": letter.message,
            })
        })
        .collect();
    Ok(response::json(serde_json::json!({ "letters": rows, "next": next }).to_string()))
}

/// `GET /dead-letters/NUMBER`: one dead letter with its value.
pub(super) async fn show(State(api): State<AdminApi>, Path(number): Path<u64>) -> Result<Response<Body>, Refusal> {
    let query = DeadLettersQuery { after: number.saturating_sub(1), reason: None, limit: Some(1) };
    let (letters, _) = matching(&api, &query)?;
    let (_, letter) = letters.into_iter().find(|(found, _)| *found == number).ok_or_else(Problem::not_found)?;
    let json = serde_json::to_string(&letter).map_err(|_| Problem::not_found())?;
    Ok(response::json(json))
}

/// `POST /dead-letters/replay`: appends them to the stream again. An event that was applied before changes nothing. Those that were appended
/// are removed from the log; one that is rejected again becomes a new dead letter.
pub(super) async fn replay(
    State(api): State<AdminApi>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&api, &query)?;
    let numbers: Vec<u64> = letters.iter().map(|(number, _)| *number).collect();
    let count = letters.len();
    api.dead_letters.replay(letters).await.map_err(|()| Problem::unavailable("the ledger cannot write", 5_000))?;
    Ok(response::json(serde_json::json!({ "replayed": count, "numbers": numbers, "next": next }).to_string()))
}

#[derive(Deserialize)]
pub(crate) struct TopicQuery {
    which: Option<String>,
}

/// `GET /dead-letters/topics`: the newest dead letters of the topics; with `which`, one of them with its value. Read from the brokers each time.
pub(super) async fn list_topics(
    State(api): State<AdminApi>,
    Query(query): Query<TopicQuery>,
) -> Result<Response<Body>, Refusal> {
    let is_one = query.which.is_some();
    let letters = match api.dead_letters.list_topics(query.which) {
        Some(letters) => letters.await.map_err(brokers_unavailable)?,
        None => Vec::new(),
    };
    if is_one {
        let letter = letters.first().ok_or_else(Problem::not_found)?;
        return Ok(response::json(serde_json::json!(letter).to_string()));
    }
    Ok(response::json(serde_json::json!({ "letters": letters }).to_string()))
}

/// `POST /dead-letters/topics/replay`, with an array of names.
pub(super) async fn replay_topics(State(api): State<AdminApi>, body: Body) -> Result<Response<Body>, Refusal> {
    let body = response::body(body, NAMES_BYTES_MAX).await?;
    let which: Vec<String> = serde_json::from_slice(&body)
        .map_err(|_| Problem::new(400, "malformed-json", "The body must be an array of names of dead letters"))?;
    let Some(replay) = api.dead_letters.replay_topics(which) else { return Err(Problem::not_found().into()) };
    let count = replay.await.map_err(brokers_unavailable)?;
    Ok(response::json(serde_json::json!({ "replayed": count }).to_string()))
}

fn brokers_unavailable(error: String) -> Refusal {
    tracing::warn!(error, "cannot access dead letter topics");
    Refusal(Problem::unavailable("the brokers do not answer", 5_000))
}
