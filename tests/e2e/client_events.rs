//! Tills and customers speak: what they say becomes a fact, and everybody hears the same of it.

use std::collections::BTreeSet;

use orderbell_protocol::ClientEvent;
use orderbell_protocol::NoticeKind::{
    Cancelled, EventRejected, NewOrder, OrderAccepted, OrderRefused, PickupCode, Ready,
};
use serde_json::{Value, json};

use crate::chain::{Node, accepted, event, now, said, until};

scenarios! {
    a_till_accepts_and_all_devices_and_the_customer_hear_it,
    two_tills_that_accept_at_once_get_one_answer,
    who_accepts_after_the_cancel_is_notified_of_it,
    a_client_speaks_for_nobody_else,
    what_is_said_twice_is_one_event,
    a_till_that_only_polls_answers_too,
    a_payment_after_the_end_is_published_once,
    what_is_posted_rings,
    a_cancel_after_the_accept_reaches_everybody,
    what_was_answered_stored_survives_every_kill,
}

fn refused(why: &str) -> (String, Option<String>) {
    ("rejected".into(), Some(why.into()))
}

async fn a_till_accepts_and_all_devices_and_the_customer_hear_it(node: Node) {
    let (mut a, mut b) = (node.till("1", "a").await, node.till("1", "b").await);
    let mut phone = node.phone("of-o1").await;
    node.pays("o1", "1").await;
    a.hears(NewOrder, "o1").await;
    b.hears(NewOrder, "o1").await;
    // Its clock is wrong by a week: what it says is said now all the same.
    let wrong = ClientEvent { at: Some(now().plus_ms(-7 * 86_400_000)), ..accepted("o1", "A17") };
    assert_eq!(a.says(wrong).await, ("stored".into(), None));
    for till in [&mut a, &mut b] {
        let taken = till.hears(OrderAccepted, "o1").await;
        assert_eq!((&taken.notice.body["pickup_code"], &taken.notice.body["device"]), (&json!("A17"), &json!("a")));
    }
    assert_eq!(phone.hears(PickupCode, "o1").await.notice.body["pickup_code"], "A17");
    assert_eq!(b.says(said("order.ready", "o1")).await.0, "stored");
    phone.hears(Ready, "o1").await;
    assert_eq!(phone.says(said("order.picked_up", "o1")).await.0, "stored");
    // It is over: another refusal comes too late, and only now.
    let moved = async || node.metric("orderbell_events_total{type=\"order.picked_up\",result=\"moved\"}").await;
    until("it is collected", async || moved().await == 1).await;
    let late = said("order.refused", "o1");
    let id = late.id.clone();
    a.says(late).await;
    let rejected = a.hears(EventRejected, "o1").await;
    assert_eq!(rejected.notice.body, json!({"device": "a", "event": id, "reason": "picked_up"}));
}

async fn two_tills_that_accept_at_once_get_one_answer(node: Node) {
    let (mut a, mut b) = (node.till("1", "a").await, node.till("1", "b").await);
    node.pays("o1", "1").await;
    a.hears(NewOrder, "o1").await;
    b.hears(NewOrder, "o1").await;
    tokio::join!(a.accepts("o1", "A-1"), b.accepts("o1", "B-2"));
    let (at_a, at_b) = (a.hears(OrderAccepted, "o1").await, b.hears(OrderAccepted, "o1").await);
    assert_eq!((&at_a.notice, at_a.position), (&at_b.notice, at_b.position), "one answer, and the same one");
    let body = &at_a.notice.body;
    assert!(
        body == &json!({"device": "a", "pickup_code": "A-1"}) || body == &json!({"device": "b", "pickup_code": "B-2"}),
        "{body}"
    );
    // What comes next is the next order: nobody gets a second answer.
    node.pays("o2", "1").await;
    a.hears(NewOrder, "o2").await;
    b.hears(NewOrder, "o2").await;
}

async fn who_accepts_after_the_cancel_is_notified_of_it(node: Node) {
    let mut till = node.till("1", "a").await;
    let mut phone = node.phone("of-o1").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    node.event("order.cancelled", "o1", json!({"reason": "changed my mind"})).await;
    till.hears(Cancelled, "o1").await;
    phone.hears(Cancelled, "o1").await;
    let late = accepted("o1", "A17");
    let id = late.id.clone();
    assert_eq!(till.says(late).await.0, "stored");
    let rejected = till.hears(EventRejected, "o1").await;
    assert_eq!(rejected.notice.body, json!({"device": "a", "event": id, "reason": "cancelled"}));
    // The customer hears of another order next: no code was given out.
    node.event("order.paid", "o2", json!({"store": "1", "customer": "of-o1", "amount": 1})).await;
    till.hears(NewOrder, "o2").await;
    let sorry = ClientEvent { reason: Some("sold out".into()), ..said("order.refused", "o2") };
    assert_eq!(till.says(sorry).await.0, "stored");
    assert_eq!(phone.hears(OrderRefused, "o2").await.notice.body["reason"], "sold out");
}

async fn a_client_speaks_for_nobody_else(node: Node) {
    let (mut till, mut other) = (node.till("1", "a").await, node.till("2", "a").await);
    let (mut phone, mut stranger) = (node.phone("of-o1").await, node.phone("of-o2").await);
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    let not_found = refused("not-found");
    assert_eq!(other.says(accepted("o1", "X")).await, not_found, "another store");
    assert_eq!(stranger.says(said("order.picked_up", "o1")).await, not_found, "another customer");
    assert_eq!(till.says(accepted("o9", "X")).await, not_found, "missing looks like foreign");
    assert_eq!(phone.says(accepted("o1", "X")).await, refused("forbidden"), "a customer does not accept");
    assert_eq!(phone.says(said("order.picked_up", "o1")).await, refused("too-early"), "nobody has taken it yet");
    assert_eq!(till.says(said("order.paid", "o1")).await, refused("forbidden"), "a till does not pay");
    assert_eq!(till.says(said("order.eaten", "o1")).await, refused("unknown-kind"));
    assert_eq!(till.says(accepted("o1", &"9".repeat(33))).await, refused("too-long"));
    assert_eq!(till.says(accepted("o1", "A1\nring o2")).await, refused("bad-text"), "others print it line by line");
    let nameless = ClientEvent { id: String::new(), ..said("order.ready", "o1") };
    assert_eq!(till.says(nameless).await, refused("bad-id"));
    till.accepts("o1", "A17").await;
    assert_eq!(till.hears(OrderAccepted, "o1").await.notice.body["pickup_code"], "A17");
}

async fn what_is_said_twice_is_one_event(node: Node) {
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    let first = accepted("o1", "A17");
    let another = ClientEvent { order: "o2".into(), ..first.clone() };
    let other_kind = ClientEvent { kind: "order.ready".into(), pickup_code: None, ..first.clone() };
    assert_eq!(till.says(first.clone()).await, ("stored".into(), None));
    assert_eq!(till.says(first.clone()).await, ("duplicate".into(), None), "no answer came, so it says it again");
    assert_eq!(
        till.says(another.clone()).await,
        refused("conflict"),
        "another event of the same kind under the same id"
    );
    assert_eq!(till.says(other_kind).await, ("stored".into(), None), "events of two kinds are two events");
    // The same id from another device is another event.
    let mut b = node.till("1", "b").await;
    assert_eq!(b.says(another).await, ("stored".into(), None));
    till.hears(OrderAccepted, "o1").await;
}

async fn a_till_that_only_polls_answers_too(node: Node) {
    let mut phone = node.phone("of-o1").await;
    node.pays("o1", "1").await;
    let token = node.token("store", "1");
    let page = node.polls("1", "till%20p", None, 20).await;
    assert_eq!(page.notices[0].notice.kind, NewOrder);
    let post = async |body: Value| {
        let path = "/v1/events?device=till%20p";
        node.http.send("POST", path, &token, "application/json", body.to_string()).await.unwrap()
    };
    let accepted = json!({"id": "e1", "kind": "order.accepted", "order": "o1", "pickup_code": "A17"});
    let answer = post(accepted.clone()).await;
    assert_eq!((answer.status, answer.json().unwrap()), (200, json!({"events": [{"id": "e1", "status": "stored"}]})));
    let foreign = json!({"id": "e2", "kind": "order.ready", "order": "o7"});
    let answer = post(json!([accepted, foreign])).await;
    let expected = json!({"events": [
        {"id": "e1", "status": "duplicate"},
        {"id": "e2", "status": "rejected", "reason": "not-found"}
    ]});
    assert_eq!((answer.status, answer.json().unwrap()), (200, expected));
    assert_eq!(post(json!({"kind": 5})).await.status, 422);
    assert_eq!(post(json!([])).await.status, 422);
    assert_eq!(phone.hears(PickupCode, "o1").await.notice.body["pickup_code"], "A17");
    let page = node.polls("1", "till%20p", Some(page.position), 20).await;
    assert_eq!(
        (page.notices[0].notice.kind, &page.notices[0].notice.body["device"]),
        (OrderAccepted, &json!("till p"))
    );
}

async fn a_payment_after_the_end_is_published_once(node: Node) {
    node.event("order.created", "o1", json!({"store": "1", "amount": 700})).await;
    node.event("order.cancelled", "o1", json!({"time": now().plus_ms(-1000).0})).await;
    node.happens(&[event("order.paid", "o1", json!({})), event("order.paid", "o1", json!({}))]).await;
    // What was published is read back as a fact.
    let noted = async || node.metric("orderbell_events_total{type=\"order.late_payment\",result=\"noted\"}").await;
    until("it is read back", async || noted().await == 1).await;
    let mut till = node.till("1", "a").await;
    node.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    assert_eq!(noted().await, 1);
}

async fn what_is_posted_rings(node: Node) {
    let mut till = node.till("1", "a").await;
    let paid = event("order.paid", "o1", json!({"store": "1", "amount": 5}));
    assert_eq!(node.posts(std::slice::from_ref(&paid)).await["events"][0]["status"], "stored");
    till.hears(NewOrder, "o1").await;
    assert_eq!(node.posts(&[paid]).await["events"][0]["status"], "duplicate");
}

async fn a_cancel_after_the_accept_reaches_everybody(node: Node) {
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("of-o1").await);
    node.pays("o1", "1").await;
    let new = till.hears(NewOrder, "o1").await;
    till.accepts("o1", "A17").await;
    till.hears(OrderAccepted, "o1").await;
    phone.hears(PickupCode, "o1").await;
    // The cancel comes from the order system's own topic, the accept came from ours.
    node.event("order.cancelled", "o1", json!({})).await;
    assert_eq!(till.hears(Cancelled, "o1").await.notice.body["cancels"], json!(new.notice.id));
    phone.hears(Cancelled, "o1").await;
}

async fn what_was_answered_stored_survives_every_kill(mut node: Node) {
    const ORDERS: usize = 60;
    const KILLS: usize = 6;
    let name = |n: usize| format!("o{n}");
    let paid: Vec<_> = (0..ORDERS).map(|n| event("order.paid", &name(n), json!({"store": "1"}))).collect();
    node.happens(&paid).await;
    let token = node.token("store", "1");
    until("all rang", async || node.polls("1", "counter", None, 0).await.head.seq >= ORDERS as u64).await;
    let stored = std::cell::RefCell::new(BTreeSet::new());
    for kill in 1..=KILLS {
        let accept_all = async {
            for n in 0..ORDERS {
                let body = json!({"id": format!("accept-{n}"), "kind": "order.accepted", "order": name(n), "pickup_code": "C"});
                let path = "/v1/events?device=p";
                let answer = node.http.send("POST", path, &token, "application/json", body.to_string()).await.unwrap();
                let status = &answer.json().unwrap()["events"][0]["status"];
                let known = stored.borrow().contains(&n);
                assert!(status == "duplicate" || (status == "stored" && !known), "{n} is {status}, known: {known}");
                stored.borrow_mut().insert(n);
            }
        };
        // Killed between two answers, or at the end.
        let enough = until("some are answered", async || stored.borrow().len() >= kill * ORDERS / KILLS - 5);
        tokio::select! {
            () = accept_all => {}
            () = enough => {}
        }
        node.restart();
    }
    for n in 0..ORDERS {
        let body = json!({"id": format!("accept-{n}"), "kind": "order.accepted", "order": name(n), "pickup_code": "C"});
        let path = "/v1/events?device=p";
        node.http.send("POST", path, &token, "application/json", body.to_string()).await.unwrap();
    }
    let mut till = node.till("1", "new").await;
    let (mut rung, mut taken) = (BTreeSet::new(), BTreeSet::new());
    while taken.len() < ORDERS {
        let notice = till.notice().await;
        till.acks(&notice).await;
        let seen = if notice.notice.kind == OrderAccepted { &mut taken } else { &mut rung };
        assert!(seen.insert(notice.notice.order.clone()), "{:?} twice", notice.notice);
    }
    assert_eq!(rung.len(), ORDERS);
}
