//! HTTP errors as RFC 9457 problem+json.
//!
//! One row a code: a client acts on `code`, a person reads `detail`, neither ever holds a token, a name or a pickup code.

use serde::Serialize;

/// The media type of every error body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// One wrong member of a request body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the body.
    pub pointer: String,
    /// What is wrong there.
    pub reason: String,
}

/// The body of an error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status, repeated.
    pub status: u16,
    /// A stable name of the kind of error; `type` is this name as a URI reference.
    pub code: &'static str,
    /// What happened this time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When to try again. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Members of the body that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of the kind `code`.
    #[must_use]
    pub fn new(status: u16, code: &'static str, title: &'static str) -> Self {
        Self { title, status, code, detail: String::new(), retry_after_ms: None, errors: Vec::new() }
    }

    /// Adds what happened this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// Adds a wrong member.
    #[must_use]
    pub fn error(mut self, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.into(), reason: reason.into() });
        self
    }

    /// 401: no token, or one that is not valid. The same words for every reason, so that nothing can be learnt by trying.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "unauthorized", "A valid token is needed")
    }

    /// 404: nothing here, or nothing here for you.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, "not-found", "Not found")
    }

    /// 409: the position is from another history.
    #[must_use]
    pub fn epoch_changed() -> Self {
        Self::new(409, "epoch-changed", "The position belongs to another history of this mailbox")
            .detail("take the open orders and go on with their position")
    }

    /// 410: the position is older than what is kept.
    #[must_use]
    pub fn continuity_lost() -> Self {
        Self::new(410, "continuity-lost", "The position is older than what is kept")
            .detail("take the open orders and go on with their position")
    }

    /// 503: this server cannot do it now.
    #[must_use]
    pub fn unavailable(detail: &'static str, retry_after_ms: u64) -> Self {
        Self::new(503, "unavailable", "Not available now").detail(detail).retry_after_ms(retry_after_ms)
    }

    /// The JSON of the body.
    #[must_use]
    pub fn to_json(&self) -> String {
        let told = Told { kind: format!("/problems/{}", self.code), problem: self };
        serde_json::to_string(&told).unwrap_or_else(|_| String::from("{}"))
    }
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    problem: &'a Problem,
}
