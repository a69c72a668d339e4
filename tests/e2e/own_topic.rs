//! The order system's topic and Orderbell's own output topic, both subscribed to by name: what a till reports goes out, comes back, and the
//! customer hears of it. Killed between the publication and the read-back, nothing is lost or doubled.

use std::collections::BTreeSet;
use std::time::Duration;

use orderbell_client::Received;
use orderbell_protocol::ClientEvent;
use orderbell_protocol::NoticeKind::{self, NewOrder, OrderAccepted, PickupCode};
use serde_json::json;

use crate::chain::{Node, Till, accepted, event, soon, until};
use crate::kafka::{Topic, bootstrap};

/// A server that names both topics. They have different numbers of partitions, so one order has different ones in them.
async fn node(die_at: &str) -> Node {
    let theirs = Topic::make(&bootstrap(), 2).await;
    let ours = output_of(&theirs);
    Topic::make_named(&bootstrap(), &ours, 5).await;
    let mut node = crate::kafka::node_of(theirs, &[&ours], crate::wall::config());
    if !die_at.is_empty() {
        node.die_at = die_at.to_owned();
        node.restart();
        node.die_at.clear();
    }
    node
}

fn output_of(theirs: &Topic) -> String {
    format!("{}.events", theirs.name)
}

/// The order system says that an order is paid.
async fn is_paid(node: &Node, order: &str) {
    node.happens(&[event("order.paid", order, json!({"store": "1", "customer": "c", "amount": 900}))]).await;
}

async fn says(till: &mut Till, event: ClientEvent) {
    till.socket.send_event(event).await.unwrap();
}

/// Notices that still came before the connection broke.
async fn last_notices(mut client: Till) -> usize {
    let mut notices = 0;
    loop {
        match soon("the end of a connection", client.socket.next()).await {
            Ok(Received::Notice(_)) => notices += 1,
            Ok(Received::Closed(_)) | Err(_) => return notices,
            Ok(Received::Frame(_)) => {}
        }
    }
}

/// The whole mailbox, as a device finds it that was never there.
async fn mailbox(node: &Node, role: &str, id: &str) -> Vec<(NoticeKind, String)> {
    let token = node.token(role, id);
    let page = soon("a poll's answer", node.http.poll(&token, "stranger", None, Duration::ZERO)).await.unwrap();
    page.notices.into_iter().map(|notice| (notice.notice.kind, notice.notice.order)).collect()
}

/// Both topics and both mailboxes hold each fact once.
async fn nothing_is_lost_or_doubled(node: &Node, orders: &[&str]) {
    let of = |kinds: &[NoticeKind]| -> Vec<(NoticeKind, String)> {
        orders.iter().flat_map(|order| kinds.iter().map(|kind| (*kind, (*order).to_owned()))).collect()
    };
    assert_eq!(mailbox(node, "store", "1").await, of(&[NewOrder, OrderAccepted]));
    assert_eq!(mailbox(node, "customer", "c").await, of(&[PickupCode]));
    // The wall is updated a moment after the mailboxes.
    let counted = orders.len() as i64;
    until("the wall shows both orders", async || {
        let today = crate::wall::look(node).await.today;
        today.paid >= counted && today.accepted >= counted
    })
    .await;
    let today = crate::wall::look(node).await.today;
    assert_eq!((today.paid, today.accepted), (counted, counted));
    let theirs = node.topic.as_ref().unwrap();
    assert!(theirs.values(&theirs.name).await.iter().all(|event| event["type"] == "order.paid"), "theirs is theirs");
    let published = theirs.values(&output_of(theirs)).await;
    assert!(published.iter().all(|event| event["type"] == "order.accepted"), "{published:?}");
    let ids: BTreeSet<String> = published.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), orders.len(), "one event, one id, however often it was published: {published:?}");
    until("it is well", async || node.is_well().await).await;
}

#[tokio::test]
async fn what_a_till_reports_comes_back_by_our_own_topic_and_the_customer_hears_it() {
    let node = node("").await;
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("c").await);
    for (order, code) in [("o1", "A17"), ("o2", "B18")] {
        is_paid(&node, order).await;
        till.hears(NewOrder, order).await;
        till.accepts(order, code).await;
        assert_eq!(phone.hears(PickupCode, order).await.notice.body["pickup_code"], code);
        till.hears(OrderAccepted, order).await;
    }
    nothing_is_lost_or_doubled(&node, &["o1", "o2"]).await;
}

/// `published` says that the output topic holds the event when the server dies; the customer was not notified of it.
async fn dies_at(step: &str, published: bool) {
    let mut node = node(step).await;
    let (mut till, phone) = (node.till("1", "a").await, node.phone("c").await);
    is_paid(&node, "o1").await;
    till.hears(NewOrder, "o1").await;
    let accept = accepted("o1", "A17");
    says(&mut till, accept.clone()).await;
    let ended = tokio::task::block_in_place(|| node.process.ends());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "it did not die at {step}");
    let position = till.position;
    // Between the publication and its mark somebody may have read it already.
    let received = (last_notices(till).await, last_notices(phone).await);
    assert!(step == "published@1" || received == (0, 0), "it was read back before {step}");
    let theirs = node.topic.as_ref().unwrap();
    assert_eq!(theirs.values(&output_of(theirs)).await.len(), usize::from(published));

    node.restart();
    let (mut till, mut phone) = (node.till_from("1", "a", Some(position)).await, node.phone("c").await);
    assert_eq!(phone.hears(PickupCode, "o1").await.notice.body["pickup_code"], "A17");
    till.hears(OrderAccepted, "o1").await;
    // The till does not know whether it was stored, and says it again: the same event.
    assert_eq!(till.says(accept).await.1, None);
    is_paid(&node, "o2").await;
    till.hears(NewOrder, "o2").await;
    till.accepts("o2", "B18").await;
    assert_eq!(phone.hears(PickupCode, "o2").await.notice.body["pickup_code"], "B18");
    till.hears(OrderAccepted, "o2").await;
    nothing_is_lost_or_doubled(&node, &["o1", "o2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_publication_nothing_is_lost_or_doubled() {
    dies_at("publish@1", false).await;
}

/// It is published again after the restart: the topic holds it twice, with one id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_publication_and_its_mark_nothing_is_lost_or_doubled() {
    dies_at("published@1", true).await;
}

/// The first record that is read is the payment, the second is our own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_as_it_is_read_back_nothing_is_lost_or_doubled() {
    dies_at("read@2", true).await;
}
