//! Orderbell: a real-time push centre and order-stream pipeline.
//!
//! See ARCHITECTURE.md for the map. `ingest -> ledger <- hub <- net`.

pub mod ingest;
pub mod ledger;
