//! What comes in by HTTP and cannot be taken.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use orderbell_client::HttpClient;
use orderbell_protocol::NoticeKind::NewOrder;
use serde_json::{Value, json};

use crate::chain::{Node, event, post_raw, soon};

fn code(answer: &orderbell_client::HttpResponse) -> (u16, Value) {
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", String::from_utf8_lossy(&answer.body));
    (answer.status, answer.json().unwrap()["code"].clone())
}

#[tokio::test]
async fn a_load_balancer_hears_on_the_public_listener_that_requests_are_served() {
    let node = Node::embedded();
    for method in ["GET", "HEAD"] {
        let answer = node.http.send(method, "/healthz", "", "text/plain", "").await.unwrap();
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    assert_eq!(code(&node.http.send("POST", "/healthz", "", "text/plain", "").await.unwrap()).0, 405);
}

#[tokio::test]
async fn every_wrong_request_has_its_own_answer() {
    let node = Node::embedded();
    let (store, producer) = (node.token("store", "1"), node.token("producer", "p"));
    let ask = |path: &'static str, token: &str| {
        let (http, token) = (node.http.clone(), token.to_owned());
        async move { code(&http.get(path, &token).await.unwrap()) }
    };
    assert_eq!(ask("/nowhere", &store).await, (404, json!("not-found")));
    assert_eq!(ask("/v1/notices", "garbage").await, (401, json!("unauthorized")));
    assert_eq!(ask("/v1/notices", &producer).await, (404, json!("not-found")));
    assert_eq!(ask("/v1/notices?after=-1", &store).await, (409, json!("epoch-changed")));
    assert_eq!(ask("/v1/notices?wait=long", &store).await, (422, json!("invalid-parameter")));
    assert_eq!(ask("/v1/notices?after=1.7.0000", &store).await, (409, json!("epoch-changed")));
    assert_eq!(ask("/v1/events", &producer).await, (405, json!("method-not-allowed")));
    assert_eq!(ask("/v1/ws", &store).await, (426, json!("upgrade-required")));
    let post = |token: &str, media: &'static str, body: String| {
        let (http, token) = (node.http.clone(), token.to_owned());
        async move { code(&http.send("POST", "/v1/events", &token, media, body).await.unwrap()) }
    };
    let paid = json!({"type": "order.paid", "order": "o1", "store": "1"}).to_string();
    assert_eq!(post(&store, "application/json", paid).await, (422, json!("invalid-field")), "a till does not produce");
    assert_eq!(post(&store, "application/json", "{".into()).await, (400, json!("malformed-json")));
    assert_eq!(post(&store, "application/json", "x".repeat(200_000)).await, (413, json!("too-large")));
    assert_eq!(post(&producer, "text/xml", "<a/>".into()).await, (415, json!("unsupported-media-type")));
    assert_eq!(post(&producer, "application/json", "{".into()).await, (400, json!("malformed-json")));
    assert_eq!(post(&producer, "application/json", "[]".into()).await, (422, json!("invalid-field")));
    assert_eq!(post(&producer, "application/json", "{}".into()).await, (422, json!("invalid-event")));
    assert_eq!(post(&producer, "application/json", "x".repeat((1 << 20) + 1)).await, (413, json!("too-large")));
}

#[tokio::test]
async fn one_wrong_event_in_a_batch_is_pointed_at_and_none_is_taken() {
    let node = Node::embedded();
    let good = event("order.paid", "o1", json!({"store": "1"}));
    let answer = node.post(&json!([good, {"type": "order.eaten", "order": "o2"}])).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json().unwrap()["errors"][0]["pointer"], "/1");
    assert_eq!(node.polls("1", "a", None, 0).await.notices.len(), 0);
}

#[tokio::test]
async fn a_token_reads_its_own_mailbox_and_no_request_can_name_another() {
    let node = Node::embedded();
    node.pays("o1", "1").await;
    for other in ["01", "10", "1/", "2", "１"] {
        let answer =
            node.http.get("/v1/notices?store=1&recipient=store:1&wait=0", &node.token("store", other)).await.unwrap();
        assert_eq!(answer.json().unwrap()["notices"], json!([]), "store {other}");
    }
    let customer = node.http.get("/v1/notices", &node.token("customer", "1")).await.unwrap();
    assert_eq!(customer.json().unwrap()["notices"], json!([]), "a customer of the same id");
}

#[tokio::test]
async fn live_ready_and_metrics_are_on_a_listener_of_their_own() {
    let node = Node::embedded();
    let admin = HttpClient::new(node.admin);
    assert_eq!(admin.get("/live", "").await.unwrap().status, 200);
    assert_eq!(admin.get("/ready", "").await.unwrap().json().unwrap(), json!({"ready": true, "alerts": []}));
    node.pays("o1", "1").await;
    node.polls("1", "a", None, 10).await;
    assert_eq!(node.metric("orderbell_notices_created_total{kind=\"new_order\"}").await, 1);
    assert_eq!(node.metric("orderbell_invariant_violations_total").await, 0);
    assert_eq!(node.http.get("/metrics", "").await.unwrap().status, 404, "not on the public one");
}

/// Backups and dead letters hold what people ordered: a listener that others can reach does not give them out.
#[tokio::test]
async fn an_admin_listener_that_is_not_on_loopback_serves_no_order_data() {
    let here = Node::embedded();
    let admin = HttpClient::new(here.admin);
    assert_eq!(admin.get("/dead-letters", "").await.unwrap().status, 200);
    assert_eq!(admin.get("/ledger/backup", "").await.unwrap().status, 200);

    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = [
        "serve",
        "--ready-json",
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "0.0.0.0:0",
    ];
    let process = orderbell_lab::Process::start(std::path::Path::new(env!("CARGO_BIN_EXE_orderbell")), &args, &[]);
    let port = process.out.wait_for("that it is ready", crate::chain::ready_line).admin.port();
    let admin = HttpClient::new(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(admin.get("/live", "").await.unwrap().status, 200);
    for path in ["/ledger/backup", "/dead-letters", "/dead-letters/1"] {
        assert_eq!(admin.get(path, "").await.unwrap().status, 404, "{path}");
    }
}

/// The playground pages get their tokens from the server: on loopback only, under its own names, and only with `--playground`.
#[tokio::test]
async fn the_playground_gives_tokens_only_when_asked_for_and_on_loopback_only() {
    let plain = Node::embedded();
    for path in ["/playground/token?role=store&id=1", "/playground/till/", "/playground/phone/"] {
        assert_eq!(plain.http.get(path, "").await.unwrap().status, 404, "{path}");
    }
    let mut node = Node::embedded();
    node.args.push("--playground".into());
    node.restart();
    let token = node.http.get("/playground/token?role=store&id=1", "").await.unwrap();
    assert_eq!((token.status, &token.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    let token = String::from_utf8(token.body.to_vec()).unwrap();
    assert_eq!(node.http.get("/v1/notices", &token).await.unwrap().status, 200);
    for path in
        ["/playground/token?role=wall&id=1", "/playground/token?role=store&id=", "/playground/token?role=admin&id=1"]
    {
        assert_eq!(node.http.get(path, "").await.unwrap().status, 404, "{path}");
    }
    assert_eq!(node.http.get("/playground/till/", "").await.unwrap().status, 200);
    let dir = tempfile::tempdir().unwrap();
    let (data, exe) = (dir.path().join("data"), std::path::Path::new(env!("CARGO_BIN_EXE_orderbell")));
    let args = ["serve", "--playground", "--data-dir", data.to_str().unwrap(), "--listen", "0.0.0.0:0"];
    let mut outside = orderbell_lab::Process::start(exe, &args, &[]);
    assert_eq!(tokio::task::spawn_blocking(move || outside.ends().code()).await.unwrap(), Some(3));
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Posts these bytes with these lines in the head; the answer's head and body.
async fn posts_raw(node: &Node, token: &str, lines: &str, body: &[u8]) -> String {
    soon("an answer", post_raw(node.public, token, lines, body)).await.unwrap()
}

/// Case 54.
#[tokio::test]
async fn bodies_of_each_form_may_be_compressed_by_gzip_and_the_limit_holds_for_what_they_hold() {
    let node = Node::embedded();
    let (store, producer) = (node.token("store", "1"), node.token("producer", "p"));
    let post = async |token: &str, lines: &str, body: &[u8]| {
        let answer = posts_raw(&node, token, &format!("Content-Encoding: gzip\r\n{lines}"), body).await;
        (answer[9..12].to_owned(), answer)
    };
    let mut till = node.till("1", "a").await;
    let paid = |n: u32| event("order.paid", &format!("o{n}"), json!({"store": "1"})).to_string();
    let cloud = |n: u32| {
        json!([{"specversion": "1.0", "type": "order.paid", "id": "e", "source": "/s", "subject": format!("o{n}"), "data": {"store": "1"}}]).to_string()
    };
    let binary = "ce-specversion: 1.0\r\nce-type: order.paid\r\nce-id: e6\r\nce-source: /s\r\nce-subject: o6\r\n";
    for (lines, body, orders) in [
        ("Content-Type: application/json\r\n", paid(1), &["o1"][..]),
        ("Content-Type: application/x-ndjson\r\n", format!("{}\n{}\n", paid(2), paid(3)), &["o2", "o3"]),
        ("Content-Type: application/cloudevents-batch+json\r\n", cloud(4), &["o4"]),
        ("", format!("[{}{}]", paid(5), "\n".repeat(200_000)), &["o5"]),
        (binary, json!({"store": "1"}).to_string(), &["o6"]),
    ] {
        let (status, answer) = post(&producer, lines, &gzip(body.as_bytes())).await;
        assert_eq!(status, "200", "{answer}");
        assert_eq!(answer.matches("stored").count(), orders.len(), "{answer}");
        let mut received = Vec::new();
        for _ in orders {
            let frame = till.notice().await;
            till.acks(&frame).await;
            assert_eq!(frame.notice.kind, NewOrder);
            received.push(frame.notice.order.as_str().to_owned());
        }
        received.sort();
        assert_eq!(received, orders);
    }
    let accepts = json!({"id": "1", "kind": "order.accepted", "order": "o1", "pickup_code": "A1"}).to_string();
    let (status, answer) = post(&store, "", &gzip(accepts.as_bytes())).await;
    assert_eq!((status.as_str(), answer.matches("stored").count()), ("200", 1), "{answer}");

    let bomb = gzip(&vec![b' '; 30 << 20]);
    let good = gzip(paid(7).as_bytes());
    for (token, body, wanted, code) in [
        (&producer, &bomb[..], "413", "too-large"),
        (&store, &bomb, "413", "too-large"),
        (&producer, &good[..good.len() - 1], "400", "malformed-body"),
        (&producer, &[&good[..], b"[]"].concat(), "400", "malformed-body"),
        (&producer, paid(7).as_bytes(), "400", "malformed-body"),
    ] {
        let (status, answer) = post(token, "", body).await;
        assert!(status == wanted && answer.contains(code) && answer.contains("application/problem+json"), "{answer}");
    }
    let answer = posts_raw(&node, &producer, "Content-Encoding: br\r\n", b"x").await;
    assert!(answer.starts_with("HTTP/1.1 415") && answer.contains("accept-encoding: gzip, identity\r\n"), "{answer}");
    assert!(answer.contains("by gzip, or send it as it is"), "{answer}");
    let answer = posts_raw(&node, &producer, "Content-Type: text/xml\r\n", b"<a/>").await;
    assert!(answer.starts_with("HTTP/1.1 415") && !answer.contains("accept-encoding"), "{answer}");
}
