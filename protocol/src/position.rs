//! Positions in a mailbox.
//!
//! A position consists of an epoch and a seq; on the wire it is one opaque string. Seqs only grow and have gaps, so clients must not do
//! arithmetic with them: a client stores the string, sends it back, and compares it with the `prev` of the next notice.
//!
//! The string also carries sixteen check bits of the notice at the position. They cost four characters and let a server detect a position
//! from another history: a ledger that was restored from an old copy assigns the same seqs to other notices. Refused: a MAC over the
//! position. It would detect no further mistakes, and a forged position harms only the mailbox of its forger.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest text of a position: two hexadecimal numbers, the check bits and two dots.
pub const POSITION_TEXT_MAX: usize = 8 + 1 + 16 + 1 + 4;

/// A position in one mailbox: the reader has everything up to and including `seq`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// Changes only when the server cannot guarantee that the history is unchanged: the ledger was restored, quarantined or rebuilt.
    pub epoch: u32,
    /// Seq of the last notice that the reader has; 0 is before the first.
    pub seq: u64,
    /// Check bits of the id of that notice; 0 at `seq` 0.
    pub check: u16,
}

impl Position {
    /// The position before the first notice of an epoch.
    #[must_use]
    pub fn start(epoch: u32) -> Self {
        Self { epoch, seq: 0, check: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:04x}", self.epoch, self.seq, self.check)
    }
}

/// The text is not a position that a server could have issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position: send the string back exactly as it was received")]
pub struct BadPosition(#[source] Option<ParseIntError>);

impl From<ParseIntError> for BadPosition {
    fn from(error: ParseIntError) -> Self {
        Self(Some(error))
    }
}

impl FromStr for Position {
    type Err = BadPosition;
    fn from_str(text: &str) -> Result<Self, BadPosition> {
        if text.len() > POSITION_TEXT_MAX {
            return Err(BadPosition(None));
        }
        let mut parts = text.split('.');
        let (Some(epoch), Some(seq), Some(check), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadPosition(None));
        };
        let position = Self {
            epoch: u32::from_str_radix(epoch, 16)?,
            seq: u64::from_str_radix(seq, 16)?,
            check: u16::from_str_radix(check, 16)?,
        };
        // One text per position: no leading zeros, signs or upper case, so that clients may compare the strings.
        if position.to_string() == text { Ok(position) } else { Err(BadPosition(None)) }
    }
}

impl TryFrom<String> for Position {
    type Error = BadPosition;
    fn try_from(text: String) -> Result<Self, BadPosition> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_position_parses_from_its_text(epoch: u32, seq: u64, check: u16) {
            let position = Position { epoch, seq, check };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_rejected_or_canonical(text in "[0-9a-fA-F.+-]{0,40}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn invalid_positions_are_rejected() {
        for text in
            ["", "1", "-1.1.0000", "1.1.1", "01.1.0000", "1.1.0000.1", "1.A.0000", "99999999999999999999999999999999"]
        {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
