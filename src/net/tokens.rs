//! Authentication: JWTs signed with HS256.
//!
//! Recipient and device are taken from the token and from nowhere else; a request cannot name another recipient. One algorithm, a fixed set of
//! keys found by `kid`; issuer, audience and expiry are always checked. Every rejection looks the same from outside.

use std::collections::HashMap;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use orderbell_protocol::{DeviceId, Id, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};

/// Tolerated difference between the clocks of issuer and server. Seconds.
const LEEWAY_S: u64 = 60;

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer, which must be `tokens.issuer`.
    pub iss: String,
    /// The audience, which must be `tokens.audience`.
    pub aud: String,
    /// Expiry. Seconds since 1970.
    pub exp: u64,
    /// Time of issue. Seconds since 1970.
    pub iat: u64,
    /// `store`, `customer`, `producer` or `wall`.
    pub role: String,
    /// The id of the store, customer or producer, or a name of the wall.
    pub sub: String,
    /// The device to which the token is bound, if it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// True for load-test traffic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
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

/// The token is not valid. Deliberately without a reason, so that nothing can be learnt by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken;

/// The time from which a token is rejected: its expiry plus the leeway.
fn expiry_of(claims: &Claims) -> UnixMs {
    UnixMs(i64::try_from(claims.exp.saturating_add(LEEWAY_S)).unwrap_or(i64::MAX).saturating_mul(1000))
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
        let signing_kid = keys.first().map_or_else(String::new, |(id, _)| id.clone());
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys: keys.into_iter().collect(),
            signing_kid,
            validation,
        }
    }

    /// The principal of a token.
    ///
    /// # Errors
    /// [`InvalidToken`], whatever the reason.
    pub fn check(&self, token: &str) -> Result<Principal, InvalidToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(InvalidToken);
        }
        let header = decode_header(token).map_err(|_| InvalidToken)?;
        let key = self.keys.get(&header.kid.ok_or(InvalidToken)?).ok_or(InvalidToken)?;
        let claims = decode::<Claims>(token, &DecodingKey::from_secret(&key.0), &self.validation)
            .map_err(|_| InvalidToken)?
            .claims;
        let id = Id::parse(&claims.sub).map_err(|_| InvalidToken)?;
        let role = match claims.role.as_str() {
            "store" => Role::Store,
            "customer" => Role::Customer,
            "producer" => return Ok(Principal::Producer),
            "wall" => return Ok(Principal::Viewer { expires: expiry_of(&claims) }),
            _ => return Err(InvalidToken),
        };
        let expires = expiry_of(&claims);
        let device = claims.device.map(|device| Id::parse(&device)).transpose().map_err(|_| InvalidToken)?;
        Ok(Principal::Reader { who: Recipient { shadow: claims.shadow, role, id }, device, expires })
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
        let key = self.keys.get(&self.signing_kid).ok_or(InvalidToken)?;
        let iat = u64::try_from(now.0 / 1000).unwrap_or(0);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            exp: iat.saturating_add(seconds),
            iat,
            role: role.into(),
            sub: id.into(),
            device: device.map(str::to_owned),
            shadow: false,
        };
        let header = Header { kid: Some(self.signing_kid.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &EncodingKey::from_secret(&key.0)).map_err(|_| InvalidToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall_clock as now;

    fn tokens(issuer: &str, audience: &str, kid: &str, secret: &str) -> Tokens {
        Tokens::new(issuer, audience, vec![(kid.into(), Secret::new(secret.as_bytes().to_vec()))])
    }

    #[test]
    fn a_token_carries_its_recipient_and_device() {
        let tokens = tokens("chain", "orderbell", "k1", "secret");
        let token = tokens.mint("store", "17", Some("till-1"), now(), 60).unwrap();
        let Ok(Principal::Reader { who, device, .. }) = tokens.check(&token) else { panic!("rejected") };
        assert_eq!((who.to_string(), device.unwrap().to_string()), ("store:17".into(), "till-1".into()));
        let producer = tokens.mint("producer", "shop", None, now(), 60).unwrap();
        assert_eq!(tokens.check(&producer), Ok(Principal::Producer));
    }

    #[test]
    fn each_kind_of_forged_token_is_rejected() {
        let own = tokens("chain", "orderbell", "k1", "secret");
        let is_rejected = |token: &str| own.check(token) == Err(InvalidToken);
        let mint = |with: &Tokens, role: &str, at: UnixMs| with.mint(role, "17", None, at, 60).unwrap();
        assert!(is_rejected(""), "empty");
        assert!(is_rejected("a.b.c"), "garbage");
        assert!(is_rejected(&"x".repeat(TOKEN_BYTES_MAX + 1)), "too long");
        assert!(is_rejected(&mint(&tokens("other", "orderbell", "k1", "secret"), "store", now())), "issuer");
        assert!(is_rejected(&mint(&tokens("chain", "other", "k1", "secret"), "store", now())), "audience");
        assert!(is_rejected(&mint(&tokens("chain", "orderbell", "k2", "secret"), "store", now())), "unknown key id");
        assert!(is_rejected(&mint(&tokens("chain", "orderbell", "k1", "guess"), "store", now())), "another key");
        assert!(is_rejected(&mint(&own, "admin", now())), "unknown role");
        assert!(is_rejected(&mint(&own, "store", now().plus_ms(-600_000))), "expired");
        let good = mint(&own, "store", now());
        let (_, rest) = good.split_once('.').unwrap();
        // {"alg":"none","kid":"k1"} and {"alg":"HS512","kid":"k1"}
        assert!(is_rejected(&format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}")), "no algorithm");
        assert!(is_rejected(&format!("eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0.{rest}")), "another algorithm");
        assert!(!is_rejected(&good));
    }
}
