//! Orders: from the bytes of an event to what it means for its order. Pure: no I/O, no clock, no task, no ledger.
//!
//! [`mapping`] decodes a record, [`order`] decides what it means for its order, [`notices`] builds what recipients receive, [`counting`] says what an
//! order adds to the counters, and [`event_effects`] is all of that for one record. [`reconcile`] counts a whole log again, [`sample_run`] applies a
//! sample of records as the server would, and [`mapping_doctor`] says how a mapping fits it. Time is an argument everywhere.

mod amount;
pub mod counting;
mod decimal;
mod envelope;
pub mod envelopes;
pub mod event_effects;
mod event_fields;
pub mod event_time;
pub mod event_types;
mod fields;
pub mod form;
mod framing;
pub mod header_members;
pub mod json_text;
pub mod mapping;
pub mod mapping_doctor;
mod members;
pub mod notice_kinds;
pub mod notices;
pub mod order;
mod own_marks;
mod pointers;
pub mod prepared;
pub mod reconcile;
pub mod reconcile_payments;
pub mod record_type;
pub mod sample_run;
pub mod sha256;
pub mod source_clocks;
mod subject;

pub use mapping::Mapping;
