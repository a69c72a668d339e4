//! Collectors: they read the counters of one part at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use orderbell_consumers::Stats;
use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::BinCount;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{AlertSource, BalanceSource};
use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::ingest::IngestStats;
use crate::net::{ClassPlaces, ClassUse};
use crate::stream::outbox_publisher::PublisherStats;

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, &format!("{help}."), None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, &format!("{help}."), unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn counter_family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, &format!("{help}."), None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge_family<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    series: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, &format!("{help}."), unit, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Milliseconds as seconds.
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Counters of the event handler.
#[derive(Debug)]
pub(super) struct IngestCollector(pub(super) Arc<IngestStats>);

/// The counts of a map by one label.
fn by_label(
    label: &'static str,
    counts: &Mutex<BTreeMap<&'static str, u64>>,
) -> Vec<([(&'static str, &'static str); 1], u64)> {
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(value, count)| ([(label, *value)], *count)).collect()
}

impl Collector for IngestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (ingest, e) = (&self.0, &mut encoder);
        let events: Vec<_> = {
            let counts = ingest.events.lock().unwrap_or_else(PoisonError::into_inner);
            counts.iter().map(|((kind, result), count)| ([("type", *kind), ("result", *result)], *count)).collect()
        };
        counter_family(e, "events", "Events, by type and result", events)?;
        counter_family(e, "notices_created", "Notices created, by kind", by_label("kind", &ingest.notices_created))?;
        let help = "Records rejected because they cannot be decoded or applied, by reason";
        counter_family(e, "records_rejected", help, by_label("reason", &ingest.rejected))?;
        let help =
            "Rejected records that are paid orders, or may be: their type cannot be read, or is of a later stage";
        let paid = [
            ("paid", &ingest.paid_rejected),
            ("unreadable", &ingest.unreadable_rejected),
            ("later", &ingest.later_rejected),
        ];
        let paid = paid.map(|(kind, count)| ([("type", kind)], count.value()));
        counter_family(e, "paid_records_rejected", help, paid)?;
        let ignored: Vec<_> = {
            let types = ingest.ignored.lock().unwrap_or_else(PoisonError::into_inner);
            types.counts().map(|(kind, count)| ([("type", kind.to_owned())], count)).collect()
        };
        counter_family(e, "events_ignored", "Events that the configuration ignores, by type", ignored)?;
        counter(e, "notices_expired", "Notices that were due and past their lifetime", ingest.notices_expired.value())?;
        counter(e, "orders_expunged", "Orders deleted after their retention", ingest.orders_expunged.value())
    }
}

/// Subscribers and wake-ups.
#[derive(Debug)]
pub(super) struct HubCollector(pub(super) Arc<Hub>);

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (hub, e) = (&self.0, &mut encoder);
        let subscribers = [([("kind", "session")], hub.sessions()), ([("kind", "poll")], hub.waiting_polls())];
        gauge_family(e, "subscribers", "Open sessions and waiting polls", None, subscribers)?;
        counter(e, "wakeups", "Wake-ups of sessions and polls", hub.wakeups())
    }
}

/// The places of requests.
#[derive(Debug)]
pub(super) struct PlacesCollector(pub(super) Arc<ClassPlaces>);

impl Collector for PlacesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (classes, e) = (self.0.in_use(), &mut encoder);
        let series = |value: fn(&ClassUse) -> u64| classes.iter().map(move |of| ([("class", of.class)], value(of)));
        gauge_family(e, "places_in_use", "Requests at work, by class", None, series(|of| of.in_use))?;
        gauge_family(e, "places", "Requests that may be at work, by class", None, series(|of| of.places))
    }
}

/// Counters of the consumer group.
#[derive(Debug)]
pub(super) struct GroupCollector(pub(super) Arc<Stats>);

impl Collector for GroupCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.records(&mut encoder)?;
        self.in_flight(&mut encoder)?;
        self.partitions(&mut encoder)
    }
}

impl GroupCollector {
    fn records(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let group = &self.0;
        for (name, help, count) in [
            ("records_taken", "Records handed to shards", &group.taken),
            ("records_completed", "Records that reached a terminal outcome", &group.completed),
            ("records_abandoned", "Records dropped because their partition was revoked", &group.abandoned),
            ("records_dead_lettered", "Records written to the dead letters", &group.dead_lettered),
            ("batches_retried", "Key batches that asked for a later attempt", &group.batches_retried),
            ("handler_panics", "Panics of the handler, caught", &group.panics),
            ("dead_letter_writes_failed", "Failed attempts to write a dead letter", &group.dead_letter_writes_failed),
            ("source_errors", "Transient errors of the source", &group.source_errors),
            ("invariant_violations", "Violations of commit order or key order: must be 0", &group.invariant_violations),
        ] {
            counter(e, name, help, count.value())?;
        }
        Ok(())
    }

    fn in_flight(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let group = &self.0;
        let max_records = group.max_in_flight_records.value();
        gauge(e, "records_in_flight", "Records in flight", None, group.in_flight_records.value())?;
        gauge(e, "bytes_in_flight", "Bytes in flight", None, group.in_flight_bytes.value())?;
        gauge(e, "max_records_in_flight", "Limit of the records in flight", None, max_records)?;
        gauge(e, "max_bytes_in_flight", "Limit of the bytes in flight", None, group.max_in_flight_bytes.value())?;
        gauge(e, "keys_backing_off", "Keys that wait for their next attempt", None, group.keys_backing_off.value())?;
        let hottest = group.hot_keys().first().map_or(0, |hot| hot.records);
        gauge(e, "hottest_key_records", "Records in flight of the key with most of them", None, hottest)?;
        let poll_interval = seconds(i64::try_from(group.poll_interval_ms.value()).unwrap_or(i64::MAX));
        let help = "Longest time between two polls in the last second";
        gauge(e, "poll_interval", help, Some(&Unit::Seconds), poll_interval)
    }

    fn partitions(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let group = &self.0;
        let partitions = group.status();
        let paused = partitions.iter().filter(|status| status.paused).count() as u64;
        gauge(e, "partitions", "Assigned partitions", None, partitions.len() as u64)?;
        gauge(e, "partitions_paused", "Assigned partitions that are paused", None, paused)?;
        let help = "Partitions of the group that cannot be assigned yet";
        gauge(e, "partitions_unassigned", help, None, group.unassigned_partitions.value())?;
        gauge(
            e,
            "partitions_unowned",
            "Partitions owned by another member of the group",
            None,
            group.unowned_partitions.value(),
        )?;
        let labels = |status: &orderbell_consumers::PartitionStatus| {
            [("topic", status.partition.topic.to_string()), ("partition", status.partition.number.to_string())]
        };
        let now_ms = wall_clock().0;
        let staleness =
            partitions.iter().filter_map(|status| Some((labels(status), seconds((now_ms - status.as_of_ms?).max(0)))));
        let help = "Age of the time up to which a partition is completely durable; absent while unknown";
        gauge_family(e, "partition_staleness", help, Some(&Unit::Seconds), staleness)?;
        let lag = partitions.iter().map(|status| (labels(status), status.lag()));
        gauge_family(e, "partition_lag", "Offsets between the checkpoint and the end of the log", None, lag)
    }
}

/// Counters of the outbox publisher.
#[derive(Debug)]
pub(super) struct OutboxCollector(pub(super) Arc<PublisherStats>);

impl Collector for OutboxCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (publisher, e) = (&self.0, &mut encoder);
        counter(e, "events_published", "Events acknowledged by the output topic", publisher.published.value())?;
        counter(e, "publishes_failed", "Failed attempts to publish an event", publisher.failed.value())?;
        gauge(e, "outbox_pending", "Events that wait for the output topic", None, publisher.pending.value())
    }
}

/// The balance of paid orders.
pub(super) struct BalanceCollector(pub(super) Arc<dyn BalanceSource>);

impl fmt::Debug for BalanceCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BalanceCollector")
    }
}

impl Collector for BalanceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bins = self.0.bins().into_iter().filter(|bin| !bin.key.shadow);
        let series = bins.map(|BinCount { key, records, .. }| {
            ([("topic", key.topic), ("bin", key.bin.word().to_owned()), ("reason", key.reason)], records)
        });
        let help = "Records that may be paid orders, by where they ended";
        gauge_family(&mut encoder, "paid_records", help, None, series)
    }
}

/// The number of alerts by code. Every code has a series, also while it has no alert.
pub(super) struct AlertCollector(pub(super) Arc<dyn AlertSource>);

impl fmt::Debug for AlertCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlertCollector")
    }
}

impl Collector for AlertCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let alerts = self.0.alerts();
        let series = AlertCode::ALL.iter().map(|code| {
            let count = alerts.iter().filter(|alert| alert.code.word() == code.word()).count() as u64;
            ([("code", code.word()), ("severity", code.severity().word())], count)
        });
        gauge_family(&mut encoder, "alerts", "Alerts that need a person, by code", None, series)
    }
}
