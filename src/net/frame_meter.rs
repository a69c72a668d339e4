//! Counts the frames of a WebSocket that reach nobody: pings, pongs and fragments. Above their rate the connection ends.
//!
//! tungstenite answers a ping, drops a pong and gathers fragments by itself, as many as there are in one go. A client that sends nothing else
//! would take a core, and its deadlines would wait until it pauses. So its bytes pass through here before tungstenite sees them; only the heads of
//! frames are looked at. Whole text frames are the session's own business, and cost nothing here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Longest head of a frame: two bytes, eight of the length, four of the mask.
const HEAD_BYTES_MAX: usize = 14;

/// The client sends more control frames or fragments than it may.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many control frames or fragments")]
pub(super) struct TooManyFrames;

impl TooManyFrames {
    /// True when this is why a read failed.
    pub(super) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

/// Finds the heads of frames in a stream of bytes, however it is cut.
#[derive(Debug, Default)]
struct FrameHeads {
    head: [u8; HEAD_BYTES_MAX],
    has: usize,
    /// Bytes of the current payload that are still to come.
    payload: u64,
}

impl FrameHeads {
    /// How many control frames and fragments begin in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut found = 0;
        loop {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skipped as u64;
            bytes = &bytes[skipped..];
            let Some((byte, rest)) = bytes.split_first() else { return found };
            bytes = rest;
            self.head[self.has] = *byte;
            self.has += 1;
            if let Some(payload) = self.payload_of_whole_head() {
                found += u32::from(self.is_control_or_fragment());
                (self.payload, self.has) = (payload, 0);
            }
        }
    }

    /// Length of the payload, once the head is whole.
    fn payload_of_whole_head(&self) -> Option<u64> {
        let second = *self.head[..self.has].get(1)?;
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        if self.has < 2 + length_bytes + mask_bytes {
            return None;
        }
        let length = self.head[2..2 + length_bytes].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte));
        Some(if length_bytes == 0 { u64::from(second & 0x7f) } else { length })
    }

    fn is_control_or_fragment(&self) -> bool {
        let (is_final, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        opcode & 0x08 != 0 || opcode == 0 || !is_final
    }
}

/// A stream whose peer may send so many control frames and fragments a second, and as many at once.
pub(super) struct FrameMeter<S> {
    inner: S,
    heads: FrameHeads,
    per_second: u32,
    /// When the bucket is full again.
    full_at: Instant,
    is_over: bool,
}

impl<S> FrameMeter<S> {
    pub(super) fn new(inner: S, per_second: u32) -> Self {
        Self {
            inner,
            heads: FrameHeads::default(),
            per_second: per_second.max(1),
            full_at: Instant::now(),
            is_over: false,
        }
    }

    fn admit(&mut self, frames: u32) -> bool {
        let now = Instant::now();
        self.full_at = self.full_at.max(now) + Duration::from_secs(1) / self.per_second * frames;
        self.full_at <= now + Duration::from_secs(1)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameMeter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.is_over {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            let frames = self.heads.count(&buf.filled()[before..]);
            self.is_over = frames > 0 && !self.admit(frames);
        }
        // Nothing more is read: what it sends from here on stays with the kernel.
        Poll::Ready(if self.is_over { Err(io::Error::other(TooManyFrames)) } else { Ok(()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameMeter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked frame. The mask is zero, so that the payload stands as it is.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let length = u64::try_from(payload).unwrap().to_be_bytes();
        let head = match payload {
            0..126 => vec![first, 0x80 | length[7]],
            126..65_536 => [&[first, 0x80 | 126], &length[6..]].concat(),
            _ => [&[first, 0x80 | 127], &length[..]].concat(),
        };
        [&head[..], &[0; 4], &vec![0x89; payload]].concat()
    }

    #[test]
    fn only_control_frames_and_fragments_are_counted() {
        let count = |first: u8| FrameHeads::default().count(&frame(first, 5));
        assert_eq!([0x81, 0x82].map(count), [0, 0], "whole messages");
        assert_eq!([0x88, 0x89, 0x8a, 0x01, 0x02, 0x00, 0x80].map(count), [1; 7]);
    }

    proptest! {
        /// However the bytes are cut, and whatever the payloads hold.
        #[test]
        fn every_head_is_found(frames in prop::collection::vec((prop::sample::select(vec![0x81_u8, 0x89, 0x01, 0x80]), prop::sample::select(vec![0_usize, 5, 125, 126, 300, 65_535, 65_536])), 1..12), piece in 1_usize..2_000) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, *payload)).collect();
            let mut heads = FrameHeads::default();
            let found: u32 = bytes.chunks(piece).map(|piece| heads.count(piece)).sum();
            prop_assert_eq!(found as usize, frames.iter().filter(|(first, _)| *first != 0x81).count());
        }
    }
}
