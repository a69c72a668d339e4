//! The server that a client talks to: its URL, and the certificates that it is trusted by.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;

use crate::{ClientError, ConnectError};

/// A server: `https://host[:port]` or `http://host[:port]`. `wss` and `ws` mean the same as `https` and `http`; `host:port` without a scheme is
/// `http`. The name is resolved anew for each connection.
///
/// TLS trusts the root certificates of the operating system, and those that [`Endpoint::trusting`] and [`Endpoint::trusting_pem`] add.
/// Clones share the TLS configuration, which is made with the first connection.
#[derive(Clone)]
pub struct Endpoint(Arc<Parts>);

struct Parts {
    /// `http://` or `https://`, the host, and the port if the URL has one.
    url: String,
    uri: Uri,
    /// The name that the server's certificate must contain; none without TLS.
    tls_name: Option<ServerName<'static>>,
    added_roots: Vec<CertificateDer<'static>>,
    tls_config: OnceCell<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Trusts this root certificate (DER) too.
    #[must_use]
    pub fn trusting(self, root: CertificateDer<'static>) -> Self {
        self.with_roots([root])
    }

    /// Trusts the root certificates of a PEM file too, for example those of a private authority.
    ///
    /// # Errors
    /// The text contains no certificate, or one that cannot be parsed.
    pub fn trusting_pem(self, pem: &[u8]) -> Result<Self, ClientError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let roots = roots.map_err(ClientError::RootCertificates)?;
        if roots.is_empty() {
            return Err(ClientError::RootCertificates(rustls::pki_types::pem::Error::NoItemsFound));
        }
        Ok(self.with_roots(roots))
    }

    fn with_roots(self, roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self(Arc::new(Parts {
            url: self.0.url.clone(),
            uri: self.0.uri.clone(),
            tls_name: self.0.tls_name.clone(),
            added_roots: self.0.added_roots.iter().cloned().chain(roots).collect(),
            tls_config: OnceCell::new(),
        }))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// The URL of a request. `path` begins with a slash.
    pub(crate) fn http_url(&self, path: &str) -> String {
        format!("{}{path}", self.0.url)
    }

    /// The URL of a WebSocket. `path` begins with a slash.
    pub(crate) fn ws_url(&self, path: &str) -> String {
        let scheme = if self.0.tls_name.is_some() { "wss" } else { "ws" };
        format!("{scheme}{}{path}", self.0.url.trim_start_matches("https").trim_start_matches("http"))
    }

    /// The TLS configuration and the server's name; none without TLS.
    pub(crate) async fn tls(&self) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, ConnectError> {
        let Some(name) = &self.0.tls_name else { return Ok(None) };
        let config = self.0.tls_config.get_or_try_init(|| async {
            let roots = self.0.added_roots.clone();
            // Reads the certificates of the system, often more than a hundred files.
            let made = tokio::task::spawn_blocking(move || tls_config(roots)).await;
            made.unwrap_or_else(|stopped| Err(rustls::Error::General(stopped.to_string())))
                .map_err(ConnectError::TlsSetup)
        });
        Ok(Some((config.await?.clone(), name.clone())))
    }

    fn parse(text: &str) -> Result<Self, ClientError> {
        let unsupported = |why| ClientError::UnsupportedUrl { url: text.into(), why };
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let given: Uri = with_scheme.parse().map_err(|source| ClientError::InvalidUrl { url: text.into(), source })?;
        let is_tls = match given.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(unsupported("its scheme is none of https, wss, http and ws")),
        };
        if !matches!(given.path(), "" | "/") || given.query().is_some() {
            return Err(unsupported("it has a path"));
        }
        let host = given.host().filter(|host| !host.is_empty()).ok_or_else(|| unsupported("it has no host"))?;
        let authority = match given.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        if given.authority().map(|authority| authority.as_str()) != Some(&authority) {
            return Err(unsupported("it has a user name or an invalid port"));
        }
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls_name = if is_tls {
            Some(ServerName::try_from(name).map_err(|_| unsupported("its host is neither a name nor an address"))?)
        } else {
            None
        };
        let url = format!("{}://{authority}", if is_tls { "https" } else { "http" });
        let uri = url.parse().map_err(|source| ClientError::InvalidUrl { url: text.into(), source })?;
        Ok(Self(Arc::new(Parts { url, uri, tls_name, added_roots: Vec::new(), tls_config: OnceCell::new() })))
    }
}

/// One provider of cryptography, whatever else the process has installed. The operating system decides whom to trust: see README.md.
fn tls_config(added_roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new_with_extra_roots(added_roots, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    // A proxy in front of the server must not choose HTTP/2, which has no WebSocket upgrade.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        Self::parse(text)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::parse(&without_scope(address).to_string()).expect("an address with a port is the authority of a URL")
    }
}

/// A URL cannot contain the interface of a link-local address.
fn without_scope(mut address: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_scope_id(0);
    }
    address
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.url)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.0.url)
            .field("added_roots", &self.0.added_roots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot continue fails where it stands")]

    use super::*;

    fn urls(text: &str) -> (String, String) {
        let endpoint: Endpoint = text.parse().unwrap();
        (endpoint.http_url("/x"), endpoint.ws_url("/y"))
    }

    fn both(http: &str, ws: &str) -> (String, String) {
        (http.into(), ws.into())
    }

    #[test]
    fn four_schemes_and_none_give_two_urls() {
        for text in ["https://bell.example:8443", "wss://bell.example:8443", "HTTPS://bell.example:8443/"] {
            assert_eq!(urls(text), both("https://bell.example:8443/x", "wss://bell.example:8443/y"), "{text}");
        }
        for text in ["http://localhost:8377", "ws://localhost:8377", "localhost:8377", "localhost:8377/"] {
            assert_eq!(urls(text), both("http://localhost:8377/x", "ws://localhost:8377/y"), "{text}");
        }
        assert_eq!(urls("https://bell.example"), both("https://bell.example/x", "wss://bell.example/y"));
        assert_eq!(urls("wss://[::1]:9"), both("https://[::1]:9/x", "wss://[::1]:9/y"));
        assert_eq!(urls("https://https.example"), both("https://https.example/x", "wss://https.example/y"));
    }

    #[test]
    fn an_address_is_plain_http() {
        let address = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap()).to_string();
        assert_eq!(address("127.0.0.1:8377"), "http://127.0.0.1:8377");
        assert_eq!(address("[::1]:8377"), "http://[::1]:8377");
        assert_eq!(address("[fe80::1%3]:8377"), "http://[fe80::1]:8377");
    }

    #[test]
    fn what_is_no_server_is_refused_with_a_reason() {
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        for text in ["", "https://", "https://a b", "http://:8377"] {
            let error = refused(text);
            let is_refused = matches!(error, ClientError::InvalidUrl { .. } | ClientError::UnsupportedUrl { .. });
            assert!(is_refused, "{text}: {error}");
        }
        for (text, why) in [
            ("ftp://bell.example", "scheme"),
            ("https://bell.example/orderbell", "path"),
            ("https://bell.example?x=1", "path"),
            ("https://me:secret@bell.example", "user name"),
            ("https://bell.example:99999", "port"),
        ] {
            let error = refused(text);
            assert!(matches!(error, ClientError::UnsupportedUrl { why: found, .. } if found.contains(why)), "{error}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let endpoint: Endpoint = "https://bell.example".parse().unwrap();
        assert!(matches!(endpoint.trusting_pem(b"# nothing"), Err(ClientError::RootCertificates(_))));
    }
}
