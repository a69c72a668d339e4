//! Orderbell: a real-time push centre and order-stream pipeline.
//!
//! See ARCHITECTURE.md for the map. `ingest -> ledger <- hub <- net`.

pub mod cli;
pub mod client;
pub mod config;
mod crash;
pub mod hub;
pub mod ingest;
pub mod ledger;
pub mod net;
pub mod observe;
pub mod pages;
pub mod server;
pub mod stream;
pub mod wall;
