//! Clients over real sockets. [`MailboxClient`] is a complete till or phone that reconnects by itself. [`Socket`] and [`HttpClient`] are its
//! parts, for the demo, the benchmarks and the tests, which control each step.

mod mailbox_client;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use orderbell_protocol::frame::{NoticeFrame, PollAnswer};
use orderbell_protocol::{ClientEvent, ClientFrame, Position, SUBPROTOCOL, ServerFrame};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use mailbox_client::{App, MailboxClient};

/// Longest time to connect, or for a request in addition to the time for which the server may hold it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request or a connection failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

fn failed(error: impl std::fmt::Display) -> ClientError {
    ClientError(error.to_string())
}

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
    /// The body as JSON; `null` when it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The text as a value in a query or a path segment.
pub(crate) fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// An HTTP client of one server that reuses its connections.
#[derive(Clone)]
pub struct HttpClient {
    server: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpClient {
    /// A client of this server. Connects with the first request.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self { server, client: Client::builder(TokioExecutor::new()).build_http() }
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
            .uri(format!("http://{}{path}", self.server))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, media)
            .body(Full::new(body.into()))
            .map_err(failed)?;
        let response = async {
            let answer = self.client.request(request).await.map_err(failed)?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(failed)?.to_bytes();
            Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        tokio::time::timeout(REQUEST_TIMEOUT + Duration::from_secs(60), response).await.map_err(failed)?
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
        let request = Request::builder().uri(format!("http://{}{path}", self.server));
        let request = request.body(Full::new(Bytes::new())).map_err(failed)?;
        let answer = self.client.request(request).await.map_err(failed)?;
        if answer.status().as_u16() != 200 {
            return Err(ClientError(answer.status().to_string()));
        }
        let (mut body, mut bytes) = (answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            out.write_all(&data).map_err(failed)?;
            bytes += data.len() as u64;
        }
        out.flush().map_err(failed)?;
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
            return Err(ClientError(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))));
        }
        serde_json::from_slice(&answer.body).map_err(failed)
    }
}

/// How a connection ended: code and reason of the close frame, if there was one. `CloseKind::from_code` parses the code.
pub type Closed = Option<(u16, String)>;

/// What a [`Socket`] receives.
#[derive(Debug)]
pub enum Received {
    /// A notice.
    Notice(NoticeFrame),
    /// Any other frame of the server.
    Frame(ServerFrame),
    /// The connection ended.
    Closed(Closed),
}

/// One WebSocket connection to `/v1/ws`.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// The server is unreachable or rejects the handshake.
    pub async fn open(server: SocketAddr) -> Result<Self, ClientError> {
        let mut request = format!("ws://{server}/v1/ws").into_client_request().map_err(failed)?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, hyper::header::HeaderValue::from_static(SUBPROTOCOL));
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(1024);
        let connect = async {
            let tcp = TcpStream::connect(server).await.map_err(failed)?;
            tcp.set_nodelay(true).map_err(failed)?;
            let connected = tokio_tungstenite::client_async_with_config(request, tcp, Some(config));
            Ok(Self { stream: connected.await.map_err(failed)?.0 })
        };
        tokio::time::timeout(REQUEST_TIMEOUT, connect).await.map_err(failed)?
    }

    /// Connects and sends `hello`; the answer is a `welcome` or a close.
    ///
    /// # Errors
    /// The server is unreachable or rejects the handshake.
    pub async fn open_with_hello(
        server: SocketAddr,
        token: &str,
        device: &str,
        position: Option<Position>,
    ) -> Result<Self, ClientError> {
        let mut socket = Self::open(server).await?;
        let position = position.map(|position| position.to_string());
        let hello = ClientFrame::Hello { token: token.into(), device: Some(device.into()), position };
        socket.send_text(&hello.encode()).await?;
        Ok(socket)
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send_text(&mut self, text: &str) -> Result<(), ClientError> {
        self.send(Message::text(text)).await
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.stream.send(message).await.map_err(failed)
    }

    /// Acknowledges everything up to `position`.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn ack(&mut self, position: Position) -> Result<(), ClientError> {
        self.send_text(&ClientFrame::Ack { position: position.to_string() }.encode()).await
    }

    /// Sends an event; the answer is an `event_result` frame.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send_event(&mut self, event: ClientEvent) -> Result<(), ClientError> {
        self.send_text(&ClientFrame::Event(event).encode()).await
    }

    /// The next frame, or the end of the connection.
    ///
    /// # Errors
    /// The frame is not part of the protocol.
    pub async fn next(&mut self) -> Result<Received, ClientError> {
        match self.next_text().await {
            Ok(text) if text.starts_with("{\"type\":\"notice\"") => {
                serde_json::from_str(&text).map(Received::Notice).map_err(failed)
            }
            Ok(text) => serde_json::from_str(&text).map(Received::Frame).map_err(failed),
            Err(close) => Ok(Received::Closed(close)),
        }
    }

    /// The next text frame, undecoded. Cancel safe: no frame is lost when the future is dropped.
    ///
    /// # Errors
    /// The connection ended: code and reason of the close frame, if there was one.
    pub async fn next_text(&mut self) -> Result<String, Closed> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map(|frame| (u16::from(frame.code), frame.reason.as_str().to_owned())));
                }
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Err(None),
            }
        }
    }
}
