//! The token of a client, and what is known of its use.

use std::time::Duration;

use crate::bearer_token::BearerToken;

/// A token with a version, since a refused token may not be the newest one.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) token: BearerToken,
    /// Counts the tokens that were set.
    pub(super) version: u32,
    /// The version in the `hello` of the current socket.
    pub(super) socket_version: u32,
    /// The version in the pending request.
    pub(super) request_version: u32,
    /// Consecutive refusals, and the time of the last one.
    pub(super) refusals: u32,
    pub(super) refused_at: Duration,
}

impl Credentials {
    pub(super) fn new(token: &str, now: Duration) -> Self {
        Self { token: token.into(), version: 0, socket_version: 0, request_version: 0, refusals: 0, refused_at: now }
    }

    pub(super) fn renew(&mut self, token: BearerToken) {
        self.token = token;
        self.version += 1;
    }

    pub(super) fn note_refusal(&mut self, now: Duration) {
        (self.refusals, self.refused_at) = (self.refusals.saturating_add(1), now);
    }
}
