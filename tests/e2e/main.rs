//! The whole, from outside: the real binary, real sockets, real signals. Each scenario reads as a script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]
#![allow(clippy::disallowed_methods, reason = "a scenario waits for its tasks by their handles")]

mod chain;
mod crash;
mod door;
mod examples;
#[cfg(feature = "real-kafka")]
mod fsync;
mod handshake;
#[cfg(feature = "real-kafka")]
mod kafka;
#[cfg(feature = "real-kafka")]
mod members;
mod ring;
mod sockets;
