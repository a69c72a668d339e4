//! Control frames and fragments, by a real WebSocket over a pipe: at their limit, one above it, and beside another till.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

use super::super::Connection;
use super::script::ScriptedServer;
use super::{HELLO, Till, closed, pass, settle};
use crate::net::frame_meter::FrameMeter;

/// Frames of a client, masked with zeros.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];
const TEXT_BEGINS: &[u8] = &[0x01, 0x80, 0, 0, 0, 0];
const NOTHING_FOLLOWS: &[u8] = &[0x00, 0x80, 0, 0, 0, 0];

/// As in `NetLimits`.
const PER_SECOND: usize = 200;

/// A peer that writes bytes.
struct Peer(DuplexStream);

impl Peer {
    async fn connect(server: &Arc<ScriptedServer>) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = server.clone();
        TaskTracker::new().spawn(async move {
            let metered = FrameMeter::new(theirs, u32::try_from(PER_SECOND).unwrap());
            let socket = WebSocketStream::from_raw_socket(metered, Role::Server, None).await;
            Connection::open(server, socket).run().await;
        });
        settle().await;
        Self(ours)
    }

    async fn writes(&mut self, frame: &[u8], times: usize) {
        self.0.write_all(&frame.repeat(times)).await.unwrap();
        settle().await;
    }

    async fn says_hello(&mut self) {
        let head = [0x81, 0x80 | u8::try_from(HELLO.len()).unwrap(), 0, 0, 0, 0];
        self.writes(&[&head[..], HELLO.as_bytes()].concat(), 1).await;
    }

    /// Everything that it was sent until now.
    async fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let read = tokio::time::timeout(Duration::from_millis(1), self.0.read(&mut bytes)).await;
        bytes.truncate(read.map_or(0, |read| read.unwrap_or(0)));
        bytes
    }
}

fn says(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn as_many_control_frames_and_fragments_as_a_second_allows_are_taken_and_not_one_more() {
    let server = ScriptedServer::new();
    let neighbour = Till::hello(&server).await;
    for (begins, frame) in [(&[][..], PING), (&[], PONG), (TEXT_BEGINS, NOTHING_FOLLOWS)] {
        let before = closed(&server, "rate-limited");
        let mut peer = Peer::connect(&server).await;
        peer.writes(begins, 1).await;
        peer.writes(frame, PER_SECOND - usize::from(!begins.is_empty())).await;
        assert_eq!(closed(&server, "rate-limited"), before, "the limit");
        pass(Duration::from_secs(1)).await;
        peer.writes(frame, PER_SECOND).await;
        assert_eq!(closed(&server, "rate-limited"), before, "and again in the next second");
        peer.writes(frame, 1).await;
        assert_eq!(closed(&server, "rate-limited"), before + 1, "one above");
        assert!(says(&peer.read().await, "rate-limited"));
    }
    server.notify(1);
    settle().await;
    assert_eq!(neighbour.sent(), ["welcome", "n1"]);
}

#[tokio::test(start_paused = true)]
async fn fragments_and_pings_below_the_limit_postpone_no_hello_timeout() {
    for (begins, frame) in [(&[][..], PING), (TEXT_BEGINS, NOTHING_FOLLOWS)] {
        let server = ScriptedServer::new();
        let mut peer = Peer::connect(&server).await;
        peer.writes(begins, 1).await;
        for _ in 0..49 {
            peer.writes(frame, 10).await;
            pass(Duration::from_millis(100)).await;
        }
        assert!(!says(&peer.read().await, "timeout"));
        peer.writes(frame, 10).await;
        pass(Duration::from_millis(200)).await;
        assert!(says(&peer.read().await, "timeout"));
        drop(peer);
        settle().await;
        let turned_away = server.stats.rejections.list();
        assert_eq!((turned_away[0].reason.as_str(), turned_away[0].count), ("hello-timeout", 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_now_and_then_is_served() {
    let server = ScriptedServer::new();
    let mut peer = Peer::connect(&server).await;
    peer.writes(PING, 3).await;
    peer.says_hello().await;
    server.notify(1);
    settle().await;
    let bytes = peer.read().await;
    assert!(says(&bytes, "welcome") && says(&bytes, "new_order"), "{}", String::from_utf8_lossy(&bytes));
}
