//! The whole, from outside: the real binary, real sockets, real signals. Each scenario reads as a script.

mod chain;
mod crash;
mod door;
mod handshake;
#[cfg(feature = "real-kafka")]
mod kafka;
#[cfg(feature = "real-kafka")]
mod members;
mod ring;
mod sockets;
