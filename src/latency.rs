//! Latency of one stage of an order's path, as a histogram that scrapers and the console read.
//!
//! 17 buckets from half a millisecond to half a minute, each bound twice the previous one: a fast push and a stalled disk are both visible.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

const FIRST_BUCKET_SECONDS: f64 = 0.000_5;
const BUCKETS: u16 = 17;

/// A latency histogram in seconds. Clones share their samples.
#[derive(Clone, Debug)]
pub struct LatencyHistogram(Histogram);

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(FIRST_BUCKET_SECONDS, 2.0, BUCKETS)))
    }
}

impl LatencyHistogram {
    /// Records one sample.
    pub(crate) fn observe(&self, latency: Duration) {
        self.0.observe(latency.as_secs_f64());
    }

    /// Records the difference of two wall clocks in milliseconds. A negative one (clock skew) counts as zero.
    pub(crate) fn observe_ms(&self, ms: i64) {
        self.observe(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
    }

    /// The same histogram for a metrics registry.
    pub(crate) fn histogram(&self) -> Histogram {
        self.0.clone()
    }
}
