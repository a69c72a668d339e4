//! HTTP errors as RFC 9457 `application/problem+json`.
//!
//! Clients act on `code`; people read `detail`. Neither contains a token, a name or a pickup code.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The media type of every error body.
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! problem_codes {
    ($($(#[$doc:meta])+ $name:ident = $status:literal, $word:literal, $title:literal;)+) => {
        /// The kinds of HTTP errors. A client may meet words of a later version, so [`Problem::code`] is text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProblemCode {
            $($(#[$doc])+ $name,)+
        }

        impl ProblemCode {
            /// All of them.
            pub const ALL: [Self; [$($status),+].len()] = [$(Self::$name),+];

            /// The stable name, on which clients act.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// The HTTP status code.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// A summary, the same for every problem of this kind.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// The kind with this name.
            #[must_use]
            pub fn of(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|code| code.word() == word)
            }
        }
    };
}

problem_codes! {
    /// The body of the request is not JSON, or not the JSON that is expected here.
    MalformedJson = 400, "malformed-json", "The body is not JSON";
    /// The body of the request ended early, or is damaged.
    MalformedBody = 400, "malformed-body", "The body cannot be read";
    /// An HTTP/1.1 request names no host, or several.
    BadHost = 400, "bad-host", "The request needs one Host header";
    /// A header of the WebSocket handshake is missing or wrong.
    BadHandshake = 400, "bad-handshake", "The WebSocket handshake is not complete";
    /// The client offered no supported WebSocket subprotocol.
    UnsupportedSubprotocol = 400, "unsupported-subprotocol", "The client offered no supported subprotocol";
    /// The token is missing, invalid or expired.
    Unauthorized = 401, "unauthorized", "A valid token is required";
    /// A page of another origin asks, which is not listed in the configuration.
    ForbiddenOrigin = 403, "forbidden-origin", "Pages of this origin may not ask";
    /// The resource does not exist, or not for this token.
    NotFound = 404, "not-found", "Not found";
    /// The address does not support the method.
    MethodNotAllowed = 405, "method-not-allowed", "This address does not support the method";
    /// The request did not arrive in time.
    Timeout = 408, "timeout", "The body did not arrive in time";
    /// The position belongs to another epoch.
    EpochChanged = 409, "epoch-changed", "The position belongs to another epoch of this mailbox";
    /// Another event of the same type has the same id.
    EventConflict = 409, "event-conflict", "Another event of this type has this id; the other events were stored";
    /// The position is older than the retained notices.
    PositionExpired = 410, "position-expired", "The position is older than the retained notices";
    /// The body is larger than its limit, as sent or unpacked.
    TooLarge = 413, "too-large", "The body is too large";
    /// The body has a media type or a content encoding that is not read.
    UnsupportedMediaType = 415, "unsupported-media-type", "The body has a type or an encoding that is not read";
    /// The open wall is asked for under a name that is not this server's.
    MisdirectedRequest = 421, "misdirected-request", "This server does not answer under this host name";
    /// A query parameter is invalid.
    InvalidParameter = 422, "invalid-parameter", "A parameter is invalid";
    /// A member of the body is invalid.
    InvalidField = 422, "invalid-field", "A member of the body is invalid";
    /// Events of the body cannot be understood; none was stored.
    InvalidEvent = 422, "invalid-event", "Events cannot be understood";
    /// The address expects a WebSocket handshake.
    UpgradeRequired = 426, "upgrade-required", "This address expects a WebSocket handshake";
    /// The client speaks another version of WebSocket.
    WebsocketVersion = 426, "websocket-version", "WebSocket version 13 is needed";
    /// The recipient sent more requests or events than it may.
    RateLimited = 429, "rate-limited", "This recipient asks too often";
    /// As many requests are at work, or connections open, as the server serves at once.
    TooManyRequests = 503, "too-many-requests", "The server has too many requests at once";
    /// The server cannot serve the request at present.
    Unavailable = 503, "unavailable", "Temporarily unavailable";
    /// The handshake needs HTTP/1.1.
    HttpVersion = 505, "http-version", "HTTP/1.1 is needed";
}

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
    /// A problem of this kind.
    #[must_use]
    pub fn new(code: ProblemCode) -> Self {
        Self {
            kind: format!("/problems/{}", code.word()),
            title: Cow::Borrowed(code.title()),
            status: code.status(),
            code: Cow::Borrowed(code.word()),
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
        Self::new(ProblemCode::Unauthorized)
    }

    /// 404: the resource does not exist, or not for this token.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ProblemCode::NotFound)
    }

    /// 409: the position belongs to another epoch.
    #[must_use]
    pub fn epoch_changed() -> Self {
        Self::new(ProblemCode::EpochChanged).detail("fetch the open orders and continue from their position")
    }

    /// 410: the position is older than the retained notices.
    #[must_use]
    pub fn position_expired() -> Self {
        Self::new(ProblemCode::PositionExpired).detail("fetch the open orders and continue from their position")
    }

    /// 503: the server has as many of these at once as it may.
    #[must_use]
    pub fn too_many_requests(detail: &'static str, retry_after_ms: u64) -> Self {
        Self::new(ProblemCode::TooManyRequests).detail(detail).retry_after_ms(retry_after_ms)
    }

    /// 503: the server cannot serve this request at present.
    #[must_use]
    pub fn unavailable(detail: &'static str, retry_after_ms: u64) -> Self {
        Self::new(ProblemCode::Unavailable).detail(detail).retry_after_ms(retry_after_ms)
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
        let problem = Problem::new(ProblemCode::InvalidEvent).error("/0", "no type").retry_after_ms(5);
        let text = problem.to_json();
        assert!(text.starts_with(r#"{"type":"/problems/invalid-event","title":"#), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
    }
}
