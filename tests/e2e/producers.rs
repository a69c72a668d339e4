//! Order systems that produce CloudEvents with the official SDKs, each in its language and with the Kafka client that is usual there.
//!
//! `tests/run.sh` fetches the SDKs and builds the producer in Go. Each producer sends an order in every mode that its SDK has, each event twice.

use std::collections::BTreeSet;
use std::path::Path;

use orderbell_lab::Process;
use orderbell_protocol::NoticeKind;
use orderbell_protocol::balance::Bin;
use serde_json::json;
use tokio::task::block_in_place;

use crate::chain::until;
use crate::mixed_load::{Bins, bins};
use crate::outside::{fetched, root};

const OVER_KAFKA: [&str; 2] = ["kafka-binary-1", "kafka-structured-1"];
const OVER_HTTP: [&str; 2] = ["http-binary-1", "http-structured-1"];
const IN_A_BATCH: [&str; 2] = ["http-batch-1", "http-batch-2"];

/// The store hears of each order once, and nothing else happens.
async fn notifies_the_store(command: &[&str], env: &[(&str, &str)], over_http: &[&str]) {
    let node = crate::kafka::node().await;
    let topic = node.topic.as_ref().unwrap();
    let mut till = node.till("17", "a").await;
    let (server, token) = (format!("http://{}", node.public), node.token("producer", "shop"));
    let args = [&command[1..], &[&topic.bootstrap, &topic.name, &server]].concat();
    let env = [env, &[("ORDERBELL_TOKEN", &*token)]].concat();
    let mut producer = Process::start(Path::new(command[0]), &args, &env);
    assert!(block_in_place(|| producer.ends()).success(), "{}", producer.err.text());
    let wanted: BTreeSet<&str> = OVER_KAFKA.iter().chain(over_http).copied().collect();
    let mut received = BTreeSet::new();
    for _ in &wanted {
        let notice = till.notice().await;
        till.acks(&notice).await;
        assert_eq!(notice.notice.kind, NoticeKind::NewOrder);
        assert_eq!(serde_json::to_value(&notice.notice.body).unwrap(), json!({"amount": 1250, "currency": "CNY"}));
        assert!(received.insert(notice.notice.order), "twice");
    }
    assert_eq!(received, wanted.iter().map(|order| (*order).to_owned()).collect());
    // What is posted again is recognised by the HTTP endpoint, what is produced again when it is read.
    let count = |bin, records: usize| ((false, bin, String::new()), records as u64);
    let all = Bins::from([count(Bin::Notified, wanted.len()), count(Bin::Duplicate, OVER_KAFKA.len())]);
    until("everything was read", async || bins(&node).await == all).await;
    let page = node.polls("17", "stranger", None, 0).await;
    assert_eq!(page.notices.len(), wanted.len(), "{:?}", page.notices);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_with_confluents_client_notifies_the_store() {
    let (script, packages) = (root().join("tests/outside/produce.py"), fetched("python"));
    notifies_the_store(&["python3", script.to_str().unwrap()], &[("PYTHONPATH", &packages)], &OVER_HTTP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_java_sdk_with_kafkas_client_notifies_the_store() {
    let (source, jars) = (root().join("tests/outside/Produce.java"), format!("{}/*", fetched("java")));
    notifies_the_store(&["java", "-cp", &jars, source.to_str().unwrap()], &[], &OVER_HTTP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_sdk_with_sarama_notifies_the_store() {
    let over_http = [OVER_HTTP, IN_A_BATCH].concat();
    notifies_the_store(&[&fetched("produce-go")], &[], &over_http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_javascript_sdk_with_kafkajs_notifies_the_store() {
    let (script, modules) = (root().join("tests/outside/produce.js"), fetched("node_modules"));
    notifies_the_store(&["node", script.to_str().unwrap()], &[("NODE_PATH", &modules)], &OVER_HTTP).await;
}
