//! Records that Kafka lost: the alert is raised, stays across restarts and kills, and ends when an operator acknowledges it.

use std::collections::BTreeSet;

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::admin::BalanceAnswer;
use orderbell_protocol::alert::{Alert, AlertCode};
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminOptions;
use serde_json::json;
use tokio::task::block_in_place;

use crate::chain::{Node, event, until};
use crate::kafka::{Topic, bootstrap, node_on};

fn paid(order: &str) -> String {
    event("order.paid", order, json!({"store": "1"})).to_string()
}

fn stops(node: &mut Node) {
    node.process.signal("TERM");
    assert!(block_in_place(|| node.process.ends()).success(), "{}", node.process.err.text());
}

/// A server that has read some orders of a topic with one partition, and was stopped.
async fn stopped_after(orders: &[&str]) -> Node {
    let mut node = node_on(Topic::make(&bootstrap(), 1).await, "");
    let mut till = node.till("1", "a").await;
    for order in orders {
        node.pays(order, "1").await;
        till.hears(NewOrder, order).await;
    }
    stops(&mut node);
    node
}

async fn raised(node: &Node, code: AlertCode) -> Alert {
    until("the alert is raised", async || node.alert(code).await.is_some()).await;
    node.alert(code).await.unwrap()
}

/// Orders of store 1, as a device that knows nothing hears them.
async fn received(node: &Node, count: usize) -> Vec<String> {
    let mut till = node.till("1", "stranger").await;
    let mut received = BTreeSet::new();
    while received.len() < count {
        let notice = till.notice().await;
        till.acks(&notice).await;
        received.insert(notice.notice.order);
    }
    Vec::from_iter(received)
}

/// How many records are in the balance, whatever their bin.
fn records_in_the_balance(node: &Node) -> u64 {
    let (_, said) = block_in_place(|| node.command(&["balance", "--json"]));
    let balance: BalanceAnswer = serde_json::from_str(&said).unwrap();
    balance.bins.iter().map(|bin| bin.records).sum()
}

/// Nothing but an acknowledgement ends the alert: no restart, no crash, no acknowledgement of another one.
async fn stays_until_it_is_acknowledged(mut node: Node, code: AlertCode) {
    let first = raised(&node, code).await;
    let partition = format!("{}/0", node.topic.as_ref().unwrap().name);
    assert_eq!(first.subject.as_ref(), Some(&partition));
    stops(&mut node);
    node.restart();
    assert_eq!(raised(&node, code).await, first, "a restart");
    node.restart();
    assert_eq!(raised(&node, code).await, first, "a kill -9");

    let word = code.word();
    assert!(first.detail.ends_with(&format!("orderbell alerts ack {word} {partition}")), "{first:?}");
    let (done, said) = node.command(&["alerts", "ack", word, "orders/999"]);
    assert!(!done && said.contains("no such alert"), "{said}");
    let (done, said) = node.command(&["alerts", "ack", "stream_stale"]);
    assert!(!done && said.contains("ends when its condition ends"), "{said}");
    let (_, listed) = node.command(&["alerts", "list"]);
    assert!(listed.contains(word) && listed.contains(&partition), "{listed}");
    let (done, said) = node.command(&["alerts", "ack", word, &partition]);
    assert!(done && said.starts_with("acknowledged") && said.contains(&first.detail), "{said}");
    until("no alert is left", async || node.is_well().await).await;
    assert_eq!(node.command(&["alerts", "list"]), (true, String::new()));
    node.restart();
    node.pays("after", "1").await;
    until("it reads", async || node.metric("orderbell_events_total").await >= 1).await;
    assert_eq!(node.alerts().await, [], "it came back");
}

async fn retention_deletes(node: &Node, before: i64) {
    let topic = node.topic.as_ref().unwrap();
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset(&topic.name, 0, rdkafka::Offset::Offset(before)).unwrap();
    topic.admin().delete_records(&upto, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_deleted_unread_records_is_reported_until_it_is_acknowledged() {
    let mut node = stopped_after(&["o0"]).await;
    let topic = node.topic.as_ref().unwrap();
    for n in 1..6 {
        topic.produces_raw(0, Some(paid(&format!("o{n}")).as_bytes())).await;
    }
    retention_deletes(&node, 4).await;
    // The process dies as soon as the new checkpoint is durable: nobody has seen an alert, and no later start finds a gap.
    node.dies_while_it_starts("durable@1");
    node.restart();
    assert!(raised(&node, AlertCode::RetentionGap).await.detail.contains("deleted 3 offsets"));
    assert_eq!(received(&node, 3).await, ["o0", "o4", "o5"], "work goes on");
    // A second gap adds to the first.
    stops(&mut node);
    for n in 6..8 {
        node.topic.as_ref().unwrap().produces_raw(0, Some(paid(&format!("o{n}")).as_bytes())).await;
    }
    retention_deletes(&node, 7).await;
    node.restart();
    let is_sum = async || node.alert(AlertCode::RetentionGap).await.is_some_and(|gap| gap.detail.contains("deleted 4"));
    until("both gaps are one alert", is_sum).await;
    stays_until_it_is_acknowledged(node, AlertCode::RetentionGap).await;
}

/// Deletes the topic and makes one with the same name that holds these records.
async fn recreate(node: &Node, records: &[&str]) {
    let old = node.topic.as_ref().unwrap();
    let gone = old.admin().delete_topics(&[&old.name], &AdminOptions::new()).await;
    assert!(gone.unwrap().iter().all(Result::is_ok));
    let new = Topic::make_named(&bootstrap(), &old.name, 1).await;
    for record in records {
        new.produces_raw(0, Some(record.as_bytes())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_is_read_from_its_first_record_and_reported_until_it_is_acknowledged() {
    let mut node = stopped_after(&["o1"]).await;
    recreate(&node, &[&paid("o2"), &paid("o3")]).await;
    node.topic = Some(Topic::known(node.topic.as_ref().unwrap()));
    node.restart();
    raised(&node, AlertCode::TopicRecreated).await;
    assert_eq!(received(&node, 3).await, ["o1", "o2", "o3"]);
    stays_until_it_is_acknowledged(node, AlertCode::TopicRecreated).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_checkpoint_is_reported_until_it_is_acknowledged() {
    let mut node = stopped_after(&["o1", "o2"]).await;
    node.restart();
    // The same event, under its id, is in both logs.
    let o3 = paid("o3");
    node.topic.as_ref().unwrap().produces_raw(0, Some(o3.as_bytes())).await;
    until("it is read", async || records_in_the_balance(&node) == 3).await;
    stops(&mut node);
    recreate(&node, &[&o3, &paid("o4")]).await;
    node.topic = Some(Topic::known(node.topic.as_ref().unwrap()));
    node.restart();
    assert!(raised(&node, AlertCode::LogTruncated).await.detail.contains("ends 1 offsets before"));
    assert_eq!(received(&node, 4).await, ["o1", "o2", "o3", "o4"]);
    // Offsets of two logs are not compared: that of o3 is lower than the one it had before.
    until("all are in the balance", async || records_in_the_balance(&node) == 5).await;
    stays_until_it_is_acknowledged(node, AlertCode::LogTruncated).await;
}
