//! The outer form of a token: a JWS in its compact form (RFC 7515), as far as it is read before its signature is checked.
//!
//! The header names a key and says nothing else that counts: keys and addresses that it brings along (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::claims::Claims;

/// A token whose signature is not checked yet.
pub(super) struct Jws<'a> {
    /// What the signature covers.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    /// The key that the header names.
    pub(super) kid: String,
    /// The algorithm that the header names: compared with that of the key, and never followed.
    pub(super) algorithm: String,
    payload: &'a str,
}

impl<'a> Jws<'a> {
    /// Reads the header. Of a token that is too long nothing is decoded.
    ///
    /// # Errors
    /// The reason for logs and metrics.
    pub(super) fn read(token: &'a str) -> Result<Self, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("token-too-long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("token-malformed")?;
        let (header, payload) = signed.split_once('.').ok_or("token-malformed")?;
        if payload.contains('.') {
            return Err("token-malformed");
        }
        let mut header = object(&decoded(header)?)?;
        // Whatever is critical must be understood, and nothing is.
        if header.contains_key("crit") {
            return Err("token-critical");
        }
        if !is_access_token(header.get("typ")) {
            return Err("token-type");
        }
        let mut text = |name: &str| match header.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let kid = text("kid").ok_or("token-without-kid")?;
        let algorithm = text("alg").ok_or("token-algorithm")?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "token-malformed")?;
        Ok(Self { signed: signed.as_bytes(), signature, kid, algorithm, payload })
    }

    /// The claims. They mean nothing before the signature is checked.
    ///
    /// # Errors
    /// The reason for logs and metrics.
    pub(super) fn claims(&self) -> Result<Claims, &'static str> {
        Claims::read(&decoded(self.payload)?)
    }
}

/// Header and claims of a token as far as they can be read, whether they are true or not: for explanations alone.
pub(super) fn unchecked_parts(token: &str) -> (Option<Map<String, Value>>, Option<Claims>) {
    let mut parts = token.split('.').map(|part| decoded(part).ok());
    let (header, claims) = (parts.next().flatten(), parts.next().flatten());
    (header.and_then(|json| object(&json).ok()), claims.and_then(|json| Claims::read(&json).ok()))
}

/// A token for something else, such as a logout (`logout+jwt`), is signed with the same keys and must not open a mailbox (RFC 8725, 3.11).
fn is_access_token(typ: Option<&Value>) -> bool {
    let Some(typ) = typ.filter(|typ| !typ.is_null()) else { return true };
    let typ = typ.as_str().unwrap_or_default().to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

fn decoded(part: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| "token-malformed")
}

/// A JSON object. Readers disagree on which of two members of one name counts: an object that has two is refused.
pub(super) fn object(json: &[u8]) -> Result<Map<String, Value>, &'static str> {
    let Members { all, has_duplicates } = serde_json::from_slice(json).map_err(|_| "token-malformed")?;
    if has_duplicates { Err("token-duplicate-member") } else { Ok(all) }
}

struct Members {
    all: Map<String, Value>,
    has_duplicates: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members { all: Map::new(), has_duplicates: false };
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            members.has_duplicates |= members.all.insert(name, value).is_some();
        }
        Ok(members)
    }
}
