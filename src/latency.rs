//! Latency of one stage of an order's path, as a histogram that scrapers and the console read.
//!
//! 17 buckets from half a millisecond to half a minute, each bound twice the previous one: a fast push and a stalled disk are both visible.
//!
//! Refused: the histogram of `prometheus-client`. It holds a mutex while it counts, and every connection counts here at each push and each ack.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

const FIRST_BUCKET_SECONDS: f64 = 0.000_5;
const BUCKETS: usize = 17;

/// A latency histogram in seconds. Clones share their samples.
#[derive(Clone, Debug, Default)]
pub struct LatencyHistogram(Arc<Samples>);

#[derive(Debug, Default)]
struct Samples {
    /// Samples of each bucket alone; the last one is above all bounds.
    buckets: [AtomicU64; BUCKETS + 1],
    /// The bits of a sum in seconds.
    sum: AtomicU64,
}

/// The upper bounds of the buckets, in seconds.
fn bounds() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(FIRST_BUCKET_SECONDS), |bound| Some(bound * 2.0)).take(BUCKETS)
}

impl LatencyHistogram {
    /// Records one sample.
    pub(crate) fn observe(&self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let bucket = bounds().position(|bound| seconds <= bound).unwrap_or(BUCKETS);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |sum| Some((f64::from_bits(sum) + seconds).to_bits());
        self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).expect("every sum has a next one");
    }

    /// Records the difference of two wall clocks in milliseconds. A negative one (clock skew) counts as zero.
    pub(crate) fn observe_ms(&self, ms: i64) {
        self.observe(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
    }
}

impl EncodeMetric for LatencyHistogram {
    /// The count is that of the buckets, so that the two agree in each scrape. The sum may have a sample more or less.
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let bounds = bounds().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.0.buckets.iter().map(|samples| samples.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, samples)| samples).sum();
        let sum = f64::from_bits(self.0.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
    use prometheus_client::registry::{Metric, Registry, Unit};

    use super::*;

    fn exposition(metric: impl Metric) -> String {
        let mut registry = Registry::default();
        registry.register_with_unit("push_latency", "From a wake-up to a frame", Unit::Seconds, metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    /// The library's own histogram is the model.
    #[test]
    fn scrapers_read_what_the_librarys_histogram_would_tell_them() {
        let (ours, model) = (LatencyHistogram::default(), Histogram::new(exponential_buckets(0.000_5, 2.0, 17)));
        assert_eq!(exposition(ours.clone()), exposition(model.clone()));
        for micros in [0, 1, 499, 500, 501, 1_000, 3_700, 32_768_000, 32_768_001, 90_000_000] {
            let latency = Duration::from_micros(micros);
            ours.observe(latency);
            model.observe(latency.as_secs_f64());
        }
        assert_eq!(exposition(ours.clone()), exposition(model));
        ours.observe_ms(-5);
        assert!(exposition(ours).contains("\npush_latency_seconds_count 11\n"));
    }

    #[test]
    fn samples_of_many_threads_are_all_counted() {
        let latency = LatencyHistogram::default();
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| (0..1_000).for_each(|_| latency.observe(Duration::from_secs(1))));
            }
        });
        let text = exposition(latency);
        assert!(text.contains("\npush_latency_seconds_sum 8000.0\n"), "{text}");
        assert!(text.contains("\npush_latency_seconds_count 8000\n"), "{text}");
        assert!(text.contains("_bucket{le=\"1.024\"} 8000\n"), "{text}");
    }
}
