//! Named crash points: steps of an event's path at which a test ends the process as kill -9 would.
//!
//! Without the feature `crash-points` a crash point compiles to nothing. With it, `ORDERBELL_DIE_AT=step@n` kills the process when `step` is
//! reached for the nth time. A kill at a random moment finds the wide windows of a bug; a named step finds the narrow ones, every time.

/// Marks a step of an event's path.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_step: &'static str) {}

/// Marks a step of an event's path; kills the process when `ORDERBELL_DIE_AT` names this step and its turn has come.
#[cfg(feature = "crash-points")]
pub fn point(step: &'static str) {
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
        // The signal is pending; no code after this step may run.
        loop {
            std::thread::park();
        }
    }
}
