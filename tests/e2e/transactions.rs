//! A producer that hangs in a transaction holds back what stands behind it: that is lag, and clients see it.

use std::time::Duration;

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::task::block_in_place;

use crate::chain::until;
use crate::kafka::{Topic, bootstrap, node_on, paid};

const TIMEOUT: Duration = Duration::from_secs(120);

/// The bug: lag was counted to the last stable offset, so that nothing was behind and "as of" was now, while a paid order was held back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_open_transaction_holds_back_is_lag_and_stale() {
    let node = node_on(Topic::make(&bootstrap(), 1).await, "stale_after = \"6s\"");
    let topic = node.topic.as_ref().unwrap();
    let mut till = node.till("1", "a").await;
    topic.produces_raw(0, Some(paid(0).as_bytes())).await;
    till.hears(NewOrder, "o0").await;

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &topic.bootstrap).set("transactional.id", &topic.name);
    // The broker ends the transaction after this time, which is a minute by default.
    config.set("transaction.timeout.ms", "600000");
    let hangs: ThreadedProducer<_> = config.create().unwrap();
    block_in_place(|| {
        hangs.init_transactions(TIMEOUT).unwrap();
        hangs.begin_transaction().unwrap();
        hangs.send(BaseRecord::<str, str>::to(&topic.name).partition(0).payload("{}")).map_err(|(e, _)| e).unwrap();
        hangs.flush(TIMEOUT).unwrap();
    });
    topic.produces_raw(0, Some(paid(1).as_bytes())).await;
    let partition = format!("{}/0", topic.name);
    let alert = async || node.alert(AlertCode::StreamStale).await.map(|alert| alert.detail).unwrap_or_default();
    let wanted = format!("{partition} waits behind an open transaction of its producer at offset 1");
    until("the alert names it", async || alert().await.ends_with(&wanted)).await;
    let lag = format!("orderbell_partition_lag{{topic=\"{}\",partition=\"0\"}}", topic.name);
    until("the record of the transaction, and the order behind it", async || node.metric(&lag).await == 2).await;
    assert!(node.polls("1", "looker", None, 0).await.fresh.stale);

    block_in_place(|| hangs.abort_transaction(TIMEOUT).unwrap());
    till.hears(NewOrder, "o1").await;
    until("it is fresh again", async || !node.polls("1", "looker", None, 0).await.fresh.stale).await;
    until("the alert is over", async || node.is_well().await).await;
}
