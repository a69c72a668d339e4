//! `orderbell reconcile`: counts the log a second time and compares.
//!
//! Nothing may run on the ledger: numbers move while somebody counts. On a node that must not stop, take a backup, restore it elsewhere and
//! reconcile that. Producers may go on: what stands behind the frontiers may be counted or not, so the windows that it touches are left out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::ExitCode;

use orderbell_consumers::{Part, Record};
use orderbell_protocol::UnixMs;

use super::{FAILED, Place, progress, say, tell};
use crate::config::Config;
use crate::ingest::reconcile::{Recount, Sums, compare, covered};
use crate::ledger::AtRest;
use crate::net::wall_clock;

/// Numbers that differ.
const DIFFERENT: u8 = 5;
/// Differences that are printed: who has more has another problem.
const SHOWN_MAX: usize = 100;
/// Records behind the frontiers that are held apart; with more, the server has not caught up.
const UNFINISHED_MAX: u64 = 1_000_000;
/// Longest wait for a broker.
#[cfg(feature = "kafka")]
const ASK_MAX: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct ReconcileOptions {
    /// Read the log so many times, each for a part of the orders: memory is what one part needs, about 1 KB an order.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    passes: u64,
    #[command(flatten)]
    place: Place,
}

/// What one reading of the log found besides events.
#[derive(Default)]
struct Read {
    records: u64,
    /// Behind a frontier: whether they are counted is not known.
    unfinished: u64,
    /// When the log that is there begins, if older records are gone or were never read.
    begins: Option<UnixMs>,
}

fn failed(what: impl std::fmt::Display) -> ExitCode {
    say(&format!("orderbell: {what}"));
    ExitCode::from(FAILED)
}

pub(crate) fn run(options: &ReconcileOptions) -> Result<(), ExitCode> {
    let config = options.place.config()?;
    let ledger = AtRest::open(&config.data_dir).map_err(failed)?;
    let now = wall_clock();
    let counted_from = ledger.counted_from().map_err(failed)?;
    let cluster = cluster(&config)?;
    let frontiers: HashMap<Part, u64> =
        ledger.frontiers(&cluster).map_err(failed)?.into_iter().map(|(part, at)| (part, at.next)).collect();
    let (mut log, mut moving, mut read, mut refused) = (Sums::new(), BTreeSet::new(), Read::default(), 0);
    let bar = progress(None, "records");
    for slice in 0..options.passes {
        let mut recount = Recount::new(config.mapping.clone(), config.life(), now, (slice, options.passes));
        read = Read::default();
        let mut seen = HashSet::new();
        let begins = each(&config, &ledger, now, |record| {
            read.records += 1;
            bar.inc(1);
            seen.insert(record.part.clone());
            let finished = frontiers.get(&record.part).is_some_and(|next| record.offset < *next);
            read.unfinished += u64::from(!finished);
            if (1..counted_from.0).contains(&record.timestamp_ms) {
                read.begins = read.begins.max(Some(counted_from));
            } else {
                recount.hear(record, finished);
            }
        })?;
        // Of a partition that was read once and is empty now, everything is gone.
        let empty = frontiers.iter().any(|(part, next)| *next > 0 && !seen.contains(part));
        read.begins = read.begins.max(begins).max(empty.then_some(now));
        refused += recount.give(&mut log, &mut moving);
        if read.unfinished > UNFINISHED_MAX {
            return Err(failed(format!(
                "{} records of the log are not finished: start the server, let it read to the end, stop it, and reconcile then",
                read.unfinished
            )));
        }
    }
    bar.finish_and_clear();
    let ours: Sums = ledger
        .tallies()
        .map_err(failed)?
        .into_iter()
        .map(|(shadow, window, cells)| ((shadow, window), cells))
        .collect();
    let (numbers, differences) = compare(&ours, &log, &moving, covered(read.begins), now);
    for difference in differences.iter().take(SHOWN_MAX) {
        tell(&difference.to_string());
    }
    if read.unfinished > 0 {
        tell(&format!(
            "{} records are not finished yet; {} windows that they touch are left out",
            read.unfinished,
            moving.len()
        ));
    }
    tell(&format!(
        "{} records, {refused} that are no events or were refused; {numbers} numbers compared, {} differences",
        read.records,
        differences.len()
    ));
    if !differences.is_empty() {
        return Err(ExitCode::from(DIFFERENT));
    }
    if numbers == 0 && !ours.is_empty() {
        return Err(failed("the log covers none of the windows: nothing could be compared"));
    }
    Ok(())
}

/// Every record of the log that this ledger reads; from when on it is there, if something before is gone.
fn each(
    config: &Config,
    ledger: &AtRest,
    now: UnixMs,
    mut each: impl FnMut(&Record),
) -> Result<Option<UnixMs>, ExitCode> {
    match &config.kafka {
        None => ledger.stream(now, each).map_err(failed),
        Some(kafka) => on_kafka(kafka, &mut each),
    }
}

/// The name that this log's frontiers are kept under.
fn cluster(config: &Config) -> Result<String, ExitCode> {
    match &config.kafka {
        None => Ok(String::from(crate::ledger::stream::CLUSTER)),
        #[cfg(feature = "kafka")]
        Some(kafka) => {
            let reader = orderbell_consumers::kafka::GroupReader::new(&kafka.options(), ASK_MAX).map_err(failed)?;
            reader.cluster().map_err(failed)
        }
        #[cfg(not(feature = "kafka"))]
        Some(_) => Err(failed("this binary was built without the feature `kafka`")),
    }
}

#[cfg(feature = "kafka")]
fn on_kafka(kafka: &crate::config::KafkaConfig, each: &mut dyn FnMut(&Record)) -> Result<Option<UnixMs>, ExitCode> {
    let mut topics = kafka.topics.clone();
    if !topics.contains(&kafka.output()) {
        topics.push(kafka.output());
    }
    let (mut begins, mut first) = (None, HashMap::<Part, ()>::new());
    for topic in topics {
        orderbell_consumers::kafka::read_topic(&kafka.options(), &topic, None, |record| {
            // A partition that does not begin with its first record lost those before to retention.
            if first.insert(record.part.clone(), ()).is_none() && record.offset > 0 {
                begins = begins.max(Some(UnixMs(record.timestamp_ms)));
            }
            each(&record);
            true
        })
        .map_err(failed)?;
    }
    Ok(begins)
}

#[cfg(not(feature = "kafka"))]
fn on_kafka(_: &crate::config::KafkaConfig, _: &mut dyn FnMut(&Record)) -> Result<Option<UnixMs>, ExitCode> {
    Err(failed("this binary was built without the feature `kafka`"))
}
