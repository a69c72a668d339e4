//! The keys of an issuer that publishes them at an address, `tokens.jwks_url`: fetched again and again.
//!
//! The last good set counts until a newer one arrives, also after a restart and while a changed address has not answered: an issuer that cannot
//! be reached turns nobody away. Where no set was ever fetched from the address, whoever names an unknown key is asked to come back. A token whose
//! key is unknown makes the next fetch come at once, at a bounded rate, since anybody can write such a token.

use std::io::Write;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::FutureExt;
use orderbell_client::{ClientError, Endpoint, HttpClient};
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::config::{ConfigError, KEY_SET_BYTES_MAX, KeySetUrl};

/// Time between two fetches. Issuers publish a key hours before they sign with it.
const INTERVAL: Duration = Duration::from_secs(300);
/// The same after a failure.
const RETRY: Duration = Duration::from_secs(30);
/// The same while there is no set of this address: nobody with a token of this issuer is served until then.
const RETRY_AWAITED: Duration = Duration::from_secs(5);
/// Longest time for a fetch, also for the first one, before anybody is served.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Fetches for tokens with unknown keys: so many at once, and one more after each [`ASKED_REFILL`].
const ASKED_MAX: u32 = 2;
const ASKED_REFILL: Duration = Duration::from_secs(60);

/// Why the keys were not fetched, or not taken.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", .0.with_sources())]
    Client(#[from] ClientError),
    #[error("no answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("no text")]
    NoText(#[from] std::string::FromUtf8Error),
    #[error(transparent)]
    Unusable(#[from] ConfigError),
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// There is nothing to fetch, or its keys count.
    Taken,
    /// It failed, and the last keys of the address count.
    LastCount,
    /// It failed, and there was never a set of the address.
    NoneHeld,
}

/// When the keys are fetched. Times are the server's uptime.
pub(super) struct FetchPacer {
    due: Duration,
    asked_left: u32,
    refilled_at: Duration,
}

impl FetchPacer {
    /// The first fetch is due at once.
    const fn new() -> Self {
        Self { due: Duration::ZERO, asked_left: ASKED_MAX, refilled_at: Duration::ZERO }
    }

    /// After a fetch. `part` of 0 to 255 spreads the next one over a fifth of the interval before its end: nodes that were started together do not
    /// ask together.
    fn fetched(&mut self, outcome: Outcome, now: Duration, part: u8) {
        let interval = match outcome {
            Outcome::Taken => INTERVAL,
            Outcome::LastCount => RETRY,
            Outcome::NoneHeld => RETRY_AWAITED,
        };
        self.due = now + interval - (interval / 5) * u32::from(part) / 255;
    }

    /// A token named a key that is unknown. True when the keys are to be fetched for it.
    fn asked(&mut self, now: Duration) -> bool {
        while self.asked_left < ASKED_MAX && self.refilled_at + ASKED_REFILL <= now {
            self.asked_left += 1;
            self.refilled_at += ASKED_REFILL;
        }
        if self.asked_left == ASKED_MAX {
            self.refilled_at = now;
        }
        let Some(left) = self.asked_left.checked_sub(1) else { return false };
        self.asked_left = left;
        true
    }
}

/// Fetches a set before anybody is served, where none is kept.
pub(super) async fn fetch_first(server: &Server) -> FetchPacer {
    let mut pacer = FetchPacer::new();
    if server.state.tokens().awaits_keys() {
        let outcome = refresh(server).await;
        pacer.fetched(outcome, server.state.uptime(), random_part());
    }
    pacer
}

/// Fetches the keys until the server stops.
pub(super) async fn keep_fresh(server: Arc<Server>, mut pacer: FetchPacer, stop: CancellationToken) {
    loop {
        let wait = pacer.due.saturating_sub(server.state.uptime());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = server.state.unknown_key() => if !pacer.asked(server.state.uptime()) { continue; },
            () = tokio::time::sleep(wait) => {}
        }
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            outcome = refresh(&server) => outcome,
        };
        // What was unknown until now, these keys have answered.
        let _answered = server.state.unknown_key().now_or_never();
        pacer.fetched(outcome, server.state.uptime(), random_part());
    }
}

/// Without random bytes the nodes only ask together.
fn random_part() -> u8 {
    let mut part = [0];
    let _random = rand::fill(&mut part);
    part[0]
}

/// Fetches once, where there is an address.
async fn refresh(server: &Server) -> Outcome {
    let url = server.config.lock().unwrap_or_else(PoisonError::into_inner).live.tokens.jwks_url.clone();
    let Some(url) = url else { return Outcome::Taken };
    let taken = match fetch(&url).await {
        Ok(text) => server.take_keys(&url, &text).map_err(FetchError::from),
        Err(error) => Err(error),
    };
    let Err(error) = taken else { return Outcome::Taken };
    if server.state.tokens().awaits_keys() {
        tracing::warn!(%url, %error, "the issuer's keys cannot be fetched, and no set of this address is there");
        return Outcome::NoneHeld;
    }
    tracing::warn!(%url, %error, "the issuer's keys cannot be fetched; the last ones count");
    Outcome::LastCount
}

/// What is at the address: of status 200, within bounds of time and size, wherever it redirects to.
async fn fetch(url: &KeySetUrl) -> Result<String, FetchError> {
    let endpoint: Endpoint = url.origin().parse()?;
    let mut body = Bounded(Vec::new());
    let client = HttpClient::new(endpoint);
    let done = tokio::time::timeout(FETCH_TIMEOUT, client.download(url.path(), &mut body)).await;
    done??;
    Ok(String::from_utf8(body.0)?)
}

/// A body that fails once it is too large.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > KEY_SET_BYTES_MAX {
            return Err(std::io::Error::other(format!("more than {KEY_SET_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Server {
    /// The keys that were fetched from `url` count from now on, and after a restart.
    fn take_keys(&self, url: &KeySetUrl, text: &str) -> Result<(), ConfigError> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload may have changed the address meanwhile.
        if config.live.tokens.jwks_url.as_ref() != Some(url) {
            return Ok(());
        }
        if config.keep_key_set(url, text)? {
            let keys = config.load_token_keys()?;
            self.state.set_tokens(keys.tokens());
            *self.token_keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
            tracing::info!(%url, "the issuer's keys have changed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_fetched_at_once_then_in_intervals_that_differ_and_sooner_after_a_failure() {
        let mut pacer = FetchPacer::new();
        assert_eq!(pacer.due, Duration::ZERO);
        pacer.fetched(Outcome::Taken, s(10), 0);
        assert_eq!(pacer.due, s(310));
        pacer.fetched(Outcome::Taken, s(10), 255);
        assert_eq!(pacer.due, s(250));
        pacer.fetched(Outcome::LastCount, s(10), 255);
        assert_eq!(pacer.due, s(34));
        pacer.fetched(Outcome::NoneHeld, s(10), 255);
        assert_eq!(pacer.due, s(14), "nobody is served until then");
    }

    #[test]
    fn unknown_keys_bring_two_fetches_and_then_one_in_a_minute() {
        let mut pacer = FetchPacer::new();
        let asked = |pacer: &mut FetchPacer, from: u64, to: u64| (from..to).filter(|now| pacer.asked(s(*now))).count();
        assert_eq!(asked(&mut pacer, 0, 60), 2);
        assert_eq!(asked(&mut pacer, 60, 120), 1);
        assert_eq!(asked(&mut pacer, 120, 720), 10);
        assert_eq!(asked(&mut pacer, 7_200, 7_260), 2, "after a quiet time");
    }

    /// Answers one request with these bytes; its address.
    fn answers(answer: Vec<u8>) -> (KeySetUrl, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/.well-known/jwks.json?x=1", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            // The client may have enough before the end.
            let _cut_off = socket.write_all(&answer);
            String::from_utf8(head).unwrap()
        });
        (url.parse().unwrap(), served)
    }

    #[tokio::test]
    async fn a_set_is_fetched_within_bounds_and_a_redirect_is_not_followed() {
        let (url, served) = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}".to_vec());
        assert_eq!(fetch(&url).await.unwrap(), "{\"keys\":[]}");
        let head = served.join().unwrap();
        assert!(
            head.starts_with("GET /.well-known/jwks.json?x=1 HTTP/1.1") && !head.contains("authorization"),
            "{head}"
        );
        let long = "x".repeat(usize::try_from(KEY_SET_BYTES_MAX).unwrap() + 1);
        for (answer, expected) in [
            (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len()), "more than 1048576 bytes"),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".into(), "302"),
            ("HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n".into(), "503"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(), ""),
            ("no HTTP".into(), ""),
        ] {
            let (url, served) = answers(answer.into_bytes());
            let why = fetch(&url).await.unwrap_err().to_string();
            assert!(why.contains(expected), "{expected} is not in: {why}");
            served.join().unwrap();
        }
        assert!(fetch(&"http://127.0.0.1:1/".parse().unwrap()).await.is_err());
    }
}
