//! Why a request or a connection failed.

use std::error::Error;
use std::io;
use std::sync::Arc;

use tokio_tungstenite::tungstenite;

/// Why a request or a connection failed. The text names the step; [`Error::source`] says what went wrong in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The text does not parse as a URL.
    #[error("{url} is not a URL")]
    InvalidUrl {
        /// The text.
        url: String,
        /// Why it does not parse.
        source: hyper::http::uri::InvalidUri,
    },
    /// The URL parses, but is not that of a server.
    #[error("{url} is not the URL of a server: {why}")]
    UnsupportedUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A PEM file of root certificates contains none, or one that cannot be parsed.
    #[error("the root certificates cannot be read")]
    RootCertificates(#[source] rustls::pki_types::pem::Error),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The WebSocket handshake was rejected, or the WebSocket failed.
    #[error("the WebSocket failed")]
    WebSocket(#[source] Box<tungstenite::Error>),
    /// The method, the path or a header is invalid.
    #[error("the request is invalid")]
    InvalidRequest(#[source] hyper::http::Error),
    /// The connection failed before the answer was complete.
    #[error("the answer is missing or incomplete")]
    Http(#[source] Box<dyn Error + Send + Sync>),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The answer's status is not 200.
    #[error("the server answered {status} {body}")]
    Status {
        /// The status code.
        status: u16,
        /// The body: usually a problem as JSON.
        body: String,
    },
    /// An answer or a frame that is not part of the protocol.
    #[error("the server sent something that is not part of the protocol")]
    Decode(#[source] serde_json::Error),
    /// The output of a download cannot be written.
    #[error("the download cannot be written")]
    Write(#[source] io::Error),
}

/// Why no connection was made. The same for a request and for a WebSocket.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name does not resolve, or nothing answers at the address.
    #[error("the server is unreachable")]
    Unreachable(#[source] Arc<dyn Error + Send + Sync>),
    /// The system has no root certificates, or an added one is invalid.
    #[error("TLS cannot be set up")]
    TlsSetup(#[source] rustls::Error),
    /// The server's certificate is not trusted, or the two sides have no version of TLS in common.
    #[error("the TLS handshake failed")]
    Tls(#[source] rustls::Error),
    /// The connection ended in the middle of the TLS handshake.
    #[error("the connection ended during the TLS handshake")]
    TlsInterrupted(#[source] Arc<io::Error>),
    /// No connection in time.
    #[error("no connection in time")]
    Timeout,
}

impl ConnectError {
    /// An error of the TLS handshake: tokio-rustls wraps those of rustls.
    pub(crate) fn of_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::Tls(error.clone()),
            None => Self::TlsInterrupted(Arc::new(error)),
        }
    }
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl From<hyper_util::client::legacy::Error> for ClientError {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        // hyper wraps what the connector reports.
        match error.source().and_then(|inner| inner.downcast_ref::<ConnectError>()) {
            Some(error) => Self::Connect(error.clone()),
            None => Self::Http(Box::new(error)),
        }
    }
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(Box::new(error))
    }
}

impl ClientError {
    /// The error and its sources in one line, for a person.
    #[must_use]
    pub fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Some libraries repeat the text of the source in their own.
            let inner = error.to_string();
            if !text.ends_with(&inner) {
                text = format!("{text}: {inner}");
            }
            source = error.source();
        }
        text
    }
}
