//! Tokens as others write them, and why each bad one is rejected.

use std::time::Duration;

use super::*;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use orderbell_protocol::frame::TOKEN_BYTES_MAX;
use serde_json::{Value, json};

const NOW: UnixMs = UnixMs(1_800_000_000_000);
/// The same in seconds.
const NOW_S: i64 = NOW.0 / 1000;

fn rules(issuer: &str, audience: &str) -> TokenRules {
    TokenRules { issuer: issuer.into(), audience: audience.into(), clock_skew: Duration::from_secs(60) }
}

fn tokens(issuer: &str, audience: &str, kid: &str, secret: &str) -> Tokens {
    Tokens::new(rules(issuer, audience), vec![(kid.into(), TokenKey::secret(secret.as_bytes()))])
}

fn own() -> Tokens {
    tokens("chain", "orderbell", "k1", "secret")
}

/// A token of this header and these claims, as they stand here, signed by the key `k1`.
fn signed(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

const HEADER: &str = r#"{"alg":"HS256","kid":"k1"}"#;

/// Good claims, with these instead; `"absent"` takes one out.
fn claims(other: &Value) -> String {
    let exp = NOW_S + 60;
    let mut claims = json!({"iss": "chain", "aud": "orderbell", "exp": exp, "iat": exp, "role": "store", "sub": "17"});
    claims.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| *value != "absent");
    claims.to_string()
}

/// What becomes of a token: whose it is, or why it is rejected.
fn outcome(token: &str) -> String {
    match own().check(token, NOW) {
        Ok(Principal::Reader { who, device, .. }) => {
            device.map_or_else(|| who.to_string(), |device| format!("{who} at {device}"))
        }
        Ok(other) => format!("{other:?}"),
        Err(invalid) => invalid.reason.into(),
    }
}

#[test]
fn a_token_carries_its_recipient_and_device() {
    let tokens = own();
    let token = tokens.mint("store", "17", Some("till-1"), NOW, 60).unwrap();
    assert_eq!(outcome(&token), "store:17 at till-1");
    let producer = tokens.mint("producer", "shop", None, NOW, 60).unwrap();
    assert_eq!(tokens.check(&producer, NOW), Ok(Principal::Producer));
    let load_test = tokens.mint_shadow("store", "17", None, NOW, 60).unwrap();
    let Ok(Principal::Reader { who, .. }) = tokens.check(&load_test, NOW) else { panic!("rejected") };
    assert_eq!((who.shadow, who.id.as_str()), (true, "17"), "a mailbox of load-test traffic");
}

/// A line for each shape of a claim that issuers are known to write, and what becomes of the token.
#[test]
fn claims_are_taken_as_issuers_write_them() {
    let s = NOW_S as f64;
    for (other, expected) in [
        (json!({}), "store:17"),
        // Audience: RFC 7519 allows a text and a list.
        (json!({"aud": ["orderbell"]}), "store:17"),
        (json!({"aud": ["something", "orderbell"]}), "store:17"),
        (json!({"aud": ["other"]}), "token-audience"),
        (json!({"aud": []}), "token-audience"),
        (json!({"aud": ["orderbell", 5]}), "token-audience"),
        (json!({"aud": {"orderbell": true}}), "token-audience"),
        (json!({"aud": "Orderbell"}), "token-audience"),
        (json!({"aud": "absent"}), "token-audience"),
        (json!({"iss": "absent"}), "token-issuer"),
        (json!({"iss": ["chain"]}), "token-issuer"),
        (json!({"iss": "chain/"}), "token-issuer"),
        // Times: with fractions, and within a minute of difference between the clocks.
        (json!({"exp": s + 60.5, "iat": s + 0.25, "nbf": s - 0.5}), "store:17"),
        (json!({"exp": s - 59.5}), "store:17"),
        (json!({"exp": NOW_S - 60}), "token-expired"),
        (json!({"exp": s - 60.25}), "token-expired"),
        (json!({"exp": 0}), "token-expired"),
        (json!({"exp": -1}), "token-expired"),
        (json!({"exp": 1e15}), "store:17"),
        (json!({"exp": 1e300}), "store:17"),
        (json!({"exp": "absent"}), "token-exp"),
        (json!({"exp": null}), "token-exp"),
        (json!({"exp": "1800000060"}), "token-exp"),
        (json!({"nbf": NOW_S + 60}), "store:17"),
        (json!({"nbf": s + 60.5}), "token-not-yet-valid"),
        (json!({"nbf": NOW_S + 600}), "token-not-yet-valid"),
        (json!({"nbf": null}), "store:17"),
        (json!({"nbf": "soon"}), "token-nbf"),
        (json!({"iat": "absent"}), "store:17"),
        (json!({"iat": NOW_S + 3_600}), "store:17"),
        // Ids: as text or as a whole number.
        (json!({"sub": 17}), "store:17"),
        (json!({"sub": 18_446_744_073_709_551_615_u64}), "store:18446744073709551615"),
        (json!({"sub": 17.0}), "store:17"),
        (json!({"sub": "17.0"}), "store:17"),
        (json!({"sub": -17}), "store:-17"),
        (json!({"sub": -1}), "token-sub"),
        (json!({"sub": 17.5}), "token-sub"),
        (json!({"sub": true}), "token-sub"),
        (json!({"sub": ["17"]}), "token-sub"),
        (json!({"sub": {"id": "17"}}), "token-sub"),
        (json!({"sub": "undefined"}), "token-sub"),
        (json!({"sub": ""}), "token-sub"),
        (json!({"sub": "absent"}), "token-sub"),
        (json!({"device": 4}), "store:17 at 4"),
        (json!({"device": 4.0}), "store:17 at 4"),
        (json!({"device": null}), "store:17"),
        (json!({"device": 4.5}), "token-device"),
        (json!({"device": ""}), "token-device"),
        (json!({"role": ["store"]}), "token-role"),
        (json!({"role": "Store"}), "token-role"),
        (json!({"role": "admin"}), "token-role"),
        (json!({"shadow": "yes"}), "token-shadow"),
        (json!({"shadow": 1}), "token-shadow"),
        // Whatever else an issuer adds.
        (json!({"jti": "1", "scope": ["a"], "azp": 5, "cnf": {"jkt": "x"}, "amr": null}), "store:17"),
    ] {
        assert_eq!(outcome(&signed(HEADER, &claims(&other))), expected, "{other}");
    }
}

/// Regression: an id that is the number `17.0`, as an issuer writes it that keeps numbers as floating point, was refused; in events it is 17.
#[test]
fn ids_in_claims_are_read_by_the_rule_of_all_ids() {
    let with = |id: &str| claims(&json!({"sub": "%"})).replace("\"%\"", id);
    for (id, expected) in [
        ("17.0", "store:17"),
        ("17.000", "store:17"),
        ("0.0", "store:0"),
        ("123456789012345678901234", "store:123456789012345678901234"),
        ("18446744073709551616.0", "store:18446744073709551616"),
        ("\"\\u0031\\ufeff7.0\"", "token-sub"),
        ("\"\\ufeff17.0\"", "store:17"),
        ("1.7e1", "token-sub"),
        ("17e0", "token-sub"),
        ("17.01", "token-sub"),
    ] {
        assert_eq!(outcome(&signed(HEADER, &with(id))), expected, "{id}");
    }
    let escaped = claims(&json!({"device": 4})).replace("\"sub\"", "\"s\\u0075b\"");
    assert_eq!(outcome(&signed(HEADER, &escaped)), "store:17 at 4", "a name in another spelling of JSON");
    let refused = own().explain(&signed(HEADER, &with("1.7e1")), NOW).unwrap_err().sentence;
    assert!(
        refused.starts_with("its `sub` is 1.7e1: an id, as text or as a whole number without an exponent"),
        "{refused}"
    );
}

/// A line for each header, and what becomes of the token. All signatures are good ones of the key `k1`.
#[test]
fn a_header_names_a_key_and_decides_nothing() {
    for (header, expected) in [
        (r#"{"alg":"HS256","kid":"k1"}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","typ":"JWT"}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","typ":"at+jwt"}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","typ":"application/AT+JWT"}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","typ":null}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","typ":"logout+jwt"}"#, "token-type"),
        (r#"{"alg":"HS256","kid":"k1","typ":5}"#, "token-type"),
        (r#"{"alg":"HS256","kid":"k1","jku":"https://evil/keys","jwk":{"kty":"oct","k":"AA"},"x5u":1}"#, "store:17"),
        (r#"{"alg":"HS256","kid":"k1","crit":["exp"],"exp":1}"#, "token-critical"),
        (r#"{"alg":"HS256","kid":"k1","crit":[]}"#, "token-critical"),
        (r#"{"alg":"none","kid":"k1"}"#, "token-algorithm"),
        (r#"{"alg":"hs256","kid":"k1"}"#, "token-algorithm"),
        (r#"{"alg":"HS512","kid":"k1"}"#, "token-algorithm"),
        (r#"{"alg":"RS256","kid":"k1"}"#, "token-algorithm"),
        (r#"{"kid":"k1"}"#, "token-algorithm"),
        (r#"{"alg":"HS256"}"#, "token-without-kid"),
        (r#"{"alg":"HS256","kid":1}"#, "token-without-kid"),
        (r#"{"alg":"HS256","kid":"k2"}"#, "token-unknown-kid"),
        (r#"{"alg":"HS256","kid":"K1"}"#, "token-unknown-kid"),
        (r#"{"alg":"HS256","kid":"../k1"}"#, "token-unknown-kid"),
        (r#"{"alg":"HS256","kid":"k1","kid":"k1"}"#, "token-duplicate-member"),
        (r#"{"alg":"none","kid":"k1","alg":"HS256"}"#, "token-duplicate-member"),
        (r#"["HS256","k1"]"#, "token-malformed"),
        (r#"{"alg":"HS256","kid":"k1"} {}"#, "token-malformed"),
        (r#"{"alg":"HS256","kid":"k1""#, "token-malformed"),
    ] {
        assert_eq!(outcome(&signed(header, &claims(&json!({})))), expected, "{header}");
    }
}

#[test]
fn two_claims_of_one_name_are_refused_whatever_they_say() {
    let good = claims(&json!({}));
    for twice in [r#""sub":"17","#, r#""sub":"18","#, r#""s\u0075b":"18","#, r#""exp":9999999999,"#, r#""x":1,"x":1,"#]
    {
        let claims = good.replacen('{', &format!("{{{twice}"), 1);
        assert_eq!(outcome(&signed(HEADER, &claims)), "token-duplicate-member", "{claims}");
    }
}

#[test]
fn the_tolerated_difference_of_clocks_is_a_setting_and_part_of_the_end() {
    let token = signed(HEADER, &claims(&json!({"exp": NOW_S as f64 + 0.5, "nbf": NOW_S})));
    for (skew_s, at, expected) in [
        (60, NOW, "taken"),
        (60, NOW.plus_ms(60_499), "taken"),
        (60, NOW.plus_ms(60_500), "token-expired"),
        (5, NOW.plus_ms(5_499), "taken"),
        (5, NOW.plus_ms(5_500), "token-expired"),
        (5, NOW.plus_ms(-5_000), "taken"),
        (5, NOW.plus_ms(-5_001), "token-not-yet-valid"),
    ] {
        let rules = TokenRules { clock_skew: Duration::from_secs(skew_s), ..rules("chain", "orderbell") };
        let tokens = Tokens::new(rules, vec![("k1".into(), TokenKey::secret(b"secret"))]);
        match tokens.check(&token, at) {
            Ok(Principal::Reader { expires, .. }) => {
                assert_eq!(expected, "taken", "{skew_s} s, {at:?}");
                assert_eq!(expires, NOW.plus_ms(500 + i64::try_from(skew_s).unwrap() * 1000));
            }
            Err(invalid) => assert_eq!(invalid.reason, expected, "{skew_s} s, {at:?}"),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_rejection_has_its_reason() {
    let own = own();
    let mint = |with: &Tokens, role: &str, at: UnixMs| with.mint(role, "17", None, at, 60).unwrap();
    assert_eq!(outcome(""), "token-malformed");
    assert_eq!(outcome("a.b.c"), "token-malformed");
    assert_eq!(outcome(&mint(&tokens("other", "orderbell", "k1", "secret"), "store", NOW)), "token-issuer");
    assert_eq!(outcome(&mint(&tokens("chain", "other", "k1", "secret"), "store", NOW)), "token-audience");
    assert_eq!(outcome(&mint(&tokens("chain", "orderbell", "k2", "secret"), "store", NOW)), "token-unknown-kid");
    assert_eq!(outcome(&mint(&tokens("chain", "orderbell", "k1", "guess"), "store", NOW)), "token-signature");
    assert_eq!(outcome(&mint(&own, "admin", NOW)), "token-role");
    assert_eq!(outcome(&mint(&own, "store", NOW.plus_ms(-600_000))), "token-expired");
    let good = mint(&own, "store", NOW);
    for (bad, expected) in [
        (good.replacen('.', "..", 1), "token-malformed"),
        (format!("{good}."), "token-malformed"),
        (format!("{good}="), "token-malformed"),
        (format!(" {good}"), "token-malformed"),
        (good.rsplit_once('.').unwrap().0.to_owned() + ".", "token-signature"),
        (good.rsplit_once('.').unwrap().0.to_owned(), "token-malformed"),
        (good.rsplit_once('.').unwrap().0.to_owned() + ".AAAA", "token-signature"),
    ] {
        assert_eq!(outcome(&bad), expected, "{bad}");
    }
    assert!(own.check(&good, NOW).is_ok());
}

/// At the limit, and one above: then not even its header is looked at.
#[test]
fn a_token_is_too_long_before_anything_is_decoded() {
    let with = |pad: usize| signed(HEADER, &claims(&json!({"pad": "x".repeat(pad)})));
    let most = (0..TOKEN_BYTES_MAX).rev().map(with).find(|token| token.len() <= TOKEN_BYTES_MAX).unwrap();
    assert!(TOKEN_BYTES_MAX - most.len() < 4, "base64 has steps");
    assert_eq!(outcome(&most), "store:17");
    assert_eq!(outcome(&"x".repeat(TOKEN_BYTES_MAX)), "token-malformed");
    assert_eq!(outcome(&"x".repeat(TOKEN_BYTES_MAX + 1)), "token-too-long");
    assert_eq!(outcome(&with(TOKEN_BYTES_MAX)), "token-too-long");
}

#[test]
fn a_rejected_token_says_whose_it_is_only_if_we_signed_it() {
    let own = own();
    let who = |token: &str| own.check(token, NOW).unwrap_err().who.map(|who| who.to_string());
    let expired = own.mint("store", "17", None, NOW.plus_ms(-600_000), 60).unwrap();
    assert_eq!(who(&expired).as_deref(), Some("store:17"));
    let forged = tokens("chain", "orderbell", "k1", "guess").mint("store", "17", None, NOW, 60).unwrap();
    assert_eq!(who(&forged), None);
}

/// Written by a library that this project did not write, and read by it.
#[test]
fn tokens_are_exchanged_with_another_library() {
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let claims: Value = serde_json::from_str(&claims(&json!({}))).unwrap();
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(b"secret")).unwrap();
    assert_eq!(outcome(&token), "store:17");
    let ours = own().mint("store", "17", Some("till-1"), crate::clock::wall_clock(), 60).unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
    validation.set_issuer(&["chain"]);
    validation.set_audience(&["orderbell"]);
    let read = jsonwebtoken::decode::<Value>(&ours, &jsonwebtoken::DecodingKey::from_secret(b"secret"), &validation);
    assert_eq!(read.unwrap().claims["device"], "till-1");
}

/// Who can sign: each algorithm with a key of its own.
enum Signer {
    Hs256(Vec<u8>),
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

impl Signer {
    fn all() -> [Self; 4] {
        [
            Self::Hs256(b"secret".to_vec()),
            Self::EdDsa(Ed25519KeyPair::generate().unwrap()),
            Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        ]
    }

    fn algorithm(&self) -> TokenAlgorithm {
        match self {
            Self::Hs256(_) => TokenAlgorithm::Hs256,
            Self::EdDsa(_) => TokenAlgorithm::EdDsa,
            Self::Es256(_) => TokenAlgorithm::Es256,
            Self::Rs256(_) => TokenAlgorithm::Rs256,
        }
    }

    /// The public key as a PEM; of HS256 nothing.
    fn pem(&self) -> String {
        let der = match self {
            Self::Hs256(_) => return String::new(),
            Self::EdDsa(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
            Self::Es256(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
            Self::Rs256(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
        };
        let text = base64::engine::general_purpose::STANDARD.encode(&*der.unwrap());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn key(&self) -> TokenKey {
        match self {
            Self::Hs256(secret) => TokenKey::secret(secret),
            _ => TokenKey::public(self.algorithm(), &self.pem()).unwrap(),
        }
    }

    /// A good token for store 17, with this `alg` in its header.
    fn token(&self, alg: &str, kid: &str) -> String {
        let header = json!({"alg": alg, "kid": kid}).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims(&json!({}))));
        let (message, random) = (signed.as_bytes(), SystemRandom::new());
        let signature = match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
            Self::Es256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Every key, every signer and every algorithm in a header: only the diagonal is taken.
#[test]
fn the_key_decides_the_algorithm_and_the_header_cannot_choose_another() {
    let signers = Signer::all();
    let others = Signer::all();
    let keys = signers.iter().map(|signer| (signer.algorithm().name().to_owned(), signer.key())).collect();
    let tokens = Tokens::new(rules("chain", "orderbell"), keys);
    let outcome = |token: &str| match tokens.check(token, NOW) {
        Ok(_) => "taken",
        Err(invalid) => invalid.reason,
    };
    for signer in &signers {
        for key in &signers {
            let kid = key.algorithm().name();
            for alg in [
                "HS256", "EdDSA", "Ed25519", "ES256", "RS256", "none", "None", "", "HS384", "HS512", "RS512", "PS256",
                "ES384", "ed25519", "Ed448",
            ] {
                // RFC 9864 has a name for each curve of EdDSA.
                let expected = match alg == kid || (alg == "Ed25519" && kid == "EdDSA") {
                    true if signer.algorithm().name() == kid => "taken",
                    true => "token-signature",
                    false => "token-algorithm",
                };
                let said = outcome(&signer.token(alg, kid));
                assert_eq!(said, expected, "signed by {}, says {alg}, key {kid}", signer.algorithm());
            }
        }
    }
    for other in others.iter().skip(1) {
        let name = other.algorithm().name();
        assert_eq!(outcome(&other.token(name, name)), "token-signature", "another key of the same kind");
    }
}

/// A public key is known to everybody. Used as the secret of HS256 in any of its forms, it opens nothing.
#[test]
fn a_public_key_is_no_secret_for_hs256() {
    for signer in Signer::all().iter().skip(1) {
        let pem = signer.pem();
        let der = pem.lines().nth(1).unwrap();
        let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
        let forms = [pem.as_bytes().to_vec(), pem.trim().as_bytes().to_vec(), der];
        let name = signer.algorithm().name();
        let tokens = Tokens::new(rules("chain", "orderbell"), vec![("k".into(), signer.key())]);
        for form in forms {
            let forged = Signer::Hs256(form);
            assert_eq!(tokens.check(&forged.token("HS256", "k"), NOW).unwrap_err().reason, "token-algorithm");
            assert_eq!(tokens.check(&forged.token(name, "k"), NOW).unwrap_err().reason, "token-signature");
        }
        let unsigned = signer.token("none", "k");
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(tokens.check(&unsigned, NOW).unwrap_err().reason, "token-algorithm");
        assert!(tokens.check(&signer.token(name, "k"), NOW).is_ok());
        assert!(matches!(tokens.mint("store", "17", None, NOW, 60), Err(SigningError::NoKey)));
    }
}

/// Whoever may have its tokens signed elsewhere needs a secret beside the public keys to sign some itself.
#[test]
fn the_first_secret_signs() {
    let [_, ed, ..] = Signer::all();
    let keys = vec![
        ("idp".into(), ed.key()),
        ("k1".into(), TokenKey::secret(b"secret")),
        ("k0".into(), TokenKey::secret(b"x")),
    ];
    let tokens = Tokens::new(rules("chain", "orderbell"), keys);
    assert_eq!(outcome(&tokens.mint("store", "17", None, NOW, 60).unwrap()), "store:17");
}

/// A key of an issuer that is still to come may be any; what a key here has not signed stays refused.
#[test]
fn while_keys_are_awaited_a_token_with_an_unknown_key_may_be_good_and_no_other() {
    let tokens = own().awaiting_keys();
    let check = |header: &str| tokens.check(&signed(header, &claims(&json!({}))), NOW);
    let unknown = check(r#"{"alg":"EdDSA","kid":"k2"}"#).unwrap_err();
    assert!(unknown.may_be_good() && unknown.names_unknown_key(), "{unknown:?}");
    let other = check(r#"{"alg":"EdDSA","kid":"k1"}"#).unwrap_err();
    assert!(!other.may_be_good() && !other.names_unknown_key(), "{other:?}");
    let known = own().check(&signed(r#"{"alg":"HS256","kid":"k2"}"#, &claims(&json!({}))), NOW).unwrap_err();
    assert!(!known.may_be_good() && known.names_unknown_key(), "{known:?}");
    assert!(check(HEADER).is_ok());
}

/// Each reason is a sentence that says what the token says, and neither its signature nor a key.
#[test]
fn a_refused_token_is_explained_in_words() {
    let own = own();
    let good = own.mint("store", "17", None, NOW, 60).unwrap();
    let of = |other: Value| signed(HEADER, &claims(&other));
    let head = |header: &str| signed(header, &claims(&json!({})));
    for (token, reason, words) in [
        ("x".repeat(5_000), "token-too-long", "it has 5000 bytes: at most 4096"),
        ("x".into(), "token-malformed", "no JWT"),
        (head(r#"{"alg":"HS256","kid":"k1","kid":"k1"}"#), "token-duplicate-member", "have the same name"),
        (head(r#"{"alg":"HS256","kid":"k1","crit":["b64"]}"#), "token-critical", r#"["b64"] must be understood"#),
        (head(r#"{"alg":"HS256","kid":"k1","typ":"logout+jwt"}"#), "token-type", r#"its `typ` is "logout+jwt""#),
        (head(r#"{"alg":"HS256"}"#), "token-without-kid", "`kid` is missing"),
        (
            head(r#"{"alg":"HS256","kid":"k2"}"#),
            "token-unknown-kid",
            r#"its `kid` is "k2", and the keys here are "k1""#,
        ),
        (head(r#"{"alg":"none","kid":"k1"}"#), "token-algorithm", r#"`alg` is "none", and the key "k1" is for HS256"#),
        (good.clone() + "=", "token-malformed", "no JWT"),
        (good.rsplit_once('.').unwrap().0.to_owned() + ".AAAA", "token-signature", r#"the key "k1" has not signed it"#),
        (of(json!({"iss": "other"})), "token-issuer", r#"its `iss` is "other", and `[tokens] issuer` is "chain""#),
        (of(json!({"aud": ["a", "b"]})), "token-audience", r#"its `aud` is ["a","b"]"#),
        (of(json!({"exp": "soon"})), "token-exp", r#"its `exp` is "soon""#),
        (
            of(json!({"exp": NOW_S - 90})),
            "token-expired",
            "2027-01-15T07:58:30Z, and is taken for 60 s longer: 90 s ago",
        ),
        (of(json!({"exp": NOW_S - 10_000})), "token-expired", "2 h ago"),
        (of(json!({"exp": -1e300})), "token-expired", "days ago"),
        (of(json!({"nbf": "x"})), "token-nbf", r#"its `nbf` is "x""#),
        (of(json!({"nbf": NOW_S + 600})), "token-not-yet-valid", "10 min from now"),
        (of(json!({"sub": null})), "token-sub", "its `sub` is null"),
        (of(json!({"sub": "\u{1b}[31m".repeat(50)})), "token-sub", "..."),
        (of(json!({"role": "admin"})), "token-role", r#"its `role` is "admin""#),
        (of(json!({"device": {}})), "token-device", "its `device` is {}"),
        (of(json!({"shadow": "no"})), "token-shadow", r#"its `shadow` is "no""#),
    ] {
        let refused = own.explain(&token, NOW).unwrap_err();
        assert_eq!(refused.reason, reason, "{}", refused.sentence);
        assert!(refused.sentence.contains(words), "{reason}: {words} is not in: {}", refused.sentence);
        let signature = token.rsplit('.').next().unwrap();
        assert!(signature.len() < 20 || !refused.sentence.contains(signature), "{}", refused.sentence);
        assert!(!refused.sentence.contains('\u{1b}') && !refused.sentence.contains("secret"), "{}", refused.sentence);
        // What an operator finds in the log stands in the guide.
        let guide = include_str!("../../OPERATING.md");
        assert!(guide.contains(&format!("`{reason}`")), "{reason} is not in OPERATING.md");
    }
    assert!(matches!(own.explain(&good, NOW), Ok(Principal::Reader { .. })));
    let refused = self::own().awaiting_keys().explain(&head(r#"{"alg":"HS256","kid":"k2"}"#), NOW).unwrap_err();
    let words = r#"its `kid` is "k2", and the keys here are "k1"; those of the issuer were not fetched yet"#;
    assert_eq!((refused.reason, refused.sentence.as_str()), ("token-awaited-kid", words));
    assert_eq!(own.key_of(&good), Some(("k1".into(), "HS256")));
}
