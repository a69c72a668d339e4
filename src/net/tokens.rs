//! Who somebody is: JWTs signed with HS256.
//!
//! Recipient and device are in the token and nowhere else; what a request says about itself decides nothing. One algorithm, a fixed set
//! of keys found by `kid`, issuer, audience and expiry always checked. Every refusal looks the same from outside.

use std::collections::HashMap;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use orderbell_protocol::{DeviceId, Id, Recipient, Role, UnixMs};
use serde::{Deserialize, Serialize};

/// Clocks of two machines may differ by this much. Seconds.
const LEEWAY_S: u64 = 60;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed.
    pub iss: String,
    /// For whom.
    pub aud: String,
    /// Until when. Seconds since 1970.
    pub exp: u64,
    /// Since when. Seconds since 1970.
    pub iat: u64,
    /// `store`, `customer`, `producer` or `wall`.
    pub role: String,
    /// The store's, customer's or producer's id, or a name of the wall.
    pub sub: String,
    /// The installation, when the token is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Load-test traffic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// Somebody whose token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Reads one mailbox.
    Reader {
        /// Whose.
        who: Recipient,
        /// The installation that the token is bound to.
        device: Option<DeviceId>,
        /// End of the token.
        expires: UnixMs,
    },
    /// Appends events.
    Producer,
    /// Looks at the wall.
    Viewer {
        /// End of the token.
        expires: UnixMs,
    },
}

/// The token is not good. Deliberately without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The moment from which a token is not taken any more.
fn end_of(claims: &Claims) -> UnixMs {
    UnixMs(i64::try_from(claims.exp.saturating_add(LEEWAY_S)).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// A key that signs and checks.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes of a key.
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

/// The keys and names that tokens are checked against.
pub struct Tokens {
    issuer: String,
    audience: String,
    keys: HashMap<String, Secret>,
    newest: String,
    validation: Validation,
}

impl Tokens {
    /// Checks tokens of `issuer` for `audience`; the first key signs.
    #[must_use]
    pub fn new(issuer: &str, audience: &str, keys: Vec<(String, Secret)>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_S;
        let newest = keys.first().map_or_else(String::new, |(id, _)| id.clone());
        Self { issuer: issuer.into(), audience: audience.into(), keys: keys.into_iter().collect(), newest, validation }
    }

    /// Who this is.
    ///
    /// # Errors
    /// [`Refused`], whatever the reason.
    pub fn check(&self, token: &str) -> Result<Principal, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused);
        }
        let header = decode_header(token).map_err(|_| Refused)?;
        let key = self.keys.get(&header.kid.ok_or(Refused)?).ok_or(Refused)?;
        let claims =
            decode::<Claims>(token, &DecodingKey::from_secret(&key.0), &self.validation).map_err(|_| Refused)?.claims;
        let id = Id::new(&claims.sub).map_err(|_| Refused)?;
        let role = match claims.role.as_str() {
            "store" => Role::Store,
            "customer" => Role::Customer,
            "producer" => return Ok(Principal::Producer),
            "wall" => return Ok(Principal::Viewer { expires: end_of(&claims) }),
            _ => return Err(Refused),
        };
        let expires = end_of(&claims);
        let device = claims.device.map(|device| Id::new(&device)).transpose().map_err(|_| Refused)?;
        Ok(Principal::Reader { who: Recipient { shadow: claims.shadow, role, id }, device, expires })
    }

    /// Signs a token for `role` and `id`, good for `seconds` from `now`.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn mint(
        &self,
        role: &str,
        id: &str,
        device: Option<&str>,
        now: UnixMs,
        seconds: u64,
    ) -> Result<String, Refused> {
        let key = self.keys.get(&self.newest).ok_or(Refused)?;
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
        let header = Header { kid: Some(self.newest.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &EncodingKey::from_secret(&key.0)).map_err(|_| Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(issuer: &str, audience: &str, kid: &str, secret: &str) -> Tokens {
        Tokens::new(issuer, audience, vec![(kid.into(), Secret::new(secret.as_bytes().to_vec()))])
    }

    fn now() -> UnixMs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        UnixMs(i64::try_from(since.as_millis()).unwrap())
    }

    #[test]
    fn a_token_names_its_recipient_and_device() {
        let tokens = tokens("chain", "orderbell", "k1", "secret");
        let token = tokens.mint("store", "17", Some("till-1"), now(), 60).unwrap();
        let Ok(Principal::Reader { who, device, .. }) = tokens.check(&token) else { panic!("refused") };
        assert_eq!((who.to_string(), device.unwrap().to_string()), ("store:17".into(), "till-1".into()));
        let producer = tokens.mint("producer", "shop", None, now(), 60).unwrap();
        assert_eq!(tokens.check(&producer), Ok(Principal::Producer));
    }

    #[test]
    fn forged_tokens_are_refused_one_by_one() {
        let ours = tokens("chain", "orderbell", "k1", "secret");
        let refused = |token: &str| ours.check(token) == Err(Refused);
        let mint = |with: &Tokens, role: &str, at: UnixMs| with.mint(role, "17", None, at, 60).unwrap();
        assert!(refused(""), "empty");
        assert!(refused("a.b.c"), "garbage");
        assert!(refused(&"x".repeat(TOKEN_BYTES_MAX + 1)), "too long");
        assert!(refused(&mint(&tokens("other", "orderbell", "k1", "secret"), "store", now())), "issuer");
        assert!(refused(&mint(&tokens("chain", "other", "k1", "secret"), "store", now())), "audience");
        assert!(refused(&mint(&tokens("chain", "orderbell", "k2", "secret"), "store", now())), "unknown key id");
        assert!(refused(&mint(&tokens("chain", "orderbell", "k1", "guess"), "store", now())), "another key");
        assert!(refused(&mint(&ours, "admin", now())), "unknown role");
        assert!(refused(&mint(&ours, "store", now().plus_ms(-600_000))), "expired");
        let good = mint(&ours, "store", now());
        let (_, rest) = good.split_once('.').unwrap();
        // {"alg":"none","kid":"k1"} and {"alg":"HS512","kid":"k1"}
        assert!(refused(&format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}")), "no algorithm");
        assert!(refused(&format!("eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0.{rest}")), "another algorithm");
        assert!(!refused(&good));
    }
}
