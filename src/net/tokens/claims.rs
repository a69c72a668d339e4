//! What the claims of a token mean (RFC 7519, 4.1), as issuers of many makes write them. Pure: the time is an argument.

use std::borrow::Cow;
use std::time::Duration;

use orderbell_protocol::{DeviceId, Id, Recipient, Role, UnixMs, id_text};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Principal;
use super::jws;

/// What every token must fit.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// `iss` that every token has.
    pub issuer: String,
    /// `aud` that every token has, or that is in its list.
    pub audience: String,
    /// Tolerated difference between the clocks of issuer and server.
    pub clock_skew: Duration,
}

impl TokenRules {
    fn skew_ms(&self) -> i64 {
        i64::try_from(self.clock_skew.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The claims of a token whose signature is good. Those that are not read here are ignored.
#[derive(Default)]
pub(super) struct Claims {
    members: Map<String, Value>,
    ids: Ids,
}

/// The claims that are ids, as they were written. As values, `17.0` and `1.7e1` are equal, and long numbers have lost digits.
#[derive(Default, Deserialize)]
struct Ids {
    sub: Option<Box<RawValue>>,
    device: Option<Box<RawValue>>,
}

impl Claims {
    /// Reads the claims from their JSON.
    ///
    /// # Errors
    /// The reason for logs and metrics.
    pub(super) fn read(json: &[u8]) -> Result<Self, &'static str> {
        let members = jws::object(json)?;
        Ok(Self { members, ids: serde_json::from_slice(json).map_err(|_| "token-malformed")? })
    }

    /// A claim, or null where it is missing.
    pub(super) fn get(&self, name: &str) -> &Value {
        self.members.get(name).unwrap_or(&Value::Null)
    }

    /// The JSON of a claim, for explanations. `None` where it is missing.
    pub(super) fn json(&self, name: &str) -> Option<String> {
        let written = match name {
            "sub" => self.ids.sub.as_deref(),
            "device" => self.ids.device.as_deref(),
            _ => None,
        };
        written.map(|json| json.get().to_owned()).or_else(|| self.members.get(name).map(Value::to_string))
    }

    /// Whose token it is, checked in every respect.
    pub(super) fn principal(&self, rules: &TokenRules, now: UnixMs) -> Result<Principal, &'static str> {
        if self.get("iss") != rules.issuer.as_str() {
            return Err("token-issuer");
        }
        if !is_for(self.get("aud"), &rules.audience) {
            return Err("token-audience");
        }
        let expires = time(self.get("exp")).ok_or("token-exp")?.plus_ms(rules.skew_ms());
        if now >= expires {
            return Err("token-expired");
        }
        let begins = self.get("nbf");
        if !begins.is_null() && time(begins).ok_or("token-nbf")? > now.plus_ms(rules.skew_ms()) {
            return Err("token-not-yet-valid");
        }
        match self.recipient()? {
            Some(who) => Ok(Principal::Reader { who, device: self.device()?, expires }),
            None if self.get("role") == "wall" => Ok(Principal::Viewer { name: self.subject()?, expires }),
            None => Ok(Principal::Producer),
        }
    }

    /// The mailbox that the token opens, if it opens one.
    pub(super) fn recipient(&self) -> Result<Option<Recipient>, &'static str> {
        let id = self.subject()?;
        let role = match self.get("role").as_str() {
            Some("store") => Role::Store,
            Some("customer") => Role::Customer,
            Some("producer" | "wall") => return Ok(None),
            _ => return Err("token-role"),
        };
        let shadow = match self.get("shadow") {
            Value::Null => false,
            Value::Bool(shadow) => *shadow,
            _ => return Err("token-shadow"),
        };
        Ok(Some(Recipient { shadow, role, id }))
    }

    fn subject(&self) -> Result<Id, &'static str> {
        self.ids.sub.as_deref().and_then(id).ok_or("token-sub")
    }

    fn device(&self) -> Result<Option<DeviceId>, &'static str> {
        self.ids.device.as_deref().map(|device| id(device).ok_or("token-device")).transpose()
    }
}

/// True for this audience, and for a list of texts with this audience in it.
fn is_for(aud: &Value, audience: &str) -> bool {
    match aud {
        Value::String(one) => one == audience,
        Value::Array(all) => all.iter().all(Value::is_string) && all.iter().any(|one| one == audience),
        _ => false,
    }
}

/// Seconds since 1970, perhaps with a fraction. Saturates: a token may say that it never ends.
fn time(seconds: &Value) -> Option<UnixMs> {
    seconds.as_f64().map(|seconds| UnixMs((seconds * 1000.0).round() as i64))
}

/// An id as a text, or as a whole number, by the rule that ids of events follow: an issuer may number its stores. No number with a fraction or an
/// exponent.
fn id(json: &RawValue) -> Option<Id> {
    let json = json.get();
    let text = match json.as_bytes().first()? {
        b'"' => Cow::Owned(serde_json::from_str::<String>(json).ok()?),
        b'-' | b'0'..=b'9' => Cow::Borrowed(id_text::whole_number(json)?),
        _ => return None,
    };
    Id::parse(&text).ok()
}
