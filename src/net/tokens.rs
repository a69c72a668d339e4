//! Authentication: JWTs signed with HS256.
//!
//! Recipient and device are taken from the token and from nowhere else; a request cannot name another recipient. One algorithm, a fixed set of
//! keys found by `kid`; issuer, audience and expiry are always checked. Every rejection looks the same from outside; the operator sees the reason.

use std::collections::HashMap;
use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use orderbell_protocol::{DeviceId, Id, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tolerated difference between the clocks of issuer and server. Seconds.
pub(super) const LEEWAY_S: u64 = 60;

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
}

/// The claims of a token, as others write them. The library checks `iss`, `aud` (a text or a list), `exp` and `nbf` (with or without fractions)
/// first. Values, so that a wrong one is named in the log.
#[derive(Deserialize)]
struct Claims {
    /// Expiry. Seconds since 1970.
    #[serde(default)]
    exp: Value,
    /// `store`, `customer`, `producer` or `wall`.
    #[serde(default)]
    role: Value,
    /// The id of the store, customer or producer, or a name of the wall.
    #[serde(default)]
    sub: Value,
    /// The device to which the token is bound, if it is bound.
    #[serde(default)]
    device: Value,
    /// True for load-test traffic.
    #[serde(default)]
    shadow: Value,
}

impl Claims {
    /// The mailbox that the token opens, if it opens one.
    fn recipient(&self) -> Result<Option<Recipient>, &'static str> {
        let id = self.sub.as_str().and_then(|sub| Id::parse(sub).ok()).ok_or("token-sub")?;
        let role = match self.role.as_str() {
            Some("store") => Role::Store,
            Some("customer") => Role::Customer,
            Some("producer" | "wall") => return Ok(None),
            _ => return Err("token-role"),
        };
        let shadow = match self.shadow {
            Value::Null => false,
            Value::Bool(shadow) => shadow,
            _ => return Err("token-shadow"),
        };
        Ok(Some(Recipient { shadow, role, id }))
    }

    fn device(&self) -> Result<Option<DeviceId>, &'static str> {
        match &self.device {
            Value::Null => Ok(None),
            device => device.as_str().and_then(|device| Id::parse(device).ok()).map(Some).ok_or("token-device"),
        }
    }

    /// The time from which the token is rejected: its expiry plus the leeway.
    fn expires(&self) -> UnixMs {
        // Saturates: a token may say that it never ends.
        UnixMs(((self.exp.as_f64().unwrap_or(0.0) + LEEWAY_S as f64) * 1000.0) as i64)
    }
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
        /// End of the token.
        expires: UnixMs,
    },
    /// Appends events by `POST /v1/events`.
    Producer,
    /// Views the wall.
    Viewer {
        /// End of the token.
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

impl From<&'static str> for InvalidToken {
    fn from(reason: &'static str) -> Self {
        Self { reason, who: None }
    }
}

/// The word for what the library found.
fn reason_of(error: &ErrorKind) -> &'static str {
    match error {
        ErrorKind::InvalidSignature => "token-signature",
        ErrorKind::ExpiredSignature => "token-expired",
        ErrorKind::ImmatureSignature => "token-not-yet-valid",
        ErrorKind::InvalidIssuer => "token-issuer",
        ErrorKind::InvalidAudience => "token-audience",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            "token-algorithm"
        }
        // Of the wrong type counts as missing.
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
            "exp" => "token-exp",
            "nbf" => "token-nbf",
            "iss" => "token-issuer",
            "aud" => "token-audience",
            "sub" => "token-sub",
            _ => "token-malformed",
        },
        _ => "token-malformed",
    }
}

/// An HS256 key. Its `Debug` output hides the bytes.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Signs and checks tokens.
pub struct Tokens {
    issuer: String,
    audience: String,
    keys: HashMap<String, Secret>,
    signing_kid: String,
    validation: Validation,
    /// Of the signature alone: to say whose token was rejected.
    signature: Validation,
}

impl Tokens {
    /// For tokens of `issuer` for `audience`. The first key signs; all keys are accepted.
    #[must_use]
    pub fn new(issuer: &str, audience: &str, keys: Vec<(String, Secret)>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_S;
        let mut signature = Validation::new(Algorithm::HS256);
        signature.set_required_spec_claims::<&str>(&[]);
        (signature.validate_exp, signature.validate_aud) = (false, false);
        let signing_kid = keys.first().map_or_else(String::new, |(id, _)| id.clone());
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys: keys.into_iter().collect(),
            signing_kid,
            validation,
            signature,
        }
    }

    /// The principal of a token.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn check(&self, token: &str) -> Result<Principal, InvalidToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("token-too-long".into());
        }
        let header = decode_header(token).map_err(|error| reason_of(error.kind()))?;
        let kid = header.kid.ok_or("token-without-kid")?;
        let key = DecodingKey::from_secret(&self.keys.get(&kid).ok_or("token-unknown-kid")?.0);
        let claims = match decode::<Claims>(token, &key, &self.validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => {
                let signed = decode::<Claims>(token, &key, &self.signature).ok();
                let who = signed.and_then(|signed| signed.claims.recipient().ok().flatten());
                return Err(InvalidToken { reason: reason_of(error.kind()), who });
            }
        };
        let expires = claims.expires();
        match claims.recipient()? {
            Some(who) => match claims.device() {
                Ok(device) => Ok(Principal::Reader { who, device, expires }),
                Err(reason) => Err(InvalidToken { reason, who: Some(who) }),
            },
            None if claims.role == "wall" => Ok(Principal::Viewer { expires }),
            None => Ok(Principal::Producer),
        }
    }

    /// Signs a token for `role` and `id` with a lifetime of `seconds` from `now`.
    ///
    /// # Errors
    /// [`InvalidToken`] when there is no key.
    pub fn mint(
        &self,
        role: &str,
        id: &str,
        device: Option<&str>,
        now: UnixMs,
        seconds: u64,
    ) -> Result<String, InvalidToken> {
        let key = self.keys.get(&self.signing_kid).ok_or("no-signing-key")?;
        let iat = u64::try_from(now.0 / 1000).unwrap_or(0);
        let (iss, aud) = (self.issuer.as_str(), self.audience.as_str());
        let claims = OwnClaims { iss, aud, exp: iat.saturating_add(seconds), iat, role, sub: id, device };
        let header = Header { kid: Some(self.signing_kid.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &EncodingKey::from_secret(&key.0)).map_err(|_| "signing".into())
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
