//! Close codes: why a WebSocket connection is closed, as a number and a stable word.
//!
//! The range of the number is enough for a client that knows no single code: codes of RFC 6455 and IANA where one fits; 40xx mean "do not
//! retry" (a bug or a conflict), 41xx "back off and reconnect", 42xx "resynchronise and reconnect now". 1012 and 1013 carry a delay that
//! the server chose for this client.

use std::fmt;

/// The kind of a close, without its details. Client code parses a received code with [`CloseKind::from_code`] and matches on the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseKind {
    /// 1000: the client sent `bye`.
    Bye,
    /// 1002: the bytes violate RFC 6455.
    Protocol,
    /// 1003: a binary frame on a JSON subprotocol.
    Unsupported,
    /// 1007: a text frame or close reason that is not UTF-8.
    Encoding,
    /// 1009: a frame or message above the limit.
    TooBig,
    /// 1011: an internal error of the server.
    Internal,
    /// 1012: the server stops.
    Restart,
    /// 1013: the server is overloaded, or has no keys yet to check the token with.
    Overloaded,
    /// 3000: the token is missing, invalid or expired.
    Unauthorized,
    /// 3008: no `hello` in time, or no sign of life for `idle_timeout`.
    Timeout,
    /// 4001: a frame that the server does not understand.
    BadMessage,
    /// 4003: the same device opened another connection.
    Replaced,
    /// 4004: the recipient has too many connections.
    TooManyConnections,
    /// 4102: the client sends more frames per second than the limit.
    RateLimited,
    /// 4103: the client acknowledged nothing in `max_delivery_attempts` rounds.
    AckTimeout,
    /// 4200: the server cannot continue from the client's position: fetch the open orders, then reconnect.
    Resync,
}

impl CloseKind {
    /// Every kind, by code.
    pub const ALL: [Self; 16] = [
        Self::Bye,
        Self::Protocol,
        Self::Unsupported,
        Self::Encoding,
        Self::TooBig,
        Self::Internal,
        Self::Restart,
        Self::Overloaded,
        Self::Unauthorized,
        Self::Timeout,
        Self::BadMessage,
        Self::Replaced,
        Self::TooManyConnections,
        Self::RateLimited,
        Self::AckTimeout,
        Self::Resync,
    ];

    /// The kind with this code; `None` for a code that the protocol does not define.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The number in the close frame.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Bye => 1000,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::Encoding => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Restart => 1012,
            Self::Overloaded => 1013,
            Self::Unauthorized => 3000,
            Self::Timeout => 3008,
            Self::BadMessage => 4001,
            Self::Replaced => 4003,
            Self::TooManyConnections => 4004,
            Self::RateLimited => 4102,
            Self::AckTimeout => 4103,
            Self::Resync => 4200,
        }
    }

    /// The stable word: first token of the close reason, and label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Protocol => "protocol",
            Self::Unsupported => "unsupported",
            Self::Encoding => "encoding",
            Self::TooBig => "too-big",
            Self::Internal => "internal",
            Self::Restart => "restart",
            Self::Overloaded => "overloaded",
            Self::Unauthorized => "unauthorized",
            Self::Timeout => "timeout",
            Self::BadMessage => "bad-message",
            Self::Replaced => "replaced",
            Self::TooManyConnections => "too-many-connections",
            Self::RateLimited => "rate-limited",
            Self::AckTimeout => "ack-timeout",
            Self::Resync => "resync",
        }
    }
}

impl fmt::Display for CloseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why the server cannot continue from a client's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncReason {
    /// The position belongs to another epoch, or cannot be read.
    EpochChanged,
    /// The position is older than the retained notices.
    PositionExpired,
}

impl ResyncReason {
    /// The word on the wire; also the `code` of the corresponding HTTP problem.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::EpochChanged => "epoch-changed",
            Self::PositionExpired => "position-expired",
        }
    }
}

/// A close that the server sends, with its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// See [`CloseKind::Bye`].
    Bye,
    /// See [`CloseKind::Protocol`].
    Protocol,
    /// See [`CloseKind::Unsupported`].
    Unsupported,
    /// See [`CloseKind::Encoding`].
    Encoding,
    /// See [`CloseKind::TooBig`].
    TooBig,
    /// See [`CloseKind::Internal`].
    Internal,
    /// See [`CloseKind::Restart`].
    Restart {
        /// When this client should reconnect. The delay differs per client, so that not all reconnect at once. Milliseconds.
        retry_ms: u32,
    },
    /// See [`CloseKind::Overloaded`].
    Overloaded {
        /// When this client should reconnect. Milliseconds.
        retry_ms: u32,
    },
    /// See [`CloseKind::Unauthorized`].
    Unauthorized,
    /// See [`CloseKind::Timeout`].
    Timeout,
    /// See [`CloseKind::BadMessage`]. The text says what is wrong and repeats nothing of the frame.
    BadMessage(&'static str),
    /// See [`CloseKind::Replaced`].
    Replaced,
    /// See [`CloseKind::TooManyConnections`].
    TooManyConnections,
    /// See [`CloseKind::RateLimited`].
    RateLimited,
    /// See [`CloseKind::AckTimeout`].
    AckTimeout,
    /// See [`CloseKind::Resync`].
    Resync(ResyncReason),
}

impl Close {
    /// The kind, which decides code and word.
    #[must_use]
    pub fn kind(self) -> CloseKind {
        match self {
            Self::Bye => CloseKind::Bye,
            Self::Protocol => CloseKind::Protocol,
            Self::Unsupported => CloseKind::Unsupported,
            Self::Encoding => CloseKind::Encoding,
            Self::TooBig => CloseKind::TooBig,
            Self::Internal => CloseKind::Internal,
            Self::Restart { .. } => CloseKind::Restart,
            Self::Overloaded { .. } => CloseKind::Overloaded,
            Self::Unauthorized => CloseKind::Unauthorized,
            Self::Timeout => CloseKind::Timeout,
            Self::BadMessage(_) => CloseKind::BadMessage,
            Self::Replaced => CloseKind::Replaced,
            Self::TooManyConnections => CloseKind::TooManyConnections,
            Self::RateLimited => CloseKind::RateLimited,
            Self::AckTimeout => CloseKind::AckTimeout,
            Self::Resync(_) => CloseKind::Resync,
        }
    }

    /// The number in the close frame.
    #[must_use]
    pub fn code(self) -> u16 {
        self.kind().code()
    }

    /// The stable word: first token of the close reason, and label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.kind().word()
    }

    /// The reason in the close frame: the word, then a semicolon and the details. At most 123 bytes, the limit of a control frame.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::Restart { retry_ms } | Self::Overloaded { retry_ms } => {
                format!("{};retry_ms={retry_ms}", self.word())
            }
            Self::BadMessage(detail) => format!("{};{detail}", self.word()),
            Self::Resync(reason) => format!("{};{}", self.word(), reason.word()),
            _ => self.word().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_control_frame_and_carry_the_delay() {
        assert_eq!(Close::Restart { retry_ms: 7300 }.reason(), "restart;retry_ms=7300");
        assert_eq!(Close::AckTimeout.reason(), "ack-timeout");
        assert_eq!(Close::Resync(ResyncReason::PositionExpired).reason(), "resync;position-expired");
        assert!(Close::BadMessage("ack of a notice that was not sent").reason().len() <= 123);
    }

    #[test]
    fn every_code_parses_to_its_kind() {
        for kind in CloseKind::ALL {
            assert_eq!(CloseKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(CloseKind::from_code(1006), None);
        assert!(CloseKind::ALL.is_sorted_by_key(|kind| kind.code()));
    }
}
