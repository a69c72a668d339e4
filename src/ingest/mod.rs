//! Ingest: the order rules of [`orderbell_orders`] applied to what comes in, and their effects handed to the ledger.
//!
//! [`handler`] decodes a record, applies it to its order and writes the effects of a whole batch at once; [`http_events`] and [`client_events`] check
//! what producers and clients post; [`order_view`] is what recipients and operators see. Nothing here knows a socket, and nothing but `handler`
//! waits.

#[cfg(test)]
mod balance_tests;
pub mod client_events;
pub mod handler;
mod http_body;
pub mod http_events;
#[cfg(test)]
mod http_fuzz;
mod ignored_types;
pub mod order_view;
mod own_events;
#[cfg(test)]
#[path = "../../tests/fuzz/rounds.rs"]
mod rounds;
mod timeline;
mod unannounced;
mod undecoded_topics;

use orderbell_ledger::{DamagedRow, LedgerDamage, OrderKey};
use orderbell_orders::order::Order;

pub use handler::{ExpiryCheck, IngestStats, OrderHandler};
pub use ignored_types::IgnoredTypes;
pub use unannounced::{Place, UnannouncedOrders};
pub use undecoded_topics::{Undecoded, UndecodedTopics};

/// Decodes an order's stored state; nothing else does. One that does not decode is logged and raises an alert.
fn stored_order(damage: &LedgerDamage, key: &OrderKey, state: &[u8]) -> Result<Order, DamagedRow> {
    damage.decode("orders", &[&[u8::from(key.shadow)], key.id.as_str().as_bytes()], state)
}
