//! The socket of a connection: any stream and sink of WebSocket messages.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, Stream};
use orderbell_protocol::Close;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Time for the close frame and the peer's reply.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection reads from and writes to: a WebSocket, or a script in tests.
pub(super) trait Socket:
    Sink<Message, Error = WsError> + Stream<Item = Result<Message, WsError>> + Unpin + Send
{
}

impl<S> Socket for S where S: Sink<Message, Error = WsError> + Stream<Item = Result<Message, WsError>> + Unpin + Send {}

/// What one poll of the socket yields.
pub(super) enum SocketEvent {
    Frame(Option<Result<Message, WsError>>),
    Flushed(Result<(), WsError>),
}

/// Continues a flush first; frames are read even while it is blocked.
pub(super) fn poll(socket: &mut impl Socket, is_flushing: &mut bool, cx: &mut Context<'_>) -> Poll<SocketEvent> {
    if *is_flushing && let Poll::Ready(flushed) = Pin::new(&mut *socket).poll_flush(cx) {
        *is_flushing = false;
        return Poll::Ready(SocketEvent::Flushed(flushed));
    }
    Pin::new(socket).poll_next(cx).map(SocketEvent::Frame)
}

/// Sends the close frame and waits for the peer's, at most [`CLOSE_TIMEOUT`].
pub(super) async fn close(socket: &mut impl Socket, close: Close) {
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
    let mut is_unsent = Pin::new(&mut *socket).start_send(Message::Close(Some(frame))).is_ok();
    let ended = std::future::poll_fn(|cx| {
        if is_unsent {
            match Pin::new(&mut *socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => is_unsent = false,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        loop {
            match Pin::new(&mut *socket).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let _in_time = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
}

/// The close code for an error of tungstenite; none when the peer has gone.
pub(super) fn close_for(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        WsError::Utf8(_) => Some(Close::Encoding),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}
