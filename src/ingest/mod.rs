//! Ingest: from records to the effects of orders.
//!
//! [`mapping`] decodes a record, [`order`] decides what it means for its order, [`handler`] writes the effects of a whole batch at once.
//! Nothing here knows a socket, and nothing but `handler` waits.

pub mod client_events;
pub mod handler;
pub mod http_events;
pub mod order_view;
mod own_events;
mod timeline;

pub use handler::{ExpiryCheck, IngestStats, OrderHandler};
