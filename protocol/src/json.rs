//! The one place where the types of this crate become JSON text.

use serde::Serialize;

/// The JSON of a value of the wire model. For types of this crate only: other types may fail to serialize.
///
/// # Panics
/// Never for these types: `serde_json` fails on map keys that are not strings and on `Serialize` implementations that return an error,
/// and the wire model has neither.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types have string keys only and no Serialize implementation that fails")
}
