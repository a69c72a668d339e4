//! The client machine: [`world`] drives it against the real server session, [`cases`] says what it does in each case that has a name,
//! [`vectors`] what every such machine does, in whatever language it is written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

mod cases;
mod vectors;
mod world;
