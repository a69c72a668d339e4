//! Dead letters on the admin listener: list, look, send again. Whole records, with what people ordered: keep the listener inside.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use orderbell_protocol::Problem;
use orderbell_protocol::UnixMs;
use serde::{Deserialize, Serialize};

use super::admin::Health;
use super::reply::{self, Refusal};
use crate::ledger::KeptLetter;

/// One letter of a topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicLetter {
    /// TOPIC/PARTITION@OFFSET of the letter itself.
    pub which: String,
    /// When it was written.
    pub at: UnixMs,
    /// Where the record came from.
    pub topic: String,
    /// Its partition there.
    pub partition: Option<i32>,
    /// Its offset there.
    pub offset: Option<i64>,
    /// Why it could not be understood: a stable word.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// What it was; told of one letter alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Letters in one answer, and letters that one request sends again.
const PAGE_MAX: usize = 500;
/// Names of letters in one request: thousands.
const NAMES_BYTES_MAX: usize = 256 * 1024;

#[derive(Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    after: u64,
    reason: Option<String>,
    limit: Option<usize>,
}

/// Letters with their numbers, and where the next page begins.
type Found = (Vec<(u64, KeptLetter)>, Option<u64>);

fn matching(health: &Arc<dyn Health>, asked: &Asked) -> Result<Found, Refusal> {
    let unreadable = |error| {
        tracing::error!(%error, "dead letters cannot be read");
        Refusal(Problem::unavailable("the ledger cannot be read", 5_000))
    };
    let limit = asked.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let letters = health.letters(asked.after, PAGE_MAX).map_err(unreadable)?;
    let last = letters.last().map(|(number, _)| *number).filter(|_| letters.len() == PAGE_MAX);
    let wanted = |letter: &KeptLetter| asked.reason.as_ref().is_none_or(|reason| *reason == letter.reason);
    let found: Vec<_> = letters.into_iter().filter(|(_, letter)| wanted(letter)).take(limit).collect();
    // Cut short, the next page begins behind what was told; otherwise behind what was looked at.
    let next = if found.len() == limit { found.last().map(|(number, _)| *number) } else { last };
    Ok((found, next))
}

pub(crate) async fn list(
    State(health): State<Arc<dyn Health>>,
    Query(asked): Query<Asked>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&health, &asked)?;
    let told: Vec<_> = letters
        .iter()
        .map(|(number, letter)| {
            serde_json::json!({
                "number": number, "at": letter.at, "topic": letter.topic, "partition": letter.partition,
                "offset": letter.offset, "reason": letter.reason, "message": letter.message,
            })
        })
        .collect();
    Ok(reply::json(serde_json::json!({ "letters": told, "next": next }).to_string()))
}

pub(crate) async fn one(
    State(health): State<Arc<dyn Health>>,
    Path(number): Path<u64>,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked { after: number.saturating_sub(1), reason: None, limit: Some(1) };
    let (letters, _) = matching(&health, &asked)?;
    let found = letters.into_iter().find(|(found, _)| *found == number).ok_or_else(Problem::not_found)?;
    let told = serde_json::to_string(&found.1).map_err(|_| Problem::not_found())?;
    Ok(reply::json(told))
}

/// Sends letters again: into the stream, as if they came new. What they say a second time changes nothing. Those that were taken are gone
/// from the log; one that cannot be understood comes back as a new letter.
pub(crate) async fn replay(
    State(health): State<Arc<dyn Health>>,
    Query(asked): Query<Asked>,
) -> Result<Response<Body>, Refusal> {
    let (letters, next) = matching(&health, &asked)?;
    let numbers: Vec<u64> = letters.iter().map(|(number, _)| *number).collect();
    let count = letters.len();
    health.replay(letters).await.map_err(|()| Problem::unavailable("the ledger does not write", 5_000))?;
    Ok(reply::json(serde_json::json!({ "replayed": count, "numbers": numbers, "next": next }).to_string()))
}

#[derive(Deserialize)]
pub(crate) struct Which {
    which: Option<String>,
}

/// `GET /letters/topics`: the newest letters of the topics, or one of them with `which`, whole. Read from the brokers each time.
pub(crate) async fn of_topics(
    State(health): State<Arc<dyn Health>>,
    Query(asked): Query<Which>,
) -> Result<Response<Body>, Refusal> {
    let one = asked.which.is_some();
    let letters = match health.topic_letters(asked.which) {
        Some(letters) => letters.await.map_err(away)?,
        None => Vec::new(),
    };
    if one {
        let letter = letters.first().ok_or_else(Problem::not_found)?;
        return Ok(reply::json(serde_json::json!(letter).to_string()));
    }
    Ok(reply::json(serde_json::json!({ "letters": letters }).to_string()))
}

/// `POST /letters/topics/replay`, with an array of names: sends those again.
pub(crate) async fn replay_of_topics(
    State(health): State<Arc<dyn Health>>,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let body = reply::body(body, NAMES_BYTES_MAX).await?;
    let which: Vec<String> = serde_json::from_slice(&body)
        .map_err(|_| Problem::new(400, "malformed-json", "The body is an array of names of letters"))?;
    let Some(replay) = health.topic_replay(which) else { return Err(Problem::not_found().into()) };
    let count = replay.await.map_err(away)?;
    Ok(reply::json(serde_json::json!({ "replayed": count }).to_string()))
}

fn away(error: String) -> Refusal {
    tracing::warn!(error, "dead letters of topics cannot be reached");
    Refusal(Problem::unavailable("the brokers do not answer", 5_000))
}
