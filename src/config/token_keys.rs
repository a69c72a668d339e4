//! The keys that tokens are checked with, as they were read: those of the configuration, and the set of an issuer.

use std::time::SystemTime;

use super::{ConfigError, KeySetUrl};
use crate::net::tokens::{KeySet, TokenKey, TokenRules, Tokens};

/// What a process holds of keys. What was fetched stays while a configuration is read again.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    pub(super) rules: TokenRules,
    /// Of `[tokens] keys`, or the generated one.
    pub(super) configured: Vec<(String, TokenKey)>,
    /// Where a set is fetched from.
    pub(super) address: Option<KeySetUrl>,
    pub(super) set: Option<IssuerSet>,
}

/// What an issuer publishes.
#[derive(Clone, Debug)]
pub(super) struct IssuerSet {
    /// Where it was fetched; none of a set in a file.
    pub(super) from: Option<KeySetUrl>,
    /// As it came.
    pub(super) text: String,
    pub(super) keys: KeySet,
    /// When it was last fetched, by this process or an earlier one.
    pub(super) fetched_at: Option<SystemTime>,
}

impl TokenKeys {
    /// True while nothing was ever fetched from the address: which tokens are good is not known yet.
    fn awaits_keys(&self) -> bool {
        self.address.is_some() && !self.has_set_from(self.address.as_ref())
    }

    /// After the configuration was read again: a set that `old` has of the same address counts, since the file in which it is kept may not have
    /// been written. Until there is a set of a new address, that of the old one counts.
    pub fn keep_set_of(&mut self, old: &Self) {
        let is_of_same = self.address.is_some() && old.has_set_from(self.address.as_ref());
        if is_of_same || self.awaits_keys() {
            self.set.clone_from(&old.set);
        }
    }

    /// The set that was fetched from `url` at the time `now` counts from now on. False when it is the one that counts already.
    ///
    /// # Errors
    /// [`ConfigError`] when it is no set that can be used: then nothing has changed.
    pub fn take_set(&mut self, url: &KeySetUrl, text: &str, now: SystemTime) -> Result<bool, ConfigError> {
        let is_same = |set: &&mut IssuerSet| set.from.as_ref() == Some(url) && set.text == text;
        if let Some(set) = self.set.as_mut().filter(is_same) {
            set.fetched_at = Some(now);
            return Ok(false);
        }
        let bad = |source| ConfigError::KeySet { path: url.to_string().into(), source };
        let keys = KeySet::read(text).map_err(bad)?;
        let (from, text, fetched_at) = (Some(url.clone()), text.to_owned(), Some(now));
        self.set = Some(IssuerSet { from, text, keys, fetched_at });
        Ok(true)
    }

    /// When the set that counts was last fetched, if it is of this address.
    #[must_use]
    pub fn fetched_at(&self, url: &KeySetUrl) -> Option<SystemTime> {
        self.set.as_ref().filter(|set| set.from.as_ref() == Some(url))?.fetched_at
    }

    fn has_set_from(&self, address: Option<&KeySetUrl>) -> bool {
        self.set.as_ref().and_then(|set| set.from.as_ref()) == address
    }

    /// Every key that counts, and a sentence for each that does not. The configured ones come first: an issuer cannot replace them.
    pub(super) fn counting(&self) -> (Vec<(String, TokenKey)>, Vec<String>) {
        let mut keys = self.configured.clone();
        let Some(IssuerSet { keys: mut set, .. }) = self.set.clone() else { return (keys, Vec::new()) };
        set.leave_out(&self.configured.iter().map(|(kid, _)| kid.as_str()).collect());
        keys.append(&mut set.keys);
        (keys, set.left_out)
    }

    /// What checks tokens with these keys.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        let (keys, left_out) = self.counting();
        if !left_out.is_empty() {
            tracing::warn!(keys = left_out.join("; "), "keys of the issuer are left out");
        }
        let tokens = Tokens::new(self.rules.clone(), keys);
        if self.awaits_keys() { tokens.awaiting_keys() } else { tokens }
    }
}
