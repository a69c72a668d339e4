//! The balance against a naive model: whatever is sent, in whatever envelope and however damaged, each record that may be a paid order is in one
//! bin, and a store is notified once of each of its orders.

mod meant;
mod model;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use orderbell_consumers::{
    Begin, Checkpoint, Handler, KeyBatch, KeyHash, KeyInput, Outcome, Part, Parts, Record, TopicPartition, sim,
};
use orderbell_ledger::{Ledger, LedgerOptions, MailboxObserver, NoCounterObserver, PublishTo};
use orderbell_orders::Mapping;
use orderbell_orders::order::OrderPolicy;
use orderbell_orders::prepared::PreparedRecord;
use orderbell_orders::reconcile::Recount;
use orderbell_orders::reconcile_payments::{Payments, compare_payments};
use orderbell_protocol::balance::Bin;
use orderbell_protocol::{Id, NoticeKind, Position, Recipient};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::{OrderHandler, rounds};
use crate::clock::wall_clock;
use meant::{Log, ORDERS, STORES, Sent, TIME_FORMS, Time, logs};
use model::{BinName, Expected, Model};
use written::{Chain, Family};

/// Records of one key that are handed over at once: several batches for most orders.
const BATCH_RECORDS: usize = 3;
const RETENTION_MS: i64 = 72 * 3_600_000;

struct NoObserver;

impl MailboxObserver for NoObserver {
    fn changed(&self, _who: &[Recipient]) {}
}

fn ledger(dir: &std::path::Path) -> Arc<Ledger> {
    let options = LedgerOptions {
        state_retention_ms: RETENTION_MS,
        max_mailbox_rows: 1000,
        min_free_space: 0,
        timeline_retention_ms: 0,
        publish_to: PublishTo::EmbeddedLog,
        rolled_back: false,
    };
    let failed = Arc::new(|why: &str| panic!("{why}"));
    Arc::new(Ledger::open(dir, options, Arc::new(NoObserver), Arc::new(NoCounterObserver), failed).unwrap())
}

/// The mapping of each topic of a case.
fn mapping(chain: Chain) -> Mapping {
    let topics = Family::ALL.map(|family| (chain.topic(family), toml::from_str(&family.config()).unwrap()));
    let mut mapping = Mapping::default();
    mapping.topics = topics.into();
    mapping
}

/// A record, and what was prepared of it.
type Queued = (Record, Option<PreparedRecord>);

/// Hands records to the handler as a consumer group does: each part in the queue of its order.
async fn consume(handler: &Arc<OrderHandler>, records: &[Record]) {
    let mut queues: BTreeMap<Option<KeyHash>, Vec<Queued>> = BTreeMap::new();
    for record in records {
        let parts = match handler.parts(record) {
            Parts::One { key, prepared } => vec![Part { record: record.clone(), key, prepared }],
            Parts::Several(parts) => parts,
        };
        for Part { record, key, prepared } in parts {
            queues.entry(key).or_default().push((record, prepared));
        }
    }
    join_all(queues.into_values().map(|queue| empty(handler, queue))).await;
}

/// Handles the records of one queue, in order.
async fn empty(handler: &Arc<OrderHandler>, mut queue: Vec<Queued>) {
    while !queue.is_empty() {
        let input = |(record, prepared)| KeyInput::Record(record, prepared);
        let inputs = queue.iter().take(BATCH_RECORDS).cloned().map(input).collect();
        let outcomes = handler.clone().handle(KeyBatch { inputs: Arc::new(inputs), attempts: 0 }).await;
        for ((record, prepared), outcome) in queue.drain(..outcomes.len()).zip(outcomes) {
            match outcome {
                Outcome::Done => {}
                Outcome::Reject(reason) => handler.on_dead_letter(&record, prepared.as_ref(), &reason),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The records of a log, and what the model makes of them.
fn written(chain: Chain, log: &Log) -> (Vec<Record>, Expected) {
    let mut model = Model::new(chain);
    let mut offsets: BTreeMap<Family, u64> = BTreeMap::new();
    let numbered: Vec<(usize, &Sent)> = log.records.iter().enumerate().map(|(at, sent)| (at * 10, sent)).collect();
    let again = log.again.iter().map(|at| *at.get(&numbered));
    let mut records = Vec::new();
    for (serial, sent) in numbered.iter().copied().chain(again) {
        let offset = offsets.entry(Family::of(sent.envelope)).or_default();
        let (record, parts) = chain.record(sent, serial, *offset);
        *offset += 1;
        model.read(sent, &parts, serial);
        records.push(record);
    }
    (records, model.expected())
}

/// What the ledger has of a case.
struct Found {
    bins: BTreeMap<(String, Bin, String), u64>,
    /// Notices by store, order and kind.
    notices: Vec<(u8, String, NoticeKind)>,
}

impl Found {
    fn of(ledger: &Ledger, chain: Chain) -> Self {
        let topics = Family::ALL.map(|family| chain.topic(family));
        let of_case =
            ledger.balance().counts().into_iter().filter(|bin| topics.contains(&bin.key.topic) && bin.records > 0);
        let bins = of_case.map(|bin| ((bin.key.topic, bin.key.bin, bin.key.reason), bin.records)).collect();
        let start = Position::start(ledger.epoch());
        let mut notices = Vec::new();
        for store in 0..STORES {
            let who = Recipient::store(Id::new(&chain.store(store)).unwrap());
            let page = ledger.mailboxes().read(&who, start, start, 500, wall_clock()).unwrap();
            let all = page.notices.iter().map(|delivery| delivery.notice.decode().unwrap());
            notices.extend(all.map(|notice| (store, notice.order.as_str().to_owned(), notice.kind)));
        }
        Self { bins, notices }
    }

    /// The records of a bin: of dead letters, whatever their reason.
    fn records(&self, topic: &str, bin: Bin, reason: &str) -> u64 {
        let is_it = |(known, one, why): &(String, Bin, String)| {
            known == topic && *one == bin && (why == reason || is_dead_letter(bin))
        };
        self.bins.iter().filter(|(key, _)| is_it(key)).map(|(_, records)| records).sum()
    }
}

fn is_dead_letter(bin: Bin) -> bool {
    matches!(bin, Bin::Rejected | Bin::Unreadable | Bin::RejectedLater)
}

/// Holds what was found against what the model expects.
fn compare(chain: Chain, expected: &Expected, found: &Found) -> Result<(), TestCaseError> {
    let certain = |name: &BinName| expected.certain.get(name).copied().unwrap_or_default();
    for topic in Family::ALL.map(|family| chain.topic(family)) {
        let payments = expected.payments.get(&topic).copied().unwrap_or_default();
        let mut uncertain = 0;
        for bin in Bin::ALL {
            let (least, records) = (certain(&(topic.clone(), bin, "")), found.records(&topic, bin, ""));
            prop_assert!(records >= least, "{} {:?}: {} records, and at least {}", topic, bin, records, least);
            let is_exact = matches!(bin, Bin::Unreadable | Bin::RejectedLater | Bin::Ignored);
            prop_assert!(!is_exact || records == least, "{} {:?}: {} records, not {}", topic, bin, records, least);
            uncertain += records - least;
        }
        prop_assert_eq!(uncertain, payments, "{}: each payment is in one bin", topic);
    }
    for ((topic, bin, reason), records) in
        found.bins.iter().filter(|((_, bin, why), _)| !why.is_empty() && !is_dead_letter(*bin))
    {
        let of_type = |(name, _): &(&BinName, &u64)| (&name.0, name.1, name.2) == (topic, *bin, reason.as_str());
        let least = expected.certain.iter().find(of_type).map_or(0, |(_, records)| *records);
        let others = expected.others.iter().filter(|((known, kind), _)| known == topic && *kind == reason.as_str());
        let most = least + others.map(|(_, count)| count).sum::<u64>();
        prop_assert!((least..=most).contains(records), "{} {:?} {}: {} records", topic, bin, reason, records);
    }
    for ((topic, bin, reason), least) in &expected.certain {
        prop_assert!(found.records(topic, *bin, reason) >= *least, "{} {:?} {} has too few", topic, bin, reason);
    }
    for order in 0..ORDERS {
        let id = chain.order(order);
        let of_order = |kind| found.notices.iter().filter(|one| one.1 == id && one.2 == kind).count() as u64;
        for kind in NoticeKind::KNOWN {
            prop_assert!(of_order(kind) <= 1, "order {} notified twice: {:?}", order, found.notices);
        }
        if let Some(certain) = expected.new_orders.get(&order) {
            let is_own = |one: &&(u8, String, NoticeKind)| one.1 == id && one.0 == order % 2;
            prop_assert_eq!(of_order(NoticeKind::NewOrder), *certain, "order {}", order);
            prop_assert_eq!(found.notices.iter().filter(|one| one.1 == id).all(|one| is_own(&one)), true);
        }
    }
    Ok(())
}

/// In what the balance of a case differs from its log, as `reconcile` finds it.
fn reconciled(chain: Chain, ledger: &Ledger, records: &[Record]) -> Vec<String> {
    let policy = OrderPolicy { retention_ms: RETENTION_MS, ..OrderPolicy::default() };
    let mut recount = Recount::new(mapping(chain), policy, wall_clock(), (0, 1));
    records.iter().for_each(|record| recount.apply(record, true));
    let mut payments = Payments::new();
    recount.add_payments_to(&mut payments);
    let topics = Family::ALL.map(|family| chain.topic(family));
    let of_case: Vec<_> = ledger.balance().counts().into_iter().filter(|bin| topics.contains(&bin.key.topic)).collect();
    let mut counted = ledger.balance().partition_counts();
    counted.retain(|one| topics.contains(&one.topic));
    let begins = counted.iter().map(|one| (TopicPartition::new(&one.topic, one.partition), 0)).collect();
    compare_payments(&of_case, &counted, &payments, &begins).differences
}

/// Everything that the generator knows is generated, and each envelope together with each kind of everything else.
#[test]
fn envelopes_ids_times_amounts_and_damage_are_all_generated_and_combined() {
    const LOGS: usize = 3_000;

    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, BTreeSet<(String, String)>> = BTreeMap::new();
    for _ in 0..LOGS {
        let log = logs().new_tree(&mut runner).unwrap().current();
        for sent in &log.records {
            let mut together = |what: &'static str, one: &dyn std::fmt::Debug| {
                // Without what a variant holds.
                let name = format!("{one:?}").split('(').next().unwrap_or_default().to_owned();
                seen.entry(what).or_default().insert((format!("{:?}", sent.envelope), name));
            };
            together("damage", &sent.damage);
            together("recorded", &sent.recorded);
            together("key", &sent.key);
            for meant in &sent.events {
                together("kind", &meant.kind);
                together("order", &meant.order_as);
                together("store", &meant.store_as);
                together("customer", &meant.customer_as);
                together("id", &meant.id);
                together("time", &meant.time);
                together("amount", &meant.amount);
                together("blemish", &meant.blemish);
                if let Time::Fresh(_, form) = meant.time {
                    together("form of the time", &form);
                }
            }
        }
    }
    const ENVELOPES: usize = 18;
    for (what, kinds) in [
        ("damage", 9),
        ("recorded", 3),
        ("key", 4),
        ("kind", 12),
        ("order", 17),
        ("store", 17),
        ("customer", 17),
        ("id", 12),
        ("time", 8),
        ("form of the time", usize::from(TIME_FORMS)),
        ("amount", 9),
        ("blemish", 7),
    ] {
        let seen = &seen[what];
        let each: BTreeSet<&str> = seen.iter().map(|(_, kind)| &**kind).collect();
        assert_eq!((each.len(), seen.len()), (kinds, kinds * ENVELOPES), "{what}: {each:?}");
    }
}

/// Case by case in one ledger: each has its own topics, orders and stores.
#[test]
fn each_record_that_may_be_a_paid_order_is_in_one_bin_and_a_store_is_notified_once() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ledger = runtime.block_on(async { ledger(dir.path()) });
    let cases = AtomicU32::new(0);
    rounds::hold(256, &logs(), |log| {
        let chain = Chain { case: cases.fetch_add(1, Ordering::Relaxed), now_ms: wall_clock().0 };
        let policy = OrderPolicy { retention_ms: RETENTION_MS, ..OrderPolicy::default() };
        let handler = Arc::new(OrderHandler::new(ledger.clone(), mapping(chain), policy));
        let (records, expected) = written(chain, &log);
        runtime.block_on(async {
            if let Some(at) = &log.crash {
                consume(&handler, &records[..at.index(records.len())]).await;
                let again = |family| {
                    let (partition, checkpoint) =
                        (TopicPartition::new(&chain.topic(family), 0), Checkpoint { next: 0, last: None });
                    Begin { partition, checkpoint, is_new: false, loss: None, handled_before: None, skip_to: None }
                };
                sim::begin(&*ledger, "sim", Family::ALL.map(again).into());
            }
            consume(&handler, &records).await;
        });
        let found = Found::of(&ledger, chain);
        compare(chain, &expected, &found)?;
        prop_assert_eq!(reconciled(chain, &ledger, &records), Vec::<String>::new());
        let notified: u64 =
            found.bins.iter().filter(|((_, bin, _), _)| *bin == Bin::Notified).map(|(_, records)| records).sum();
        let created = handler.stats().notices_created.lock().unwrap().get("new_order").copied().unwrap_or_default();
        prop_assert_eq!(notified, created, "a notice for each record that notified its store");
        Ok(())
    });
}
