//! The one list of alerts: behind `/ready`, `/top` and `orderbell_alerts`.
//!
//! Each part knows only whether something is wrong now. [`RaisedAlerts`] remembers since when, by code and subject.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orderbell_consumers::{AlertKind, GroupAlert, Stats};
use orderbell_protocol::alert::{Alert, AlertCode, EndsWith};
use orderbell_protocol::{Role, UnixMs};

use super::balance_alerts;
use super::issuer_keys::KeyFetches;
use crate::clock::wall_clock;
use crate::hub::SharedDevice;
use crate::ingest::IngestStats;
use crate::metrics::AlertSource;
use crate::net::AppState;
use crate::stream::outbox_publisher::PublisherStats;
use crate::wall::Feed;
use orderbell_ledger::{Ledger, LedgerFailed, StoredLoss};
use orderbell_orders::source_clocks::ClockOff;

/// Recipients that are named in alerts of one code, and of mailboxes those with most notices.
const RECIPIENTS_MAX: usize = 20;

/// Shared devices of one recipient that are named.
const SHARED_DEVICES_MAX: usize = 5;

/// Something that is wrong now.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) code: AlertCode,
    pub(super) subject: Option<String>,
    /// When it began, if its part knows that.
    pub(super) since: Option<UnixMs>,
    pub(super) detail: String,
}

impl Condition {
    pub(super) fn new(code: AlertCode, detail: impl Into<String>) -> Self {
        Self { code, subject: None, since: None, detail: detail.into() }
    }
}

impl AlertSource for Alerts {
    fn alerts(&self) -> Vec<Alert> {
        self.current()
    }
}

/// When each alert that is raised was first seen. Pure: the caller brings the conditions and the time.
#[derive(Debug, Default)]
struct RaisedAlerts(HashMap<(&'static str, Option<String>), UnixMs>);

impl RaisedAlerts {
    /// The alerts of these conditions, in their order. A condition that is missing is cleared; when it comes back, its `since` is new. Of
    /// several conditions with the same code and subject, the first is taken.
    fn update(&mut self, conditions: Vec<Condition>, now: UnixMs) -> Vec<Alert> {
        let mut raised = HashMap::new();
        let mut alerts = Vec::with_capacity(conditions.len());
        for Condition { code, subject, since, detail } in conditions {
            let key = (code.word(), subject.clone());
            if raised.contains_key(&key) {
                continue;
            }
            let since = since.or_else(|| self.0.get(&key).copied()).unwrap_or(now);
            raised.insert(key, since);
            alerts.push(Alert::new(code, subject, since, detail));
        }
        self.0 = raised;
        alerts
    }
}

/// Asks every part that can raise an alert.
pub(super) struct Alerts {
    group: Arc<Stats>,
    publisher: Arc<PublisherStats>,
    ingest: Arc<IngestStats>,
    state: Arc<AppState>,
    ledger: Arc<Ledger>,
    wall: Arc<Feed>,
    key_fetches: Arc<KeyFetches>,
    raised: Mutex<RaisedAlerts>,
    acknowledged: Mutex<Counted>,
}

/// What is counted since the start and reported by an alert. Those that were acknowledged are taken off.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    nacked: u64,
    poisoned: u64,
}

impl Alerts {
    /// The alerts of these parts.
    pub(super) fn new(
        group: Arc<Stats>,
        publisher: Arc<PublisherStats>,
        ingest: Arc<IngestStats>,
        state: Arc<AppState>,
        ledger: Arc<Ledger>,
        wall: Arc<Feed>,
        key_fetches: Arc<KeyFetches>,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            publisher,
            ingest,
            state,
            ledger,
            wall,
            key_fetches,
            raised: Mutex::default(),
            acknowledged: Mutex::default(),
        })
    }

    /// Everything that needs a person now. Called every second, so that `since` does not depend on who asks.
    pub(super) fn current(&self) -> Vec<Alert> {
        // Locked first: an older evaluation must not overwrite a newer one.
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        self.ingest.unannounced.log_overdue(wall_clock());
        let mut conditions = self.group_conditions();
        conditions.extend(self.ledger.losses().into_iter().map(loss_condition));
        conditions.extend(self.notice_conditions());
        conditions.extend(self.ledger_conditions());
        conditions.extend(self.stream_conditions());
        conditions.extend(self.key_fetches.condition(self.state.uptime()));
        raised.update(conditions, wall_clock())
    }

    /// Clears the alerts with this code and subject that an acknowledgement ends, and returns them as they were. Losses are forgotten durably;
    /// so are records of the balance; counts since the start go on from here.
    ///
    /// # Errors
    /// [`LedgerFailed`] when the ledger can no longer be written.
    pub(super) async fn acknowledge(&self, code: AlertCode, subject: Option<&str>) -> Result<Vec<Alert>, LedgerFailed> {
        // Read before the alerts: what comes in between is not acknowledged.
        let (counted, mut losses) = (self.counted(), self.ledger.losses());
        losses.retain(|loss| {
            code_of(loss.loss.kind()) == code && subject.is_none_or(|subject| subject == loss.partition.to_string())
        });
        let mut cleared = self.current();
        cleared.retain(|alert| alert.code == code && (subject.is_none() || alert.subject.as_deref() == subject));
        if !losses.is_empty() {
            self.ledger.acknowledge_losses(losses).await?;
        }
        if !cleared.is_empty() {
            let bins = self.ledger.balance().acknowledge(|bin| balance_alerts::is_reported_by(code, bin)).await?;
            // More may have come since the alerts were read: the answer says what was acknowledged.
            if let Some(of_balance) = balance_alerts::condition(code, bins) {
                cleared.iter_mut().for_each(|alert| alert.detail.clone_from(&of_balance.detail));
            }
            if code == AlertCode::NoticesUndeliverable {
                *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = counted;
            }
        }
        for alert in &cleared {
            let (subject, detail) = (alert.subject.as_deref().unwrap_or_default(), &alert.detail);
            tracing::info!(code = code.word(), subject, detail, "an operator acknowledged an alert");
        }
        Ok(cleared)
    }

    /// What is counted since the start.
    fn counted(&self) -> Counted {
        let stats = self.state.stats();
        let (nacked, poisoned) = (stats.notices_nacked.get(), stats.notices_poisoned.get());
        Counted { nacked, poisoned }
    }

    fn group_conditions(&self) -> Vec<Condition> {
        let condition = |alert: GroupAlert| Condition {
            code: code_of(alert.kind),
            subject: Some(alert.subject).filter(|subject| !subject.is_empty()),
            since: Some(UnixMs(alert.since_ms)),
            detail: alert.detail,
        };
        // The ledger has the losses, and keeps them when the group starts a partition again.
        let ends_by_itself = |alert: &GroupAlert| code_of(alert.kind).ends_with() == EndsWith::Condition;
        self.group.alerts().into_iter().filter(ends_by_itself).map(condition).collect()
    }

    fn notice_conditions(&self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let (all, seen) = (self.counted(), *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner));
        let (nacked, poisoned) = (all.nacked - seen.nacked, all.poisoned - seen.poisoned);
        if nacked + poisoned > 0 {
            let detail = format!(
                "{nacked} notices that clients cannot use, {poisoned} skipped after repeated ack timeouts; {}",
                ack_command(AlertCode::NoticesUndeliverable, None)
            );
            conditions.push(Condition::new(AlertCode::NoticesUndeliverable, detail));
        }
        let bins = self.ledger.balance().counts();
        let of_balance = |code| balance_alerts::condition(code, bins.clone());
        conditions.extend([AlertCode::DeadLetters, AlertCode::PaidUnannounced].into_iter().filter_map(of_balance));
        conditions
    }

    fn ledger_conditions(&self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if self.ledger.is_disk_low() {
            let detail = "too little free space on the ledger's disk: no new events are accepted";
            conditions.push(Condition::new(AlertCode::DiskLow, detail));
        }
        conditions.extend(damage_condition(&self.ledger.damage().rows_by_table()));
        if let Some(reason) = self.ledger.rebuild_reason() {
            let detail = format!("the ledger's history is not intact ({reason}): new epoch, the log is read again");
            conditions.push(Condition::new(AlertCode::LedgerRebuilding, detail));
        }
        for (who, notices) in self.ledger.mailboxes().overflowing().into_iter().take(RECIPIENTS_MAX) {
            // Customers are not named: their ids are personal data.
            let subject = if who.role == Role::Store { who.to_string() } else { String::from("customer") };
            let detail = format!("{notices} notices of live orders above the mailbox limit: no device fetches them");
            let condition = Condition::new(AlertCode::MailboxOverflow, detail);
            conditions.push(Condition { subject: Some(subject), ..condition });
        }
        conditions.extend(shared_devices(self.state.hub().shared_devices(wall_clock())));
        conditions
    }

    fn stream_conditions(&self) -> Vec<Condition> {
        let stale = self.state.stale_for().map(|age| {
            let held_up = self.group.status().into_iter().find_map(|status| {
                let (partition, at) = (status.partition, status.open_transaction?);
                Some(format!("{partition} waits behind an open transaction of its producer at offset {at}"))
            });
            let why = self.group.trouble().or(held_up).map_or_else(String::new, |why| format!("; {why}"));
            let detail =
                format!("the stream was not read to its end for {} s: clients see `stale`{why}", age.as_secs());
            Condition::new(AlertCode::StreamStale, detail)
        });
        let stalled = self.wall.stalled_for(Instant::now()).map(|idle| {
            let detail = format!("no wall document was made for {} s: screens show old numbers", idle.as_secs());
            Condition::new(AlertCode::WallStalled, detail)
        });
        let clock = |off: ClockOff| Condition {
            subject: Some(off.source.clone()),
            ..Condition::new(AlertCode::SourceClockOff, off.sentence())
        };
        let clocks = self.ingest.clocks_off(wall_clock()).into_iter().map(clock);
        let topic =
            |(topic, detail)| Condition { subject: Some(topic), ..Condition::new(AlertCode::TopicUndecodable, detail) };
        let topics = self.ingest.undecoded_topics.all().into_iter().map(topic);
        let outbox = self.publisher.blocked().map(|detail| Condition::new(AlertCode::OutboxBlocked, detail));
        [stale, stalled, outbox].into_iter().flatten().chain(clocks).chain(topics).collect()
    }
}

/// One condition for each recipient of which a device is shared.
fn shared_devices(devices: Vec<SharedDevice>) -> Vec<Condition> {
    let mut by_subject: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for SharedDevice { who, device, replacements } in devices {
        // Customers and their phones are not named: personal data.
        let (subject, device) = match who.role {
            Role::Store => (who.to_string(), format!("{device} ({replacements} times)")),
            Role::Customer => (String::from("customer"), format!("a device ({replacements} times)")),
        };
        by_subject.entry(subject).or_default().push(device);
    }
    let condition = |(subject, mut devices): (String, Vec<String>)| {
        let more = devices.len().saturating_sub(SHARED_DEVICES_MAX);
        devices.truncate(SHARED_DEVICES_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let detail = format!(
            "two installations use one device id and replace each other's connection: {}{more}; give each an id of its own",
            devices.join(", ")
        );
        Condition { subject: Some(subject), ..Condition::new(AlertCode::DeviceShared, detail) }
    };
    by_subject.into_iter().take(RECIPIENTS_MAX).map(condition).collect()
}

/// How an operator ends an alert, for its detail.
pub(super) fn ack_command(code: AlertCode, subject: Option<&str>) -> String {
    let subject = subject.map_or_else(String::new, |subject| format!(" {subject}"));
    format!("when this is dealt with: orderbell alerts ack {code}{subject}")
}

/// None when every row decoded.
fn damage_condition(rows_by_table: &BTreeMap<&'static str, usize>) -> Option<Condition> {
    let counts: Vec<String> = rows_by_table.iter().map(|(table, rows)| format!("{table} ({rows})")).collect();
    let detail = format!(
        "since the start, damaged rows in: {}; requests for them are answered 503, the writer passes them over, and the log names them by hash",
        counts.join(", ")
    );
    (!counts.is_empty()).then(|| Condition::new(AlertCode::LedgerDamaged, detail))
}

fn loss_condition(stored: StoredLoss) -> Condition {
    let (code, subject) = (code_of(stored.loss.kind()), stored.partition.to_string());
    let detail = format!("{}; {}", stored.loss, ack_command(code, Some(&subject)));
    Condition { code, subject: Some(subject), since: Some(stored.since), detail }
}

fn code_of(kind: AlertKind) -> AlertCode {
    match kind {
        AlertKind::PartitionDamaged => AlertCode::PartitionDamaged,
        AlertKind::RetentionGap => AlertCode::RetentionGap,
        AlertKind::Truncated => AlertCode::LogTruncated,
        AlertKind::Recreated => AlertCode::TopicRecreated,
        AlertKind::StateRolledBack => AlertCode::StateRolledBack,
        AlertKind::Unassigned => AlertCode::PartitionUnassigned,
        AlertKind::GroupShared => AlertCode::GroupShared,
        AlertKind::HandlerFailing => AlertCode::HandlerFailing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Recipient;

    fn overflow(store: &str) -> Condition {
        let subject = Some(format!("store:{store}"));
        Condition { subject, ..Condition::new(AlertCode::MailboxOverflow, "too many") }
    }

    fn since(alerts: &[Alert]) -> Vec<(Option<&str>, i64)> {
        alerts.iter().map(|alert| (alert.subject.as_deref(), alert.since.0)).collect()
    }

    #[test]
    fn since_is_kept_by_code_and_subject_until_the_alert_is_cleared() {
        let mut raised = RaisedAlerts::default();
        let disk = || Condition::new(AlertCode::DiskLow, "full");
        let both = raised.update(vec![disk(), overflow("1")], UnixMs(10));
        assert_eq!(since(&both), [(None, 10), (Some("store:1"), 10)]);
        let three = raised.update(vec![disk(), overflow("1"), overflow("2")], UnixMs(20));
        assert_eq!(since(&three), [(None, 10), (Some("store:1"), 10), (Some("store:2"), 20)]);
        assert_eq!(since(&raised.update(vec![overflow("2")], UnixMs(30))), [(Some("store:2"), 20)]);
        assert_eq!(since(&raised.update(vec![disk(), overflow("2")], UnixMs(40))), [(None, 40), (Some("store:2"), 20)]);
    }

    #[test]
    fn damage_is_named_by_table() {
        assert!(damage_condition(&BTreeMap::new()).is_none());
        let detail = damage_condition(&BTreeMap::from([("orders", 1), ("meta", 2)])).unwrap().detail;
        assert!(detail.contains("in: meta (2), orders (1);"), "{detail}");
    }

    #[test]
    fn a_shared_device_is_named_for_a_store_and_not_for_a_customer() {
        let id = |text: &str| orderbell_protocol::Id::new(text).unwrap();
        let shared = |who, device: &str| SharedDevice { who, device: id(device), replacements: 7 };
        let (store, customer) = (Recipient::store(id("17")), Recipient::customer(id("+4915112345")));
        let till = |n: usize| shared(store.clone(), &format!("till-{n}"));
        let mut devices = vec![shared(customer, "phone-of-ann")];
        devices.extend((1..=6).map(till));
        let conditions = shared_devices(devices);
        let subjects: Vec<_> = conditions.iter().map(|condition| condition.subject.as_deref().unwrap()).collect();
        assert_eq!(subjects, ["customer", "store:17"]);
        assert!(conditions[0].detail.contains("connection: a device (7 times); give"), "{:?}", conditions[0]);
        assert!(conditions[1].detail.contains("till-1 (7 times), till-2"), "{:?}", conditions[1]);
        assert!(conditions[1].detail.contains("till-5 (7 times) and 1 more;"), "{:?}", conditions[1]);
    }

    #[test]
    fn the_part_that_knows_when_it_began_is_believed_and_duplicates_are_one() {
        let mut raised = RaisedAlerts::default();
        let gap = Condition { since: Some(UnixMs(3)), ..Condition::new(AlertCode::RetentionGap, "gap") };
        let again = Condition::new(AlertCode::RetentionGap, "another");
        let alerts = raised.update(vec![gap, again], UnixMs(50));
        assert_eq!((since(&alerts), alerts[0].detail.as_str()), (vec![(None, 3)], "gap"));
    }
}
