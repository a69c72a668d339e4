//! A log in memory, for tests: of this crate and of handlers built on it.
//!
//! [`Log`] is the log, [`LogSource`] one consumer of it, [`Memory`] keeps frontiers and dead letters. Nothing is durable and nothing is
//! slow; what tests need (gaps, lost assignments, time) they say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::poller::now_ms;
use crate::record::{Offset, Part, Record};
use crate::seams::{
    DeadLetters, Frontier, FrontierError, Frontiers, Held, Letter, LogEnd, NotTaken, Polled, Saved, Source,
    SourceError, Waker,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    parts: Vec<Vec<Record>>,
    /// Offsets at the end of each partition that will never be delivered.
    tails: BTreeMap<u32, u64>,
    /// Partitions about which nothing can be asked.
    mute: BTreeSet<u32>,
    news: VecDeque<News>,
    asked: bool,
}

impl State {
    fn end(&self, number: u32) -> Offset {
        let records = &self.parts[number as usize];
        records.last().map_or(0, |last| last.offset + 1) + self.tails.get(&number).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
enum News {
    Assign(Vec<u32>),
    Revoke(Vec<u32>),
    Lose(Vec<u32>),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

/// A partitioned log in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Log {
    topic: Arc<str>,
    shared: Arc<Shared>,
}

impl Log {
    /// An empty log; its source is assigned all `partitions` at once.
    #[must_use]
    pub fn new(topic: &str, partitions: u32) -> Self {
        let state = State {
            parts: (0..partitions).map(|_| Vec::new()).collect(),
            news: VecDeque::from([News::Assign((0..partitions).collect())]),
            ..State::default()
        };
        Self { topic: Arc::from(topic), shared: Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new() }) }
    }

    /// Appends a record and returns its offset.
    pub fn append(&self, partition: u32, key: &str, value: &str) -> Offset {
        self.append_after_gap(partition, 0, key, value)
    }

    /// Appends a record behind `gap` offsets that will never be delivered.
    pub fn append_after_gap(&self, partition: u32, gap: u64, key: &str, value: &str) -> Offset {
        let mut state = lock(&self.shared.state);
        let offset = state.end(partition) + gap;
        state.tails.remove(&partition);
        let records = &mut state.parts[partition as usize];
        records.push(Record {
            part: Part { topic: self.topic.clone(), number: partition },
            offset,
            timestamp_ms: now_ms(),
            read_ms: now_ms(),
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Vec::new(),
        });
        self.shared.woken.notify_all();
        offset
    }

    /// Lets a partition end with `gap` more offsets that will never be delivered, as the control records of a transaction are not.
    pub fn append_gap(&self, partition: u32, gap: u64) {
        *lock(&self.shared.state).tails.entry(partition).or_default() += gap;
        self.shared.woken.notify_all();
    }

    /// From now on nothing can be asked about a partition, or it can again.
    pub fn mute(&self, partition: u32, mute: bool) {
        let mut state = lock(&self.shared.state);
        if mute {
            state.mute.insert(partition)
        } else {
            state.mute.remove(&partition)
        };
    }

    /// Takes partitions away in an orderly way.
    pub fn revoke(&self, partitions: &[u32]) {
        self.tell(News::Revoke(partitions.to_vec()));
    }

    /// Takes partitions away at once.
    pub fn lose(&self, partitions: &[u32]) {
        self.tell(News::Lose(partitions.to_vec()));
    }

    /// Gives partitions (back).
    pub fn assign(&self, partitions: &[u32]) {
        self.tell(News::Assign(partitions.to_vec()));
    }

    fn tell(&self, news: News) {
        lock(&self.shared.state).news.push_back(news);
        self.shared.woken.notify_all();
    }

    /// A consumer of this log.
    #[must_use]
    pub fn source(&self) -> LogSource {
        LogSource { log: self.clone(), at: BTreeMap::new(), told: Arc::default() }
    }
}

/// One consumer of a [`Log`].
#[derive(Debug)]
pub struct LogSource {
    log: Log,
    /// Next offset and whether the partition is paused.
    at: BTreeMap<u32, (Offset, bool)>,
    told: Arc<Mutex<BTreeMap<u32, Offset>>>,
}

impl LogSource {
    /// What was told to [`Source::saved`], by partition; shared, for looking at later.
    #[must_use]
    pub fn told(&self) -> Arc<Mutex<BTreeMap<u32, Offset>>> {
        self.told.clone()
    }

    fn parts(&self, numbers: &[u32]) -> Vec<Part> {
        numbers.iter().map(|number| Part { topic: self.log.topic.clone(), number: *number }).collect()
    }

    fn deliver(&mut self, state: &mut State, max: usize, out: &mut Vec<Polled>) {
        while let Some(news) = state.news.pop_front() {
            out.push(match news {
                News::Assign(numbers) => Polled::Assigned(self.parts(&numbers)),
                News::Revoke(numbers) => Polled::Revoking(self.parts(&numbers)),
                News::Lose(numbers) => Polled::Lost(self.parts(&numbers)),
            });
        }
        let mut left = max;
        for (number, (next, paused)) in &mut self.at {
            if *paused {
                continue;
            }
            let records = &state.parts[*number as usize];
            let from = records.partition_point(|record| record.offset < *next);
            for record in records[from..].iter().take(left) {
                *next = record.offset + 1;
                left -= 1;
                out.push(Polled::Record(record.clone()));
            }
            let (end, delivered) = (state.end(*number), records.last().map_or(0, |last| last.offset + 1));
            if (delivered..end).contains(next) {
                *next = end;
                out.push(Polled::End(Part { topic: self.log.topic.clone(), number: *number }, end));
            }
        }
    }
}

impl Source for LogSource {
    fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Polled>) -> Result<(), SourceError> {
        let shared = self.log.shared.clone();
        let mut state = lock(&shared.state);
        self.deliver(&mut state, max, out);
        if out.is_empty() && !std::mem::take(&mut state.asked) {
            state = shared.woken.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            self.deliver(&mut state, max, out);
        }
        Ok(())
    }

    fn held(&mut self, part: &Part, since_ms: i64) -> Result<Held, SourceError> {
        let state = lock(&self.log.shared.state);
        if state.mute.contains(&part.number) {
            return Err(SourceError::Passing("told not to answer".into()));
        }
        let records = &state.parts[part.number as usize];
        let end = state.end(part.number);
        let start = records.first().map_or(0, |first| first.offset);
        let by_time = records.iter().find(|record| record.timestamp_ms >= since_ms).map_or(end, |record| record.offset);
        Ok(Held { start, end, by_time, committed: None })
    }

    fn place(&mut self, at: &[(Part, Offset)]) -> Result<(), SourceError> {
        self.at.extend(at.iter().map(|(part, offset)| (part.number, (*offset, false))));
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), SourceError> {
        self.at.retain(|number, _| !parts.iter().any(|part| part.number == *number));
        Ok(())
    }

    fn pause(&mut self, parts: &[Part], paused: bool) -> Result<(), SourceError> {
        for part in parts {
            if let Some(at) = self.at.get_mut(&part.number) {
                at.1 = paused;
            }
        }
        Ok(())
    }

    fn saved(&mut self, at: &[(Part, Offset)]) {
        lock(&self.told).extend(at.iter().map(|(part, offset)| (part.number, *offset)));
    }

    fn ends(&mut self) -> Vec<(Part, LogEnd)> {
        let state = lock(&self.log.shared.state);
        let parts = self.at.keys().map(|number| Part { topic: self.log.topic.clone(), number: *number });
        let end =
            |part: Part| (part.clone(), LogEnd { next: state.end(part.number), at_ms: now_ms(), delivered: false });
        parts.filter(|part| !state.mute.contains(&part.number)).map(end).collect()
    }

    fn waker(&self) -> Option<Waker> {
        let shared = self.log.shared.clone();
        Some(Arc::new(move || {
            lock(&shared.state).asked = true;
            shared.woken.notify_all();
        }))
    }

    fn cluster(&self) -> String {
        String::from("sim")
    }
}

/// Frontiers and dead letters in memory, kept at once.
#[derive(Debug, Default)]
pub struct Memory {
    frontiers: Mutex<BTreeMap<Part, Frontier>>,
    letters: Mutex<Vec<Letter>>,
    refuse: Mutex<bool>,
}

impl Memory {
    /// The frontier of a partition; 0 without one.
    #[must_use]
    pub fn frontier(&self, topic: &str, partition: u32) -> Offset {
        lock(&self.frontiers).get(&Part::new(topic, partition)).map_or(0, |frontier| frontier.next)
    }

    /// Sets the frontier of a partition, as an earlier run would have left it.
    pub fn set_frontier(&self, part: Part, frontier: Frontier) {
        lock(&self.frontiers).insert(part, frontier);
    }

    /// The dead letters so far.
    #[must_use]
    pub fn letters(&self) -> Vec<Letter> {
        lock(&self.letters).clone()
    }

    /// Takes dead letters, or refuses them.
    pub fn refuse_letters(&self, refuse: bool) {
        *lock(&self.refuse) = refuse;
    }
}

impl Frontiers for Memory {
    fn load(&self, _cluster: &str, parts: &[Part]) -> Result<Vec<Option<Frontier>>, FrontierError> {
        let frontiers = lock(&self.frontiers);
        Ok(parts.iter().map(|part| frontiers.get(part).copied()).collect())
    }

    fn save(&self, _cluster: &str, at: Vec<(Part, Frontier)>, durable: flume::Sender<Saved>) {
        lock(&self.frontiers).extend(at.iter().cloned());
        let _full_or_gone = durable.try_send(at);
    }

    fn knows_topic(&self, _cluster: &str, topic: &str) -> Result<bool, FrontierError> {
        Ok(lock(&self.frontiers).keys().any(|part| &*part.topic == topic))
    }
}

impl DeadLetters for Memory {
    async fn bury(&self, letter: Letter) -> Result<(), NotTaken> {
        if *lock(&self.refuse) {
            return Err(NotTaken("told to refuse".into()));
        }
        lock(&self.letters).push(letter);
        Ok(())
    }
}
