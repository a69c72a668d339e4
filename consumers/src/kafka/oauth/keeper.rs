//! The thread that fetches tokens, and what it keeps: the last token, and why there is no newer one.

use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;

use super::{Origin, TokenError};

/// How long a token is taken to be good. librdkafka asks again at four fifths of it.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long a token is given while no newer one can be had. Issuers let theirs end after 5 minutes to an hour, which is not known here; brokers
/// refuse one that has ended.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// For how long a token that is older than [`LIFETIME`] is given, so that librdkafka soon asks for a newer one.
const GIVEN_AGAIN_FOR: Duration = Duration::from_secs(30);
/// Longest wait for the thread to end a command, when no client is left.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// When tokens are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timings {
    /// Longest run of a command.
    pub(super) timeout: Duration,
    /// After a token, the next is fetched.
    pub(super) refresh: Duration,
    /// After a failure, it is tried again.
    pub(super) retry: Duration,
}

/// Twice within a token's lifetime; after a failure soon, and without keeping an issuer busy that is in trouble.
pub(super) const TIMINGS: Timings =
    Timings { timeout: Duration::from_secs(10), refresh: Duration::from_secs(60), retry: Duration::from_secs(5) };

/// For how long a token of this age may be taken to be good.
fn good_for(age: Duration) -> Option<Duration> {
    (age < MAX_AGE).then(|| LIFETIME.saturating_sub(age).max(GIVEN_AGAIN_FOR))
}

#[derive(Default)]
struct Kept {
    token: Option<(String, Instant)>,
    /// Why the last try gave none.
    failure: Option<Arc<TokenError>>,
}

#[derive(Default)]
struct Shared {
    kept: Mutex<Kept>,
    tried: Condvar,
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, fetched: Result<String, TokenError>) {
        let mut kept = self.kept();
        match fetched {
            Ok(token) => {
                if kept.failure.take().is_some() {
                    tracing::info!("there is a token for Kafka again");
                }
                kept.token = Some((token, Instant::now()));
            }
            Err(error) => {
                // Once, and not with each try.
                if kept.failure.as_ref().map(ToString::to_string) != Some(error.to_string()) {
                    tracing::error!(%error, "no token for Kafka");
                }
                kept.failure = Some(Arc::new(error));
            }
        }
        self.tried.notify_all();
    }
}

/// Keeps a token, by a thread of its own. Dropping it ends the thread and a command that runs.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    timings: Timings,
    stop: Option<flume::Sender<Infallible>>,
    ended: flume::Receiver<Infallible>,
}

impl Keeper {
    pub(super) fn start(origin: Origin, timings: Timings) -> Self {
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = flume::bounded(1);
        let (ends, ended) = flume::bounded(1);
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("kafka-token".into()).spawn(move || {
            keep(&of_thread, &origin, timings, &stopped);
            drop(ends);
        });
        if let Err(source) = thread {
            shared.note(Err(TokenError::Io { from: "the thread that fetches tokens".into(), source }));
        }
        Self { shared, timings, stop: Some(stop), ended }
    }

    /// Waits until the first try has ended: no longer than a command may run.
    pub(super) fn wait_for_first(&self) {
        let is_untried = |kept: &mut Kept| kept.token.is_none() && kept.failure.is_none();
        let waited = self.shared.tried.wait_timeout_while(self.shared.kept(), self.timings.timeout, is_untried);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The token that is kept, and for how long it may be taken to be good. Never waits.
    pub(super) fn answer(&self) -> Result<(String, Duration), Arc<TokenError>> {
        let kept = self.shared.kept();
        if let Some((token, at)) = &kept.token
            && let Some(good_for) = good_for(at.elapsed())
        {
            return Ok((token.clone(), good_for));
        }
        Err(kept.failure.clone().unwrap_or_else(|| Arc::new(TokenError::Awaited)))
    }

    /// Why the last try gave no token.
    pub(super) fn failure(&self) -> Option<Arc<TokenError>> {
        self.shared.kept().failure.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop = None;
        let _ended_or_busy_with_a_file = self.ended.recv_timeout(STOP_TIMEOUT);
    }
}

fn keep(shared: &Shared, origin: &Origin, timings: Timings, stopped: &flume::Receiver<Infallible>) {
    loop {
        let fetched = origin.fetch(timings.timeout, || !stopped.is_disconnected());
        if stopped.is_disconnected() {
            return;
        }
        let wait = if fetched.is_ok() { timings.refresh } else { timings.retry };
        shared.note(fetched);
        if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(wait) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_given_while_no_newer_one_can_be_had_and_not_for_ever() {
        let seconds = |age| good_for(Duration::from_secs(age)).map(|good_for| good_for.as_secs());
        assert_eq!([0, 60, 119, 120, 3599].map(seconds), [Some(120), Some(60), Some(30), Some(30), Some(30)]);
        assert_eq!(seconds(3600), None);
        assert!(TIMINGS.refresh + TIMINGS.timeout < LIFETIME * 4 / 5, "before librdkafka asks");
    }
}
