//! The wall's feed: the chain's numbers, encoded once for all who look.
//!
//! ```text
//!   board (durable numbers) --four times a second, if somebody looks--> one document as bytes --> latest value --> every viewer
//! ```
//!
//! A viewer is given the newest value when it is ready for one: there is no queue, so a slow one skips and a thousand cost no more than
//! their bytes. Without viewers nothing is made.

mod board;
pub mod directory;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use orderbell_protocol::wall::{Wall, WallKind, WallReach};
use orderbell_protocol::{Freshness, Id, UnixMs};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ingest::tally::Counting;
use crate::ingest::time::Zone;
pub use board::WallBoard;
use directory::Directory;

/// Documents are made at most this often: faster than a figure can roll is of no use to anybody.
pub const EVERY_MIN: Duration = Duration::from_millis(250);
/// Without a change, one is made this often all the same: it says how new the numbers are.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// A feed that was not seen for this long is broken: it comes by four times a second.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// What nobody looks at any more is let go this often.
const PRUNE_EVERY: Duration = Duration::from_secs(30);
/// Digits behind the point that a currency may have.
const DIGITS_MAX: u8 = 4;

/// What the wall shows besides numbers, and to whom.
#[derive(schemars::JsonSchema, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WallConfig {
    /// The chain's name, at the top of the wall.
    pub name: String,
    /// Zone whose midnight begins a day of the tallies, by IANA name; by default that of `mapping.time_zone`. After a change days that were
    /// counted stay as they were.
    pub time_zone: Option<Zone>,
    /// ISO 4217 code of the chain's money. Amounts without a currency are taken for it; those in another one are counted, not summed.
    pub currency: String,
    /// Digits of that currency behind the point.
    pub currency_digits: u8,
    /// A CSV file with the columns id, name, city: what stores are called, and where they are.
    pub stores: Option<PathBuf>,
    /// Numbers are shown without a token. Only where everybody who reaches the listener may see them.
    pub open: bool,
    /// Viewers at once: together with the sockets and the requests below the process's file limit.
    pub viewers_max: usize,
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
            viewers_max: 2_000,
        }
    }
}

impl WallConfig {
    /// Values that cannot be right, by their keys.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.currency.len() != 3 || !self.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            found.push(("currency", String::from("an ISO 4217 code: three capital letters")));
        }
        if self.currency_digits > DIGITS_MAX {
            found.push(("currency_digits", format!("at most {DIGITS_MAX}")));
        }
        if let Some(Err(error)) = self.stores.as_deref().map(Directory::read) {
            found.push(("stores", error));
        }
        found
    }

    /// This with what a running server cannot change as `other` has it: what has been counted by days and money, and how many viewers there
    /// may be.
    pub(crate) fn counting_as(&self, other: &Self) -> Self {
        let other = other.clone();
        Self { time_zone: other.time_zone, currency: other.currency, viewers_max: other.viewers_max, ..self.clone() }
    }

    /// What stores are called.
    ///
    /// # Errors
    /// In words, when the file cannot be read.
    pub fn names(&self) -> Result<WallNames, String> {
        let stores = self.stores.as_deref().map(Directory::read).transpose()?.unwrap_or_default();
        Ok(WallNames { config: self.clone(), stores })
    }
}

/// What may change while the wall is shown.
#[derive(Clone, Debug)]
pub struct WallNames {
    config: WallConfig,
    stores: Directory,
}

/// One store, as it is known here.
#[derive(Clone, Debug)]
pub struct KnownStore {
    /// Its id.
    pub id: Id,
    /// What it is called.
    pub shop: Option<directory::Shop>,
    /// True by push, false by polls alone, nothing at all.
    pub reach: Option<bool>,
    /// Orders paid in the last hour.
    pub last_hour: i64,
    /// Orders paid today.
    pub today: i64,
}

/// Says how a store can be reached: true by push, false by polls alone, nothing at all.
pub type Reach = Box<dyn Fn(&Id, UnixMs) -> Option<bool> + Send + Sync>;

/// One document, ready for every way it is told.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Its JSON.
    pub json: Bytes,
    /// The same as a server-sent event.
    pub sse: Bytes,
}

impl Shown {
    fn of(wall: &Wall) -> Self {
        let json = serde_json::to_string(wall).unwrap_or_default();
        let name = if wall.kind == WallKind::Snapshot { "snapshot" } else { "now" };
        let sse = format!("event: {name}\nid: {}-{}\ndata: {json}\n\n", wall.epoch, wall.seq);
        Self { json: json.into(), sse: sse.into() }
    }
}

/// See the module.
pub struct Feed {
    board: Arc<WallBoard>,
    epoch: u32,
    counting: Counting,
    names: ArcSwap<WallNames>,
    reach: Reach,
    newest: watch::Sender<Shown>,
    /// When the task that makes documents was seen last.
    beat: Mutex<Instant>,
    /// The newest snapshot, and when it was made.
    snapshot: Mutex<Option<(UnixMs, Shown)>>,
}

impl Feed {
    /// A feed of what is on the board.
    #[must_use]
    pub fn new(board: Arc<WallBoard>, epoch: u32, counting: Counting, names: WallNames, reach: Reach) -> Arc<Self> {
        Arc::new(Self {
            board,
            epoch,
            counting,
            names: ArcSwap::from_pointee(names),
            reach,
            newest: watch::Sender::new(Shown::default()),
            beat: Mutex::new(Instant::now()),
            snapshot: Mutex::default(),
        })
    }

    /// True where everybody may look.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.names.load().config.open
    }

    /// From now on these names hold.
    pub fn renew(&self, names: WallNames) {
        self.names.store(Arc::new(names));
    }

    fn make(&self, kind: WallKind, now: UnixMs, fresh: Freshness) -> Shown {
        let names = self.names.load();
        let unnamed = self.board.with(|numbers| numbers.unnamed(&names.stores));
        let mut reach = WallReach::default();
        for store in names.stores.ids().chain(&unnamed) {
            match (self.reach)(store, now) {
                Some(true) => reach.push += 1,
                Some(false) => reach.poll += 1,
                None => reach.away += 1,
            }
        }
        let at = board::At {
            now,
            epoch: self.epoch,
            fresh,
            counting: &self.counting,
            config: &names.config,
            names: &names,
            reach,
        };
        Shown::of(&self.board.with(|numbers| numbers.at(&at, kind)))
    }

    /// The newest snapshot: at most [`EVERY_MIN`] old, whoever asks how often.
    #[must_use]
    pub fn snapshot(&self, now: UnixMs, fresh: Freshness) -> Shown {
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, shown)) = &*kept
            // A clock that was set back makes a new one, too.
            && (0..EVERY_MIN.as_millis() as i64).contains(&(now.0 - made.0))
        {
            return shown.clone();
        }
        let shown = self.make(WallKind::Snapshot, now, fresh);
        *kept = Some((now, shown.clone()));
        shown
    }

    /// The newest document, from the next one on. Whoever wants a snapshot takes it before: what comes behind it is newer.
    #[must_use]
    pub fn look(&self) -> watch::Receiver<Shown> {
        let mut looking = self.newest.subscribe();
        looking.mark_unchanged();
        looking
    }

    /// Shows everybody the numbers of this moment.
    fn publish(&self, fresh: Freshness) {
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        self.newest.send_replace(self.make(WallKind::Now, fresh.at, fresh));
        // A viewer that has seen this one and comes back must not be given a snapshot that is older.
        *kept = None;
    }

    /// Every store that is known, from the id `from` on, at most `max`, by id: with its name, how it can be reached, and its orders.
    #[must_use]
    pub fn known(&self, from: &str, max: usize, now: UnixMs) -> Vec<KnownStore> {
        let names = self.names.load();
        let unnamed = self.board.with(|numbers| numbers.unnamed(&names.stores));
        let mut ids: Vec<&Id> = names.stores.ids().chain(&unnamed).filter(|id| id.as_str() >= from).collect();
        ids.sort_unstable();
        let today = self.counting.day(now);
        let known = |id: &&Id| {
            let (last_hour, today) = self.board.with(|numbers| numbers.of_store(id, now, today));
            let shop = names.stores.shop(id).cloned();
            KnownStore { id: (*id).clone(), shop, reach: (self.reach)(id, now), last_hour, today }
        };
        ids.iter().take(max).map(known).collect()
    }

    /// What is wrong with the wall at `now`, in words.
    #[must_use]
    pub fn light(&self, now: Instant) -> Option<String> {
        let beat = *self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = now.saturating_duration_since(beat);
        (silent > SILENT_MAX)
            .then(|| format!("no document was made for {} s: screens show old numbers", silent.as_secs()))
    }

    /// Makes documents for as long as somebody looks, until `stop`.
    pub async fn run(self: Arc<Self>, fresh: impl Fn() -> Freshness + Send, stop: CancellationToken) {
        let mut made = (0, Instant::now());
        let mut pruned = None::<Instant>;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY_MIN) => {}
            }
            *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            // Numbers grow whether somebody looks or not.
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
                pruned = Some(Instant::now());
                let now = fresh().at;
                self.board.with(|numbers| numbers.prune(now, self.counting.day(now)));
            }
            let commit = self.board.commit();
            let changed = commit != made.0 || made.1.elapsed() >= QUIET_MAX;
            if changed && self.newest.receiver_count() > 0 {
                made = (commit, Instant::now());
                self.publish(fresh());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::tally::{Cell, minute};
    use crate::ledger::{Board, Tally};

    fn fresh() -> Freshness {
        Freshness { at: UnixMs(1_790_000_000_000), as_of: None, stale: false }
    }

    fn feed() -> (Arc<WallBoard>, Arc<Feed>) {
        let board = Arc::new(WallBoard::default());
        let names = WallConfig::default().names().unwrap();
        (board.clone(), Feed::new(board, 1, Counting::default(), names, Box::new(|_, _| None)))
    }

    fn paid(board: &WallBoard, commit: u64, shadow: bool) {
        let at = fresh().at;
        let day = Counting::default().day(at);
        let cell = Cell::Paid as u16;
        board.counted(&[Tally { shadow, minute: minute(at), day, store: None, cell, by: 1 }], commit);
    }

    fn read(shown: &Shown) -> Wall {
        serde_json::from_slice(&shown.json).unwrap()
    }

    #[test]
    fn who_comes_back_is_given_nothing_older_than_what_it_saw() {
        let (board, feed) = feed();
        let mut looking = feed.look();
        paid(&board, 1, false);
        assert_eq!(read(&feed.snapshot(fresh().at, fresh())).today.paid, 1);
        paid(&board, 2, false);
        feed.publish(fresh());
        let seen = read(&looking.borrow_and_update());
        assert_eq!((seen.seq, seen.today.paid), (2, 2));
        let again = read(&feed.snapshot(fresh().at, fresh()));
        assert_eq!((again.seq, again.today.paid), (2, 2), "within the time for which a snapshot is kept");
    }

    #[tokio::test]
    async fn a_feed_that_stands_still_is_a_red_light() {
        let (_, feed) = feed();
        let later = Instant::now() + SILENT_MAX + Duration::from_secs(1);
        assert_eq!(feed.light(Instant::now()), None);
        assert!(feed.light(later).is_some());
        let stop = CancellationToken::new();
        let running = feed.clone().run(fresh, stop.clone());
        let _still_running = tokio::time::timeout(EVERY_MIN * 3, running).await;
        assert_eq!(feed.light(Instant::now() + SILENT_MAX / 2), None);
    }

    #[test]
    fn load_test_traffic_is_shown_nowhere() {
        let (board, feed) = feed();
        paid(&board, 1, true);
        assert_eq!(read(&feed.snapshot(fresh().at, fresh())).today.paid, 0);
    }

    #[test]
    fn a_configuration_that_cannot_be_right_is_told() {
        let wrong = WallConfig {
            currency: "yuan".into(),
            currency_digits: 9,
            stores: Some("/nowhere/stores.csv".into()),
            ..WallConfig::default()
        };
        let keys: Vec<_> = wrong.mistakes().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["currency", "currency_digits", "stores"]);
    }
}
