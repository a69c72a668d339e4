//! Clients that know the protocol reference and nothing else: a till on Python's `websockets`, one on Node's `ws`, poll-only tills in Java and in
//! Python without any library (those under `examples/`), and `curl`; and a till on our own SDK for Node, which has to live the same day.
//!
//! `tests/run.sh` fetches the libraries. Each till goes through the same day: orders before it was there, while it is, while it was offline, a
//! server that was killed, a cancel, and a position that is of no use any more.

use std::path::{Path, PathBuf};
use std::process::Command;

use orderbell_lab::Process;
use orderbell_protocol::NoticeKind::{NewOrder, OrderAccepted};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::chain::{Node, accepted, event, until};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn fetched(name: &str) -> String {
    let path = root().join(".cache/outside").join(name);
    assert!(path.exists(), "{} is not there: tests/run.sh fetches it", path.display());
    path.to_str().unwrap().to_owned()
}

/// A till that somebody else wrote: how it is started.
struct Outsider {
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// It has a socket: it can answer, too.
    speaks: bool,
}

impl Outsider {
    fn new(command: &[&str], speaks: bool) -> Self {
        Self { command: command.iter().map(|&word| word.to_owned()).collect(), env: Vec::new(), speaks }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.env.push((name, value));
        self
    }

    /// Runs in `dir`, where it keeps its state.
    fn starts(&self, dir: &Path, node: &Node, more: &[&str]) -> Process {
        self.starts_as(&node.token("store", "17"), dir, node, more)
    }

    fn starts_as(&self, token: &str, dir: &Path, node: &Node, more: &[&str]) -> Process {
        let server = format!("http://{}", node.public);
        let mut env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.push(("ORDERBELL_TOKEN", token));
        let mut args = vec!["-C", dir.to_str().unwrap()];
        args.extend(self.command.iter().map(String::as_str));
        args.extend([server.as_str(), "till-1"]);
        args.extend(more);
        Process::start(Path::new("env"), &args, &env)
    }
}

fn says(till: &Process, line: &str) {
    block_in_place(|| till.out.wait_for(line, |said| (said == line).then_some(())));
}

/// What it has said of its own accord, without what depends on the moment.
fn said(till: &Process, word: &str) -> Vec<String> {
    till.out.text().lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
}

async fn lives_a_day(outsider: Outsider) {
    let (mut node, temp) = (Node::embedded(), tempfile::tempdir().unwrap());
    node.stays_at_one_address();
    node.pays("o1", "17").await;
    node.pays("other", "18").await;
    let mut till = outsider.starts(temp.path(), &node, &[]);
    says(&till, "ring o1");
    node.pays("o2", "17").await;
    says(&till, "ring o2");
    let state = temp.path().join("orderbell-till-1.json");
    let kept = |position: &str| std::fs::read_to_string(&state).is_ok_and(|text| text.contains(position));
    let head = node.polls("17", "looker", None, 0).await.head.to_string();
    until("it is kept", async || kept(&head)).await;
    // Offline, and back: only what is new.
    till.kill();
    node.pays("o3", "17").await;
    let mut till = outsider.starts(temp.path(), &node, &[]);
    says(&till, "ring o3");
    // The server is killed under it, and comes back.
    node.restart();
    node.pays("o4", "17").await;
    says(&till, "ring o4");
    // Somebody else of the store accepts; the customer calls another off.
    let mut other = node.till("17", "till-2").await;
    for order in ["o1", "o2", "o3", "o4"] {
        other.hears(NewOrder, order).await;
    }
    other.accepts("o3", "A17").await;
    other.hears(OrderAccepted, "o3").await;
    says(&till, "accepted o3 A17");
    node.happens(&[event("order.cancelled", "o2", json!({"store": "17"}))]).await;
    says(&till, "cancelled o2");
    assert_eq!(said(&till, "ring"), ["ring o3", "ring o4"], "nothing rings twice");
    // Its position is of another history: it takes what is open, and rings nothing that it knows.
    let head = node.polls("17", "looker", None, 0).await.head.to_string();
    until("it is kept", async || kept(&head)).await;
    till.kill();
    let text = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, text.replace(&head, "1.5.c3d1")).unwrap();
    let mut till = outsider.starts(temp.path(), &node, &[]);
    says(&till, "resync 3");
    node.pays("o5", "17").await;
    says(&till, "ring o5");
    assert_eq!(said(&till, "ring"), ["ring o5"], "it rings what it knew");
    till.kill();
    // Once, from nothing: what is open and not accepted rings.
    std::fs::remove_file(&state).unwrap();
    let mut till = outsider.starts(temp.path(), &node, &["--once"]);
    assert!(block_in_place(|| till.ends()).success(), "{}", till.err.text());
    assert_eq!(said(&till, "ring"), ["ring o1"]);
    if outsider.speaks {
        std::fs::remove_file(&state).unwrap();
        let mut till = outsider.starts(temp.path(), &node, &["--once", "--accept", "B2"]);
        assert!(block_in_place(|| till.ends()).success(), "{}", till.err.text());
        assert!(!said(&till, "event o1 stored").is_empty(), "{}", till.out.text());
        assert!(said(&till, "accepted").iter().any(|line| line.ends_with(" B2")), "{}", till.out.text());
    }
    let mut refused = outsider.starts_as("no.token.this", temp.path(), &node, &[]);
    assert_eq!(block_in_place(|| refused.ends()).code(), Some(2), "{}", refused.err.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_on_pythons_websockets_lives_a_day() {
    let script = root().join("tests/outside/till.py");
    let outsider = Outsider::new(&["python3", script.to_str().unwrap()], true);
    lives_a_day(outsider.with("PYTHONPATH", fetched("python"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_on_nodes_ws_lives_a_day() {
    let script = root().join("tests/outside/till.js");
    let outsider = Outsider::new(&["node", script.to_str().unwrap()], true);
    lives_a_day(outsider.with("NODE_PATH", fetched("node_modules"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_on_the_sdk_in_node_lives_a_day() {
    let script = root().join("examples/js/till.mjs");
    let outsider = Outsider::new(&["node", script.to_str().unwrap()], true);
    lives_a_day(outsider.with("NODE_PATH", fetched("node_modules"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_in_java_that_only_polls_lives_a_day() {
    let script = root().join("examples/java/PollTill.java");
    lives_a_day(Outsider::new(&["java", script.to_str().unwrap()], false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_in_python_that_only_polls_lives_a_day() {
    let script = root().join("examples/python/poll_till.py");
    lives_a_day(Outsider::new(&["python3", script.to_str().unwrap()], false)).await;
}

fn curl(node: &Node, token: &str, path: &str, more: &[&str]) -> (u16, Value) {
    let (url, bearer) = (format!("http://{}{path}", node.public), format!("Authorization: Bearer {token}"));
    let args = ["-sS", "-H", &bearer, "-w", "\n%{http_code}", &url];
    let output = Command::new("curl").args(args).args(more).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn curl_alone_pays_polls_accepts_and_resyncs() {
    let node = Node::embedded();
    let (producer, store) = (node.token("producer", "me"), node.token("store", "17"));
    let as_json = "Content-Type: application/json";
    let paid = r#"{"type":"order.paid","id":"e1","order":"o1","store":"17","amount":1250}"#;
    let (status, answer) = curl(&node, &producer, "/v1/events", &["-H", as_json, "-d", paid]);
    assert_eq!((status, &answer["events"][0]["status"]), (200, &json!("stored")));
    let (_, page) = curl(&node, &store, "/v1/notices?device=c&wait=20", &[]);
    assert_eq!((&page["notices"][0]["kind"], &page["notices"][0]["order"]), (&json!("new_order"), &json!("o1")));
    let accept = serde_json::to_string(&accepted("o1", "A17")).unwrap();
    let (_, answer) = curl(&node, &store, "/v1/events?device=c", &["-H", as_json, "-d", &accept]);
    assert_eq!(answer["events"][0]["status"], "stored");
    let next = format!("/v1/notices?device=c&wait=20&after={}", page["position"].as_str().unwrap());
    let (_, page) = curl(&node, &store, &next, &[]);
    assert_eq!(
        (&page["notices"][0]["kind"], &page["notices"][0]["body"]["pickup_code"]),
        (&json!("order_accepted"), &json!("A17"))
    );
    let (_, open) = curl(&node, &store, "/v1/orders?open=1", &[]);
    assert_eq!((&open["orders"][0]["stage"], &open["position"]), (&json!("accepted"), &page["position"]));
    let (status, problem) = curl(&node, &store, "/v1/notices?after=1.5.c3d1", &[]);
    assert_eq!((status, &problem["code"]), (409, &json!("epoch-changed")));
    assert_eq!(curl(&node, "none", "/v1/notices", &[]).0, 401);
}
