//! The wall clock.
//!
//! For timestamps that leave the process or must survive a restart. Time-outs and intervals use the monotonic `Instant` instead, since an
//! administrator or NTP may set this clock back.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time in milliseconds since 1970. A clock before 1970 reads as 0, one beyond the range of the type as its maximum.
#[must_use]
pub fn unix_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
