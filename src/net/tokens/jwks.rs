//! A JSON Web Key Set (RFC 7517, 5): the public keys of an issuer, each with its `kid`.
//!
//! What an issuer keeps there for others (keys to encrypt with, algorithms that are not used here) is left out with its reason, as the RFC wants
//! it, so that a new kind of key does not cost the old ones. A set without any key that counts is refused, and so is one in which a `kid` names two.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::keys::{BadPublicKey, Jwk, TokenKey};

/// Keys in one set. Issuers publish two or three.
const KEYS_MAX: usize = 100;
/// Characters of a `kid` that are shown.
const SHOWN_KID_CHARS: usize = 64;

/// Why a set of keys is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySet {
    /// No JSON, or without `keys`.
    #[error("no JWKS: an object with `keys`")]
    Unreadable,
    /// More than anybody needs.
    #[error("{0} keys: at most {KEYS_MAX}")]
    TooMany(usize),
    /// Which one is meant is not known.
    #[error("two keys have the kid {0}")]
    SameKid(String),
    /// None that counts, and why.
    #[error("no key in it can be used{0}")]
    NoneUsable(String),
}

/// What can be used of a JWKS (RFC 7517), and what cannot.
#[derive(Clone, Debug)]
pub struct KeySet {
    /// By `kid`.
    pub keys: Vec<(String, TokenKey)>,
    /// A sentence for each key that does not count.
    pub left_out: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// [`BadKeySet`].
    pub fn read(text: &str) -> Result<Self, BadKeySet> {
        let Document { keys: all } = serde_json::from_str(text).map_err(|_| BadKeySet::Unreadable)?;
        if all.len() > KEYS_MAX {
            return Err(BadKeySet::TooMany(all.len()));
        }
        let (mut kids, mut set) = (HashSet::new(), Self { keys: Vec::new(), left_out: Vec::new() });
        for (at, jwk) in all.into_iter().enumerate() {
            let kid = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
            let shown = kid.as_deref().map_or_else(|| format!("number {}", at + 1), shown_kid);
            let key =
                serde_json::from_value::<Jwk>(jwk).map_err(|_| BadPublicKey::Unreadable).and_then(|jwk| jwk.key());
            match (kid, key) {
                (Some(kid), Ok(_)) if !kids.insert(kid.clone()) => return Err(BadKeySet::SameKid(shown)),
                (Some(kid), Ok(key)) => set.keys.push((kid, key)),
                (None, Ok(_)) => set.left_out.push(format!("{shown}: it has no kid")),
                (_, Err(bad)) => set.left_out.push(format!("{shown}: {bad}")),
            }
        }
        if set.keys.is_empty() {
            let why = set.left_out.iter().map(|why| format!("; {why}")).collect();
            return Err(BadKeySet::NoneUsable(why));
        }
        Ok(set)
    }

    /// Takes out the keys that have a `kid` of another place, which comes first: an issuer cannot replace a key of the configuration.
    pub fn leave_out(&mut self, kids: &HashSet<&str>) {
        let (kept, out) = std::mem::take(&mut self.keys).into_iter().partition(|(kid, _)| !kids.contains(kid.as_str()));
        self.keys = kept;
        let out: Vec<(String, TokenKey)> = out;
        self.left_out.extend(out.iter().map(|(kid, _)| format!("{}: [tokens] keys has this kid", shown_kid(kid))));
    }
}

/// A `kid` for a log or an error: whoever publishes a set or writes a token chose it. In quotes, of bounded length, and without what a terminal
/// could take for a command.
pub(crate) fn shown_kid(kid: &str) -> String {
    let short: String = kid.chars().take(SHOWN_KID_CHARS).collect();
    let more = if short.len() < kid.len() { "..." } else { "" };
    format!("{short:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn set(keys: &[String]) -> Result<KeySet, BadKeySet> {
        KeySet::read(&format!("{{\"keys\":[{}],\"more\":1}}", keys.join(",")))
    }

    fn kids(set: &KeySet) -> Vec<String> {
        set.keys.iter().map(|(kid, key)| format!("{kid} {}", key.algorithm())).collect()
    }

    #[test]
    fn what_an_issuer_publishes_for_others_is_left_out_with_its_reason() {
        let mut set = set(&[
            format!(r#"{{"kid":"a",{ED},"use":"sig"}}"#),
            format!(r#"{{"kid":"b",{EC},"alg":"ES256","x5c":["x"],"x5t":"y"}}"#),
            format!(r#"{{"kid":"a",{EC},"use":"enc"}}"#),
            format!("{{{ED}}}"),
            r#"{"kid":"hs","kty":"oct","k":"c2VjcmV0"}"#.into(),
            r#"{"kid":"new","kty":"AKP","alg":"ML-DSA-44","pub":"x"}"#.into(),
            format!(r#"{{"kid":"d\u001b[31m","d":"x",{ED}}}"#),
            r#"{"kid":5}"#.into(),
            "7".into(),
        ])
        .unwrap();
        assert_eq!(kids(&set), ["a EdDSA", "b ES256"]);
        let text = set.left_out.join("\n");
        assert_eq!(set.left_out.len(), 7, "{text}");
        for wanted in [
            "\"a\": its `use` says",
            "number 4: it has no kid",
            "\"hs\": a JWK of another kind",
            "\"new\": a JWK of another kind",
            "\"d\\u{1b}[31m\": a private key",
            "number 8: neither a PEM",
            "number 9: neither a PEM",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
        }
        set.leave_out(&HashSet::from(["b"]));
        assert_eq!(kids(&set), ["a EdDSA"]);
        assert!(set.left_out.last().unwrap().contains("\"b\": [tokens] keys has this kid"));
    }

    #[test]
    fn a_kid_is_shown_in_quotes_short_and_without_commands() {
        assert_eq!(shown_kid("2026-11"), r#""2026-11""#);
        assert_eq!(shown_kid("a\u{1b}[31m\n\"\u{202e}"), r#""a\u{1b}[31m\n\"\u{202e}""#);
        assert_eq!(shown_kid(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(shown_kid(&"é".repeat(65)), format!("\"{}\"...", "é".repeat(64)));
    }

    #[test]
    fn a_set_without_a_key_that_counts_is_refused() {
        for text in ["", "{", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
            assert_eq!(KeySet::read(text).unwrap_err(), BadKeySet::Unreadable, "{text}");
        }
        assert_eq!(set(&[]).unwrap_err(), BadKeySet::NoneUsable(String::new()));
        let said = set(&[r#"{"kid":"hs","kty":"oct","k":"c2VjcmV0"}"#.into()]).unwrap_err().to_string();
        assert!(said.starts_with("no key in it can be used; \"hs\": a JWK of another kind"), "{said}");
        let twice = [format!(r#"{{"kid":"a",{ED}}}"#), format!(r#"{{"kid":"a",{EC}}}"#)];
        assert_eq!(set(&twice).unwrap_err(), BadKeySet::SameKid("\"a\"".into()));
        let many = |n: usize| (0..n).map(|n| format!(r#"{{"kid":"{n}",{ED}}}"#)).collect::<Vec<_>>();
        assert_eq!(set(&many(KEYS_MAX)).unwrap().keys.len(), KEYS_MAX);
        assert_eq!(set(&many(KEYS_MAX + 1)).unwrap_err(), BadKeySet::TooMany(KEYS_MAX + 1));
    }
}
