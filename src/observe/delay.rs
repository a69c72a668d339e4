//! How long one stage of an order's way takes, as a histogram that scrapers and the console read: from half a millisecond to half a minute, each
//! bound twice the one before.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

const FIRST_SECONDS: f64 = 0.000_5;
const BUCKETS: u16 = 17;

/// Cloned, it is the same one.
#[derive(Clone, Debug)]
pub struct Delay(Histogram);

impl Default for Delay {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(FIRST_SECONDS, 2.0, BUCKETS)))
    }
}

impl Delay {
    /// One took so long.
    pub(crate) fn took(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }

    /// One took so long, by two clocks: what ends before it begins took nothing.
    pub(crate) fn took_ms(&self, ms: i64) {
        self.took(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
    }

    pub(super) fn histogram(&self) -> Histogram {
        self.0.clone()
    }
}
