//! Every address that answers a GET: a HEAD has the same status and the same headers, and no body.

use std::collections::BTreeMap;

use orderbell_client::HttpClient;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::Listen;
use crate::pages;

/// Each route with GET of the public listener: an address of it, and whose token it needs.
const PUBLIC: &[(&str, &str, &str)] = &[
    ("/healthz", "/healthz", ""),
    ("/v1/ws", "/v1/ws", ""),
    ("/v1/orders", "/v1/orders?open=1", "store"),
    ("/v1/orders/{order}", "/v1/orders/o1", "store"),
    ("/v1/wall", "/v1/wall", "wall"),
    ("/playground/token", "/playground/token?role=store&id=1", ""),
];
/// The one whose GET has effects: its HEAD is refused.
const ONLY_GET: &str = "/v1/notices";
/// The same of the admin listener, which needs no token.
const ADMIN: &[(&str, &str)] = &[
    ("/live", "/live"),
    ("/ready", "/ready"),
    ("/metrics", "/metrics"),
    ("/", "/"),
    ("/ledger/backup", "/ledger/backup"),
    ("/balance", "/balance"),
    ("/top", "/top"),
    ("/stores", "/stores"),
    ("/stores/{store}/tail", "/stores/1/tail"),
    ("/orders/{order}", "/orders/o1"),
    ("/dead-letters", "/dead-letters"),
    ("/dead-letters/topics", "/dead-letters/topics"),
    ("/dead-letters/{number}", "/dead-letters/1"),
];

/// The routes with GET that the sources name.
fn routes_of(source: &str) -> Vec<String> {
    let calls = source.split(".route(\"").skip(1).filter_map(|call| call.split_once("\", get("));
    calls.map(|(path, _)| path.to_owned()).filter(|path| !path.contains('"')).collect()
}

struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    has_body: bool,
}

/// The answer to a request; of one without an end, what comes first.
async fn answer(server: SocketAddr, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, is_endless) = (Vec::new(), method == "GET" && more.contains("text/event-stream"));
    while !(is_endless && bytes.ends_with(b"\r\n\r\n")) {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.into(), value.into()));
    Answer { status, headers: headers.collect(), has_body: !body.is_empty() }
}

async fn compare(server: SocketAddr, path: &str, more: &str) {
    let get = answer(server, "GET", path, more).await;
    let head = answer(server, "HEAD", path, more).await;
    assert!(!head.has_body, "{path}");
    assert_eq!(head.status, get.status, "{path}");
    let comparable = |answer: Answer| -> BTreeMap<String, String> {
        let mut headers = answer.headers;
        // How a body without a known length is cut into chunks is no property of what the address names.
        headers.remove("transfer-encoding");
        headers.remove("date");
        // Documents of the moment differ by a digit.
        headers.entry("content-length".into()).and_modify(|length| *length = "some".into());
        headers
    };
    assert_eq!(comparable(head), comparable(get), "{path}");
}

async fn start(dir: &std::path::Path) -> Arc<Server> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    config.playground = true;
    config.live.min_free_space = crate::config::ByteSize::from_mib(0);
    Server::start(&config, config.limits(), |why: &str| panic!("{why}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_the_headers_of_a_get_at_every_address() {
    let net = include_str!("../net/mod.rs");
    let playground = include_str!("../net/playground.rs");
    let mut routes = [routes_of(net), routes_of(playground)].concat();
    routes.retain(|route| route != ONLY_GET);
    assert_eq!(routes.len(), PUBLIC.len());
    assert!(routes.iter().all(|route| PUBLIC.iter().any(|(known, ..)| known == route)), "{routes:?}");
    let admin = routes_of(include_str!("../net/admin/mod.rs"));
    assert_eq!(admin.len(), ADMIN.len());
    assert!(admin.iter().all(|route| ADMIN.iter().any(|(known, _)| known == route)), "{admin:?}");

    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let token = |role: &str| {
        let minted = server.state.tokens().mint(role, "1", None, wall_clock(), 600).unwrap();
        format!("Authorization: Bearer {minted}\r\n")
    };
    let paid = json!({"type": "order.paid", "id": "e1", "order": "o1", "store": "1", "customer": "c", "amount": 5});
    let producer = server.state.tokens().mint("producer", "p", None, wall_clock(), 600).unwrap();
    let http = HttpClient::new(server.public());
    let posted = http.send("POST", "/v1/events", &producer, "application/json", paid.to_string()).await.unwrap();
    assert_eq!(posted.status, 200);
    while http
        .get("/v1/orders/o1", &server.state.tokens().mint("store", "1", None, wall_clock(), 600).unwrap())
        .await
        .unwrap()
        .status
        != 200
    {
        tokio::task::yield_now().await;
    }
    for (_, path, role) in PUBLIC {
        compare(server.public(), path, &if role.is_empty() { String::new() } else { token(role) }).await;
        compare(server.public(), path, "").await;
    }
    compare(server.public(), "/v1/wall", &format!("{}Accept: text/event-stream\r\n", token("wall"))).await;
    let refused = answer(server.public(), "HEAD", ONLY_GET, &token("store")).await;
    assert!(refused.status.contains("405") && refused.headers["allow"] == "GET" && !refused.has_body);
    for file in pages::SHARED.iter().chain(pages::PUBLIC).chain(pages::PLAYGROUND) {
        compare(server.public(), file.path, "").await;
    }
    for path in ADMIN.iter().map(|(_, path)| *path).chain(pages::CONSOLE.iter().map(|file| file.path)) {
        compare(server.admin(), path, "").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_checks_without_a_host_and_by_http_1_0() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    for line in ["GET /healthz HTTP/1.0", "HEAD /healthz HTTP/1.0", "GET /healthz HTTP/1.1", "HEAD /healthz HTTP/1.1"] {
        let mut stream = TcpStream::connect(server.public()).await.unwrap();
        stream.write_all(format!("{line}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.split(' ').nth(1), Some("200"), "{line}: {text}");
        assert_eq!(text.ends_with("ok\n"), line.starts_with("GET"));
    }
    server.stop().await;
}
