//! Tokens for SASL/OAUTHBEARER: whatever issues them writes them to a file, or is a command that prints one.
//!
//! librdkafka asks for a token when a client is made, and again before the last one ends. What a token says of itself is not read: it is
//! asked for again long before any issuer lets it end.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};

/// How long a token is taken to be good. It is asked for again at four fifths of it.
const LIFETIME: Duration = Duration::from_secs(120);
/// Longest run of a command. The client waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether the command has ended.
const COMMAND_INTERVAL: Duration = Duration::from_millis(20);
/// Longest token.
const MAX_TOKEN_BYTES: u64 = 64 << 10;
/// How long a client that is not polled otherwise waits for its first token to be asked for.
const FIRST_TOKEN: Duration = Duration::from_millis(100);

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A file that holds the token alone.
    File(PathBuf),
    /// A program and its arguments. It prints the token alone.
    Command(Vec<String>),
}

impl TokenSource {
    fn token(&self) -> Result<String, Box<dyn Error>> {
        let text = match self {
            Self::File(path) => {
                let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
                limited(file)?
            }
            Self::Command(words) => run(words)?,
        };
        let token = text.trim();
        if token.is_empty() { Err("the token is empty".into()) } else { Ok(token.to_owned()) }
    }
}

fn limited(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn run(words: &[String]) -> Result<String, Box<dyn Error>> {
    let (program, arguments) = words.split_first().ok_or("the command is empty")?;
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or("no output")?;
    let reading = std::thread::spawn(move || limited(out));
    let until = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                child.kill()?;
                child.wait()?;
                return Err(format!("{program} did not end within {} s", COMMAND_TIMEOUT.as_secs()).into());
            }
            None => std::thread::park_timeout(COMMAND_INTERVAL),
        }
    };
    let text = reading.join().map_err(|_| "the output could not be read")??;
    if status.success() { Ok(text) } else { Err(format!("{program} ended with {status}").into()) }
}

/// The context of clients that need none but their token.
#[derive(Clone, Default)]
pub(super) struct TokenContext(pub(super) Option<TokenSource>);

impl TokenContext {
    /// What librdkafka is told when it asks for a token.
    pub(super) fn generate(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let source = self.0.as_ref().ok_or("neither oauth_token_file nor oauth_token_command is configured")?;
        let token = source.token().inspect_err(|error| tracing::error!(%error, "no token for Kafka"))?;
        let lifetime_ms = crate::clock::unix_ms() + i64::try_from(LIFETIME.as_millis()).unwrap_or(i64::MAX);
        Ok(OAuthToken { token, principal_name: String::new(), lifetime_ms })
    }

    /// Lets a client that is not polled before its first request get its token.
    pub(super) fn prime<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) {
        if self.0.is_some() {
            let _nothing_is_assigned = consumer.poll(FIRST_TOKEN);
        }
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
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_a_file_holds_or_a_command_prints() {
        let command = |words: &[&str]| TokenSource::Command(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(command(&["echo", "a.b.c"]).token().unwrap(), "a.b.c");
        for (words, wanted) in
            [(&["false"][..], "ended with"), (&["true"], "empty"), (&[], "empty"), (&["/none/such"], "No such file")]
        {
            let error = command(words).token().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let path = std::env::temp_dir().join(format!("orderbell-token-{}", std::process::id()));
        std::fs::write(&path, "d.e.f\n").unwrap();
        assert_eq!(TokenSource::File(path.clone()).token().unwrap(), "d.e.f");
        std::fs::remove_file(&path).unwrap();
        assert!(TokenSource::File(path).token().is_err());
    }
}
