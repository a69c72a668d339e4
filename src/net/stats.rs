//! Counters of the network side. `sockets_opened = closed + open` at any quiet moment.
//!
//! No store, device or order is ever a label: ten thousand of them would be ten thousand time series.

use orderbell_protocol::Close;
use orderbell_protocol::session::EventVerdict;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::rejections::Rejections;
use crate::latency::LatencyHistogram;

/// Why a WebSocket ended: the close word, or `client` when the peer ended it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// See [`Close::word`].
    pub reason: &'static str,
}

/// What an event of a client was answered with: the status, or the reason of a rejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClientEventLabels {
    /// A status or a reason, as in the protocol.
    pub result: &'static str,
}

/// Counters of the network side.
#[derive(Debug, Default)]
pub struct NetStats {
    /// WebSockets opened.
    pub sockets_opened: Counter,
    /// WebSockets that ended.
    pub sockets_closed: Family<CloseLabels, Counter>,
    /// Connections, WebSockets and wall viewers rejected because a limit was reached.
    pub connections_rejected: Counter,
    /// Clients that were turned away or had to wait, by reason.
    pub rejections: Rejections,
    /// Notices read for sessions.
    pub notices_pushed: Counter,
    /// Polls answered or waiting.
    pub polls: Counter,
    /// Notices in answers to polls.
    pub notices_polled: Counter,
    /// Events appended by `POST /v1/events` of producers.
    pub events_posted: Counter,
    /// Events that clients published, by frame or by POST.
    pub client_events: Family<ClientEventLabels, Counter>,
    /// Notices that a person saw, as reported by clients.
    pub notices_displayed: Counter,
    /// Notices that clients reported as unusable.
    pub notices_nacked: Counter,
    /// Notices skipped for a device after repeated ack timeouts.
    pub notices_poisoned: Counter,
    /// From the wake-up of a session to the first frame that it sends.
    pub push_latency: LatencyHistogram,
    /// From a notice frame to its acknowledgement.
    pub ack_latency: LatencyHistogram,
    /// Viewers of the wall now.
    pub wall_viewers: Gauge,
    /// Documents sent to viewers of the wall.
    pub wall_documents: Counter,
}

impl NetStats {
    /// Somebody is turned away because a limit of the whole server is reached.
    pub(crate) fn record_full(&self, reason: &'static str) {
        self.connections_rejected.inc();
        self.rejections.record(reason, None);
    }

    pub(crate) fn record_client_event(&self, verdict: EventVerdict) {
        let (status, reason) = verdict.words();
        self.client_events.get_or_create(&ClientEventLabels { result: reason.unwrap_or(status) }).inc();
    }

    pub(crate) fn record_close(&self, close: Option<Close>) {
        self.sockets_closed.get_or_create(&CloseLabels { reason: close.map_or("client", Close::word) }).inc();
    }
}
