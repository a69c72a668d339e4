//! Tokens on a running server: they end while a socket is open, they may be bound to one device, and their keys change by a reload.

use orderbell_client::{Received, Socket};
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::ServerFrame;

use crate::chain::{Node, Till, now, soon, until};

/// Clocks of two machines may differ by this much: a token is taken for so long after its `exp`.
const LEEWAY_MS: i64 = 60_000;

/// A store's token that the server takes for three more seconds.
fn token_that_ends_soon(node: &Node) -> String {
    node.tokens().mint("store", "1", None, now().plus_ms(-LEEWAY_MS), 3).unwrap()
}

#[tokio::test]
async fn a_token_that_ends_closes_its_open_socket_and_no_request_takes_it_any_more() {
    let node = Node::embedded();
    let token = token_that_ends_soon(&node);
    let mut till = Till::connect(node.public, &token, "a", None).await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    assert_eq!(till.closed().await, Some((3000, "unauthorized".into())));
    // A token's end is a whole second: a request may be taken for a moment longer.
    until("no request takes it", async || node.http.get("/v1/notices", &token).await.unwrap().status == 401).await;
    // A new token goes on where the old one stood.
    let mut till = node.till_from("1", "a", Some(till.position)).await;
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
}

#[tokio::test]
async fn a_device_in_the_token_counts_whatever_the_client_says() {
    let node = Node::embedded();
    let bound = node.tokens().mint("store", "1", Some("till-1"), now(), 3600).unwrap();
    let mut socket = Socket::open_with_hello(node.public, &bound, "till-2", None).await.unwrap();
    let Received::Frame(ServerFrame::Welcome { device, .. }) = soon("a welcome", socket.next()).await.unwrap() else {
        panic!("no welcome")
    };
    assert_eq!(device, "till-1");
    // It is that device for the server, too: it replaces the older connection of it, and nobody else's.
    let mut other = node.till("1", "till-2").await;
    let mut same = node.till("1", "till-1").await;
    let Received::Closed(Some((code, _))) = soon("a close", socket.next()).await.unwrap() else {
        panic!("another end")
    };
    assert_eq!(code, 4003);
    node.pays("o1", "1").await;
    other.hears(NewOrder, "o1").await;
    same.hears(NewOrder, "o1").await;
    // A poll moves the cursor of the device that the token names.
    let page = node.http.get("/v1/notices?device=till-9", &bound).await.unwrap().json();
    let after = page["position"].as_str().unwrap();
    node.http.get(&format!("/v1/notices?device=till-9&after={after}"), &bound).await.unwrap();
    until("no cursor of another name", async || {
        let seen = orderbell_client::HttpClient::new(node.admin).get("/stores", "").await.unwrap().json();
        let devices = seen["stores"][0]["devices"].as_array().unwrap().clone();
        devices.iter().all(|device| device["device"] != "till-9") && devices.iter().any(|d| d["device"] == "till-1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signing_key_is_rotated_by_reloads_and_nobody_is_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{name}: at least thirty-two bytes of a secret")).unwrap();
        format!("{{ kid = \"{name}\", secret_file = \"{}\" }}", path.display())
    };
    let keys = |keys: &[&str]| format!("[tokens]\nkeys = [{}]\n", keys.join(", "));
    let (old, new) = (key("2026-11"), key("2026-12"));
    let node = Node::configured(&keys(&[&old]));
    let mint = |text: &str| {
        let path = dir.path().join("mint.toml");
        std::fs::write(&path, text).unwrap();
        let config = orderbell::config::Config::load(Some(&path), &[]).unwrap();
        config.load_tokens().unwrap().mint("store", "1", None, now(), 3600).unwrap()
    };
    let (first, second) = (mint(&keys(&[&old])), mint(&keys(&[&new])));
    let reload = async |text: &str| {
        let count = || node.process.err.text().matches("reloaded").count();
        let before = count();
        std::fs::write(&node.args[1], text).unwrap();
        node.process.signal("HUP");
        until("the reload", async || count() > before).await;
    };
    let takes = async |token: &str| node.http.get("/v1/notices", token).await.unwrap().status;
    let mut till = Till::connect(node.public, &first, "a", None).await;
    assert_eq!((takes(&first).await, takes(&second).await), (200, 401));
    reload(&keys(&[&new, &old])).await;
    assert_eq!((takes(&first).await, takes(&second).await), (200, 200));
    reload(&keys(&[&new])).await;
    assert_eq!((takes(&first).await, takes(&second).await), (401, 200));
    // Whoever is connected was let in before: its socket stays until its token ends.
    let producer = orderbell::config::Config::load(Some(std::path::Path::new(&node.args[1])), &[]).unwrap();
    let producer = producer.load_tokens().unwrap().mint("producer", "p", None, now(), 3600).unwrap();
    let paid = crate::chain::event("order.paid", "o1", serde_json::json!({"store": "1"})).to_string();
    let posted = node.http.send("POST", "/v1/events", &producer, "application/json", paid).await.unwrap();
    assert_eq!(posted.status, 200);
    till.hears(NewOrder, "o1").await;
}
