//! What can be seen from outside: counters of the network side, and the exposition of everything in Prometheus' text format.
//!
//! No store, device or order is ever a label: ten thousand of them would be ten thousand series.

mod delay;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use orderbell_consumers::Stats;
use orderbell_protocol::Close;
use orderbell_protocol::session::Verdict;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use delay::Delay;

use crate::hub::Hub;
use crate::ingest::IngestStats;
use crate::stream::emitter::EmitStats;

/// Counters of the network side. `sockets_opened = closed + open` at any quiet moment.
#[derive(Debug, Default)]
pub struct NetStats {
    /// WebSockets that were opened.
    pub sockets_opened: Counter,
    /// Connections that found no place.
    pub refused: Counter,
    /// Notices read for sockets.
    pub pushed: Counter,
    /// Polls.
    pub polls: Counter,
    /// Notices told to polls.
    pub polled: Counter,
    /// Events that were posted.
    pub events_posted: Counter,
    /// Notices that a person has seen, as clients say.
    pub shown: Counter,
    /// Notices that clients cannot use.
    pub unusable: Counter,
    /// Notices that no connection of a device could get acknowledged.
    pub stuck: Counter,
    /// From a ring to the first frame that it led to.
    pub push_delay: Delay,
    /// From that frame until its notices were acknowledged.
    pub ack_delay: Delay,
    /// Viewers of the wall at this moment.
    pub viewers: Gauge,
    /// Documents that viewers were given.
    pub shown_wall: Counter,
    closes: Mutex<BTreeMap<&'static str, u64>>,
    said: Mutex<BTreeMap<&'static str, u64>>,
}

impl NetStats {
    pub(crate) fn said(&self, verdict: Verdict) {
        let (status, reason) = verdict.words();
        let word = reason.unwrap_or(status);
        *self.said.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_insert(0) += 1;
    }

    pub(crate) fn closed(&self, close: Option<Close>) {
        let word = close.map_or("client", Close::word);
        *self.closes.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_insert(0) += 1;
    }
}

/// Who counts.
pub struct Counted {
    /// The network side.
    pub net: Arc<NetStats>,
    /// What becomes of records.
    pub ingest: Arc<IngestStats>,
    /// What goes out.
    pub emit: Arc<EmitStats>,
    /// The consumer group.
    pub group: Arc<Stats>,
    /// Who is connected.
    pub hub: Arc<Hub>,
}

/// Everything that is shown on `/metrics`.
pub struct Metrics {
    registry: Registry,
    counted: Counted,
}

impl Metrics {
    /// Collects the parts.
    #[must_use]
    pub fn new(counted: Counted) -> Self {
        let net = &counted.net;
        let mut registry = Registry::with_prefix("orderbell");
        registry.register("sockets_opened", "WebSockets that were opened", net.sockets_opened.clone());
        registry.register("connections_refused", "Connections that found no place", net.refused.clone());
        registry.register("notices_pushed", "Notices read for sockets", net.pushed.clone());
        registry.register("notices_shown", "Notices seen by a person", net.shown.clone());
        registry.register("notices_unusable", "Notices that clients cannot use", net.unusable.clone());
        registry.register("notices_stuck", "Notices set aside for a device", net.stuck.clone());
        registry.register("polls", "Polls", net.polls.clone());
        registry.register("notices_polled", "Notices told to polls", net.polled.clone());
        registry.register("wall_viewers", "Viewers of the wall", net.viewers.clone());
        registry.register("wall_documents", "Documents that viewers of the wall were given", net.shown_wall.clone());
        let ingest = &counted.ingest;
        for (name, help, delay) in [
            ("read_delay_seconds", "From an event's own time until it was read", &ingest.read_delay),
            ("commit_delay_seconds", "From reading a record until it was durable", &ingest.commit_delay),
            ("push_delay_seconds", "From a ring to the first frame that it led to", &net.push_delay),
            ("ack_delay_seconds", "From a frame until its notices were acknowledged", &net.ack_delay),
        ] {
            registry.register(name, help, delay.histogram());
        }
        registry.register("events_posted", "Events that were posted", net.events_posted.clone());
        Self { registry, counted }
    }

    /// The text that a scraper reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return text;
        }
        let rest = text.trim_end().trim_end_matches("# EOF").len();
        text.truncate(rest);
        self.labelled(&mut text);
        self.group(&mut text);
        text.push_str("# EOF\n");
        text
    }

    fn labelled(&self, text: &mut String) {
        let lock =
            |map: &Mutex<BTreeMap<&'static str, u64>>| map.lock().unwrap_or_else(PoisonError::into_inner).clone();
        family(
            text,
            "sockets_closed",
            "counter",
            "WebSockets that ended, by close word",
            "why",
            &lock(&self.counted.net.closes),
        );
        family(
            text,
            "events_said",
            "counter",
            "Events that clients said, by answer",
            "answer",
            &lock(&self.counted.net.said),
        );
        family(text, "notices_made", "counter", "Notices made, by kind", "kind", &lock(&self.counted.ingest.notices));
        family(
            text,
            "records_rejected",
            "counter",
            "Records that could not be understood",
            "reason",
            &lock(&self.counted.ingest.rejected),
        );
        header(text, "events", "counter", "Events, by type and what became of them");
        for ((kind, verdict), count) in &*self.counted.ingest.events.lock().unwrap_or_else(PoisonError::into_inner) {
            let _infallible = writeln!(text, "orderbell_events_total{{type=\"{kind}\",verdict=\"{verdict}\"}} {count}");
        }
        single(
            text,
            "paid_records_rejected",
            "counter",
            "Dead letters that look like paid orders",
            self.counted.ingest.paid_rejected.value(),
        );
        single(
            text,
            "notices_too_old",
            "counter",
            "Notices owed and too old to ring",
            self.counted.ingest.too_old.value(),
        );
        single(
            text,
            "orders_forgotten",
            "counter",
            "Orders forgotten after their retention",
            self.counted.ingest.forgotten.value(),
        );
        single(text, "seats", "gauge", "Sessions and waiting polls", self.counted.hub.seats());
        single(text, "rings", "counter", "Wakes of sessions and polls", self.counted.hub.rings());
    }

    fn group(&self, text: &mut String) {
        let group = &self.counted.group;
        for (name, help, count) in [
            ("records_taken", "Records handed to shards", &group.taken),
            ("records_completed", "Records that became terminal", &group.completed),
            ("records_abandoned", "Records dropped with their partition", &group.abandoned),
            ("records_buried", "Records sent to the dead letters", &group.rejected),
            ("turns_retried", "Turns that asked for a later try", &group.retried),
            ("handler_panics", "Panics caught", &group.panics),
            ("burials_failed", "Dead letters not taken at first", &group.burials_failed),
            ("source_errors", "Passing errors of the source", &group.source_errors),
            ("sentinel_violations", "Broken commit or key order: must be 0", &group.violations),
        ] {
            single(text, name, "counter", help, count.value());
        }
        single(text, "records_held", "gauge", "Records held", group.held_records.value());
        single(text, "bytes_held", "gauge", "Bytes held", group.held_bytes.value());
        single(text, "records_max", "gauge", "Records that may be held", group.records_max.value());
        single(text, "bytes_max", "gauge", "Bytes that may be held", group.bytes_max.value());
        single(text, "keys_parked", "gauge", "Keys that rest until their next try", group.parked.value());
        single(text, "poll_gap_ms", "gauge", "Longest time between two polls, last second", group.poll_gap_ms.value());
        let hottest = group.hot().first().map_or(0, |hot| hot.records);
        single(text, "hottest_key_records", "gauge", "Records held of the key that holds most", hottest);
        let status = group.status();
        let paused = status.iter().filter(|status| status.paused).count() as u64;
        single(text, "partitions", "gauge", "Partitions that are placed", status.len() as u64);
        single(text, "partitions_paused", "gauge", "Of these, not read at present", paused);
        single(text, "partitions_unplaced", "gauge", "Partitions that cannot be placed yet", group.unplaced.value());
        single(text, "partitions_foreign", "gauge", "Partitions that are somebody else's", group.foreign.value());
        let now_ms = crate::net::wall_clock().0;
        header(text, "partition_age_ms", "gauge", "How long ago it was that all of a partition was finished");
        for status in &status {
            let age = status.as_of_ms.map_or(-1, |at| now_ms - at);
            let (topic, number) = (&status.part.topic, status.part.number);
            let _infallible =
                writeln!(text, "orderbell_partition_age_ms{{topic=\"{topic}\",partition=\"{number}\"}} {age}");
        }
        header(text, "partition_lag", "gauge", "Offsets between what is durably finished and the end of the log");
        for status in status {
            let lag = status.lag();
            let _infallible = writeln!(
                text,
                "orderbell_partition_lag{{topic=\"{}\",partition=\"{}\"}} {lag}",
                status.part.topic, status.part.number
            );
        }
        let emit = &self.counted.emit;
        single(text, "events_emitted", "counter", "Events that the output topic has", emit.emitted.value());
        single(text, "emits_failed", "counter", "Events not emitted at first", emit.failed.value());
        single(text, "outbox_waiting", "gauge", "Events that wait for the output topic", emit.waiting.value());
        single(text, "red_lights", "gauge", "Things that need a person", group.lights().len() as u64);
    }
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = write!(text, "# HELP orderbell_{name} {help}.\n# TYPE orderbell_{name} {kind}\n");
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    header(text, name, kind, help);
    let total = if kind == "counter" { "_total" } else { "" };
    let _infallible = writeln!(text, "orderbell_{name}{total} {value}");
}

fn family(text: &mut String, name: &str, kind: &str, help: &str, label: &str, values: &BTreeMap<&'static str, u64>) {
    header(text, name, kind, help);
    for (value, count) in values {
        let _infallible = writeln!(text, "orderbell_{name}_total{{{label}=\"{value}\"}} {count}");
    }
}
