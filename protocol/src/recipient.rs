//! Recipients of notices, and their devices.
//!
//! An id comes from outside (an order system, a token) and ends up in ledger keys, logs and frames. It is read once, when it enters
//! ([`Id::parse`]); after that all code may rely on it being short, printable and free of the separators of ledger keys.
//!
//! Shadow (load-test) traffic has its own recipients: the mark is part of the identity, not a field that a comparison could omit.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id_text;

/// Longest accepted id, in bytes. Order numbers of real systems have 10 to 40; ledger keys hold several ids side by side.
pub const ID_BYTES_MAX: usize = 128;

/// A validated identifier: 1 to 128 bytes of UTF-8 without control characters and without white space at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(Arc<str>);

/// Why a text is not an [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// The text is empty.
    #[error("an id may not be empty")]
    Empty,
    /// Characters of the text were lost: two ids may be equal only for that.
    #[error("characters of the id are damaged")]
    Damaged,
    /// The text is a word for nothing.
    #[error("undefined, null and the like stand for no id")]
    Nothing,
    /// The text is longer than [`ID_BYTES_MAX`].
    #[error("an id has at most {ID_BYTES_MAX} bytes")]
    TooLong,
    /// The text holds a control or invisible character, or white space at either end.
    #[error("an id has no control or invisible characters and no white space at its ends")]
    Unprintable,
}

impl Id {
    /// Reads an id that comes from outside, by the rule of [`id_text`].
    ///
    /// # Errors
    /// [`BadId`] names the rule that the text violates.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let text = id_text::plain(text);
        if !text.is_empty() && id_text::is_no_id(text) {
            return Err(BadId::Nothing);
        }
        if text.contains('\u{fffd}') {
            return Err(BadId::Damaged);
        }
        if text.chars().any(id_text::is_invisible) {
            return Err(BadId::Unprintable);
        }
        Self::new(text)
    }

    /// Validates a text that is an id already, such as one that the ledger stored.
    ///
    /// # Errors
    /// [`BadId`] names the rule that the text violates.
    pub fn new(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::Empty);
        }
        if text.len() > ID_BYTES_MAX {
            return Err(BadId::TooLong);
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(BadId::Unprintable);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Id {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        Self::new(&text)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.as_str().to_owned()
    }
}

/// One installation (a till, a phone) that reads a recipient's mailbox with its own cursor.
pub type DeviceId = Id;

/// The kind of a recipient.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A shop with its tills.
    Store,
    /// A person who places orders.
    Customer,
}

impl Role {
    /// The word before the colon of a recipient: `store` or `customer`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Customer => "customer",
        }
    }
}

/// The owner of one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient {
    /// True for load-test traffic, which never mixes with real traffic.
    pub shadow: bool,
    /// Whether the recipient is a store or a customer.
    pub role: Role,
    /// The id, unique within the role.
    pub id: Id,
}

impl Recipient {
    /// The store `id`, in real traffic.
    #[must_use]
    pub fn store(id: Id) -> Self {
        Self { shadow: false, role: Role::Store, id }
    }

    /// The customer `id`, in real traffic.
    #[must_use]
    pub fn customer(id: Id) -> Self {
        Self { shadow: false, role: Role::Customer, id }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shadow = if self.shadow { "shadow:" } else { "" };
        write!(f, "{shadow}{}:{}", self.role.word(), self.id)
    }
}

/// Why a text is not a [`Recipient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecipient {
    /// The text starts with neither `store:` nor `customer:`.
    #[error("a recipient is store:ID or customer:ID")]
    Role,
    /// The part after the colon is not an id.
    #[error(transparent)]
    Id(#[from] BadId),
}

impl FromStr for Recipient {
    type Err = BadRecipient;
    fn from_str(text: &str) -> Result<Self, BadRecipient> {
        let (shadow, text) = text.strip_prefix("shadow:").map_or((false, text), |rest| (true, rest));
        let (role, id) = text.split_once(':').ok_or(BadRecipient::Role)?;
        let role = match role {
            "store" => Role::Store,
            "customer" => Role::Customer,
            _ => return Err(BadRecipient::Role),
        };
        Ok(Self { shadow, role, id: Id::new(id)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_ids_are_distinct() {
        for text in ["1", "01", "10", "1/", "1%2f", "１"] {
            assert_eq!(Id::new(text).unwrap().as_str(), text);
        }
        assert_eq!(Id::new(""), Err(BadId::Empty));
        assert_eq!(Id::new(&"x".repeat(129)), Err(BadId::TooLong));
        for text in [" 1", "1 ", "a\nb", "a\0b", "\u{7f}"] {
            assert_eq!(Id::new(text), Err(BadId::Unprintable), "{text:?}");
        }
    }

    #[test]
    fn an_id_from_outside_is_read_by_one_rule() {
        assert_eq!(Id::parse(" 17\u{feff}").unwrap().as_str(), "17");
        assert_eq!((Id::parse("17.0").unwrap().as_str(), Id::new("17.0").unwrap().as_str()), ("17", "17.0"));
        assert_eq!(Id::parse("-1.0"), Err(BadId::Nothing));
        assert_eq!(Id::parse(" \u{200b}"), Err(BadId::Empty));
        assert_eq!(Id::parse(" Undefined "), Err(BadId::Nothing));
        assert_eq!(Id::parse("店\u{fffd}"), Err(BadId::Damaged));
        assert_eq!(Id::parse("1\u{200b}7"), Err(BadId::Unprintable), "it looks like 17 and is not");
        assert_eq!(Id::parse(&"x".repeat(129)), Err(BadId::TooLong), "never cut");
        assert_eq!(Id::parse("क्\u{200d}ष").unwrap().as_str(), "क्\u{200d}ष", "a joiner inside has a meaning");
    }

    #[test]
    fn a_recipient_parses_from_its_text() {
        for text in ["store:17", "customer:a:b", "shadow:store:17"] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        assert_eq!("till:17".parse::<Recipient>(), Err(BadRecipient::Role));
        assert_eq!("store:".parse::<Recipient>(), Err(BadRecipient::Id(BadId::Empty)));
    }
}
