//! The exposition: all counters of the process in the OpenMetrics text format, for `/metrics`.
//!
//! Base units only: seconds and bytes. No store, device or order is ever a label: ten thousand of them would be ten thousand time series.
//!
//! Counters of the network side are metrics themselves ([`NetStats`]). The consumer group, the ingest, the hub and the outbox publisher know no
//! metrics library; a collector reads each of them at every scrape.

mod collectors;

use std::sync::Arc;

use orderbell_consumers::Stats;
use orderbell_ledger::Ledger;
use orderbell_protocol::alert::Alert;
use orderbell_protocol::balance::BinCount;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Registry, Unit};

use crate::hub::Hub;
use crate::ingest::IngestStats;
use crate::net::{ClassPlaces, NetStats};
use crate::stream::outbox_publisher::PublisherStats;
use collectors::{
    AlertCollector, BalanceCollector, GroupCollector, HubCollector, IngestCollector, OutboxCollector, PlacesCollector,
};

/// Knows where the records that may be paid orders ended.
pub trait BalanceSource: Send + Sync + 'static {
    /// The bins and their numbers.
    fn bins(&self) -> Vec<BinCount>;
}

impl BalanceSource for Ledger {
    fn bins(&self) -> Vec<BinCount> {
        self.balance().counts()
    }
}

/// Knows what needs a person now. The server implements it; metrics import nothing of the server.
pub trait AlertSource: Send + Sync + 'static {
    /// The alerts that are raised now.
    fn alerts(&self) -> Vec<Alert>;
}

/// What is exposed.
pub struct MetricSources {
    /// Counters of the network side.
    pub net: Arc<NetStats>,
    /// The places of requests.
    pub places: Arc<ClassPlaces>,
    /// Counters of the event handler.
    pub ingest: Arc<IngestStats>,
    /// Counters of the outbox publisher.
    pub publisher: Arc<PublisherStats>,
    /// Counters of the consumer group.
    pub group: Arc<Stats>,
    /// The registry of subscribers.
    pub hub: Arc<Hub>,
    /// The balance of paid orders.
    pub balance: Arc<dyn BalanceSource>,
    /// Everything that needs a person now.
    pub alerts: Arc<dyn AlertSource>,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Registers everything that the sources count.
    #[must_use]
    pub fn new(sources: MetricSources) -> Self {
        let MetricSources { net, places, ingest, publisher, group, hub, balance, alerts } = sources;
        let mut registry = Registry::with_prefix("orderbell");
        register_net(&mut registry, &net);
        for (name, help, latency) in [
            ("consume_lag", "From an event's own time until it was read", &ingest.consume_lag),
            ("commit_latency", "From reading a record until it was durable", &ingest.commit_latency),
            ("push_latency", "From a wake-up to the first frame that it led to", &net.push_latency),
            ("ack_latency", "From a notice frame to its acknowledgement", &net.ack_latency),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, latency.clone());
        }
        registry.register_collector(Box::new(PlacesCollector(places)));
        registry.register_collector(Box::new(IngestCollector(ingest)));
        registry.register_collector(Box::new(HubCollector(hub)));
        registry.register_collector(Box::new(GroupCollector(group)));
        registry.register_collector(Box::new(OutboxCollector(publisher)));
        registry.register_collector(Box::new(BalanceCollector(balance)));
        registry.register_collector(Box::new(AlertCollector(alerts)));
        Self { registry }
    }

    /// The text of one scrape.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            // Without its end marker a scraper rejects the text, instead of taking a part for the whole.
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }
}

fn register_net(registry: &mut Registry, net: &NetStats) {
    registry.register("sockets_opened", "WebSockets opened", net.sockets_opened.clone());
    registry.register("sockets_closed", "WebSockets that ended, by close reason", net.sockets_closed.clone());
    let help = "Connections and viewers rejected because a limit was reached";
    registry.register("connections_rejected", help, net.connections_rejected.clone());
    let help = "Clients that were turned away or had to wait, by reason";
    registry.register("clients_rejected", help, net.rejections.counts.clone());
    registry.register("notices_pushed", "Notices read for sessions", net.notices_pushed.clone());
    registry.register("notices_displayed", "Notices seen by a person", net.notices_displayed.clone());
    registry.register("notices_nacked", "Notices that clients cannot use", net.notices_nacked.clone());
    let help = "Notices skipped for a device after repeated ack timeouts";
    registry.register("notices_poisoned", help, net.notices_poisoned.clone());
    registry.register("polls", "Polls", net.polls.clone());
    registry.register("notices_polled", "Notices in answers to polls", net.notices_polled.clone());
    registry.register("wall_viewers", "Viewers of the wall", net.wall_viewers.clone());
    registry.register("wall_documents", "Documents sent to viewers of the wall", net.wall_documents.clone());
    registry.register("events_posted", "Events appended by producers over HTTP", net.events_posted.clone());
    registry.register("client_events", "Events published by clients, by result", net.client_events.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::UnixMs;
    use orderbell_protocol::alert::AlertCode;

    struct NoBins;

    impl BalanceSource for NoBins {
        fn bins(&self) -> Vec<BinCount> {
            Vec::new()
        }
    }

    struct TheseAlerts(Vec<Alert>);

    impl AlertSource for TheseAlerts {
        fn alerts(&self) -> Vec<Alert> {
            self.0.clone()
        }
    }

    fn metrics(alerts: Vec<Alert>) -> (Arc<NetStats>, Metrics) {
        let net = Arc::<NetStats>::default();
        let sources = MetricSources {
            net: net.clone(),
            places: Arc::new(ClassPlaces::new(&crate::net::NetLimits::default())),
            ingest: Arc::default(),
            publisher: Arc::default(),
            group: Arc::default(),
            hub: Arc::default(),
            balance: Arc::new(NoBins),
            alerts: Arc::new(TheseAlerts(alerts)),
        };
        (net, Metrics::new(sources))
    }

    #[test]
    fn every_family_has_one_description_and_the_text_ends_with_the_marker() {
        let (net, metrics) = metrics(Vec::new());
        net.record_close(None);
        net.push_latency.observe_ms(3);
        let text = metrics.text();
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("orderbell_sockets_closed_total{reason=\"client\"} 1\n"), "{text}");
        assert!(text.contains("orderbell_push_latency_seconds_bucket{le=\"0.004\"} 1\n"), "{text}");
        assert!(text.contains("orderbell_subscribers{kind=\"session\"} 0\n"), "{text}");
        assert!(text.contains("orderbell_places_in_use{class=\"list\"} 0\n"), "{text}");
        assert!(text.contains("orderbell_places{class=\"list\"} 50\n"), "{text}");
        assert!(text.contains("orderbell_invariant_violations_total 0\n"), "{text}");
        let mut described: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let count = described.len();
        described.sort_unstable();
        described.dedup();
        assert_eq!(described.len(), count);
    }

    #[test]
    fn every_alert_code_has_a_series_that_counts_its_alerts() {
        let alert =
            |store: &str| Alert::new(AlertCode::MailboxOverflow, Some(store.into()), UnixMs(1), "too many".into());
        let text = metrics(vec![alert("store:1"), alert("store:2")]).1.text();
        assert!(text.contains("orderbell_alerts{code=\"mailbox_overflow\",severity=\"warning\"} 2\n"), "{text}");
        assert!(text.contains("orderbell_alerts{code=\"disk_low\",severity=\"critical\"} 0\n"), "{text}");
        let series = text.lines().filter(|line| line.starts_with("orderbell_alerts{")).count();
        assert_eq!(series, AlertCode::ALL.len());
    }
}
