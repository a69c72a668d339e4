//! Authentication: JWTs, signed with HS256, EdDSA, ES256 or RS256.
//!
//! Recipient and device are taken from the token and from nowhere else; a request cannot name another recipient. A fixed set of keys found by
//! `kid`, each with one algorithm (decision 0062); issuer, audience and expiry are always checked. The cheap checks come before the signature, and nothing that the token
//! claims is read before its signature is good. Every rejection looks the same from outside; the operator sees the reason.

mod claims;
mod jwks;
mod jws;
mod keys;
mod why;

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orderbell_protocol::{DeviceId, Id, Recipient, UnixMs};
use serde::Serialize;

pub use claims::TokenRules;
pub(crate) use jwks::shown_kid;
pub use jwks::{BadKeySet, KeySet};
use jws::Jws;
pub use keys::{BadPublicKey, TokenAlgorithm, TokenKey};
pub use why::RefusedToken;

/// The reason when a token names a key that is not known: perhaps not yet.
const UNKNOWN_KID: &str = "token-unknown-kid";
/// The same while the keys of the issuer are still to come.
const AWAITED_KID: &str = "token-awaited-kid";

/// The header of a token that this server signs.
#[derive(Serialize)]
struct OwnHeader<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

/// The claims of a token that this server signs.
#[derive(Serialize)]
struct OwnClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    /// Seconds since 1970.
    exp: u64,
    /// Seconds since 1970.
    iat: u64,
    role: &'a str,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    /// Only where it is true: real tokens say nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<bool>,
}

/// The holder of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A till or a phone: reads one mailbox.
    Reader {
        /// The owner of the mailbox.
        who: Recipient,
        /// The device to which the token is bound, if it is bound.
        device: Option<DeviceId>,
        /// The time from which the token is rejected: its expiry plus the tolerated difference of clocks.
        expires: UnixMs,
    },
    /// Appends events by `POST /v1/events`.
    Producer,
    /// Views the wall.
    Viewer {
        /// The name of the screen, or of those that share the token.
        name: Id,
        /// As that of a reader.
        expires: UnixMs,
    },
}

/// The token is not valid. The reason is for the operator alone, so that a client learns nothing by trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    /// A word for logs and metrics: `token-expired`.
    pub reason: &'static str,
    /// Whose token it is, if one of our keys signed it.
    pub who: Option<Recipient>,
}

/// Why a token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// No key is configured that signs.
    #[error(
        "[tokens] keys has no secret to sign with: the issuer of your public keys signs, or add a key with secret_file"
    )]
    NoKey,
}

impl InvalidToken {
    /// True when it names a key that is not known.
    pub(super) fn names_unknown_key(&self) -> bool {
        matches!(self.reason, UNKNOWN_KID | AWAITED_KID)
    }

    /// True when it may be taken soon, just as it is.
    pub(super) fn may_be_good(&self) -> bool {
        self.reason == AWAITED_KID
    }
}

impl From<&'static str> for InvalidToken {
    fn from(reason: &'static str) -> Self {
        Self { reason, who: None }
    }
}

/// Signs and checks tokens.
pub struct Tokens {
    rules: TokenRules,
    keys: HashMap<String, TokenKey>,
    signing_kid: Option<String>,
    /// The keys of the issuer are still to come: a token with an unknown key may be good.
    awaits_keys: bool,
}

impl Tokens {
    /// For tokens that fit these rules. All keys are accepted; the first one that is a secret signs.
    #[must_use]
    pub fn new(rules: TokenRules, keys: Vec<(String, TokenKey)>) -> Self {
        let signs = |(_, key): &&(String, TokenKey)| key.algorithm() == TokenAlgorithm::Hs256;
        let signing_kid = keys.iter().find(signs).map(|(kid, _)| kid.clone());
        Self { rules, keys: keys.into_iter().collect(), signing_kid, awaits_keys: false }
    }

    /// The same while the keys of the issuer are still to come.
    #[must_use]
    pub fn awaiting_keys(self) -> Self {
        Self { awaits_keys: true, ..self }
    }

    /// True while the keys of the issuer are still to come.
    #[must_use]
    pub fn awaits_keys(&self) -> bool {
        self.awaits_keys
    }

    /// The principal of a token.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn check(&self, token: &str, now: UnixMs) -> Result<Principal, InvalidToken> {
        let jws = Jws::read(token)?;
        let key = self.keys.get(&jws.kid).ok_or(if self.awaits_keys { AWAITED_KID } else { UNKNOWN_KID })?;
        if !key.algorithm().is_named(&jws.algorithm) {
            return Err("token-algorithm".into());
        }
        if !key.signed(jws.signed, &jws.signature) {
            return Err("token-signature".into());
        }
        let claims = jws.claims()?;
        let whose = |reason| InvalidToken { reason, who: claims.recipient().ok().flatten() };
        claims.principal(&self.rules, now).map_err(whose)
    }

    /// Signs a token for `role` and `id` with a lifetime of `seconds` from `now`.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn mint(
        &self,
        role: &str,
        id: &str,
        device: Option<&str>,
        now: UnixMs,
        seconds: u64,
    ) -> Result<String, SigningError> {
        self.sign(role, id, device, None, (now, seconds))
    }

    /// As [`Self::mint`], for a client of load-test traffic: it reads a mailbox of that traffic, and no real one.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn mint_shadow(
        &self,
        role: &str,
        id: &str,
        device: Option<&str>,
        now: UnixMs,
        seconds: u64,
    ) -> Result<String, SigningError> {
        self.sign(role, id, device, Some(true), (now, seconds))
    }

    fn sign(
        &self,
        role: &str,
        sub: &str,
        device: Option<&str>,
        shadow: Option<bool>,
        (now, seconds): (UnixMs, u64),
    ) -> Result<String, SigningError> {
        let kid = self.signing_kid.as_deref().ok_or(SigningError::NoKey)?;
        let key = self.keys.get(kid).ok_or(SigningError::NoKey)?;
        let iat = u64::try_from(now.0 / 1000).unwrap_or(0);
        let (iss, aud) = (self.rules.issuer.as_str(), self.rules.audience.as_str());
        let claims = OwnClaims { iss, aud, exp: iat.saturating_add(seconds), iat, role, sub, device, shadow };
        let header = OwnHeader { typ: "JWT", alg: key.algorithm().name(), kid };
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = key.sign(signed.as_bytes()).ok_or(SigningError::NoKey)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A part of a token that this server signs.
fn part<T: Serialize>(part: &T) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).expect("texts and numbers"))
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
