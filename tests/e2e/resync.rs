//! A client that cannot go on from what was: it takes what is, and the position that came with it.

use std::collections::BTreeSet;

use orderbell_protocol::NoticeKind::{NewOrder, PickupCode};
use orderbell_protocol::Position;
use serde_json::{Value, json};

use crate::chain::{Node, Till, accepted, event, now, until};

scenarios! {
    with "max_mailbox_rows = 20";
    a_new_device_takes_the_open_orders_and_goes_on,
    each_viewer_sees_its_part_and_nobody_elses,
    the_timeline_of_an_order_has_the_steps_of_each_notice_on_each_device,
    a_timeline_outlives_the_process,
    many_open_orders_come_in_pages,
    a_position_below_what_is_kept_leads_to_the_open_orders,
    what_opens_and_ends_at_once_is_not_open,
    a_position_that_the_server_never_gave_out_leads_to_the_open_orders,
}

async fn ask(node: &Node, role: &str, id: &str, path: &str) -> (u16, Value) {
    let answer = node.http.get(path, &node.token(role, id)).await.unwrap();
    (answer.status, answer.json().unwrap())
}

/// A recipient's open orders by id and stage, and where to go on.
async fn open(node: &Node, role: &str, id: &str) -> (Vec<(String, String)>, Position) {
    let (status, answer) = ask(node, role, id, "/v1/orders?open=1").await;
    assert_eq!(status, 200, "{answer}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let orders = answer["orders"].as_array().unwrap().iter();
    let orders = orders.map(|order| (text(&order["order"]), text(&order["stage"]))).collect();
    (orders, text(&answer["position"]).parse().unwrap())
}

fn stages(stages: &[(&str, &str)]) -> Vec<(String, String)> {
    stages.iter().map(|(order, stage)| ((*order).to_owned(), (*stage).to_owned())).collect()
}

async fn a_new_device_takes_the_open_orders_and_goes_on(node: Node) {
    let mut till = node.till("1", "a").await;
    for order in ["o1", "o2", "o3"] {
        node.pays(order, "1").await;
        till.hears(NewOrder, order).await;
    }
    till.accepts("o2", "A17").await;
    till.notice().await;
    node.event("order.cancelled", "o3", json!({})).await;
    till.notice().await;
    let (orders, position) = open(&node, "store", "1").await;
    assert_eq!(orders, stages(&[("o1", "paid"), ("o2", "accepted")]));
    let mut new = node.till_from("1", "new", Some(position)).await;
    assert_eq!(new.position, position);
    node.pays("o4", "1").await;
    // Nothing of what was, and nothing is missing: what it hears first follows that position.
    assert_eq!(new.hears(NewOrder, "o4").await.prev, position);
    let picked = ["o1", "o2", "o4"].map(|order| event("order.picked_up", order, json!({})));
    node.happens(&picked).await;
    until("nothing is open", async || open(&node, "store", "1").await.0.is_empty()).await;
}

async fn each_viewer_sees_its_part_and_nobody_elses(node: Node) {
    let mut till = node.till("1", "a").await;
    let mut phone = node.phone("of-o1").await;
    node.pays("o1", "1").await;
    let new = till.hears(NewOrder, "o1").await;
    till.says(accepted("o1", "A17")).await;
    phone.hears(PickupCode, "o1").await;
    let (_, order) = ask(&node, "store", "1", "/v1/orders/o1").await;
    assert_eq!((&order["stage"], &order["active"]), (&json!("accepted"), &json!(true)));
    assert_eq!(order["notice"], json!(new.notice.id), "by which a later cancel is understood");
    assert_eq!(
        order["body"],
        json!({"amount": 1250, "device": "a", "pickup_code": "A17"}),
        "nothing about the customer"
    );
    let (_, order) = ask(&node, "customer", "of-o1", "/v1/orders/o1").await;
    assert_eq!(order["body"], json!({"store": "1", "pickup_code": "A17"}));
    let listed = ask(&node, "customer", "of-o1", "/v1/orders?open=1").await.1;
    let mut order = order;
    order.as_object_mut().unwrap().remove("timeline");
    assert_eq!(listed["orders"], json!([order]), "the list says the same");
    for (role, id) in [("store", "2"), ("customer", "of-o2"), ("customer", "1"), ("producer", "p")] {
        let (status, problem) = ask(&node, role, id, "/v1/orders/o1").await;
        assert_eq!((status, &problem["code"]), (404, &json!("not-found")), "{role} {id}");
        let missing = ask(&node, role, id, "/v1/orders/o9").await;
        assert_eq!(missing, (404, problem), "foreign and missing look the same");
    }
    assert_eq!(open(&node, "store", "2").await.0, []);
    assert_eq!(ask(&node, "store", "1", "/v1/orders").await.0, 422);
    assert_eq!(ask(&node, "store", "1", "/v1/orders?open=1&from=%00").await.0, 422);
}

/// Steps of a timeline about one kind of notice, in time: word, device, attempt.
fn steps(order: &Value, kind: &str) -> Vec<String> {
    let timeline = order["timeline"].as_array().unwrap();
    assert!(timeline.is_sorted_by_key(|entry| entry["at"].as_i64().unwrap()), "{timeline:?}");
    let about = timeline.iter().filter(|entry| entry["kind"] == kind || entry["event"] == kind);
    let text = |entry: &Value, name: &str| entry[name].as_str().map(|text| format!(" {text}")).unwrap_or_default();
    about
        .map(|entry| {
            let attempt = entry["attempt"].as_u64().map_or(String::new(), |n| format!(" {n}"));
            format!("{}{}{attempt}", entry["step"].as_str().unwrap(), text(entry, "device"))
        })
        .collect()
}

async fn the_timeline_of_an_order_has_the_steps_of_each_notice_on_each_device(node: Node) {
    let mut till = node.till("1", "a").await;
    let mut phone = node.phone("of-o1").await;
    let before = now();
    node.pays("o1", "1").await;
    let new = till.hears(NewOrder, "o1").await;
    till.shows(new.position).await;
    let polled = node.polls("1", "b", None, 0).await;
    node.polls("1", "b", Some(polled.position), 0).await;
    till.says(accepted("o1", "A17")).await;
    phone.hears(PickupCode, "o1").await;
    let order = async || ask(&node, "store", "1", "/v1/orders/o1").await.1;
    let rang = ["persisted", "sent a 1", "acked a", "displayed a", "sent b 1", "acked b"];
    until("all of it is there", async || {
        let mut logged = steps(&order().await, "new_order");
        // Two devices at once: between them there is no order.
        logged.sort();
        let mut rang = rang.map(str::to_owned);
        rang.sort();
        logged == rang
    })
    .await;
    assert_eq!(steps(&order().await, "order.paid"), ["occurred", "consumed", "applied"]);
    assert_eq!(steps(&order().await, "order.accepted"), ["occurred a", "consumed", "applied"]);
    let first = order().await["timeline"][0]["at"].as_i64().unwrap();
    assert!(first >= before.0 - 1_000 && first <= now().0, "times of the wall clock: {first}");
    let seen = ask(&node, "customer", "of-o1", "/v1/orders/o1").await.1;
    assert!(steps(&seen, "pickup_code").starts_with(&["persisted".into(), "sent phone 1".into()]), "{seen}");
    assert_eq!(steps(&seen, "order.accepted"), ["occurred", "consumed", "applied"], "no device of the store");
    assert_eq!(steps(&seen, "new_order"), [""; 0], "nobody sees the steps of another's notices");
}

/// A stop writes what waits; a kill -9 would cost the last half second of it.
async fn a_timeline_outlives_the_process(mut node: Node) {
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    let timeline = async |node: &Node| steps(&ask(node, "store", "1", "/v1/orders/o1").await.1, "new_order");
    let whole = ["persisted", "sent a 1", "acked a"];
    until("it is there", async || timeline(&node).await == whole).await;
    node.process.signal("TERM");
    let mut node = tokio::task::spawn_blocking(move || {
        node.process.ends();
        node
    })
    .await
    .unwrap();
    node.restart();
    assert_eq!(timeline(&node).await, whole);
}

async fn many_open_orders_come_in_pages(node: Node) {
    const ORDERS: usize = 450;
    let names: BTreeSet<String> = (0..ORDERS).map(|n| format!("o{n}")).collect();
    let paid: Vec<_> = names.iter().map(|order| event("order.paid", order, json!({"store": "1"}))).collect();
    node.happens(&paid).await;
    until("all are there", async || node.polls("1", "counter", None, 0).await.head.seq >= ORDERS as u64).await;
    let (mut path, mut seen, mut position) = (String::from("/v1/orders?open=1"), BTreeSet::new(), None);
    loop {
        let (_, page) = ask(&node, "store", "1", &path).await;
        for order in page["orders"].as_array().unwrap() {
            assert!(seen.insert(order["order"].as_str().unwrap().to_owned()), "twice");
        }
        let first: Position = page["position"].as_str().unwrap().parse().unwrap();
        position.get_or_insert(first);
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/orders?open=1&from={next}");
    }
    assert_eq!(seen, names);
    let mut till = node.till_from("1", "a", position).await;
    node.pays("after", "1").await;
    till.hears(NewOrder, "after").await;
}

async fn a_position_below_what_is_kept_leads_to_the_open_orders(node: Node) {
    node.pays("first", "1").await;
    let mut till = node.till("1", "a").await;
    let old = till.hears(NewOrder, "first").await.position;
    drop(till);
    // The notice of a live order stays, whatever comes after it.
    node.event("order.picked_up", "first", json!({})).await;
    until("nothing is open", async || open(&node, "store", "1").await.0.is_empty()).await;
    // Offline for so long that more came and went than a mailbox keeps.
    for n in 0..40 {
        let order = format!("o{n}");
        let life = ["order.paid", "order.picked_up"].map(|kind| event(kind, &order, json!({"store": "1"})));
        node.happens(&life).await;
    }
    node.pays("last", "1").await;
    let token = node.token("store", "1");
    let poll = async || node.http.get(&format!("/v1/notices?device=a&after={old}"), &token).await.unwrap();
    until("its position is too old", async || poll().await.status == 410).await;
    let mut refused = orderbell_client::Socket::open_with_hello(node.public, &token, "a", Some(old)).await.unwrap();
    let Ok(orderbell_client::Received::Closed(Some((code, why)))) = refused.next().await else { panic!("another end") };
    assert_eq!((code, why.as_str()), (4200, "resync;position-expired"));
    until("the last one is open", async || open(&node, "store", "1").await.0 == stages(&[("last", "paid")])).await;
    let (_, position) = open(&node, "store", "1").await;
    let mut till = Till::connect(node.public, &token, "a", Some(position)).await;
    node.pays("next", "1").await;
    till.hears(NewOrder, "next").await;
}

/// Right epoch, wrong check bits; right epoch, beyond the head; neither costs the mailbox its epoch.
async fn a_position_that_the_server_never_gave_out_leads_to_the_open_orders(node: Node) {
    node.pays("o1", "1").await;
    let mut till = node.till("1", "a").await;
    let good = till.hears(NewOrder, "o1").await.position;
    let token = node.token("store", "1");
    for bad in [Position { check: good.check ^ 1, ..good }, Position { seq: good.seq + 1_000, ..good }] {
        let answer = node.http.get(&format!("/v1/notices?device=a&after={bad}"), &token).await.unwrap();
        assert_eq!((answer.status, answer.json().unwrap()["code"].clone()), (409, json!("epoch-changed")), "{bad}");
        let mut refused = orderbell_client::Socket::open_with_hello(node.public, &token, "b", Some(bad)).await.unwrap();
        let Ok(orderbell_client::Received::Closed(Some((code, why)))) = refused.next().await else { panic!("{bad}") };
        assert_eq!((code, why.as_str()), (4200, "resync;epoch-changed"), "{bad}");
    }
    let mut till = node.till_from("1", "a", Some(good)).await;
    node.pays("o2", "1").await;
    assert_eq!(till.hears(NewOrder, "o2").await.position.epoch, good.epoch);
}

async fn what_opens_and_ends_at_once_is_not_open(node: Node) {
    let life = ["order.paid", "order.cancelled"].map(|kind| event(kind, "o1", json!({"store": "1", "customer": "c"})));
    node.happens(&life).await;
    node.pays("o2", "1").await;
    let mut till = node.till("1", "a").await;
    while till.notice().await.notice.order != "o2" {}
    let ended = async || node.metric("orderbell_events_total{type=\"order.cancelled\",result=\"moved\"}").await;
    until("the other is over", async || ended().await == 1).await;
    until("only the other is open", async || open(&node, "store", "1").await.0 == stages(&[("o2", "paid")])).await;
    assert_eq!(open(&node, "customer", "c").await.0, []);
}
