//! Who a notice is for, and which installation reads it.
//!
//! An id comes from outside (an order system, a token) and ends up in ledger keys, logs and frames. So it is checked once, here, when
//! it enters: after that it may be trusted to be short, printable and free of the separators that keys use.
//!
//! Shadow (load-test) traffic has recipients of its own: the mark is part of the identity, not a field that somebody may forget to compare.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest id that is taken, in bytes. Order numbers of real systems have 10 to 40; ledger keys hold several ids side by side.
pub const ID_BYTES_MAX: usize = 128;

/// A checked identifier: 1 to 128 bytes of UTF-8 without control characters and without white space at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(Arc<str>);

/// Why a text is no [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Nothing in it.
    #[error("an id may not be empty")]
    Empty,
    /// Longer than [`ID_BYTES_MAX`].
    #[error("an id has at most {ID_BYTES_MAX} bytes")]
    TooLong,
    /// A control character, or white space at an end.
    #[error("an id has no control characters and no white space at its ends")]
    Unprintable,
}

impl Id {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`BadId`] says which rule the text breaks.
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

/// One installation (a till, a phone) that reads a recipient's mailbox with a cursor of its own.
pub type DeviceId = Id;

/// What a recipient is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A shop with its tills.
    Store,
    /// A person who ordered.
    Customer,
}

impl Role {
    /// The word that stands before the colon: `store` or `customer`.
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
    /// True for load-test traffic, which never meets real traffic.
    pub shadow: bool,
    /// Store or customer.
    pub role: Role,
    /// The id within the role.
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

/// Why a text is no [`Recipient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecipient {
    /// Neither `store:` nor `customer:` stands in front.
    #[error("a recipient is store:ID or customer:ID")]
    Role,
    /// What follows the colon is no id.
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
    fn ids_that_look_alike_stay_apart() {
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
    fn a_recipient_reads_back_as_it_was_written() {
        for text in ["store:17", "customer:a:b", "shadow:store:17"] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        assert_eq!("till:17".parse::<Recipient>(), Err(BadRecipient::Role));
        assert_eq!("store:".parse::<Recipient>(), Err(BadRecipient::Id(BadId::Empty)));
    }
}
