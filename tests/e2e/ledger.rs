//! A ledger that is restored, rolled back or lost: it is noticed, nothing that the log holds is lost, and clients go on.

use std::collections::BTreeSet;

use orderbell_client::{Received, Socket};
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::Position;
#[cfg(feature = "real-kafka")]
use orderbell_protocol::alert::AlertCode;
use serde_json::json;

use crate::chain::{Node, event, soon, until};

/// Runs `orderbell ledger ...` on the server's directory; what it said, and its exit code.
pub(crate) fn ledger(node: &Node, args: &[&str]) -> (i32, String) {
    let admin = node.admin.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.arg("ledger").args(args).args(["--data-dir", node.dir.to_str().unwrap(), "--admin", &admin]);
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (done.status.code().unwrap_or(-1), said.concat())
}

/// All open orders of store 1, and where to go on.
pub(crate) async fn open_orders(node: &Node) -> (BTreeSet<String>, Position) {
    let (mut orders, mut position, mut from) = (BTreeSet::new(), None, String::new());
    // While the log is read again, open orders are not answered at all rather than in part.
    let ask = async || node.http.get("/v1/orders?open=1", &node.token("store", "1")).await.unwrap().status;
    until("what is open is known", async || ask().await == 200).await;
    loop {
        let path = format!("/v1/orders?open=1{from}");
        let answer = node.http.get(&path, &node.token("store", "1")).await.unwrap();
        assert_eq!(answer.status, 200);
        let answer = answer.json().unwrap();
        orders.extend(
            answer["orders"].as_array().unwrap().iter().map(|order| order["order"].as_str().unwrap().to_owned()),
        );
        let position = *position.get_or_insert_with(|| answer["position"].as_str().unwrap().parse().unwrap());
        match answer["next"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return (orders, position),
        }
    }
}

/// Orders of store 1 with these numbers are paid.
async fn pays(node: &Node, numbers: std::ops::Range<usize>) {
    let paid: Vec<_> = numbers.map(|n| event("order.paid", &format!("o{n}"), json!({"store": "1"}))).collect();
    node.happens(&paid).await;
}

/// A till that hears so many new orders, and where it stands then.
async fn hears(node: &Node, from: Option<Position>, count: usize) -> Position {
    let mut till = node.till_from("1", "a", from).await;
    for _ in 0..count {
        let notice = till.notice().await;
        assert_eq!(notice.notice.kind, NewOrder);
        till.acks(&notice).await;
    }
    till.position
}

async fn is_refused(node: &Node, position: Position) {
    let mut socket =
        Socket::open_with_hello(node.public, &node.token("store", "1"), "a", Some(position)).await.unwrap();
    let received = soon("a close", socket.next()).await.unwrap();
    let Received::Closed(Some((code, why))) = received else { panic!("instead of a close: {received:?}") };
    assert_eq!((code, why.as_str()), (4200, "resync;epoch-changed"));
}

fn names(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|n| format!("o{n}")).collect()
}

/// A device with an old position takes the open orders and hears the next order, and nothing of what it knew.
async fn resyncs(node: &Node, old: Position) {
    is_refused(node, old).await;
    let (_, position) = open_orders(node).await;
    assert_ne!(position.epoch, old.epoch);
    let mut till = node.till_from("1", "a", Some(position)).await;
    node.pays("next", "1").await;
    till.hears(NewOrder, "next").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_restored_and_clients_resync() {
    let mut node = Node::embedded();
    pays(&node, 0..300).await;
    let file = node.dir.with_extension("backup");
    let name = file.to_str().unwrap().to_owned();
    // It is taken while orders come: whatever it holds fits together.
    let load = async {
        for n in 0..20 {
            pays(&node, 300 + n * 10..310 + n * 10).await;
        }
    };
    let backup = async { tokio::task::block_in_place(|| ledger(&node, &["backup", &name])) };
    let ((), (code, said)) = tokio::join!(load, backup);
    assert_eq!(code, 0, "{said}");
    let (code, said) = tokio::task::block_in_place(|| ledger(&node, &["backup", &name]));
    assert_eq!(code, 1, "a backup is never written over: {said}");
    let before = hears(&node, None, 500).await;
    let (code, said) = tokio::task::block_in_place(|| ledger(&node, &["restore", &name]));
    assert_eq!(code, 1, "not under a server that runs: {said}");
    node.process.signal("TERM");
    assert!(node.process.ends().success());
    let (code, said) = ledger(&node, &["restore", &name]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = ledger(&node, &["check"]);
    assert_eq!(code, 0, "{said}");
    node.restart();
    until("the history is complete again", async || node.is_well().await).await;
    let (orders, _) = open_orders(&node).await;
    assert!(orders.is_superset(&names(0..300)) && orders.is_subset(&names(0..500)), "{} orders", orders.len());
    resyncs(&node, before).await;
    // The embedded log was rolled back with it: its producers post later events again, and they are stored.
    let last = event("order.paid", "again", json!({"store": "1", "id": "e-last"}));
    assert_eq!(node.posts(&[last]).await["events"][0]["status"], "stored");
}

#[tokio::test]
async fn an_incomplete_backup_is_refused_and_the_ledger_stays() {
    let mut node = Node::embedded();
    pays(&node, 0..5).await;
    let before = hears(&node, None, 5).await;
    node.process.signal("TERM");
    assert!(node.process.ends().success());
    let file = node.dir.with_extension("backup");
    let name = file.to_str().unwrap().to_owned();
    assert_eq!(ledger(&node, &["backup", &name]).0, 0);
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let faults: [(&str, &[u8]); 4] =
        [("cut", &good[..good.len() - 9]), ("flipped", &flipped), ("empty", b""), ("another", b"something else")];
    for (fault, bytes) in faults {
        std::fs::write(&file, bytes).unwrap();
        let (code, said) = ledger(&node, &["restore", &name]);
        assert!(code == 1 && said.contains("not a complete backup"), "{fault}: {said}");
    }
    node.restart();
    node.pays("next", "1").await;
    assert_eq!(hears(&node, Some(before), 1).await.epoch, before.epoch, "nothing happened to the ledger");
}

#[cfg(feature = "real-kafka")]
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// Changes its configuration file.
#[cfg(feature = "real-kafka")]
fn configures(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(&node.args[1]).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&node.args[1], text.replace(from, to)).unwrap();
}

#[cfg(feature = "real-kafka")]
pub(crate) async fn stops(node: &mut Node) {
    node.process.signal("TERM");
    assert!(tokio::task::block_in_place(|| node.process.ends()).success(), "{}", node.process.err.text());
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_rolled_back_behind_its_group_is_noticed_and_loses_nothing() {
    let mut node = crate::kafka::node_with("min_free_space = \"0MiB\"").await;
    pays(&node, 0..50).await;
    hears(&node, None, 50).await;
    stops(&mut node).await;
    let copied = node.dir.with_extension("copy");
    copy(&node.dir, &copied);
    node.restart();
    pays(&node, 50..80).await;
    let after = hears(&node, None, 30).await;
    stops(&mut node).await;
    // Somebody puts yesterday's files back.
    std::fs::remove_dir_all(&node.dir).unwrap();
    copy(&copied, &node.dir);
    // No disk has so much room: nothing is taken in, so nothing is caught up with before the alerts are seen.
    configures(&node, "min_free_space = \"0MiB\"", "min_free_space = \"1099511627776MiB\"");
    node.restart();
    node.process.err.wait_for("it was rolled back", |line| line.contains("the ledger was rolled back").then_some(()));
    for code in [AlertCode::StateRolledBack, AlertCode::LedgerRebuilding] {
        until(code.word(), async || node.alert(code).await.is_some()).await;
    }
    configures(&node, "min_free_space = \"1099511627776MiB\"", "min_free_space = \"0MiB\"");
    node.process.signal("HUP");
    until("all orders are there again", async || open_orders(&node).await.0 == names(0..80)).await;
    until("the history is complete again", async || node.is_well().await).await;
    resyncs(&node, after).await;
    // The next start is a usual one: same epoch, no alert.
    let (_, position) = open_orders(&node).await;
    stops(&mut node).await;
    node.restart();
    assert_eq!(open_orders(&node).await.1.epoch, position.epoch);
    until("it is well", async || node.is_well().await).await;
}

/// On Kafka the log was not restored with the ledger: it is read on from the checkpoint of the backup, and nothing is lost.
#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_ledger_on_kafka_reads_on_from_its_checkpoint() {
    let mut node = crate::kafka::node().await;
    pays(&node, 0..30).await;
    hears(&node, None, 30).await;
    let file = node.dir.with_extension("backup");
    let name = file.to_str().unwrap().to_owned();
    let (code, said) = tokio::task::block_in_place(|| ledger(&node, &["backup", &name]));
    assert_eq!(code, 0, "{said}");
    pays(&node, 30..50).await;
    let before = hears(&node, None, 20).await;
    stops(&mut node).await;
    assert_eq!(ledger(&node, &["restore", &name]).0, 0);
    node.restart();
    until("all orders are there again", async || open_orders(&node).await.0 == names(0..50)).await;
    until("the history is complete again", async || node.is_well().await).await;
    resyncs(&node, before).await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ledger_is_rebuilt_from_the_log() {
    let mut node = crate::kafka::node().await;
    pays(&node, 0..40).await;
    let before = hears(&node, None, 40).await;
    stops(&mut node).await;
    std::fs::remove_dir_all(node.dir.join("db")).unwrap();
    node.restart();
    until("all orders are there again", async || open_orders(&node).await.0 == names(0..40)).await;
    resyncs(&node, before).await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_in_the_same_consumer_group_exits_with_a_clear_error() {
    let node = crate::kafka::node().await;
    node.pays("o1", "1").await;
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o1").await;
    // A second server with a ledger of its own and the same group.
    let text = std::fs::read_to_string(&node.args[1]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (config, data) = (dir.path().join("second.toml"), dir.path().join("data"));
    std::fs::write(&config, format!("{text}properties = {{ \"session.timeout.ms\" = \"6000\" }}\n")).unwrap();
    let args = ["serve", "--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let loopback = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let args = [&args[..], &loopback].concat();
    let exe = std::path::Path::new(env!("CARGO_BIN_EXE_orderbell"));
    let mut second = orderbell_lab::Process::start(exe, &args, &[]);
    let ended = tokio::task::block_in_place(|| second.ends());
    assert_eq!(ended.code(), Some(1), "{}", second.err.text());
    assert!(second.err.text().contains("give this one a group of its own"), "{}", second.err.text());
    // The first one was not disturbed.
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    until("it is well", async || node.is_well().await).await;
}

/// Another consumer joins the group without looking first: each would know half of the orders and report them as all.
#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_group_member_stops_intake_until_it_leaves() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let node = crate::kafka::node_with("stale_after = \"5s\"").await;
    let topic = node.topic.as_ref().unwrap();
    pays(&node, 0..1).await;
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o0").await;
    let config = [
        ("bootstrap.servers", topic.bootstrap.as_str()),
        ("group.id", topic.name.as_str()),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("enable.auto.commit", "false"),
    ];
    let config: rdkafka::ClientConfig = config.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (stay, name) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)), topic.name.clone());
    let stays = stay.clone();
    let stranger = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&[&name]).unwrap();
        while stays.load(std::sync::atomic::Ordering::Acquire) {
            // What it reads it keeps to itself.
            let _lost_to_the_stranger = consumer.poll(std::time::Duration::from_millis(100));
        }
        consumer.unsubscribe();
    });
    until("the alert is raised", async || node.alert(AlertCode::GroupShared).await.is_some()).await;
    until("clients see `stale`", async || node.polls("1", "b", None, 0).await.fresh.stale).await;
    // Whichever partition it is on: nothing is taken in while another member owns half of them.
    let before = node.metric("orderbell_records_taken_total").await;
    pays(&node, 1..9).await;
    assert_eq!(before, node.metric("orderbell_records_taken_total").await);
    stay.store(false, std::sync::atomic::Ordering::Release);
    stranger.await.unwrap();
    let mut received = std::collections::BTreeSet::new();
    while received.len() < 8 {
        let notice = till.notice().await;
        till.acks(&notice).await;
        received.insert(notice.notice.order);
    }
    assert_eq!(received, names(1..9));
    until("the alert is over", async || node.is_well().await).await;
}
