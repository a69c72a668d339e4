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

use crate::net::frame_meter::TooManyFrames;

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

/// Sends the close frame and waits for the peer's, at most [`CLOSE_TIMEOUT`]. True when the peer answered, or ended the
/// connection in turn: it was there.
pub(super) async fn close(socket: &mut impl Socket, close: Close) -> bool {
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
    let mut is_unsent = Pin::new(&mut *socket).start_send(Message::Close(Some(frame))).is_ok();
    let ended = std::future::poll_fn(|cx| {
        if is_unsent {
            match Pin::new(&mut *socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => is_unsent = false,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
        }
        loop {
            match Pin::new(&mut *socket).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => return Poll::Ready(true),
                // Some clients end the TCP connection instead of answering. A peer that is gone resets it, or is silent.
                Poll::Ready(Some(Err(error))) => {
                    let is_end = matches!(error, WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake));
                    return Poll::Ready(is_end);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    tokio::time::timeout(CLOSE_TIMEOUT, ended).await.unwrap_or(false)
}

/// The close code for an error of tungstenite; none when the peer has gone.
pub(in crate::net) fn close_for(error: &WsError) -> Option<Close> {
    match error {
        WsError::Io(error) if TooManyFrames::is_cause_of(error) => Some(Close::RateLimited),
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        WsError::Utf8(_) => Some(Close::Encoding),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}
