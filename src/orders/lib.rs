//! Orders: from the bytes of an event to what it means for its order. Pure: no I/O, no clock, no task, no ledger.
//!
//! [`mapping`] decodes a record, [`order`] decides what it means for its order, [`notices`] builds what recipients are told, [`counting`] says what an
//! order adds to the counters, and [`reconcile`] counts a whole log again. Time is an argument everywhere.

mod amount;
pub mod counting;
mod decimal;
mod envelope;
pub mod envelopes;
mod event_fields;
pub mod event_time;
pub mod event_types;
mod fields;
mod framing;
pub mod json_text;
pub mod mapping;
mod members;
pub mod notice_kinds;
pub mod notices;
pub mod order;
mod pointers;
pub mod reconcile;
pub mod reconcile_payments;
pub mod record_type;
pub mod sha256;
mod subject;

pub use mapping::Mapping;
