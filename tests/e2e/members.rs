//! Several processes in one group on real Kafka, one killed and one paused, with a handler that has nothing to do with orders.
//!
//! The members run `consumers/examples/sums.rs`: the work of a record is one line in its member's own file, written before the record is
//! called done. What the files say together, at any moment, is what was handled; what Kafka says is what was saved. Everything here is a
//! comparison of the two.
//!
//! Two members share the load; one is killed without a warning, a third comes, another is stopped for longer than its session and goes
//! on with what it still holds. Nothing waits for time to pass: each step waits until the files show that the one before had its effect.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use orderbell_lab::broker::Broker;
use orderbell_lab::{Dice, Process, patience};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::kafka::Topic;

const PARTITIONS: usize = 6;
const SENSORS: u64 = 200;
/// Four times the interval of heartbeats: a machine that stalls for a moment disturbs nobody.
const SESSION: Duration = Duration::from_secs(12);
const GROUP: &str = "sums";
/// Longest work of one turn. Longer than the second that passes between two saves, so that a checkpoint that leads cannot be caught up with
/// before it is looked at; longer than a revoke's drain, so that every hand-over leaves unfinished turns behind.
const WORK_MS: &str = "2000";

/// Readings 0, 1, 2 and so on, of random sensors, until it is stopped.
struct Load {
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(topic: &Topic) -> Self {
        let (sent, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end, name) = (sent.clone(), over.clone(), topic.name.clone());
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.bootstrap).set("enable.idempotence", "true").set("linger.ms", "1");
        let producer: BaseProducer = config.create().unwrap();
        let thread = std::thread::spawn(move || {
            let mut dice = Dice(1);
            while !end.load(Ordering::Acquire) {
                for _ in 0..100 {
                    let value = counter.load(Ordering::Acquire).to_string();
                    let key = dice.below(SENSORS).to_string();
                    producer.send(BaseRecord::to(&name).key(&key).payload(&value)).map_err(|(error, _)| error).unwrap();
                    counter.fetch_add(1, Ordering::AcqRel);
                }
                // The pace: about 2,000 a second, in gusts, so that there is always something unfinished to lose.
                producer.poll(Duration::ZERO);
                std::thread::park_timeout(Duration::from_millis(50));
            }
            producer.flush(patience()).unwrap();
        });
        Self { sent, over, thread }
    }

    /// Readings from this one on are not produced yet.
    fn next(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Ends, and says how many there were, once the broker has them all.
    fn ends(self) -> u64 {
        self.over.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Acquire)
    }
}

/// One handled record.
#[derive(Clone, Copy, Debug)]
struct Line {
    partition: usize,
    offset: u64,
    sensor: u64,
    value: u64,
}

impl Line {
    fn parse(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        let [partition, offset, sensor, value] = numbers[..] else { panic!("not a line: {text}") };
        Self { partition: usize::try_from(partition).unwrap(), offset, sensor, value }
    }
}

/// A process of the group, and its file as far as it was read.
struct Member {
    process: Process,
    file: PathBuf,
    read: u64,
    lines: Vec<Line>,
}

impl Member {
    fn start(topic: &Topic, file: PathBuf) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().and_then(Path::parent).unwrap().join("examples/sums");
        let how = "cargo build -p orderbell-consumers --example sums";
        assert!(program.exists(), "{} is not built; say: {how}", program.display());
        let (out, session) = (file.to_str().unwrap(), SESSION.as_millis().to_string());
        let args = ["--bootstrap", &topic.bootstrap, "--group", GROUP, "--topic", &topic.name, "--out", out];
        let args = [&args[..], &["--session-ms", &session, "--work-ms", WORK_MS]].concat();
        Self { process: Process::start(&program, &args, &[]), file, read: 0, lines: Vec::new() }
    }

    /// What is new in the file, up to the last whole line: a process that was killed may leave half of one.
    fn news(&mut self) -> Vec<Line> {
        let Ok(mut file) = std::fs::File::open(&self.file) else { return Vec::new() };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        self.read += text.len() as u64;
        let news: Vec<Line> = text.lines().map(Line::parse).collect();
        self.lines.extend(&news);
        news
    }
}

/// All that is known: the members' files together, and the group's offsets.
struct Watch<'a> {
    topic: &'a Topic,
    dir: &'a Path,
    members: Vec<Member>,
    reader: BaseConsumer,
    /// Sensor and value of every handled offset, by partition.
    handled: Vec<BTreeMap<u64, (u64, u64)>>,
    /// The first offset of each partition that is not handled.
    prefix: Vec<u64>,
    committed: Vec<u64>,
    looks: u32,
}

impl<'a> Watch<'a> {
    fn new(topic: &'a Topic, dir: &'a Path) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.bootstrap).set("group.id", GROUP);
        // Never subscribes: it only asks what the group has saved.
        let reader = config.create().unwrap();
        let (handled, zeros) = (vec![BTreeMap::new(); PARTITIONS], vec![0; PARTITIONS]);
        Self { topic, dir, members: Vec::new(), reader, handled, prefix: zeros.clone(), committed: zeros, looks: 0 }
    }

    fn starts(&mut self) -> usize {
        let file = self.dir.join(format!("member-{}", self.members.len()));
        self.members.push(Member::start(self.topic, file));
        self.members.len() - 1
    }

    /// The group's offsets; none while the coordinator is busy with a rebalance.
    fn asks(&self) -> Option<Vec<u64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic.name, 0, i32::try_from(PARTITIONS).unwrap() - 1);
        let committed = self.reader.committed_offsets(list, Duration::from_secs(10)).ok()?;
        let offset = |number| committed.find_partition(&self.topic.name, number).and_then(|at| at.offset().to_raw());
        let number = |at| i32::try_from(at).unwrap();
        (0..PARTITIONS).map(|at| Some(offset(number(at))?.try_into().unwrap_or(0))).collect()
    }

    /// What was saved, first; then what was handled: whatever is saved must be in the files by now.
    fn looks(&mut self) {
        let committed = self.asks();
        for member in &mut self.members {
            for line in member.news() {
                let said = (line.sensor, line.value);
                let known = *self.handled[line.partition].entry(line.offset).or_insert(said);
                assert_eq!(known, said, "one offset, two records: {line:?}");
            }
        }
        for (prefix, handled) in self.prefix.iter_mut().zip(&self.handled) {
            while handled.contains_key(prefix) {
                *prefix += 1;
            }
        }
        let Some(committed) = committed else { return };
        let ahead = committed.iter().zip(&self.prefix).any(|(saved, handled)| saved > handled);
        assert!(!ahead, "saved {committed:?}, handled below {:?}; {}", self.prefix, self.says());
        self.committed = committed;
        self.looks += 1;
    }

    /// Looks, again and again, until it holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + patience();
        loop {
            self.looks();
            if holds(self) {
                return;
            }
            let (lines, handled) = (self.members.iter().map(|member| member.lines.len()), self.count());
            assert!(
                Instant::now() < until,
                "in vain: {what}; {handled} of {:?}; {}",
                lines.collect::<Vec<_>>(),
                self.says()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// These members have handled readings from `since` on, in every partition.
    fn cover(&self, members: &[usize], since: u64) -> bool {
        let lines = members.iter().flat_map(|member| &self.members[*member].lines);
        let parts: HashSet<usize> = lines.filter(|line| line.value >= since).map(|line| line.partition).collect();
        parts.len() == PARTITIONS
    }

    fn works(&self, member: usize, since: u64) -> bool {
        self.members[member].lines.iter().rev().any(|line| line.value >= since)
    }

    /// Records that were handled, each counted once.
    fn count(&self) -> usize {
        self.handled.iter().map(BTreeMap::len).sum()
    }

    fn says(&self) -> String {
        let said =
            self.members.iter().enumerate().map(|(at, member)| format!("member {at}:\n{}", member.process.err.text()));
        said.collect()
    }
}

/// Whether a member kept each sensor's order, as far as its file can tell. Known: every sensor's records of a partition, numbered in the
/// order of their offsets. In a member's file, a sensor's next line is one of three:
///
/// - the next number: the normal case;
/// - a higher one: somebody else had the partition meanwhile, so all that was left out stands in other members' files;
/// - the same or a lower one: the partition came back at an older place, because somebody had gone without saving. Allowed as often as
///   members were killed or stopped while this one lived, and from there on the same rules hold again: nothing may be left out.
///
/// So two swapped records are seen: the first leaves one out that nobody else has. Not seen: a swap of records that another member
/// handled as well (a few seconds of them, around each hand-over), and order between members, for the files carry no time.
fn keeps_order(watch: &Watch, member: usize, returns: u32) {
    let mut numbered: HashMap<(usize, u64), Vec<u64>> = HashMap::new();
    for (partition, handled) in watch.handled.iter().enumerate() {
        for (offset, (sensor, _)) in handled {
            numbered.entry((partition, *sensor)).or_default().push(*offset);
        }
    }
    let others = watch.members.iter().enumerate().filter(|(at, _)| *at != member).flat_map(|(_, other)| &other.lines);
    let others: HashSet<(usize, u64)> = others.map(|line| (line.partition, line.offset)).collect();
    let mut last: HashMap<(usize, u64), (usize, u32)> = HashMap::new();
    for line in &watch.members[member].lines {
        let key = (line.partition, line.sensor);
        let offsets = &numbered[&key];
        let number = offsets.binary_search(&line.offset).unwrap();
        let Some((before, returned)) = last.get_mut(&key) else {
            last.insert(key, (number, 0));
            continue;
        };
        if number <= *before {
            *returned += 1;
            assert!(*returned <= returns, "member {member} returned from {} to {line:?}", offsets[*before]);
        } else {
            let left_out =
                offsets[*before + 1..number].iter().find(|offset| !others.contains(&(line.partition, **offset)));
            assert_eq!(left_out, None, "member {member} left this offset out before {line:?}");
        }
        *before = number;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_and_paused_lose_nothing_for_their_group() {
    let temp = tempfile::tempdir().unwrap();
    let broker = Broker::start(&temp.path().join("kafka"));
    let topic = Topic::make(&broker.bootstrap(), i32::try_from(PARTITIONS).unwrap()).await;
    let load = Load::start(&topic);
    let mut watch = Watch::new(&topic, temp.path());
    let first = watch.starts();
    watch.until("the first has every partition", |watch| watch.cover(&[first], 0));
    let second = watch.starts();
    watch.until("the second has some", |watch| watch.works(second, 0));
    let since = load.next();
    watch.until("both are at work", |watch| watch.works(first, since) && watch.works(second, since));

    watch.members[second].process.kill();
    let since = load.next();
    let third = watch.starts();
    watch.until("the others have all", |watch| watch.cover(&[first, third], since) && watch.works(third, since));

    watch.members[first].process.signal("STOP");
    let (since, paused) = (load.next(), Instant::now());
    watch.until("the third has every partition", |watch| watch.cover(&[third], since));
    assert!(paused.elapsed() > SESSION / 2, "taken from the paused one before its session was over");
    watch.members[first].process.signal("CONT");
    let since = load.next();
    watch.until("the first has some again", |watch| watch.works(first, since));

    let produced = load.ends();
    watch.until("every record is handled", |watch| watch.count() as u64 == produced);
    let values: HashSet<u64> = watch.handled.iter().flatten().map(|(_, (_, value))| *value).collect();
    assert_eq!(
        (values.len() as u64, watch.prefix.iter().sum::<u64>()),
        (produced, produced),
        "each reading, and no gaps"
    );
    watch.until("the group's offsets are at the end", |watch| watch.committed == watch.prefix);
    for member in [first, third] {
        let process = &mut watch.members[member].process;
        process.signal("TERM");
        assert!(process.ends().success(), "{}", process.err.text());
        process.out.wait_for("its end", |line| (line == "stopped violations=0").then_some(()));
    }
    watch.looks();
    let lines: usize = watch.members.iter().map(|member| member.lines.len()).sum();
    assert!(lines as u64 > produced, "nothing was repeated: nobody was disturbed at work");
    // The first outlives one who was killed, and is stopped itself; the second sees nobody go; the third sees the first stopped.
    for (member, returns) in [(first, 2), (second, 0), (third, 1)] {
        keeps_order(&watch, member, returns);
    }
    assert!(watch.looks > 50, "looked only {} times", watch.looks);
    println!("{produced} produced, {lines} handled, {} looks", watch.looks);
}
