//! Handshakes that are not what they should be: each gets an HTTP answer, none is dropped without a word.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chain::{Node, soon};

const GOOD: &str = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: orderbell.v1\r\n\r\n";

/// Sends bytes and reads the answer's head and, if it is short, its body.
async fn answer(server: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4096];
    let mut read = 0;
    loop {
        let more = soon("an answer", stream.read(&mut bytes[read..])).await.unwrap_or(0);
        read += more;
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        if more == 0 || text.contains("\r\n\r\n") {
            return text;
        }
    }
}

#[tokio::test]
async fn every_wrong_handshake_is_answered() {
    let node = Node::embedded();
    let cases = [
        (GOOD.to_owned(), "101"),
        (GOOD.replace("Version: 13", "Version: 12"), "426"),
        (GOOD.replace("Upgrade: websocket\r\n", ""), "426"),
        (GOOD.replace("orderbell.v1", "mqtt"), "400"),
        (GOOD.replace("Sec-WebSocket-Protocol: orderbell.v1\r\n", ""), "400"),
        (GOOD.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"),
        (GOOD.replace("GET", "POST"), "405"),
        (GOOD.replace("HTTP/1.1", "HTTP/1.0"), "505"),
        (GOOD.replace("Host: x", "Host: x\r\nOrigin: https://pos.chain.example\r\nCookie: a=b"), "101"),
        (GOOD.replace("Host: x", "Host: x\r\nOrigin: https://chain.example"), "101"),
        (GOOD.replace("Host: x", "Host: push.example\r\nOrigin: https://push.example\r\nCookie: a=b"), "101"),
        (GOOD.replace("Host: x", "Host: 10.0.0.5:8377\r\nOrigin: https://push.example\r\nCookie: SERVERID=a1"), "101"),
        (GOOD.replace("Host: x", "Host: push.example:443\r\nOrigin: https://push.example\r\nCookie: a=b"), "101"),
        (GOOD.replace("Host: x", &format!("Host: x\r\nX-Long: {}", "x".repeat(20_000))), "431"),
        (GOOD.replace("Host: x", &"X-Many: x\r\n".repeat(100)), "431"),
        ("not http at all\r\n\r\n".to_owned(), "400"),
    ];
    for (request, status) in cases {
        let answered = answer(node.public, &request).await;
        assert!(
            answered.starts_with(&format!("HTTP/1.1 {status}")) || answered.starts_with(&format!("HTTP/1.0 {status}")),
            "{status} for {}...: {answered}",
            &request[..request.len().min(120)]
        );
    }
    let compressed = GOOD.replace("Host: x", "Host: x\r\nSec-WebSocket-Extensions: permessage-deflate");
    let answered = answer(node.public, &compressed).await.to_lowercase();
    assert!(
        answered.contains("sec-websocket-protocol: orderbell.v1") && !answered.contains("permessage-deflate"),
        "{answered}"
    );
}

#[tokio::test]
async fn frames_that_break_the_rfc_get_their_close_code() {
    // Masked with a key of zeros: the payload stands as it is.
    let cases: [(&[u8], u16); 6] = [
        (&[0x81, 0x02, b'h', b'i'], 1002),                            // not masked
        (&[0xc1, 0x80, 0, 0, 0, 0], 1002),                            // a reserved bit
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),                            // a reserved opcode
        (&[0x80, 0x80, 0, 0, 0, 0], 1002),                            // a continuation of nothing
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe], 1007),                // no UTF-8
        (&[0x81, 0xff, 0, 0, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 0], 1009), // a header that announces 16 MiB
    ];
    let node = Node::embedded();
    for (frame, code) in cases {
        let mut stream = TcpStream::connect(node.public).await.unwrap();
        stream.write_all(GOOD.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("the handshake's answer", stream.read_u8()).await.unwrap());
        }
        stream.write_all(frame).await.unwrap();
        let mut close = [0; 4];
        soon("a close frame", stream.read_exact(&mut close)).await.unwrap();
        assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, code), "{frame:x?}");
    }
}

/// A till's page may come from another server than the push centre: its browser asks first, and lets it read.
#[tokio::test]
async fn pages_of_other_origins_may_ask_for_mailboxes_and_not_for_the_wall() {
    let node = Node::embedded();
    let from = "Host: x\r\nOrigin: https://chain.example";
    let asked = |method: &str, path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\n{more}\r\n\r\n");
    let preflight = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization";
    let said = answer(node.public, &asked("OPTIONS", "/v1/notices", &format!("{from}\r\n{preflight}"))).await;
    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    for header in ["allow-origin: *", "allow-methods: GET, POST", "allow-headers: authorization, content-type"] {
        assert!(said.contains(&format!("access-control-{header}")), "{header}: {said}");
    }
    // Also a refusal can be read: how else should a page know that its token is over?
    let said = answer(node.public, &asked("GET", "/v1/orders?open=1", from)).await;
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("access-control-allow-origin: *"), "{said}");
    assert!(said.contains("access-control-expose-headers: retry-after"), "{said}");
    let own = asked("GET", "/v1/notices", "Host: push.example\r\nOrigin: https://push.example");
    let none = asked("OPTIONS", "/v1/notices", "Host: x");
    let wall = asked("GET", "/v1/wall", from);
    for request in [own, none, wall] {
        let said = answer(node.public, &request).await;
        assert!(!said.contains("access-control"), "{request}: {said}");
    }
}

/// A chain that names its pages keeps those of others away from mailboxes, also from their WebSocket.
#[tokio::test]
async fn with_a_list_only_its_pages_ask_for_mailboxes() {
    let node = Node::configured("allowed_origins = [\"https://chain.example\"]\n");
    let asked = |origin: &str| format!("GET /v1/orders?open=1 HTTP/1.1\r\nHost: x\r\n{origin}\r\n");
    let said = answer(node.public, &asked("Origin: https://chain.example\r\n")).await;
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    assert!(said.contains("access-control-allow-origin: https://chain.example") && said.contains("vary: origin"));
    for origin in ["https://chain.example.evil.com", "null", "http://chain.example"] {
        let said = answer(node.public, &asked(&format!("Origin: {origin}\r\n"))).await;
        assert!(said.starts_with("HTTP/1.1 403"), "{origin}: {said}");
        assert!(!said.contains("access-control"), "{origin}: {said}");
        let said = answer(node.public, &GOOD.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"))).await;
        assert!(said.starts_with("HTTP/1.1 403"), "{origin}: {said}");
    }
    let said = answer(node.public, &asked("")).await;
    assert!(said.starts_with("HTTP/1.1 401"), "a program: {said}");
    assert_eq!(node.metric("orderbell_clients_rejected_total{reason=\"forbidden-origin\"}").await, 6);
}

/// Whoever can reach an open wall may see it, and no page of another site may through the browser of somebody who can: neither from its own origin
/// nor under its own name.
#[tokio::test]
async fn an_open_wall_is_for_its_own_pages_also_by_a_websocket() {
    let node = Node::configured("[wall]\nopen = true\n");
    let get = |headers: &str| format!("GET /v1/wall HTTP/1.1\r\n{headers}\r\n\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: orderbell.wall.v1";
    let here = node.public.to_string();
    for (headers, status) in [
        (format!("Host: {here}"), "200"),
        (format!("Host: {here}\r\nOrigin: http://{here}"), "200"),
        (format!("Host: {here}\r\n{upgrade}\r\nOrigin: http://{here}"), "101"),
        (format!("Host: {here}\r\n{upgrade}"), "101"),
        (format!("Host: {here}\r\nOrigin: https://evil.example"), "403"),
        (format!("Host: {here}\r\n{upgrade}\r\nOrigin: https://evil.example"), "403"),
        (format!("Host: {here}\r\n{upgrade}\r\nOrigin: null"), "403"),
        // A name of another site that leads to this machine: to the browser its page and this server are one.
        ("Host: evil.example\r\nOrigin: http://evil.example".to_owned(), "421"),
        ("Host: evil.example".to_owned(), "421"),
        (format!("Host: evil.example\r\n{upgrade}\r\nOrigin: http://evil.example"), "421"),
    ] {
        let said = answer(node.public, &get(&headers)).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {said}");
        assert!(!said.contains("access-control"), "{headers}: {said}");
    }
}

/// A page of another site in an operator's browser gets nothing from the admin listener, by whatever name it asks; what runs here does.
#[tokio::test]
async fn the_admin_listener_answers_no_other_sites_page() {
    let node = Node::embedded();
    let (here, port) = (node.admin.to_string(), node.admin.port());
    let asked = |method: &str, path: &str, host: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: 0\r\n\r\n")
    };
    let own = format!("Origin: http://{here}\r\n");
    let cases = [
        (asked("GET", "/top", &here, ""), "200"),
        (asked("POST", "/dead-letters/replay", &here, &own), "200"),
        (asked("GET", "/console/", &format!("localhost:{port}"), ""), "200"),
        (asked("POST", "/dead-letters/replay", &here, "Origin: https://evil.example\r\n"), "404"),
        (asked("POST", "/dead-letters/replay", &here, "Origin: null\r\n"), "404"),
        (asked("GET", "/dead-letters", &format!("evil.example:{port}"), ""), "404"),
        (asked("GET", "/metrics", "prometheus-sees-it-so", ""), "200"),
    ];
    for (request, status) in cases {
        let said = answer(node.admin, &request).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{status} for {request}: {said}");
    }
}
