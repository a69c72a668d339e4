//! Ingest: from records to the effects of orders.
//!
//! [`mapping`] decodes a record, [`order`] decides what it means for its order, [`handler`] writes the effects of a whole batch at once.
//! Nothing here knows a socket, and nothing but `handler` waits.

pub mod client_events;
pub mod counting;
pub mod event_time;
pub mod handler;
pub mod http_events;
pub mod mapping;
pub mod notice_kinds;
pub mod notices;
pub mod order;
mod order_key;
pub mod order_view;
mod own_events;
pub mod reconcile;
mod sha256;
mod timeline;

pub use handler::{EXPIRY_TOPIC, IngestStats, OrderHandler};
pub use mapping::Mapping;
