//! What the admin listener asks, answered by the parts that know: lights, stores and their devices, a mailbox's tail, an order's story, dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use orderbell_consumers::Stats;
use orderbell_protocol::{Id, Page, Position, ReadError, Recipient, Role};
#[cfg(feature = "kafka")]
use tokio::sync::Semaphore;

use crate::hub::STUCK_AFTER;
use crate::ingest::{IngestStats, desk, door};
use crate::ledger::{DeviceBehind, DiskError, KeptLetter, Ledger, OrderKey};
use crate::net::{self, DeviceSeen, Health, Net, Replayed, StoreSeen, TopicLetters, TopicReplayed};
use crate::observe::Metrics;
#[cfg(feature = "kafka")]
use crate::stream::buried::Buried;
use crate::stream::emitter::EmitStats;
use crate::wall::{Feed, KnownStore};

/// Crowded mailboxes that are named among the red lights.
const CROWDED_SHOWN_MAX: usize = 20;
/// A connected device that has not acknowledged a notice for so long is slow: as long as a session waits until it sends again.
const SLOW_MS: i64 = 10_000;
/// Dead letters of a topic's partition that are shown: the newest. `orderbell dlq` has all.
#[cfg(feature = "kafka")]
const BURIED_SHOWN_MAX: u64 = 200;
/// Notices in one answer to `orderbell tail`.
const TAIL_MAX: u16 = 200;

/// Who is asked.
pub(super) struct State {
    pub(super) ready: AtomicBool,
    pub(super) group: Arc<Stats>,
    pub(super) emit: Arc<EmitStats>,
    pub(super) ingest: Arc<IngestStats>,
    pub(super) net: Arc<Net>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) wall: Arc<Feed>,
    pub(super) metrics: Metrics,
    /// One at a time reads dead letters from topics: it takes a consumer of its own, and may take a while.
    #[cfg(feature = "kafka")]
    pub(super) buried: Option<(Buried, Arc<Semaphore>)>,
}

impl Health for State {
    fn lights(&self) -> BTreeMap<String, String> {
        let mut lights = self.group.lights();
        let (unusable, stuck) = (self.net.stats().unusable.get(), self.net.stats().stuck.get());
        if unusable + stuck > 0 {
            let what = format!(
                "{unusable} that clients cannot use, {stuck} that no connection gets acknowledged, since the start"
            );
            lights.insert(String::from("notices"), what);
        }
        let paid = self.ingest.paid_rejected.value();
        if paid > 0 {
            let what = format!("{paid} since the start look like paid orders: orderbell dlq list");
            lights.insert(String::from("dead letters"), what);
        }
        if self.ledger.is_full() {
            lights.insert(String::from("disk"), String::from("too little free space: nothing new is taken in"));
        }
        if let Some(why) = self.ledger.doubt() {
            let what = format!("history cannot be vouched for ({why}): a new epoch, and the log is read again");
            lights.insert(String::from("ledger"), what);
        }
        if let Some(what) = self.net.stale() {
            lights.insert(String::from("stream"), what);
        }
        lights.extend(self.wall.light(Instant::now()).map(|what| (String::from("wall"), what)));
        lights.extend(self.emit.light().map(|what| (String::from("outbox"), what)));
        for (who, live) in self.ledger.crowded().into_iter().take(CROWDED_SHOWN_MAX) {
            // A customer's id is nobody's business here.
            let who = if who.role == Role::Store { who.to_string() } else { String::from("a customer") };
            lights.insert(
                format!("mailbox of {who}"),
                format!("{live} notices that may not go yet: nobody comes for them"),
            );
        }
        lights
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }

    fn letters(&self, after: u64, max: usize) -> Result<Vec<(u64, KeptLetter)>, DiskError> {
        self.ledger.letters(after, max)
    }

    fn top(&self) -> serde_json::Value {
        let group = &self.group;
        let part = |status: &orderbell_consumers::Status| {
            serde_json::json!({"partition": status.part.to_string(), "lag": status.lag(), "frontier": status.durable, "end": status.end, "in_flight": status.in_flight,
                               "paused": status.paused, "damaged": status.damaged, "as_of": status.as_of_ms})
        };
        let hot = |hot: &orderbell_consumers::stats::Hot| serde_json::json!({"key": format!("{:016x}", hot.key.0), "records": hot.records, "bytes": hot.bytes});
        serde_json::json!({
            "at": net::wall_clock(), "ready": self.ready(), "red": self.lights(), "as_of": group.as_of_ms(),
            "partitions": group.status().iter().map(part).collect::<Vec<_>>(),
            "held": group.held_records.value(), "held_max": group.records_max.value(), "parked": group.parked.value(),
            "hot": group.hot().iter().map(hot).collect::<Vec<_>>(),
            "readers": self.net.hub().seats(), "viewers": self.net.stats().viewers.get(),
        })
    }

    fn tail(&self, store: &Id, after: Option<Position>) -> Result<Page, ReadError> {
        let who = Recipient::store(store.clone());
        let now = net::wall_clock();
        match after {
            Some(after) => self.ledger.read(&who, after, after, TAIL_MAX, now),
            None => {
                // A device of this name has no cursor: what is looked for is the newest position.
                let (_, head) = self.ledger.standing(&who, store)?;
                self.ledger.read(&who, head, head, 0, now)
            }
        }
    }

    fn story(&self, order: &Id, shadow: bool) -> Result<Option<serde_json::Value>, DiskError> {
        let key = OrderKey { shadow, id: order.clone() };
        let Some(state) = self.ledger.order(&key)? else { return Ok(None) };
        desk::story(&key, &state, |who| self.ledger.trail(who, &key))
    }

    fn stores(&self, from: &str, max: usize) -> Result<Vec<StoreSeen>, DiskError> {
        let now = net::wall_clock();
        let seen = |known: KnownStore| {
            let who = Recipient::store(known.id.clone());
            let (devices, unread) = self.ledger.places(&who)?;
            // A store has heard what any of its devices has.
            let least =
                devices.iter().map(|device| device.behind).min_by_key(|behind| behind.notices).unwrap_or(unread);
            let (name, city) = known.shop.map_or((None, None), |shop| (shop.name, shop.city));
            let reach = known.reach.map_or("away", |push| if push { "push" } else { "poll" });
            let device = |device: DeviceBehind| {
                let (connected, gave_up) = self.net.hub().device(&who, &device.device);
                let late = device.behind.since.is_some_and(|since| since.plus_ms(SLOW_MS) < now);
                let trouble = trouble(connected && late, gave_up, device.behind.notices).map(str::to_owned);
                let (waiting, waiting_since) = (device.behind.notices, device.behind.since);
                DeviceSeen { device: device.device.to_string(), connected, trouble, waiting, waiting_since }
            };
            Ok(StoreSeen {
                id: known.id.to_string(),
                name,
                city,
                reach: reach.to_owned(),
                waiting: least.notices,
                waiting_since: least.since,
                last_hour: known.last_hour,
                today: known.today,
                devices: devices.into_iter().map(device).collect(),
            })
        };
        self.wall.known(from, max, net::wall_clock()).into_iter().map(seen).collect()
    }

    #[cfg(feature = "kafka")]
    fn topic_letters(&self, one: Option<String>) -> Option<TopicLetters> {
        let (buried, turn) = self.buried.clone()?;
        Some(Box::pin(async move {
            let _turn = turn.acquire().await.map_err(|error| error.to_string())?;
            let per_partition = if one.is_some() { u64::MAX } else { BURIED_SHOWN_MAX };
            let read = tokio::task::spawn_blocking(move || buried.newest(per_partition, one.as_deref()));
            read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }))
    }

    #[cfg(feature = "kafka")]
    fn topic_replay(&self, which: Vec<String>) -> Option<TopicReplayed> {
        let (buried, turn) = self.buried.clone()?;
        Some(Box::pin(async move {
            let _turn = turn.acquire().await.map_err(|error| error.to_string())?;
            buried.again(which).await
        }))
    }

    #[cfg(not(feature = "kafka"))]
    fn topic_letters(&self, _: Option<String>) -> Option<TopicLetters> {
        None
    }

    #[cfg(not(feature = "kafka"))]
    fn topic_replay(&self, _: Vec<String>) -> Option<TopicReplayed> {
        None
    }

    fn replay(&self, letters: Vec<(u64, KeptLetter)>) -> Replayed {
        let numbers = letters.iter().map(|(number, _)| *number).collect();
        let events = letters.iter().map(|(number, letter)| door::again(*number, letter, net::wall_clock())).collect();
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.replay(events, numbers).await.map_err(|_| ()) })
    }

    fn backup(&self, to: &mut dyn std::io::Write) -> std::io::Result<u64> {
        self.ledger.backup(to, |_| {})
    }
}

/// What is wrong with a device to which is sent and which does not acknowledge.
fn trouble(late: bool, gave_up: u32, waiting: u64) -> Option<&'static str> {
    match gave_up {
        STUCK_AFTER.. => Some("stuck"),
        1.. if waiting > 0 => Some("deaf"),
        _ => late.then_some("slow"),
    }
}
