//! Tokens for SASL/OAUTHBEARER: whatever issues them writes them to a file, or is a command that prints one.
//!
//! ```text
//!   thread: command or file --> the token that is kept <-- librdkafka asks, on the thread that polls
//! ```
//!
//! librdkafka asks for a token when a client is made, and again before the last one ends. It is answered at once, from what a thread keeps: an
//! issuer that hangs holds up no poll. What a token says of itself is not read: it is fetched again long before any issuer lets it end.

mod command;
mod keeper;

use std::error::Error;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};

use crate::error::SourceError;
use keeper::{Keeper, TIMINGS, Timings};

/// Longest token.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// How long a client that is not polled otherwise is polled for librdkafka's first question.
const FIRST_TOKEN: Duration = Duration::from_millis(100);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("neither oauth_token_file nor oauth_token_command is configured")]
    Unconfigured,
    #[error("the command is empty")]
    NoCommand,
    #[error(
        "oauth_token_file: there is no such file or folder, or it may not be entered; the name is not shown, since it may be the token itself"
    )]
    NoFile,
    #[error("{from}: {source}")]
    Io { from: String, source: io::Error },
    #[error("{program} did not end within {timeout:?}")]
    Timeout { program: String, timeout: Duration },
    #[error("{program} ended with {status}")]
    Failed { program: String, status: ExitStatus },
    #[error("{from}: the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong { from: String },
    #[error("{from}: the token is empty")]
    Empty { from: String },
    #[error("{from}: a token is one line without spaces, and nothing else")]
    NotAlone { from: String },
    #[error("the first token is still awaited")]
    Awaited,
    #[error("no client wants a token any more")]
    Unwanted,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Command(Vec<String>),
}

impl Origin {
    /// A token. A command runs no longer than `timeout`, nor than `is_wanted` is true.
    fn fetch(&self, timeout: Duration, is_wanted: impl Fn() -> bool) -> Result<String, TokenError> {
        let (from, bytes) = match self {
            Self::File(path) => {
                // Otherwise the token itself may stand where the path belongs.
                if !path.exists() && !path.parent().is_some_and(Path::is_dir) {
                    return Err(TokenError::NoFile);
                }
                let from = path.display().to_string();
                let bytes = read_file(path).map_err(|source| TokenError::Io { from: from.clone(), source })?;
                (from, bytes)
            }
            Self::Command(words) => {
                let (program, arguments) = words.split_first().ok_or(TokenError::NoCommand)?;
                (program.clone(), command::run(program, arguments, timeout, is_wanted)?)
            }
        };
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { from });
        }
        match bytes.trim_ascii() {
            [] => Err(TokenError::Empty { from }),
            token if !token.iter().all(u8::is_ascii_graphic) => Err(TokenError::NotAlone { from }),
            token => Ok(String::from_utf8_lossy(token).into_owned()),
        }
    }
}

/// What the file holds, of a file that is too long its beginning.
fn read_file(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_TOKEN_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where tokens come from. Clones share what is kept: one thread fetches for them all, from the first client on until the last one is gone.
#[derive(Clone)]
pub struct TokenSource(Arc<Inner>);

struct Inner {
    origin: Origin,
    timings: Timings,
    keeper: OnceLock<Keeper>,
}

impl TokenSource {
    /// A file that holds the token alone.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::new(Origin::File(path), TIMINGS)
    }

    /// A program and its arguments. It prints the token alone.
    #[must_use]
    pub fn command(words: Vec<String>) -> Self {
        Self::new(Origin::Command(words), TIMINGS)
    }

    fn new(origin: Origin, timings: Timings) -> Self {
        Self(Arc::new(Inner { origin, timings, keeper: OnceLock::new() }))
    }

    fn keeper(&self) -> &Keeper {
        self.0.keeper.get_or_init(|| Keeper::start(self.0.origin.clone(), self.0.timings))
    }

    /// Why the newest token could not be had, while that is so: for an alert. A sentence without a full stop.
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.keeper.get()?.failure().map(|error| format!("no token for Kafka: {error}"))
    }
}

impl fmt::Debug for TokenSource {
    /// Leaves the words of a command out: one of them may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

/// The context of clients that need none but their token.
#[derive(Clone, Default)]
pub(super) struct TokenContext(Option<TokenSource>);

impl TokenContext {
    /// The context of a client that is about to be made. Waits until the first token is there or has failed: a client that asks before is refused,
    /// and asks again 10 seconds later.
    pub(super) fn of(source: Option<&TokenSource>) -> Self {
        if let Some(source) = source {
            source.keeper().wait_for_first();
        }
        Self(source.cloned())
    }

    /// The answer when librdkafka asks for a token.
    pub(super) fn generate(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let source = self.0.as_ref().ok_or(TokenError::Unconfigured)?;
        let (token, good_for) = source.keeper().answer()?;
        let lifetime_ms = crate::clock::unix_ms() + i64::try_from(good_for.as_millis()).unwrap_or(i64::MAX);
        Ok(OAuthToken { token, principal_name: String::new(), lifetime_ms })
    }

    /// Lets a client that is not polled before its first request get its token.
    ///
    /// # Errors
    /// There is none: no broker would answer.
    pub(super) fn prime<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) -> Result<(), SourceError> {
        let Some(source) = &self.0 else { return Ok(()) };
        source.keeper().answer().map_err(|error| SourceError::transient("get a token for Kafka", error))?;
        let _nothing_is_assigned = consumer.poll(FIRST_TOKEN);
        Ok(())
    }
}

impl ClientContext for TokenContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.generate()
    }
}

impl ConsumerContext for TokenContext {}

#[cfg(test)]
mod tests;
