//! HTTP errors as RFC 9457 `application/problem+json`.
//!
//! Clients act on `code`; people read `detail`. Neither contains a token, a name or a pickup code.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The media type of every error body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// One invalid member of a request.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the body, or the name of the query parameter.
    pub pointer: String,
    /// What is wrong with the member.
    pub reason: String,
}

/// The body of an HTTP error.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `code` as a URI reference: `/problems/CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A summary that is the same for every problem of this code.
    pub title: Cow<'static, str>,
    /// The HTTP status code.
    pub status: u16,
    /// The stable name of the kind of error.
    pub code: Cow<'static, str>,
    /// What is wrong with this request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When to retry. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The invalid members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem with this code.
    #[must_use]
    pub fn new(status: u16, code: &'static str, title: &'static str) -> Self {
        Self {
            kind: format!("/problems/{code}"),
            title: Cow::Borrowed(title),
            status,
            code: Cow::Borrowed(code),
            detail: String::new(),
            retry_after_ms: None,
            errors: Vec::new(),
        }
    }

    /// Sets what is wrong with this request.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Sets when to retry.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// Adds an invalid member.
    #[must_use]
    pub fn error(mut self, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.into(), reason: reason.into() });
        self
    }

    /// 401: the token is missing, invalid or expired. The same text for every cause, so that probing reveals nothing.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "unauthorized", "A valid token is required")
    }

    /// 404: the resource does not exist, or not for this token.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, "not-found", "Not found")
    }

    /// 409: the position belongs to another epoch.
    #[must_use]
    pub fn epoch_changed() -> Self {
        Self::new(409, "epoch-changed", "The position belongs to another epoch of this mailbox")
            .detail("fetch the open orders and continue from their position")
    }

    /// 410: the position is older than the retained notices.
    #[must_use]
    pub fn position_expired() -> Self {
        Self::new(410, "position-expired", "The position is older than the retained notices")
            .detail("fetch the open orders and continue from their position")
    }

    /// 503: the server cannot serve this request at present.
    #[must_use]
    pub fn unavailable(detail: &'static str, retry_after_ms: u64) -> Self {
        Self::new(503, "unavailable", "Temporarily unavailable").detail(detail).retry_after_ms(retry_after_ms)
    }

    /// The JSON of the body.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::json::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_decodes_to_what_was_encoded() {
        let problem =
            Problem::new(422, "invalid-event", "Events cannot be understood").error("/0", "no type").retry_after_ms(5);
        let text = problem.to_json();
        assert!(text.starts_with(r#"{"type":"/problems/invalid-event","title":"#), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
    }
}
