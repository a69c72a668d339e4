//! The wall: exact numbers, shown to those who may see them, the newest only, never backwards. `mixed_load` has the crashes.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use orderbell_protocol::UnixMs;
use orderbell_protocol::wall::{WALL_SUBPROTOCOL, Wall, WallKind, WallSums};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::chain::{Node, event, now, soon, until};

scenarios! { with crate::wall::config();
    the_wall_shows_what_happened_and_nothing_of_load_tests,
}

/// A chain in whose zone it is about noon, so that no scenario meets its midnight.
pub(crate) fn config() -> &'static str {
    let hour = now().0.rem_euclid(86_400_000) / 3_600_000;
    // POSIX counts the other way round: Etc/GMT-8 is eight hours ahead of UTC.
    let zone = format!("[wall]\nname = \"Noon & Co\"\ntime_zone = \"Etc/GMT{:+}\"\n", hour - 12);
    Box::leak(zone.replace("+0\"", "\"").into_boxed_str())
}

pub(crate) async fn look(node: &Node) -> Wall {
    let answer = node.http.get("/v1/wall", &node.token("wall", "lobby")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

/// Server-sent events, as a browser reads them.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(server: SocketAddr, token: &str, query: &str) -> Self {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!(
            "GET /v1/wall{query} HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = soon("a line", self.0.read_line(&mut line)).await.ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next document; nothing at the end.
    async fn next(&mut self) -> Option<Wall> {
        loop {
            if let Some(data) = self.line().await?.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

async fn the_wall_shows_what_happened_and_nothing_of_load_tests(node: Node) {
    let mut events = Events::open(node.public, &node.token("wall", "lobby"), "").await;
    let first = events.next().await.unwrap();
    assert_eq!((first.kind, first.chain.as_str(), first.today), (WallKind::Snapshot, "Noon & Co", WallSums::default()));
    assert!(first.curves.is_some());

    let at = |after_s: i64| now().0 - 300_000 + after_s * 1000;
    node.happens(&[
        event("order.created", "o1", json!({"store": "7", "amount": 900, "time": at(0)})),
        event("order.paid", "o1", json!({"store": "7", "amount": 850, "time": at(20)})),
        event("order.accepted", "o1", json!({"pickup_code": "A1", "time": at(40)})),
        event("order.paid", "o2", json!({"store": "8", "amount": 100, "time": at(50)})),
        event("order.cancelled", "o2", json!({"time": at(60)})),
        event("order.refunded", "o2", json!({"amount": 40, "time": at(70)})),
        event("order.paid", "s1", json!({"store": "7", "amount": 5000, "shadow": true})),
    ])
    .await;
    let wanted = WallSums {
        created: 2,
        paid: 2,
        accepted: 1,
        cancelled: 1,
        refunded: 1,
        paid_amount: 950,
        refunded_amount: 40,
        ..WallSums::default()
    };
    until("the wall shows it", async || look(&node).await.today == wanted).await;
    let wall = look(&node).await;
    let stores: Vec<_> = wall.stores.iter().map(|store| (store.id.as_str(), store.last_hour)).collect();
    assert_eq!(stores, [("7", 1), ("8", 1)]);
    let accepted = &wall.funnel.stages[2];
    assert_eq!((accepted.stage.as_str(), accepted.orders), ("accepted", 1));
    assert!((16_000..24_000).contains(&accepted.median_ms.unwrap()), "twenty seconds, to a fifth: {accepted:?}");
    // Three at least: between them are two intervals.
    let mut sent_at: Vec<UnixMs> = Vec::new();
    loop {
        let next = events.next().await.unwrap();
        assert!(next.kind == WallKind::Update && next.curves.is_none());
        let apart_ms = sent_at.last().map_or(i64::MAX, |before| next.at.0 - before.0);
        assert!(apart_ms >= 200, "more than four documents a second: {apart_ms} ms apart");
        sent_at.push(next.at);
        if next.today == wanted && sent_at.len() >= 3 {
            break;
        }
    }
    // A socket gets the same; one that asks for less gets it less often.
    let mut request = format!("ws://{}/v1/wall?every_ms=1000", node.public).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", WALL_SUBPROTOCOL.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let hello = json!({"type": "hello", "token": node.token("wall", "lobby")});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        if let Message::Text(text) = soon("a document", socket.next()).await.unwrap().unwrap() {
            let wall: Wall = serde_json::from_str(&text).unwrap();
            assert_eq!(wall.today, wanted);
            received.push((wall.kind, wall.at));
        }
    }
    assert_eq!((received[0].0, received[1].0), (WallKind::Snapshot, WallKind::Update));
    assert!(received[2].1.0 - received[1].1.0 >= 700, "at its own pace: {received:?}");
    may_look(&node).await;
}

/// Tokens for something else see nothing, and nobody sees anything without one.
async fn may_look(node: &Node) {
    for (role, status) in [("store", 404), ("customer", 404), ("producer", 404)] {
        assert_eq!(node.http.get("/v1/wall", &node.token(role, "7")).await.unwrap().status, status);
    }
    assert_eq!(node.http.get("/v1/wall", "garbage").await.unwrap().status, 401);
    for path in ["/v1/notices", "/v1/orders?open=1"] {
        assert_eq!(node.http.get(path, &node.token("wall", "lobby")).await.unwrap().status, 404, "a wall reads {path}");
    }
    let mut request = format!("ws://{}/v1/wall", node.public).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", WALL_SUBPROTOCOL.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let hello = json!({"type": "hello", "token": node.token("store", "7")});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let received = soon("a close", socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(close)) = received else { panic!("instead of a close: {received:?}") };
    assert_eq!(u16::from(close.code), 3000);
}
