//! Paid orders of which no store is notified are an alert, until somebody looks after them.

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::admin::BalanceAnswer;
use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::Bin;
use serde_json::json;

use crate::chain::{Node, until};

/// Records and open records of a bin, of all topics.
fn bin(node: &Node, bin: Bin) -> (u64, u64) {
    let (done, said) = node.command(&["balance", "--json"]);
    assert!(done, "{said}");
    let balance: BalanceAnswer = serde_json::from_str(&said).unwrap();
    let of_bin = balance.bins.iter().filter(|count| count.key.bin == bin);
    of_bin.fold((0, 0), |(records, open), count| (records + count.records, open + count.open()))
}

/// The bug: order numbers that begin again each day. The payment of the new order was stale, and nothing was red.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_of_an_order_that_was_picked_up_is_an_alert_until_it_is_acknowledged() {
    let mut node = Node::configured("");
    let alert = async |node: &Node| node.alert(AlertCode::PaidUnannounced).await.map(|alert| alert.detail);
    node.pays("0001", "1").await;
    node.till("1", "a").await.hears(NewOrder, "0001").await;
    node.event("order.picked_up", "0001", json!({"store": "1"})).await;
    assert_eq!(alert(&node).await, None);
    node.pays("0001", "1").await;
    until("it is an alert", async || alert(&node).await.is_some()).await;
    let detail = alert(&node).await.unwrap();
    assert!(detail.contains("1 payments of orders that had been picked up or had ended, the newest at "), "{detail}");
    // Neither time nor a crash ends it, and nothing is counted twice.
    node.restart();
    assert_eq!(alert(&node).await.unwrap(), detail);
    assert_eq!((bin(&node, Bin::Notified), bin(&node, Bin::AfterEnd)), ((1, 1), (1, 1)));
    assert!(node.command(&["alerts", "ack", "paid_unannounced"]).0);
    assert_eq!(alert(&node).await, None);
    node.restart();
    assert_eq!((alert(&node).await, bin(&node, Bin::AfterEnd)), (None, (1, 0)));
}
