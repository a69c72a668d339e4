//! Orders of several shops that post through one system: what tells them apart stands in headers, or in the rows of an array.

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use serde_json::json;

use crate::chain::{Node, now, post_raw, soon, until};

mod shops {
    scenarios! {
        with "[mapping]\norder = [\"/__headers/X-Shop\", \"/no\"]\nstore = \"/__headers/X-Shop\"\n";
        two_shops_with_one_body_are_two_orders
    }

    use super::two_shops_with_one_body_are_two_orders;
}

mod ids {
    scenarios! {
        with "[mapping]\norder = \"/__headers/X-Order\"\nid = \"/__headers/X-Webhook-Id\"\n";
        two_orders_with_one_body_are_told_apart_by_their_headers
    }

    use super::two_orders_with_one_body_are_told_apart_by_their_headers;
}

mod days {
    scenarios! {
        with "[mapping]\norder = [\"/store\", \"/date\", \"/no\"]\n";
        rows_of_two_days_with_one_number_are_two_orders
    }

    use super::rows_of_two_days_with_one_number_are_two_orders;
}

mod numbers {
    scenarios! {
        with "[mapping]\norder = \"/no\"\n";
        rows_of_two_days_with_one_number_and_no_day_in_the_id_alert
    }

    use super::rows_of_two_days_with_one_number_and_no_day_in_the_id_alert;
}

/// Posts a body with these lines in the head. How many events were stored, and how many had been read before.
async fn posts(node: &Node, lines: &str, body: &str) -> (usize, usize) {
    let token = node.token("producer", "gateway");
    let answer = soon("an answer", post_raw(node.public, &token, lines, body.as_bytes())).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (answer.matches("\"stored\"").count(), answer.matches("\"duplicate\"").count())
}

async fn two_shops_with_one_body_are_two_orders(node: Node) {
    let (mut one, mut other) = (node.till("17", "a").await, node.till("18", "a").await);
    let body = json!({"type": "order.paid", "no": 5, "amount": 1250, "time": now().0}).to_string();
    for shop in ["17", "18"] {
        assert_eq!(posts(&node, &format!("X-Shop: {shop}\r\n"), &body).await, (1, 0), "shop {shop}");
    }
    assert_eq!(posts(&node, "X-Shop: 17\r\n", &body).await, (0, 1), "sent again, it is the same");
    one.hears(NewOrder, "17:5").await;
    other.hears(NewOrder, "18:5").await;
}

async fn two_orders_with_one_body_are_told_apart_by_their_headers(node: Node) {
    let mut till = node.till("17", "a").await;
    let body = json!({"type": "order.paid", "store": "17", "amount": 1250, "time": now().0}).to_string();
    for (order, id) in [("o1", "w1"), ("o2", "w2")] {
        let lines = format!("X-Order: {order}\r\nX-Webhook-Id: {id}\r\n");
        assert_eq!(posts(&node, &lines, &body).await, (1, 0), "{order}");
        assert_eq!(posts(&node, &lines, &body).await, (0, 1), "{order} again");
        till.hears(NewOrder, order).await;
    }
}

async fn rows_of_two_days_with_one_number_are_two_orders(node: Node) {
    let mut till = node.till("17", "a").await;
    let row = |date: &str| json!({"type": "order.paid", "store": "17", "no": 5, "date": date, "time": now().0});
    let rows = json!([row("2026-11-28"), row("2026-11-29")]).to_string();
    assert_eq!(posts(&node, "", &rows).await, (2, 0));
    let mut received = Vec::new();
    for _ in 0..2 {
        let frame = till.notice().await;
        till.acks(&frame).await;
        received.push((frame.notice.kind, frame.notice.order.to_string()));
    }
    received.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(received, [(NewOrder, "17:2026-11-28:5".into()), (NewOrder, "17:2026-11-29:5".into())]);
    assert!(node.alert(AlertCode::PaidUnannounced).await.is_none());
}

/// One number is one order, and the payment of the second is an alert.
async fn rows_of_two_days_with_one_number_and_no_day_in_the_id_alert(node: Node) {
    let mut till = node.till("17", "a").await;
    let row = |date: &str, age_ms| json!({"type": "order.paid", "store": "17", "no": 5, "date": date, "time": now().0 - age_ms});
    let rows = json!([row("2026-11-28", 60_000), row("2026-11-29", 0)]).to_string();
    assert_eq!(posts(&node, "", &rows).await, (2, 0));
    till.hears(NewOrder, "5").await;
    let alert = async || node.alert(AlertCode::PaidUnannounced).await;
    until("it is an alert", async || alert().await.is_some()).await;
    let detail = alert().await.unwrap().detail;
    assert!(detail.contains(" 1 second payments that differ from their order's first,"), "{detail}");
}
