//! The client machine: [`world`] runs it against the real server session, [`cases`] holds named cases,
//! [`vectors`] the behaviour that implementations in every language share.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod cases;
mod vectors;
mod world;
