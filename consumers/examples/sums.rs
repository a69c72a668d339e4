//! Sums sensor readings in several processes of one Kafka consumer group. Nothing in here knows of orders.
//!
//! Shows all that a user of this crate writes: a handler (a key, and what to do with a batch), a place for dead letters that are too large
//! for a topic, options, a start and a stop. There is no durable state, so the group's committed offset is where a process resumes:
//! [`GroupOffsets`] with [`ResumeFrom::CommittedOffset`].
//!
//! ```text
//! sums --bootstrap 127.0.0.1:9092 --group sums --topic readings --out here.txt
//! ```
//!
//! A record's value is a number, its key the sensor. The work is one line `partition offset key value` at the end of `--out`, written before
//! the record counts as done. The lines of a batch are one write, so that a killed process leaves at most one torn line, the last. With
//! `--work-ms`, a batch first waits up to that long, each sensor its own time: sensors then finish out of order, as with real work.
//!
//! A repeated record does not count twice: the sum of a sensor keeps the next offset that it has not counted. A sum covers only the records
//! that this process handled; after a rebalance the next owner starts at zero. That is the price of keeping sums in memory.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use orderbell_consumers::kafka::{GroupOffsets, KafkaDeadLetters, KafkaOptions, KafkaSource};
use orderbell_consumers::{
    DeadLetter, DeadLetterError, DeadLetterSink, Group, Handler, KeyBatch, KeyHash, Offset, Options, Outcome, Reason,
    Record, ResumeFrom,
};
use tokio::signal::unix::{SignalKind, signal};

/// A sensor: the sum so far, and the next offset that is not in it.
#[derive(Default)]
struct Sum {
    total: i64,
    next: Offset,
}

struct Sums {
    out: File,
    work_ms: u64,
    sums: Mutex<HashMap<Bytes, Sum>>,
}

fn hash(key: &Bytes) -> KeyHash {
    KeyHash(xxhash_rust::xxh3::xxh3_64(key))
}

fn reading(record: &Record) -> Option<i64> {
    std::str::from_utf8(record.value.as_ref()?).ok()?.parse().ok()
}

impl Sums {
    /// Writes the file first: only records with a line in it count as done.
    fn handled(&self, lines: &str, readings: &[(&Record, i64)]) -> std::io::Result<()> {
        (&self.out).write_all(lines.as_bytes())?;
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for (record, value) in readings {
            let sum = sums.entry(record.key.clone().unwrap_or_default()).or_default();
            if record.offset >= sum.next {
                *sum = Sum { total: sum.total.wrapping_add(*value), next: record.offset + 1 };
            }
        }
        Ok(())
    }
}

impl Handler for Sums {
    type Task = std::convert::Infallible;
    type Prepared = ();

    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_ref().map(hash)
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch) -> Vec<Outcome> {
        if let Some(key) = batch.records().next().and_then(|record| record.key.as_ref()).filter(|_| self.work_ms > 0) {
            tokio::time::sleep(Duration::from_millis(hash(key).0 % (self.work_ms + 1))).await;
        }
        let readings: Vec<_> = batch.records().map_while(|record| Some((record, reading(record)?))).collect();
        let mut lines = String::new();
        for (record, value) in &readings {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            let _never_fails = writeln!(lines, "{} {} {key} {value}", record.partition.number, record.offset);
        }
        if let Err(error) = self.handled(&lines, &readings) {
            return vec![Outcome::Halt(Reason { code: "file", message: error.to_string() })];
        }
        let mut outcomes = vec![Outcome::Done; readings.len()];
        if readings.len() < batch.inputs.len() {
            outcomes
                .push(Outcome::Reject(Reason { code: "not-a-number", message: "a reading is a whole number".into() }));
        }
        outcomes
    }
}

/// For dead letters that are too large for a topic: none is written, and each is tried again.
struct TooLarge;

impl DeadLetterSink for TooLarge {
    async fn write(&self, dead_letter: DeadLetter) -> Result<(), DeadLetterError> {
        Err(DeadLetterError::new(format!("{} bytes are too large for a reading", dead_letter.record.bytes())))
    }
}

/// `--name value` pairs.
fn arguments() -> Result<BTreeMap<String, String>, String> {
    let mut arguments = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or_else(|| format!("unexpected argument: {word}"))?;
        arguments.insert(name.to_owned(), words.next().ok_or_else(|| format!("{word} needs a value"))?);
    }
    Ok(arguments)
}

fn kafka(arguments: &BTreeMap<String, String>) -> Result<KafkaOptions, Box<dyn Error>> {
    let needed = |name: &str| arguments.get(name).cloned().ok_or_else(|| format!("--{name} is needed"));
    let mut properties = BTreeMap::new();
    if let Some(session) = arguments.get("session-ms") {
        // Three heartbeats may be missed, as Kafka recommends.
        properties.insert("heartbeat.interval.ms".to_owned(), (session.parse::<u32>()? / 3).to_string());
        properties.insert("session.timeout.ms".to_owned(), session.clone());
    }
    let (bootstrap, group, topics) = (needed("bootstrap")?, needed("group")?, vec![needed("topic")?]);
    // No static membership: when a process is silent for longer than its session, another one takes its partitions.
    let options = KafkaOptions { bootstrap, group, instance: None, topics, cluster: None, token: None, properties };
    options.check()?;
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let arguments = arguments()?;
    let options = kafka(&arguments)?;
    let out = OpenOptions::new().append(true).create(true).open(arguments.get("out").ok_or("--out is needed")?)?;
    let work_ms = arguments.get("work-ms").map_or(Ok(0), |text| text.parse())?;
    let sums = Arc::new(Sums { out, work_ms, sums: Mutex::default() });

    let runtime = tokio::runtime::Runtime::new()?;
    let _in_runtime = runtime.enter();
    let mut term = signal(SignalKind::terminate())?;
    // Nothing replays them.
    let dead_letters = Arc::new(KafkaDeadLetters::new(&options, "", Arc::new(TooLarge))?);
    let options_of_group = Options { resume_from: ResumeFrom::CommittedOffset, ..Options::default() };
    let group = Group::start(
        KafkaSource::join(&options)?,
        sums.clone(),
        Arc::new(GroupOffsets),
        dead_letters,
        &options_of_group,
    );
    let stats = group.stats().clone();
    runtime.block_on(async {
        // A group can also end by itself, after a fatal error of Kafka.
        while group.is_running() {
            let stop = tokio::time::timeout(Duration::from_millis(100), term.recv()).await;
            if stop.is_ok() {
                return;
            }
        }
    });
    group.stop()?;
    let sums = sums.sums.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} sensors, {} in all", sums.len(), sums.values().map(|sum| sum.total).sum::<i64>());
    println!("stopped violations={}", stats.invariant_violations.value());
    Ok(())
}
