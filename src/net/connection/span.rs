//! The span of a connection, and the rule for what log lines may say of who is connected.
//!
//! - A store and its device are named: whoever reads the log must find the till.
//! - A customer is a person: the log says `customer`, and neither the id nor the device, which may be a person's phone by name. A hash of the id
//!   is refused: where ids are phone numbers, whoever has the log can try them all. The connection's number tells its lines from others.
//! - Tokens, phone numbers, names and pickup codes are never logged.
//!
//! The span has the level of errors, so that it exists whenever one of its lines is printed.

use orderbell_protocol::{DeviceId, Recipient, Role};
use tracing::Span;
use tracing::field::Empty;

/// The span of the connection with this number: nobody is known yet.
pub(super) fn of_connection(number: u64) -> Span {
    tracing::error_span!("connection", connection = number, recipient = Empty, device = Empty)
}

/// From now on, every line of the current connection's span names the till.
pub(super) fn name_till(who: &Recipient, device: &DeviceId) {
    let span = Span::current();
    match who.role {
        Role::Store => {
            // As text, which the log quotes: an id with spaces cannot pass for other fields.
            span.record("recipient", who.to_string().as_str());
            span.record("device", device.as_str());
        }
        Role::Customer => {
            span.record("recipient", who.role.word());
        }
    }
}
