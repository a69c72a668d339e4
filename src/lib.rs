//! Orderbell: a real-time push centre and order-stream pipeline.
//!
//! ARCHITECTURE.md describes the modules. Dependencies: `ingest -> ledger <- hub <- net`.

pub mod cli;
pub mod clock;
pub mod config;
pub mod hub;
pub mod ingest;
pub mod latency;
pub mod metrics;
pub mod net;
pub mod pages;
pub mod server;
pub mod stream;
pub mod wall;
