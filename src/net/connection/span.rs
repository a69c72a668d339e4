//! The span of a connection's or poll's log lines, and the rule for what they may say of whose it is.
//!
//! - A store and its device are named: whoever reads the log must find the till.
//! - A customer is a person: the log says `customer`, and neither the id nor the device, which may be a person's phone by name. A hash of the id
//!   is refused: where ids are phone numbers, whoever has the log can try them all. The connection's number tells its lines from others.
//! - Tokens, phone numbers, names and pickup codes are never logged.
//!
//! A span is made for the lines that are about to be logged, from what the connection knows anyway, and has the level of errors, so that it exists
//! whenever one of its lines is printed. Refused: a span that is open as long as its connection. It costs each idle connection 500 bytes, and
//! most connections never log a line.

use orderbell_protocol::{DeviceId, Recipient, Role};
use tracing::Span;
use tracing::field::Empty;

/// The span of the connection with this number; `till` is who is connected, once that is known.
pub(super) fn of_connection(number: u64, till: Option<(&Recipient, &DeviceId)>) -> Span {
    let span = tracing::error_span!("connection", connection = number, recipient = Empty, device = Empty);
    if let Some((who, device)) = till {
        record(&span, who, device);
    }
    span
}

/// The same for a poll, which has no number.
pub(in crate::net) fn of_poll(who: &Recipient, device: &DeviceId) -> Span {
    let span = tracing::error_span!("poll", recipient = Empty, device = Empty);
    record(&span, who, device);
    span
}

/// The same for a request for open orders or a timeline.
pub(in crate::net) fn of_list(who: &Recipient, device: &DeviceId) -> Span {
    let span = tracing::error_span!("list", recipient = Empty, device = Empty);
    record(&span, who, device);
    span
}

fn record(span: &Span, who: &Recipient, device: &DeviceId) {
    if who.role == Role::Store {
        // As text, which the log quotes: an id with spaces cannot pass for other fields.
        span.record("recipient", who.to_string().as_str());
        span.record("device", device.as_str());
    } else {
        span.record("recipient", who.role.word());
    }
}
