//! A ledger that is put back, went back, or is gone: it is noticed, nothing that the log holds is lost, and clients go on.

use std::collections::BTreeSet;

use orderbell::client::{Heard, Http, Socket};
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::Position;
use serde_json::json;

use crate::chain::{Bell, event, soon, until};

/// Runs `orderbell ledger ...` on the server's directory; what it said, and its exit code.
fn ledger(bell: &Bell, args: &[&str]) -> (i32, String) {
    let admin = bell.admin.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.arg("ledger").args(args).args(["--data-dir", bell.dir.to_str().unwrap(), "--admin", &admin]);
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (done.status.code().unwrap_or(-1), said.concat())
}

/// All open orders of store 1, and where to go on.
async fn open_orders(bell: &Bell) -> (BTreeSet<String>, Position) {
    let (mut orders, mut position, mut from) = (BTreeSet::new(), None, String::new());
    // While the log is read again, nobody is told half of the truth.
    let ask = async || bell.http.ask("/v1/orders?open=1", &bell.token("store", "1")).await.unwrap().status;
    until("what is open is known", async || ask().await == 200).await;
    loop {
        let path = format!("/v1/orders?open=1{from}");
        let answer = bell.http.ask(&path, &bell.token("store", "1")).await.unwrap();
        assert_eq!(answer.status, 200);
        let answer = answer.json();
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
async fn pays(bell: &Bell, numbers: std::ops::Range<usize>) {
    let paid: Vec<_> = numbers.map(|n| event("order.paid", &format!("o{n}"), json!({"store": "1"}))).collect();
    bell.happens(&paid).await;
}

/// A till that hears so many new orders, and where it stands then.
async fn hears(bell: &Bell, from: Option<Position>, count: usize) -> Position {
    let mut till = bell.till_from("1", "a", from).await;
    for _ in 0..count {
        let notice = till.notice().await;
        assert_eq!(notice.notice.kind, NewOrder);
        till.acks(&notice).await;
    }
    till.position
}

async fn is_refused(bell: &Bell, position: Position) {
    let mut socket = Socket::hello(bell.public, &bell.token("store", "1"), "a", Some(position)).await.unwrap();
    let heard = soon("a close", socket.next()).await.unwrap();
    let Heard::Closed(Some((code, why))) = heard else { panic!("instead of a close: {heard:?}") };
    assert_eq!((code, why.as_str()), (4200, "resync;epoch-changed"));
}

async fn red(bell: &Bell) -> serde_json::Value {
    Http::new(bell.admin).ask("/ready", "").await.unwrap().json()["red"].clone()
}

fn names(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|n| format!("o{n}")).collect()
}

/// A device with an old position takes the open orders and hears the next order, and nothing of what it knew.
async fn resyncs(bell: &Bell, old: Position) {
    is_refused(bell, old).await;
    let (_, position) = open_orders(bell).await;
    assert_ne!(position.epoch, old.epoch);
    let mut till = bell.till_from("1", "a", Some(position)).await;
    bell.pays("next", "1").await;
    till.hears(NewOrder, "next").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_put_back_and_clients_resync() {
    let mut bell = Bell::embedded();
    pays(&bell, 0..300).await;
    let file = bell.dir.with_extension("backup");
    let name = file.to_str().unwrap().to_owned();
    // It is taken while orders come: whatever it holds fits together.
    let load = async {
        for n in 0..20 {
            pays(&bell, 300 + n * 10..310 + n * 10).await;
        }
    };
    let backup = async { tokio::task::block_in_place(|| ledger(&bell, &["backup", &name])) };
    let ((), (code, said)) = tokio::join!(load, backup);
    assert_eq!(code, 0, "{said}");
    let (code, said) = tokio::task::block_in_place(|| ledger(&bell, &["backup", &name]));
    assert_eq!(code, 1, "a backup is never written over: {said}");
    let before = hears(&bell, None, 500).await;
    let (code, said) = tokio::task::block_in_place(|| ledger(&bell, &["restore", &name]));
    assert_eq!(code, 1, "not under a server that runs: {said}");
    bell.process.signal("TERM");
    assert!(bell.process.ends().success());
    let (code, said) = ledger(&bell, &["restore", &name]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = ledger(&bell, &["check"]);
    assert_eq!(code, 0, "{said}");
    bell.restart();
    until("the doubt is over", async || red(&bell).await == json!({})).await;
    let (orders, _) = open_orders(&bell).await;
    assert!(orders.is_superset(&names(0..300)) && orders.is_subset(&names(0..500)), "{} orders", orders.len());
    resyncs(&bell, before).await;
    // The embedded log went back with it: what came later is posted again by its producers, and taken.
    let last = event("order.paid", "again", json!({"store": "1", "id": "e-last"}));
    assert_eq!(bell.posts(&[last]).await["events"][0]["status"], "logged");
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_the_ledger_stays() {
    let mut bell = Bell::embedded();
    pays(&bell, 0..5).await;
    let before = hears(&bell, None, 5).await;
    bell.process.signal("TERM");
    assert!(bell.process.ends().success());
    let file = bell.dir.with_extension("backup");
    let name = file.to_str().unwrap().to_owned();
    assert_eq!(ledger(&bell, &["backup", &name]).0, 0);
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let faults: [(&str, &[u8]); 4] =
        [("cut", &good[..good.len() - 9]), ("flipped", &flipped), ("empty", b""), ("another", b"something else")];
    for (fault, bytes) in faults {
        std::fs::write(&file, bytes).unwrap();
        let (code, said) = ledger(&bell, &["restore", &name]);
        assert!(code == 1 && said.contains("not a whole backup"), "{fault}: {said}");
    }
    bell.restart();
    bell.pays("next", "1").await;
    assert_eq!(hears(&bell, Some(before), 1).await.epoch, before.epoch, "nothing happened to the ledger");
}

#[cfg(feature = "real-kafka")]
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[cfg(feature = "real-kafka")]
async fn stops(bell: &mut Bell) {
    bell.process.signal("TERM");
    assert!(tokio::task::block_in_place(|| bell.process.ends()).success(), "{}", bell.process.err.text());
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_went_back_behind_the_group_is_noticed_and_loses_nothing() {
    let mut bell = crate::kafka::bell().await;
    pays(&bell, 0..50).await;
    hears(&bell, None, 50).await;
    stops(&mut bell).await;
    let copied = bell.dir.with_extension("copy");
    copy(&bell.dir, &copied);
    bell.restart();
    pays(&bell, 50..80).await;
    let after = hears(&bell, None, 30).await;
    stops(&mut bell).await;
    // Somebody puts yesterday's files back.
    std::fs::remove_dir_all(&bell.dir).unwrap();
    copy(&copied, &bell.dir);
    bell.restart();
    assert!(bell.process.err.text().contains("it went back"), "{}", bell.process.err.text());
    until("all orders are there again", async || open_orders(&bell).await.0 == names(0..80)).await;
    until("the doubt is over", async || red(&bell).await == json!({})).await;
    resyncs(&bell, after).await;
    // The next start is a usual one: same epoch, no doubt.
    let (_, position) = open_orders(&bell).await;
    stops(&mut bell).await;
    bell.restart();
    assert_eq!(open_orders(&bell).await.1.epoch, position.epoch);
    assert_eq!(red(&bell).await, json!({}));
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_gone_is_made_again_from_the_log() {
    let mut bell = crate::kafka::bell().await;
    pays(&bell, 0..40).await;
    let before = hears(&bell, None, 40).await;
    stops(&mut bell).await;
    std::fs::remove_dir_all(bell.dir.join("db")).unwrap();
    bell.restart();
    until("all orders are there again", async || open_orders(&bell).await.0 == names(0..40)).await;
    resyncs(&bell, before).await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_finds_another_member_of_its_group_leaves_with_a_clear_sentence() {
    let bell = crate::kafka::bell().await;
    bell.pays("o1", "1").await;
    let mut till = bell.till("1", "a").await;
    till.hears(NewOrder, "o1").await;
    // A second server with a ledger of its own and the same group.
    let text = std::fs::read_to_string(&bell.args[1]).unwrap();
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
    bell.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    assert_eq!(red(&bell).await, json!({}));
}

/// Somebody joins the group who does not look around first: each would know half of the orders and say that it is all.
#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_group_stops_intake_until_it_is_gone() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let bell = crate::kafka::bell_with("stale_after_seconds = 5").await;
    let topic = bell.topic.as_ref().unwrap();
    pays(&bell, 0..1).await;
    let mut till = bell.till("1", "a").await;
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
    until("the light is red", async || red(&bell).await["group"].is_string()).await;
    until("clients are told", async || bell.polls("1", "b", None, 0).await.fresh.stale).await;
    // Whichever partition it is on: nothing is taken in while half of them are somebody else's.
    let before = bell.metric("orderbell_records_taken_total").await;
    pays(&bell, 1..9).await;
    assert_eq!(before, bell.metric("orderbell_records_taken_total").await);
    stay.store(false, std::sync::atomic::Ordering::Release);
    stranger.await.unwrap();
    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < 8 {
        let notice = till.notice().await;
        till.acks(&notice).await;
        heard.insert(notice.notice.order);
    }
    assert_eq!(heard, names(1..9));
    until("the light is out", async || red(&bell).await == json!({})).await;
}
