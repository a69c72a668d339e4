//! Dead letters: list, show, replay. They are whole records with what people ordered, so these routes exist on loopback only.
//!
//! Those of the ledger's own log have numbers; those of dead letter topics have names, TOPIC/PARTITION@OFFSET.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::admin::{
    DeadLetterAnswer, DeadLetterSummary, DeadLettersAnswer, RecordBytes, ReplayAnswer, TopicDeadLetter,
    TopicDeadLettersAnswer, TopicReplayAnswer,
};
use orderbell_protocol::{Problem, ProblemCode};
use serde::Deserialize;

use super::AdminApi;
use crate::net::response::{self, Refusal};
use orderbell_ledger::{LedgerFailed, LedgerReadError, StoredBytes, StoredDeadLetter};

/// Resolves when the replayed records are durable; `Err` when the ledger cannot write.
pub type ReplayFuture = Pin<Box<dyn Future<Output = Result<(), LedgerFailed>> + Send>>;

/// The dead letter topics cannot be read, or their records cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter topics cannot be accessed: {0}")]
pub struct TopicAccessError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl TopicAccessError {
    /// Wraps the error of the client that speaks to the brokers.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Resolves to dead letters of topics.
pub type TopicListFuture = Pin<Box<dyn Future<Output = Result<Vec<TopicDeadLetter>, TopicAccessError>> + Send>>;

/// Resolves to the result of a replay.
pub type TopicReplayFuture = Pin<Box<dyn Future<Output = Result<TopicReplayAnswer, TopicAccessError>> + Send>>;

/// Reads and replays dead letters. Every call blocks; the futures that it returns do not.
pub trait DeadLetterAccess: Send + Sync + 'static {
    /// Dead letters of the ledger's log after a number, at most `max`.
    ///
    /// # Errors
    /// [`LedgerReadError`].
    fn list(&self, after: u64, max: usize) -> Result<Vec<(u64, StoredDeadLetter)>, LedgerReadError>;
    /// Appends dead letters to the stream again and removes them from the ledger's log.
    fn replay(&self, dead_letters: Vec<(u64, StoredDeadLetter)>) -> ReplayFuture;
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
    let mut dead_letters = api.dead_letters.run(move |access| access.list(query.after, PAGE_MAX)).await??;
    dead_letters.retain(|(number, _)| query.upto.is_none_or(|upto| *number <= upto));
    let last = dead_letters.last().map(|(number, _)| *number).filter(|_| dead_letters.len() == PAGE_MAX);
    let matches =
        |dead_letter: &StoredDeadLetter| query.reason.as_ref().is_none_or(|reason| *reason == dead_letter.reason);
    let found: Vec<_> = dead_letters.into_iter().filter(|(_, dead_letter)| matches(dead_letter)).take(limit).collect();
    // When the limit cut the page short, the next begins after the last match; otherwise after the last one that was read.
    let next = if found.len() == limit { found.last().map(|(number, _)| *number) } else { last };
    Ok((found, next))
}

fn summary(number: u64, dead_letter: &StoredDeadLetter) -> DeadLetterSummary {
    DeadLetterSummary {
        number,
        at: dead_letter.at,
        topic: dead_letter.topic.clone(),
        partition: dead_letter.partition,
        offset: dead_letter.offset,
        reason: dead_letter.reason.clone(),
        message: dead_letter.message.clone(),
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
    let (dead_letters, next) = matching(&api, query).await?;
    let records = dead_letters.iter().map(|(number, dead_letter)| summary(*number, dead_letter)).collect();
    Ok(response::answer(&DeadLettersAnswer { records, next }))
}

/// `GET /dead-letters/NUMBER`: one dead letter with its value.
pub(super) async fn show(State(api): State<AdminApi>, Path(number): Path<u64>) -> Result<Response<Body>, Refusal> {
    let dead_letters = api.dead_letters.run(move |access| access.list(number.saturating_sub(1), 1)).await??;
    let (_, dead_letter) =
        dead_letters.into_iter().find(|(found, _)| *found == number).ok_or_else(Problem::not_found)?;
    Ok(response::answer(&DeadLetterAnswer {
        summary: summary(number, &dead_letter),
        timestamp_ms: dead_letter.timestamp_ms,
        attempts: dead_letter.attempts,
        key: dead_letter.key.map(record_bytes),
        value: dead_letter.value.map(record_bytes),
        headers: dead_letter.headers.into_iter().map(|(name, value)| (name, value.map(record_bytes))).collect(),
    }))
}

/// `POST /dead-letters/replay`: appends them to the stream again. An event that was applied before changes nothing. Those that were appended
/// are removed from the log; one that is rejected again becomes a new dead letter. Those of which only the beginning was kept stay.
pub(super) async fn replay(
    State(api): State<AdminApi>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response<Body>, Refusal> {
    let (dead_letters, next) = matching(&api, query).await?;
    let (cut, dead_letters): (Vec<_>, Vec<_>) =
        dead_letters.into_iter().partition(|(_, dead_letter)| dead_letter.is_cut());
    let [cut, numbers] =
        [&cut, &dead_letters].map(|dead_letters| dead_letters.iter().map(|(number, _)| *number).collect::<Vec<_>>());
    let appended = api.dead_letters.run(move |access| access.replay(dead_letters)).await?;
    appended.await.map_err(|_| Problem::unavailable("the ledger cannot write", 5_000))?;
    Ok(response::answer(&ReplayAnswer { replayed: numbers.len() as u64, numbers, cut, next }))
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
        Some(records) => records.await?,
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
    let which: Vec<String> = serde_json::from_slice(&body).map_err(|_| {
        Problem::new(ProblemCode::MalformedJson).detail("an array of names of dead letters is expected")
    })?;
    let replay = api.dead_letters.run(|access| access.replay_topics(which)).await?.ok_or_else(Problem::not_found)?;
    Ok(response::answer(&replay.await?))
}

impl From<TopicAccessError> for Refusal {
    fn from(error: TopicAccessError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "a request for dead letters of topics failed");
        Problem::unavailable("the brokers do not answer", 5_000).into()
    }
}
