//! Whose a token is, by the keys that count now, and the answer to one that is refused.

use std::sync::Arc;

use orderbell_protocol::Problem;

use super::AppState;
use super::tokens::{InvalidToken, Principal, Tokens};
use crate::clock::wall_clock;

impl AppState {
    /// The keys that tokens are checked with now.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// The principal of a token.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub(crate) fn principal_of(&self, token: &str) -> Result<Principal, InvalidToken> {
        self.tokens().check(token, wall_clock()).inspect_err(|invalid| {
            if invalid.names_unknown_key() {
                self.unknown_key.notify_one();
            }
        })
    }

    /// Records who is turned away; the answer. 401 is final for a client, so that a token which may be good gets another.
    pub(super) fn refuse_token(&self, invalid: &InvalidToken) -> Problem {
        self.stats.rejections.record(invalid.reason, invalid.who.as_ref());
        if invalid.may_be_good() {
            return Problem::unavailable("the keys of the tokens' issuer are not there yet", self.retry_ms().into());
        }
        Problem::unauthorized()
    }

    /// Waits until a token names a key that is unknown, or has since the last wait.
    pub async fn unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Replaces the keys.
    pub fn set_tokens(&self, tokens: Tokens) {
        self.tokens.store(Arc::new(tokens));
    }
}
