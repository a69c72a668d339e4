//! A cluster whose metadata is not as Kafka's own: it tells no id, or names no broker for a while.

use std::process::Command;
use std::time::{Duration, Instant};

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;

use crate::chain::{Node, until};
use crate::kafka::{Topic, bootstrap, node_on, paid};
use crate::metadata_proxy::MetadataProxy;

/// The bug: without a cluster id nothing was read, and the alert spoke of another member of the group, which nobody was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_id_is_an_alert_that_says_what_to_set_and_is_read_under_that_name() {
    let mut topic = Topic::make(&bootstrap(), 1).await;
    topic.produces_raw(0, Some(paid(1).as_bytes())).await;
    let proxy = MetadataProxy::nameless(&bootstrap()).await;
    topic.bootstrap = proxy.bootstrap();
    let mut node = node_on(topic, "");
    let detail = async || node.alert(AlertCode::PartitionUnassigned).await.map(|alert| alert.detail);
    until("the alert", async || detail().await.is_some_and(|detail| detail.contains("set kafka.cluster"))).await;
    assert!(node.alert(AlertCode::GroupShared).await.is_none());
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_orderbell"));
    let said = doctor.arg("doctor").args(&node.args).output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("tells no cluster id") && said.contains("set kafka.cluster"), "{said}");

    let config = &node.args[1];
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}cluster = \"chain\"\n")).unwrap();
    node.restart();
    node.till("1", "a").await.hears(NewOrder, "o1").await;
    until("no alert is left", async || node.is_well().await).await;
}

/// A server must read on so soon after metadata names its brokers again, or end with exit code 70, after which it is started again.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// The bug: librdkafka was left with no broker to ask, nothing was read until somebody started the server again, and the alert spoke of another
/// member of the group, which nobody was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_names_no_broker_for_a_while_is_an_alert_and_stops_the_server_for_no_longer_than_that() {
    let proxy = MetadataProxy::start(&bootstrap()).await;
    let mut topic = Topic::make(&bootstrap(), 1).await;
    topic.bootstrap = proxy.bootstrap();
    let mut node = node_on(topic, "stale_after = \"6s\"");
    node.topic.as_ref().unwrap().produces_raw(0, Some(paid(1).as_bytes())).await;
    node.till("1", "a").await.hears(NewOrder, "o1").await;

    // Again and again: a client that is connected goes on with the brokers that it knows.
    let names_the_cause = async || {
        proxy.names_no_broker();
        let detail = node.alert(AlertCode::StreamStale).await.map_or_else(String::new, |alert| alert.detail);
        detail.contains("; no broker answered for ")
    };
    until("the alert names the cause", names_the_cause).await;
    assert!(node.alert(AlertCode::GroupShared).await.is_none());
    node.topic.as_ref().unwrap().produces_raw(0, Some(paid(2).as_bytes())).await;

    proxy.names_its_broker();
    let since = Instant::now();
    let is_notified = async |node: &Node| orders_of(node).await.is_some_and(|orders| orders.contains(&"o2".to_owned()));
    while !node.process.is_gone() && !is_notified(&node).await {
        assert!(since.elapsed() < BACK_WITHIN, "it neither reads on nor ends: {:?}", node.alerts().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if node.process.is_gone() {
        let said = node.process.err.text();
        assert_eq!(node.process.ends().code(), Some(70), "{said}");
        assert!(said.contains("no broker answered for "), "{said}");
        node.restart();
    }
    until("it is read", async || is_notified(&node).await).await;
    until("the alert is over", async || node.is_well().await).await;
}

/// Orders that a stranger finds in the mailbox of store 1; `None` when the server is not there to ask.
async fn orders_of(node: &Node) -> Option<Vec<String>> {
    let page = node.http.poll(&node.token("store", "1"), "stranger", None, Duration::ZERO).await.ok()?;
    Some(page.notices.into_iter().map(|notice| notice.notice.order).collect())
}
