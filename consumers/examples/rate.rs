//! Measures how many records per second pass through the dispatch when handling them costs nothing. Started by hand.
//!
//! Creates a topic, fills it, reads it with a handler that does nothing, and prints records per second. Bounded by `--records`. Say how many
//! keys there were when you quote a figure: distinct keys and a single key are two different measurements.
//!
//! ```sh
//! cargo run --release -p orderbell-consumers --example rate -- --bootstrap 127.0.0.1:9092 --records 2000000 --keys 1000
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orderbell_consumers::kafka::{KafkaOptions, KafkaSource};
use orderbell_consumers::{Group, Handler, KeyBatch, KeyHash, Options, Outcome, Record, sim};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// Bytes of a record's value: those of a small order event.
const VALUE_BYTES: usize = 200;
/// Without progress for this long, the measurement is given up.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Nothing;

impl Handler for Nothing {
    type Task = std::convert::Infallible;
    type Prepared = ();

    fn key(&self, record: &Record) -> Option<KeyHash> {
        record.key.as_deref().map(|key| KeyHash(xxhash_rust::xxh3::xxh3_64(key)))
    }

    async fn handle(self: Arc<Self>, batch: KeyBatch) -> Vec<Outcome> {
        vec![Outcome::Done; batch.inputs.len()]
    }
}

struct Args {
    bootstrap: String,
    records: u64,
    keys: u64,
    partitions: i32,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let mut args = Args { bootstrap: "127.0.0.1:9092".into(), records: 1_000_000, keys: 1_000, partitions: 4 };
    let mut words = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name.as_str() {
            "--bootstrap" => args.bootstrap = value,
            "--records" => args.records = value.parse::<u64>()?.min(100_000_000),
            "--keys" => args.keys = value.parse::<u64>()?.max(1),
            "--partitions" => args.partitions = value.parse()?,
            _ => return Err(format!("unknown: {name}").into()),
        }
    }
    Ok(args)
}

async fn fill(args: &Args, topic: &str) -> Result<(), Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let new = NewTopic::new(topic, args.partitions, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await?;
    config.set("linger.ms", "20").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    let value = [b'x'; VALUE_BYTES];
    for n in 0..args.records {
        let key = (n % args.keys).to_be_bytes();
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(TIMEOUT)?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = args()?;
    let topic = format!("rate-{}", std::process::id());
    fill(&args, &topic).await?;
    let options = KafkaOptions {
        bootstrap: args.bootstrap.clone(),
        group: topic.clone(),
        instance: None,
        topics: vec![topic.clone()],
        cluster: None,
        token: None,
        properties: [("fetch.queue.backoff.ms".to_owned(), "5".to_owned())].into(),
    };
    let store = Arc::new(sim::MemoryStore::default());
    let group =
        Group::start(KafkaSource::join(&options)?, Arc::new(Nothing), store.clone(), store, &Options::default());
    let done = || group.stats().completed.value();
    let (mut first, mut moved, mut before) = (None, Instant::now(), 0);
    while done() < args.records {
        if done() > before {
            before = done();
            moved = Instant::now();
            first.get_or_insert((moved, before));
        }
        if moved.elapsed() > TIMEOUT {
            return Err("no progress any more".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (began, at) = first.ok_or("nothing was read")?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} records of {VALUE_BYTES} bytes, {} keys, {} partitions: {:.0} records/s; invariant violations {}",
        args.records,
        args.keys,
        args.partitions,
        (args.records - at) as f64 / seconds,
        group.stats().invariant_violations.value()
    );
    tokio::task::spawn_blocking(move || group.stop()).await??;
    Ok(())
}
