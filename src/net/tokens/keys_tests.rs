//! Signatures that others made, and keys that are not taken.

use super::*;

/// RFC 7515, A.2 and A.3, and RFC 8037, A.4: a key and a token that it signed.
const PUBLISHED: [(TokenAlgorithm, &str, &str); 3] = [
    (
        TokenAlgorithm::Rs256,
        r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#,
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    (
        TokenAlgorithm::Es256,
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
    (
        TokenAlgorithm::EdDsa,
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
];

/// The same keys, written by OpenSSL.
const PEMS: [&str; 3] = [
    "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj
NiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEz
P1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo
9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTB
EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxX
FvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp
oQIDAQAB
-----END PUBLIC KEY-----",
    "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END PUBLIC KEY-----",
    "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----",
];

/// 1,024 bits.
const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCbIi3zxzQ2uYNc0LE1tQtJQEw2
xVi09FVQvitPTKNxRRPo82TvTOJLh/xJPO9LjrIjt3lMRYgBDqEhHSUu0qHWA9hl
kf7IitzDlFwylVp7ezyUGjvbdnBqi8EK6vxPA8xLK8m2PEmGLTP6XWXREvzMn7F5
QqkUa+9vbEnqZ7D63QIDAQAB
-----END PUBLIC KEY-----";
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEbCv086Ons1AEidJnannL4jAqXDvqLMyk
qAvt0Mx+A3WX2Z10gELPP4Wk8YT9B+uSZL0s3jx8RTdo7zXdYa+wJ80TGprt4P4r
DvqxrYiGTzczhDV/JhrV8Vd51di7uYJ6
-----END PUBLIC KEY-----";
const ED448: &str = "-----BEGIN PUBLIC KEY-----
MEMwBQYDK2VxAzoAmRRbX7zyyez753r0S9NnlwTZ//A74uH4jfIX2hp75+ZyaCj+
aKGyKyDzYlNETBxU19Wj3R8iviEA
-----END PUBLIC KEY-----";

const ALL: [TokenAlgorithm; 4] =
    [TokenAlgorithm::Hs256, TokenAlgorithm::EdDsa, TokenAlgorithm::Es256, TokenAlgorithm::Rs256];

fn parts(token: &str) -> (&[u8], Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    (signed.as_bytes(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

#[test]
fn published_signatures_are_good_for_their_key_alone() {
    for ((algorithm, jwk, token), pem) in PUBLISHED.iter().zip(PEMS) {
        let (signed, signature) = parts(token);
        for text in [*jwk, pem, &format!("\n  {pem}\r\n\n")] {
            let key = TokenKey::public(*algorithm, text).unwrap();
            assert_eq!(key.algorithm(), *algorithm);
            assert!(key.signed(signed, &signature), "{algorithm}");
            let mut other = signature.clone();
            other[0] ^= 1;
            assert!(!key.signed(signed, &other) && !key.signed(b"other", &signature), "{algorithm}");
            assert!(!key.signed(signed, &[]) && key.sign(signed).is_none(), "{algorithm}");
        }
        for (other, ..) in PUBLISHED.iter().filter(|(other, ..)| other != algorithm) {
            assert_eq!(TokenKey::public(*other, jwk).unwrap_err(), BadPublicKey::NotFor(*other));
            assert_eq!(TokenKey::public(*other, pem).unwrap_err(), BadPublicKey::NotFor(*other));
        }
        for text in [*jwk, pem] {
            assert!(TokenKey::public(TokenAlgorithm::Hs256, text).is_err(), "a public key is no secret");
        }
    }
}

#[test]
fn a_key_that_could_sign_or_be_broken_or_that_is_of_another_kind_is_refused_with_its_reason() {
    let [(_, rsa, _), (_, ec, _), (_, ed, _)] = PUBLISHED;
    let with = |jwk: &str, member: &str| jwk.replacen('{', &format!("{{{member},"), 1);
    let relabelled = |label: &str| PEMS[2].replace("PUBLIC KEY", label);
    let short_n = URL_SAFE_NO_PAD.encode([0x80; 128]);
    let (es, rs, eddsa) = (TokenAlgorithm::Es256, TokenAlgorithm::Rs256, TokenAlgorithm::EdDsa);
    for (algorithm, text, expected) in [
        (rs, SHORT_RSA.to_owned(), BadPublicKey::RsaBits(1_024)),
        (
            rs,
            format!(r#"{{"kty":"RSA","e":"Aw","n":"{}"}}"#, URL_SAFE_NO_PAD.encode([0x81; 128])),
            BadPublicKey::RsaBits(1_024),
        ),
        (rs, format!(r#"{{"kty":"RSA","e":"Ag","n":"{short_n}"}}"#), BadPublicKey::NotFor(rs)),
        (rs, r#"{"kty":"RSA","e":"AQAB","n":""}"#.into(), BadPublicKey::NotFor(rs)),
        (rs, r#"{"kty":"RSA","e":"AQAB"}"#.into(), BadPublicKey::NotFor(rs)),
        (es, P384.into(), BadPublicKey::NotFor(es)),
        (es, ec.replace("P-256", "P-384"), BadPublicKey::OtherKind),
        (es, ec.replace("f83O", "g83O"), BadPublicKey::NotFor(es)),
        (es, ec.replace("\"x\":\"f8", "\"x\":\"AAf8"), BadPublicKey::NotFor(es)),
        (eddsa, ED448.into(), BadPublicKey::NotFor(eddsa)),
        (eddsa, ed.replace("Ed25519", "X25519"), BadPublicKey::OtherKind),
        (eddsa, ed.replace("11qY", "11q"), BadPublicKey::NotFor(eddsa)),
        (rs, r#"{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}"#.into(), BadPublicKey::OtherKind),
        (rs, with(rsa, r#""d":"AQAB""#), BadPublicKey::Private),
        (eddsa, relabelled("PRIVATE KEY"), BadPublicKey::Private),
        (rs, relabelled("RSA PRIVATE KEY"), BadPublicKey::Private),
        (es, relabelled("EC PRIVATE KEY"), BadPublicKey::Private),
        (rs, relabelled("CERTIFICATE"), BadPublicKey::Certificate),
        (rs, relabelled("CERTIFICATE REQUEST"), BadPublicKey::Unreadable),
        (rs, with(rsa, r#""alg":"PS256""#), BadPublicKey::OtherUse("alg")),
        (rs, with(rsa, r#""alg":"HS256""#), BadPublicKey::OtherUse("alg")),
        (rs, with(rsa, r#""use":"enc""#), BadPublicKey::OtherUse("use")),
        (rs, with(rsa, r#""key_ops":["sign"]"#), BadPublicKey::OtherUse("key_ops")),
        (rs, with(rsa, r#""kty":"EC""#), BadPublicKey::Unreadable),
        (rs, "{".into(), BadPublicKey::Unreadable),
        (rs, String::new(), BadPublicKey::Unreadable),
        (rs, PEMS[0].replace("MIIB", "!!!!"), BadPublicKey::Unreadable),
    ] {
        assert_eq!(TokenKey::public(algorithm, &text).unwrap_err(), expected, "{text}");
    }
    for (algorithm, text) in [
        (rs, with(rsa, r#""alg":"RS256","use":"sig","key_ops":["verify"],"kid":"1","x5c":["x"]"#)),
        (eddsa, with(ed, r#""alg":"Ed25519""#)),
    ] {
        assert!(TokenKey::public(algorithm, &text).is_ok(), "{text}");
    }
}

/// Some issuers write the modulus with the leading zero of a signed number.
#[test]
fn the_zero_of_a_signed_number_is_no_part_of_a_modulus() {
    let (algorithm, jwk, token) = PUBLISHED[0];
    let n = jwk.split("\"n\":\"").nth(1).unwrap().split('"').next().unwrap();
    let signed_n = URL_SAFE_NO_PAD.encode([&[0], URL_SAFE_NO_PAD.decode(n).unwrap().as_slice()].concat());
    let (signed, signature) = parts(token);
    assert!(TokenKey::public(algorithm, &jwk.replace(n, &signed_n)).unwrap().signed(signed, &signature));
}

#[test]
fn a_key_is_never_printed() {
    let key = TokenKey::secret(b"0123456789abcdef0123456789abcdef");
    assert_eq!(format!("{key:?}"), "TokenKey(HS256)");
    for algorithm in ALL {
        assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.name(), "as in a header");
    }
}
