//! What close codes, HTTP statuses and event results ask of a client.

use crate::close::Close;

/// Close codes of RFC 6455 that name a mistake of the peer, as [`Close`] has them.
const PROTOCOL_FAULTS: [Close; 4] = [Close::Protocol, Close::Unsupported, Close::Encoding, Close::TooBig];

/// What a client does when a socket closes, besides reconnecting after the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseAction {
    /// Get a new token.
    RenewToken,
    /// Pause: another connection of this device took over.
    Yield,
    /// Reconnect much later: the recipient has too many connections.
    WaitLong,
    /// Fetch the open orders: the position is not valid.
    Resync,
    /// Report a fault of this client, and reconnect much later.
    ReportFault,
    /// Nothing else. Codes that this version does not know are among them.
    Reconnect,
}

impl CloseAction {
    pub(super) fn of(code: u16) -> Self {
        let is = |close: Close| close.code() == code;
        if is(Close::Unauthorized) {
            Self::RenewToken
        } else if is(Close::Replaced) {
            Self::Yield
        } else if is(Close::TooManyConnections) {
            Self::WaitLong
        } else if (4200..=4299).contains(&code) {
            Self::Resync
        } else if (4000..=4099).contains(&code) || PROTOCOL_FAULTS.into_iter().any(is) {
            Self::ReportFault
        } else {
            Self::Reconnect
        }
    }
}

/// Classes of HTTP statuses that a client distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseClass {
    /// 200.
    Ok,
    /// 401: the token was refused.
    Unauthorized,
    /// 409 or 410: the position belongs to another epoch, or has expired.
    PositionInvalid,
    /// 408, 429 and everything that is no client error: try again later.
    Retry,
    /// Any other 4xx: a fault of this client.
    Fault,
}

impl ResponseClass {
    pub(super) fn of(status: u16) -> Self {
        match status {
            200 => Self::Ok,
            401 => Self::Unauthorized,
            409 | 410 => Self::PositionInvalid,
            408 | 429 => Self::Retry,
            400..=499 => Self::Fault,
            _ => Self::Retry,
        }
    }
}

/// What the result of an event means for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EventOutcome {
    /// `stored` or `duplicate`, or a status that this version does not know.
    Durable,
    /// `rejected` for good, with the reason.
    Rejected(String),
    /// `rejected` for now: send it again later.
    RetryLater,
}

impl EventOutcome {
    pub(super) fn of(status: &str, reason: Option<String>) -> Self {
        if status != "rejected" {
            return Self::Durable;
        }
        match reason.as_deref() {
            Some("busy" | "unavailable") => Self::RetryLater,
            _ => Self::Rejected(reason.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_select_the_action_by_name_and_unknown_ones_by_range() {
        let of = |close: Close| CloseAction::of(close.code());
        assert_eq!(of(Close::Unauthorized), CloseAction::RenewToken);
        assert_eq!(of(Close::Replaced), CloseAction::Yield);
        assert_eq!(of(Close::TooManyConnections), CloseAction::WaitLong);
        assert_eq!(of(Close::Resync(crate::close::ResyncReason::EpochChanged)), CloseAction::Resync);
        assert_eq!(of(Close::BadMessage("not JSON")), CloseAction::ReportFault);
        assert_eq!(of(Close::TooBig), CloseAction::ReportFault);
        assert_eq!(of(Close::Restart { retry_ms: 5 }), CloseAction::Reconnect);
        assert_eq!(of(Close::RateLimited), CloseAction::Reconnect);
        assert_eq!(of(Close::Timeout), CloseAction::Reconnect);
        let unknown = [4099, 4199, 4299, 4300].map(CloseAction::of);
        let (fault, reconnect) = (CloseAction::ReportFault, CloseAction::Reconnect);
        assert_eq!(unknown, [fault, reconnect, CloseAction::Resync, reconnect]);
    }

    #[test]
    fn a_client_error_is_a_fault_unless_time_mends_it() {
        let classes = [401, 404, 408, 409, 410, 422, 429, 500, 503].map(ResponseClass::of);
        use ResponseClass::{Fault, PositionInvalid, Retry, Unauthorized};
        let wanted = [Unauthorized, Fault, Retry, PositionInvalid, PositionInvalid, Fault, Retry, Retry, Retry];
        assert_eq!(classes, wanted);
    }
}
