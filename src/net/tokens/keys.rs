//! Keys that check signatures. Each has one algorithm from the start, given by the configuration or by what kind of key it is, and never by a
//! token (decision 0062).

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a token is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256: one secret signs and checks.
    #[default]
    #[serde(rename = "HS256")]
    Hs256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSA, PKCS #1 v1.5, with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

impl TokenAlgorithm {
    /// The name in a header's `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// True when `alg` of a header or a JWK names it. RFC 9864 calls EdDSA on this curve by the curve's name.
    pub(super) fn is_named(self, alg: &str) -> bool {
        alg == self.name() || (self == Self::EdDsa && alg == "Ed25519")
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a public key is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPublicKey {
    /// Neither form.
    #[error("neither a PEM with `-----BEGIN PUBLIC KEY-----` nor a JWK")]
    Unreadable,
    /// It could sign.
    #[error("a private key: this server needs the public one, and the private one stays with the issuer")]
    Private,
    /// A certificate has an end and an issuer, which nobody would check here.
    #[error("a certificate: take its public key, `openssl x509 -pubkey -noout`")]
    Certificate,
    /// Of another kind, or damaged.
    #[error("no public key for {0}")]
    NotFor(TokenAlgorithm),
    /// A key that can be broken, or that costs too much to use.
    #[error("an RSA key of {0} bits: at least {RSA_BITS_MIN} are needed, and at most {RSA_BITS_MAX}")]
    RsaBits(u32),
    /// A JWK of a kind that is not used here.
    #[error("a JWK of another kind than OKP Ed25519, EC P-256 and RSA")]
    OtherKind,
    /// A JWK says that it is for something else.
    #[error("its `{0}` says that it is for something else than to check tokens")]
    OtherUse(&'static str),
}

/// Shorter RSA keys can be broken (RFC 7518, 3.3).
const RSA_BITS_MIN: u32 = 2_048;
/// What the library checks signatures of.
const RSA_BITS_MAX: u32 = 8_192;
const COORDINATE_BYTES: usize = 32;

/// A key and its algorithm. Its `Debug` output shows the algorithm alone.
#[derive(Clone)]
pub struct TokenKey(KeyKind);

#[derive(Clone)]
enum KeyKind {
    /// In a box: it is many times as large as the other.
    Secret(Box<hmac::Key>),
    Public(TokenAlgorithm, ParsedPublicKey),
}

impl TokenKey {
    /// An HS256 key of these bytes.
    #[must_use]
    pub fn secret(bytes: &[u8]) -> Self {
        Self(KeyKind::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))))
    }

    /// The public key for this algorithm, in a PEM or a JWK.
    ///
    /// # Errors
    /// [`BadPublicKey`].
    pub fn public(algorithm: TokenAlgorithm, text: &str) -> Result<Self, BadPublicKey> {
        let text = text.trim();
        if text.starts_with('{') {
            let jwk: Jwk = serde_json::from_str(text).map_err(|_| BadPublicKey::Unreadable)?;
            let key = jwk.key()?;
            return if key.algorithm() == algorithm { Ok(key) } else { Err(BadPublicKey::NotFor(algorithm)) };
        }
        let (kind, der) =
            <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).map_err(|_| BadPublicKey::Unreadable)?;
        match kind {
            SectionKind::PublicKey => Self::of_bytes(algorithm, &der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Err(BadPublicKey::Private)
            }
            SectionKind::Certificate => Err(BadPublicKey::Certificate),
            _ => Err(BadPublicKey::Unreadable),
        }
    }

    /// `bytes` is what the library takes for this algorithm: a SubjectPublicKeyInfo, the point of a curve, or the 32 bytes of Ed25519.
    fn of_bytes(algorithm: TokenAlgorithm, bytes: &[u8]) -> Result<Self, BadPublicKey> {
        let not_for = || BadPublicKey::NotFor(algorithm);
        let checks: &'static dyn VerificationAlgorithm = match algorithm {
            TokenAlgorithm::Hs256 => return Err(not_for()),
            TokenAlgorithm::EdDsa => &ED25519,
            TokenAlgorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            TokenAlgorithm::Rs256 => {
                let key = rsa::PublicKey::from_der(bytes).map_err(|_| not_for())?;
                let bits = RsaParameters::public_modulus_len(key.as_ref()).map_err(|_| not_for())?;
                if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                    return Err(BadPublicKey::RsaBits(bits));
                }
                &RSA_PKCS1_2048_8192_SHA256
            }
        };
        let key = ParsedPublicKey::new(checks, bytes).map_err(|_| not_for())?;
        Ok(Self(KeyKind::Public(algorithm, key)))
    }

    /// The one algorithm of this key.
    #[must_use]
    pub const fn algorithm(&self) -> TokenAlgorithm {
        match &self.0 {
            KeyKind::Secret(_) => TokenAlgorithm::Hs256,
            KeyKind::Public(algorithm, _) => *algorithm,
        }
    }

    /// True for a signature of this key, by its own algorithm.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            KeyKind::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            KeyKind::Public(_, key) => key.verify_sig(message, signature).is_ok(),
        }
    }

    /// The signature of this key. None of a public key, which cannot sign.
    pub(super) fn sign(&self, message: &[u8]) -> Option<hmac::Tag> {
        match &self.0 {
            KeyKind::Secret(key) => Some(hmac::sign(key, message)),
            KeyKind::Public(..) => None,
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.algorithm())
    }
}

/// A JSON Web Key (RFC 7517), as far as it counts here. It is taken for the one algorithm that its kind of key has here.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Of a private key only.
    d: Option<serde_json::Value>,
}

impl Jwk {
    pub(super) fn key(&self) -> Result<TokenKey, BadPublicKey> {
        if self.d.is_some() {
            return Err(BadPublicKey::Private);
        }
        if self.usage.as_ref().is_some_and(|usage| usage != "sig") {
            return Err(BadPublicKey::OtherUse("use"));
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err(BadPublicKey::OtherUse("key_ops"));
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => self.rsa()?,
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate(self.x.as_ref()), coordinate(self.y.as_ref()));
                let (x, y) = x.zip(y).ok_or(BadPublicKey::NotFor(TokenAlgorithm::Es256))?;
                TokenKey::of_bytes(TokenAlgorithm::Es256, &[&[4], x.as_slice(), y.as_slice()].concat())?
            }
            ("OKP", Some("Ed25519")) => {
                let x = coordinate(self.x.as_ref()).ok_or(BadPublicKey::NotFor(TokenAlgorithm::EdDsa))?;
                TokenKey::of_bytes(TokenAlgorithm::EdDsa, &x)?
            }
            _ => return Err(BadPublicKey::OtherKind),
        };
        let is_same = self.alg.as_ref().is_none_or(|alg| key.algorithm().is_named(alg));
        if is_same { Ok(key) } else { Err(BadPublicKey::OtherUse("alg")) }
    }

    fn rsa(&self) -> Result<TokenKey, BadPublicKey> {
        let not_for = || BadPublicKey::NotFor(TokenAlgorithm::Rs256);
        let number = |member: Option<&String>| -> Option<Vec<u8>> {
            let bytes = URL_SAFE_NO_PAD.decode(member?).ok()?;
            // Some issuers write the zero of a signed number.
            Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
        };
        let (n, e) = number(self.n.as_ref()).zip(number(self.e.as_ref())).ok_or_else(not_for)?;
        let der = RsaPublicKeyComponents { n, e }.as_der().map_err(|_| not_for())?;
        TokenKey::of_bytes(TokenAlgorithm::Rs256, der.as_ref())
    }
}

fn coordinate(member: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member?).ok().filter(|bytes| bytes.len() == COORDINATE_BYTES)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
