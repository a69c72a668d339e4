//! The keys of an issuer that publishes them at an address, `tokens.jwks_url`: fetched again and again.
//!
//! The last good set counts until a newer one arrives, also after a restart and while a changed address has not answered: an issuer that cannot
//! be reached turns nobody away. Where no set was ever fetched from the address, whoever names an unknown key is asked to come back. A token whose
//! key is unknown makes the next fetch come at once, at a bounded rate, since anybody can write such a token.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use futures_util::FutureExt;
use orderbell_client::{ClientError, Endpoint, HttpClient};
use orderbell_protocol::alert::AlertCode;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::alerts::Condition;
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
/// Keys that were last fetched so long ago are an alert: three intervals, but an hour at least, since issuers publish a key hours before they
/// sign with it, and a shorter outage of theirs ends without anybody here. Later a new key may be missing, and a withdrawn one be taken.
const AGE_MAX: Duration = Duration::from_secs(3_600);
const _: () = assert!(AGE_MAX.as_secs() >= 3 * INTERVAL.as_secs());
/// The same while there is no set of the address: its tokens are turned away from the first moment, and a restart of the issuer takes less.
const AWAITED_MAX: Duration = Duration::from_secs(60);

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

/// Why keys that count were not kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Failed(#[from] ConfigError),
    #[error("the write has not ended within {} s", .0.as_secs())]
    Hangs(Duration),
    #[error("the last write has not ended yet")]
    Unfinished,
    #[error(transparent)]
    Panicked(#[from] tokio::task::JoinError),
}

/// What a fetch leaves for others: how old the keys are. And what others want of it.
#[derive(Default)]
pub(super) struct KeyFetches {
    /// A reload wants the keys now.
    wanted: Notify,
    /// Locked by a write of the keys until it ends, however long ago somebody waited for it.
    writing: Arc<tokio::sync::Mutex<()>>,
    last: Mutex<Option<LastFetch>>,
}

/// Times are the server's uptime.
#[derive(Debug)]
struct LastFetch {
    url: KeySetUrl,
    /// How old the keys were at that time; without any, how long they had been awaited.
    age: (Duration, Duration),
    /// Why it failed, and whether there was never a set of the address.
    failure: Option<(String, Outcome)>,
}

impl LastFetch {
    /// After another fetch. `kept_for` is how long ago the keys were fetched that are held of the address.
    fn next(
        last: Option<Self>,
        url: KeySetUrl,
        failure: Option<(String, Outcome)>,
        kept_for: Duration,
        now: Duration,
    ) -> Self {
        let age = match last.filter(|last| last.url == url) {
            _ if failure.is_none() => (Duration::ZERO, now),
            Some(last) => last.age,
            None => (kept_for, now),
        };
        Self { url, age, failure }
    }

    fn condition(&self, now: Duration) -> Option<Condition> {
        let age = self.age.0 + now.saturating_sub(self.age.1);
        let is_awaited = self.failure.as_ref().is_some_and(|(_, outcome)| *outcome == Outcome::NoneHeld);
        if age <= if is_awaited { AWAITED_MAX } else { AGE_MAX } {
            return None;
        }
        let (url, minutes) = (&self.url, age.as_secs() / 60);
        let why = self.failure.as_ref().map_or_else(String::new, |(why, _)| format!(": {why}"));
        let detail = if is_awaited {
            format!(
                "the keys of the tokens' issuer were never fetched from {url}, for {minutes} min now{why}; its tokens are not taken yet"
            )
        } else {
            format!(
                "the keys of the tokens' issuer were last fetched {minutes} min ago from {url}{why}; the last ones count"
            )
        };
        Some(Condition::new(AlertCode::IssuerKeysOld, detail))
    }
}

impl KeyFetches {
    /// The keys are fetched at once, also when this comes during a fetch.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// The alert, when the keys are too old.
    pub(super) fn condition(&self, now: Duration) -> Option<Condition> {
        self.last().as_ref().and_then(|last| last.condition(now))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<LastFetch>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            () = server.key_fetches.wanted.notified() => {}
            () = tokio::time::sleep(wait) => {}
            // Last: anybody can write such tokens, and they keep back no fetch that is due.
            () = server.state.unknown_key() => if !pacer.asked(server.state.uptime()) { continue; },
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
    let Some(url) = url else {
        *server.key_fetches.last() = None;
        return Outcome::Taken;
    };
    let taken = match fetch(&url).await {
        Ok(text) => server.take_keys(&url, text).await.map_err(FetchError::from),
        Err(error) => Err(error),
    };
    let failure = taken.err().map(|error| {
        let is_awaited = server.state.tokens().awaits_keys();
        (error.to_string(), if is_awaited { Outcome::NoneHeld } else { Outcome::LastCount })
    });
    let outcome = failure.as_ref().map_or(Outcome::Taken, |(_, outcome)| *outcome);
    match &failure {
        Some((error, Outcome::NoneHeld)) => {
            tracing::warn!(%url, error, "the issuer's keys cannot be fetched, and no set of this address is there");
        }
        Some((error, _)) => tracing::warn!(%url, error, "the issuer's keys cannot be fetched; the last ones count"),
        None => {}
    }
    let fetched_at = server.token_keys.lock().unwrap_or_else(PoisonError::into_inner).fetched_at(&url);
    let kept_for = fetched_at.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    let mut last = server.key_fetches.last();
    *last = Some(LastFetch::next(last.take(), url, failure, kept_for, server.state.uptime()));
    outcome
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

/// Writes keys to the disk. Waits no longer than `timeout`: a disk that hangs does not keep the next fetch back. While a write has not ended,
/// there is no other.
async fn keep(
    writing: &Arc<tokio::sync::Mutex<()>>,
    timeout: Duration,
    write: impl FnOnce() -> Result<(), ConfigError> + Send + 'static,
) -> Result<(), KeepError> {
    let alone = writing.clone().try_lock_owned().map_err(|_| KeepError::Unfinished)?;
    let written = tokio::task::spawn_blocking(move || {
        let _until_it_ends = alone;
        write()
    });
    Ok(tokio::time::timeout(timeout, written).await.map_err(|_| KeepError::Hangs(timeout))???)
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
    async fn take_keys(&self, url: &KeySetUrl, text: String) -> Result<(), ConfigError> {
        let config = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            // A reload may have changed the address meanwhile.
            if config.live.tokens.jwks_url.as_ref() != Some(url) {
                return Ok(());
            }
            let mut held = self.token_keys.lock().unwrap_or_else(PoisonError::into_inner);
            if held.take_set(url, &text, SystemTime::now())? {
                self.state.set_tokens(held.tokens());
                tracing::info!(%url, "the issuer's keys have changed");
            }
            config.clone()
        };
        // Only now: keys that count do not depend on a disk. The next fetch tries again.
        let from = url.clone();
        let write = move || config.keep_key_set(&from, &text);
        if let Err(error) = keep(&self.key_fetches.writing, FETCH_TIMEOUT, write).await {
            tracing::warn!(%url, %error, "the issuer's keys count, but cannot be kept: after a restart they are missing, or old");
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

    /// What the alert says after such fetches: the time of each, in seconds, and how it ended.
    fn said(fetches: &[(u64, Outcome)], kept_for: u64, now: u64) -> Option<String> {
        let url: KeySetUrl = "https://id.example/jwks".parse().unwrap();
        let failure = |outcome| (outcome != Outcome::Taken).then(|| ("refused".to_owned(), outcome));
        let next = |last, (at, outcome): &(u64, Outcome)| {
            Some(LastFetch::next(last, url.clone(), failure(*outcome), s(kept_for), s(*at)))
        };
        let last = fetches.iter().fold(None, next);
        last.and_then(|last: LastFetch| last.condition(s(now))).map(|condition| condition.detail)
    }

    #[test]
    fn keys_are_old_after_an_hour_without_a_fetch_and_sooner_when_there_are_none() {
        use Outcome::{LastCount, NoneHeld, Taken};
        assert_eq!(said(&[], 0, 1_000_000), None, "without an address");
        assert_eq!(said(&[(10, Taken)], 9_000, 3_610), None);
        let old = said(&[(10, Taken)], 0, 3_611).unwrap();
        assert!(old.contains("last fetched 60 min ago from https://id.example/jwks; the last"), "{old}");
        let failed = [(10, Taken), (300, LastCount), (3_600, LastCount)];
        assert_eq!(said(&failed, 0, 3_610), None);
        assert!(said(&failed, 0, 3_611).unwrap().contains("60 min ago from https://id.example/jwks: refused"));
        assert_eq!(said(&[(10, Taken), (4_000, LastCount), (4_030, Taken)], 0, 4_040), None, "it ends");
        // An earlier process fetched them.
        assert_eq!(said(&[(10, LastCount)], 3_600, 10), None);
        assert!(said(&[(10, LastCount), (40, LastCount)], 3_590, 41).is_some());
        // There are none.
        let never = [(10, NoneHeld), (15, NoneHeld), (65, NoneHeld)];
        assert_eq!(said(&never, 0, 70), None);
        assert!(
            said(&never, 0, 71).unwrap().contains("were never fetched from https://id.example/jwks, for 1 min now")
        );
    }

    #[test]
    fn the_age_of_keys_begins_anew_with_another_address() {
        let url = |text: &str| text.parse::<KeySetUrl>().unwrap();
        let old = LastFetch::next(None, url("https://a.example/"), None, s(0), s(0));
        let failure = Some(("refused".to_owned(), Outcome::NoneHeld));
        let new = LastFetch::next(Some(old), url("https://b.example/"), failure, s(0), s(9_000));
        assert!(new.condition(s(9_060)).is_none() && new.condition(s(9_061)).is_some());
    }

    /// The bug: after a write that did not end, there was no further fetch.
    #[tokio::test]
    async fn a_write_that_hangs_is_waited_for_within_bounds_and_is_the_only_one() {
        let writing = Arc::default();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let hanging = move || {
            let _the_disk_answers = ends.recv();
            Ok(())
        };
        let hung = keep(&writing, Duration::from_millis(1), hanging).await;
        assert!(matches!(hung, Err(KeepError::Hangs(_))), "{hung:?}");
        let second = keep(&writing, FETCH_TIMEOUT, || unreachable!("it would hang, too")).await;
        assert!(matches!(second, Err(KeepError::Unfinished)), "{second:?}");
        drop(end);
        drop(writing.lock().await);
        // Patient: a machine may be slow.
        let failed = keep(&writing, s(60), || Err(ConfigError::NoSecretFile)).await;
        assert!(matches!(failed, Err(KeepError::Failed(_))), "{failed:?}");
        keep(&writing, s(60), || Ok(())).await.unwrap();
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
