//! The wall: live numbers of the chain, encoded once for all viewers.
//!
//! ```text
//!   totals (durable counters) --four times a second, if there are viewers--> one encoded document --> latest value --> every viewer
//! ```
//!
//! A viewer takes the latest value when it is ready for one: there is no queue, so a slow viewer skips documents and a thousand viewers cost no
//! more than their bytes. Without viewers no document is made.

pub mod directory;
mod totals;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use orderbell_protocol::wall::{Wall, WallKind, WallReachability};
use orderbell_protocol::{Freshness, Id, UnixMs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use directory::{DirectoryFileError, StoreDirectory, StoreEntry};
use orderbell_orders::counting::CountingRules;
use orderbell_orders::event_time::Zone;
use orderbell_protocol::admin::Reachability;
pub use totals::WallTotals;

/// Shortest time between two documents. The figures on the screen roll for about this long, so a faster feed would not be visible.
pub const UPDATE_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Without a change a document is still made this often: it carries `at`, `as_of` and `stale`.
const UNCHANGED_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// The feed task runs four times a second. When it has not run for this long, the wall has stalled.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// Minutes and days that are not shown any more are dropped this often.
const PRUNE_INTERVAL: Duration = Duration::from_secs(30);
/// Largest number of decimal digits of a currency.
const CURRENCY_DIGITS_MAX: u8 = 4;

/// What the wall shows besides numbers, and who may view it.
#[derive(Clone, Debug)]
pub struct WallConfig {
    /// The chain's name, shown at the top of the wall.
    pub name: String,
    /// IANA name of the time zone whose midnight begins a day of the counters; by default that of `mapping.time_zone`. After a change, days
    /// that were already counted keep their bounds.
    pub time_zone: Option<Zone>,
    /// ISO 4217 code of the chain's currency. Amounts without a currency are assumed to be in it; orders in another currency are counted, but
    /// their amounts are not added up.
    pub currency: String,
    /// Decimal digits of that currency.
    pub currency_digits: u8,
    /// A CSV file with the columns id, name, city: names and cities of the stores.
    pub stores: Option<PathBuf>,
    /// If true, the wall needs no token. Set it only where everyone who can reach the listener may see the numbers.
    pub open: bool,
    /// Largest number of viewers at once. Viewers, connections and requests together must stay below the process's file limit.
    pub max_viewers: usize,
}

impl Default for WallConfig {
    fn default() -> Self {
        Self {
            name: String::from("Orderbell"),
            time_zone: None,
            currency: String::from("CNY"),
            currency_digits: 2,
            stores: None,
            open: false,
            max_viewers: 2_000,
        }
    }
}

impl WallConfig {
    /// Invalid values: the key of each, and what is accepted.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.currency.len() != 3 || !self.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            found.push(("currency", String::from("an ISO 4217 code of three capital letters")));
        }
        if self.currency_digits > CURRENCY_DIGITS_MAX {
            found.push(("currency_digits", format!("at most {CURRENCY_DIGITS_MAX}")));
        }
        if let Some(Err(error)) = self.stores.as_deref().map(StoreDirectory::read) {
            found.push(("stores", error.to_string()));
        }
        found
    }

    /// Reads the store directory.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn names(&self) -> Result<WallNames, DirectoryFileError> {
        let stores = self.stores.as_deref().map(StoreDirectory::read).transpose()?.unwrap_or_default();
        Ok(WallNames { config: self.clone(), stores })
    }
}

/// The part of the wall that a reload may change.
#[derive(Clone, Debug)]
pub struct WallNames {
    config: WallConfig,
    stores: StoreDirectory,
}

/// One store with its orders and its reachability, for operators.
#[derive(Clone, Debug)]
pub struct StoreOverview {
    /// The store's id.
    pub id: Id,
    /// Its entry in the store directory, if it is listed.
    pub entry: Option<StoreEntry>,
    /// How it can be notified now.
    pub reachability: Reachability,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// Knows how a store can be notified. The hub implements it; the wall imports nothing of the hub.
pub trait ReachabilitySource: Send + Sync + 'static {
    /// How the store can be notified now.
    fn of_store(&self, store: &Id, now: UnixMs) -> Reachability;
}

/// One document, encoded for every transport.
#[derive(Clone, Debug, Default)]
pub struct EncodedWall {
    /// For answers and WebSocket messages.
    pub json: Bytes,
    /// The same JSON as a server-sent event.
    pub sse: Bytes,
}

impl EncodedWall {
    fn encode(wall: &Wall) -> Self {
        let json = orderbell_protocol::json::encode(wall);
        let event = wall.kind.word();
        let sse = format!("event: {event}\nid: {}-{}\ndata: {json}\n\n", wall.epoch, wall.seq);
        Self { json: json.into(), sse: sse.into() }
    }
}

/// Makes the documents and hands the latest one to every viewer. See the module.
pub struct Feed {
    totals: Arc<WallTotals>,
    epoch: u32,
    counting: CountingRules,
    names: ArcSwap<WallNames>,
    reachability: Arc<dyn ReachabilitySource>,
    latest: watch::Sender<EncodedWall>,
    /// When the task that makes documents ran last.
    last_run: Mutex<Instant>,
    /// The newest snapshot and the time for which it was made.
    snapshot: Mutex<Option<(UnixMs, EncodedWall)>>,
}

impl Feed {
    /// A feed of these totals.
    #[must_use]
    pub fn new(
        totals: Arc<WallTotals>,
        epoch: u32,
        counting: CountingRules,
        names: WallNames,
        reachability: Arc<dyn ReachabilitySource>,
    ) -> Arc<Self> {
        Arc::new(Self {
            totals,
            epoch,
            counting,
            names: ArcSwap::from_pointee(names),
            reachability,
            latest: watch::Sender::new(EncodedWall::default()),
            last_run: Mutex::new(Instant::now()),
            snapshot: Mutex::default(),
        })
    }

    /// True when the wall needs no token.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.names.load().config.open
    }

    /// Replaces names and directory; the next document uses them.
    pub fn set_names(&self, names: WallNames) {
        self.names.store(Arc::new(names));
    }

    fn encode(&self, kind: WallKind, now: UnixMs, fresh: Freshness) -> EncodedWall {
        let names = self.names.load();
        let unlisted = self.totals.with(|totals| totals.unlisted(&names.stores));
        let mut reachability = WallReachability::default();
        for store in names.stores.ids().chain(&unlisted) {
            match self.reachability.of_store(store, now) {
                Reachability::Push => reachability.push += 1,
                Reachability::Poll => reachability.poll += 1,
                Reachability::Offline => reachability.offline += 1,
            }
        }
        let context = totals::DocumentContext {
            now,
            epoch: self.epoch,
            fresh,
            counting: &self.counting,
            config: &names.config,
            names: &names,
            reachability,
        };
        EncodedWall::encode(&self.totals.with(|totals| totals.document(&context, kind)))
    }

    /// The newest snapshot, at most [`UPDATE_INTERVAL_MIN`] old: however often it is requested, it is not computed more often than that.
    #[must_use]
    pub fn snapshot(&self, now: UnixMs, fresh: Freshness) -> EncodedWall {
        let mut cached = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_at, document)) = &*cached
            // A clock that was set back also makes a new one.
            && (0..UPDATE_INTERVAL_MIN.as_millis() as i64).contains(&(now.0 - made_at.0))
        {
            return document.clone();
        }
        let document = self.encode(WallKind::Snapshot, now, fresh);
        *cached = Some((now, document.clone()));
        document
    }

    /// Subscribes to the latest document, from the next one on. A viewer takes its snapshot before the first document, so that every document
    /// is newer than the snapshot.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<EncodedWall> {
        let mut latest = self.latest.subscribe();
        latest.mark_unchanged();
        latest
    }

    /// Makes a document of this moment the latest one.
    fn publish(&self, fresh: Freshness) {
        let mut cached = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        self.latest.send_replace(self.encode(WallKind::Update, fresh.at, fresh));
        // A viewer that has seen this document and reconnects must not be given an older snapshot.
        *cached = None;
    }

    /// Stores by id, from the id `from` on, at most `max`: those of the directory and those with recent orders.
    #[must_use]
    pub fn stores(&self, from: &str, max: usize, now: UnixMs) -> Vec<StoreOverview> {
        let names = self.names.load();
        let unlisted = self.totals.with(|totals| totals.unlisted(&names.stores));
        let mut ids: Vec<&Id> = names.stores.ids().chain(&unlisted).filter(|id| id.as_str() >= from).collect();
        ids.sort_unstable();
        let today = self.counting.day(now);
        let overview = |id: &&Id| {
            let (last_hour, today) = self.totals.with(|totals| totals.of_store(id, now, today));
            let entry = names.stores.entry(id).cloned();
            let reachability = self.reachability.of_store(id, now);
            StoreOverview { id: (*id).clone(), entry, reachability, last_hour, today }
        };
        ids.iter().take(max).map(overview).collect()
    }

    /// For how long the feed task has not run, when that is too long at `now`: viewers then see old numbers.
    #[must_use]
    pub fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let last_run = *self.last_run.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = now.saturating_duration_since(last_run);
        (idle > STALLED_AFTER).then_some(idle)
    }

    /// Makes documents while there are viewers, until `stop`.
    pub async fn run(self: Arc<Self>, fresh: impl Fn() -> Freshness + Send, stop: CancellationToken) {
        let (mut last_commit, mut last_made) = (0, Instant::now());
        let mut last_pruned = None::<Instant>;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPDATE_INTERVAL_MIN) => {}
            }
            *self.last_run.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            // The totals grow without viewers, too.
            if last_pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
                last_pruned = Some(Instant::now());
                let now = fresh().at;
                self.totals.with(|totals| totals.prune(now, self.counting.day(now)));
            }
            let commit = self.totals.commit();
            let is_due = commit != last_commit || last_made.elapsed() >= UNCHANGED_INTERVAL_MAX;
            if is_due && self.latest.receiver_count() > 0 {
                (last_commit, last_made) = (commit, Instant::now());
                self.publish(fresh());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_ledger::{Bucket, CounterDelta, CounterObserver, CounterSums};
    use orderbell_orders::counting::{Counter, minute};

    struct AllOffline;

    impl ReachabilitySource for AllOffline {
        fn of_store(&self, _: &Id, _: UnixMs) -> Reachability {
            Reachability::Offline
        }
    }

    fn fresh() -> Freshness {
        Freshness { at: UnixMs(1_790_000_000_000), as_of: None, stale: false }
    }

    fn feed() -> (Arc<WallTotals>, Arc<Feed>) {
        let board = Arc::new(WallTotals::default());
        let names = WallConfig::default().names().unwrap();
        (board.clone(), Feed::new(board, 1, CountingRules::default(), names, Arc::new(AllOffline)))
    }

    fn paid(board: &WallTotals, commit: u64, shadow: bool) {
        let at = fresh().at;
        let day = CountingRules::default().day(at);
        let counter = Counter::Paid as u16;
        board.changed(&[CounterDelta { shadow, minute: minute(at), day, store: None, counter, by: 1 }], commit);
    }

    fn decode(document: &EncodedWall) -> Wall {
        serde_json::from_slice(&document.json).unwrap()
    }

    #[test]
    fn a_viewer_that_reconnects_gets_no_older_snapshot() {
        let (board, feed) = feed();
        let mut latest = feed.subscribe();
        paid(&board, 1, false);
        assert_eq!(decode(&feed.snapshot(fresh().at, fresh())).today.paid, 1);
        paid(&board, 2, false);
        feed.publish(fresh());
        let seen = decode(&latest.borrow_and_update());
        assert_eq!((seen.seq, seen.today.paid), (2, 2));
        let again = decode(&feed.snapshot(fresh().at, fresh()));
        assert_eq!((again.seq, again.today.paid), (2, 2), "within the time for which a snapshot is cached");
    }

    #[tokio::test]
    async fn a_feed_that_does_not_run_has_stalled() {
        let (_, feed) = feed();
        let later = Instant::now() + STALLED_AFTER + Duration::from_secs(1);
        assert_eq!(feed.stalled_for(Instant::now()), None);
        assert!(feed.stalled_for(later).is_some());
        let stop = CancellationToken::new();
        let running = feed.clone().run(fresh, stop.clone());
        let _still_running = tokio::time::timeout(UPDATE_INTERVAL_MIN * 3, running).await;
        assert_eq!(feed.stalled_for(Instant::now() + STALLED_AFTER / 2), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_gets_at_most_four_documents_a_second_however_many_orders_arrive() {
        let (board, feed) = feed();
        let mut latest = feed.subscribe();
        let stop = CancellationToken::new();
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(feed.clone().run(fresh, stop.clone()));
        let (mut documents, mut paid_at_last) = (0, 0);
        for commit in 1..=1_000 {
            paid(&board, commit, false);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if latest.has_changed().unwrap() {
                documents += 1;
                paid_at_last = decode(&latest.borrow_and_update()).today.paid;
            }
        }
        // Ten seconds of virtual time.
        assert!((35..=40).contains(&documents), "{documents} documents");
        assert!(paid_at_last > 950, "the newest shows {paid_at_last} of 1,000 orders");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn load_test_traffic_is_not_shown() {
        let (board, feed) = feed();
        paid(&board, 1, true);
        assert_eq!(decode(&feed.snapshot(fresh().at, fresh())).today.paid, 0);
    }

    #[test]
    fn sums_that_are_read_again_replace_those_that_were_shown() {
        let (board, feed) = feed();
        paid(&board, 1, false);
        let day = Bucket::ChainDay(CountingRules::default().day(fresh().at));
        let sums = |orders| CounterSums::from([(Counter::Paid as u16, orders)]);
        let mut stored = [(false, day.clone(), sums(40)), (true, day, sums(900))].into_iter().map(Ok);
        board.loaded(&mut stored, 7).unwrap();
        paid(&board, 8, false);
        let wall = decode(&feed.snapshot(fresh().at, fresh()));
        assert_eq!((wall.today.paid, wall.per_minute, wall.seq), (41, 1, 8), "no minute was stored");
    }

    #[test]
    fn invalid_values_are_reported_by_key() {
        let invalid = WallConfig {
            currency: "yuan".into(),
            currency_digits: 9,
            stores: Some("/nowhere/stores.csv".into()),
            ..WallConfig::default()
        };
        let keys: Vec<_> = invalid.mistakes().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["currency", "currency_digits", "stores"]);
    }
}
