//! What all requests and connections share, and how each is admitted: by the rates of its device and its recipient, and by the places of its class.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use orderbell_protocol::session::EventVerdict;
use orderbell_protocol::{
    ClientEvent, DeviceId, Freshness, Problem, ProblemCode, ReadError, Recipient, RejectionReason, Role, UnixMs,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::class_places::{AtWork, ClassPlace, ClassPlaces, RequestClass};
use super::identity_rates::Identity;
use super::ledger_handle::LedgerHandle;
use super::origin::PageRules;
use super::places::RequestPlace;
use super::poll::invalid_parameter;
use super::recipient_limits::{Asked, RecipientLimits};
use super::response::Refusal;
use super::retry_spread::{self, RetrySpread};
use super::stats::NetStats;
use super::tokens::Tokens;
use super::viewers::Viewers;
use super::{NetLimits, Orders};
use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::wall::Feed;
use orderbell_ledger::{Appended, DeviceBinding, Ledger};

/// When a recipient may come again that has too many requests at work.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// What a client is answered whose token names no device, and that uses the name of a device that another token names.
pub(crate) const NAME_IS_TAKEN: &str = "this device has a token of its own: use that, or another device id";

/// What all requests and connections share.
pub struct AppState {
    pub(crate) ledger: LedgerHandle,
    pub(crate) hub: Arc<Hub>,
    pub(super) tokens: ArcSwap<Tokens>,
    /// A token named a key that is unknown.
    pub(super) unknown_key: Notify,
    limits: ArcSwap<NetLimits>,
    pages: ArcSwap<PageRules>,
    pub(crate) orders: Arc<dyn Orders>,
    pub(crate) wall: Arc<Feed>,
    pub(crate) stats: Arc<NetStats>,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) connections: Arc<Semaphore>,
    pub(super) viewers: Arc<Viewers>,
    places: Arc<ClassPlaces>,
    of_recipients: Arc<RecipientLimits>,
    draining: AtomicBool,
    started: Instant,
    started_at: UnixMs,
    retry_spread: RetrySpread,
}

impl AppState {
    /// The shared state of a server that starts now.
    #[must_use]
    pub fn new(
        ledger: Arc<Ledger>,
        hub: Arc<Hub>,
        tokens: Tokens,
        limits: NetLimits,
        pages: PageRules,
        orders: Arc<dyn Orders>,
        wall: Arc<Feed>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: LedgerHandle::new(ledger),
            hub,
            tokens: ArcSwap::from_pointee(tokens),
            unknown_key: Notify::new(),
            limits: ArcSwap::from_pointee(limits),
            pages: ArcSwap::from_pointee(pages),
            orders,
            wall,
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            viewers: Arc::new(Viewers::new(limits.max_viewers, limits.max_viewers_per_token)),
            places: Arc::new(ClassPlaces::new(&limits)),
            of_recipients: Arc::default(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            started_at: wall_clock(),
            retry_spread: RetrySpread::default(),
        })
    }

    /// The limits that hold now.
    pub(crate) fn limits(&self) -> NetLimits {
        **self.limits.load()
    }

    /// Which pages of other servers may ask now.
    pub(super) fn page_rules(&self) -> arc_swap::Guard<Arc<PageRules>> {
        self.pages.load()
    }

    /// Replaces keys, limits and the rules for pages: for requests at once, for a client with a WebSocket from its next connection on. The bounds of connections and
    /// viewers, and what the listeners were started with, stay.
    pub fn reload(&self, tokens: Tokens, limits: NetLimits, pages: PageRules) {
        self.set_tokens(tokens);
        self.limits.store(Arc::new(limits));
        self.pages.store(Arc::new(pages));
    }

    /// Takes so many events from the rates of a device and its recipient.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn admit_events(&self, client: Identity<'_>, events: usize) -> Result<(), Refusal> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let taken = self.of_recipients.take(Asked::Events, client, events, self.limits().events, self.uptime());
        taken.map_err(|wait| self.rate_limited(client.who, wait))
    }

    /// Takes a request from the rates of a device and its recipient.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn admit_request(&self, client: Identity<'_>) -> Result<(), Refusal> {
        self.take_poll(client).map_err(|wait| self.rate_limited(client.who, wait))
    }

    /// As [`Self::admit_request`], for a poll that may be answered nevertheless.
    ///
    /// # Errors
    /// It has none left, and how long to wait.
    pub(crate) fn take_poll(&self, client: Identity<'_>) -> Result<(), Duration> {
        self.of_recipients.take(Asked::Polls, client, 1, self.limits().polls, self.uptime())
    }

    /// Takes a session from the rates of a device and its recipient; false when either has none left.
    pub(crate) fn admit_hello(&self, client: Identity<'_>) -> bool {
        self.of_recipients.take(Asked::Hellos, client, 1, self.limits().hellos, self.uptime()).is_ok()
    }

    /// True when this client may use the name of its device: a name that a token has named is taken for clients whose tokens name none, also when the
    /// cursor that says so is gone while the device is connected. Who is turned away is recorded.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn may_use_name(&self, client: Identity<'_>) -> Result<bool, ReadError> {
        let Identity { who, device, binding } = client;
        let is_taken =
            !binding.is_bound() && (self.hub.has_bound_session(who, device) || self.ledger.is_bound(who, device)?);
        if is_taken {
            self.stats.rejections.record("device-bound", Some(who));
        }
        Ok(!is_taken)
    }

    /// As [`Self::may_use_name`], for a request.
    ///
    /// # Errors
    /// The name is taken, or the ledger cannot be read.
    pub(crate) fn check_name(&self, client: Identity<'_>) -> Result<(), Refusal> {
        if self.may_use_name(client)? {
            return Ok(());
        }
        Err(invalid_parameter("device", NAME_IS_TAKEN))
    }

    /// A place for a poll that waits, instead of its place among the requests, until its answer was taken. None when too many wait, of this
    /// recipient or of all: then it is answered at once, and that is recorded.
    pub(crate) fn begin_waiting(
        &self,
        who: &Recipient,
        binding: DeviceBinding,
        place: Option<&RequestPlace>,
    ) -> Option<AtWork> {
        let (class, max) = (RequestClass::WaitingPoll, self.limits().max_waiting_polls_per_recipient);
        let began = self.of_recipients.begin(class, (who, binding), max).and_then(|of_recipient| {
            let place = self.places.exchange(class, Some(who.role), place)?;
            Some(AtWork { _of_recipient: of_recipient, _place: place })
        });
        if began.is_none() {
            self.too_many_wait(who);
        }
        began
    }

    /// Records that a poll is answered at once, because too many wait.
    pub(crate) fn too_many_wait(&self, who: &Recipient) {
        self.stats.rejections.record("too-many-waiting-polls", Some(who));
    }

    /// A place for a request for open orders or a timeline, instead of its place among the requests.
    ///
    /// # Errors
    /// As many of this recipient are at work as may be, or of all.
    pub(crate) fn begin_list(
        &self,
        who: &Recipient,
        binding: DeviceBinding,
        place: Option<&RequestPlace>,
    ) -> Result<AtWork, Refusal> {
        self.begin(RequestClass::List, (who, binding), self.limits().max_lists_per_recipient, place)
    }

    /// A place for the posted events of a till or a phone, instead of its place among the requests.
    ///
    /// # Errors
    /// As many of this recipient are at work as may be, or of all.
    pub(crate) fn begin_client_post(
        &self,
        who: &Recipient,
        binding: DeviceBinding,
        place: Option<&RequestPlace>,
    ) -> Result<AtWork, Refusal> {
        self.begin(RequestClass::ClientPost, (who, binding), self.limits().max_posts_per_recipient, place)
    }

    fn begin(
        &self,
        class: RequestClass,
        (who, binding): (&Recipient, DeviceBinding),
        max: u16,
        place: Option<&RequestPlace>,
    ) -> Result<AtWork, Refusal> {
        let Some(of_recipient) = self.of_recipients.begin(class, (who, binding), max) else {
            return Err(self.rate_limited(who, BUSY_RETRY));
        };
        let place = self.exchange(class, Some(who.role), place)?;
        Ok(AtWork { _of_recipient: of_recipient, _place: place })
    }

    /// A place for the posted events of a producer, instead of its place among the requests.
    ///
    /// # Errors
    /// As many are at work as may be.
    pub(crate) fn begin_producer_post(&self, place: Option<&RequestPlace>) -> Result<ClassPlace, Refusal> {
        self.exchange(RequestClass::ProducerPost, None, place)
    }

    fn exchange(
        &self,
        class: RequestClass,
        role: Option<Role>,
        place: Option<&RequestPlace>,
    ) -> Result<ClassPlace, Refusal> {
        self.places.exchange(class, role, place).ok_or_else(|| {
            self.stats.record_full("too-many-requests");
            Problem::too_many_requests("too many requests of this kind", 5_000).into()
        })
    }

    /// The places of the classes of requests.
    #[must_use]
    pub fn places(&self) -> &Arc<ClassPlaces> {
        &self.places
    }

    pub(crate) fn rate_limited(&self, who: &Recipient, wait: Duration) -> Refusal {
        self.stats.rejections.record("rate-limited", Some(who));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Refusal(Problem::new(ProblemCode::RateLimited).retry_after_ms(wait_ms))
    }

    /// Makes an event of a client durable: checked at the call, answered when it is durable.
    pub(crate) fn publish_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
    ) -> impl Future<Output = EventVerdict> + Send + 'static {
        let incoming = self.orders.check_client_event(who, device, event, wall_clock());
        let appended = incoming.map(|event| event.map(|event| self.ledger.append(vec![event])));
        let stats = self.stats.clone();
        async move {
            let verdict = match appended {
                Err(reason) => EventVerdict::Rejected(reason),
                Ok(None) => EventVerdict::Duplicate,
                Ok(Some(appended)) => match appended.await.as_deref() {
                    Ok([Appended::Stored]) => EventVerdict::Stored,
                    Ok([Appended::Duplicate]) => EventVerdict::Duplicate,
                    Ok([Appended::Conflict]) => EventVerdict::Rejected(RejectionReason::Conflict),
                    _ => EventVerdict::Rejected(RejectionReason::Unavailable),
                },
            };
            stats.record_client_event(verdict);
            verdict
        }
    }

    /// Up to when the stream has been read, and whether that is too long ago. For `stale_after` after a start an unknown `as_of` is not stale.
    pub fn freshness(&self) -> Freshness {
        let (at, as_of) = (wall_clock(), self.orders.as_of());
        let since = as_of.unwrap_or(self.started_at);
        let stale_after = i64::try_from(self.limits().stale_after.as_millis()).unwrap_or(i64::MAX);
        // While the ledger is rebuilt from the log, it holds only a part of what happened.
        let stale = since.plus_ms(stale_after) < at || self.ledger.is_rebuilding();
        Freshness { at, as_of, stale }
    }

    /// For how long the stream was not read to its end, when clients see `stale`.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        let fresh = self.freshness();
        let ms = fresh.at.0 - fresh.as_of.unwrap_or(self.started_at).0;
        fresh.stale.then(|| Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// Time since the start: the clock of the sessions.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counters of the network side.
    #[must_use]
    pub fn stats(&self) -> &Arc<NetStats> {
        &self.stats
    }

    /// The registry of connected subscribers.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The tasks that a drain waits for.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the drain begins.
    #[must_use]
    pub fn draining_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// True once [`Self::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Records that a token of another role was sent. To the client nothing is there.
    pub(crate) fn wrong_role(&self) -> Refusal {
        self.stats.rejections.record("token-role", None);
        Refusal(Problem::not_found())
    }

    /// Records that a handshake is turned away with this problem.
    pub(crate) fn rejected(&self, problem: Problem) -> Refusal {
        if let Cow::Borrowed(code) = problem.code {
            self.stats.rejections.record(code, None);
        }
        Refusal(problem)
    }

    /// When the next viewer of the wall leaves whose token is taken until `expires`: screens often share one token.
    pub(crate) fn end_of_viewer(&self, expires: UnixMs) -> UnixMs {
        let now = wall_clock();
        let left = u64::try_from(expires.0.saturating_sub(now.0)).unwrap_or(0);
        let left = retry_spread::before_expiry(self.retry_spread.next(), left, self.limits().clock_skew);
        now.plus_ms(i64::try_from(left).unwrap_or(i64::MAX))
    }

    /// When the next client of a stopping server should reconnect, in milliseconds: after the restart, and spread over `retry_spread`.
    pub(crate) fn retry_ms(&self) -> u32 {
        self.retry_spread.next_ms(self.limits().retry_spread)
    }

    /// Stops accepting, sends every client away at a paced rate, and waits until all are gone, at most `timeout`. True when all were.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.draining.store(true, Ordering::Release);
        self.drain.cancel();
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}
