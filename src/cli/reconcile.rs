//! `orderbell reconcile`: counts the log again and compares the result with the stored counters.
//!
//! The server must be stopped, because counters change while it runs. For a node that must not stop, take a backup, restore it elsewhere
//! and reconcile that. Producers may continue: whether records after the checkpoints are counted is unknown, so the buckets that they fall
//! into are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::process::ExitCode;

use orderbell_consumers::{Record, TopicPartition};
use orderbell_protocol::UnixMs;

use super::{ConfigArgs, failed, out_line, progress};
use crate::clock::wall_clock;
use crate::config::Config;
use orderbell_ledger::OfflineLedger;
use orderbell_orders::reconcile::{Recount, Sums, comparable_from, compare};
use orderbell_orders::reconcile_payments::{Payments, compare_payments};
use orderbell_protocol::balance::PartitionCount;

/// Exit code when counters differ.
const DIFFERENT: u8 = 5;
/// Most differences that are printed: more of them have one cause, which the first ones show.
const PRINTED_MAX: usize = 100;
/// Most records after the checkpoints; with more, the server has not caught up and a comparison says little.
const UNFINISHED_MAX: u64 = 1_000_000;
/// Timeout of a request to a broker.
#[cfg(feature = "kafka")]
const BROKER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct ReconcileOptions {
    /// Read the log this many times, each time for one part of the orders. Memory is that of one part: about 1 KB for each order.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    passes: u64,
    #[command(flatten)]
    args: ConfigArgs,
}

/// What one pass over the log found besides events.
#[derive(Default)]
struct PassStats {
    records: u64,
    /// After a checkpoint: whether they are counted is unknown.
    unfinished: u64,
    /// Time of the oldest record, when older ones are deleted or were never read.
    begins: Option<UnixMs>,
}

impl PassStats {
    /// Refuses to compare with a server that has not read the log to its end.
    fn has_caught_up(&self) -> Result<(), ExitCode> {
        match self.unfinished {
            0..=UNFINISHED_MAX => Ok(()),
            unfinished => Err(failed(format!(
                "{unfinished} records of the log are after the checkpoints: start the server, let it read to the end, stop it, then reconcile"
            ))),
        }
    }
}

pub(crate) fn run(options: &ReconcileOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let ledger = OfflineLedger::open(&config.boot.data_dir).map_err(failed)?;
    let now = wall_clock();
    let counted_from = ledger.counted_from().map_err(failed)?;
    let cluster = cluster(&config)?;
    let saved = ledger.checkpoints().of_cluster(&cluster).map_err(failed)?;
    let checkpoints: HashMap<TopicPartition, u64> = saved.into_iter().map(|(part, at)| (part, at.next)).collect();
    let (mut log, mut in_flux, mut read, mut rejected) = (Sums::new(), BTreeSet::new(), PassStats::default(), 0);
    let (mut payments, mut begins) = (Payments::new(), BTreeMap::new());
    let counted = ledger.partition_counts().map_err(failed)?;
    let payments_from = |one: &PartitionCount| (TopicPartition::new(&one.topic, one.partition), one.from);
    let payments_from: HashMap<TopicPartition, u64> = counted.iter().map(payments_from).collect();
    let bar = progress(None, "records");
    for slice in 0..options.passes {
        let recount = Recount::new(config.mapping(), config.order_policy(), now, (slice, options.passes));
        let mut recount = recount.with_payments_from(payments_from.clone());
        read = PassStats::default();
        let mut seen = HashSet::new();
        let extent = each(&config, &ledger, now, |record| {
            read.records += 1;
            bar.inc(1);
            seen.insert(record.partition.clone());
            let finished = checkpoints.get(&record.partition).is_some_and(|next| record.offset < *next);
            read.unfinished += u64::from(!finished);
            if (1..counted_from.0).contains(&record.timestamp_ms) {
                read.begins = read.begins.max(Some(counted_from));
                recount.apply_to_balance(record, finished);
            } else {
                recount.apply(record, finished);
            }
        })?;
        // All records of a partition with a checkpoint that is empty now were deleted.
        let empty = checkpoints.iter().any(|(part, next)| *next > 0 && !seen.contains(part));
        read.begins = read.begins.max(extent.complete_from).max(empty.then_some(now));
        begins = extent.begins;
        recount.add_payments_to(&mut payments);
        rejected += recount.into_sums(&mut log, &mut in_flux);
        read.has_caught_up()?;
    }
    bar.finish_and_clear();
    let ours: Sums = ledger
        .counters()
        .map_err(failed)?
        .into_iter()
        .map(|(shadow, window, counters)| ((shadow, window), counters))
        .collect();
    let (numbers, differences) = compare(&ours, &log, &in_flux, comparable_from(read.begins), now);
    for difference in differences.iter().take(PRINTED_MAX) {
        out_line(&difference.to_string());
    }
    let (partitions, of_balance) = compare_balance(&ledger, &counted, &payments, &begins)?;
    if read.unfinished > 0 {
        out_line(&format!(
            "{} records are after the checkpoints; the {} buckets that they fall into are left out",
            read.unfinished,
            in_flux.len()
        ));
    }
    out_line(&format!(
        "{} records, of which {rejected} are no events or were rejected; {numbers} counters and the balance of {partitions} partitions \
         compared, {} differences",
        read.records,
        differences.len() + of_balance
    ));
    if !differences.is_empty() || of_balance > 0 {
        return Err(ExitCode::from(DIFFERENT));
    }
    if numbers == 0 && !ours.is_empty() {
        return Err(failed("the log covers none of the buckets: nothing was compared"));
    }
    Ok(())
}

/// Compares the balance of paid orders and prints what differs, and what cannot be compared. Returns the number of partitions that were compared, and
/// of differences.
fn compare_balance(
    ledger: &OfflineLedger,
    counted: &[PartitionCount],
    payments: &Payments,
    begins: &BTreeMap<TopicPartition, u64>,
) -> Result<(usize, usize), ExitCode> {
    let compared = compare_payments(&ledger.balance().map_err(failed)?, counted, payments, begins);
    compared.left_out.iter().chain(&compared.differences).all(|sentence| out_line(sentence));
    Ok((compared.partitions, compared.differences.len()))
}

/// What the log holds.
struct LogExtent {
    /// The time of the oldest record, when older ones were deleted.
    complete_from: Option<UnixMs>,
    /// First offset of each partition.
    begins: BTreeMap<TopicPartition, u64>,
}

/// Calls `each` for every record of the log that this ledger reads.
fn each(
    config: &Config,
    ledger: &OfflineLedger,
    now: UnixMs,
    mut each: impl FnMut(&Record),
) -> Result<LogExtent, ExitCode> {
    match &config.boot.kafka {
        None => {
            let complete_from = ledger.read_log(now, each).map_err(failed)?;
            let begins = ledger.log_begins().map_err(failed)?.into_iter().collect();
            Ok(LogExtent { complete_from, begins })
        }
        Some(kafka) => on_kafka(kafka, &mut each),
    }
}

/// The name of the cluster that checkpoints of this log are stored under.
fn cluster(config: &Config) -> Result<String, ExitCode> {
    match &config.boot.kafka {
        None => Ok(String::from(orderbell_ledger::embedded_log::CLUSTER)),
        #[cfg(feature = "kafka")]
        Some(kafka) => {
            let reader =
                orderbell_consumers::kafka::GroupInspector::new(&kafka.options(), BROKER_TIMEOUT).map_err(failed)?;
            reader.cluster().map_err(failed)
        }
        #[cfg(not(feature = "kafka"))]
        Some(_) => Err(failed("this binary was built without the feature `kafka`")),
    }
}

#[cfg(feature = "kafka")]
fn on_kafka(kafka: &crate::config::KafkaConfig, each: &mut dyn FnMut(&Record)) -> Result<LogExtent, ExitCode> {
    let mut topics = kafka.topics.clone();
    if !topics.contains(&kafka.output_topic()) {
        topics.push(kafka.output_topic());
    }
    let (mut complete_from, mut begins, mut first) = (None, BTreeMap::new(), HashSet::<TopicPartition>::new());
    for topic in topics {
        let scan = orderbell_consumers::kafka::TopicScan::open(&kafka.options(), &topic, None).map_err(failed)?;
        begins.extend(scan.begins().iter().map(|(number, begin)| (TopicPartition::new(&topic, *number), *begin)));
        scan.run(|record| {
            // A partition that does not begin at offset 0 lost older records to retention.
            if first.insert(record.partition.clone()) && record.offset > 0 {
                complete_from = complete_from.max(Some(UnixMs(record.timestamp_ms)));
            }
            each(&record);
            true
        })
        .map_err(failed)?;
    }
    Ok(LogExtent { complete_from, begins })
}

#[cfg(not(feature = "kafka"))]
fn on_kafka(_: &crate::config::KafkaConfig, _: &mut dyn FnMut(&Record)) -> Result<LogExtent, ExitCode> {
    Err(failed("this binary was built without the feature `kafka`"))
}
