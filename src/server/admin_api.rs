//! Composes the [`AdminApi`]: health, inspection, dead letters and backups, each answered by the parts that know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orderbell_protocol::alert::{Alert, AlertCode};

use super::alerts::Alerts;
use super::dead_letters::DeadLetterAdmin;
use super::inspector::Inspector;
use crate::metrics::Metrics;
use crate::net::{AcknowledgeFuture, AdminApi, BackupSource, Blocking, ServerStatus};
use orderbell_ledger::Ledger;

/// Health of the server, and its metrics.
pub(super) struct Status {
    is_ready: AtomicBool,
    alerts: Arc<Alerts>,
    metrics: Metrics,
}

impl Status {
    /// A server that is ready.
    pub(super) fn new(alerts: Arc<Alerts>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { is_ready: AtomicBool::new(true), alerts, metrics })
    }

    /// From now on `/ready` answers 503.
    pub(super) fn set_not_ready(&self) {
        self.is_ready.store(false, Ordering::Release);
    }
}

impl ServerStatus for Status {
    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    fn alerts(&self) -> Vec<Alert> {
        self.alerts.current()
    }

    fn acknowledge(&self, code: AlertCode, subject: Option<String>) -> AcknowledgeFuture {
        let alerts = self.alerts.clone();
        Box::pin(async move { alerts.acknowledge(code, subject.as_deref()).await })
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }
}

impl BackupSource for Ledger {
    fn backup(&self, to: &mut dyn std::io::Write) -> std::io::Result<u64> {
        Self::backup(self, to, |_| {})
    }
}

/// What the admin listener asks.
pub(super) fn compose(
    status: Arc<Status>,
    inspector: Inspector,
    dead_letters: DeadLetterAdmin,
    ledger: Arc<Ledger>,
) -> AdminApi {
    AdminApi {
        status,
        inspection: Blocking::new(Arc::new(inspector)),
        dead_letters: Blocking::new(Arc::new(dead_letters)),
        backup: ledger,
    }
}
