//! Why a token is refused, in words, for an operator who has the token and the keys. Never for its client, and never on the server's log: the
//! sentences quote what the token says. They never quote its signature, nor a key.

use orderbell_protocol::UnixMs;
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use serde_json::{Map, Value};

use super::claims::{Claims, TokenRules};
use super::jws::{Jws, unchecked_parts};
use super::{Principal, Tokens, shown_kid};

/// Characters of a claim that are shown.
const SHOWN_CHARS: usize = 80;
/// So many ids of keys are listed; the others are counted.
const LISTED_KIDS: usize = 20;

/// What a token that is refused was refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedToken {
    /// The word in log and metrics.
    pub reason: &'static str,
    /// The same as a sentence, with what the token says.
    pub sentence: String,
}

impl Tokens {
    /// Checks a token as the server does, and says why it is refused.
    ///
    /// # Errors
    /// It is refused.
    pub fn explain(&self, token: &str, now: UnixMs) -> Result<Principal, RefusedToken> {
        self.check(token, now).map_err(|invalid| {
            let (header, claims) = unchecked_parts(token);
            let parts = Parts { header: header.unwrap_or_default(), claims: claims.unwrap_or_default() };
            let sentence = match invalid.reason {
                "token-too-long" => format!("it has {} bytes: at most {TOKEN_BYTES_MAX} are taken", token.len()),
                reason => self.of_header(&parts, reason).unwrap_or_else(|| of_claims(&self.rules, &parts, reason, now)),
            };
            RefusedToken { reason: invalid.reason, sentence }
        })
    }

    /// The key that a good token was checked with, and its algorithm.
    #[must_use]
    pub fn key_of(&self, token: &str) -> Option<(String, &'static str)> {
        let kid = Jws::read(token).ok()?.kid;
        let algorithm = self.keys.get(&kid)?.algorithm().name();
        Some((kid, algorithm))
    }

    /// What is wrong with the outer form, the header or the signature.
    fn of_header(&self, parts: &Parts, reason: &str) -> Option<String> {
        let (kid, alg) = (parts.header("kid"), parts.header("alg"));
        Some(match reason {
            "token-malformed" => {
                "it is no JWT: three parts in base64url with dots between them, the first two JSON objects".into()
            }
            "token-duplicate-member" => "two members of its header or of its claims have the same name".into(),
            "token-critical" => format!(
                "its header says that {} must be understood, and this server understands none",
                parts.header("crit")
            ),
            "token-type" => format!("its `typ` is {}: only JWT and at+jwt are access tokens", parts.header("typ")),
            "token-without-kid" => "its header names no key: `kid` is missing or no text".into(),
            "token-unknown-kid" | "token-awaited-kid" => {
                let mut kids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
                kids.sort_unstable();
                let more = if kids.len() > LISTED_KIDS { ", ..." } else { "" };
                let kids: Vec<String> = kids.into_iter().take(LISTED_KIDS).map(shown_kid).collect();
                let awaited = if self.awaits_keys { "; those of the issuer were not fetched yet" } else { "" };
                format!("its `kid` is {kid}, and the keys here are {}{more}{awaited}", kids.join(", "))
            }
            "token-algorithm" => {
                let algorithm = parts.header.get("kid").and_then(Value::as_str).and_then(|kid| self.keys.get(kid));
                let algorithm = algorithm.map_or("another", |key| key.algorithm().name());
                format!("its `alg` is {alg}, and the key {kid} is for {algorithm}: the key decides, not the token")
            }
            "token-signature" => {
                format!(
                    "the key {kid} has not signed it, or it was changed since: compare the key here with that of the issuer"
                )
            }
            _ => return None,
        })
    }
}

/// What a token says, whether it is true or not.
struct Parts {
    header: Map<String, Value>,
    claims: Claims,
}

impl Parts {
    fn header(&self, name: &str) -> String {
        shown(self.header.get(name).map(Value::to_string))
    }

    fn claim(&self, name: &str) -> String {
        shown(self.claims.json(name))
    }
}

/// What is wrong with the claims of a token that one of our keys signed.
fn of_claims(rules: &TokenRules, parts: &Parts, reason: &str, now: UnixMs) -> String {
    let skew_s = rules.clock_skew.as_secs();
    match reason {
        "token-issuer" => format!("its `iss` is {}, and `[tokens] issuer` is {:?}", parts.claim("iss"), rules.issuer),
        "token-audience" => {
            format!("its `aud` is {}, and `[tokens] audience` is {:?}", parts.claim("aud"), rules.audience)
        }
        "token-exp" => format!("its `exp` is {}: a number of seconds since 1970 is needed", parts.claim("exp")),
        "token-expired" => {
            format!(
                "it ended {}, and is taken for {skew_s} s longer: {}",
                moment(parts, "exp"),
                distance(parts, "exp", now)
            )
        }
        "token-nbf" => {
            format!("its `nbf` is {}: a number of seconds since 1970 is needed, or none", parts.claim("nbf"))
        }
        "token-not-yet-valid" => {
            format!(
                "it begins {}, and is taken {skew_s} s earlier: {}",
                moment(parts, "nbf"),
                distance(parts, "nbf", now)
            )
        }
        "token-sub" => {
            format!(
                "its `sub` is {}: an id, as text or as a whole number without an exponent, is needed",
                parts.claim("sub")
            )
        }
        "token-role" => format!("its `role` is {}: store, customer, producer and wall are known", parts.claim("role")),
        "token-device" => format!("its `device` is {}: an id, or none, is needed", parts.claim("device")),
        "token-shadow" => format!("its `shadow` is {}: true or false, or none, is needed", parts.claim("shadow")),
        other => other.to_owned(),
    }
}

/// A value as JSON, short, and without what a terminal could take for a command.
fn shown(json: Option<String>) -> String {
    let Some(text) = json else { return "missing".into() };
    let plain = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    let mut short: String =
        text.chars().take(SHOWN_CHARS).map(|c| if plain(c) { c } else { char::REPLACEMENT_CHARACTER }).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        short.push_str("...");
    }
    short
}

/// A claim as a time in UTC.
fn moment(parts: &Parts, claim: &str) -> String {
    let seconds = parts.claims.get(claim).as_f64().unwrap_or_default();
    jiff::Timestamp::from_second(seconds as i64).map_or_else(|_| format!("at {seconds}"), |at| at.to_string())
}

/// How far a claim is from now.
fn distance(parts: &Parts, claim: &str, now: UnixMs) -> String {
    let seconds = parts.claims.get(claim).as_f64().unwrap_or_default() as i64;
    let s = seconds.saturating_sub(now.0 / 1000);
    let (ago, word) = (s.unsigned_abs(), if s < 0 { "ago" } else { "from now" });
    match ago {
        0..120 => format!("{ago} s {word}, by the clock here"),
        120..7_200 => format!("{} min {word}", ago / 60),
        7_200..172_800 => format!("{} h {word}", ago / 3_600),
        _ => format!("{} days {word}", ago / 86_400),
    }
}
