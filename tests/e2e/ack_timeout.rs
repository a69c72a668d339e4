//! A client that stays connected, reads, and never acknowledges.

use orderbell_client::{HttpClient, Received};
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use serde_json::json;

use crate::chain::{Node, soon, until};

scenarios! {
    with "[sessions]\nack_timeout = \"400ms\"\n";
    unacked_notices_are_redelivered_marked_and_an_unresponsive_client_is_found,
    a_poisoned_notice_does_not_block_the_next,
    a_nacked_notice_counts_as_acknowledged_and_raises_an_alert,
}

/// What the server says of a device of store 1.
async fn problem(node: &Node, device: &str) -> serde_json::Value {
    let seen = HttpClient::new(node.admin).get("/stores", "").await.unwrap().json().unwrap();
    let devices = seen["stores"][0]["devices"].as_array().cloned().unwrap_or_default();
    devices.into_iter().find(|seen| seen["device"] == device).unwrap_or_default()["problem"].clone()
}

async fn unacked_notices_are_redelivered_marked_and_an_unresponsive_client_is_found(node: Node) {
    let mut till = node.till("1", "silent").await;
    node.pays("o1", "1").await;
    let first = till.notice().await;
    let mut attempts = vec![first.attempt];
    let closed = loop {
        match soon("a repeat or the end", till.socket.next()).await.unwrap() {
            Received::Notice(again) => {
                assert_eq!((again.position, again.notice.id), (first.position, first.notice.id.clone()));
                attempts.push(again.attempt);
            }
            Received::Frame(_) => {}
            Received::Closed(why) => break why,
        }
    };
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert_eq!(closed, Some((4103, "ack-timeout".into())));
    until("operators see it", async || problem(&node, "silent").await == "unresponsive").await;
    // Nothing is lost: the next connection gets it, marked as a repeat.
    let mut back = node.till("1", "silent").await;
    let again = back.notice().await;
    assert!(again.attempt > 1 && again.notice.id == first.notice.id);
    back.acks(&again).await;
    until("the problem is over", async || problem(&node, "silent").await.is_null()).await;
}

async fn a_poisoned_notice_does_not_block_the_next(node: Node) {
    let mut other = node.till("1", "other").await;
    node.pays("o1", "1").await;
    other.hears(NewOrder, "o1").await;
    for _ in 0..3 {
        let mut till = node.till("1", "a").await;
        till.notice().await;
        assert_eq!(till.closed().await, Some((4103, "ack-timeout".into())));
    }
    until("operators see it", async || problem(&node, "a").await == "poisoned").await;
    assert!(problem(&node, "other").await.is_null());
    // Its next connection continues behind it, and an alert is raised; the order is still among the open orders.
    node.pays("o2", "1").await;
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o2").await;
    other.hears(NewOrder, "o2").await;
    assert_eq!(node.metric("orderbell_notices_poisoned_total").await, 1);
    let alert = node.alert(AlertCode::NoticesUndeliverable).await.unwrap();
    assert!(alert.detail.contains("1 skipped"), "{alert:?}");
    let admin = orderbell_client::HttpClient::new(node.admin);
    let ack = "/alerts/ack?code=notices_undeliverable";
    let acknowledged = admin.send("POST", ack, "", "application/json", "").await.unwrap();
    assert_eq!(acknowledged.json().unwrap()["acknowledged"][0]["detail"], alert.detail);
    assert_eq!(node.alert(AlertCode::NoticesUndeliverable).await, None);
    assert_eq!(admin.send("POST", ack, "", "application/json", "").await.unwrap().status, 404);
    let open = node.http.get("/v1/orders?open=1", &node.token("store", "1")).await.unwrap().json().unwrap();
    assert_eq!(open["orders"][0]["order"], "o1");
}

async fn a_nacked_notice_counts_as_acknowledged_and_raises_an_alert(node: Node) {
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    let notice = till.notice().await;
    let nack = json!({"type": "nack", "position": notice.position, "reason": "no-printer"});
    till.socket.send_text(&nack.to_string()).await.unwrap();
    let displayed = json!({"type": "displayed", "position": notice.position});
    till.socket.send_text(&displayed.to_string()).await.unwrap();
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    until("it is counted", async || node.metric("orderbell_notices_nacked_total").await == 1).await;
    until("this as well", async || node.metric("orderbell_notices_displayed_total").await == 1).await;
    let mut again = node.till("1", "a").await;
    assert!(again.position.seq >= notice.position.seq, "it is not sent again");
    node.pays("o3", "1").await;
    again.hears(NewOrder, "o3").await;
}
