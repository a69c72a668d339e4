//! `orderbell reconcile`: counts the log a second time and compares.
//!
//! Nothing may run on the ledger: numbers move while somebody counts. On a node that must not stop, take a backup, restore it elsewhere and
//! reconcile that.

use std::collections::HashMap;
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
    let frontiers: HashMap<Part, u64> =
        ledger.frontiers().map_err(failed)?.into_iter().map(|(part, frontier)| (part, frontier.next)).collect();
    let (mut log, mut read, mut refused) = (Sums::new(), Read::default(), 0);
    let bar = progress(None, "records");
    for slice in 0..options.passes {
        let mut recount = Recount::new(config.mapping.clone(), config.life(), now, (slice, options.passes));
        read = Read::default();
        let begins = each(&config, &ledger, |record| {
            read.records += 1;
            bar.inc(1);
            if frontiers.get(&record.part).is_none_or(|next| record.offset >= *next) {
                read.unfinished += 1;
            }
            if record.timestamp_ms < counted_from.0 {
                read.begins = read.begins.max(Some(counted_from));
            } else {
                recount.hear(record);
            }
        })?;
        read.begins = read.begins.max(begins);
        refused = recount.give(&mut log);
    }
    bar.finish_and_clear();
    if read.unfinished > 0 {
        return Err(failed(format!(
            "{} records of the log are not finished: start the server, let it read to the end, stop it, and reconcile then",
            read.unfinished
        )));
    }
    let ours: Sums = ledger
        .tallies()
        .map_err(failed)?
        .into_iter()
        .map(|(shadow, window, cells)| ((shadow, window), cells))
        .collect();
    let (numbers, differences) = compare(&ours, &log, covered(read.begins), now);
    for difference in differences.iter().take(SHOWN_MAX) {
        tell(&difference.to_string());
    }
    tell(&format!(
        "{} records, {refused} that are no events or were refused; {numbers} numbers compared, {} differences",
        read.records,
        differences.len()
    ));
    if differences.is_empty() { Ok(()) } else { Err(ExitCode::from(DIFFERENT)) }
}

/// Every record of the log that this ledger reads; from when on it is there, if something before is gone.
fn each(config: &Config, ledger: &AtRest, mut each: impl FnMut(&Record)) -> Result<Option<UnixMs>, ExitCode> {
    match &config.kafka {
        None => ledger.stream(each).map_err(failed),
        Some(kafka) => on_kafka(kafka, &mut each),
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
        orderbell_consumers::kafka::read_topic(&kafka.options(), &topic, |record| {
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
