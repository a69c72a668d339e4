//! One WebSocket, controlled step by step.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{ClientEvent, ClientFrame, Position, SUBPROTOCOL, ServerFrame};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::connector::{Connector, Stream};
use crate::{ClientError, Endpoint};

/// Longest time to connect, both handshakes included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// How a connection ended: code and reason of the close frame, if there was one. `CloseKind::from_code` parses the code.
pub type Closed = Option<(u16, String)>;

/// What a [`Socket`] receives.
#[derive(Debug)]
pub enum Received {
    /// To acknowledge by its position.
    Notice(NoticeFrame),
    /// Any other frame of the server.
    Frame(ServerFrame),
    /// The connection ended.
    Closed(Closed),
}

/// One WebSocket connection to `/v1/ws`.
pub struct Socket {
    stream: WebSocketStream<Stream>,
}

impl Socket {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// The server is unreachable or rejects the handshake.
    pub async fn open(server: impl Into<Endpoint>) -> Result<Self, ClientError> {
        Self::open_boxed(server.into()).await
    }

    /// In a box, so that this crate compiles it, with TLS and the handshake, and not each crate that awaits it.
    fn open_boxed(server: Endpoint) -> Pin<Box<dyn Future<Output = Result<Self, ClientError>> + Send>> {
        Box::pin(Self::open_endpoint(server))
    }

    async fn open_endpoint(server: Endpoint) -> Result<Self, ClientError> {
        let mut request = server.ws_url("/v1/ws").into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(1024);
        let connect = async {
            let stream = Connector::new(server).connect().await?;
            let (stream, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
            Ok(Self { stream })
        };
        tokio::time::timeout(OPEN_TIMEOUT, connect).await.map_err(|_| ClientError::Timeout)?
    }

    /// Connects and sends `hello`; the answer is a `welcome` or a close.
    ///
    /// # Errors
    /// The server is unreachable or rejects the handshake.
    pub async fn open_with_hello(
        server: impl Into<Endpoint>,
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
        Ok(self.stream.send(message).await?)
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
            Ok(text) if is_notice(&text) => {
                serde_json::from_str(&text).map(Received::Notice).map_err(ClientError::Decode)
            }
            Ok(text) => serde_json::from_str(&text).map(Received::Frame).map_err(ClientError::Decode),
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

/// Notices are a type of their own: their body keeps the bytes that the server sent.
fn is_notice(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum FrameType {
        Notice,
        #[serde(other)]
        Other,
    }
    matches!(serde_json::from_str(text), Ok(FrameType::Notice))
}
