//! Tokens as others write them, and why each bad one is rejected.

use super::*;
use crate::clock::wall_clock as now;
use serde_json::json;

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

/// A token with these claims, signed by the key `k1`.
fn signed(claims: &Value) -> String {
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    encode(&header, claims, &EncodingKey::from_secret(b"secret")).unwrap()
}

/// Good claims, with these instead.
fn claims(other: Value) -> Value {
    let exp = now().0 / 1000 + 60;
    let mut claims = json!({"iss": "chain", "aud": "orderbell", "exp": exp, "iat": exp, "role": "store", "sub": "17"});
    claims.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| *value != "absent");
    claims
}

#[test]
fn tokens_are_taken_as_other_libraries_write_them() {
    let tokens = tokens("chain", "orderbell", "k1", "secret");
    let seconds = now().0 as f64 / 1000.0;
    for other in [
        json!({}),
        json!({"aud": ["orderbell"]}),
        json!({"aud": ["something", "orderbell"]}),
        json!({"exp": seconds + 60.5, "iat": seconds, "nbf": seconds - 0.5}),
        json!({"exp": 1e15}),
        json!({"iat": "absent", "device": null, "jti": "1", "scope": ["a"]}),
    ] {
        let taken = tokens.check(&signed(&claims(other.clone())));
        assert!(matches!(taken, Ok(Principal::Reader { .. })), "{other}: {taken:?}");
    }
    let Ok(Principal::Reader { expires, .. }) = tokens.check(&signed(&claims(json!({"exp": 4_000_000_000.5})))) else {
        panic!("rejected")
    };
    assert_eq!(expires, UnixMs(4_000_000_060_500));
}

#[test]
fn each_rejection_has_its_reason() {
    let own = tokens("chain", "orderbell", "k1", "secret");
    let reason = |token: &str| own.check(token).unwrap_err().reason;
    let mint = |with: &Tokens, role: &str, at: UnixMs| with.mint(role, "17", None, at, 60).unwrap();
    assert_eq!(reason(""), "token-malformed");
    assert_eq!(reason("a.b.c"), "token-malformed");
    assert_eq!(reason(&"x".repeat(TOKEN_BYTES_MAX + 1)), "token-too-long");
    assert_eq!(reason(&mint(&tokens("other", "orderbell", "k1", "secret"), "store", now())), "token-issuer");
    assert_eq!(reason(&mint(&tokens("chain", "other", "k1", "secret"), "store", now())), "token-audience");
    assert_eq!(reason(&mint(&tokens("chain", "orderbell", "k2", "secret"), "store", now())), "token-unknown-kid");
    assert_eq!(reason(&mint(&tokens("chain", "orderbell", "k1", "guess"), "store", now())), "token-signature");
    assert_eq!(reason(&mint(&own, "admin", now())), "token-role");
    assert_eq!(reason(&mint(&own, "store", now().plus_ms(-600_000))), "token-expired");
    for (other, expected) in [
        (json!({"sub": 17}), "token-sub"),
        (json!({"sub": "undefined"}), "token-sub"),
        (json!({"sub": "absent"}), "token-sub"),
        (json!({"exp": "absent"}), "token-exp"),
        (json!({"exp": "soon"}), "token-exp"),
        (json!({"aud": ["other"]}), "token-audience"),
        (json!({"aud": []}), "token-audience"),
        (json!({"iss": "absent"}), "token-issuer"),
        (json!({"nbf": now().0 / 1000 + 600}), "token-not-yet-valid"),
        (json!({"role": ["store"]}), "token-role"),
        (json!({"device": 4}), "token-device"),
        (json!({"shadow": "yes"}), "token-shadow"),
    ] {
        assert_eq!(reason(&signed(&claims(other.clone()))), expected, "{other}");
    }
    let good = mint(&own, "store", now());
    let (_, rest) = good.split_once('.').unwrap();
    // {"alg":"none","kid":"k1"}, {"alg":"HS512","kid":"k1"} and {"alg":"HS256"}
    assert_eq!(reason(&format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}")), "token-malformed");
    assert_eq!(reason(&format!("eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0.{rest}")), "token-algorithm");
    assert_eq!(reason(&format!("eyJhbGciOiJIUzI1NiJ9.{rest}")), "token-without-kid");
    assert!(own.check(&good).is_ok());
}

#[test]
fn a_rejected_token_says_whose_it_is_only_if_we_signed_it() {
    let own = tokens("chain", "orderbell", "k1", "secret");
    let who = |token: &str| own.check(token).unwrap_err().who.map(|who| who.to_string());
    let expired = own.mint("store", "17", None, now().plus_ms(-600_000), 60).unwrap();
    assert_eq!(who(&expired).as_deref(), Some("store:17"));
    let forged = tokens("chain", "orderbell", "k1", "guess").mint("store", "17", None, now(), 60).unwrap();
    assert_eq!(who(&forged), None);
}
