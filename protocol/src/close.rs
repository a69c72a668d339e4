//! Why a socket is closed, as a number and a short stable word.
//!
//! The range alone tells a client what to do: codes of RFC 6455 and IANA where one fits; 40xx do not retry (a bug or a conflict),
//! 41xx back off and come again, 42xx reconnect at once. 1012 and 1013 carry a delay that the server chose for this one client.

/// A reason to close, with all that the other side needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// 1000: the client said goodbye.
    Bye,
    /// 1002: the bytes break RFC 6455.
    Protocol,
    /// 1003: a binary frame on the JSON subprotocol.
    Unsupported,
    /// 1007: a text frame or close reason that is not UTF-8.
    Encoding,
    /// 1009: a frame or message above the limit.
    TooBig,
    /// 1011: our own fault.
    Internal,
    /// 1012: this server stops; come again after the delay.
    Restart {
        /// Delay chosen for this client, so that all do not return at once. Milliseconds.
        retry_ms: u32,
    },
    /// 1013: too much to do; come again after the delay.
    Overloaded {
        /// Delay in milliseconds.
        retry_ms: u32,
    },
    /// 3000: no token, or one that is not valid (any more).
    Unauthorized,
    /// 3008: no `hello` in time, or silent for too long.
    Timeout,
    /// 4001: a frame that cannot be understood.
    BadMessage(&'static str),
    /// 4003: the same device connected again.
    Replaced,
    /// 4004: too many connections of one recipient.
    ConnectionLimit,
    /// 4102: more messages a second than a client needs.
    Rate,
    /// 4103: notices are sent, none is ever acknowledged.
    Deaf,
    /// 4200: the position is from another history, or older than what is kept: fetch the open orders, then connect.
    Resync(&'static str),
}

impl Close {
    /// The number that goes into the close frame.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Bye => 1000,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::Encoding => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Restart { .. } => 1012,
            Self::Overloaded { .. } => 1013,
            Self::Unauthorized => 3000,
            Self::Timeout => 3008,
            Self::BadMessage(_) => 4001,
            Self::Replaced => 4003,
            Self::ConnectionLimit => 4004,
            Self::Rate => 4102,
            Self::Deaf => 4103,
            Self::Resync(_) => 4200,
        }
    }

    /// The stable word: close reason's first token, and the label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Protocol => "protocol",
            Self::Unsupported => "unsupported",
            Self::Encoding => "encoding",
            Self::TooBig => "too-big",
            Self::Internal => "internal",
            Self::Restart { .. } => "restart",
            Self::Overloaded { .. } => "overloaded",
            Self::Unauthorized => "unauthorized",
            Self::Timeout => "timeout",
            Self::BadMessage(_) => "bad-message",
            Self::Replaced => "replaced",
            Self::ConnectionLimit => "conn-limit",
            Self::Rate => "rate",
            Self::Deaf => "deaf",
            Self::Resync(_) => "resync",
        }
    }

    /// The close frame's reason: the word, and after a semicolon what the client needs besides. Never over 123 bytes.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::Restart { retry_ms } | Self::Overloaded { retry_ms } => {
                format!("{};retry_ms={retry_ms}", self.word())
            }
            Self::BadMessage(why) | Self::Resync(why) => format!("{};{why}", self.word()),
            _ => self.word().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_control_frame_and_tell_the_delay() {
        assert_eq!(Close::Restart { retry_ms: 7300 }.reason(), "restart;retry_ms=7300");
        assert_eq!(Close::Deaf.reason(), "deaf");
        assert!(Close::BadMessage("unknown frame type or wrong field").reason().len() <= 123);
    }
}
