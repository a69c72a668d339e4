//! Dead letters: list, show, replay. They are whole records with what people ordered, so these routes exist on loopback only.
//!
//! Those of the ledger's own log have numbers; those of dead letter topics have names, TOPIC/PARTITION@OFFSET.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::Problem;
use orderbell_protocol::admin::{
    DeadLetterAnswer, DeadLetterSummary, DeadLettersAnswer, RecordBytes, ReplayAnswer, TopicDeadLetter,
    TopicDeadLettersAnswer, TopicReplayAnswer,
};
use serde::Deserialize;

use super::AdminApi;
use crate::net::response::{self, Refusal};
use orderbell_ledger::{LedgerFailed, LedgerReadError, StoredBytes, StoredDeadLetter};

/// Resolves when the replayed records are durable; `Err` when the ledger cannot write.
pub type ReplayFuture = Pin<Box<dyn Future<Output = Result<(), LedgerFailed>> + Send>>;

/// Resolves to dead letters of topics, or to the reason for which they cannot be read.
pub type TopicListFuture = Pin<Box<dyn Future<Output = Result<Vec<TopicDeadLetter>, String>> + Send>>;

/// Resolves to the number of replayed dead letters, or to the reason for which they cannot be replayed.
pub type TopicReplayFuture = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// Reads and replays dead letters. Every call blocks; the futures that it returns do not.
pub trait DeadLetterAccess: Send + Sync + 'static {
    /// Dead letters of the ledger's log after a number, at most `max`.
    ///
    /// # Errors
    /// [`LedgerReadError`].
    fn list(&self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, LedgerReadError>;
    /// Appends dead letters to the stream again and removes them from the ledger's log.
    fn replay(&self, letters: Vec<(u64, StoredDeadLetter)>) -> ReplayFuture;
    /// The newest dead letters of the topics, or the one named `which` with its value; none on the embedded stream.
    fn list_topics(&self, which: Option<String>) -> Option<TopicListFuture>;
    /// Replays the named dead letters of topics; none on the embedded stream.
    fn replay_topics(&self, which: Vec<String>) -> Option<TopicReplayFuture>;
}

/// Largest number of dead letters in one page, and of those replayed by one request.
const PAGE_MAX: usize = 500;
/// Largest body of a topic replay: thousands of names.
const NAMES_BYTES_MAX: usize = 256 * 1024;

#[derive(Deserialize)]
pub(crate) struct DeadLettersQuery {
    #[serde(default)]
    after: u64,
    /// The last number; all when absent.
    upto: Option<u64>,
    reason: Option<String>,
    limit: Option<usize>,
}

/// Dead letters with their numbers, and the number after which the next page begins.
type MatchingPage = (Vec<(u64, StoredDeadLetter)>, Option<u64>);

async fn matching(api: &AdminApi, query: DeadLettersQuery) -> Result<MatchingPage, Refusal> {
    let limit = query.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let mut letters = api.dead_letters.run(move |access| access.list(query.after, PAGE_MAX)).await??;
    letters.retain(|(number, _)| query.upto.is_none_or(|upto| *number <= upto));
    let last = letters.last().map(|(number, _)| *number).filter(|_| letters.len() == PAGE_MAX);
    let matches = |letter: &StoredDeadLetter| query.reason.as_ref().is_none_or(|reason| *reason == letter.reason);
    let found: Vec<_> = letters.into_iter().filter(|(_, letter)| matches(letter)).take(limit).collect();
    // When the limit cut the page short, the next begins after the last match; otherwise after the last one that was read.
    let next = if found.len() == limit { found.last().map(|(number, _)| *number) } else { last };
    Ok((found, next))
}

fn summary(number: u64, letter: &StoredDeadLetter) -> DeadLetterSummary {
    DeadLetterSummary {
        number,
        at: letter.at,
        topic: letter.topic.clone(),
        partition: letter.partition,
        offset: letter.offset,
        reason: letter.reason.clone(),
        message: letter.message.clone(),
    }
}

fn record_bytes(stored: StoredBytes) -> RecordBytes {
    match stored {
        StoredBytes::Text(text) => RecordBytes::Text(text),
        StoredBytes::Hex { hex } => RecordBytes::Hex { hex: hex.into() },
    }
}

/// `GET /dead-letters?after=&upto=&reason=&limit=`.
pub(super) async fn list(
    State(api): State<AdminApi>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&api, query).await?;
    let records = letters.iter().map(|(number, letter)| summary(*number, letter)).collect();
    Ok(response::answer(&DeadLettersAnswer { records, next }))
}

/// `GET /dead-letters/NUMBER`: one dead letter with its value.
pub(super) async fn show(State(api): State<AdminApi>, Path(number): Path<u64>) -> Result<Response<Body>, Refusal> {
    let letters = api.dead_letters.run(move |access| access.list(number.saturating_sub(1), 1)).await??;
    let (_, letter) = letters.into_iter().find(|(found, _)| *found == number).ok_or_else(Problem::not_found)?;
    Ok(response::answer(&DeadLetterAnswer {
        summary: summary(number, &letter),
        timestamp_ms: letter.timestamp_ms,
        attempts: letter.attempts,
        key: letter.key.map(record_bytes),
        value: letter.value.map(record_bytes),
        headers: letter.headers.into_iter().map(|(name, value)| (name, value.map(record_bytes))).collect(),
    }))
}

/// `POST /dead-letters/replay`: appends them to the stream again. An event that was applied before changes nothing. Those that were appended
/// are removed from the log; one that is rejected again becomes a new dead letter.
pub(super) async fn replay(
    State(api): State<AdminApi>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&api, query).await?;
    let numbers: Vec<u64> = letters.iter().map(|(number, _)| *number).collect();
    let appended = api.dead_letters.run(move |access| access.replay(letters)).await?;
    appended.await.map_err(|_| Problem::unavailable("the ledger cannot write", 5_000))?;
    Ok(response::answer(&ReplayAnswer { replayed: numbers.len() as u64, numbers, next }))
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
    let records = match api.dead_letters.run(|access| access.list_topics(query.which)).await? {
        Some(records) => records.await.map_err(brokers_unavailable)?,
        None => Vec::new(),
    };
    if is_one {
        return Ok(response::answer(records.first().ok_or_else(Problem::not_found)?));
    }
    Ok(response::answer(&TopicDeadLettersAnswer { records }))
}

/// `POST /dead-letters/topics/replay`, with an array of names.
pub(super) async fn replay_topics(State(api): State<AdminApi>, body: Body) -> Result<Response<Body>, Refusal> {
    let body = response::body(body, NAMES_BYTES_MAX).await?;
    let which: Vec<String> = serde_json::from_slice(&body)
        .map_err(|_| Problem::new(400, "malformed-json", "The body must be an array of names of dead letters"))?;
    let replay = api.dead_letters.run(|access| access.replay_topics(which)).await?.ok_or_else(Problem::not_found)?;
    let replayed = replay.await.map_err(brokers_unavailable)?;
    Ok(response::answer(&TopicReplayAnswer { replayed }))
}

fn brokers_unavailable(error: String) -> Refusal {
    tracing::warn!(error, "cannot access dead letter topics");
    Refusal(Problem::unavailable("the brokers do not answer", 5_000))
}
