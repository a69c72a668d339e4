//! Named steps of an event's path at which a test may end the process as kill -9 does.
//!
//! Without the feature `crash-points` a step is nothing. With it, `ORDERBELL_DIE_AT=step@n` ends the process when `step` is reached for the
//! nth time. A kill at random finds the wide gaps; this finds the narrow ones, each of them, each time.

/// This step was reached.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub(crate) fn point(_step: &'static str) {}

/// This step was reached.
#[cfg(feature = "crash-points")]
pub(crate) fn point(step: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static DIE_AT: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    let die_at = DIE_AT.get_or_init(|| {
        let text = std::env::var("ORDERBELL_DIE_AT").ok()?;
        let (step, nth) = text.split_once('@')?;
        Some((step.to_owned(), nth.parse().ok()?))
    });
    if let Some((wanted, nth)) = die_at
        && wanted == step
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        let _gone = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way; nothing behind this step may happen.
        loop {
            std::thread::park();
        }
    }
}
