//! `[tokens]`: what cannot be right in it, and the keys, read from their files.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::token_keys::{IssuerSet, TokenKeys};
use super::{Config, ConfigError, HumanDuration, KeyConfig, KeySetUrl, TokenConfig};
use crate::net::tokens::{KeySet, TokenAlgorithm, TokenKey, TokenRules, Tokens, shown_kid};

/// Shortest secret that is accepted: as long as the hash that it keys.
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// The `kid` of the generated key.
const LOCAL_KID: &str = "local";
/// Bounds of the tolerated difference of clocks. Connections whose tokens end together end spread over half of it, so it cannot be nothing; and
/// for so long a token is taken that should be over.
const CLOCK_SKEW_MIN: HumanDuration = HumanDuration::from_secs(5);
const CLOCK_SKEW_MAX: HumanDuration = HumanDuration::from_secs(300);
/// Largest file of one key: a hundred times what the longest one needs.
const KEY_BYTES_MAX: u64 = 128 << 10;

/// Largest set of an issuer's keys: certificates that come with a hundred keys.
pub(crate) const KEY_SET_BYTES_MAX: u64 = 1 << 20;

impl TokenConfig {
    /// True when the one key is a generated secret.
    fn is_generated(&self) -> bool {
        self.keys.is_empty() && self.jwks_file.is_none() && self.jwks_url.is_none()
    }

    /// Values that cannot be right, by their keys.
    pub(super) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let kids: HashSet<&str> = self.keys.iter().map(|key| key.kid.as_str()).collect();
        if kids.len() != self.keys.len() {
            found.push(("keys", "each key has a kid of its own".into()));
        }
        found.extend(self.keys.iter().filter_map(KeyConfig::mistake).map(|what| ("keys", what)));
        if self.jwks_file.is_some() && self.jwks_url.is_some() {
            found.push(("jwks_url", "either a file or an address".into()));
        }
        if !(CLOCK_SKEW_MIN..=CLOCK_SKEW_MAX).contains(&self.clock_skew) {
            found.push(("clock_skew", format!("\"{CLOCK_SKEW_MIN}\" to \"{CLOCK_SKEW_MAX}\"")));
        }
        found
    }

    /// The key that signs what this server issues, if there is one: by default the generated one.
    #[must_use]
    pub fn signing_kid(&self) -> Option<&str> {
        if self.is_generated() {
            return Some(LOCAL_KID);
        }
        self.keys.iter().find(|key| key.algorithm == TokenAlgorithm::Hs256).map(|key| key.kid.as_str())
    }

    fn rules(&self) -> TokenRules {
        TokenRules { issuer: self.issuer.clone(), audience: self.audience.clone(), clock_skew: self.clock_skew.get() }
    }
}

impl Config {
    /// Reads the keys that tokens are checked with. When none is configured, one is generated and kept in the data directory.
    ///
    /// # Errors
    /// [`ConfigError`] when a key cannot be read, used or generated.
    pub fn load_token_keys(&self) -> Result<TokenKeys, ConfigError> {
        let path = self.generated_key();
        if self.live.tokens.is_generated() && !path.exists() {
            make_secret(&path).map_err(|source| ConfigError::Io { path: path.clone(), source })?;
        }
        self.read_keys(&path)
    }

    /// As [`Self::load_token_keys`].
    ///
    /// # Errors
    /// As [`Self::load_token_keys`].
    pub fn load_tokens(&self) -> Result<Tokens, ConfigError> {
        Ok(self.load_token_keys()?.tokens())
    }

    /// As [`Self::load_tokens`], and generates none.
    ///
    /// # Errors
    /// [`ConfigError`] when a key cannot be read or used.
    pub fn stored_tokens(&self) -> Result<Tokens, ConfigError> {
        Ok(self.read_keys(&self.generated_key())?.tokens())
    }

    /// Sees that the keys can be used. Generates none: a file of whoever checks may be unreadable to the server. What was left out, a sentence
    /// each.
    ///
    /// # Errors
    /// [`ConfigError`] when a key that is there cannot be read or used.
    pub fn check_tokens(&self) -> Result<Vec<String>, ConfigError> {
        let path = self.generated_key();
        let is_generated_later = self.live.tokens.is_generated() && path.try_exists().is_ok_and(|exists| !exists);
        if is_generated_later { Ok(Vec::new()) } else { self.read_keys(&path).map(|read| read.counting().1) }
    }

    /// Keeps a set that was fetched from `url`, and when, for the next process. What is there already is not written again.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be written.
    pub fn keep_key_set(&self, url: &KeySetUrl, text: &str) -> Result<(), ConfigError> {
        let path = self.kept_key_set_path();
        let content = format!("{url}\n{text}");
        let is_kept = read_bounded(&path, 2 * KEY_SET_BYTES_MAX).is_ok_and(|kept| kept == content);
        let written = if is_kept {
            let touched = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            // Of a file of somebody else, that is not allowed; but it may be replaced.
            touched.or_else(|_| replace_file(&path, content.as_bytes()))
        } else {
            replace_file(&path, content.as_bytes())
        };
        written.map_err(|source| ConfigError::Io { path, source })
    }

    /// The last set that was fetched from this address. None when there is none that can be read: it is fetched again.
    fn kept_key_set(&self, url: &KeySetUrl) -> Option<IssuerSet> {
        let path = self.kept_key_set_path();
        let kept = read_bounded(&path, 2 * KEY_SET_BYTES_MAX).ok()?;
        let (from, text) = kept.split_once('\n')?;
        let keys = KeySet::read(text).ok().filter(|_| from == url.to_string())?;
        let fetched_at = std::fs::metadata(&path).and_then(|about| about.modified()).ok();
        Some(IssuerSet { from: Some(url.clone()), text: text.to_owned(), keys, fetched_at })
    }

    /// Where the last set is kept that was fetched: its address in the first line, then the set as it came. The file was last modified when it
    /// was last fetched.
    fn kept_key_set_path(&self) -> PathBuf {
        self.boot.data_dir.join("issuer-keys")
    }

    /// Where the key is that is used when none is configured.
    fn generated_key(&self) -> PathBuf {
        self.boot.data_dir.join("token-key")
    }

    /// The configured keys and those of the issuer's set, or else the generated one at `path`.
    fn read_keys(&self, path: &Path) -> Result<TokenKeys, ConfigError> {
        let TokenConfig { keys, jwks_file, jwks_url, .. } = &self.live.tokens;
        let (rules, address) = (self.live.tokens.rules(), jwks_url.clone());
        if self.live.tokens.is_generated() {
            let configured = vec![(LOCAL_KID.into(), TokenKey::secret(&read_secret(path)?))];
            return Ok(TokenKeys { rules, configured, address, set: None });
        }
        let configured = keys.iter().map(|key| Ok((key.kid.clone(), key.read()?)));
        let configured = configured.collect::<Result<Vec<_>, ConfigError>>()?;
        let set = match (jwks_file, jwks_url) {
            (Some(path), _) => Some(read_key_set(path).map_err(|error| ConfigError::KeySetFile(Box::new(error)))?),
            (None, Some(url)) => self.kept_key_set(url),
            (None, None) => None,
        };
        Ok(TokenKeys { rules, configured, address, set })
    }
}

fn read_key_set(path: &Path) -> Result<IssuerSet, ConfigError> {
    let text = read_bounded(path, KEY_SET_BYTES_MAX)?;
    let keys = KeySet::read(&text).map_err(|source| ConfigError::KeySet { path: path.to_owned(), source })?;
    Ok(IssuerSet { from: None, text, keys, fetched_at: None })
}

/// Replaces the content of a file at once: after a crash it has the old one or the new one. Durable when this returns.
fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let unfinished = path.with_extension("unfinished");
    let mut file = std::fs::File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

impl KeyConfig {
    /// What this key needs for its algorithm, if it has something else.
    fn mistake(&self) -> Option<String> {
        let Self { kid, algorithm, secret_file, public_key_file, public_key } = self;
        let has = (secret_file.is_some(), public_key_file.is_some(), public_key.is_some());
        let what = match (algorithm, has) {
            (TokenAlgorithm::Hs256, (true, false, false)) => return None,
            (TokenAlgorithm::Hs256, _) => "secret_file",
            (_, (false, true, false) | (false, false, true)) => return None,
            _ => "public_key_file or public_key",
        };
        Some(format!("kid {}: a key for {algorithm} has {what}, and nothing else", shown_kid(kid)))
    }

    fn read(&self) -> Result<TokenKey, ConfigError> {
        let Self { kid, algorithm, secret_file, public_key_file, public_key } = self;
        let named = |key, error| ConfigError::TokenKey { key, kid: kid.clone(), source: Box::new(error) };
        if let Some(path) = secret_file {
            let secret =
                see_path(path).and_then(|()| read_secret(path)).map_err(|error| named("secret_file", error))?;
            return Ok(TokenKey::secret(&secret));
        }
        if let Some(path) = public_key_file {
            let bad = |source| ConfigError::PublicKeyFile { path: path.clone(), source };
            let text = see_path(path).and_then(|()| read_bounded(path, KEY_BYTES_MAX));
            let key = text.and_then(|text| TokenKey::public(*algorithm, &text).map_err(bad));
            return key.map_err(|error| named("public_key_file", error));
        }
        let key = TokenKey::public(*algorithm, public_key.as_deref().unwrap_or_default());
        key.map_err(|bad| named("public_key", ConfigError::PublicKey(bad)))
    }
}

/// Fails where neither a file nor its folder is there: then the key itself may stand where the path belongs.
fn see_path(path: &Path) -> Result<(), ConfigError> {
    let is_path = path.exists() || path.parent().is_some_and(Path::is_dir);
    if is_path { Ok(()) } else { Err(ConfigError::NoSecretFile) }
}

/// A text of at most `max` bytes.
fn read_bounded(path: &Path, max: u64) -> Result<String, ConfigError> {
    let io = |source| ConfigError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(max + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > max {
        return Err(io(std::io::Error::other(format!("more than {max} bytes"))));
    }
    Ok(text)
}

fn read_secret(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let secret = read_bounded(path, KEY_BYTES_MAX)?.trim().as_bytes().to_vec();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(ConfigError::ShortSecret(path.to_owned()));
    }
    Ok(secret)
}

/// Writes a random secret into a new file that only its owner may ever read.
fn make_secret(path: &Path) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the operating system provides no random bytes"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(dir) = path.parent() {
        orderbell_ledger::create_dir(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_generated_once_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = Config::in_dir(dir.path());
        let path = dir.path().join("token-key");
        config.check_tokens().unwrap();
        assert!(!path.exists(), "a check generates none");
        config.load_tokens().unwrap();
        config.check_tokens().unwrap();
        let first = std::fs::read(&path).unwrap();
        config.load_tokens().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(config.check_tokens().unwrap_err().to_string().contains("shorter than 32 bytes"));
    }

    /// Regression: of several keys, the error named a file and no key.
    #[test]
    fn an_unreadable_secret_is_named_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(dir.path());
        let (long, short) = (dir.path().join("long"), dir.path().join("short"));
        std::fs::write(&long, "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::write(&short, "short").unwrap();
        for (secret_file, why) in [(short, "shorter than 32 bytes"), (dir.path().join("none"), "No such file")] {
            let key = |kid: &str, secret_file| KeyConfig {
                kid: kid.into(),
                algorithm: TokenAlgorithm::Hs256,
                secret_file: Some(secret_file),
                public_key_file: None,
                public_key: None,
            };
            config.live.tokens.keys = vec![key("2026-11", long.clone()), key("2026-10", secret_file)];
            let said = config.check_tokens().unwrap_err().to_string();
            assert!(
                said.starts_with("tokens.keys, the secret_file of kid \"2026-10\": ") && said.contains(why),
                "{said}"
            );
        }
    }

    /// A configuration with these keys, in a folder with these files.
    fn read(keys: &str, files: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().join("orderbell.toml");
        let keys = keys.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(&path, format!("[tokens]\nkeys = [{keys}]\n")).unwrap();
        let config = Config::load(Some(&path), &[])?;
        config.load_tokens()?;
        Ok(config)
    }

    const SECRET: (&str, &str) = ("secret", "0123456789abcdef0123456789abcdef");
    const ED25519: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    /// 1,024 bits.
    const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCbIi3zxzQ2uYNc0LE1tQtJQEw2\n\
        xVi09FVQvitPTKNxRRPo82TvTOJLh/xJPO9LjrIjt3lMRYgBDqEhHSUu0qHWA9hl\n\
        kf7IitzDlFwylVp7ezyUGjvbdnBqi8EK6vxPA8xLK8m2PEmGLTP6XWXREvzMn7F5\n\
        QqkUa+9vbEnqZ7D63QIDAQAB\n-----END PUBLIC KEY-----\n";

    #[test]
    fn public_keys_are_read_from_files_and_values_and_the_first_secret_signs() {
        let keys = "{ kid = \"idp\", algorithm = \"EdDSA\", public_key_file = \"DIR/idp.pem\" }, \
                    { kid = \"jwk\", algorithm = \"EdDSA\", public_key = '{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\
                    \"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}' }";
        let config = read(keys, &[("idp.pem", ED25519)]).unwrap();
        assert_eq!(config.live.tokens.signing_kid(), None, "a public key cannot sign");
        let keys = format!("{keys}, {{ kid = \"own\", secret_file = \"DIR/secret\" }}");
        let config = read(&keys, &[("idp.pem", ED25519), SECRET]).unwrap();
        assert_eq!(config.live.tokens.signing_kid(), Some("own"));
        assert_eq!(Config::default().live.tokens.signing_kid(), Some("local"));
    }

    #[test]
    fn a_key_that_does_not_fit_its_algorithm_is_a_mistake_with_its_place() {
        let at = "tokens.keys, the public_key_file of kid \"k\": ";
        for (key, file, expected) in [
            ("public_key_file = \"DIR/k\"", ED25519, "tokens.keys: kid \"k\": a key for HS256 has secret_file"),
            ("secret_file = \"DIR/k\", public_key = \"x\"", "", "a key for HS256 has secret_file, and nothing else"),
            ("algorithm = \"RS256\", secret_file = \"DIR/k\"", "", "a key for RS256 has public_key_file or public_key"),
            ("algorithm = \"ES256\"", "", "a key for ES256 has public_key_file or public_key"),
            ("algorithm = \"none\"", "", "unknown variant `none`"),
            ("algorithm = \"HS512\", secret_file = \"DIR/k\"", "", "expected one of `HS256`, `EdDSA`"),
            (
                "algorithm = \"RS256\", public_key_file = \"DIR/k\"",
                SHORT_RSA,
                "k: an RSA key of 1024 bits: at least 2048",
            ),
            ("algorithm = \"RS256\", public_key_file = \"DIR/k\"", SHORT_RSA, at),
            ("algorithm = \"RS256\", public_key_file = \"DIR/k\"", ED25519, "no public key for RS256"),
            ("algorithm = \"EdDSA\", public_key_file = \"DIR/none\"", "", "No such file"),
            ("algorithm = \"EdDSA\", public_key = \"x\"", "", "the public_key of kid \"k\": neither a PEM"),
        ] {
            let error = read(&format!("{{ kid = \"k\", {key} }}"), &[("k", file)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{key}: {expected} is not in:\n{error}");
        }
    }

    /// The bug: it was taken, and each fetch failed.
    #[test]
    fn an_address_with_a_port_that_there_is_not_is_a_mistake_with_its_place() {
        for port in ["0", "65536", "99999999"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("orderbell.toml");
            std::fs::write(&path, format!("[tokens]\njwks_url = \"https://id.example.com:{port}/jwks.json\"\n"))
                .unwrap();
            let error = Config::load(Some(&path), &[]).unwrap_err().to_string();
            assert!(error.contains("orderbell.toml:2:12") && error.contains("a port is 1 to 65535"), "{error}");
        }
    }

    #[test]
    fn a_file_that_never_ends_is_not_read_to_its_end() {
        let error = read("{ kid = \"k\", secret_file = \"/dev/zero\" }", &[]).unwrap_err().to_string();
        assert!(error.contains("/dev/zero: more than 131072 bytes"), "{error}");
        let longest = "x".repeat(usize::try_from(KEY_BYTES_MAX).unwrap());
        read("{ kid = \"k\", secret_file = \"DIR/k\" }", &[("k", &longest)]).unwrap();
    }

    /// The keys of an issuer's set count beside the configured ones, whose kids it cannot take; and nothing is generated.
    #[test]
    fn a_set_of_keys_is_read_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(&dir.path().join("data"));
        let path = dir.path().join("jwks.json");
        config.live.tokens.jwks_file = Some(path.clone());
        let jwk = |kid: &str| {
            format!(
                r#"{{"kid":"{kid}","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}"#
            )
        };
        std::fs::write(&path, format!(r#"{{"keys":[{},{{"kty":"oct"}}]}}"#, jwk("a"))).unwrap();
        assert_eq!(config.check_tokens().unwrap().len(), 1);
        config.load_tokens().unwrap();
        assert_eq!((config.live.tokens.signing_kid(), dir.path().join("data").exists()), (None, false));
        std::fs::write(dir.path().join("secret"), SECRET.1).unwrap();
        config.live.tokens.keys = vec![KeyConfig {
            kid: "a".into(),
            algorithm: TokenAlgorithm::Hs256,
            secret_file: Some(dir.path().join("secret")),
            public_key_file: None,
            public_key: None,
        }];
        let (keys, left_out) = config.read_keys(Path::new("none")).unwrap().counting();
        let algorithms: Vec<_> = keys.iter().map(|(kid, key)| (kid.as_str(), key.algorithm())).collect();
        assert_eq!(algorithms, [("a", TokenAlgorithm::Hs256)]);
        assert!(left_out[1].contains("[tokens] keys has this kid"), "{left_out:?}");
        for (bad, why) in [
            ("{", "no JWKS".to_owned()),
            (r#"{"keys":[]}"#, "no key in it".into()),
            (&format!(r#"{{"keys":[{},{}]}}"#, jwk("b"), jwk("b")), "two keys have the kid \"b\"".into()),
            (&" ".repeat((1 << 20) + 1), "more than 1048576 bytes".into()),
        ] {
            std::fs::write(&path, bad).unwrap();
            let said = config.check_tokens().unwrap_err().to_string();
            assert!(said.starts_with(&format!("tokens.jwks_file: {}: {why}", path.display())), "{said}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(config.load_tokens().is_err_and(|error| error.to_string().contains("No such file")));
    }

    /// What was fetched counts again after a restart, for the address that it came from.
    #[test]
    fn a_fetched_set_is_kept_with_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(dir.path());
        let (url, other): (KeySetUrl, KeySetUrl) =
            ("https://a.example/jwks".parse().unwrap(), "https://b.example/jwks".parse().unwrap());
        config.live.tokens.jwks_url = Some(url.clone());
        let kids = |config: &Config| {
            let (keys, _) = config.read_keys(Path::new("none")).unwrap().counting();
            keys.into_iter().map(|(kid, _)| kid).collect::<Vec<_>>()
        };
        assert_eq!(kids(&config), [""; 0], "nothing is generated, and nothing is there yet");
        let set =
            r#"{"keys":[{"kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        config.keep_key_set(&url, set).unwrap();
        assert_eq!(kids(&config), ["a"]);
        let path = dir.path().join("issuer-keys");
        let modified = || std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let read = config.read_keys(Path::new("none")).unwrap();
        assert_eq!(read.fetched_at(&url), Some(SystemTime::UNIX_EPOCH));
        config.keep_key_set(&url, set).unwrap();
        assert!(modified() > SystemTime::UNIX_EPOCH, "the same, fetched again");
        config.live.tokens.jwks_url = Some(other);
        assert_eq!(kids(&config), [""; 0], "keys of another address");
        config.live.tokens.jwks_url = Some(url);
        std::fs::write(&path, "https://a.ex").unwrap();
        assert_eq!(kids(&config), [""; 0], "a torn file is fetched again, and stops no start");
    }

    #[test]
    fn the_set_that_was_fetched_last_counts_until_another_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(dir.path());
        let (url, other): (KeySetUrl, KeySetUrl) =
            ("https://a.example/jwks".parse().unwrap(), "https://b.example/jwks".parse().unwrap());
        config.live.tokens.jwks_url = Some(url.clone());
        let set = |kid: &str| {
            format!(
                r#"{{"keys":[{{"kid":"{kid}","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}}"#
            )
        };
        let kids = |keys: &TokenKeys| keys.counting().0.into_iter().map(|(kid, _)| kid).collect::<Vec<_>>();
        let mut keys = config.load_token_keys().unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert!(keys.take_set(&url, &set("a"), at(1)).unwrap());
        assert_eq!(keys.fetched_at(&url), Some(at(1)));
        assert!(!keys.take_set(&url, &set("a"), at(2)).unwrap(), "the same");
        let error = keys.take_set(&url, "{\"keys\":[]}", at(3)).unwrap_err().to_string();
        assert_eq!(
            (kids(&keys), error.contains("https://a.example/jwks: no key")),
            (vec!["a".into()], true),
            "{error}"
        );
        assert_eq!(keys.fetched_at(&url), Some(at(2)));
        assert!(keys.take_set(&url, &set("b"), at(4)).unwrap());
        // A reload finds an older set in the file, or none.
        config.keep_key_set(&url, &set("a")).unwrap();
        for is_kept in [true, false] {
            if !is_kept {
                std::fs::remove_file(dir.path().join("issuer-keys")).unwrap();
            }
            let mut reloaded = config.load_token_keys().unwrap();
            reloaded.keep_set_of(&keys);
            assert_eq!(kids(&reloaded), ["b"], "the file is there: {is_kept}");
        }
        // The bug: keys whose address was changed and changed back were taken for new ones.
        config.live.tokens.jwks_url = Some(other.clone());
        let mut elsewhere = config.load_token_keys().unwrap();
        elsewhere.keep_set_of(&keys);
        config.live.tokens.jwks_url = Some(url.clone());
        let mut back = config.load_token_keys().unwrap();
        back.keep_set_of(&elsewhere);
        assert_eq!(back.fetched_at(&url), Some(at(4)));
        config.live.tokens.jwks_url = Some(other.clone());
        config.keep_key_set(&other, &set("c")).unwrap();
        let mut reloaded = config.load_token_keys().unwrap();
        reloaded.keep_set_of(&keys);
        assert_eq!(kids(&reloaded), ["c"], "of the new address");
    }
}
