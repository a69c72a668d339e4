//! The address at which an issuer publishes its keys.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::Authority;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `https://host[:port]/path`, or `http://` on loopback: whoever can change the answer can sign tokens for every store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl {
    origin: String,
    path: String,
}

impl KeySetUrl {
    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for KeySetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl FromStr for KeySetUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "an address such as \"https://id.example.com/jwks.json\", without a user name; http:// on loopback only; a port is 1 to 65535";
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or(FORM)?;
        let is_loopback = matches!(authority.host(), "127.0.0.1" | "[::1]" | "localhost");
        let is_safe = scheme == "https" || (scheme == "http" && is_loopback);
        if !is_safe || authority.as_str().contains('@') || !has_possible_port(authority) {
            return Err(FORM);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { origin: format!("{scheme}://{authority}"), path: path.into() })
    }
}

/// False for a port that no request can go to, which the parser of URLs passes over.
fn has_possible_port(authority: &Authority) -> bool {
    let Some(port) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let is_number =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|n: u16| n > 0);
    port.is_empty() || port.strip_prefix(':').is_some_and(is_number)
}

impl<'de> Deserialize<'de> for KeySetUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for KeySetUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for KeySetUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeySetUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_nobody_on_the_way_can_answer_for_are_taken() {
        for good in [
            "https://id.example.com/jwks.json",
            "https://id.example.com:8443/a/b?c=d",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/",
            "http://[::1]:1/x",
            "https://[::1]/x",
            "https://id.example.com:65535/",
        ] {
            let url: KeySetUrl = good.parse().unwrap();
            assert_eq!(url.to_string(), good);
        }
        for bad in [
            "",
            "id.example.com/jwks",
            "http://id.example.com/jwks",
            "http://127.0.0.1.example.com/",
            "http://localhost@example.com/",
            "https://user:secret@id.example.com/",
            "ftp://127.0.0.1/",
            "file:///etc/jwks",
            "https://id.example.com:0/",
            "https://id.example.com:65536/",
            "https://id.example.com:99999999999/",
            "https://id.example.com:/",
            "https://id.example.com:+80/",
            "http://[::1]:0/x",
            "/jwks",
        ] {
            assert!(bad.parse::<KeySetUrl>().is_err(), "{bad}");
        }
    }
}
