//! `orderbell mapping doctor`: reads a sample of records, says what is wrong with the mapping, and proposes lines of configuration.
//!
//! The newest records of a topic are read without joining the group and without committing anything; a file is one history in its order. What is
//! said of them is decided in [`orderbell_orders::mapping_doctor`], and quotes no value of an event.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;

use orderbell_consumers::Record;
use orderbell_orders::mapping_doctor::{MappingReport, examine};

use super::mapping::{SampleRecords, parse_header, topic_note};
use super::{ConfigArgs, FAILED, err_line, failed, out_line};
use crate::clock::wall_clock;
use crate::config::Config;

/// Most records of a sample: all of them are in memory.
const LAST_MAX: u64 = 50_000;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("sample").args(["file", "topic"]).required(true).multiple(true)))]
pub(crate) struct MappingDoctorOptions {
    /// A file with one JSON record or array, or one on each line, in the order in which they came; without it, --topic is read from Kafka.
    file: Option<PathBuf>,
    /// The topic to read, or that of the records in FILE: its mapping under [mapping.topics] is examined if it has one.
    #[arg(long)]
    topic: Option<String>,
    /// How many of the topic's newest records are examined, of all its partitions together: 1 to 50,000.
    #[arg(
        long, default_value_t = 2_000, conflicts_with = "file", value_parser = clap::value_parser!(u64).range(1..=LAST_MAX)
    )]
    last: u64,
    /// Key of the records in FILE.
    #[arg(long, requires = "file")]
    key: Option<String>,
    /// A header of the records in FILE; may be repeated.
    #[arg(long, requires = "file", value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Print the report as one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: ConfigArgs,
}

/// Prints the report; fails where a record is rejected or a paid order notifies no store.
pub(crate) fn run(options: &MappingDoctorOptions) -> Result<(), ExitCode> {
    let config = options.args.config()?;
    let records = match (&options.file, options.topic.as_deref()) {
        (Some(file), _) => {
            let text = std::fs::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
            records_of(&text, options)
        }
        (None, Some(topic)) => read_topic(&config, topic, options.last)?,
        (None, None) => return Err(failed("a file or --topic is needed")),
    };
    if records.is_empty() {
        return Err(failed("there are no records: nothing was examined"));
    }
    if let Some(note) = topic_note(&config, options.topic.as_deref()) {
        err_line(&format!("note: {note}"));
    }
    let report = report(&config, &records);
    if options.json {
        out_line(&serde_json::to_string(&report).map_err(failed)?);
    } else {
        out_line(report.to_string().trim_end());
    }
    if report.is_good() { Ok(()) } else { Err(ExitCode::from(FAILED)) }
}

fn report(config: &Config, records: &[Record]) -> MappingReport {
    examine(records, &config.mapping(), &config.order_policy(), wall_clock())
}

/// The records of a file. When they were written is not known: each is read when its event happened.
fn records_of(text: &[u8], options: &MappingDoctorOptions) -> Vec<Record> {
    let MappingDoctorOptions { topic, key, header, .. } = options;
    SampleRecords { topic: topic.as_deref(), key: key.as_deref(), headers: header, last_at: None }.of(text)
}

/// The newest records of a topic's partitions. More are not in memory, however many are read.
struct NewestRecords {
    most: u64,
    count: u64,
    /// Each partition's in its own order.
    partitions: BTreeMap<u32, VecDeque<Record>>,
}

impl NewestRecords {
    fn new(most: u64) -> Self {
        Self { most, count: 0, partitions: BTreeMap::new() }
    }

    fn add(&mut self, record: Record) {
        self.partitions.entry(record.partition.number).or_default().push_back(record);
        self.count += 1;
        if self.count > self.most {
            self.take_earliest();
        }
    }

    /// The earliest of the records that are first in their partition, by their time stamps.
    fn take_earliest(&mut self) -> Option<Record> {
        let heads = self.partitions.values_mut().filter(|records| !records.is_empty());
        let earliest = heads.min_by_key(|records| records.front().map(|record| record.timestamp_ms))?.pop_front();
        self.count -= 1;
        earliest
    }

    /// All of them in the order of their time stamps, as far as no partition's own order contradicts.
    fn in_order(mut self) -> Vec<Record> {
        std::iter::from_fn(|| self.take_earliest()).collect()
    }
}

#[cfg(feature = "kafka")]
fn read_topic(config: &Config, topic: &str, last: u64) -> Result<Vec<Record>, ExitCode> {
    let Some(kafka) = &config.boot.kafka else {
        return Err(failed("[kafka] is not configured: give a file, or a configuration with brokers"));
    };
    let scan = orderbell_consumers::kafka::TopicScan::open(&kafka.options(), topic, Some(last)).map_err(failed)?;
    if !scan.exists() {
        return Err(failed(format!("the brokers know no topic {topic}, or this user may not read it")));
    }
    let mut newest = NewestRecords::new(last);
    let keep = |record: Record| {
        newest.add(record);
        true
    };
    scan.run(keep).map_err(failed)?;
    Ok(newest.in_order())
}

#[cfg(not(feature = "kafka"))]
fn read_topic(_: &Config, _: &str, _: u64) -> Result<Vec<Record>, ExitCode> {
    Err(failed("this binary was built without the feature `kafka`: give a file"))
}

#[cfg(test)]
#[path = "mapping_doctor_tests.rs"]
mod tests;
