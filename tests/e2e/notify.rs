//! Who hears what.

use orderbell_protocol::NoticeKind::{Cancelled, NewOrder, OrderAccepted, PickupCode, Ready};
use serde_json::json;

use crate::chain::{Node, event, now, until};

scenarios! {
    a_new_order_reaches_two_tills_of_a_store_and_no_till_of_another,
    the_pickup_code_reaches_its_customer_and_nobody_else,
    a_client_that_was_offline_for_a_thousand_notices_resumes_in_order,
    switching_between_socket_long_poll_and_poll_loses_nothing,
    what_was_cancelled_before_it_was_sent_never_rings,
    the_same_events_twice_change_nothing,
    yesterdays_orders_ring_nobody,
    the_end_of_an_order_that_was_too_old_to_ring_is_a_notice,
    a_poll_beside_the_socket_moves_the_same_cursor,
    each_stage_of_the_way_is_timed_once,
}

async fn a_new_order_reaches_two_tills_of_a_store_and_no_till_of_another(node: Node) {
    let (mut a, mut b) = (node.till("1", "a").await, node.till("1", "b").await);
    let mut other = node.till("10", "a").await;
    node.pays("o1", "1").await;
    let (at_a, at_b) = (a.hears(NewOrder, "o1").await, b.hears(NewOrder, "o1").await);
    assert_eq!((at_a.notice.id, at_a.position), (at_b.notice.id, at_b.position), "one notice, one position");
    assert_eq!((at_a.attempt, at_b.attempt), (1, 1));
    // What the other store hears first is its own.
    node.pays("o2", "10").await;
    other.hears(NewOrder, "o2").await;
}

async fn each_stage_of_the_way_is_timed_once(node: Node) {
    let timed = async |stage: &str| node.metric(&format!("orderbell_{stage}_seconds_count")).await;
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    until("all four are timed", async || {
        [
            timed("consume_lag").await,
            timed("commit_latency").await,
            timed("push_latency").await,
            timed("ack_latency").await,
        ] == [1; 4]
    })
    .await;
    // What waited for a till that was offline says nothing about how fast a push is.
    drop(till);
    until("it is gone", async || node.metric("orderbell_subscribers").await == 0).await;
    node.pays("o2", "1").await;
    until("it is durable", async || timed("commit_latency").await == 2).await;
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o2").await;
    until("it is acknowledged", async || timed("ack_latency").await == 2).await;
    assert_eq!(timed("push_latency").await, 1);
}

async fn the_pickup_code_reaches_its_customer_and_nobody_else(node: Node) {
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("of-o1").await);
    let mut stranger = node.phone("of-o2").await;
    node.pays("o1", "1").await;
    node.event("order.accepted", "o1", json!({"pickup_code": "A17-secret", "device": "a"})).await;
    till.hears(NewOrder, "o1").await;
    let taken = till.hears(OrderAccepted, "o1").await;
    assert_eq!((&taken.notice.body["pickup_code"], &taken.notice.body["device"]), (&json!("A17-secret"), &json!("a")));
    let code = phone.hears(PickupCode, "o1").await;
    assert_eq!(code.notice.body["pickup_code"], "A17-secret");
    node.pays("o2", "1").await;
    node.event("order.accepted", "o2", json!({"pickup_code": "B9"})).await;
    let theirs = stranger.hears(PickupCode, "o2").await;
    assert_eq!(theirs.notice.body["pickup_code"], "B9");
    node.event("order.ready", "o1", json!({})).await;
    phone.hears(Ready, "o1").await;
    assert!(!node.process.err.text().contains("A17-secret"), "a pickup code is in the log");
}

async fn a_client_that_was_offline_for_a_thousand_notices_resumes_in_order(node: Node) {
    let mut till = node.till("1", "a").await;
    node.pays("before", "1").await;
    till.hears(NewOrder, "before").await;
    let position = till.position;
    drop(till);
    let events: Vec<_> =
        (0..1000).map(|n| event("order.paid", &format!("o{n}"), json!({"store": "1", "amount": n}))).collect();
    node.happens(&events).await;
    let mut till = node.till_from("1", "a", Some(position)).await;
    assert_eq!(till.position, position);
    let mut received = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let notice = till.notice().await;
        assert_eq!(notice.attempt, 1);
        till.acks(&notice).await;
        received.insert(notice.notice.order);
    }
    assert_eq!(received.len(), 1000, "each once");
}

async fn switching_between_socket_long_poll_and_poll_loses_nothing(node: Node) {
    let mut position = None;
    let mut received = Vec::new();
    for n in 0..24 {
        let order = format!("o{n}");
        let notice = match n % 3 {
            0 => {
                let mut till = node.till_from("1", "a", position).await;
                node.pays(&order, "1").await;
                let notice = till.notice().await;
                till.acks(&notice).await;
                notice
            }
            1 => {
                let (answer, ()) = tokio::join!(node.polls("1", "a", position, 20), node.pays(&order, "1"));
                answer.notices.into_iter().next_back().expect("a long-poll answers with the notice")
            }
            _ => {
                node.pays(&order, "1").await;
                let mut answer = node.polls("1", "a", position, 0).await;
                while answer.notices.is_empty() {
                    answer = node.polls("1", "a", position, 5).await;
                }
                answer.notices.into_iter().next_back().expect("a poll answers with the notice")
            }
        };
        assert_eq!(notice.prev, position.unwrap_or(notice.prev), "the chain goes on from reader to reader");
        position = Some(notice.position);
        received.push(notice.notice.order);
    }
    assert_eq!(received, (0..24).map(|n| format!("o{n}")).collect::<Vec<_>>());
}

async fn what_was_cancelled_before_it_was_sent_never_rings(node: Node) {
    let mut awake = node.till("1", "awake").await;
    node.pays("o1", "1").await;
    let new = awake.hears(NewOrder, "o1").await;
    node.event("order.cancelled", "o1", json!({"reason": "changed my mind"})).await;
    let cancelled = awake.hears(Cancelled, "o1").await;
    assert_eq!(cancelled.notice.body["cancels"], json!(new.notice.id), "it names what it takes back");
    let mut asleep = node.till("1", "asleep").await;
    asleep.hears(Cancelled, "o1").await;
}

async fn the_same_events_twice_change_nothing(node: Node) {
    let mut till = node.till("1", "a").await;
    let paid = event("order.paid", "o1", json!({"store": "1", "amount": 5}));
    node.happens(&[paid.clone(), paid]).await;
    till.hears(NewOrder, "o1").await;
    // The same fact under another id is a duplicate for the order, too.
    node.event("order.paid", "o1", json!({"store": "1", "amount": 5})).await;
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
}

#[tokio::test]
async fn an_event_that_is_posted_again_is_a_duplicate_and_another_one_under_its_id_is_refused() {
    let node = Node::embedded();
    let paid = event("order.paid", "o1", json!({"store": "1", "amount": 5}));
    let first = node.posts(std::slice::from_ref(&paid)).await;
    let second = node.posts(std::slice::from_ref(&paid)).await;
    assert_eq!(
        (&first["events"][0]["status"], &second["events"][0]["status"]),
        (&json!("stored"), &json!("duplicate"))
    );
    let mut other = paid.clone();
    other["amount"] = json!(6);
    assert_eq!(node.post(&other).await.status, 409);
}

async fn yesterdays_orders_ring_nobody(node: Node) {
    let mut till = node.till("1", "a").await;
    let yesterday = now().plus_ms(-20 * 3_600_000).0;
    let old: Vec<_> =
        (0..50).map(|n| event("order.paid", &format!("old{n}"), json!({"store": "1", "time": yesterday}))).collect();
    node.happens(&old).await;
    node.pays("today", "1").await;
    till.hears(NewOrder, "today").await;
    until("all of yesterday's orders counted", async || node.metric("orderbell_notices_expired_total").await == 50)
        .await;
}

/// Decision 0063: the store may have it from the open orders, and would cook it to the end.
async fn the_end_of_an_order_that_was_too_old_to_ring_is_a_notice(node: Node) {
    let mut till = node.till("1", "a").await;
    // Not whole half hours: those are the clock of another zone.
    let three_hours_ago = now().plus_ms(-190 * 60_000).0;
    node.happens(&[event("order.paid", "old", json!({"store": "1", "time": three_hours_ago}))]).await;
    let open = async || node.http.get("/v1/orders?open=1", &node.token("store", "1")).await.unwrap().json().unwrap();
    until("it is listed", async || open().await["orders"][0].is_object()).await;
    assert_eq!(node.metric("orderbell_notices_expired_total").await, 1);
    let open = open().await;
    let listed = &open["orders"][0];
    assert_eq!((&listed["order"], &listed["stage"]), (&json!("old"), &json!("paid")), "{open}");
    assert!(listed["notice"].is_string(), "{open}");
    // What the till hears first is what comes next.
    node.pays("new", "1").await;
    till.hears(NewOrder, "new").await;
    node.event("order.cancelled", "old", json!({"reason": "too late"})).await;
    let cancelled = till.hears(Cancelled, "old").await;
    assert_eq!(cancelled.notice.body["cancels"], listed["notice"], "it names what the list calls the order's notice");
    let open = node.http.get("/v1/orders?open=1", &node.token("store", "1")).await.unwrap().json().unwrap();
    assert_eq!(open["orders"].as_array().map(Vec::len), Some(1), "{open}");
}

async fn a_poll_beside_the_socket_moves_the_same_cursor(node: Node) {
    node.pays("o1", "1").await;
    node.pays("o2", "1").await;
    let mut answer = node.polls("1", "a", None, 10).await;
    while answer.notices.len() < 2 {
        answer = node.polls("1", "a", None, 0).await;
    }
    // Asking with the position acknowledges it: the socket that comes next starts behind it.
    node.polls("1", "a", Some(answer.position), 0).await;
    let mut till = node.till("1", "a").await;
    assert_eq!(till.position, answer.position);
    node.pays("o3", "1").await;
    till.hears(NewOrder, "o3").await;
}
