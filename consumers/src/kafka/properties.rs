//! What is wrong with the properties that somebody configured, in a sentence with what to do instead. librdkafka says of most of these that
//! something is unsupported, or nothing at all until a broker is asked.
//!
//! A message never quotes a value that is not one of the known words: it may be a password that stands at the wrong name.

use std::collections::BTreeMap;

use super::{CONSUMER, PRODUCER};

/// Whether librdkafka was built with OpenSSL. SCRAM needs it, too.
const HAS_TLS: bool = cfg!(feature = "kafka-tls");
const BUILD_WITH_TLS: &str = "this binary has no TLS for Kafka: build it with `cargo build --release --features kafka-tls` (Debian: libssl-dev, pkg-config)";

/// Properties that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// This crate sets the property itself.
    #[error("the property {name} cannot be set ({reason})")]
    Reserved {
        /// The property's name.
        name: String,
        /// Why it cannot be set.
        reason: &'static str,
    },
    /// The brokers cannot be reached with it.
    #[error("{name}: {problem}")]
    Unusable {
        /// The property's name.
        name: &'static str,
        /// What is wrong, and what to use instead.
        problem: &'static str,
    },
}

/// The first mistake.
pub(super) fn check(properties: &BTreeMap<String, String>, has_token: bool) -> Result<(), PropertyError> {
    check_reserved(properties)?;
    check_security(properties, HAS_TLS, has_token).map_err(|(name, problem)| PropertyError::Unusable { name, problem })
}

fn check_reserved(properties: &BTreeMap<String, String>) -> Result<(), PropertyError> {
    for name in properties.keys() {
        if let Some((_, _, reason)) = CONSUMER.iter().find(|(reserved, _, _)| reserved == name) {
            return Err(PropertyError::Reserved { name: name.clone(), reason });
        }
        let has_own_key = ["group.id", "group.instance.id", "bootstrap.servers"].contains(&name.as_str());
        if has_own_key || PRODUCER.iter().any(|(reserved, _)| reserved == name) {
            let reason = "it has a key of its own, or a guarantee depends on it";
            return Err(PropertyError::Reserved { name: name.clone(), reason });
        }
    }
    Ok(())
}

fn check_security(
    properties: &BTreeMap<String, String>,
    has_tls: bool,
    has_token: bool,
) -> Result<(), (&'static str, &'static str)> {
    const PROTOCOL: &str = "security.protocol";
    const MECHANISM: &str = "sasl.mechanism";

    let value = |name: &str| properties.get(name).map(|value| value.trim().to_ascii_uppercase());
    // librdkafka knows the mechanism by two names.
    let mechanism = value(MECHANISM).or_else(|| value("sasl.mechanisms"));
    let protocol = value(PROTOCOL);
    let is_sasl = match protocol.as_deref() {
        None | Some("PLAINTEXT") => false,
        Some("SSL" | "SASL_SSL") if !has_tls => return Err((PROTOCOL, BUILD_WITH_TLS)),
        Some("SSL") => false,
        Some("SASL_SSL" | "SASL_PLAINTEXT") => true,
        Some(_) => return Err((PROTOCOL, "one of PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL")),
    };
    if !is_sasl {
        return Ok(());
    }
    match mechanism.as_deref() {
        Some("PLAIN") => {}
        Some("SCRAM-SHA-256" | "SCRAM-SHA-512") if has_tls => {}
        Some("SCRAM-SHA-256" | "SCRAM-SHA-512") => return Err((MECHANISM, BUILD_WITH_TLS)),
        Some("AWS_MSK_IAM") => {
            let problem = "AWS_MSK_IAM is known to AWS's own Java client alone: use SCRAM-SHA-512 (for MSK the user is a secret of AWS Secrets \
                           Manager), a client certificate with security.protocol = SSL and ssl.certificate.location, or OAUTHBEARER with AWS's signer as \
                           kafka.oauth_token_command";
            return Err((MECHANISM, problem));
        }
        Some("OAUTHBEARER") if !has_tls => return Err((MECHANISM, BUILD_WITH_TLS)),
        Some("OAUTHBEARER") if has_token => return Ok(()),
        Some("OAUTHBEARER") => {
            let problem = "set kafka.oauth_token_file, or kafka.oauth_token_command to what prints a token; librdkafka's own ways to one are \
                           not built in";
            return Err((MECHANISM, problem));
        }
        None | Some("GSSAPI") => {
            let problem = "GSSAPI (Kerberos), which is also the default, is not built in: use SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN";
            return Err((MECHANISM, problem));
        }
        Some(_) => return Err((MECHANISM, "one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN and OAUTHBEARER")),
    }
    for name in ["sasl.username", "sasl.password"] {
        if properties.get(name).is_none_or(String::is_empty) {
            return Err((name, "it is missing, and the mechanism needs it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sasl(protocol: &str, mechanism: &str) -> BTreeMap<String, String> {
        let user = [("sasl.username", "bell"), ("sasl.password", "ding")];
        of(&[&[("security.protocol", protocol), ("sasl.mechanism", mechanism)][..], &user].concat())
    }

    #[test]
    fn properties_that_guarantees_depend_on_cannot_be_set() {
        for name in CONSUMER.map(|(name, _, _)| name).into_iter().chain(["group.id", "acks"]) {
            let error = check(&of(&[(name, "x")]), false).unwrap_err();
            assert!(matches!(&error, PropertyError::Reserved { name: named, .. } if named == name), "{error}");
        }
        assert_eq!(check(&of(&[("session.timeout.ms", "6000")]), false), Ok(()));
    }

    #[test]
    fn what_works_is_good_and_what_needs_tls_says_how_to_build_it() {
        for (protocol, mechanism, needs_tls) in [
            ("SASL_PLAINTEXT", "PLAIN", false),
            ("sasl_plaintext", "PLAIN", false),
            ("SASL_PLAINTEXT", "SCRAM-SHA-256", true),
            ("SASL_SSL", "PLAIN", true),
            ("SASL_SSL", "SCRAM-SHA-512", true),
        ] {
            let properties = sasl(protocol, mechanism);
            assert_eq!(check_security(&properties, true, false), Ok(()), "{protocol} {mechanism}");
            let without = check_security(&properties, false, false);
            assert_eq!(
                without.is_err_and(|(_, problem)| problem == BUILD_WITH_TLS),
                needs_tls,
                "{protocol} {mechanism}"
            );
        }
        assert_eq!(check_security(&of(&[("security.protocol", "ssl")]), true, false), Ok(()));
        assert!(check_security(&of(&[("security.protocol", "ssl")]), false, false).is_err());
        assert_eq!(check_security(&of(&[]), false, false), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_a_sentence_with_what_to_use_instead() {
        for (mechanism, wanted) in [
            ("AWS_MSK_IAM", "use SCRAM-SHA-512 (for MSK"),
            ("GSSAPI", "not built in"),
            ("OAUTHBEARER", "set kafka.oauth_token_file"),
            ("S3CRET", "one of SCRAM-SHA-512"),
        ] {
            let error = check(&sasl("SASL_PLAINTEXT", mechanism), false).unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains("S3CRET"), "{error}");
        }
        assert_eq!(check_security(&sasl("SASL_SSL", "OAUTHBEARER"), true, true), Ok(()));
        for (properties, name) in [
            (of(&[("security.protocol", "TLS")]), "security.protocol"),
            (of(&[("security.protocol", "SASL_PLAINTEXT")]), "sasl.mechanism"),
            (of(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "PLAIN")]), "sasl.username"),
        ] {
            assert_eq!(check_security(&properties, true, false).map_err(|(name, _)| name), Err(name));
        }
    }
}
