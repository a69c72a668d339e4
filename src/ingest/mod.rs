//! Ingest: from records to the effects of orders.
//!
//! [`mapping`] understands a record, [`life`] decides what it means for its order, [`handler`] writes all of a turn in one go. Nothing
//! here knows a socket, and nothing but `handler` waits.

pub mod desk;
pub mod door;
pub mod handler;
pub mod life;
pub mod mapping;
pub mod notices;
mod outgoing;
pub mod reconcile;
pub mod tally;
pub mod time;
mod timeline;

pub use handler::{IngestStats, OrderHandler, SWEEP_TOPIC};
pub use mapping::Mapping;
