//! Tokens on a running server: they end while a socket is open, they may be bound to one device, and their keys change by a reload.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orderbell_client::{MailboxClient, Received, Socket, StateFile};
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::ServerFrame;
use orderbell_protocol::client::{Connectivity, Output, PersistedState, Timings};
use tokio::sync::mpsc;

use crate::chain::{Node, Till, now, soon, until};

/// Clocks of two machines may differ by this much: a token is taken for so long after its `exp`.
const LEEWAY_MS: i64 = 60_000;

/// Has the server read its configuration again, which ends with this line in its log.
async fn reloads(node: &Node, line: &str) {
    let count = || node.process.err.text().matches(line).count();
    let before = count();
    node.process.signal("HUP");
    until("the reload", async || count() > before).await;
}

/// A store's token that the server takes for fifteen more seconds: on a slow machine an order must be notified with it.
fn token_that_ends_soon(node: &Node) -> String {
    node.tokens().mint("store", "1", None, now().plus_ms(-LEEWAY_MS), 15).unwrap()
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
    let mut same = Till::connect(node.public, &bound, "till-3", None).await;
    let Received::Closed(Some((code, _))) = soon("a close", socket.next()).await.unwrap() else {
        panic!("another end")
    };
    assert_eq!(code, 4003);
    node.pays("o1", "1").await;
    other.hears(NewOrder, "o1").await;
    same.hears(NewOrder, "o1").await;
    // A poll moves the cursor of the device that the token names.
    let page = node.http.get("/v1/notices?device=till-9", &bound).await.unwrap().json().unwrap();
    let after = page["position"].as_str().unwrap();
    node.http.get(&format!("/v1/notices?device=till-9&after={after}"), &bound).await.unwrap();
    until("no cursor of another name", async || {
        let seen = orderbell_client::HttpClient::new(node.admin).get("/stores", "").await.unwrap().json().unwrap();
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
        std::fs::write(&node.args[1], text).unwrap();
        reloads(&node, "reloaded").await;
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

/// Whoever issues tokens with keys of its own, as an identity provider does.
struct Issuer {
    kid: &'static str,
    key: Ed25519KeyPair,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { kid, key: Ed25519KeyPair::generate().unwrap() }
    }

    fn token(&self, role: &str, id: &str) -> String {
        let header = serde_json::json!({"alg": "EdDSA", "kid": self.kid, "typ": "at+jwt"}).to_string();
        let exp = now().0 / 1000 + 3_600;
        let claims = serde_json::json!({"iss": "orderbell", "aud": ["orderbell"], "exp": exp, "role": role, "sub": id})
            .to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes())))
    }

    fn jwk(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        serde_json::json!({"kid": self.kid, "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig"})
    }
}

fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    serde_json::json!({"keys": keys}).to_string()
}

fn publish(path: &Path, issuers: &[&Issuer]) {
    std::fs::write(path, key_set(issuers)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_rotates_the_keys_of_its_file_and_nobody_is_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let (old, new) = (Issuer::new("2026-11"), Issuer::new("2026-12"));
    publish(&path, &[&old]);
    let node = Node::configured(&format!("[tokens]\njwks_file = \"{}\"\n", path.display()));
    let takes = async |issuer: &Issuer| node.http.get("/v1/notices", &issuer.token("store", "1")).await.unwrap().status;
    let mut till = Till::connect(node.public, &old.token("store", "1"), "a", None).await;
    assert_eq!((takes(&old).await, takes(&new).await), (200, 401));
    publish(&path, &[&new, &old]);
    reloads(&node, "reloaded").await;
    assert_eq!((takes(&old).await, takes(&new).await), (200, 200));
    publish(&path, &[&new]);
    reloads(&node, "reloaded").await;
    assert_eq!((takes(&old).await, takes(&new).await), (401, 200));
    // A file that is half written, or gone, changes nothing, and the log says so.
    for bad in [Some("{\"keys\":["), Some("{\"keys\":[]}"), None] {
        match bad {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        reloads(&node, "reload failed, the configuration is unchanged: tokens.jwks_file").await;
        assert_eq!((takes(&old).await, takes(&new).await), (401, 200), "{bad:?}");
    }
    // Whoever is connected was let in before.
    let paid = crate::chain::event("order.paid", "o1", serde_json::json!({"store": "1"})).to_string();
    let posted =
        node.http.send("POST", "/v1/events", &new.token("producer", "p"), "application/json", paid).await.unwrap();
    assert_eq!(posted.status, 200);
    till.hears(NewOrder, "o1").await;
    // Why the old token is refused now is counted and logged, and the token is not.
    let metrics = orderbell_client::HttpClient::new(node.admin).get("/metrics", "").await.unwrap();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("orderbell_clients_rejected_total{reason=\"token-unknown-kid\"} 5"), "{metrics}");
    let log = node.process.err.text();
    assert!(log.contains("token-unknown-kid") && !log.contains("eyJ"), "{log}");
}

/// An issuer's server: its set of keys, or 503 when there is none, and how often it was asked.
struct KeyServer {
    url: String,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (set, asked) = (Arc::<Mutex<Option<String>>>::default(), Arc::<AtomicUsize>::default());
        let (sets, count) = (set.clone(), asked.clone());
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, mut head) = (socket.unwrap(), [0; 4_096]);
                let _head = socket.read(&mut head);
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = match sets.lock().unwrap().clone() {
                    Some(set) => ("200 OK", set),
                    None => ("503 Unavailable", String::new()),
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _answered = socket.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { url, set, asked }
    }

    fn publish(&self, issuers: &[&Issuer]) {
        *self.set.lock().unwrap() = Some(key_set(issuers));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_an_issuer_are_fetched_and_outlive_its_outage() {
    let issuer = KeyServer::start();
    let (old, new, nobody) = (Issuer::new("2026-11"), Issuer::new("2026-12"), Issuer::new("made-up"));
    issuer.publish(&[&old]);
    let mut node = Node::configured(&format!("[tokens]\njwks_url = \"{}\"\n", issuer.url));
    let takes = async |node: &Node, issuer: &Issuer| {
        node.http.get("/v1/notices", &issuer.token("store", "1")).await.unwrap().status
    };
    assert_eq!(takes(&node, &old).await, 200, "nobody is served before the first fetch");
    let mut till = Till::connect(node.public, &old.token("store", "1"), "a", None).await;
    // A token with a new key brings the next fetch forward; nobody is disconnected.
    issuer.publish(&[&new, &old]);
    until("the new key", async || takes(&node, &new).await == 200).await;
    let paid = crate::chain::event("order.paid", "o1", serde_json::json!({"store": "1"})).to_string();
    let posted =
        node.http.send("POST", "/v1/events", &new.token("producer", "p"), "application/json", paid).await.unwrap();
    assert_eq!(posted.status, 200);
    till.hears(NewOrder, "o1").await;
    // Whoever makes up keys does not make the server ask for each.
    for _ in 0..200 {
        assert_eq!(takes(&node, &nobody).await, 401);
    }
    let asked = issuer.asked.load(Ordering::SeqCst);
    assert!((2..=8).contains(&asked), "asked {asked} times");
    // The issuer is down, and the server starts again: the last keys count.
    *issuer.set.lock().unwrap() = None;
    node.restart();
    assert_eq!((takes(&node, &old).await, takes(&node, &new).await), (200, 200));
    until("it asks again", async || issuer.asked.load(Ordering::SeqCst) > asked).await;
    until("the log says so", async || node.process.err.text().contains("keys cannot be fetched")).await;
    assert_eq!(takes(&node, &new).await, 200);
}

/// What a till's application has seen.
#[derive(Default)]
struct SeenByTill {
    connectivity: Vec<Connectivity>,
    orders: Vec<String>,
    needs_a_person: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_that_comes_before_the_issuer_answers_is_connected_afterwards_with_the_same_token() {
    let issuer = KeyServer::start();
    let (own, nobody) = (Issuer::new("2026-11"), Issuer::new("made-up"));
    let node = Node::configured(&format!("[tokens]\njwks_url = \"{}\"\n", issuer.url));
    let token = own.token("store", "1");
    // Nobody hears that the token is bad: it is good, and the server cannot know yet.
    let refused = node.http.get("/v1/notices", &token).await.unwrap();
    assert_eq!((refused.status, refused.json().unwrap()["code"].as_str()), (503, Some("unavailable")));
    assert!(refused.headers.contains_key("retry-after"));
    let mut socket = Socket::open_with_hello(node.public, &token, "b", None).await.unwrap();
    let Received::Closed(Some((1013, reason))) = soon("a close", socket.next()).await.unwrap() else {
        panic!("another end")
    };
    assert!(reason.starts_with("overloaded;retry_ms="), "{reason}");
    let seen = Arc::<Mutex<SeenByTill>>::default();
    let app_sees = seen.clone();
    let file = tempfile::tempdir().unwrap();
    let mut app = StateFile::new(file.path().join("till.json")).app(move |output| {
        let mut seen = app_sees.lock().unwrap();
        match output {
            Output::Connectivity(connectivity) => seen.connectivity.push(connectivity),
            Output::Notice(notice) => seen.orders.push(notice.notice.order),
            Output::TokenNeeded | Output::Fault(..) => seen.needs_a_person.push(format!("{output:?}")),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let (_says_nothing, inputs) = mpsc::channel(1);
    let quick = Timings { retry_max: std::time::Duration::from_secs(1), ..Timings::default() };
    let till = MailboxClient::new(node.public, &token, "a", PersistedState::default(), quick, 1);
    let till = tokio::spawn(async move { till.run(&mut app, inputs).await });
    let turned_away = async || node.metric("orderbell_clients_rejected_total{reason=\"token-awaited-kid\"}").await;
    until("the till is turned away, too", async || turned_away().await > 2).await;
    issuer.publish(&[&own]);
    until("the till is connected", async || seen.lock().unwrap().connectivity.contains(&Connectivity::Push)).await;
    let paid = crate::chain::event("order.paid", "o1", serde_json::json!({"store": "1"})).to_string();
    let posted =
        node.http.send("POST", "/v1/events", &own.token("producer", "p"), "application/json", paid).await.unwrap();
    assert_eq!(posted.status, 200);
    until("it hears the order", async || seen.lock().unwrap().orders == ["o1"]).await;
    assert_eq!(seen.lock().unwrap().needs_a_person, [""; 0]);
    till.abort();
    // Now the keys are known, and one that is not among them is nobody's.
    assert_eq!(node.http.get("/v1/notices", &nobody.token("store", "1")).await.unwrap().status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_changed_address_does_not_answer_the_old_keys_count_and_new_ones_are_awaited() {
    let (before, after) = (KeyServer::start(), KeyServer::start());
    let (old, new) = (Issuer::new("2026-11"), Issuer::new("2026-12"));
    before.publish(&[&old]);
    let configuration = |issuer: &KeyServer| format!("[tokens]\njwks_url = \"{}\"\n", issuer.url);
    let node = Node::configured(&configuration(&before));
    let takes = async |issuer: &Issuer| node.http.get("/v1/notices", &issuer.token("store", "1")).await.unwrap().status;
    assert_eq!((takes(&old).await, takes(&new).await), (200, 401));
    std::fs::write(&node.args[1], configuration(&after)).unwrap();
    reloads(&node, "reloaded").await;
    assert_eq!((takes(&old).await, takes(&new).await), (200, 503));
    until("it asks", async || after.asked.load(Ordering::SeqCst) > 0).await;
    assert_eq!((takes(&old).await, takes(&new).await), (200, 503));
    after.publish(&[&new]);
    until("the new keys", async || takes(&new).await == 200).await;
    assert_eq!(takes(&old).await, 401);
}

/// `orderbell token check -` with this on standard input: its exit code and all that it printed.
fn checked(data_dir: &Path, token: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.args(["token", "check", "-", "--data-dir"]).arg(data_dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_token_that_is_refused_is_explained_without_the_token() {
    let node = Node::embedded();
    let good = node.token("store", "17");
    let (code, said) = checked(&node.dir, &format!("{good}\n"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("taken: store:17, until 20") && said.contains(", by the key \"local\" (HS256)"), "{said}");
    let old = node.tokens().mint("store", "17", None, now().plus_ms(-7_200_000), 3600).unwrap();
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let issuer = Issuer::new("2026-11").token("store", "17");
    for (token, expected) in [
        (old.as_str(), "refused, token-expired: it ended 20"),
        (&forged, "refused, token-signature: the key \"local\" has not signed it"),
        (&issuer, "refused, token-unknown-kid: its `kid` is \"2026-11\", and the keys here are \"local\""),
        ("hunter2", "refused, token-malformed: it is no JWT"),
    ] {
        let (code, said) = checked(&node.dir, token);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{expected} is not in {said}");
        assert!(!said.contains("eyJ") && !said.contains(token.rsplit('.').next().unwrap()), "{said}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let (code, said) = checked(&nowhere.path().join("data"), &good);
    assert!(code == Some(1) && said.contains("token-key"), "{said}");
    assert!(!nowhere.path().join("data").exists(), "a check generates no key");
}
