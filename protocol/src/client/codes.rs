//! What close codes, HTTP statuses and event results ask of a client.

use crate::close::CloseKind;
use crate::frame::{EventStatus, RejectionReason};

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
        match CloseKind::from_code(code) {
            Some(CloseKind::Unauthorized) => Self::RenewToken,
            Some(CloseKind::Replaced) => Self::Yield,
            Some(CloseKind::TooManyConnections) => Self::WaitLong,
            Some(CloseKind::Resync) => Self::Resync,
            Some(
                CloseKind::Protocol
                | CloseKind::Unsupported
                | CloseKind::Encoding
                | CloseKind::TooBig
                | CloseKind::BadMessage,
            ) => Self::ReportFault,
            Some(
                CloseKind::Bye
                | CloseKind::Internal
                | CloseKind::Restart
                | CloseKind::Overloaded
                | CloseKind::Timeout
                | CloseKind::RateLimited
                | CloseKind::AckTimeout,
            ) => Self::Reconnect,
            None => Self::of_unknown(code),
        }
    }

    /// The range of a code tells what to do about codes that later versions add.
    fn of_unknown(code: u16) -> Self {
        match code {
            4000..=4099 => Self::ReportFault,
            4200..=4299 => Self::Resync,
            _ => Self::Reconnect,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventOutcome {
    /// The event is stored.
    Durable,
    /// Rejected for good, with the reason.
    Rejected(RejectionReason),
    /// Rejected for now: send it again later.
    RetryLater,
}

impl EventOutcome {
    pub(super) fn of(status: EventStatus, reason: Option<RejectionReason>) -> Self {
        match (status, reason.unwrap_or(RejectionReason::Unknown)) {
            // Nobody waits for an event that is ignored.
            (EventStatus::Stored | EventStatus::Duplicate | EventStatus::Ignored, _) => Self::Durable,
            (EventStatus::Rejected, reason) if reason.is_temporary() => Self::RetryLater,
            (EventStatus::Rejected, reason) => Self::Rejected(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Close;

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
