//! The bytes of a connection that has a [place](super::places): tells the place when an answer is written, and ends the connection of a client that
//! does not take its answer.

use std::io;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::places::ConnectionPlace;

/// The client did not take its answer in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client did not take its answer in time")]
pub(super) struct AnswerTimeout;

impl AnswerTimeout {
    /// True when this is why a connection failed.
    pub(super) fn is_cause_of(error: &hyper::Error) -> bool {
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
        source.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<Self>())
    }
}

/// A stream of a connection that has a place, until it is upgraded: then the place is gone, and the bytes pass.
pub(super) struct PlacedStream<S> {
    inner: S,
    place: Weak<ConnectionPlace>,
    /// Allocated when the first answer cannot be written at once: most can.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> PlacedStream<S> {
    pub(super) fn new(inner: S, place: Weak<ConnectionPlace>) -> Self {
        Self { inner, place, deadline: None }
    }

    /// What a write comes to: one that the client blocks fails when the deadline of its answer has passed.
    fn within_deadline<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let Some(at) = self.place.upgrade().and_then(|place| place.answer_deadline()) else { return written };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if deadline.deadline() != at {
            deadline.as_mut().reset(at);
        }
        deadline.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, AnswerTimeout)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlacedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before
            && let Some(place) = self.place.upgrade()
        {
            place.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlacedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.within_deadline(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.within_deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes when it has written everything that it holds.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed
            && let Some(place) = self.place.upgrade()
        {
            place.flushed();
        }
        self.within_deadline(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
