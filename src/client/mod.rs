//! Clients over real sockets: [`Device`] is a whole till or phone, which comes back by itself; [`Socket`] and [`Http`] are its parts, for
//! the demo, the benches and the tests, which decide each step themselves.

mod device;

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

pub use device::{App, Device};

/// Connecting, or one request, takes at most this long beside the wait that was asked for.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Something did not work, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

fn failed(error: impl std::fmt::Display) -> ClientError {
    ClientError(error.to_string())
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// As a value in a query.
pub(crate) fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// HTTP to one server, with kept connections.
#[derive(Clone)]
pub struct Http {
    server: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Http {
    /// Speaks to this server.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self { server, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        media: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, media)
            .body(Full::new(body.into()))
            .map_err(failed)?;
        let answered = async {
            let answer = self.client.request(request).await.map_err(failed)?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(failed)?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        tokio::time::timeout(REQUEST_MAX + Duration::from_secs(60), answered).await.map_err(failed)?
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(&self, path: &str, token: &str) -> Result<Answer, ClientError> {
        self.send("GET", path, token, "application/json", Bytes::new()).await
    }

    /// Asks for something large and writes it to `out` as it comes; how many bytes.
    ///
    /// # Errors
    /// When no answer comes, another than 200, or one that breaks off.
    pub async fn save(&self, path: &str, out: &mut impl std::io::Write) -> Result<u64, ClientError> {
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

    /// Polls a mailbox.
    ///
    /// # Errors
    /// When no answer comes, or another than 200.
    pub async fn poll(
        &self,
        token: &str,
        device: &str,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<PollAnswer, ClientError> {
        let after = after.map_or_else(String::new, |after| format!("&after={after}"));
        let answer = self.ask(&format!("/v1/notices?device={device}&wait={}{after}", wait.as_secs()), token).await?;
        if answer.status != 200 {
            return Err(ClientError(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))));
        }
        serde_json::from_slice(&answer.body).map_err(failed)
    }
}

/// How a connection ended: the close frame's code and reason, if there was one.
pub type Closed = Option<(u16, String)>;

/// What a socket hears.
#[derive(Debug)]
pub enum Heard {
    /// A notice.
    Notice(NoticeFrame),
    /// Anything else that the server says.
    Frame(ServerFrame),
    /// The end, with code and reason if there was a close frame.
    Closed(Closed),
}

/// One WebSocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Connects, without a word.
    ///
    /// # Errors
    /// When the server is not there or refuses.
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
        tokio::time::timeout(REQUEST_MAX, connect).await.map_err(failed)?
    }

    /// Connects and says hello.
    ///
    /// # Errors
    /// When the server is not there or refuses the handshake.
    pub async fn hello(
        server: SocketAddr,
        token: &str,
        device: &str,
        position: Option<Position>,
    ) -> Result<Self, ClientError> {
        let mut socket = Self::open(server).await?;
        let position = position.map(|position| position.to_string());
        let hello = ClientFrame::Hello { token: token.into(), device: Some(device.into()), position };
        socket.say(&hello.encode()).await?;
        Ok(socket)
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn say(&mut self, text: &str) -> Result<(), ClientError> {
        self.send(Message::text(text)).await
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.stream.send(message).await.map_err(failed)
    }

    /// Acknowledges everything up to `position`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn ack(&mut self, position: Position) -> Result<(), ClientError> {
        self.say(&ClientFrame::Ack { position: position.to_string() }.encode()).await
    }

    /// Says that something happened; the answer is a `logged` frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn event(&mut self, event: ClientEvent) -> Result<(), ClientError> {
        self.say(&ClientFrame::Event(event).encode()).await
    }

    /// The next thing heard.
    ///
    /// # Errors
    /// A frame that is not of the protocol.
    pub async fn next(&mut self) -> Result<Heard, ClientError> {
        match self.text().await {
            Ok(text) if text.starts_with("{\"type\":\"notice\"") => {
                serde_json::from_str(&text).map(Heard::Notice).map_err(failed)
            }
            Ok(text) => serde_json::from_str(&text).map(Heard::Frame).map_err(failed),
            Err(close) => Ok(Heard::Closed(close)),
        }
    }

    /// The next text frame as it is. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// The connection is gone: the close frame's code and reason, if there was one.
    pub async fn text(&mut self) -> Result<String, Closed> {
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
