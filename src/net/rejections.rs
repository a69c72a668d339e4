//! Clients that are turned away before they are served, or have to wait: counted by reason, and logged at a bounded rate.
//!
//! Whoever installs a till sees only a status or a close code, the same for every bad token. The operator sees why. Reasons are words of this
//! program; a store is named when the token's signature is good. Never named: tokens, customers, and text that the client chose.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use orderbell_protocol::admin::RejectedClients;
use orderbell_protocol::{Recipient, Role, UnixMs};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::clock::wall_clock;

/// Time between two log lines about one reason: ten thousand tills with one bad token must not fill the disk. Milliseconds.
const LOG_INTERVAL_MS: i64 = 10_000;

/// Why clients were turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RejectionLabels {
    /// A word.
    pub reason: &'static str,
}

#[derive(Debug)]
struct Rejected {
    count: u64,
    last_at: UnixMs,
    /// The store that came last.
    store: Option<String>,
    logged_at: UnixMs,
    /// Since the last log line.
    unlogged: u64,
}

/// See the module. There are as many reasons as words in the program.
#[derive(Debug, Default)]
pub struct Rejections {
    /// By reason.
    pub counts: Family<RejectionLabels, Counter>,
    seen: Mutex<BTreeMap<&'static str, Rejected>>,
}

impl Rejections {
    /// A client was turned away; `who` is known when its token is signed by one of our keys.
    pub(super) fn record(&self, reason: &'static str, who: Option<&Recipient>) {
        self.record_at(reason, who, wall_clock());
    }

    fn record_at(&self, reason: &'static str, who: Option<&Recipient>, now: UnixMs) {
        self.counts.get_or_create(&RejectionLabels { reason }).inc();
        let store = who.filter(|who| who.role == Role::Store).map(|who| who.id.to_string());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Rejected { count: 0, last_at: now, store: None, logged_at: UnixMs(i64::MIN / 2), unlogged: 0 };
        let rejected = seen.entry(reason).or_insert_with(new);
        rejected.count += 1;
        rejected.unlogged += 1;
        rejected.last_at = now;
        rejected.store = store.or_else(|| rejected.store.take());
        // A clock that was set back must not silence the log.
        let is_due = now < rejected.logged_at || rejected.logged_at.plus_ms(LOG_INTERVAL_MS) <= now;
        if is_due {
            rejected.logged_at = now;
            let (times, store) = (std::mem::take(&mut rejected.unlogged), rejected.store.clone());
            drop(seen);
            tracing::warn!(reason, times, store, "clients were turned away");
        }
    }

    /// Why clients were turned away since the start, most frequent first.
    #[must_use]
    pub fn list(&self) -> Vec<RejectedClients> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |(reason, rejected): (&&'static str, &Rejected)| RejectedClients {
            reason: (*reason).to_owned(),
            count: rejected.count,
            last_at: rejected.last_at,
            store: rejected.store.clone(),
        };
        let mut all: Vec<_> = seen.iter().map(named).collect();
        drop(seen);
        all.sort_by_key(|rejected| std::cmp::Reverse(rejected.count));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_lab::log_capture::LogCapture;
    use orderbell_protocol::Id;

    #[test]
    fn who_is_turned_away_is_counted_and_logged_once_in_ten_seconds() {
        let log = LogCapture::at(tracing::Level::INFO);
        let rejections = Rejections::default();
        let (store, customer) =
            (Recipient::store(Id::new("17").unwrap()), Recipient::customer(Id::new("+4915112345").unwrap()));
        (0..1_000).for_each(|n| rejections.record_at("token-expired", Some(&store), UnixMs(n)));
        rejections.record_at("token-expired", Some(&customer), UnixMs(10_000));
        rejections.record_at("bad-handshake", None, UnixMs(10_000));
        let text = log.text();
        assert_eq!(text.lines().count(), 3, "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["fields"]["times"], &lines[0]["fields"]["store"]), (&1.into(), &"17".into()));
        assert_eq!(lines[1]["fields"]["times"], 1_000);
        assert_eq!(lines[2]["fields"]["reason"], "bad-handshake");
        assert!(!text.contains("4915112345"));
        let all = rejections.list();
        assert_eq!(
            (all[0].reason.as_str(), all[0].count, all[0].store.as_deref()),
            ("token-expired", 1_001, Some("17"))
        );
        let counted = rejections.counts.get_or_create(&RejectionLabels { reason: "bad-handshake" }).get();
        assert_eq!((all.len(), counted), (2, 1));
    }
}
