//! Paid orders of which no store is notified are an alert.

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use serde_json::json;

use crate::chain::{Node, until};

/// The bug: order numbers that begin again each day. The payment of the new order was stale, and nothing was red.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_of_an_order_that_was_picked_up_is_an_alert_until_it_is_acknowledged() {
    let node = Node::configured("");
    let alert = async || node.alert(AlertCode::PaidUnannounced).await.map(|alert| alert.detail);
    node.pays("0001", "1").await;
    node.till("1", "a").await.hears(NewOrder, "0001").await;
    node.event("order.picked_up", "0001", json!({"store": "1"})).await;
    assert_eq!(alert().await, None);
    node.pays("0001", "1").await;
    until("it is an alert", async || alert().await.is_some()).await;
    let detail = alert().await.unwrap();
    assert!(detail.contains("1 payments of orders that had been picked up"), "{detail}");
    assert_eq!(node.metric("orderbell_paid_unannounced_total{reason=\"after_end\"}").await, 1);
    assert!(node.command(&["alerts", "ack", "paid_unannounced"]).0);
    assert_eq!(alert().await, None);
}
