//! A cluster whose metadata is not as Kafka's own: it tells no id.

use std::process::Command;

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;

use crate::chain::until;
use crate::kafka::{Topic, bootstrap, node_on, paid};
use crate::metadata_proxy::MetadataProxy;

/// The bug: without a cluster id nothing was read, and the alert spoke of another member of the group, which nobody was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_id_is_an_alert_that_says_what_to_set_and_is_read_under_that_name() {
    let mut topic = Topic::make(&bootstrap(), 1).await;
    topic.produces_raw(0, Some(paid(1).as_bytes())).await;
    let proxy = MetadataProxy::start(&bootstrap()).await;
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
}
