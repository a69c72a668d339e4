//! Limits of the public listener: what is above one is refused with its own answer, and whoever stays below is not disturbed.

use std::time::{Duration, Instant};

use orderbell_client::{Received, Socket};
use orderbell_protocol::NoticeKind::NewOrder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chain::{Node, soon, until};

/// Connections and waiting polls of one recipient.
const CONNECTIONS_PER_RECIPIENT: usize = 64;
/// Frames a second that one client may send.
const FRAMES_PER_SECOND: usize = 200;

#[tokio::test]
async fn a_client_that_floods_is_closed_as_rate_limited_and_its_sister_is_not() {
    let node = Node::embedded();
    let (mut flood, mut sister) = (node.till("1", "flood").await, node.till("1", "sister").await);
    let frame = serde_json::json!({"type": "displayed", "position": flood.position}).to_string();
    for _ in 0..FRAMES_PER_SECOND * 50 {
        // The server may have closed it already.
        if flood.socket.send_text(&frame).await.is_err() {
            break;
        }
    }
    assert_eq!(flood.closed().await, Some((4102, "rate-limited".into())));
    node.pays("o1", "1").await;
    sister.hears(NewOrder, "o1").await;
}

#[tokio::test]
async fn a_recipient_has_so_many_connections_and_no_other_recipient_is_touched() {
    let node = Node::embedded();
    let mut tills = Vec::new();
    for n in 0..CONNECTIONS_PER_RECIPIENT {
        tills.push(node.till("1", &format!("t{n}")).await);
    }
    let mut one_more = Socket::open_with_hello(node.public, &node.token("store", "1"), "one more", None).await.unwrap();
    let Received::Closed(why) = soon("a close", one_more.next()).await.unwrap() else { panic!("it was let in") };
    assert_eq!(why, Some((4004, "too-many-connections".into())));
    // A poll takes no such place.
    assert_eq!(node.http.get("/v1/notices?device=p", &node.token("store", "1")).await.unwrap().status, 200);
    let mut neighbour = node.till("2", "a").await;
    node.pays("o2", "2").await;
    neighbour.hears(NewOrder, "o2").await;
    // Whoever leaves makes room.
    tills.pop();
    until("a place is free", async || {
        let mut socket = Socket::open_with_hello(node.public, &node.token("store", "1"), "again", None).await.unwrap();
        matches!(socket.next().await.unwrap(), Received::Frame(_))
    })
    .await;
}

#[tokio::test]
async fn above_the_bound_of_sockets_and_viewers_a_newcomer_learns_when_to_return() {
    let node = Node::configured("[sessions]\nmax_connections = 2\n[wall]\nopen = true\nmax_viewers = 1\n");
    let (mut first, _second) = (node.till("1", "a").await, node.till("1", "b").await);
    let handshake = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: orderbell.v1\r\n\r\n";
    let refused = answer(&node, handshake).await.to_lowercase();
    assert!(refused.starts_with("http/1.1 503") && refused.contains("retry-after:"), "{refused}");
    let events = "GET /v1/wall HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    let mut viewer = TcpStream::connect(node.public).await.unwrap();
    viewer.write_all(events.as_bytes()).await.unwrap();
    assert!(read_some(&mut viewer).await.starts_with("HTTP/1.1 200"));
    let refused = answer(&node, events).await.to_lowercase();
    assert!(refused.starts_with("http/1.1 503") && refused.contains("retry-after:"), "{refused}");
    assert_eq!(node.metric("orderbell_connections_rejected_total").await, 2);
    // Those who were there are served, and a poll needs no such place.
    node.pays("o1", "1").await;
    first.hears(NewOrder, "o1").await;
    assert_eq!(node.polls("1", "c", None, 0).await.notices.len(), 1);
}

async fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let read = soon("an answer", stream.read(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

async fn answer(node: &Node, request: &str) -> String {
    let mut stream = TcpStream::connect(node.public).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_some(&mut stream).await
}

/// Each deadline is kept: not before its time, and long before the patience of a scenario is over.
fn is_kept(began: Instant, deadline: Duration) {
    let took = began.elapsed();
    assert!(took + Duration::from_millis(100) >= deadline, "cut after {took:?}, before its {deadline:?}");
    assert!(took < deadline + Duration::from_secs(20), "cut only after {took:?} instead of {deadline:?}");
}

#[tokio::test]
async fn heads_bodies_and_hellos_that_do_not_come_are_cut_at_their_deadlines() {
    let node = Node::embedded();
    let head = async {
        let (began, mut stream) = (Instant::now(), TcpStream::connect(node.public).await.unwrap());
        stream.write_all(b"GET /v1/ws HTTP/1.1\r\nHost:").await.unwrap();
        let mut rest = Vec::new();
        soon("the end of the connection", stream.read_to_end(&mut rest)).await.unwrap();
        is_kept(began, Duration::from_secs(5));
    };
    let hello = async {
        let (began, mut silent) = (Instant::now(), Socket::open(node.public).await.unwrap());
        let Received::Closed(why) = soon("a close", silent.next()).await.unwrap() else { panic!("another end") };
        assert_eq!(why, Some((3008, "timeout".into())));
        is_kept(began, Duration::from_secs(5));
    };
    let body = async {
        let began = Instant::now();
        let mut stream = TcpStream::connect(node.public).await.unwrap();
        let token = node.token("producer", "p");
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answered = read_some(&mut stream).await;
        assert!(answered.starts_with("HTTP/1.1 408") && answered.contains("\"timeout\""), "{answered}");
        is_kept(began, Duration::from_secs(30));
    };
    tokio::join!(head, hello, body);
    for reason in ["head-timeout", "hello-timeout", "body-timeout"] {
        let counted = node.metric(&format!("orderbell_clients_rejected_total{{reason=\"{reason}\"}}")).await;
        assert!(counted >= 1, "{reason}");
    }
}
