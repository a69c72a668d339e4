//! Requests to one server.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use orderbell_protocol::Position;
use orderbell_protocol::frame::PollAnswer;

use crate::connector::Connector;
use crate::{ClientError, Endpoint};

/// Longest time for a request: the longest time for which the server may hold it, and half a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// The answer to an HTTP request, of any status.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status code; the caller checks it.
    pub status: u16,
    /// The headers, such as `Retry-After`.
    pub headers: HeaderMap,
    /// The complete body.
    pub body: Bytes,
}

impl HttpResponse {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Decode`] when it is not JSON: a proxy in between answers in other formats.
    pub fn json(&self) -> Result<serde_json::Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(ClientError::Decode)
    }
}

/// The text as a value in a query or a path segment.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// An HTTP client of one server that reuses its connections.
#[derive(Clone)]
pub struct HttpClient {
    server: Endpoint,
    client: Client<Connector, Full<Bytes>>,
}

impl HttpClient {
    /// A client of this server. Connects with the first request.
    #[must_use]
    pub fn new(server: impl Into<Endpoint>) -> Self {
        let server = server.into();
        let client = Client::builder(TokioExecutor::new()).build(Connector::new(server.clone()));
        Self { server, client }
    }

    /// Sends a request with a body of the media type `media`.
    ///
    /// # Errors
    /// No answer arrived.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        media: &str,
        body: impl Into<Bytes>,
    ) -> Result<HttpResponse, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(self.server.http_url(path))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, media)
            .body(Full::new(body.into()))
            .map_err(ClientError::InvalidRequest)?;
        self.exchange(request).await
    }

    /// In a box, so that this crate compiles it, with the connection pool, and not each crate that awaits it.
    fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, ClientError>> + Send + '_>> {
        Box::pin(async move {
            let response = async {
                let answer = self.client.request(request).await?;
                let (parts, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
            };
            tokio::time::timeout(REQUEST_TIMEOUT, response).await.map_err(|_| ClientError::Timeout)?
        })
    }

    /// Sends a GET request.
    ///
    /// # Errors
    /// No answer arrived.
    pub async fn get(&self, path: &str, token: &str) -> Result<HttpResponse, ClientError> {
        self.send("GET", path, token, "application/json", Bytes::new()).await
    }

    /// Sends a GET request and writes the body to `out` as it arrives. Returns the number of bytes.
    ///
    /// # Errors
    /// No answer arrived, its status is not 200, or it is incomplete.
    pub async fn download(&self, path: &str, out: &mut impl std::io::Write) -> Result<u64, ClientError> {
        let request = Request::builder().uri(self.server.http_url(path));
        let request = request.body(Full::new(Bytes::new())).map_err(ClientError::InvalidRequest)?;
        let answer = self.client.request(request).await?;
        if answer.status().as_u16() != 200 {
            return Err(ClientError::Status { status: answer.status().as_u16(), body: String::new() });
        }
        let (mut body, mut bytes) = (answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            out.write_all(&data).map_err(ClientError::Write)?;
            bytes += data.len() as u64;
        }
        out.flush().map_err(ClientError::Write)?;
        Ok(bytes)
    }

    /// Polls a mailbox. The server may hold the answer for `wait`.
    ///
    /// # Errors
    /// No answer arrived, its status is not 200, or it is not a poll answer.
    pub async fn poll(
        &self,
        token: &str,
        device: &str,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<PollAnswer, ClientError> {
        let after = after.map_or_else(String::new, |after| format!("&after={after}"));
        let answer = self.get(&format!("/v1/notices?device={device}&wait={}{after}", wait.as_secs()), token).await?;
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(ClientError::Status { status: answer.status, body });
        }
        serde_json::from_slice(&answer.body).map_err(ClientError::Decode)
    }
}
