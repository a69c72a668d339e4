//! The keys that tokens are checked with, as they were read: those of the configuration, and the set of an issuer.

use super::KeySetUrl;
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
    pub(super) keys: KeySet,
}

impl TokenKeys {
    /// True while nothing was ever fetched from the address: which tokens are good is not known yet.
    fn awaits_keys(&self) -> bool {
        let held = self.set.as_ref().and_then(|set| set.from.as_ref());
        self.address.is_some() && held != self.address.as_ref()
    }

    /// After the configuration was read again: until there is a set of the new address, the one of `old` counts.
    pub fn keep_set_of(&mut self, old: &Self) {
        if self.awaits_keys() {
            self.set.clone_from(&old.set);
        }
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
