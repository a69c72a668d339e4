//! A topic that carries events of other systems, too: they are counted, and alert nobody.

use orderbell_protocol::NoticeKind::NewOrder;
use serde_json::json;

use crate::chain::{Node, event, until};

const CONFIG: &str = "[mapping.types]\n\"*\" = \"ignore\"\n\"payment.settled\" = \"ignore\"\n";

async fn ignored_events_hold_up_no_order_and_alert_nobody(node: Node) {
    let foreign = |kind: &str, n: u32| event(kind, "o1", json!({"n": n, "note": "order.paid soon"}));
    let paid = event("order.paid", "o1", json!({"store": "1", "amount": 1250}));
    node.happens(&[foreign("payment.settled", 1), paid, foreign("courier.moved", 2), foreign("courier.moved", 3)])
        .await;
    node.till("1", "a").await.hears(NewOrder, "o1").await;
    let ignored = async |kind: &str| node.metric(&format!("orderbell_events_ignored_total{{type=\"{kind}\"}}")).await;
    until("all are counted", async || ignored("courier.moved").await == 2 && ignored("payment.settled").await == 1)
        .await;
    assert_eq!(node.metric("orderbell_records_dead_lettered_total").await, 0);
    assert_eq!(node.metric("orderbell_records_rejected_total").await, 0);
    // A topic that was just made may have no leader yet; an alert about an event would not end by itself.
    until("it is well", async || node.is_well().await).await;
    // The order goes on behind them.
    node.event("order.cancelled", "o1", json!({"store": "1"})).await;
    let cancelled = "orderbell_events_total{type=\"order.cancelled\",result=\"moved\"}";
    until("the order is cancelled", async || node.metric(cancelled).await == 1).await;
}

async fn a_producer_learns_which_of_its_events_are_ignored(node: Node) {
    let foreign = json!({"type": "payment.settled", "id": "f1"});
    let paid = json!({"type": "order.paid", "id": "p1", "order": "o1", "store": "1"});
    let results = json!([{"id": "f1", "status": "ignored"}, {"id": "p1", "status": "stored"}]);
    assert_eq!(node.posts(&[foreign.clone(), paid.clone()]).await["events"], results);
    let results = json!([{"id": "p1", "status": "duplicate"}, {"id": "f1", "status": "ignored"}]);
    assert_eq!(node.posts(&[paid, foreign.clone()]).await["events"], results);
    assert_eq!(node.posts(&[foreign]).await["events"], json!([{"id": "f1", "status": "ignored"}]), "nothing else");
    assert_eq!(node.metric("orderbell_events_ignored_total{type=\"payment.settled\"}").await, 3);
    let conflict = json!([{"type": "payment.settled"}, {"type": "order.paid", "id": "p1", "order": "o2"}]);
    let answer = node.post(&conflict).await;
    assert_eq!((answer.status, &answer.json().unwrap()["errors"][0]["pointer"]), (409, &json!("/1/id")));
}

scenarios! {
    with crate::foreign_types::CONFIG;
    ignored_events_hold_up_no_order_and_alert_nobody,
    a_producer_learns_which_of_its_events_are_ignored,
}
