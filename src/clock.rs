//! The wall clock, in the unit that the protocol and the ledger use.

use orderbell_protocol::UnixMs;

/// The current time; see [`orderbell_consumers::clock`].
#[must_use]
pub fn wall_clock() -> UnixMs {
    UnixMs(orderbell_consumers::clock::unix_ms())
}
