//! [`Inspection`]: activity, stores with their devices, a mailbox's tail and one order, from the parts that know them.

use std::sync::Arc;

use orderbell_consumers::Stats;
use orderbell_protocol::admin::{
    Activity, DeviceProblem, DeviceStatus, HotKeyActivity, PartitionActivity, RejectedClients, StoreStatus, TailAnswer,
    TailNotice, TraceAnswer,
};
use orderbell_protocol::balance::BinCount;
use orderbell_protocol::frame::NoticeFields;
use orderbell_protocol::{Delivery, Id, Position, Recipient, UnixMs};

use crate::clock::wall_clock;
use crate::hub::{DeviceConnection, POISON_AFTER};
use crate::ingest::order_view;
use crate::net::{AppState, Inspection, TailError};
use crate::wall::{Feed, StoreOverview};
use orderbell_ledger::{DamagedRow, DeviceBacklog, Ledger, LedgerReadError, OrderKey};

/// Notices in one answer to `orderbell tail`.
const TAIL_MAX: u16 = 200;

/// What is inspected.
pub(super) struct Inspector {
    pub(super) group: Arc<Stats>,
    pub(super) state: Arc<AppState>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) wall: Arc<Feed>,
}

impl Inspection for Inspector {
    fn activity(&self) -> Activity {
        let group = &self.group;
        let partition = |status: &orderbell_consumers::PartitionStatus| PartitionActivity {
            partition: status.partition.to_string(),
            lag: status.lag(),
            checkpoint: status.checkpoint,
            end: status.end,
            in_flight: status.in_flight,
            paused: status.paused,
            damaged: status.damaged,
            as_of: status.as_of_ms.map(UnixMs),
        };
        let hot_key = |hot: &orderbell_consumers::stats::HotKey| HotKeyActivity {
            key: format!("{:016x}", hot.key.0),
            records: hot.records,
            bytes: hot.bytes,
        };
        let hub = self.state.hub();
        Activity {
            as_of: group.as_of_ms().map(UnixMs),
            partitions: group.status().iter().map(partition).collect(),
            in_flight: group.in_flight_records.value(),
            max_in_flight: group.max_in_flight_records.value(),
            keys_backing_off: group.keys_backing_off.value(),
            hot_keys: group.hot_keys().iter().map(hot_key).collect(),
            subscribers: hub.sessions() + hub.waiting_polls(),
            wall_viewers: u64::try_from(self.state.stats().wall_viewers.get()).expect("only who came leaves"),
        }
    }

    fn stores(&self, from: &str, max: usize) -> Result<Vec<StoreStatus>, LedgerReadError> {
        let now = wall_clock();
        self.wall.stores(from, max, now).into_iter().map(|store| self.store(store, now)).collect()
    }

    fn balance(&self) -> Vec<BinCount> {
        self.ledger.balance().counts()
    }

    fn rejected(&self) -> Vec<RejectedClients> {
        self.state.stats().rejections.list()
    }

    fn tail(&self, store: &Id, after: Option<Position>) -> Result<TailAnswer, TailError> {
        let who = Recipient::store(store.clone());
        let now = wall_clock();
        let page = match after {
            Some(after) => self.state.ledger.read(&who, after, after, TAIL_MAX, now)?,
            None => {
                // The store's id as a device name: such a device has no cursor, and only the head is used.
                let (_, head) = self.state.ledger.cursor_and_head(&who, store)?;
                self.state.ledger.read(&who, head, head, 0, now)?
            }
        };
        let notice = |delivery: &Delivery| {
            let key = [store.as_str().as_bytes(), &delivery.position.seq.to_be_bytes()];
            let NoticeFields { at, kind, order, .. } =
                self.ledger.damage().decode("mailboxes", &key, delivery.notice.as_str().as_bytes())?;
            Ok::<_, DamagedRow>(TailNotice { position: delivery.position, at, kind, order })
        };
        Ok(TailAnswer {
            notices: page.notices.iter().map(notice).collect::<Result<_, _>>()?,
            position: page.notices.last().map_or(page.next, |delivery| delivery.position),
            more: page.has_more(),
        })
    }

    fn order(&self, order: &Id, shadow: bool) -> Result<Option<TraceAnswer>, LedgerReadError> {
        let (key, damage) = (OrderKey { shadow, id: order.clone() }, self.ledger.damage());
        let Some(state) = damage.check(self.ledger.orders().state(&key))? else { return Ok(None) };
        let history = |who: &Recipient| damage.check(self.ledger.delivery_log().history(who, &key));
        order_view::for_operator(&key, &state, history, damage).map(Some)
    }
}

impl Inspector {
    fn store(&self, store: StoreOverview, now: UnixMs) -> Result<StoreStatus, LedgerReadError> {
        let who = Recipient::store(store.id.clone());
        let (devices, unread) = self.ledger.damage().check(self.ledger.devices().backlogs(&who))?;
        // The store's backlog is that of its most advanced device: what one device has received, the store knows.
        let least = devices.iter().map(|device| device.backlog).min_by_key(|backlog| backlog.notices).unwrap_or(unread);
        let (name, city) = store.entry.map_or((None, None), |entry| (entry.name, entry.city));
        Ok(StoreStatus {
            id: store.id.to_string(),
            name,
            city,
            reachability: store.reachability,
            backlog: least.notices,
            backlog_since: least.since,
            last_hour: store.last_hour,
            today: store.today,
            devices: devices.into_iter().map(|device| self.device(&who, &device, now)).collect(),
        })
    }

    fn device(&self, who: &Recipient, device: &DeviceBacklog, now: UnixMs) -> DeviceStatus {
        let connection = self.state.hub().device(who, &device.device, now);
        // A session would have sent it again.
        let late_after_ms = self.state.limits().session.ack_timeout.as_millis() as i64;
        let is_late = device.backlog.since.is_some_and(|since| since.plus_ms(late_after_ms) < now);
        DeviceStatus {
            device: device.device.to_string(),
            connected: connection.is_connected,
            problem: problem(connection, is_late, device.backlog.notices),
            backlog: device.backlog.notices,
            backlog_since: device.backlog.since,
        }
    }
}

/// What is wrong with a device, the worst first.
fn problem(connection: DeviceConnection, is_late: bool, backlog: u64) -> Option<DeviceProblem> {
    match connection.ack_timeouts {
        _ if connection.is_shared => Some(DeviceProblem::Shared),
        POISON_AFTER.. => Some(DeviceProblem::Poisoned),
        1.. if backlog > 0 => Some(DeviceProblem::Unresponsive),
        _ => (connection.is_connected && is_late).then_some(DeviceProblem::Slow),
    }
}
